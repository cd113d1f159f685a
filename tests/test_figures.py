"""Figures: what is drawn agrees with the table given, and nothing stays open in pyplot."""

import functools
import warnings
from base64 import b64decode
from types import SimpleNamespace

import IPython
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_colors, class_table
from clothseg_utils.pictures import data_figures, score_figures, style, training_figures

SOURCE = "synthetic, val, n = 3 photos"
TABLE = class_table(
    "supercategory",
    [
        SimpleNamespace(id=0, name="coat", supercategory="wholebody"),
        SimpleNamespace(id=1, name="shoe", supercategory="legs and feet"),
    ],
)
ANNOTATIONS = pd.DataFrame(
    {
        "image_id": [1, 1, 1, 2, 3],
        "category": ["shoe", "shoe", "coat", "shoe", "hat"],
        "supercategory": ["legs and feet", "legs and feet", "wholebody", "legs and feet", "head"],
        "class_id": [4, 4, 12, 4, 3],
        "class_color": ["#61fc9d", "#61fc9d", "#d0432c", "#61fc9d", "#ce1ec7"],
        "area_px": [100.0, 200.0, 90_000.0, 0.0, 400.0],
    }
)
IMAGES = pd.DataFrame(
    {"width_px": [640, 640, 480], "height_px": [480, 480, 640], "n_annotations": [3, 1, 0]}
)
COOCCURRENCE = pd.DataFrame(
    [[4, 1, 0], [1, 2, 0], [0, 0, 0]], index=["a", "b", "never"], columns=["a", "b", "never"]
)
HISTORY = pd.DataFrame(
    {
        "epochs_done": [1, 2, 3],
        "train/dice_loss": [0.9, 0.7, 0.6],
        "train/loss": [0.8, 0.6, 0.5],
        "val/loss": [0.7, 0.6, 0.65],
        "val/mean_iou": [0.1, 0.4, 0.3],
        "val/macro_f1": [0.2, 0.5, 0.45],
    }
)
CONFUSION = np.diag(np.arange(13) * 10)
CONFUSION[1] = 0
SCORES = pd.DataFrame(
    {
        "class_name": ["background", "head", "neck", "waist"],
        "status": ["ok", "ok", "absent", "no target"],
        "iou": [0.9, 0.5, np.nan, 0.0],
        "iou_low": [0.8, 0.4, np.nan, 0.0],
        "iou_high": [0.95, 0.6, np.nan, 0.0],
        "f1": [0.95, 0.7, np.nan, 0.0],
        "f1_low": [0.9, 0.6, np.nan, 0.0],
        "f1_high": [0.97, 0.8, np.nan, 0.0],
    }
)
STRATA = pd.DataFrame(
    {
        "stratum": ["1 person", "2 people", "3 or more"],
        "score": [0.5, 0.4, np.nan],
        "low": [0.4, 0.2, np.nan],
        "high": [0.6, 0.5, np.nan],
        "n": [1, 1234, 0],
        "unit": "photo",
    }
)
BANDS = STRATA.assign(iou=[0.4, 0.3, np.nan], iou_low=[0.3, 0.1, np.nan], iou_high=0.6)
CATEGORIES = pd.DataFrame(
    {
        "stratum": ["button", "coat"],
        "n": [12, 1],
        "unit": "annotation",
        "class_name": ["closures", "wholebody"],
        "median_area": [49.0, 90_000.0],
        "score": [0.1, 0.9],
        "low": [0.0, np.nan],
        "high": [0.2, np.nan],
    }
)
COMPOSITES = STRATA.assign(
    **{"alone": 0.6, "alone_low": 0.5, "alone_high": 0.7, "missed": 0.3, "missed_alone": 0.2},
    **{"drop": [0.1, 0.2, np.nan], "drop_low": 0.05, "drop_high": [0.2, 0.3, np.nan]},
)
PAIRS = pd.DataFrame(
    {
        "stratum": ["pocket on coat", "belt on dress"],
        "n": [1200, 80],
        "unit": "px",
        "photos": [9, 2],
        "score": [0.7, 0.25],
        "low": [0.6, np.nan],
        "high": [0.8, np.nan],
        "recall": [0.2, 0.75],
    }
)
BOUNDARIES = pd.DataFrame(
    {
        "class_name": ["background", "head", "neck"],
        "iou": [0.9, 0.5, np.nan],
        "boundary_iou": [0.6, 0.45, np.nan],
        "low": [0.5, 0.4, np.nan],
        "high": [0.7, 0.5, np.nan],
    }
)
BINS = pd.DataFrame(
    {
        "low": [0.0, 0.5],
        "high": [0.5, 1.0],
        "pixels": [0.0, 4000.0],
        "accuracy": [np.nan, 0.7],
        "confidence": [np.nan, 0.9],
    }
)
PHOTO = np.full((32, 24, 3), 100, np.uint8)
MASK = np.zeros((32, 24), np.uint8)
MASK[8:20, 4:20] = 12
MASK[:4] = 255
PIXELS = np.array([800, 0, 50, 10, 0, 0, 0, 0, 0, 0, 100, 0, 40])
TRIALS = pd.DataFrame(
    {
        "option": ["none", "flip"],
        "settings": ["none", "mirrored too"],
        "mean_iou": [0.4, 0.42],
        "gain": [0.0, 0.02],
        "low": [0.0, 0.01],
        "high": [0.0, 0.03],
        "seconds": [0.02, 0.04],
        "cost": [1.0, 2.0],
    }
)
DIFFERENCES = pd.DataFrame(
    {
        "class_name": ["head", "neck", "waist"],
        "difference": [0.1, -0.02, np.nan],
        "low": [0.05, -0.1, np.nan],
        "high": [0.15, 0.06, np.nan],
    }
)

# Name of the plot -> its room, and what it draws.
PLOTS = {
    "category_counts": (data_figures, ANNOTATIONS),
    "supercategory_counts": (data_figures, ANNOTATIONS),
    "area_histogram": (data_figures, ANNOTATIONS),
    "area_by_supercategory": (data_figures, ANNOTATIONS),
    "annotations_per_image": (data_figures, IMAGES),
    "image_sizes": (data_figures, IMAGES),
    "cooccurrence": (data_figures, COOCCURRENCE),
    "gallery": (data_figures, [PHOTO] * 3, ["a", "b", "c"]),
    "layers": (data_figures, [("coat", MASK)], TABLE),
    "class_shares": (data_figures, PIXELS, TABLE),
    "hidden_pixels": (data_figures, np.array([np.nan] * 10 + [0.5, 0.0, 0.1]), TABLE),
    "live_curves": (training_figures, HISTORY),
    "training_curves": (training_figures, HISTORY),
    "batch": (training_figures, np.stack([PHOTO] * 2), np.stack([MASK] * 2), TABLE),
    "confusion_matrix": (score_figures, CONFUSION, TABLE.names),
    "class_scores": (score_figures, SCORES, TABLE),
    "strata": (score_figures, "People", STRATA),
    "option_trials": (score_figures, TRIALS),
    "differences": (score_figures, DIFFERENCES, ("a", "b"), TABLE.names, TABLE.colors),
    "error_kinds": (
        score_figures,
        np.array([[9, 0, 1, 0], [6, 3, 1, 5], [0, 0, 0, 7]]),
        ["background", "a", "b"],
    ),
    "class_extremes": (
        score_figures,
        {"head": [("best 0.90", PHOTO), ("worst 0.10", PHOTO)], "neck": []},
    ),
    "boundary_scores": (score_figures, BOUNDARIES, TABLE),
    "reliability": (score_figures, BINS),
    "composites": (score_figures, COMPOSITES),
    "framing": (score_figures, COMPOSITES),
    "area_curve": (score_figures, BANDS, CATEGORIES, TABLE),
    "overlap_pairs": (score_figures, PAIRS),
    "comparison": (score_figures, {"mIoU": 0.4}, {"mIoU": 0.544}),
    "image_score_histogram": (score_figures, [0.1, 0.5, np.nan]),
}


OPTIONS = {"reliability": {"ece": 0.2}, "comparison": {"note": "another size"}}


def draw(name: str) -> Figure:
    room, *data = PLOTS[name]
    return getattr(room, f"plot_{name}")(*data, source=SOURCE, **OPTIONS.get(name, {}))


@functools.cache
def drawn(name: str) -> Figure:
    """One figure for all tests that only look at it."""
    return draw(name)


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def color_of(name: str) -> tuple[float, ...]:
    return tuple(class_colors(13)[SUPERCATEGORY_NAMES.index(name)] / 255)


def test_every_plot_function_is_tried_here():
    assert {f"plot_{name}" for name in PLOTS} == {
        n
        for room in (data_figures, training_figures, score_figures)
        for n in vars(room)
        if n.startswith("plot_")
    }


@pytest.mark.parametrize("name", PLOTS)
def test_plot_names_its_source_and_leaves_no_traces(name):
    tables = [ANNOTATIONS, IMAGES, COOCCURRENCE, HISTORY, SCORES, STRATA]
    tables += [BANDS, CATEGORIES, COMPOSITES, PAIRS, BOUNDARIES, BINS]
    copies = [table.copy() for table in tables]
    settings = dict(mpl.rcParams)
    figure = drawn(name)
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
    assert SOURCE in texts_of(figure)
    assert dict(mpl.rcParams) == settings
    for table, copy in zip(tables, copies, strict=True):
        pd.testing.assert_frame_equal(table, copy)


def test_style_does_not_depend_on_the_session():
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        figure = draw("strata")
    axes = figure.axes[0]
    assert axes.get_facecolor() == (1, 1, 1, 1)
    assert axes.get_xticklabels()[0].get_fontsize() == 8.5


def test_counts_are_sorted_and_colored_by_supercategory():
    axes = drawn("supercategory_counts").axes[0]
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == [1, 1, 3]
    assert to_rgb(bars[-1].get_facecolor()) == pytest.approx(color_of("legs and feet"))
    assert "3 (60.0 %)" in texts_of(axes.figure)


def test_category_counts_show_every_category_with_its_number():
    figure = drawn("category_counts")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "shoe"
    assert sorted(labels) == ["coat", "hat", "shoe"]
    assert figure.legends == []  # each category is a class: it would say the same again
    one_class = ANNOTATIONS.replace({"head": "legs and feet", 3: 4})
    legend = data_figures.plot_category_counts(one_class, source="mine").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["legs and feet", "wholebody"]


def test_area_plots_say_how_many_areas_of_0_were_left_out():
    for name in ("area_histogram", "area_by_supercategory"):
        title = drawn(name).axes[0].get_title(loc="left")
        assert "n = 4 (1 of area 0 left out)" in title
    heights = [bar.get_height() for bar in drawn("area_histogram").axes[0].patches]
    assert sum(heights) == 4


def test_annotations_per_image_marks_mean_and_median():
    texts = texts_of(drawn("annotations_per_image"))
    assert "mean 1.3" in texts
    assert "median 1" in texts


def test_most_frequent_size_is_named():
    assert any("640 × 480\n(2 photos)" in text for text in texts_of(drawn("image_sizes")))


def test_cooccurrence_is_conditional_on_the_row():
    axes = drawn("cooccurrence").axes[0]
    shown = axes.collections[0].get_array().reshape(2, 2)
    np.testing.assert_allclose(shown, [[100, 25], [50, 100]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  (n = 4)", "b  (n = 2)"]


@pytest.mark.parametrize("name", ["layers", "batch"])
def test_mask_legend_lists_exactly_the_classes_that_occur(name):
    (legend,) = drawn(name).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["background", "wholebody", "ignored"]
    assert to_rgb(legend.get_patches()[1].get_facecolor()) == pytest.approx(color_of("wholebody"))


def test_class_shares_name_classes_without_pixels():
    texts = texts_of(drawn("class_shares"))
    assert "80.0 %" in texts
    assert texts.count("0 %") == 8


def test_hidden_pixels_tell_nothing_hidden_from_no_annotations():
    texts = texts_of(drawn("hidden_pixels"))
    assert texts.count("no annotations") == 9
    assert texts.count("0 %") == 1
    assert "50.0 %" in texts
    data_figures.plot_hidden_pixels(np.full(13, np.nan), TABLE, source=SOURCE)


def test_training_curves_are_the_five_with_the_best_epoch_marked():
    figure = drawn("training_curves")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Train Dice loss",
        "Train loss",
        "Validation loss",
        "Validation mIoU",
        "Validation macro F1",
    ]
    curve = figure.axes[3].lines[0]
    np.testing.assert_allclose(curve.get_xydata(), [[1, 0.1], [2, 0.4], [3, 0.3]])
    best = [axes.get_title(loc="right") for axes in figure.axes]
    assert best == ["0.700", "0.600", "0.600", "0.400", "0.500"]


def test_live_curves_end_in_the_latest_values():
    texts = texts_of(drawn("live_curves"))
    assert {"0.500", "0.650", "0.300", "0.450"} <= set(texts)


def test_training_curves_without_validation_say_so():
    history = HISTORY.assign(**{"val/mean_iou": np.nan})
    texts = texts_of(training_figures.plot_training_curves(history, source=SOURCE))
    assert texts.count("nothing logged") == 1


def test_confusion_rows_are_percentages_and_absent_rows_hatched():
    confusion = np.zeros((3, 3), int)
    confusion[0] = [6, 2, 0]
    confusion[2] = [0, 0, 5]
    axes = score_figures.plot_confusion_matrix(confusion, ["a", "b", "c"], source=SOURCE).axes[0]
    shown = axes.collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(shown.filled(-1), [[75, 25, 0], [-1, -1, -1], [0, 0, 100]])
    assert [patch.get_y() for patch in axes.patches if patch.get_hatch()] == [1]


@pytest.mark.slow
def test_47_classes_have_no_numbers_in_the_cells():
    names = [f"class {i}" for i in range(47)]
    axes = score_figures.plot_confusion_matrix(np.eye(47, dtype=int), names, source=SOURCE).axes[0]
    assert len(axes.texts) == 0
    assert len(axes.get_yticklabels()) == 47


def test_of_many_classes_those_that_never_occur_are_left_out_of_the_confusions():
    confusion = np.diag([5] * 22 + [0] * 2)
    confusion[0, 22] = 5  # predicted, but not in the truth
    names = [f"class {i}" for i in range(24)]
    figure = score_figures.plot_confusion_matrix(confusion, names, source=SOURCE)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names[:23]
    assert [patch.get_y() for patch in axes.patches if patch.get_hatch()] == [22]
    assert axes.get_xlabel().endswith("; not shown: 1 absent class")


def test_of_many_classes_those_without_a_score_are_counted_only():
    table = pd.DataFrame(
        {"class_name": [f"class {i}" for i in range(24)], "iou": [np.nan] * 3 + [0.5] * 21}
    )
    few, many = (style.sort_classes(table.iloc[:n], "iou") for n in (20, 24))
    assert (len(few[0]), few[1]) == (20, "")
    assert (len(many[0]), many[1]) == (21, "; not shown: 3 absent classes")
    assert many[0]["iou"].notna().all()


def test_long_legend_stands_below_the_images():
    masks = [np.arange(num, dtype=np.uint8).reshape(1, -1).repeat(20, 0) for num in (20, 21)]
    table = SimpleNamespace(names=[f"class {i}" for i in range(47)], colors=class_colors(47))
    corners = []
    for mask in masks:
        figure = data_figures.plot_layers([("one", mask)], table, source=SOURCE)
        box = figure.legends[0].get_window_extent()
        corners.append((box.x0 > figure.axes[0].get_window_extent().x1, box.y1))
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    assert [at_the_right for at_the_right, _ in corners] == [True, False]
    assert corners[1][1] < figure.axes[0].get_window_extent().y0
    assert not figure._supxlabel.get_window_extent().overlaps(box)


def test_class_scores_are_sorted_with_absent_classes_named():
    figure = drawn("class_scores")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["neck", "waist", "head", "background"]
    texts = texts_of(figure)
    assert texts.count("absent") == texts.count("no target") == 2  # once for IoU, once for F1
    assert "mean 0.467 (dashed)" in texts  # (0.9 + 0.5 + 0) / 3


def test_strata_show_their_numbers_and_empty_ones():
    texts = texts_of(drawn("strata"))
    assert {"1 person  (n = 1 photo)", "2 people  (n = 1,234 photos)", "0.500", "no data"} <= set(
        texts
    )


def test_options_show_gain_and_cost_side_by_side():
    gains, costs = drawn("option_trials").axes
    assert [t.get_text() for t in gains.get_yticklabels()] == ["none  (0.400)", "flip  (0.420)"]
    assert "+0.020" in texts_of(drawn("option_trials"))
    assert [bar.get_width() for bar in costs.patches] == [1, 2]
    assert "× 2.0  (40 ms)" in texts_of(drawn("option_trials"))


def test_differences_that_may_be_chance_are_hollow():
    (axes,) = drawn("differences").axes
    filled, hollow = (dots.get_offsets() for dots in axes.collections[-2:])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["waist", "neck", "head"]
    assert hollow[-1].tolist() == [-0.02, 1]
    assert [0.1, 2] in filled.tolist()
    assert " absent" in texts_of(drawn("differences"))


def test_error_kinds_are_percentages_of_the_truth():
    texts = texts_of(drawn("error_kinds"))
    assert {"60", "30", "10", "50", "not in the truth"} <= set(texts)


def test_class_extremes_name_class_rank_and_score():
    texts = texts_of(drawn("class_extremes"))
    assert {"head", "best 0.90", "worst 0.10", "missed", "false alarm"} <= set(texts)


def test_boundary_scores_name_absent_classes_and_the_mean():
    texts = texts_of(drawn("boundary_scores"))
    assert "absent" in texts
    assert f"Boundary IoU, mean {(0.6 + 0.45) / 2:.3f}" in texts
    names = [t.get_text() for t in drawn("boundary_scores").axes[0].get_yticklabels()]
    assert names == ["neck", "head", "background"]  # the best is at the top


def test_reliability_says_how_many_pixels_and_how_far_off():
    texts = texts_of(drawn("reliability"))
    assert "ECE 0.200, n = 4.0 kpx" in texts
    empty = score_figures.plot_reliability(BINS.assign(pixels=0.0), ece=np.nan, source=SOURCE)
    assert any(text.startswith("no pixels") for text in texts_of(empty))


def test_area_curve_shows_bands_and_categories_small_ones_first():
    bands, categories = drawn("area_curve").axes
    assert bands.get_xticklabels()[0].get_text() == "1 person\n1"
    names = [t.get_text() for t in categories.get_yticklabels()]
    assert names == ["button  7², n = 12", "coat  300², n = 1"]
    assert categories.get_ylim()[0] > categories.get_ylim()[1]  # the first is at the top
    dots = categories.collections[-1].get_facecolors()
    assert tuple(dots[0][:3]) == pytest.approx(color_of("closures"))


def test_area_curve_without_annotations():
    figure = score_figures.plot_area_curve(BANDS, CATEGORIES.iloc[:0], TABLE, source=SOURCE)
    assert "no annotations" in texts_of(figure)


def test_overlap_pairs_add_up_to_all_pixels():
    figure = drawn("overlap_pairs")
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sum(widths) == pytest.approx(200)  # two pairs, 100 % each
    assert {"70 % (60 to 80)", "25 %"} <= set(texts_of(figure))


def test_image_score_histogram_leaves_out_what_has_no_score():
    figure = drawn("image_score_histogram")
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 2
    assert "mean 0.300" in texts_of(figure)


def test_notebooks_show_figures_as_they_are_saved(tmp_path, monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    style.show_sharp_figures()
    figure = draw("strata")
    png_path, _ = style.save_figure(figure, tmp_path / "strata", caption="What it shows.")
    shown, metadata = shell.display_formatter.format(figure, include={"image/png"})
    assert b64decode(shown["image/png"]) == png_path.read_bytes()
    height, width = plt.imread(png_path).shape[:2]
    assert metadata["image/png"]["alt"] == "What it shows."
    assert metadata["image/png"]["width"] == pytest.approx(width / 2, abs=1)
    assert metadata["image/png"]["height"] == pytest.approx(height / 2, abs=1)
    style.save_figure(figure, tmp_path / "strata", caption="What it shows.")
    figure.axes[0].set_title("changed after it was saved")
    changed, _ = shell.display_formatter.format(figure, include={"image/png"})
    assert b64decode(changed["image/png"]) != png_path.read_bytes()


def test_saved_figures_are_png_and_svg_and_equal_each_time(tmp_path):
    first = style.save_figure(draw("strata"), tmp_path / "one" / "04_strata.v2")
    second = style.save_figure(draw("strata"), tmp_path / "two" / "04_strata.v2")
    assert [path.name for path in first] == ["04_strata.v2.png", "04_strata.v2.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in first[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [p.name for p in first]


EMPTY_DATA = {
    "no annotations": (
        lambda: data_figures.plot_category_counts(ANNOTATIONS.iloc[:0], source=SOURCE),
        "no annotations; expected at least one",
    ),
    "no areas": (
        lambda: data_figures.plot_area_histogram(ANNOTATIONS.iloc[3:4], source=SOURCE),
        "no annotations with an area",
    ),
    "no garments": (
        lambda: score_figures.plot_class_extremes({}, source=SOURCE),
        "no class has a photo; expected",
    ),
    "no scores": (
        lambda: score_figures.plot_image_score_histogram([np.nan], source=SOURCE),
        "no scores; expected",
    ),
}


@pytest.mark.parametrize(("call", "message"), EMPTY_DATA.values(), ids=EMPTY_DATA)
def test_data_with_nothing_to_draw_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_long_names_leave_room_for_what_they_name():
    names = ["a name that is far too long " * 3 + end for end in ("one", "two")]
    table = ANNOTATIONS.iloc[:2].assign(supercategory=names)
    axes = data_figures.plot_supercategory_counts(table, source="mine").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1, 1]
    assert {len(label.get_text()) for label in axes.get_yticklabels()} == {40}


def test_names_are_no_formulas():
    names = ["_top", "a $x_{ $ b", "50 $ or $5"]
    categories = [SimpleNamespace(id=i, name=n, supercategory="") for i, n in enumerate(names)]
    table = class_table("supercategory", categories)
    figure = data_figures.plot_class_shares(np.arange(1, 5), table, source="mine $x_{ $")
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == list(table.names)
    legend = style.legend_patches(names, table.colors[1:] / 255)
    assert [patch.get_label() for patch in legend] == names


@pytest.mark.parametrize("name", ["$\\frac{x$", "a $ b $ c", "\\input{no}", "上衣", "{a} %s \\$"])
def test_a_name_is_drawn_as_it_stands_and_nothing_is_said_about_it(name, tmp_path):
    """Dollars begin no formula, which would change the name or fail; unknown letters are boxes."""

    @style.styled
    def plot():
        figure = style.new_figure(2, f"source {name}")
        axes = figure.subplots()
        axes.barh([name, "other"], [1, 2], label=name)
        axes.set_title(name)
        style.legend_above(axes)
        return figure

    figure = plot()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        style.save_figure(figure, tmp_path / "a", caption=name)
    assert not said
    axes = figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == axes.get_title(loc="left") == name
    assert {text.get_parse_math() for text in figure.findobj(Text)} == {False}


def test_log_axes_name_their_powers_without_a_formula():
    areas = ANNOTATIONS.assign(area_px=10.0 ** np.arange(len(ANNOTATIONS)))
    axes = data_figures.plot_area_histogram(areas, source=SOURCE).axes[0]
    assert "10²" in [label.get_text() for label in axes.get_xticklabels()]
    axes.set_xlim(1.5e-3, 4e-3)  # so narrow that what lies between is named too
    formatter = axes.xaxis.get_minor_formatter()
    formatter.set_locs(axes.xaxis.get_minorticklocs())
    assert formatter(2e-3) == "2×10⁻³"
