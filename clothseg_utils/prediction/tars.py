"""Photos in tar files, such as the shards of WebDataset: listed and read where they lie."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from clothseg_utils.core.text import printable
from clothseg_utils.data.photo_files import HIDDEN
from clothseg_utils.data.photos import PHOTO_SUFFIXES, check_n_bytes

TAR_SUFFIX = ".tar"
_NO_FILE = "link or device in a tar"


class TarMember(NamedTuple):
    """Where a photo's bytes lie.

    Attributes:
        tar: the file.
        offset: of the first byte.
        n_bytes: how many.
    """

    tar: Path
    offset: int
    n_bytes: int

    def read(self, name: str) -> bytes:
        """The photo's file.

        Args:
            name: what an error calls it.

        Raises:
            OSError: the tar cannot be read.
            ValueError: it has become shorter, or the photo is larger than any may be.
        """
        check_n_bytes(self.n_bytes, name)
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.n_bytes)
        if len(data) < self.n_bytes:
            raise ValueError(
                f"photo {name} is cut: {printable(self.tar)} ends in it. Fetch the tar again."
            )
        return data


def list_tar(tar: Path) -> Iterator[tuple[PurePosixPath, TarMember | str]]:
    """List a tar by its heads; nothing is unpacked, and memory does not grow with its members.

    A name is only a name: `..` and a leading `/` are taken out, and no file is opened by it.
    Members are photos by their suffix.

    Yields:
        A member's name, and where it lies or why it is no photo. Folders are left out.

    Raises:
        OSError: the tar cannot be read.
        ValueError: it is no tar, or damaged from some member on; those before have been yielded.
    """
    try:
        with tarfile.open(tar, "r:") as file:
            while (member := file.next()) is not None:
                file.members.clear()  # type: ignore[attr-defined]  # kept to find them again
                name = _harmless(member.name)
                if member.isdir():
                    continue
                if not member.isfile():
                    yield name, _NO_FILE
                elif any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
                    yield name, HIDDEN
                elif name.suffix.lower() in PHOTO_SUFFIXES:
                    yield name, TarMember(tar, member.offset_data, member.size)
                else:
                    yield name, f"no photo, {name.suffix.lower() or 'without a suffix'}"
            # A tar that was cut between two members or in a head ends in silence here.
            end = file.offset
            with tar.open("rb") as data:
                data.seek(end)
                if data.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise ValueError(
            f"{printable(tar)} cannot be read to its end ({error}); expected a whole tar that is "
            "not compressed. Fetch it again, or unpack its gzip."
        ) from None


def _harmless(name: str) -> PurePosixPath:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..", "\0")]
    return PurePosixPath(*parts) if parts else PurePosixPath("unnamed")
