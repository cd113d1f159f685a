"""The embedded dataset: its files, its masks, its variety, and that colour gives nothing away."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clothseg_utils import synthetic
from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES, SUPERCATEGORY_NAMES
from clothseg_utils.synthetic import annotate, draw, mask_to_segmentation, synthesize
from clothseg_utils.wardrobe import BEAD, COAT, DRESS, POCKET, SLEEVE, Canvas, Fabric

TRAIN_JSON = "instances_attributes_train2020.json"
VAL_JSON = "instances_attributes_val2020.json"


@pytest.fixture(scope="module")
def small_root(tmp_path_factory) -> Path:
    """10 train and 3 val photos, so two train photos of several people."""
    root = tmp_path_factory.mktemp("small") / "synthetic"
    return synthesize(root, train=10, val=3, seed=3, workers=1, progress=False)


@pytest.fixture(scope="module")
def full_root(tmp_path_factory) -> Path:
    """The default dataset's size: 240 train and 60 val photos."""
    root = tmp_path_factory.mktemp("full") / "synthetic"
    return synthesize(root, seed=0, workers=2, progress=False)


def read(root: Path, name: str = TRAIN_JSON) -> dict:
    return json.loads((root / name).read_text())


def file_hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation).astype(bool)


def paint(annotations: list[dict], value_of: dict[int, int] | None, shape: tuple) -> np.ndarray:
    """The straightforward loop: whole frames, largest first, equal areas by position."""
    painted = np.full(shape, -1)
    order = sorted(range(len(annotations)), key=lambda k: (-annotations[k]["area"], k))
    for k in order:
        category_id = annotations[k]["category_id"]
        inside = decode(annotations[k]["segmentation"], *shape)
        painted[inside] = category_id if value_of is None else value_of[category_id]
    return painted


# -- files ---------------------------------------------------------------------------------


def test_layout_is_fashionpedias_and_nothing_else(small_root):
    assert sorted(path.name for path in small_root.iterdir()) == [
        TRAIN_JSON,
        VAL_JSON,
        "test",
        "train",
    ]
    for name, folder, count in ((TRAIN_JSON, "train", 10), (VAL_JSON, "test", 3)):
        listed = [image["file_name"] for image in read(small_root, name)["images"]]
        assert len(set(listed)) == count
        assert sorted(path.name for path in (small_root / folder).iterdir()) == sorted(listed)


def test_stems_are_unique_over_both_splits(small_root):
    stems = [path.stem for path in small_root.rglob("*.jpg")]
    assert len(stems) == len(set(stems)) == 13


@pytest.mark.slow
def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    one, two = (
        synthesize(tmp_path / str(n), train=3, val=1, seed=3, workers=n, progress=False)
        for n in (1, 2)
    )
    assert len(file_hashes(one)) == 6
    assert file_hashes(one) == file_hashes(two)


def test_other_seed_draws_other_photos(small_root, tmp_path):
    other = synthesize(tmp_path / "other", train=2, val=1, seed=4, workers=1, progress=False)
    assert not set(file_hashes(other).values()) & set(file_hashes(small_root).values())


def test_photo_does_not_depend_on_how_many_are_drawn(small_root, tmp_path):
    fewer = synthesize(tmp_path / "fewer", train=2, val=1, seed=3, workers=1, progress=False)
    photos = {k: v for k, v in file_hashes(fewer).items() if k.endswith(".jpg")}
    assert len(photos) == 3
    assert photos.items() <= file_hashes(small_root).items()


def test_json_has_every_top_level_key_of_the_official_file(small_root):
    content = read(small_root)
    assert set(content) == {
        "info",
        "licenses",
        "categories",
        "attributes",
        "images",
        "annotations",
    }
    assert {"year", "version", "description", "contributor", "url", "date_created"} <= set(
        content["info"]
    )
    assert content["info"]["synthetic"] == {
        "drawing_version": synthetic.DRAWING_VERSION,
        "train": 10,
        "val": 3,
        "seed": 3,
    }
    assert {"id", "name", "url"} <= set(content["licenses"][0])
    assert {"id", "name", "supercategory", "level", "taxonomy_id"} <= set(content["attributes"][0])


def test_categories_are_the_46_of_12_supercategories(small_root):
    categories = read(small_root)["categories"]
    assert [category["id"] for category in categories] == list(range(46))
    assert {category["supercategory"] for category in categories} == set(SUPERCATEGORY_NAMES[1:])
    sizes = Counter(category["supercategory"] for category in categories)
    assert sizes == {
        "upperbody": 6,
        "lowerbody": 3,
        "wholebody": 4,
        "head": 3,
        "neck": 1,
        "arms and hands": 2,
        "waist": 1,
        "legs and feet": 4,
        "others": 3,
        "garment parts": 7,
        "closures": 2,
        "decorations": 10,
    }


def test_categories_equal_those_of_the_real_files(real_data):
    path = real_data / "fashionpedia_annotations" / TRAIN_JSON
    official = {row["id"]: row for row in json.loads(path.read_text())["categories"]}
    for index, (name, supercategory, taxonomy_id) in enumerate(FASHIONPEDIA_CATEGORIES):
        assert official[index]["name"] == name
        assert official[index]["supercategory"] == supercategory
        assert official[index]["taxonomy_id"] == taxonomy_id


def test_image_records_match_the_photos(small_root):
    images = read(small_root)["images"]
    for image in images:
        photo = cv2.imread(str(small_root / "train" / image["file_name"]))
        assert photo.shape[:2] == (image["height"], image["width"])
        short, long = sorted(photo.shape[:2])
        assert short >= 256
        assert long >= 384
        assert image["license"] == 1
    assert len({(image["width"], image["height"]) for image in images}) > 5


def test_every_fifth_scene_shows_two_to_four_people(small_root):
    counts = [image["person_count"] for image in read(small_root)["images"]]
    assert [index for index, count in enumerate(counts) if count > 1] == [4, 9]
    assert max(counts) <= 4


def test_annotation_records(small_root):
    content = read(small_root)
    image_ids = {image["id"] for image in content["images"]}
    attribute_ids = {attribute["id"] for attribute in content["attributes"]}
    assert {row["image_id"] for row in content["annotations"]} == image_ids
    assert all(row["iscrowd"] == 0 for row in content["annotations"])
    assert all(set(row["attribute_ids"]) <= attribute_ids for row in content["annotations"])
    assert any(row["attribute_ids"] for row in content["annotations"])
    ids = [
        row["id"]
        for name in (TRAIN_JSON, VAL_JSON)
        for row in read(small_root, name)["annotations"]
    ]
    assert len(ids) == len(set(ids))


def test_area_and_bbox_are_those_of_the_decoded_mask(small_root):
    content = read(small_root)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for row in content["annotations"]:
        mask = decode(row["segmentation"], *sizes[row["image_id"]])
        rows, columns = np.nonzero(mask)
        assert row["area"] == mask.sum() > 0
        left, top = columns.min(), rows.min()
        assert row["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]


def test_masks_come_as_polygons_of_one_or_more_parts_and_as_rle_with_holes(small_root):
    rows = read(small_root)["annotations"]
    parts = Counter(len(r["segmentation"]) for r in rows if isinstance(r["segmentation"], list))
    assert parts[1] > 0
    assert sum(count for number, count in parts.items() if number > 1) > 0
    encoded = [r["segmentation"] for r in rows if isinstance(r["segmentation"], dict)]
    assert encoded
    assert all(isinstance(rle["counts"], str) for rle in encoded)
    holes = 0
    for rle in encoded:
        outside = (1 - coco_mask.decode(rle)).astype(np.uint8)
        padded = np.pad(outside, 1, constant_values=1)
        holes += cv2.connectedComponents(padded, connectivity=4)[0] > 2
    assert holes / len(encoded) > 0.9


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore:Exception ignored in")  # its own
def test_files_open_in_the_official_api(small_root, capsys):
    fashionpedia = pytest.importorskip("fashionpedia.fp")
    api = fashionpedia.Fashionpedia(str(small_root / TRAIN_JSON))
    assert "Done" in capsys.readouterr().out
    assert len(api.getCatIds()) == 46
    assert len(api.getImgIds()) == 10
    sleeves = api.loadAnns(api.getAnnIds(catIds=[SLEEVE]))
    assert sleeves
    assert all(api.annToMask(row).sum() == row["area"] for row in sleeves)
    assert api.getAttIds(attNms=["set-in sleeve"]) == [204]
    assert api.getAnnIds(catIds=[SLEEVE], attIds=[204]) == [row["id"] for row in sleeves]


# -- the folder ----------------------------------------------------------------------------


def test_complete_dataset_is_left_as_it_is(small_root, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in small_root.rglob("*")}
    monkeypatch.setattr(synthetic, "draw", None)  # drawing again would fail
    assert synthesize(small_root, train=10, val=3, seed=3, workers=1, progress=False) == small_root
    assert {path: path.stat().st_mtime_ns for path in small_root.rglob("*")} == before


def test_dataset_of_another_seed_is_not_overwritten(small_root):
    with pytest.raises(ValueError, match=r"synthetic is not empty.* seed 5.*another folder"):
        synthesize(small_root, train=10, val=3, seed=5, progress=False)


def test_dataset_that_lost_a_photo_is_refused(tmp_path):
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1, progress=False)
    next((root / "train").iterdir()).unlink()
    with pytest.raises(ValueError, match="is not this synthetic dataset"):
        synthesize(root, train=1, val=1, workers=1, progress=False)


@pytest.mark.parametrize("content", ["", "[]", '{"info": {}}', '{"info": {"synthetic": {}}}'])
def test_foreign_folder_is_refused_and_kept(tmp_path, content):
    (tmp_path / TRAIN_JSON).write_text(content)
    with pytest.raises(ValueError, match="is not empty"):
        synthesize(tmp_path, train=1, val=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [TRAIN_JSON]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        synthesize(tmp_path / "a", train=1, val=1, progress=False)
    assert (tmp_path / "a").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1, progress=False)
    assert (root / VAL_JSON).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(seed, split_index, image_index):
        if image_index == 1:
            raise error
        return draw(seed, split_index, image_index)

    monkeypatch.setattr(synthetic, "draw", fail)
    with pytest.raises(error):
        synthesize(tmp_path / "a", train=2, val=1, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_dataset_that_another_process_finished_first_is_kept(tmp_path, monkeypatch):
    really_draw = synthetic._draw_splits

    def draw_while_another_finishes(unfinished, *arguments):
        really_draw(unfinished, *arguments)
        shutil.copytree(unfinished, tmp_path / "a")

    monkeypatch.setattr(synthetic, "_draw_splits", draw_while_another_finishes)
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1, progress=False)
    assert (root / VAL_JSON).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0}, "train is 0; expected 1 or more"),
        ({"val": 0}, "val is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"workers": -1}, "workers is -1; expected 0 or more"),
    ],
)
def test_bad_argument_is_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        synthesize(tmp_path / "a", **arguments)
    assert list(tmp_path.iterdir()) == []


# -- masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("image_index", [0, 4, 9, 21, 25])  # 4 and 9 show several people
def test_painting_the_annotations_gives_the_picture(image_index):
    drawing = draw(7, 0, image_index)
    painted = paint(drawing.annotations, None, drawing.category_map.shape)
    np.testing.assert_array_equal(painted, drawing.category_map)


def rectangle(canvas: Canvas, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return canvas.cover(
        np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)
    )


@pytest.fixture
def canvas() -> Canvas:
    return Canvas(np.zeros((40, 40, 3), np.float32), np.random.default_rng(0))


CLOTH = Fabric(np.full(3, 120, np.float32))


def test_bead_on_a_coat_does_not_cut_the_coat(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 35, 35), CLOTH, coat)
    bead = canvas.add_layer(BEAD, coat)
    canvas.paint(rectangle(canvas, 18, 18, 22, 22), CLOTH, bead)
    category_map, rows = annotate(canvas)
    assert [row["category_id"] for row in rows] == [COAT, BEAD]
    coat_mask = decode(rows[0]["segmentation"], 40, 40)
    assert coat_mask[20, 20]
    assert category_map[20, 20] == BEAD
    assert category_map[10, 10] == COAT
    assert category_map[0, 0] == -1


def test_large_thing_in_front_cuts_the_small_thing_behind(canvas):
    dress = canvas.add_layer(DRESS)
    canvas.paint(rectangle(canvas, 5, 5, 12, 30), CLOTH, dress)
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 9, 5, 38, 38), CLOTH, coat)
    category_map, rows = annotate(canvas)
    # by area the dress would be painted last, over the coat that hides half of it
    assert rows[0]["area"] < rows[1]["area"]
    assert not (
        decode(rows[0]["segmentation"], 40, 40) & decode(rows[1]["segmentation"], 40, 40)
    ).any()
    np.testing.assert_array_equal(paint(rows, None, (40, 40)), category_map)
    assert category_map[10, 20] == COAT
    assert category_map[10, 6] == DRESS


def test_pocket_larger_than_what_is_left_of_its_coat_stays_visible(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 25, 25), CLOTH, coat)
    pocket = canvas.add_layer(POCKET, coat)
    canvas.paint(rectangle(canvas, 4, 4, 24, 35), CLOTH, pocket)
    category_map, rows = annotate(canvas)
    np.testing.assert_array_equal(paint(rows, None, (40, 40)), category_map)
    assert category_map[10, 10] == POCKET


def test_sleeve_belongs_to_the_mask_of_its_garment(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 15, 5, 25, 35), CLOTH, coat)
    sleeve = canvas.add_layer(SLEEVE, coat, sewn=True)
    canvas.paint(rectangle(canvas, 26, 5, 34, 15), CLOTH, sleeve)
    _, rows = annotate(canvas)
    assert decode(rows[0]["segmentation"], 40, 40)[10, 30]


def test_what_hardly_shows_is_not_annotated(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 35, 35), CLOTH, coat)
    bead = canvas.add_layer(BEAD, coat)
    canvas.paint(rectangle(canvas, 18, 18, 20, 20), CLOTH, bead)
    canvas.paint(rectangle(canvas, 19, 10, 30, 30), CLOTH, coat)
    category_map, rows = annotate(canvas)
    assert [row["category_id"] for row in rows] == [COAT]
    assert (category_map[5:35, 5:35] == COAT).all()


MASKS = {
    "one pixel": ["...", ".#.", "..."],
    "corner pixel": ["#..", "...", "..."],
    "row": ["....", "####", "...."],
    "column": [".#.", ".#.", ".#."],
    "diagonal": ["#...", ".#..", "..#.", "...#"],
    "stairs": ["#...", "##..", ".##.", "..##"],
    "whole frame": ["###", "###"],
    "two parts": ["##..#", "##..#", "....#"],
    "parts that touch at a corner": ["##..", "##..", "..##", "..##"],
}


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_mask_without_a_hole_is_written_exactly(rows):
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    segmentation, encoded = mask_to_segmentation(mask)
    np.testing.assert_array_equal(decode(segmentation, *mask.shape), mask)
    assert coco_mask.area(encoded) == mask.sum()


def test_two_parts_are_one_annotation_of_two_polygons():
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = mask[12:18, 5:15] = True
    segmentation, _ = mask_to_segmentation(mask)
    assert isinstance(segmentation, list)
    assert len(segmentation) == 2
    assert all(len(polygon) == 8 for polygon in segmentation)  # four corners each


def test_mask_with_a_hole_is_rle():
    mask = np.ones((5, 6), bool)
    mask[2, 3] = False
    segmentation, _ = mask_to_segmentation(mask)
    assert segmentation["size"] == [5, 6]
    np.testing.assert_array_equal(decode(segmentation, 5, 6), mask)


def test_any_mask_is_written_exactly():
    rng = np.random.default_rng(0)
    for smoothness in (0.6, 1.5, 3.0):
        for _ in range(20):
            mask = cv2.GaussianBlur(rng.normal(size=(45, 33)), (0, 0), smoothness) > 0
            segmentation, _ = mask_to_segmentation(mask)
            np.testing.assert_array_equal(decode(segmentation, 45, 33), mask)


# -- variety -------------------------------------------------------------------------------


def test_all_13_classes_occur(small_root):
    content = read(small_root)
    supercategory = {row["id"]: row["supercategory"] for row in content["categories"]}
    shown = {supercategory[row["category_id"]] for row in content["annotations"]}
    assert shown == set(SUPERCATEGORY_NAMES[1:])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_100_photos_of_any_seed_hold_all_categories_and_both_encodings(seed):
    shown, encodings = set(), set()
    for image_index in range(100):
        for row in draw(seed, 0, image_index).annotations:
            shown.add(row["category_id"])
            encodings.add(type(row["segmentation"]))
    assert shown == set(range(46))
    assert encodings == {list, dict}


@pytest.mark.slow
def test_a_fifth_of_the_default_scenes_show_several_people(full_root):
    for name, several in ((TRAIN_JSON, 48), (VAL_JSON, 12)):
        counts = Counter(image["person_count"] for image in read(full_root, name)["images"])
        assert set(counts) == {0, 1, 2, 3, 4}
        assert counts[2] + counts[3] + counts[4] == several


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_class_cannot_be_read_from_colour(full_root, balanced):
    """The best guess from a pixel's RGB alone, in 16 steps per channel, scores under 0.15."""
    train, val = (
        colour_counts(full_root, *split) for split in ((TRAIN_JSON, "train"), (VAL_JSON, "test"))
    )
    weights = train / train.sum(axis=1, keepdims=True) if balanced else train
    guess = weights.argmax(axis=0)  # (4096,) class id for every colour
    confusion = np.zeros((13, 13))
    for predicted in range(13):
        confusion[:, predicted] = val[:, guess == predicted].sum(axis=1)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)
    assert iou.mean() < 0.15


def colour_counts(root: Path, name: str, folder: str) -> np.ndarray:
    """Count pixels by class and colour, (13, 4096)."""
    content = read(root, name)
    class_of = {
        row["id"]: SUPERCATEGORY_NAMES.index(row["supercategory"]) for row in content["categories"]
    }
    by_image: dict[int, list[dict]] = {}
    for row in content["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)
    counts = np.zeros(13 * 4096)
    for image in content["images"]:
        photo = cv2.imread(str(root / folder / image["file_name"])).astype(int) // 16
        color = photo[..., 0] * 256 + photo[..., 1] * 16 + photo[..., 2]
        rows = by_image.get(image["id"], [])
        mask = np.maximum(paint(rows, class_of, (image["height"], image["width"])), 0)
        counts += np.bincount((mask * 4096 + color).ravel(), minlength=13 * 4096)
    return counts.reshape(13, 4096)
