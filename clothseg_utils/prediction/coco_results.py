"""What was predicted, in COCO's forms: a photo's record of its regions."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

_SCORE_DIGITS = 4


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
