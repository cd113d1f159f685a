"""Cloth, colours and curves, and the canvas that they are painted on.

The canvas remembers for each pixel what lies on top, so that the masks of a drawing are known
exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike

Color = np.ndarray  # (3,) float32 RGB, 0..255
Coverage = np.ndarray  # (H, W) uint8, how much of each pixel a shape covers, 0..255

_GRAIN_SHIFT = 32  # pixels by which the grain of one cloth is shifted against another's
_SUBPIXEL_BITS = 4  # cv2 takes fixed-point coordinates; 1/16 px is finer than any edge we draw

Pattern = Literal[
    "plain", "stripes", "check", "dots", "floral", "denim", "knit", "herringbone", "blotch"
]
_PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
_PATTERN_CHANCES = (0.44, 0.12, 0.09, 0.07, 0.07, 0.09, 0.05, 0.03, 0.04)


def random_color(rng: np.random.Generator) -> Color:
    """Draw a colour, (3,) 0..255.

    Garments AND backgrounds share this distribution: so no class can be read from colour.
    """
    kind = rng.random()
    if kind < 0.3:  # black, grey, white
        color = np.full(3, rng.uniform(35, 245)) + rng.normal(0, 7, 3)
    else:
        hue = rng.uniform(0, 180)
        saturation = rng.uniform(40, 150) if kind < 0.75 else rng.uniform(130, 230)
        value = rng.uniform(70, 245)
        pixel = np.array([[[hue, saturation, value]]], dtype=np.uint8)
        color = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
    return np.clip(color, 8, 248).astype(np.float32)


def near_color(rng: np.random.Generator, color: Color, spread: float = 10.0) -> Color:
    """Vary a colour slightly, for neighbours that are hard to tell apart, (3,) 0..255."""
    shift = rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    return np.clip(color + shift, 5, 250).astype(np.float32)


def contrast_color(color: Color, amount: float = 70.0) -> Color:
    """Return a lighter colour for a dark one and a darker colour for a light one, (3,) 0..255."""
    towards = 1.0 if color.mean() < 120 else -1.0
    return np.clip(color + towards * amount, 5, 250).astype(np.float32)


@dataclass(frozen=True)
class Fabric:
    """A colour with a pattern, drawn at any place and angle."""

    color: Color
    pattern: Pattern = "plain"
    accent: Color = field(default_factory=lambda: np.full(3, 200, np.float32))
    period_px: float = 10.0
    angle: float = 0.0
    sheen: float = 0.0  # 0 is matt; 1 is satin or leather

    @classmethod
    def random(
        cls, rng: np.random.Generator, color: Color | None = None, typical: Sequence[Pattern] = ()
    ) -> Self:
        """Draw a fabric, for a garment or for background clutter; None draws its colour too.

        Nine in ten things have one of the `typical` patterns, where there are any.
        """
        base = random_color(rng) if color is None else color
        accent = contrast_color(base, 45) if rng.random() < 0.5 else random_color(rng)
        pattern = _PATTERNS[rng.choice(len(_PATTERNS), p=_PATTERN_CHANCES)]
        if typical and rng.random() < 0.9:
            pattern = typical[int(rng.integers(len(typical)))]
        angle = float(rng.choice([0.0, np.pi / 2, np.pi / 4, 0.2]))
        period = rng.uniform(8, 18)  # seen even when a photo is shrunk to a network input
        return cls(base, pattern, accent, period, angle, rng.random() ** 3)

    def plain(self, color: Color | None = None) -> "Fabric":
        """Return the same cloth without its pattern, in its own colour or another."""
        return Fabric(self.color if color is None else color, sheen=self.sheen)

    def texture(self, rows: np.ndarray, columns: np.ndarray, angle: float) -> np.ndarray:
        """Return the colour, (h, w, 3) float32 RGB, about 0..255, of cloth turned by radians.

        `rows` and `columns` are the places, (h, w) float32, pixels.
        """
        if self.pattern == "plain":
            return np.broadcast_to(self.color, (*rows.shape, 3)).astype(np.float32)
        turn = self.angle + angle
        u = columns * np.float32(np.cos(turn)) + rows * np.float32(np.sin(turn))
        v = rows * np.float32(np.cos(turn)) - columns * np.float32(np.sin(turn))
        weight = _PATTERN_WEIGHT[self.pattern](u, v, np.float32(self.period_px))
        return self.color + weight[..., None] * (self.accent - self.color)


def _wave(x: np.ndarray, period: float | np.floating) -> np.ndarray:
    return np.sin(x * np.float32(2 * np.pi / period))


def _soft_step(x: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    return np.clip(0.5 + x * np.float32(sharpness), 0, 1)


def _floral(u: np.ndarray, v: np.ndarray, period: np.floating) -> np.ndarray:
    p = period * 1.5
    du = (u + p / 2 * (np.floor(v / p) % 2)) % p - p / 2  # every second row is shifted
    dv = v % p - p / 2
    radius = np.hypot(du, dv)
    petals = p * (0.27 + 0.1 * np.cos(5 * np.arctan2(dv, du)))
    return _soft_step((petals - radius) / 2, 1.0) * (0.35 + 0.65 * (radius > p * 0.09))


# How much of the accent colour shows at (u, v), 0..1, for each pattern.
_PATTERN_WEIGHT: dict[str, Callable[[np.ndarray, np.ndarray, np.floating], np.ndarray]] = {
    "stripes": lambda u, v, p: _soft_step(_wave(v, p)),
    "check": lambda u, v, p: (
        0.5 * _soft_step(_wave(u, p * 1.5)) + 0.5 * _soft_step(_wave(v, p * 1.5))
    ),
    "dots": lambda u, v, p: _soft_step(_wave(u, p * 1.3) * _wave(v, p * 1.3) - 0.45),
    "floral": _floral,
    "denim": lambda u, v, p: 0.25 + 0.25 * _wave(u + v, 9.0),
    "knit": lambda u, v, p: 0.3 + 0.3 * _wave(u, 9.0) * np.abs(_wave(v + 3 * _wave(u, 9.0), 14.0)),
    "herringbone": lambda u, v, p: 0.25 + 0.25 * np.sign(_wave(u + np.abs(v % 22 - 11), 9.0)),
    "blotch": lambda u, v, p: _soft_step(_wave(u + 6 * _wave(v, p * 3), p * 2.3) + _wave(v, p * 2)),
}


@dataclass
class Layer:
    """One thing on the canvas: its category and every pixel that it was painted on."""

    category_id: int
    parent: int  # layer that it lies on, as a sleeve on a coat; 0 is none
    sewn: bool  # it is cloth of its parent, whose own mask contains it
    drawn: np.ndarray  # (H, W) bool


class Canvas:
    """A picture, and for every pixel the layer that lies on top.

    Layer 0 is everything that is not annotated: background, skin, hair.
    """

    def __init__(self, background: np.ndarray, rng: np.random.Generator) -> None:
        """Start from a background, (H, W, 3) float32 RGB, 0..255."""
        self.image = background
        self.rng = rng
        self.height, self.width = background.shape[:2]
        self.owner = np.zeros((self.height, self.width), np.int16)
        self.person = np.zeros((self.height, self.width), bool)
        self.layers: list[Layer] = [Layer(-1, 0, False, np.ones((0, 0), bool))]
        self._rows, self._columns = np.indices((self.height, self.width), dtype=np.float32)
        size = (2 * self.width, 2 * self.height)
        coarse = rng.normal(0, 1, (2 * self.height // 34 + 2, 2 * self.width // 11 + 2))
        self._folds = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        size = (self.height + _GRAIN_SHIFT, self.width + _GRAIN_SHIFT)
        self._grain = rng.standard_normal(size, dtype=np.float32)

    def begin_person(self) -> None:
        """Forget the last person's outline: shadows fall only on the person who casts them."""
        self.person[:] = False

    def add_layer(self, category_id: int, parent: int = 0, *, sewn: bool = False) -> int:
        """Register a thing to be annotated and return the layer to paint it with."""
        drawn = np.zeros((self.height, self.width), bool)
        self.layers.append(Layer(category_id, parent, sewn, drawn))
        return len(self.layers) - 1

    def cover(self, *polygons: np.ndarray) -> Coverage:
        """Fill the union of polygons, each (n, 2) x and y in pixels, anti-aliased."""
        coverage = np.zeros((self.height, self.width), np.uint8)
        for polygon in polygons:
            # cv2 puts the centre of the first pixel at 0, our coordinates its corner
            fixed = np.round((polygon - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(coverage, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return coverage

    def fill(self, polygon: np.ndarray, fabric: Fabric, layer: int = 0, **style: float) -> None:
        """Lay cloth on a polygon, as `paint` does."""
        self.paint(self.cover(polygon), fabric, layer, **style)

    def stroke(self, polyline: np.ndarray, width_px: float) -> Coverage:
        """Cover a line of some width, anti-aliased; (n, 2) x and y in pixels."""
        return self.cover(ribbon(polyline, width_px))

    def paint(
        self,
        coverage: Coverage,
        fabric: Fabric,
        layer: int = 0,
        *,
        angle: float = 0.0,
        folds: float = 0.08,
        edge: float = 0.26,
        outline: float = 0.42,
        shadow: float = 0.0,
    ) -> None:
        """Lay cloth (or skin, or metal) on the canvas.

        The pixels become the layer's; 0 takes them from whatever lay there. The cloth is turned by
        `angle`, radians. From 0 to 1: how strong its folds are, how much darker it gets towards its
        edge, how dark its outermost pixel is, and the shadow that it casts on the same person.
        """
        x, y, w, h = cv2.boundingRect(coverage)
        if w == 0:
            return
        if shadow:
            self._cast_shadow(coverage, shadow)
        window = np.s_[y : y + h, x : x + w]
        alpha = coverage[window]
        inside = alpha >= 128
        texture = fabric.texture(self._rows[window], self._columns[window], angle)
        shading = self._shading(inside, fabric, folds, edge, outline)
        weight = alpha[..., None] * np.float32(1 / 255)
        self.image[window] += weight * (texture * shading[..., None] - self.image[window])
        self.owner[window][inside] = layer
        self.person[window] |= inside
        while layer:
            self.layers[layer].drawn[window] |= inside
            layer = self.layers[layer].parent if self.layers[layer].sewn else 0

    def tint(self, coverage: Coverage, color: Color | float, opacity: float = 1.0) -> None:
        """Colour pixels without changing whose they are: seams, shine, eyes; a number is grey."""
        x, y, w, h = cv2.boundingRect(coverage)
        window = np.s_[y : y + h, x : x + w]
        weight = coverage[window][..., None] * np.float32(opacity / 255)
        self.image[window] += weight * (color - self.image[window])

    def crease(
        self,
        polyline: np.ndarray,
        width_px: float = 1.2,
        opacity: float = 0.45,
        *,
        within: Coverage | None = None,
        grey: float = 20,
    ) -> None:
        """Draw a seam or a fold: a dark line on whatever lies there, or only within a shape."""
        line = self.stroke(polyline, width_px)
        self.tint(line if within is None else np.minimum(line, within), grey, opacity)

    def _shading(
        self, inside: np.ndarray, fabric: Fabric, folds: float, edge: float, outline: float
    ) -> np.ndarray:
        h, w = inside.shape
        padded = np.pad(inside.astype(np.uint8), 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        reach = np.float32(max(2.0, 0.45 * distance.max()))
        row, column = self.rng.integers(0, self.height + 1), self.rng.integers(0, self.width + 1)
        shading = 1.1 + folds * (1 + fabric.sheen) * self._folds[row : row + h, column : column + w]
        row, column = self.rng.integers(0, _GRAIN_SHIFT, 2)
        shading += 0.025 * self._grain[row : row + h, column : column + w]
        shading -= edge * np.exp(-distance / reach)
        # light from the upper left: the left half of every volume is brighter
        shading += np.linspace(0.07, -0.07, w, dtype=np.float32)
        shading -= outline * (distance < 1.5)
        return np.clip(shading, 0.25, 1.35).astype(np.float32)

    def _cast_shadow(self, coverage: Coverage, opacity: float) -> None:
        x, y, w, h = cv2.boundingRect(coverage)
        reach = 9
        top, left = max(0, y - reach), max(0, x - reach)
        window = np.s_[top : y + h + reach, left : x + w + reach]
        soft = cv2.GaussianBlur(coverage[window], (13, 13), 2.5)
        soft = np.roll(soft, (3, 2), (0, 1)) * self.person[window]
        self.image[window] *= 1 - soft[..., None] * np.float32(opacity / 255)


def xy(x: float, y: float) -> np.ndarray:
    """Make a point or a shift, (2,)."""
    return np.array([x, y], dtype=np.float64)


def resample(line: np.ndarray, count: int) -> np.ndarray:
    """Put points along a line, spread evenly between each two of its own, (n, 2) to (count, 2)."""
    t = np.linspace(0, 1, count)
    own = np.linspace(0, 1, len(line))
    return np.stack([np.interp(t, own, line[:, axis]) for axis in (0, 1)], axis=1)


def smooth(points: ArrayLike, *, closed: bool = False) -> np.ndarray:
    """Run a Catmull-Rom curve through points, (n, 2) to (m, 2)."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, 7)[:-1, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
    curve = (0.5 * (cubic + (3 * b - a - 3 * c + d) * t**3)).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def ribbon(centre: np.ndarray, width_px: ArrayLike) -> np.ndarray:
    """Outline a band around a line: (n, 2) points, one width or (n,) to a polygon (2n, 2)."""
    direction = np.gradient(centre, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    offset = normal * (np.asarray(width_px)[..., None] / 2)
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


def ellipse(
    centre: ArrayLike, rx: float, ry: float | None = None, angle: float = 0.0
) -> np.ndarray:
    """Outline an ellipse, or with one radius a circle, (24, 2)."""
    t = np.linspace(0, 2 * np.pi, 25)[:-1]
    x, y = rx * np.cos(t), (rx if ry is None else ry) * np.sin(t)
    turned = [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)]
    return np.asarray(centre) + np.stack(turned, axis=1)
