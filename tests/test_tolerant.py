"""What other tools write is read where it is certain; one broken record leaves itself out."""

import gzip
import json

import numpy as np
import pytest
from test_coco import IMAGE, TRIANGLE, annotation_json, file_json, read, write

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import read_annotations
from clothseg_utils.data.rasterize import annotation_to_instance_mask
from clothseg_utils.data.records import count_kinds

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]  # four pixels
ANNOTATIONS = [
    annotation_json(n, image_id=7 + 2 * (n % 2), segmentation=SQUARE) for n in range(1, 21)
]


def changed(record, **changes):
    """A record with other values; a value of ... removes its key."""
    return {key: value for key, value in (record | changes).items() if value is not ...}


def with_annotation(**changes):
    """Twenty annotations, the fourth one changed."""
    records = [*ANNOTATIONS[:3], changed(ANNOTATIONS[3], **changes), *ANNOTATIONS[4:]]
    return file_json(*records)


def with_every_annotation(**changes):
    return file_json(*(changed(record, **changes) for record in ANNOTATIONS))


def with_images(*records):
    return file_json(*ANNOTATIONS, images=list(records))


IMAGE_9 = {"id": 9, "file_name": "b.jpg", "width": 6, "height": 5}


@pytest.mark.parametrize(
    "file",
    [
        *(with_every_annotation(iscrowd=value) for value in (False, "0", None, 0.0, ..., "no", [])),
        *(with_every_annotation(category_id=value) for value in (0.0, "0", " 0 ", "0.0")),
        *(with_every_annotation(area=value) for value in ("4", None, ..., "4.0", [], 10**400)),
        *(with_every_annotation(bbox=value) for value in (None, ..., [], [1, 1, None, 2], "no")),
        *(with_annotation(id=value) for value in ("4", 4.0, "4.0")),
        *(with_images(IMAGE | {"width": value}, IMAGE_9) for value in ("6", 6.0, "6.0")),
        *(with_images(IMAGE | {"id": value}, IMAGE_9) for value in ("7", 7.0)),
        *(with_images(IMAGE | {"person_count": value}, IMAGE_9) for value in ("2", None, "many")),
        with_images({"fileName": "a.jpg", **changed(IMAGE, file_name=...)}, IMAGE_9),
        with_images(IMAGE, IMAGE, IMAGE_9),
        *(
            file_json(*ANNOTATIONS, info=value)
            for value in (None, [], "mine", {"description": None}, {"description": 5}, 10**400)
        ),
        *(file_json(*ANNOTATIONS, licenses=value) for value in (None, {}, "CC", [None], [[5]])),
        *(
            file_json(
                *ANNOTATIONS,
                categories=[
                    changed(category, supercategory=value) for category in file_json()["categories"]
                ],
            )
            for value in (None, ..., 5, [])
        ),
    ],
    ids=map(str, range(50)),
)
def test_values_of_other_types_are_read_where_their_meaning_is_certain(tmp_path, file):
    coco = read_annotations(write(tmp_path, file))
    assert [(image.id, image.file_name) for image in coco.images] == [(7, "a.jpg"), (9, "b.jpg")]
    assert {(image.width, image.height) for image in coco.images} == {(6, 5)}
    assert [a.id for a in coco.annotations] == list(range(1, 21))
    assert {a.category_id for a in coco.annotations} == {0}
    assert {(a.bbox, a.iscrowd) for a in coco.annotations} == {((1.0, 1.0, 2.0, 2.0), 0)}
    assert {a.area for a in coco.annotations} == {4.0}
    assert count_kinds(coco.problems).keys() <= {"healed"}


def test_what_was_read_from_another_type_is_counted(tmp_path):
    coco = read_annotations(write(tmp_path, with_every_annotation(iscrowd="0", area="4")))
    healed = {problem.reason: problem.count for problem in coco.problems}
    assert healed == {
        "area is text, read as a number": 20,
        "iscrowd is not a whole number, read as 0 or 1": 20,
    }
    assert coco.problems_line.startswith("annotations.json: 40 values read from another form (")
    assert audit(coco).counts == {"healed": 40}


def test_missing_area_and_box_are_those_of_the_mask(tmp_path):
    square = [[1, 1, 4, 1, 4, 3, 1, 3]]
    coco = read(tmp_path, changed(annotation_json(), segmentation=square, area=..., bbox=...))
    assert (coco.annotations[0].area, coco.annotations[0].bbox) == (6.0, (1.0, 1.0, 3.0, 2.0))


@pytest.mark.parametrize(
    ("encode", "suffix"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "json"),
        (lambda text: text.encode("utf-16"), "json"),
        (lambda text: text.encode("utf-16-be"), "json"),
        (lambda text: gzip.compress(text.encode()), "json.gz"),
        (lambda text: gzip.compress(b"\xef\xbb\xbf" + text.encode()), "json"),
    ],
)
def test_other_encodings_of_the_bytes_are_read(tmp_path, encode, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encode(json.dumps(file_json(*ANNOTATIONS))))
    assert len(read_annotations(path).packed) == 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(json.dumps(file_json()).encode())[:-9], "gzip file that cannot be unpacked"),
        (b"\x1f\x8bno", "gzip file that cannot be unpacked"),
        (b"\xff\xfe{\x00\x00", "neither UTF-8 nor sound UTF-16"),
        (b'{"images": [], "annotations": [], "categories": []} more', "is not JSON"),
        (json.dumps(file_json(*ANNOTATIONS)).encode()[:-100], "is not JSON"),
    ],
)
def test_damaged_bytes_are_one_line(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "Infinity", "1e999", "9" * 5000])
@pytest.mark.parametrize("key", ["area", "bbox", "iscrowd", "segmentation", "image_id", "score"])
def test_numbers_that_are_none_matter_only_where_one_is_needed(tmp_path, key, literal):
    """A value that nothing needs is taken from the mask; else its record is left out by name."""
    value = {"bbox": [1, 1, "?", 2], "segmentation": [[1, 1, "?", 1, 3, 3]]}.get(key, "?")
    text = json.dumps(with_annotation(**{key: value})).replace('"?"', literal)
    coco = read_annotations(write(tmp_path, text))
    is_needed = key in ("segmentation", "image_id")
    assert [a.id for a in coco.annotations] == [n for n in range(1, 21) if n != 4 or not is_needed]
    found = [p.subject for p in coco.problems if p.kind == "annotation_left_out"]
    assert [subject.startswith("annotation 4") for subject in found] == [True] * is_needed


def test_half_a_surrogate_pair_is_no_traceback(tmp_path):
    text = json.dumps(with_images(IMAGE, IMAGE_9))
    text = text.replace("a.jpg", r"\\\\ud800 \\ud800 \\ud83d\\ude00.jpg".replace("\\\\", "\\"))
    coco = read_annotations(write(tmp_path, text), plain_names=False)
    assert coco.images[0].file_name == "\\ud800 \ufffd \U0001f600.jpg"


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("annotations", '"annotations":', '"annotations": [{"segmentation": []}], "annotations":'),
        ("segmentation", '"area":', '"segmentation": [], "area":'),
    ],
)
def test_key_given_twice_is_an_error(tmp_path, key, old, new):
    """Of the two, decoders take the last, and the first is lost without a word."""
    text = json.dumps(file_json(annotation_json())).replace(old, new)
    with pytest.raises(ValueError, match=f"the key '{key}' occurs twice in one object"):
        read_annotations(write(tmp_path, text))


# -- ids


def shifted(n):
    return [[x + n / 8 for x in SQUARE[0]]]


@pytest.mark.parametrize("ids", [("img-1", "a1f3"), ("-1", "7e"), (-5, 2**64), ("ä", " b ")])
def test_ids_that_are_no_numbers_are_numbered_the_same_everywhere(tmp_path, ids):
    images = [IMAGE | {"id": ids[0]}, IMAGE_9 | {"id": ids[1]}]
    records = [changed(a, image_id=ids[a["image_id"] == 9]) for a in ANNOTATIONS]
    coco = read(tmp_path, *records, images=images)
    assert [image.file_name for image in coco.images] == ["a.jpg", "b.jpg"]
    for image, old in zip(coco.images, (7, 9), strict=True):
        expected = [a["id"] for a in ANNOTATIONS if a["image_id"] == old]
        assert [a.id for a in coco.annotations_of(image.id)] == expected
    assert any("numbered anew" in problem.detail for problem in coco.problems)


def test_numbers_given_to_ids_are_free(tmp_path):
    coco = read(tmp_path, images=[IMAGE | {"id": "x"}, IMAGE_9 | {"id": 0}])
    assert [image.id for image in coco.images] == [1, 0]
    coco = read(tmp_path, images=[IMAGE | {"id": "x"}, IMAGE_9 | {"id": 2**63 - 1}])
    assert [image.id for image in coco.images] == [0, 2**63 - 1]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((1, 1, 2), [1, 3, 2]),
        ((None, 5, ...), [6, 5, 7]),
        (("uuid-1", 0, "uuid-2"), [1, 0, 2]),
        ((True, -1, 2**63), [1, 2, 3]),
    ],
)
def test_annotations_without_an_id_of_their_own_are_numbered(tmp_path, ids, expected):
    coco = read(
        tmp_path,
        *(changed(annotation_json(), id=i, segmentation=shifted(n)) for n, i in enumerate(ids)),
    )
    assert [a.id for a in coco.annotations] == expected
    n_new = sum(new != old or old is True for new, old in zip(expected, ids, strict=True))
    assert count_kinds(coco.problems)["healed"] == n_new


# -- records that leave themselves out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 8}, "its image_id is not in the file"),
        ({"image_id": None}, "it has no usable image_id"),
        ({"image_id": ...}, "it has no usable image_id"),
        ({"image_id": [7]}, "it has no usable image_id"),
        ({"image_id": True}, "it has no usable image_id"),
        ({"category_id": 8}, "its category_id is not in the file"),
        ({"category_id": "shoe"}, "its category_id is not in the file"),
        ({"category_id": None}, "it has no usable category_id"),
        ({"category_id": {}}, "it has no usable category_id"),
        ({"segmentation": "no"}, "the segmentation is neither polygons nor run lengths"),
    ],
)
def test_broken_annotation_leaves_itself_out(tmp_path, changes, reason):
    path = write(tmp_path, with_annotation(**changes))
    coco = read_annotations(path)
    assert [a.id for a in coco.annotations] == [n for n in range(1, 21) if n != 4]
    (problem,) = coco.problems
    assert (problem.kind, problem.reason) == ("annotation_left_out", reason)
    assert problem.subject.startswith("annotation 4")
    with pytest.raises(ValueError, match=f"annotation 4.* cannot be used, {reason}"):
        read_annotations(path, strict=True)


@pytest.mark.parametrize("record", [None, 5, "?", [], [[]]])
@pytest.mark.parametrize("key", ["annotations", "images", "categories"])
def test_what_is_no_record_leaves_itself_out(tmp_path, key, record):
    file = with_every_annotation()
    file[key] = [record, *file[key]]
    coco = read_annotations(write(tmp_path, file))
    assert len(coco.packed) == 20
    (problem,) = coco.problems
    assert problem.subject == f"{key}[0]"
    assert problem.reason == "it is no record"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": None}, "it has no usable width and height"),
        ({"width": 0}, "it has no usable width and height"),
        ({"height": -5}, "it has no usable width and height"),
        ({"height": ...}, "it has no usable width and height"),
        ({"height": 100_000}, "it has no usable width and height"),
        ({"height": "5 px"}, "it has no usable width and height"),
        ({"file_name": None}, "its file_name is missing, or has control characters"),
        ({"file_name": " "}, "its file_name is missing, or has control characters"),
        ({"file_name": ...}, "its file_name is missing, or has control characters"),
        ({"file_name": "a\0.jpg"}, "its file_name is missing, or has control characters"),
        ({"file_name": "a\n.jpg"}, "its file_name is missing, or has control characters"),
        *(
            ({"file_name": name}, "its file_name is not a plain file name")
            for name in ("/etc/a.jpg", "../a.jpg", "s/a.jpg", "s\\a.jpg", "..", ".a.jpg", "C:a.jpg")
        ),
        ({"file_name": "ä" * 130 + ".jpg"}, "its file_name is too long"),
    ],
)
def test_broken_image_leaves_itself_out_with_its_annotations(tmp_path, changes, reason):
    path = write(tmp_path, with_images(changed(IMAGE, **changes), IMAGE_9))
    coco = read_annotations(path)
    assert [image.file_name for image in coco.images] == ["b.jpg"]
    assert [a.id for a in coco.annotations] == list(range(1, 21, 2))
    assert coco.problems[0].kind == "image_left_out"
    assert coco.problems[0].subject.startswith("image 7")
    assert reason in coco.problems[0].detail
    assert {p.reason for p in coco.problems[1:]} == {"its image was left out"}
    with pytest.raises(ValueError, match=r"image 7.* cannot be used"):
        read_annotations(path, strict=True)


@pytest.mark.parametrize("name", ["/data/upload/1/a.jpg", "s\\a.jpg", "https://x/a.jpg?d=1", ".a"])
def test_names_that_somebody_matches_may_have_folders(tmp_path, name):
    path = write(tmp_path, with_images(IMAGE | {"file_name": name}, IMAGE_9))
    assert read_annotations(path, plain_names=False).images[0].file_name == name


@pytest.mark.parametrize("image_id", [7, "seven"])
def test_size_that_the_file_does_not_say_is_the_photos(tmp_path, image_id):
    asked = []

    def photo_size(image):
        asked.append(image)
        return (6, 5, False) if image.file_name == "a.jpg" else None

    images = [changed(IMAGE, id=image_id, width=None, height=...), IMAGE_9, IMAGE_9 | {"id": 11}]
    images[2] |= {"file_name": "c.jpg", "height": 0}
    records = [changed(a, image_id=image_id if a["image_id"] == 7 else 9) for a in ANNOTATIONS]
    path = write(tmp_path, file_json(*records, images=images))
    coco = read_annotations(path, photo_size=photo_size)
    assert [(i.file_name, i.width, i.height) for i in coco.images] == [
        ("a.jpg", 6, 5),
        ("b.jpg", 6, 5),
    ]
    assert [(i.file_name, i.width, i.height) for i in asked] == [("a.jpg", 0, 0), ("c.jpg", 0, 0)]
    assert asked[0].id == coco.images[0].id


@pytest.mark.parametrize("name", [None, ..., [], "", " "])
def test_category_without_a_name_is_called_by_its_id(tmp_path, name):
    records = [*ANNOTATIONS, annotation_json(21, category_id=23)]
    categories = file_json()["categories"]
    categories[1] = changed(categories[1], name=name)
    coco = read(tmp_path, *records, categories=categories)
    assert [category.name for category in coco.categories][1] == "category 23"
    assert len(coco.annotations) == len(records)
    assert [p.kind for p in coco.problems] == ["healed"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\u202etxt.gpj", "\\u202etxt.gpj"),
        (
            "T\N{NO-BREAK SPACE}shirt, \u0645\u06cc\N{ZERO WIDTH NON-JOINER}\u062e 👨\u200d🎤",
            "",
        ),  # harmless
    ],
)
@pytest.mark.parametrize("number", [0, "0"])  # read at once, and record by record
def test_signs_that_a_screen_obeys_are_codes_in_names_of_categories(tmp_path, name, shown, number):
    categories = file_json()["categories"]
    categories[0] |= {"id": number, "name": name, "supercategory": name}
    category = read(tmp_path, *ANNOTATIONS, categories=categories).categories[0]
    assert (category.name, category.supercategory) == (shown or name,) * 2


def test_broken_category_leaves_its_annotations_out(tmp_path):
    records = [*ANNOTATIONS, annotation_json(21, category_id=23)]
    categories = file_json()["categories"]
    coco = read(tmp_path, *records, categories=[*categories, changed(categories[1], name="bag")])
    assert [category.id for category in coco.categories] == [0]
    assert [p.kind for p in coco.problems] == ["category_left_out", "annotation_left_out"]
    assert coco.problems[1].detail == "its category was left out: 23"
    records += [annotation_json(number, category_id=23) for number in range(22, 40)]
    with pytest.raises(ValueError, match=r"left out, first .*; category 23: one id means several"):
        read(tmp_path, *records, categories=[*categories, changed(categories[1], name="bag")])


def many_images(n=20):
    return [IMAGE | {"id": 100 + i, "file_name": f"more{i}.jpg"} for i in range(n)]


def test_one_id_of_two_images_leaves_both_out(tmp_path):
    images = [IMAGE, IMAGE_9, IMAGE_9 | {"file_name": "c.jpg"}, *many_images()]
    coco = read_annotations(write(tmp_path, with_images(*images)))
    assert [image.id for image in coco.images] == [7, *range(100, 120)]
    assert {a.image_id for a in coco.annotations} == {7}
    assert (coco.problems[0].subject, coco.problems[0].count) == ("image 9", 2)


def test_photo_listed_twice_is_one_image_with_the_annotations_of_both(tmp_path):
    images = [IMAGE, IMAGE_9, IMAGE_9 | {"id": 99}]
    records = [annotation_json(1), annotation_json(2, image_id=9), annotation_json(3, image_id=99)]
    records[2]["segmentation"] = SQUARE
    coco = read(tmp_path, *records, images=images)
    assert [image.id for image in coco.images] == [7, 9]
    assert [a.id for a in coco.annotations_of(9)] == [2, 3]
    (problem,) = coco.problems
    assert (problem.kind, problem.subject) == ("healed", "image 99 (b.jpg)")


def test_file_joined_with_itself_is_read_once(tmp_path):
    different = [a | {"segmentation": shifted(n)} for n, a in enumerate(ANNOTATIONS)]
    file = file_json(*different)
    twice = {key: file[key] * 2 for key in ("images", "categories", "annotations")}
    other_ids = [
        *different,
        *(a | {"id": a["id"] + 50, "image_id": a["image_id"] + 50} for a in different),
    ]
    images = [*file["images"], *(image | {"id": image["id"] + 50} for image in file["images"])]
    for joined in (twice, file_json(*other_ids, images=images)):
        coco = read_annotations(write(tmp_path, joined))
        assert (len(coco.images), len(coco.categories)) == (2, 2)
        assert [a.id for a in coco.annotations] == list(range(1, 21))


def test_photo_listed_twice_with_two_sizes_is_the_first_one(tmp_path):
    images = [IMAGE, IMAGE_9, IMAGE_9 | {"id": 99, "width": 12}]
    coco = read(tmp_path, *ANNOTATIONS, annotation_json(21, image_id=99), images=images)
    assert [(image.id, image.width) for image in coco.images] == [(7, 6), (9, 6)]
    assert len(coco.packed) == 20
    assert [p.kind for p in coco.problems] == ["image_left_out", "annotation_left_out"]


@pytest.mark.parametrize("n_broken", [1, 2, 3])
def test_more_than_a_tenth_of_broken_annotations_stops(tmp_path, n_broken):
    records = [
        *ANNOTATIONS[n_broken:],
        *(annotation_json(50 + n, image_id=8) for n in range(n_broken)),
    ]
    path = write(tmp_path, file_json(*records))
    if n_broken <= 2:
        assert len(read_annotations(path).packed) == 20 - n_broken
        return
    message = (
        r"3 of 20 annotations .*\(3 times its image_id is not in the file, first annotation 50: 8\)"
    )
    with pytest.raises(ValueError, match=message):
        read_annotations(path)


@pytest.mark.parametrize("n_broken", [2, 3])
def test_more_than_a_tenth_of_broken_images_stops(tmp_path, n_broken):
    images = [IMAGE, IMAGE_9, *many_images(18)]
    for image in images[2 : 2 + n_broken]:
        image["file_name"] = "../" + image["file_name"]
    path = write(tmp_path, with_images(*images))
    if n_broken == 2:
        assert len(read_annotations(path).images) == 18
        return
    with pytest.raises(ValueError, match=r"3 of 20 images cannot be used .*not a plain file name"):
        read_annotations(path)


def test_one_broken_record_never_is_too_much(tmp_path):
    coco = read(tmp_path, annotation_json(1), annotation_json(2, category_id=None))
    assert [a.id for a in coco.annotations] == [1]


# -- masks


BOX = {"x": 1, "y": 1, "width": 2, "height": 2}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        *(({"segmentation": value}, "a box only") for value in (None, [], [[]], {}, "", ..., BOX)),
        ({"segmentation": [1, 1, 2, 2]}, "a box only"),
        ({"segmentation": [[1, 1, 2, 2]]}, "a box only"),
        ({"segmentation": [[1, 1, 3, 3]]}, "a box only"),
        ({"segmentation": ..., "keypoints": [1, 2, 2]}, "key points only"),
        ({"segmentation": [], "keypoints": [1, 2, 2]}, "key points only"),
        ({"segmentation": [], "keypoints": [0, 0, 0]}, "a box only"),
        ({"segmentation": ..., "bbox": ...}, "no segmentation"),
    ],
)
def test_annotations_without_a_mask_are_counted_and_are_not_broken(tmp_path, changes, what):
    few = file_json(*ANNOTATIONS[:3], *(changed(a, **changes) for a in ANNOTATIONS[3:]))
    coco = read_annotations(write(tmp_path, few), strict=True)
    assert [a.id for a in coco.annotations] == [1, 2, 3]
    (problem,) = coco.problems
    assert (problem.kind, problem.detail, problem.count) == ("without_mask", what, 17)
    report = audit(coco)
    assert (report.n_annotations, report.n_annotations_left_out) == (3, 17)
    with pytest.raises(ValueError, match=rf"20 annotations, but no masks \({what}: 20\)"):
        read_annotations(write(tmp_path, with_every_annotation(**changes)))


def test_sound_part_is_kept_where_another_one_is_broken(tmp_path):
    parts = [
        [1, 1, 3, 3],
        *TRIANGLE,
        [1, 1, 3, 1, 3, 3, 2],
        [2, 2, 4, 2, "x", 4],
        [0, 0, 9e9, 1, 1, 1],
    ]
    coco = read(tmp_path, annotation_json(1, segmentation=parts))
    assert coco.annotations[0].segmentation == TRIANGLE
    assert coco.packed[0].n_parts == 1
    assert count_kinds(coco.problems) == {"part_left_out": 4}


SHARES = [[1 / 6, 0.2, 0.5, 0.2, 0.5, 0.6, 1 / 6, 0.6]]


@pytest.mark.parametrize("bbox", [[1, 1, 2, 2], [1 / 6, 0.2, 1 / 3, 0.4], None])
def test_coordinates_of_a_whole_file_from_0_to_1_are_shares_of_the_size(tmp_path, bbox):
    coco = read_annotations(write(tmp_path, with_every_annotation(segmentation=SHARES, bbox=bbox)))
    in_pixels = read_annotations(write(tmp_path, with_every_annotation(bbox=None)))
    for annotation, other in zip(coco.annotations, in_pixels.annotations, strict=True):
        assert np.allclose(annotation.segmentation, other.segmentation)
        assert (annotation.bbox, annotation.area) == (other.bbox, other.area)
    assert [p.count for p in coco.problems if "shares of the image's size" in p.detail] == [20]


def test_tiny_mask_among_others_is_no_share(tmp_path):
    tiny = {"segmentation": [[0, 0, 0.9, 0, 0.9, 0.9]], "bbox": [0, 0, 1, 1], "area": 1}
    coco = read_annotations(write(tmp_path, with_annotation(**tiny)))
    assert coco.annotations[3].segmentation == [[0, 0, 0.9, 0, 0.9, 0.9]]
    assert coco.problems == ()


def test_share_among_pixels_is_told_by_its_box(tmp_path):
    changes = {"segmentation": [[0, 0, 0.9, 0, 0.9, 0.9]], "bbox": [0, 0, 5.4, 4.5]}
    coco = read_annotations(write(tmp_path, with_annotation(**changes)))
    assert np.allclose(coco.annotations[3].segmentation, [[0, 0, 5.4, 0, 5.4, 4.5]])


SHARE_BOX = [1 / 6, 0.2, 1 / 3, 0.4]


@pytest.mark.parametrize(
    ("boxes", "n_scaled"),
    [
        ([SHARE_BOX, SHARE_BOX], 2),
        ([SHARE_BOX, None], 2),  # without a box it follows the others
        ([SHARE_BOX, [0, 0, 0, 0]], 2),
        ([SHARE_BOX, [3, 3, 3, 2]], 1),  # of pixels elsewhere
        ([SHARE_BOX, [0, 0, 1, 1]], 1),
        ([None, None], 0),
    ],
)
def test_shares_among_pixels_are_told_by_a_box_of_shares(tmp_path, boxes, n_scaled):
    shares = [
        changed(a, segmentation=SHARES, bbox=b) for a, b in zip(ANNOTATIONS[:2], boxes, strict=True)
    ]
    coco = read(tmp_path, *shares, *ANNOTATIONS[2:])
    scaled = [a for a in coco.annotations[:2] if np.max(a.segmentation) > 1]
    assert len(scaled) == n_scaled
    for annotation in scaled:
        assert np.allclose(annotation.segmentation, [[1, 1, 3, 1, 3, 3, 1, 3]])
        assert (annotation.bbox, annotation.area) == ((1, 1, 2, 2), 4)
    found = [p.count for p in coco.problems if "shares of the image's size" in p.detail]
    assert found == [n_scaled] * (n_scaled > 0)


def test_whole_image_is_a_share_where_all_are(tmp_path):
    records = [changed(a, segmentation=SHARES, bbox=None) for a in ANNOTATIONS]
    records[0]["segmentation"] = [[0, 0, 1, 0, 1, 1, 0, 1]]
    coco = read(tmp_path, *records)
    assert coco.annotations[0].segmentation == [[0, 0, 6, 0, 6, 5, 0, 5]]


def test_single_pixel_in_a_file_of_one_annotation_is_no_share(tmp_path):
    pixel = [[0, 0, 1, 0, 1, 1, 0, 1]]
    coco = read(tmp_path, annotation_json(1, segmentation=pixel, bbox=[0, 0, 1, 1]))
    assert coco.annotations[0].segmentation == pixel


def test_everything_read_can_be_painted(tmp_path):
    coco = read_annotations(write(tmp_path, with_every_annotation(segmentation=[SQUARE])))
    expected = read_annotations(write(tmp_path, with_every_annotation())).annotations
    for annotation, other in zip(coco.annotations, expected, strict=True):
        masks = [annotation_to_instance_mask(a, height=5, width=6) for a in (annotation, other)]
        assert np.array_equal(*masks)
