"""Tests of `data.convert`: own photos and their labels become a dataset like any other."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from clothseg_utils.core.config import Config, DataConfig
from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.conversion import (
    Conversion,
    conversion_changes,
    read_conversion,
)
from clothseg_utils.data.masks import rasterize_split
from clothseg_utils.data.splits import load_split, load_training_splits
from clothseg_utils.intake import convert, own_photos
from clothseg_utils.intake.convert import convert_photos
from clothseg_utils.workflow.pipeline import NOTEBOOKS, check_inputs

CLASSES = {"T-shirt": "upperbody", "jeans": "lowerbody", "person": None}
SQUARE = [[2, 3, 7, 3, 7, 8, 2, 8]]  # 5 x 5 pixels
WIDTH, HEIGHT = 20, 16


def annotation(annotation_id: int, image_id: int, category_id: int, **changes) -> dict:
    record = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": SQUARE,
        "area": 25,
        "bbox": [2, 3, 5, 5],
    }
    return record | changes


def content(n_photos: int = 5, **changes) -> dict:
    """A COCO file of other categories: T-shirts on all photos, jeans and a person on the first."""
    file = {
        "images": [
            {"id": i, "file_name": f"p{i}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(1, n_photos + 1)
        ],
        "categories": [
            {"id": 3, "name": "T-shirt", "supercategory": "clothes"},
            {"id": 90, "name": "jeans", "supercategory": "clothes"},
            {"id": 1, "name": "person"},
        ],
        "annotations": [annotation(i, i, 3) for i in range(1, n_photos + 1)],
    }
    file["annotations"] += [annotation(50, 1, 90), annotation(51, 1, 1)]
    return file | changes


def noise(seed: str) -> bytes:
    """A JPEG of noise, another one for each seed."""
    pixels = np.random.default_rng(sum(map(ord, seed))).integers(0, 256, (HEIGHT, WIDTH, 3))
    return cv2.imencode(".jpg", pixels.astype(np.uint8))[1].tobytes()


class Own:
    """A user's folder: `photos/`, `own.json`, `classes.json`; `out` is where the dataset goes."""

    def __init__(self, folder: Path) -> None:
        self.photos = folder / "photos"
        self.photos.mkdir()
        self.coco_file = folder / "own.json"
        self.classes_file = folder / "classes.json"
        self.out = folder / "out"
        for number in range(1, 6):
            self.add_photo(f"p{number}.jpg")
        self.write(content())
        self.classes_file.write_text(json.dumps(CLASSES))

    def add_photo(self, name: str) -> Path:
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 99, np.uint8))
        return path

    def write(self, file: dict) -> None:
        self.coco_file.write_text(json.dumps(file))

    def convert(self, **options) -> Conversion:
        options = {"annotations": [self.coco_file], "classes_file": self.classes_file} | options
        return convert_photos(self.photos, self.out, **options)

    def convert_from(self, photos: Path) -> Conversion:
        return convert_photos(photos, self.out, annotations=[self.coco_file])

    def both(self, key: str) -> list[dict]:
        """Records of the dataset made, train before val."""
        splits = [json.loads(annotation_path(self.out, s).read_text()) for s in ("train", "val")]
        return [record for split in splits for record in split[key]]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


# --- what is made --------------------------------------------------------------------------------


def test_categories_keep_their_names_and_get_a_class(own):
    made = own.convert()
    assert made.categories == {"T-shirt": "upperbody", "jeans": "lowerbody"}
    assert not made.by_category
    for split in ("train", "val"):
        coco = read_annotations(annotation_path(own.out, split))
        assert [(c.id, c.name, c.supercategory) for c in coco.categories] == [
            (3, "T-shirt", "upperbody"),
            (90, "jeans", "lowerbody"),
        ]
        assert not coco.is_synthetic
        assert audit(coco, image_dir=images_dir(own.out, split)).problems == []


def test_category_without_a_class_is_left_out_and_counted(own):
    made = own.convert()
    assert made.annotations == 6
    assert made.count("annotations left out, of categories to leave out") == 1
    assert {record["category_id"] for record in own.both("annotations")} == {3, 90}


def test_background_in_the_mapping_means_to_leave_out(own):
    own.classes_file.write_text(json.dumps(CLASSES | {"person": "background"}))
    assert own.convert().count("annotations left out, of categories to leave out") == 1


def test_without_a_mapping_the_files_supercategories_stay(own):
    made = own.convert(classes_file=None)
    assert made.categories == {"T-shirt": "clothes", "jeans": "clothes", "person": "person"}
    assert made.by_category
    assert made.annotations == 7


def test_photos_are_the_users_own_bytes_in_one_split_each(own):
    made = own.convert(val_share=0.4)
    assert made.photos == {"train": 3, "val": 2}
    files = {
        split: {path.name for path in images_dir(own.out, split).iterdir()}
        for split in ("train", "val")
    }
    assert files["train"] | files["val"] == {f"p{i}.jpg" for i in range(1, 6)}
    assert not files["train"] & files["val"]
    for split, names in files.items():
        for name in names:
            copied = images_dir(own.out, split) / name
            assert copied.read_bytes() == (own.photos / name).read_bytes()


def test_split_does_not_depend_on_the_order_of_the_file(own, tmp_path):
    own.convert()
    first = {path.name for path in images_dir(own.out, "val").iterdir()}
    file = content()
    own.write(file | {"images": file["images"][::-1]})
    own.convert()
    assert {path.name for path in images_dir(own.out, "val").iterdir()} == first


@pytest.mark.parametrize(
    ("n_photos", "share", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.9, 4)]
)
def test_each_split_has_a_photo_with_annotations(own, n_photos, share, expected):
    own.write(content(n_photos))
    made = own.convert(val_share=share)
    assert made.photos == {"train": n_photos - expected, "val": expected}


def test_missing_area_and_box_are_measured(own):
    file = content()
    for record in file["annotations"]:
        del record["area"], record["bbox"]
    run_lengths = [WIDTH * HEIGHT - 4, 4]  # the last 4 pixels of the last column
    rle = {"size": [HEIGHT, WIDTH], "counts": run_lengths}
    file["annotations"][0]["segmentation"] = rle
    own.write(file)
    own.convert()
    measured = {r["id"]: (r["area"], r["bbox"]) for r in own.both("annotations")}
    assert measured[1] == (4, [19, 12, 1, 4])
    assert measured[2] == (25, [2, 3, 5, 5])


def test_missing_sizes_come_from_the_photos(own):
    file = content()
    for image in file["images"]:
        del image["width"], image["height"]
    own.write(file)
    own.convert()
    assert {(image["width"], image["height"]) for image in own.both("images")} == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize("ids", [[None] * 7, [1] * 7, [-1, 2, 3, 4, 5, 6, 7]])
def test_annotations_without_usable_ids_are_numbered(own, ids):
    file = content()
    for record, new_id in zip(file["annotations"], ids, strict=True):
        record["id"] = new_id
    own.write(file)
    own.convert()
    numbers = [record["id"] for record in own.both("annotations")]
    assert len(set(numbers)) == 6
    assert min(numbers) >= 0


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_boxes_without_a_mask_are_left_out_and_counted(own, segmentation):
    file = content()
    file["annotations"][0]["segmentation"] = segmentation
    own.write(file)
    made = own.convert()
    assert made.count("annotations left out, a box only") == 1
    assert made.annotations == 5
    with pytest.raises(ValueError, match="annotations left out, a box only: annotation 1 of p1"):
        own.convert(strict=True)


def test_photo_whose_only_annotation_is_lost_is_no_background(own):
    file = content()
    file["annotations"][1] |= {"segmentation": [[1, 1, 5, 5]]}
    own.write(file)
    made = own.convert()
    assert sum(made.photos.values()) == 4
    assert "photos left out, as all their annotations are: 1 (p2.jpg)" in made.summary()


def test_folders_become_part_of_the_name(own):
    own.add_photo("a/1.jpg")
    own.add_photo("b/1.jpg")
    file = content(2)
    file["images"][0]["file_name"] = "a/1.jpg"
    file["images"][1]["file_name"] = "b\\1.jpg"
    own.write(file)
    own.convert()
    assert {image["file_name"] for image in own.both("images")} == {"a__1.jpg", "b__1.jpg"}


@pytest.mark.parametrize("prefix", ["/home/other/photos/", "../photos/", "photos/"])
def test_folders_of_the_exporting_machine_do_not_matter(own, prefix):
    file = content()
    for image in file["images"]:
        image["file_name"] = prefix + image["file_name"]
    own.write(file)
    assert own.convert().count("photos") == 0
    assert all(path.parent.parent == own.out for path in own.out.glob("*/*.jpg"))


def test_missing_photos_are_named_and_other_photos_counted(own):
    (own.photos / "p2.jpg").unlink()
    own.add_photo("more/q.jpg")
    made = own.convert()
    assert sum(made.photos.values()) == 4
    summary = made.summary()
    assert "photos left out, not in the folder: 1 (p2.jpg" in summary
    assert "photos in the folder that no file names, not used: 1" in summary


def test_summary_says_what_became_of_it(own):
    file = content()
    file["annotations"] = file["annotations"][2:]  # the first photo keeps its jeans
    own.write(file)
    assert own.convert().summary().splitlines() == [
        "4 train and 1 val photos, 4 annotations in 2 categories",
        "few val photos: expect wide intervals around every score",
        "upperbody: T-shirt",
        "lowerbody: jeans",
        "categories left out by --classes: 1 (person)",
        "annotations left out, of categories to leave out: 1",
        "photos without annotations, taken as all background: 1 (p2.jpg)",
        "groups of copies of one source: 0",
        "classes in val or test of which no train photo has any: 1 (lowerbody)",
    ]


def test_record_lists_every_name_and_is_found_from_the_dataset(own):
    for number in range(10, 30):
        own.add_photo(f"p{number}.jpg")
    file = content(30)
    own.write(file)
    made = own.convert()
    assert read_conversion(own.out) == made
    (missing,) = [note for note in made.notes if "not in the folder" in note.text]
    assert len(missing.names) == missing.count == 5
    assert any("p6.jpg" in line and "and 2 more" in line for line in conversion_changes(own.out))


def test_what_was_lost_is_said_again_where_training_reads_the_dataset(own, tmp_path, capsys):
    (own.photos / "p2.jpg").unlink()
    own.convert()
    config = DataConfig(data_root=str(own.out), derived_root=str(tmp_path / "derived"))
    load_split(config, "train")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("convert: photos left out, not in the folder: 1") for line in lines)
    coco = read_annotations(annotation_path(own.out, "val"))
    assert any("not in the folder: 1" in line for line in audit(coco).summary().splitlines())


def test_training_asks_for_the_scheme_that_the_dataset_is_meant_for(own, tmp_path):
    own.convert(classes_file=None)  # T-shirt and jeans are both "clothes" in the file
    config = DataConfig(data_root=str(own.out), derived_root=str(tmp_path / "derived"))
    run = Config(data=config)
    message = "would learn clothes; person alone; expected --set data.scheme=category"
    with pytest.raises(ValueError, match=message):
        load_training_splits(config)
    with pytest.raises(ValueError, match=message):
        check_inputs(run, NOTEBOOKS)
    check_inputs(run, NOTEBOOKS[:2])
    train, _ = load_training_splits(config.model_copy(update={"scheme": "category"}))
    assert train.classes.names == ("background", "person", "T-shirt", "jeans")
    own.convert()
    assert load_training_splits(config)[0].classes.num_classes == 13
    own.write(content() | {"categories": [{"id": i, "name": f"c{i}"} for i in (1, 3, 90)]})
    assert own.convert(classes_file=None).by_category
    assert load_training_splits(config)[0].classes.num_classes == 4  # either scheme has them


def test_what_is_good_to_know_is_said_again_too(own):
    """Copies across given splits, photos taken as background, classes never learned."""
    for number in (1, 2):  # p1 and p2 are near-equal, the others are not
        (own.photos / f"p{number}.jpg").write_bytes(noise("same") + b"\0" * number)
    for number in (3, 4, 5):
        (own.photos / f"p{number}.jpg").write_bytes(noise(str(number)))
    train, val = content(), content()
    train["images"], val["images"] = train["images"][1:4], [train["images"][0], train["images"][4]]
    train["annotations"] = [annotation(2, 2, 3), annotation(3, 3, 3)]
    val["annotations"] = [annotation(1, 1, 90), annotation(5, 5, 3)]
    own.write(train)
    other = own.coco_file.with_name("other.json")
    other.write_text(json.dumps(val))
    own.convert(annotations=[f"train={own.coco_file}", f"val={other}"])
    for line in (
        "groups in several of the given splits, which are kept as given: 1 (p1.jpg)",
        "photos without annotations, taken as all background: 1 (p4.jpg)",
        "classes in val or test of which no train photo has any: 1 (lowerbody)",
    ):
        assert line in conversion_changes(own.out)
    own.convert()
    assert not any(line.startswith("classes in val") for line in conversion_changes(own.out))


def test_painting_order_follows_the_masks_not_the_area_of_the_file(own):
    """A tool wrote the area of the photo for the small one, which must stay visible."""
    large = [[0, 0, 20, 0, 20, 16, 0, 16]]
    file = content()
    file["annotations"] = [
        annotation(2 * i + n, i, category, segmentation=outline, area=area)
        for i in range(1, 6)
        for n, (category, outline, area) in enumerate([(3, SQUARE, 320), (90, large, 25)])
    ]
    own.write(file)
    own.convert()
    assert sorted({record["area"] for record in own.both("annotations")}) == [25, 320]
    index = rasterize_split(
        annotation_path(own.out, "train"), own.out.parent / "masks", "supercategory", workers=1
    )
    pixels = dict(zip(index.class_names, index.class_pixels.tolist(), strict=True))
    n_train = len(index.entries)
    assert (pixels["upperbody"], pixels["lowerbody"]) == (25 * n_train, 295 * n_train)


def test_areas_and_boxes_equal_pycocotools(own, tmp_path):
    """Moved, scaled and as they stand; by the workers too."""
    rng = np.random.default_rng(0)
    file = content()
    for record in file["annotations"]:
        corners = np.array([1, 1, 15, 2, 14, 13, 2, 14]) + rng.uniform(-2, 2, 8)
        record["segmentation"] = [corners.round(2).tolist()]
    for image in file["images"][:2]:
        image |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    own.write(file)
    own.convert()
    for split in ("train", "val"):
        coco = read_annotations(annotation_path(own.out, split), strict=True)
        for image in coco.images:
            for one in coco.annotations_of(image.id):
                parts = mask_api.frPyObjects(one.segmentation, image.height, image.width)
                code = mask_api.merge(parts)
                assert one.area == mask_api.area(code)
                assert one.bbox == tuple(mask_api.toBbox(code))


def test_a_photo_may_have_more_annotations_than_pycocotools_measures_at_once(own):
    """As `predict --coco --parts` writes them for a crowd."""
    many = [annotation(number, 1, 3) for number in range(100, 360)]
    for number, record in enumerate(many):  # equal ones would be taken once
        left, top = number % 16, number // 16 % 15
        record["segmentation"] = [[left, top, left + 2, top, left + 2, top + 1, left, top + 1]]
        record["segmentation"][0][2] += number / 1000
    own.write(content() | {"annotations": [*content()["annotations"], *many]})
    own.convert()
    assert len(own.both("annotations")) > 260


def test_drawn_photos_stay_marked_as_drawn(own):
    own.write(content() | {"info": {"description": "Synthetic people"}})
    own.convert()
    assert read_annotations(annotation_path(own.out, "val")).is_synthetic


def test_licences_of_the_photos_are_kept(own):
    file = content() | {"licenses": [{"id": 4, "name": "CC BY 4.0"}]}
    for image in file["images"]:
        image["license"] = 4
    own.write(file)
    own.convert()
    splits = [read_annotations(annotation_path(own.out, s)) for s in ("train", "val")]
    assert [audit(coco).licenses for coco in splits] == [{"CC BY 4.0": 4}, {"CC BY 4.0": 1}]


# --- several files -------------------------------------------------------------------------------


def test_two_files_become_one_dataset(own):
    """The same ids mean others in the second file; the second annotator labelled p1 too."""
    first, second = content(3), content(3)
    for image, name in zip(second["images"], ["p4.jpg", "p5.jpg", "p1.jpg"], strict=True):
        image["file_name"] = name
    second["categories"] = [{"id": 3, "name": "jeans "}, {"id": 7, "name": "t-shirt"}]
    larger = [[1, 1, 9, 1, 9, 9, 1, 9]]
    second["annotations"] = [annotation(i, i, 7, segmentation=larger) for i in (1, 2, 3)]
    own.write(first)
    other = own.coco_file.with_name("other.json")
    other.write_text(json.dumps(second))
    made = own.convert(annotations=[own.coco_file, other])
    assert made.photos == {"train": 4, "val": 1}
    assert made.categories == {"T-shirt": "upperbody", "jeans": "lowerbody"}
    assert made.annotations == 3 + 1 + 3
    assert made.count("photos listed more than once") == 1
    for key in ("images", "annotations"):
        ids = [record["id"] for record in own.both(key)]
        assert len(set(ids)) == len(ids)
    names = {image["id"]: image["file_name"] for image in own.both("images")}
    of_first = [r for r in own.both("annotations") if names[r["image_id"]] == "p1.jpg"]
    assert sorted(record["category_id"] for record in of_first) == [3, 3, 90]


@pytest.mark.parametrize("second", ["own.json", "link.json", "copy.json", "val=own.json"])
def test_file_given_twice_is_refused(own, second):
    folder = own.coco_file.parent
    (folder / "link.json").symlink_to(own.coco_file)
    shutil.copy(own.coco_file, folder / "copy.json")
    split, _, name = second.rpartition("=")
    given = f"{split}={folder / name}" if split else folder / name
    with pytest.raises(ValueError, match=r"(are one file|hold the same); expected each file once"):
        own.convert(annotations=[own.coco_file, given])


def test_annotations_that_are_there_twice_are_taken_once_and_counted(own):
    """In one file, in other spelling and in another one; another class or outline is another."""
    file = content()
    spelled = [[float(value) for value in SQUARE[0]]]
    nearly = [[*SQUARE[0][:-1], 8.25]]
    file["annotations"] += [
        annotation(60, 2, 3, area=7),
        annotation(61, 2, 3, segmentation=spelled, iscrowd=1),
        annotation(62, 2, 90),
        annotation(63, 2, 3, segmentation=nearly),
    ]
    own.write(file)
    other = own.coco_file.with_name("other.json")
    other.write_text(json.dumps(content(3) | {"annotations": [annotation(1, 3, 3)]}))
    made = own.convert(annotations=[own.coco_file, other])
    assert made.count("annotations left out that are there already") == 3
    assert made.annotations == 6 + 2
    own.convert(classes_file=None)
    assert {r["id"] for r in own.both("annotations")} == {1, 2, 3, 4, 5, 50, 51, 62, 63}


def test_given_splits_are_kept_and_equal_names_stay_apart(own):
    """Three folders with a 1.jpg and a 2.jpg each."""
    annotations = []
    for split in ("train", "valid", "test"):
        for number in (1, 2):
            own.add_photo(f"{split}/{number}.jpg").write_bytes(noise(f"{split}{number}"))
        file = content(2)
        for image in file["images"]:
            image["file_name"] = f"{image['id']}.jpg"
        path = own.coco_file.with_name(f"{split}.json")
        path.write_text(json.dumps(file))
        annotations.append(path)
    made = own.convert(annotations=annotations)
    assert made.photos == {"train": 2, "val": 2, "test": 2}
    assert len(list(images_dir(own.out, "test").iterdir())) == 4
    for split, folder in {"train": "train", "val": "valid", "test": "test"}.items():
        for image in json.loads(annotation_path(own.out, split).read_text())["images"]:
            copied = images_dir(own.out, split) / image["file_name"]
            number = image["file_name"][-5]
            assert copied.read_bytes() == (own.photos / folder / f"{number}.jpg").read_bytes()


def test_file_of_a_split_without_photos_is_said_and_no_hindrance(own):
    own.write(content())
    empty = own.photos.parent / "valid.json"
    empty.write_text(json.dumps(content() | {"images": [], "annotations": []}))
    made = own.convert(annotations=[f"train={own.coco_file}", f"val={empty}"])
    assert made.photos == {"train": 4, "val": 1}
    assert made.count("files that list no photo") == 1


def test_photo_of_two_splits_stays_in_the_later_one(own):
    own.write(content())
    val = own.coco_file.with_name("val.json")
    val.write_text(json.dumps(content(2)))
    made = own.convert(annotations=[f"train={own.coco_file}", val])
    assert made.photos == {"train": 3, "val": 2}
    assert made.count("photos left out of one split") == 2
    with pytest.raises(ValueError, match=r"photos left out of one split .*: p1\.jpg; expected"):
        own.convert(annotations=[f"train={own.coco_file}", val], strict=True)


def test_without_val_it_is_chosen_from_train_and_test_stays_apart(own):
    test = own.coco_file.with_name("rest.json")
    file = content(2)
    own.write(
        content()
        | {"images": content()["images"][2:], "annotations": content()["annotations"][2:5]}
    )
    test.write_text(json.dumps(file))
    made = own.convert(annotations=[own.coco_file, f"test={test}"])
    assert made.photos == {"train": 2, "val": 1, "test": 2}
    names = [
        i["file_name"] for i in json.loads(annotation_path(own.out, "test").read_text())["images"]
    ]
    assert sorted(names) == ["p1.jpg", "p2.jpg"]


def test_copies_of_one_source_are_on_one_side(own):
    file = content(5)
    file["images"] = [
        {
            "id": i,
            "file_name": f"shirt{i % 3}_jpg.rf.{i:032x}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
        }
        for i in range(1, 13)
    ]
    file["annotations"] = [annotation(i, i, 3) for i in range(1, 13)]
    for image in file["images"]:
        own.add_photo(image["file_name"])
    own.write(file)
    made = own.convert(val_share=0.3)
    assert made.photos == {"train": 8, "val": 4}
    sources = [
        {
            image["file_name"][:6]
            for image in json.loads(annotation_path(own.out, s).read_text())["images"]
        }
        for s in ("train", "val")
    ]
    assert not sources[0] & sources[1]
    assert "groups of copies of one source: 3 (of 12 photos)" in made.summary()


def test_photos_are_grouped_by_the_users_pattern(own):
    """By person, which is a folder."""
    file = content(5)
    for image, name in zip(file["images"], ["a/1", "a/2", "b/1", "b/2", "b/3"], strict=True):
        image["file_name"] = f"{name}.jpg"
        own.add_photo(image["file_name"])
    own.write(file)
    own.convert(group_by="^([a-z])/", val_share=0.5)
    val = json.loads(annotation_path(own.out, "val").read_text())["images"]
    assert len({image["file_name"][0] for image in val}) == 1
    with pytest.raises(ValueError, match="is no regular expression"):
        own.convert(group_by="(")


# --- again ---------------------------------------------------------------------------------------


def test_second_time_nothing_is_written(own):
    first = own.convert()
    before = {path: path.stat().st_mtime_ns for path in own.out.rglob("*")}
    assert own.convert() == first
    assert {path: path.stat().st_mtime_ns for path in own.out.rglob("*")} == before


@pytest.mark.parametrize("change", ["annotations", "classes", "share", "photo", "part"])
def test_change_makes_it_anew(own, change):
    first = own.convert()
    options = {}
    if change == "annotations":
        own.write(content() | {"info": {"description": "other"}})
    elif change == "classes":
        own.classes_file.write_text(json.dumps(CLASSES | {"jeans": "others"}))
    elif change == "share":
        options["val_share"] = 0.6
    elif change == "photo":
        own.add_photo("p1.jpg").write_bytes((own.photos / "p2.jpg").read_bytes() + b"\0")
    else:
        shutil.rmtree(images_dir(own.out, "val"))
    second = own.convert(**options)
    assert (second.recipe == first.recipe) is (change == "part")
    assert len(list(images_dir(own.out, "val").iterdir())) == second.photos["val"]
    assert [path.name for path in own.out.parent.glob(".*")] == []


@pytest.mark.parametrize("step", ["measure_parts", "_link_or_copy"])
def test_an_interruption_leaves_nothing_half(own, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    room = own_photos if step == "measure_parts" else convert
    monkeypatch.setattr(room, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        own.convert()
    assert {path.name for path in own.out.parent.iterdir()} == {
        "photos",
        "own.json",
        "classes.json",
    }


def test_folder_of_other_files_is_never_replaced(own):
    own.out.mkdir()
    (own.out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="out holds other files than `convert` makes; expected a"):
        own.convert()
    (own.out / "thesis.txt").unlink()
    own.convert()
    (own.out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="out holds other files than `convert` makes"):
        own.convert(val_share=0.5)
    assert (own.out / "thesis.txt").exists()


@pytest.mark.parametrize("place", ["thesis.txt", "train/mine.jpg", "test/sub/p1.jpg", "new/a.txt"])
def test_files_that_convert_did_not_write_are_never_deleted(own, place):
    own.convert()
    mine = own.out / place
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=rf"holds other files than .* \({place}\); expected a new"):
        own.convert(val_share=0.5)
    assert mine.read_text() == "mine"
    assert annotation_path(own.out, "val").is_file()


def test_what_a_file_manager_leaves_is_no_hindrance(own):
    own.convert()
    (own.out / "train" / ".DS_Store").touch()
    assert own.convert(val_share=0.6).photos == {"train": 2, "val": 3}


@pytest.mark.parametrize("source", ["photos", "links", "annotations", "classes", "masks"])
def test_sources_inside_the_folder_to_make_are_refused(own, source):
    """The dataset that is there would be replaced by a part of itself."""
    own.convert()
    before = sorted(own.out.rglob("*"))
    train = own.out / "train"
    options: dict = {"annotations": [annotation_path(own.out, "train")], "classes_file": None}
    photos = own.photos
    if source == "photos":
        photos = train
    elif source == "links":
        photos = own.photos.with_name("links")
        photos.mkdir()
        for path in train.iterdir():
            (photos / path.name).symlink_to(path)
        options["annotations"] = [own.coco_file]
    elif source == "classes":
        options |= {"annotations": [own.coco_file], "classes_file": own.out / "convert.json"}
    elif source == "masks":
        options = {"masks_dir": train}
    with pytest.raises(ValueError, match=r"lies in .*out, the folder to make, .* Name another"):
        convert_photos(photos, own.out, **options)
    assert sorted(own.out.rglob("*")) == before


def test_earlier_dataset_among_the_photos_is_left_alone(own):
    """Its photos are the same ones again, under the same names."""
    own.convert()
    folder = own.photos.parent
    (folder / "earlier").mkdir()
    own.out.rename(folder / "earlier" / "out")
    made = convert_photos(folder, own.out, annotations=[own.coco_file])
    assert sum(made.photos.values()) == 5
    assert made.count("photos") == 0
    of_masks = [folder / "earlier" / "out", folder / "masks"]
    of_masks[1].mkdir()
    for number in range(1, 6):
        mask = np.full((HEIGHT, WIDTH), 1, np.uint8)
        cv2.imwrite(str(of_masks[1] / f"p{number}.png"), mask)
    shutil.rmtree(own.out)
    made = convert_photos(folder, own.out, masks_dir=of_masks[1])
    assert made.count("photos left out") == made.count("masks left out") == 0


def test_links_to_one_file_are_one_photo(own):
    (own.photos / "more").mkdir()
    for number in range(1, 6):
        (own.photos / "more" / f"p{number}.jpg").hardlink_to(own.photos / f"p{number}.jpg")
    (own.photos / "a").mkdir()
    for place in (own.photos, own.photos / "more"):
        (place / "p1.jpg").rename(own.photos / "a" / f"{place.name}.jpg")
    file = content()
    file["images"][0]["file_name"] = "a/more.jpg"
    file["images"].append(file["images"][0] | {"id": 9, "file_name": "a/photos.jpg"})
    file["annotations"].append(annotation(99, 9, 90, segmentation=[[1, 1, 9, 1, 9, 9, 1, 9]]))
    for image in file["images"][1:5]:
        image["file_name"] = f"C:/{image['file_name']}"
    own.write(file)
    made = own.convert()
    assert sum(made.photos.values()) == 5
    assert made.annotations == 7
    assert made.count("photos left out") == 0
    assert made.count("photos in the folder that no file names") == 0


def test_photos_that_cannot_be_told_apart_are_shown_by_their_paths(own):
    for name in ("a/p1.jpg", "b/p1.jpg"):
        own.add_photo(name).write_bytes(noise(name))
    (own.photos / "p1.jpg").unlink()
    line = "photos left out, several fit the name: 1 (p1.jpg: a/p1.jpg or b/p1.jpg)"
    assert line in own.convert().summary()
    own.write(content(1))
    with pytest.raises(ValueError, match=r"none can be told: p1\.jpg: a/p1\.jpg or b/p1\.jpg; exp"):
        own.convert(val_share=0.5)


def test_error_says_what_was_noted_before_it(own):
    file = content()
    for record in file["annotations"]:
        record["segmentation"] = [[2.6, 3.6, 2.7, 3.6, 2.7, 3.7]]
    own.write(file)
    (own.photos / "p5.jpg").unlink()
    with pytest.raises(ValueError, match=r"^0 photos with usable annotations") as caught:
        own.convert()
    lost = "annotations left out that cover no pixel: 5 (annotation 1 of p1.jpg;"
    for noted in (
        lost,
        "categories left out by --classes: 1 (person)",
        "not in the folder: 1 (p5.jpg)",
    ):
        assert noted in str(caught.value)


def test_photos_together_by_a_pattern_are_not_called_copies_alone(own):
    for number in range(1, 6):
        (own.photos / f"p{number}.jpg").write_bytes(noise(str(number)))
    with pytest.raises(ValueError, match=r"in 1 group of copies of one source, and by \^p; expec"):
        own.convert(group_by="^p")


# --- most of it lost ----------------------------------------------------------------------------


def add_masks(own: Own, *names: str) -> Path:
    folder = own.photos.with_name("masks")
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2:9, 3:12] = 1
        cv2.imwrite(str(path), mask)
    return folder


@pytest.mark.parametrize(
    ("wrong", "deleted", "is_refused"),
    [
        ([1, 2, 3], [], True),  # three photos are there under other names
        ([1, 2], [], False),
        ([1, 2, 3], [1, 2, 3], False),  # labels of more photos than the user has
    ],
)
@pytest.mark.parametrize("labels", ["file", "masks"])
def test_labels_of_which_most_find_no_photo_are_refused(own, labels, wrong, deleted, is_refused):
    stems = [f"other{i}" if i in wrong else f"p{i}" for i in range(1, 6)]
    for number in deleted:
        (own.photos / f"p{number}.jpg").unlink()
    file = content()
    for image, stem in zip(file["images"], stems, strict=True):
        image["file_name"] = f"{stem}.jpg"
    own.write(file)
    options: dict = {}
    if labels == "masks":
        folder = add_masks(own, *(f"{stem}.png" for stem in stems))
        options = {"annotations": [], "masks_dir": folder, "classes_file": None}
    if is_refused:
        with pytest.raises(ValueError, match=r"3 of 5 .* fit no photo, .* 3 photos have no label"):
            own.convert(**options)
        return
    made = own.convert(**options)
    assert sum(made.photos.values()) == 5 - len(wrong)
    told = ("photos left out", "masks left out", "photos in the folder")
    assert sum(n.count for n in made.notes if n.text.startswith(told)) == (
        len(wrong) + (2 if not deleted else 0)
    )
    with pytest.raises(ValueError, match=r"leave out --strict|cannot be used"):
        own.convert(**options, strict=True)


@pytest.mark.parametrize(("n_wrong", "is_refused"), [(2, False), (3, True)])
@pytest.mark.parametrize("fault", ["shape", "broken"])
def test_photos_of_which_most_do_not_fit_are_refused(own, n_wrong, is_refused, fault):
    file = content()
    for number, image in enumerate(file["images"][:n_wrong], 1):
        if fault == "shape":
            image["width"] += 7
        else:
            (own.photos / f"p{number}.jpg").write_bytes(b"no photo")
    own.write(file)
    if is_refused:
        with pytest.raises(
            ValueError, match="3 of 5 photos cannot be read, or are of another shape"
        ):
            own.convert()
    else:
        assert sum(own.convert().photos.values()) == 3


def test_masks_of_given_splits_with_all_photos_in_one_folder_lose_nothing(own):
    names = ["train/p1.png", "train/p2.png", "valid/p3.png", "test/p4.png", "test/p5.png"]
    options = {"annotations": [], "masks_dir": add_masks(own, *names), "classes_file": None}
    made = own.convert(**options, strict=True)
    assert made.photos == {"train": 2, "val": 1, "test": 2}
    assert made.count("photos left out") == made.count("masks left out") == 0
    own.add_photo("more.jpg")
    made = own.convert(**options)
    assert "photos left out, without a mask of their name: 1 (more.jpg)" in made.summary()
    with pytest.raises(ValueError, match=r"without a mask of their name: more\.jpg"):
        own.convert(**options, strict=True)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"mask_names": "n.json"}, {"ignore_unknown": True}])
def test_options_of_masks_without_masks_are_refused(own, options):
    with pytest.raises(ValueError, match="no masks are given; expected --masks"):
        own.convert(**options)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_share_out_of_range_is_refused(own, share):
    with pytest.raises(ValueError, match=r"val_share is .*; expected above 0 and below 1"):
        own.convert(val_share=share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, r"own\.json"),
        ({"annotations": [annotation(1, 1, 3)]}, "1 photo with usable annotations in 1 group"),
        ({"annotations": []}, "0 photos with usable annotations"),
        ({"categories": [], "annotations": []}, "no category that can be a class"),
    ],
)
def test_bad_file_is_one_clear_error(own, changes, message):
    own.write(content() | changes)
    with pytest.raises(ValueError, match=message):
        own.convert()
    assert not own.out.exists()
    assert [path.name for path in own.out.parent.glob(".*")] == []


def test_masks_that_are_nearly_all_background_are_refused(own):
    file = content()
    for record in file["annotations"]:
        record["segmentation"] = [[2, 3, 3, 3, 3, 4, 2, 4]]  # one pixel
    own.write(file)
    with pytest.raises(ValueError, match="nearly nothing but background"):
        own.convert()
    assert not own.out.exists()


def test_folder_without_the_photos_is_refused(own, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        ValueError, match=r"no photo that .*own\.json names is in .*such as p1\.jpg"
    ):
        own.convert_from(empty)


def test_photos_that_would_share_a_mask_get_names_of_their_own(own):
    own.add_photo("p1.png")
    own.add_photo("P1_jpg.jpg")
    file = content()
    file["images"][1]["file_name"] = "p1.png"
    file["images"][2]["file_name"] = "P1_jpg.jpg"
    own.write(file)
    made = own.convert()
    names = [image["file_name"] for image in own.both("images")]
    assert len({Path(name).stem.casefold() for name in names}) == 5
    assert "photos renamed" in made.summary()


@pytest.mark.parametrize(
    "names",
    [
        [f"{'写' * 80}{n}.jpg" for n in range(5)],
        [f"{'x' * 245}{n}.png" for n in range(5)],
        [f"{'👗' * 40}/{'é' * 110}/{n}.jpg" for n in range(5)],
        ["写" * 79 + ending for ending in (".jpg", ".png", ".webp", "写.bmp", "写.tiff")],
        ["é" * 115 + ending for ending in (".jpg", ".JPG", ".png", "_jpg.jpg", "_jpg_2.jpg")],
        [f"{n}. {'a title ' * 25}é" for n in range(5)],
        ["12:30.jpg", "c:a.jpg", "c_a.jpg", "d\\a.jpg", "d_a.jpg"],
    ],
    ids=["Chinese", "long", "folders", "suffixes", "numbered", "no suffix", "drives"],
)
def test_every_name_that_convert_writes_is_one_that_all_can_read(own, tmp_path, names):
    photos = tmp_path / "own"
    file = content()
    for number, (image, name) in enumerate(zip(file["images"], names, strict=True)):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(str(number)))
        image["file_name"] = name
    own.write(file)
    made = convert_photos(photos, own.out, annotations=[own.coco_file])
    assert sum(made.photos.values()) == 5
    for split in ("train", "val"):
        coco = read_annotations(annotation_path(own.out, split), strict=True)
        assert not audit(coco, image_dir=images_dir(own.out, split)).problems
        index = rasterize_split(coco.path, tmp_path / split, "category", workers=1)
        assert len(index.entries) == made.photos[split]
