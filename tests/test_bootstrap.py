"""Intervals hold the truth as often as they say, and equal a plain loop over resamples."""

import numpy as np
import pytest

from clothseg_utils.scores import bootstrap
from clothseg_utils.scores.bootstrap import (
    bootstrap_differences,
    bootstrap_intervals,
    bootstrap_ratios,
)
from clothseg_utils.scores.metrics import CLASS_SCORES, MEAN_SCORES, scores_from_confusion


def simulated_confusions(n, rng):
    """Images of very different difficulty: (n, 2, 2), and the IoU of an endless split."""
    difficulty = rng.beta(2, 5, size=n)
    pixels = rng.integers(50, 150, size=(n, 2))
    wrong = rng.binomial(pixels, difficulty[:, None])
    confusions = np.empty((n, 2, 2), int)
    confusions[:, [0, 1], [0, 1]] = pixels - wrong
    confusions[:, [0, 1], [1, 0]] = wrong
    error = 2 / 7  # mean of the beta distribution; both classes are equally large
    return confusions, (1 - error) / (1 + error)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    trials, covered = 300, 0
    for _ in range(trials):
        confusions, truth = simulated_confusions(60, rng)
        intervals = bootstrap_intervals(confusions, samples=300, rng=rng)
        low, high = intervals["mean_iou"]
        covered += low <= truth <= high
    assert 0.88 <= covered / trials <= 0.99


def simulated_rare_class(holders, rng):
    """60 images, of which `holders` hold class 1; its size, recall and false alarms vary."""
    size = np.where(np.arange(60) < holders, rng.lognormal(6, 0.7, 60), 0).astype(int)
    hits = rng.binomial(size, rng.beta(2, 2, 60))
    alarms = rng.binomial(size, rng.beta(2, 6, 60))
    columns = [np.full(60, 10_000), alarms, size - hits, hits]
    return np.stack(columns, axis=1).reshape(60, 2, 2)


@pytest.mark.parametrize(
    ("holders", "least", "most"), [(3, 0.65, 0.85), (5, 0.78, 0.92), (10, 0.85, 0.95)]
)
def test_intervals_of_a_rare_class_are_too_narrow_by_as_much_as_is_said(holders, least, most):
    rng = np.random.default_rng(0)
    # Recall 1/2 and false alarms of 1/4 on average, each independent of the size.
    truth, trials, covered = 0.5 / 1.25, 200, 0
    for _ in range(trials):
        intervals = bootstrap_intervals(simulated_rare_class(holders, rng), samples=300, rng=rng)
        low, high = intervals["iou"][:, 1]
        covered += low <= truth <= high
    assert least <= covered / trials <= most


def test_ratio_intervals_cover_the_truth_about_as_often_as_promised():
    """Recall of annotations, a few in each photo; photos differ in how hard they are."""
    rng = np.random.default_rng(0)
    trials, covered = 300, np.zeros(2)
    for _ in range(trials):
        easy = rng.beta(4, 2, size=(60, 1))  # 2 / 3 on average
        totals = rng.integers(0, 6, (60, 2)) * [1, 20]
        found = rng.binomial(totals, easy)
        low, high = bootstrap_ratios(found, totals, samples=300, rng=rng)
        covered += (low <= 2 / 3) & (high >= 2 / 3)
    assert (covered / trials >= 0.88).all()
    assert (covered / trials <= 0.99).all()


def test_ratio_intervals_equal_a_plain_loop_over_resamples(monkeypatch):
    rng = np.random.default_rng(1)
    below = rng.integers(1, 9, (7, 3))
    below[2:, 1] = 0  # counted in two images only: some resamples have none of them
    below[1:, 2] = 0  # counted in one image only
    above = rng.random((7, 3)) * below
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 7 * 30)
    low, high = bootstrap_ratios(above, below, samples=100, rng=np.random.default_rng(2))
    rng = np.random.default_rng(2)
    drawn = [np.repeat(np.arange(7), rng.multinomial(7, [1 / 7] * 7)) for _ in range(100)]
    for k in (0, 1):
        ratios = [above[d, k].sum() / below[d, k].sum() for d in drawn if below[d, k].any()]
        assert len(ratios) < 100 or k == 0
        expected = np.quantile(ratios, [0.025, 0.975])
        assert (low[k], high[k]) == pytest.approx(tuple(expected))
    assert np.isnan([low[2], high[2]]).all()


def test_intervals_equal_a_plain_loop_over_resamples(monkeypatch):
    rng = np.random.default_rng(1)
    confusions = rng.integers(0, 9, (7, 3, 3))
    confusions[2:, 2] = confusions[2:, :, 2] = 0  # class 2 is absent from many resamples
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 7 * 30)  # several pieces, the last one short
    got = bootstrap_intervals(confusions, samples=100, rng=np.random.default_rng(2))

    rng = np.random.default_rng(2)
    resampled = [
        scores_from_confusion(np.repeat(confusions, rng.multinomial(7, [1 / 7] * 7), axis=0).sum(0))
        for _ in range(100)
    ]
    ends = [0.025, 0.975]
    assert any(np.isnan(s.iou[2]) for s in resampled)
    for field in ("iou", "f1", "precision", "recall"):
        expected = np.nanquantile([getattr(s, field) for s in resampled], ends, axis=0)
        np.testing.assert_allclose(got[field], expected)
    shares = [np.where(np.isnan(s.iou), np.nan, s.target_pixels) for s in resampled]
    shares = [share / np.nansum(share) for share in shares]
    np.testing.assert_allclose(got["target_share"], np.nanquantile(shares, ends, axis=0))
    for field in MEAN_SCORES:
        expected = np.quantile([getattr(s, field) for s in resampled], ends)
        np.testing.assert_allclose(got[field], expected)


def test_intervals_hold_the_score_and_follow_the_generator():
    confusions, _ = simulated_confusions(40, np.random.default_rng(3))
    scores = scores_from_confusion(confusions.sum(0))
    first, again, other = (
        bootstrap_intervals(confusions, samples=200, rng=np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    for name in (*CLASS_SCORES[:4], *MEAN_SCORES):
        low, high = first[name]
        assert np.all((low < getattr(scores, name)) & (getattr(scores, name) < high)), name
        assert np.array_equal(first[name], again[name])
    assert first["mean_iou"][0] != other["mean_iou"][0]


def test_absent_class_has_no_interval():
    confusions = np.zeros((5, 3, 3), int)
    confusions[:, 0, 0] = confusions[:, 0, 1] = 1
    intervals = bootstrap_intervals(confusions, samples=20, rng=np.random.default_rng(0))
    for score in CLASS_SCORES:
        assert np.isnan(intervals[score]).tolist() == [[False, False, True]] * 2
    assert intervals["mean_iou"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("n", [0, 1])
def test_one_image_or_none_has_no_interval(n):
    few = np.ones((n, 2, 2), int)
    intervals = bootstrap_intervals(few, samples=20, rng=np.random.default_rng(0))
    assert {*CLASS_SCORES, *MEAN_SCORES} <= set(intervals)
    differences = bootstrap_differences(few, few, samples=20, rng=np.random.default_rng(0))
    for ends in (*intervals.values(), *differences.values()):
        assert np.isnan(ends).all()


def test_paired_differences_by_hand():
    """No image differs from another, so both ends are the difference itself."""
    ours, theirs = np.array([[[3, 1], [0, 4]]] * 4), np.array([[[2, 2], [0, 4]]] * 4)
    ends = bootstrap_differences(ours, theirs, samples=50, rng=np.random.default_rng(0))
    assert ends["iou"] == pytest.approx(np.array([[3 / 4 - 2 / 4, 4 / 5 - 4 / 6]] * 2))
    assert ends["mean_iou"] == pytest.approx((0.25 + 4 / 5 - 4 / 6) / 2 * np.ones(2))
    assert ends["pixel_accuracy"] == pytest.approx([1 / 8, 1 / 8])


def test_a_class_in_one_image_has_no_interval():
    """Nor a difference: that image alone would decide it, with no spread at all."""
    confusions = np.zeros((20, 3, 3), int)
    confusions[:, 0, 0], confusions[:, 1, 1], confusions[::2, 1, 0] = 10, 5, 1
    others = confusions.copy()
    confusions[7, 2, 2], others[7, 2, 0] = 9, 9
    intervals = bootstrap_intervals(confusions, samples=50, rng=np.random.default_rng(0))
    assert np.isnan([intervals["iou"][:, 2], intervals["f1"][:, 2]]).all()
    assert np.isfinite([*intervals["iou"][:, :2], intervals["mean_iou"]]).all()
    ends = bootstrap_differences(confusions, others, samples=50, rng=np.random.default_rng(0))
    assert np.isnan(ends["iou"][:, 2]).all()
    assert np.isfinite(ends["iou"][:, :2]).all()
    assert np.isfinite(ends["mean_iou"]).all()
