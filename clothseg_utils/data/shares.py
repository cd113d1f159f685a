"""Outlines in shares of the image's size, 0 to 1, among others in pixels."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from clothseg_utils.data.records import ImageRecord, PackedAnnotation, decode_segmentation
from clothseg_utils.data.rle import Rle
from clothseg_utils.data.segmentations import UNKNOWN_BOX, Box, is_same_box, measure

_MARGIN = 0.01  # shares are rounded, some beyond 0 or 1
_TELLING_SIDE = 2  # pixels; a smaller box may be one in shares


def lie_in_shares(parts: Sequence[Sequence[float]]) -> bool:
    """Whether all coordinates lie in 0..1: shares of the image's size, unless the mask is tiny."""
    return all(min(part) >= -_MARGIN and max(part) <= 1 + _MARGIN for part in parts)


def shares_to_pixels(
    annotations: Collection[PackedAnnotation],
    image_of_id: Mapping[int, ImageRecord],
    *,
    any_in_pixels: bool,
) -> Iterator[PackedAnnotation]:
    """Turn coordinates that are shares of the image's size into pixels.

    Where all polygons of the file lie in 0..1 they are. Among others they are where the box says
    so: one of pixels that fits, or one that lies in 0..1 too. An annotation without a box follows
    those; what remains may be a tiny mask.

    Args:
        annotations: all whose coordinates lie in 0..1.
        image_of_id: their images.
        any_in_pixels: whether the file has other polygons.

    Yields:
        those that changed. Area and box are unknown (NaN) where they were shares too.
    """
    parts_of = [_parts(annotation) for annotation in annotations]
    any_fraction = any(map(_has_fraction, parts_of))
    are_shares = not any_in_pixels and any_fraction
    boxes = [_kind(annotation.bbox) for annotation in annotations]
    any_certain = any(
        box == "shares" and _has_fraction(parts) for box, parts in zip(boxes, parts_of, strict=True)
    )
    for annotation, parts, box in zip(annotations, parts_of, boxes, strict=True):
        image = image_of_id[annotation.image_id]
        scaled = _scale(parts, image.height, image.width)
        if box == "pixels":
            of_mask = measure(scaled, image.height, image.width)[1]
            is_certain = are_shares or is_same_box(of_mask, annotation.bbox)
        else:
            follows = any_certain if box == "none" else box == "shares"
            is_certain = are_shares or (follows and _has_fraction(parts))
        if not is_certain:
            continue
        annotation.segmentation = msgspec.Raw(msgspec.json.encode(scaled))
        if box != "pixels":
            annotation.area, annotation.bbox = math.nan, UNKNOWN_BOX
        yield annotation


def _parts(annotation: PackedAnnotation) -> list[list[float]]:
    parts = decode_segmentation(annotation.segmentation)
    assert not isinstance(parts, Rle)
    return parts


def _kind(box: Box) -> Literal["pixels", "shares", "none", "small"]:
    """What a box beside such coordinates is: one of pixels, of shares, none, or one may think."""
    width, height = box[2:]
    if not (width > 0 and height > 0):  # nor if they are NaN
        return "none"
    if max(width, height) > _TELLING_SIDE:
        return "pixels"
    return "shares" if lie_in_shares([box]) and _has_fraction([box]) else "small"


def _scale(parts: Sequence[Sequence[float]], height: int, width: int) -> list[list[float]]:
    return [
        [value * (height if index % 2 else width) for index, value in enumerate(part)]
        for part in parts
    ]


def _has_fraction(parts: Sequence[Sequence[float]]) -> bool:
    return any(value % 1 for part in parts for value in part)
