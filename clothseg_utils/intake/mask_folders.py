"""A folder of photos and a folder of masks -> the records that a COCO file would give."""

import contextlib
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from clothseg_utils.core.classes import is_background
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import count_text, first_names, folded
from clothseg_utils.core.workers import usable_cores, worker_pool
from clothseg_utils.data.coco import Category, CocoFile, ImageRecord, PackedAnnotation, Problem
from clothseg_utils.data.conversion import RECORD_NAME
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.data.photos import PHOTO_SUFFIXES
from clothseg_utils.data.records import ProblemKind
from clothseg_utils.intake.mask_images import MaskReading, read_mask_image
from clothseg_utils.intake.mask_names import MaskNames, code_to_color, read_mask_names

NO_MASK = "no mask of its name"
NO_PHOTO = "no photo fits"
"""What `CocoFile.problems` say of a photo, and of a mask, on its own."""

_STEM_ENDING = re.compile(r"[-_. ](masks?|seg|segmentation|labels?)$", re.IGNORECASE)
_VOID = (255, 65_535)  # in index masks the usual value of pixels that nobody knows
_MOST_UNNAMED = 64  # more values than this are smoothed edges rather than classes
_MOST_BROKEN = 0.1
_NEAR = 40  # a colour no further from a named one, in each channel, was meant to be that one
_SHOWN = 20  # of colours to be named

_CHUNK_MASKS = 16
_MIN_MASKS_PER_WORKER = 100  # below this a process costs more to start than it saves


@dataclass(frozen=True)
class _Pair:
    """A photo and its mask, by their paths below their folders."""

    photo: str
    mask: str


def read_mask_folder(
    masks_dir: str | Path,
    photos_dir: str | Path,
    names_file: str | Path | None = None,
    *,
    ignore_unknown: bool = False,
    strict: bool = False,
) -> CocoFile:
    """Read masks as a COCO file would say the same: an RLE for each class of a photo.

    Photo and mask have the same place and stem below their folders, such as `a/1.jpg` and
    `a/1.png`; a mask's stem may end in `_mask`, `_seg` or `_label` besides. Masks are index images
    (grey of 8 or 16 bits, or with a palette, whose index counts), in which 0 is background, or
    images of colours, in which black is.

    Args:
        masks_dir: folder of the masks, subfolders included; only read.
        photos_dir: folder of the photos, subfolders included; only read.
        names_file: JSON, in one of the forms {"shirt": [255, 0, 0]}, {"shirt": "#ff0000"},
            {"shirt": 1}, {"1": "shirt"} and ["shirt", "jeans"]: the list counts from 1, or from 0
            where its first name is background. None calls the values class 1, class 2, ...
        ignore_unknown: take values and colours without a name, and 255, for background.
        strict: a mask or its photo that cannot be used is an error instead of being left out.

    Returns:
        Photos with a mask, by their path below `photos_dir`; `problems` names what was left out.
        A category has the value as its id, or its place in `names_file` where colours are named.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no mask fits a photo; values or colours without a name; a names file of another
            form; more than a tenth of the masks unreadable or of another size than their photo;
            nothing but background.
    """
    masks_dir, photos_dir = Path(masks_dir), Path(photos_dir)
    for folder, what in ((masks_dir, "mask"), (photos_dir, "photo")):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{what} folder {folder} not found; expected a folder. Check the path."
            )
    names = None if names_file is None else read_mask_names(names_file)
    pairs, problems = _pair_up(masks_dir, photos_dir)
    readings: dict[_Pair, MaskReading] = {}
    healed: list[Problem] = []
    broken: list[Problem] = []
    for pair, reading in _read_all(pairs, masks_dir, photos_dir, names):
        if isinstance(reading, str):
            broken.append(Problem("image_left_out", pair.photo, f"{reading} ({pair.mask})"))
            continue
        readings[pair] = reading
        if reading.healed:
            healed.append(Problem("healed", pair.photo, f"mask {reading.healed}"))
    problems += broken
    most = max(1, _MOST_BROKEN * len(pairs))  # a single one never is too much
    too_many = broken if len(broken) > most or not readings else []
    if strict:  # the mask of a photo may lie in the folder of another split
        too_many = [problem for problem in problems if problem.detail != NO_MASK]
    if too_many:
        texts = [f"{problem.subject}: {problem.detail}" for problem in too_many]
        raise ValueError(
            f"{masks_dir}: {len(too_many):,} cannot be used: {first_names(texts)}; expected for "
            "each photo a mask that can be read and has its size. Correct or remove them."
        )
    category_of, notes = _categories(masks_dir, readings, names, names_file, ignore_unknown)
    if not any(value in category_of for one in readings.values() for value in one.regions):
        raise ValueError(
            f"{masks_dir}: nothing but background in {count_text(len(readings), 'mask')}; expected "
            "the values or colours of garments. Check that these are the labels."
        )
    return _to_coco(masks_dir, readings, category_of, [*problems, *healed, *notes])


def _pair_up(masks_dir: Path, photos_dir: Path) -> tuple[list[_Pair], list[Problem]]:
    """Find the mask of each photo; name those that have none, or more than one."""
    problems: list[Problem] = []
    photos = _list_pictures(photos_dir, masks_dir, "image_left_out", problems)
    masks = _list_pictures(masks_dir, photos_dir, "mask_left_out", problems)
    if masks_dir.resolve() == photos_dir.resolve():
        is_mask = {name: _STEM_ENDING.search(PurePosixPath(name).stem) for name in photos}
        masks = [name for name in masks if is_mask.get(name, True)]
        photos = [name for name in photos if not is_mask[name]]
    if not photos or not masks:
        what, folder = ("photo", photos_dir) if not photos else ("mask", masks_dir)
        raise ValueError(
            f"no {what} in {folder}; expected pictures, and masks beside photos named a_mask.png. "
            "Check the folder."
        )
    tables: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(3)]
    for photo in photos:
        for table, key in zip(tables, _keys(photo), strict=True):
            table[key].append(photo)
    masks_of: dict[str, list[str]] = {photo: [] for photo in photos}
    for mask in masks:
        # A mask may be called a.png, a_mask.png or a.jpg.png beside the photo a.jpg.
        path = PurePosixPath(mask)
        stems = [path.stem, _STEM_ENDING.sub("", path.stem)]
        if path.stem.lower().endswith(PHOTO_SUFFIXES):
            stems.append(PurePosixPath(path.stem).stem)
        wanted = [_keys(str(path.with_name(f"{stem}.png"))) for stem in dict.fromkeys(stems)]
        found = next((t[k[i]] for i, t in enumerate(tables) for k in wanted if k[i] in t), [])
        if len(found) == 1:
            masks_of[found[0]].append(mask)
        else:
            several = f"several photos fit: {first_names(found)}"
            problems.append(Problem("mask_left_out", mask, several if found else NO_PHOTO))
    for photo, own in masks_of.items():
        if len(own) != 1:
            why = f"several masks fit: {first_names(own)}" if own else NO_MASK
            problems.append(Problem("image_left_out", photo, why))
    pairs = [_Pair(photo, own[0]) for photo, own in masks_of.items() if len(own) == 1]
    if not pairs:
        told = [f"{p.subject}: {p.detail}" for p in problems if " fit: " in p.detail]
        got = first_names(told) or f"got {first_names(masks)} for {first_names(photos)}"
        raise ValueError(
            f"no mask in {masks_dir} fits a photo in {photos_dir}; expected equal names but for "
            f"the suffix, one mask for each photo; {got}. Check the folders."
        )
    return pairs, problems


def _list_pictures(
    folder: Path, other: Path, kind: ProblemKind, problems: list[Problem]
) -> list[str]:
    """Paths of pictures below a folder, sorted; `other` is left out where it lies inside.

    What cannot be looked at is added to the problems.
    """
    inside = other.resolve() if folder.resolve() in other.resolve().parents else None
    listing = list_photos(folder, without=RECORD_NAME)
    problems += [
        Problem(kind, path.relative_to(folder).as_posix(), f"cannot be read: {why}")
        for path, why in listing.unread.items()
    ]
    return [
        path.relative_to(folder).as_posix()
        for path in listing.photos
        if inside is None or inside not in path.resolve().parents
    ]


def _keys(name: str) -> tuple[str, str, str]:
    """What photo and mask share, strictest first: as written, in any case, whatever the folder."""
    path = PurePosixPath(name)
    written = str(path.with_suffix(""))
    plain = folded(written)
    return written, plain, plain.rpartition("/")[2]


def _read_all(
    pairs: Sequence[_Pair], masks_dir: Path, photos_dir: Path, names: MaskNames | None
) -> Iterator[tuple[_Pair, MaskReading | str]]:
    """Read masks in processes; yield each pair with what its mask holds, or why it cannot be used.

    The order is that of the pairs.
    """
    chunks = [pairs[i : i + _CHUNK_MASKS] for i in range(0, len(pairs), _CHUNK_MASKS)]
    work = partial(_read_chunk, masks_dir=masks_dir, photos_dir=photos_dir, names=names)
    n_workers = min(usable_cores(), len(pairs) // _MIN_MASKS_PER_WORKER)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress_bar(total=len(pairs), desc="masks", unit="mask"))
        pool = stack.enter_context(worker_pool(n_workers)) if n_workers > 1 else None
        readings = pool.map(work, chunks) if pool else map(work, chunks)
        for chunk, of_chunk in zip(chunks, readings, strict=True):
            bar.update(len(chunk))
            yield from zip(chunk, of_chunk, strict=True)


def _read_chunk(
    pairs: Sequence[_Pair], masks_dir: Path, photos_dir: Path, names: MaskNames | None
) -> list[MaskReading | str]:
    readings: list[MaskReading | str] = []
    for pair in pairs:
        try:
            readings.append(read_mask_image(masks_dir / pair.mask, photos_dir / pair.photo, names))
        except (OSError, ValueError) as error:
            readings.append(str(error))
    return readings


def _categories(
    masks_dir: Path,
    readings: Mapping[_Pair, MaskReading],
    names: MaskNames | None,
    names_file: str | Path | None,
    ignore_unknown: bool,
) -> tuple[dict[int, Category], list[Problem]]:
    """Category of each value or colour, and what is to be said of those without a name."""
    colored = {pair: reading for pair, reading in readings.items() if reading.has_colors}
    if colored:
        raise ValueError(_colors_text(masks_dir, colored, names_file))
    if names is None:
        return _unnamed_categories(masks_dir, readings, ignore_unknown)
    named = {v: name for v, name in names.name_of.items() if not is_background(name)}
    category_of = {
        value: Category(place if names.by_color else value, name, "")
        for place, (value, name) in enumerate(named.items(), start=1)
    }
    unknown = _Unknown()
    for pair, reading in readings.items():
        unknown.add(pair, reading.unknown, reading.n_unknown)
    notes = unknown.notes(masks_dir, names, ignore_unknown)
    if text := _palettes_text(readings):
        notes.append(
            Problem("healed", masks_dir.name, f"values read, whose colours differ: {text}")
        )
    return category_of, notes


def _unnamed_categories(
    masks_dir: Path, readings: Mapping[_Pair, MaskReading], ignore_unknown: bool
) -> tuple[dict[int, Category], list[Problem]]:
    """Categories "class 1", "class 2" of the values that occur."""
    values = sorted({value for reading in readings.values() for value in reading.regions})
    is_jpeg = any(pair.mask.lower().endswith((".jpg", ".jpeg")) for pair in readings)
    is_cut = any(reading.n_unknown for reading in readings.values())
    if is_cut or len(values) > _MOST_UNNAMED or (is_jpeg and len(values) > 1):
        raise ValueError(
            f"{masks_dir}: masks hold {'more than ' if is_cut else ''}{len(values)} different "
            f"values; expected a few class ids. JPEG and smoothed edges make such values: export "
            "the masks as PNG without smoothing, or name the values with --mask-names."
        )
    if text := _palettes_text(readings):
        raise ValueError(
            f"{masks_dir}: {text}; expected one palette. Say by --mask-names what counts: colours, "
            '{"shirt": [255, 0, 0]}, or values, {"shirt": 1}.'
        )
    unknown = _Unknown()
    if len(values) > 1:  # alone it is the white of black and white masks
        for pair, reading in readings.items():
            void = {v: r.area for v, r in reading.regions.items() if v in _VOID}
            unknown.add(pair, void, sum(void.values()))
        values = [value for value in values if value not in _VOID]
    notes = unknown.notes(masks_dir, None, ignore_unknown)
    category_of = {value: Category(value, f"class {value}", "") for value in values}
    if values:
        called = first_names([category.name for category in category_of.values()])
        template = json.dumps({str(value): "name" for value in values[:3]})
        what = "photos with masks whose values have no names"
        detail = f"{what}: called {called}; name them by --mask-names: {template}"
        n_photos = sum(
            not reading.regions.keys().isdisjoint(values) for reading in readings.values()
        )
        notes.append(Problem("healed", masks_dir.name, detail, n_photos))
    return category_of, notes


def _palettes_text(readings: Mapping[_Pair, MaskReading]) -> str:
    """Say which value has another colour in another mask: each palette has its own order."""
    first: dict[int, tuple[tuple[int, ...], str]] = {}
    for pair, reading in readings.items():
        for value, color in reading.palette.items():
            known, mask = first.setdefault(value, (color, pair.mask))
            if known != color:
                return (
                    f"the palette has {list(known)} for value {value} in {mask} and "
                    f"{list(color)} in {pair.mask}"
                )
    return ""


def _colors_text(
    masks_dir: Path, colored: Mapping[_Pair, MaskReading], names_file: str | Path | None
) -> str:
    """Say that masks hold colours where values were expected, with the colours to name."""
    counts: Counter[int] = Counter()
    for reading in colored.values():
        counts.update(reading.unknown)
    commonest = [code for code, _ in counts.most_common(_SHOWN)]
    form = json.dumps({f"name {i}": code_to_color(c) for i, c in enumerate(commonest, start=1)})
    more = f" (and {len(counts) - _SHOWN:,} rarer ones)" if len(counts) > _SHOWN else ""
    given = f", but {names_file} names values" if names_file else ", which have no names"
    return (
        f"{masks_dir}: {count_text(len(colored), 'mask')} such as {next(iter(colored)).mask} hold "
        f"colours{given}; expected --mask-names with a name for each: {form}{more}."
    )


class _Unknown:
    """Counts what has no name."""

    def __init__(self) -> None:
        self.pixels: Counter[int] = Counter()
        self.masks: Counter[int] = Counter()
        self.example: dict[int, str] = {}
        self.total = 0

    def add(self, pair: _Pair, pixels: Mapping[int, int], total: int) -> None:
        """Count one mask: the pixels of its commonest values without a name, and of all of them."""
        self.pixels.update(pixels)
        self.masks.update(pixels.keys())
        for value in pixels:
            self.example.setdefault(value, pair.mask)
        self.total += total

    def notes(
        self, masks_dir: Path, names: MaskNames | None, ignore_unknown: bool
    ) -> list[Problem]:
        """Say what was found; ValueError where it is not to be ignored."""
        if not self.total:
            return []
        what = "colours" if names is not None and names.by_color else "values"
        commonest = [value for value, _ in self.pixels.most_common()]
        texts = [self._text(value, names) for value in commonest]
        if ignore_unknown:
            detail = f"pixels of {what} without a name, taken for background: {first_names(texts)}"
            return [Problem("healed", masks_dir.name, detail, self.total)]
        hint = ""
        if what == "values" and not set(_VOID).isdisjoint(commonest):
            hint = "255 often marks what nobody knows, for which annotations have no word. "
        if any(self._is_near(value, names) for value in commonest):
            hint = (
                "Colours near a named one come of JPEG or smoothed edges: export the masks as PNG "
                "without smoothing. "
            )
        raise ValueError(
            f"{masks_dir}: {what} without a name, {self.total:,} pixels in all: "
            f"{first_names(texts)}; expected a name for each. {hint}"
            "Name them in --mask-names, or take them for background by --ignore-unknown."
        )

    def _text(self, value: int, names: MaskNames | None) -> str:
        own = str(value)
        if names is not None and names.by_color:
            nearest = min(names.name_of, key=lambda code: _distance(code, value))
            own = f"#{value:06x}, nearest {names.name_of[nearest]} #{nearest:06x}"
        where = count_text(self.masks[value], "mask")
        return f"{own} ({self.pixels[value]:,} px in {where}, such as {self.example[value]})"

    @staticmethod
    def _is_near(value: int, names: MaskNames | None) -> bool:
        return (
            names is not None
            and names.by_color
            and min(_distance(code, value) for code in {0, *names.name_of}) <= _NEAR
        )


def _distance(one: int, other: int) -> int:
    """Largest difference of two colours in any channel."""
    return max(abs(a - b) for a, b in zip(code_to_color(one), code_to_color(other), strict=True))


def _to_coco(
    masks_dir: Path,
    readings: Mapping[_Pair, MaskReading],
    category_of: Mapping[int, Category],
    problems: Sequence[Problem],
) -> CocoFile:
    images, packed_of_image = [], {}
    digest = hashlib.sha256()
    n_before = 0
    for image_id, (pair, reading) in enumerate(readings.items(), start=1):
        width, height = reading.size_wh
        images.append(ImageRecord(image_id, pair.photo, width, height))
        digest.update(f"{pair.photo}\n{width} {height}\n".encode() + reading.digest)
        kept = [(v, region) for v, region in reading.regions.items() if v in category_of]
        packed_of_image[image_id] = [
            PackedAnnotation(
                id=n_before + place,
                image_id=image_id,
                category_id=category_of[value].id,
                segmentation=msgspec.Raw(
                    msgspec.json.encode({"size": [height, width], "counts": region.counts})
                ),
                area=float(region.area),
                bbox=region.bbox,
            )
            for place, (value, region) in enumerate(kept, start=1)
        ]
        n_before += len(kept)
    categories = {category.id: category for category in category_of.values()}
    digest.update(msgspec.json.encode(list(category_of.items())))
    return CocoFile(
        path=masks_dir,
        sha256=digest.hexdigest(),
        categories=tuple(categories.values()),
        images=tuple(images),
        packed=tuple(packed for own in packed_of_image.values() for packed in own),
        problems=tuple(problems),
        description="",
        license_names={},
        _packed_of_image=packed_of_image,
    )
