"""The folder that `convert` makes anew: never one that holds what is not its own."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from clothseg_utils.core.files import files_below
from clothseg_utils.core.text import first_names
from clothseg_utils.data.coco import annotation_path, images_dir
from clothseg_utils.data.conversion import RECORD_NAME
from clothseg_utils.data.records import file_names
from clothseg_utils.intake.sources import SPLITS

_OF_FILE_MANAGERS = (".DS_Store", "Thumbs.db", "desktop.ini")  # who looks at photos leaves them


def check_target(out_dir: Path, sources: Iterable[Path]) -> None:
    """Refuse a folder that cannot be made anew without a loss.

    Args:
        out_dir: folder to make; may be missing, empty, or one that `convert` made.
        sources: files and folders that the dataset is made from.

    Raises:
        ValueError: a source lies inside, or `out_dir` holds a file that `convert` did not write.
        OSError: a folder inside cannot be listed.
    """
    check_outside(out_dir, sources)
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    remedy = (
        "expected a new folder, or one as `convert` made it. Name another one, or move them away."
    )
    if not (out_dir / RECORD_NAME).is_file():
        raise ValueError(f"{out_dir} holds other files than `convert` makes; {remedy}")
    held = {
        path.relative_to(out_dir).as_posix()
        for path in files_below(out_dir)
        if path.name not in _OF_FILE_MANAGERS
    }
    foreign = sorted(held - _written(out_dir))
    if foreign:
        raise ValueError(
            f"{out_dir} holds other files than `convert` makes ({first_names(foreign)}); {remedy}"
        )


def check_outside(out_dir: Path, sources: Iterable[Path]) -> None:
    """Refuse sources inside the folder that is made anew, be it by a link.

    Raises:
        ValueError: one lies there.
    """
    out = out_dir.resolve()
    for path in sources:
        if path.resolve().is_relative_to(out):
            raise ValueError(
                f"{path} lies in {out_dir}, the folder to make, which would replace it; expected "
                "all sources elsewhere. Name another --out."
            )


def _written(out_dir: Path) -> set[str]:
    """Paths that `convert` wrote: what its annotation files list, and themselves."""
    written = {RECORD_NAME}
    for split in SPLITS:
        path = annotation_path(out_dir, split)
        written.add(path.name)
        try:
            names = file_names(path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue
        folder = images_dir(out_dir, split).name
        written.update(f"{folder}/{name}" for name in names)
    return written
