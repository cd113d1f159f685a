"""A grid of settings through the pipeline: one run folder each, and a leaderboard of all."""

import csv
import hashlib
import io
import itertools
import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from clothseg_utils.core.config import Config, config_to_parameters, field_sections, replace_fields
from clothseg_utils.core.files import portable_path, read_json, resolve_path, write_json, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.report.document import write_page
from clothseg_utils.report.parts import Picture, Table, to_markdown
from clothseg_utils.scores.compare import compare_evaluations
from clothseg_utils.workflow.pipeline import (
    NotebookFailedError,
    check_inputs,
    run_pipeline,
    select_notebooks,
    step_seconds,
)

if TYPE_CHECKING:
    from clothseg_utils.scores.evaluation import Evaluation

SWEEPS_FOLDER = "sweeps"
"""Folder below `outputs_root` that holds what belongs to no single run."""

_MAX_NAME = 100  # longest run name
_MISSING = "–"
# Settings that name a run or a place: two runs that differ in them alone are the same run.
_NOT_COMPARED = ("run_name", "outputs_root", "derived_root", "mask_workers")
_SCORES = ("mean_iou", "mean_iou_low", "mean_iou_high")
_DIFFERENCES = ("difference_to_best", "difference_low", "difference_high")
_OTHER_SCORES = ("macro_f1", "pixel_accuracy", "val_mean_iou_at_input_size")
_COSTS = ("epochs", "training_seconds", "total_seconds")


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
        return " ".join(f"{field}={_value_text(value)}" for field, value in self.changes.items())


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left.

    Attributes:
        csv_path, html_path: the leaderboard.
        done: names of the runs that are done.
        failed: name -> reason, one line.
        best: the first row of the leaderboard, if it has a score.
        any_step_done: whether a failed run got at least one notebook done.
    """

    csv_path: Path
    html_path: Path
    done: tuple[str, ...]
    failed: Mapping[str, str]
    best: Mapping[str, Any] | None
    any_step_done: bool


def expand_grid(settings: Iterable[str]) -> list[list[str]]:
    """Expand `section.field=v1,v2` settings into every combination, the last one running fastest.

    Values are split as in a CSV file: one that holds a comma goes in double quotes. The last
    setting of a field wins.

    Returns:
        for each combination, its `section.field=value` settings.

    Raises:
        ValueError: a setting without "=", a run name, or no setting with several values.

    Example:
        >>> expand_grid(["train.seed=0,1", "data.image_size=64"])
        [['train.seed=0', 'data.image_size=64'], ['train.seed=1', 'data.image_size=64']]
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f'--set "{setting}" has no "="; expected section.field=v1,v2.')
        if name.strip() == "run.run_name":
            raise ValueError("--set run.run_name: a sweep names its runs itself; use --name.")
        try:
            (row,) = csv.reader([text], skipinitialspace=True, strict=True) if text else [[""]]
        except csv.Error:
            raise ValueError(
                f'--set "{setting}" has an open quote; expected values like 1,2 or "0.75,1.25",1.'
            ) from None
        values[name.strip()] = [value.strip() for value in row]
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
    settings = [config_to_parameters(config) for config in configs]
    fields = _differing_fields(settings)
    planned: dict[str, PlannedRun] = {}
    for config, one in zip(configs, settings, strict=True):
        changes = {field: one[field] for field in fields}
        run_name = _run_name(name, changes)
        RunFolder(config.run.outputs_root, run_name)  # checks the name
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
        only: notebooks to run, as for `run_pipeline`.
        command: what a user types to get this sweep, for the record.
        say: takes one line at a time.

    Raises:
        FileNotFoundError: the data are missing; nothing was done.
        ValueError: a bad notebook name, or a run of that name with other settings; nothing was
            done.
    """
    only = list(only)
    for run in planned:
        check_inputs(run.config, select_notebooks(only))
    folder = resolve_path(planned[0].config.run.outputs_root) / SWEEPS_FOLDER / name
    record = _read_record(folder)
    _check_record(record, planned, name)
    record["command"] = list(command)
    for run in planned:
        entry = {"parameters": config_to_parameters(run.config), "state": "waiting", "failure": ""}
        record["runs"].setdefault(run.name, entry)
    folder.mkdir(parents=True, exist_ok=True)
    any_step_done, sibling = False, None
    for number, run in enumerate(planned, start=1):
        entry = record["runs"][run.name] = {
            "parameters": config_to_parameters(run.config),
            "state": "running",
            "failure": "",
        }
        write_json(folder / "sweep.json", record)
        say(f"run {number} of {len(planned)}: {run.describe()}")
        try:
            done = run_pipeline(
                run.config, only, say=lambda line: say(f"  {line}"), sibling=sibling
            )
        # Whatever stops one run must not stop the others; it is named at the end.
        except Exception as error:
            entry |= {"state": "failed", "failure": " ".join(str(error).split())}
            any_step_done |= isinstance(error, NotebookFailedError) and error.any_done
            say(f"  failed: {entry['failure']}")
        else:
            entry["state"] = "done"
            sibling = sibling or done
            say(f"  {_score_line(done)}")
        write_json(folder / "sweep.json", record)
        rows = _write_leaderboard(folder, name, record)
    mine = {run.name: record["runs"][run.name] for run in planned}
    return SweepResult(
        csv_path=folder / "leaderboard.csv",
        html_path=folder / "leaderboard.html",
        done=tuple(n for n, entry in mine.items() if entry["state"] == "done"),
        failed={n: entry["failure"] for n, entry in mine.items() if entry["state"] == "failed"},
        best=next((row for row in rows if row["mean_iou"] is not None), None),
        any_step_done=any_step_done,
    )


# --- names and the record ------------------------------------------------------------------------


def _differing_fields(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields in which the settings of several runs differ, in the config's order."""
    return [
        field
        for field in field_sections()
        if field not in _NOT_COMPARED
        and any(one.get(field) != settings[0].get(field) for one in settings)
    ]


def _run_name(name: str, changes: Mapping[str, Any]) -> str:
    """The sweep's name and the changes; what no folder name can hold is replaced by a hash."""
    exact = "-".join([name, *(f"{field}={_value_text(v)}" for field, v in changes.items())])
    plain = name + re.sub(r"[^\w.+=-]+", "_", exact[len(name) :])
    if plain == exact and len(plain) <= _MAX_NAME:
        return plain
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    return f"{plain[: _MAX_NAME - 9]}-{digest}"


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    if not path.exists():
        return {"runs": {}}
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("runs"), dict):
        raise ValueError(f"{path} is not the record of a sweep (no runs); restore or delete it.")
    return record


def _check_record(record: Mapping[str, Any], planned: Sequence[PlannedRun], name: str) -> None:
    """Refuse to replace a run of this sweep by one of other settings."""
    sections = field_sections()
    for run in planned:
        known = record["runs"].get(run.name, {}).get("parameters", {})
        for field, value in config_to_parameters(run.config).items():
            if field in _NOT_COMPARED or known.get(field, value) == value:
                continue
            raise ValueError(
                f'sweep "{name}" has a run {run.name} with {sections[field]}.{field} '
                f"{_value_text(known[field])}; expected the same settings, got "
                f"{_value_text(value)}. Choose another --name."
            )


# --- the leaderboard -----------------------------------------------------------------------------


def _score_line(run: RunFolder) -> str:
    scores = _read_scores(run)
    if scores["mean_iou"] is None:
        return f"done: {portable_path(run.path)}"
    return f"mIoU {_range_text(scores, _SCORES)}, macro F1 {_score_text(scores['macro_f1'])}"


def _read_scores(run: RunFolder) -> dict[str, Any]:
    """Scores and costs of a finished run; None for what it did not make."""
    metrics_path = run.path / "metrics.json"
    metrics = read_json(metrics_path) if metrics_path.exists() else {}
    training = read_json(run.training_path) if run.training_path.exists() else {}
    low, high = metrics.get("intervals", {}).get("mean_iou", (None, None))
    seconds = step_seconds(run)
    return {
        "mean_iou": metrics.get("mean_iou"),
        "mean_iou_low": low,
        "mean_iou_high": high,
        "macro_f1": metrics.get("macro_f1"),
        "pixel_accuracy": metrics.get("pixel_accuracy"),
        "val_mean_iou_at_input_size": training.get("best_score"),
        "epochs": training.get("epochs"),
        "training_seconds": training.get("seconds"),
        "total_seconds": round(sum(seconds.values()), 1) if seconds else None,
        "source": metrics.get("source", ""),
        "synthetic": metrics.get("synthetic", False),
    }


def _write_leaderboard(folder: Path, name: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write `leaderboard.csv` and `.html`; return the rows, best first."""
    runs = record["runs"]
    fields = _differing_fields([entry["parameters"] for entry in runs.values()])
    rows = []
    for run_name, entry in runs.items():
        run = RunFolder(entry["parameters"]["outputs_root"], run_name)
        # What a failed run left from before belongs to other settings or another code.
        is_done = entry["state"] == "done" and run.path.exists()
        scores = _read_scores(run) if is_done else {}
        rows.append(
            {"run_name": run_name, "state": entry["state"]}
            | {field: entry["parameters"].get(field) for field in fields}
            | {column: scores.get(column) for column in (*_SCORES, *_OTHER_SCORES, *_COSTS)}
            | {"source": scores.get("source", ""), "synthetic": scores.get("synthetic", False)}
            | {"failure": entry["failure"], "run": run}
        )
    rows.sort(key=lambda row: (row["mean_iou"] is None, -(row["mean_iou"] or 0)))
    _compare_with_best(rows)
    columns = ("rank", "run_name", "state", *fields)
    columns += (*_SCORES, *_DIFFERENCES, *_OTHER_SCORES, *_COSTS, "failure")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "leaderboard.csv", buffer.getvalue())
    _write_html(folder / "leaderboard.html", name, record, fields, rows)
    return rows


def _compare_with_best(rows: Sequence[dict[str, Any]]) -> None:
    """Add rank, and each run's difference to the best one, paired over the same photos."""
    best: tuple[str, Evaluation] | None = None
    for rank, row in enumerate(rows, start=1):
        row |= {"rank": rank if row["mean_iou"] is not None else None, "verdict": ""}
        row |= dict.fromkeys(_DIFFERENCES)
        evaluation = _read_evaluation(row["run"]) if row["mean_iou"] is not None else None
        if evaluation is None:
            continue
        if best is None:
            best = row["run_name"], evaluation
            row["verdict"] = "the best"
            continue
        try:
            comparison = compare_evaluations(evaluation, best[1], (row["run_name"], best[0]))
        except ValueError:  # other photos, or other classes
            row["verdict"] = "not comparable"
            continue
        difference = comparison.means["mean_iou"]
        row["difference_to_best"] = difference.difference
        if difference.low == difference.low:  # NaN: one photo gives no interval
            row |= {"difference_low": difference.low, "difference_high": difference.high}
        row["verdict"] = "worse" if difference.is_real else "not told apart"


def _read_evaluation(run: RunFolder) -> "Evaluation | None":
    # evaluate loads torch; planning a sweep must not.
    from clothseg_utils.scores.evaluation import read_evaluation

    try:
        return read_evaluation(run.path)
    except FileNotFoundError:
        return None


def _write_html(
    path: Path,
    name: str,
    record: Mapping[str, Any],
    fields: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    counts = {state: sum(row["state"] == state for row in rows) for state in _STATE_WORDS}
    write_page(
        path,
        "leaderboard.md.j2",
        name=name,
        date=time.strftime("%Y-%m-%d"),
        rows=rows,
        states=", ".join(f"{n} {_STATE_WORDS[state]}" for state, n in counts.items() if n),
        best_score=_range_text(rows[0], _SCORES),
        leaderboard=_leaderboard_table(fields, rows),
        figure=_picture(fields, rows),
        seeds=_seed_table(fields, rows) if "seed" in fields else None,
        command=_command_lines(record["command"]) if record.get("command") else (),
        settings=_settings_table(record, fields),
    )


_STATE_WORDS = {"done": "done", "failed": "failed", "running": "cut off", "waiting": "not begun"}


def _leaderboard_table(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ("", *fields, "verdict", "mean IoU (95 % interval)", "to the best (95 % interval)")
    head += ("macro F1", "pixel accuracy", "val mIoU in training", "epochs", "training", "in all")
    cells = [
        (
            _link(row, _MISSING if row["rank"] is None else f"{row['rank']}."),
            *(_value_text(row[field]) for field in fields),
            row["verdict"] or _STATE_WORDS[row["state"]],
            _range_text(row, _SCORES),
            _range_text(row, _DIFFERENCES, sign="+"),
            _score_text(row["macro_f1"]),
            _score_text(row["pixel_accuracy"]),
            _score_text(row["val_mean_iou_at_input_size"]),
            _MISSING if row["epochs"] is None else f"{row['epochs']:,}",
            _seconds_text(row["training_seconds"]),
            _seconds_text(row["total_seconds"]),
        )
        for row in rows
    ]
    marked = 0 if rows[0]["mean_iou"] is not None else -1
    return Table(head, tuple(cells), 2 + len(fields), title="Runs, best first", marked=marked)


def _link(row: Mapping[str, Any], text: str) -> str:
    """A text that leads to the run's report or else to its scores, where there are any."""
    run = row["run"]
    pages = (run.report_dir / "index.html", run.notebooks_dir / "04_metric_evaluation.html")
    page = next((page for page in pages if page.exists()), None)
    if row["state"] != "done" or page is None:
        return text
    address = quote(f"../../{run.name}/{page.relative_to(run.path).as_posix()}")
    title = to_markdown(row["run_name"]).replace('"', "&quot;")
    return Markup(f'[{to_markdown(text)}]({address} "{title}")')


def _picture(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Mean IoU of every run with its interval."""
    # matplotlib takes a second to load; planning a sweep must not wait for it.
    import pandas as pd
    from matplotlib import pyplot as plt

    from clothseg_utils.pictures.score_figures import plot_strata

    scored = [row for row in rows if row["mean_iou"] is not None]
    if len(scored) < 2:
        return None
    missing = float("nan")
    table = pd.DataFrame(
        {
            "stratum": [
                f"{row['rank']}. {', '.join(_value_text(row[field]) for field in fields)}"
                for row in scored
            ],
            "score": [row["mean_iou"] for row in scored],
            "low": [
                missing if row["mean_iou_low"] is None else row["mean_iou_low"] for row in scored
            ],
            "high": [
                missing if row["mean_iou_high"] is None else row["mean_iou_high"] for row in scored
            ],
            "n": [row["source"].rpartition("n = ")[2] for row in scored],
        }
    )
    figure = plot_strata(
        "Mean IoU of the runs", table, source=f"{scored[0]['source']}, 95 % intervals"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    size_wh = tuple(round(160 * side) for side in figure.get_size_inches())
    plt.close(figure)
    text = (
        f"Mean IoU of each run ({', '.join(fields)}) with its 95 % bootstrap interval over photos."
    )
    return Picture("leaderboard.png", buffer.getvalue(), size_wh, alt=text, caption=text)


def _seed_table(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Mean and spread over seeds of each combination of the other settings, best first."""
    others = [field for field in fields if field != "seed"]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["mean_iou"] is not None:
            groups.setdefault(tuple(_value_text(row[f]) for f in others), []).append(
                row["mean_iou"]
            )
    ranked = sorted(groups.items(), key=lambda item: -statistics.fmean(item[1]))
    cells = [
        (
            *(key or ("as given",)),
            str(len(scores)),
            _score_text(statistics.fmean(scores)),
            _score_text(statistics.stdev(scores) if len(scores) > 1 else None),
            f"{min(scores):.3f} to {max(scores):.3f}",
        )
        for key, scores in ranked
    ]
    named = others or ["other settings"]
    head = (*named, "runs", "mean of mean IoU", "standard deviation", "lowest to highest")
    title = "Mean and spread over seeds of each combination of the other settings"
    return Table(head, tuple(cells), text_columns=len(named), title=title)


def _settings_table(record: Mapping[str, Any], fields: Sequence[str]) -> Table:
    parameters = next(iter(record["runs"].values()))["parameters"]
    sections = field_sections()
    shared = tuple(
        (f"{sections[field]}.{field}", _value_text(value))
        for field, value in parameters.items()
        if field in sections and field not in fields and field != "run_name"
    )
    return Table(("setting", "value"), shared, 2, title="Settings that all runs share", folded=True)


def _command_lines(command: Sequence[str]) -> tuple[str, ...]:
    """A command to copy, one option per line."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    joined = [shlex.join(line) for line in lines]
    indented = [joined[0], *(f"    {line}" for line in joined[1:])]
    return (*(f"{line} \\" for line in indented[:-1]), indented[-1])


def _score_text(score: float | None, *, sign: str = "") -> str:
    return _MISSING if score is None else f"{score:{sign}.3f}".replace("-", "\N{MINUS SIGN}")


def _range_text(row: Mapping[str, Any], columns: Sequence[str], *, sign: str = "") -> str:
    """A score with the ends of its interval, where it has one."""
    score, low, high = (_score_text(row[column], sign=sign) for column in columns)
    return score if _MISSING in (score, low) else f"{score} ({low} to {high})"


def _seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return _MISSING
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
