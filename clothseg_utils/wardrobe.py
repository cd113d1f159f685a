"""Draw one dressed person: fabrics, a posed body, and every Fashionpedia category on it.

Everything is drawn onto a `Canvas`, which remembers for each pixel what lies on top, so that the
masks of the drawing are known exactly. `synthetic` composes scenes from these people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

Color = np.ndarray  # (3,) float32 RGB, 0..255
Coverage = np.ndarray  # (H, W) uint8, how much of each pixel a shape covers, 0..255

# Fashionpedia category ids, by the names that this module uses for them.
SHIRT, TOP, SWEATER, CARDIGAN, JACKET, VEST = range(6)
PANTS, SHORTS, SKIRT = range(6, 9)
COAT, DRESS, JUMPSUIT, CAPE = range(9, 13)
GLASSES, HAT, HEADBAND, TIE, GLOVE, WATCH, BELT = range(13, 20)
LEG_WARMER, TIGHTS, SOCK, SHOE = range(20, 24)
BAG, SCARF, UMBRELLA = range(24, 27)
HOOD, COLLAR, LAPEL, EPAULETTE, SLEEVE, POCKET, NECKLINE = range(27, 34)
BUCKLE, ZIPPER = range(34, 36)
APPLIQUE, BEAD, BOW, FLOWER, FRINGE, RIBBON, RIVET, RUFFLE, SEQUIN, TASSEL = range(36, 46)

_GRAIN_SHIFT = 32  # pixels by which the grain of one cloth is shifted against another's
_SUBPIXEL_BITS = 4  # cv2 takes fixed-point coordinates; 1/16 px is finer than any edge we draw

Pattern = Literal[
    "plain", "stripes", "check", "dots", "floral", "denim", "knit", "herringbone", "blotch"
]
PATTERNS: tuple[Pattern, ...] = (
    "plain",
    "stripes",
    "check",
    "dots",
    "floral",
    "denim",
    "knit",
    "herringbone",
    "blotch",
)
_PATTERN_WEIGHTS = np.array([0.44, 0.12, 0.09, 0.07, 0.07, 0.09, 0.05, 0.03, 0.04])

SKIN_TONES = np.array(
    [
        (250, 220, 196),
        (238, 196, 164),
        (222, 172, 134),
        (196, 142, 104),
        (160, 108, 76),
        (122, 80, 56),
        (88, 58, 44),
    ],
    dtype=np.float32,
)
_HAIR_COLORS = np.array(
    [
        (34, 26, 24),
        (62, 42, 30),
        (110, 72, 42),
        (172, 128, 74),
        (214, 182, 122),
        (150, 66, 36),
        (150, 148, 146),
        (24, 24, 30),
    ],
    dtype=np.float32,
)

_METALS = np.array([(205, 170, 90), (190, 192, 198), (60, 60, 64)], dtype=np.float32)
_HAIR_STYLES = ("short", "bob", "long", "bun", "bald", "curly")


def random_color(rng: np.random.Generator) -> Color:
    """Draw a colour from the one distribution that garments AND backgrounds share, (3,) 0..255.

    One distribution for all is what keeps the class from being readable from colour.
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
        cls,
        rng: np.random.Generator,
        color: Color | None = None,
        typical: Sequence[Pattern] = (),
    ) -> Fabric:
        """Draw a fabric; every garment and every piece of background clutter uses this.

        Args:
            rng: what to draw with.
            color: its colour; None draws one.
            typical: patterns that nine in ten of such things have; the others have any.
        """
        base = random_color(rng) if color is None else color
        accent = contrast_color(base, 45) if rng.random() < 0.5 else random_color(rng)
        pattern = PATTERNS[rng.choice(len(PATTERNS), p=_PATTERN_WEIGHTS)]
        if typical and rng.random() < 0.9:
            pattern = typical[rng.integers(len(typical))]
        angle = float(rng.choice([0.0, np.pi / 2, np.pi / 4, 0.2]))
        period = float(rng.uniform(8, 18))  # seen even when a photo is shrunk to a network input
        return cls(base, pattern, accent, period, angle, float(rng.random() ** 3))

    def plain(self, color: Color | None = None) -> Fabric:
        """Return the same cloth without its pattern, in its own colour or another."""
        return Fabric(self.color if color is None else color, sheen=self.sheen)

    def texture(self, rows: np.ndarray, columns: np.ndarray, angle: float) -> np.ndarray:
        """Return the cloth's colour at the given places.

        Args:
            rows: (h, w) float32, pixels.
            columns: (h, w) float32, pixels.
            angle: how far the cloth is turned, radians.

        Returns:
            (h, w, 3) float32 RGB, about 0..255.
        """
        shape = (*rows.shape, 3)
        if self.pattern == "plain":
            return np.broadcast_to(self.color, shape).astype(np.float32)
        turn = self.angle + angle
        u = columns * np.float32(np.cos(turn)) + rows * np.float32(np.sin(turn))
        v = rows * np.float32(np.cos(turn)) - columns * np.float32(np.sin(turn))
        weight = _PATTERN_WEIGHT[self.pattern](u, v, np.float32(self.period_px))
        return self.color + weight[..., None] * (self.accent - self.color)


def _wave(x: np.ndarray, period: float) -> np.ndarray:
    return np.sin(x * np.float32(2 * np.pi / period))


def _soft_step(x: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    return np.clip(0.5 + x * np.float32(sharpness), 0, 1)


def _floral(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    p = period * 1.5
    du = (u + p / 2 * (np.floor(v / p) % 2)) % p - p / 2  # every second row is shifted
    dv = v % p - p / 2
    radius = np.hypot(du, dv)
    petals = p * (0.27 + 0.1 * np.cos(5 * np.arctan2(dv, du)))
    return _soft_step((petals - radius) / 2, 1.0) * (0.35 + 0.65 * (radius > p * 0.09))


# How much of the accent colour shows at (u, v), 0..1, for each pattern.
_PATTERN_WEIGHT: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
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
            if len(polygon) >= 3:
                # cv2 puts the centre of the first pixel at 0, our coordinates its corner
                fixed = np.round((polygon - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
                cv2.fillPoly(coverage, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return coverage

    def stroke(self, polyline: np.ndarray, width_px: float) -> Coverage:
        """Cover a line of some width, anti-aliased; (n, 2) x and y in pixels."""
        return self.cover(ribbon(polyline, np.full(len(polyline), width_px)))

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

        Args:
            coverage: (H, W) uint8, the shape.
            fabric: what it is made of.
            layer: whose pixels they become; 0 takes them from whatever lay there.
            angle: how far the cloth is turned, radians.
            folds: strength of the folds, 0..1.
            edge: how much darker the cloth gets towards its edge, 0..1.
            outline: how dark the outermost pixel is, 0..1.
            shadow: how dark a shadow it casts on the same person, 0..1.
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

    def tint(self, coverage: Coverage, color: Color, opacity: float = 1.0) -> None:
        """Colour pixels without changing whose they are: seams, shine, eyes."""
        x, y, w, h = cv2.boundingRect(coverage)
        window = np.s_[y : y + h, x : x + w]
        weight = coverage[window][..., None] * np.float32(opacity / 255)
        self.image[window] += weight * (color - self.image[window])

    def crease(self, polyline: np.ndarray, width_px: float = 1.2, opacity: float = 0.45) -> None:
        """Draw a seam or a fold: a dark line on whatever lies there."""
        self.tint(self.stroke(polyline, width_px), np.full(3, 20, np.float32), opacity)

    def _shading(
        self, inside: np.ndarray, fabric: Fabric, folds: float, edge: float, outline: float
    ) -> np.ndarray:
        h, w = inside.shape
        padded = np.zeros((h + 2, w + 2), np.uint8)
        padded[1:-1, 1:-1] = inside
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


def smooth(points: Sequence[Sequence[float]] | np.ndarray, *, closed: bool = False) -> np.ndarray:
    """Run a Catmull-Rom curve through points, (n, 2) to (m, 2)."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, 7)[:-1, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
    curve = 0.5 * (cubic + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def ribbon(centre: np.ndarray, widths_px: np.ndarray) -> np.ndarray:
    """Outline a band around a line: (n, 2) points and (n,) widths to a polygon (2n, 2)."""
    direction = np.gradient(centre, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    offset = normal * (np.asarray(widths_px)[:, None] / 2)
    return np.concatenate([centre + offset, (centre - offset)[::-1]])


def ellipse(centre: np.ndarray, rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
    """Outline an ellipse, (24, 2)."""
    t = np.linspace(0, 2 * np.pi, 25)[:-1]
    x, y = rx * np.cos(t), ry * np.sin(t)
    turned = [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)]
    return np.asarray(centre) + np.stack(turned, axis=1)


class Limb:
    """An arm or a leg: a smooth line from its root (t = 0) to its end (t = 1)."""

    def __init__(self, joints: Sequence[np.ndarray]) -> None:
        """Run the limb through joints, each (2,) x and y in pixels."""
        self._points = smooth(joints)
        steps = np.linalg.norm(np.diff(self._points, axis=0), axis=1)
        length = np.concatenate([[0], np.cumsum(steps)])
        self.length_px = float(length[-1])
        self._t = length / length[-1]

    def at(self, t: float | np.ndarray) -> np.ndarray:
        """Return the point (or points) at t, (2,) or (n, 2); t may pass the ends a little."""
        t = np.asarray(t, dtype=np.float64)
        inside = np.clip(t, 0, 1)
        point = np.stack(
            [np.interp(inside, self._t, self._points[:, axis]) for axis in (0, 1)], axis=-1
        )
        end = self._points[-1] - self._points[-3]
        end = end / max(np.linalg.norm(end), 1e-6)
        return point + (np.maximum(t - 1, 0) * self.length_px)[..., None] * end

    def angle(self, t0: float, t1: float) -> float:
        """Return how far the limb between t0 and t1 is turned from hanging down, radians."""
        dx, dy = self.at(t1) - self.at(t0)
        return float(np.arctan2(-dx, dy))

    def outline(self, t0: float, t1: float, widths_px: Sequence[float]) -> np.ndarray:
        """Outline the limb from t0 to t1; widths are spread evenly over that stretch."""
        t = np.linspace(t0, t1, 16)
        widths = np.interp(np.linspace(0, 1, 16), np.linspace(0, 1, len(widths_px)), widths_px)
        return ribbon(self.at(t), widths)


_SHOULDER_Y, _ARMPIT_Y, _WAIST_Y, _HIP_Y, _CROTCH_Y = 0.182, 0.25, 0.385, 0.455, 0.505
_WRIST_T = 0.84  # along an arm, whose hand is its last part

ArmPose = Literal["hang", "out", "hip", "raised", "front"]


class Body:
    """A posed body. Body coordinates: x from the spine, y from the crown; 1 is the body height."""

    def __init__(
        self,
        rng: np.random.Generator,
        centre_x: float,
        top_y: float,
        height_px: float,
        *,
        raise_arm: bool = False,
    ) -> None:
        """Pose a body with its crown at (centre_x, top_y), pixels.

        `raise_arm` lifts the hand that holds an umbrella.
        """
        self.s = height_px
        self.centre_x, self.top_y = centre_x, top_y
        self.build = float(rng.uniform(1.0, 1.3))  # slim .. heavy
        self.waist = float(rng.uniform(0.066, 0.086))
        self.hip = float(rng.uniform(0.088, 0.104))
        self.shoulder = float(rng.uniform(0.102, 0.12))
        self.lean = float(rng.normal(0, 0.045))
        self.tilt = float(rng.normal(0, 0.09))  # of the head, radians
        self.skin = Fabric(near_color(rng, SKIN_TONES[rng.integers(len(SKIN_TONES))], 5), sheen=0.2)
        self.legs = self._pose_legs(rng)
        self.arms = self._pose_arms(rng, raise_arm)

    def at(self, x: float, y: float) -> np.ndarray:
        """Map body coordinates to pixels, (2,); the trunk leans around the hips."""
        lean = self.lean * max(0.0, _CROTCH_Y - y)
        return np.array([self.centre_x + self.s * (x * self.build + lean), self.top_y + self.s * y])

    def many(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        """Map several points of body coordinates to pixels, (n, 2)."""
        return np.stack([self.at(x, y) for x, y in points])

    def px(self, length: float) -> float:
        """Turn a length in body heights into pixels."""
        return length * self.s

    def _pose_legs(self, rng: np.random.Generator) -> tuple[Limb, Limb]:
        pose = rng.choice(["straight", "apart", "walk", "contrapposto", "cross"])
        spread = {"straight": 0.03, "apart": 0.2, "walk": 0.1, "contrapposto": 0.1, "cross": -0.06}
        legs = []
        for side in (-1, 1):
            thigh = spread[pose] + rng.normal(0, 0.03)
            shin = thigh - rng.uniform(0, 0.06)
            length = 1.0
            if side == -1 and pose == "walk":  # this leg swings back: knee in, foot up and out
                thigh, shin, length = 0.02, 0.3, 0.94
            if side == 1 and pose == "contrapposto":
                thigh, shin = 0.2, -0.02
            hip = self.at(side * 0.046, _CROTCH_Y - 0.01)
            knee = hip + self.px(0.225 * length) * np.array([side * np.sin(thigh), np.cos(thigh)])
            ankle = knee + self.px(0.23 * length) * np.array([side * np.sin(shin), np.cos(shin)])
            legs.append(Limb([hip, knee, ankle]))
        return legs[0], legs[1]

    def _pose_arms(self, rng: np.random.Generator, raise_arm: bool) -> tuple[Limb, Limb]:
        arms = []
        poses: tuple[ArmPose, ...] = ("hang", "out", "hip", "raised", "front")
        for side in (-1, 1):
            pose = poses[rng.choice(5, p=[0.4, 0.2, 0.2, 0.06, 0.14])]
            if raise_arm and side == 1:
                pose = "raised"
            upper, lower = {  # angles from hanging down, outwards
                "hang": (rng.uniform(0.12, 0.28), rng.uniform(-0.02, 0.2)),
                "out": (rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.8)),
                "hip": (rng.uniform(0.65, 0.85), rng.uniform(-0.95, -0.7)),
                "raised": (rng.uniform(0.5, 0.9), rng.uniform(2.5, 2.9)),
                "front": (rng.uniform(0.15, 0.3), rng.uniform(-1.6, -1.1)),
            }[pose]
            root = self.at(side * (self.shoulder - 0.014), _SHOULDER_Y + 0.012)
            joints = [root]
            for length, angle in ((0.165, upper), (0.145, lower), (0.06, lower * 0.9)):
                step = np.array([side * np.sin(angle), np.cos(angle)])
                joints.append(joints[-1] + self.px(length) * step)
            arms.append(Limb(joints))
        return arms[0], arms[1]

    def leg_reach(self, y: float) -> tuple[float, float]:
        """Return the leftmost and rightmost x of the legs at body height y, in pixels."""
        t = np.clip((y - _CROTCH_Y) / 0.45, 0, 1)
        xs = [leg.at(t)[0] for leg in self.legs]
        half = self.px(0.045) * self.build
        return min(xs) - half, max(xs) + half

    def side(self, sign: int, ease: float, hem_y: float, hem_half: float = 0.0) -> np.ndarray:
        """Return a side seam from the shoulder down, (n, 2) pixels.

        Args:
            sign: -1 left in the picture, 1 right.
            ease: how loose the cloth is, body heights.
            hem_y: where it ends, body coordinates.
            hem_half: half width at the hem, body heights; at least as wide as the legs below it.
        """
        profile = [
            (self.shoulder + ease * 0.5, _SHOULDER_Y - 0.004),
            (self.shoulder - 0.012 + ease, _ARMPIT_Y),
            (self.waist + ease, _WAIST_Y),
            (self.hip + ease, _HIP_Y),
        ]
        points = [self.at(sign * x, y) for x, y in profile if y < hem_y - 0.02]
        points.append(self.hem_point(sign, ease, hem_y, hem_half))
        return smooth(points)

    def hem_point(self, sign: int, ease: float, hem_y: float, hem_half: float = 0.0) -> np.ndarray:
        """Return the end of a hem, (2,) pixels; cloth below the crotch hangs around the legs."""
        y = min(hem_y, _HIP_Y)
        trunk = np.interp(y, (_ARMPIT_Y, _WAIST_Y, _HIP_Y), (0.1, self.waist, self.hip))
        point = self.at(sign * max(trunk + ease, hem_half), hem_y)
        if hem_y > _CROTCH_Y:
            reach = self.leg_reach(hem_y)
            ease_px = self.px(0.012)
            if sign < 0:
                point[0] = min(point[0], reach[0] - ease_px)
            else:
                point[0] = max(point[0], reach[1] + ease_px)
        return point

    def trunk(
        self,
        ease: float,
        hem_y: float,
        hem_half: float = 0.0,
        *,
        neck_half: float = 0.045,
        neck_depth: float = 0.02,
        v_neck: bool = False,
    ) -> np.ndarray:
        """Outline a closed garment of the trunk, (n, 2) pixels."""
        right = self.side(1, ease, hem_y, hem_half)
        left = self.side(-1, ease, hem_y, hem_half)
        hem = self.hem_curve(right[-1], left[-1])
        neck = self.neckline(neck_half, neck_depth, v_neck)
        return np.concatenate([right, hem, left[::-1], neck])

    def hem_curve(self, start: np.ndarray, end: np.ndarray, sag: float = 0.014) -> np.ndarray:
        """Return a hem that sags a little between its ends, (n, 2) pixels."""
        middle = (start + end) / 2 + np.array([0, self.px(sag)])
        return smooth([start, middle, end])

    def neckline(self, half: float, depth: float, v_neck: bool) -> np.ndarray:
        """Return the edge of a neck opening from left to right, (n, 2) pixels."""
        y = 0.158
        if v_neck:
            return self.many([(-half, y), (0, y + depth), (half, y)])
        low = [(-half, y), (-half * 0.72, y + depth * 0.78), (0, y + depth)]
        return smooth(self.many([*low, (half * 0.72, y + depth * 0.78), (half, y)]))


# How often a person wears each optional thing; an outfit may have no place for it.
_WISHES = {
    GLASSES: 0.25,
    HAT: 0.4,
    HEADBAND: 0.2,
    TIE: 0.55,
    GLOVE: 0.55,
    WATCH: 0.2,
    BELT: 0.65,
    LEG_WARMER: 0.1,
    TIGHTS: 0.3,
    SOCK: 0.3,
    BAG: 0.5,
    SCARF: 0.12,
    UMBRELLA: 0.06,
    HOOD: 0.2,
    COLLAR: 0.4,
    LAPEL: 0.4,
    EPAULETTE: 0.08,
    POCKET: 0.35,
    BUCKLE: 0.6,
    ZIPPER: 0.65,
    APPLIQUE: 0.1,
    BEAD: 0.15,
    BOW: 0.25,
    FLOWER: 0.1,
    FRINGE: 0.12,
    RIBBON: 0.1,
    RIVET: 0.06,
    RUFFLE: 0.3,
    SEQUIN: 0.1,
    TASSEL: 0.08,
}


# Jeans are of denim and sweaters are knitted: cloth may hint at the garment, colour never does.
_TYPICAL_PATTERNS: dict[int | None, tuple[Pattern, ...]] = {
    SHIRT: ("stripes",),
    TOP: ("stripes",),
    SWEATER: ("knit",),
    CARDIGAN: ("knit",),
    JACKET: ("herringbone",),
    VEST: ("herringbone",),
    PANTS: ("denim",),
    SHORTS: ("denim",),
    SKIRT: ("denim",),
    COAT: ("check",),
    DRESS: ("floral", "dots"),
    JUMPSUIT: ("dots", "floral"),
    CAPE: ("check",),
}


@dataclass(frozen=True)
class Outfit:
    """What a person wears: main garments, and the other categories to be seen on them."""

    inner: int | None  # SHIRT, TOP, SWEATER
    outer: int | None  # CARDIGAN, JACKET, VEST, COAT, CAPE
    lower: int | None  # PANTS, SHORTS, SKIRT
    whole: int | None  # DRESS, JUMPSUIT; then inner and lower are None
    wishes: frozenset[int]
    cloths: tuple[Fabric, Fabric, Fabric]  # of inner or whole, of outer, of lower


def plan_outfit(rng: np.random.Generator, required: int | None = None) -> Outfit:
    """Choose an outfit, with the required category in it."""
    inner: int | None = int(rng.choice([SHIRT, TOP, SWEATER], p=[0.36, 0.38, 0.26]))
    outers = [None, CARDIGAN, JACKET, VEST, COAT, CAPE]
    outer = outers[rng.choice(6, p=[0.38, 0.11, 0.2, 0.08, 0.17, 0.06])]
    lower: int | None = int(rng.choice([PANTS, SHORTS, SKIRT], p=[0.5, 0.22, 0.28]))
    whole = int(rng.choice([DRESS, JUMPSUIT], p=[0.75, 0.25])) if rng.random() < 0.42 else None
    wishes = {wish for wish, chance in _WISHES.items() if rng.random() < chance}
    if required is not None:
        wishes.add(required)
        # make room for it: a place where it can be seen, and nothing that hides it
        if required in (SHIRT, TOP, SWEATER):
            inner, whole = required, None
            outer = None if outer == CAPE else outer
        elif required in (CARDIGAN, JACKET, VEST, COAT, CAPE):
            outer = required
        elif required in (PANTS, SHORTS, SKIRT):
            lower, whole = required, None
            outer = None if outer == COAT else outer
        elif required in (DRESS, JUMPSUIT):
            whole = required
        elif required in (TIE, COLLAR):
            inner, whole, outer = SHIRT, None, None if outer == CAPE else outer
            wishes -= {SCARF}
        elif required in (LAPEL, EPAULETTE, HOOD):
            outer = JACKET if outer not in (JACKET, COAT) else outer
            wishes -= {SCARF, BAG} | ({LAPEL} if required == HOOD else set())
        elif required in (ZIPPER, RIVET):
            outer = JACKET
        elif required in (BELT, BUCKLE):
            outer = None
            wishes |= {BELT, BUCKLE}
        elif required in (NECKLINE, APPLIQUE, SEQUIN, BEAD, POCKET):
            inner, whole, outer = (SHIRT if required == BEAD else TOP), None, None
            wishes -= {SCARF, TIE}
        elif required in (TIGHTS, SOCK, LEG_WARMER):
            lower, whole = (SHORTS if lower == PANTS else lower), None
            outer = None if outer == COAT else outer
            wishes -= {TIGHTS, SOCK, LEG_WARMER} - {required}
        elif required == RUFFLE:
            lower, whole, outer = SKIRT, None, None
        elif required == HEADBAND:
            wishes -= {HAT}
        elif required in (FRINGE, TASSEL):
            wishes |= {SCARF}
        elif required in (RIBBON, FLOWER):
            wishes |= {HAT}
    if whole is not None:
        inner = lower = None
    color = random_color(rng)
    main = inner if whole is None else whole
    cloths = [Fabric.random(rng, color, _TYPICAL_PATTERNS.get(main, ()))]
    for garment in (outer, lower):  # often of nearly the colour that they overlap
        near = near_color(rng, color) if rng.random() < 0.35 else None
        cloths.append(Fabric.random(rng, near, _TYPICAL_PATTERNS.get(garment, ())))
    return Outfit(inner, outer, lower, whole, frozenset(wishes), (cloths[0], cloths[1], cloths[2]))


class Dresser:
    """Draw one person, back to front."""

    def __init__(
        self, canvas: Canvas, body: Body, outfit: Outfit, rng: np.random.Generator
    ) -> None:
        """Bind what is drawn to where it is drawn."""
        self.canvas, self.body, self.outfit, self.rng = canvas, body, outfit, rng
        self.hair = Fabric(
            near_color(rng, _HAIR_COLORS[rng.integers(len(_HAIR_COLORS))], 6),
            sheen=0.9,
        )
        self.hair_style = str(rng.choice(_HAIR_STYLES, p=[0.24, 0.2, 0.22, 0.14, 0.06, 0.14]))
        metal = near_color(rng, _METALS[rng.integers(len(_METALS))])
        self.metal = Fabric(metal if rng.random() < 0.6 else random_color(rng), sheen=1.0)
        self.head = body.at(0, 0.0) + body.px(0.068) * np.array([np.sin(body.tilt), 1.0])
        self.sleeve_t = 0.0  # how far down the arms the sleeves reach
        self.sleeve_cloth = outfit.cloths[0]

    def wants(self, category_id: int) -> bool:
        """Tell whether the outfit asks for a category."""
        return category_id in self.outfit.wishes

    def draw(self) -> None:
        """Draw the whole person."""
        self.canvas.begin_person()
        outfit = self.outfit
        if self.wants(UMBRELLA):
            self._umbrella()
        self._back_hair()
        self._legs()
        self._trunk_skin()
        tucked = self.wants(BELT) or self.rng.random() < 0.4
        garment = 0
        if outfit.lower is not None and not tucked:
            self._lower(outfit.lower)
        if outfit.inner is not None:
            garment = self._inner(outfit.inner, tucked)
        if outfit.whole is not None:
            garment = self._whole(outfit.whole)
        if outfit.lower is not None and tucked:
            self._lower(outfit.lower)
        if self.wants(BELT) and (tucked or outfit.whole is not None):
            self._belt()
        if self.wants(TIE) and outfit.whole is None:
            self._tie()
        self._front_details(garment)
        outer = 0
        if outfit.outer in (CARDIGAN, JACKET, VEST, COAT):
            outer = self._outer(outfit.outer)
        self._arms(garment, outer)
        if outfit.outer == CAPE:
            self._cape()
        self._head_and_neck()
        self._carry()

    # -- skin ------------------------------------------------------------------------------

    def _skin(self, *polygons: np.ndarray) -> None:
        self.canvas.paint(
            self.canvas.cover(*polygons), self.body.skin, folds=0.02, edge=0.22, outline=0.18
        )

    def _trunk_skin(self) -> None:
        body = self.body
        neck = ribbon(
            np.stack([self.head, body.at(0, 0.15), body.at(0, 0.18)]),
            np.array([0.055, 0.055, 0.075]) * body.s,
        )
        self._skin(body.trunk(0.0, 0.49, neck_half=0.03, neck_depth=0.0))
        self._skin(neck)
        self.canvas.crease(smooth(body.many([(-0.06, 0.182), (-0.02, 0.192), (0, 0.188)])), 1, 0.2)
        self.canvas.crease(smooth(body.many([(0.06, 0.182), (0.02, 0.192), (0, 0.188)])), 1, 0.2)

    def _legs(self) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        bare = (0.098 * body.build, 0.074 * body.build, 0.05, 0.056, 0.032)
        cloth = [Fabric.random(rng), Fabric.random(rng), Fabric.random(rng)]
        tights = self.wants(TIGHTS) and self.outfit.lower != PANTS
        socks = self.wants(SOCK) and not tights
        warmers = self.wants(LEG_WARMER)
        sock_t = float(rng.choice([0.88, 0.7, 0.55]))
        boot_t = float(rng.choice([0.97, 0.97, 0.85, 0.6]))
        tights_layer = canvas.add_layer(TIGHTS) if tights else 0
        for side, leg in zip((-1, 1), body.legs, strict=True):
            widths = [body.px(w) for w in bare]
            foot = self._foot(leg, side)
            shape = canvas.cover(leg.outline(0, 1.02, widths), foot)
            if tights:
                canvas.paint(shape, cloth[0], tights_layer, folds=0.03, edge=0.45)
            else:
                canvas.paint(shape, body.skin, folds=0.02, edge=0.22, outline=0.18)
            if socks:
                calf = leg.outline(sock_t, 1.02, self._leg_widths(sock_t, 1.02, 0.006))
                self._rib(leg, sock_t, canvas.cover(calf, foot), cloth[1], SOCK)
            self._shoe(leg, side, foot, cloth[2], boot_t)
            if warmers:
                calf = leg.outline(0.6, 0.98, self._leg_widths(0.6, 0.98, 0.022))
                knit = Fabric(cloth[1].color, "knit", contrast_color(cloth[1].color, 40))
                self._rib(leg, 0.6, canvas.cover(calf), knit, LEG_WARMER, rings=6)

    def _leg_widths(self, t0: float, t1: float, ease: float) -> list[float]:
        t = np.linspace(t0, t1, 6)
        bare = np.interp(t, (0, 0.25, 0.5, 0.68, 1), (0.098, 0.074, 0.05, 0.056, 0.034))
        return [self.body.px(w + ease) for w in bare]

    def _rib(
        self,
        leg: Limb,
        t0: float,
        shape: Coverage,
        cloth: Fabric,
        category_id: int,
        rings: int = 1,
    ) -> None:
        """Paint a sock or a leg warmer and its ribs across the leg."""
        canvas = self.canvas
        layer = canvas.add_layer(category_id)
        canvas.paint(shape, cloth, layer, angle=leg.angle(t0, 1), edge=0.4)
        for t in np.linspace(t0 + 0.03, 0.93, rings):
            band = np.minimum(canvas.cover(leg.outline(t, t + 0.008, [self.body.px(0.12)])), shape)
            canvas.tint(band, contrast_color(cloth.color), 0.5)

    def _foot(self, leg: Limb, side: int) -> np.ndarray:
        ankle, toe_x = leg.at(1.0), side * self.body.px(0.022)
        s = self.body.s
        return smooth(
            ankle
            + np.array(
                [
                    (-0.019 * s, -0.006 * s),
                    (0.019 * s, -0.006 * s),
                    (0.026 * s + max(toe_x, 0), 0.03 * s),
                    (toe_x + 0.008 * s, 0.046 * s),
                    (toe_x - 0.008 * s, 0.046 * s),
                    (-0.026 * s + min(toe_x, 0), 0.03 * s),
                ]
            ),
            closed=True,
        )

    def _shoe(self, leg: Limb, side: int, foot: np.ndarray, cloth: Fabric, boot_t: float) -> None:
        canvas, s = self.canvas, self.body.s
        layer = canvas.add_layer(SHOE)
        centre = foot.mean(axis=0)
        bigger = centre + (foot - centre) * 1.14 + np.array([0, 0.004 * s])
        shaft = leg.outline(boot_t, 1.03, self._leg_widths(boot_t, 1.03, 0.012))
        shape = canvas.cover(bigger, shaft)
        canvas.paint(shape, cloth.plain(), layer, folds=0.05, edge=0.45, outline=0.5)
        sole_y = foot[:, 1].max() - 0.007 * s
        sole = np.array([(-9e3, sole_y), (9e3, sole_y), (9e3, 9e3), (-9e3, 9e3)])
        sole_shape = np.minimum(shape, canvas.cover(np.clip(sole, -500, 5000)))
        canvas.tint(sole_shape, contrast_color(cloth.color, 100), 0.8)
        if boot_t > 0.9:  # laces
            for k in range(3):
                y = foot[:, 1].min() + (0.016 + 0.008 * k) * s
                x = centre[0]
                canvas.crease(np.array([(x - 0.012 * s, y), (x + 0.012 * s, y + 1)]), 1.2, 0.5)
        if self.wants(BUCKLE) and boot_t < 0.9:
            self._buckle(leg.at(0.95), 0.011 * s, 0.009 * s, layer)

    # -- main garments ---------------------------------------------------------------------

    def _lower(self, category_id: int) -> None:
        canvas, rng = self.canvas, self.rng
        cloth = self.outfit.cloths[2]
        layer = canvas.add_layer(category_id)
        waist_y = _WAIST_Y - 0.005
        if category_id == SKIRT:
            hem_y = float(rng.uniform(0.6, 0.8))
            half = float(rng.uniform(0.1, 0.2))
            shape = canvas.cover(self._skirt_outline(waist_y, hem_y, half))
            canvas.paint(shape, cloth, layer, folds=0.14, shadow=0.4)
            self._pleats(shape, waist_y, hem_y)
            self._hem_decorations(layer, shape, hem_y, cloth)
        else:
            hem_t = 0.97 if category_id == PANTS else float(rng.uniform(0.34, 0.5))
            self._trousers(layer, cloth, waist_y, hem_t)
        self._lower_details(layer, cloth, waist_y)

    def _skirt_outline(self, waist_y: float, hem_y: float, half: float) -> np.ndarray:
        body = self.body
        sides = []
        for sign in (1, -1):
            waist = body.at(sign * (body.waist + 0.008), waist_y)
            hip = body.at(sign * (body.hip + 0.012), _HIP_Y)
            sides.append(smooth([waist, hip, body.hem_point(sign, 0.01, hem_y, half)]))
        hem = body.hem_curve(sides[0][-1], sides[1][-1], 0.02)
        return np.concatenate([sides[0], hem, sides[1][::-1]])

    def _pleats(self, shape: Coverage, waist_y: float, hem_y: float) -> None:
        count = int(self.rng.integers(3, 8))
        for k in np.linspace(-0.8, 0.8, count):
            top = self.body.at(k * self.body.waist, waist_y + 0.05)
            end = self.body.at(k * 0.2, hem_y + 0.04)
            line = self.canvas.stroke(np.stack([top, (top + end) / 2, end]), 1.6)
            self.canvas.tint(np.minimum(line, shape), np.full(3, 15, np.float32), 0.28)

    def _trousers(self, layer: int, cloth: Fabric, waist_y: float, hem_t: float) -> Coverage:
        body, canvas = self.body, self.canvas
        flare = float(self.rng.uniform(0.052, 0.085))
        widths = [
            body.px(w)
            for w in (0.115 * body.build, 0.095 * body.build, 0.078, (0.065 + flare) / 2, flare)
        ]
        pelvis = body.many(
            [
                (body.waist + 0.006, waist_y),
                (body.hip + 0.008, _HIP_Y),
                (0.09, _CROTCH_Y + 0.01),
                (0.0, _CROTCH_Y + 0.035),
                (-0.09, _CROTCH_Y + 0.01),
                (-body.hip - 0.008, _HIP_Y),
                (-body.waist - 0.006, waist_y),
            ]
        )
        parts = [canvas.cover(leg.outline(0, hem_t, widths)) for leg in body.legs]
        whole = np.maximum(canvas.cover(pelvis), np.maximum(parts[0], parts[1]))
        canvas.paint(whole, cloth, layer, shadow=0.35)
        for leg, part in zip(body.legs, parts, strict=True):
            canvas.paint(
                part, cloth, layer, angle=leg.angle(0.1, hem_t), outline=0.16, edge=0.3, folds=0.07
            )
            seam = canvas.stroke(leg.at(np.linspace(0.08, hem_t, 8)), 1.1)
            canvas.tint(np.minimum(seam, part), np.full(3, 20, np.float32), 0.2)
        canvas.paint(
            np.minimum(canvas.cover(pelvis), whole), cloth, layer, outline=0.0, edge=0.1, folds=0.06
        )
        canvas.crease(np.stack([body.at(0, waist_y + 0.01), body.at(0.004, _CROTCH_Y + 0.02)]), 1.3)
        return whole

    def _lower_details(self, layer: int, cloth: Fabric, waist_y: float) -> None:
        body, canvas = self.body, self.canvas
        band = canvas.cover(self._waist_band(waist_y, waist_y + 0.018, 0.007))
        canvas.tint(band, contrast_color(cloth.color, 30), 0.45)
        if self.wants(POCKET):
            for sign in (-1, 1):
                self._pocket(
                    layer,
                    cloth,
                    [
                        (sign * 0.075, 0.425),
                        (sign * 0.03, 0.42),
                        (sign * 0.028, 0.468),
                        (sign * 0.052, 0.482),
                        (sign * 0.082, 0.466),
                    ],
                )
        if self.wants(ZIPPER):
            self._zipper(
                layer, np.stack([body.at(0, waist_y + 0.008), body.at(0.002, 0.475)]), 0.012
            )
        if self.wants(BUCKLE) and not self.wants(BELT):
            self._buckle(body.at(0, waist_y + 0.01), 0.022 * body.s, 0.018 * body.s, layer)

    def _waist_band(self, top_y: float, end_y: float, ease: float) -> np.ndarray:
        body = self.body
        half = float(np.interp((top_y + end_y) / 2, (_WAIST_Y, _HIP_Y), (body.waist, body.hip)))
        right = body.many([(half + ease, top_y), (half + ease + 0.003, end_y)])
        left = body.many([(-half - ease - 0.003, end_y), (-half - ease, top_y)])
        return np.concatenate(
            [
                body.hem_curve(left[1], right[0], 0.006),
                body.hem_curve(right[1], left[0], 0.006),
            ]
        )

    def _inner(self, category_id: int, tucked: bool) -> int:
        body, canvas, rng = self.body, self.canvas, self.rng
        cloth = self.outfit.cloths[0]
        ease = {SHIRT: 0.012, TOP: 0.006, SWEATER: 0.02}[category_id]
        layer = canvas.add_layer(category_id)
        hem_y = float(rng.uniform(0.44, 0.5))
        depth = float(rng.uniform(0.015, 0.06))
        v_neck = category_id == SHIRT or rng.random() < 0.3
        half = float(rng.uniform(0.036, 0.056))
        outline = body.trunk(ease, hem_y, neck_half=half, neck_depth=depth, v_neck=v_neck)
        shape = canvas.cover(outline)
        canvas.paint(shape, cloth, layer, shadow=0.0 if tucked else 0.35)
        self._armholes(shape)
        if category_id == SHIRT:
            self._placket(layer, cloth, depth, hem_y)
            self._collar(layer, cloth, half, depth)
        else:
            self._neck_trim(layer, cloth, half, depth, v_neck)
        if category_id == SWEATER:
            rib = np.minimum(shape, canvas.cover(self._hem_band(ease, hem_y, 0.025)))
            canvas.tint(rib, contrast_color(cloth.color, 40), 0.35)
        self.sleeve_t = float(
            rng.choice([0.0, 0.26, 0.3, 0.42, 0.8], p=[0.1, 0.25, 0.2, 0.1, 0.35])
        )
        if category_id == SWEATER:
            self.sleeve_t = 0.82
        elif category_id == SHIRT:
            self.sleeve_t = float(rng.choice([0.3, 0.6, 0.82]))
        self.sleeve_cloth = cloth
        return layer

    def _hem_band(self, ease: float, hem_y: float, depth: float) -> np.ndarray:
        body = self.body
        right, left = body.hem_point(1, ease + 0.05, hem_y), body.hem_point(-1, ease + 0.05, hem_y)
        curve = body.hem_curve(right, left)
        rise = np.array([0, body.px(depth)])
        return np.concatenate([curve + rise, (curve - rise)[::-1]])

    def _armholes(self, shape: Coverage) -> None:
        for sign in (-1, 1):
            line = smooth(
                self.body.many([(sign * 0.108, 0.17), (sign * 0.088, 0.21), (sign * 0.094, 0.255)])
            )
            seam = np.minimum(self.canvas.stroke(line, 1.2), shape)
            self.canvas.tint(seam, np.full(3, 20, np.float32), 0.4)

    def _whole(self, category_id: int) -> int:
        body, canvas, rng = self.body, self.canvas, self.rng
        cloth = self.outfit.cloths[0]
        layer = canvas.add_layer(category_id)
        half, depth = float(rng.uniform(0.04, 0.07)), float(rng.uniform(0.03, 0.085))
        v_neck = rng.random() < 0.4
        neck = dict(neck_half=half, neck_depth=depth, v_neck=v_neck)
        bodice = canvas.cover(body.trunk(0.008, 0.43, **neck))
        if category_id == DRESS:
            hem_y = float(rng.uniform(0.62, 0.9))
            skirt = self._skirt_outline(_WAIST_Y, hem_y, float(rng.uniform(0.12, 0.24)))
            shape = np.maximum(bodice, canvas.cover(skirt))
            canvas.paint(shape, cloth, layer, shadow=0.35, folds=0.13)
            self._pleats(np.minimum(shape, canvas.cover(skirt)), _WAIST_Y, hem_y)
            self._hem_decorations(layer, shape, hem_y, cloth)
        else:
            hem_t = float(rng.choice([0.42, 0.95], p=[0.25, 0.75]))
            self._trousers(layer, cloth, _WAIST_Y - 0.01, hem_t)
            canvas.paint(bodice, cloth, layer, edge=0.28)
        waist = np.stack([body.at(-body.waist, _WAIST_Y), body.at(body.waist, _WAIST_Y)])
        canvas.crease(body.hem_curve(waist[0], waist[1], 0.006), 1.6)
        self._armholes(bodice)
        if self.wants(COLLAR):
            self._collar(layer, cloth, half, depth)
        else:
            self._neck_trim(layer, cloth, half, depth, v_neck)
        if self.wants(ZIPPER):
            top = body.at(0, 0.16 + depth)
            self._zipper(layer, np.stack([top, body.at(0, 0.37), body.at(0, 0.47)]), 0.024)
        if self.wants(POCKET):
            self._hip_pockets(layer, cloth)
        self.sleeve_t = float(rng.choice([0.0, 0.28, 0.45, 0.82], p=[0.4, 0.3, 0.15, 0.15]))
        self.sleeve_cloth = cloth
        return layer

    def _outer(self, category_id: int) -> int:
        canvas, rng = self.canvas, self.rng
        cloth = self.outfit.cloths[1]
        layer = canvas.add_layer(category_id)
        hem_y = {
            CARDIGAN: rng.uniform(0.48, 0.56),
            JACKET: rng.uniform(0.43, 0.52),
            VEST: rng.uniform(0.43, 0.49),
            COAT: rng.uniform(0.64, 0.86),
        }[category_id]
        ease = {CARDIGAN: 0.022, JACKET: 0.025, VEST: 0.016, COAT: 0.03}[category_id]
        gap = float(rng.choice([0.006, 0.03, 0.055]))
        if self.wants(TIE) or self.wants(NECKLINE):
            gap = max(gap, 0.03)
        half = float(rng.uniform(0.1, 0.17)) if category_id == COAT else 0.0
        panels = [self._panel(sign, ease, float(hem_y), half, gap) for sign in (-1, 1)]
        for panel in panels:
            canvas.paint(canvas.cover(panel), cloth, layer, shadow=0.5)
        shape = canvas.cover(*panels)
        self._armholes(shape)
        lapels = category_id in (JACKET, COAT) and self.wants(LAPEL)
        if lapels:
            self._lapels(layer, cloth, gap)
        elif category_id != CARDIGAN and self.wants(COLLAR):
            self._collar(layer, cloth, 0.05, 0.05)
        if category_id in (JACKET, COAT) and self.wants(ZIPPER) and not lapels:
            for sign in (-1, 1) if gap > 0.02 else (1,):
                edge = self._opening(sign, gap, float(hem_y))
                self._zipper(layer, edge[4:], 0.022)
        elif self.wants(BEAD) or category_id == CARDIGAN:
            self._buttons(layer, cloth, gap + 0.012, 0.3, float(hem_y) - 0.04)
        if self.wants(POCKET):
            self._hip_pockets(layer, cloth, 0.43 if category_id == COAT else 0.39)
        if self.wants(EPAULETTE) and category_id in (JACKET, COAT):
            self._epaulettes(layer, cloth)
        if self.wants(RIVET) and category_id in (JACKET, VEST):
            self._rivets(layer)
        if category_id != VEST:
            self.sleeve_t, self.sleeve_cloth = 0.83, cloth
        if self.wants(HOOD) and category_id in (JACKET, COAT, CARDIGAN) and not lapels:
            self._hood(layer, cloth)
        return layer

    def _opening(self, sign: int, gap: float, hem_y: float) -> np.ndarray:
        points = [(0.046, 0.158), (0.03 + gap * 0.4, 0.21), (gap, 0.3), (gap, _WAIST_Y)]
        points.append((gap * 1.25 + 0.004, hem_y))
        return smooth(self.body.many([(sign * x, y) for x, y in points]))

    def _panel(self, sign: int, ease: float, hem_y: float, half: float, gap: float) -> np.ndarray:
        side = self.body.side(sign, ease, hem_y, half)
        opening = self._opening(sign, gap, hem_y)
        hem = self.body.hem_curve(side[-1], opening[-1], 0.006)
        return np.concatenate([side, hem, opening[::-1]])

    def _cape(self) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        cloth = self.outfit.cloths[1]
        layer = canvas.add_layer(CAPE)
        hem_y, half = float(rng.uniform(0.42, 0.6)), float(rng.uniform(0.19, 0.26))
        gap = float(rng.choice([0.0, 0.03, 0.07]))
        panels = []
        for sign in (-1, 1):
            side = smooth(
                body.many(
                    [
                        (sign * 0.046, 0.152),
                        (sign * (body.shoulder + 0.02), 0.178),
                        (sign * (half * 0.86), 0.3),
                        (sign * half, hem_y),
                    ]
                )
            )
            edge = body.many([(sign * gap, hem_y + 0.015), (sign * gap, 0.3), (0, 0.19)])
            hem = body.hem_curve(side[-1], edge[0], 0.02)
            panels.append(np.concatenate([side, hem, edge]))
        shape = canvas.cover(*panels)
        canvas.paint(shape, cloth, layer, shadow=0.5, folds=0.1)
        for k in np.linspace(-0.8, 0.8, 7):
            line = canvas.stroke(body.many([(k * 0.1, 0.22), (k * half, hem_y + 0.02)]), 1.5)
            canvas.tint(np.minimum(line, shape), np.full(3, 15, np.float32), 0.25)
        if self.wants(HOOD):
            self._hood(layer, cloth)
        elif self.wants(COLLAR):
            self._collar(layer, cloth, 0.055, 0.04)
        self._hem_decorations(layer, shape, hem_y, cloth)
        if self.wants(BUCKLE) or self.wants(BEAD):
            self._buttons(layer, cloth, max(gap, 0.012), 0.22, hem_y - 0.05)

    # -- arms ------------------------------------------------------------------------------

    def _arms(self, garment: int, outer: int) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        sleeved = outer if outer and self.outfit.outer != VEST else garment
        gloves, watch = self.wants(GLOVE), self.wants(WATCH)
        glove_cloth = Fabric.random(rng, typical=("stripes",))
        glove_t = float(rng.choice([0.75, 0.6, 0.45]))
        bell = float(rng.choice([0.056, 0.064, 0.09]))
        puff = float(rng.choice([0.066, 0.074, 0.098], p=[0.45, 0.35, 0.2]))
        ruffled = self.wants(RUFFLE) and self.sleeve_t > 0.2
        watch_side = int(rng.choice([-1, 1]))
        for side, arm in zip((-1, 1), body.arms, strict=True):
            skin = [body.px(w) for w in (0.062, 0.056, 0.044, 0.042, 0.032)]
            self._skin(arm.outline(0, _WRIST_T, skin), ellipse(arm.at(0.02), *2 * (body.px(0.03),)))
            self._hand(arm, side, body.skin, 0)
            if gloves:
                layer = canvas.add_layer(GLOVE)
                widths = [body.px(w) for w in (0.064, 0.054)]
                shape = canvas.cover(arm.outline(glove_t, _WRIST_T + 0.02, widths))
                canvas.paint(shape, glove_cloth, layer, edge=0.45, angle=arm.angle(glove_t, 1))
                self._hand(arm, side, glove_cloth, layer)
            if self.sleeve_t > 0:
                self._sleeve(sleeved, arm, puff, bell, ruffled)
            if watch and side == watch_side:
                self._watch(arm, max(_WRIST_T - 0.05, 0.0))

    def _hand(self, arm: Limb, side: int, cloth: Fabric, layer: int) -> None:
        body, canvas = self.body, self.canvas
        scale = 1.35 if layer else 1.0
        palm = arm.outline(
            _WRIST_T - 0.02, 1.01, [body.px(w * scale) for w in (0.034, 0.046, 0.026)]
        )
        thumb = ribbon(
            np.stack([arm.at(0.87), arm.at(0.95) - side * np.array([body.px(0.026 * scale), 0])]),
            np.array([0.02, 0.013]) * body.s * scale,
        )
        canvas.paint(canvas.cover(palm, thumb), cloth, layer, folds=0.03, edge=0.3, outline=0.3)
        for offset in (-0.007, 0.0, 0.007):
            finger = arm.at(np.array([0.95, 1.0])) + np.array([body.px(offset), 0])
            canvas.crease(finger, 1.0, 0.3)

    def _sleeve(self, garment: int, arm: Limb, puff: float, bell: float, ruffled: bool) -> None:
        body, canvas, cloth, t = self.body, self.canvas, self.sleeve_cloth, self.sleeve_t
        layer = canvas.add_layer(SLEEVE, garment, sewn=True)
        widths = [body.px(w) for w in (puff, puff * 0.92, (puff + bell) / 2.1, bell * 0.92, bell)]
        cap = ellipse(arm.at(0.015), body.px(puff * 0.52), body.px(puff * 0.5))
        shape = canvas.cover(arm.outline(0.0, t, widths), cap)
        canvas.paint(
            shape, cloth, layer, angle=arm.angle(0, t), edge=0.42, outline=0.5, shadow=0.45
        )
        for fold_t in (0.4, 0.47):
            if fold_t < t - 0.05:  # the elbow creases
                middle = arm.at(fold_t)
                line = np.stack(
                    [middle - xy(body.px(0.025), 2), middle, middle + xy(body.px(0.012), 3)]
                )
                canvas.tint(
                    np.minimum(canvas.stroke(line, 1.2), shape), np.full(3, 15, np.float32), 0.35
                )
        cuff = np.minimum(canvas.cover(arm.outline(t - 0.05, t, [body.px(0.12)])), shape)
        canvas.tint(cuff, contrast_color(cloth.color, 40), 0.4)
        if ruffled:
            self._ruffle_along(
                layer, arm.at(t), arm.angle(t - 0.05, t), body.px(bell * 1.25), cloth
            )

    def _watch(self, arm: Limb, t: float) -> None:
        body, canvas = self.body, self.canvas
        layer = canvas.add_layer(WATCH)
        strap = arm.outline(t - 0.025, t + 0.03, [body.px(0.046)])
        canvas.paint(canvas.cover(strap), Fabric.random(self.rng).plain(), layer, shadow=0.3)
        dial = arm.at(t)
        canvas.paint(canvas.cover(ellipse(dial, *2 * (body.px(0.017),))), self.metal, layer)
        canvas.tint(
            canvas.cover(ellipse(dial, *2 * (body.px(0.011),))), np.full(3, 240, np.float32)
        )
        canvas.crease(np.stack([dial, dial + xy(0, -body.px(0.009))]), 1.2, 0.8)

    # -- garment parts ---------------------------------------------------------------------

    def _part(
        self, category_id: int, parent: int, cloth: Fabric, *polygons: np.ndarray, **style: float
    ) -> int:
        """Paint a part that is sewn to a garment; the garment's mask contains it."""
        sewn = category_id in (HOOD, COLLAR, LAPEL, EPAULETTE, SLEEVE, POCKET, NECKLINE)
        layer = self.canvas.add_layer(category_id, parent, sewn=sewn)
        self.canvas.paint(self.canvas.cover(*polygons), cloth, layer, **style)
        return layer

    def _neck_trim(
        self, parent: int, cloth: Fabric, half: float, depth: float, v_neck: bool
    ) -> None:
        line = self.body.neckline(half + 0.004, depth + 0.006, v_neck)
        trim = cloth.plain(contrast_color(cloth.color, 38))
        width = self.body.px(float(self.rng.uniform(0.016, 0.03)))
        self._part(NECKLINE, parent, trim, ribbon(line, np.full(len(line), width)), outline=0.25)

    def _collar(self, parent: int, cloth: Fabric, half: float, depth: float) -> None:
        body = self.body
        flaps = [
            body.many(
                [
                    (sign * (half + 0.004), 0.15),
                    (sign * 0.004, 0.166 + depth),
                    (sign * (half + 0.012), 0.196 + depth * 0.5),
                    (sign * (half + 0.026), 0.168),
                ]
            )
            for sign in (-1, 1)
        ]
        plain = cloth.plain(near_color(self.rng, contrast_color(cloth.color, 18), 3))
        self._part(COLLAR, parent, plain, *flaps, outline=0.55, shadow=0.3)

    def _lapels(self, parent: int, cloth: Fabric, gap: float) -> None:
        body = self.body
        end_y = float(self.rng.uniform(0.29, 0.36))
        plain = cloth.plain(contrast_color(cloth.color, 22))
        for sign in (-1, 1):
            points = [(0.046, 0.152), (0.03 + gap * 0.4, 0.21), (gap + 0.004, end_y)]
            points += [(0.086, 0.236), (0.062, 0.216), (0.082, 0.2), (0.062, 0.158)]
            shape = body.many([(sign * x, y) for x, y in points])
            self._part(LAPEL, parent, plain, shape, outline=0.55, shadow=0.4)

    def _epaulettes(self, parent: int, cloth: Fabric) -> None:
        body = self.body
        plain = cloth.plain(contrast_color(cloth.color, 30))
        for sign in (-1, 1):
            line = body.many([(sign * 0.058, 0.166), (sign * (body.shoulder + 0.012), 0.184)])
            shape = ribbon(line, np.array([0.022, 0.03]) * body.s)
            layer = self._part(EPAULETTE, parent, plain, shape, outline=0.55, shadow=0.4)
            self._dot(BEAD, layer, line[0] * 0.8 + line[1] * 0.2, 0.005)

    def _pocket(self, parent: int, cloth: Fabric, points: Sequence[tuple[float, float]]) -> None:
        shape = self.body.many(points)
        plain = cloth if self.rng.random() < 0.6 else cloth.plain(contrast_color(cloth.color, 24))
        layer = self._part(POCKET, parent, plain, shape, outline=0.6, folds=0.05)
        self.canvas.crease(shape[:2], 2.2, 0.5)
        if self.wants(RIVET):
            for corner in shape[:2]:
                self._dot(RIVET, layer, corner * 0.86 + shape.mean(axis=0) * 0.14, 0.005)

    def _hip_pockets(self, parent: int, cloth: Fabric, top_y: float = 0.41) -> None:
        for sign in (-1, 1):
            box = [(0.03, top_y), (0.078, top_y + 0.006), (0.078, top_y + 0.056)]
            box += [(0.054, top_y + 0.066), (0.03, top_y + 0.052)]
            self._pocket(parent, cloth, [(sign * x, y) for x, y in box])

    def _hood(self, parent: int, cloth: Fabric) -> None:
        body = self.body
        ring = [(-0.05, 0.205), (-0.098, 0.176), (-0.088, 0.118), (-0.05, 0.09), (0.05, 0.09)]
        ring += [(0.088, 0.118), (0.098, 0.176), (0.05, 0.205), (0, 0.17)]
        shape = smooth(body.many(ring), closed=True)
        self._part(HOOD, parent, cloth, shape, folds=0.16, outline=0.55)
        self._throat()

    def _throat(self) -> None:
        """Put the throat back in front of a hood that lies on the shoulders."""
        body = self.body
        self._skin(
            ribbon(np.stack([self.head, body.at(0, 0.165)]), np.array([0.055, 0.05]) * body.s)
        )

    def _placket(self, parent: int, cloth: Fabric, depth: float, hem_y: float) -> None:
        body = self.body
        self.canvas.crease(body.many([(-0.012, 0.17 + depth), (-0.012, hem_y)]), 1.2, 0.35)
        self.canvas.crease(body.many([(0.012, 0.17 + depth), (0.012, hem_y)]), 1.2, 0.35)
        if self.wants(BEAD) or not self.wants(TIE):
            self._buttons(parent, cloth, 0.0, 0.19 + depth, hem_y - 0.03)

    # -- closures and decorations ----------------------------------------------------------

    def _dot(self, category_id: int, parent: int, centre: np.ndarray, radius: float) -> None:
        """Draw one small round thing: a bead or a rivet."""
        canvas, radius_px = self.canvas, max(1.6, self.body.px(radius))
        layer = canvas.add_layer(category_id, parent)
        shape = canvas.cover(ellipse(centre, radius_px, radius_px))
        canvas.paint(shape, self.metal, layer, folds=0, edge=0.1, outline=0.45, shadow=0.4)
        shine = canvas.cover(ellipse(centre - radius_px * 0.3, radius_px * 0.35, radius_px * 0.35))
        canvas.tint(shine, np.full(3, 255, np.float32), 0.8)

    def _buttons(self, parent: int, cloth: Fabric, x: float, top_y: float, end_y: float) -> None:
        """Draw a row of button-like beads, each its own annotation or all of them one."""
        canvas, body = self.canvas, self.body
        radius = float(self.rng.uniform(0.006, 0.011))
        centres = [body.at(x, y) for y in np.arange(top_y, end_y, 0.042)]
        if not centres:
            return
        if self.rng.random() < 0.5:
            for centre in centres:
                self._dot(BEAD, parent, centre, radius)
            return
        radius_px = max(1.6, body.px(radius))
        discs = [ellipse(centre, radius_px, radius_px) for centre in centres]
        plain = cloth.plain(contrast_color(cloth.color, 90))
        layer = canvas.add_layer(BEAD, parent)
        canvas.paint(canvas.cover(*discs), plain, layer, folds=0, edge=0.1, shadow=0.4)

    def _rivets(self, parent: int) -> None:
        for sign in (-1, 1):
            for k in range(3):
                self._dot(RIVET, parent, self.body.at(sign * (0.06 + 0.016 * k), 0.275), 0.007)

    def _zipper(self, parent: int, line: np.ndarray, width: float) -> None:
        canvas, body = self.canvas, self.body
        width_px = max(5.0, body.px(width))
        t = np.linspace(0, 1, 60)
        path = np.stack([np.interp(t, np.linspace(0, 1, len(line)), line[:, k]) for k in (0, 1)], 1)
        layer = canvas.add_layer(ZIPPER, parent)
        canvas.paint(canvas.stroke(path, width_px), self.metal, layer, folds=0, edge=0.2)
        length = np.linalg.norm(line[-1] - line[0])
        across = (line[-1] - line[0])[::-1] * xy(-1, 1) / max(length, 1) * width_px * 0.4
        for centre in path[:: max(1, round(60 * 3.2 / max(length, 1)))]:
            canvas.crease(np.stack([centre - across, centre + across]), 1.4, 0.65)
        pull = ellipse(path[2] + xy(0, width_px * 0.6), width_px * 0.5, width_px * 0.9)
        canvas.paint(canvas.cover(pull), self.metal, layer, folds=0)

    def _buckle(self, centre: np.ndarray, half_w: float, half_h: float, parent: int) -> None:
        canvas = self.canvas
        layer = canvas.add_layer(BUCKLE, parent)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
        frame = canvas.cover(centre + corners * [half_w, half_h])
        hole = canvas.cover(centre + corners * [half_w * 0.5, half_h * 0.45])
        canvas.paint(
            np.minimum(frame, 255 - hole), self.metal, layer, folds=0, edge=0.1, shadow=0.4
        )
        prong = np.stack([centre - xy(half_w * 0.9, 0), centre + xy(half_w * 0.3, 0)])
        canvas.paint(canvas.stroke(prong, max(1.5, half_h * 0.3)), self.metal, layer, folds=0)

    def _belt(self) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        width = float(rng.uniform(0.05, 0.1))
        y = _WAIST_Y - 0.012
        layer = canvas.add_layer(BELT)
        cloth = Fabric.random(rng, self.outfit.cloths[0].color if rng.random() < 0.2 else None)
        canvas.paint(
            canvas.cover(self._waist_band(y, y + width, 0.014)),
            cloth.plain(),
            layer,
            folds=0.04,
            edge=0.35,
            outline=0.5,
            shadow=0.4,
        )
        if self.wants(BOW):
            self._bow(body.at(0, y + width / 2), 0.05, layer, Fabric.random(rng))
        elif self.wants(BUCKLE):
            centre = body.at(0, y + width / 2 + 0.006)
            self._buckle(centre, body.px(width * 0.62), body.px(width * 0.5), layer)
        if self.wants(RIVET):
            for x in (-0.055, -0.04, 0.04, 0.055):
                self._dot(RIVET, layer, body.at(x, y + width / 2 + 0.003), 0.006)

    def _tie(self) -> None:
        body, canvas = self.body, self.canvas
        cloth = Fabric.random(self.rng, typical=("stripes",))
        layer = canvas.add_layer(TIE)
        end_y = float(self.rng.uniform(0.36, 0.42))
        width = float(self.rng.uniform(0.04, 0.065))
        if self.rng.random() < 0.2:  # a bow tie
            centre = body.at(0, 0.188)
            self._bow_shape(centre, body.px(0.045), layer, cloth)
            return
        knot = body.many([(-0.015, 0.178), (0.015, 0.178), (0.01, 0.2), (-0.01, 0.2)])
        blade = body.many(
            [(-0.009, 0.199), (0.009, 0.199), (width, end_y), (0, end_y + 0.03), (-width, end_y)]
        )
        canvas.paint(canvas.cover(blade), cloth, layer, angle=0.6, outline=0.55, shadow=0.5)
        canvas.paint(canvas.cover(knot), cloth, layer, angle=-0.6, outline=0.55)

    def _bow_shape(self, centre: np.ndarray, half_px: float, layer: int, cloth: Fabric) -> None:
        canvas = self.canvas
        loops = []
        for sign in (-1, 1):
            loop = [(0, 0), (0.5, -0.5), (1, -0.55), (1.06, 0), (1, 0.55), (0.5, 0.5)]
            loops.append(smooth(centre + np.array(loop) * [sign * half_px, half_px], closed=True))
        for loop in loops:
            canvas.paint(canvas.cover(loop), cloth, layer, outline=0.55, edge=0.4, shadow=0.3)
        for sign in (-1, 1):
            canvas.crease(
                np.stack([centre, centre + xy(sign * half_px * 0.7, -half_px * 0.1)]), 1.3
            )
        knot = ellipse(centre, half_px * 0.24, half_px * 0.3)
        canvas.paint(canvas.cover(knot), cloth.plain(), layer, outline=0.6)

    def _bow(self, centre: np.ndarray, half: float, parent: int, cloth: Fabric) -> None:
        canvas, body = self.canvas, self.body
        layer = canvas.add_layer(BOW, parent)
        half_px = body.px(half)
        for sign in (-1, 1):
            tail = np.stack([centre, centre + xy(sign * half_px * 0.6, half_px * 1.6)])
            shape = ribbon(tail, np.array([0.2, 0.5]) * half_px)
            canvas.paint(canvas.cover(shape), cloth, layer, outline=0.5, shadow=0.3)
        self._bow_shape(centre, half_px, layer, cloth)

    def _flower(self, centre: np.ndarray, radius_px: float, parent: int) -> None:
        canvas, rng = self.canvas, self.rng
        layer = canvas.add_layer(FLOWER, parent)
        cloth = Fabric(random_color(rng))
        turn = rng.uniform(0, 1)
        for k in range(5):
            angle = turn + 2 * np.pi * k / 5
            middle = centre + radius_px * 0.58 * np.array([np.cos(angle), np.sin(angle)])
            petal = ellipse(middle, radius_px * 0.5, radius_px * 0.36, angle)
            canvas.paint(canvas.cover(petal), cloth, layer, folds=0.05, outline=0.4, edge=0.4)
        heart = canvas.cover(ellipse(centre, radius_px * 0.28, radius_px * 0.28))
        canvas.paint(heart, Fabric(contrast_color(cloth.color, 90)), layer, folds=0)

    def _ruffle_along(
        self, parent: int, centre: np.ndarray, angle: float, width_px: float, cloth: Fabric
    ) -> None:
        """Draw a ruffle across a line that is turned by an angle."""
        across = np.array([np.cos(angle), np.sin(angle)]) * width_px / 2
        self._ruffle(parent, np.stack([centre - across, centre, centre + across]), cloth, 0.035)

    def _ruffle(self, parent: int, line: np.ndarray, cloth: Fabric, depth: float) -> None:
        """Draw a frilled band whose middle runs along a line."""
        canvas, body = self.canvas, self.body
        length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        waves = max(3, round(length / body.px(0.032)))
        t = np.linspace(0, 1, waves * 8 + 1)
        path = np.stack([np.interp(t, np.linspace(0, 1, len(line)), line[:, k]) for k in (0, 1)], 1)
        normal = np.gradient(path, axis=0)[:, ::-1] * [-1, 1]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        normal *= np.sign(normal[len(normal) // 2, 1] or 1.0)  # downwards
        depth_px = body.px(depth)
        scallop = (0.5 + 0.16 * np.abs(np.sin(np.pi * waves * t)))[:, None] * depth_px
        outline = np.concatenate([path - normal * depth_px * 0.5, (path + normal * scallop)[::-1]])
        layer = canvas.add_layer(RUFFLE, parent)
        light = cloth.plain(near_color(self.rng, contrast_color(cloth.color, 16), 4))
        shape = canvas.cover(outline)
        canvas.paint(shape, light, layer, folds=0.05, outline=0.4, shadow=0.4)
        for k in range(waves * 8 + 1):
            if k % 4 == 0:
                dark = k % 8 == 0
                mark = np.stack(
                    [path[k] - normal[k] * depth_px * 0.4, path[k] + normal[k] * scallop[k]]
                )
                color = np.full(3, 10.0 if dark else 255.0, np.float32)
                canvas.tint(
                    np.minimum(canvas.stroke(mark, 1.4), shape), color, 0.45 if dark else 0.3
                )

    def _fringe(self, parent: int, line: np.ndarray, depth: float, cloth: Fabric) -> None:
        """Draw threads that hang from a line."""
        canvas, body = self.canvas, self.body
        length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        count = max(4, round(length / 4))
        t = np.linspace(0, 1, count)
        path = np.stack([np.interp(t, np.linspace(0, 1, len(line)), line[:, k]) for k in (0, 1)], 1)
        ends = path + np.stack(
            [self.rng.normal(0, 1, count), body.px(depth) * self.rng.uniform(0.8, 1, count)], 1
        )
        layer = canvas.add_layer(FRINGE, parent)
        shape = canvas.cover(np.concatenate([path, ends[::-1]]))
        canvas.paint(shape, cloth.plain(), layer, folds=0.05, edge=0.2, shadow=0.3)
        for start, end in zip(path, ends, strict=True):
            canvas.crease(np.stack([start, end]), 1.6, 0.6)

    def _tassel(self, parent: int, top: np.ndarray, cloth: Fabric) -> None:
        canvas, s = self.canvas, self.body.s
        layer = canvas.add_layer(TASSEL, parent)
        skirt = top + np.array([(-0.006, 0.012), (0.006, 0.012), (0.013, 0.05), (-0.013, 0.05)]) * s
        canvas.paint(canvas.cover(skirt), cloth.plain(), layer, outline=0.5)
        for x in (-0.005, 0, 0.005):
            canvas.crease(top + np.array([(x * 0.6, 0.015), (x * 1.4, 0.048)]) * s, 1.1, 0.5)
        canvas.paint(
            canvas.cover(ellipse(top + xy(0, 0.008 * s), 0.009 * s, 0.009 * s)),
            cloth.plain(),
            layer,
        )

    def _sequins(self, parent: int, shape: Coverage) -> None:
        """Fill a shape with glittering scales."""
        canvas, rng = self.canvas, self.rng
        layer = canvas.add_layer(SEQUIN, parent)
        cloth = Fabric(random_color(rng), sheen=1.0)
        canvas.paint(shape, cloth, layer, folds=0.2, edge=0.1)
        x, y, w, h = cv2.boundingRect(shape)
        glitter = cv2.resize(
            (rng.random((h // 3 + 1, w // 3 + 1)) ** 3).astype(np.float32),
            (w, h),
            interpolation=cv2.INTER_NEAREST,
        )
        window = np.s_[y : y + h, x : x + w]
        weight = (shape[window] / 255.0 * glitter).astype(np.float32)[..., None]
        canvas.image[window] += weight * (255 - canvas.image[window]) * 0.85

    def _front_details(self, garment: int) -> None:
        """Decorate the chest of a shirt, top, dress or jumpsuit."""
        body, canvas, rng = self.body, self.canvas, self.rng
        cloth = self.outfit.cloths[0]
        if self.wants(SEQUIN):
            block = canvas.cover(body.trunk(-0.004, 0.3, neck_half=0.09, neck_depth=0.07))
            self._sequins(garment, np.minimum(block, _visible(canvas, garment)))
        elif self.wants(APPLIQUE):
            self._applique(garment)
        if self.wants(RUFFLE) and rng.random() < 0.5:
            line = smooth(body.many([(-0.07, 0.21), (0, 0.238), (0.07, 0.21)]))
            self._ruffle(garment, line, cloth, 0.035)
        if self.wants(POCKET) and rng.random() < 0.4:
            box = [(0.03, 0.25), (0.07, 0.25), (0.07, 0.286), (0.05, 0.296), (0.03, 0.286)]
            self._pocket(garment, cloth, box)
        if self.wants(FLOWER) and rng.random() < 0.6:
            self._flower(body.at(-0.06, 0.228), body.px(rng.uniform(0.016, 0.03)), garment)
        if self.wants(BOW) and not self.wants(BELT) and not self.wants(TIE):
            self._bow(
                body.at(0, 0.205), float(rng.uniform(0.03, 0.055)), garment, Fabric.random(rng)
            )
        if self.wants(RIBBON) and rng.random() < 0.6:
            layer = canvas.add_layer(RIBBON, garment)
            band = canvas.cover(self._waist_band(0.335, 0.352, 0.004))
            canvas.paint(band, Fabric.random(rng).plain(), layer, folds=0.05, shadow=0.3)

    def _applique(self, garment: int) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        centre, radius = body.at(0, 0.29), body.px(float(rng.uniform(0.02, 0.042)))
        t = np.linspace(0, 2 * np.pi, 60)[:-1]
        shapes = {
            "star": np.stack([np.cos(t), np.sin(t)], 1) * (0.72 + 0.28 * np.cos(5 * t))[:, None],
            "heart": np.stack(
                [np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)) / 15], 1
            ),
            "disc": np.stack([np.cos(t), np.sin(t)], 1),
        }
        shape = centre + radius * shapes[str(rng.choice(list(shapes)))]
        layer = canvas.add_layer(APPLIQUE, garment)
        cloth = Fabric.random(rng)
        canvas.paint(canvas.cover(shape), cloth, layer, outline=0.6, folds=0.03, shadow=0.3)

    def _hem_decorations(self, parent: int, shape: Coverage, hem_y: float, cloth: Fabric) -> None:
        """Hang ruffles or a fringe from the hem of a skirt, a dress or a cape."""
        bottom = self.body.at(0, hem_y)[1]
        row = int(np.clip(bottom - 3, 0, self.canvas.height - 1))
        inside = np.flatnonzero(shape[row] >= 128)
        if len(inside) < 8:
            return
        left, right = np.array([inside[0], bottom]), np.array([inside[-1] + 1.0, bottom])
        line = self.body.hem_curve(left, right, 0.02)
        if self.wants(FRINGE):
            self._fringe(parent, line, float(self.rng.uniform(0.03, 0.06)), cloth)
        elif self.wants(RUFFLE):
            depth = float(self.rng.uniform(0.03, 0.06))
            self._ruffle(parent, line, cloth, depth)
        elif self.wants(RIBBON):
            layer = self.canvas.add_layer(RIBBON, parent)
            band = np.minimum(
                self.canvas.stroke(line - xy(0, self.body.px(0.03)), self.body.px(0.018)), shape
            )
            self.canvas.paint(band, Fabric.random(self.rng).plain(), layer, folds=0.05)

    # -- head and neck ---------------------------------------------------------------------

    def _h(self, x: float, y: float) -> np.ndarray:
        """Map head coordinates (face half width 1, down the face) to pixels, (2,)."""
        c, s = np.cos(self.body.tilt), np.sin(self.body.tilt)
        r = self.body.px(0.048)
        return self.head + r * np.array([x * c - y * s, x * s + y * c])

    def _hs(self, points: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.stack([self._h(x, y) for x, y in points])

    def _back_hair(self) -> None:
        if self.hair_style in ("long", "bob", "curly"):
            low = {"long": 3.4, "bob": 1.5, "curly": 1.2}[self.hair_style]
            wide = {"long": 1.35, "bob": 1.4, "curly": 1.65}[self.hair_style]
            shape = [(-wide * 0.8, -0.9), (0, -1.5), (wide * 0.8, -0.9), (wide, 0.4)]
            shape += [(wide, low), (0, low + 0.2), (-wide, low), (-wide, 0.4)]
            self._hair(smooth(self._hs(shape), closed=True))
        if self.hair_style == "bun":
            self._hair(ellipse(self._h(0, -1.75), *2 * (self.body.px(0.028),)))

    def _hair(self, *polygons: np.ndarray) -> None:
        self.canvas.paint(self.canvas.cover(*polygons), self.hair, folds=0.2, edge=0.3)

    def _head_and_neck(self) -> None:
        body, canvas, rng = self.body, self.canvas, self.rng
        face = [(-0.98, -0.5), (-0.7, -1.2), (0, -1.42), (0.7, -1.2), (0.98, -0.5)]
        face += [(0.92, 0.35), (0.55, 1.05), (0, 1.32), (-0.55, 1.05), (-0.92, 0.35)]
        shadow = canvas.cover(ellipse(self._h(0, 1.35), body.px(0.03), body.px(0.014)))
        canvas.tint(shadow, np.full(3, 20, np.float32), 0.3)
        for x in (-1.0, 1.0):
            self._skin(ellipse(self._h(x, 0.05), body.px(0.009), body.px(0.014)))
        self._skin(smooth(self._hs(face), closed=True))
        self._face()
        if self.wants(SCARF):
            self._scarf()
        if self.hair_style != "bald":
            fringe_y = float(rng.uniform(-0.75, -0.35))
            part = float(rng.uniform(-0.5, 0.5))
            cap = [(-1.1, 0.1), (-1.12, -0.7), (-0.7, -1.45), (0, -1.68), (0.7, -1.45)]
            cap += [(1.12, -0.7), (1.1, 0.1), (0.9, -0.35), (part, fringe_y - 0.2), (-0.9, -0.35)]
            self._hair(smooth(self._hs(cap), closed=True))
            if self.hair_style in ("long", "bob", "curly"):
                low = 2.6 if self.hair_style == "long" else 1.2
                for sign in (-1, 1):
                    lock = [(sign * 0.95, -0.5), (sign * 1.12, 0.4), (sign * 1.1, low)]
                    widths = np.array([0.01, 0.022, 0.012]) * body.s
                    line = smooth(self._hs(lock))
                    spread = np.interp(np.linspace(0, 1, len(line)), (0, 0.5, 1), widths)
                    self._hair(ribbon(line, spread))
        if self.wants(GLASSES):
            self._glasses()
        if self.wants(HAT):
            self._hat()
        elif self.wants(HEADBAND):
            self._headband()

    def _face(self) -> None:
        canvas, body = self.canvas, self.body
        dark, white = np.full(3, 35, np.float32), np.full(3, 245, np.float32)
        lips = self.body.skin.color * np.array([0.85, 0.5, 0.5], np.float32)
        for sign in (-1, 1):
            eye = self._h(sign * 0.42, -0.12)
            canvas.tint(canvas.cover(ellipse(eye, body.px(0.0095), body.px(0.0055))), white, 0.9)
            canvas.tint(canvas.cover(ellipse(eye, body.px(0.005), body.px(0.0055))), dark, 0.95)
            brow = self._hs([(sign * 0.22, -0.42), (sign * 0.45, -0.5), (sign * 0.66, -0.4)])
            canvas.tint(canvas.stroke(smooth(brow), body.px(0.005)), self.hair.color, 0.8)
            cheek = canvas.cover(ellipse(self._h(sign * 0.55, 0.4), body.px(0.013), body.px(0.01)))
            canvas.tint(cheek, lips, 0.18)
        canvas.crease(smooth(self._hs([(0.04, -0.1), (0.14, 0.3), (-0.05, 0.36)])), 1.0, 0.3)
        mouth = [(-0.3, 0.68), (0, 0.62), (0.3, 0.68), (0, 0.86)]
        canvas.tint(canvas.cover(smooth(self._hs(mouth), closed=True)), lips, 0.9)

    def _scarf(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        cloth = Fabric.random(rng)
        layer = canvas.add_layer(SCARF)
        end_y = float(rng.uniform(0.3, 0.44))
        side = int(rng.choice([-1, 1]))
        tails = [(side * 0.03, side * 0.055, end_y), (-side * 0.005, side * 0.005, end_y - 0.05)]
        for start_x, end_x, y in tails[: int(rng.integers(1, 3))]:
            line = smooth(body.many([(start_x, 0.175), (end_x, 0.27), (end_x, y)]))
            shape = ribbon(line, np.linspace(body.px(0.04), body.px(0.056), len(line)))
            canvas.paint(canvas.cover(shape), cloth, layer, outline=0.5, folds=0.16, shadow=0.5)
            half = np.array([body.px(0.027), 0])
            if self.wants(FRINGE):
                self._fringe(layer, np.stack([line[-1] - half, line[-1] + half]), 0.035, cloth)
            elif self.wants(TASSEL):
                for shift in (-0.7, 0.7):
                    self._tassel(layer, line[-1] + half * shift, cloth)
        ring = [
            (-0.062, 0.15),
            (0, 0.168),
            (0.062, 0.15),
            (0.07, 0.184),
            (0, 0.214),
            (-0.07, 0.184),
        ]
        wrap = smooth(body.many(ring), closed=True)
        canvas.paint(canvas.cover(wrap), cloth, layer, outline=0.5, folds=0.2, shadow=0.5)
        canvas.crease(smooth(body.many([(-0.062, 0.17), (0, 0.192), (0.06, 0.166)])), 1.4, 0.4)

    def _glasses(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        layer = canvas.add_layer(GLASSES)
        frame = Fabric(random_color(rng), sheen=1.0)
        rx, ry = body.px(float(rng.uniform(0.016, 0.02))), body.px(float(rng.uniform(0.012, 0.018)))
        lenses = [ellipse(self._h(sign * 0.44, -0.1), rx, ry) for sign in (-1, 1)]
        bars = canvas.cover(
            ribbon(self._hs([(-0.2, -0.2), (0.2, -0.2)]), np.full(2, body.px(0.006))),
            ribbon(self._hs([(-1.0, -0.2), (-0.7, -0.18)]), np.full(2, body.px(0.006))),
            ribbon(self._hs([(1.0, -0.2), (0.7, -0.18)]), np.full(2, body.px(0.006))),
        )
        shape = np.maximum(canvas.cover(*lenses), bars)
        if rng.random() < 0.5:  # clear: the eyes are seen through two holes
            inner = [ellipse(self._h(s * 0.44, -0.1), rx * 0.66, ry * 0.62) for s in (-1, 1)]
            shape = np.minimum(shape, 255 - canvas.cover(*inner))
        canvas.paint(shape, frame, layer, folds=0, edge=0.1, outline=0.25)

    def _hat(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        cloth = Fabric.random(rng)
        layer = canvas.add_layer(HAT)
        kind = str(rng.choice(["brim", "beanie", "cap"]))
        crown = [
            (-1.15, -0.62),
            (-1.1, -1.5),
            (-0.6, -2.1),
            (0.6, -2.1),
            (1.1, -1.5),
            (1.15, -0.62),
        ]
        if kind == "brim":
            brim = ellipse(self._h(0, -0.72), body.px(0.1), body.px(0.022), body.tilt)
            canvas.paint(canvas.cover(brim), cloth, layer, outline=0.5, shadow=0.5)
        crown_shape = canvas.cover(
            np.concatenate([smooth(self._hs(crown)), self._hs([(0.5, -0.5), (-0.5, -0.5)])])
        )
        canvas.paint(crown_shape, cloth, layer, outline=0.5, folds=0.12, shadow=0.4)
        band = self._hs([(-1.15, -0.82), (0, -0.68), (1.15, -0.82)])
        if kind == "cap":
            side = float(rng.choice([-1, 1]))
            peak = [(-1.1, -0.75), (1.1, -0.75), (1.4 * side, -0.3), (0.4 * side, -0.25)]
            peak = peak if side > 0 else [peak[1], peak[0], peak[2], peak[3]]
            canvas.paint(canvas.cover(self._hs(peak)), cloth.plain(), layer, outline=0.5)
        elif kind == "beanie":
            pompom = ellipse(self._h(0, -2.2), *2 * (body.px(0.02),))
            canvas.paint(canvas.cover(pompom), cloth.plain(), layer, folds=0.3)
            canvas.tint(canvas.stroke(band, body.px(0.022)), contrast_color(cloth.color), 0.4)
        if self.wants(RIBBON) and kind != "beanie":
            ribbon_layer = canvas.add_layer(RIBBON, layer)
            strip = np.minimum(canvas.stroke(smooth(band), body.px(0.018)), crown_shape)
            canvas.paint(strip, Fabric.random(rng).plain(), ribbon_layer, folds=0.05)
        if self.wants(FLOWER):
            self._flower(self._h(0.8, -0.95), body.px(0.022), layer)

    def _headband(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        cloth = Fabric.random(rng)
        layer = canvas.add_layer(HEADBAND)
        if rng.random() < 0.3:  # a head scarf
            cover = [(-1.2, 0.5), (-1.2, -0.7), (-0.7, -1.55), (0, -1.78), (0.7, -1.55)]
            cover += [(1.2, -0.7), (1.2, 0.5), (0.85, -0.4), (0, -0.72), (-0.85, -0.4)]
            shape = canvas.cover(smooth(self._hs(cover), closed=True))
        else:
            line = smooth(
                self._hs([(-1.12, -0.35), (-0.75, -1.1), (0, -1.35), (0.75, -1.1), (1.12, -0.35)])
            )
            shape = canvas.stroke(line, body.px(float(rng.uniform(0.014, 0.026))))
        canvas.paint(shape, cloth, layer, outline=0.45, folds=0.08)
        if self.wants(BOW):
            self._bow_on_head(layer)
        elif self.wants(FLOWER):
            self._flower(self._h(0.75, -1.15), body.px(float(rng.uniform(0.02, 0.032))), layer)

    def _bow_on_head(self, parent: int) -> None:
        layer = self.canvas.add_layer(BOW, parent)
        self._bow_shape(self._h(0.4, -1.4), self.body.px(0.032), layer, Fabric.random(self.rng))

    # -- carried things --------------------------------------------------------------------

    def _carry(self) -> None:
        if self.wants(BAG):
            self._bag()
        if self.wants(UMBRELLA):
            hand = self.body.arms[1].at(0.94)
            layer = self.umbrella_layer
            canopy = self.umbrella_top
            rod = self.canvas.stroke(
                np.stack([canopy, hand, hand + (hand - canopy) * 0.12]),
                max(2.5, self.body.px(0.009)),
            )
            # the rod runs behind the head and the hand holds it
            rod[self.canvas.person & (self.canvas.owner != layer)] = 0
            self.canvas.paint(rod, self.metal, layer, folds=0)

    def _umbrella(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        cloth = Fabric.random(rng)
        self.umbrella_layer = canvas.add_layer(UMBRELLA)
        hand = body.arms[1].at(0.94)
        centre = np.array([(hand[0] + self.head[0]) / 2, body.top_y - body.px(0.05)])
        self.umbrella_top = centre - xy(0, body.px(0.11))
        rx, ry = body.px(0.27), body.px(0.14)
        t = np.linspace(np.pi, 2 * np.pi, 24)
        dome = centre + np.stack([rx * np.cos(t), ry * np.sin(t)], 1)
        edge = np.linspace(1, -1, 41)
        scallop = np.stack([edge * rx, -np.abs(np.sin(edge * 2.5 * np.pi)) * body.px(0.022)], 1)
        shape = np.concatenate([dome, centre + scallop])
        canvas.paint(canvas.cover(shape), cloth, self.umbrella_layer, folds=0.04, outline=0.5)
        for x in np.linspace(-0.6, 0.6, 4):
            rib = smooth(
                [
                    centre + xy(0, -ry),
                    centre + xy(x * rx * 0.75, -ry * 0.6),
                    centre + xy(x * rx, -1),
                ]
            )
            canvas.crease(rib, 1.3, 0.45)

    def _bag(self) -> None:
        canvas, body, rng = self.canvas, self.body, self.rng
        layer = canvas.add_layer(BAG)
        cloth = Fabric.random(rng)
        side = int(rng.choice([-1, 1]))
        arm = body.arms[0 if side < 0 else 1]
        w, h = body.px(float(rng.uniform(0.07, 0.11))), body.px(float(rng.uniform(0.1, 0.15)))
        strap_px = max(2.5, body.px(0.012))
        if rng.random() < 0.6:  # held in the hand, below a handle
            hand = arm.at(0.95)
            centre = hand + xy(0, body.px(0.05) + h / 2)
            handle = ribbon(
                smooth([centre + xy(-w * 0.55, -h / 2), hand, centre + xy(w * 0.55, -h / 2)]),
                np.full(13, strap_px),
            )
        else:  # on a strap over the shoulder
            root = body.at(side * 0.085, 0.18)
            centre = body.at(side * (body.hip + 0.05), 0.47)
            handle = ribbon(np.stack([root, centre + xy(0, -h / 2)]), np.full(2, strap_px))
        canvas.paint(canvas.cover(handle), cloth.plain(), layer, outline=0.4, shadow=0.4)
        box = np.array([(-0.9, -1), (0.9, -1), (1.05, 0.8), (0.9, 1), (-0.9, 1), (-1.05, 0.8)])
        shape = canvas.cover(centre + box * [w, h / 2])
        canvas.paint(shape, cloth, layer, outline=0.55, edge=0.4, shadow=0.5)
        flap = centre + np.array([(-0.92, -1), (0.92, -1), (0.8, 0.0), (0, 0.15), (-0.8, 0.0)]) * [
            w,
            h / 2,
        ]
        canvas.paint(canvas.cover(flap), cloth.plain(), layer, outline=0.5, edge=0.25, shadow=0.3)
        if self.wants(BUCKLE):
            self._buckle(centre + xy(0, h * 0.08), body.px(0.022), body.px(0.018), layer)
        elif self.wants(ZIPPER):
            line = np.stack([centre + xy(-w * 0.8, h * 0.25), centre + xy(w * 0.8, h * 0.25)])
            self._zipper(layer, line, 0.012)
        if self.wants(TASSEL):
            self._tassel(layer, centre + xy(w * 0.7, -h * 0.1), cloth)
        if self.wants(FRINGE):
            line = np.stack([centre + xy(-w * 0.9, h * 0.45), centre + xy(w * 0.9, h * 0.45)])
            self._fringe(layer, line, 0.04, cloth)


def _visible(canvas: Canvas, layer: int) -> Coverage:
    """Cover the pixels where a layer lies on top."""
    return np.where(canvas.owner == layer, 255, 0).astype(np.uint8)
