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
    "train": frozenset({"num_workers", "devices", "precision", "compile_network"}),
}
"""Settings that change where and how fast, not what is learned."""

# How long to train: a finished training goes on when it is given more of one of these.
LENGTHS = ("max_epochs", "max_minutes", "patience")

# What a training that was cut short may go on with besides. A finished one was done with them.
_STEERING = (*LENGTHS, "learning_rate", "batch_size", "accumulate")


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
    state = _read_state(run)
    if state is None:
        if holds_training(run):
            return _anew("no readable last.ckpt")
        return Start()
    n_done = _epochs_done(state)
    after = f"after {count_text(n_done, 'epoch')}"
    is_finished = run.training_path.exists() and run.best_checkpoint.exists()
    summary = read_json(run.training_path) if is_finished else {}
    free = () if is_finished else _STEERING
    difference = _difference(config, data_info, state, besides=(*LENGTHS, *free))
    if difference:
        return _anew(difference)
    changes = _changes(config, state)
    if is_finished:
        if summary.get("code") != code:  # none where an earlier version finished it
            return _anew("the code of training changed since")
        # What it was finished with: a training that went on since may have been cut short.
        lengths = summary.get("lengths") or {
            name: state["config"]["train"].get(name) for name in LENGTHS
        }
        asked = {name: getattr(config.train, name) for name in LENGTHS}
        if asked == lengths:
            return Start("already trained with these settings", is_done=True)
        changes = [
            f"train.{name} {value:g} instead of {lengths[name]:g}"
            for name, value in asked.items()
            if value != lengths[name]
        ]
        if any(asked[name] < lengths[name] for name in LENGTHS):
            return _anew(changes[0])
    elif config.train.max_minutes == 0 and n_done > config.train.max_epochs:
        raise ValueError(
            f'run "{run.name}" has {count_text(n_done, "epoch")} done and train.max_epochs is '
            f"{config.train.max_epochs}; expected more. Raise it, or choose another --run-name."
        )
    elif state["data"].get("code", code) != code:
        changes.append("changed code")
    told = f", with {', '.join(changes)}" if changes else ""
    return Start(f"training goes on from last.ckpt, {after}{told}", checkpoint=run.last_checkpoint)


@contextlib.contextmanager
def former_aside(run: RunFolder) -> Iterator[None]:
    """Move checkpoints and logs to the next free `previous/<number>/`.

    What fails before its first checkpoint leaves all where it was.
    """
    previous = run.path / "previous"
    numbers = [int(path.name) for path in previous.glob("*") if path.name.isdecimal()]
    folder = previous / str(max(numbers, default=0) + 1)
    folder.mkdir(parents=True)
    moved = [path for path in (run.checkpoints_dir, run.logs_dir) if path.exists()]
    for path in moved:
        path.rename(folder / path.name)
    try:
        yield
    except BaseException:
        if not holds_training(run):
            for path in moved:
                shutil.rmtree(path, ignore_errors=True)  # an empty log
                (folder / path.name).rename(path)
            folder.rmdir()
        raise


def _anew(reason: str) -> Start:
    note = f"training starts anew: {reason}; the former one is in previous/"
    return Start(note, moves_former=True)


def _read_state(run: RunFolder) -> dict[str, Any] | None:
    """What `last.ckpt` stores about its run; None if it is missing or broken."""
    try:
        return read_checkpoint(run.last_checkpoint)[CHECKPOINT_KEY]
    except (FileNotFoundError, ValueError):
        return None


def _epochs_done(state: Mapping[str, Any]) -> float:
    return complete_row(state["history"][-1])["epochs_done"]


def _fields(config: Config, state: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Section, field, stored value and present one of all that can change what is learned."""
    for section in LEARNING_SECTIONS:
        stored, now = state["config"].get(section, {}), getattr(config, section)
        for field, about in type(now).model_fields.items():
            if field not in FREE_FIELDS.get(section, ()):
                # A setting younger than the checkpoint: its default is how it was before.
                yield section, field, stored.get(field, about.default), getattr(now, field)


def _difference(
    config: Config, data_info: Mapping[str, Any], state: Mapping[str, Any], besides: tuple[str, ...]
) -> str:
    """The first thing that differs from a stored run, in words; empty if nothing does."""
    for section, field, stored, value in _fields(config, state):
        if stored != value and field not in besides:
            return f"{section}.{field} was {stored!r} and is {value!r}"
    for name, value in data_info.items():
        if state["data"].get(name) != value:
            return f"the data differ ({name})"
    return ""


def _changes(config: Config, state: Mapping[str, Any]) -> list[str]:
    """What a training that was cut short goes on with, where it differs."""
    return [
        f"{section}.{field} {value:g} instead of {stored:g}"
        for section, field, stored, value in _fields(config, state)
        if stored != value and field in _STEERING
    ]
