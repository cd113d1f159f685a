"""Annotations of a drawing: they paint back to the picture, and every mask is written exactly."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clothseg_utils.drawing.annotate import annotate, mask_to_segmentation
from clothseg_utils.drawing.canvas import Canvas, Fabric
from clothseg_utils.drawing.dataset import draw
from clothseg_utils.drawing.ids import BEAD, COAT, DRESS, POCKET, SLEEVE

CLOTH = Fabric(np.full(3, 120, np.float32))


def decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(segmentation).astype(bool)


def paint(annotations: list[dict], shape: tuple, class_of: dict | None = None) -> np.ndarray:
    """The straightforward loop: whole frames, largest first, equal areas by position."""
    painted = np.full(shape, -1)
    order = sorted(range(len(annotations)), key=lambda k: (-annotations[k]["area"], k))
    for k in order:
        category_id = annotations[k]["category_id"]
        inside = decode(annotations[k]["segmentation"], *shape)
        painted[inside] = category_id if class_of is None else class_of[category_id]
    return painted


@pytest.mark.parametrize("image_index", [0, 4, 9, 21, 25])  # 4 and 9 show several people
def test_painting_the_annotations_gives_the_picture(image_index):
    drawing = draw(7, 0, image_index)
    painted = paint(drawing.annotations, drawing.category_map.shape)
    np.testing.assert_array_equal(painted, drawing.category_map)


def rectangle(canvas: Canvas, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return canvas.cover(
        np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)
    )


@pytest.fixture
def canvas() -> Canvas:
    return Canvas(np.zeros((40, 40, 3), np.float32), np.random.default_rng(0))


def test_bead_on_a_coat_does_not_cut_the_coat(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 35, 35), CLOTH, coat)
    bead = canvas.add_layer(BEAD, coat)
    canvas.paint(rectangle(canvas, 18, 18, 22, 22), CLOTH, bead)
    category_map, rows = annotate(canvas)
    assert [row["category_id"] for row in rows] == [COAT, BEAD]
    coat_mask = decode(rows[0]["segmentation"], 40, 40)
    assert coat_mask[20, 20]
    assert category_map[20, 20] == BEAD
    assert category_map[10, 10] == COAT
    assert category_map[0, 0] == -1


def test_large_thing_in_front_cuts_the_small_thing_behind(canvas):
    dress = canvas.add_layer(DRESS)
    canvas.paint(rectangle(canvas, 5, 5, 12, 30), CLOTH, dress)
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 9, 5, 38, 38), CLOTH, coat)
    category_map, rows = annotate(canvas)
    # by area the dress would be painted last, over the coat that hides half of it
    assert rows[0]["area"] < rows[1]["area"]
    assert not (
        decode(rows[0]["segmentation"], 40, 40) & decode(rows[1]["segmentation"], 40, 40)
    ).any()
    np.testing.assert_array_equal(paint(rows, (40, 40)), category_map)
    assert category_map[10, 20] == COAT
    assert category_map[10, 6] == DRESS


def test_pocket_larger_than_what_is_left_of_its_coat_stays_visible(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 25, 25), CLOTH, coat)
    pocket = canvas.add_layer(POCKET, coat)
    canvas.paint(rectangle(canvas, 4, 4, 24, 35), CLOTH, pocket)
    category_map, rows = annotate(canvas)
    np.testing.assert_array_equal(paint(rows, (40, 40)), category_map)
    assert category_map[10, 10] == POCKET


def test_sleeve_belongs_to_the_mask_of_its_garment(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 15, 5, 25, 35), CLOTH, coat)
    sleeve = canvas.add_layer(SLEEVE, coat, sewn=True)
    canvas.paint(rectangle(canvas, 26, 5, 34, 15), CLOTH, sleeve)
    _, rows = annotate(canvas)
    assert decode(rows[0]["segmentation"], 40, 40)[10, 30]


def test_what_hardly_shows_is_not_annotated(canvas):
    coat = canvas.add_layer(COAT)
    canvas.paint(rectangle(canvas, 5, 5, 35, 35), CLOTH, coat)
    bead = canvas.add_layer(BEAD, coat)
    canvas.paint(rectangle(canvas, 18, 18, 20, 20), CLOTH, bead)
    canvas.paint(rectangle(canvas, 19, 10, 30, 30), CLOTH, coat)
    category_map, rows = annotate(canvas)
    assert [row["category_id"] for row in rows] == [COAT]
    assert (category_map[5:35, 5:35] == COAT).all()


MASKS = {
    "one pixel": ["...", ".#.", "..."],
    "corner pixel": ["#..", "...", "..."],
    "row": ["....", "####", "...."],
    "column": [".#.", ".#.", ".#."],
    "diagonal": ["#...", ".#..", "..#.", "...#"],
    "stairs": ["#...", "##..", ".##.", "..##"],
    "whole frame": ["###", "###"],
    "two parts": ["##..#", "##..#", "....#"],
    "parts that touch at a corner": ["##..", "##..", "..##", "..##"],
}


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS)
def test_mask_without_a_hole_is_written_exactly(rows):
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    segmentation, encoded = mask_to_segmentation(mask)
    np.testing.assert_array_equal(decode(segmentation, *mask.shape), mask)
    assert coco_mask.area(encoded) == mask.sum()


def test_two_parts_are_one_annotation_of_two_polygons():
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = mask[12:18, 5:15] = True
    segmentation, _ = mask_to_segmentation(mask)
    assert isinstance(segmentation, list)
    assert len(segmentation) == 2
    assert all(len(polygon) == 8 for polygon in segmentation)  # four corners each


def test_mask_with_a_hole_is_rle():
    mask = np.ones((5, 6), bool)
    mask[2, 3] = False
    segmentation, _ = mask_to_segmentation(mask)
    assert segmentation["size"] == [5, 6]
    np.testing.assert_array_equal(decode(segmentation, 5, 6), mask)


def test_any_mask_is_written_exactly():
    rng = np.random.default_rng(0)
    for smoothness in (0.6, 1.5, 3.0):
        for _ in range(20):
            mask = cv2.GaussianBlur(rng.normal(size=(45, 33)), (0, 0), smoothness) > 0
            segmentation, _ = mask_to_segmentation(mask)
            np.testing.assert_array_equal(decode(segmentation, 45, 33), mask)
