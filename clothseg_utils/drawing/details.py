"""Closures and decorations: small things that hang on a garment or on a bag."""

import cv2
import numpy as np

from clothseg_utils.drawing import ids
from clothseg_utils.drawing.canvas import (
    Coverage,
    Fabric,
    contrast_color,
    ellipse,
    near_color,
    random_color,
    resample,
    ribbon,
    smooth,
    xy,
)
from clothseg_utils.drawing.outfit import Person


def draw_dot(
    person: Person, category_id: int, parent: int, centre: np.ndarray, radius: float
) -> None:
    """Draw one small round thing: a bead or a rivet."""
    canvas, radius_px = person.canvas, max(1.6, person.body.px(radius))
    shape = canvas.cover(ellipse(centre, radius_px))
    metal = person.metal
    person.add(category_id, shape, metal, parent, folds=0, edge=0.1, outline=0.45, shadow=0.4)
    canvas.tint(canvas.cover(ellipse(centre - radius_px * 0.3, radius_px * 0.35)), 255, 0.8)


def draw_buttons(
    person: Person, parent: int, cloth: Fabric, x: float, top_y: float, end_y: float
) -> None:
    """Draw a row of button-like beads, each its own annotation or all of them one."""
    body, rng = person.body, person.rng
    radius = rng.uniform(0.006, 0.011)
    centres = [body.at((x, y)) for y in np.arange(top_y, end_y, 0.042)]
    if rng.random() < 0.5:
        for centre in centres:
            draw_dot(person, ids.BEAD, parent, centre, radius)
        return
    radius_px = max(1.6, body.px(radius))
    discs = person.canvas.cover(*(ellipse(centre, radius_px) for centre in centres))
    plain = cloth.plain(contrast_color(cloth.color, 90))
    person.add(ids.BEAD, discs, plain, parent, folds=0, edge=0.1, shadow=0.4)


def draw_zipper(person: Person, parent: int, line: np.ndarray, width: float) -> None:
    """Draw a zipper with its teeth and its pull along a line."""
    canvas, width_px = person.canvas, max(5.0, person.body.px(width))
    path = resample(line, 60)
    shape = canvas.stroke(path, width_px)
    layer = person.add(ids.ZIPPER, shape, person.metal, parent, folds=0, edge=0.2)
    length = float(np.linalg.norm(line[-1] - line[0]))
    across = (line[-1] - line[0])[::-1] * [-1, 1] / max(length, 1) * width_px * 0.4
    for centre in path[:: max(1, round(60 * 3.2 / max(length, 1)))]:
        canvas.crease(np.stack([centre - across, centre + across]), 1.4, 0.65)
    pull = ellipse(path[2] + xy(0, width_px * 0.6), width_px * 0.5, width_px * 0.9)
    canvas.fill(pull, person.metal, layer, folds=0)


def draw_buckle(
    person: Person, parent: int, centre: np.ndarray, half_w: float, half_h: float
) -> None:
    """Draw a buckle around a point; its half sizes are in pixels."""
    canvas = person.canvas
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    frame = canvas.cover(centre + corners * [half_w, half_h])
    hole = canvas.cover(centre + corners * [half_w * 0.5, half_h * 0.45])
    shape = np.minimum(frame, 255 - hole)
    layer = person.add(ids.BUCKLE, shape, person.metal, parent, folds=0, edge=0.1, shadow=0.4)
    prong = np.stack([centre - xy(half_w * 0.9, 0), centre + xy(half_w * 0.3, 0)])
    canvas.paint(canvas.stroke(prong, max(1.5, half_h * 0.3)), person.metal, layer, folds=0)


def draw_bow_loops(
    person: Person, layer: int, cloth: Fabric, centre: np.ndarray, half_px: float
) -> None:
    """Draw the two loops of a bow and its knot."""
    canvas = person.canvas
    loop = np.array([(0, 0), (0.5, -0.5), (1, -0.55), (1.06, 0), (1, 0.55), (0.5, 0.5)])
    for sign in (-1, 1):
        shape = smooth(centre + loop * [sign * half_px, half_px], closed=True)
        canvas.fill(shape, cloth, layer, outline=0.55, edge=0.4, shadow=0.3)
    for sign in (-1, 1):
        canvas.crease(np.stack([centre, centre + xy(sign * half_px * 0.7, -half_px * 0.1)]), 1.3)
    canvas.fill(ellipse(centre, half_px * 0.24, half_px * 0.3), cloth.plain(), layer, outline=0.6)


def draw_bow(
    person: Person, parent: int, cloth: Fabric, centre: np.ndarray, half_px: float
) -> None:
    """Draw a bow with its two tails."""
    canvas = person.canvas
    layer = canvas.add_layer(ids.BOW, parent)
    for sign in (-1, 1):
        tail = np.stack([centre, centre + xy(sign * half_px * 0.6, half_px * 1.6)])
        tail = ribbon(tail, [0.2 * half_px, 0.5 * half_px])
        canvas.fill(tail, cloth, layer, outline=0.5, shadow=0.3)
    draw_bow_loops(person, layer, cloth, centre, half_px)


def draw_flower(person: Person, parent: int, centre: np.ndarray, radius_px: float) -> None:
    """Draw five petals around a heart."""
    canvas = person.canvas
    layer = canvas.add_layer(ids.FLOWER, parent)
    cloth = Fabric(random_color(person.rng))
    turn = person.rng.uniform(0, 1)
    for k in range(5):
        angle = turn + 2 * np.pi * k / 5
        middle = centre + radius_px * 0.58 * np.array([np.cos(angle), np.sin(angle)])
        petal = ellipse(middle, radius_px * 0.5, radius_px * 0.36, angle)
        canvas.fill(petal, cloth, layer, folds=0.05, outline=0.4, edge=0.4)
    heart = Fabric(contrast_color(cloth.color, 90))
    canvas.fill(ellipse(centre, radius_px * 0.28), heart, layer, folds=0)


def draw_ruffle(person: Person, parent: int, cloth: Fabric, line: np.ndarray, depth: float) -> None:
    """Draw a frilled band whose middle runs along a line."""
    canvas, body = person.canvas, person.body
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    waves = max(3, round(length / body.px(0.032)))
    path = resample(line, waves * 8 + 1)
    normal = np.gradient(path, axis=0)[:, ::-1] * [-1, 1]
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    normal *= np.sign(normal[len(normal) // 2, 1] or 1.0)  # downwards
    depth_px = body.px(depth)
    t = np.linspace(0, 1, len(path))
    scallop = (0.5 + 0.16 * np.abs(np.sin(np.pi * waves * t)))[:, None] * depth_px
    outline = np.concatenate([path - normal * depth_px * 0.5, (path + normal * scallop)[::-1]])
    light = cloth.plain(near_color(person.rng, contrast_color(cloth.color, 16), 4))
    shape = canvas.cover(outline)
    person.add(ids.RUFFLE, shape, light, parent, folds=0.05, outline=0.4, shadow=0.4)
    tops, ends = path - normal * depth_px * 0.4, path + normal * scallop
    for k in range(0, len(path), 4):  # a dark fold, a light one
        grey, opacity = (10, 0.45) if k % 8 == 0 else (255, 0.3)
        canvas.crease(np.stack([tops[k], ends[k]]), 1.4, opacity, within=shape, grey=grey)


def draw_fringe(person: Person, parent: int, cloth: Fabric, line: np.ndarray, depth: float) -> None:
    """Draw threads that hang from a line."""
    canvas, body, rng = person.canvas, person.body, person.rng
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    path = resample(line, max(4, round(length / 4)))
    n = len(path)
    ends = path + np.stack([rng.normal(0, 1, n), body.px(depth) * rng.uniform(0.8, 1, n)], axis=1)
    shape = canvas.cover(np.concatenate([path, ends[::-1]]))
    person.add(ids.FRINGE, shape, cloth.plain(), parent, folds=0.05, edge=0.2, shadow=0.3)
    for thread in np.stack([path, ends], axis=1):
        canvas.crease(thread, 1.6, 0.6)


def draw_tassel(person: Person, parent: int, cloth: Fabric, top: np.ndarray) -> None:
    """Draw a tassel that hangs from a point."""
    canvas, s = person.canvas, person.body.s
    skirt = top + np.array([(-0.006, 0.012), (0.006, 0.012), (0.013, 0.05), (-0.013, 0.05)]) * s
    layer = person.add(ids.TASSEL, canvas.cover(skirt), cloth.plain(), parent, outline=0.5)
    for x in (-0.005, 0, 0.005):
        canvas.crease(top + np.array([(x * 0.6, 0.015), (x * 1.4, 0.048)]) * s, 1.1, 0.5)
    canvas.fill(ellipse(top + xy(0, 0.008 * s), 0.009 * s), cloth.plain(), layer)


def draw_sequins(person: Person, parent: int, shape: Coverage) -> None:
    """Fill a shape with glittering scales."""
    image, rng = person.canvas.image, person.rng
    person.add(ids.SEQUIN, shape, Fabric(random_color(rng), sheen=1.0), parent, folds=0.2, edge=0.1)
    x, y, w, h = cv2.boundingRect(shape)
    scales = (rng.random((h // 3 + 1, w // 3 + 1)) ** 3).astype(np.float32)
    glitter = cv2.resize(scales, (w, h), interpolation=cv2.INTER_NEAREST)
    window = np.s_[y : y + h, x : x + w]
    weight = (shape[window] / 255.0 * glitter).astype(np.float32)[..., None]
    image[window] += weight * (255 - image[window]) * 0.85


def draw_applique(person: Person, parent: int) -> None:
    """Sew a star, a heart or a disc to the chest."""
    body, rng = person.body, person.rng
    centre, radius = body.at((0, 0.29)), body.px(rng.uniform(0.02, 0.042))
    t = np.linspace(0, 2 * np.pi, 60)[:-1]
    disc = np.stack([np.cos(t), np.sin(t)], axis=1)
    star = disc * (0.72 + 0.28 * np.cos(5 * t))[:, None]
    heart_y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)) / 15
    heart = np.stack([np.sin(t) ** 3, heart_y], axis=1)
    shape = person.canvas.cover(centre + radius * (star, heart, disc)[rng.integers(3)])
    cloth = Fabric.random(rng)
    person.add(ids.APPLIQUE, shape, cloth, parent, outline=0.6, folds=0.03, shadow=0.3)


def decorate_hem(person: Person, parent: int, cloth: Fabric, shape: Coverage, hem_y: float) -> None:
    """Hang ruffles or a fringe from the hem of a skirt, a dress or a cape."""
    canvas, body, rng = person.canvas, person.body, person.rng
    bottom = body.at((0, hem_y))[1]
    row = int(np.clip(bottom - 3, 0, canvas.height - 1))
    inside = np.flatnonzero(shape[row] >= 128)
    if len(inside) < 8:
        return
    left, right = np.array([inside[0], bottom]), np.array([inside[-1] + 1.0, bottom])
    line = body.hem_curve(left, right, 0.02)
    if person.wants(ids.FRINGE):
        draw_fringe(person, parent, cloth, line, rng.uniform(0.03, 0.06))
    elif person.wants(ids.RUFFLE):
        draw_ruffle(person, parent, cloth, line, rng.uniform(0.03, 0.06))
    elif person.wants(ids.RIBBON):
        band = np.minimum(canvas.stroke(line - xy(0, body.px(0.03)), body.px(0.018)), shape)
        person.add(ids.RIBBON, band, Fabric.random(rng).plain(), parent, folds=0.05)
