"""What the machine refuses, in one line: a full disk, too little memory, a worker that was killed.

Such errors come from anywhere, in Python's words or a library's. They are told apart by these
words, as a notebook hands on no more than the name of an error and its text.
"""

import contextlib
import errno
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

_FOLDER = "expected a folder that can be written to. Name another one"
_MODE = (
    "expected a file that you may read, or a folder that you may write into. Change its mode or "
    "owner, or name another one"
)
_GOES_ON = "a rerun goes on where this one stopped"
_LIMIT = "expected a larger limit. Raise it, as by `ulimit -n 4096`; " + _GOES_ON
_DISK = f"expected room to write. Make some, or name a folder on another disk; {_GOES_ON}"

# What happened, and what was expected with what to do.
_OF_ERRNO = {
    errno.ENOSPC: ("the disk is full", _DISK),
    errno.EDQUOT: ("the quota of the disk is used up", _DISK),
    errno.EFBIG: (
        "the file would be larger than this system allows",
        f"expected no limit. Raise it by `ulimit -f unlimited`, or take another disk; {_GOES_ON}",
    ),
    errno.EIO: (
        "the disk failed",
        f"expected one that can be read and written. Check it, or take another one; {_GOES_ON}",
    ),
    errno.EROFS: ("the file system is read-only", _FOLDER),
    errno.EACCES: ("permission denied", _MODE),
    errno.EPERM: ("permission denied", _MODE),
    errno.EEXIST: ("a file stands where a folder is to be", _FOLDER),
    errno.ENOTDIR: ("a file stands where a folder is to be", _FOLDER),
    errno.EISDIR: ("a folder stands where a file is to be", "expected a file. Name another one"),
    errno.ENOENT: (
        "no such file or folder",
        "expected it to be there. Check the name, and whether its disk is still connected",
    ),
    errno.ENAMETOOLONG: (
        "the name is too long for this file system",
        "expected a shorter one. Rename the file, or name a shorter folder",
    ),
    errno.EMFILE: ("too many files are open", _LIMIT),
    errno.ENFILE: ("too many files are open in the whole system", _LIMIT),
    errno.ENOMEM: ("out of memory", f"expected more to be free. Close other programs; {_GOES_ON}"),
    errno.EAGAIN: (
        "no further process or thread can be started",
        f"expected a larger limit. Raise it (`ulimit -u`), or take fewer workers; {_GOES_ON}",
    ),
}
_WORKER = (
    "a worker process was ended by the system, most often as memory ran out; expected it to end by "
    f"itself. Take fewer (rasterize --workers, data.mask_workers, train.num_workers); {_GOES_ON}."
)
_MEMORY = (
    "out of memory; expected more to be free. Close other programs, or take smaller photos, inputs "
    f"(data.image_size) or batches (train.batch_size), or fewer workers; {_GOES_ON}."
)
_SHARED_MEMORY = (
    "/dev/shm, the shared memory through which workers hand over photos, is full; expected more of "
    "it. Start the container with --shm-size=2g, or take fewer workers (train.num_workers=0); "
    f"{_GOES_ON}."
)
_OF_WORDS = (
    (r"bus error|shared memory|torch_shm", _SHARED_MEMORY),
    (r"process pool was terminated|DataLoader worker|process pool is not usable", _WORKER),
    (r"out of memory|std::bad_alloc|(can't|cannot|unable to|failed to) allocate", _MEMORY),
    # The loader of libraries, and oneDNN.
    (r"failed to map segment|could not create a primitive", _MEMORY),
)
_ERRNO = re.compile(r"\[Errno (\d+)\] [^:]*(?:: (.*))?", re.DOTALL)
# What a worker of a DataLoader raised is raised again with its traceback for a text.
_CAUGHT = re.compile(r"Caught (\w+) in DataLoader worker.*\n[\w.]*\1: (.*)", re.DOTALL)
_QUOTES = re.compile(r"^b?['\"]|['\"]$")  # a library may name a file in bytes


def fault_line(error: BaseException) -> str | None:
    """Say in one line what the machine refused: what, where, expected, remedy.

    Returns:
        None for an error of another kind, such as one of ours, which says all this itself.

    Example:
        >>> fault_line(OSError(errno.EROFS, "Read-only file system", "/mnt/a.json"))
        '/mnt/a.json: the file system is read-only; expected a folder that can be written to. Name another one.'
        >>> fault_line(ValueError("run_name is empty"))
    """  # noqa: E501
    line = fault_in_words(type(error).__name__, str(error))
    # Lightning's clean-up after a fault meets what was never begun.
    if line is None and isinstance(error, RuntimeError) and error.__context__ is not None:
        return fault_line(error.__context__)
    return line


def fault_in_words(name: str, text: str) -> str | None:
    """As `fault_line`, for an error of which only the name of its class and its text are left."""
    text = words_of_worker(text)
    if found := _ERRNO.fullmatch(text):
        known = _OF_ERRNO.get(int(found[1]))
        if known is None:
            return None
        what, remedy = known
        where = _QUOTES.sub("", (found[2] or "").split(" -> ")[-1]).removeprefix("None")
        return f"{where}: {what}; {remedy}." if where else f"{what}; {remedy}."
    if name.endswith("MemoryError"):  # NumPy and torch have some of their own
        return _MEMORY
    if name == "BrokenProcessPool":
        return _WORKER
    if name in ("RuntimeError", "AcceleratorError", "ImportError", "OSError", "error"):
        for words, line in _OF_WORDS:
            if re.search(words, text, re.IGNORECASE):
                return line
    return None


def words_of_worker(text: str) -> str:
    """The words of an error alone, where it went through a DataLoader; else the text as it is."""
    caught = _CAUGHT.fullmatch(text)
    return caught[2].strip() if caught else text


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Let a thread that meets a fault end without a traceback.

    That of TensorBoard's writer prints one, although the next call of the writer raises the fault.
    """
    former = threading.excepthook

    def tell_mistakes(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is None or fault_line(ended.exc_value) is None:
            former(ended)

    threading.excepthook = tell_mistakes
    try:
        yield
    finally:
        threading.excepthook = former


def show_faults_in_notebook() -> None:
    """Let the cell of a notebook end with the line of `fault_line` instead of a traceback."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        shell.set_custom_exc((OSError, MemoryError, RuntimeError), _show)


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: Any = None) -> None:
    line = fault_line(error)
    if line is not None:
        error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]  # IPython's way
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
