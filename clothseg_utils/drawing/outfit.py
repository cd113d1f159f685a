"""What a person wears, and the person who wears it."""

from dataclasses import dataclass

import numpy as np

from clothseg_utils.drawing import ids
from clothseg_utils.drawing.body import Body
from clothseg_utils.drawing.canvas import (
    Canvas,
    Coverage,
    Fabric,
    Pattern,
    near_color,
    random_color,
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

# How often a person wears each optional thing; an outfit may have no place for it.
_WISHES = {
    ids.GLASSES: 0.25,
    ids.HAT: 0.4,
    ids.HEADBAND: 0.2,
    ids.TIE: 0.55,
    ids.GLOVE: 0.55,
    ids.WATCH: 0.2,
    ids.BELT: 0.65,
    ids.LEG_WARMER: 0.1,
    ids.TIGHTS: 0.3,
    ids.SOCK: 0.3,
    ids.BAG: 0.5,
    ids.SCARF: 0.12,
    ids.UMBRELLA: 0.06,
    ids.HOOD: 0.2,
    ids.COLLAR: 0.4,
    ids.LAPEL: 0.4,
    ids.EPAULETTE: 0.08,
    ids.POCKET: 0.35,
    ids.BUCKLE: 0.6,
    ids.ZIPPER: 0.65,
    ids.APPLIQUE: 0.1,
    ids.BEAD: 0.15,
    ids.BOW: 0.25,
    ids.FLOWER: 0.1,
    ids.FRINGE: 0.12,
    ids.RIBBON: 0.1,
    ids.RIVET: 0.06,
    ids.RUFFLE: 0.3,
    ids.SEQUIN: 0.1,
    ids.TASSEL: 0.08,
}

# Jeans are of denim and sweaters are knitted: cloth may hint at the garment, colour never does.
_TYPICAL_PATTERNS: dict[int | None, tuple[Pattern, ...]] = {
    ids.SHIRT: ("stripes",),
    ids.TOP: ("stripes",),
    ids.SWEATER: ("knit",),
    ids.CARDIGAN: ("knit",),
    ids.JACKET: ("herringbone",),
    ids.VEST: ("herringbone",),
    ids.PANTS: ("denim",),
    ids.SHORTS: ("denim",),
    ids.SKIRT: ("denim",),
    ids.COAT: ("check",),
    ids.DRESS: ("floral", "dots"),
    ids.JUMPSUIT: ("dots", "floral"),
    ids.CAPE: ("check",),
}


@dataclass(frozen=True)
class Outfit:
    """What a person wears: main garments, and the other categories to be seen on them."""

    main: int  # one of ids.INNER, or of ids.WHOLE and then lower is None
    outer: int | None  # one of ids.OUTER
    lower: int | None  # one of ids.LOWER
    wishes: frozenset[int]
    cloths: tuple[Fabric, Fabric, Fabric]  # of main, of outer, of lower


def plan_outfit(rng: np.random.Generator, required: int | None = None) -> Outfit:
    """Choose an outfit, with the required category in it."""
    inner = int(rng.choice(ids.INNER, p=[0.36, 0.38, 0.26]))
    outer = (None, *ids.OUTER)[rng.choice(6, p=[0.38, 0.11, 0.2, 0.08, 0.17, 0.06])]
    lower: int | None = int(rng.choice(ids.LOWER, p=[0.5, 0.22, 0.28]))
    whole = int(rng.choice(ids.WHOLE, p=[0.75, 0.25])) if rng.random() < 0.42 else None
    wishes = {wish for wish, chance in _WISHES.items() if rng.random() < chance}
    if required is not None:
        wishes.add(required)
        # make room for it: a place where it can be seen, and nothing that hides it
        if required in ids.INNER:
            inner, whole = required, None
            outer = None if outer == ids.CAPE else outer
        elif required in ids.OUTER:
            outer = required
        elif required in ids.LOWER:
            lower, whole = required, None
            outer = None if outer == ids.COAT else outer
        elif required in ids.WHOLE:
            whole = required
        elif required in (ids.TIE, ids.COLLAR):
            inner, whole, outer = ids.SHIRT, None, None if outer == ids.CAPE else outer
            wishes -= {ids.SCARF}
        elif required in (ids.LAPEL, ids.EPAULETTE, ids.HOOD):
            outer = ids.JACKET if outer not in (ids.JACKET, ids.COAT) else outer
            wishes -= {ids.SCARF, ids.BAG} | ({ids.LAPEL} if required == ids.HOOD else set())
        elif required in (ids.ZIPPER, ids.RIVET):
            outer = ids.JACKET
        elif required in (ids.BELT, ids.BUCKLE):
            outer = None
            wishes |= {ids.BELT, ids.BUCKLE}
        elif required in (ids.NECKLINE, ids.APPLIQUE, ids.SEQUIN, ids.BEAD, ids.POCKET):
            inner, whole, outer = (ids.SHIRT if required == ids.BEAD else ids.TOP), None, None
            wishes -= {ids.SCARF, ids.TIE}
        elif required in (ids.TIGHTS, ids.SOCK, ids.LEG_WARMER):
            lower, whole = (ids.SHORTS if lower == ids.PANTS else lower), None
            outer = None if outer == ids.COAT else outer
            wishes -= {ids.TIGHTS, ids.SOCK, ids.LEG_WARMER} - {required}
        elif required == ids.RUFFLE:
            lower, whole, outer = ids.SKIRT, None, None
        elif required == ids.HEADBAND:
            wishes -= {ids.HAT}
        elif required in (ids.FRINGE, ids.TASSEL):
            wishes |= {ids.SCARF}
        elif required in (ids.RIBBON, ids.FLOWER):
            wishes |= {ids.HAT}
    main, lower = (inner, lower) if whole is None else (whole, None)
    color = random_color(rng)
    cloths = [Fabric.random(rng, color, _TYPICAL_PATTERNS.get(main, ()))]
    for garment in (outer, lower):  # often of nearly the colour that they overlap
        near = near_color(rng, color) if rng.random() < 0.35 else None
        cloths.append(Fabric.random(rng, near, _TYPICAL_PATTERNS.get(garment, ())))
    return Outfit(main, outer, lower, frozenset(wishes), (cloths[0], cloths[1], cloths[2]))


@dataclass
class Person:
    """One person on a canvas: what all who draw a part of them share."""

    canvas: Canvas
    body: Body
    outfit: Outfit
    rng: np.random.Generator

    def __post_init__(self) -> None:
        """Draw the looks that several parts have in common."""
        rng = self.rng
        hair = near_color(rng, _HAIR_COLORS[rng.integers(len(_HAIR_COLORS))], 6)
        self.hair = Fabric(hair, sheen=0.9)
        self.hair_style = str(rng.choice(_HAIR_STYLES, p=[0.24, 0.2, 0.22, 0.14, 0.06, 0.14]))
        metal = near_color(rng, _METALS[rng.integers(len(_METALS))])
        self.metal = Fabric(metal if rng.random() < 0.6 else random_color(rng), sheen=1.0)

    def wants(self, category_id: int) -> bool:
        """Tell whether the outfit asks for a category."""
        return category_id in self.outfit.wishes

    def add(
        self, category_id: int, shape: Coverage, cloth: Fabric, parent: int = 0, **style: float
    ) -> int:
        """Paint a thing to be annotated, as `Canvas.paint` does, and return its layer.

        A garment part is sewn to its parent: the garment's mask contains it.
        """
        sewn = ids.HOOD <= category_id <= ids.NECKLINE
        layer = self.canvas.add_layer(category_id, parent, sewn=sewn)
        self.canvas.paint(shape, cloth, layer, **style)
        return layer

    def paint_skin(self, *polygons: np.ndarray) -> None:
        """Show skin."""
        shape = self.canvas.cover(*polygons)
        self.canvas.paint(shape, self.body.skin, folds=0.02, edge=0.22, outline=0.18)
