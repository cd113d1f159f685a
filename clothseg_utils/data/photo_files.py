"""Which files of a folder are photos: known by suffix, else by content; the others with why not."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from clothseg_utils.data.photos import IMAGE_HEAD_BYTES, PHOTO_SUFFIXES, image_format

NOT_FOLLOWED = "link to a folder, not followed"
HIDDEN = "hidden"
NO_FILE = "pipe, socket or device"
NO_SUFFIX = "without a suffix"


@dataclass(frozen=True)
class PhotoListing:
    """What lies in a folder and below it.

    Attributes:
        photos: sorted.
        others: what is no photo, sorted by path -> why, a suffix such as ".txt" or words.
        unread: what may hold photos and could not be looked at -> the system's reason.
    """

    photos: list[Path] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)

    def kinds(self) -> dict[str, list[Path]]:
        """`others` by reason, the most frequent first."""
        kinds: dict[str, list[Path]] = defaultdict(list)
        for path, reason in self.others.items():
            kinds[reason].append(path)
        return dict(sorted(kinds.items(), key=lambda kind: -len(kind[1])))


def list_photos(folder: str | Path) -> PhotoListing:
    """List a folder and what lies below it, once.

    Links to files are what they lead to; links to folders are not followed, so that nothing is
    read twice and no loop is endless. Names that begin with a dot are no photos: `._a.jpg` is what
    macOS writes beside a photo.

    Args:
        folder: may be a link itself.

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
                else:
                    with os.scandir(path) as below:
                        entries += below
            elif entry.is_file():
                if is_photo(path):
                    listing.photos.append(path)
                else:
                    listing.others[path] = path.suffix.lower() or NO_SUFFIX
            elif entry.is_symlink() and not path.exists():
                listing.unread[path] = "the link leads nowhere"
            else:
                listing.others[path] = NO_FILE
        except OSError as error:
            listing.unread[path] = error.strerror or str(error)
    listing.photos.sort()
    ordered = dict(sorted(listing.others.items()))
    return PhotoListing(listing.photos, ordered, dict(sorted(listing.unread.items())))


def is_photo(path: Path) -> bool:
    """Whether a file is a photo: by its suffix, or by its content where that says nothing.

    Raises:
        OSError: the file cannot be read.
    """
    if path.suffix.lower() in PHOTO_SUFFIXES:
        return True
    with path.open("rb") as file:
        return image_format(file.read(IMAGE_HEAD_BYTES)) is not None
