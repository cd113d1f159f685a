"""Run lengths and polygons: read as COCO's mask API does, or refused."""

import numpy as np
import pytest
from pycocotools import mask as mask_api

from clothseg_utils.data.rle import Rle, compressed_to_counts, rle_to_counts, segmentation_fault


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_coordinate_that_is_not_finite_is_a_fault(bad):
    assert "not finite" in segmentation_fault([[1, 1, 3, 1, 3, bad]])
