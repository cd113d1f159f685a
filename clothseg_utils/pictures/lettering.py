"""Text in pictures: fonts, sizes, labels that do not cover each other."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageDraw, ImageFont

TEXT_COLOR = (30, 30, 30)
MIN_FONT_PX = 11  # smaller letters cannot be read at any zoom
MAX_NAME_EM = 22  # the longest Fashionpedia name takes 21


def draw_label(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    color: tuple[int, ...],
    anchor: tuple[int, int],
    canvas_wh: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a label centred at `anchor`, moved off the boxes in `taken`; adds its own box."""
    text = fit_text(text, font, canvas_wh[0] - 6)
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


def font_px(height: int, width: int) -> int:
    """Letter size in pixels that reads well when the whole photo is on a screen or page."""
    return int(np.clip(round(max(height, 0.6 * width) / 38), MIN_FONT_PX, 140))


def panel_font_px(images: Sequence[np.ndarray]) -> int:
    """Letter size for a panel; long rows of images are shown smaller, so they get larger text."""
    return font_px(images[0].shape[0], sum(image.shape[1] for image in images) // 2)


@functools.lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The figures' font at a size in pixels.

    Pillow's own font has little beyond ASCII, and file names are shown; matplotlib ships DejaVu
    Sans, which `find_spec` locates without importing matplotlib.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec and spec.origin:
        path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)  # type: ignore[return-value]  # with a size it is FreeType


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Make a text one line of at most `width` pixels, cut with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "\u2026") > width:
        text = text[:-1]
    return text.rstrip() + "\u2026"


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines of at most `width` pixels; longer words are cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [fit_text(line, font, width) for line in lines]
