"""COCO run lengths: what they are, whether they are sound, and how they decode."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

# Far outside any photo, and small enough for the mask API, which allocates by edge length.
MAX_COORDINATE = 100_000.0


class Rle(Struct, frozen=True, gc=False):
    """Run lengths of a mask in column order, background first.

    Attributes:
        size: (height, width), pixels.
        counts: COCO's compressed string, or the plain list of run lengths.
    """

    size: tuple[int, int]
    counts: str | list[int]


Segmentation = list[list[float]] | Rle
"""Polygon parts, each [x0, y0, x1, y1, ...] in pixels, or run lengths."""


def segmentation_fault(segmentation: Segmentation) -> str | None:
    """Say what keeps a segmentation from being rasterized; None where nothing does.

    Example:
        >>> segmentation_fault([[0, 0, 4, 4]])
        'polygon part 0 has 4 coordinates; expected an even number of at least 6'
        >>> segmentation_fault([[0, 0, 4, 0, 4, 4]]) is None
        True
    """
    if isinstance(segmentation, Rle):
        try:
            rle_to_counts(segmentation)
        except ValueError as error:
            return str(error)
        return None
    if not segmentation:
        return "the segmentation has no polygon part"
    for index, part in enumerate(segmentation):
        if len(part) < 6 or len(part) % 2:
            expected = "expected an even number of at least 6"
            return f"polygon part {index} has {len(part)} coordinates; {expected}"
        # sum() is not finite if one coordinate is not, which min() and max() may miss for NaN.
        if not (math.isfinite(sum(part)) and max(map(abs, part)) <= MAX_COORDINATE):
            where = f"not finite or beyond {MAX_COORDINATE:.0f} px"
            return f"polygon part {index} has a coordinate that is {where}"
    return None


def rle_to_counts(rle: Rle) -> np.ndarray:
    """Run lengths of an RLE: background, foreground, background, ... in column order.

    Returns:
        (R,) int64, >= 0, adding up to height * width.

    Raises:
        ValueError: not COCO's code, or the runs do not fill the image exactly.

    Source: COCO mask API, rleFrString: 6 bits a character from "0" on, 5 of them value and one
    "more follows", low bits first, two's complement; from the fourth on, the difference to the
    run before last.

    Example:
        >>> rle_to_counts(Rle(size=(2, 3), counts="123")).tolist()
        [1, 2, 3]
    """
    if isinstance(rle.counts, str):
        (counts,) = compressed_to_counts([rle.counts.encode()])
    else:
        try:
            counts = np.array(rle.counts, dtype=np.int64)
        except OverflowError:
            raise ValueError("an RLE count is too large") from None
    n_pixels = rle.size[0] * rle.size[1]
    # The bounds before the sum: huge counts would wrap round.
    if counts.size and (counts.min() < 0 or counts.max() > n_pixels):
        raise ValueError(f"an RLE count is not in 0..{n_pixels}")
    if counts.sum() != n_pixels:
        raise ValueError(
            f"the RLE counts add up to {counts.sum()} pixels; expected {rle.size[0]} x "
            f"{rle.size[1]} = {n_pixels}"
        )
    return counts


def compressed_to_counts(codes: Sequence[bytes]) -> list[np.ndarray]:
    """Decode COCO's compressed run lengths, one string for each mask; see `rle_to_counts`.

    Arrays of a few hundred numbers cost NumPy more to begin than to work through: all masks of an
    image in one go take a fraction of the time.

    Returns:
        (R,) int64 for each mask; whether they fit an image is for the caller to check.

    Raises:
        ValueError: characters outside the code, a number cut short or too large, in any of them.
    """
    symbols = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    code_ends = np.cumsum([len(code) for code in codes])
    if symbols.size == 0:
        return [symbols for _ in codes]
    is_last = (symbols & 32) == 0
    if symbols.min() < 0 or symbols.max() > 63 or not is_last[code_ends[code_ends > 0] - 1].all():
        raise ValueError("the RLE counts are not COCO's compressed string")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits; the mask API holds 32
        raise ValueError("an RLE count is too large")
    shifts = 5 * (np.arange(symbols.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((symbols & 31) << shifts, starts)
    numbers -= ((symbols[ends] & 16) >> 4) << (5 * lengths)  # sign
    counts_of_code, n_before = [], 0
    for n_until in np.searchsorted(ends, code_ends).tolist():
        counts = numbers[n_before:n_until]
        counts[1::2] = np.cumsum(counts[1::2])
        counts[2::2] = np.cumsum(counts[2::2])
        counts_of_code.append(counts)
        n_before = n_until
    return counts_of_code
