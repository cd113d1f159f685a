"""One mask image -> the pixels of each of its values or colours."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from clothseg_utils.core.classes import MOST_CLASSES, is_background
from clothseg_utils.data.photos import open_photo
from clothseg_utils.intake.mask_names import MOST_VALUE, MaskNames, color_to_code
from clothseg_utils.intake.sizes import PhotoSize, Sized, move_raster, read_size

_COMMONEST = 50  # of the values without a name, of which a JPEG has thousands


@dataclass(frozen=True)
class Region:
    """The pixels of one value in one mask.

    Attributes:
        counts: COCO's compressed run lengths.
        area: pixels.
        bbox: (x, y, width, height), pixels.
    """

    counts: str
    area: int
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskReading:
    """What one mask holds; picklable.

    Attributes:
        digest: SHA-256 of the file.
        size_wh: of the photo and so of the regions, pixels.
        healed: what was done to the mask to fit the photo; empty where it did.
        regions: by value or colour: all that have a name, background apart; where nothing is
            named, all values but 0.
        unknown: pixels of the commonest values or colours that have no name.
        n_unknown: pixels of all of them.
        has_colors: it is an image of colours, and values were asked for: all are unknown.
        palette: RGB of its values, where it has a palette and no colours are named.
    """

    digest: bytes
    size_wh: tuple[int, int]
    healed: str
    regions: dict[int, Region]
    unknown: dict[int, int]
    n_unknown: int
    has_colors: bool
    palette: dict[int, tuple[int, ...]]


def read_mask_image(mask: Path, photo: Path, names: MaskNames | None) -> MaskReading:
    """Read a mask at its photo's size.

    Args:
        mask: the mask image.
        photo: its photo, of which only the header is read.
        names: of values or colours; None keeps every value.

    Raises:
        OSError: the photo cannot be opened.
        ValueError: one of the two is no such image, or the mask does not fit the photo.
    """
    size = read_size(photo)
    try:
        data = mask.read_bytes()
    except OSError as error:
        raise ValueError(f"the mask cannot be read: {error.strerror}") from None
    opened = _open_mask(data)
    image, healed = _fit(opened, size)
    palette = {} if names is not None and names.by_color else _palette(image)
    values, has_colors = _to_values(image, names)
    regions = dict(_regions(values, [] if has_colors else _named(values, names)))
    known = names.name_of if names is not None and not has_colors else regions
    others = _count_others(values, {0, *known})
    return MaskReading(
        digest=hashlib.sha256(data).digest(),
        size_wh=(size.width, size.height),
        healed=healed,
        regions=regions,
        unknown=dict(others.most_common(_COMMONEST)),
        n_unknown=others.total(),
        has_colors=has_colors,
        palette={value: color for value, color in palette.items() if value in regions},
    )


def _open_mask(data: bytes) -> Image.Image:
    try:
        image = open_photo(data, "of the mask")
        n_pictures = getattr(image, "n_frames", 1)
        image.load()
    except Exception as error:  # decoders answer damaged bytes with almost any type of exception
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known image format"
        raise ValueError(f"the mask cannot be read: {reason}") from None
    if n_pictures > 1:
        raise ValueError(f"the mask has {n_pictures} pictures; expected one")
    return image


def _fit(image: Image.Image, photo: PhotoSize) -> tuple[Image.Image, str]:
    """The mask at the photo's size and what was done to it; ValueError where that is uncertain."""
    own = Sized(image.size, photo)
    orientation = photo.orientation if own.relation == "swapped" else 1
    if orientation == 1 and own.relation not in ("equal", "scaled"):
        raise ValueError(
            f"the mask is {image.width} x {image.height} px and the photo {photo.width} x "
            f"{photo.height}; expected one size or one ratio"
        )
    healed = [] if orientation == 1 else ["turned as EXIF turns the photo"]
    if sorted(image.size) != sorted(own.photo_wh):
        healed.append("scaled to the photo's size (nearest)")
    return move_raster(image, orientation, own.photo_wh), ", ".join(healed)


def _palette(image: Image.Image) -> dict[int, tuple[int, ...]]:
    """RGB of each value of a palette image; empty for others."""
    colors = image.getpalette("RGB") if image.mode == "P" else None
    return dict(enumerate(zip(*[iter(colors or [])] * 3, strict=False)))


def _to_values(image: Image.Image, names: MaskNames | None) -> tuple[np.ndarray, bool]:
    """(H, W) values or codes of colours; and whether these are colours that nobody asked for."""
    if names is not None and names.by_color:
        return _to_codes(image), False
    if image.mode == "P":  # the index counts
        return np.asarray(image), False
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if not ((values >= 0) & (values <= MOST_VALUE) & (values % 1 == 0)).all():
            raise ValueError(
                f"values of {values.min():,} to {values.max():,}; expected whole ones of 0 to "
                f"{MOST_VALUE:,}"
            )
        return values.astype(np.int32), False
    if image.mode == "1":
        named = {1} if names is None else names.name_of
        white = 255 if 255 in named and 1 not in named else 1
        return np.where(np.asarray(image), white, 0).astype(np.uint8), False
    if image.mode == "L":
        return np.asarray(image).astype(np.uint8), False
    codes = _to_codes(image)
    blue = codes & 255
    if (codes == blue * 0x010101).all():  # grey all the same
        return blue.astype(np.uint8), False
    return codes, True


def _to_codes(image: Image.Image) -> np.ndarray:
    """(H, W) int32 codes of colours; what is wholly transparent is black."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of mode {image.mode} have no colours; expected 8 bits each")
    red, green, blue, alpha = np.moveaxis(np.asarray(image.convert("RGBA"), np.int32), -1, 0)
    return np.where(alpha > 0, color_to_code(red, green, blue), 0)


def _named(values: np.ndarray, names: MaskNames | None) -> list[int]:
    """The values to keep: those with a name, background apart; all but 0 where nothing is named."""
    if names is not None:
        return [value for value, name in names.name_of.items() if not is_background(name)]
    found = [value for value in np.unique(values).tolist() if value]
    return found if len(found) <= MOST_CLASSES else []  # more are counted alone


def _regions(values: np.ndarray, kept: Iterable[int]) -> Iterator[tuple[int, Region]]:
    columns = np.asfortranarray(values)  # COCO's run lengths go down the columns
    for value in kept:
        inside = columns == value
        if not inside.any():
            continue
        rle = mask_api.encode(inside.view(np.uint8))
        left, top, width, height = mask_api.toBbox(rle).tolist()
        yield (
            value,
            Region(rle["counts"].decode(), int(mask_api.area(rle)), (left, top, width, height)),
        )


def _count_others(values: np.ndarray, known: Iterable[int]) -> Counter[int]:
    """Pixels of each value that is not known."""
    others = values.ravel()
    for value in known:
        others = others[others != value]
    found, counts = np.unique(others, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))
