"""Tables of what a run's scores are: means, classes, limits, single photos, another run.

Each function takes the facts and gives one table; where a run may lack what it shows, the
template asks first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clothseg_utils.core.classes import class_colors
from clothseg_utils.core.text import MISSING, count_text, interval_text, percent_text, score_text
from clothseg_utils.pictures.score_figures import plot_differences
from clothseg_utils.pictures.style import FEW_ROWS, save_figure
from clothseg_utils.report.facts import Facts
from clothseg_utils.report.parts import Picture, Table, read_picture
from clothseg_utils.scores.compare import COMPARED_MEANS, Comparison, Difference, class_verdict
from clothseg_utils.scores.evaluation import REPORTED_SCORES
from clothseg_utils.scores.rankings import largest_confusions, rank_photos
from clothseg_utils.scores.strata import STRATA, Stratum, stratum_count_text

_INTERVAL = "95 % interval"
_MOST_ROWS = 10  # of confusions and photos, which could be endless

_MEANS = {
    "mean_iou": "mean IoU",
    "mean_iou_no_background": "mean IoU without background",
    "mean_iou_target_classes": "mean IoU, classes with target only",
    "macro_f1": "macro F1",
    "macro_f1_no_background": "macro F1 without background",
    "pixel_accuracy": "pixel accuracy",
}


def headline(facts: Facts) -> Table:
    """The two means that were reported, beside the reported ones where these compare."""
    scored = {"": facts.metrics}
    if facts.rolled_up:
        scored[f", rolled up to {len(facts.rolled_up['per_class'])} classes"] = facts.rolled_up
    compares = [metrics["comparable_with_reported"] for metrics in scored.values()]
    rows = [("", "this run", _INTERVAL, "squashed", "earlier system")]
    for (note, metrics), is_comparable in zip(scored.items(), compares, strict=True):
        intervals, squashed = metrics.get("intervals", {}), metrics.get("reported_protocol", {})
        rows += [
            (
                f"{_MEANS[name]}{note}",
                score_text(metrics[name]),
                interval_text(intervals.get(name)),
                score_text(squashed.get(name)),
                score_text(reported if is_comparable else None),
            )
            for name, reported in REPORTED_SCORES.items()
        ]
    n_shown = 5 if any(compares) else 3
    head, *body = (row[:n_shown] for row in rows)
    return Table(head, tuple(body))


def means(facts: Facts) -> Table:
    """All means, by both protocols, beside the reported ones."""
    metrics = facts.metrics
    squashed, intervals = metrics.get("reported_protocol", {}), metrics.get("intervals", {})
    rows = tuple(
        (
            label,
            score_text(metrics.get(name)),
            interval_text(intervals.get(name)),
            score_text(squashed.get(name)),
            score_text(REPORTED_SCORES.get(name)),
        )
        for name, label in _MEANS.items()
    )
    head = ("score", "headline", _INTERVAL, "squashed protocol", "earlier system")
    return Table(head, rows, title=f"Scores; {metrics['source']}")


def classes(facts: Facts) -> Table:
    """The four scores of each class with their intervals."""
    per_class = facts.metrics["per_class"]
    intervals = facts.metrics.get("intervals", {}).get("per_class", {})
    total = sum(scores["target_pixels"] for scores in per_class.values())
    photos = dict.fromkeys(per_class, MISSING)
    if facts.evaluation is not None:
        counts = (facts.evaluation.confusions.sum(axis=2) > 0).sum(axis=0)
        photos = {name: f"{count:,}" for name, count in zip(photos, counts, strict=True)}
    kinds = ("iou", "f1", "precision", "recall")
    rows = []
    for name, scores in per_class.items():
        ends = intervals.get(name, {})
        cells = [(score_text(scores[kind]), interval_text(ends.get(kind))) for kind in kinds]
        share = percent_text(scores["target_pixels"] / total) if total else MISSING
        rows.append((name, scores["status"], photos[name], *sum(cells, ()), share))
    names = [name for kind in ("IoU", "F1", "precision", "recall") for name in (kind, _INTERVAL)]
    head = ("class", "status", "photos", *names, "target share")
    title = f"Per class; {facts.source}"
    return Table(head, tuple(rows), text_columns=2, title=title, folded=_is_long(rows))


def rolled_up_means(facts: Facts) -> Table:
    """All means in the run's own classes, and in those that they roll up to."""
    own, rolled = facts.metrics, facts.rolled_up
    rows = []
    for name, label in _MEANS.items():
        pairs = [
            (score_text(m.get(name)), interval_text(m.get("intervals", {}).get(name)))
            for m in (own, rolled)
        ]
        squashed = score_text(rolled["reported_protocol"].get(name))
        rows.append((label, *pairs[0], *pairs[1], squashed))
    head: list[str] = ["score"]
    for metrics in (own, rolled):
        head += [f"{len(metrics['per_class'])} classes", _INTERVAL]
    title = f"Means, rolled up; {facts.source}"
    return Table((*head, "squashed protocol"), tuple(rows), title=title)


def rolled_up_classes(facts: Facts) -> Table:
    """IoU and F1 of each class that others roll up to, beside the mean IoU of these."""
    rolled, fine = facts.rolled_up, facts.metrics["per_class"]
    rows = []
    for name, scores in rolled["per_class"].items():
        ends = rolled["intervals"].get("per_class", {}).get(name, {})
        united = rolled["classes"].get(name, ())
        own = [fine[one]["iou"] for one in united if fine[one]["iou"] is not None]
        mean = score_text(sum(own) / len(own) if own else None)
        kinds = ("iou", "f1")
        cells = [(score_text(scores[kind]), interval_text(ends.get(kind))) for kind in kinds]
        rows.append((name, scores["status"], str(len(united)), mean, *cells[0], *cells[1]))
    own_columns = ("class", "status", "categories", "mean IoU of these")
    head = (*own_columns, "IoU", _INTERVAL, "F1", _INTERVAL)
    title = f"Per class, rolled up; {facts.source}"
    return Table(head, tuple(rows), text_columns=2, title=title)


def boundaries(facts: Facts) -> Table:
    """Boundary IoU of each class, beside its mask IoU."""
    rows = tuple(
        (
            name,
            score_text(scores["iou"]),
            interval_text(scores["interval"]),
            score_text(facts.metrics["per_class"][name]["iou"]),
        )
        for name, scores in facts.metrics["boundary"]["per_class"].items()
    )
    head = ("class", "boundary IoU", _INTERVAL, "mask IoU")
    title = f"Boundary IoU per class; {facts.source}"
    return Table(head, rows, title=title, folded=_is_long(rows))


def calibration(facts: Facts) -> Table:
    """Of each predicted class, how sure the network is and how often it is right."""
    rows = tuple(
        (name, *(score_text(scores[key]) for key in ("ece", "mean_confidence", "precision")))
        for name, scores in facts.metrics["calibration"]["per_class"].items()
    )
    head = ("predicted class", "ECE", "mean probability", "share that is right")
    title = f"Calibration per predicted class; {facts.source}"
    return Table(head, rows, title=title, folded=True)


def confusions(facts: Facts) -> Table:
    """The largest entries off the diagonal, as shares of their row."""
    names = list(facts.metrics["per_class"])
    confusion = np.array(facts.metrics["confusion"], np.int64)
    rows = tuple(
        (names[one.target], names[one.predicted], percent_text(one.share), f"{one.pixels:,}")
        for one in largest_confusions(confusion, _MOST_ROWS)
    )
    head = ("truth", "predicted as", "share of the truth", "pixels")
    return Table(head, rows, text_columns=2, title=f"The largest confusions; {facts.source}")


def options(facts: Facts) -> Table:
    """What looking more than once at each photo gains and costs."""
    trials = facts.records("04_options")
    rows = tuple(
        (
            trial["option"],
            trial["settings"],
            score_text(_number(trial["mean_iou"])),
            score_text(_number(trial["gain"]), "+"),
            interval_text((_number(trial["low"]), _number(trial["high"]))),
            f"{float(trial['seconds']):.3f}",
            f"{float(trial['cost']):.1f}",
        )
        for trial in trials
    )
    data, n = facts.metrics["source"].partition(", n =")[0], int(trials[0]["n"])
    title = f"Test-time options; {data}, native resolution, paired on {count_text(n, 'photo')}"
    head = ("option", "what it does", "mean IoU", "gain", "95 % interval of the gain")
    costs = ("s per photo", "times the cost")
    return Table((*head, *costs), rows, text_columns=2, title=f"{title} spread over the split")


def _is_long(rows: Sequence[object]) -> bool:
    """Whether a table is shown on demand only, as of 47 classes; its figure says the same."""
    return len(rows) > FEW_ROWS


def _number(cell: str) -> float | None:
    """A number of a CSV file; None for an empty cell, which stands for NaN."""
    return float(cell) if cell else None


# --- limits --------------------------------------------------------------------------------------


def limits(facts: Facts) -> dict[str, Stratum]:
    """Every known limit, and those that only this run has."""
    measured = facts.metrics.get("strata", {})
    unknown = {n: Stratum(n.replace("_", " ").capitalize()) for n in measured if n not in STRATA}
    return STRATA | unknown


def limit(facts: Facts, name: str) -> Table:
    """The groups of one limit."""
    stratum = limits(facts)[name]
    rows = tuple(
        (
            group["stratum"],
            stratum_count_text(group),
            score_text(group["score"]),
            interval_text((group["low"], group["high"])),
            *(_group_cell(group, keys) for keys in stratum.columns.values()),
        )
        for group in facts.metrics["strata"][name]
    )
    source = facts.source
    if name == "composites":
        name = "synthetic" if facts.metrics["synthetic"] else facts.metrics["dataset"]
        source = f"{name}, {facts.metrics['split']}, scaled to one height"
    return Table(
        ("group", "n", stratum.score, _INTERVAL, *stratum.columns),
        rows,
        text_columns=2,
        title=f"{stratum.title}; {source}",
        folded=stratum.is_long or _is_long(rows),
    )


def _group_cell(group: Mapping[str, Any], keys: str | tuple[str, str]) -> str:
    if isinstance(keys, tuple):
        return interval_text([group.get(key) for key in keys])
    value = group.get(keys)
    return f"{value:,.0f}" if keys == "median_area" and value is not None else score_text(value)


def ends_of_limit(facts: Facts, name: str) -> list[Mapping[str, Any]]:
    """First and last group of a limit whose groups have an order.

    A group without interval is of one photo, which says nothing about the network.
    """
    groups = facts.metrics.get("strata", {}).get(name, ())
    sure = [group for group in groups if group["low"] is not None]
    if len(sure) < 2 or not limits(facts)[name].is_ordered:
        return []
    return [sure[0], sure[-1]]


# --- single photos -------------------------------------------------------------------------------


def worst_photos(facts: Facts) -> Table | None:
    """The photos with the lowest scores; None without scores of single photos."""
    evaluation = facts.evaluation
    if evaluation is None:
        return None
    names, ids, scores = evaluation.file_names, evaluation.image_ids, facts.image_scores
    rows = tuple(
        (names[index], str(ids[index]), score_text(float(scores[index])))
        for index in rank_photos(-scores)[:_MOST_ROWS]
    )
    title = f"Lowest mean IoU over the classes that a photo holds; {facts.source}"
    return Table(("photo", "image id", "mean IoU"), rows, 2, title=title)


def disagreement(facts: Facts) -> Table:
    """Photos that are worth a second look at their labels."""
    rows = tuple(
        (
            photo["photo"],
            percent_text(float(photo["disagreement"])),
            score_text(_number(photo["label_doubt"])),
            score_text(_number(photo["mean_iou"])),
        )
        for photo in facts.records("05_disagreement")[:_MOST_ROWS]
        if photo["disagreement"]
    )
    head = ("photo", "pixels that differ", "label doubt", "mean IoU")
    title = f"Photos by label doubt; {facts.source} (all: tables/05_disagreement.csv)"
    return Table(head, rows, title=title)


# --- another run ---------------------------------------------------------------------------------


def compared_count(comparison: Comparison) -> int:
    """Classes of which something can be said."""
    return sum(bool(np.isfinite(difference.low)) for difference in comparison.iou.values())


def compared_means(facts: Facts, comparison: Comparison) -> Table:
    """The means of two runs, and whether they differ."""
    one, two = comparison.names
    rows = tuple(
        (COMPARED_MEANS[name], *_difference_cells(difference, comparison.names))
        for name, difference in comparison.means.items()
    )
    head = ("score", one, two, "difference", _INTERVAL, "verdict")
    return Table(head, rows, title=f"Means of {one} and {two}; {facts.source}, paired")


def compared_classes(facts: Facts, comparison: Comparison) -> Table:
    """The classes of two runs, and whether they differ."""
    one, two = comparison.names
    rows = []
    for name, f1 in comparison.f1.items():
        cells = _difference_cells(comparison.iou[name], comparison.names)
        rows.append((name, *cells, score_text(f1.difference, "+")))
    head = ("class", one, two, "difference", _INTERVAL, "verdict", "difference of F1")
    title = f"IoU of each class in {one} and {two}; {facts.source}, paired"
    return Table(head, tuple(rows), title=title, folded=_is_long(rows))


def _difference_cells(difference: Difference, names: Sequence[str]) -> Iterable[str]:
    ours, theirs, between, low, high = difference
    yield from (score_text(ours), score_text(theirs), score_text(between, "+"))
    yield from (interval_text((low, high)), class_verdict(difference, names))


def compared_picture(facts: Facts, comparison: Comparison) -> Picture:
    """Draw the differences of the classes; keep the figure with those of the run."""
    one, two = comparison.names
    source = f"{facts.source}, paired, 95 % intervals"
    names = tuple(comparison.iou)
    rows = pd.DataFrame({"class_name": name, **d._asdict()} for name, d in comparison.iou.items())
    figure = plot_differences(
        rows, comparison.names, names, class_colors(len(names)), source=source
    )
    caption = f"IoU of run {one} minus that of run {two}, class by class. {source}."
    stem = facts.run.figures_dir / f"06_against_{two}"
    png_path, _ = save_figure(figure, stem, caption=caption)
    return read_picture(png_path, alt=f"Differences between run {one} and run {two}, by class")
