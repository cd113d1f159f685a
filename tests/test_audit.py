"""The audit lists every fault by name, and leaves out only what cannot be used."""

import json
import shutil

import msgspec
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from test_coco import IMAGE, annotation_json, read

from clothseg_utils.data import audit as audit_module
from clothseg_utils.data.audit import (
    audit,
    audit_splits,
    photo_cache_path,
    photo_problems,
    write_audit,
)
from clothseg_utils.data.coco import (
    annotation_path,
    colliding_images,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.copies import hash_folder
from clothseg_utils.data.photos import check_photo
from clothseg_utils.data.rle import Rle
from clothseg_utils.data.splits import read_splits


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


def box_record(annotation_id, category_id, left, top, right, bottom):
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    box = [left, top, right - left, bottom - top]
    return annotation_json(
        annotation_id,
        category_id=category_id,
        segmentation=outline,
        bbox=box,
        area=box[2] * box[3],
    )


@pytest.mark.parametrize(
    ("dress", "garment", "is_found"),
    [
        ((20, 60, 40, 95), "sweater", True),  # from the top's lower edge on: a skirt
        ((20, 50, 40, 95), "sweater", True),  # tucked in under it
        ((20, 25, 40, 95), "sweater", False),  # from the shoulders on, a sweater over it
        ((20, 15, 40, 95), "sweater", False),
        ((42, 60, 62, 95), "sweater", False),  # of a neighbour
        ((20, 95, 40, 99), "sweater", False),  # far below, of somebody in front
        ((20, 60, 40, 95), "bag, wallet", False),
    ],
)
def test_a_dress_that_begins_where_a_top_ends_is_named(tmp_path, dress, garment, is_found):
    image = IMAGE | {"width": 80, "height": 100}
    names = {1: "dress", 2: garment}
    categories = [{"id": n, "name": name, "supercategory": "x"} for n, name in names.items()]
    records = box_record(1, 1, *dress), box_record(2, 2, 20, 20, 40, 60)
    problems = audit(read(tmp_path, *records, images=[image], categories=categories)).problems
    found = [(p.kind, p.subject) for p in problems]
    assert found == ([("dress_below_top", "annotation 1 of a.jpg")] if is_found else [])


@pytest.mark.parametrize(
    ("area", "share"),
    [
        (400, None),  # the mask's own
        (470, None),  # within a fifth
        (0, "100.0 %"),
        (900, "100.0 %"),  # as the box of a larger outline
        (4800, "100.0 %"),  # the image's
    ],
)
@pytest.mark.parametrize("is_rle", [False, True])
def test_area_far_from_the_mask_is_counted(tmp_path, area, share, is_rle):
    image = IMAGE | {"width": 80, "height": 60}
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    if is_rle:
        (rle,) = mask_api.frPyObjects(square, 60, 80)
        square = {"size": [60, 80], "counts": rle["counts"].decode()}
    records = [
        annotation_json(n, segmentation=square, bbox=[10, 10, 20, 20], area=area) for n in (1, 2)
    ]
    found = [p for p in audit(read(tmp_path, *records, images=[image])).problems]
    found = [p for p in found if p.kind == "area_differs"]
    assert [p.count for p in found] == ([2] if share else [])
    assert all(f"in {share} of the annotations: {area:,}, not 400 px" in p.detail for p in found)


def test_parts_that_overlap_count_once_in_the_area(tmp_path):
    image = IMAGE | {"width": 80, "height": 60}
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    record = annotation_json(segmentation=[square, square], bbox=[10, 10, 20, 20], area=400)
    assert audit(read(tmp_path, record, images=[image])).problems == []


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


@pytest.fixture
def decoded(monkeypatch):
    """Names of the photos decoded, in order."""
    names = []

    def spy(path):
        names.append(path.name)
        return check_photo(path)

    monkeypatch.setattr(audit_module, "check_photo", spy)
    return names


def test_what_was_found_about_a_photo_is_remembered(photo_root, tmp_path, decoded):
    coco, photos = photo_root
    cache_path = photo_cache_path(coco, tmp_path / "derived")
    first = audit(coco, image_dir=photos, cache_path=cache_path)
    assert sorted(decoded) == ["a.png", "d.png", "e.png"]  # b is missing and c empty
    decoded.clear()
    assert audit(coco, image_dir=photos, cache_path=cache_path) == first
    assert photo_problems(coco.images, photos, cache_path=cache_path) == first.excluded
    assert decoded == []

    Image.new("RGB", (6, 5), "white").save(photos / "d.png")  # mended
    cache_path.with_name("other.json").write_text('{"a.png": [[1, 2], ""]}')  # of another version
    mended = photo_problems(coco.images, photos, cache_path=cache_path)
    assert list(mended) == ["b.png", "c.png", "e.png"]
    assert decoded == ["d.png"]
    assert (
        photo_problems(coco.images, photos, cache_path=cache_path.with_name("other.json")) == mended
    )


def test_without_a_cache_every_photo_is_decoded(photo_root, decoded):
    coco, photos = photo_root
    for _ in range(2):
        audit(coco, image_dir=photos)
    assert decoded.count("a.png") == 2


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere not found"):
        audit(read(tmp_path), image_dir=tmp_path / "nowhere")


@pytest.fixture
def copied_root(synthetic_root, tmp_path):
    """The drawn dataset, two of whose val photos are in train too; one of these is in test too."""
    root = tmp_path / "copied"
    shutil.copytree(synthetic_root, root)
    train = sorted((root / "train").iterdir())
    val = json.loads(annotation_path(root, "val").read_text())
    for path, image in zip(train[:2], val["images"], strict=False):
        copy = Image.open(path).resize((image["width"], image["height"]))
        copy.save(root / "test" / image["file_name"])
    val["images"] = val["images"][:1]
    val["annotations"] = []
    annotation_path(root, "test").write_text(json.dumps(val))
    return root


def test_near_equal_photos_of_two_splits_are_listed_and_kept(copied_root):
    coco = read_annotations(annotation_path(copied_root, "val"))
    train = sorted((copied_root / "train").iterdir())
    report = audit(coco, image_dir=copied_root / "test", others=hash_folder(copied_root / "train"))
    expected = {
        (path.name, image.file_name) for path, image in zip(train[:2], coco.images, strict=False)
    }
    assert {(pair.first, pair.second) for pair in report.near_equal} == expected
    assert report.counts["near_equal"] == 2
    closest = report.near_equal[0]
    assert f"  near_equal 2: {closest.second} = {closest.first}; " in report.summary()
    assert report.excluded == {}


def test_that_no_photo_is_near_equal_is_said_where_it_was_looked_for(synthetic_root):
    coco = read_annotations(annotation_path(synthetic_root, "val"))
    others = hash_folder(synthetic_root / "train")
    report = audit(coco, image_dir=synthetic_root / "test", others=others)
    assert report.near_equal == []
    assert "near_equal 0" in report.summary()
    for unchecked in (audit(coco, image_dir=synthetic_root / "test"), audit(coco, others=others)):
        assert unchecked.near_equal is None
        assert "near_equal" not in unchecked.summary()


def test_every_other_split_is_compared_with_train(copied_root, tmp_path, monkeypatch):
    derived = tmp_path / "derived"
    audits = audit_splits(read_splits(copied_root), copied_root, derived)
    counts = {
        split: report.near_equal and len(report.near_equal) for split, report in audits.items()
    }
    assert counts == {"train": None, "val": 2, "test": 1}
    monkeypatch.setattr("clothseg_utils.data.copies._small_picture", None)  # all is remembered
    assert audit_splits(read_splits(copied_root), copied_root, derived) == audits


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


def test_audit_is_written_as_json(tmp_path):
    report = audit(read(tmp_path, annotation_json(area=0)))
    write_audit(tmp_path / "audit.json", report)
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written == msgspec.to_builtins(report)
    assert written["counts"] == {"area_zero": 1}
    write_audit(tmp_path / "audit.json", {"train": report, "val": report})
    assert json.loads((tmp_path / "audit.json").read_text()) == {"train": written, "val": written}


@pytest.mark.real
def test_real_photos_pass_the_audit(real_data):
    root = real_data / "fashionpedia_mini"
    coco = read_annotations(annotation_path(root, "val"))
    report = audit(coco, image_dir=images_dir(root, "val"))
    assert report.n_images == 8
    assert report.excluded == {}
