"""Names of photos as other tools write them -> photos on disk, where exactly one fits."""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, unquote_plus

from clothseg_utils.core.text import folded
from clothseg_utils.data.conversion import RECORD_NAME
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.data.photos import PHOTO_SUFFIXES

_CANDIDATES = 3  # that are shown for a name that is not found
_COMPARED_NAMES = 5  # difflib looks at every photo: for the first few names only
_LONGEST_NAME = 4096  # of a path
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://+")  # two letters at least: C:/ is a drive
_DRIVE = re.compile(r"[A-Za-z]:")
_SPLIT = re.compile(r"(?i)(train|val|valid|validation|test)[0-9]*")
_UPLOAD = re.compile(r"(?i)(?P<hash>[0-9a-f]{6,8})-(?P<name>.+)")  # as Label Studio writes it
_MIXED = re.compile(r"(?i)(?=.*[a-f])(?=.*[0-9]).*")  # neither a date nor a word
_ROBOFLOW = re.compile(r"(?P<stem>.+)_(?P<suffix>[A-Za-z]{3,4})\.rf\.[A-Za-z0-9]+\.[A-Za-z]{3,4}")

_Rewrite = Callable[[str], str | None]
_Fold = Callable[[str], str]
_Index = dict[str, list[str]]
_Claims = dict[str, dict[str, list[int]]]  # photo -> reading that fits it -> image_ids


@dataclass(frozen=True)
class Matches:
    """Which photo each name means.

    Attributes:
        found: image_id -> photo. Equal names, which may stand for one photo twice, share it.
        missing: name without a photo -> the nearest photos, for the first few names.
        ambiguous: name -> photos that it may mean; a single one is meant by other names too.
        not_listed: photos that no name means.
        unread: folders and links that may hold photos and cannot be looked at -> why.
    """

    found: dict[int, Path]
    missing: dict[str, list[str]]
    ambiguous: dict[str, list[Path]]
    not_listed: list[Path]
    unread: dict[Path, str] = field(default_factory=dict)


def match_photos(names: Mapping[int, str], photos_dir: str | Path) -> Matches:
    """Find the photo that each name means, by rules from the strictest to the loosest.

    First the path below the folder as it stands; then what a URL or an upload path holds; then
    other case and Unicode form; then other or no suffix; then without what Label Studio and
    Roboflow add; last, without a second suffix and spaces before one. Folders may be missing on one
    side (the name is plain, or begins on another machine); where both have some they must agree, or
    be no splits' and the last part be of one name and one photo. A photo that a stricter rule has
    given away is not given again, and nothing is found by guessing: a name that fits several
    photos, or a photo that several names fit, is ambiguous. Links to one file are one photo.
    Datasets that `convert` made below the folder are left alone: they hold the same photos again.

    Args:
        names: image_id -> name, path or URL.
        photos_dir: searched with its subfolders; no name leads out of it.

    Raises:
        OSError: the folder cannot be listed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "My Shirt.JPG").touch()
        ...     matches = match_photos({7: "https://shop/x/my%20shirt.jpg?w=600"}, folder)
        >>> matches.found[7].name
        'My Shirt.JPG'
    """
    photos_dir = Path(photos_dir)
    listing = list_photos(photos_dir, without=RECORD_NAME)
    photos = [path.relative_to(photos_dir).as_posix() for path in listing.photos]
    matching = _Matching(names, photos, photos_dir)
    matching.take_exact(path.relative_to(photos_dir).as_posix() for path in listing.other_files())
    readings = {image_id: list(_readings(names[image_id])) for image_id in matching.pending}
    most = max(map(len, readings.values()), default=0)
    for rewrite, fold in _RULES:
        for number in range(most):
            waiting = [i for i in matching.pending if number < len(readings[i])]
            matching.apply({i: readings[i][number] for i in waiting}, rewrite, fold)
    return replace(matching.result(), unread=listing.unread)


def file_key(path: Path) -> Hashable:
    """Equal for all links to one file, hard ones too."""
    stat = path.stat()
    return (stat.st_dev, stat.st_ino) if stat.st_ino else path.resolve()


class _Matching:
    """Names that wait for a photo, and photos that are taken; a rule at a time."""

    def __init__(self, names: Mapping[int, str], photos: list[str], photos_dir: Path) -> None:
        self.names = names
        self.photos = photos
        self.photos_dir = photos_dir
        self.pending = dict.fromkeys(names)  # in the order of the file
        self.found: dict[int, str] = {}
        self.taken: set[str] = set()
        self.ambiguous: dict[str, list[str]] = {}
        self._indexes: dict[_Fold, tuple[_Index, _Index]] = {}

    def take_exact(self, others: Iterable[str]) -> None:
        """Names that are a file's path below the folder, whatever the file seems to be."""
        known = {*self.photos, *others}
        for image_id in list(self.pending):
            name = self.names[image_id]
            for path in (name, "/".join(_parts(name))):
                if path in known:
                    self.found[image_id] = path
                    del self.pending[image_id]
                    break
        self.taken.update(self.found.values())

    def apply(self, readings: Mapping[int, str], rewrite: _Rewrite, fold: _Fold) -> None:
        """Give photos to the names that fit exactly one, rewritten and as `fold` compares them."""
        claims: _Claims = defaultdict(lambda: defaultdict(list))
        mask_folders = self._mask_folders(fold) if fold in (_stem, _bare) else set()
        for image_id, reading in readings.items():
            rewritten = rewrite(reading)
            fitting = self._fitting(rewritten, fold) if rewritten else []
            fitting = [photo for photo in fitting if _folder(photo) not in mask_folders]
            if len(fitting) > 1:
                fitting = list(
                    {file_key(self.photos_dir / p): p for p in reversed(fitting)}.values()
                )
            if len(fitting) > 1:
                self._give_up(image_id, fitting[::-1])
            elif fitting and fitting[0] not in self.taken:
                claims[fitting[0]][reading].append(image_id)
        for photo, by_reading in claims.items():
            for image_ids in by_reading.values():
                for image_id in image_ids:
                    if len(by_reading) > 1:
                        self._give_up(image_id, [photo])
                    else:
                        self.found[image_id] = photo
                        del self.pending[image_id]
        self.taken.update(claims)

    def _mask_folders(self, stem: _Fold) -> set[str]:
        """Folders of files with the stems of photos that are found: masks lie so beside photos."""
        stems = {_name(stem(photo)) for photo in self.taken}
        others = (photo for photo in self.photos if photo not in self.taken)
        return {_folder(photo) for photo in others if _name(stem(photo)) in stems}

    def _give_up(self, image_id: int, photos: list[str]) -> None:
        self.ambiguous[self.names[image_id]] = photos
        del self.pending[image_id]

    def _fitting(self, reading: str, fold: _Fold) -> list[str]:
        """Photos whose path is the reading, or ends with it; else the longest that it ends with."""
        if fold not in self._indexes:
            self._indexes[fold] = _index(self.photos, fold)
        whole, ends = self._indexes[fold]
        key = fold(reading)
        fitting = whole.get(key) or ends.get(key)
        return fitting or next((whole[end] for end in _proper_ends(key) if end in whole), [])

    def result(self) -> Matches:
        """What was found, and of what was not, the photos that come nearest."""
        meant = self.taken.union(*self.ambiguous.values())
        not_listed = [photo for photo in self.photos if photo not in meant]
        by_name: dict[str, list[str]] = defaultdict(list)
        for photo in self.photos:
            by_name[_name(_stem(photo))].append(photo)
        free_names = list({_name(photo): None for photo in not_listed})
        missing: dict[str, list[str]] = {}
        for name in dict.fromkeys(self.names[image_id] for image_id in self.pending):
            readings = (r for r in _readings(name) if _suffix(r) in PHOTO_SUFFIXES)
            reading = _name(next(readings, name))
            near = by_name.get(_stem(reading), [])
            if not near and len(missing) < _COMPARED_NAMES:
                close = difflib.get_close_matches(reading, free_names, n=_CANDIDATES)
                near = [photo for one in close for photo in by_name[_stem(one)]]
            missing[name] = near[:_CANDIDATES]
        return Matches(
            found={i: self.photos_dir / self.found[i] for i in self.names if i in self.found},
            missing=missing,
            ambiguous={
                name: [self.photos_dir / photo for photo in photos]
                for name, photos in self.ambiguous.items()
            },
            not_listed=[self.photos_dir / photo for photo in not_listed],
        )


def _index(photos: list[str], fold: _Fold) -> tuple[_Index, _Index]:
    """Photos by their path as `fold` compares it, and by each of its ends."""
    whole: _Index = defaultdict(list)
    ends: _Index = defaultdict(list)
    for photo in photos:
        key = fold(photo)
        whole[key].append(photo)
        for end in _proper_ends(key):
            ends[end].append(photo)
    return dict(whole), dict(ends)


def _parts(text: str) -> list[str]:
    """Folders and name of a path of any system, from the root or the drive on."""
    parts: list[str] = []
    for part in text.replace("\\", "/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", ".") and not _DRIVE.fullmatch(part):
            parts.append(part)
    return parts


def _readings(name: str) -> Iterator[str]:
    """Paths that a name may mean, the likeliest first: as it stands, and as a URL."""
    if len(name) > _LONGEST_NAME:
        return
    seen = {""}
    rest = name.strip()
    is_url = _SCHEME.match(rest) is not None
    path, _, query = rest.partition("?")
    values = [value for _, value in parse_qsl(query.replace("+", "%2B"))]
    texts = [rest, path, *(v for v in values if _suffix(v) in PHOTO_SUFFIXES)]
    if is_url:
        texts.append(path.partition("#")[0])
    for text in texts:
        for decoded in (text, unquote(text), unquote_plus(text)):
            reading = "/".join(_parts(_SCHEME.sub("", decoded, count=1)))
            if reading not in seen:
                seen.add(reading)
                yield reading


def _as_it_stands(reading: str) -> str:
    return reading


def _before_upload(reading: str) -> str | None:
    """The name that Label Studio's upload had; a date or a word is no hash."""
    folders, _, name = reading.rpartition("/")
    upload = _UPLOAD.fullmatch(name)
    if upload and (_MIXED.fullmatch(upload["hash"]) or "upload" in folders.split("/")):
        return upload["name"]
    return None


def _before_roboflow(reading: str) -> str | None:
    """The name that a photo had before Roboflow made a version of it."""
    version = _ROBOFLOW.fullmatch(_name(reading))
    return f"{version['stem']}.{version['suffix']}" if version else None


def _last_part(reading: str) -> str | None:
    """The name without folders of another machine; those of a split may hold equal names each."""
    *folders, name = reading.split("/")
    return None if any(_SPLIT.fullmatch(folder) for folder in folders) else name


def _unquoted(path: str) -> str:
    """Equal for a name and the one that a download of it has: `my%20shirt.jpg`."""
    return folded(unquote(path))


def _stem(path: str) -> str:
    """Equal for names that differ in a photo's suffix too, or have none."""
    name = folded(path)
    return name.rpartition(".")[0] if _suffix(name) in PHOTO_SUFFIXES else name


def _bare(path: str) -> str:
    """Equal for names that differ in a second suffix too (`a.jpg.jpg`), or in spaces before one."""
    name = folded(path)
    while _suffix(name) in PHOTO_SUFFIXES:
        name = name.rpartition(".")[0].rstrip()
    return name


def _uploaded(path: str) -> str:
    """Equal for a name and what Label Studio keeps of it: no spaces, few signs."""
    return re.sub(r"[^-\w./]", "", folded(path).replace(" ", "_"))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _suffix(path: str) -> str:
    stem, dot, suffix = _name(path).rpartition(".")
    return f"{dot}{suffix}".lower() if stem else ""


def _proper_ends(path: str) -> Iterator[str]:
    """`b/c` and `c` of `a/b/c`."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


_RULES: tuple[tuple[_Rewrite, _Fold], ...] = (
    (_as_it_stands, str),
    (_as_it_stands, folded),
    (_as_it_stands, _unquoted),
    (_as_it_stands, _stem),
    (_before_upload, str),
    (_before_upload, folded),
    (_before_upload, _uploaded),
    (_before_roboflow, str),
    (_last_part, str),
    (_last_part, folded),
    (_as_it_stands, _bare),
)
"""What is compared, and how; the strictest first."""
