"""Masks drawn on photos: colour masks, overlays with a legend, error maps, panels.

Plain arrays in, plain arrays out, on numpy, OpenCV and Pillow alone: `predict` imports this module
when it starts, and must not wait for matplotlib or torch.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clothseg_utils.classes import IGNORE_INDEX
from clothseg_utils.errors import crop_around, largest_area

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

_TEXT_COLOR = (30, 30, 30)
_BORDER_COLOR = (120, 120, 120)
_MIN_FONT_PX = 11  # smaller letters cannot be read at any zoom
_MAX_NAME_EM = 22  # the longest Fashionpedia name takes 21


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
    _class_counts(mask, len(colors))
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(colors), 0] = colors
    table[IGNORE_INDEX, 0] = IGNORE_COLOR
    return cv2.applyColorMap(np.ascontiguousarray(mask), table)  # copies rows; no BGR swap


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    colors: np.ndarray,
    opacity: float = 0.55,
    outline: bool = True,
) -> np.ndarray:
    """Blend the classes' colours over a photo; background pixels stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        mask: (H, W) uint8 class ids, or 255 (blended grey).
        colors: (C, 3) uint8 RGB.
        opacity: weight of the colour inside an area, 0..1.
        outline: draw the inner edge of every area in its full colour.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: photo and mask do not fit each other, or an id has no colour.
    """
    _check_pair(image, mask, "mask")
    painted = colorize(mask, colors)
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
    counts = _class_counts(mask, len(class_names))
    names = dict(enumerate(class_names)) | {IGNORE_INDEX: "ignored"}
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (_rank(i), -counts[i], i))
    return [LegendEntry(i, names[i], float(counts[i] / mask.size)) for i in order]


def overlay_with_legend(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
    opacity: float = 0.55,
    outline: bool = True,
) -> np.ndarray:
    """Overlay a photo and add a sidebar that lists the classes that occur, with pixel shares.

    The photo keeps its own pixels at the top left. Where the list is taller than the photo, white
    is added below it: text is never smaller than can be read.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255; any size.
        mask: (H, W) uint8 class ids, or 255.
        class_names: index = class id.
        colors: (C, 3) uint8 RGB.
        opacity: weight of the colour inside an area, 0..1.
        outline: draw the edge of every area in its full colour.

    Returns:
        (H or more, W + sidebar, 3) uint8 RGB.

    Raises:
        ValueError: photo and mask do not fit each other, or an id has no name or colour.
    """
    drawn = overlay(image, mask, colors, opacity, outline)
    entries = legend_entries(mask, class_names)
    rows = [
        _Row(_swatch_color(entry.class_id, colors), entry.name, (_percent(entry.share),))
        for entry in entries
    ]
    height, width = mask.shape
    return _beside(drawn, _legend(rows, height, _font_px(height, width)))


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
    codes = np.select(
        [target == IGNORE_INDEX, in_target & ~in_pred, ~in_target & in_pred, target != pred_mask],
        [5, 2, 4, 3],
        default=in_target,
    )
    return codes.astype(np.uint8)


def error_map(target: np.ndarray, pred_mask: np.ndarray) -> np.ndarray:
    """Draw where a prediction is right and in which way it is wrong.

    Args:
        target: (H, W) uint8 class ids, or 255.
        pred_mask: (H, W) uint8 class ids.

    Returns:
        (H, W, 3) uint8 RGB in `ERROR_COLORS`.

    Raises:
        ValueError: the two are no masks of one size.
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
    codes = np.select(
        [target == IGNORE_INDEX, truly & said, truly & (pred_mask == 0), truly, said],
        [5, 1, 2, 3, 4],
        default=0,
    )
    return codes.astype(np.uint8)


def draw_errors(image: np.ndarray, codes: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Lay kinds of error over a photo turned grey and light, so that only they have colour.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        codes: (H, W) uint8, from `error_codes` or `class_error_codes`.
        opacity: weight of the colour, 0..1.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: photo and codes do not fit each other.
    """
    _check_pair(image, codes, "codes")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    drawn = cv2.addWeighted(grey, 0.7, np.full_like(grey, 255), 0.3, 0)
    painted = colorize(codes, ERROR_COLORS)
    blended = cv2.addWeighted(painted, opacity, drawn, 1 - opacity, 0)
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
        ValueError: numbers or sizes do not fit each other.
    """
    _check_image(image, "image")
    if not len(instance_masks) == len(names) == len(colors):
        raise ValueError(
            f"{len(instance_masks)} instance masks, {len(names)} names, {len(colors)} colors; "
            "expected as many of each"
        )
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
        anchors[k] = _draw_instance(drawn, instance_masks[k], _rgb(colors[k]))
    canvas = Image.fromarray(drawn)
    pen = ImageDraw.Draw(canvas)
    font = _font(max(_MIN_FONT_PX, round(0.75 * _font_px(*image.shape[:2]))))
    taken: list[tuple[int, int, int, int]] = []
    for k in order:
        _draw_label(pen, font, names[k], _rgb(colors[k]), anchors[k], canvas.size, taken)
    return np.array(canvas)


def panel(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    captions: Sequence[str] | None = None,
    height: int | None = None,
) -> np.ndarray:
    """Set images side by side on white, each under its title.

    Args:
        images: arrays (H, W, 3) uint8 RGB, 0..255; scaled to one height, aspect kept.
        titles: one line per image; cut with an ellipsis where it does not fit.
        captions: text below each image; wrapped.
        height: of the images, pixels; without it, that of the tallest.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: no images, or numbers that do not fit each other.
    """
    if not len(images):
        raise ValueError("panel has no images; expected at least one")
    for name, texts in (("titles", titles), ("captions", captions)):
        if texts is not None and len(texts) != len(images):
            raise ValueError(f"panel has {len(texts)} {name} for {len(images)} images")
    for image in images:
        _check_image(image, "image")
    height = height or max(image.shape[0] for image in images)
    scaled_images = [_resize(image, height) for image in images]
    size = _panel_font_px(scaled_images)
    title_font, caption_font = _font(round(1.15 * size)), _font(size)
    line_px = round(1.4 * size)
    columns = []
    for index, scaled in enumerate(scaled_images):
        # A narrow image gets a wider column rather than half a title.
        width = max(scaled.shape[1], min(9 * size, round(title_font.getlength(titles[index])) + 2))
        lines = _wrap(captions[index], caption_font, width) if captions else []
        columns.append((scaled, width, _fit(titles[index], title_font, width), lines))
    gap = size
    top = round(0.6 * size) + round(1.7 * size)
    bottom = round(0.5 * size) + line_px * max(len(lines) for *_, lines in columns)
    canvas = Image.new(
        "RGB",
        (sum(width + gap for _, width, _, _ in columns) + gap, top + height + bottom + gap // 2),
        "white",
    )
    pen = ImageDraw.Draw(canvas)
    left = gap
    for scaled, width, title, lines in columns:
        middle = left + width // 2
        pen.text((middle, top - 0.5 * size), title, _TEXT_COLOR, title_font, anchor="ms")
        canvas.paste(Image.fromarray(scaled), (middle - scaled.shape[1] // 2, top))
        for number, line in enumerate(lines):
            y = top + height + round(0.4 * size) + line_px * number
            pen.text((middle, y), line, _TEXT_COLOR, caption_font, anchor="ma")
        left += width + gap
    return np.array(canvas)


def prediction_panel(
    image: np.ndarray,
    pred_mask: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
    target: np.ndarray | None = None,
    show_errors: bool = False,
    height: int | None = None,
) -> np.ndarray:
    """Set input, truth and prediction side by side, with one legend for all of them.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        pred_mask: (H, W) uint8 class ids.
        class_names: index = class id.
        colors: (C, 3) uint8 RGB.
        target: (H, W) uint8 class ids, or 255; None for a photo without truth.
        show_errors: add the error map as a fourth image; needs a target.
        height: of the images, pixels; without it, the photo's own. Legend shares are always
            counted at the photo's own size.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: photo and masks do not fit each other, an id has no name or colour, or errors
            are asked for without a target.
    """
    _check_pair(image, pred_mask, "pred_mask")
    if target is not None:
        _check_pair(image, target, "target")
    elif show_errors:
        raise ValueError("show_errors needs a target; this photo has none")
    height = height or image.shape[0]
    # Scaled before drawing, so that outlines have the same width at any photo size.
    photo, pred = _resize(image, height), _resize(pred_mask, height, nearest=True)
    images, titles, masks = [photo], ["input"], {}
    if target is not None:
        truth = _resize(target, height, nearest=True)
        images.append(overlay(photo, truth, colors))
        titles.append("truth")
        masks["truth"] = target
    images.append(overlay(photo, pred, colors))
    titles.append("prediction")
    masks["pred."] = pred_mask
    rows = _share_rows(masks, class_names, colors)
    if show_errors:
        images.append(error_map(truth, pred))
        titles.append("errors")
        codes = error_codes(target, pred_mask)
        rows.append(_Row(None, "", ()))
        shares = {e.class_id: e.share for e in legend_entries(codes, ERROR_NAMES)}
        rows += [
            _Row(_rgb(ERROR_COLORS[code]), ERROR_NAMES[code], ("", _percent(shares[code])))
            for code in (1, 2, 3, 4, 5, 0)
            if code in shares
        ]
    drawn = panel(images, titles)
    headers = tuple(masks) if target is not None else ()
    return _beside(drawn, _legend(rows, drawn.shape[0], _panel_font_px(images), headers))


def class_error_tile(
    image: np.ndarray, target: np.ndarray, pred_mask: np.ndarray, class_id: int, side: int = 240
) -> np.ndarray:
    """Cut a class out of a photo, with some of what surrounds it, and colour its errors.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        target: (H, W) uint8 class ids, or 255; holds the class.
        pred_mask: (H, W) uint8 class ids.
        class_id: the class.
        side: of the tile, pixels; a cut that is not square is padded with white.

    Returns:
        (side, side, 3) uint8 RGB; kinds of error in `ERROR_COLORS`.

    Raises:
        ValueError: the target does not hold the class, or photo and masks do not fit each other.
    """
    codes = class_error_codes(target, pred_mask, class_id)
    drawn = draw_errors(image, codes)[crop_around(target == class_id)]
    scale = side / max(drawn.shape[:2])
    width, height = (max(1, round(length * scale)) for length in drawn.shape[1::-1])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = cv2.resize(
        drawn, (width, height), interpolation=interpolation
    )
    return tile


def confusion_panel(
    image: np.ndarray,
    target: np.ndarray,
    pred_mask: np.ndarray,
    pair: tuple[int, int],
    class_names: Sequence[str],
    colors: np.ndarray,
    height: int = 200,
) -> np.ndarray:
    """Cut out the largest area of one class taken for another, outlined: photo, truth, prediction.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        target: (H, W) uint8 class ids, or 255.
        pred_mask: (H, W) uint8 class ids.
        pair: class id in the truth, class id in the prediction; such a pixel must occur.
        class_names: index = class id.
        colors: (C, 3) uint8 RGB.
        height: of the cuts, pixels.

    Returns:
        (H', W', 3) uint8 RGB; below truth and prediction stands the class that each of them says.

    Raises:
        ValueError: no such pixel, or photo and masks do not fit each other.
    """
    _check_pair(image, target, "target")
    _check_pair(image, pred_mask, "pred_mask")
    truly, said = pair
    confused = (target == truly) & (pred_mask == said)
    cut = crop_around(largest_area(confused))
    photo = _resize(np.ascontiguousarray(image[cut]), height)
    masks = [
        _resize(np.ascontiguousarray(mask[cut]), height, nearest=True)
        for mask in (target, pred_mask)
    ]
    drawn = [photo, *(overlay(photo, mask, colors) for mask in masks)]
    outlined = [_outline((masks[0] == truly) & (masks[1] == said), picture) for picture in drawn]
    captions = ["", class_names[truly], class_names[said]]
    return panel(outlined, ["photo", "truth", "prediction"], captions)


def _outline(area: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Draw the outline of an area, white in black: it shows on any colour. A new array."""
    contours, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), 1)
    return drawn


class _Row(NamedTuple):
    """One line of a legend; no colour draws an empty box, no name an empty line."""

    color: tuple[int, ...] | None
    name: str
    shares: tuple[str, ...]


def _share_rows(
    masks: dict[str, np.ndarray], class_names: Sequence[str], colors: np.ndarray
) -> list[_Row]:
    """One row per class that occurs in any of the masks, ordered as in the first that has it."""
    columns = [
        {entry.class_id: entry for entry in legend_entries(mask, class_names)}
        for mask in masks.values()
    ]
    largest = {i: max(c[i].share for c in columns if i in c) for c in columns for i in c}
    order = sorted(largest, key=lambda i: (_rank(i), -largest[i], i))
    names = dict(enumerate(class_names)) | {IGNORE_INDEX: "ignored"}
    return [
        _Row(
            _swatch_color(i, colors),
            names[i],
            tuple(_percent(c[i].share) if i in c else "-" for c in columns),
        )
        for i in order
    ]


def _legend(
    rows: Sequence[_Row], height: int, font_px: int, headers: tuple[str, ...] = ()
) -> np.ndarray:
    """Draw a sidebar at least `height` high; the font shrinks to fit, down to the smallest."""
    n_lines = len(rows) + bool(headers)
    size = max(_MIN_FONT_PX, min(font_px, int(height / (1.5 * n_lines + 1))))
    font, line_px, margin = _font(size), round(1.5 * size), round(0.7 * size)
    lines = [_Row(None, "", headers)] * bool(headers) + list(rows)
    names = [_fit(line.name, font, _MAX_NAME_EM * size) for line in lines]
    share_px = [
        size + max(font.getlength(line.shares[column]) for line in lines if line.shares)
        for column in range(max(len(line.shares) for line in lines))
    ]
    name_x = margin + round(1.5 * size)
    rights = name_x + max(map(font.getlength, names)) + np.cumsum(share_px)
    width = round(rights[-1]) + margin
    canvas = Image.new("RGB", (width, max(height, line_px * n_lines + 2 * margin)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (name, line) in enumerate(zip(names, lines, strict=True)):
        middle = margin + (number + 0.5) * line_px
        if name:
            box = (margin, round(middle - size / 2), margin + size, round(middle + size / 2))
            pen.rectangle(box, line.color or "white", _BORDER_COLOR)
        pen.text((name_x, middle), name, _TEXT_COLOR, font, anchor="lm")
        for right, text in zip(rights, line.shares, strict=False):
            pen.text((right, middle), text, _TEXT_COLOR, font, anchor="rm")
    return np.array(canvas)


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join two images at their tops; the shorter one is continued in white."""
    height = max(left.shape[0], right.shape[0])
    return cv2.hconcat(
        [
            cv2.copyMakeBorder(
                part, 0, height - part.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255)
            )
            for part in (left, right)
        ]
    )


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


def _draw_label(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    color: tuple[int, ...],
    anchor: tuple[int, int],
    canvas_wh: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label centred at `anchor`, moved off the boxes in `taken`; adds its own box."""
    text = _fit(text, font, canvas_wh[0] - 6)
    width, height = round(font.getlength(text)) + 6, round(1.3 * font.size)
    x = max(0, min(anchor[0] - width // 2, canvas_wh[0] - width))
    boxes = []
    for step in (0, 1, -1, 2, -2, 3, -3):
        y = max(0, min(anchor[1] - height // 2 + step * height, canvas_wh[1] - height))
        boxes.append((x, y, x + width, y + height))
    # With no free place near by, better on top of another label than far from its instance.
    box = next((b for b in boxes if not any(_overlap(b, other) for other in taken)), boxes[0])
    taken.append(box)
    light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    pen.rectangle(box, color)
    pen.text((x + 3, box[1] + height / 2), text, "black" if light else "white", font, anchor="lm")


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _outline_kernel(mask: np.ndarray) -> np.ndarray:
    """Square kernel whose radius is the outline's width: 1 px, more on large photos."""
    side = 2 * max(1, round(min(mask.shape) / 500)) + 1
    return np.ones((side, side), np.uint8)


def _resize(image: np.ndarray, height: int, nearest: bool = False) -> np.ndarray:
    """Scale an image or mask to a height, aspect kept; at least 1 px wide."""
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_NEAREST if nearest else smooth
    )


def _font_px(height: int, width: int) -> int:
    """Letter size in pixels that reads well when the whole photo is on a screen or page."""
    return int(np.clip(round(max(height, 0.6 * width) / 38), _MIN_FONT_PX, 140))


def _panel_font_px(images: Sequence[np.ndarray]) -> int:
    """Letter size for a panel; long rows of images are shown smaller, so they get larger text."""
    return _font_px(images[0].shape[0], sum(image.shape[1] for image in images) // 2)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The figures' font at a size in pixels.

    Pillow's own font has little beyond ASCII, and file names are shown; matplotlib ships DejaVu
    Sans, which `find_spec` locates without importing matplotlib.
    """
    spec = importlib.util.find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec else None
    if path and path.is_file():
        return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Make a text one line of at most `width` pixels, cut with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "\u2026") > width:
        text = text[:-1]
    return text.rstrip() + "\u2026"


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines of at most `width` pixels; longer words are cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fit(line, font, width) for line in lines]


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    """A colour as Pillow wants it."""
    return tuple(map(int, color))


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _rank(class_id: int) -> int:
    """Place in a legend: classes, then background, then ignored."""
    return {0: 1, IGNORE_INDEX: 2}.get(class_id, 0)


def _swatch_color(class_id: int, colors: np.ndarray) -> tuple[int, ...] | None:
    """Colour of a legend's box; background has none, because the photo shows through."""
    if class_id == 0:
        return None
    return IGNORE_COLOR if class_id == IGNORE_INDEX else _rgb(colors[class_id])


def _class_counts(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels per id, (256,); refuse ids other than 0..num_classes-1 and 255."""
    counts = cv2.calcHist(
        [mask], [0], None, [256], [0, 256]
    ).ravel()  # (256,) or (256, 1) by version
    unknown = [i for i in np.flatnonzero(counts).tolist() if num_classes <= i != IGNORE_INDEX]
    if unknown:
        raise ValueError(
            f"mask has class ids {unknown}; expected 0..{num_classes - 1} or {IGNORE_INDEX}. "
            "Make the mask with the same scheme as the class table"
        )
    return counts


def _check_mask(mask: np.ndarray, name: str) -> None:
    if mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size:
        raise ValueError(f"{name} is {mask.shape} {mask.dtype}; expected (H, W) uint8, not empty")


def _check_image(image: np.ndarray, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name} is {image.shape} {image.dtype}; expected (H, W, 3) uint8 RGB, not empty"
        )


def _check_pair(image: np.ndarray, mask: np.ndarray, name: str) -> None:
    _check_image(image, "image")
    _check_mask(mask, name)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{name} is {mask.shape}; expected the photo's size {image.shape[:2]}. "
            "Scale the mask to the photo (nearest) first"
        )
