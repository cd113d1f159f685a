"""Own photos and a COCO file through `convert`, whose time must follow their number.

    python -m benchmarks.conversion --share 1.0

measures once at this share of Fashionpedia's size: seconds and peak memory of the whole command.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import (
    Row,
    alternate,
    check_equal,
    photo_data_root,
    read_report,
    report,
    seconds_of,
)
from benchmarks.stand_in import build
from clothseg_utils.data.coco import annotation_path, images_dir

_MODULE = "benchmarks.conversion"  # `__name__` is another one where it is run
_SHARES = 0.02, 0.04
_MOST_TIMES = 2.2  # of twice as many photos, beside once


def ours(data_root: str, out: str) -> None:
    """Convert the train split of a dataset, as if its file were a user's own."""
    from clothseg_utils.intake.convert import convert_photos

    photos, file = images_dir(data_root, "train"), annotation_path(data_root, "train")
    seconds, made = seconds_of(lambda: convert_photos(photos, out, annotations=[file]))
    report(seconds=seconds, photos=sum(made.photos.values()), annotations=made.annotations)


def rows() -> list[Row]:
    """Hold a file against one of half its size."""
    root, what = photo_data_root()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(share) for share in _SHARES]
        half, whole = (
            _build(root, path, share) for path, share in zip(paths, _SHARES, strict=True)
        )

        def run(path: Path, n_photos: int) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                found = read_report("-m", _MODULE, path, Path(out) / "own")
            check_equal("photos converted", abs(found["photos"] - n_photos), 0)
            return found["seconds"]

        timing = alternate(lambda: run(paths[0], half), lambda: run(paths[1], whole), 3)
    return [
        Row(
            name=f"convert: {whole:,} photos within {_MOST_TIMES:g} times the time of {half:,}",
            baseline=_MOST_TIMES * timing.baseline,
            ours=timing.ours,
            unit="s",
            target=1.0,
            n=timing.n,
            note=f"an absolute limit; {what}, many times, with their annotations",
        )
    ]


def _build(root: Path, path: Path, share: float) -> int:
    """Build a stand-in and return its number of train photos; each is a file of its own.

    `convert` takes all links to one file for one photo.
    """
    n_photos = build(root, path, share=share).photos["train"]
    for photo in images_dir(path, "train").iterdir():
        data = photo.read_bytes()
        photo.unlink()
        photo.write_bytes(data)
    return n_photos


def main() -> None:
    """Measure once at any share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of Fashionpedia's photos")
    share = parser.parse_args().share
    root, what = photo_data_root()
    with tempfile.TemporaryDirectory() as folder:
        _build(root, Path(folder) / "data", share)
        found = read_report("-m", _MODULE, Path(folder) / "data", Path(folder) / "own")
    print(
        f"{found['photos']:,} photos ({what}, many times), {found['annotations']:,} annotations: "
        f"{found['seconds']:.1f} s, {found['peak_mb']:.0f} MB at most"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3 and not sys.argv[1].startswith("-"):
        ours(*sys.argv[1:])
    else:
        main()
