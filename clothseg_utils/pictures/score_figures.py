"""Figures of scores; `source` and `table` as in `style`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.pictures.overlays import ERROR_COLORS, ERROR_NAMES
from clothseg_utils.pictures.style import (
    BLUE,
    CENTRED,
    FEW_ROWS,
    GREY,
    LONGEST_TICK,
    ORANGE,
    draw_heatmap,
    legend_above,
    legend_patches,
    new_figure,
    rows_height_in,
    shorten,
    shown_rows,
    sort_classes,
    styled,
    tick_names,
    whole_numbers,
    write_beside,
)
from clothseg_utils.scores.strata import stratum_count_text


@styled
def plot_confusion_matrix(
    confusion: np.ndarray, class_names: Sequence[str], *, source: str
) -> Figure:
    """Plot where the pixels of each true class went; a class without target pixels is hatched.

    Args:
        confusion: (C, C) counts; rows = target, columns = prediction.
        class_names: index = class id.
    """
    confusion = np.asarray(confusion)
    ids, left_out = shown_rows(np.arange(len(confusion)), (confusion + confusion.T).any(axis=1))
    confusion, class_names = confusion[np.ix_(ids, ids)], [class_names[i] for i in ids]
    totals = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        percent = 100 * confusion / totals[:, None]  # nan rows: absent from the target
    names = [shorten(name, 26) for name in class_names]
    figure, axes = draw_heatmap(percent, names, names, "pixels of the true class, %", source)
    absent = np.flatnonzero(totals == 0)
    for row in absent.tolist():
        axes.add_patch(Rectangle((0, row), len(names), 1, fc="0.96", ec="0.75", hatch="////", lw=0))
    hatched = "; hatched: no pixels in the truth" if len(absent) else ""
    axes.set(ylabel="true class", xlabel=f"predicted class{hatched}{left_out}")
    axes.set_title(f"Confusion, rows sum to 100 %, n = {EngFormatter(places=1)(totals.sum())}px")
    return figure


@styled
def plot_class_scores(scores: pd.DataFrame, table: ClassTable, *, source: str) -> Figure:
    """Plot IoU and F1 of every class with intervals; absent classes are named as such, if few.

    Args:
        scores: one row per class: columns class_name, status ("ok", "absent" or "no target"), iou,
            iou_low, iou_high, f1, f1_low, f1_high; 0..1 or nan.
    """
    metrics = {"iou": "IoU", "f1": "F1"}
    scores, left_out = sort_classes(scores, "iou")
    rows = np.arange(len(scores))
    figure = new_figure(rows_height_in(len(scores)), source)
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), metrics.items(), strict=True):
        _draw_class_dots(axes, scores, key, table)
        mean = scores[key].mean()
        axes.axvline(mean, color=GREY, ls="--", lw=1.2)
        ends = scores[[key, f"{key}_high"]].max(axis=1).fillna(0)
        for row, end, status in zip(rows, ends, scores["status"], strict=True):
            if status != "ok":
                axes.text(end + 0.04, row, status, va="center", color="0.35", style="italic")
        axes.set_title(title)
        axes.set_title(f"mean {mean:.3f} (dashed)", loc="right", fontsize=8.5, weight="normal")
        axes.set_xlabel(f"{title}{left_out}")
    return figure


@styled
def plot_strata(
    title: str, strata: pd.DataFrame, *, source: str, score_name: str = "mean IoU"
) -> Figure:
    """Plot a score in each of several groups of photos or pixels, with intervals.

    Args:
        title: what the groups are.
        strata: one row per group, in the order to be shown: columns stratum, score, low, high
            (0..1; nan where a group is empty), n and unit (how many of what).
        score_name: label of the axis.
    """
    rows = np.arange(len(strata))[::-1]
    figure = new_figure(1.3 + 0.36 * len(strata), source)
    axes = figure.subplots()
    _draw_dots(axes, rows, strata, "score", BLUE, 55, lw=2.2).set_clip_on(False)
    for row, score in zip(rows, strata["score"], strict=True):
        known = np.isfinite(score)
        axes.annotate(
            f"{score:.3f}" if known else "no data",
            (score if known else 0.02, row),
            (0, 7 if known else -3),
            textcoords="offset points",
            ha="center" if known else "left",
            fontsize=8.5,
        )
    axes.set_yticks(rows, _names_with_counts(strata))
    axes.set(ylim=(-0.6, len(strata) - 0.3), xlim=(0, 1), xlabel=score_name, title=title)
    axes.grid(axis="x")
    return figure


def _names_with_counts(strata: pd.DataFrame) -> list[str]:
    return [
        f"{shorten(one['stratum'], LONGEST_TICK)}  (n = {stratum_count_text(one)})"
        for one in strata.to_dict("records")
    ]


@styled
def plot_boundary_scores(scores: pd.DataFrame, table: ClassTable, *, source: str) -> Figure:
    """Plot boundary IoU of every class with intervals, beside its mask IoU.

    Args:
        scores: one row per class: columns class_name, iou, boundary_iou, low, high (of the boundary
            IoU); 0..1 or nan for absent classes.
    """
    scores, left_out = sort_classes(scores, "boundary_iou")
    rows = np.arange(len(scores))
    figure = new_figure(rows_height_in(len(scores)), source)
    axes = figure.subplots()
    _draw_class_dots(axes, scores, "boundary_iou", table)
    axes.scatter(scores["iou"], rows, s=46, marker="|", color=BLUE, lw=2.2, zorder=2)
    for row in rows[scores["boundary_iou"].isna()]:
        axes.text(0.02, row, "absent", va="center", color="0.35", style="italic")
    axes.set_xlabel(f"IoU{left_out}")
    # Neutral swatches: the dots have the colours of their classes.
    handles = [
        Line2D([], [], ls="", marker="o", mfc="white", mec="0.2", label="boundary IoU"),
        Line2D([], [], ls="", marker="|", mew=2.2, ms=8, color=BLUE, label="mask IoU"),
    ]
    legend_above(axes, handles)
    mean = scores["boundary_iou"].mean()
    axes.set_title(f"Boundary IoU, mean {mean:.3f}" if np.isfinite(mean) else "Boundary IoU")
    return figure


@styled
def plot_reliability(bins: pd.DataFrame, *, ece: float, source: str) -> Figure:
    """Plot how often pixels are right against how sure the network is of them.

    Args:
        bins: one row per bin of probability: columns low, high (its limits, 0..1), pixels, accuracy
            and confidence (mean probability; nan where a bin is empty).
        ece: expected calibration error, 0..1; nan if there is none.
    """
    total = bins["pixels"].sum()
    figure = new_figure(5.6, source, width_in=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2, label="calibrated")
    width = bins["high"] - bins["low"]
    middle = (bins["low"] + bins["high"]) / 2
    upper.bar(middle, bins["accuracy"], width, color="#cfe2f0", ec="white", lw=0.8)
    upper.vlines(bins["confidence"], bins["accuracy"], bins["confidence"], color=ORANGE, lw=1.6)
    upper.plot(bins["confidence"], bins["accuracy"], "o", color=BLUE, ms=5.5, label="this network")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of the pixels that is right")
    upper.grid()
    upper.legend(loc="upper left")
    lower.bar(middle, 100 * bins["pixels"] / max(1, total), width, color=BLUE, ec="white", lw=0.8)
    lower.set_ylabel("pixels, %")
    lower.grid(axis="y")
    lower.set_xlabel("probability of the predicted class; orange: gap between sure and right")
    upper.set_title("Reliability of the probabilities")
    pixels = f"n = {EngFormatter(places=1)(total)}px"
    text = "no pixels" if np.isnan(ece) else f"ECE {ece:.3f}, {pixels}"
    upper.set_title(text, loc="right", weight="normal")
    return figure


@styled
def plot_composites(strata: pd.DataFrame, *, source: str) -> Figure:
    """Plot scores of composites and of the same photos alone, the drop, and what gets lost.

    Args:
        strata: one row per group: columns stratum, n, unit, score, low, high, alone, alone_low,
            alone_high, drop, drop_low, drop_high, missed, missed_alone; 0..1, or nan.
    """
    title = "Several people in one photo: composites"
    return _plot_drops(title, strata, ("photos alone", "together"), source)


@styled
def plot_framing(strata: pd.DataFrame, *, source: str) -> Figure:
    """Plot scores of halves of photos, and of the same pixels in the whole photo.

    Args:
        strata: as of `plot_composites`.
    """
    return _plot_drops("Half of a photo", strata, ("in the whole photo", "half alone"), source)


def _plot_drops(title: str, strata: pd.DataFrame, names: tuple[str, str], source: str) -> Figure:
    """Both: pixels that were predicted twice; `names` are those of `alone` and `score`."""
    rows = np.arange(len(strata))[::-1]
    figure = new_figure(1.7 + 0.42 * len(strata), source, width_in=9.5)
    scores, drops, missed = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 1, 1])
    _draw_dots(scores, rows + 0.13, strata, "alone", "0.5", 38, lw=2)
    _draw_dots(scores, rows - 0.13, strata, "score", BLUE, 38, lw=2)
    scores.set_xlim(left=0)
    scores.set_title("Mean IoU")
    drops.axvline(0, color=GREY, lw=1.2)
    _draw_dots(drops, rows, strata, "drop", ORANGE, 46, lw=2.2)
    drops.set(title="Drop", xlabel=" minus ".join(names))
    for column, offset, color in (("missed_alone", 0.13, "0.5"), ("missed", -0.13, BLUE)):
        missed.scatter(100 * strata[column], rows + offset, s=38, color=color, zorder=3)
    missed.set(xlim=(0, 100), title="Missed", xlabel="% taken for background")
    for axes in (scores, drops, missed):
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    scores.set_yticks(rows, _names_with_counts(strata))
    scores.set_ylim(-0.6, len(strata) - 0.4)
    handles = [
        Line2D([], [], color=color, marker="o", lw=2, label=label)
        for color, label in zip(("0.5", BLUE), names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


@styled
def plot_area_curve(
    bands: pd.DataFrame, categories: pd.DataFrame, table: ClassTable, *, source: str
) -> Figure:
    """Plot what is found of annotations against their size: by band, and by category.

    Args:
        bands: one row per area band, small first: columns stratum, n, score (mean recall), low,
            high, iou, iou_low, iou_high; nan where a band is empty.
        categories: one row per category: columns stratum, n, class_name, median_area (pixels),
            score, low, high; may be empty.
    """
    figure = new_figure(max(4.4, 1.2 + 0.2 * len(categories)), source, width_in=9.5)
    by_band, by_category = figure.subplots(1, 2, width_ratios=[1, 1.15])
    places = np.arange(len(bands))
    # The two agree where nothing overlaps: the wider line shows behind the other.
    for column, label, color, width, size in (
        ("score", "mean recall", BLUE, 3.4, 8),
        ("iou", "mean IoU", ORANGE, 1.4, 4),
    ):
        by_band.fill_between(places, *_ends(bands, column), color=color, alpha=0.18, lw=0)
        by_band.plot(places, bands[column], "o-", color=color, lw=width, ms=size, label=label)
    names = [
        f"{s.removesuffix(' px')}\n{n:,}" for s, n in zip(bands["stratum"], bands["n"], strict=True)
    ]
    by_band.set_xticks(places, names)
    by_band.set(xlim=(-0.3, len(bands) - 0.7), ylim=(0, 1), title="By area")
    by_band.grid(axis="y")
    by_band.set_xlabel("area of the annotation, pixels; below: annotations")
    by_band.set_ylabel("score inside the annotation's mask")
    by_band.legend(loc="upper left")
    if len(categories):
        _draw_categories(by_category, categories, table)
    else:
        by_category.set_axis_off()
        by_category.text(0.5, 0.5, "no annotations", ha="center", transform=by_category.transAxes)
    by_category.set_title("By category, small ones at the top")
    return figure


def _draw_categories(axes: Axes, categories: pd.DataFrame, table: ClassTable) -> None:
    """Recall of each category, with interval, its size and the number of its annotations."""
    rows = np.arange(len(categories))
    colors = _class_colors(categories["class_name"], table)
    _draw_dots(axes, rows, categories, "score", colors, 30, line="0.5", lw=1.4)
    names = [
        f"{shorten(name, 24)}  {np.sqrt(area):,.0f}², n = {n:,}"
        for name, area, n in zip(
            categories["stratum"], categories["median_area"], categories["n"], strict=True
        )
    ]
    axes.set_yticks(rows, names, fontsize=8 if len(rows) <= FEW_ROWS else 6.8)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-0.02, 1.02))
    axes.grid(axis="x")
    axes.set_xlabel("mean recall; beside the name: median area, annotations")


@styled
def plot_overlap_pairs(pairs: pd.DataFrame, *, source: str) -> Figure:
    """Plot, for pairs of overlapping categories, as what the upper one's pixels are seen.

    Args:
        pairs: one row per pair, the most confused first: columns stratum, n (pixels), unit,
            photos, score (part predicted as the class below), low, high and recall (as the class on
            top); 0..1.
    """
    rows = np.arange(len(pairs))[::-1]
    figure = new_figure(1.5 + 0.34 * len(pairs), source, width_in=9)
    axes = figure.subplots()
    below, right = 100 * pairs["score"].to_numpy(float), 100 * pairs["recall"].to_numpy(float)
    parts = (("right", right, BLUE), ("as the one below", below, ORANGE))
    left = np.zeros(len(pairs))
    for label, values, color in (*parts, ("as something else", 100 - right - below, "0.85")):
        axes.barh(rows, values, 0.62, left=left, color=color, ec="white", lw=0.8, label=label)
        left += values
    # The interval belongs to the orange part, whose beginning moves too: so only its length counts.
    texts = [
        f"{value:.0f} %" + (f" ({100 * low:.0f} to {100 * high:.0f})" if np.isfinite(low) else "")
        for value, low, high in zip(below, pairs["low"], pairs["high"], strict=True)
    ]
    for row, text in zip(rows, texts, strict=True):
        axes.text(101.5, row, text, va="center", fontsize=8.5, color=ORANGE)
    names = [
        f"{shorten(pair['stratum'], 44)}\n{stratum_count_text(pair)}"
        for pair in pairs.to_dict("records")
    ]
    axes.set_yticks(rows, names, fontsize=7.5)
    axes.set(xlim=(0, 100), ylim=(-0.6, len(pairs) - 0.4))
    axes.set_xlabel("overlapping pixels of the category on top, %; at the right: as the one below")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    figure.suptitle("Which garment is seen where two overlap", x=0.01, ha="left")
    return figure


@styled
def plot_option_trials(trials: pd.DataFrame, *, source: str) -> Figure:
    """Plot what each test-time option gains beside what it costs.

    Args:
        trials: one row per option, the plain one first: columns option, settings, mean_iou, gain
            (of mean IoU), low, high (its interval; nan where there is none), seconds (per photo)
            and cost (times the plain prediction).
    """
    rows = np.arange(len(trials))[::-1]
    figure = new_figure(1.6 + 0.42 * len(trials), source, width_in=9)
    gains, costs = figure.subplots(1, 2, sharey=True, width_ratios=[1.3, 1])
    _draw_differences(gains, rows, trials, "gain")
    gains.set(title="Gain of mean IoU", xlabel="mean IoU minus that without options")
    names = [f"{o}  ({m:.3f})" for o, m in zip(trials["option"], trials["mean_iou"], strict=True)]
    gains.set_yticks(rows, names)
    gains.set_ylim(-0.6, len(trials) - 0.4)
    bars = costs.barh(rows, trials["cost"], 0.55, color="0.65")
    texts = [
        f"× {c:.1f}  ({1000 * s:,.0f} ms)"
        for c, s in zip(trials["cost"], trials["seconds"], strict=True)
    ]
    costs.bar_label(bars, texts, padding=4, fontsize=8.5)
    costs.margins(x=0.5)
    costs.set(title="Cost", xlabel="time of one photo, times that without options")
    figure.suptitle("Test-time options: gain and cost", x=0.01, ha="left")
    return figure


@styled
def plot_differences(
    differences: pd.DataFrame,
    run_names: tuple[str, str],
    class_names: Sequence[str],
    colors: np.ndarray,
    *,
    source: str,
) -> Figure:
    """Plot the scores of one run minus those of another, class by class, with intervals.

    Args:
        differences: one row per class: columns class_name, difference, low, high (of IoU; nan where
            the class is absent in a run).
        run_names: right of zero the first one is better.
        class_names, colors: index = class id; (C, 3) uint8 RGB.
    """
    differences, left_out = sort_classes(differences, "difference")
    rows = np.arange(len(differences))
    ids = [class_names.index(name) for name in differences["class_name"]]
    figure = new_figure(rows_height_in(len(rows)) + 0.3, source)
    axes = figure.subplots()
    _draw_differences(axes, rows, differences, "difference", colors[ids] / 255)
    for row in rows[differences["difference"].isna()]:
        axes.text(0, row, " absent", va="center", color="0.35", style="italic", fontsize=8.5)
    axes.set_yticks(rows, tick_names(differences["class_name"]))
    axes.set_ylim(-0.7, len(rows) - 0.3)
    one, other = (shorten(name, 30) for name in run_names)
    text = f"IoU of {one} minus IoU of {other}; hollow: the interval holds zero{left_out}"
    axes.set_xlabel(text)
    axes.set_title(f"← {other} is better", loc="left", fontsize=9, weight="normal")
    axes.set_title(f"{one} is better →", loc="right", fontsize=9, weight="normal")
    figure.suptitle("Difference of two runs on the same photos", x=0.01, ha="left")
    return figure


@styled
def plot_error_kinds(kinds: np.ndarray, class_names: Sequence[str], *, source: str) -> Figure:
    """Plot what became of each garment's pixels, and beside it the false alarms.

    Args:
        kinds: (C, 4) pixels of each class that are correct, missed, of a wrong class, and false
            alarms (`rankings.error_kinds`); class 0, background, is left out.
        class_names: index = class id.
    """
    kinds = np.asarray(kinds, np.float64)
    totals = kinds[1:, :3].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        percent = 100 * kinds[1:] / totals[:, None]  # nan rows: not in the truth
    order = np.argsort(np.nan_to_num(percent[:, 0], nan=-1), kind="stable")
    order, left_out = shown_rows(order, totals > 0)
    rows = np.arange(len(order))
    figure = new_figure(rows_height_in(len(rows)) + 0.4, source, width_in=9)
    truth, alarms = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    left = np.zeros(len(rows))
    few = len(rows) <= FEW_ROWS
    for code in (1, 2, 3):
        values = np.nan_to_num(percent[order, code - 1])
        color = ERROR_COLORS[code] / 255
        truth.barh(rows, values, 0.72, left, color=color, ec="white", lw=0.6)
        for row, value, start in zip(rows, values, left, strict=True):
            if few and value >= 6:  # narrower ones have no room for a number
                truth.text(start + value / 2, row, f"{value:.0f}", **CENTRED, fontsize=8)
        left += values
    for row in rows[np.isnan(percent[order, 0])]:
        truth.text(1, row, "not in the truth", va="center", style="italic", color="0.35")
    truth.set_yticks(rows, tick_names(class_names[1 + i] for i in order))
    truth.set(
        xlim=(0, 100),
        ylim=(-0.7, len(rows) - 0.3),
        xlabel="of the class's true pixels, %" + left_out,
    )
    shown = percent[order, 3]
    bars = alarms.barh(rows, np.nan_to_num(shown, posinf=0), 0.72, color=ERROR_COLORS[4] / 255)
    texts = [f"{v:.0f}" if np.isfinite(v) else "" for v in shown]
    alarms.bar_label(bars, texts, padding=3, fontsize=8)
    alarms.margins(x=0.15)
    alarms.set_xlabel("background taken for the class,\n% of the class's true pixels")
    patches = legend_patches([ERROR_NAMES[code] for code in (1, 2, 3, 4)], ERROR_COLORS[1:5] / 255)
    figure.legend(handles=patches, loc="outside upper right", ncols=4)
    figure.suptitle("Kinds of error", x=0.01, ha="left")
    return figure


@styled
def plot_class_extremes(
    tiles: Mapping[str, Sequence[tuple[str, np.ndarray]]], *, source: str
) -> Figure:
    """Show each class's best, median and worst photo, the errors of that class in colour.

    Args:
        tiles: class name -> up to three pairs of title and image (H, W, 3) uint8 RGB.

    Raises:
        ValueError: no class has a photo.
    """
    if not tiles:
        raise ValueError("no class has a photo; expected annotations in the split")
    n_rows = -(-len(tiles) // 2)  # two classes beside each other
    figure = new_figure(0.9 + 1.55 * n_rows, source, width_in=8.8)
    grid = figure.subplots(n_rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for number, (class_name, pairs) in enumerate(tiles.items()):
        row, place = divmod(number, 2)
        for column, (title, image) in enumerate(pairs):
            axes = grid[row, 3 * place + column]
            axes.imshow(image, interpolation="antialiased")
            axes.set_title(title, fontsize=8.5, loc="center", weight="normal")
        if pairs:
            grid[row, 3 * place].set_ylabel(shorten(class_name, 20), fontsize=8.5, weight="bold")
    patches = legend_patches([ERROR_NAMES[code] for code in (1, 2, 3, 4)], ERROR_COLORS[1:5] / 255)
    figure.legend(handles=patches, loc="outside upper right", ncols=4)
    figure.suptitle("Best, median and worst of each class", x=0.01, ha="left")
    return figure


@styled
def plot_comparison(
    ours: Mapping[str, float], reported: Mapping[str, float], *, source: str, note: str = ""
) -> Figure:
    """Plot our scores beside reported ones.

    Args:
        ours: score name -> value, 0..1.
        reported: the same names.
        source: what our scores were taken on.
        note: what the reader has to know before comparing.
    """
    rows = np.arange(len(ours))[::-1]
    figure = new_figure(1.7 + 0.65 * len(ours), source, width_in=7)
    axes = figure.subplots()
    for values, offset, color, name in (
        (ours, 0.19, BLUE, "this run"),
        (reported, -0.19, "0.65", "reported"),
    ):
        bars = axes.barh(rows + offset, list(values.values()), 0.36, color=color, label=name)
        axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.set_yticks(rows, list(ours))
    axes.set(xlim=(0, 1), xlabel="score" + (f"\n{note}" if note else ""))
    axes.legend(loc="center right")
    axes.set_title("This run and the reported figures")
    return figure


@styled
def plot_image_score_histogram(scores: Sequence[float] | np.ndarray, *, source: str) -> Figure:
    """Plot the distribution of a score over photos, with mean and median.

    Args:
        scores: one per photo, 0..1; nan for photos that cannot be scored.

    Raises:
        ValueError: no photo has a score.
    """
    scores = np.asarray(scores, dtype=np.float64)
    scored = scores[np.isfinite(scores)]
    if not scored.size:
        raise ValueError("no scores; expected at least one photo with pixels that count")
    figure = new_figure(3.4, source)
    axes = figure.subplots()
    axes.hist(scored, bins=np.linspace(0, 1, 41).tolist(), color=BLUE, ec="white", lw=0.4)
    mean, median = scored.mean(), np.median(scored)
    axes.axvline(mean, color=ORANGE, lw=1.8, label=f"mean {mean:.3f}")
    axes.axvline(median, color="black", ls="--", lw=1.5, label=f"median {median:.3f}")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(whole_numbers())
    legend_above(axes)
    axes.set(xlabel="mean IoU of one photo", ylabel="photos")
    n_out = len(scores) - len(scored)
    left_out = f" ({n_out} not scorable)" if n_out else ""
    axes.set_title(f"Scores of single photos, n = {len(scored):,}{left_out}")
    return figure


def _ends(table: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Both ends of a column's intervals; the main one's are called `low` and `high` alone."""
    prefix = f"{column}_" if f"{column}_low" in table else ""
    return table[f"{prefix}low"].astype(float), table[f"{prefix}high"].astype(float)


def _class_colors(class_names: Iterable[str], table: ClassTable) -> np.ndarray:
    """(K, 3) float RGB, 0..1."""
    return table.colors[[table.names.index(name) for name in class_names]] / 255


def _draw_dots(
    axes: Axes,
    rows: np.ndarray,
    table: pd.DataFrame,
    column: str,
    colors: np.ndarray | str,
    size: float,
    *,
    line: str = "",
    lw: float,
) -> PathCollection:
    """Dots with their intervals as lines; edged where the lines have a colour of their own."""
    axes.hlines(rows, *_ends(table, column), color=line or colors, lw=lw)
    edge: dict[str, Any] = {"ec": "0.2", "lw": 0.8} if line else {}
    return axes.scatter(table[column], rows, s=size, c=colors, zorder=3, **edge)


def _draw_class_dots(axes: Axes, scores: pd.DataFrame, column: str, table: ClassTable) -> None:
    """One row per class, its dot in its colour; the axis goes from 0 to 1."""
    rows = np.arange(len(scores))
    size = 48 if len(scores) <= FEW_ROWS else 30
    colors = _class_colors(scores["class_name"], table)
    _draw_dots(axes, rows, scores, column, colors, size, line="0.35", lw=1.6)
    axes.set_yticks(rows, tick_names(scores["class_name"]))
    axes.set(ylim=(-0.7, len(scores) - 0.3), xlim=(-0.02, 1.02))
    axes.grid(axis="x")


def _draw_differences(
    axes: Axes,
    rows: np.ndarray,
    table: pd.DataFrame,
    column: str,
    colors: np.ndarray | str = BLUE,
) -> None:
    """Dots with intervals around a line at zero; a dot is hollow where the interval holds zero."""
    difference = table[column].to_numpy(float)
    low, high = (end.to_numpy() for end in _ends(table, column))
    axes.axvline(0, color=GREY, lw=1.2, zorder=1)
    _draw_dots(axes, rows, table, column, colors, 48, line="0.35", lw=1.6)
    real = (low > 0) | (high < 0)
    axes.scatter(difference[~real], rows[~real], s=14, c="white", zorder=4)
    for row, value, end in zip(rows, difference, np.fmax(difference, high), strict=True):
        if np.isfinite(value):
            text = f"{value:+.3f}".replace("-", "−")  # as on the axis
            write_beside(axes, text, (end, row), fontsize=8)
    axes.margins(x=0.15)
    axes.grid(axis="x")
