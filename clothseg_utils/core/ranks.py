"""Which of several processes that train together this one is, as torchrun says."""

import os


class OtherProcessError(RuntimeError):
    """Another process of this training failed, and has said why."""


def is_launched() -> bool:
    """Whether torchrun started this process, alone or with others."""
    # Other launchers leave RANK and the like behind as well; this one is torchrun's alone.
    return "TORCHELASTIC_RUN_ID" in os.environ


def _number(name: str, otherwise: int) -> int:
    return int(os.environ[name]) if is_launched() else otherwise


def rank() -> int:
    """Number of this process among all, from 0; the first one writes files and speaks."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process on its machine, from 0; it uses the device of that number."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of processes that train together; 1 where nobody launched several."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Number of these processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)
