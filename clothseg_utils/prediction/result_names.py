"""What the results of `predict` are called: distinct, never a photo's name, alike in each run."""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from clothseg_utils.core.text import folded
from clothseg_utils.data.photo_files import list_photos

ENDINGS = (".png", "_color.png", "_overlay.jpg", ".json", ".npz")
"""Of a photo's results: mask, colours, overlay; regions and probabilities where asked for."""

_LONGEST_NAME = 255  # bytes, of most file systems
_MASK_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MASK_KIND = b"\x08\0"  # 8 bits of grey


class Source(NamedTuple):
    """A photo to predict, and the folder that was given, or that of a photo that was given."""

    photo: Path
    root: Path


def file_names(sources: Sequence[Source]) -> list[str]:
    """What photos are called in a file on all of them: each by a name of its own.

    It is the path below the folder that was given, or below the nearest one that holds all that
    were; the parts are divided by "/". Taken with that folder, other tools find the photos.
    """
    roots = {os.path.abspath(root) for root in {source.root for source in sources}}
    folder = os.path.commonpath(roots) if roots else ""
    paths = (os.path.relpath(os.path.abspath(source.photo), folder) for source in sources)
    return [Path(path).as_posix() for path in paths]


def former_results(files: Iterable[Path]) -> set[Path]:
    """Which of some files an earlier `predict` wrote: a mask with its colours and its overlay."""
    known = set(files)
    results: set[Path] = set()
    for path in known:
        if path.suffix == ENDINGS[0]:
            of_mask = [path.with_name(path.stem + ending) for ending in ENDINGS]
            if known.issuperset(of_mask[:3]) and _is_mask(path):
                results |= known.intersection(of_mask)
    return results


def _is_mask(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(26)
        return head.startswith(_MASK_HEAD) and head.endswith(_MASK_KIND)
    return False


def _looks_like_result(path: Path) -> bool:
    return path.name.endswith(ENDINGS[1:3]) or (path.suffix == ENDINGS[0] and _is_mask(path))


def result_stems(sources: Sequence[Source], out_dir: Path) -> list[Path]:
    """Where the results of each photo go, without their endings.

    They have the photo's stem, below `out_dir` as the photo lies below its root. Photos of one
    folder whose results would meet, such as `a.jpg` and `a.png`, keep their suffixes, whichever of
    them are asked for. Where those of several roots would meet, the roots' names become folders.
    Names that differ in case only count as one, as on many file systems.
    """
    given: dict[Path, set[str]] = defaultdict(set)
    for source in sources:
        given[source.photo.parent].add(source.photo.name)
    given_in = {os.path.realpath(folder): names for folder, names in given.items()}

    @cache
    def photos_in(folder: Path) -> set[str]:
        return _photo_names(folder) | given_in.get(os.path.realpath(folder), set())

    @cache
    def stems_in(folder: Path, target: Path) -> dict[str, str]:
        kept = photos_in(target)
        if os.path.realpath(target) not in given_in:  # a folder of results, which are replaced
            kept = {name for name in kept if not _looks_like_result(target / name)}
        return _distinct_stems(photos_in(folder), {folded(name) for name in kept})

    levels = dict.fromkeys((source.root for source in sources), 0)
    while True:
        targets = {
            (folder, root): out_dir / _root_name(root, levels[root]) / folder.relative_to(root)
            for folder, root in {(source.photo.parent, source.root) for source in sources}
        }
        stems = []
        for photo, root in sources:
            target = targets[photo.parent, root]
            stems.append(target / stems_in(photo.parent, target)[photo.name])
        meeting = _meeting(stems)
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
        stems[one] = stems[one].with_name(f"{stems[one].name}-{_short_hash(sources[one].photo)}")
    return stems


def _photo_names(folder: Path) -> set[str]:
    """Photos that lie in a folder and were not written by `predict`; none if it is not there."""
    with contextlib.suppress(OSError):
        listing = list_photos(folder, below=False)
        results = former_results([*listing.photos, *listing.other_files()])
        return {photo.name for photo in listing.photos if photo not in results}
    return set()


def _distinct_stems(names: Collection[str], occupied: Collection[str]) -> dict[str, str]:
    """Stems for the results of a folder's photos: the shortest form of each name that is free."""
    forms = {
        name: [_cut(form) for form in (Path(name).stem, name, f"{name}-{_short_hash(name)}")]
        for name in names
    }
    while True:
        owners: dict[str, set[str]] = defaultdict(set)
        for name, (form, *_) in forms.items():
            for ending in ENDINGS:
                owners[folded(form + ending)].add(name)
        rising = {
            name
            for result, those in owners.items()
            if len(those) > 1 or result in occupied
            for name in those
            if len(forms[name]) > 1
        }
        if not rising:
            return {name: form for name, (form, *_) in forms.items()}
        for name in rising:
            del forms[name][0]


def _meeting(stems: Sequence[Path]) -> list[set[int]]:
    """Groups of photos, by index, that share a result."""
    owners: dict[str, set[int]] = defaultdict(set)
    for index, stem in enumerate(stems):
        for ending in ENDINGS:
            owners[folded(f"{stem}{ending}")].add(index)
    return [group for group in owners.values() if len(group) > 1]


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
