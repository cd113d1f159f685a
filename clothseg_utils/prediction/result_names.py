"""What the results of `predict` are called: distinct, never a photo's name, alike in each run."""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from clothseg_utils.core.text import folded
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.prediction.tars import TarMember

_Photo = TypeVar("_Photo", bound=Hashable)

ENDINGS = (".png", "_color.png", "_overlay.jpg", ".json", ".npz")
"""Of a photo's results: mask, colours, overlay; regions and probabilities where asked for."""

RECORD_NAME = "predict.json"
"""Of the file in a folder of results that says how they were made."""

_TAILS = tuple(
    longer.removesuffix(ending)
    for longer in ENDINGS
    for ending in ENDINGS
    if longer != ending and longer.endswith(ending)
)
_LONGEST_NAME = 255  # bytes, of most file systems
_MASK_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MASK_KIND = b"\x08\0"  # 8 bits of grey

MASK_SOFTWARE = b"clothseg_utils predict"
"""In a mask's PNG; by it a mask is told from a photo in grey that has the name of one."""
_MASK_MARK = b"tEXtSoftware\0" + MASK_SOFTWARE  # behind the header and the length of this
_MARK_START = 8 + 25 + 4
_REGIONS_HEAD = b'{"file_name": '


class Source(NamedTuple):
    """A photo to predict. Of millions each is small: those of a folder share its path.

    Attributes:
        folder: that it lies in; in a tar, the tar's path and the folder there.
        name: of its file.
        root: the folder that was given, or that of a photo that was given.
        member: where it lies in a tar.
    """

    folder: Path
    name: str
    root: Path
    member: TarMember | None = None

    @property
    def photo(self) -> Path:
        """Its path."""
        return self.folder / self.name


def file_names(sources: Sequence[Source]) -> list[str]:
    """What photos are called in a file on all of them: each by a name of its own.

    It is the path below the folder that was given, or below the nearest one that holds all that
    were; the parts are divided by "/". Taken with that folder, other tools find the photos.
    """
    roots = {os.path.abspath(root) for root in {source.root for source in sources}}
    common = os.path.commonpath(roots) if roots else ""

    @cache
    def below(folder: Path) -> Path:
        return Path(os.path.relpath(os.path.abspath(folder), common))

    return [(below(source.folder) / source.name).as_posix() for source in sources]


def former_results(files: Iterable[Path]) -> set[Path]:
    """Which of some files an earlier `predict` wrote.

    A mask with its colours and its overlay, whoever corrected it since; a mask alone where it has
    the mark of `predict`, and a record lies among the files, in its folder or one above: without
    that no file is opened. Then what has been written beside the mask, and the records.
    """
    known = set(files)
    recorded = {path.parent for path in known if path.name == RECORD_NAME}
    results = {folder / RECORD_NAME for folder in recorded}
    for path in known:
        if path.suffix == ENDINGS[0]:
            of_mask = [path.with_name(path.stem + ending) for ending in ENDINGS]
            is_whole = known.issuperset(of_mask[:3])
            is_recorded = bool(recorded) and not recorded.isdisjoint(path.parents)
            if (is_whole or is_recorded) and _is_mask(path, marked=not is_whole):
                results |= known.intersection(of_mask[:3])
                results |= {one for one in known.intersection(of_mask[3:]) if _is_ours(one)}
    return results


def _is_mask(path: Path, *, marked: bool) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(_MARK_START + len(_MASK_MARK))
        is_grey = head.startswith(_MASK_HEAD) and head[24:26] == _MASK_KIND
        return is_grey and (not marked or head[_MARK_START:] == _MASK_MARK)
    return False


def _is_ours(path: Path) -> bool:
    """Whether a JSON file, as labelling tools leave them beside photos too, is of `predict`."""
    if path.suffix != ".json":
        return True
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_REGIONS_HEAD)) == _REGIONS_HEAD
    return False


def result_stems(sources: Sequence[Source], out_dir: Path) -> list[tuple[Path, str]]:
    """Where the results of each photo go: a folder, and their name there without its ending.

    They have the photo's stem, below `out_dir` as the photo lies below its root. Photos of one
    folder whose results would meet, such as `a.jpg` and `a.png`, keep their suffixes, whichever of
    them are asked for, and so does one whose results would replace what `predict` did not write.
    Where those of several roots would meet, the roots' names become folders. Names that differ in
    case only count as one, as on many file systems.
    """
    given_in: dict[str, set[str]] = defaultdict(set)
    real = cache(os.path.realpath)
    for source in sources:
        given_in[real(source.folder)].add(source.name)

    @cache
    def kept_in(folder: Path) -> tuple[set[str], set[str]]:
        photos, others = _kept_names(folder)
        return photos | given_in.get(real(folder), set()), others

    @cache
    def stems_in(folder: Path, target: Path) -> dict[str, str]:
        occupied = {RECORD_NAME}.union(*kept_in(target))
        return _distinct_stems(kept_in(folder)[0], {folded(name) for name in occupied})

    levels = dict.fromkeys((source.root for source in sources), 0)
    while True:
        targets = {
            (folder, root): out_dir / _root_name(root, levels[root]) / folder.relative_to(root)
            for folder, root in {(source.folder, source.root) for source in sources}
        }
        stems = []
        for folder, name, root, _ in sources:
            target = targets[folder, root]
            stems.append((target, stems_in(folder, target)[name]))
        meeting = _meeting_anywhere(stems)
        rising: set[Path] = set()
        for group in meeting:
            roots = {sources[one].root for one in group}
            if len(roots) > 1:
                rising |= {root for root in roots if levels[root] < 2}
        if not rising:
            break
        for root in rising:
            levels[root] += 1
    for one in set().union(*meeting):  # of folders whose names differ in case only
        target, stem = stems[one]
        stems[one] = target, f"{stem}-{_short_hash(sources[one].photo)}"
    return stems


def _kept_names(folder: Path) -> tuple[set[str], set[str]]:
    """What lies in a folder and is never replaced: photos, and other files called as results are.

    Both without what `predict` wrote; none if the folder is not there.
    """
    with contextlib.suppress(OSError):
        listing = list_photos(folder, below=False)
        others = [path for path in listing.other_files() if path.name.endswith(ENDINGS)]
        results = former_results([*listing.photos, *others])
        photos, rest = (
            {path.name for path in files if path not in results}
            for files in (listing.photos, others)
        )
        return photos, rest
    return set(), set()


def _distinct_stems(names: Collection[str], occupied: Collection[str]) -> dict[str, str]:
    """Stems for the results of a folder's photos: the shortest form of each name that is free."""
    stems = {name: _form(name, 0) for name in names}
    levels: dict[str, int] = defaultdict(int)
    while True:
        rising = set().union(*_meeting(stems.items()))
        if occupied:
            rising |= {
                name
                for name, stem in stems.items()
                if any(folded(stem + ending) in occupied for ending in ENDINGS)
            }
        rising = {name for name in rising if levels[name] < 2}
        if not rising:
            return stems
        for name in rising:
            levels[name] += 1
            stems[name] = _form(name, levels[name])


def _form(name: str, level: int) -> str:
    """A photo's name for its results: its stem, with its suffix, and with a hash."""
    if level == 0:
        return _cut(Path(name).stem)
    return _cut(name if level == 1 else f"{name}-{_short_hash(name)}")


def _meeting_anywhere(stems: Sequence[tuple[Path, str]]) -> list[set[int]]:
    """Groups of photos, by index, that share a result. One folder at a time: that takes memory."""
    fold = cache(lambda target: folded(str(target)))
    inside: dict[str, list[int]] = defaultdict(list)
    for index, (target, _) in enumerate(stems):
        inside[fold(target)].append(index)
    return [
        group
        for indices in inside.values()
        for group in _meeting((index, stems[index][1]) for index in indices)
    ]


def _meeting(stems: Iterable[tuple[_Photo, str]]) -> list[set[_Photo]]:
    """Groups of a folder's photos that share a result: `a` with `_color.png`, `a_color`."""
    owners: dict[str, list[_Photo]] = defaultdict(list)
    for photo, stem in stems:
        owners[folded(stem)].append(photo)
    groups: list[set[_Photo]] = []
    for stem, those in owners.items():
        others = [photo for tail in _TAILS for photo in owners.get(stem + tail, ())]
        if len(those) + len(others) > 1:
            groups.append({*those, *others})
    return groups


def _root_name(root: Path, level: int) -> str:
    """A root's folder of results: none, its name, and its name with a hash of where it is."""
    name = os.path.basename(os.path.realpath(root))
    return ("", name, f"{name}-{_short_hash(root)}")[level]


def _cut(stem: str) -> str:
    """A stem that leaves room for endings and a hash; what is cut is not mistaken for another."""
    room = _LONGEST_NAME - max(map(len, ENDINGS)) - len("-01234567")
    if len(os.fsencode(stem)) <= room:
        return stem
    end = f"-{_short_hash(stem)}"
    while len(os.fsencode(stem + end)) > room:
        stem = stem[:-1]
    return stem + end


def _short_hash(path: str | Path) -> str:
    name = os.path.abspath(path) if isinstance(path, Path) else path
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
