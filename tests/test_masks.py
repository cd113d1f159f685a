"""Masks equal the COCO mask API's to the pixel, and a folder of them is never half right."""

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from clothseg_utils.core import workers
from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_table
from clothseg_utils.data import masks as masks_module
from clothseg_utils.data.coco import Annotation, annotation_path, read_annotations
from clothseg_utils.data.masks import (
    make_masks,
    rasterize_split,
    read_mask,
    select_images,
    write_mask,
)
from clothseg_utils.data.rasterize import (
    annotation_to_instance_mask,
    build_layers,
    layer_hidden_pixels,
    rasterize,
)
from clothseg_utils.data.rle import Rle

# The referee's own decode(), pycocotools 2.0.11 under NumPy 2; ours does not call it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

CLASS_OF_CATEGORY = {0: 1, 1: 2, 2: 3}


def annotation(annotation_id, segmentation, *, area=None, category_id=0):
    """A record; the default area makes the order of ids the painting order."""
    return Annotation(
        id=annotation_id,
        image_id=1,
        category_id=category_id,
        segmentation=segmentation,
        area=10_000 - annotation_id if area is None else area,
        bbox=(0, 0, 0, 0),
    )


def rectangle(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def plain_loop(annotations, height, width, class_of_category):
    """The straightforward loop over COCO().annToMask that ours must equal."""
    coco = COCO()
    coco.imgs = {1: {"height": height, "width": width}}
    mask = np.zeros((height, width), np.uint8)
    for record in sorted(annotations, key=lambda a: (-a.area, a.id)):
        segmentation = record.segmentation
        if isinstance(segmentation, Rle):
            segmentation = {"size": list(segmentation.size), "counts": segmentation.counts}
        instance_mask = coco.annToMask({"image_id": 1, "segmentation": segmentation})
        mask[instance_mask == 1] = class_of_category[record.category_id]
    return mask


def compressed(size, counts):
    """The same run lengths as COCO's string."""
    code = mask_api.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return Rle(size=size, counts=code.decode())


# A ring of 3 x 3 with a hole, in columns 1 to 3 and rows 1 to 3 of a 5 x 6 image.
RING = [6, 3, 2, 1, 1, 1, 2, 3, 11]

HARD_CASES = {
    "no annotations": (
        [],
        """
        ......
        ......
        ......
        ......
        ......
        """,
    ),
    "one polygon": (
        [annotation(1, [rectangle(1, 1, 4, 3)])],
        """
        ......
        .111..
        .111..
        ......
        ......
        """,
    ),
    "two-part polygon": (
        [annotation(1, [rectangle(0, 0, 2, 1), rectangle(4, 3, 6, 5)])],
        """
        11....
        ......
        ......
        ....11
        ....11
        """,
    ),
    "plain RLE with a hole": (
        [annotation(1, Rle(size=(5, 6), counts=RING))],
        """
        ......
        .111..
        .1.1..
        .111..
        ......
        """,
    ),
    "compressed RLE with a hole over a polygon": (
        [
            annotation(1, [rectangle(0, 0, 6, 5)], category_id=1),
            annotation(2, compressed((5, 6), RING)),
        ],
        """
        222222
        211122
        212122
        211122
        222222
        """,
    ),
    "small on large, whatever the order of the list": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=4, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=20),
        ],
        """
        11111.
        12211.
        12211.
        11111.
        ......
        """,
    ),
    "the JSON's area decides, not the pixels": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=99, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=20),
        ],
        """
        11111.
        11111.
        11111.
        11111.
        ......
        """,
    ),
    "among equal areas the higher id is on top": (
        [
            annotation(8, [rectangle(2, 0, 5, 3)], area=9, category_id=1),
            annotation(3, [rectangle(0, 0, 3, 3)], area=9),
        ],
        """
        11222.
        11222.
        11222.
        ......
        ......
        """,
    ),
    "area 0 is painted last": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=0, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=1),
        ],
        """
        11111.
        12211.
        12211.
        11111.
        ......
        """,
    ),
    "sub-pixel item": (
        [annotation(1, [rectangle(1.2, 1.2, 1.4, 1.4)])],
        """
        ......
        ......
        ......
        ......
        ......
        """,
    ),
    "past the right and lower edge": (
        [annotation(1, [rectangle(4, 3, 90, 80)])],
        """
        ......
        ......
        ......
        ....11
        ....11
        """,
    ),
    "negative coordinates": (
        [annotation(1, [rectangle(-30, -20, 2, 3)])],
        """
        11....
        11....
        11....
        ......
        ......
        """,
    ),
    "wholly outside": (
        [annotation(1, [rectangle(8, 1, 9, 4), rectangle(-9, 1, -8, 4)])],
        """
        ......
        ......
        ......
        ......
        ......
        """,
    ),
    "the whole image": (
        [annotation(1, [rectangle(0, 0, 6, 5)])],
        """
        111111
        111111
        111111
        111111
        111111
        """,
    ),
}


@pytest.mark.parametrize("name", HARD_CASES)
def test_hard_case_by_hand_and_by_the_plain_loop(name):
    annotations, drawing = HARD_CASES[name]
    expected = np.array(
        [[int(mark) for mark in row.replace(".", "0")] for row in drawing.split()], np.uint8
    )
    mask = rasterize(annotations, CLASS_OF_CATEGORY, height=5, width=6)
    assert mask.dtype == np.uint8
    assert mask.flags.c_contiguous
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(mask, plain_loop(annotations, 5, 6, CLASS_OF_CATEGORY))


def random_segmentation(rng, height, width):
    if rng.random() < 0.15:
        mask = (rng.random((height, width)) < rng.choice([0.0, 0.1, 0.9, 1.0])).astype(np.uint8)
        code = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
        return Rle(size=(height, width), counts=code)
    parts = []
    for _ in range(rng.integers(1, 5)):
        center = rng.uniform(-0.2, 1.2, 2) * (width, height)
        points = center + rng.normal(0, rng.choice([0.3, 3, 30]), (rng.integers(3, 12), 2))
        digits = rng.choice([0, 1, 12])  # whole pixels, tenths (ties of the rounding), any
        parts.append(np.round(points, digits).ravel().tolist())
    return parts


def test_random_segmentations_equal_the_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(400):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        annotations = [
            annotation(
                i,
                random_segmentation(rng, height, width),
                area=float(rng.integers(0, 5)),
                category_id=int(rng.integers(0, 3)),
            )
            for i in range(rng.integers(1, 6))
        ]
        np.testing.assert_array_equal(
            rasterize(annotations, CLASS_OF_CATEGORY, height, width),
            plain_loop(annotations, height, width, CLASS_OF_CATEGORY),
        )


def count_differing_pixels(real_data, n_images):
    """Differing pixels, images compared and annotated pixels, on real annotations."""
    path = annotation_path(real_data / "fashionpedia_annotations", "train")
    coco = read_annotations(path)
    class_of_category = class_table("supercategory", coco.categories).class_of_category
    with contextlib.redirect_stdout(io.StringIO()):
        referee = COCO(str(path))
    differing = painted = 0
    images = coco.images[:n_images]
    for image in images:
        mask = rasterize(
            coco.annotations_of(image.id), class_of_category, image.height, image.width
        )
        expected = np.zeros_like(mask)
        records = referee.loadAnns(referee.getAnnIds(imgIds=image.id))
        for record in sorted(records, key=lambda record: (-record["area"], record["id"])):
            class_id = class_of_category[record["category_id"]]
            expected[referee.annToMask(record) == 1] = class_id
        differing += np.count_nonzero(mask != expected)
        painted += np.count_nonzero(expected)
    return differing, len(images), painted


@pytest.mark.real
def test_real_masks_equal_the_plain_loop(real_data):
    differing, n_images, painted = count_differing_pixels(real_data, 60)
    assert n_images == 60
    assert painted > 1_000_000
    assert differing == 0


@pytest.mark.real
@pytest.mark.slow
def test_all_real_masks_equal_the_plain_loop(real_data):
    differing, n_images, painted = count_differing_pixels(real_data, None)
    assert n_images == 800
    assert painted > 10_000_000
    assert differing == 0


def test_unknown_category_is_named():
    with pytest.raises(ValueError, match="annotation 5 has the category_id 99"):
        rasterize([annotation(5, [rectangle(0, 0, 2, 2)], category_id=99)], CLASS_OF_CATEGORY, 5, 6)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (Rle(size=(6, 5), counts=[30]), "annotation 5 has an RLE of .* 6 x 5; expected 5 x 6"),
        (Rle(size=(5, 6), counts=[29]), "annotation 5 cannot be rasterized: .* 29 pixels"),
        ([[0, 0, 1, 1]], "annotation 5 cannot be rasterized: polygon part 0 has 4 coordinates"),
        ([[0, 0, 1, 1, 1, 1e300]], "annotation 5 cannot be rasterized: .* beyond 100000 px"),
    ],
)
def test_segmentation_that_cannot_be_rasterized_is_named(segmentation, message):
    with pytest.raises(ValueError, match=message):
        rasterize([annotation(5, segmentation)], CLASS_OF_CATEGORY, 5, 6)
    with pytest.raises(ValueError, match=message):
        annotation_to_instance_mask(annotation(5, segmentation), 5, 6)


def test_instance_mask_is_boolean_and_ignores_the_category():
    ring = annotation(1, Rle(size=(5, 6), counts=RING), category_id=99)
    instance_mask = annotation_to_instance_mask(ring, 5, 6)
    assert instance_mask.dtype == bool
    assert instance_mask.sum() == 8
    assert not instance_mask[2, 2]
    assert instance_mask[1:4, 1:4].sum() == 8


def test_layers_show_each_step_and_end_in_the_mask():
    annotations = [
        annotation(1, [rectangle(1, 1, 3, 3)], area=4, category_id=1),
        annotation(2, [rectangle(0, 0, 5, 4)], area=20),
    ]
    layers = list(build_layers(annotations, CLASS_OF_CATEGORY, 5, 6))
    assert [layer.id for layer, _ in layers] == [2, 1]
    assert [np.count_nonzero(mask == 2) for _, mask in layers] == [0, 4]
    np.testing.assert_array_equal(layers[-1][1], rasterize(annotations, CLASS_OF_CATEGORY, 5, 6))


def test_hidden_pixels_are_counted_once_a_class():
    annotations = [
        annotation(1, [rectangle(0, 0, 4, 4)], area=16),  # class 1, 16 pixels
        annotation(2, [rectangle(0, 0, 4, 4)], area=16),  # class 1 again: hides no class
        annotation(3, [rectangle(0, 0, 2, 2)], area=4, category_id=1),  # hides 4 of class 1
        annotation(4, [rectangle(1, 1, 2, 2)], area=1, category_id=2),  # hides 1 of class 2
    ]
    hidden = layer_hidden_pixels(annotations, CLASS_OF_CATEGORY, 5, 6, num_classes=4)
    assert hidden.tolist() == [0, 4, 1, 0]


def test_mask_survives_writing_and_reading(tmp_path):
    mask = np.array([[0, 12, 255], [1, 1, 0]], np.uint8)
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", num_classes=13), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_class_id_beyond_the_table_is_named(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 13, 47]], np.uint8))
    with pytest.raises(
        ValueError, match=r"a\.png has class ids \[13, 47\]; expected 0\.\.12 or 255"
    ):
        read_mask(tmp_path / "a.png", num_classes=13)


def test_colour_truncated_or_empty_mask_is_refused(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is shape \(4, 4, 3\), uint8"):
        read_mask(path, 13)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        read_mask(path, 13)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        read_mask(path, 13)
    with pytest.raises(FileNotFoundError, match=r"b\.png not found; rerun notebook 02"):
        read_mask(tmp_path / "b.png", 13)


def test_pixels_of_a_huge_mask_are_counted_exactly():
    mask = np.zeros((4100, 4100), np.uint8)
    mask[0, 0] = 2
    assert masks_module._count_pixels(mask, [1, 2, 2], 3) == [4100 * 4100 - 1, 0, 1]


@pytest.fixture
def dataset(tmp_path):
    """A data root of 5 tiny images, the last without annotations; 6 x 5 and 4 x 3 pixels."""
    images = [
        {"id": i, "file_name": f"{name}.jpg", "width": 6 - 2 * (i % 2), "height": 5 - 2 * (i % 2)}
        for i, name in enumerate("abcde")
    ]
    annotations = [
        {
            "id": 10 + i,
            "image_id": i,
            "category_id": i % 2,
            "segmentation": [rectangle(0, 0, 1 + i, 2)],
            "area": 2,
            "bbox": [0, 0, 1 + i, 2],
        }
        for i in range(4)
    ]
    categories = [
        {"id": 0, "name": "coat", "supercategory": "upperbody"},
        {"id": 1, "name": "shoe", "supercategory": "legs and feet"},
    ]
    root = tmp_path / "tiny"
    root.mkdir()
    file = {"images": images, "annotations": annotations, "categories": categories}
    annotation_path(root, "train").write_text(json.dumps(file))
    return root


def change(dataset, **changes):
    """Rewrite the dataset's JSON."""
    path = annotation_path(dataset, "train")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def written(monkeypatch):
    """Names of the masks written in this process, in order."""
    seen = []

    def spy(path, mask):
        seen.append(Path(path).name)
        write_mask(path, mask)

    monkeypatch.setattr(masks_module, "write_mask", spy)
    return seen


ALL = ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_split_leaves_masks_and_index_only(dataset, tmp_path):
    out_dir = tmp_path / "out"
    index = rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [*ALL, "index.json"]
    np.testing.assert_array_equal(
        read_mask(out_dir / "b.png", 13), [[4, 4, 0, 0], [4, 4, 0, 0], [0, 0, 0, 0]]
    )
    assert not read_mask(index.mask_path(4), 13).any()
    assert index.class_names == SUPERCATEGORY_NAMES
    assert index.class_pixels[[0, 2, 4]].tolist() == [90 + 24 - 20, 2 + 6, 4 + 8]
    assert index.class_pixels.sum() == 3 * 30 + 2 * 12


def test_index_says_what_was_made_of_what(dataset, tmp_path):
    index = rasterize_split(
        annotation_path(dataset, "train"), tmp_path / "out", "category", workers=1
    )
    written = json.loads(index.path.read_text())
    assert written["state"] == "complete"
    assert written["annotations_file"] == "instances_attributes_train2020.json"
    assert written["sha256"] == read_annotations(annotation_path(dataset, "train")).sha256
    assert written["scheme"] == "category"
    assert written["class_names"] == ["background", "coat", "shoe"]
    assert written["rule_version"] == masks_module.RULE_VERSION
    assert written["entries"][1] == {
        "image_id": 1,
        "file_name": "b.jpg",
        "mask": "b.png",
        "height": 3,
        "width": 4,
        "n_bytes": (tmp_path / "out/b.png").stat().st_size,
        "class_pixels": [8, 0, 4],
    }


def test_rerun_makes_nothing(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    first = rasterize_split(*arguments, workers=1)
    assert written == ALL
    modified = first.path.stat().st_mtime_ns
    second = rasterize_split(*arguments, workers=1)
    assert written == ALL
    assert second == first
    assert first.path.stat().st_mtime_ns == modified


def test_rerun_makes_what_is_missing_or_truncated(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    first = rasterize_split(*arguments, workers=1)
    whole = (tmp_path / "out/d.png").read_bytes()
    (tmp_path / "out/b.png").unlink()
    (tmp_path / "out/d.png").write_bytes(whole[:-7])
    written.clear()
    assert rasterize_split(*arguments, workers=1) == first
    assert written == ["b.png", "d.png"]
    assert (tmp_path / "out/d.png").read_bytes() == whole


@pytest.mark.parametrize("what", ["json", "scheme", "rule"])
def test_stale_masks_are_made_anew(dataset, tmp_path, written, monkeypatch, what):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    rasterize_split(path, out_dir, "supercategory", workers=1)
    written.clear()
    if what == "json":
        change(dataset, annotations=[])
    if what == "rule":
        monkeypatch.setattr(masks_module, "RULE_VERSION", masks_module.RULE_VERSION + 1)
    scheme = "category" if what == "scheme" else "supercategory"
    rasterize_split(path, out_dir, scheme, workers=1)
    assert written == ALL
    expected = {"json": 0, "scheme": 2, "rule": 4}[what]
    assert read_mask(out_dir / "b.png", 13).max() == expected


def test_masks_of_images_that_are_gone_are_removed_but_nobody_elses(dataset, tmp_path):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    rasterize_split(path, out_dir, "supercategory", workers=1)
    (out_dir / "own.png").write_bytes(b"a user's")
    file = json.loads(path.read_text())
    change(dataset, images=file["images"][:2], annotations=[])
    rasterize_split(path, out_dir, "supercategory", workers=1)
    assert names(out_dir) == ["a.png", "b.png", "index.json", "own.png"]


def test_image_limit_takes_the_first_and_grows(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    index = rasterize_split(*arguments, workers=1, image_limit=2)
    assert [entry.mask for entry in index.entries] == ["a.png", "b.png"]
    assert names(tmp_path / "out") == ["a.png", "b.png", "index.json"]
    with pytest.raises(ValueError, match=r"image 3 has no mask in .*without image_limit"):
        index.mask_path(3)
    assert len(rasterize_split(*arguments, workers=1).entries) == 5
    (tmp_path / "out/a.png").unlink()
    assert len(rasterize_split(*arguments, workers=1, image_limit=3).entries) == 3
    assert len(json.loads(index.path.read_text())["entries"]) == 5
    assert written == [*ALL, "a.png"]
    assert names(tmp_path / "out") == [*ALL, "index.json"]


def test_interrupted_work_goes_on_where_it_stopped(dataset, tmp_path, written, monkeypatch):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    monkeypatch.setattr(masks_module, "_CHUNK_IMAGES", 1)
    sound = masks_module.write_mask

    def interrupt(path, mask):
        if Path(path).name == "c.png":
            raise KeyboardInterrupt
        sound(path, mask)

    monkeypatch.setattr(masks_module, "write_mask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rasterize_split(*arguments, workers=1)
    half = json.loads((tmp_path / "out/index.json").read_text())
    assert half["state"] == "partial"
    assert [entry["n_bytes"] > 0 for entry in half["entries"]] == [True, True, False, False, False]
    monkeypatch.setattr(masks_module, "write_mask", sound)
    rasterize_split(*arguments, workers=1)
    assert written == ALL
    assert json.loads((tmp_path / "out/index.json").read_text())["state"] == "complete"


def test_leavings_of_a_killed_process_are_cleared(dataset, tmp_path):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    for name in (".lock", ".a-0_aaaaaa.png", ".index-bbbbbbbb.json"):
        (out_dir / name).write_bytes(b"")
    rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [*ALL, "index.json"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("holiday.jpg", "", r"holds other files, such as holiday\.jpg, and no index\.json"),
        ("index.json", "{}", r"index\.json is not an index of masks"),
        ("index.json", "<html>", r"index\.json is not an index of masks"),
    ],
)
def test_folder_of_somebody_else_is_left_alone(dataset, tmp_path, name, text, message):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [name]


def test_bad_arguments_write_nothing(dataset, tmp_path):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    with pytest.raises(ValueError, match='unknown scheme "classes"'):
        rasterize_split(path, out_dir, "classes")
    with pytest.raises(FileNotFoundError, match=r"none\.json not found"):
        rasterize_split(tmp_path / "none.json", out_dir, "supercategory")
    change(dataset, categories=[{"id": i, "name": "x", "supercategory": "hats"} for i in (0, 1)])
    with pytest.raises(ValueError, match='unknown supercategory "hats"'):
        rasterize_split(path, out_dir, "supercategory")
    assert not out_dir.exists()
    out_dir.write_text("")
    with pytest.raises(ValueError, match="out is a file; expected a folder"):
        rasterize_split(path, out_dir, "category")


def test_images_whose_masks_collide_are_left_out(dataset, tmp_path):
    path = annotation_path(dataset, "train")
    images = json.loads(path.read_text())["images"]
    images[2]["file_name"] = "a.png"
    change(dataset, images=images)
    index = rasterize_split(path, tmp_path / "out", "supercategory", workers=1)
    assert names(tmp_path / "out") == ["b.png", "d.png", "e.png", "index.json"]
    assert [entry.image_id for entry in index.entries] == [1, 3, 4]


def test_images_are_selected_by_the_files_order(dataset):
    change(
        dataset, images=json.loads(annotation_path(dataset, "train").read_text())["images"][::-1]
    )
    coco = read_annotations(annotation_path(dataset, "train"))
    assert [image.file_name for image in select_images(coco, 2)] == ["e.jpg", "d.jpg"]
    assert len(select_images(coco, 0)) == len(select_images(coco, 99)) == 5


def test_worker_processes_make_the_same_masks(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(masks_module, "_CHUNK_IMAGES", 1)
    path = annotation_path(dataset, "train")
    alone = rasterize_split(path, tmp_path / "alone", "supercategory", workers=1)
    monkeypatch.setattr(masks_module, "_MIN_IMAGES_PER_WORKER", 1)
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(workers, "_process_context", lambda: spawn)
    # Calls in this process would fail now; those in the workers, which import anew, do not.
    monkeypatch.setattr(masks_module, "rasterize", None)
    together = rasterize_split(path, tmp_path / "together", "supercategory", workers=2)
    assert together.entries == alone.entries
    for name in ALL:
        assert (tmp_path / "together" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()


FORKING = """
import sys, threading
import cv2, numpy as np
from clothseg_utils.core import workers
from clothseg_utils.data import masks

path, alone, together = sys.argv[1:]
masks._MIN_IMAGES_PER_WORKER = masks._CHUNK_IMAGES = 1
cv2.setNumThreads(2)
cv2.warpAffine(np.zeros((2000, 2000), np.uint8), np.eye(2, 3), (2000, 2000))  # starts its threads
masks.rasterize_split(path, alone, "supercategory", workers=1)
masks.rasterize_split(path, together, "supercategory", workers=2)
print(workers._process_context().get_start_method())
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(workers._process_context().get_start_method())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_forked_processes_make_the_same_masks_and_threads_rule_them_out(dataset, tmp_path):
    path = annotation_path(dataset, "train")
    folders = [tmp_path / "alone", tmp_path / "together"]
    command = [sys.executable, "-c", FORKING, path, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["fork", "spawn"]
    for name in ALL:
        first, second = (folder / name for folder in folders)
        assert first.read_bytes() == second.read_bytes()


def test_masks_are_filed_under_name_and_hash_of_the_dataset(dataset, tmp_path):
    index = make_masks(dataset, "train", "supercategory", tmp_path / "derived", workers=1)
    assert index.mask_dir == tmp_path / f"derived/tiny-{index.sha256[:8]}/supercategory/masks"
    assert names(index.mask_dir) == [*ALL, "index.json"]
    assert names(dataset) == ["instances_attributes_train2020.json"]


def test_finished_masks_are_taken_without_parsing_the_json(dataset, tmp_path, monkeypatch):
    arguments = (dataset, "train", "supercategory", tmp_path / "derived")
    first = make_masks(*arguments, workers=1)
    monkeypatch.setattr(masks_module, "read_annotations", None)
    assert make_masks(*arguments) == first
    assert make_masks(*arguments, image_limit=2).entries == first.entries[:2]


@pytest.mark.parametrize("damage", ["missing", "truncated", "limit", "index"])
def test_damaged_masks_are_mended(dataset, tmp_path, damage):
    arguments = (dataset, "train", "supercategory", tmp_path / "derived")
    first = make_masks(*arguments, workers=1, image_limit=2 if damage == "limit" else 0)
    if damage == "missing":
        first.mask_path(1).unlink()
    if damage == "truncated":
        first.mask_path(1).write_bytes(b"")
    if damage == "index":
        first.path.write_text(first.path.read_text().replace('"complete"', '"partial"'))
    assert [entry.mask for entry in make_masks(*arguments, workers=1).entries] == ALL
    assert read_mask(first.mask_path(1), 13).max() == 4


def test_missing_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_attributes_val2020\.json not found"):
        make_masks(tmp_path, "val", "supercategory", tmp_path / "derived")
    assert names(tmp_path) == []


def test_lock_is_held_by_one_at_a_time_and_leaves_nothing(tmp_path):
    order = []

    def second():
        with masks_module._folder_lock(tmp_path):
            order.append("second in")

    with masks_module._folder_lock(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)
        order.append("first out")
    waiting.join(timeout=10)
    assert order == ["first out", "second in"]
    assert names(tmp_path) == []


def test_two_processes_at_once_agree_and_leave_a_whole_folder(dataset, tmp_path):
    program = (
        "import sys; from clothseg_utils.data.masks import make_masks\n"
        "index = make_masks(sys.argv[1], 'train', 'supercategory', sys.argv[2], workers=1)\n"
        "print(index.mask_dir, index.class_pixels.tolist())"
    )
    command = [sys.executable, "-c", program, str(dataset), str(tmp_path / "derived")]
    environment = os.environ | {"PYTHONPATH": str(Path(masks_module.__file__).parents[2])}
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    answers = {run.communicate(timeout=60)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(answers) == 1
    mask_dir = Path(answers.pop().split(" [")[0])
    assert names(mask_dir) == [*ALL, "index.json"]
