"""Boundary IoU, against cases counted by hand and against its definition, class by class."""

import cv2
import numpy as np
import pytest

from clothseg_utils.scores import boundaries
from clothseg_utils.scores.boundaries import band_width, boundary_band, boundary_counts


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (768, 1024, 26),  # the diagonal is 1280
        (825, 550, 20),
        (8, 8, 1),  # never less
        (1, 1, 1),
    ],
)
def test_band_is_two_percent_of_the_diagonal(height, width, expected):
    assert band_width(height, width) == expected


def draw(*rows):
    """Digits are class ids, a dot is ignored."""
    return np.array([[255 if c == "." else int(c) for c in row] for row in rows], np.uint8)


def test_band_lies_inside_the_outline_and_the_photos_edge_is_an_outline():
    mask = draw(
        "0000000",
        "0111110",
        "0111110",
        "0111110",
        "0111110",
        "0111110",
        "0000000",
    )
    expected = np.ones((7, 7), bool)
    expected[2:5, 2:5] = False  # only the square's inside is further than 1 px from anything
    assert np.array_equal(boundary_band(mask, 1), expected)
    expected[2:5, 2:5] = True
    expected[3, 3] = False
    assert np.array_equal(boundary_band(mask, 2), expected)


def test_the_edge_of_an_ignored_area_is_no_outline():
    mask = draw(
        "00000",
        "00000",
        "00...",
        "00000",
        "00000",
    )
    band = boundary_band(mask, 1)
    assert not band[1:4, 1:4].any()
    assert not band[2, 2:].any()  # ignored pixels are in no band, at the photo's edge neither
    assert band[0].all()


def blobs(rng, ids, side=60):
    coarse = rng.choice(ids, (7, 9)).astype(np.uint8)
    return cv2.resize(coarse, (side, side + 20), interpolation=cv2.INTER_NEAREST)


def plain_band(mask, class_id, width_px):
    """The paper's definition for one class: pixels of it no further from what is not it."""
    inside = (mask == class_id) | (mask == 255)
    padded = np.pad(inside, 1).astype(np.uint8)  # beyond the photo nothing is it
    distance = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    return (mask == class_id) & (distance <= width_px)


@pytest.mark.parametrize("ids", [(0, 1), (0, 2, 12), (3, 254, 7), (0, 1, 5, 255)])
def test_counts_equal_the_definition_class_by_class(ids):
    rng = np.random.default_rng(0)
    for _ in range(5):
        target = blobs(rng, ids)
        pred_mask = blobs(rng, [i for i in ids if i != 255])
        width_px = band_width(*target.shape)
        counts = boundary_counts(target, pred_mask, num_classes=255)
        assert counts.shape == (3, 255)
        seen = np.where(target == 255, np.uint8(255), pred_mask)
        for class_id in range(255):
            of_target = plain_band(target, class_id, width_px)
            of_pred = plain_band(seen, class_id, width_px)
            expected = [(of_target & of_pred).sum(), of_target.sum(), of_pred.sum()]
            assert counts[:, class_id].tolist() == expected, class_id


def test_hand_counted_boundary_iou(monkeypatch):
    """A square of 5 x 5, predicted one pixel too far right, in bands of 1 px."""
    monkeypatch.setattr(boundaries, "BAND_SHARE", 0.0)
    target, pred_mask = np.zeros((2, 9, 9), np.uint8)
    target[2:7, 2:7] = 1
    pred_mask[2:7, 3:8] = 1
    both, of_target, of_pred = boundary_counts(target, pred_mask, num_classes=2)
    # Two rings of 16 pixels share 4 in the top row and 4 in the bottom row.
    assert (both[1], of_target[1], of_pred[1]) == (8, 16, 16)


def test_large_area_with_a_ragged_outline_scores_lower_than_by_mask_iou():
    target = np.zeros((200, 200), np.uint8)
    target[20:180, 20:180] = 1
    pred_mask = target.copy()
    pred_mask[20:180:4, 176:180] = 0
    both, of_target, of_pred = boundary_counts(target, pred_mask, num_classes=2)[:, 1]
    mask_iou = (pred_mask == 1).sum() / (target == 1).sum()
    assert both / (of_target + of_pred - both) < mask_iou - 0.05
