"""How many processes, how they start and how they end."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": of two cores


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, and its container's quota."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for a quota
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


@contextlib.contextmanager
def worker_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that share the cores; what they have not begun at the end is dropped."""
    pool = ProcessPoolExecutor(n_workers, _process_context(), initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _process_context() -> multiprocessing.context.BaseContext:
    """Fork where that is safe: nothing is imported again; else start processes afresh.

    A caller with threads of its own (torch, Jupyter) may hold locks that a forked child would wait
    for in vain. The command line has none.
    """
    is_alone = threading.active_count() == 1 and "torch" not in sys.modules
    return multiprocessing.get_context("fork" if is_alone and sys.platform == "linux" else "spawn")


def _start_worker() -> None:
    stop_opencv_threads()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def stop_opencv_threads() -> None:
    """Let OpenCV work in the calling thread alone: processes that share the cores only compete.

    0 means no threads, as 1 does, but 1 also joins those of OpenCV, which a fork does not copy: it
    would wait for ever.
    """
    cv2.setNumThreads(0)


def _exit_with_parent() -> None:
    """Do not outlive a killed parent: nobody holds its lock any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_Item = TypeVar("_Item")

_Result = TypeVar("_Result")


def read_ahead(
    read: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Result | Exception]]:
    """Read the next item in a thread while the caller works on this one.

    Yields:
        Each item with what `read` returned for it, or with the ValueError or OSError it raised.
    """

    def attempt(item: _Item) -> _Result | Exception:
        try:
            return read(item)
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor(max_workers=1) as executor:
        iterator = iter(items)
        try:
            item = next(iterator)
        except StopIteration:
            return
        pending = executor.submit(attempt, item)
        for following in iterator:
            result = pending.result()
            pending = executor.submit(attempt, following)
            yield item, result
            item = following
        yield item, pending.result()
