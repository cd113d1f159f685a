"""What was predicted, in COCO's forms: a photo's record, and one file for all photos."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from clothseg_utils.core.files import atomic_path, write_bytes
from clothseg_utils.core.text import printable
from clothseg_utils.data.photos import encode_image

PANOPTIC_NAME = "panoptic"
"""Of the JSON of a panoptic folder, and of the folder of PNGs beside it."""

_SCORE_DIGITS = 4
_HEAD = {"info": {"description": "Predictions of clothseg_utils"}}


def is_ours(path: Path) -> bool:
    """Whether a file is one that this room wrote: by its beginning."""
    head = json.dumps(_HEAD)[:-1].encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def check_replaced(path: Path) -> None:
    """Refuse to replace what is no COCO file of this room.

    Raises:
        ValueError: such a file or folder is there.
    """
    if path.exists() and not (path.is_file() and is_ours(path)):
        raise ValueError(
            f"{printable(path)} is there and no COCO file of predict's; expected a new file, or "
            "one to replace. Name another one, or move it away."
        )


def photo_record(
    file_name: str,
    mask: np.ndarray,
    class_names: Sequence[str],
    confidence: np.ndarray | None = None,
    *,
    parts: bool = False,
) -> dict[str, Any]:
    """Say of a photo what was found where, in one JSON-able record.

    Args:
        file_name: what the photo is called in the record.
        mask, class_names, confidence, parts: as for `mask_to_coco`.

    Returns:
        file_name, and what `mask_to_coco` returns.
    """
    regions = mask_to_coco(mask, class_names, confidence, parts=parts)
    return {"file_name": file_name, **regions}


def mask_to_coco(
    mask: np.ndarray,
    class_names: Sequence[str],
    confidence: np.ndarray | None = None,
    *,
    parts: bool = False,
) -> dict[str, Any]:
    """Write a mask as COCO compressed RLE, one entry per class that occurs, background left out.

    Args:
        mask: (H, W) uint8 class ids.
        class_names: index = class id.
        confidence: (H, W) float32, 0..1: gives each entry a score, the mean over its pixels.
        parts: one entry per connected part of a class instead; diagonal neighbours are connected.

    Returns:
        JSON-able: height, width, and annotations with class_id, class_name, area (pixels), bbox
        (x, y, width, height) and segmentation (size, counts) for `pycocotools.mask.decode`, by
        class id; with `confidence` also score, 0..1, to four digits.

    Example:
        >>> record = mask_to_coco(np.array([[0, 1]], np.uint8), ["background", "head"])
        >>> record["annotations"][0]["bbox"]
        [1.0, 0.0, 1.0, 1.0]
    """
    labels, class_of_label = label_parts(mask) if parts else (mask, np.arange(len(class_names)))
    height, width = labels.shape
    columns = cv2.transpose(labels).ravel()  # as the mask API runs
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    if confidence is not None:
        by_columns = cv2.transpose(confidence).ravel()
        confidence_of_run = np.add.reduceat(by_columns, starts, dtype=np.float64)
    annotations = []
    for label, runs in _runs_of_labels(columns[starts]):
        class_id = int(class_of_label[label])
        if class_id == 0:
            continue
        counts = _run_lengths(starts[runs], ends[runs], columns.size)
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        area = int(coco_mask.area(rle))
        annotation = {
            "class_id": class_id,
            "class_name": class_names[class_id],
            "area": area,
            "bbox": coco_mask.toBbox(rle).tolist(),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        if confidence is not None:
            annotation["score"] = round(confidence_of_run[runs].sum() / area, _SCORE_DIGITS)
        annotations.append(annotation)
    return {"height": height, "width": width, "annotations": annotations}


def label_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected parts of each class; diagonal neighbours are connected.

    Args:
        mask: (H, W) uint8 class ids.

    Returns:
        labels, (H, W) int32: 0 is background, parts are numbered from 1 on, by class; and
        class_of_label, (N,) uint8.
    """
    labels = np.zeros(mask.shape, np.int32)
    class_of_label = [0]
    for class_id in np.flatnonzero(np.bincount(mask.ravel())).tolist():
        if class_id == 0:
            continue
        is_class = (mask == class_id).view(np.uint8)
        left, top, width, height = cv2.boundingRect(is_class)
        box = slice(top, top + height), slice(left, left + width)
        n_parts, part = cv2.connectedComponents(is_class[box], connectivity=8)
        labels[box] += np.where(part > 0, part + (len(class_of_label) - 1), 0)
        class_of_label += [class_id] * (n_parts - 1)
    return labels, np.array(class_of_label, np.uint8)


@contextlib.contextmanager
def coco_writer(
    path: str | Path, class_names: Sequence[str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write one COCO file of any number of photos; it appears when the block has succeeded.

    Records are written as they come, so that memory does not grow with their number. Where none
    came, nothing is written, and a file that was there stays.

    Args:
        path: the JSON, replaced where it is there.
        class_names: index = class id; categories have the class ids. Background is none of them.

    Yields:
        A function that takes a photo's record, as of `photo_record`; file names must differ.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    categories = [
        # Readers want a supercategory; `convert` takes it for the class.
        {"id": class_id, "name": name, "supercategory": name}
        for class_id, name in enumerate(class_names)
        if class_id > 0
    ]
    with _annotation_file(Path(path), categories) as add_photo:
        n_annotations = 0

        def add(record: Mapping[str, Any]) -> None:
            nonlocal n_annotations
            annotations = []
            for region in record["annotations"]:
                n_annotations += 1
                annotations.append({"id": n_annotations, **_of_region(region)})
                annotations[-1]["segmentation"] = region["segmentation"]
                if "score" in region:
                    annotations[-1]["score"] = region["score"]
            add_photo(record, annotations)

        yield add


@contextlib.contextmanager
def panoptic_writer(
    folder: str | Path, class_names: Sequence[str], colors: np.ndarray, *, parts: bool = False
) -> Iterator[Callable[[str, str, np.ndarray], None]]:
    """Write a COCO panoptic set: `panoptic.json`, and a PNG of segment ids for each photo.

    Each class of a photo is one segment, or with `parts` each of its connected parts. The JSON
    appears when the block has succeeded, and only if a photo came.

    Args:
        folder: the PNGs lie in its subfolder `panoptic`.
        class_names: index = class id; categories have the class ids.
        colors: (C, 3) uint8 RGB; index = class id.
        parts: segments are connected parts, and their categories things, not stuff.

    Yields:
        A function that takes a photo's file name, that of its PNG, which may have folders, and
        its mask, (H, W) uint8 class ids; both names must differ from all others.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    categories = [
        {
            "id": class_id,
            "name": name,
            "supercategory": name,
            "isthing": int(parts),
            "color": color,
        }
        for class_id, (name, color) in enumerate(zip(class_names, colors.tolist(), strict=True))
        if class_id > 0
    ]
    folder = Path(folder)
    with _annotation_file(folder / f"{PANOPTIC_NAME}.json", categories) as add_photo:

        def add(file_name: str, png_name: str, mask: np.ndarray) -> None:
            record = photo_record(file_name, mask, class_names, parts=parts)
            regions = record["annotations"]
            # A segment's id is its label: the class, or the number of the part. Red is its lowest
            # byte, then green and blue.
            labels = label_parts(mask)[0] if parts else mask
            id_bytes = labels.astype("<i4").view(np.uint8).reshape(*labels.shape, 4)
            png = encode_image(id_bytes[:, :, :3].copy(), ".png")
            write_bytes(folder / PANOPTIC_NAME / png_name, png)
            segments = [
                {"id": number if parts else region["class_id"], **_of_region(region)}
                for number, region in enumerate(regions, start=1)
            ]
            add_photo(record, [{"file_name": png_name, "segments_info": segments}])

        yield add


def _of_region(region: Mapping[str, Any]) -> dict[str, Any]:
    """What an annotation and a segment have in common."""
    return {
        "category_id": region["class_id"],
        "area": region["area"],
        "bbox": region["bbox"],
        "iscrowd": 0,
    }


class _NoPhotoError(Exception):
    """There is nothing to write."""


@contextlib.contextmanager
def _annotation_file(
    path: Path, categories: list[dict[str, Any]]
) -> Iterator[Callable[[Mapping[str, Any], Iterable[dict[str, Any]]], None]]:
    """Write a JSON with images and annotations as they come: see `coco_writer`.

    Yields:
        A function that takes a photo's record and its annotations, which it tells the image.
    """
    with (
        contextlib.suppress(_NoPhotoError),
        atomic_path(path) as temporary,
        temporary.open("x", encoding="ascii") as file,
        # One list after the other: images wait in a file without a name.
        tempfile.TemporaryFile("w+", encoding="ascii", dir=path.parent) as images,
    ):
        head = json.dumps({**_HEAD, "categories": categories})
        file.write(f'{head[:-1]}, "annotations": [')
        n_images = n_annotations = 0

        def add(record: Mapping[str, Any], annotations: Iterable[dict[str, Any]]) -> None:
            nonlocal n_images, n_annotations
            for annotation in annotations:
                text = json.dumps({"image_id": n_images + 1, **annotation})
                file.write(",\n" * (n_annotations > 0) + text)
                n_annotations += 1
            image = {key: record[key] for key in ("file_name", "height", "width")}
            images.write(",\n" * (n_images > 0) + json.dumps({"id": n_images + 1, **image}))
            n_images += 1

        yield add
        if n_images == 0:
            raise _NoPhotoError
        file.write('],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("]}\n")


def _runs_of_labels(label_of_run: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each label that occurs, rising, and which runs are its own.

    All labels of a mask in one pass over its pixels; the mask API wants one for each of them.
    """
    order = np.argsort(label_of_run, kind="stable")
    ordered = label_of_run[order]
    firsts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for runs in np.split(order, firsts):
        yield int(label_of_run[runs[0]]), runs


def _run_lengths(starts: np.ndarray, ends: np.ndarray, n_pixels: int) -> np.ndarray:
    """Lengths of background, foreground, background, ... of the runs from `starts` to `ends`."""
    edges = np.concatenate([np.stack([starts, ends], axis=1).ravel(), [n_pixels]])
    lengths = np.diff(edges, prepend=0)
    return lengths if lengths[-1] else lengths[:-1]  # as the mask API itself ends
