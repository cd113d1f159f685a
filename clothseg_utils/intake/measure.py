"""Annotations as they lie in the photo: moved where it has another size, measured by their mask."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from pycocotools import mask as mask_api

from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import usable_cores, worker_pool
from clothseg_utils.data.coco import PackedAnnotation
from clothseg_utils.data.rasterize import annotation_to_code
from clothseg_utils.intake.doubts import Evidence, find_evidence
from clothseg_utils.intake.sizes import Fit, move_segmentation

_CHUNK_IMAGES = 64
_MIN_IMAGES_PER_WORKER = 500  # below this a process costs more to start than it saves


@dataclass(frozen=True)
class Part:
    """The annotations of one image record.

    Attributes:
        fit: how they come to lie in the photo.
        packed: the annotations.
    """

    fit: Fit
    packed: Sequence[PackedAnnotation]


class Measured(NamedTuple):
    """One annotation in the photo: its mask, what has changed, and what speaks against it.

    Attributes:
        area: pixels of the mask.
        bbox: (x, y, width, height) of the mask, pixels.
        segmentation: JSON of a segmentation that was moved; None where it stays.
        evidence: what may speak against the mask.
    """

    area: int
    bbox: tuple[int, int, int, int]
    segmentation: bytes | None
    evidence: Evidence


def measure_parts(parts: Sequence[Part], *, workers: int = 0) -> Iterator[list[Measured]]:
    """Measure the annotations of each part; yields in their order.

    Args:
        parts: what to measure.
        workers: processes; 0 means one per core, 1 works in this process.
    """
    starts = range(0, len(parts), _CHUNK_IMAGES)
    chunks = (parts[start : start + _CHUNK_IMAGES] for start in starts)
    n_workers = min(workers or usable_cores(), len(parts) // _MIN_IMAGES_PER_WORKER)
    with progress_bar(total=len(parts), desc="measuring masks", unit="image") as bar:
        if n_workers <= 1:
            for chunk in chunks:
                yield from _measure_chunk(chunk)
                bar.update(len(chunk))
            return
        with worker_pool(n_workers) as pool:
            for measured in pool.map(_measure_chunk, chunks):
                yield from measured
                bar.update(len(measured))


def _measure_chunk(parts: Sequence[Part]) -> list[list[Measured]]:
    return [_measure(part) for part in parts]


def _measure(part: Part) -> list[Measured]:
    fit = part.fit
    read, placed, codes = [], [], []
    for packed in part.packed:
        annotation = moved = packed.unpack()
        if fit.moves:
            segmentation = move_segmentation(annotation.segmentation, fit)
            moved = msgspec.structs.replace(annotation, segmentation=segmentation)
        code = annotation_to_code(moved, fit.height, fit.width)
        codes.append({"size": [fit.height, fit.width], "counts": code})
        read.append(annotation)
        placed.append(moved.segmentation)
    if not codes:
        return []
    areas = [int(mask_api.area(code)) for code in codes]  # it fails with 256 and more at once
    boxes = mask_api.toBbox(codes).astype(int).tolist()
    return [
        Measured(
            area,
            tuple(box),
            msgspec.json.encode(segmentation) if fit.moves else None,
            find_evidence(annotation, segmentation, box, fit),
        )
        for annotation, segmentation, area, box in zip(read, placed, areas, boxes, strict=True)
    ]
