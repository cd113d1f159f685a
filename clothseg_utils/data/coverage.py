"""Masks that are all background, or nearly: nothing can be learned or scored from them."""

from collections.abc import Iterable

import numpy as np

from clothseg_utils.core.text import count_text

# Where real datasets stand: masks cover 18 % to 35 % of all pixels. The smallest accessory alone
# (watches of Clothing Co-Parsing) covers 1 pixel in 54,009, or 1 in 1,417 of the photos that show
# one. Coordinates given as shares of the size, 0 to 1, all fall into one pixel of a photo.
LEAST_SHARE = 1 / 100_000
"""Of all pixels, what the masks of a split must cover."""

LEAST_SHARE_WHERE_ANY = 1 / 10_000
"""Of the pixels of photos with any, what the masks must cover."""

LEAST_PIXELS = 4
"""What the masks of a photo with any must cover on average."""


def check_coverage(photos: Iterable[tuple[int, int]], what: str) -> None:
    """Check that masks are more than background throughout, or nearly.

    Args:
        photos: of each photo the pixels that its masks cover, and all of its pixels.
        what: whose masks; begins the message.

    Raises:
        ValueError: they cover less than `LEAST_SHARE`, `LEAST_SHARE_WHERE_ANY` or `LEAST_PIXELS`.

    Example:
        >>> check_coverage([(200, 3072), (0, 3072)], "val")
        >>> check_coverage([(0, 3072)], "val")
        Traceback (most recent call last):
        ...
        ValueError: val: nothing but background in the masks of 1 photo; expected garments. Likely \
causes: boxes without masks, every category left out (null) or called background, annotations of \
other photos. `audit` counts what the file holds.
    """
    covered, pixels = np.array(list(photos), np.int64).reshape(-1, 2).T
    shows_any = covered > 0
    n_photos, n_any, total = len(covered), int(shows_any.sum()), int(covered.sum())
    if not n_photos:
        return
    if not total:
        raise ValueError(
            f"{what}: nothing but background in the masks of {count_text(n_photos, 'photo')}; "
            "expected garments. Likely causes: boxes without masks, every category left out (null) "
            "or called background, annotations of other photos. `audit` counts what the file holds."
        )
    found = (
        f"{what}: nearly nothing but background; masks cover {count_text(total, 'pixel')} in "
        f"{n_any:,} of {count_text(n_photos, 'photo')}"
    )
    if total < n_any * LEAST_PIXELS or total < LEAST_SHARE_WHERE_ANY * pixels[shows_any].sum():
        raise ValueError(
            f"{found}; expected at least {LEAST_PIXELS} in each of these, and 1 in "
            f"{1 / LEAST_SHARE_WHERE_ANY:,.0f} of its pixels. Likely causes: coordinates as shares "
            "of the size, 0 to 1, where pixels are expected, or specks for masks."
        )
    if total < LEAST_SHARE * pixels.sum():
        raise ValueError(
            f"{found}; expected at least 1 in {1 / LEAST_SHARE:,.0f} of all pixels. Likely causes: "
            "most categories left out (null), or photos that nobody has labelled, which count as "
            "background: take them out of the file."
        )
