"""Halves of photos: which rows they are, and what the groups say."""

import numpy as np
import pytest

from clothseg_utils.scores.framing import FRAMINGS, framing_strata, half_rows
from clothseg_utils.scores.strata import stratum_count_text


@pytest.mark.parametrize(
    ("height", "tops", "rows"),
    [
        (1, [0, 0, 0], 1),  # nothing to cut: the row is every half
        (2, [0, 0, 1], 1),
        (3, [0, 0, 1], 2),  # the row in the middle is in all of them
        (8, [0, 2, 4], 4),
        (9, [0, 2, 4], 5),
    ],
)
def test_halves_are_equally_high_and_reach_both_edges(height, tops, rows):
    photo = np.arange(height)
    assert [photo[half].tolist() for half in half_rows(height)] == [
        list(range(top, top + rows)) for top in tops
    ]


RIGHT, MISSED = np.array([[4, 0], [0, 4]]), np.array([[4, 0], [4, 0]])
NOTHING = np.zeros((2, 2), int)


def test_halves_are_groups_of_photos_beside_the_whole():
    """Both photos lose the garment of the upper half; the lower half is ignored pixels alone."""
    halves = np.stack([[MISSED, RIGHT, NOTHING]] * 2)
    whole = np.stack([[RIGHT, RIGHT, NOTHING]] * 2)
    strata = framing_strata(halves, whole, samples=20)
    assert [row["stratum"] for row in strata] == [*FRAMINGS, "all halves"]
    assert {stratum_count_text(row) for row in strata} == {"2 photos"}
    upper, middle, lower, together = strata
    # All missed: background has IoU 4 / 8, garments 0.
    assert (upper["score"], upper["alone"], upper["drop"]) == (0.25, 1.0, 0.75)
    assert (upper["drop_low"], upper["drop_high"]) == (0.75, 0.75)
    assert (upper["missed"], upper["missed_alone"]) == (1.0, 0.0)
    assert (middle["score"], middle["drop"]) == (1.0, 0.0)
    assert (lower["score"], lower["drop"], lower["drop_low"], lower["missed"]) == (None,) * 4
    # Together: background 8 of 12, garments 4 of 8.
    assert together["score"] == pytest.approx((8 / 12 + 4 / 8) / 2)
    assert together["alone"] == 1.0


def test_drop_is_paired_over_photos():
    """Photos differ much, their drop does not: it is known better than the scores."""
    rng = np.random.default_rng(0)
    hits = rng.integers(300, 900, 30)
    whole = np.array([[[1000, 0], [1000 - h, h]] for h in hits])
    halves = np.array([[[1000, 0], [1050 - h, h - 50]] for h in hits])
    (*_, together) = framing_strata(
        np.stack([halves] * 3, axis=1), np.stack([whole] * 3, axis=1), samples=200
    )
    assert 0 < together["drop_low"] < together["drop"] < together["drop_high"]
    assert together["drop_high"] - together["drop_low"] < together["high"] - together["low"]


def test_photos_that_nobody_cut_have_no_groups():
    none = np.zeros((0, 3, 2, 2), np.int64)
    assert framing_strata(none, none, samples=20) == []
