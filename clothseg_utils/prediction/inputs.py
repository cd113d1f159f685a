"""What a user gives as photos: files, folders, patterns, lists and tars; here, the photos."""

import glob
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from clothseg_utils.core.text import count_text, printable
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.prediction.result_names import Source, former_results
from clothseg_utils.prediction.tars import TAR_SUFFIX, TarMember, list_tar

_RESULT = "results of predict"
_UNREAD = "{}: {}; expected a file or folder that you may read. Mend it, and run again."
_SHOWN = 5  # of skipped files, in a remark


class Inputs:
    """Photos found so far, each once, and what is none.

    Args:
        out_dir: of the results; what lies in it is no photo of a folder that holds it.

    Attributes:
        sources: the photos, in the order of what was given, sorted in folders.
        skipped: what is no photo: reason, a suffix or words -> files.
        unread: what may hold photos and cannot be looked at -> one line that says why.
    """

    def __init__(self, out_dir: Path) -> None:
        self.sources: list[Source] = []
        self.skipped: dict[str, list[Path]] = defaultdict(list)
        self.unread: dict[Path, str] = {}
        self._out_dir = out_dir
        self._seen: dict[str, set[str]] = defaultdict(set)  # in each folder
        self._absolute = cache(os.path.abspath)

    def add(self, entry: Path) -> None:
        """Add a photo, a folder, a tar, or a pattern that the shell left as it was.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if entry.is_dir():
            self._add_folder(entry, entry)
        elif entry.is_file():
            self._add_file(entry, entry.parent)
        elif entry.exists():
            self.unread[entry] = (
                f"{printable(entry)} is no regular file; expected a photo or a folder."
            )
        elif glob.has_magic(str(entry)):
            self._add_pattern(entry)
        else:
            raise FileNotFoundError(
                f"no such photo or folder: {printable(entry)}; expected an existing path. "
                "Check its spelling."
            )

    def add_list(self, list_file: Path) -> None:
        """Add the photos and tars of a text file, a path a line, which are looked for later.

        Relative paths mean the current folder, as in what `find` prints. Results are called by what
        lies below the nearest folder that holds all of the list.

        Raises:
            OSError: the list cannot be read.
            ValueError: it is no text.
        """
        if not list_file.exists() or list_file.is_dir():  # `--list <(find ...)` is a pipe
            raise FileNotFoundError(
                f"no such list: {printable(list_file)}; expected a text file with a path on each "
                "line. Check its spelling."
            )
        # A path is bytes: what is no UTF-8 is kept as the system keeps it.
        lines = list_file.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
        if any("\0" in line for line in lines):
            raise ValueError(
                f"{printable(list_file)} is no text in UTF-8; expected a path on each line. Name "
                "photos without --list, or save the list as UTF-8."
            )
        paths = [os.path.split(line.rstrip("\r")) for line in lines if line.strip()]
        del lines
        if not paths:
            return
        folders = {folder: Path(folder) for folder in {folder for folder, _ in paths}}
        if any(folder.is_absolute() or ".." in folder.parts for folder in folders.values()):
            folders = {text: Path(os.path.abspath(text)) for text in folders}
        root = Path(os.path.commonpath([str(folder) for folder in folders.values()]))
        for folder, name in paths:
            if name.lower().endswith(TAR_SUFFIX):
                self._add_tar(folders[folder] / name, root)
            else:
                self._add_photo(Source(folders[folder], name, root))

    def _add_file(self, path: Path, root: Path) -> None:
        if path.suffix.lower() == TAR_SUFFIX:
            self._add_tar(path, root)
        else:
            self._add_photo(Source(path.parent, path.name, root))

    def _add_folder(self, folder: Path, root: Path) -> None:
        try:
            listing = list_photos(folder)
        except OSError as error:
            self.unread[folder] = _UNREAD.format(printable(folder), error.strerror)
            return
        results = former_results([*listing.photos, *listing.other_files()])
        inner = _inside(self._out_dir, folder)
        for path, reason in _with_reasons(listing.photos, listing.others):
            if path in results or (inner and path.is_relative_to(inner)):
                self.skipped[_RESULT].append(path)
            elif reason:
                self.skipped[reason].append(path)
            else:
                self._add_photo(Source(_shared(path.parent), path.name, root))
        self.unread |= {
            path: _UNREAD.format(printable(path), why) for path, why in listing.unread.items()
        }

    def _add_pattern(self, pattern: Path) -> None:
        """Add what a pattern means; results are called by what follows its fixed part."""
        matches = sorted(map(Path, glob.iglob(str(pattern), recursive=True)))
        if not matches:
            raise FileNotFoundError(
                f"nothing is called {printable(pattern)}; expected a pattern of existing files. "
                "Check its spelling."
            )
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1])
        root = Path(*fixed)
        for path in matches:
            if path.is_file():
                self._add_file(path, root)

    def _add_tar(self, tar: Path, root: Path) -> None:
        skipped: dict[str, int] = defaultdict(int)
        n_photos = 0
        folder_of = cache(lambda folder: tar / folder)
        try:
            for name, found in list_tar(tar):
                if isinstance(found, TarMember):
                    n_photos += 1
                    self._add_photo(Source(folder_of(name.parent), name.name, root, found))
                else:
                    skipped[found] += 1
                    # What is shown of it is enough to remember; the others are a number.
                    self.skipped[found].append(tar / name if skipped[found] <= _SHOWN else tar)
        except FileNotFoundError:
            self.unread[tar] = f"tar {printable(tar)} not found; expected a file. Check the path."
        except (OSError, ValueError) as error:
            before = f" {count_text(n_photos, 'photo')} before that are read." if n_photos else ""
            self.unread[tar] = f"{error}{before}"

    def _add_photo(self, source: Source) -> None:
        names = self._seen[self._absolute(source.folder)]
        if source.name not in names:
            names.add(source.name)
            self.sources.append(source)


@cache
def _shared(folder: Path) -> Path:
    """One object for all photos of a folder."""
    return folder


def _with_reasons(photos: Iterable[Path], others: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    yield from ((path, "") for path in photos)
    yield from others.items()


def _inside(out_dir: Path, folder: Path) -> Path | None:
    """`out_dir` as it is called below `folder`; None if it is not below it."""
    inner, outer = (Path(os.path.realpath(path)) for path in (out_dir, folder))
    return folder / inner.relative_to(outer) if outer in inner.parents else None
