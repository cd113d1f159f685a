"""Segmentations in the forms that other tools write."""

import base64
import re

import numpy as np
import pytest
from pycocotools import mask as mask_api

from clothseg_utils.data.rle import Rle, rle_to_counts
from clothseg_utils.data.segmentations import (
    WithoutMaskError,
    measure,
    read_segmentation,
)

HEIGHT, WIDTH = 5, 6
PART = [1, 1, 4, 1, 4, 3]
POINTS = [[1, 1], [4, 1], [4, 3]]
OBJECTS = [{"x": x, "y": y} for x, y in POINTS]
OTHER = [0, 0, 2, 0, 2, 2]
RUNS = [6, 3, 21]
CODE = mask_api.frPyObjects({"size": [HEIGHT, WIDTH], "counts": RUNS}, HEIGHT, WIDTH)["counts"]
SIZE = [HEIGHT, WIDTH]


def read(value, box=None):
    return read_segmentation(value, HEIGHT, WIDTH, box)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([PART], [PART]),
        (PART, [PART]),
        ([[PART]], [PART]),
        ([[[[[[PART]]]]]], [PART]),
        ([PART, OTHER], [PART, OTHER]),
        ([[PART], [OTHER]], [PART, OTHER]),
        ([[[PART]], OTHER], [PART, OTHER]),
        (POINTS, [PART]),
        ([POINTS], [PART]),
        ([[POINTS]], [PART]),
        ([POINTS, [[0, 0], [2, 0], [2, 2]]], [PART, OTHER]),
        ([POINTS, OTHER], [PART, OTHER]),
        (OBJECTS, [PART]),
        ([OBJECTS], [PART]),
        ([OBJECTS, POINTS], [PART, PART]),
        ([[str(n) for n in PART]], [PART]),
        ([[f" {n}.0" for n in PART]], [PART]),
        (str([PART]), [PART]),
        (str(POINTS), [PART]),
        ([[*PART, 1, 1]], [[*PART, 1, 1]]),
        ([PART, [], None], [PART]),
        ([[-3, -3, 90, 1, 4, 3]], [[-3, -3, 90, 1, 4, 3]]),
    ],
)
def test_polygons_of_every_form_are_read(value, expected):
    reading = read(value)
    assert reading.segmentation == expected
    assert reading.lost == []
    assert bool(reading.healed) == (value != expected and value != [PART, [], None])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"size": SIZE, "counts": CODE.decode()}, RUNS),
        ({"size": SIZE, "counts": RUNS}, RUNS),
        ({"size": SIZE, "counts": [6.0, "3", 21]}, RUNS),
        ({"size": [5.0, "6"], "counts": RUNS}, RUNS),
        ({"size": SIZE, "counts": str(CODE)}, RUNS),
        ({"size": SIZE, "counts": base64.b64encode(CODE).decode()}, RUNS),
        ({"size": SIZE, "counts": "[6, 3, 21]"}, RUNS),
        ({"size": SIZE, "counts": "6 3 21"}, RUNS),
        ({"size": None, "counts": RUNS}, RUNS),
        ({"counts": CODE.decode()}, RUNS),
        ([{"size": SIZE, "counts": RUNS}], RUNS),
        ([[{"size": SIZE, "counts": RUNS}]], RUNS),
        ([{"size": SIZE, "counts": RUNS}, {"size": SIZE, "counts": [0, 2, 28]}], [0, 2, 4, 3, 21]),
        ([{"size": SIZE, "counts": RUNS}, [0, 0, 1, 0, 1, 2, 0, 2]], [0, 2, 4, 3, 21]),
    ],
)
def test_run_lengths_of_every_form_are_read(value, expected):
    segmentation = read(value).segmentation
    assert segmentation.size == (HEIGHT, WIDTH)
    assert rle_to_counts(segmentation).tolist() == expected


def test_backslash_in_the_text_of_bytes_is_one():
    mask = np.zeros((60, 60), np.uint8, order="F")
    mask[:44, 3] = 1
    code = mask_api.encode(mask)["counts"]
    assert b"\\" in code
    reading = read_segmentation({"size": [60, 60], "counts": str(code)}, 60, 60, None)
    assert reading.segmentation.counts == code.decode()


def swapped(mask, *, turned):
    """Run lengths of a mask, whose size is given as (width, height)."""
    pixels = np.asfortranarray(mask.T if turned else mask)
    return {"size": [WIDTH, HEIGHT], "counts": mask_api.encode(pixels)["counts"].decode()}


@pytest.mark.parametrize("turned", [True, False])
def test_swapped_size_is_read_where_the_box_tells_what_was_swapped(turned):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[0, 0:5] = 1
    box = (0.0, 0.0, 5.0, 1.0)
    segmentation = read(swapped(mask, turned=turned), box).segmentation
    assert measure(segmentation, HEIGHT, WIDTH) == (5, box)
    for other in (None, (3.0, 3.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="nothing says which way round"):
            read(swapped(mask, turned=turned), other)


@pytest.mark.parametrize(
    ("value", "lost"),
    [
        ([PART, [1, 1, 2, 2]], "fewer than 3 points: 4 coordinates"),
        ([PART, [5, 5]], "fewer than 3 points: 2 coordinates"),
        ([[1, 1, 2, 2, 3], PART], "fewer than 3 points: 5 coordinates"),
        ([[*PART, 1], PART], "an odd number of coordinates: 7"),
        ([PART, [float("nan")] * 6], "a coordinate is not a number, or beyond 100000 px: nan"),
        ([PART, [1e6] * 6], "a coordinate is not a number, or beyond 100000 px: 1000000.0"),
        ([PART, [10**400] * 6], "a coordinate is not a number, or beyond 100000 px"),
        ([PART, [True] * 6], "a coordinate is not a number, or beyond 100000 px: True"),
        ([PART, "x"], "fewer than 3 points"),
        ([PART, {"size": SIZE, "counts": [1]}], "the run lengths are broken: the RLE counts add"),
    ],
)
def test_broken_part_is_lost_alone(value, lost):
    reading = read(value)
    assert reading.segmentation == [PART]
    assert lost in reading.lost[0]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (5, "neither polygons nor run lengths: 5"),
        ("no", "neither polygons nor run lengths: 'no'"),
        ("[1, 2", "neither polygons nor run lengths: not readable"),
        ([[1, 1, 2, 2]], "fewer than 3 points"),
        ([[1, 1, 1], [2, 2, 2], [3, 3, 3]], "fewer than 3 points"),
        ({"points": []}, "an object without run lengths (counts): it has points"),
        ({"size": SIZE, "counts": None}, "neither text nor a list: null"),
        ({"size": SIZE, "counts": ["a"]}, "not whole numbers"),
        ({"size": SIZE, "counts": "633"}, "the run lengths are broken"),
        ({"size": SIZE, "counts": [31]}, "the run lengths are broken"),
        ({"size": [2, 15], "counts": [30]}, "not the image's: 2 x 15, not 5 x 6 (height x width)"),
        ({"size": SIZE, "counts": "b'" + "(" * 5000 + "'"}, "the run lengths are broken"),
    ],
)
def test_unclear_segmentation_is_refused(value, fault):
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        read(value)
    assert not isinstance(caught.value, WithoutMaskError)


def test_nesting_of_any_depth_ends():
    value = [PART]
    for _ in range(5000):
        value = [value]
    assert read(value).segmentation == [PART]
    wide = [PART, OTHER]
    for _ in range(5000):
        wide = [wide, OTHER]
    with pytest.raises(ValueError, match="nested too deeply"):
        read(wide)


@pytest.mark.parametrize("value", [None, [], [[]], [[], [[]]], {}, "", [None]])
def test_nothing_is_no_mask(value):
    with pytest.raises(WithoutMaskError, match="no segmentation"):
        read(value)


def test_measure_counts_pixels_once():
    assert measure([PART, PART], HEIGHT, WIDTH)[0] == measure([PART], HEIGHT, WIDTH)[0]
    assert measure(Rle((HEIGHT, WIDTH), RUNS), HEIGHT, WIDTH) == (3, (1.0, 1.0, 1.0, 3.0))
