"""Annotation files are read whole or refused with one line; nothing is dropped in silence."""

import hashlib
import json

import msgspec
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from clothseg_utils.data import audit as audit_module
from clothseg_utils.data.audit import audit, write_audit
from clothseg_utils.data.coco import (
    Annotation,
    annotation_path,
    annotations_sha256,
    colliding_images,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.exploration import (
    annotation_table,
    audit_table,
    image_table,
    supercategory_cooccurrence,
)
from clothseg_utils.data.rle import Rle, compressed_to_counts, rle_to_counts, segmentation_fault

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
    assert read_annotations(path).sha256 == expected == annotations_sha256(path)


@pytest.mark.parametrize("counts", [[6, 3, 21], "633O"], ids=["plain", "compressed"])
def test_both_forms_of_rle_are_read(tmp_path, counts):
    if isinstance(counts, str):
        counts = mask_api.frPyObjects({"size": [5, 6], "counts": [6, 3, 21]}, 5, 6)["counts"]
        counts = counts.decode()
    rle = {"size": [5, 6], "counts": counts}
    coco = read(tmp_path, annotation_json(segmentation=rle))
    assert coco.annotations[0].segmentation.size == (5, 6)
    assert rle_to_counts(coco.annotations[0].segmentation).tolist() == [6, 3, 21]


def test_compressed_rle_agrees_with_the_mask_api():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for shape in ((1, 1), (1, 40), (40, 1), (37, 53), (400, 300)):
            mask = (rng.random(shape) < density).astype(np.uint8)
            code = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
            counts = rle_to_counts(Rle(size=shape, counts=code))
            flat = np.repeat(np.arange(len(counts)) % 2, counts)
            assert (mask == flat.reshape(shape[::-1]).T).all()


def test_masks_decoded_together_are_those_decoded_alone():
    rng = np.random.default_rng(0)
    masks = [rng.random((37, 53)) < density for density in (0.5, 0.0, 0.02, 1.0, 0.98)]
    codes = [mask_api.encode(np.asfortranarray(m, np.uint8))["counts"] for m in masks]
    together = compressed_to_counts([b"", *codes, b""])
    alone = [compressed_to_counts([code])[0] for code in codes]
    assert [counts.tolist() for counts in together] == [[], *(a.tolist() for a in alone), []]
    assert all(counts.sum() == 37 * 53 for counts in alone)


@pytest.mark.parametrize("codes", [[b"11", b"1o"], [b"1o", b"11"], [b"1o", b""]])
def test_a_number_cut_short_is_seen_between_masks(codes):
    """Joined with the next mask's code its last number would look whole."""
    with pytest.raises(ValueError, match="not COCO's compressed string"):
        compressed_to_counts(codes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([6, 3, 20], "add up to 29 pixels; expected 5 x 6 = 30"),
        ([], "add up to 0 pixels"),
        ("", "add up to 0 pixels"),
        ([6, -3, 27], r"not in 0\.\.30"),
        ([6, 31, 0], r"not in 0\.\.30"),
        ([2**70], "too large"),
        ("o" * 9 + "0", "too large"),
        ("6 3", "not COCO's compressed string"),
        ("63o", "not COCO's compressed string"),
        ("6\N{DEGREE SIGN}3", "not COCO's compressed string"),
    ],
)
def test_rle_that_does_not_fit_is_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        rle_to_counts(Rle(size=(5, 6), counts=counts))


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_coordinate_that_is_not_finite_is_a_fault(bad):
    assert "not finite" in segmentation_fault([[1, 1, 3, 1, 3, bad]])


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


@pytest.mark.parametrize("function", [read_annotations, annotations_sha256])
def test_missing_file_is_named(tmp_path, function):
    with pytest.raises(FileNotFoundError, match=r"none\.json not found"):
        function(tmp_path / "none.json")


def test_layout_of_a_data_root(tmp_path):
    assert annotation_path(tmp_path, "train").name == "instances_attributes_train2020.json"
    assert images_dir(tmp_path, "train") == tmp_path / "train"
    assert images_dir(tmp_path, "val") == tmp_path / "test"


def test_two_images_of_one_stem_are_excluded(tmp_path):
    images = [IMAGE, IMAGE | {"id": 8, "file_name": "a.png"}, IMAGE | {"id": 9, "file_name": "b"}]
    coco = read(tmp_path, images=images)
    assert list(colliding_images(coco)) == ["a.jpg", "a.png"]
    report = audit(coco)
    assert report.counts == {"same_stem": 2}
    assert 'share the stem "a"' in report.excluded["a.png"]
    assert "b" not in report.excluded


def test_odd_area_and_bbox_are_listed_but_kept(tmp_path):
    coco = read(
        tmp_path,
        annotation_json(1),
        annotation_json(2, area=0),
        annotation_json(3, bbox=[1, 1, 2, 5]),
        annotation_json(4, bbox=[1, 1, 2, 4]),  # within the tolerance of 2 px
    )
    report = audit(coco)
    assert [(p.kind, p.subject) for p in report.problems] == [
        ("area_zero", "annotation 2 of a.jpg"),
        ("bbox_differs", "annotation 3 of a.jpg"),
    ]
    assert report.n_annotations == 4
    assert report.excluded == {}


@pytest.mark.parametrize(
    ("counts", "box"),
    [
        ([6, 3, 21], (1, 1, 2, 4)),  # rows 1..3 of column 1
        ([6, 3, 2, 3, 16], (1, 1, 3, 4)),  # rows 1..3 of columns 1 and 2
        ([8, 4, 18], (1, 0, 3, 5)),  # runs over the foot of column 1 into column 2
        ([0, 30], (0, 0, 6, 5)),
        ([30], (0, 0, 0, 0)),
        ([6, 0, 24], (0, 0, 0, 0)),
    ],
)
def test_box_of_rle(counts, box):
    assert audit_module._segmentation_to_box(Rle(size=(5, 6), counts=counts)) == box


@pytest.fixture
def photo_root(tmp_path):
    """Images a..e: a is sound, each other has its own fault; h is on disk only."""
    images = [
        {"id": i, "file_name": f"{name}.png", "width": 6, "height": 5}
        for i, name in enumerate("abcde")
    ]
    coco = read(tmp_path, images=images)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "abcdeh":
        Image.new("RGB", (6, 5)).save(photos / f"{name}.png")
    (photos / "b.png").unlink()
    (photos / "c.png").write_bytes(b"")
    (photos / "d.png").write_bytes((photos / "a.png").read_bytes()[:-30])
    Image.new("RGB", (5, 6)).save(photos / "e.png")
    return coco, photos


def test_folder_of_other_photos_is_refused(photo_root, tmp_path):
    coco, photos = photo_root
    (tmp_path / "other").mkdir()
    (photos / "h.png").rename(tmp_path / "other" / "h.png")
    with pytest.raises(FileNotFoundError, match=r"other holds none of the photos that .* \(5\);"):
        audit(coco, image_dir=tmp_path / "other")


def test_every_faulty_photo_is_listed_by_name(photo_root):
    coco, photos = photo_root
    report = audit(coco, image_dir=photos)
    assert [(p.kind, p.subject) for p in report.problems] == [
        ("photo_missing", "b.png"),
        ("photo_empty", "c.png"),
        ("photo_unreadable", "d.png"),
        ("photo_size", "e.png"),
    ]
    assert list(report.excluded) == ["b.png", "c.png", "d.png", "e.png"]
    assert "5 x 6 px (width x height); the JSON says 6 x 5" in report.excluded["e.png"]
    assert str(photos) not in json.dumps(report.excluded)
    assert report.photos_checked


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere not found"):
        audit(read(tmp_path), image_dir=tmp_path / "nowhere")


def test_image_without_annotations_is_no_fault(tmp_path):
    report = audit(read(tmp_path, annotation_json()))
    assert (report.n_images, report.n_images_without_annotations) == (2, 1)
    assert report.problems == []
    assert report.summary() == (
        "annotations.json: 2 images (1 without annotations), 1 annotations (1 polygon, 0 RLE)\n"
        "left out: 0 images, 0 annotations"
    )


@pytest.mark.parametrize(
    ("licenses", "counted"),
    [
        ([{"id": 1, "name": "CC BY 4.0"}, {"id": 2, "name": "MIT"}], {"CC BY 4.0": 1}),
        ([{"id": "1", "name": "CC BY 4.0"}], {"CC BY 4.0": 1}),  # an id is an id
        ([{"id": 5, "name": "of no photo"}], {}),
        ([7, {"id": 1}, {"id": 1, "name": None}], {}),  # no reason to refuse the file
        (None, {}),
    ],
)
def test_photos_are_counted_by_licence(tmp_path, licenses, counted):
    assert audit(read(tmp_path, annotation_json(), licenses=licenses)).licenses == counted


def test_summary_names_the_first_of_each_kind(tmp_path):
    report = audit(read(tmp_path, *(annotation_json(i, area=0) for i in range(7))))
    *_, line = report.summary().splitlines()
    assert line.startswith("  area_zero 7: annotation 0 of a.jpg; annotation 1 of a.jpg; ")
    assert line.endswith("; annotation 4 of a.jpg and 2 more")


def test_folder_is_no_annotation_file_and_its_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder; expected .* Name the JSON itself"):
        read_annotations(tmp_path)
    write(tmp_path, file_json())
    with pytest.raises(FileNotFoundError, match=r"is a folder.*such as .*annotations\.json"):
        read_annotations(tmp_path)


def test_audit_is_written_as_json(tmp_path):
    report = audit(read(tmp_path, annotation_json(area=0)))
    write_audit(tmp_path / "audit.json", report)
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written == msgspec.to_builtins(report)
    assert written["counts"] == {"area_zero": 1}
    write_audit(tmp_path / "audit.json", {"train": report, "val": report})
    assert json.loads((tmp_path / "audit.json").read_text()) == {"train": written, "val": written}


def test_audit_table_has_one_row_a_split(tmp_path):
    report = audit(read(tmp_path, annotation_json(area=0)))
    table = audit_table({"train": report, "val": report})
    assert table.index.name == "split"
    assert list(table.index) == ["train", "val"]
    assert table.loc["val"].tolist() == [2, 0, 1, 1, 1, 0]


def test_annotation_table_has_one_row_an_annotation(tmp_path):
    table = annotation_table(
        read(
            tmp_path,
            annotation_json(5, segmentation=TRIANGLE * 2),
            annotation_json(
                6, category_id=23, segmentation={"size": [5, 6], "counts": [30]}, area=0
            ),
        )
    )
    assert table.to_dict("records") == [
        {
            "annotation_id": 5,
            "image_id": 7,
            "category_id": 0,
            "category": "shirt, blouse",
            "supercategory": "upperbody",
            "area_px": 4.0,
            "kind": "polygon",
            "n_parts": 2,
            "bbox_width_px": 2.0,
            "bbox_height_px": 2.0,
        },
        {
            "annotation_id": 6,
            "image_id": 7,
            "category_id": 23,
            "category": "shoe",
            "supercategory": "legs and feet",
            "area_px": 0.0,
            "kind": "rle",
            "n_parts": 0,
            "bbox_width_px": 2.0,
            "bbox_height_px": 2.0,
        },
    ]


def test_image_table_counts_annotations(tmp_path):
    table = image_table(read(tmp_path, annotation_json(1), annotation_json(2)))
    assert table.to_dict("list") == {
        "image_id": [7, 9],
        "file_name": ["a.jpg", "b.jpg"],
        "width_px": [6, 6],
        "height_px": [5, 5],
        "n_annotations": [2, 0],
    }


def test_cooccurrence_counts_images_not_annotations(tmp_path):
    coco = read(
        tmp_path,
        annotation_json(1),
        annotation_json(2),
        annotation_json(3, category_id=23),
        annotation_json(4, image_id=9),
    )
    table = supercategory_cooccurrence(coco)
    assert list(table.index) == list(table.columns) == ["upperbody", "legs and feet"]
    assert table.to_numpy().tolist() == [[2, 1], [1, 1]]


def test_tables_of_an_empty_file_keep_their_columns(tmp_path):
    coco = read(tmp_path, images=[], annotations=[])
    assert len(annotation_table(coco)) == len(image_table(coco)) == 0
    assert "area_px" in annotation_table(coco)
    assert supercategory_cooccurrence(coco).to_numpy().sum() == 0


@pytest.mark.real
def test_real_files_are_read_whole(real_data):
    path = annotation_path(real_data / "fashionpedia_annotations", "train")
    coco = read_annotations(path)
    raw = json.loads(path.read_bytes())
    assert len(coco.images) == len(raw["images"])
    assert len(coco.annotations) + len(coco.problems) == len(raw["annotations"])
    assert [a.id for a in coco.annotations] == [record["id"] for record in raw["annotations"]]
    assert {c.id for c in coco.categories} == set(range(46))


@pytest.mark.real
def test_real_photos_pass_the_audit(real_data):
    root = real_data / "fashionpedia_mini"
    coco = read_annotations(annotation_path(root, "val"))
    report = audit(coco, image_dir=images_dir(root, "val"))
    assert report.n_images == 8
    assert report.excluded == {}
