"""Progress bars where somebody watches; where nobody does, a line now and then."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm as terminal_tqdm

from clothseg_utils.core.ranks import rank

LINE_SECONDS = 20.0
"""Where nobody watches, work that takes longer than this says how far it is, this often."""


class _TerminalBar(terminal_tqdm):
    """Without tqdm's watching thread: a process that has threads cannot fork safely."""

    monitor_interval = 0


class _Lines(_TerminalBar):
    """For logs: short work says nothing, and no line is drawn over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        every = {"mininterval": LINE_SECONDS, "delay": LINE_SECONDS, "miniters": 1}
        super().__init__(*args, **kwargs | every | {"leave": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the line; tqdm's closing call, with an empty message, would wipe a bar."""
        if msg is None:
            of_all = "" if self.total is None else f" of {self.total:,}"
            print(f"{self.desc}: {self.n:,}{of_all} {self.unit}s", flush=True)


def is_attended() -> bool:
    """Whether a person is likely to watch: a terminal, or a notebook that can ask for input.

    Of several processes that train together only the first one is.

    JupyterLab lets a cell ask for input; papermill and nbconvert do not. That is the one trace of
    a batch run that a kernel can see.
    """
    if rank():
        return False
    kernel = _kernel()
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel."""
    return _kernel() is not None


def progress_bar(*args: Any, **kwargs: Any) -> terminal_tqdm:
    """A tqdm bar of the kind that fits the place; lines on stdout where nobody watches.

    Args:
        args: as for tqdm, usually an iterable.
        kwargs: as for tqdm.
    """
    if not is_attended():
        return _Lines(*args, **kwargs, disable=rank() > 0)
    if in_notebook():
        from tqdm.notebook import tqdm as notebook_tqdm

        return notebook_tqdm(*args, **kwargs)
    kwargs.setdefault("leave", False)
    kwargs.setdefault("dynamic_ncols", True)
    kwargs.setdefault("miniters", 1)  # the thread would lower it when steps become slow
    return _TerminalBar(*args, **kwargs)


class _Listened:
    """A stream that knows when it was written to last."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_write = time.monotonic()

    @property
    def seconds_silent(self) -> float:
        return time.monotonic() - self._last_write

    def write(self, text: str) -> int:
        self._last_write = time.monotonic()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def never_silent(stream: TextIO, describe: Callable[[], str]) -> Iterator[Any]:
    """Yield a stream for work that may say nothing for minutes; it says where the work is then.

    Args:
        stream: takes everything that is written.
        describe: gives the line to write when nothing else was for a while.
    """
    listened = _Listened(stream)
    is_over = threading.Event()

    def watch() -> None:
        # A little later than a bar's own line, which tells more.
        while not is_over.wait(LINE_SECONDS / 20):
            if listened.seconds_silent > 1.1 * LINE_SECONDS:
                listened.write(f"{describe()}\n")
                listened.flush()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield listened
    finally:
        is_over.set()
        watcher.join()


def _kernel() -> Any:
    """The Jupyter kernel that this process is, or None; IPython is not imported for the answer."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)
