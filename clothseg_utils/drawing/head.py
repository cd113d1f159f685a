"""Face and hair, and what sits on them: glasses, hats, headbands."""

import numpy as np

from clothseg_utils.drawing import ids
from clothseg_utils.drawing.canvas import (
    Fabric,
    contrast_color,
    ellipse,
    random_color,
    ribbon,
    smooth,
)
from clothseg_utils.drawing.details import draw_bow_loops, draw_flower
from clothseg_utils.drawing.outfit import Person

_LENGTHS = {"long": 3.4, "bob": 1.5, "curly": 1.2}  # of hair that falls behind the shoulders
_BREADTHS = {"long": 1.35, "bob": 1.4, "curly": 1.65}


def draw_back_hair(person: Person) -> None:
    """Draw the hair that everything else lies in front of."""
    body, style = person.body, person.hair_style
    if style in _LENGTHS:
        low, wide = _LENGTHS[style], _BREADTHS[style]
        shape = [(-wide * 0.8, -0.9), (0, -1.5), (wide * 0.8, -0.9), (wide, 0.4)]
        shape += [(wide, low), (0, low + 0.2), (-wide, low), (-wide, 0.4)]
        _hair(person, smooth(body.on_head(shape), closed=True))
    elif style == "bun":
        _hair(person, ellipse(body.on_head((0, -1.75)), body.px(0.028)))


def _hair(person: Person, polygon: np.ndarray) -> None:
    person.canvas.fill(polygon, person.hair, folds=0.2, edge=0.3)


def draw_face(person: Person) -> None:
    """Draw the head without its hair, and its shadow on the throat."""
    body, canvas = person.body, person.canvas
    throat = canvas.cover(ellipse(body.on_head((0, 1.35)), body.px(0.03), body.px(0.014)))
    canvas.tint(throat, 20, 0.3)
    for x in (-1.0, 1.0):
        person.paint_skin(ellipse(body.on_head((x, 0.05)), body.px(0.009), body.px(0.014)))
    outline = [(-0.98, -0.5), (-0.7, -1.2), (0, -1.42), (0.7, -1.2), (0.98, -0.5)]
    outline += [(0.92, 0.35), (0.55, 1.05), (0, 1.32), (-0.55, 1.05), (-0.92, 0.35)]
    person.paint_skin(smooth(body.on_head(outline), closed=True))
    lips = body.skin.color * np.array([0.85, 0.5, 0.5], np.float32)
    for sign in (-1, 1):
        eye = body.on_head((sign * 0.42, -0.12))
        canvas.tint(canvas.cover(ellipse(eye, body.px(0.0095), body.px(0.0055))), 245, 0.9)
        canvas.tint(canvas.cover(ellipse(eye, body.px(0.005), body.px(0.0055))), 35, 0.95)
        brow = body.on_head([(sign * 0.22, -0.42), (sign * 0.45, -0.5), (sign * 0.66, -0.4)])
        canvas.tint(canvas.stroke(smooth(brow), body.px(0.005)), person.hair.color, 0.8)
        cheek = ellipse(body.on_head((sign * 0.55, 0.4)), body.px(0.013), body.px(0.01))
        canvas.tint(canvas.cover(cheek), lips, 0.18)
    nose = smooth(body.on_head([(0.04, -0.1), (0.14, 0.3), (-0.05, 0.36)]))
    canvas.crease(nose, 1.0, 0.3)
    mouth = body.on_head([(-0.3, 0.68), (0, 0.62), (0.3, 0.68), (0, 0.86)])
    canvas.tint(canvas.cover(smooth(mouth, closed=True)), lips, 0.9)


def draw_hair(person: Person) -> None:
    """Draw the hair on top of the head and beside the face."""
    body, rng = person.body, person.rng
    if person.hair_style == "bald":
        return
    fringe_y, part = rng.uniform(-0.75, -0.35), rng.uniform(-0.5, 0.5)
    cap = [(-1.1, 0.1), (-1.12, -0.7), (-0.7, -1.45), (0, -1.68), (0.7, -1.45)]
    cap += [(1.12, -0.7), (1.1, 0.1), (0.9, -0.35), (part, fringe_y - 0.2), (-0.9, -0.35)]
    _hair(person, smooth(body.on_head(cap), closed=True))
    if person.hair_style in _LENGTHS:
        low = 2.6 if person.hair_style == "long" else 1.2
        for sign in (-1, 1):
            lock = [(sign * 0.95, -0.5), (sign * 1.12, 0.4), (sign * 1.1, low)]
            line = smooth(body.on_head(lock))
            widths = np.array([0.01, 0.022, 0.012]) * body.s
            spread = np.interp(np.linspace(0, 1, len(line)), (0, 0.5, 1), widths)
            _hair(person, ribbon(line, spread))


def draw_glasses(person: Person) -> None:
    """Draw glasses, clear or dark."""
    canvas, body, rng = person.canvas, person.body, person.rng
    layer = canvas.add_layer(ids.GLASSES)
    frame = Fabric(random_color(rng), sheen=1.0)
    rx, ry = body.px(rng.uniform(0.016, 0.02)), body.px(rng.uniform(0.012, 0.018))
    eyes = body.on_head([(-0.44, -0.1), (0.44, -0.1)])
    bars = ([(-0.2, -0.2), (0.2, -0.2)], [(-1, -0.2), (-0.7, -0.18)], [(1, -0.2), (0.7, -0.18)])
    shape = np.maximum(
        canvas.cover(*(ellipse(eye, rx, ry) for eye in eyes)),
        canvas.cover(*(ribbon(body.on_head(bar), body.px(0.006)) for bar in bars)),
    )
    if rng.random() < 0.5:  # clear: the eyes are seen through two holes
        inner = canvas.cover(*(ellipse(eye, rx * 0.66, ry * 0.62) for eye in eyes))
        shape = np.minimum(shape, 255 - inner)
    canvas.paint(shape, frame, layer, folds=0, edge=0.1, outline=0.25)


def draw_hat(person: Person) -> None:
    """Draw a hat with a brim, a beanie or a cap."""
    canvas, body, rng = person.canvas, person.body, person.rng
    cloth = Fabric.random(rng)
    layer = canvas.add_layer(ids.HAT)
    kind = str(rng.choice(["brim", "beanie", "cap"]))
    if kind == "brim":
        brim = ellipse(body.on_head((0, -0.72)), body.px(0.1), body.px(0.022), body.tilt)
        canvas.fill(brim, cloth, layer, outline=0.5, shadow=0.5)
    top = [(-1.15, -0.62), (-1.1, -1.5), (-0.6, -2.1), (0.6, -2.1), (1.1, -1.5), (1.15, -0.62)]
    edge = body.on_head([(0.5, -0.5), (-0.5, -0.5)])
    crown = canvas.cover(np.concatenate([smooth(body.on_head(top)), edge]))
    canvas.paint(crown, cloth, layer, outline=0.5, folds=0.12, shadow=0.4)
    band = body.on_head([(-1.15, -0.82), (0, -0.68), (1.15, -0.82)])
    if kind == "cap":
        side = float(rng.choice([-1, 1]))
        peak = [(-side * 1.1, -0.75), (side * 1.1, -0.75), (side * 1.4, -0.3), (side * 0.4, -0.25)]
        canvas.fill(body.on_head(peak), cloth.plain(), layer, outline=0.5)
    elif kind == "beanie":
        pompom = ellipse(body.on_head((0, -2.2)), body.px(0.02))
        canvas.fill(pompom, cloth.plain(), layer, folds=0.3)
        canvas.tint(canvas.stroke(band, body.px(0.022)), contrast_color(cloth.color), 0.4)
    if person.wants(ids.RIBBON) and kind != "beanie":
        strip = np.minimum(canvas.stroke(smooth(band), body.px(0.018)), crown)
        person.add(ids.RIBBON, strip, Fabric.random(rng).plain(), layer, folds=0.05)
    if person.wants(ids.FLOWER):
        draw_flower(person, layer, body.on_head((0.8, -0.95)), body.px(0.022))


def draw_headband(person: Person) -> None:
    """Draw a headband or a head scarf, with a bow or a flower."""
    canvas, body, rng = person.canvas, person.body, person.rng
    cloth = Fabric.random(rng)
    if rng.random() < 0.3:  # a head scarf
        cover = [(-1.2, 0.5), (-1.2, -0.7), (-0.7, -1.55), (0, -1.78), (0.7, -1.55)]
        cover += [(1.2, -0.7), (1.2, 0.5), (0.85, -0.4), (0, -0.72), (-0.85, -0.4)]
        shape = canvas.cover(smooth(body.on_head(cover), closed=True))
    else:
        line = [(-1.12, -0.35), (-0.75, -1.1), (0, -1.35), (0.75, -1.1), (1.12, -0.35)]
        shape = canvas.stroke(smooth(body.on_head(line)), body.px(rng.uniform(0.014, 0.026)))
    layer = person.add(ids.HEADBAND, shape, cloth, outline=0.45, folds=0.08)
    if person.wants(ids.BOW):
        bow = canvas.add_layer(ids.BOW, layer)
        centre = body.on_head((0.4, -1.4))
        draw_bow_loops(person, bow, Fabric.random(rng), centre, body.px(0.032))
    elif person.wants(ids.FLOWER):
        radius_px = body.px(rng.uniform(0.02, 0.032))
        draw_flower(person, layer, body.on_head((0.75, -1.15)), radius_px)
