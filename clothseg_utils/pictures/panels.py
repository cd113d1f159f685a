"""Panels: pictures beside each other, with titles and a legend."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clothseg_utils.core.classes import IGNORE_INDEX, class_colors
from clothseg_utils.data.coco import CocoFile, ImageRecord
from clothseg_utils.data.rasterize import annotation_to_instance_mask
from clothseg_utils.pictures.lettering import (
    MAX_NAME_EM,
    MIN_FONT_PX,
    TEXT_COLOR,
    fit_text,
    font_px,
    load_font,
    panel_font_px,
    wrap_text,
)
from clothseg_utils.pictures.overlays import (
    BORDER_COLOR,
    ERROR_COLORS,
    ERROR_NAMES,
    IGNORE_COLOR,
    check_image,
    check_pair,
    class_error_codes,
    draw_errors,
    draw_instances,
    draw_outline,
    error_codes,
    error_map,
    legend_entries,
    list_rank,
    overlay,
    resize_image,
    to_rgb,
)
from clothseg_utils.scores.rankings import crop_around, largest_area

_TILE_SIDE_PX = 240
_CUT_HEIGHT_PX = 200


def overlay_with_legend(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
    opacity: float = 0.55,
) -> np.ndarray:
    """Overlay a photo and add a sidebar that lists the classes that occur, with pixel shares.

    The photo keeps its own pixels at the top left. Where the list is taller than the photo, white
    is added below it: text is never smaller than can be read.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255; any size.
        mask: (H, W) uint8 class ids, or 255.
        class_names, colors: index = class id; (C, 3) uint8 RGB.
        opacity: weight of the colour inside an area, 0..1.

    Returns:
        (H or more, W + sidebar, 3) uint8 RGB.

    Raises:
        ValueError: photo and mask do not fit each other, or an id has no name or colour.
    """
    drawn = overlay(image, mask, colors, opacity)
    rows = [
        _Row(_swatch_color(class_id, colors), name, (_percent(share),))
        for class_id, name, share in legend_entries(mask, class_names)
    ]
    height, width = mask.shape
    return _beside(drawn, _legend(rows, height, font_px(height, width)))


def panel(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    captions: Sequence[str] | None = None,
    height: int | None = None,
) -> np.ndarray:
    """Set images side by side on white, each under its title.

    Args:
        images: one or more (H, W, 3) uint8 RGB, 0..255; scaled to one height, aspect kept.
        titles: one line per image; cut with an ellipsis where it does not fit.
        captions: text below each image; wrapped.
        height: of the images, pixels; without it, that of the tallest.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: an image of another shape or type.
    """
    for image in images:
        check_image(image, "image")
    height = height or max(image.shape[0] for image in images)
    scaled_images = [resize_image(image, height) for image in images]
    size = panel_font_px(scaled_images)
    title_font, caption_font = load_font(round(1.15 * size)), load_font(size)
    line_px = round(1.4 * size)
    columns = []
    captions = captions or [""] * len(images)
    for scaled, title, caption in zip(scaled_images, titles, captions, strict=True):
        # A narrow image gets a wider column rather than half a title.
        width = max(scaled.shape[1], min(9 * size, round(title_font.getlength(title)) + 2))
        lines = wrap_text(caption, caption_font, width) if caption else []
        columns.append((scaled, width, fit_text(title, title_font, width), lines))
    gap = size
    top = round(0.6 * size) + round(1.7 * size)
    bottom = round(0.5 * size) + line_px * max(len(lines) for *_, lines in columns) + gap // 2
    canvas_width = sum(width + gap for _, width, _, _ in columns) + gap
    canvas = Image.new("RGB", (canvas_width, top + height + bottom), "white")
    pen = ImageDraw.Draw(canvas)
    left = gap
    for scaled, width, title, lines in columns:
        middle = left + width // 2
        pen.text((middle, top - 0.5 * size), title, TEXT_COLOR, title_font, anchor="ms")
        canvas.paste(Image.fromarray(scaled), (middle - scaled.shape[1] // 2, top))
        for number, line in enumerate(lines):
            y = top + height + round(0.4 * size) + line_px * number
            pen.text((middle, y), line, TEXT_COLOR, caption_font, anchor="ma")
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
        class_names, colors: index = class id; (C, 3) uint8 RGB.
        target: (H, W) uint8 class ids, or 255; None for a photo without truth.
        show_errors: add the error map as a fourth image, where there is a target.
        height: of the images, pixels; without it, the photo's own. Legend shares are always
            counted at the photo's own size.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: photo and masks do not fit each other, or an id has no name or colour.
    """
    check_pair(image, pred_mask, "pred_mask")
    height = height or image.shape[0]
    # Scaled before drawing, so that outlines have the same width at any photo size.
    photo, pred = resize_image(image, height), resize_image(pred_mask, height, nearest=True)
    images, titles, masks = [photo], ["input"], {}
    if target is not None:
        check_pair(image, target, "target")
        truth = resize_image(target, height, nearest=True)
        images.append(overlay(photo, truth, colors))
        titles.append("truth")
        masks["truth"] = target
    images.append(overlay(photo, pred, colors))
    titles.append("prediction")
    masks["pred."] = pred_mask
    rows = _share_rows(masks, class_names, colors)
    if target is not None and show_errors:
        images.append(error_map(truth, pred))
        titles.append("errors")
        codes = error_codes(target, pred_mask)
        rows.append(_Row(None, "", ()))
        shares = {e.class_id: e.share for e in legend_entries(codes, ERROR_NAMES)}
        rows += [
            _Row(to_rgb(ERROR_COLORS[code]), ERROR_NAMES[code], ("", _percent(shares[code])))
            for code in (1, 2, 3, 4, 5, 0)
            if code in shares
        ]
    drawn = panel(images, titles)
    headers = tuple(masks) if target is not None else ()
    return _beside(drawn, _legend(rows, drawn.shape[0], panel_font_px(images), headers))


def category_colors(coco: CocoFile) -> dict[int, np.ndarray]:
    """Map category ids to colours, (3,) uint8 RGB, one for each: those of scheme "category"."""
    ids = sorted(category.id for category in coco.categories)
    return dict(zip(ids, class_colors(len(ids) + 1)[1:], strict=True))


def draw_annotations(image: np.ndarray, coco: CocoFile, record: ImageRecord) -> np.ndarray:
    """Outline and name the annotations of a photo, each category in a colour of its own.

    Args:
        image: the photo of the record, (H, W, 3) uint8 RGB, 0..255.

    Returns:
        (H, W, 3) uint8 RGB; a new array.

    Raises:
        ValueError: the photo is not of the size that its record says.
    """
    items = coco.annotations_of(record.id)
    names, colors = coco.short_names, category_colors(coco)
    return draw_instances(
        image,
        [annotation_to_instance_mask(a, record.height, record.width) for a in items],
        [names[a.category_id] for a in items],
        np.array([colors[a.category_id] for a in items], np.uint8).reshape(-1, 3),
    )


def class_error_tile(
    image: np.ndarray, target: np.ndarray, pred_mask: np.ndarray, class_id: int
) -> np.ndarray:
    """Cut a class out of a photo, with some of what surrounds it, and colour its errors.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        target: (H, W) uint8 class ids, or 255; holds the class.
        pred_mask: (H, W) uint8 class ids.
        class_id: the class.

    Returns:
        (240, 240, 3) uint8 RGB; kinds of error in `ERROR_COLORS`. A cut that is not square is
        padded with white.

    Raises:
        ValueError: the target does not hold the class, or photo and masks do not fit each other.
    """
    codes = class_error_codes(target, pred_mask, class_id)
    drawn = draw_errors(image, codes)[crop_around(target == class_id)]
    side = _TILE_SIDE_PX
    scale = side / max(drawn.shape[:2])
    width, height = (max(1, round(length * scale)) for length in drawn.shape[1::-1])
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    scaled = cv2.resize(drawn, (width, height), interpolation=smooth)
    tile[top : top + height, left : left + width] = scaled
    return tile


def confusion_panel(
    image: np.ndarray,
    target: np.ndarray,
    pred_mask: np.ndarray,
    pair: tuple[int, int],
    class_names: Sequence[str],
    colors: np.ndarray,
) -> np.ndarray:
    """Cut out the largest area of one class taken for another, outlined: photo, truth, prediction.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        target, pred_mask: (H, W) uint8 class ids; the target may hold 255.
        pair: class id in the truth, class id in the prediction; such a pixel must occur.
        class_names, colors: index = class id; (C, 3) uint8 RGB.

    Returns:
        (H', W', 3) uint8 RGB; below truth and prediction stands the class that each of them says.

    Raises:
        ValueError: no such pixel, or photo and masks do not fit each other.
    """
    check_pair(image, target, "target")
    check_pair(image, pred_mask, "pred_mask")
    truly, said = pair
    confused = (target == truly) & (pred_mask == said)
    cut = crop_around(largest_area(confused))
    photo = resize_image(np.ascontiguousarray(image[cut]), _CUT_HEIGHT_PX)
    masks = [
        resize_image(np.ascontiguousarray(mask[cut]), _CUT_HEIGHT_PX, nearest=True)
        for mask in (target, pred_mask)
    ]
    drawn = [photo, *(overlay(photo, mask, colors) for mask in masks)]
    confused = (masks[0] == truly) & (masks[1] == said)
    outlined = [draw_outline(confused, picture) for picture in drawn]
    captions = ["", class_names[truly], class_names[said]]
    return panel(outlined, ["photo", "truth", "prediction"], captions)


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
    order = sorted(largest, key=lambda i: (list_rank(i), -largest[i], i))
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
    size = max(MIN_FONT_PX, min(font_px, int(height / (1.5 * n_lines + 1))))
    font, line_px, margin = load_font(size), round(1.5 * size), round(0.7 * size)
    lines = [_Row(None, "", headers)] * bool(headers) + list(rows)
    names = [fit_text(line.name, font, MAX_NAME_EM * size) for line in lines]
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
            pen.rectangle(box, line.color or "white", BORDER_COLOR)
        pen.text((name_x, middle), name, TEXT_COLOR, font, anchor="lm")
        for right, text in zip(rights, line.shares, strict=False):
            pen.text((right, middle), text, TEXT_COLOR, font, anchor="rm")
    return np.array(canvas)


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join two images at their tops; the shorter one is continued in white."""
    height, split = max(left.shape[0], right.shape[0]), left.shape[1]
    canvas = np.full((height, split + right.shape[1], 3), 255, np.uint8)
    canvas[: left.shape[0], :split] = left
    canvas[: right.shape[0], split:] = right
    return canvas


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _swatch_color(class_id: int, colors: np.ndarray) -> tuple[int, ...] | None:
    """Colour of a legend's box; background has none, because the photo shows through."""
    if class_id == 0:
        return None
    return IGNORE_COLOR if class_id == IGNORE_INDEX else to_rgb(colors[class_id])
