"""Figures of the notebooks and the report: every `plot_` function returns a finished Figure.

A figure is taken out of pyplot's registry as soon as it is made: a notebook shows it once, as the
value of its cell, and long sessions do not collect open figures. One style serves all of them.
The same class has the same colour in every one.

`source` is the small line at a figure's foot that says what the figure was made from, such as
"synthetic, val, n = 60 photos, native resolution".
"""

import functools
import io
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from clothseg_utils.classes import SUPERCATEGORY_NAMES, ClassTable, class_colors
from clothseg_utils.overlays import (
    ERROR_COLORS,
    ERROR_NAMES,
    colorize,
    legend_entries,
    overlay,
)
from clothseg_utils.runs import atomic_path

# Okabe-Ito, for all that is not a class: told apart by colour-blind readers.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"
_WIDTH_IN = 8.0
_DPI = 200  # of saved figures; shown at half their pixels, as HiDPI screens do
_FEW = 20  # rows up to which there is room for normal text
_STYLE = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.edgecolor": "0.4",
    "grid.color": "0.88",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.6,
}

_CENTRED = {"ha": "center", "va": "center"}

P = ParamSpec("P")


def _styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a plot function in the one style, whatever style the caller's session has."""

    @functools.wraps(plot)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            figure = plot(*args, **kwargs)
            # Ticks are made when first drawn, and would take the style of that moment.
            figure.draw_without_rendering()
            return figure

    return styled


def _new_figure(height_in: float, source: str, width_in: float = _WIDTH_IN) -> Figure:
    """Make an empty figure with the source at its foot, unknown to pyplot."""
    # Made by pyplot all the same: that is what makes a kernel show Figures as pictures.
    figure = plt.figure(figsize=(width_in, height_in), dpi=100, layout="constrained")
    plt.close(figure)
    figure.supxlabel(source, x=0.99, ha="right", fontsize=7.5, color="0.4", style="italic")
    return figure


# --- exploration -----------------------------------------------------------------------------


@_styled
def plot_category_counts(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations each category has, on a log scale, coloured by supercategory.

    Args:
        annotations: `coco.annotation_table`: columns category, supercategory, image_id.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no annotations.
    """
    _check_columns(annotations, "annotations", ["category", "supercategory", "image_id"])
    counts = annotations["category"].value_counts()
    counts = counts[counts > 0].iloc[::-1]
    supercategories = annotations.groupby("category", observed=True)["supercategory"].first()
    colors = _supercategory_colors(supercategories[counts.index])
    figure = _new_figure(_rows_in(len(counts)), source)
    axes = figure.subplots()
    _lollipops(axes, counts.to_numpy(), colors, [f"{count:,}" for count in counts])
    axes.set_yticks(range(len(counts)), counts.index)
    axes.set_xlabel("annotations (log scale)")
    figure.suptitle(
        f"Annotations per category, n = {len(annotations):,} in {len(counts)} categories "
        f"and {annotations['image_id'].nunique():,} photos",
        x=0.01,
        ha="left",
    )
    present = [n for n in SUPERCATEGORY_NAMES if n in set(supercategories[counts.index])]
    patches = _patches(present, _supercategory_colors(present))
    if present:  # another taxonomy has no colours to explain
        figure.legend(handles=patches, loc="outside right upper", title="supercategory")
    return figure


@_styled
def plot_supercategory_counts(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations each supercategory has, with its part of all annotations.

    Args:
        annotations: `coco.annotation_table`: column supercategory.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no annotations.
    """
    _check_columns(annotations, "annotations", ["supercategory"])
    counts = annotations["supercategory"].value_counts().iloc[::-1]
    figure = _new_figure(_rows_in(len(counts)), source)
    axes = figure.subplots()
    bars = axes.barh(counts.index, counts, color=_supercategory_colors(counts.index), ec="0.4")
    labels = [f"{n:,} ({_percent_text(100 * n / len(annotations))})" for n in counts]
    axes.bar_label(bars, labels, padding=4, fontsize=8.5)
    axes.margins(x=0.18)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("annotations")
    axes.set_title(f"Annotations per supercategory, n = {len(annotations):,}")
    return figure


@_styled
def plot_area_histogram(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot the distribution of annotation areas on a log scale, with COCO's size bands.

    Areas of 0 have no place on a log scale: their number is written in the title.

    Args:
        annotations: `coco.annotation_table`: column area_px.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or no annotation has an area.
    """
    areas, title = _positive_areas(annotations)
    figure = _new_figure(3.6, source)
    axes = figure.subplots()
    edges = np.geomspace(areas.min(), 1.1 * areas.max(), 50)
    axes.hist(areas, bins=edges, color=_BLUE, ec="white", lw=0.4)
    axes.set_xscale("log")
    top = axes.get_ylim()[1]
    for side in (32, 96):
        axes.axvline(side**2, color=_GREY, ls=":", lw=1.2)
        axes.annotate(f" {side}²", (side**2, top), va="top", color="0.35", fontsize=8.5)
    axes.axvline(areas.median(), color=_ORANGE, lw=1.6, label=f"median {areas.median():,.0f} px")
    _legend_above(axes)
    axes.set_xlabel("area, pixels (log scale); dotted: COCO's limits of small, medium and large")
    axes.set_ylabel("annotations")
    axes.set_title(f"Area of annotations, {title}")
    return figure


@_styled
def plot_area_by_supercategory(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot annotation areas of each supercategory as boxes on a log scale, by median.

    Args:
        annotations: `coco.annotation_table`: columns area_px, supercategory.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or no annotation has an area.
    """
    _check_columns(annotations, "annotations", ["supercategory"])
    areas, title = _positive_areas(annotations)
    groups = areas.groupby(annotations["supercategory"], observed=True)
    order = groups.median().sort_values(ascending=False).index.tolist()
    sizes = groups.size()
    figure = _new_figure(1.3 + 0.33 * len(order), source)
    axes = figure.subplots()
    # Not seaborn's: its 0.13 passes an argument that matplotlib 3.11 warns of.
    drawn = axes.boxplot(
        [groups.get_group(name) for name in order],
        positions=range(len(order)),
        orientation="horizontal",
        widths=0.65,
        patch_artist=True,
        whis=(5, 95),
        showfliers=False,
        medianprops={"color": "black", "linewidth": 2},
    )
    for box, color in zip(drawn["boxes"], _supercategory_colors(order), strict=True):
        box.set_facecolor(color)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_yticks(range(len(order)), [f"{name}  (n = {sizes[name]:,})" for name in order])
    axes.grid(axis="x")
    axes.set_xlabel("area, pixels (log scale); box: quartiles and median, whiskers: 5 % and 95 %")
    axes.set_ylabel("")
    axes.set_title(f"Area by supercategory, {title}")
    return figure


@_styled
def plot_annotations_per_image(images: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations a photo has, with mean and median.

    Args:
        images: `coco.image_table`: column n_annotations.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no images.
    """
    _check_columns(images, "images", ["n_annotations"])
    counts = images["n_annotations"].to_numpy()
    figure = _new_figure(3.4, source)
    axes = figure.subplots()
    # One bar per number up to 60 bars; then several numbers share one.
    step = max(1, -(-(int(counts.max()) + 1) // 60))
    edges = np.arange(0, counts.max() + step + 1, step) - 0.5
    axes.hist(counts, bins=edges, color=_BLUE, ec="white", lw=0.4)
    axes.axvline(counts.mean(), color=_ORANGE, lw=1.8, label=f"mean {counts.mean():.1f}")
    axes.axvline(
        np.median(counts), color="black", ls="--", lw=1.5, label=f"median {np.median(counts):g}"
    )
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.yaxis.set_major_locator(_whole_numbers())
    _legend_above(axes)
    axes.set_xlabel("annotations in one photo")
    axes.set_ylabel("photos")
    n_empty = int((counts == 0).sum())
    axes.set_title(f"Annotations per photo, n = {len(counts):,} photos, {n_empty:,} without any")
    return figure


@_styled
def plot_image_sizes(images: pd.DataFrame, *, source: str) -> Figure:
    """Plot width against height; the size of a dot tells how many photos have that size.

    Args:
        images: `coco.image_table`: columns width_px, height_px.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no images.
    """
    _check_columns(images, "images", ["width_px", "height_px"])
    sizes, counts = np.unique(
        images[["width_px", "height_px"]].to_numpy(), axis=0, return_counts=True
    )
    figure = _new_figure(4.8, source, width_in=5.2)
    axes = figure.subplots()
    limit = 1.08 * sizes.max()
    axes.plot([0, limit], [0, limit], color=_GREY, ls=":", lw=1, label="square")
    area = np.clip(12 * np.sqrt(counts), 12, 400)
    # As pictures inside the SVG: tens of thousands of dots would be megabytes of paths.
    axes.scatter(*sizes.T, s=area, color=_BLUE, alpha=0.45, lw=0, rasterized=True)
    width, height = sizes[counts.argmax()]
    text = f"most frequent: {width} × {height}\n({counts.max():,} photos)"
    axes.text(0.98, 0.12, text, transform=axes.transAxes, ha="right", fontsize=8.5)
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.legend(loc="lower right")
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    axes.set_title(f"Photo sizes, n = {len(images):,} photos, {len(sizes):,} sizes")
    return figure


@_styled
def plot_cooccurrence(cooccurrence: pd.DataFrame, *, source: str) -> Figure:
    """Plot what occurs together: how many of the photos with the row's have the column's too.

    Args:
        cooccurrence: `coco.supercategory_cooccurrence`: square and symmetric, photos with both;
            the diagonal counts photos with one. What occurs nowhere is left out.
        source: what the data are.

    Raises:
        ValueError: the table is not square, or nothing occurs.
    """
    counts = cooccurrence.to_numpy(dtype=np.float64)
    if list(cooccurrence.index) != list(cooccurrence.columns):
        raise ValueError(f"cooccurrence is {counts.shape}; expected the same rows and columns")
    order = np.argsort(-counts.diagonal(), kind="stable")
    order = order[counts.diagonal()[order] > 0]
    _check_not_empty(order, "cooccurrence above 0")
    n_photos = counts.diagonal()[order]
    percent = 100 * counts[np.ix_(order, order)] / n_photos[:, None]
    names = [_shorten(str(cooccurrence.index[i]), 26) for i in order]
    rows = [f"{name}  (n = {n:,.0f})" for name, n in zip(names, n_photos, strict=True)]
    figure, axes = _heatmap(percent, rows, names, "photos, %", source)
    axes.set_ylabel("of the photos with ...")
    axes.set_xlabel("... this many also have, %")
    axes.set_title("What occurs together in one photo")
    return figure


@_styled
def plot_gallery(
    images: Sequence[np.ndarray], titles: Sequence[str], *, source: str, columns: int = 4
) -> Figure:
    """Show images in a grid, each under its title.

    Args:
        images: arrays (H, W, 3) uint8 RGB, 0..255.
        titles: one per image.
        source: what the data are.
        columns: images in a row.

    Raises:
        ValueError: no images, or as many titles as images are not given.
    """
    _check_same_length(images=images, titles=titles)
    return _gallery(images, titles, columns, source)


# --- masks -----------------------------------------------------------------------------------


@_styled
def plot_layers(
    stages: Sequence[tuple[str, np.ndarray]], table: ClassTable, *, source: str, columns: int = 4
) -> Figure:
    """Show one mask as it is painted, layer by layer, with a legend of its classes.

    Args:
        stages: title and mask (H, W) uint8 of each stage, the last one complete.
        table: names and colours of the classes.
        source: what the data are.
        columns: stages in a row.

    Raises:
        ValueError: no stages, or a mask has an unknown class id.
    """
    _check_not_empty(stages, "stages")
    painted = [colorize(mask, table.colors) for _, mask in stages]
    legend = _mask_legend([mask for _, mask in stages], table)
    return _gallery(painted, [title for title, _ in stages], columns, source, legend)


@_styled
def plot_class_shares(pixels: np.ndarray, table: ClassTable, *, source: str) -> Figure:
    """Plot each class's part of all labelled pixels, on a log scale.

    Args:
        pixels: (C,) pixels per class.
        table: names and colours of the classes.
        source: what the data are.

    Raises:
        ValueError: not one number per class, or no pixels at all.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    _check_per_class(pixels, "pixels", table)
    if pixels.sum() <= 0:
        raise ValueError("pixels are all 0; expected the counts of at least one mask")
    percent = 100 * pixels / pixels.sum()
    order = np.argsort(percent, kind="stable")
    figure = _new_figure(_rows_in(len(order)), source)
    axes = figure.subplots()
    texts = [_percent_text(value) for value in percent[order]]
    _lollipops(axes, percent[order], table.colors[order] / 255, texts)
    axes.set_yticks(range(len(order)), [table.names[i] for i in order])
    axes.set_xlabel("part of all pixels, % (log scale)")
    axes.set_title(f"Pixels per class, n = {EngFormatter(places=1)(pixels.sum())}px")
    return figure


@_styled
def plot_hidden_pixels(shares: np.ndarray, table: ClassTable, *, source: str) -> Figure:
    """Plot how much of each class disappears under layers painted later.

    Args:
        shares: (C,) hidden part of the class's annotated pixels, 0..1; nan where a class has none.
        table: names and colours of the classes.
        source: what the data are.

    Raises:
        ValueError: not one number per class.
    """
    shares = np.asarray(shares, dtype=np.float64)
    _check_per_class(shares, "shares", table)
    # Background is never annotated, so it cannot be hidden.
    order = 1 + np.argsort(np.nan_to_num(shares[1:], nan=-1), kind="stable")
    figure = _new_figure(_rows_in(len(order)), source)
    axes = figure.subplots()
    percent = 100 * shares[order]
    bars = axes.barh(
        [table.names[i] for i in order],
        np.nan_to_num(percent),
        color=table.colors[order] / 255,
        ec="0.4",
    )
    texts = ["no annotations" if np.isnan(value) else _percent_text(value) for value in percent]
    axes.bar_label(bars, texts, padding=4, fontsize=8)
    axes.set_xlim(0, max(1.0, 1.15 * np.nanmax(percent, initial=0)))
    axes.margins(y=0.02)
    axes.set_xlabel("pixels hidden under later layers, % of the class's annotated pixels")
    axes.set_title("What painting order hides: large first, small on top")
    return figure


# --- training --------------------------------------------------------------------------------


@_styled
def plot_training_curves(history: pd.DataFrame, *, source: str) -> Figure:
    """Plot train Dice loss, train loss, val loss, val mIoU and val F1; the best epoch is marked.

    Args:
        history: one row per epoch (`logs/history.csv`): columns epoch (from 0), train/dice_loss,
            train/loss, val/loss, val/mean_iou, val/macro_f1; nan where nothing was logged.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    curves = {
        "train/dice_loss": ("Train Dice loss", _BLUE),
        "train/loss": ("Train loss", _BLUE),
        "val/loss": ("Validation loss", _ORANGE),
        "val/mean_iou": ("Validation mIoU", _ORANGE),
        "val/macro_f1": ("Validation macro F1", _ORANGE),
    }
    _check_columns(history, "history", ["epoch", *curves])
    done = history["epoch"] + 1
    scores = history["val/mean_iou"]
    best = scores.idxmax() if scores.notna().any() else None
    figure = _new_figure(5.0, source, width_in=9)
    grid = figure.subplot_mosaic([list("aabbcc"), list("dddeee")])
    for axes, (column, (title, color)) in zip(grid.values(), curves.items(), strict=True):
        values = history[column]
        axes.plot(
            done, values, color=color, lw=1.6, marker="o" if len(done) <= 40 else None, ms=3.5
        )
        axes.set_title(title)
        axes.set_xlabel("epochs done")
        axes.set_xlim(0, 1.04 * done.max())
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.grid()
        if values.isna().all():
            axes.set_yticks([])
            axes.text(0.5, 0.5, "nothing logged", ha="center", transform=axes.transAxes)
        elif best is not None:
            axes.axvline(done[best], color=_GREEN, ls="--", lw=1.2)
            axes.plot(done[best], values[best], "*", color=_GREEN, ms=13, mec="white", zorder=5)
            axes.set_title(f"{values[best]:.3f}", loc="right", color=_GREEN)
    title = f"Training, {len(history)} epochs"
    if best is not None:
        title += f"; green: best val mIoU, after epoch {done[best]}"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


@_styled
def plot_live_curves(history: pd.DataFrame, *, source: str) -> Figure:
    """Plot losses and val scores so far, small and quick to draw: for the cell that trains.

    Args:
        history: one row per epoch, as for `plot_training_curves`.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    charts = {
        "Loss": {"train/loss": ("train", _BLUE), "val/loss": ("val", _ORANGE)},
        "Val score": {
            "val/mean_iou": ("mean IoU", _ORANGE),
            "val/macro_f1": ("macro F1", _GREEN),
        },
    }
    columns = [column for curves in charts.values() for column in curves]
    _check_columns(history, "history", ["epoch", *columns])
    done = history["epoch"] + 1
    figure = _new_figure(2.7, source)
    for axes, (title, curves) in zip(figure.subplots(1, 2), charts.items(), strict=True):
        for column, (name, color) in curves.items():
            latest = history[column].iloc[-1]
            axes.plot(done, history[column], color=color, marker="o", ms=3, label=name)
            axes.annotate(
                f"{latest:.3f}",
                (done.iloc[-1], latest),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=color,
                fontsize=8.5,
            )
        axes.set_title(title)
        axes.set_xlabel("epochs done")
        axes.set_xlim(0, 1.04 * done.max())
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.grid()
        _legend_above(axes)
    return figure


@_styled
def plot_batch(
    images: np.ndarray, masks: np.ndarray, table: ClassTable, *, source: str, columns: int = 2
) -> Figure:
    """Show a batch as the network gets it: each photo beside the same photo with its mask.

    Args:
        images: (N, H, W, 3) uint8 RGB, 0..255, after augmentation.
        masks: (N, H, W) uint8 class ids, or 255.
        table: names and colours of the classes.
        source: what the data are.
        columns: pairs in a row.

    Raises:
        ValueError: an empty batch, or images and masks do not fit each other.
    """
    _check_same_length(images=images, masks=masks)
    pairs = [
        np.concatenate([image, overlay(image, mask, table.colors)], axis=1)
        for image, mask in zip(images, masks, strict=True)
    ]
    figure = _gallery(pairs, [""] * len(pairs), columns, source, _mask_legend(masks, table))
    figure.suptitle(
        f"After augmentation: {len(pairs)} photos, {images.shape[2]} × {images.shape[1]} px",
        x=0.01,
        ha="left",
    )
    return figure


# --- evaluation ------------------------------------------------------------------------------


@_styled
def plot_confusion_matrix(
    confusion: np.ndarray, class_names: Sequence[str], *, source: str
) -> Figure:
    """Plot where the pixels of each true class went; a class without target pixels is hatched.

    Args:
        confusion: (C, C) counts; rows = target, columns = prediction.
        class_names: index = class id.
        source: what the data are.

    Raises:
        ValueError: the matrix is not square or has another number of classes.
    """
    confusion = np.asarray(confusion)
    n = len(class_names)
    if confusion.shape != (n, n):
        raise ValueError(f"confusion is {confusion.shape}; expected ({n}, {n}), as many as names")
    totals = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        percent = 100 * confusion / totals[:, None]  # nan rows: absent from the target
    names = [_shorten(name, 26) for name in class_names]
    figure, axes = _heatmap(percent, names, names, "pixels of the true class, %", source)
    absent = np.flatnonzero(totals == 0)
    for row in absent:
        axes.add_patch(Rectangle((0, row), n, 1, fc="0.96", ec="0.75", hatch="////", lw=0))
    axes.set_ylabel("true class")
    axes.set_xlabel(
        "predicted class" + ("; hatched: no pixels in the truth" if len(absent) else "")
    )
    axes.set_title(f"Confusion, rows sum to 100 %, n = {EngFormatter(places=1)(totals.sum())}px")
    return figure


@_styled
def plot_class_scores(scores: pd.DataFrame, table: ClassTable, *, source: str) -> Figure:
    """Plot IoU and F1 of every class with intervals; absent classes are named as such.

    Args:
        scores: one row per class: columns class_name, status ("ok", "absent" or "no target"), iou,
            iou_low, iou_high, f1, f1_low, f1_high; 0..1 or nan.
        table: names and colours of the classes.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, or a class is not in the table.
    """
    metrics = {"iou": "IoU", "f1": "F1"}
    bounds = [f"{key}{end}" for key in metrics for end in ("", "_low", "_high")]
    _check_columns(scores, "scores", ["class_name", "status", *bounds])
    _check_classes(scores["class_name"], "scores", table)
    scores = scores.sort_values("iou", na_position="first", kind="stable")
    ids = [table.names.index(name) for name in scores["class_name"]]
    rows = np.arange(len(scores))
    few = len(scores) <= _FEW
    figure = _new_figure(_rows_in(len(scores)), source)
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), metrics.items(), strict=True):
        value, low, high = (scores[c].to_numpy(float) for c in (key, f"{key}_low", f"{key}_high"))
        axes.hlines(rows, low, high, color="0.35", lw=1.6)
        axes.scatter(
            value, rows, s=48 if few else 30, c=table.colors[ids] / 255, ec="0.2", lw=0.8, zorder=3
        )
        mean = np.nanmean(value) if np.isfinite(value).any() else np.nan
        axes.axvline(mean, color=_GREY, ls="--", lw=1.2)
        ends = np.fmax(np.nan_to_num(value), np.nan_to_num(high))
        for row, end, status in zip(rows, ends, scores["status"], strict=True):
            if status != "ok":
                axes.text(end + 0.04, row, status, va="center", color="0.35", style="italic")
        axes.set_title(title)
        axes.set_title(f"mean {mean:.3f} (dashed)", loc="right", fontsize=8.5, weight="normal")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(title)
        axes.grid(axis="x")
        axes.set_yticks(rows, scores["class_name"])
        axes.set_ylim(-0.7, len(scores) - 0.3)
    return figure


@_styled
def plot_strata(
    title: str, strata: pd.DataFrame, *, source: str, score_name: str = "mean IoU"
) -> Figure:
    """Plot a score in each of several groups of photos or pixels, with intervals.

    Args:
        title: what the groups are.
        strata: one row per group, in the order to be shown: columns stratum, score, low, high
            (0..1; nan where a group is empty) and n (text or number, with its unit if text).
        source: what the data are, and the level of the intervals.
        score_name: label of the axis.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    _check_columns(strata, "strata", ["stratum", "score", "low", "high", "n"])
    rows = np.arange(len(strata))[::-1]
    figure = _new_figure(1.3 + 0.36 * len(strata), source)
    axes = figure.subplots()
    axes.hlines(rows, strata["low"], strata["high"], color=_BLUE, lw=2.2)
    axes.scatter(strata["score"], rows, s=55, color=_BLUE, zorder=3, clip_on=False)
    for row, score in zip(rows, strata["score"], strict=True):
        text = "no data" if np.isnan(score) else f"{score:.3f}"
        x = 0.02 if np.isnan(score) else score
        offset = (0, 7) if np.isfinite(score) else (0, -3)
        axes.annotate(
            text,
            (x, row),
            offset,
            textcoords="offset points",
            ha="center" if np.isfinite(score) else "left",
            fontsize=8.5,
        )
    n_texts = [n if isinstance(n, str) else f"{n:,}" for n in strata["n"]]
    names = [f"{s}  (n = {n})" for s, n in zip(strata["stratum"], n_texts, strict=True)]
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(strata) - 0.3)
    axes.set_xlim(0, 1)
    axes.grid(axis="x")
    axes.set_xlabel(score_name)
    axes.set_title(title)
    return figure


@_styled
def plot_boundary_scores(scores: pd.DataFrame, table: ClassTable, *, source: str) -> Figure:
    """Plot boundary IoU of every class with intervals, beside its mask IoU.

    Args:
        scores: one row per class: columns class_name, iou, boundary_iou, low, high (of the boundary
            IoU); 0..1 or nan for absent classes.
        table: names and colours of the classes.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, or a class is not in the table.
    """
    _check_columns(scores, "scores", ["class_name", "iou", "boundary_iou", "low", "high"])
    _check_classes(scores["class_name"], "scores", table)
    scores = scores.sort_values("boundary_iou", na_position="first", kind="stable")
    ids = [table.names.index(name) for name in scores["class_name"]]
    rows = np.arange(len(scores))
    figure = _new_figure(_rows_in(len(scores)), source)
    axes = figure.subplots()
    axes.hlines(rows, scores["low"], scores["high"], color="0.35", lw=1.6)
    axes.scatter(
        scores["iou"], rows, s=46, marker="|", color=_BLUE, lw=2.2, label="mask IoU", zorder=2
    )
    axes.scatter(
        scores["boundary_iou"],
        rows,
        s=48 if len(scores) <= _FEW else 30,
        c=table.colors[ids] / 255,
        ec="0.2",
        lw=0.8,
        label="boundary IoU",
        zorder=3,
    )
    for row in rows[scores["boundary_iou"].isna()]:
        axes.text(0.02, row, "absent", va="center", color="0.35", style="italic")
    axes.set_yticks(rows, scores["class_name"])
    axes.set_ylim(-0.7, len(scores) - 0.3)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x")
    axes.set_xlabel("IoU")
    # Neutral swatches: the dots have the colours of their classes.
    handles = [
        Line2D([], [], ls="", marker="o", mfc="white", mec="0.2", label="boundary IoU"),
        Line2D([], [], ls="", marker="|", mew=2.2, ms=8, color=_BLUE, label="mask IoU"),
    ]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0
    )
    mean = scores["boundary_iou"].mean()
    axes.set_title(f"Boundary IoU, mean {mean:.3f}" if np.isfinite(mean) else "Boundary IoU")
    return figure


@_styled
def plot_reliability(bins: pd.DataFrame, *, ece: float, source: str) -> Figure:
    """Plot how often pixels are right against how sure the network is of them.

    Args:
        bins: one row per bin of probability: columns low, high (its limits, 0..1), pixels, accuracy
            and confidence (mean probability; nan where a bin is empty).
        ece: expected calibration error, 0..1; nan if there is none.
        source: what the data are.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    _check_columns(bins, "bins", ["low", "high", "pixels", "accuracy", "confidence"])
    total = bins["pixels"].sum()
    figure = _new_figure(5.6, source, width_in=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=_GREY, ls="--", lw=1.2, label="calibrated")
    width = bins["high"] - bins["low"]
    middle = (bins["low"] + bins["high"]) / 2
    upper.bar(middle, bins["accuracy"], width, color="#cfe2f0", ec="white", lw=0.8)
    upper.vlines(bins["confidence"], bins["accuracy"], bins["confidence"], color=_ORANGE, lw=1.6)
    upper.plot(bins["confidence"], bins["accuracy"], "o", color=_BLUE, ms=5.5, label="this network")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.set_ylabel("share of the pixels that is right")
    upper.grid()
    upper.legend(loc="upper left")
    lower.bar(middle, 100 * bins["pixels"] / max(1, total), width, color=_BLUE, ec="white", lw=0.8)
    lower.set_ylabel("pixels, %")
    lower.grid(axis="y")
    lower.set_xlabel("probability of the predicted class; orange: gap between sure and right")
    upper.set_title("Reliability of the probabilities")
    n_pixels = f"n = {EngFormatter(places=1)(total)}px"
    text = "no pixels" if np.isnan(ece) else f"ECE {ece:.3f}, {n_pixels}"
    upper.set_title(text, loc="right", weight="normal")
    return figure


@_styled
def plot_composites(strata: pd.DataFrame, *, source: str) -> Figure:
    """Plot the score of composites next to their photos alone, the drop, and what gets lost.

    Args:
        strata: one row per group: columns stratum, n, score, low, high, alone, alone_low,
            alone_high, drop, drop_low, drop_high, missed, missed_alone; 0..1, or nan.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    ends = [f"{name}{end}" for name in ("alone", "drop") for end in ("", "_low", "_high")]
    _check_columns(
        strata, "strata", ["stratum", "n", "score", "low", "high", *ends, "missed", "missed_alone"]
    )
    rows = np.arange(len(strata))[::-1]
    figure = _new_figure(1.7 + 0.42 * len(strata), source, width_in=9.5)
    scores, drops, missed = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 1, 1])
    for prefix, offset, color in (("alone", 0.13, "0.5"), ("", -0.13, _BLUE)):
        low, high = (f"{prefix}_low", f"{prefix}_high") if prefix else ("low", "high")
        scores.hlines(rows + offset, strata[low], strata[high], color=color, lw=2)
        scores.scatter(strata[prefix or "score"], rows + offset, s=38, color=color, zorder=3)
    scores.set_xlim(left=0)
    scores.set_title("Mean IoU")
    drops.axvline(0, color=_GREY, lw=1.2)
    drops.hlines(rows, strata["drop_low"], strata["drop_high"], color=_ORANGE, lw=2.2)
    drops.scatter(strata["drop"], rows, s=46, color=_ORANGE, zorder=3)
    drops.set_title("Drop")
    drops.set_xlabel("alone minus together")
    for column, offset, color in (("missed_alone", 0.13, "0.5"), ("missed", -0.13, _BLUE)):
        missed.scatter(100 * strata[column], rows + offset, s=38, color=color, zorder=3)
    missed.set_xlim(0, 100)
    missed.set_title("Missed")
    missed.set_xlabel("% taken for background")
    for axes in (scores, drops, missed):
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    names = [f"{s}  (n = {n})" for s, n in zip(strata["stratum"], strata["n"], strict=True)]
    scores.set_yticks(rows, names)
    scores.set_ylim(-0.6, len(strata) - 0.4)
    handles = [
        Line2D([], [], color=color, marker="o", lw=2, label=label)
        for color, label in (("0.5", "photos alone"), (_BLUE, "together"))
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    figure.suptitle("Several people in one photo: composites", x=0.01, ha="left")
    return figure


@_styled
def plot_area_curve(
    bands: pd.DataFrame, categories: pd.DataFrame, table: ClassTable, *, source: str
) -> Figure:
    """Plot what is found of annotations against their size: by band, and by category.

    Args:
        bands: one row per area band, small first: columns stratum, n, score (mean recall), low,
            high, iou, iou_low, iou_high; nan where a band is empty.
        categories: one row per category: columns stratum, n, class_name, median_area (pixels),
            score, low, high; may be empty.
        table: names and colours of the classes.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, there are no bands, or a class is not in the table.
    """
    _check_columns(
        bands, "bands", ["stratum", "n", "score", "low", "high", "iou", "iou_low", "iou_high"]
    )
    if len(categories):
        _check_columns(
            categories, "categories", ["stratum", "n", "class_name", "median_area", "score"]
        )
        _check_classes(categories["class_name"], "categories", table)
    n_categories = len(categories)
    height_in = max(4.4, 1.2 + 0.2 * n_categories)
    figure = _new_figure(height_in, source, width_in=9.5)
    by_band, by_category = figure.subplots(1, 2, width_ratios=[1, 1.15])
    places = np.arange(len(bands))
    for column, color, label in (("score", _BLUE, "recall"), ("iou", _ORANGE, "IoU")):
        ends = ("low", "high") if column == "score" else ("iou_low", "iou_high")
        low, high = (bands[end].to_numpy(float) for end in ends)
        by_band.fill_between(places, low, high, color=color, alpha=0.18, lw=0)
        # The two agree where nothing overlaps: the wider line shows behind the other.
        wide = column == "score"
        width, size = (3.4, 8) if wide else (1.4, 4)
        by_band.plot(
            places, bands[column], "o-", color=color, lw=width, ms=size, label=f"mean {label}"
        )
    names = [
        f"{s.removesuffix(' px')}\n{str(n).split()[0]}"
        for s, n in zip(bands["stratum"], bands["n"], strict=True)
    ]
    by_band.set_xticks(places, names)
    by_band.set_xlim(-0.3, len(bands) - 0.7)
    by_band.set_ylim(0, 1)
    by_band.grid(axis="y")
    by_band.set_xlabel("area of the annotation, pixels; below: annotations")
    by_band.set_ylabel("score inside the annotation's mask")
    by_band.legend(loc="upper left")
    by_band.set_title("By area")
    if n_categories:
        _draw_categories(by_category, categories, table)
    else:
        by_category.set_axis_off()
        by_category.text(0.5, 0.5, "no annotations", ha="center", transform=by_category.transAxes)
    by_category.set_title("By category, small ones at the top")
    return figure


def _draw_categories(axes: Axes, categories: pd.DataFrame, table: ClassTable) -> None:
    """Recall of each category, with interval, its size and the number of its annotations."""
    rows = np.arange(len(categories))
    ids = [table.names.index(name) for name in categories["class_name"]]
    axes.hlines(rows, categories["low"], categories["high"], color="0.5", lw=1.4)
    colors = table.colors[ids] / 255
    axes.scatter(categories["score"], rows, s=30, c=colors, ec="0.2", lw=0.8, zorder=3)
    names = [
        f"{_shorten(name, 24)}  {np.sqrt(area):,.0f}², n = {str(n).split()[0]}"
        for name, area, n in zip(
            categories["stratum"], categories["median_area"], categories["n"], strict=True
        )
    ]
    axes.set_yticks(rows, names, fontsize=8 if len(rows) <= _FEW else 6.8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x")
    axes.set_xlabel("mean recall; beside the name: median area, annotations")


@_styled
def plot_overlap_pairs(pairs: pd.DataFrame, *, source: str) -> Figure:
    """Plot, for pairs of overlapping categories, as what the upper one's pixels are seen.

    Args:
        pairs: one row per pair, the most confused first: columns stratum, n, score (part predicted
            as the class below), low, high and recall (as the class on top); 0..1.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    _check_columns(pairs, "pairs", ["stratum", "n", "score", "low", "high", "recall"])
    rows = np.arange(len(pairs))[::-1]
    figure = _new_figure(1.5 + 0.34 * len(pairs), source, width_in=9)
    axes = figure.subplots()
    below, right = 100 * pairs["score"].to_numpy(float), 100 * pairs["recall"].to_numpy(float)
    parts = (("right", right, _BLUE), ("as the one below", below, _ORANGE))
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
        axes.text(101.5, row, text, va="center", fontsize=8.5, color=_ORANGE)
    axes.set_xlim(0, 100)
    names = [f"{_shorten(s, 44)}\n{n}" for s, n in zip(pairs["stratum"], pairs["n"], strict=True)]
    axes.set_yticks(rows, names, fontsize=7.5)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_xlabel("overlapping pixels of the category on top, %; at the right: as the one below")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    figure.suptitle("Which garment is seen where two overlap", x=0.01, ha="left")
    return figure


@_styled
def plot_option_trials(trials: pd.DataFrame, *, source: str) -> Figure:
    """Plot what each test-time option gains beside what it costs.

    Args:
        trials: one row per option, the plain one first: columns option, settings, mean_iou, gain
            (of mean IoU), low, high (its interval; nan where there is none), seconds (per photo)
            and cost (times the plain prediction).
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, or there are no rows.
    """
    _check_columns(
        trials,
        "trials",
        ["option", "settings", "mean_iou", "gain", "low", "high", "seconds", "cost"],
    )
    rows = np.arange(len(trials))[::-1]
    figure = _new_figure(1.6 + 0.42 * len(trials), source, width_in=9)
    gains, costs = figure.subplots(1, 2, sharey=True, width_ratios=[1.3, 1])
    _draw_differences(gains, rows, trials["gain"], trials["low"], trials["high"])
    gains.set_title("Gain of mean IoU")
    gains.set_xlabel("mean IoU minus that without options")
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
    costs.set_title("Cost")
    costs.set_xlabel("time of one photo, times that without options")
    figure.suptitle("Test-time options: gain and cost", x=0.01, ha="left")
    return figure


@_styled
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
        class_names: index = class id.
        colors: (C, 3) uint8 RGB.
        source: what the data are, and the level of the intervals.

    Raises:
        ValueError: columns are missing, there are no rows, or a class has no name.
    """
    _check_columns(differences, "differences", ["class_name", "difference", "low", "high"])
    unknown = sorted(set(differences["class_name"]) - set(class_names))
    if unknown:
        raise ValueError(f"differences have classes {unknown}; expected some of {class_names}")
    differences = differences.sort_values("difference", na_position="first", kind="stable")
    rows = np.arange(len(differences))
    ids = [class_names.index(name) for name in differences["class_name"]]
    figure = _new_figure(_rows_in(len(rows)) + 0.3, source)
    axes = figure.subplots()
    columns = (differences[name].to_numpy(float) for name in ("difference", "low", "high"))
    _draw_differences(axes, rows, *columns, colors=colors[ids] / 255)
    for row in rows[differences["difference"].isna()]:
        axes.text(0, row, " absent", va="center", color="0.35", style="italic", fontsize=8.5)
    axes.set_yticks(rows, differences["class_name"])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    one, other = (_shorten(name, 30) for name in run_names)
    axes.set_xlabel(f"IoU of {one} minus IoU of {other}; hollow: the interval holds zero")
    axes.set_title(f"← {other} is better", loc="left", fontsize=9, weight="normal")
    axes.set_title(f"{one} is better →", loc="right", fontsize=9, weight="normal")
    figure.suptitle("Difference of two runs on the same photos", x=0.01, ha="left")
    return figure


@_styled
def plot_error_kinds(kinds: np.ndarray, class_names: Sequence[str], *, source: str) -> Figure:
    """Plot what became of each garment's pixels, and beside it the false alarms.

    Args:
        kinds: (C, 4) pixels of each class that are correct, missed, of a wrong class, and false
            alarms (`errors.error_kinds`); class 0, background, is left out.
        class_names: index = class id.
        source: what the data are.

    Raises:
        ValueError: not four numbers per class, or one class only.
    """
    kinds = np.asarray(kinds, np.float64)
    if kinds.shape != (len(class_names), 4) or len(kinds) < 2:
        raise ValueError(
            f"kinds are {kinds.shape}; expected ({len(class_names)}, 4), and background not alone"
        )
    totals = kinds[1:, :3].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        percent = 100 * kinds[1:] / totals[:, None]  # nan rows: not in the truth
    order = np.argsort(np.nan_to_num(percent[:, 0], nan=-1), kind="stable")
    rows = np.arange(len(order))
    figure = _new_figure(_rows_in(len(rows)) + 0.4, source, width_in=9)
    truth, alarms = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    left = np.zeros(len(rows))
    few = len(rows) <= _FEW
    for code in (1, 2, 3):
        values = np.nan_to_num(percent[order, code - 1])
        color = ERROR_COLORS[code] / 255
        truth.barh(rows, values, 0.72, left, color=color, ec="white", lw=0.6)
        for row, value, start in zip(rows, values, left, strict=True):
            if few and value >= 6:  # narrower ones have no room for a number
                truth.text(start + value / 2, row, f"{value:.0f}", **_CENTRED, fontsize=8)
        left += values
    for row in rows[np.isnan(percent[order, 0])]:
        truth.text(1, row, "not in the truth", va="center", style="italic", color="0.35")
    truth.set_xlim(0, 100)
    truth.set_xlabel("of the class's true pixels, %")
    truth.set_yticks(rows, [class_names[1 + i] for i in order])
    truth.set_ylim(-0.7, len(rows) - 0.3)
    shown = np.where(np.isfinite(percent[order, 3]), percent[order, 3], 0)
    bars = alarms.barh(rows, shown, 0.72, color=ERROR_COLORS[4] / 255)
    texts = [f"{v:.0f}" if np.isfinite(v) else "" for v in percent[order, 3]]
    alarms.bar_label(bars, texts, padding=3, fontsize=8)
    alarms.margins(x=0.15)
    alarms.set_xlabel("background taken for the class,\n% of the class's true pixels")
    patches = _patches([ERROR_NAMES[code] for code in (1, 2, 3, 4)], ERROR_COLORS[1:5] / 255)
    figure.legend(handles=patches, loc="outside upper right", ncols=4)
    figure.suptitle("Kinds of error", x=0.01, ha="left")
    return figure


@_styled
def plot_class_extremes(
    tiles: Mapping[str, Sequence[tuple[str, np.ndarray]]], *, source: str, classes_per_row: int = 2
) -> Figure:
    """Show each class's best, median and worst photo, the errors of that class in colour.

    Args:
        tiles: class name -> up to three pairs of title and image (H, W, 3) uint8 RGB.
        source: what the data are.
        classes_per_row: classes beside each other.

    Raises:
        ValueError: no tiles.
    """
    _check_not_empty(tiles, "tiles")
    n_rows = -(-len(tiles) // classes_per_row)
    figure = _new_figure(0.9 + 1.55 * n_rows, source, width_in=1 + 3.9 * classes_per_row)
    grid = figure.subplots(n_rows, 3 * classes_per_row, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for number, (class_name, pairs) in enumerate(tiles.items()):
        row, place = divmod(number, classes_per_row)
        for column, (title, image) in enumerate(pairs):
            axes = grid[row, 3 * place + column]
            axes.imshow(image, interpolation="antialiased")
            axes.set_title(title, fontsize=8.5, loc="center", weight="normal")
        if pairs:
            grid[row, 3 * place].set_ylabel(_shorten(class_name, 20), fontsize=8.5, weight="bold")
    patches = _patches([ERROR_NAMES[code] for code in (1, 2, 3, 4)], ERROR_COLORS[1:5] / 255)
    figure.legend(handles=patches, loc="outside upper right", ncols=4)
    figure.suptitle("Best, median and worst of each class", x=0.01, ha="left")
    return figure


@_styled
def plot_comparison(
    ours: Mapping[str, float], reported: Mapping[str, float], *, source: str, note: str = ""
) -> Figure:
    """Plot our scores beside reported ones.

    Args:
        ours: score name -> value, 0..1.
        reported: the same names.
        source: what our scores were taken on.
        note: what the reader has to know before comparing.

    Raises:
        ValueError: no scores, or other names.
    """
    _check_not_empty(ours, "ours")
    if list(ours) != list(reported):
        raise ValueError(f"reported has scores {list(reported)}; expected {list(ours)}")
    rows = np.arange(len(ours))[::-1]
    figure = _new_figure(1.7 + 0.65 * len(ours), source, width_in=7)
    axes = figure.subplots()
    for values, offset, color, name in (
        (ours, 0.19, _BLUE, "this run"),
        (reported, -0.19, "0.65", "reported"),
    ):
        bars = axes.barh(rows + offset, list(values.values()), 0.36, color=color, label=name)
        axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.set_yticks(rows, list(ours))
    axes.set_xlim(0, 1)
    axes.set_xlabel("score" + (f"\n{note}" if note else ""))
    axes.legend(loc="center right")
    axes.set_title("This run and the reported figures")
    return figure


@_styled
def plot_image_score_histogram(
    scores: Sequence[float] | np.ndarray, *, source: str, score_name: str = "mean IoU of one photo"
) -> Figure:
    """Plot the distribution of a score over photos, with mean and median.

    Args:
        scores: one per photo, 0..1; nan for photos that cannot be scored.
        source: what the data are.
        score_name: label of the axis.

    Raises:
        ValueError: no photo has a score.
    """
    scores = np.asarray(scores, dtype=np.float64)
    scored = scores[np.isfinite(scores)]
    _check_not_empty(scored, "scores")
    figure = _new_figure(3.4, source)
    axes = figure.subplots()
    axes.hist(scored, bins=np.linspace(0, 1, 41), color=_BLUE, ec="white", lw=0.4)
    axes.axvline(scored.mean(), color=_ORANGE, lw=1.8, label=f"mean {scored.mean():.3f}")
    axes.axvline(
        np.median(scored), color="black", ls="--", lw=1.5, label=f"median {np.median(scored):.3f}"
    )
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(_whole_numbers())
    _legend_above(axes)
    axes.set_xlabel(score_name)
    axes.set_ylabel("photos")
    left_out = len(scores) - len(scored)
    axes.set_title(
        f"Scores of single photos, n = {len(scored):,}"
        + (f" ({left_out} not scorable)" if left_out else "")
    )
    return figure


class NamedFigure(NamedTuple):
    """A figure that notebooks save under a name of its own.

    Attributes:
        title: what it shows, for those who do not see it.
        of_photos: made of photos, which JPEG keeps well; the others are drawings, which it blurs.
    """

    title: str
    of_photos: bool = False


FIGURES = {
    "01_category_counts": NamedFigure("Annotations per category"),
    "01_supercategory_counts": NamedFigure("Annotations per supercategory"),
    "01_area_histogram": NamedFigure("Areas of the annotations"),
    "01_area_by_supercategory": NamedFigure("Areas by supercategory"),
    "01_annotations_per_image": NamedFigure("Annotations per photo"),
    "01_image_sizes": NamedFigure("Sizes of the photos"),
    "01_cooccurrence": NamedFigure("Supercategories that occur together"),
    "01_gallery": NamedFigure("Photos with their annotations drawn", of_photos=True),
    "02_layers": NamedFigure("One mask, layer by layer", of_photos=True),
    "02_class_shares": NamedFigure("Share of the pixels of each class"),
    "02_hidden_pixels": NamedFigure("What painting order hides of each class"),
    "03_batch": NamedFigure("Photos and masks as the network gets them", of_photos=True),
    "03_curves": NamedFigure(
        "Training curves: train Dice loss, train loss, val loss, val mIoU, val F1"
    ),
    "04_class_scores": NamedFigure("Scores of each class"),
    "04_confusion_matrix": NamedFigure("Confusion matrix, rows are the truth"),
    "04_error_kinds": NamedFigure(
        "Kinds of error of each class: correct, missed, wrong class, false alarm"
    ),
    "04_options": NamedFigure("Test-time options: gain of mean IoU and cost"),
    "04_boundaries": NamedFigure("Boundary IoU of each class, beside its mask IoU"),
    "04_reliability": NamedFigure("Reliability diagram of the pixel probabilities"),
    "04_people": NamedFigure("Score by number of people"),
    "04_composites": NamedFigure("Composites of several photos, beside the photos alone"),
    "04_object_area": NamedFigure("Recall and IoU by size of the object, and by category"),
    "04_overlap": NamedFigure("Score of overlapping annotations"),
    "04_overlap_pairs": NamedFigure("Categories that are taken for the one below them"),
    "04_hidden": NamedFigure("What painting order hides of each class"),
    "04_image_scores": NamedFigure("Scores of single photos"),
    "04_comparison": NamedFigure("Comparison with the earlier system"),
    "05_examples": NamedFigure(
        "Best, median and worst photo: truth and prediction", of_photos=True
    ),
    "05_best": NamedFigure("Best photos: input, truth, prediction", of_photos=True),
    "05_median": NamedFigure("Median photos: input, truth, prediction", of_photos=True),
    "05_worst": NamedFigure("Worst photos: input, truth, prediction", of_photos=True),
    "05_class_extremes": NamedFigure(
        "Best, median and worst photo of each class, errors in colour", of_photos=True
    ),
    "05_confusions": NamedFigure(
        "The largest confusions: photo, truth, prediction", of_photos=True
    ),
    "05_disagreement": NamedFigure(
        "Photos on which network and label disagree, with error maps", of_photos=True
    ),
    "05_own_photos": NamedFigure("Own photos: overlays", of_photos=True),
}
"""File name without suffix -> figure, in the order of the notebooks."""


def save_figure(figure: Figure, path_stem: str | Path, *, caption: str = "") -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG; equal figures give equal files.

    Args:
        figure: what a `plot_` function returned.
        path_stem: the files' path without suffix.
        caption: goes into both files as "Description"; the report reads it from there.

    Returns:
        The paths written: PNG, then SVG.
    """
    figure.set_label(caption)  # what a notebook gives as the picture's text, for screen readers
    path_stem = Path(path_stem)
    paths = [path_stem.with_name(f"{path_stem.name}.{suffix}") for suffix in ("png", "svg")]
    # Ids in an SVG are random and its date is today's, unless told otherwise.
    with mpl.rc_context({"svg.hashsalt": "clothseg", "svg.fonttype": "path"}):
        pages = [_render_png(figure), _render_svg(figure)]
    for path, page in zip(paths, pages, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(page)
    _rendered[figure] = pages[0]
    return paths


# A figure's latest PNG, for one showing: a notebook shows what `save_figure` has just drawn.
_rendered: WeakKeyDictionary[Figure, bytes] = WeakKeyDictionary()


def _render_png(figure: Figure) -> bytes:
    # The lowest compression takes half the time, for a quarter more bytes.
    return _render(figure, "png", {}, pil_kwargs={"compress_level": 1})


def _render_svg(figure: Figure) -> bytes:
    return _render(figure, "svg", {"Date": None})


def _render(figure: Figure, suffix: str, metadata: dict[str, Any], **options: Any) -> bytes:
    caption = figure.get_label()
    described = {"Description": caption} if caption else {}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=_DPI, metadata=metadata | described, **options)
    figure.stale = False  # a title or line that changes between saving and showing sets it again
    return buffer.getvalue()


def show_sharp_figures() -> None:
    """Let the notebook that runs this show figures as `save_figure` writes them: at 200 dpi, whole.

    By itself a notebook shows 100 dpi, which a HiDPI screen blurs, and draws every figure a second
    time to crop its margin, which our layout does not have. The alternative text of a figure is its
    caption.
    """
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    def show(figure: Figure) -> tuple[str, dict[str, Any]]:
        was_stale, data = figure.stale, _rendered.pop(figure, None)
        if was_stale or data is None:
            data = _render_png(figure)
        width, height = (round(side * _DPI / 2) for side in figure.get_size_inches())
        metadata = {"width": width, "height": height, "alt": figure.get_label()}
        return b64encode(data).decode(), metadata

    set_matplotlib_formats("retina")  # or the first figure would undo what follows
    get_ipython().display_formatter.formatters["image/png"].for_type(Figure, show)


# --- parts -----------------------------------------------------------------------------------


def _gallery(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int,
    source: str,
    legend: Sequence[Patch] = (),
) -> Figure:
    """Images in a grid, each under its title, with a legend at the right if there is one."""
    columns = min(columns, len(images))
    cell_in = (_WIDTH_IN - 1.6 * bool(legend)) / columns
    aspects = [image.shape[0] / image.shape[1] for image in images]
    rows = [max(aspects[i : i + columns]) for i in range(0, len(images), columns)]
    title_in = 0.25 if any(titles) else 0.05
    height_in = cell_in * sum(rows) + title_in * len(rows) + 0.4
    figure = _new_figure(max(height_in, 0.6 + 0.19 * len(legend)), source)
    if legend:
        figure.legend(handles=legend, loc="outside right upper")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows)
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_anchor("N")
    longest = int(14 * cell_in)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image, interpolation="antialiased")
        axes.set_title(_shorten(title, longest), fontsize=8.5, loc="center", weight="normal")
    return figure


def _draw_differences(
    axes: Axes,
    rows: np.ndarray,
    difference: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    colors: np.ndarray | str = _BLUE,
) -> None:
    """Dots with intervals around a line at zero; a dot is hollow where the interval holds zero."""
    difference, low, high = (np.asarray(v, np.float64) for v in (difference, low, high))
    axes.axvline(0, color=_GREY, lw=1.2, zorder=1)
    axes.hlines(rows, low, high, color="0.35", lw=1.6)
    real = (low > 0) | (high < 0)
    axes.scatter(difference, rows, s=48, c=colors, ec="0.2", lw=0.8, zorder=3)
    axes.scatter(difference[~real], rows[~real], s=14, c="white", zorder=4)
    for row, value, end in zip(rows, difference, np.fmax(difference, high), strict=True):
        if np.isfinite(value):
            axes.annotate(
                f"{value:+.3f}".replace("-", "−"),  # as on the axis
                (end, row),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.margins(x=0.15)
    axes.grid(axis="x")


def _whole_numbers() -> MaxNLocator:
    """Ticks at round whole numbers."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def _rows_in(n_rows: int) -> float:
    """Height in inches of a figure with one line of text per row."""
    return 1.3 + (0.26 if n_rows <= _FEW else 0.19) * n_rows


def _lollipops(axes: Axes, values: np.ndarray, colors: np.ndarray, texts: Sequence[str]) -> None:
    """Dots on stems along a log axis; a bar would suggest that its length is the amount."""
    positive = values > 0
    left = values[positive].min() / 2
    rows = np.arange(len(values))
    shown = np.where(positive, values, left)
    axes.hlines(rows, left, shown, color=colors, lw=1.8)
    axes.scatter(
        shown[positive], rows[positive], s=34, c=colors[positive], ec="0.3", lw=0.7, zorder=3
    )
    for row, value, text in zip(rows, shown, texts, strict=True):
        axes.annotate(
            text, (value, row), (7, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_xlim(left, shown.max() * 2)
    axes.set_ylim(-0.7, len(values) - 0.3)


def _heatmap(
    percent: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str, source: str
) -> tuple[Figure, Axes]:
    """Percentages as shades; written out too where there are few enough to read; nan is blank."""
    few = len(rows) <= _FEW
    side = 2.5 + (0.43 if few else 0.19) * len(rows)
    figure = _new_figure(side, source, width_in=max(side + 1, 5))
    axes = figure.subplots()
    sns.heatmap(
        percent,
        mask=np.isnan(percent),
        cmap="Blues",
        # Without numbers, shades have to tell 2 % from 0.
        norm=Normalize(0, 100) if few else PowerNorm(0.5, 0, 100),
        square=True,
        linewidths=0.5,
        annot=few,
        fmt=".0f",
        annot_kws={"fontsize": 8},
        cbar_kws={"label": label, "shrink": 0.6},
        ax=axes,
    )
    size = 8.5 if few else 6.5
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0, fontsize=size)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=size, **turned)
    axes.tick_params(length=0)
    return figure, axes


def _mask_legend(masks: Iterable[np.ndarray], table: ClassTable) -> list[Patch]:
    """One entry per class that occurs in any of the masks, in the order of their ids."""
    found = {
        entry.class_id: entry.name for mask in masks for entry in legend_entries(mask, table.names)
    }
    ids = sorted(found)
    swatches = colorize(np.array([ids], np.uint8), table.colors)[0] / 255
    return _patches([found[i] for i in ids], swatches)


def _patches(names: Sequence[str], colors: np.ndarray) -> list[Patch]:
    """Coloured boxes with names, for a legend."""
    return [
        Patch(fc=color, ec="0.4", lw=0.6, label=_shorten(name, 22))
        for name, color in zip(names, colors, strict=True)
    ]


def _legend_above(axes: Axes) -> None:
    """Put the legend at the right of the title's line, where it cannot cover bars."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)


def _supercategory_colors(names: Sequence[str]) -> np.ndarray:
    """(K, 3) float RGB, 0..1; grey for those of another taxonomy than Fashionpedia's."""
    colors = dict(zip(SUPERCATEGORY_NAMES, class_colors(len(SUPERCATEGORY_NAMES)), strict=True))
    grey = np.full(3, 150, np.uint8)
    return np.array([colors.get(name, grey) for name in names]).reshape(-1, 3) / 255


def _positive_areas(annotations: pd.DataFrame) -> tuple[pd.Series, str]:
    """Areas above 0, and the words that say how many there are and how many were left out."""
    _check_columns(annotations, "annotations", ["area_px"])
    areas = annotations["area_px"]
    positive = areas[areas > 0]
    _check_not_empty(positive, "annotations with an area")
    n_zero = len(areas) - len(positive)
    return positive, f"n = {len(positive):,}" + (
        f" ({n_zero:,} of area 0 left out)" if n_zero else ""
    )


def _percent_text(value: float) -> str:
    return "<0.01 %" if 0 < value < 0.01 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip(" ,") + "…"


def _check_columns(frame: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} lack the columns {missing}; got {list(frame.columns)}")
    _check_not_empty(frame, name)


def _check_classes(class_names: Iterable[str], name: str, table: ClassTable) -> None:
    unknown = sorted(set(class_names) - set(table.names))
    if unknown:
        raise ValueError(f"{name} have classes {unknown}; expected names of the class table")


def _check_not_empty(values: object, name: str) -> None:
    if not len(values):
        raise ValueError(f"no {name}; expected at least one")


def _check_same_length(**sequences: Sequence) -> None:
    lengths = {name: len(values) for name, values in sequences.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"got {lengths}; expected as many of each, at least one")


def _check_per_class(values: np.ndarray, name: str, table: ClassTable) -> None:
    if values.shape != (table.num_classes,):
        raise ValueError(f"{name} are {values.shape}; expected ({table.num_classes},), one a class")
