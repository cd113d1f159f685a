"""Figures of the data: annotations, photos, masks; `source` and `table` as in `style`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.pictures.overlays import colorize
from clothseg_utils.pictures.style import (
    BLUE,
    GREY,
    LONGEST_TICK,
    ORANGE,
    draw_heatmap,
    image_grid,
    legend_above,
    legend_patches,
    make_x_logarithmic,
    mask_legend,
    new_figure,
    rows_height_in,
    shorten,
    shown_rows,
    styled,
    tick_names,
    whole_numbers,
    write_beside,
)


@styled
def plot_category_counts(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations each category has, on a log scale, coloured by supercategory.

    Args:
        annotations: `exploration.annotation_table`: columns category, supercategory, class_id,
            class_color, image_id.

    Raises:
        ValueError: there are no annotations.
    """
    if annotations.empty:
        raise ValueError("no annotations; expected at least one")
    counts = annotations["category"].value_counts()
    counts = counts[counts > 0].iloc[::-1]
    colors = annotations.groupby("category", observed=True)["class_color"].first()[counts.index]
    figure = new_figure(rows_height_in(len(counts)), source)
    axes = figure.subplots()
    texts = [f"{count:,}" for count in counts]
    _lollipops(axes, counts.to_numpy(), colors.to_numpy(), texts)
    axes.set_yticks(range(len(counts)), tick_names(counts.index))
    axes.set_xlabel("annotations (log scale)")
    figure.suptitle(
        f"Annotations per category, n = {len(annotations):,} in {len(counts)} categories "
        f"and {annotations['image_id'].nunique():,} photos",
        x=0.01,
        ha="left",
    )
    classes = annotations.drop_duplicates("class_id").sort_values("class_id")
    if len(classes) < len(counts):  # else each category is a class, and its own legend
        patches = legend_patches(classes["supercategory"].tolist(), classes["class_color"].tolist())
        figure.legend(handles=patches, loc="outside right upper", title="supercategory")
    return figure


@styled
def plot_supercategory_counts(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations each supercategory has, with its part of all annotations.

    Args:
        annotations: `exploration.annotation_table`: columns supercategory, class_color.
    """
    counts = annotations["supercategory"].value_counts().iloc[::-1]
    colors = _class_colors(annotations)[counts.index]
    figure = new_figure(rows_height_in(len(counts)), source)
    axes = figure.subplots()
    bars = axes.barh(range(len(counts)), counts, color=colors, ec="0.4")
    axes.set_yticks(range(len(counts)), tick_names(counts.index))
    labels = [f"{n:,} ({_percent_text(100 * n / len(annotations))})" for n in counts]
    axes.bar_label(bars, labels, padding=4, fontsize=8.5)
    axes.margins(x=0.18)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("annotations")
    axes.set_title(f"Annotations per supercategory, n = {len(annotations):,}")
    return figure


@styled
def plot_area_histogram(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot the distribution of annotation areas on a log scale, with COCO's size bands.

    Areas of 0 have no place on a log scale: their number is written in the title.

    Args:
        annotations: `exploration.annotation_table`: column area_px.

    Raises:
        ValueError: no annotation has an area.
    """
    areas, title = _positive_areas(annotations)
    figure = new_figure(3.6, source)
    axes = figure.subplots()
    edges = np.geomspace(areas.min(), 1.1 * areas.max(), 50)
    axes.hist(areas, bins=edges.tolist(), color=BLUE, ec="white", lw=0.4)
    make_x_logarithmic(axes)
    top = axes.get_ylim()[1]
    for side in (32, 96):
        axes.axvline(side**2, color=GREY, ls=":", lw=1.2)
        axes.annotate(f" {side}²", (side**2, top), va="top", color="0.35", fontsize=8.5)
    axes.axvline(areas.median(), color=ORANGE, lw=1.6, label=f"median {areas.median():,.0f} px")
    legend_above(axes)
    axes.set_xlabel("area, pixels (log scale); dotted: COCO's limits of small, medium and large")
    axes.set_ylabel("annotations")
    axes.set_title(f"Area of annotations, {title}")
    return figure


@styled
def plot_area_by_supercategory(annotations: pd.DataFrame, *, source: str) -> Figure:
    """Plot annotation areas of each supercategory as boxes on a log scale, by median.

    Args:
        annotations: `exploration.annotation_table`: columns area_px, supercategory, class_color.

    Raises:
        ValueError: no annotation has an area.
    """
    areas, title = _positive_areas(annotations)
    groups = areas.groupby(annotations["supercategory"], observed=True)
    order = groups.median().sort_values(ascending=False).index.tolist()
    sizes = groups.size()
    figure = new_figure(1.3 + 0.33 * len(order), source)
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
    for box, color in zip(drawn["boxes"], _class_colors(annotations)[order], strict=True):
        box.set_facecolor(color)
    axes.invert_yaxis()
    make_x_logarithmic(axes)
    axes.set_yticks(
        range(len(order)),
        [f"{shorten(name, LONGEST_TICK)}  (n = {sizes[name]:,})" for name in order],
    )
    axes.grid(axis="x")
    axes.set_xlabel("area, pixels (log scale); box: quartiles and median, whiskers: 5 % and 95 %")
    axes.set_title(f"Area by supercategory, {title}")
    return figure


@styled
def plot_annotations_per_image(images: pd.DataFrame, *, source: str) -> Figure:
    """Plot how many annotations a photo has, with mean and median.

    Args:
        images: `exploration.image_table`: column n_annotations.
    """
    counts = images["n_annotations"].to_numpy()
    figure = new_figure(3.4, source)
    axes = figure.subplots()
    # One bar per number up to 60 bars; then several numbers share one.
    step = max(1, -(-(int(counts.max()) + 1) // 60))
    edges = np.arange(0, counts.max() + step + 1, step) - 0.5
    axes.hist(counts, bins=edges.tolist(), color=BLUE, ec="white", lw=0.4)
    mean, median = counts.mean(), np.median(counts)
    axes.axvline(mean, color=ORANGE, lw=1.8, label=f"mean {mean:.1f}")
    axes.axvline(median, color="black", ls="--", lw=1.5, label=f"median {median:g}")
    axes.xaxis.set_major_locator(whole_numbers())
    axes.yaxis.set_major_locator(whole_numbers())
    legend_above(axes)
    axes.set(xlabel="annotations in one photo", ylabel="photos")
    n_empty = int((counts == 0).sum())
    axes.set_title(f"Annotations per photo, n = {len(counts):,} photos, {n_empty:,} without any")
    return figure


@styled
def plot_image_sizes(images: pd.DataFrame, *, source: str) -> Figure:
    """Plot width against height; the size of a dot tells how many photos have that size.

    Args:
        images: `exploration.image_table`: columns width_px, height_px.
    """
    sides = images[["width_px", "height_px"]].to_numpy()
    sizes, counts = np.unique(sides, axis=0, return_counts=True)
    figure = new_figure(4.8, source, width_in=5.2)
    axes = figure.subplots()
    limit = 1.08 * sizes.max()
    axes.plot([0, limit], [0, limit], color=GREY, ls=":", lw=1, label="square")
    area = np.clip(12 * np.sqrt(counts), 12, 400)
    # As pictures inside the SVG: tens of thousands of dots would be megabytes of paths.
    axes.scatter(sizes[:, 0], sizes[:, 1], s=area, color=BLUE, alpha=0.45, lw=0, rasterized=True)
    width, height = sizes[counts.argmax()]
    text = f"most frequent: {width} × {height}\n({counts.max():,} photos)"
    axes.text(0.98, 0.12, text, transform=axes.transAxes, ha="right", fontsize=8.5)
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.legend(loc="lower right")
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    axes.set_title(f"Photo sizes, n = {len(images):,} photos, {len(sizes):,} sizes")
    return figure


@styled
def plot_cooccurrence(cooccurrence: pd.DataFrame, *, source: str) -> Figure:
    """Plot what occurs together: how many of the photos with the row's have the column's too.

    Args:
        cooccurrence: `exploration.supercategory_cooccurrence`: square and symmetric, photos with
            both; the diagonal counts photos with one. What occurs nowhere is left out.
    """
    counts = cooccurrence.to_numpy(dtype=np.float64)
    order = np.argsort(-counts.diagonal(), kind="stable")
    order = order[counts.diagonal()[order] > 0]
    n_photos = counts.diagonal()[order]
    percent = 100 * counts[np.ix_(order, order)] / n_photos[:, None]
    names = [shorten(str(cooccurrence.index[i]), 26) for i in order]
    rows = [f"{name}  (n = {n:,.0f})" for name, n in zip(names, n_photos, strict=True)]
    figure, axes = draw_heatmap(percent, rows, names, "photos, %", source)
    axes.set(ylabel="of the photos with ...", xlabel="... this many also have, %")
    axes.set_title("What occurs together in one photo")
    return figure


@styled
def plot_gallery(
    images: Sequence[np.ndarray], titles: Sequence[str], *, source: str, columns: int = 4
) -> Figure:
    """Show images in a grid, each under its title.

    Args:
        images: arrays (H, W, 3) uint8 RGB, 0..255.
        titles: one per image.
        columns: images in a row.
    """
    return image_grid(images, titles, columns, source)


@styled
def plot_layers(
    stages: Sequence[tuple[str, np.ndarray]], table: ClassTable, *, source: str
) -> Figure:
    """Show one mask as it is painted, layer by layer, with a legend of its classes.

    Args:
        stages: title and mask (H, W) uint8 of each stage, the last one complete.
    """
    painted = [colorize(mask, table.colors) for _, mask in stages]
    legend = mask_legend([mask for _, mask in stages], table)
    return image_grid(painted, [title for title, _ in stages], 4, source, legend)


@styled
def plot_class_shares(pixels: np.ndarray, table: ClassTable, *, source: str) -> Figure:
    """Plot each class's part of all labelled pixels, on a log scale.

    Args:
        pixels: (C,) pixels per class.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    percent = 100 * pixels / pixels.sum()
    order = np.argsort(percent, kind="stable")
    figure = new_figure(rows_height_in(len(order)), source)
    axes = figure.subplots()
    texts = [_percent_text(value) for value in percent[order]]
    _lollipops(axes, percent[order], table.colors[order] / 255, texts)
    axes.set_yticks(range(len(order)), tick_names(table.names[i] for i in order))
    axes.set_xlabel("part of all pixels, % (log scale)")
    axes.set_title(f"Pixels per class, n = {EngFormatter(places=1)(pixels.sum())}px")
    return figure


@styled
def plot_hidden_pixels(shares: np.ndarray, table: ClassTable, *, source: str) -> Figure:
    """Plot how much of each class disappears under layers painted later.

    Args:
        shares: (C,) hidden part of the class's annotated pixels, 0..1; nan where a class has none.
    """
    shares = np.asarray(shares, dtype=np.float64)
    # Background is never annotated, so it cannot be hidden.
    order = 1 + np.argsort(np.nan_to_num(shares[1:], nan=-1), kind="stable")
    order, left_out = shown_rows(order, ~np.isnan(shares))
    figure = new_figure(rows_height_in(len(order)), source)
    axes = figure.subplots()
    percent = 100 * shares[order]
    names = [table.names[i] for i in order]
    bars = axes.barh(names, np.nan_to_num(percent), color=table.colors[order] / 255, ec="0.4")
    texts = ["no annotations" if np.isnan(value) else _percent_text(value) for value in percent]
    axes.bar_label(bars, texts, padding=4, fontsize=8)
    axes.set_xlim(0, max(1.0, 1.15 * np.nanmax(percent, initial=0)))
    axes.margins(y=0.02)
    text = "pixels hidden under later layers, % of the class's annotated pixels"
    axes.set_xlabel(f"{text}{left_out}")
    axes.set_title("What painting order hides: large first, small on top")
    return figure


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
    for row, value, text in zip(rows.tolist(), shown, texts, strict=True):
        write_beside(axes, text, (value, row), 7, fontsize=8)
    make_x_logarithmic(axes)
    axes.set(xlim=(left, shown.max() * 2), ylim=(-0.7, len(values) - 0.3))


def _class_colors(annotations: pd.DataFrame) -> pd.Series:
    """Colour of each supercategory that occurs, by its name."""
    return annotations.groupby("supercategory", observed=True)["class_color"].first()


def _positive_areas(annotations: pd.DataFrame) -> tuple[pd.Series, str]:
    """Areas above 0, and the words that say how many there are and how many were left out."""
    areas = annotations["area_px"]
    positive = areas[areas > 0]
    if positive.empty:
        raise ValueError("no annotations with an area; expected at least one")
    n_zero = len(areas) - len(positive)
    left_out = f" ({n_zero:,} of area 0 left out)" if n_zero else ""
    return positive, f"n = {len(positive):,}{left_out}"


def _percent_text(value: float) -> str:
    return "<0.01 %" if 0 < value < 0.01 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"
