"""Where own photos and their labels lie, and which split each file is for."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clothseg_utils.core.files import expand_home, files_below
from clothseg_utils.core.text import first_names
from clothseg_utils.data.coco import Split
from clothseg_utils.data.conversion import RECORD_NAME
from clothseg_utils.data.formats import recognise
from clothseg_utils.data.photos import PHOTO_SUFFIXES

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""In the order in which they give way: a photo in several of them stays in the last."""

_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_FILE_SUFFIXES = (".json", ".json.gz")
_OTHER_COCO_FILES = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")


@dataclass(frozen=True)
class Source:
    """Labels of one file or folder, and the photos that they belong to.

    Attributes:
        labels: COCO file, or folder of masks.
        photos_dir: where the photos are looked for first.
        split: that the user gave; None leaves it to the share.
    """

    labels: Path
    photos_dir: Path
    split: Split | None = None

    @property
    def has_masks(self) -> bool:
        """Whether the labels are a folder of masks."""
        return self.labels.is_dir()


def find_sources(
    photos_dir: str | Path,
    annotations: Sequence[str | Path] = (),
    masks_dir: str | Path | None = None,
) -> list[Source]:
    """Find the files that a dataset is made from.

    Args:
        photos_dir: folder of the photos. Without `annotations` and `masks_dir` it holds the COCO
            files too: one, one in each of `train/`, `valid/` and `test/`, or those in
            `annotations/`.
        annotations: COCO files. "train=FILE", "val=FILE" and "test=FILE" name the split. Of
            several files one in a folder, or with a name, that says a split is for that one.
        masks_dir: folder of masks, maybe with a folder for each split.

    Raises:
        FileNotFoundError: no such file or folder, or no COCO file in `photos_dir`.
        ValueError: annotations and masks, or files of val or test without any to train on.
    """
    photos_dir = Path(photos_dir)
    if not photos_dir.is_dir():
        raise FileNotFoundError(
            f"photo folder {photos_dir} not found; expected the folder of your photos. Check the "
            "path."
        )
    if masks_dir is not None:
        if annotations:
            raise ValueError("annotations and masks are given; expected one of the two.")
        sources = _mask_sources(Path(masks_dir), photos_dir)
    elif annotations:
        sources = _file_sources([_split_and_path(text) for text in annotations], photos_dir)
    else:
        files = _find_files(photos_dir)
        sources = _file_sources([(None, path) for path in files], photos_dir)
    if all(source.split in ("val", "test") for source in sources):
        raise ValueError(
            f"{first_names([source.labels for source in sources])}: all for val or test; expected "
            "labels to train on too. Give them, or write train=FILE."
        )
    return [replace(source, photos_dir=_narrowed(source)) for source in sources]


def split_of_name(name: str) -> Split | None:
    """Split that a file's or folder's name says; None where it says none, or several.

    Example:
        >>> split_of_name("instances_train2017.json"), split_of_name("latest.json")
        ('train', None)
        >>> split_of_name("valid"), split_of_name("train_val.json")
        ('val', None)
    """
    said = {_WORDS[word] for word in re.findall("[a-z]+", name.casefold()) if word in _WORDS}
    return said.pop() if len(said) == 1 else None


def _split_of_folder(name: str) -> Split | None:
    """Split of a folder that is named after it alone, such as valid or train2017."""
    return _WORDS.get(name.casefold().rstrip("0123456789"))


def _split_and_path(text: str | Path) -> tuple[Split | None, Path]:
    """Take "val=FILE" apart; a file of that very name is one."""
    split, equals, path = str(text).partition("=")
    if equals and split in _WORDS and not Path(text).exists():
        return _WORDS[split], expand_home(path)
    return None, Path(text)


def _file_sources(files: Sequence[tuple[Split | None, Path]], photos_dir: Path) -> list[Source]:
    for _, path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found; expected a COCO JSON. Check the path.")
    counts = Counter(path.resolve() for _, path in files)
    twice = [path.name for _, path in files if counts[path.resolve()] > 1]
    if twice:
        raise ValueError(
            f"{' and '.join(twice)} are one file; expected each file once. Leave the others out."
        )
    folders = [path.resolve().parent.name for _, path in files]
    apart = len(set(folders)) > 1
    said = [
        split or split_of_name(path.name) or (_split_of_folder(folder) if apart else None)
        for (split, path), folder in zip(files, folders, strict=True)
    ]
    if any(split for split, _ in files) or len(set(said)) > 1:
        return [Source(p, photos_dir, s) for (_, p), s in zip(files, said, strict=True)]
    # What all names say alike, or the name of a single file, tells nothing apart.
    return [Source(path, photos_dir) for _, path in files]


def _find_files(folder: Path) -> list[Path]:
    """COCO files of an export: one for each split, or a single one."""
    of_splits = [path for _, inside in _split_folders(folder) for path in _coco_files(inside)]
    if of_splits:
        return of_splits
    for place in (folder / "annotations", folder):
        if files := _coco_files(place):
            return files
    deeper, closed = _json_files(folder)
    if len(deeper) == 1 and not closed:
        return deeper
    names = first_names([path.relative_to(folder) for path in deeper])
    elsewhere = f", but deeper {names}" if names else ""
    if closed:
        places = first_names([path.relative_to(folder) for path in closed])
        elsewhere += f", and what may not be listed: {places}"
    raise FileNotFoundError(
        f"no COCO JSON in {folder}, in its annotations/ or in its train/, valid/ and test/"
        f"{elsewhere}; expected one. Name it by --annotations, or masks by --masks."
    )


def unused_files(photos_dir: Path, sources: Sequence[Source]) -> list[Path]:
    """What lies beside the sources found in a folder and is of none, such as the labels of `dev/`.

    Folders that cannot be listed are among it. Of a folder of masks, what is beside those of the
    splits.
    """
    taken = {source.labels.resolve() for source in sources}
    if sources[0].has_masks:
        around = [] if sources[0].split is None else sorted(sources[0].labels.parent.iterdir())
    else:
        around = [path for paths in _json_files(photos_dir) for path in paths]
    return [path for path in around if path.resolve() not in taken]


def _json_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All below a folder that may be COCO files, and the folders that cannot be listed.

    Neither what is hidden, nor what is of a dataset that `convert` made.
    """
    closed: list[Path] = []
    below = list(files_below(folder, lambda error: closed.append(Path(error.filename))))
    made = [path.parent for path in below if path.name == RECORD_NAME]

    def is_meant(path: Path) -> bool:
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return not is_hidden and not any(path.is_relative_to(one) for one in made)

    found = (path for path in below if _may_be_coco(path) and is_meant(path))
    return sorted(found), sorted(filter(is_meant, closed))


def _may_be_coco(path: Path) -> bool:
    is_json = path.name.endswith(_FILE_SUFFIXES)
    return is_json and not path.name.startswith((".", *_OTHER_COCO_FILES))  # ._ files of macOS


def _coco_files(folder: Path) -> list[Path]:
    """A folder's COCO file, or one for each split; ValueError where it is not clear which."""
    found = [
        path for path in (sorted(folder.iterdir()) if folder.is_dir() else ()) if _may_be_coco(path)
    ]
    files = [path for path in found if path.name.startswith("instances")] or found
    if len(files) > 1 and not all(split_of_name(path.name) for path in files):
        format_ = recognise(files[0].read_bytes())
        hint = f" {files[0].name} looks like {format_.name}: {format_.way}." if format_ else ""
        raise ValueError(
            f"{folder} holds {len(files)} JSON files ({first_names([p.name for p in files])}); "
            f"expected one, or one for each split. Name those to take by --annotations.{hint}"
        )
    return files


def _split_folders(folder: Path) -> list[tuple[Split, Path]]:
    """Subfolders that are named after a split alone, such as valid/ or train2017/."""
    return [
        (split, path)
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (split := _split_of_folder(path.name)) and path.is_dir()
    ]


def _mask_sources(masks_dir: Path, photos_dir: Path) -> list[Source]:
    if not masks_dir.is_dir():
        raise FileNotFoundError(f"mask folder {masks_dir} not found; expected a folder of masks.")
    of_splits = _split_folders(masks_dir)
    if len({split for split, _ in of_splits}) < 2:
        return [Source(masks_dir, photos_dir)]
    return [Source(path, photos_dir, split) for split, path in of_splits]


def _narrowed(source: Source) -> Path:
    """Folder of this source's own photos: names may occur in each split's again."""
    own, whole = source.labels.resolve().parent, source.photos_dir.resolve()
    if source.labels.is_file() and whole in own.parents and _holds_photos(own):
        return source.photos_dir / own.relative_to(whole)
    for folder in (source.photos_dir, source.photos_dir / "images"):
        found = [path for split, path in _split_folders(folder) if split == source.split]
        own_name = [path for path in found if path.name == source.labels.name]
        if len(found) == 1 or own_name:
            return (own_name or found)[0]
    return source.photos_dir


def _holds_photos(folder: Path) -> bool:
    return any(path.suffix.lower() in PHOTO_SUFFIXES for path in folder.iterdir())
