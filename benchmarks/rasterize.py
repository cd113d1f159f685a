"""Annotation JSON -> mask PNGs, the whole command."""

import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import (
    Row,
    alternate,
    annotation_data_root,
    check_equal,
    run_python,
    seconds_of,
)


def baseline(annotations: str, out_dir: str) -> None:
    """The usual loop: every annotation to a full mask, painted largest first."""
    from pycocotools.coco import COCO

    coco = COCO(annotations)
    class_ids = _class_ids(coco.dataset["categories"])
    for image in coco.imgs.values():
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        own = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for annotation in sorted(own, key=lambda a: (-a["area"], a["id"])):
            mask[coco.annToMask(annotation) > 0] = class_ids[annotation["category_id"]]
        stem = Path(image["file_name"]).stem
        cv2.imwrite(f"{out_dir}/{stem}.png", mask)


def _class_ids(categories: list[dict]) -> dict[int, int]:
    # The order of the classes is the project's; the baseline has to use the same.
    from clothseg_utils.core.classes import class_table
    from clothseg_utils.data.coco import Category

    records = [Category(c["id"], c["name"], c["supercategory"]) for c in categories]
    return class_table("supercategory", records).class_of_category


def rows() -> list[Row]:
    """Compare the command with one and with two workers; check that time is linear in images."""
    from clothseg_utils.data.coco import annotation_path

    root, what = annotation_data_root()
    annotations = annotation_path(root, "train")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            _compare(annotations, folder, workers=2, target=6.0, repeats=9, what=what),
            _compare(annotations, folder, workers=1, target=3.5, repeats=3, what=what),
            _check_linear(annotations, folder),
        ]


def _compare(
    annotations: Path, folder: Path, workers: int, target: float, repeats: int, what: str
) -> Row:
    # Each run fills an empty folder: nothing to resume, nothing to overwrite.
    def run_baseline() -> Path:
        out = Path(tempfile.mkdtemp(dir=folder))
        run_python("-m", "benchmarks.rasterize", annotations, out)
        return out

    def run_ours() -> Path:
        out = Path(tempfile.mkdtemp(dir=folder))
        run_python(
            "-m", "clothseg_utils", "rasterize", "--annotations", annotations, "--out", out,
            "--workers", str(workers),
        )  # fmt: skip
        return out

    timing = alternate(run_baseline, run_ours, repeats, warm_up=False)
    masks = sorted(timing.baseline_result.glob("*.png"))
    new = timing.our_result
    differing = sum(int(np.count_nonzero(_read(path) != _read(new / path.name))) for path in masks)
    check_equal("pixels of the masks", differing)
    start = seconds_of(lambda: run_python("-c", "import clothseg_utils.data.masks"))[0]
    writing = _seconds_to_write(masks, folder)
    return Row(
        name=f"rasterize a split, whole command, {workers} worker{'s' * (workers > 1)}",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=target,
        n=timing.n,
        note=(
            f"{len(masks)} images, {what}; pycocotools annToMask loop and cv2.imwrite in one "
            "process; 0 pixels differ; start-up of both counted"
        ),
        floor=timing.baseline / (start + writing / workers),
        floor_note=(
            f"{writing:.1f} s on one core to compress and write the masks as PNG, {start:.1f} s "
            "for a process to start and import; nothing else counted"
        ),
    )


def _seconds_to_write(masks: list[Path], folder: Path) -> float:
    """Seconds of writing alone, in the settings that measured fastest."""
    from clothseg_utils.data.masks import write_mask

    pixels = [_read(path) for path in masks[:100]]
    out = Path(tempfile.mkdtemp(dir=folder))

    def write() -> None:
        # New files, as the command makes them.
        for index, mask in enumerate(pixels):
            write_mask(out / f"{index}.png", mask)

    return seconds_of(write)[0] * len(masks) / len(pixels)


def _read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def _check_linear(annotations: Path, folder: Path) -> Row:
    from clothseg_utils.data.masks import rasterize_split

    small, large = folder / "small.json", folder / "large.json"
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:200]  # ten times the same ones, or the work differs
    small.write_text(json.dumps(repeat_images(content, n_images=200)))
    large.write_text(json.dumps(repeat_images(content, n_images=2000)))

    # To memory where possible: the pace of a disk changes with what it has to write back.
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 2**28
    out_parent = memory if has_room else folder

    def run(path: Path) -> float:
        with tempfile.TemporaryDirectory(dir=out_parent) as out:
            return seconds_of(lambda: rasterize_split(path, out, "supercategory", workers=1))[0]

    timing = alternate(lambda: run(small), lambda: run(large), 4)
    return Row(
        name="rasterize: 2,000 images within 10.5 times the time of 200",
        baseline=10.5 * timing.baseline,
        ours=timing.ours,
        unit="s",
        target=1.0,
        n=timing.n,
        note=(
            "an absolute limit; one worker, reading the JSON counted; masks written to "
            f"{'memory' if out_parent == memory else 'disk'}"
        ),
    )


def repeat_images(content: dict, n_images: int) -> dict:
    """Cut or repeat a file's images, with their annotations, under fresh ids and names."""
    own: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        own.setdefault(annotation["image_id"], []).append(annotation)
    images, annotations = [], []
    for index in range(n_images):
        image = copy.copy(content["images"][index % len(content["images"])])
        for annotation in own.get(image["id"], []):
            annotations.append(annotation | {"id": len(annotations) + 1, "image_id": index + 1})
        image["id"], image["file_name"] = index + 1, f"{index:06d}.jpg"
        images.append(image)
    return content | {"images": images, "annotations": annotations}


if __name__ == "__main__":
    baseline(*sys.argv[1:])
