"""Tests of `prediction.coco_results`: what was predicted, as other tools read it."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clothseg_utils.prediction.coco_results import label_parts, mask_to_coco, photo_record

# The referee's decode(), pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

NAMES = ["background", "closures", "upperbody", "shoe, left", "Hüte"]


def random_mask(height: int, width: int, seed: int, grain: int = 1) -> np.ndarray:
    """Class ids in blocks of `grain` pixels, some classes in several parts."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, len(NAMES), (-(-height // grain), -(-width // grain)), np.uint8)
    return np.ascontiguousarray(small.repeat(grain, 0).repeat(grain, 1)[:height, :width])


RANDOM_MASKS = [
    random_mask(*size, seed=seed, grain=grain)
    for size in ((1, 1), (1, 9), (9, 1), (17, 23), (40, 31))
    for seed, grain in ((0, 1), (1, 4), (2, 40))
]


def painted(record: dict) -> np.ndarray:
    """The mask that a record's annotations paint; no two of them share a pixel."""
    mask = np.zeros((record["height"], record["width"]), np.uint8)
    for annotation in record["annotations"]:
        inside = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert not mask[inside].any()
        mask[inside] = annotation["class_id"]
    return mask


# --- a photo's record ----------------------------------------------------------------------------


def test_mask_to_coco_by_hand():
    mask = np.array([[0, 2, 2], [0, 0, 2]], np.uint8)
    record = mask_to_coco(mask, ["background", "closures", "upperbody"])
    (annotation,) = record["annotations"]
    assert (record["height"], record["width"]) == (2, 3)
    assert annotation["area"] == 3
    assert annotation["bbox"] == [1.0, 0.0, 2.0, 2.0]
    assert annotation["segmentation"]["size"] == [2, 3]
    assert mask_to_coco(np.zeros((2, 3), np.uint8), ["background"])["annotations"] == []


@pytest.mark.parametrize("mask", RANDOM_MASKS, ids=lambda mask: f"{mask.shape}")
def test_a_class_is_written_as_the_mask_api_itself_writes_it(mask):
    record = photo_record("a.jpg", mask, NAMES)
    expected = []
    for class_id in range(1, len(NAMES)):
        rle = coco_mask.encode(np.asfortranarray(mask == class_id, dtype=np.uint8))
        if (mask == class_id).any():
            expected.append(
                {
                    "class_id": class_id,
                    "class_name": NAMES[class_id],
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    height, width = mask.shape
    assert list(record) == ["file_name", "height", "width", "annotations"]
    assert record == {
        "file_name": "a.jpg",
        "height": height,
        "width": width,
        "annotations": expected,
    }


@pytest.mark.parametrize("mask", RANDOM_MASKS, ids=lambda mask: f"{mask.shape}")
def test_parts_are_connected_and_paint_the_mask(mask):
    record = mask_to_coco(mask, NAMES, parts=True)
    assert np.array_equal(painted(record), mask)
    n_parts = sum(
        cv2.connectedComponents((mask == class_id).astype(np.uint8))[0] - 1
        for class_id in range(1, len(NAMES))
    )
    assert len(record["annotations"]) == n_parts
    for annotation in record["annotations"]:
        alone = coco_mask.decode(annotation["segmentation"])
        assert cv2.connectedComponents(alone)[0] == 2
        assert annotation["area"] == alone.sum()
        assert annotation["bbox"] == list(cv2.boundingRect(alone))


def test_parts_by_hand():
    mask = np.array([[1, 0, 1, 2], [0, 1, 0, 0], [2, 0, 0, 1]], np.uint8)
    labels, class_of_label = label_parts(mask)
    assert labels.tolist() == [[1, 0, 1, 3], [0, 1, 0, 0], [4, 0, 0, 2]]
    assert class_of_label.tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("parts", [False, True])
def test_score_is_the_mean_confidence_of_the_regions_pixels(parts):
    mask = random_mask(40, 31, seed=3, grain=5)
    confidence = np.random.default_rng(4).random(mask.shape, np.float32)
    record = mask_to_coco(mask, NAMES, confidence, parts=parts)
    for annotation in record["annotations"]:
        inside = coco_mask.decode(annotation["segmentation"]).astype(bool)
        expected = confidence[inside].astype(np.float64).mean()
        assert annotation["score"] == pytest.approx(expected, abs=5.1e-5)
    assert len(record["annotations"]) > 3
