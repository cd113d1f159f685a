"""The embedded dataset: its files, its variety, and that colour gives nothing away."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from test_drawing_annotate import decode, paint

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES, SUPERCATEGORY_NAMES
from clothseg_utils.drawing import dataset
from clothseg_utils.drawing.dataset import draw, synthesize
from clothseg_utils.drawing.ids import SLEEVE

TRAIN_JSON = "instances_attributes_train2020.json"
VAL_JSON = "instances_attributes_val2020.json"


@pytest.fixture(scope="module")
def small_root(tmp_path_factory) -> Path:
    """10 train and 3 val photos, so two train photos of several people."""
    root = tmp_path_factory.mktemp("small") / "synthetic"
    return synthesize(root, train=10, val=3, seed=3, workers=1)


@pytest.fixture(scope="module")
def full_root(tmp_path_factory) -> Path:
    """The default dataset's size: 240 train and 60 val photos."""
    root = tmp_path_factory.mktemp("full") / "synthetic"
    return synthesize(root, seed=0, workers=2)


def read(root: Path, name: str = TRAIN_JSON) -> dict:
    return json.loads((root / name).read_text())


def file_hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# -- files ---------------------------------------------------------------------------------


def test_layout_is_fashionpedias_and_nothing_else(small_root):
    names = sorted(path.name for path in small_root.iterdir())
    assert names == [TRAIN_JSON, VAL_JSON, "test", "train"]
    for name, folder, count in ((TRAIN_JSON, "train", 10), (VAL_JSON, "test", 3)):
        listed = [image["file_name"] for image in read(small_root, name)["images"]]
        assert len(set(listed)) == count
        assert sorted(path.name for path in (small_root / folder).iterdir()) == sorted(listed)


def test_stems_are_unique_over_both_splits(small_root):
    stems = [path.stem for path in small_root.rglob("*.jpg")]
    assert len(stems) == len(set(stems)) == 13


@pytest.mark.slow
def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    one, two = (synthesize(tmp_path / str(n), train=3, val=1, seed=3, workers=n) for n in (1, 2))
    assert len(file_hashes(one)) == 6
    assert file_hashes(one) == file_hashes(two)


def test_other_seed_draws_other_photos(small_root, tmp_path):
    other = synthesize(tmp_path / "other", train=2, val=1, seed=4, workers=1)
    assert not set(file_hashes(other).values()) & set(file_hashes(small_root).values())


def test_photo_does_not_depend_on_how_many_are_drawn(small_root, tmp_path):
    fewer = synthesize(tmp_path / "fewer", train=2, val=1, seed=3, workers=1)
    photos = {k: v for k, v in file_hashes(fewer).items() if k.endswith(".jpg")}
    assert len(photos) == 3
    assert photos.items() <= file_hashes(small_root).items()


def test_json_has_every_top_level_key_of_the_official_file(small_root):
    content = read(small_root)
    keys = {"info", "licenses", "categories", "attributes", "images", "annotations"}
    assert set(content) == keys
    keys = {"year", "version", "description", "contributor", "url", "date_created"}
    assert keys <= set(content["info"])
    assert content["info"]["synthetic"] == {
        "drawing_version": dataset.DRAWING_VERSION,
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
    monkeypatch.setattr(dataset, "draw", None)  # drawing again would fail
    assert synthesize(small_root, train=10, val=3, seed=3, workers=1) == small_root
    assert {path: path.stat().st_mtime_ns for path in small_root.rglob("*")} == before


def test_dataset_of_another_seed_is_not_overwritten(small_root):
    with pytest.raises(ValueError, match=r"synthetic is not empty.* seed 5.*another folder"):
        synthesize(small_root, train=10, val=3, seed=5)


def test_dataset_that_lost_a_photo_is_refused(tmp_path):
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1)
    next((root / "train").iterdir()).unlink()
    with pytest.raises(ValueError, match="is not this synthetic dataset"):
        synthesize(root, train=1, val=1, workers=1)


@pytest.mark.parametrize("content", ["", "[]", '{"info": {}}', '{"info": {"synthetic": {}}}'])
def test_foreign_folder_is_refused_and_kept(tmp_path, content):
    (tmp_path / TRAIN_JSON).write_text(content)
    with pytest.raises(ValueError, match="is not empty"):
        synthesize(tmp_path, train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == [TRAIN_JSON]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        synthesize(tmp_path / "a", train=1, val=1)
    assert (tmp_path / "a").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1)
    assert (root / VAL_JSON).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(seed, split_index, image_index):
        if image_index == 1:
            raise error
        return draw(seed, split_index, image_index)

    monkeypatch.setattr(dataset, "draw", fail)
    with pytest.raises(error):
        synthesize(tmp_path / "a", train=2, val=1, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_dataset_that_another_process_finished_first_is_kept(tmp_path, monkeypatch):
    really_draw = dataset._draw_splits

    def draw_while_another_finishes(unfinished, *arguments):
        really_draw(unfinished, *arguments)
        shutil.copytree(unfinished, tmp_path / "a")

    monkeypatch.setattr(dataset, "_draw_splits", draw_while_another_finishes)
    root = synthesize(tmp_path / "a", train=1, val=1, workers=1)
    assert (root / VAL_JSON).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


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
        mask = np.maximum(paint(rows, (image["height"], image["width"]), class_of), 0)
        counts += np.bincount((mask * 4096 + color).ravel(), minlength=13 * 4096)
    return counts.reshape(13, 4096)
