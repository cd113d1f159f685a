"""Photos of several people, made from photos of single ones, with known masks.

Fashionpedia does not say how many people a photo shows, and most show one. Two to four photos
become one, in two layouts:

- "side by side": next to each other, scaled to one height.
- "overlapping": half of the photos (rounded up) stand side by side; the others are cut out along
  their annotated box, grown by 15 %, and pasted so that each covers part of a person. Inside the
  rectangle the pasted photo's mask replaces what was there, background included.

Any array of a photo (image, mask, prediction) is put together in the same way, so that a composite
can be compared, pixel by pixel, with its photos predicted alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.scores.strata import paired_stratum

Layout = Literal["side by side", "overlapping"]

PEOPLE = (2, 3, 4)
"""Photos that one composite is made of."""

_GROWTH = 0.15
# Part of the covered person's width that the pasted rectangle hides.
_COVERED = (0.2, 0.5)


@dataclass(frozen=True)
class Composite:
    """Which photos make a composite, and how.

    Attributes:
        members: two to four different image ids.
        layout: how they are put together.
        covered: one share, 0..1, per pasted photo: how much of a person's width it covers.
    """

    members: tuple[int, ...]
    layout: Layout
    covered: tuple[float, ...] = ()

    @property
    def group(self) -> str:
        """What it is reported under."""
        return f"{len(self.members)} photos, {self.layout}"


@dataclass(frozen=True)
class Piece:
    """Part of one photo and its place in the composite, pixels.

    Attributes:
        member: index of the photo.
        scaled_hw: the photo's size after scaling.
        crop: top, left, height and width of the part, in the scaled photo.
        place: top and left of the part in the composite.
    """

    member: int
    scaled_hw: tuple[int, int]
    crop: tuple[int, int, int, int]
    place: tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """Size of a composite, and its pieces in the order in which they are laid down."""

    hw: tuple[int, int]
    pieces: tuple[Piece, ...]


def plan_composites(image_ids: Sequence[int], per_group: int) -> list[Composite]:
    """Draw the photos of every composite; the same ids give the same composites.

    Args:
        image_ids: photos to choose from; each should show one person, annotated.
        per_group: composites of each number of photos and layout.

    Returns:
        Group by group; groups that need more photos than there are stay out.
    """
    rng = np.random.default_rng(0)
    composites = []
    for layout in get_args(Layout):
        for n_people in PEOPLE:
            if n_people > len(image_ids):
                continue
            for _ in range(per_group):
                chosen = rng.choice(len(image_ids), n_people, replace=False)
                members = [int(image_ids[index]) for index in chosen]
                composites.append(draw_composite(members, layout, rng))
    return composites


def draw_composite(members: Sequence[int], layout: Layout, rng: np.random.Generator) -> Composite:
    """Draw how much of a person each pasted photo covers.

    Args:
        members: two to four different photos.
        layout: how to put them together.
        rng: to draw with.
    """
    n_pasted = len(members) // 2 if layout == "overlapping" else 0
    covered = rng.uniform(*_COVERED, n_pasted).round(3).tolist()
    return Composite(tuple(members), layout, tuple(covered))


def lay_out(composite: Composite, masks: Sequence[np.ndarray]) -> Canvas:
    """Find the place of each photo.

    Args:
        composite: from `plan_composites`.
        masks: (H, W) uint8 class ids of each member; their foreground is the annotated box.

    Raises:
        ValueError: a pasted photo, or one it covers, has no foreground.
    """
    height = min(mask.shape[0] for mask in masks)
    sizes = [(height, max(1, round(m.shape[1] * height / m.shape[0]))) for m in masks]
    n_base = len(masks) - len(composite.covered)
    pieces, lefts = [], [0]
    for member, size in enumerate(sizes[:n_base]):
        pieces.append(Piece(member, size, (0, 0, *size), (0, lefts[-1])))
        lefts.append(lefts[-1] + size[1])
    canvas_hw = (height, lefts[-1])
    for base, covered in enumerate(composite.covered):
        member = n_base + base
        person = _annotated_box(masks[base], sizes[base])
        person = (person[0], person[1] + lefts[base], *person[2:])
        cutout = _grow(_annotated_box(masks[member], sizes[member]), sizes[member])
        pieces.append(_paste(member, sizes[member], cutout, person, covered, canvas_hw))
    return Canvas(canvas_hw, tuple(pieces))


def compose(arrays: Sequence[np.ndarray], canvas: Canvas) -> np.ndarray:
    """Put one array of each photo together.

    Args:
        arrays: (H, W, 3) images, which are scaled by area, or (H, W) masks, scaled by nearest.
        canvas: from `lay_out`.

    Returns:
        (H, W, 3) or (H, W), of the arrays' type.
    """
    composed = np.zeros((*canvas.hw, *arrays[0].shape[2:]), arrays[0].dtype)
    for piece in canvas.pieces:
        array = arrays[piece.member]
        if array.shape[:2] != piece.scaled_hw:
            method = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
            array = cv2.resize(array, piece.scaled_hw[::-1], interpolation=method)
        top, left, height, width = piece.crop
        row, column = piece.place
        composed[row : row + height, column : column + width] = array[
            top : top + height, left : left + width
        ]
    return composed


def composite_strata(
    confusions: np.ndarray, alone_confusions: np.ndarray, groups: Sequence[str], samples: int
) -> list[dict[str, Any]]:
    """Score composites by group, next to the same pixels predicted photo by photo.

    Args:
        confusions: (m, C, C) counts of each composite.
        alone_confusions: (m, C, C) counts of the same pixels, where each photo was predicted alone.
        groups: m names, such as "2 photos, side by side".
        samples: resamples of the composites behind each interval.

    Returns:
        Strata of mean IoU, as of `paired_stratum`.
    """
    names = np.array(groups)
    return [
        paired_stratum(
            name,
            confusions[names == name],
            alone_confusions[names == name],
            samples,
            unit="composite",
        )
        for name in dict.fromkeys(groups)
    ]


def _paste(
    member: int,
    scaled_hw: tuple[int, int],
    cutout: tuple[int, int, int, int],
    person: tuple[int, int, int, int],
    covered: float,
    canvas_hw: tuple[int, int],
) -> Piece:
    """Place a cut-out over one side of a person, feet level; the canvas's edge cuts what is over.

    Boxes are (top, left, height, width). The side with more room is taken.
    """
    top, left, height, width = cutout
    person_top, person_left, person_height, person_width = person
    room_left, room_right = person_left, canvas_hw[1] - person_left - person_width
    overlap = max(1, round(covered * person_width))
    if room_right >= room_left:
        column = person_left + person_width - overlap
    else:
        column = person_left + overlap - width
    row = person_top + person_height - height
    cut_top, cut_left = max(0, -row), max(0, -column)
    shown_height = min(height, canvas_hw[0] - row) - cut_top
    shown_width = min(width, canvas_hw[1] - column) - cut_left
    return Piece(
        member,
        scaled_hw,
        (top + cut_top, left + cut_left, shown_height, shown_width),
        (row + cut_top, column + cut_left),
    )


def has_foreground(mask: np.ndarray) -> bool:
    """Whether a mask, (H, W) uint8, has any pixel of a garment: `lay_out` asks for it."""
    return bool(_foreground(mask).any())


def _foreground(mask: np.ndarray) -> np.ndarray:
    return ((mask > 0) & (mask != IGNORE_INDEX)).view(np.uint8)


def _annotated_box(mask: np.ndarray, scaled_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Box around the foreground after scaling: top, left, height, width, each side 1 at least.

    Taken before scaling, in which a small foreground may vanish.
    """
    left, top, width, height = cv2.boundingRect(_foreground(mask))
    if not width:
        raise ValueError("a photo without annotated pixels has no person to cut out; leave it out.")
    down, across = scaled_hw[0] / mask.shape[0], scaled_hw[1] / mask.shape[1]
    scaled_top, scaled_left = int(top * down), int(left * across)
    bottom, right = math.ceil((top + height) * down), math.ceil((left + width) * across)
    return scaled_top, scaled_left, bottom - scaled_top, right - scaled_left


def _grow(box: tuple[int, int, int, int], hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Make a box 15 % higher and wider about its centre, inside the photo."""
    top, left, height, width = box
    rows, columns = round(height * _GROWTH / 2), round(width * _GROWTH / 2)
    new_top, new_left = max(0, top - rows), max(0, left - columns)
    bottom = min(hw[0], top + height + rows)
    right = min(hw[1], left + width + columns)
    return new_top, new_left, bottom - new_top, right - new_left
