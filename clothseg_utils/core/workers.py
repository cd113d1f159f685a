"""How many processes, how they start and how they end."""

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import cv2

from clothseg_utils.core.text import count_text

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")  # a line each: "0::/path", of version 1 "4:cpu:/path"
_SHARED_MEMORY = Path("/dev/shm")


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, and the quota of its container or job."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min([cores, *map(math.ceil, _cpu_quotas())])


def _cpu_quotas() -> Iterator[float]:
    """Cores that each control group around this process grants; none on other systems."""
    try:
        groups = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, name in groups:
        files = ["cpu.max"]  # "200000 100000": of two cores
        top = _CONTROL_GROUPS
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            top, files = top / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        own = top / name.lstrip("/")  # in a container often a path of the host: then only `top` is
        for folder in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for a quota
                quota, period = map(int, " ".join((folder / f).read_text() for f in files).split())
                if quota > 0:  # version 1 writes -1 where there is none
                    yield quota / period
            if folder == top:
                break


def affordable_workers(asked: int, batch_bytes: int, ranks: int = 1) -> tuple[int, str]:
    """How many processes a train and a val loader may have each.

    More than the cores only compete. Batches go through /dev/shm, and a worker that finds it full
    dies of a "bus error"; containers have 64 MB of it, unless told otherwise.

    Args:
        asked: workers of one loader, as the user wants them.
        batch_bytes: size of a batch.
        ranks: processes on this machine that train together, each with loaders of its own.

    Returns:
        the number, 0..`asked`, and one line that says why it is smaller, empty if it is not.
    """

    def needed(workers: int) -> int:
        # Two loaders; two batches a worker, as torch prefetches, and three in the trainer's hands.
        return ranks * 2 * (2 * workers + 3) * batch_bytes if workers else 0

    cores = usable_cores()
    most = min(asked, max(1, cores // ranks))
    free = needed(most)
    with contextlib.suppress(OSError):  # macOS and Windows have other ways
        free = shutil.disk_usage(_SHARED_MEMORY).free
    workers = next(number for number in range(most, -1, -1) if needed(number) <= free)
    if workers == asked:
        return workers, ""
    reason = f"{count_text(cores, 'core')} can be used"
    if ranks > 1:
        reason += f" by {ranks} ranks"
    if workers < most:
        reason = (
            f"{_SHARED_MEMORY} has {free / 1e6:,.0f} MB free and {most} need "
            f"{needed(most) / 1e6:,.0f} MB; containers take --shm-size="
            f"{math.ceil(needed(most) / 2**30)}g"
        )
    return workers, f"train.num_workers: {workers} instead of {asked}, as {reason}"


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon when they wait; call it before torch is loaded.

    GNU OpenMP's spin 300,000 rounds, and two programs on the same cores spin against each other. To
    use a network this costs little; training has many short steps in parallel, where threads that
    sleep cost more than a tenth. A choice of the user's stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


@contextlib.contextmanager
def children_spin_briefly() -> Iterator[None]:
    """Let the threads of processes that are started meanwhile do as `spin_briefly` says."""
    before = dict(os.environ)
    spin_briefly()
    try:
        yield
    finally:
        if "GOMP_SPINCOUNT" not in before:
            os.environ.pop("GOMP_SPINCOUNT", None)


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
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool's way to end it
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

    return ahead((item, attempt(item)) for item in items)


def ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """Make the next item in a thread while the caller works on this one."""
    is_over = object()
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = executor.submit(next, iterator, is_over)
        while (item := pending.result()) is not is_over:
            pending = executor.submit(next, iterator, is_over)
            yield cast(_Item, item)
            del item  # or it would be held while the next one is waited for
