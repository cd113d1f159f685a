"""Annotation files are read whole or refused with one line; nothing is dropped in silence."""

import hashlib
import json

import pytest
from pycocotools import mask as mask_api

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import (
    Annotation,
    annotation_path,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.rle import rle_to_counts

TRIANGLE = [[1, 1, 3, 1, 3, 3]]


def annotation_json(annotation_id=1, **changes):
    record = {
        "id": annotation_id,
        "image_id": 7,
        "category_id": 0,
        "segmentation": TRIANGLE,
        "area": 4,
        "bbox": [1, 1, 2, 2],
        "iscrowd": 0,
        "attribute_ids": [3],
    }
    return record | changes


def file_json(*annotations, **changes):
    """Two images (6 wide, 5 high), two categories."""
    file = {
        "info": {"year": "2020"},
        "categories": [
            {"id": 0, "name": "shirt, blouse", "supercategory": "upperbody", "level": 2},
            {"id": 23, "name": "shoe", "supercategory": "legs and feet"},
        ],
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 6, "height": 5, "license": 1},
            {"id": 9, "file_name": "b.jpg", "width": 6, "height": 5, "person_count": 2},
        ],
        "annotations": list(annotations),
    }
    return file | changes


def write(folder, file, name="annotations.json"):
    path = folder / name
    path.write_text(file if isinstance(file, str) else json.dumps(file))
    return path


def read(folder, *annotations, **changes):
    return read_annotations(write(folder, file_json(*annotations, **changes)))


def test_records_come_back_typed(tmp_path):
    coco = read(tmp_path, annotation_json(1), annotation_json(2, image_id=9, category_id=23))
    assert [category.name for category in coco.categories] == ["shirt, blouse", "shoe"]
    assert [image.person_count for image in coco.images] == [None, 2]
    assert coco.annotations[0] == Annotation(
        id=1,
        image_id=7,
        category_id=0,
        segmentation=[[1.0, 1.0, 3.0, 1.0, 3.0, 3.0]],
        area=4.0,
        bbox=(1.0, 1.0, 2.0, 2.0),
        iscrowd=0,
    )
    assert coco.problems == ()
    assert repr(coco) == "CocoFile('annotations.json', 2 images, 2 annotations)"


def test_annotations_behave_as_a_sequence(tmp_path):
    coco = read(tmp_path, *(annotation_json(i) for i in (4, 2, 8)))
    assert len(coco.annotations) == 3
    assert [a.id for a in coco.annotations] == [4, 2, 8]
    assert coco.annotations[-1].id == 8
    assert [a.id for a in coco.annotations[1:]] == [2, 8]


def test_annotations_of_image_keep_the_files_order(tmp_path):
    coco = read(tmp_path, annotation_json(5), annotation_json(4, image_id=9), annotation_json(3))
    assert [a.id for a in coco.annotations_of(7)] == [5, 3]
    assert [a.id for a in coco.annotations_of(9)] == [4]
    assert len(coco.annotations_of(12345)) == 0


def test_sha256_is_of_the_files_bytes(tmp_path):
    path = write(tmp_path, file_json())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_annotations(path).sha256 == expected


@pytest.mark.parametrize("counts", [[6, 3, 21], "633O"], ids=["plain", "compressed"])
def test_both_forms_of_rle_are_read(tmp_path, counts):
    if isinstance(counts, str):
        counts = mask_api.frPyObjects({"size": [5, 6], "counts": [6, 3, 21]}, 5, 6)["counts"]
        counts = counts.decode()
    rle = {"size": [5, 6], "counts": counts}
    coco = read(tmp_path, annotation_json(segmentation=rle))
    assert coco.annotations[0].segmentation.size == (5, 6)
    assert rle_to_counts(coco.annotations[0].segmentation).tolist() == [6, 3, 21]


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ([], "no polygon part"),
        ([[1, 1, 3, 3]], "polygon part 0 has 4 coordinates"),
        ([*TRIANGLE, [1, 1, 3, 1, 3, 3, 2]], "polygon part 1 has 7 coordinates"),
        ([[1, 1, 3, 1, 3, 200_000]], "beyond 100000 px"),
        ({"size": [5, 6], "counts": [1, 1]}, "add up to 2 pixels; expected 5 x 6 = 30"),
    ],
)
def test_what_cannot_be_rasterized_is_left_out_and_listed(tmp_path, segmentation, fault):
    coco = read(tmp_path, annotation_json(1), annotation_json(2, segmentation=segmentation))
    assert [a.id for a in coco.annotations] == [1]
    assert [p.subject for p in coco.problems] == ["annotation 2 of a.jpg"]
    assert fault in coco.problems[0].detail
    report = audit(coco)
    assert report.counts["annotation_left_out"] == 1
    assert (report.n_annotations, report.n_annotations_left_out) == (1, 1)


def test_infinite_coordinate_is_left_out(tmp_path):
    text = json.dumps(file_json(annotation_json())).replace("[[1, 1,", "[[1e999, 1,")
    coco = read_annotations(write(tmp_path, text))
    assert len(coco.annotations) == 0
    assert "too large to be finite" in coco.problems[0].detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("<html>404</html>", "is not JSON"),
        ('{"images": [', "is not JSON"),
        ("[1, 2]", "is no annotation file .*expected an object with categories"),
        ('{"images": [], "categories": []}', "missing required field `annotations`"),
        ('{"images": 3, "annotations": [], "categories": []}', "no annotation file .* images"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path, text))
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)


IMAGE = {"id": 7, "file_name": "a.jpg", "width": 6, "height": 5}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            file_json(annotation_json(1), annotation_json(57, category_id="shoe")),
            r"annotations\[1\] with id 57 is malformed at category_id: Expected `int`, got `str`",
        ),
        (
            file_json({"id": 57, "image_id": 7}),
            r"annotations\[0\] with id 57 is malformed: .*missing required field `category_id`",
        ),
        (file_json(["?"]), r"annotations\[0\] with id unknown is malformed"),
        (
            file_json(images=[IMAGE | {"width": 0}]),
            r"images\[0\] with id 7 is malformed at width: Expected `int` >= 1",
        ),
        (
            file_json(annotation_json(57, segmentation=[["a"] * 6])),
            "annotation 57 has a malformed segmentation at .*got `str`",
        ),
        (
            file_json(annotation_json(57, segmentation=None)),
            "annotation 57 has a malformed segmentation: .*got `null`",
        ),
        (
            file_json(annotation_json(57, image_id=8)),
            "annotation 57 has the image_id 8, which is not in the file",
        ),
        (
            file_json(annotation_json(57, category_id=8)),
            "annotation 57 has the category_id 8, which is not in the file",
        ),
        (
            file_json(annotation_json(57, segmentation={"size": [6, 5], "counts": [30]})),
            "annotation 57 has an RLE of height x width 6 x 5; expected 5 x 6",
        ),
        (file_json(annotation_json(57), annotation_json(57)), "id 57 occurs .* in annotations"),
        (file_json(images=[IMAGE, IMAGE]), "id 7 occurs more than once in images"),
        (
            file_json(categories=[{"id": 0, "name": "a", "supercategory": "b"}] * 2),
            "id 0 occurs more than once in categories",
        ),
    ],
)
def test_malformed_record_is_named_by_its_id(tmp_path, file, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path, file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd.jpg", "../a.jpg", "sub/a.jpg", "sub\\a.jpg", "..", "", ".a.jpg", "a\0.jpg"],
)
def test_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"image 7 has the file_name .*plain file name"):
        read(tmp_path, images=[IMAGE | {"file_name": name}])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json not found"):
        read_annotations(tmp_path / "none.json")


def test_layout_of_a_data_root(tmp_path):
    assert annotation_path(tmp_path, "train").name == "instances_attributes_train2020.json"
    assert images_dir(tmp_path, "train") == tmp_path / "train"
    assert images_dir(tmp_path, "val") == tmp_path / "test"


def test_folder_is_no_annotation_file_and_its_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder; expected .* Name the JSON itself"):
        read_annotations(tmp_path)
    write(tmp_path, file_json())
    with pytest.raises(FileNotFoundError, match=r"is a folder.*such as .*annotations\.json"):
        read_annotations(tmp_path)


@pytest.mark.real
def test_real_files_are_read_whole(real_data):
    path = annotation_path(real_data / "fashionpedia_annotations", "train")
    coco = read_annotations(path)
    raw = json.loads(path.read_bytes())
    assert len(coco.images) == len(raw["images"])
    assert len(coco.annotations) + len(coco.problems) == len(raw["annotations"])
    assert [a.id for a in coco.annotations] == [record["id"] for record in raw["annotations"]]
    assert {c.id for c in coco.categories} == set(range(46))
