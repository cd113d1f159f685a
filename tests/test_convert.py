"""Tests of `data.convert`: own photos and a COCO file become a dataset like any other."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.convert import Conversion, check_sources, convert_coco

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
        options = {"classes_file": self.classes_file} | options
        return convert_coco(self.photos, self.coco_file, self.out, **options)

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
    assert made.has_known_classes
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
    assert made.annotations_left_out == {"of categories to leave out": 1}
    assert {record["category_id"] for record in own.both("annotations")} == {3, 90}


def test_background_in_the_mapping_means_to_leave_out(own):
    own.classes_file.write_text(json.dumps(CLASSES | {"person": "background"}))
    assert own.convert().annotations_left_out == {"of categories to leave out": 1}


def test_without_a_mapping_the_files_supercategories_stay(own):
    made = own.convert(classes_file=None)
    assert made.categories == {"T-shirt": "clothes", "jeans": "clothes", "person": "person"}
    assert not made.has_known_classes
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
    assert sorted(record["id"] for record in own.both("annotations")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_boxes_without_a_mask_are_left_out_and_counted(own, segmentation):
    file = content()
    file["annotations"][0]["segmentation"] = segmentation
    own.write(file)
    made = own.convert()
    assert made.annotations_left_out["without a mask (boxes only)"] == 1
    assert made.annotations == 5


def test_broken_polygon_is_left_to_the_audit(own):
    file = content()
    file["annotations"][0] |= {"segmentation": [[1, 1, 5, 5]], "area": None}
    own.write(file)
    own.convert()
    problems = [
        problem.kind
        for split in ("train", "val")
        for problem in read_annotations(annotation_path(own.out, split)).problems
    ]
    assert problems == ["annotation_left_out"]


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
    assert own.convert().photos_missing == []
    assert all(path.parent.parent == own.out for path in own.out.glob("*/*.jpg"))


def test_missing_photos_are_named_and_other_photos_counted(own):
    (own.photos / "p2.jpg").unlink()
    own.add_photo("more/q.jpg")
    made = own.convert()
    assert made.photos_missing == ["p2.jpg"]
    assert made.photos_not_listed == 1
    assert sum(made.photos.values()) == 4
    summary = made.summary()
    assert "left out, named by the file but not in the folder: p2.jpg" in summary
    assert "not used, in the folder but not in the file: 1" in summary


def test_summary_says_what_became_of_it(own):
    file = content()
    file["annotations"] = file["annotations"][1:]  # the first photo keeps its jeans
    file["annotations"].pop(0)
    own.write(file)
    assert own.convert().summary().splitlines() == [
        "4 train and 1 val photos, 4 annotations in 2 categories",
        "few val photos: expect wide intervals around every score",
        "upperbody: T-shirt",
        "lowerbody: jeans",
        "photos without annotations, taken as all background: 1",
        "annotations left out, of categories to leave out: 1",
    ]


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
        annotation_path(own.out, "val").unlink()
    second = own.convert(**options)
    assert (second.recipe == first.recipe) is (change == "part")
    assert annotation_path(own.out, "val").is_file()
    assert [path.name for path in own.out.parent.glob(".*")] == []


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


# --- bad input -----------------------------------------------------------------------------------


def test_missing_sources_are_named(own):
    with pytest.raises(FileNotFoundError, match=r"photo folder .*nowhere not found; expected the"):
        check_sources(own.photos / "nowhere", own.coco_file, None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json not found; expected a COCO JSON"):
        check_sources(own.photos, own.photos / "nowhere.json", None)
    with pytest.raises(FileNotFoundError, match="expected a JSON of category -> class"):
        check_sources(own.photos, own.coco_file, own.photos / "nowhere.json")


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_share_out_of_range_is_refused(own, share):
    with pytest.raises(ValueError, match=r"val_share is .*; expected above 0 and below 1"):
        own.convert(val_share=share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, r"own\.json is no COCO file \(Expected `array`, got `int`"),
        ({"categories": [{"id": 1}]}, "is no COCO file .*missing required field `name`"),
        (
            {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
            "id 3 occurs more than once in categories; expected unique ids",
        ),
        (
            {"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]},
            "name a occurs more than once in categories; expected unique names",
        ),
        (
            {"annotations": [annotation(1, 99, 3)]},
            r"annotations\[0\] has the image_id 99, which is not in the file",
        ),
        (
            {"annotations": [annotation(1, 1, 77)]},
            r"annotations\[0\] has the category_id 77, which is not in the file",
        ),
        (
            {"annotations": [annotation(1, 1, 3)]},
            "has 1 photos with usable annotations; expected at least 2",
        ),
        (
            {"annotations": [annotation(1, 1, 3, segmentation="x", area=None)]},
            r"annotations\[0\] has a malformed segmentation",
        ),
        (
            {
                "annotations": [
                    annotation(1, 1, 3, segmentation={"size": [1, 1], "counts": [1]}),
                    annotation(2, 2, 3),
                ]
            },
            r"own\.json: annotation 1 has an RLE of height x width 1 x 1; expected 16 x 20",
        ),
    ],
)
def test_bad_file_is_one_clear_error(own, changes, message):
    own.write(content() | changes)
    with pytest.raises(ValueError, match=message):
        own.convert()
    assert not own.out.exists()
    assert [path.name for path in own.out.parent.glob(".*")] == []


def test_file_that_is_no_json_is_named(own):
    own.coco_file.write_text("<html>")
    with pytest.raises(ValueError, match=r"own\.json is no COCO file \(JSON is malformed"):
        own.convert()


def test_mapping_that_is_no_json_is_to_be_corrected(own):
    own.classes_file.write_text("{'T-shirt': 'upperbody'}")
    with pytest.raises(ValueError, match=r"classes\.json is not JSON .*stand in double quotes"):
        own.convert()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"jeans": "lowerbody"}, "gives no class to T-shirt.*; expected every category"),
        ([1], "holds a list; expected an object of category -> class"),
        ({"T-shirt": "upper body"}, "unknown class 'upper body' \\(did you mean upperbody"),
        ({"T-shirt": 2}, '"T-shirt" has the unknown class 2; expected one of closures'),
        (
            {"T-shirts": "upperbody", "jeans": "lowerbody", "person": None},
            '"T-shirts" is no category of own.json \\(did you mean T-shirt\\?',
        ),
    ],
)
def test_bad_mapping_is_one_clear_error(own, mapping, message):
    own.classes_file.write_text(json.dumps(mapping))
    with pytest.raises(ValueError, match=message):
        own.convert()


def test_mapping_may_name_categories_that_the_file_lacks(own):
    own.classes_file.write_text(json.dumps(CLASSES | {"hat": "head"}))
    assert set(own.convert().categories) == {"T-shirt", "jeans"}


def test_folder_without_the_photos_is_refused(own, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        ValueError, match=r"no photo that .*own\.json names is in .*such as p1\.jpg"
    ):
        convert_coco(empty, own.coco_file, own.out)


def test_photo_that_two_images_mean_is_refused(own):
    file = content()
    file["images"][1]["file_name"] = "other/p1.jpg"
    own.write(file)
    with pytest.raises(ValueError, match=r"several images mean the photo .*p1\.jpg"):
        own.convert()


def test_photos_that_would_share_a_mask_are_refused(own):
    own.add_photo("p1.png")
    file = content()
    file["images"][1]["file_name"] = "p1.png"
    own.write(file)
    with pytest.raises(ValueError, match=r"p1\.jpg and p1\.png would share the mask p1\.png"):
        own.convert()
