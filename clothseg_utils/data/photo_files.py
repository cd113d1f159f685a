"""Which files of a folder are photos: known by suffix, else by content; the others with why not."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from clothseg_utils.data.photos import IMAGE_HEAD_BYTES, PHOTO_SUFFIXES, image_format

NOT_FOLLOWED = "link to a folder, not followed"
HIDDEN = "hidden"
NO_FILE = "pipe, socket or device"
LEFT_ALONE = "folder of another kind"

_RAW_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"),
)


@dataclass(frozen=True)
class PhotoListing:
    """What lies in a folder and below it.

    Attributes:
        photos: sorted.
        others: what is no photo, sorted by path -> why; for files, with the suffix.
        unread: what may hold photos and could not be looked at -> the system's reason.
    """

    photos: list[Path] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)

    def other_files(self) -> list[Path]:
        """Files that are no photos, neither hidden nor anything else."""
        no_files = (HIDDEN, NOT_FOLLOWED, NO_FILE, LEFT_ALONE)
        return [path for path, reason in self.others.items() if reason not in no_files]


def list_photos(
    folder: str | Path, *, below: bool = True, without: str | None = None
) -> PhotoListing:
    """List a folder and what lies below it, once.

    Links to files are what they lead to; links to folders are not followed, so that nothing is
    read twice and no loop is endless. Names that begin with a dot are no photos: `._a.jpg` is what
    macOS writes beside a photo.

    Args:
        folder: may be a link itself.
        below: list its subfolders too.
        without: subfolders that hold a file of this name are left alone.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    listing = PhotoListing()
    entries = list(os.scandir(folder))
    while entries:
        entry = entries.pop()
        path = Path(entry.path)
        try:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                listing.others[path] = HIDDEN
            elif entry.is_dir():
                if entry.is_symlink():
                    listing.others[path] = NOT_FOLLOWED
                elif without and (path / without).is_file():
                    listing.others[path] = LEFT_ALONE
                elif below:
                    with os.scandir(path) as its_entries:
                        entries += its_entries
            elif entry.is_file():
                reason = _why_no_photo(path)
                if reason:
                    listing.others[path] = reason
                else:
                    listing.photos.append(path)
            elif entry.is_symlink() and not path.exists():
                listing.unread[path] = "the link leads nowhere"
            else:
                listing.others[path] = NO_FILE
        except OSError as error:
            listing.unread[path] = error.strerror or str(error)
    listing.photos.sort()
    ordered = dict(sorted(listing.others.items()))
    return PhotoListing(listing.photos, ordered, dict(sorted(listing.unread.items())))


def _why_no_photo(path: Path) -> str:
    """Decide by the suffix, or by the content where that says nothing; empty for a photo."""
    suffix = path.suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return ""
    if suffix in _RAW_SUFFIXES:  # they are TIFF files that hold a small preview
        return f"camera raw, to be exported as JPEG, {suffix}"
    with path.open("rb") as file:
        is_image = image_format(file.read(IMAGE_HEAD_BYTES)) is not None
    return "" if is_image else f"no photo, {suffix or 'without a suffix'}"
