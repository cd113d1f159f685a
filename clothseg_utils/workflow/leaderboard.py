"""The leaderboard of a sweep: its runs ranked, as a page and as CSV."""

import csv
import io
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from clothseg_utils.core.config import field_sections
from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import portable_text, write_text
from clothseg_utils.core.markdown import to_markdown
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import MISSING, number_text, score_text
from clothseg_utils.pictures.score_figures import plot_strata
from clothseg_utils.pictures.style import DPI, render_png
from clothseg_utils.report.document import command_lines, write_page
from clothseg_utils.report.parts import Picture, Table
from clothseg_utils.scores.compare import compare_evaluations
from clothseg_utils.scores.evaluation import Evaluation, read_evaluation
from clothseg_utils.scores.metrics_file import read_metrics
from clothseg_utils.scores.roll_up import rolled_up
from clothseg_utils.workflow.pipeline import step_seconds

# Settings that name a run or a place: two runs that differ in them alone are the same run.
NOT_COMPARED = ("run_name", "outputs_root", "derived_root", "mask_workers")
SCORES = ("mean_iou", "mean_iou_low", "mean_iou_high")
_DIFFERENCES = ("difference_to_best", "difference_low", "difference_high")
_OTHER_SCORES = ("mean_iou_of_halves", "macro_f1", "pixel_accuracy", "val_mean_iou_at_input_size")
_COSTS = ("epochs", "training_seconds", "total_seconds")
_STATE_WORDS = {"done": "done", "failed": "failed", "running": "cut off", "waiting": "not begun"}


def differing_fields(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields in which the settings of several runs differ, in the config's order."""
    return [
        field
        for field in field_sections()
        if field not in NOT_COMPARED
        and any(one.get(field) != settings[0].get(field) for one in settings)
    ]


def value_text(value: Any) -> str:
    """A setting as in `--set`; two that differ have different texts."""
    if isinstance(value, bool):
        return str(value).lower()
    return number_text(value) if isinstance(value, float) else str(value)


def read_scores(
    run: RunFolder, *, is_done: bool = True, roll_up: Collection[tuple[str, ...]] = ()
) -> dict[str, Any]:
    """Scores and costs of a finished run; None for what it did not make, or if it is not done.

    Where its classes roll up to one of the lists of classes in `roll_up`, the scores are of these.
    A file that is broken counts as not made; `unusable` says why.
    """
    unusable: list[str] = []

    def read(reader: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return reader() if is_done else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            unusable.append(portable_text(fault_line(error) or str(error)))
            return {}

    metrics = read(lambda: read_metrics(run.path / "metrics.json"))
    training, seconds = read(run.read_training), read(lambda: step_seconds(run))
    rolled = metrics.get("rolled_up") or {}
    is_rolled_up = bool(rolled) and tuple(rolled["per_class"]) in roll_up
    if is_rolled_up:
        metrics |= rolled
        training |= {"best_score": None}  # of its own classes
    low, high = metrics.get("intervals", {}).get("mean_iou", (None, None))
    framing = metrics.get("strata", {}).get("framing")
    return {
        "mean_iou": metrics.get("mean_iou"),
        "mean_iou_low": low,
        "mean_iou_high": high,
        "mean_iou_of_halves": framing[-1]["score"] if framing else None,  # of all together
        "macro_f1": metrics.get("macro_f1"),
        "pixel_accuracy": metrics.get("pixel_accuracy"),
        "val_mean_iou_at_input_size": training.get("best_score"),
        "epochs": training.get("epochs"),
        "training_seconds": training.get("seconds"),
        "total_seconds": round(sum(seconds.values()), 1) if seconds else None,
        "class_names": tuple(metrics.get("per_class", ())),
        "is_rolled_up": is_rolled_up,
        "n_images": metrics.get("n_images", 0),
        "source": metrics.get("source", ""),
        "synthetic": metrics.get("synthetic", False),
        "unusable": "; ".join(unusable),
    }


def write_leaderboard(folder: Path, name: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write `leaderboard.csv` and `.html`; return the rows, best first."""
    runs = record["runs"]
    fields = differing_fields([entry["parameters"] for entry in runs.values()])
    rows = []
    for run_name, entry in runs.items():
        run = RunFolder(entry["parameters"]["outputs_root"], run_name)
        # What a failed run left from before belongs to other settings or another code.
        is_done = entry["state"] == "done" and run.path.exists()
        scores = read_scores(run, is_done=is_done)
        rows.append(
            {"run_name": run_name, "state": entry["state"]}
            | {field: entry["parameters"].get(field) for field in fields}
            | scores
            | {"failure": entry["failure"] or scores["unusable"], "run": run}
        )
    class_lists = {row["class_names"] for row in rows if row["mean_iou"] is not None}
    for row in rows:
        others = class_lists - {row["class_names"]}
        if row["mean_iou"] is not None and others:
            row |= read_scores(row["run"], roll_up=others)
    rows.sort(key=lambda row: (row["mean_iou"] is None, -(row["mean_iou"] or 0)))
    _compare_with_best(rows)
    columns = ("rank", "run_name", "state", *fields)
    columns += ("is_rolled_up",) * any(row["is_rolled_up"] for row in rows)
    columns += (*SCORES, *_DIFFERENCES, *_OTHER_SCORES, *_COSTS, "failure")
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
        try:
            evaluation = _read_evaluation(row) if row["mean_iou"] is not None else None
        except (OSError, ValueError) as error:
            said = portable_text(fault_line(error) or str(error))
            row |= {"verdict": "not comparable", "failure": said}
            continue
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


def _read_evaluation(row: Mapping[str, Any]) -> Evaluation | None:
    try:
        evaluation = read_evaluation(row["run"].path)
    except FileNotFoundError:
        return None
    return rolled_up(evaluation) if row["is_rolled_up"] else evaluation


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
        best_score=range_text(rows[0], SCORES),
        leaderboard=_leaderboard_table(fields, rows),
        figure=_picture(fields, rows),
        seeds=_seed_table(fields, rows) if "seed" in fields else None,
        command=command_lines(record["command"]) if record.get("command") else (),
        settings=_settings_table(record, fields),
    )


def _leaderboard_table(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ("", *fields, "verdict", "mean IoU (95 % interval)", "to the best (95 % interval)")
    head += ("mean IoU of halves", "macro F1", "pixel accuracy", "val mIoU in training")
    head += ("epochs", "training", "in all")
    cells = [
        (
            _link(row, MISSING if row["rank"] is None else f"{row['rank']}."),
            *(value_text(row[field]) for field in fields),
            row["verdict"] or _STATE_WORDS[row["state"]],
            range_text(row, SCORES),
            range_text(row, _DIFFERENCES, sign="+"),
            score_text(row["mean_iou_of_halves"]),
            score_text(row["macro_f1"]),
            score_text(row["pixel_accuracy"]),
            score_text(row["val_mean_iou_at_input_size"]),
            MISSING if row["epochs"] is None else f"{row['epochs']:,}",
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
    scored = [row for row in rows if row["mean_iou"] is not None]
    if len(scored) < 2:
        return None
    table = pd.DataFrame(
        {
            "stratum": f"{row['rank']}. {', '.join(value_text(row[field]) for field in fields)}",
            "score": row["mean_iou"],
            "low": row["mean_iou_low"],
            "high": row["mean_iou_high"],
            "n": row["n_images"],
            "unit": "photo",
        }
        for row in scored
    ).astype({"low": float, "high": float})  # None becomes NaN
    source = f"{scored[0]['source']}, 95 % intervals"
    figure = plot_strata("Mean IoU of the runs", table, source=source)
    width, height = (round(DPI * side) for side in figure.get_size_inches())
    text = (
        f"Mean IoU of each run ({', '.join(fields)}) with its 95 % bootstrap interval over photos."
    )
    return Picture("leaderboard.png", render_png(figure), (width, height), alt=text, caption=text)


def _seed_table(fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Mean and spread over seeds of each combination of the other settings, best first."""
    others = [field for field in fields if field != "seed"]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["mean_iou"] is not None:
            groups.setdefault(tuple(value_text(row[f]) for f in others), []).append(row["mean_iou"])
    ranked = sorted(groups.items(), key=lambda item: -statistics.fmean(item[1]))
    cells = [
        (
            *(key or ("as given",)),
            str(len(scores)),
            score_text(statistics.fmean(scores)),
            score_text(statistics.stdev(scores) if len(scores) > 1 else None),
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
        (f"{sections[field]}.{field}", value_text(value))
        for field, value in parameters.items()
        if field in sections and field not in fields and field != "run_name"
    )
    return Table(("setting", "value"), shared, 2, title="Settings that all runs share", folded=True)


def range_text(row: Mapping[str, Any], columns: Sequence[str], *, sign: str = "") -> str:
    """A score with the ends of its interval, where it has one."""
    score, low, high = (score_text(row[column], sign) for column in columns)
    return score if MISSING in (score, low) else f"{score} ({low} to {high})"


def _seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
