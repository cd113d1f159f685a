"""Class ids never move, and colours stay apart for every reader."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from clothseg_utils.core.classes import IGNORE_INDEX, SUPERCATEGORY_NAMES, class_colors, class_table
from clothseg_utils.data.coco import annotation_path

SHIRT = SimpleNamespace(id=0, name="shirt, blouse", supercategory="upperbody")
SHOE = SimpleNamespace(id=23, name="shoe", supercategory="legs and feet")
ZIPPER = SimpleNamespace(id=36, name="zipper", supercategory="closures")

# Machado, Oliveira and Fernandes 2009, severity 1.0; they act on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
LINEAR_RGB_TO_XYZ = np.array(  # IEC 61966-2-1; white is D65
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def srgb_to_lab(colors, vision="normal"):
    """(n, 3) uint8 sRGB -> (n, 3) CIELAB under D65, as an eye with that vision sees them."""
    encoded = np.asarray(colors) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.transpose(VISION[vision])).clip(0, 1)
    ratios = seen @ LINEAR_RGB_TO_XYZ.T / LINEAR_RGB_TO_XYZ.sum(axis=1)
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def smallest_distance(colors, vision="normal"):
    lab = srgb_to_lab(colors, vision)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return distances[np.triu_indices(len(lab), k=1)].min()


def test_order_of_the_13_classes_is_pinned():
    assert ", ".join(SUPERCATEGORY_NAMES) == (
        "background, closures, upperbody, head, legs and feet, garment parts, arms and hands, "
        "decorations, neck, others, lowerbody, waist, wholebody"
    )
    assert IGNORE_INDEX == 255


def test_supercategory_scheme_reads_each_categorys_own_field():
    table = class_table("supercategory", [ZIPPER, SHIRT, SHOE])
    assert table.names == SUPERCATEGORY_NAMES
    assert table.num_classes == 13
    assert dict(table.class_of_category) == {0: 2, 23: 4, 36: 1}


def test_category_scheme_numbers_categories_by_id():
    table = class_table("category", [ZIPPER, SHIRT, SHOE])
    assert table.names == ("background", "shirt, blouse", "shoe", "zipper")
    assert table.num_classes == 4
    assert dict(table.class_of_category) == {0: 1, 23: 2, 36: 3}


def test_category_scheme_needs_no_known_supercategory():
    hat = SimpleNamespace(id=7, name="hat", supercategory="millinery")
    assert class_table("category", [hat]).names == ("background", "hat")


def category(category_id, name, supercategory):
    return SimpleNamespace(id=category_id, name=name, supercategory=supercategory)


@pytest.mark.parametrize(
    ("categories", "names", "class_of_category"),
    [
        # In the order of the smallest category id, not of the file.
        (
            [(9, "cap", "hats"), (2, "jeans", "bottoms"), (5, "beret", "hats"), (7, "tee", "tops")],
            ("bottoms", "hats", "tops"),
            {2: 1, 5: 2, 9: 2, 7: 3},
        ),
        # One that is not Fashionpedia's makes all of them the file's own.
        (
            [(0, "shirt", "upperbody"), (1, "hat", "millinery")],
            ("upperbody", "millinery"),
            {0: 1, 1: 2},
        ),
        # None: the name.
        (
            [(1, "tee", ""), (2, "jeans", "  "), (3, "socks", "feet")],
            ("tee", "jeans", "feet"),
            {1: 1, 2: 2, 3: 3},
        ),
        # One class in four spellings; the first stays.
        (
            [(1, "a", "Tops"), (2, "b", "tops "), (3, "c", "TOPS"), (4, "d", "tops")],
            ("Tops",),
            {1: 1, 2: 1, 3: 1, 4: 1},
        ),
        ([(1, "a", "Ja\u0308ckchen"), (2, "b", "j\u00e4ckchen")], ("J\u00e4ckchen",), {1: 1, 2: 1}),
    ],
)
def test_own_supercategories_are_classes_of_their_own(categories, names, class_of_category):
    table = class_table("supercategory", [category(*one) for one in categories])
    assert table.names == ("background", *names)
    assert len(table.colors) == table.num_classes == len(names) + 1
    assert table.class_of_category == class_of_category


def test_fashionpedias_names_in_another_case_are_fashionpedias_classes():
    table = class_table("supercategory", [category(3, "x", "Upperbody"), category(4, "", "NECK")])
    assert table.names == SUPERCATEGORY_NAMES
    assert table.class_of_category == {3: 2, 4: 8}


def test_categories_of_one_name_are_one_class_of_scheme_category():
    table = class_table("category", [category(1, "tee", "a"), category(2, "Tee ", "b")])
    assert table.names == ("background", "tee")


@pytest.mark.parametrize("name", ["background", "Background", "_background_"])
@pytest.mark.parametrize("scheme", ["supercategory", "category"])
def test_background_is_no_class_to_annotate(scheme, name):
    categories = [SHIRT, category(7, name, name)]
    with pytest.raises(ValueError, match=f'category 7 "{name}".* null for it in --classes'):
        class_table(scheme, categories)


@pytest.mark.parametrize("scheme", ["supercategory", "category"])
def test_class_without_a_name_is_refused(scheme):
    with pytest.raises(ValueError, match="category 7 has no name"):
        class_table(scheme, [SHIRT, category(7, " ", "")])


@pytest.mark.parametrize(("n_categories", "fits"), [(254, True), (255, False)])
def test_255_is_never_a_class(n_categories, fits):
    categories = [
        SimpleNamespace(id=i, name=f"c{i}", supercategory="") for i in range(n_categories)
    ]
    if fits:
        assert class_table("category", categories).num_classes == 255
    else:
        with pytest.raises(ValueError, match=r"256 classes do not fit a uint8 mask.*at most 255"):
            class_table("category", categories)


def test_table_carries_the_one_colour_table():
    table = class_table("supercategory", [SHIRT])
    np.testing.assert_array_equal(table.colors, class_colors(13))


@pytest.mark.parametrize("num_classes", [1, 2, 13, 14, 47, 255])
def test_colours_are_uint8_rows_that_start_with_background(num_classes):
    colors = class_colors(num_classes)
    assert colors.dtype == np.uint8
    assert colors.shape == (num_classes, 3)
    assert colors[0].tolist() == [32, 32, 32]


def test_lab_of_known_colours():
    """Reference values, D65: the distances below stand on them."""
    lab = srgb_to_lab([[255, 255, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]])
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [0, 0, 0]]
    np.testing.assert_allclose(lab, expected, atol=0.05)


@pytest.mark.parametrize("vision", VISION)
def test_13_colours_stay_apart_for_colour_blind_readers(vision):
    assert smallest_distance(class_colors(13), vision) >= 20


def test_47_colours_stay_apart():
    assert smallest_distance(class_colors(47)) >= 8


def test_every_long_table_starts_alike():
    """A taxonomy that grows keeps the colours of its first classes."""
    np.testing.assert_array_equal(class_colors(60)[:47], class_colors(47))


# --- from the file to the report -----------------------------------------------------------------


def test_own_names_go_from_the_file_through_the_checkpoint_to_the_scores(
    cli, synthetic_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    own = {"upperbody": "Top & more", "lowerbody": "Hose", "wholebody": "Top & more"}
    root = tmp_path / "own"
    shutil.copytree(synthetic_root, root)
    for split in ("train", "val"):
        path = annotation_path(root, split)
        file = json.loads(path.read_text())
        for record in file["categories"]:
            record["supercategory"] = own.get(record["supercategory"], "")
            record["name"] = record["name"] if record["supercategory"] else "small things"
        path.write_text(json.dumps(file))
    names = ["background", "Top & more", "Hose", "small things"]
    settings = ["data.image_size=32", f"run.outputs_root={tmp_path}", "train.max_epochs=1"]
    options = [word for setting in settings for word in ("--set", setting)]
    trained = cli("train", "--profile", "smoke", "--data-root", root, "--run-name", "x", *options)
    assert (trained.code, trained.err) == (0, "")
    best = tmp_path / "x/checkpoints/best.ckpt"
    scored = cli("evaluate", "--checkpoint", best, "--data-root", root, "--out", "scores")
    assert (scored.code, scored.err) == (0, "")
    assert list(json.loads((tmp_path / "scores/metrics.json").read_text())["per_class"]) == names
    photo = next((root / "test").iterdir())
    assert cli("predict", "--checkpoint", best, "--out", "masks", "--json", photo).code == 0
    found = json.loads((tmp_path / "masks" / f"{photo.stem}.json").read_text())["annotations"]
    assert {one["class_name"] for one in found} <= set(names)
    refused = cli("evaluate", "--checkpoint", best, "--data-root", synthetic_root, "--out", "no")
    assert refused.code != 0
    assert "only in the first: Top & more; Hose; small things" in refused.err
