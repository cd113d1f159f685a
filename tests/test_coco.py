"""Annotation files are read or refused with one line; nothing is dropped in silence."""

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
        ([[1, 1, 6, 5]], "a polygon part has fewer than 3 points: 4 coordinates"),
        ([[1, 1, 3, 1, 3, 3, 2]], "a polygon part has an odd number of coordinates: 7"),
        ([[1, 1, 3, 1, 3, 200_000]], "beyond 100000 px"),
        ([["a"] * 6], "a coordinate is not a number"),
        (5, "neither polygons nor run lengths: 5"),
        ({"size": [6, 5], "counts": [30]}, "swapped, and nothing says which way round"),
        ({"size": [6, 6], "counts": [36]}, "not the image's: 6 x 6, not 5 x 6"),
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
    assert "a coordinate is not a number, or beyond 100000 px: inf" in coco.problems[0].detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("<html>404</html>", "looks like a web page"),
        ('{"images": [', "is not JSON"),
        ("[" * 100_000, "is no COCO annotation file"),
        ('{"a": ' * 100_000, "is not JSON .*nested too deeply"),
        ("[1, 2]", "is no COCO annotation file .*expected an object with lists of categories"),
        ('{"images": [], "categories": []}', "missing required field `annotations`"),
        (
            '{"images": 3, "annotations": [], "categories": []}',
            "no COCO annotation file .* in images",
        ),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path, text))
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)


IMAGE = {"id": 7, "file_name": "a.jpg", "width": 6, "height": 5}


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
