"""Photos and folders of photos -> masks, overlays and COCO files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from clothseg_utils.core.files import atomic_path, write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import read_ahead
from clothseg_utils.data.masks import write_mask
from clothseg_utils.data.photos import PHOTO_SUFFIXES, read_photo, write_image
from clothseg_utils.network.segmenter import (
    Segmenter,
    logits_to_mask,
    logits_to_probabilities,
)
from clothseg_utils.pictures.overlays import colorize
from clothseg_utils.pictures.panels import overlay_with_legend


def mask_to_coco(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Write a mask as COCO compressed RLE, one entry per class that occurs, background left out.

    Args:
        mask: (H, W) uint8 class ids.
        class_names: index = class id.

    Returns:
        JSON-able: height, width, and annotations with class_id, class_name, area (pixels), bbox
        (x, y, width, height) and segmentation (size, counts) for `pycocotools.mask.decode`.

    Example:
        >>> record = mask_to_coco(np.array([[0, 1]], np.uint8), ["background", "head"])
        >>> record["annotations"][0]["bbox"]
        [1.0, 0.0, 1.0, 1.0]
    """
    annotations = []
    for class_id in np.unique(mask).tolist():
        if class_id == 0:
            continue
        rle = coco_mask.encode(np.asfortranarray(mask == class_id, dtype=np.uint8))
        annotations.append(
            {
                "class_id": class_id,
                "class_name": class_names[class_id],
                "area": int(coco_mask.area(rle)),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return {"height": mask.shape[0], "width": mask.shape[1], "annotations": annotations}


@dataclass(frozen=True)
class PhotoTask:
    """One photo to predict and the path, without suffix, that its results share."""

    photo: Path
    result_stem: Path

    def results(self, *, as_json: bool = False, probabilities: bool = False) -> list[Path]:
        """Every file that this photo's prediction writes."""
        endings = [".png", "_color.png", "_overlay.jpg"]
        endings += [".json"] * as_json + [".npz"] * probabilities
        return [self.result_stem.with_name(self.result_stem.name + ending) for ending in endings]


def plan_predictions(
    inputs: Iterable[str | Path],
    out_dir: str | Path,
    *,
    as_json: bool = False,
    probabilities: bool = False,
) -> list[PhotoTask]:
    """List the photos and where their results go, before anything is written.

    A folder stands for the photos in it and below; its subfolders are kept below `out_dir`, and
    an `out_dir` inside it is not read.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: no photo at all, two photos with one result name, or a result that would
            overwrite an input.
    """
    out_dir = Path(out_dir)
    tasks: list[PhotoTask] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            photos = sorted(
                path
                for path in entry.rglob("*")
                if path.suffix.lower() in PHOTO_SUFFIXES
                and path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(entry).parts)
                and not (_is_inside(out_dir, entry) and _is_inside(path, out_dir))
            )
            tasks += [
                PhotoTask(photo, out_dir / photo.relative_to(entry).with_suffix(""))
                for photo in photos
            ]
        elif entry.exists():
            tasks.append(PhotoTask(entry, out_dir / entry.stem))
        else:
            raise FileNotFoundError(
                f"no such photo or folder: {entry}; expected an existing path. Check its spelling."
            )
    if not tasks:
        raise ValueError(
            "no photo found; expected at least one file with a suffix of "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}. Name a photo or a folder with photos."
        )
    inputs_read = {task.photo.resolve() for task in tasks}
    writers: dict[Path, Path] = {}
    for task in tasks:
        for result in task.results(as_json=as_json, probabilities=probabilities):
            resolved = result.resolve()
            if resolved in inputs_read:
                raise ValueError(
                    f"the result {result} would overwrite an input photo; nothing was written. "
                    "Choose another --out."
                )
            other = writers.setdefault(resolved, task.photo)
            if other != task.photo:
                raise ValueError(
                    f"{other} and {task.photo} would both write {result}; nothing was written. "
                    "Rename one of them, or predict them into two folders."
                )
    return tasks


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` lies strictly below `folder`."""
    return folder.resolve() in path.resolve().parents


@dataclass(frozen=True)
class PredictSummary:
    """What `predict_photos` did: photos done, and photo -> reason for those that failed."""

    done: list[Path]
    failed: dict[Path, str]


def predict_photos(
    segmenter: Segmenter,
    tasks: Sequence[PhotoTask],
    *,
    as_json: bool = False,
    probabilities: bool = False,
    opacity: float = 0.55,
) -> PredictSummary:
    """Predict photos and write their results; an unreadable photo is reported, not fatal.

    Args:
        segmenter: from `segmenter.load_segmenter`.
        tasks: from `plan_predictions`.
        as_json: write `<stem>.json` with COCO compressed RLE too.
        probabilities: write `<stem>.npz` with `probabilities` (C, H, W) float16, 0..1, too.
        opacity: of the class colour over the photo, 0..1.
    """
    summary = PredictSummary([], {})
    reads = read_ahead(lambda task: read_photo(task.photo), tasks)
    for task, image in progress_bar(reads, total=len(tasks), desc="predict", unit="photo"):
        if isinstance(image, Exception):
            summary.failed[task.photo] = str(image)
            continue
        logits = segmenter.logits(image)
        mask = logits_to_mask(logits, *image.shape[:2])
        stem = task.result_stem
        write_mask(stem.with_name(stem.name + ".png"), mask)
        color_mask = colorize(mask, segmenter.colors)
        write_image(stem.with_name(stem.name + "_color.png"), color_mask)
        blended = overlay_with_legend(
            image, mask, segmenter.class_names, segmenter.colors, opacity=opacity
        )
        write_image(stem.with_name(stem.name + "_overlay.jpg"), blended)
        if as_json:
            annotations = mask_to_coco(mask, segmenter.class_names)
            text = json.dumps({"file_name": task.photo.name, **annotations})
            write_text(stem.with_name(stem.name + ".json"), text + "\n")
        if probabilities:
            with atomic_path(stem.with_name(stem.name + ".npz")) as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=logits_to_probabilities(logits, *image.shape[:2]),
                    class_names=np.array(segmenter.class_names),
                )
        summary.done.append(task.photo)
    return summary
