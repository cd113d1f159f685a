"""Masks that contradict what else their file says, so that both cannot be right."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clothseg_utils.core.text import first_names
from clothseg_utils.data.coco import Annotation, PackedAnnotation
from clothseg_utils.data.rle import Rle, Segmentation
from clothseg_utils.data.segmentations import Box
from clothseg_utils.intake.sizes import Fit, move_part, past_edge

_TOLERANCE_PX = 2.0
_SAME = 0.75  # IoU of two boxes of one object, where one is drawn loosely
_INSIDE = 0.5  # of a mask's box; one further outside its own box is not its mask
_WHOLE = 0.95  # of the image: such a box says nothing
_MOST_ELSEWHERE = 0.5  # of the annotations with a box
_FEW = 3  # annotations; fewer are no rule
_SHARE = 1.01
_PERCENT = 100.5
_MANY = 10  # annotations that together come near the edge of the image
_REACH = 80
_CORNER = 0.5  # of both sides
_LARGE_SIDE = 250  # pixels; outlines of such a photo go beyond 100
_Corners = tuple[float, float, float, float]


class Overlap(NamedTuple):
    """How two boxes lie to each other.

    Attributes:
        iou: intersection over union.
        inside: share of the second one that is inside the first.
    """

    iou: float
    inside: float


class Evidence(NamedTuple):
    """What may speak against an annotation's mask.

    Attributes:
        overlap: of the annotation's own box with that of the mask, see `compare_boxes`.
        is_clipped: whether its outline leaves the photo by more than outlines commonly do.
        furthest: the largest coordinate of its outline, as the file has it; infinite for run
            lengths, which have pixels.
        reach: how far right or down its mask goes, whichever is more, as share of the photo's side.
    """

    overlap: Overlap | None
    is_clipped: bool
    furthest: float
    reach: float


def find_evidence(
    own: Annotation, moved: Segmentation, of_mask: Sequence[float], fit: Fit
) -> Evidence:
    """Compare an annotation with its mask.

    Args:
        own: as the file has it.
        moved: its segmentation in the photo.
        of_mask: (x, y, width, height) of the mask.
        fit: how one became the other.
    """
    overlap = compare_boxes(own.bbox, of_mask, fit)
    x, y, width, height = of_mask
    reach = max((x + width) / fit.width, (y + height) / fit.height)
    return Evidence(overlap, _is_clipped(moved, fit), _furthest(own.segmentation), reach)


def compare_boxes(own: Box, of_mask: Sequence[float], fit: Fit) -> Overlap | None:
    """Compare an annotation's own box with that of its mask; a pixel or two apart is the same.

    Tools write boxes by their corners, by their centre or in shares of the image's size too: the
    reading that fits best counts.

    Args:
        own: as the file has it.
        of_mask: (x, y, width, height) in the photo, pixels.
        fit: how coordinates of the file come to lie in the photo.

    Returns:
        None where the box says nothing: it is empty, or the whole image.

    Example:
        >>> compare_boxes((2, 1, 8, 5), (2, 1, 6, 4), Fit("", 20, 10))
        Overlap(iou=1.0, inside=1.0)
        >>> compare_boxes((0, 0, 0, 0), (2, 1, 6, 4), Fit("", 20, 10)) is None
        True
    """
    a, b, c, d = own
    x, y, width, height = of_mask
    apart = abs(a - x), abs(b - y), abs(a + c - x - width), abs(b + d - y - height)
    if not fit.moves and c > 0 and d > 0 and max(apart) <= _TOLERANCE_PX:
        return Overlap(1.0, 1.0)  # nearly all boxes
    if not math.isfinite(a + b + c + d) or c <= 0 or d <= 0:
        return None
    frame = fit.frame_wh
    if max(own) <= _SHARE:
        a, b, c, d = a * frame[0], b * frame[1], c * frame[0], d * frame[1]
    readings = [
        (a, b, a + c, b + d),
        (a, b, c, d),
        (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    ]
    mask = x, y, x + width, y + height
    image = 0.0, 0.0, float(fit.width), float(fit.height)
    if fit.moves:
        readings = [_move(reading, fit) for reading in readings] + readings
    if _overlap(readings[0], image).iou > _WHOLE:
        return None
    return max(_overlap(_clip(reading, image), mask) for reading in readings)


class Doubts:
    """Collects what the annotations of one file say against their own masks.

    Attributes:
        far: annotations whose own box is far from their mask.
        clipped: annotations whose outline leaves the photo.
        tiny: annotations of a pixel with coordinates of 0 to 1, which may be shares.
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.far: list[str] = []
        self.clipped: list[str] = []
        self.tiny: list[str] = []
        self.path = path
        self._elsewhere: list[str] = []
        self._boxes: set[Box] = set()
        self._n_boxes = self._n_annotations = 0
        self._furthest, self._smallest_side = 0.0, math.inf
        self._reach = 0.0

    def add(
        self,
        packed: PackedAnnotation,
        evidence: Evidence,
        photo: str,
        size_wh: tuple[int, int],
    ) -> None:
        """Add an annotation with what was found, and name and size of its photo."""
        self._n_annotations += 1
        self._furthest = max(self._furthest, evidence.furthest)
        self._reach = max(self._reach, evidence.reach)
        self._smallest_side = min(self._smallest_side, *size_wh)
        subject = f"annotation {packed.id} of {photo}"
        if evidence.is_clipped:
            self.clipped.append(subject)
        if evidence.furthest <= _SHARE:
            self.tiny.append(subject)
        if evidence.overlap is None:
            return
        self._n_boxes += 1
        if len(self._boxes) < 2:
            self._boxes.add(packed.bbox)
        if evidence.overlap.iou < _SAME:
            self.far.append(subject)
        if evidence.overlap.inside < _INSIDE:
            self._elsewhere.append(subject)

    @property
    def is_cornered(self) -> bool:
        """Whether all masks lie in the upper left quarter: garments of many photos never do."""
        return self._n_annotations >= _MANY and self._reach < _CORNER

    def check(self) -> None:
        """Raise where so many masks are doubtful that the file is read in a wrong way."""
        if (
            self._n_annotations >= _MANY
            and _REACH < self._furthest <= _PERCENT
            and self._smallest_side >= _LARGE_SIDE
        ):
            raise ValueError(
                f"{self.path}: none of {self._n_annotations:,} outlines goes beyond 100, though "
                f"the photos have {self._smallest_side:.0f} pixels and more a side; expected "
                "pixels, not percent. Multiply them by width / 100 and height / 100."
            )
        if len(self._boxes) < 2 and self._n_boxes > 1:
            self.far.clear()  # one box for all says nothing
            return
        if len(self._elsewhere) > max(_FEW - 1, _MOST_ELSEWHERE * self._n_boxes):
            raise ValueError(
                f"{self.path}: {len(self._elsewhere):,} of {self._n_boxes:,} masks lie elsewhere "
                f"than their annotation's own box ({first_names(self._elsewhere)}); expected a box "
                "around each mask. Likely causes: run lengths row by row instead of column by "
                "column, masks with background and object exchanged, lists of x and of y instead "
                "of points, or coordinates in percent or of another size of the photo. Correct "
                "the masks, or take `bbox` out of the file if it is the boxes that are wrong."
            )


def _is_clipped(segmentation: Segmentation, fit: Fit) -> bool:
    if isinstance(segmentation, Rle):
        return False
    x_edge, y_edge = past_edge(fit.width), past_edge(fit.height)
    return any(
        min(part[::2]) < -x_edge
        or min(part[1::2]) < -y_edge
        or max(part[::2]) > fit.width + x_edge
        or max(part[1::2]) > fit.height + y_edge
        for part in segmentation
    )


def _furthest(segmentation: Segmentation) -> float:
    if isinstance(segmentation, Rle):
        return math.inf
    return max(max(part) for part in segmentation)


def _move(corners: _Corners, fit: Fit) -> _Corners:
    moved = move_part(corners, fit)
    x, y = sorted(moved[::2]), sorted(moved[1::2])
    return x[0], y[0], x[1], y[1]


def _clip(corners: _Corners, image: _Corners) -> _Corners:
    # Past the photo's edge some tools measure the outline, others what is left of it.
    x0, y0, x1, y1 = corners
    return max(x0, image[0]), max(y0, image[1]), min(x1, image[2]), min(y1, image[3])


def _overlap(one: _Corners, other: _Corners) -> Overlap:
    if max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _TOLERANCE_PX:
        return Overlap(1.0, 1.0)
    common = _area(_clip(one, other))
    return Overlap(common / (_area(one) + _area(other) - common or 1), common / (_area(other) or 1))


def _area(corners: _Corners) -> float:
    x0, y0, x1, y1 = corners
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)
