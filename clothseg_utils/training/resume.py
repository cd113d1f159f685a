"""Go on, start anew, refuse or return: what a run folder holds decides; nothing is ever deleted."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from clothseg_utils.core.config import Config
from clothseg_utils.core.files import remove_abandoned
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.shapes import ABSENT, Count, Shape, check_shape
from clothseg_utils.core.text import count_text, first_names, number_text
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, read_checkpoint
from clothseg_utils.training.module import complete_row

LEARNING_SECTIONS = ("data", "augment", "loss", "train")
"""Sections of the settings that a training depends on."""

FREE_FIELDS = {
    "data": frozenset({"data_root", "derived_root", "mask_workers"}),
    # Of these two what the file holds counts: see `pipeline` of the data, and `_other_start`.
    "augment": frozenset({"pipeline_file"}),
    "train": frozenset({"init_from", "num_workers", "devices", "precision", "compile_network"}),
}
"""Settings that change where and how fast, not what is learned."""

# What a training that goes on may change. A finished one was done with them.
_STEERING = ("max_epochs", "max_minutes", "patience", "learning_rate", "batch_size", "accumulate")

# Settings younger than a checkpoint: how it was before, where it is not the default.
_BEFORE = {"train_size": 0}

_PIPELINE = "augment.pipeline_file holds another pipeline"

_MOVING = ".moving"  # in a folder of previous/ until the training that replaces it has a checkpoint


class _Check(Shape):
    model_config = ConfigDict(allow_inf_nan=True)
    __pydantic_extra__: dict[str, float]
    epoch: float
    seconds: float


class _Steering(Shape):
    max_epochs: float = ABSENT
    max_minutes: float = ABSENT
    patience: float = ABSENT
    learning_rate: float = ABSENT
    batch_size: float = ABSENT
    epoch_images: float = ABSENT
    accumulate: float = ABSENT


class _Settings(Shape):
    train: _Steering


class _Within(Shape):
    photos: Count


class _State(Shape):
    """What `last.ckpt` needs beyond what `read_checkpoint` checks."""

    config: _Settings
    history: list[_Check]
    within_check: _Within = ABSENT


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
    """Whether a run folder holds checkpoints; what a killed process left unfinished is none."""
    return any(not path.name.startswith(".") for path in run.checkpoints_dir.glob("*"))


def _can_go_on(run: RunFolder) -> bool:
    """Whether a training came to its last.ckpt: within a check, or as the last file of one."""
    return run.last_checkpoint.exists() or run.training_path.exists()


def check_wish(run: RunFolder, *, resume: bool) -> None:
    """Refuse to touch a training that nobody asked to go on with, or to go on with none.

    Raises:
        ValueError: the run holds a training and no resume was asked for, or the other way round.
    """
    restore_former(run)
    if _can_go_on(run) and not resume:
        raise ValueError(
            f'run "{run.name}" holds a training; expected a new run. Go on with it by --resume, or '
            "begin another by --run-name."
        )
    if resume and not _can_go_on(run):
        raise ValueError(
            f'run "{run.name}" holds no training to go on with; expected last.ckpt, which is '
            "written at the first check, at the latest after ten minutes. Check --run-name, or "
            "begin it without --resume."
        )


def plan_start(
    config: Config,
    data_info: Mapping[str, Any],
    class_names: Sequence[str],
    run: RunFolder,
    code: str,
    *,
    resume_only: bool = False,
) -> Start:
    """Compare settings, data and code with what the run folder holds.

    A training that was cut short goes on, also on other devices, in another precision, in other
    batches, for more epochs or minutes, or at another learning rate. A finished one is returned, or
    goes on where more epochs, minutes or patience are asked for. All other changes begin anew, or
    are refused.

    Args:
        config: the run's settings.
        data_info: hashes and counts of the splits, as checkpoints keep them.
        class_names: index = class id.
        run: the run folder.
        code: hash of the code that decides what is learned.
        resume_only: refuse where it cannot go on.

    Raises:
        ValueError: more epochs or minutes are done than are asked for, or, with `resume_only`, the
            folder's training cannot go on.
    """
    if resume_only:
        check_wish(run, resume=True)
    restore_former(run)
    if not holds_training(run):
        return Start()

    def otherwise(reason: str, remedy: str) -> Start:
        if resume_only:
            raise ValueError(f'run "{run.name}" cannot go on: {reason}; {remedy}.')
        note = f"training starts anew: {reason}; the former one is in previous/"
        return Start(note, moves_former=True)

    try:
        state = _read_state(run)
    except ValueError as error:
        remedy = f"expected the file that training wrote. Restore it, or {_another_run(run)}"
        return otherwise(str(error), remedy)
    is_finished = run.training_path.exists() and run.best_checkpoint.exists()
    goes_on = not is_finished or _is_longer(config, state)
    differences = _differences(config, data_info, class_names, state)
    if other_start := _other_start(config, data_info, state, resume_only=resume_only):
        differences["init_from"] = other_start
    lasting = {name: text for name, text in differences.items() if name not in _STEERING}
    if lasting:
        remedy = "expected the settings and data that it began with. Give these, or "
        # An encoder cannot begin with the weights of another one.
        another = _another_run(run, from_this="encoder_name" not in lasting)
        return otherwise(first_names([*lasting.values()]), remedy + another)
    epochs = count_text(_epochs_done(state), "epoch")
    if differences and not goes_on:
        minutes = _seconds_done(state) / 60
        remedy = (
            f"expected a longer training, as this one is finished ({epochs}, "
            f"{minutes:.2g} minutes). Raise train.max_epochs or train.max_minutes, or "
        )
        return otherwise(first_names([*differences.values()]), remedy + _another_run(run))
    # None where an earlier version finished it.
    by_other_code = is_finished and run.read_training().get("code") != code
    if by_other_code and not resume_only:
        return otherwise("the code of training changed since", "")
    if not goes_on:
        told = ", by other code" if by_other_code else ""
        return Start(f"already trained with these settings{told}", is_done=True)
    _check_time_left(config, state, run)
    changes = [
        f"{section}.{field} {number_text(value)} instead of {number_text(stored)}"
        for section, field, stored, value in _fields(config, state)
        if stored != value
    ]
    if state["data"].get("code", code) != code:
        changes.append("changed code")
    told = f", with {', '.join(changes)}" if changes else ""
    return Start(
        f"training goes on from last.ckpt, after {epochs}{told}",
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
            remove_abandoned(path)  # nobody would write there again
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


def _another_run(run: RunFolder, *, from_this: bool = True) -> str:
    """How to begin another run, in words: with what this one learned, where that can be."""
    if from_this and run.best_checkpoint.exists():
        return (
            "begin another run with its weights: --run-name NEW --set "
            f"train.init_from={run.best_checkpoint}"
        )
    return "begin another run by --run-name"


def _read_state(run: RunFolder) -> dict[str, Any]:
    """What `last.ckpt` stores about its run.

    Raises:
        ValueError: it is missing or broken, or nothing can go on from it.
    """
    try:
        checkpoint = read_checkpoint(run.last_checkpoint)
    except (FileNotFoundError, ValueError):
        raise ValueError("no readable last.ckpt") from None
    if "optimizer_states" not in checkpoint:
        raise ValueError("last.ckpt holds weights alone")
    state = checkpoint[CHECKPOINT_KEY]
    try:
        check_shape(state, _State, "last.ckpt", "")
        if "within_check" in state:
            seconds = checkpoint["callbacks"]["TrainingClock"]["seconds"]
            state["within_check"]["seconds"] = seconds
        if state["history"] or "within_check" in state:
            _epochs_done(state), _seconds_done(state)  # what lacks in a row shows here
    except (ValueError, LookupError, TypeError):
        raise ValueError("last.ckpt is not as training wrote it") from None
    if not state["history"] and "within_check" not in state:
        raise ValueError("last.ckpt holds no check")
    return state


def _epochs_done(state: Mapping[str, Any]) -> float:
    """Epochs that a training has behind it."""
    epochs = complete_row(state["history"][-1])["epochs_done"] if state["history"] else 0
    if "within_check" in state:
        epoch_images = state["config"]["train"]["epoch_images"] or state["data"]["train_images"]
        epochs += state["within_check"]["photos"] / epoch_images
    return round(epochs, 2)


def _seconds_done(state: Mapping[str, Any]) -> float:
    """Seconds that its clock counted."""
    latest = state["within_check"] if "within_check" in state else state["history"][-1]
    return latest["seconds"]


def _check_time_left(config: Config, state: Mapping[str, Any], run: RunFolder) -> None:
    """Refuse to go on for less than is done."""
    train = config.train
    n_done, unit, field = _epochs_done(state), "epoch", "max_epochs"
    if train.max_minutes > 0:
        if train.max_minutes == state["config"]["train"]["max_minutes"]:
            return  # it was killed at its very end
        n_done, unit, field = round(_seconds_done(state) / 60, 2), "minute", "max_minutes"
    asked = getattr(train, field)
    if n_done > asked:
        raise ValueError(
            f'run "{run.name}" has {count_text(n_done, unit)} done and train.{field} is '
            f"{asked:g}; expected more. Raise it, or choose another --run-name."
        )


def _is_longer(config: Config, state: Mapping[str, Any]) -> bool:
    """Whether more minutes are asked for or, without a clock, more epochs or patience."""
    more = {
        field: now - stored
        for _, field, stored, now in _fields(config, state)
        if field in ("max_epochs", "max_minutes", "patience")
    }
    if config.train.max_minutes > 0:
        return more["max_minutes"] > 0
    if more["max_minutes"] < 0:  # it went by the clock, so its epochs were not counted
        return config.train.max_epochs > _epochs_done(state)
    if more["max_epochs"] < 0:
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


def _differences(
    config: Config,
    data_info: Mapping[str, Any],
    class_names: Sequence[str],
    state: Mapping[str, Any],
) -> dict[str, str]:
    """What differs from a stored run: name of a field or value -> the difference in words."""
    found = {
        field: f"{section}.{field} was {stored!r} and is {value!r}"
        for section, field, stored, value in _fields(config, state)
        if stored != value
    }
    former, now = state["class_names"], list(class_names)
    if former != now:
        gone = first_names([name for name in former if name not in now]) or "none"
        new = first_names([name for name in now if name not in former]) or "none"
        found["classes"] = f"the classes differ (gone: {gone}; new: {new})"
    for name in sorted({"pipeline", *data_info} - {"init_from"}):
        if state["data"].get(name) != data_info.get(name):
            found[name] = _PIPELINE if name == "pipeline" else f"the data differ ({name})"
    return found


def _other_start(
    config: Config, data_info: Mapping[str, Any], state: Mapping[str, Any], *, resume_only: bool
) -> str:
    """How the weights to begin with differ from a stored run's; empty where they do not.

    What goes on needs them no more: a resume may leave the setting out, and the file may be gone.
    """
    began, now = state["config"]["train"].get("init_from", ""), config.train.init_from
    sha256 = data_info.get("init_from")  # None without the setting, and where its file is gone
    is_same = now == began if sha256 is None else sha256 == state["data"].get("init_from")
    if is_same or (resume_only and not now):
        return ""
    if now == began:
        return f"train.init_from {now} holds other weights than it did"
    return f"train.init_from was {began!r} and is {now!r}"
