"""Scenes: people before a cluttered background, in the light of one photo."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from clothseg_utils.drawing import accessories, garments, head, ids
from clothseg_utils.drawing.annotate import annotate
from clothseg_utils.drawing.body import Body
from clothseg_utils.drawing.canvas import (
    Canvas,
    Fabric,
    contrast_color,
    near_color,
    random_color,
    smooth,
    xy,
)
from clothseg_utils.drawing.outfit import Person, plan_outfit

_EMPTY_EVERY = 50  # one scene in so many shows nobody


@dataclass(frozen=True)
class Drawing:
    """One photo and what is known about it.

    Attributes:
        image: (H, W, 3) uint8 RGB, 0..255.
        category_map: (H, W) int16, category id of what lies on top, -1 where that is nothing
            annotated.
        annotations: in drawing order, without `id` and `image_id`.
        person_count: people in the scene, 0..4.
    """

    image: np.ndarray
    category_map: np.ndarray
    annotations: list[dict[str, Any]]
    person_count: int


def draw_scene(rng: np.random.Generator, image_index: int, required: int) -> Drawing:
    """Draw a scene of no, one or several people, one of whom should show the required category."""
    people = _person_count(rng, image_index)
    if people >= 3 or (people == 2 and rng.random() < 0.5):
        height, width = int(rng.integers(320, 385)), int(rng.integers(416, 481))
    else:
        height, width = int(rng.integers(384, 433)), int(rng.integers(256, 289))
    outfits = [plan_outfit(rng, required if k == 0 else None) for k in range(max(people, 1))]
    colors = [cloth.color for outfit in outfits for cloth in outfit.cloths]
    canvas = Canvas(_background(rng, height, width, colors), rng)
    # the last one is drawn in front; the required category is on the first, so draw that last
    for k in reversed(range(people)):
        umbrella = ids.UMBRELLA in outfits[k].wishes
        size, top = _place(rng, height, width, people, umbrella)
        slot = width / max(people, 1)
        x = slot * (k + 0.5) + rng.normal(0, 0.07 * slot)
        body = Body(rng, x, top, size, raise_arm=umbrella)
        _ground_shadow(canvas, body)
        draw_person(Person(canvas, body, outfits[k], rng))
    image = _finish(rng, canvas.image)
    category_map, annotations = annotate(canvas)
    return Drawing(image, category_map, annotations, people)


def draw_person(person: Person) -> None:
    """Draw one person, back to front."""
    outfit = person.outfit
    one_piece = outfit.main in ids.WHOLE
    person.canvas.begin_person()
    umbrella = accessories.draw_umbrella(person) if person.wants(ids.UMBRELLA) else None
    head.draw_back_hair(person)
    garments.draw_legs(person)
    garments.draw_trunk_skin(person)
    tucked = person.wants(ids.BELT) or person.rng.random() < 0.4
    if outfit.lower is not None and not tucked:
        garments.draw_lower(person, outfit.lower)
    if one_piece:
        garment, sleeve_t = garments.draw_whole(person)
    else:
        garment, sleeve_t = garments.draw_inner(person, tucked)
    if outfit.lower is not None and tucked:
        garments.draw_lower(person, outfit.lower)
    if person.wants(ids.BELT):
        accessories.draw_belt(person)
    if person.wants(ids.TIE) and not one_piece:
        accessories.draw_tie(person)
    garments.decorate_front(person, garment)
    cloth = outfit.cloths[0]
    if outfit.outer is not None and outfit.outer != ids.CAPE:
        outer = garments.draw_outer(person, outfit.outer)
        if outfit.outer != ids.VEST:
            garment, sleeve_t, cloth = outer, 0.83, outfit.cloths[1]
    garments.draw_arms(person, garment, sleeve_t, cloth)
    if outfit.outer == ids.CAPE:
        garments.draw_cape(person)
    head.draw_face(person)
    if person.wants(ids.SCARF):
        accessories.draw_scarf(person)
    head.draw_hair(person)
    if person.wants(ids.GLASSES):
        head.draw_glasses(person)
    if person.wants(ids.HAT):
        head.draw_hat(person)
    elif person.wants(ids.HEADBAND):
        head.draw_headband(person)
    if person.wants(ids.BAG):
        accessories.draw_bag(person)
    if umbrella is not None:
        accessories.draw_umbrella_rod(person, *umbrella)


def _person_count(rng: np.random.Generator, image_index: int) -> int:
    """Choose how many people a scene shows: every fifth scene two to four."""
    if image_index % _EMPTY_EVERY == _EMPTY_EVERY - 2:
        return 0
    if image_index % 5 == 4:
        return int(rng.choice([2, 3, 4], p=[0.7, 0.2, 0.1]))
    return 1


def _place(
    rng: np.random.Generator, height: int, width: int, people: int, umbrella: bool
) -> tuple[float, float]:
    """Choose a person's height and the crown's row, pixels."""
    if people > 1:
        size = min(rng.uniform(0.74, 0.92) * height, width * 0.95)
    elif rng.random() < 0.08:  # a close-up: down to the knees, or less
        size = rng.uniform(1.1, 1.55) * height
        return size, height * rng.uniform(0.03, 0.09) + size * 0.09 * umbrella
    else:
        size = rng.uniform(0.84, 0.95) * height
    if umbrella:
        size *= 0.84
    room = height - size
    return size, room * (rng.uniform(0.75, 0.9) if umbrella else rng.uniform(0.4, 0.8))


def _ground_shadow(canvas: Canvas, body: Body) -> None:
    feet = (body.legs[0].at(1.0) + body.legs[1].at(1.0)) / 2 + [0, body.px(0.04)]
    soft: np.ndarray = np.zeros((canvas.height, canvas.width), np.uint8)
    x, y = (int(v) for v in feet)
    cv2.ellipse(soft, (x, y), (int(body.px(0.14)), int(body.px(0.025))), 0, 0, 360, 255, -1)
    soft = cv2.GaussianBlur(soft, (0, 0), 4)
    # a shadow on the floor, not on the people who stand behind
    soft[canvas.owner > 0] = 0
    canvas.tint(soft, 15, 0.4)


def _finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light and film: exposure, colour cast, vignette, grain."""
    height, width = image.shape[:2]
    cast = rng.uniform(0.95, 1.15) * (1 + rng.normal(0, 0.03, 3))
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    tilt = rng.normal(0, 0.06, 2)
    light = 1 - 0.08 * (rows**2 + columns**2) + tilt[0] * rows + tilt[1] * columns
    image = image * light[..., None].astype(np.float32) * cast.astype(np.float32)
    image += rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(1, 4)
    return np.clip(image, 0, 255).astype(np.uint8)


# -- backgrounds ---------------------------------------------------------------------------


def _background(
    rng: np.random.Generator, height: int, width: int, colors: list[np.ndarray]
) -> np.ndarray:
    """Draw a place, (height, width, 3) float32 RGB; its colours mimic the clothes."""
    scene = _Backdrop(rng, height, width, colors)
    kinds = (scene.street, scene.room, scene.foliage, scene.boxes, scene.studio)
    kinds[rng.choice(5, p=[0.26, 0.28, 0.14, 0.1, 0.22])]()
    # blur and haze: the camera is focused on the people
    image = cv2.GaussianBlur(scene.image, (0, 0), rng.uniform(1.0, 4.0))
    air = image.mean(axis=(0, 1), dtype=np.float32)
    return air + (image - air) * np.float32(rng.uniform(0.3, 0.65))


class _Backdrop:
    def __init__(
        self, rng: np.random.Generator, height: int, width: int, colors: list[np.ndarray]
    ) -> None:
        self.rng, self.height, self.width, self.colors = rng, height, width, colors
        base = np.linspace(random_color(rng), random_color(rng) * 0.5 + 90, height)
        self.image: np.ndarray = np.repeat(base[:, None], width, axis=1).astype(np.float32)
        self._rows, self._columns = np.indices((height, width), dtype=np.float32)
        self._add_texture(8.0)

    def _color(self) -> np.ndarray:
        """Draw a colour; half of them are nearly those of the clothes in the picture."""
        if self.rng.random() < 0.5:
            return near_color(self.rng, self.colors[self.rng.integers(len(self.colors))], 14)
        return random_color(self.rng)

    def _add_texture(self, strength: float) -> None:
        coarse = self.rng.normal(0, 1, (self.height // 6 + 2, self.width // 6 + 2))
        size = (self.width, self.height)
        cloud = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        self.image += strength * cloud[..., None]

    def _fill(self, polygon: np.ndarray, fabric: Fabric | None = None, edge: float = 0.3) -> None:
        fabric = Fabric.random(self.rng, self._color()) if fabric is None else fabric
        left, top = np.maximum(np.floor(polygon.min(axis=0)).astype(int) - 1, 0)
        right, bottom = np.ceil(polygon.max(axis=0)).astype(int) + 2
        window = np.s_[top : max(bottom, 0), left : max(right, 0)]
        rows, columns = self._rows[window], self._columns[window]
        if not rows.size:
            return
        fixed = [np.round((polygon - [left, top]) * 16).astype(np.int32)]
        coverage = np.zeros(rows.shape, np.uint8)
        cv2.fillPoly(coverage, fixed, 255, cv2.LINE_AA, 4)
        line = np.zeros_like(coverage)
        cv2.polylines(line, fixed, True, 255, 1, cv2.LINE_AA, 4)
        slope = np.linspace(1.1, 1.1 - edge, rows.shape[1], dtype=np.float32)[None, :, None]
        weight = coverage[..., None] * np.float32(1 / 255)
        cloth = fabric.texture(rows, columns, 0.0) * slope
        self.image[window] += weight * (cloth - self.image[window])
        self.image[window] *= 1 - line[..., None] * np.float32(0.25 / 255)

    def _box(self, x: float, y: float, w: float, h: float, fabric: Fabric | None = None) -> None:
        self._fill(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]), fabric)

    def street(self) -> None:
        """Houses with windows, a pavement, things on it."""
        rng, w, h = self.rng, self.width, self.height
        floor = h * rng.uniform(0.68, 0.85)
        x = -rng.uniform(0, 30)
        while x < w:
            wide, top = rng.uniform(60, 130), rng.uniform(-40, 0.35 * h)
            self._box(x, top, wide, floor - top, Fabric(self._color() * 0.7 + 50))
            glass = Fabric(self._color())
            for row in np.arange(top + 14, floor - 40, rng.uniform(34, 50)):
                for column in np.arange(x + 9, x + wide - 18, rng.uniform(24, 34)):
                    self._box(column, row, 14, 20, glass)
            x += wide
        self._box(-5, floor, w + 10, h - floor + 5, Fabric(self._color() * 0.4 + 75))
        for k in np.linspace(-1.4, 1.4, 7):
            ends = np.array([(w / 2 + k * w * 0.4, floor), (w / 2 + k * w, h)])
            self._fill(np.concatenate([ends, ends[::-1] + xy(2, 0)]), Fabric(np.full(3, 90.0)))
        for _ in range(int(rng.integers(1, 5))):
            bw, bh = rng.uniform(20, 60), rng.uniform(25, 90)
            self._box(rng.uniform(-10, w), floor - bh + rng.uniform(0, 25), bw, bh)
        self._add_texture(5.0)

    def room(self) -> None:
        """A wall with pictures, a floor, furniture and hanging cloth."""
        rng, w, h = self.rng, self.width, self.height
        floor = h * rng.uniform(0.72, 0.88)
        self._box(-5, -5, w + 10, floor + 5, Fabric.random(rng, self._color() * 0.6 + 70))
        self._box(-5, floor, w + 10, h - floor + 5, Fabric.random(rng, self._color()))
        self._box(-5, floor - 8, w + 10, 8, Fabric(self._color()))
        for _ in range(int(rng.integers(2, 6))):  # pictures
            pw, ph = rng.uniform(25, 80), rng.uniform(25, 80)
            x, y = rng.uniform(-20, w - 20), rng.uniform(0, 0.5 * h)
            self._box(x - 4, y - 4, pw + 8, ph + 8, Fabric(self._color()))
            self._box(x, y, pw, ph)
        for _ in range(int(rng.integers(1, 5))):  # furniture
            fw, fh = rng.uniform(30, 90), rng.uniform(40, 150)
            self._box(rng.uniform(-30, w), floor - fh + rng.uniform(-5, 25), fw, fh)
        if rng.random() < 0.5:  # a curtain
            x, cw = rng.choice([-10, w - 50]), rng.uniform(40, 70)
            self._box(x, -5, cw, floor + 5)
            for k in range(6):
                self._box(x + k * cw / 6, -5, 3, floor + 5, Fabric(np.full(3, 60.0)))

    def foliage(self) -> None:
        """Leaves, trunks and grass, in any colour."""
        rng, w, h = self.rng, self.width, self.height
        leaf = self._color()
        self.image *= 0.65
        for _ in range(int(rng.integers(1, 4))):
            x, wide = rng.uniform(0, w), rng.uniform(12, 34)
            self._box(x, -5, wide, h, Fabric(self._color() * 0.6))
        length = rng.uniform(16, 34)
        t = np.linspace(-1, 1, 5)
        blade = np.concatenate([np.stack([t, 1 - t**2], 1), np.stack([-t, t**2 - 1], 1)[1:-1]])
        for k in range(260):  # the ones in front are brighter
            turn = rng.normal(np.pi / 2, 0.8)
            c, s = np.cos(turn), np.sin(turn)
            shape = blade * [length, length * 0.24] @ np.array([(c, s), (-s, c)])
            color = near_color(rng, leaf, 16) * (0.6 + 0.6 * k / 260)
            self._fill(shape + xy(rng.uniform(0, w), rng.uniform(0, h)), Fabric(color), edge=0.5)

    def boxes(self) -> None:
        """Shelves full of coloured and patterned things."""
        rng, w, h = self.rng, self.width, self.height
        for _ in range(int(rng.integers(14, 34))):
            bw, bh = rng.uniform(20, 110), rng.uniform(20, 130)
            x, y = rng.uniform(-30, w), rng.uniform(-30, h)
            if rng.random() < 0.7:
                self._box(x, y, bw, bh)
            else:
                t = np.linspace(0, 2 * np.pi, 7)[:-1]
                wobble = rng.uniform(0.6, 1.2, 6)[:, None]
                ring = np.stack([np.cos(t) * bw / 2, np.sin(t) * bh / 2], 1) * wobble
                self._fill(smooth(ring, closed=True) + xy(x, y))

    def studio(self) -> None:
        """A plain sweep of paper, as in a catalogue."""
        floor = self.height * self.rng.uniform(0.8, 0.92)
        color = self._color() * 0.6 + 80
        self.image[:] = color
        self._box(-5, floor, self.width + 10, self.height, Fabric(contrast_color(color, 18)))
        self.image = cv2.GaussianBlur(self.image, (0, 0), 6)
        self._add_texture(3.0)
