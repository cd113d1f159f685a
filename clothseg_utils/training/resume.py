"""Go on, start anew or return at once: what a run folder holds decides; nothing is ever deleted."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clothseg_utils.core.config import Config
from clothseg_utils.core.files import read_json
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, read_checkpoint
from clothseg_utils.training.module import complete_row

LEARNING_SECTIONS = ("data", "augment", "loss", "train")
"""Sections of the settings that a training depends on."""

FREE_FIELDS = {
    "data": frozenset({"data_root", "derived_root", "mask_workers"}),
    "augment": frozenset({"pipeline_file"}),  # what it says counts, as the data's "pipeline"
    "train": frozenset({"num_workers", "devices", "precision", "compile_network"}),
}
"""Settings that change where and how fast, not what is learned."""

# What a training that goes on may change. A finished one was done with them.
_STEERING = ("max_epochs", "max_minutes", "patience", "learning_rate", "batch_size", "accumulate")

# Settings younger than a checkpoint: how it was before, where it is not the default.
_BEFORE = {"train_size": 0, "first_size": 0}

_MOVING = ".moving"  # in a folder of previous/ until the training that replaces it has a checkpoint


@dataclass(frozen=True)
class Start:
    """How a training begins.

    Attributes:
        note: what to tell the user; empty for the first training of a run.
        checkpoint: go on from there; None begins anew.
        is_done: nothing is left to do.
        moves_former: move the former checkpoints and logs aside first.
    """

    note: str = ""
    checkpoint: Path | None = None
    is_done: bool = False
    moves_former: bool = False


def holds_training(run: RunFolder) -> bool:
    """Whether a run folder holds a training, finished or not."""
    return run.checkpoints_dir.exists() and any(run.checkpoints_dir.iterdir())


def check_new(run: RunFolder, *, resume: bool) -> None:
    """Refuse to touch a training that nobody asked to go on with.

    Raises:
        ValueError: the run holds a training, and no resume was asked for.
    """
    restore_former(run)
    if holds_training(run) and not resume:
        raise ValueError(
            f'run "{run.name}" holds a training; expected a new run. Go on with it by --resume, or '
            "begin another by --run-name."
        )


def plan_start(config: Config, data_info: Mapping[str, Any], run: RunFolder, code: str) -> Start:
    """Compare settings, data and code with what the run folder holds.

    A training that was cut short goes on, also on other devices, in another precision, in other
    batches, for more epochs or minutes, or at another learning rate. A finished one is returned, or
    goes on where more epochs, minutes or patience are asked for. All other changes begin anew.

    Args:
        config: the run's settings.
        data_info: hashes and counts of the splits, as checkpoints keep them.
        run: the run folder.
        code: hash of the code that decides what is learned.

    Raises:
        ValueError: more epochs are done than are asked for.
    """
    restore_former(run)
    state = _read_state(run)
    if state is None:
        return _anew("no readable last.ckpt") if holds_training(run) else Start()
    is_finished = run.training_path.exists() and run.best_checkpoint.exists()
    is_longer = _is_longer(config, state)
    goes_on = not is_finished or is_longer
    difference = _difference(config, data_info, state, besides=_STEERING if goes_on else ())
    if difference:
        return _anew(difference)
    # None where an earlier version finished it.
    if is_finished and read_json(run.training_path).get("code") != code:
        return _anew("the code of training changed since")
    if not goes_on:
        return Start("already trained with these settings", is_done=True)
    n_done = complete_row(state["history"][-1])["epochs_done"]
    if config.train.max_minutes == 0 and n_done > config.train.max_epochs:
        raise ValueError(
            f'run "{run.name}" has {count_text(n_done, "epoch")} done and train.max_epochs is '
            f"{config.train.max_epochs}; expected more. Raise it, or choose another --run-name."
        )
    changes = [
        f"{section}.{field} {value:g} instead of {stored:g}"
        for section, field, stored, value in _fields(config, state)
        if stored != value
    ]
    if state["data"].get("code", code) != code:
        changes.append("changed code")
    told = f", with {', '.join(changes)}" if changes else ""
    return Start(
        f"training goes on from last.ckpt, after {count_text(n_done, 'epoch')}{told}",
        checkpoint=run.last_checkpoint,
    )


@contextlib.contextmanager
def former_aside(run: RunFolder) -> Iterator[None]:
    """Move checkpoints and logs to the next free `previous/<number>/`.

    What fails before its first checkpoint leaves all where it was; what is killed before it, by the
    next start.
    """
    previous = run.path / "previous"
    numbers = [int(path.name) for path in previous.glob("*") if path.name.isdecimal()]
    folder = previous / str(max(numbers, default=0) + 1)
    folder.mkdir(parents=True)
    (folder / _MOVING).touch()
    for path in (run.checkpoints_dir, run.logs_dir):
        if path.exists():
            path.rename(folder / path.name)
    try:
        yield
    finally:
        restore_former(run)


def restore_former(run: RunFolder) -> None:
    """Move back what a training moved aside that came to no checkpoint."""
    for marker in (run.path / "previous").glob(f"*/{_MOVING}"):
        if not holds_training(run):
            for path in (run.checkpoints_dir, run.logs_dir):
                moved = marker.parent / path.name
                if moved.exists():
                    shutil.rmtree(path, ignore_errors=True)  # an empty log
                    moved.rename(path)
        marker.unlink()
        with contextlib.suppress(OSError):  # it is kept where it holds a training
            marker.parent.rmdir()


def _anew(reason: str) -> Start:
    note = f"training starts anew: {reason}; the former one is in previous/"
    return Start(note, moves_former=True)


def _read_state(run: RunFolder) -> dict[str, Any] | None:
    """What `last.ckpt` stores about its run; None if it is missing or broken."""
    try:
        return read_checkpoint(run.last_checkpoint)[CHECKPOINT_KEY]
    except (FileNotFoundError, ValueError):
        return None


def _is_longer(config: Config, state: Mapping[str, Any]) -> bool:
    """Whether more minutes are asked for or, without a clock, more epochs or patience."""
    more = {
        field: now - stored
        for _, field, stored, now in _fields(config, state)
        if field in ("max_epochs", "max_minutes", "patience")
    }
    if config.train.max_minutes > 0:
        return more["max_minutes"] > 0
    if more["max_minutes"] < 0 or more["max_epochs"] < 0:
        return False
    return more["max_epochs"] > 0 or more["patience"] > 0


def _fields(config: Config, state: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Section, field, stored value and present one of all that can change what is learned."""
    for section in LEARNING_SECTIONS:
        stored, now = state["config"].get(section, {}), getattr(config, section)
        for field, about in type(now).model_fields.items():
            if field not in FREE_FIELDS.get(section, ()):
                before = _BEFORE.get(field, about.default)
                yield section, field, stored.get(field, before), getattr(now, field)


def _difference(
    config: Config, data_info: Mapping[str, Any], state: Mapping[str, Any], besides: tuple[str, ...]
) -> str:
    """The first thing that differs from a stored run, in words; empty if nothing does."""
    for section, field, stored, value in _fields(config, state):
        if stored != value and field not in besides:
            return f"{section}.{field} was {stored!r} and is {value!r}"
    if state["data"].get("pipeline") != data_info.get("pipeline"):
        return "augment.pipeline_file holds another pipeline"
    for name, value in data_info.items():
        if state["data"].get(name) != value:
            return f"the data differ ({name})"
    return ""
