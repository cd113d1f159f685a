"""Figures of the notebooks and the report: every `plot_` function returns a finished Figure.

A figure is taken out of pyplot's registry as soon as it is made: a notebook shows it once, as the
value of its cell, and long sessions do not collect open figures. One style serves all of them.
The same class has the same colour in every one.

`source` is the small line at a figure's foot that says what the figure was made from, such as
"synthetic, val, n = 60 photos, native resolution", and the level of its intervals. `table` has the
names and colours of the classes.
"""

import contextlib
import functools
import io
import math
import re
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.files import atomic_path
from clothseg_utils.core.text import count_text
from clothseg_utils.pictures.overlays import colorize, legend_entries

# Okabe-Ito, for all that is not a class: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"

_WIDTH_IN = 8.0
_LEGEND_COLUMNS = 4  # of one below a figure

DPI = 200  # of saved figures; shown at half their pixels, as HiDPI screens do

FEW_ROWS = 20  # rows up to which there is room for normal text
LONGEST_TICK = 40  # letters of a name beside an axis; Fashionpedia's longest has 39

_STYLE: dict[Any, Any] = {  # the types of matplotlib 3.11 list every name, those of 3.10 none
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
    "text.parse_math": False,  # a name may hold dollars: formulas would change it, or fail
}

CENTRED = {"ha": "center", "va": "center"}

P = ParamSpec("P")


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a plot function in the one style, whatever style the caller's session has."""

    @functools.wraps(plot)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(), _boxes_for_unknown_letters():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            figure = plot(*args, **kwargs)
            # Ticks are made when first drawn, and would take the style of that moment.
            figure.draw_without_rendering()
            return figure

    return styled


@contextlib.contextmanager
def _boxes_for_unknown_letters() -> Iterator[None]:
    """Names in letters that our one font lacks show as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        yield


def new_figure(height_in: float, source: str, width_in: float = _WIDTH_IN) -> Figure:
    """Make an empty figure with the source at its foot, unknown to pyplot."""
    # Made by pyplot all the same: that is what makes a kernel show Figures as pictures.
    figure = plt.figure(figsize=(width_in, height_in), dpi=100, layout="constrained")
    plt.close(figure)
    figure.supxlabel(source, x=0.99, ha="right", fontsize=7.5, color="0.4", style="italic")
    return figure


FIGURES = {
    "01_category_counts": "Annotations per category",
    "01_supercategory_counts": "Annotations per supercategory",
    "01_area_histogram": "Areas of the annotations",
    "01_area_by_supercategory": "Areas by supercategory",
    "01_annotations_per_image": "Annotations per photo",
    "01_image_sizes": "Sizes of the photos",
    "01_cooccurrence": "Supercategories that occur together",
    "01_gallery": "Photos with their annotations drawn",
    "02_layers": "One mask, layer by layer",
    "02_class_shares": "Share of the pixels of each class",
    "02_hidden_pixels": "What painting order hides of each class",
    "03_batch": "Photos and masks as the network gets them",
    "03_curves": "Training curves: train Dice loss, train loss, val loss, val mIoU, val F1",
    "04_class_scores": "Scores of each class",
    "04_confusion_matrix": "Confusion matrix, rows are the truth",
    "04_error_kinds": "Kinds of error of each class: correct, missed, wrong class, false alarm",
    "04_options": "Test-time options: gain of mean IoU and cost",
    "04_boundaries": "Boundary IoU of each class, beside its mask IoU",
    "04_reliability": "Reliability diagram of the pixel probabilities",
    "04_people": "Score by number of people",
    "04_composites": "Composites of several photos, beside the photos alone",
    "04_object_area": "Recall and IoU by size of the object, and by category",
    "04_overlap": "Score of overlapping annotations",
    "04_overlap_pairs": "Categories that are taken for the one below them",
    "04_hidden": "What painting order hides of each class",
    "04_framing": "Halves of photos, beside the same pixels in the whole photo",
    "04_image_scores": "Scores of single photos",
    "04_comparison": "Comparison with the earlier system",
    "05_examples": "Best, median and worst photo: truth and prediction",
    "05_best": "Best photos: input, truth, prediction",
    "05_median": "Median photos: input, truth, prediction",
    "05_worst": "Worst photos: input, truth, prediction",
    "05_class_extremes": "Best, median and worst photo of each class, errors in colour",
    "05_confusions": "The largest confusions: photo, truth, prediction",
    "05_disagreement": "Photos on which network and label disagree, with error maps",
    "05_own_photos": "Own photos: overlays",
}
"""File name without suffix -> what the figure shows; in the order of the notebooks."""

OF_PHOTOS = {"01_gallery", "01_near_equal_photos", "02_layers", "03_batch"}
OF_PHOTOS |= {name for name in FIGURES if name.startswith("05_")}
"""Figures made of photos, which JPEG keeps well; the others are drawings, which it blurs."""


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
        pages = [render_png(figure), _render(figure, "svg", {"Date": None})]
    for path, page in zip(paths, pages, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(page)
    _rendered[figure] = pages[0]
    return paths


# A figure's latest PNG, for one showing: a notebook shows what `save_figure` has just drawn.
_rendered: WeakKeyDictionary[Figure, bytes] = WeakKeyDictionary()


def render_png(figure: Figure) -> bytes:
    # The lowest compression takes half the time, for a quarter more bytes.
    return _render(figure, "png", {}, pil_kwargs={"compress_level": 1})


def _render(figure: Figure, suffix: str, metadata: dict[str, Any], **options: Any) -> bytes:
    caption = figure.get_label()
    described = {"Description": caption} if caption else {}
    buffer = io.BytesIO()
    with _boxes_for_unknown_letters():
        figure.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata | described, **options)
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
            data = render_png(figure)
        width, height = (round(side * DPI / 2) for side in figure.get_size_inches())
        metadata = {"width": width, "height": height, "alt": figure.get_label()}
        return b64encode(data).decode(), metadata

    set_matplotlib_formats("retina")  # or the first figure would undo what follows
    get_ipython().display_formatter.formatters["image/png"].for_type(Figure, show)


def image_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int,
    source: str,
    legend: Sequence[Patch] = (),
) -> Figure:
    """Images in a grid, each under its title, with a legend if there is one.

    It stands at the right, or below where it is so long that the images would be torn apart.
    """
    columns = min(columns, len(images))
    is_below = len(legend) > FEW_ROWS
    cell_in = (_WIDTH_IN - 1.6 * (bool(legend) and not is_below)) / columns
    aspects = [image.shape[0] / image.shape[1] for image in images]
    rows = [max(aspects[i : i + columns]) for i in range(0, len(images), columns)]
    title_in = 0.25 if any(titles) else 0.05
    height_in = cell_in * sum(rows) + title_in * len(rows) + 0.4
    if is_below:
        height_in += 0.2 + 0.19 * math.ceil(len(legend) / _LEGEND_COLUMNS)
    figure = new_figure(max(height_in, 0.6 + 0.19 * len(legend) * (not is_below)), source)
    if is_below:
        # The pad keeps it off the source.
        place = {"loc": "outside lower center", "borderaxespad": 2.2}
        figure.legend(handles=legend, ncols=_LEGEND_COLUMNS, **place)
    elif legend:
        figure.legend(handles=legend, loc="outside right upper")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows)
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_anchor("N")
    longest = int(14 * cell_in)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image, interpolation="antialiased")
        axes.set_title(shorten(title, longest), fontsize=8.5, loc="center", weight="normal")
    return figure


def whole_numbers() -> MaxNLocator:
    """Ticks at round whole numbers."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


class _PowersOfTen(LogFormatterSciNotation):
    """Writes what a log axis says as plain text, such as 2×10⁻³; by itself it is a formula."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = super().__call__(x, pos)
        text = formula.removeprefix("$\\mathdefault{").removesuffix("}$").replace(r"\times", "×")
        return re.sub(r"\^\{(.+?)\}", lambda power: power[1].translate(_SUPERSCRIPTS), text)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def make_x_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PowersOfTen())
    axes.xaxis.set_minor_formatter(_PowersOfTen(labelOnlyBase=False))


def rows_height_in(n_rows: int) -> float:
    """Height in inches of a figure with one line of text per row."""
    return 1.3 + (0.26 if n_rows <= FEW_ROWS else 0.19) * n_rows


def shown_rows(order: np.ndarray, is_there: np.ndarray) -> tuple[np.ndarray, str]:
    """Choose the classes that a figure shows: of many, only those that there is something of.

    Args:
        order: indices of classes.
        is_there: bool, by such an index.

    Returns:
        The indices to show, and words for the axis that say what is left out.
    """
    kept = order[is_there[order]]
    if len(order) <= FEW_ROWS or len(kept) == len(order):
        return order, ""
    absent = count_text(len(order) - len(kept), "absent class", "absent classes")
    return kept, f"; not shown: {absent}"


def sort_classes(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """Sort rows of classes, those without a value first, and choose those that are shown."""
    table = table.sort_values(column, na_position="first", kind="stable")
    rows, left_out = shown_rows(np.arange(len(table)), table[column].notna().to_numpy())
    return table.iloc[rows], left_out


def draw_heatmap(
    percent: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str, source: str
) -> tuple[Figure, Axes]:
    """Percentages as shades; written out too where there are few enough to read; nan is blank."""
    few = len(rows) <= FEW_ROWS
    side = 2.5 + (0.43 if few else 0.19) * len(rows)
    figure = new_figure(side, source, width_in=max(side + 1, 5))
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


def mask_legend(masks: Iterable[np.ndarray], table: ClassTable) -> list[Patch]:
    """One entry per class that occurs in any of the masks, in the order of their ids."""
    found = {
        entry.class_id: entry.name for mask in masks for entry in legend_entries(mask, table.names)
    }
    ids = sorted(found)
    swatches = colorize(np.array([ids], np.uint8), table.colors)[0] / 255
    return legend_patches([found[i] for i in ids], swatches)


def legend_patches(names: Sequence[str], colors: Iterable[Any]) -> list[Patch]:
    """Coloured boxes with names, for a legend; the colours in any form that matplotlib takes."""
    return [
        Patch(fc=color, ec="0.4", lw=0.6, label=shorten(name, 22))
        for name, color in zip(names, colors, strict=True)
    ]


def legend_above(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Put the legend at the right of the title's line, where it cannot cover bars."""
    # A tall figure has its first row within 2 % of its height.
    foot = max(0.98, 1 - 10 / axes.figure.bbox.height)
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, foot), ncols=2, borderaxespad=0
    )


def write_beside(
    axes: Axes, text: str, place: tuple[float, float], away_pt: int = 6, **look: Any
) -> None:
    """Write a text at the right of a place on the axes."""
    axes.annotate(text, place, (away_pt, 0), textcoords="offset points", va="center", **look)


def tick_names(names: Iterable[str]) -> list[str]:
    """Names beside an axis, so short that the axis keeps its room."""
    return [shorten(name, LONGEST_TICK) for name in names]


def shorten(text: str, longest: int) -> str:
    """Cut a name.

    Example:
        >>> shorten("a coat with a hood", 10)
        'a coat wi…'
    """
    return text if len(text) <= longest else text[: longest - 1].rstrip(" ,") + "…"
