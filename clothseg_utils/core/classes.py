"""The class table: id, name, colour; and the map from Fashionpedia's categories to our classes."""

import colorsys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from clothseg_utils.core.text import first_names

IGNORE_INDEX = 255
"""Mask value of pixels that are neither trained on nor scored."""

Scheme = Literal["supercategory", "category"]

SUPERCATEGORY_NAMES = (
    "background",
    "closures",
    "upperbody",
    "head",
    "legs and feet",
    "garment parts",
    "arms and hands",
    "decorations",
    "neck",
    "others",
    "lowerbody",
    "waist",
    "wholebody",
)
"""Class names of the scheme "supercategory" on Fashionpedia; the index is the class id. Masks and
checkpoints depend on this order, so it never changes."""

MOST_CLASSES = IGNORE_INDEX
"""Classes that a mask of 8 bits can tell apart, background counted."""

FASHIONPEDIA_CATEGORIES = (
    ("shirt, blouse", "upperbody", "combo000000"),
    ("top, t-shirt, sweatshirt", "upperbody", "combo000001"),
    ("sweater", "upperbody", "obj000008_00"),
    ("cardigan", "upperbody", "obj000009_00"),
    ("jacket", "upperbody", "obj000010_00"),
    ("vest", "upperbody", "obj000011_00"),
    ("pants", "lowerbody", "obj000013_00"),
    ("shorts", "lowerbody", "obj000014_00"),
    ("skirt", "lowerbody", "obj000015_00"),
    ("coat", "wholebody", "obj000017_00"),
    ("dress", "wholebody", "obj000018_00"),
    ("jumpsuit", "wholebody", "obj000019_00"),
    ("cape", "wholebody", "obj000020_00"),
    ("glasses", "head", "obj000023_00"),
    ("hat", "head", "obj000025_00"),
    ("headband, head covering, hair accessory", "head", "combo000002"),
    ("tie", "neck", "obj000030_00"),
    ("glove", "arms and hands", "obj000032_00"),
    ("watch", "arms and hands", "obj000033_00"),
    ("belt", "waist", "obj000035_00"),
    ("leg warmer", "legs and feet", "obj000037_00"),
    ("tights, stockings", "legs and feet", "combo000003"),
    ("sock", "legs and feet", "obj000040_00"),
    ("shoe", "legs and feet", "obj000041_00"),
    ("bag, wallet", "others", "combo000004"),
    ("scarf", "others", "obj000045_00"),
    ("umbrella", "others", "obj000046_00"),
    ("hood", "garment parts", "obj000049_00"),
    ("collar", "garment parts", "obj000050_00"),
    ("lapel", "garment parts", "obj000051_00"),
    ("epaulette", "garment parts", "obj000052_00"),
    ("sleeve", "garment parts", "obj000053_00"),
    ("pocket", "garment parts", "obj000055_00"),
    ("neckline", "garment parts", "obj000056_00"),
    ("buckle", "closures", "obj000058_00"),
    ("zipper", "closures", "obj000059_00"),
    ("applique", "decorations", "obj000061_00"),
    ("bead", "decorations", "obj000062_00"),
    ("bow", "decorations", "obj000063_00"),
    ("flower", "decorations", "obj000064_00"),
    ("fringe", "decorations", "obj000065_00"),
    ("ribbon", "decorations", "obj000066_00"),
    ("rivet", "decorations", "obj000067_00"),
    ("ruffle", "decorations", "obj000068_00"),
    ("sequin", "decorations", "obj000069_00"),
    ("tassel", "decorations", "obj000070_00"),
)
"""(name, supercategory, taxonomy id) in Fashionpedia's files; the position is the category id."""

_BACKGROUND_COLOR = (32, 32, 32)

# Chosen by maximising the smallest CIELAB distance between any two under normal vision and
# simulated protanopia, deuteranopia and tritanopia (tests/test_classes.py holds the floor).
_SUPERCATEGORY_COLORS = (
    (252, 173, 190),  # closures
    (106, 65, 244),  # upperbody
    (206, 30, 199),  # head
    (97, 252, 157),  # legs and feet
    (179, 252, 57),  # garment parts
    (142, 65, 63),  # arms and hands
    (183, 203, 84),  # decorations
    (157, 132, 171),  # neck
    (114, 168, 103),  # others
    (138, 200, 252),  # lowerbody
    (121, 59, 126),  # waist
    (208, 67, 44),  # wholebody
)


class _CategoryLike(Protocol):
    """What a category must offer; `coco.Category` does."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def supercategory(self) -> str: ...


@dataclass(frozen=True)
class ClassTable:
    """The classes of one scheme.

    Attributes:
        scheme: "supercategory" (13 classes on Fashionpedia, else those of the file) or "category"
            (47 on Fashionpedia).
        names: class names, index = class id, 0 = "background".
        colors: (C, 3) uint8 RGB, read-only, 0..255; index = class id.
        class_of_category: category_id of the annotation JSON -> class id, 1..C-1.
    """

    scheme: Scheme
    names: tuple[str, ...]
    colors: np.ndarray
    class_of_category: Mapping[int, int]

    @property
    def num_classes(self) -> int:
        """Number of classes, background counted."""
        return len(self.names)


def class_table(scheme: Scheme, categories: Iterable[_CategoryLike]) -> ClassTable:
    """Build the class table of a scheme from the categories of an annotation JSON.

    Scheme "supercategory" reads each category's own `supercategory` field, or its name where that
    is empty. Where all of them are Fashionpedia's, the classes are its 13, whichever occur; else
    they are the file's own, in the order of their smallest category id. Scheme "category" gives
    each category its own class, in the order of their ids. Names that differ in case, in spaces or
    in Unicode form only are one class.

    Args:
        scheme: "supercategory" or "category".
        categories: records with `id`, `name` and `supercategory`.

    Raises:
        ValueError: unknown scheme, a class without a name or called background, or more classes
            than a uint8 mask holds.

    Example:
        >>> from types import SimpleNamespace
        >>> shoe = SimpleNamespace(id=23, name="shoe", supercategory="legs and feet")
        >>> dict(class_table("supercategory", [shoe]).class_of_category)
        {23: 4}
        >>> class_table("category", [shoe]).names
        ('background', 'shoe')
    """
    ordered = sorted(categories, key=lambda category: category.id)
    if scheme == "supercategory":
        class_names = [plain_name(c.supercategory) or plain_name(c.name) for c in ordered]
    elif scheme == "category":
        class_names = [plain_name(c.name) for c in ordered]
    else:
        raise ValueError(f'unknown scheme "{scheme}"; expected {" or ".join(get_args(Scheme))}.')
    for category, name in zip(ordered, class_names, strict=True):
        if not name:
            raise ValueError(
                f"category {category.id} has no name; expected one. Name it in the annotation file."
            )
        if is_background(name):
            raise ValueError(
                f'category {category.id} "{category.name}" has the class "{name}", which is what '
                "nobody annotates; expected another class. Leave it out: `convert` with null for "
                "it in --classes."
            )
    keys = [name.casefold() for name in class_names]
    names: tuple[str, ...] = SUPERCATEGORY_NAMES
    if scheme == "category" or not set(keys) <= set(SUPERCATEGORY_NAMES):
        # The first spelling of each stays; dicts keep their order.
        spelling = dict(zip(reversed(keys), reversed(class_names), strict=True))
        names = ("background", *(spelling[key] for key in dict.fromkeys(keys)))
    if len(names) > MOST_CLASSES:
        raise ValueError(
            f"{len(names)} classes do not fit a uint8 mask; expected at most {MOST_CLASSES}. "
            "Map some categories to one class."
        )
    class_ids = {name.casefold(): class_id for class_id, name in enumerate(names)}
    class_of_category = {c.id: class_ids[key] for c, key in zip(ordered, keys, strict=True)}
    return ClassTable(scheme, names, class_colors(len(names)), class_of_category)


def plain_name(name: str) -> str:
    """Write a class name in one way: Unicode form NFC, single spaces.

    Example:
        >>> plain_name(" T-shirt\\n  long ")
        'T-shirt long'
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


def name_differences(names: Sequence[str], others: Sequence[str]) -> str:
    """Say in which classes two lists differ.

    Example:
        >>> name_differences(["background", "hat"], ["background", "cap", "hat"])
        'only in the second: cap'
        >>> name_differences(["cap", "hat"], ["hat", "cap"])
        'the same in another order'
    """
    first, second = ([n for n in a if n not in b] for a, b in ((names, others), (others, names)))
    parts = [
        f"only in the {which}: {first_names(only)}"
        for which, only in (("first", first), ("second", second))
        if only
    ]
    return ", ".join(parts) or "the same in another order"


def is_background(name: str) -> bool:
    """Whether a name means background, as the label lists of many tools call it.

    Example:
        >>> is_background("Background"), is_background("_background_"), is_background("back")
        (True, True, False)
    """
    return name.strip("_ ").casefold() == "background"


def class_colors(num_classes: int) -> np.ndarray:
    """Colours by class id: the one table that every figure, mask and overlay uses.

    Up to 13 classes, such as those of scheme "supercategory" on Fashionpedia, have hand-picked
    colours that colour-blind readers can tell apart. Longer tables step hue by the golden angle and
    lightness through five levels.

    Returns:
        (num_classes, 3) uint8 RGB, 0..255, read-only; row 0 is background.

    Example:
        >>> class_colors(13)[0].tolist()
        [32, 32, 32]
    """
    if num_classes <= len(_SUPERCATEGORY_COLORS) + 1:
        rows = [_BACKGROUND_COLOR, *_SUPERCATEGORY_COLORS][:num_classes]
    else:
        # Chosen by maximising the smallest CIELAB distance between any two of 47 colours.
        lightness = (0.4, 0.7, 0.5, 0.8, 0.6)
        rows = [_BACKGROUND_COLOR]
        for index in range(num_classes - 1):
            hue = (index * 0.6180339887) % 1.0
            rgb = colorsys.hls_to_rgb(hue, lightness[index % len(lightness)], 0.75)
            red, green, blue = (round(255 * channel) for channel in rgb)
            rows.append((red, green, blue))
    colors = np.array(rows, dtype=np.uint8).reshape(num_classes, 3)
    colors.setflags(write=False)
    return colors
