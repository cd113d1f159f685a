"""Halves of photos: how much of the score hangs on seeing people whole.

Street photos show people from head to foot, the photos that users take often do not. Each photo is
cut across into halves that are predicted as photos of their own.
"""

from typing import Any

import numpy as np

from clothseg_utils.scores.strata import paired_stratum

FRAMINGS = ("upper half", "middle", "lower half")
"""What is cut out of a photo, in the order of the counts."""


def half_rows(height: int) -> tuple[slice, slice, slice]:
    """Rows of a photo's upper half, middle and lower half; all of one height, rounded up.

    Example:
        >>> half_rows(8)
        (slice(0, 4, None), slice(2, 6, None), slice(4, 8, None))
    """
    half = (height + 1) // 2
    upper, middle, lower = (slice(top, top + half) for top in (0, height // 4, height // 2))
    return upper, middle, lower


def framing_strata(
    confusions: np.ndarray, whole_confusions: np.ndarray, samples: int
) -> list[dict[str, Any]]:
    """Score the halves of photos, next to the same pixels predicted in the whole photo.

    Args:
        confusions: (n, 3, C, C) counts of each photo and framing, as in `FRAMINGS`.
        whole_confusions: (n, 3, C, C) counts of the same pixels, where the whole photo was
            predicted.
        samples: resamples of the photos behind each interval.

    Returns:
        A stratum of mean IoU for each framing and one for all of them together, as of
        `paired_stratum`; none where nothing was cut.
    """
    if not len(confusions):
        return []
    pairs = {
        name: (confusions[:, index], whole_confusions[:, index])
        for index, name in enumerate(FRAMINGS)
    }
    pairs["all halves"] = confusions.sum(axis=1), whole_confusions.sum(axis=1)
    return [paired_stratum(name, *pair, samples) for name, pair in pairs.items()]
