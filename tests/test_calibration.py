"""Calibration: bins counted by hand, a referee, and nothing made of nothing."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from clothseg_utils.scores.calibration import (
    N_BINS,
    bootstrap_calibration_error,
    calibration_counts,
    expected_calibration_error,
)


def random_predictions(num_classes, *, seed=0, side=40):
    """Probabilities (side, side, C) that sum to 1, and a target that follows them half the time."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.3), (side, side)).astype(np.float32)
    guess = probabilities.argmax(-1)
    noise = rng.integers(0, num_classes, guess.shape)
    target = np.where(rng.random(guess.shape) < 0.5, guess, noise).astype(np.uint8)
    target[:4] = 255
    return probabilities, target


def counts_of(probabilities, target):
    num_classes = probabilities.shape[-1]
    pred_mask = probabilities.argmax(-1).astype(np.uint8)
    return calibration_counts(probabilities.max(-1), pred_mask, target, num_classes)


def test_hand_counted_bins():
    confidence = np.array([[1.0, 0.95, 0.5, 0.5, 0.9]], np.float32)
    pred_mask = np.array([[1, 1, 0, 1, 0]], np.uint8)
    target = np.array([[1, 0, 0, 0, 255]], np.uint8)  # the last pixel is ignored
    counts = calibration_counts(confidence, pred_mask, target, num_classes=3)
    assert counts.shape == (3, N_BINS, 3)
    assert counts[1, 14] == pytest.approx([2, 1, 1.95])  # 1 belongs to the last bin
    assert counts[0, 7] == pytest.approx([1, 1, 0.5])
    assert counts[1, 7] == pytest.approx([1, 0, 0.5])
    assert counts.sum(axis=(0, 1)) == pytest.approx([4, 2, 2.95])
    # Last bin: half is right at 0.975 on average; the other: half is right at 0.5.
    ece = expected_calibration_error(counts.sum(axis=0))
    assert float(ece) == pytest.approx((2 * 0.475 + 2 * 0) / 4)


@pytest.mark.parametrize("num_classes", [2, 13, 47])
def test_torchmetrics_agrees(num_classes):
    probabilities, target = random_predictions(num_classes)
    metric = MulticlassCalibrationError(num_classes, n_bins=N_BINS, norm="l1", ignore_index=255)
    flat = torch.from_numpy(probabilities.reshape(-1, num_classes))
    expected = float(metric(flat, torch.from_numpy(target.reshape(-1)).long()))
    ece = expected_calibration_error(counts_of(probabilities, target).sum(axis=0))
    assert float(ece) == pytest.approx(expected, rel=1e-4)


def test_counts_of_photos_add_up():
    first, second = (random_predictions(5, seed=seed) for seed in (0, 1))
    both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    np.testing.assert_allclose(counts_of(*both), counts_of(*first) + counts_of(*second), rtol=1e-6)


def test_error_by_class_and_without_pixels():
    counts = np.zeros((2, N_BINS, 3))
    counts[0, 3] = 10, 5, 2.5
    errors = expected_calibration_error(counts)
    assert errors[0] == pytest.approx(0.25)
    assert np.isnan(errors[1])


def test_interval_holds_the_error_of_miscalibrated_photos():
    rng = np.random.default_rng(0)
    counts = np.zeros((40, N_BINS, 3))
    counts[:, 14] = 100, 0, 95
    counts[:, 14, 1] = rng.integers(50, 90, 40)  # 95 % sure, right in 70 %
    low, high = bootstrap_calibration_error(counts, samples=500, rng=rng)
    assert 0 < low < float(expected_calibration_error(counts.sum(0))) < high < 0.4


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_photos_have_no_interval(n):
    counts = np.ones((n, N_BINS, 3))
    ends = bootstrap_calibration_error(counts, samples=10, rng=np.random.default_rng(0))
    assert np.isnan(ends).all()


def test_photos_without_a_counted_pixel_have_no_interval():
    counts = np.zeros((3, N_BINS, 3))
    ends = bootstrap_calibration_error(counts, samples=10, rng=np.random.default_rng(0))
    assert np.isnan(ends).all()
