"""Segmentations in the forms that other tools write -> the one form of ours."""

import ast
import base64
import binascii
import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from clothseg_utils.data.json_bytes import as_float, as_int, shown, value_of
from clothseg_utils.data.rle import MAX_COORDINATE, Rle, Segmentation, rle_to_counts

Box = tuple[float, float, float, float]
"""(x, y, width, height) in pixels."""

UNKNOWN_BOX: Box = (math.nan, math.nan, math.nan, math.nan)

_DEEPEST = 50
_BOX_TOLERANCE_PX = 1.5
_POINT_KEYS = {"x", "y"}
_BOX_KEYS = ({"x", "y", "width", "height"}, {"x", "y", "w", "h"})
_ONE_LIST = "the segmentation is one flat list, read as one part"
_NESTED = "the segmentation is nested too deep, read as a list of parts"
_POINTS = "the segmentation is a list of points, read as a part"
_TEXT = "the segmentation is text, read as JSON"
_TEXT_COORDINATES = "coordinates are text, read as numbers"
_RLE_FORM = "run lengths are written in another form, read as COCO's"
_RLE_SIZE = "the size of the run lengths is swapped, read as the box shows"
_RLE_NO_SIZE = "run lengths without a size, read as the image's, which they fill exactly"
_UNION = "several run lengths, or with polygons, read as one mask"


class WithoutMaskError(ValueError):
    """The annotation has no mask: it is empty, or a box."""


@dataclass
class Reading:
    """A segmentation in our form, and what it took.

    Attributes:
        segmentation: sound: it can be rasterized.
        healed: which other forms it was written in.
        lost: why parts were left out, one reason for each.
    """

    segmentation: Segmentation
    healed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def read_segmentation(value: Any, height: int, width: int, box: Box | None) -> Reading:
    """Read a segmentation of any form whose meaning is certain.

    Args:
        value: decoded JSON.
        height, width: of the image, pixels.
        box: the annotation's own, where it has one; tells a box from a mask, and which way round
            run lengths of a swapped size are meant.

    Raises:
        WithoutMaskError: there is no mask to read.
        ValueError: a mask that cannot be read; the message says why, as `Problem.detail`.

    Example:
        >>> read_segmentation([[[0, 0], [4, 0], [4, 4]]], 5, 5, None).segmentation
        [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]
    """
    healed: list[str] = []
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        value = value_of(value.encode(errors="replace"))
        healed.append(_TEXT)
    if not (value is None or value == "" or isinstance(value, (list, dict))):
        raise ValueError(f"the segmentation is neither polygons nor run lengths: {shown(value)}")
    depth = 0
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], (list, dict)):
        value, depth = value[0], depth + 1
    _check_is_mask(value, box, is_part=depth == 1)
    leaves = list(_leaves(value, depth, depth + _DEEPEST, healed))
    if not leaves:
        raise WithoutMaskError("no segmentation")
    polygons: list[list[float]] = []
    rles: list[Rle] = []
    lost: list[str] = []
    for leaf in leaves:
        try:
            if isinstance(leaf, dict):
                rles.append(_read_rle(leaf, height, width, box, healed))
            else:
                polygons.append(_read_part(leaf, healed))
        except ValueError as error:
            lost.append(str(error))
    if not polygons and not rles:
        raise ValueError(lost[0])
    segmentation: Segmentation = polygons
    if rles and len(rles) + len(polygons) == 1:
        segmentation = rles[0]
    elif rles:
        segmentation = _union(polygons, rles, height, width)
        healed.append(_UNION)
    return Reading(segmentation, list(dict.fromkeys(healed)), lost)


def measure(segmentation: Segmentation, height: int, width: int) -> tuple[int, Box]:
    """Pixels of a sound segmentation's mask, and the box around them."""
    if isinstance(segmentation, Rle):
        code = _rle_to_code(segmentation)
    else:
        code = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    x, y, box_width, box_height = mask_api.toBbox(code).tolist()
    return int(mask_api.area(code)), (x, y, box_width, box_height)


def _check_is_mask(value: Any, box: Box | None, *, is_part: bool) -> None:
    """Raise where the value is a box, as some tools write for lack of a mask."""
    if isinstance(value, dict):
        if any(keys <= value.keys() for keys in _BOX_KEYS) and "counts" not in value:
            raise WithoutMaskError("a box only")
        return
    if not (isinstance(value, list) and len(value) == 4):
        return
    numbers = [as_float(item) for item in value]
    if any(number is None for number in numbers):
        return
    # A part of two points is a broken polygon, unless its numbers are those of the box.
    if not is_part or (box is not None and is_same_box(numbers, box)):
        raise WithoutMaskError("a box only")


def is_same_box(numbers: Sequence[Any], box: Box) -> bool:
    x, y, width, height = box
    return any(
        max(abs(a - b) for a, b in zip(numbers, other, strict=True)) <= _BOX_TOLERANCE_PX
        for other in (box, (x, y, x + width, y + height))
    )


def _leaves(
    value: Any, depth: int, deepest: int, healed: list[str]
) -> Iterator[list[Any] | dict[str, Any]]:
    """Parts of a segmentation: lists that should be coordinates, objects that should be RLE.

    `depth` is 1 for a part that stands where it should.
    """
    if value in (None, "", [], {}) or (isinstance(value, list) and not any(map(_is_there, value))):
        return
    if isinstance(value, dict):
        yield value
        return
    if not isinstance(value, list):
        yield [value]  # among parts: a broken one
        return
    if depth > deepest:
        raise ValueError("the segmentation is nested too deeply")
    points = [_point(item) for item in value]
    if all(point is not None for point in points):
        healed.extend([_POINTS] if depth < 2 else [_POINTS, _NESTED])
        yield [number for point in points if point is not None for number in point]
    elif any(isinstance(item, (list, dict)) for item in value):
        for item in value:
            yield from _leaves(item, depth + 1, deepest, healed)
    else:
        if depth != 1:
            healed.append(_NESTED if depth else _ONE_LIST)
        yield value


def _is_there(value: Any) -> bool:
    return value is not None


def _point(item: Any) -> list[Any] | None:
    """(x, y) of a point as a pair or an object; None for all else."""
    if isinstance(item, dict):
        return [item["x"], item["y"]] if item.keys() == _POINT_KEYS else None
    is_pair = isinstance(item, list) and len(item) == 2
    return item if is_pair and not any(isinstance(n, (list, dict)) for n in item) else None


def _read_part(numbers: Sequence[Any], healed: list[str]) -> list[float]:
    """Coordinates of a polygon part.

    Raises:
        ValueError: it is none.
    """
    if len(numbers) < 6:
        raise ValueError(f"a polygon part has fewer than 3 points: {len(numbers)} coordinates")
    if len(numbers) % 2:
        raise ValueError(f"a polygon part has an odd number of coordinates: {len(numbers)}")
    part = [as_float(number) for number in numbers]
    coordinates = [n for n in part if n is not None and abs(n) <= MAX_COORDINATE]
    if len(coordinates) < len(numbers):
        wrong = next(
            number
            for number, read in zip(numbers, part, strict=True)
            if read is None or abs(read) > MAX_COORDINATE
        )
        limit = f"not a number, or beyond {MAX_COORDINATE:.0f} px"
        raise ValueError(f"a coordinate is {limit}: {shown(wrong)}")
    if any(isinstance(number, str) for number in numbers):
        healed.append(_TEXT_COORDINATES)
    return coordinates


def _read_rle(
    value: dict[str, Any], height: int, width: int, box: Box | None, healed: list[str]
) -> Rle:
    if "counts" not in value:
        keys = ", ".join(map(str, list(value)[:5])) or "nothing"
        raise ValueError(
            f"the segmentation is an object without run lengths (counts): it has {keys}"
        )
    size = value.get("size")
    sides = [as_int(side) for side in size] if isinstance(size, list) else []
    has_size = len(sides) == 2 and None not in sides and 0 not in sides
    if has_size and sides not in ([height, width], [width, height]):
        raise ValueError(
            "the size of the run lengths is not the image's: "
            f"{sides[0]} x {sides[1]}, not {height} x {width} (height x width)"
        )
    counts, is_healed = _read_counts(value["counts"], height * width)
    try:
        rle_to_counts(Rle((height, width), counts))
    except ValueError as error:
        raise ValueError(f"the run lengths are broken: {error}") from None
    if has_size and sides != [height, width]:
        healed.append(_RLE_SIZE)
        return _unswap(counts, height, width, box)
    if not has_size:
        healed.append(_RLE_NO_SIZE)
    elif is_healed or sides != size:
        healed.append(_RLE_FORM)
    return Rle((height, width), counts)


def _unswap(counts: str | list[int], height: int, width: int, box: Box | None) -> Rle:
    """Run lengths of size (width, height): two numbers swapped, or the whole mask turned.

    Both are as long. Only the annotation's box tells them apart.
    """
    runs = rle_to_counts(Rle((width, height), counts))
    turned = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs).reshape(height, width)
    code = mask_api.encode(np.asfortranarray(turned))
    meanings = [Rle((height, width), counts), Rle((height, width), code["counts"].decode())]
    if box is not None:
        fits = [m for m in meanings if is_same_box(measure(m, height, width)[1], box)]
        if len(fits) == 1:
            return fits[0]
    raise ValueError(
        "the size of the run lengths is swapped, and nothing says which way round they are: "
        f"{width} x {height}, not {height} x {width} (height x width)"
    )


def _read_counts(counts: Any, n_pixels: int) -> tuple[str | list[int], bool]:
    """Run lengths as COCO's string or a list, and whether they were written in another form."""
    if isinstance(counts, list):
        runs = [as_int(count) for count in counts]
        if any(run is None for run in runs):
            raise ValueError("the run lengths (counts) are not whole numbers")
        is_healed = any(type(count) is not int for count in counts)
        return [run for run in runs if run is not None], is_healed
    if not isinstance(counts, str):
        raise ValueError(f"the run lengths (counts) are neither text nor a list: {shown(counts)}")
    if _fill(counts, n_pixels):
        return counts, False
    for read in (_bytes_text, _listed_text, _base64_text):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            other = read(counts.strip())
            if _fill(other, n_pixels):
                return other, True
    return counts, False  # the caller says what is wrong with it


def _fill(counts: str | list[int], n_pixels: int) -> bool:
    try:
        rle_to_counts(Rle((1, n_pixels), counts))
    except ValueError:
        return False
    return True


def _bytes_text(text: str) -> str:
    """`b'...'`, which is what Python's str() makes of bytes."""
    if not re.fullmatch(r"b(['\"]).*\1", text, re.DOTALL):
        raise ValueError
    value = ast.literal_eval(text)
    return value.decode("ascii") if isinstance(value, bytes) else ""


def _listed_text(text: str) -> list[int]:
    """Run lengths as a list in text."""
    return [int(run) for run in re.split(r"[,\s]+", text.strip("[]() "))]


def _base64_text(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except binascii.Error:
        raise ValueError from None


def _rle_to_code(rle: Rle) -> dict[str, Any]:
    """As the mask API takes it."""
    value = {"size": list(rle.size), "counts": rle.counts}
    return value if isinstance(rle.counts, str) else mask_api.frPyObjects(value, *rle.size)


def _union(
    polygons: Sequence[Sequence[float]], rles: Sequence[Rle], height: int, width: int
) -> Rle:
    codes = [_rle_to_code(rle) for rle in rles]
    if polygons:
        codes += mask_api.frPyObjects(polygons, height, width)
    return Rle((height, width), mask_api.merge(codes)["counts"].decode())
