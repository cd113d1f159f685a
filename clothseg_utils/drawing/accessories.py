"""What is worn over clothes or carried: ties, belts, scarves, watches, bags, umbrellas."""

import numpy as np

from clothseg_utils.drawing import details, ids
from clothseg_utils.drawing.body import WAIST_Y, WRIST_T, Limb
from clothseg_utils.drawing.canvas import Fabric, ellipse, ribbon, smooth, xy
from clothseg_utils.drawing.outfit import Person


def draw_belt(person: Person) -> None:
    """Draw a belt with a bow or a buckle."""
    body, canvas, rng = person.body, person.canvas, person.rng
    width = rng.uniform(0.05, 0.1)
    y = WAIST_Y - 0.012
    color = person.outfit.cloths[0].color if rng.random() < 0.2 else None
    cloth = Fabric.random(rng, color).plain()
    shape = canvas.cover(body.waist_band(y, y + width, 0.014))
    layer = person.add(ids.BELT, shape, cloth, folds=0.04, edge=0.35, outline=0.5, shadow=0.4)
    middle = y + width / 2
    if person.wants(ids.BOW):
        details.draw_bow(person, layer, Fabric.random(rng), body.at((0, middle)), body.px(0.05))
    elif person.wants(ids.BUCKLE):
        centre = body.at((0, middle + 0.006))
        details.draw_buckle(person, layer, centre, body.px(width * 0.62), body.px(width * 0.5))
    if person.wants(ids.RIVET):
        for x in (-0.055, -0.04, 0.04, 0.055):
            details.draw_dot(person, ids.RIVET, layer, body.at((x, middle + 0.003)), 0.006)


def draw_tie(person: Person) -> None:
    """Draw a tie or a bow tie."""
    body, canvas, rng = person.body, person.canvas, person.rng
    cloth = Fabric.random(rng, typical=("stripes",))
    layer = canvas.add_layer(ids.TIE)
    end_y, width = rng.uniform(0.36, 0.42), rng.uniform(0.04, 0.065)
    if rng.random() < 0.2:
        details.draw_bow_loops(person, layer, cloth, body.at((0, 0.188)), body.px(0.045))
        return
    blade = [(-0.009, 0.199), (0.009, 0.199), (width, end_y), (0, end_y + 0.03), (-width, end_y)]
    knot = [(-0.015, 0.178), (0.015, 0.178), (0.01, 0.2), (-0.01, 0.2)]
    canvas.fill(body.at(blade), cloth, layer, angle=0.6, outline=0.55, shadow=0.5)
    canvas.fill(body.at(knot), cloth, layer, angle=-0.6, outline=0.55)


def draw_scarf(person: Person) -> None:
    """Wrap a scarf around the neck; one or two of its ends hang down."""
    canvas, body, rng = person.canvas, person.body, person.rng
    cloth = Fabric.random(rng)
    layer = canvas.add_layer(ids.SCARF)
    end_y = rng.uniform(0.3, 0.44)
    side = int(rng.choice([-1, 1]))
    tails = [(side * 0.03, side * 0.055, end_y), (-side * 0.005, side * 0.005, end_y - 0.05)]
    for start_x, end_x, y in tails[: int(rng.integers(1, 3))]:
        line = smooth(body.at([(start_x, 0.175), (end_x, 0.27), (end_x, y)]))
        shape = ribbon(line, np.linspace(body.px(0.04), body.px(0.056), len(line)))
        canvas.fill(shape, cloth, layer, outline=0.5, folds=0.16, shadow=0.5)
        half = xy(body.px(0.027), 0)
        if person.wants(ids.FRINGE):
            edge = np.stack([line[-1] - half, line[-1] + half])
            details.draw_fringe(person, layer, cloth, edge, 0.035)
        elif person.wants(ids.TASSEL):
            for shift in (-0.7, 0.7):
                details.draw_tassel(person, layer, cloth, line[-1] + half * shift)
    ring = [(-0.062, 0.15), (0, 0.168), (0.062, 0.15), (0.07, 0.184), (0, 0.214), (-0.07, 0.184)]
    wrap = smooth(body.at(ring), closed=True)
    canvas.fill(wrap, cloth, layer, outline=0.5, folds=0.2, shadow=0.5)
    canvas.crease(smooth(body.at([(-0.062, 0.17), (0, 0.192), (0.06, 0.166)])), 1.4, 0.4)


def draw_watch(person: Person, arm: Limb) -> None:
    """Draw a watch above the hand."""
    body, canvas, t = person.body, person.canvas, WRIST_T - 0.05
    strap = canvas.cover(arm.outline(t - 0.025, t + 0.03, 0.046))
    layer = person.add(ids.WATCH, strap, Fabric.random(person.rng).plain(), shadow=0.3)
    dial = arm.at(t)
    canvas.fill(ellipse(dial, body.px(0.017)), person.metal, layer)
    canvas.tint(canvas.cover(ellipse(dial, body.px(0.011))), 240)
    canvas.crease(np.stack([dial, dial + xy(0, -body.px(0.009))]), 1.2, 0.8)


def draw_bag(person: Person) -> None:
    """Draw a bag, held in a hand or on a strap over a shoulder."""
    canvas, body, rng = person.canvas, person.body, person.rng
    layer = canvas.add_layer(ids.BAG)
    cloth = Fabric.random(rng)
    side = int(rng.choice([-1, 1]))
    w, h = body.px(rng.uniform(0.07, 0.11)), body.px(rng.uniform(0.1, 0.15))
    if rng.random() < 0.6:  # held in the hand, below a handle
        hand = body.arms[0 if side < 0 else 1].at(0.95)
        centre = hand + xy(0, body.px(0.05) + h / 2)
        handle = smooth([centre + xy(-w * 0.55, -h / 2), hand, centre + xy(w * 0.55, -h / 2)])
    else:  # on a strap over the shoulder
        centre = body.at((body.hip + 0.05, 0.47), side)
        handle = np.stack([body.at((0.085, 0.18), side), centre + xy(0, -h / 2)])
    strap = canvas.stroke(handle, max(2.5, body.px(0.012)))
    canvas.paint(strap, cloth.plain(), layer, outline=0.4, shadow=0.4)
    box = [(-0.9, -1), (0.9, -1), (1.05, 0.8), (0.9, 1), (-0.9, 1), (-1.05, 0.8)]
    shape = centre + np.multiply(box, [w, h / 2])
    canvas.fill(shape, cloth, layer, outline=0.55, edge=0.4, shadow=0.5)
    flap = [(-0.92, -1), (0.92, -1), (0.8, 0.0), (0, 0.15), (-0.8, 0.0)]
    shape = centre + np.multiply(flap, [w, h / 2])
    canvas.fill(shape, cloth.plain(), layer, outline=0.5, edge=0.25, shadow=0.3)
    if person.wants(ids.BUCKLE):
        details.draw_buckle(person, layer, centre + xy(0, h * 0.08), body.px(0.022), body.px(0.018))
    elif person.wants(ids.ZIPPER):
        line = np.stack([centre + xy(-w * 0.8, h * 0.25), centre + xy(w * 0.8, h * 0.25)])
        details.draw_zipper(person, layer, line, 0.012)
    if person.wants(ids.TASSEL):
        details.draw_tassel(person, layer, cloth, centre + xy(w * 0.7, -h * 0.1))
    if person.wants(ids.FRINGE):
        line = np.stack([centre + xy(-w * 0.9, h * 0.45), centre + xy(w * 0.9, h * 0.45)])
        details.draw_fringe(person, layer, cloth, line, 0.04)


def draw_umbrella(person: Person) -> tuple[int, np.ndarray]:
    """Draw an umbrella behind everything else; return its layer and its top, (2,) pixels."""
    canvas, body = person.canvas, person.body
    hand = body.arms[1].at(0.94)
    centre = np.array([(hand[0] + body.head[0]) / 2, body.top_y - body.px(0.05)])
    rx, ry = body.px(0.27), body.px(0.14)
    t = np.linspace(np.pi, 2 * np.pi, 24)
    dome = centre + np.stack([rx * np.cos(t), ry * np.sin(t)], axis=1)
    edge = np.linspace(1, -1, 41)
    scallop = np.stack([edge * rx, -np.abs(np.sin(edge * 2.5 * np.pi)) * body.px(0.022)], axis=1)
    shape = canvas.cover(np.concatenate([dome, centre + scallop]))
    layer = person.add(ids.UMBRELLA, shape, Fabric.random(person.rng), folds=0.04, outline=0.5)
    for x in np.linspace(-0.6, 0.6, 4):
        rib = np.array([(0, -ry), (x * rx * 0.75, -ry * 0.6), (x * rx, -1)])
        canvas.crease(smooth(centre + rib), 1.3, 0.45)
    return layer, centre - xy(0, body.px(0.11))


def draw_umbrella_rod(person: Person, layer: int, top: np.ndarray) -> None:
    """Put the umbrella in the hand; its rod runs behind the head and the hand holds it."""
    canvas, hand = person.canvas, person.body.arms[1].at(0.94)
    line = np.stack([top, hand, hand + (hand - top) * 0.12])
    rod = canvas.stroke(line, max(2.5, person.body.px(0.009)))
    rod[canvas.person & (canvas.owner != layer)] = 0
    canvas.paint(rod, person.metal, layer, folds=0)
