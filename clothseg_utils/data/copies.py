"""Copies of one photo, by their names and by their pictures: they belong on one side of a split.

Two pictures are near-equal where at most `MOST_BITS` of the 256 bits of their hashes differ, one of
the two mirrored if that is closer. Measured:

| 714 street photos of Clothing Co-Parsing | bits that differ |
|---|---|
| JPEG of quality 50, half the size, 10 % brighter, mirrored | at most 20 |
| cropped by 5 % in all (2.5 % a side) | at most 65; 2 of the 714 above the limit |
| the 6 pairs that are in fact one photo, recoloured and cropped | 17 to 44 |
| all other 254,535 pairs | at least 80 |

Among 300 drawn photos no pair is closer than 78; of the same people cut out on white, 3 of 253,828
pairs are at or below the limit though they are different ones. A copy that is turned, or cropped by
more, is not found.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ImageOps

from clothseg_utils.core.text import first_names
from clothseg_utils.data.photo_cache import look_once
from clothseg_utils.data.photos import PHOTO_SUFFIXES, open_photo, read_photo

MOST_BITS = 60
"""Pictures whose hashes differ in more bits than these are not near-equal."""

_SIDE, _KEPT = 64, 16  # pixels of the small picture, and its lowest frequencies in each direction

# A plain area, a gradient or an edge has a few frequencies alone: equal ones are no copies.
_DETAIL, _FEWEST_DETAILS = 4.0, 32

_BLOCK = 1 << 18  # pairs that are compared at a time: their arrays stay in the processor's cache

# What programs add to the name of a photo for a copy of it. Numbers alone ("dress_012",
# "download (3)") are no sign: they count different photos as often.
_COPY_MARKS = re.compile(
    "(?:"
    r"(?:_(?:jpe?g|png|webp|bmp|tiff?|gif|heic|avif))?\.rf\.[0-9a-z]{8,}"  # Roboflow
    r"|[ _-](?:mp4|mov|avi|mkv|webm|m4v)[ _-]\d+"  # its frames of a video
    r"|[ _-]frame[ _-]?\d+"
    r"|[ _-](?:crop|cropped|aug|augmented|[hv]?flip|flipped|mirrored)[ _-]?\d*"
    r"|[ _-](?:rot|rotated?)[ _-]?(?:90|180|270)"
    r"| (?:- )?copy(?: \d+| \(\d+\))?"  # Windows and macOS
    ")+$",
    re.IGNORECASE,
)


class NearEqual(NamedTuple):
    """Two photos that are near-equal, and in how many of 256 bits their hashes differ."""

    first: str
    second: str
    bits: int


@dataclass(frozen=True)
class Groups:
    """Photos that belong together, as copies of one source or by the user's pattern.

    Attributes:
        key_of: photo name -> name of the first photo of its group; a photo on its own is its own.
        pairs: near-equal photos that names alone had not put together.
        unmatched: photos whose names the user's pattern does not match.
        broken: photos that cannot be decoded.
    """

    key_of: Mapping[str, str]
    pairs: tuple[NearEqual, ...]
    unmatched: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Key -> photos of each group of two or more."""
        return {key: n for key, n in Counter(self.key_of.values()).items() if n > 1}


def source_groups(
    photos: Mapping[str, Path], *, pattern: str | None = None, cache_path: Path | None = None
) -> Groups:
    """Put photos together that are copies of one source by their names, or near-equal.

    Args:
        photos: name, which may have folders, -> file. A photo that cannot be read has no picture.
        pattern: regular expression, searched in each name: photos with equal groups of it, or equal
            matches if it has no group, belong together too.
        cache_path: as for `hash_photos`.

    Raises:
        ValueError: the pattern is no regular expression, or matches no name.
    """
    names = sorted(photos)
    matched = {} if pattern is None else _matched(names, pattern)
    parent = {name: name for name in names}

    def first_of(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    def join(one: str, other: str) -> bool:
        first, second = sorted((first_of(one), first_of(other)))
        parent[second] = first
        return first != second

    for source_of in ({name: _source(name) for name in names}, matched):
        seen: dict[str, str] = {}
        for name, source in source_of.items():
            join(name, seen.setdefault(source, name))
    hashes = hash_photos({name: photos[name] for name in names}, cache_path=cache_path)
    # A thousand frames of one scene are half a million pairs: only those are kept that join.
    equal, different = _take_equal(hashes)
    close = chain(equal, _close_pairs(different, different, within=True))
    pairs = sorted((pair for pair in close if join(pair.first, pair.second)), key=_closeness)
    return Groups(
        key_of={name: first_of(name) for name in photos},
        pairs=tuple(pairs),
        unmatched=() if pattern is None else tuple(n for n in names if n not in matched),
        broken=hashes.broken,
    )


def _source(name: str) -> str:
    """Name of a photo without suffix and without the marks of a copy."""
    path = PurePosixPath(name.replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name
    return str(path.with_name(_COPY_MARKS.sub("", stem) or stem))  # a mark alone names no source


def _matched(names: Sequence[str], pattern: str) -> dict[str, str]:
    """What the user's pattern finds in each name; names where it finds nothing share nothing."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is no regular expression ({error}); expected one such as '^[^_]+', which "
            "puts photos together by what stands before the first underscore."
        ) from None
    found = {name: match for name in names if (match := search(name))}
    parts = {name: match.groups("") or (match[0],) for name, match in found.items()}
    keys = {name: "/".join(of_name) for name, of_name in parts.items() if any(of_name)}
    if not keys:
        raise ValueError(
            f"{pattern!r} matches no photo name, such as {first_names(names[:2])}; expected a part "
            "that photos of one group share."
        )
    return keys


@dataclass(frozen=True)
class Hashes:
    """Hashes of photos: names, and (4, n) uint64, the even columns' bits before the odd ones'.

    `broken` are photos that cannot be decoded.
    """

    names: tuple[str, ...]
    words: np.ndarray
    broken: tuple[str, ...] = ()


def hash_photos(photos: Mapping[str, Path], *, cache_path: Path | None = None) -> Hashes:
    """Hash the pictures of photos; those that cannot be read, or have no detail, have none.

    Args:
        photos: name -> file.
        cache_path: as for `look_once`.
    """

    def look(name: str) -> str | None:
        try:
            return _picture_hash(_small_picture(photos[name]))
        except Exception:  # of almost any type, as in `decode_photo`
            return None

    found = look_once(photos, look, str | None, cache_path=cache_path, desc="comparing photos")
    hashes = {name: digits for name, digits in found.items() if digits}
    packed = np.frombuffer(bytes.fromhex("".join(hashes.values())), np.uint64)
    words = np.ascontiguousarray(packed.reshape(-1, 4).T)
    return Hashes(tuple(hashes), words, tuple(n for n, digits in found.items() if digits is None))


def hash_folder(folder: Path) -> Hashes:
    """Hash the photos that lie in a folder.

    Raises:
        FileNotFoundError: it is no folder, or holds no photo.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    photos = {path.name: path for path in paths if path.suffix.lower() in PHOTO_SUFFIXES}
    if not photos:
        raise FileNotFoundError(f"no photo in {folder}; expected a folder of photos.")
    return hash_photos(photos)


def near_equal(first: Hashes, second: Hashes) -> list[NearEqual]:
    """Find which photos of `second` are near-equal to one of `first`: the closest one of each."""
    closest: dict[str, NearEqual] = {}
    for pair in _close_pairs(first, second, within=False):
        if pair.second not in closest or pair.bits < closest[pair.second].bits:
            closest[pair.second] = pair
    return sorted(closest.values(), key=_closeness)


def _closeness(pair: NearEqual) -> tuple[int, str, str]:
    return pair.bits, pair.first, pair.second


def _take_equal(hashes: Hashes) -> tuple[list[NearEqual], Hashes]:
    """Pairs of equal hashes, each with the first of them; and the hashes that differ."""
    first_of: dict[bytes, int] = {}
    equal: list[NearEqual] = []
    for number, hash_ in enumerate(hashes.words.T):
        first = first_of.setdefault(hash_.tobytes(), number)
        if first != number:
            equal.append(NearEqual(hashes.names[first], hashes.names[number], 0))
    kept = list(first_of.values())
    names = tuple(hashes.names[number] for number in kept)
    return equal, Hashes(names, np.ascontiguousarray(hashes.words[:, kept]))


def read_pairs(
    pairs: Sequence[NearEqual], train_dir: Path, val_dir: Path, most: int = 8
) -> tuple[list[np.ndarray], list[str]]:
    """Read the photos of the first pairs, train's before val's each, and title them."""
    photos, titles = [], []
    for pair in pairs[:most]:
        photos += [read_photo(train_dir / pair.first), read_photo(val_dir / pair.second)]
        titles += [f"train {pair.first}", f"val {pair.second}"]
    return photos, titles


def _close_pairs(first: Hashes, second: Hashes, *, within: bool) -> Iterator[NearEqual]:
    """Compare every pair, in blocks: 45,000 photos among themselves take some seconds."""
    n_rows = max(1, _BLOCK // max(1, len(second.names)))
    for start in range(0, len(first.names), n_rows):
        skipped = start + 1 if within else 0
        differing = first.words[:, start : start + n_rows, None] ^ second.words[:, None, skipped:]
        counts = np.bitwise_count(differing)
        # To mirror a picture turns the sign of every odd column's frequency, and no other.
        odd = counts[2] + counts[3]
        bits = counts[0] + counts[1] + np.minimum(odd, 128 - odd)
        for row, column in np.argwhere(bits <= MOST_BITS).tolist():
            if not within or column >= row:
                one, other = first.names[start + row], second.names[skipped + column]
                yield NearEqual(one, other, int(bits[row, column]))


def _small_picture(path: Path) -> np.ndarray:
    """A photo in grey, shrunk to a square: (64, 64) float32, 0..255."""
    with open_photo(path, path.name) as photo:
        if photo.format == "JPEG":  # decoded at a fraction of its size: a tenth of the time
            photo.draft("L", (2 * _SIDE, 2 * _SIDE))
            grey = np.asarray(ImageOps.exif_transpose(photo).convert("L"))
        else:
            grey = cv2.cvtColor(read_photo(path), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _picture_hash(picture: np.ndarray) -> str:
    """Signs of a small picture's lowest frequencies, 64 hex digits; "" without detail.

    Source: the DCT hash of pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010), which cuts at the median; cut at 0, a mirrored picture's hash follows.
    """
    frequencies = cv2.dct(picture)[:_KEPT, :_KEPT]
    if np.count_nonzero(np.abs(frequencies) > _DETAIL) < _FEWEST_DETAILS:
        return ""
    bits = np.concatenate([frequencies[:, 0::2], frequencies[:, 1::2]], axis=None) > 0
    return np.packbits(bits).tobytes().hex()
