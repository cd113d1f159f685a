"""Garments from shoes to hoods, their parts, and the skin that they leave bare."""

import numpy as np

from clothseg_utils.drawing import details, ids
from clothseg_utils.drawing.accessories import draw_watch
from clothseg_utils.drawing.body import CROTCH_Y, HIP_Y, WAIST_Y, WRIST_T, Body, Limb
from clothseg_utils.drawing.canvas import (
    Coverage,
    Fabric,
    contrast_color,
    ellipse,
    near_color,
    ribbon,
    smooth,
    xy,
)
from clothseg_utils.drawing.outfit import Person

# -- trunk and legs ------------------------------------------------------------------------


def draw_trunk_skin(person: Person) -> None:
    """Draw the bare trunk and the neck."""
    body, canvas = person.body, person.canvas
    neck = np.stack([body.head, *body.at([(0, 0.15), (0, 0.18)])])
    person.paint_skin(body.trunk(0.0, 0.49, 0.03, 0.0))
    person.paint_skin(ribbon(neck, np.array([0.055, 0.055, 0.075]) * body.s))
    for sign in (-1, 1):  # the collar bones
        line = smooth(body.at([(0.06, 0.182), (0.02, 0.192), (0, 0.188)], sign))
        canvas.crease(line, 1, 0.2)


def draw_legs(person: Person) -> None:
    """Draw the legs, and tights, socks, shoes and leg warmers on them."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = [Fabric.random(rng), Fabric.random(rng), Fabric.random(rng)]
    tights = person.wants(ids.TIGHTS) and person.outfit.lower != ids.PANTS
    socks = person.wants(ids.SOCK) and not tights
    sock_t = float(rng.choice([0.88, 0.7, 0.55]))
    boot_t = float(rng.choice([0.97, 0.97, 0.85, 0.6]))
    tights_layer = canvas.add_layer(ids.TIGHTS) if tights else 0
    bare = (0.098 * body.build, 0.074 * body.build, 0.05, 0.056, 0.032)
    for side, leg in zip((-1, 1), body.legs, strict=True):
        foot = _foot(body, leg, side)
        skin = leg.outline(0, 1.02, *bare), foot
        if tights:
            canvas.paint(canvas.cover(*skin), cloth[0], tights_layer, folds=0.03, edge=0.45)
        else:
            person.paint_skin(*skin)
        if socks:
            shape = canvas.cover(_calf(leg, sock_t, 1.02, 0.006), foot)
            person.add(ids.SOCK, shape, cloth[1], angle=leg.angle(sock_t, 1), edge=0.4)
            _ribs(person, leg, sock_t, 1, shape, cloth[1])
        _shoe(person, leg, foot, cloth[2], boot_t)
        if person.wants(ids.LEG_WARMER):
            knit = Fabric(cloth[1].color, "knit", contrast_color(cloth[1].color, 40))
            shape = canvas.cover(_calf(leg, 0.6, 0.98, 0.022))
            person.add(ids.LEG_WARMER, shape, knit, angle=leg.angle(0.6, 1), edge=0.4)
            _ribs(person, leg, 0.6, 6, shape, knit)


def _calf(leg: Limb, t0: float, t1: float, ease: float) -> np.ndarray:
    """Outline what lies around a leg from t0 to t1."""
    t = np.linspace(t0, t1, 6)
    bare = np.interp(t, (0, 0.25, 0.5, 0.68, 1), (0.098, 0.074, 0.05, 0.056, 0.034))
    return leg.outline(t0, t1, *(bare + ease))


def _ribs(person: Person, leg: Limb, t0: float, rings: int, shape: Coverage, cloth: Fabric) -> None:
    for t in np.linspace(t0 + 0.03, 0.93, rings):
        band = np.minimum(person.canvas.cover(leg.outline(t, t + 0.008, 0.12)), shape)
        person.canvas.tint(band, contrast_color(cloth.color), 0.5)


def _foot(body: Body, leg: Limb, side: int) -> np.ndarray:
    toe_x = side * 0.022
    points = [(-0.019, -0.006), (0.019, -0.006), (0.026 + max(toe_x, 0), 0.03)]
    points += [(toe_x + 0.008, 0.046), (toe_x - 0.008, 0.046), (-0.026 + min(toe_x, 0), 0.03)]
    return smooth(leg.at(1.0) + np.multiply(points, body.s), closed=True)


def _shoe(person: Person, leg: Limb, foot: np.ndarray, cloth: Fabric, boot_t: float) -> None:
    canvas, s = person.canvas, person.body.s
    centre = foot.mean(axis=0)
    bigger = centre + (foot - centre) * 1.14 + xy(0, 0.004 * s)
    shape = canvas.cover(bigger, _calf(leg, boot_t, 1.03, 0.012))
    layer = person.add(ids.SHOE, shape, cloth.plain(), folds=0.05, edge=0.45, outline=0.5)
    sole_y = foot[:, 1].max() - 0.007 * s
    below = np.array([(-500, sole_y), (5000, sole_y), (5000, 5000), (-500, 5000)])
    canvas.tint(np.minimum(shape, canvas.cover(below)), contrast_color(cloth.color, 100), 0.8)
    if boot_t > 0.9:  # laces
        for k in range(3):
            y, x = foot[:, 1].min() + (0.016 + 0.008 * k) * s, centre[0]
            canvas.crease(np.array([(x - 0.012 * s, y), (x + 0.012 * s, y + 1)]), 1.2, 0.5)
    elif person.wants(ids.BUCKLE):
        details.draw_buckle(person, layer, leg.at(0.95), 0.011 * s, 0.009 * s)


# -- from the waist down -------------------------------------------------------------------


def draw_lower(person: Person, category_id: int) -> None:
    """Draw pants, shorts or a skirt."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = person.outfit.cloths[2]
    layer = canvas.add_layer(category_id)
    waist_y = WAIST_Y - 0.005
    if category_id == ids.SKIRT:
        hem_y = rng.uniform(0.6, 0.8)
        shape = canvas.cover(_skirt_outline(body, waist_y, hem_y, rng.uniform(0.1, 0.2)))
        canvas.paint(shape, cloth, layer, folds=0.14, shadow=0.4)
        _pleats(person, shape, waist_y, hem_y)
        details.decorate_hem(person, layer, cloth, shape, hem_y)
    else:
        hem_t = 0.97 if category_id == ids.PANTS else rng.uniform(0.34, 0.5)
        _trousers(person, layer, cloth, waist_y, hem_t)
    band = canvas.cover(body.waist_band(waist_y, waist_y + 0.018, 0.007))
    canvas.tint(band, contrast_color(cloth.color, 30), 0.45)
    if person.wants(ids.POCKET):
        for sign in (-1, 1):
            box = [(0.075, 0.425), (0.03, 0.42), (0.028, 0.468), (0.052, 0.482), (0.082, 0.466)]
            _pocket(person, layer, cloth, body.at(box, sign))
    if person.wants(ids.ZIPPER):
        details.draw_zipper(person, layer, body.at([(0, waist_y + 0.008), (0.002, 0.475)]), 0.012)
    if person.wants(ids.BUCKLE) and not person.wants(ids.BELT):
        centre = body.at((0, waist_y + 0.01))
        details.draw_buckle(person, layer, centre, 0.022 * body.s, 0.018 * body.s)


def _skirt_outline(body: Body, waist_y: float, hem_y: float, half: float) -> np.ndarray:
    sides = []
    for sign in (1, -1):
        top = body.at([(body.waist + 0.008, waist_y), (body.hip + 0.012, HIP_Y)], sign)
        sides.append(smooth([*top, body.hem_point(sign, 0.01, hem_y, half)]))
    hem = body.hem_curve(sides[0][-1], sides[1][-1], 0.02)
    return np.concatenate([sides[0], hem, sides[1][::-1]])


def _pleats(person: Person, shape: Coverage, waist_y: float, hem_y: float) -> None:
    for k in np.linspace(-0.8, 0.8, int(person.rng.integers(3, 8))):
        ends = [(k * person.body.waist, waist_y + 0.05), (k * 0.2, hem_y + 0.04)]
        top, end = person.body.at(ends)
        line = np.stack([top, (top + end) / 2, end])
        person.canvas.crease(line, 1.6, 0.28, within=shape, grey=15)


def _trousers(person: Person, layer: int, cloth: Fabric, waist_y: float, hem_t: float) -> None:
    body, canvas = person.body, person.canvas
    flare = person.rng.uniform(0.052, 0.085)
    widths = (0.115 * body.build, 0.095 * body.build, 0.078, (0.065 + flare) / 2, flare)
    half = [(body.waist + 0.006, waist_y), (body.hip + 0.008, HIP_Y), (0.09, CROTCH_Y + 0.01)]
    crotch = [body.at((0, CROTCH_Y + 0.035))]
    pelvis = canvas.cover(np.concatenate([body.at(half), crotch, body.at(half, -1)[::-1]]))
    parts = [canvas.cover(leg.outline(0, hem_t, *widths)) for leg in body.legs]
    canvas.paint(np.maximum(pelvis, np.maximum(*parts)), cloth, layer, shadow=0.35)
    for leg, part in zip(body.legs, parts, strict=True):
        angle = leg.angle(0.1, hem_t)
        canvas.paint(part, cloth, layer, angle=angle, outline=0.16, edge=0.3, folds=0.07)
        canvas.crease(leg.at(np.linspace(0.08, hem_t, 8)), 1.1, 0.2, within=part)
    canvas.paint(pelvis, cloth, layer, outline=0.0, edge=0.1, folds=0.06)
    canvas.crease(body.at([(0, waist_y + 0.01), (0.004, CROTCH_Y + 0.02)]), 1.3)


# -- tops, dresses and coats ---------------------------------------------------------------


def draw_inner(person: Person, tucked: bool) -> tuple[int, float]:
    """Draw a shirt, top or sweater; return its layer and how far its sleeves reach, 0..1."""
    body, canvas, rng = person.body, person.canvas, person.rng
    category_id, cloth = person.outfit.main, person.outfit.cloths[0]
    ease = {ids.SHIRT: 0.012, ids.TOP: 0.006, ids.SWEATER: 0.02}[category_id]
    hem_y, depth = rng.uniform(0.44, 0.5), rng.uniform(0.015, 0.06)
    v_neck = category_id == ids.SHIRT or rng.random() < 0.3
    half = rng.uniform(0.036, 0.056)
    shape = canvas.cover(body.trunk(ease, hem_y, half, depth, v_neck))
    layer = person.add(category_id, shape, cloth, shadow=0.0 if tucked else 0.35)
    _armholes(person, shape)
    if category_id == ids.SHIRT:
        for x in (-0.012, 0.012):  # the placket
            canvas.crease(body.at([(x, 0.17 + depth), (x, hem_y)]), 1.2, 0.35)
        if person.wants(ids.BEAD) or not person.wants(ids.TIE):
            details.draw_buttons(person, layer, cloth, 0.0, 0.19 + depth, hem_y - 0.03)
        _collar(person, layer, cloth, half, depth)
    else:
        _neck_trim(person, layer, cloth, half, depth, v_neck)
    if category_id == ids.SWEATER:
        right, left = (body.hem_point(sign, ease + 0.05, hem_y) for sign in (1, -1))
        hem = body.hem_curve(right, left)
        rise = xy(0, body.px(0.025))
        rib = np.minimum(shape, canvas.cover(np.concatenate([hem + rise, (hem - rise)[::-1]])))
        canvas.tint(rib, contrast_color(cloth.color, 40), 0.35)
    sleeve_t = float(rng.choice([0.0, 0.26, 0.3, 0.42, 0.8], p=[0.1, 0.25, 0.2, 0.1, 0.35]))
    if category_id == ids.SWEATER:
        sleeve_t = 0.82
    elif category_id == ids.SHIRT:
        sleeve_t = float(rng.choice([0.3, 0.6, 0.82]))
    return layer, sleeve_t


def draw_whole(person: Person) -> tuple[int, float]:
    """Draw a dress or a jumpsuit; return its layer and how far its sleeves reach, 0..1."""
    body, canvas, rng = person.body, person.canvas, person.rng
    category_id, cloth = person.outfit.main, person.outfit.cloths[0]
    layer = canvas.add_layer(category_id)
    half, depth = rng.uniform(0.04, 0.07), rng.uniform(0.03, 0.085)
    v_neck = rng.random() < 0.4
    bodice = canvas.cover(body.trunk(0.008, 0.43, half, depth, v_neck))
    if category_id == ids.DRESS:
        hem_y = rng.uniform(0.62, 0.9)
        skirt = canvas.cover(_skirt_outline(body, WAIST_Y, hem_y, rng.uniform(0.12, 0.24)))
        shape = np.maximum(bodice, skirt)
        canvas.paint(shape, cloth, layer, shadow=0.35, folds=0.13)
        _pleats(person, skirt, WAIST_Y, hem_y)
        details.decorate_hem(person, layer, cloth, shape, hem_y)
    else:
        hem_t = float(rng.choice([0.42, 0.95], p=[0.25, 0.75]))
        _trousers(person, layer, cloth, WAIST_Y - 0.01, hem_t)
        canvas.paint(bodice, cloth, layer, edge=0.28)
    left, right = body.at([(-body.waist, WAIST_Y), (body.waist, WAIST_Y)])
    canvas.crease(body.hem_curve(left, right, 0.006), 1.6)
    _armholes(person, bodice)
    if person.wants(ids.COLLAR):
        _collar(person, layer, cloth, half, depth)
    else:
        _neck_trim(person, layer, cloth, half, depth, v_neck)
    if person.wants(ids.ZIPPER):
        line = body.at([(0, 0.16 + depth), (0, 0.37), (0, 0.47)])
        details.draw_zipper(person, layer, line, 0.024)
    if person.wants(ids.POCKET):
        _hip_pockets(person, layer, cloth, 0.41)
    return layer, float(rng.choice([0.0, 0.28, 0.45, 0.82], p=[0.4, 0.3, 0.15, 0.15]))


def draw_outer(person: Person, category_id: int) -> int:
    """Draw a cardigan, jacket, vest or coat, open at the front; return its layer."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = person.outfit.cloths[1]
    layer = canvas.add_layer(category_id)
    hem_y = {
        ids.CARDIGAN: rng.uniform(0.48, 0.56),
        ids.JACKET: rng.uniform(0.43, 0.52),
        ids.VEST: rng.uniform(0.43, 0.49),
        ids.COAT: rng.uniform(0.64, 0.86),
    }[category_id]
    ease = {ids.CARDIGAN: 0.022, ids.JACKET: 0.025, ids.VEST: 0.016, ids.COAT: 0.03}[category_id]
    gap = float(rng.choice([0.006, 0.03, 0.055]))
    if person.wants(ids.TIE) or person.wants(ids.NECKLINE):
        gap = max(gap, 0.03)
    half = rng.uniform(0.1, 0.17) if category_id == ids.COAT else 0.0
    line = [(0.046, 0.158), (0.03 + gap * 0.4, 0.21), (gap, 0.3), (gap, WAIST_Y)]
    line.append((gap * 1.25 + 0.004, hem_y))
    openings = {sign: smooth(body.at(line, sign)) for sign in (-1, 1)}
    panels = []
    for sign, opening in openings.items():
        side = body.side(sign, ease, hem_y, half)
        hem = body.hem_curve(side[-1], opening[-1], 0.006)
        panels.append(np.concatenate([side, hem, opening[::-1]]))
        canvas.paint(canvas.cover(panels[-1]), cloth, layer, shadow=0.5)
    _armholes(person, canvas.cover(*panels))
    long_sleeved = category_id in (ids.JACKET, ids.COAT)
    lapels = long_sleeved and person.wants(ids.LAPEL)
    if lapels:
        _lapels(person, layer, cloth, gap)
    elif category_id != ids.CARDIGAN and person.wants(ids.COLLAR):
        _collar(person, layer, cloth, 0.05, 0.05)
    if long_sleeved and person.wants(ids.ZIPPER) and not lapels:
        for sign in (-1, 1) if gap > 0.02 else (1,):
            details.draw_zipper(person, layer, openings[sign][4:], 0.022)
    elif person.wants(ids.BEAD) or category_id == ids.CARDIGAN:
        details.draw_buttons(person, layer, cloth, gap + 0.012, 0.3, hem_y - 0.04)
    if person.wants(ids.POCKET):
        _hip_pockets(person, layer, cloth, 0.43 if category_id == ids.COAT else 0.39)
    if person.wants(ids.EPAULETTE) and long_sleeved:
        _epaulettes(person, layer, cloth)
    if person.wants(ids.RIVET) and category_id in (ids.JACKET, ids.VEST):
        for sign in (-1, 1):
            for k in range(3):
                centre = body.at((0.06 + 0.016 * k, 0.275), sign)
                details.draw_dot(person, ids.RIVET, layer, centre, 0.007)
    if person.wants(ids.HOOD) and category_id != ids.VEST and not lapels:
        _hood(person, layer, cloth)
    return layer


def draw_cape(person: Person) -> None:
    """Draw a cape that hangs around the arms."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = person.outfit.cloths[1]
    hem_y, half = rng.uniform(0.42, 0.6), rng.uniform(0.19, 0.26)
    gap = float(rng.choice([0.0, 0.03, 0.07]))
    outside = [(0.046, 0.152), (body.shoulder + 0.02, 0.178), (half * 0.86, 0.3), (half, hem_y)]
    panels = []
    for sign in (-1, 1):
        side = smooth(body.at(outside, sign))
        edge = body.at([(gap, hem_y + 0.015), (gap, 0.3), (0, 0.19)], sign)
        panels.append(np.concatenate([side, body.hem_curve(side[-1], edge[0], 0.02), edge]))
    shape = canvas.cover(*panels)
    layer = person.add(ids.CAPE, shape, cloth, shadow=0.5, folds=0.1)
    for k in np.linspace(-0.8, 0.8, 7):
        fold = body.at([(k * 0.1, 0.22), (k * half, hem_y + 0.02)])
        canvas.crease(fold, 1.5, 0.25, within=shape, grey=15)
    if person.wants(ids.HOOD):
        _hood(person, layer, cloth)
    elif person.wants(ids.COLLAR):
        _collar(person, layer, cloth, 0.055, 0.04)
    details.decorate_hem(person, layer, cloth, shape, hem_y)
    if person.wants(ids.BUCKLE) or person.wants(ids.BEAD):
        details.draw_buttons(person, layer, cloth, max(gap, 0.012), 0.22, hem_y - 0.05)


def decorate_front(person: Person, garment: int) -> None:
    """Decorate the chest of a shirt, top, dress or jumpsuit."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = person.outfit.cloths[0]
    if person.wants(ids.SEQUIN):
        block = canvas.cover(body.trunk(-0.004, 0.3, 0.09, 0.07))
        block[canvas.owner != garment] = 0
        details.draw_sequins(person, garment, block)
    elif person.wants(ids.APPLIQUE):
        details.draw_applique(person, garment)
    if person.wants(ids.RUFFLE) and rng.random() < 0.5:
        line = smooth(body.at([(-0.07, 0.21), (0, 0.238), (0.07, 0.21)]))
        details.draw_ruffle(person, garment, cloth, line, 0.035)
    if person.wants(ids.POCKET) and rng.random() < 0.4:
        box = [(0.03, 0.25), (0.07, 0.25), (0.07, 0.286), (0.05, 0.296), (0.03, 0.286)]
        _pocket(person, garment, cloth, body.at(box))
    if person.wants(ids.FLOWER) and rng.random() < 0.6:
        radius_px = body.px(rng.uniform(0.016, 0.03))
        details.draw_flower(person, garment, body.at((-0.06, 0.228)), radius_px)
    if person.wants(ids.BOW) and not person.wants(ids.BELT) and not person.wants(ids.TIE):
        half_px = body.px(rng.uniform(0.03, 0.055))
        details.draw_bow(person, garment, Fabric.random(rng), body.at((0, 0.205)), half_px)
    if person.wants(ids.RIBBON) and rng.random() < 0.6:
        band = canvas.cover(body.waist_band(0.335, 0.352, 0.004))
        person.add(ids.RIBBON, band, Fabric.random(rng).plain(), garment, folds=0.05, shadow=0.3)


# -- arms ----------------------------------------------------------------------------------


def draw_arms(person: Person, garment: int, sleeve_t: float, cloth: Fabric) -> None:
    """Draw the arms, their gloves and the sleeves of the outermost garment that has some.

    The sleeves belong to the layer `garment` and reach down to `sleeve_t`, 0..1; 0 is none.
    """
    body, canvas, rng = person.body, person.canvas, person.rng
    glove_cloth = Fabric.random(rng, typical=("stripes",))
    glove_t = float(rng.choice([0.75, 0.6, 0.45]))
    bell = float(rng.choice([0.056, 0.064, 0.09]))
    puff = float(rng.choice([0.066, 0.074, 0.098], p=[0.45, 0.35, 0.2]))
    watch_side = int(rng.choice([-1, 1]))
    for side, arm in zip((-1, 1), body.arms, strict=True):
        skin = arm.outline(0, WRIST_T, 0.062, 0.056, 0.044, 0.042, 0.032)
        person.paint_skin(skin, ellipse(arm.at(0.02), body.px(0.03)))
        _hand(person, arm, side, body.skin, 0)
        if person.wants(ids.GLOVE):
            shape = canvas.cover(arm.outline(glove_t, WRIST_T + 0.02, 0.064, 0.054))
            angle = arm.angle(glove_t, 1)
            layer = person.add(ids.GLOVE, shape, glove_cloth, edge=0.45, angle=angle)
            _hand(person, arm, side, glove_cloth, layer)
        if sleeve_t > 0:
            _sleeve(person, garment, arm, sleeve_t, cloth, puff, bell)
        if person.wants(ids.WATCH) and side == watch_side:
            draw_watch(person, arm)


def _hand(person: Person, arm: Limb, side: int, cloth: Fabric, layer: int) -> None:
    body, canvas = person.body, person.canvas
    scale = 1.35 if layer else 1.0
    palm = arm.outline(WRIST_T - 0.02, 1.01, 0.034 * scale, 0.046 * scale, 0.026 * scale)
    tip = arm.at(0.95) - side * xy(body.px(0.026 * scale), 0)
    thumb = ribbon(np.stack([arm.at(0.87), tip]), np.array([0.02, 0.013]) * body.s * scale)
    canvas.paint(canvas.cover(palm, thumb), cloth, layer, folds=0.03, edge=0.3, outline=0.3)
    for offset in (-0.007, 0.0, 0.007):
        canvas.crease(arm.at([0.95, 1.0]) + xy(body.px(offset), 0), 1.0, 0.3)


def _sleeve(
    person: Person, garment: int, arm: Limb, t: float, cloth: Fabric, puff: float, bell: float
) -> None:
    body, canvas = person.body, person.canvas
    widths = (puff, puff * 0.92, (puff + bell) / 2.1, bell * 0.92, bell)
    cap = ellipse(arm.at(0.015), body.px(puff * 0.52), body.px(puff * 0.5))
    shape = canvas.cover(arm.outline(0.0, t, *widths), cap)
    style = dict(angle=arm.angle(0, t), edge=0.42, outline=0.5, shadow=0.45)
    layer = person.add(ids.SLEEVE, shape, cloth, garment, **style)
    for fold_t in (0.4, 0.47):
        if fold_t < t - 0.05:  # the elbow creases
            shifts = np.stack([-xy(body.px(0.025), 2), xy(0, 0), xy(body.px(0.012), 3)])
            canvas.crease(arm.at(fold_t) + shifts, 1.2, 0.35, within=shape, grey=15)
    cuff = np.minimum(canvas.cover(arm.outline(t - 0.05, t, 0.12)), shape)
    canvas.tint(cuff, contrast_color(cloth.color, 40), 0.4)
    if person.wants(ids.RUFFLE) and t > 0.2:
        angle, centre = arm.angle(t - 0.05, t), arm.at(t)
        across = np.array([np.cos(angle), np.sin(angle)]) * body.px(bell * 1.25) / 2
        line = np.stack([centre - across, centre, centre + across])
        details.draw_ruffle(person, layer, cloth, line, 0.035)


# -- parts of garments ---------------------------------------------------------------------


def _armholes(person: Person, shape: Coverage) -> None:
    for sign in (-1, 1):
        line = smooth(person.body.at([(0.108, 0.17), (0.088, 0.21), (0.094, 0.255)], sign))
        person.canvas.crease(line, 1.2, 0.4, within=shape)


def _neck_trim(
    person: Person, parent: int, cloth: Fabric, half: float, depth: float, v_neck: bool
) -> None:
    body = person.body
    line = body.neckline(half + 0.004, depth + 0.006, v_neck)
    shape = person.canvas.stroke(line, body.px(person.rng.uniform(0.016, 0.03)))
    trim = cloth.plain(contrast_color(cloth.color, 38))
    person.add(ids.NECKLINE, shape, trim, parent, outline=0.25)


def _collar(person: Person, parent: int, cloth: Fabric, half: float, depth: float) -> None:
    flap = [(half + 0.004, 0.15), (0.004, 0.166 + depth)]
    flap += [(half + 0.012, 0.196 + depth * 0.5), (half + 0.026, 0.168)]
    shape = person.canvas.cover(*(person.body.at(flap, sign) for sign in (-1, 1)))
    plain = cloth.plain(near_color(person.rng, contrast_color(cloth.color, 18), 3))
    person.add(ids.COLLAR, shape, plain, parent, outline=0.55, shadow=0.3)


def _lapels(person: Person, parent: int, cloth: Fabric, gap: float) -> None:
    end_y = person.rng.uniform(0.29, 0.36)
    plain = cloth.plain(contrast_color(cloth.color, 22))
    points = [(0.046, 0.152), (0.03 + gap * 0.4, 0.21), (gap + 0.004, end_y)]
    points += [(0.086, 0.236), (0.062, 0.216), (0.082, 0.2), (0.062, 0.158)]
    for sign in (-1, 1):
        shape = person.canvas.cover(person.body.at(points, sign))
        person.add(ids.LAPEL, shape, plain, parent, outline=0.55, shadow=0.4)


def _epaulettes(person: Person, parent: int, cloth: Fabric) -> None:
    body = person.body
    plain = cloth.plain(contrast_color(cloth.color, 30))
    for sign in (-1, 1):
        line = body.at([(0.058, 0.166), (body.shoulder + 0.012, 0.184)], sign)
        shape = person.canvas.cover(ribbon(line, np.array([0.022, 0.03]) * body.s))
        layer = person.add(ids.EPAULETTE, shape, plain, parent, outline=0.55, shadow=0.4)
        details.draw_dot(person, ids.BEAD, layer, line[0] * 0.8 + line[1] * 0.2, 0.005)


def _pocket(person: Person, parent: int, cloth: Fabric, outline: np.ndarray) -> None:
    canvas = person.canvas
    plain = cloth if person.rng.random() < 0.6 else cloth.plain(contrast_color(cloth.color, 24))
    layer = person.add(ids.POCKET, canvas.cover(outline), plain, parent, outline=0.6, folds=0.05)
    canvas.crease(outline[:2], 2.2, 0.5)
    if person.wants(ids.RIVET):
        for corner in outline[:2]:
            centre = corner * 0.86 + outline.mean(axis=0) * 0.14
            details.draw_dot(person, ids.RIVET, layer, centre, 0.005)


def _hip_pockets(person: Person, parent: int, cloth: Fabric, top_y: float) -> None:
    for sign in (-1, 1):
        box = [(0.03, top_y), (0.078, top_y + 0.006), (0.078, top_y + 0.056)]
        box += [(0.054, top_y + 0.066), (0.03, top_y + 0.052)]
        _pocket(person, parent, cloth, person.body.at(box, sign))


def _hood(person: Person, parent: int, cloth: Fabric) -> None:
    """Draw a hood that lies on the shoulders, and the throat in front of it."""
    body = person.body
    ring = [(-0.05, 0.205), (-0.098, 0.176), (-0.088, 0.118), (-0.05, 0.09), (0.05, 0.09)]
    ring += [(0.088, 0.118), (0.098, 0.176), (0.05, 0.205), (0, 0.17)]
    shape = person.canvas.cover(smooth(body.at(ring), closed=True))
    person.add(ids.HOOD, shape, cloth, parent, folds=0.16, outline=0.55)
    throat = np.stack([body.head, body.at((0, 0.165))])
    person.paint_skin(ribbon(throat, np.array([0.055, 0.05]) * body.s))
