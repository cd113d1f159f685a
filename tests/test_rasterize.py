"""Masks equal the COCO mask API's to the pixel."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from clothseg_utils.core.classes import class_table
from clothseg_utils.data.coco import Annotation, annotation_path, read_annotations
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
        "...... ...... ...... ...... ......",
    ),
    "one polygon": (
        [annotation(1, [rectangle(1, 1, 4, 3)])],
        "...... .111.. .111.. ...... ......",
    ),
    "two-part polygon": (
        [annotation(1, [rectangle(0, 0, 2, 1), rectangle(4, 3, 6, 5)])],
        "11.... ...... ...... ....11 ....11",
    ),
    "plain RLE with a hole": (
        [annotation(1, Rle(size=(5, 6), counts=RING))],
        "...... .111.. .1.1.. .111.. ......",
    ),
    "compressed RLE with a hole over a polygon": (
        [
            annotation(1, [rectangle(0, 0, 6, 5)], category_id=1),
            annotation(2, compressed((5, 6), RING)),
        ],
        "222222 211122 212122 211122 222222",
    ),
    "small on large, whatever the order of the list": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=4, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=20),
        ],
        "11111. 12211. 12211. 11111. ......",
    ),
    "the JSON's area decides, not the pixels": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=99, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=20),
        ],
        "11111. 11111. 11111. 11111. ......",
    ),
    "among equal areas the higher id is on top": (
        [
            annotation(8, [rectangle(2, 0, 5, 3)], area=9, category_id=1),
            annotation(3, [rectangle(0, 0, 3, 3)], area=9),
        ],
        "11222. 11222. 11222. ...... ......",
    ),
    "area 0 is painted last": (
        [
            annotation(1, [rectangle(1, 1, 3, 3)], area=0, category_id=1),
            annotation(2, [rectangle(0, 0, 5, 4)], area=1),
        ],
        "11111. 12211. 12211. 11111. ......",
    ),
    "sub-pixel item": (
        [annotation(1, [rectangle(1.2, 1.2, 1.4, 1.4)])],
        "...... ...... ...... ...... ......",
    ),
    "past the right and lower edge": (
        [annotation(1, [rectangle(4, 3, 90, 80)])],
        "...... ...... ...... ....11 ....11",
    ),
    "negative coordinates": (
        [annotation(1, [rectangle(-30, -20, 2, 3)])],
        "11.... 11.... 11.... ...... ......",
    ),
    "wholly outside": (
        [annotation(1, [rectangle(8, 1, 9, 4), rectangle(-9, 1, -8, 4)])],
        "...... ...... ...... ...... ......",
    ),
    "the whole image": (
        [annotation(1, [rectangle(0, 0, 6, 5)])],
        "111111 111111 111111 111111 111111",
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
@pytest.mark.parametrize("n_images", [60, pytest.param(800, marks=pytest.mark.slow)])
def test_real_masks_equal_the_plain_loop(real_data, n_images):
    differing, compared, painted = count_differing_pixels(real_data, n_images)
    assert (differing, compared) == (0, n_images)
    assert painted > 10_000 * n_images


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
