"""Masks drawn on photos: colour masks, overlays with a legend, error maps, panels.

Plain arrays in, plain arrays out, on numpy, OpenCV and Pillow alone: `predict` imports this module
when it starts, and must not wait for matplotlib or torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clothseg_utils.core.classes import IGNORE_INDEX, SUPERCATEGORY_NAMES, class_colors
from clothseg_utils.pictures.lettering import MIN_FONT_PX, draw_label, font_px, load_font

IGNORE_COLOR = (150, 150, 150)

# Codes of `error_map`; index = code. Okabe-Ito colours: told apart by colour-blind readers, and
# far apart in lightness, so that a grey print works too.
ERROR_NAMES = ("background", "correct", "missed", "wrong class", "false alarm", "ignored")

ERROR_COLORS = np.array(
    [
        (40, 40, 40),  # both say background
        (86, 180, 233),  # correct: sky blue
        (213, 94, 0),  # missed: vermilion
        (240, 228, 66),  # wrong class: yellow
        (204, 121, 167),  # false alarm: purple
        IGNORE_COLOR,
    ],
    dtype=np.uint8,
)
ERROR_COLORS.flags.writeable = False

BORDER_COLOR = (120, 120, 120)


class LegendEntry(NamedTuple):
    """One class that occurs in a mask; `share` is its part of all pixels, 0..1."""

    class_id: int
    name: str
    share: float


def colorize(mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Paint every pixel in the colour of its class; ignored pixels become grey.

    Args:
        mask: (H, W) uint8 class ids, or 255.
        colors: (C, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the mask is no such array, or has an id without a colour.

    Example:
        >>> colorize(np.array([[0, 1]], np.uint8), np.array([[9, 9, 9], [7, 8, 9]], np.uint8))
        array([[[9, 9, 9],
                [7, 8, 9]]], dtype=uint8)
    """
    _check_mask(mask, "mask")
    if colors.ndim != 2 or colors.shape[1] != 3 or colors.dtype != np.uint8:
        raise ValueError(f"colors are {colors.shape} {colors.dtype}; expected (C, 3) uint8 RGB")
    class_counts(mask, len(colors))
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(colors), 0] = colors
    table[IGNORE_INDEX, 0] = IGNORE_COLOR
    return cv2.applyColorMap(np.ascontiguousarray(mask), table)  # copies rows; no BGR swap


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    colors: np.ndarray | None = None,
    opacity: float = 0.55,
    outline: bool = True,
) -> np.ndarray:
    """Blend the classes' colours over a photo; background pixels stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        mask: (H, W) uint8 class ids, or 255 (blended grey).
        colors: (C, 3) uint8 RGB, such as `Segmenter.colors`; None means the table of the 13
            classes.
        opacity: weight of the colour inside an area, 0..1.
        outline: draw the inner edge of every area in its full colour.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: photo and mask do not fit each other, or an id has no colour.
    """
    check_pair(image, mask, "mask")
    painted = colorize(mask, class_colors(len(SUPERCATEGORY_NAMES)) if colors is None else colors)
    blended = cv2.addWeighted(painted, opacity, image, 1 - opacity, 0)
    drawn = image.copy()
    foreground = (mask != 0).astype(np.uint8)
    cv2.copyTo(blended, foreground, drawn)
    if outline:
        kernel = _outline_kernel(mask)
        # A pixel is at an edge where some neighbour has another id, larger or smaller.
        edge = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
        cv2.copyTo(painted, edge.astype(np.uint8) & foreground, drawn)
    return drawn


def legend_entries(mask: np.ndarray, class_names: Sequence[str]) -> list[LegendEntry]:
    """List the classes that occur in a mask, largest first, background and ignored last.

    Args:
        mask: (H, W) uint8 class ids, or 255.
        class_names: index = class id; 0 is background.

    Returns:
        One entry per class with at least one pixel; the shares add up to 1. Ignored pixels have
        class id 255 and the name "ignored".

    Raises:
        ValueError: the mask is no such array, or has an id without a name.

    Example:
        >>> legend_entries(np.array([[0, 0, 1, 2]], np.uint8), ["background", "head", "neck"])[1]
        LegendEntry(class_id=2, name='neck', share=0.25)
    """
    _check_mask(mask, "mask")
    counts = class_counts(mask, len(class_names))
    names = dict(enumerate(class_names)) | {IGNORE_INDEX: "ignored"}
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (list_rank(i), -counts[i], i))
    return [LegendEntry(i, names[i], float(counts[i] / mask.size)) for i in order]


def error_codes(target: np.ndarray, pred_mask: np.ndarray) -> np.ndarray:
    """Sort every pixel into the kinds of error of `ERROR_NAMES`.

    Args:
        target: (H, W) uint8 class ids, or 255: those pixels are "ignored" whatever is predicted.
        pred_mask: (H, W) uint8 class ids.

    Returns:
        (H, W) uint8, index into `ERROR_NAMES` and `ERROR_COLORS`.

    Raises:
        ValueError: the two are no masks of one size.

    Example:
        >>> target = np.array([[0, 1, 1, 1, 0]], np.uint8)
        >>> error_codes(target, np.array([[0, 1, 0, 2, 2]], np.uint8))
        array([[0, 1, 2, 3, 4]], dtype=uint8)
    """
    _check_mask(target, "target")
    _check_mask(pred_mask, "pred_mask")
    if target.shape != pred_mask.shape:
        raise ValueError(
            f"pred_mask is {pred_mask.shape}; expected the target's shape {target.shape}. "
            "Predict at the photo's own size"
        )
    in_target, in_pred = target != 0, pred_mask != 0
    missed, false_alarm = in_target & ~in_pred, ~in_target & in_pred
    kinds = [target == IGNORE_INDEX, missed, false_alarm, target != pred_mask]
    return np.select(kinds, [5, 2, 4, 3], default=in_target).astype(np.uint8)


def error_map(target: np.ndarray, pred_mask: np.ndarray) -> np.ndarray:
    """Draw where a prediction is right and in which way it is wrong.

    Args:
        target, pred_mask: (H, W) uint8 class ids; the target may hold 255.

    Returns:
        (H, W, 3) uint8 RGB in `ERROR_COLORS`.
    """
    return colorize(error_codes(target, pred_mask), ERROR_COLORS)


def class_error_codes(target: np.ndarray, pred_mask: np.ndarray, class_id: int) -> np.ndarray:
    """Sort every pixel into the kinds of error of ONE class.

    Args:
        target: (H, W) uint8 class ids, or 255: those pixels are "ignored".
        pred_mask: (H, W) uint8 class ids.
        class_id: the class.

    Returns:
        (H, W) uint8, index into `ERROR_NAMES`: "missed" is the class taken for background, "wrong
        class" the class taken for other clothing, "false alarm" anything else taken for the class;
        what has nothing to do with it is "background".

    Raises:
        ValueError: the two are no masks of one size.

    Example:
        >>> target = np.array([[0, 1, 1, 1, 2]], np.uint8)
        >>> class_error_codes(target, np.array([[0, 1, 0, 2, 1]], np.uint8), 1)
        array([[0, 1, 2, 3, 4]], dtype=uint8)
    """
    error_codes(target, pred_mask)  # checks the two
    truly, said = target == class_id, pred_mask == class_id
    kinds = [target == IGNORE_INDEX, truly & said, truly & (pred_mask == 0), truly, said]
    return np.select(kinds, [5, 1, 2, 3, 4], default=0).astype(np.uint8)


def draw_errors(image: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Lay kinds of error over a photo turned grey and light, so that only they have colour.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        codes: (H, W) uint8, from `error_codes` or `class_error_codes`.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: photo and codes do not fit each other.
    """
    check_pair(image, codes, "codes")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    drawn = cv2.addWeighted(grey, 0.7, np.full_like(grey, 255), 0.3, 0)
    painted = colorize(codes, ERROR_COLORS)
    blended = cv2.addWeighted(painted, 0.6, drawn, 0.4, 0)
    cv2.copyTo(blended, (codes != 0).astype(np.uint8), drawn)
    return drawn


def draw_instances(
    image: np.ndarray,
    instance_masks: Sequence[np.ndarray],
    names: Sequence[str],
    colors: np.ndarray,
) -> np.ndarray:
    """Outline and name every instance, the largest first, so that small ones stay visible.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        instance_masks: K arrays (H, W) bool; empty ones (sub-pixel items) are left out.
        names: K short texts.
        colors: (K, 3) uint8 RGB, one per instance.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    check_image(image, "image")
    for instance_mask in instance_masks:
        if instance_mask.shape != image.shape[:2]:
            raise ValueError(
                f"instance mask is {instance_mask.shape}; expected the photo's {image.shape[:2]}"
            )
    areas = [int(np.count_nonzero(instance_mask)) for instance_mask in instance_masks]
    order = [k for k in np.argsort(areas, kind="stable")[::-1].tolist() if areas[k]]
    drawn = image.copy()
    anchors = {}
    for k in order:
        anchors[k] = _draw_instance(drawn, instance_masks[k], to_rgb(colors[k]))
    canvas = Image.fromarray(drawn)
    pen = ImageDraw.Draw(canvas)
    font = load_font(max(MIN_FONT_PX, round(0.75 * font_px(*image.shape[:2]))))
    taken: list[tuple[int, int, int, int]] = []
    for k in order:
        draw_label(pen, font, names[k], to_rgb(colors[k]), anchors[k], canvas.size, taken)
    return np.array(canvas)


def draw_outline(area: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Draw the outline of an area, white in black: it shows on any colour. A new array."""
    contours, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), 1)
    return drawn


def _draw_instance(
    drawn: np.ndarray, instance_mask: np.ndarray, color: tuple[int, ...]
) -> tuple[int, int]:
    """Tint and outline one instance in place; return its innermost pixel (x, y)."""
    x, y, width, height = cv2.boundingRect(instance_mask.astype(np.uint8))
    rows, columns = slice(y, y + height), slice(x, x + width)
    inside = instance_mask[rows, columns].astype(np.uint8)
    region = drawn[rows, columns]
    flat = np.full_like(region, color)
    cv2.copyTo(cv2.addWeighted(flat, 0.3, region, 0.7, 0), inside, region)
    # Zeros around the box: an instance is outlined at the photo's edge too.
    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    core = cv2.erode(padded, _outline_kernel(instance_mask))[1:-1, 1:-1]
    cv2.copyTo(flat, inside - core, region)
    # The centre of the box may lie outside the instance; the innermost pixel cannot.
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    inner_x, inner_y = cv2.minMaxLoc(depth)[3]
    return x + inner_x - 1, y + inner_y - 1


def _outline_kernel(mask: np.ndarray) -> np.ndarray:
    """Square kernel whose radius is the outline's width: 1 px, more on large photos."""
    side = 2 * max(1, round(min(mask.shape) / 500)) + 1
    return np.ones((side, side), np.uint8)


def resize_image(image: np.ndarray, height: int, nearest: bool = False) -> np.ndarray:
    """Scale an image or mask to a height, aspect kept; at least 1 px wide."""
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_NEAREST if nearest else smooth
    )


def to_rgb(color: np.ndarray) -> tuple[int, ...]:
    """A colour as Pillow wants it."""
    return tuple(map(int, color))


def _check_mask(mask: np.ndarray, name: str) -> None:
    if mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size:
        raise ValueError(f"{name} is {mask.shape} {mask.dtype}; expected (H, W) uint8, not empty")


def check_image(image: np.ndarray, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name} is {image.shape} {image.dtype}; expected (H, W, 3) uint8 RGB, not empty"
        )


def check_pair(image: np.ndarray, mask: np.ndarray, name: str) -> None:
    check_image(image, "image")
    _check_mask(mask, name)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{name} is {mask.shape}; expected the photo's size {image.shape[:2]}. "
            "Scale the mask to the photo (nearest) first"
        )


def list_rank(class_id: int) -> int:
    """Place in a legend: classes, then background, then ignored."""
    return {0: 1, IGNORE_INDEX: 2}.get(class_id, 0)


def class_counts(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels per id, (256,); refuse ids other than 0..num_classes-1 and 255."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()  # (256, 1) in old versions
    unknown = [i for i in np.flatnonzero(counts).tolist() if num_classes <= i != IGNORE_INDEX]
    if unknown:
        raise ValueError(
            f"mask has class ids {unknown}; expected 0..{num_classes - 1} or {IGNORE_INDEX}. "
            "Make the mask with the same scheme as the class table"
        )
    return counts
