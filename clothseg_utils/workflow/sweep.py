"""A grid of settings through the pipeline: one run folder each, and a leaderboard of all."""

import csv
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clothseg_utils.core.config import Config, config_to_parameters, field_sections, replace_fields
from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import portable_path, portable_text, resolve_path, write_json
from clothseg_utils.core.runs import (
    MOST_BYTES,
    MOST_SIGNS,
    RunFolder,
    check_run_name,
    fits_name,
    hold_folder,
)
from clothseg_utils.core.shapes import ABSENT, Shape, read_shaped
from clothseg_utils.core.text import score_text
from clothseg_utils.workflow.leaderboard import (
    NOT_COMPARED,
    SCORES,
    differing_fields,
    range_text,
    read_scores,
    value_text,
    write_leaderboard,
)
from clothseg_utils.workflow.pipeline import (
    NotebookFailedError,
    check_inputs,
    run_pipeline,
    select_notebooks,
)


class _Parameters(Shape):
    __pydantic_extra__: dict[str, str | bool | int | float]
    outputs_root: str


class _Entry(Shape):
    parameters: _Parameters
    state: Literal["waiting", "running", "done", "failed"]
    failure: str


class _Record(Shape):
    runs: dict[str, _Entry]
    command: list[str] = ABSENT


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        config: its settings, with its run name.
        changes: field -> value, for the fields in which the runs of the grid differ.
    """

    config: Config
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its folder under `outputs_root`."""
        return self.config.run.run_name

    def describe(self) -> str:
        """The changes in a few words."""
        return " ".join(f"{field}={value_text(value)}" for field, value in self.changes.items())


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left.

    Attributes:
        csv_path, html_path: the leaderboard.
        done: names of the runs that are done.
        failed: name -> reason, one line.
        best: the first row of the leaderboard, if it has a score.
        any_step_done: whether a failed run got at least one notebook done.
        unusable: name of a run that is done -> what of it could not be read, one line.
    """

    csv_path: Path
    html_path: Path
    done: tuple[str, ...]
    failed: Mapping[str, str]
    best: Mapping[str, Any] | None
    any_step_done: bool
    unusable: Mapping[str, str]


def expand_grid(settings: Iterable[str]) -> list[list[str]]:
    """Expand `section.field=v1,v2` settings into every combination, the last one running fastest.

    Values are split as in a CSV file: one that holds a comma goes in double quotes.

    Returns:
        for each combination, its `section.field=value` settings.

    Raises:
        ValueError: a setting without "=", a field given twice, a run name, or no setting with
            several values.

    Example:
        >>> expand_grid(["train.seed=0,1", "data.image_size=64"])
        [['train.seed=0', 'data.image_size=64'], ['train.seed=1', 'data.image_size=64']]
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f'--set "{setting}" has no "="; expected section.field=v1,v2.')
        if name.strip() in values:
            raise ValueError(
                f"{name.strip()} is given twice; expected once, with all values: v1,v2,v3."
            )
        if name.strip() == "run.run_name":
            raise ValueError("--set run.run_name: a sweep names its runs itself; use --name.")
        try:
            (row,) = csv.reader([text], skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise ValueError(
                f'--set "{setting}" is not a list of values ({error}); expected such as 1,2 or '
                '"0.75,1.25",1. Check its quotes, and write it in one line.'
            ) from None
        values[name.strip()] = [value.strip() for value in row] or [""]
    if all(len(row) == 1 for row in values.values()):
        raise ValueError(
            "no setting has several values; expected at least one such as --set train.seed=0,1,2. "
            "For a single run use `run`."
        )
    return [
        [f"{name}={value}" for name, value in zip(values, row, strict=True)]
        for row in itertools.product(*values.values())
    ]


def plan_sweep(name: str, configs: Sequence[Config]) -> list[PlannedRun]:
    """Name the runs of a grid after what they differ in.

    Args:
        name: of the sweep; begins the name of every run.
        configs: one per run; their own run names are replaced.

    Raises:
        ValueError: two runs with the same settings, or a name that is not a folder name.

    Example:
        >>> configs = [replace_fields(Config(), {"seed": seed}) for seed in (0, 1)]
        >>> [run.name for run in plan_sweep("demo", configs)]
        ['demo-seed=0', 'demo-seed=1']
    """
    check_run_name(name, "a sweep's name", "--name")
    settings = [config_to_parameters(config) for config in configs]
    fields = differing_fields(settings)
    planned: dict[str, PlannedRun] = {}
    for config, one in zip(configs, settings, strict=True):
        changes = {field: one[field] for field in fields}
        run_name = _run_name(name, changes)
        if run_name in planned:
            same = planned[run_name].describe()
            raise ValueError(
                f"two runs would have the same settings{f' ({same})' if same else ''}; expected "
                "different values in each --set. Remove those that repeat."
            )
        planned[run_name] = PlannedRun(replace_fields(config, {"run_name": run_name}), changes)
    return list(planned.values())


def run_sweep(
    name: str,
    planned: Sequence[PlannedRun],
    only: Iterable[str] = (),
    *,
    command: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> SweepResult:
    """Run a grid, run after run; one that fails does not stop the others.

    What is done already is skipped, so the same call goes on after an interruption, and a larger
    grid adds to a smaller one. The leaderboard holds every run that this sweep ever had, and is
    written anew after each.

    Args:
        name: of the sweep.
        planned: from `plan_sweep`.
        only, say: as for `run_pipeline`.
        command: what a user types to get this sweep, for the record.

    Raises:
        FileNotFoundError, ValueError: as of `check_inputs`, or a bad notebook name, or a run of
            that name with other settings, or another process is at this sweep; nothing was done.
    """
    only = list(only)
    for run in planned:
        check_inputs(run.config, select_notebooks(only))
    folder = resolve_path(planned[0].config.run.outputs_root) / "sweeps" / name
    with hold_folder(folder, f'sweep "{name}"', "a sweep", "--name"):
        return _run_sweep(folder, name, planned, only, command, say)


def _run_sweep(
    folder: Path,
    name: str,
    planned: Sequence[PlannedRun],
    only: list[str],
    command: Sequence[str],
    say: Callable[[str], None],
) -> SweepResult:
    record = _read_record(folder)
    _check_record(record, planned, name)
    record["command"] = list(command)
    for run in planned:
        record["runs"].setdefault(run.name, _new_entry(run, "waiting"))
    any_step_done, sibling = False, None
    for number, run in enumerate(planned, start=1):
        entry = record["runs"][run.name] = _new_entry(run, "running")
        write_json(folder / "sweep.json", record)
        say(f"run {number} of {len(planned)}: {run.describe()}")
        try:
            done = run_pipeline(
                run.config, only, say=lambda line: say(f"  {line}"), sibling=sibling
            )
        # Whatever stops one run must not stop the others; it is named at the end.
        except Exception as error:
            said = portable_text(fault_line(error) or str(error))
            entry |= {"state": "failed", "failure": " ".join(said.split())}
            any_step_done |= isinstance(error, NotebookFailedError) and error.any_done
            say(f"  failed: {entry['failure']}")
        else:
            entry["state"] = "done"
            sibling = sibling or done
            say(f"  {_score_line(done)}")
        write_json(folder / "sweep.json", record)
        rows = write_leaderboard(folder, name, record)
    mine = {run.name: record["runs"][run.name] for run in planned}
    return SweepResult(
        csv_path=folder / "leaderboard.csv",
        html_path=folder / "leaderboard.html",
        done=tuple(n for n, entry in mine.items() if entry["state"] == "done"),
        failed={n: entry["failure"] for n, entry in mine.items() if entry["state"] == "failed"},
        best=next((row for row in rows if row["mean_iou"] is not None), None),
        any_step_done=any_step_done,
        unusable={
            row["run_name"]: row["failure"]
            for row in rows
            if row["state"] == "done" and row["failure"]
        },
    )


# --- names and the record ------------------------------------------------------------------------


def _run_name(name: str, changes: Mapping[str, Any]) -> str:
    """The sweep's name and the changes; what no folder name can hold is replaced by a hash."""
    exact = "-".join([name, *(f"{field}={value_text(v)}" for field, v in changes.items())])
    plain = name + re.sub(r"[^\w.+=-]+", "_", exact[len(name) :])
    if plain == exact and fits_name(plain):
        return plain
    ending = f"-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
    begun = plain[: MOST_SIGNS - len(ending)].encode()[: MOST_BYTES - len(ending)]
    return begun.decode(errors="ignore") + ending


def _new_entry(run: PlannedRun, state: str) -> dict[str, Any]:
    return {"parameters": config_to_parameters(run.config), "state": state, "failure": ""}


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    if not path.exists():
        return {"runs": {}}
    remedy = "Restore it, or delete it: runs that are done stay done."
    record = read_shaped(path, _Record, remedy)
    for name in record["runs"]:
        check_run_name(name, f"{path}: run", "name there, or delete it")
    return record


def _check_record(record: Mapping[str, Any], planned: Sequence[PlannedRun], name: str) -> None:
    """Refuse to replace a run of this sweep by one of other settings."""
    sections = field_sections()
    for run in planned:
        known = record["runs"].get(run.name, {}).get("parameters", {})
        for field, value in config_to_parameters(run.config).items():
            if field in NOT_COMPARED or known.get(field, value) == value:
                continue
            raise ValueError(
                f'sweep "{name}" has a run {run.name} with {sections[field]}.{field} '
                f"{value_text(known[field])}; expected the same settings, got "
                f"{value_text(value)}. Choose another --name."
            )


def _score_line(run: RunFolder) -> str:
    scores = read_scores(run)
    if scores["unusable"]:
        return f"done, but {scores['unusable']}"
    if scores["mean_iou"] is None:
        return f"done: {portable_path(run.path)}"
    return f"mIoU {range_text(scores, SCORES)}, macro F1 {score_text(scores['macro_f1'])}"
