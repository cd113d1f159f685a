"""A dataset of Fashionpedia's size, made of a small one: its photos and outlines, many times."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from clothseg_utils.core.files import atomic_path, whole_folder
from clothseg_utils.data.coco import (
    Annotation,
    CocoFile,
    ImageRecord,
    Split,
    annotation_path,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.rasterize import annotation_to_instance_mask
from clothseg_utils.data.rle import Rle

N_PHOTOS: dict[Split, int] = {"train": 45_623, "val": 1_158}
"""Photos of Fashionpedia."""

N_ANNOTATIONS: dict[Split, int] = {"train": 333_401, "val": 8_781}
"""Annotations of Fashionpedia."""

_MEAN_BYTES = 1500  # of JSON for each annotation, at least; the official train file has 1,626
_SCALES = (1.0, 0.6, 0.35, 0.2, 0.1)  # a photo's outlines, repeated smaller: small items too
_MAX_EDGE_PARTS = 8
_SMOOTHING_PX = 1.0  # how far a polygon made of RLE may leave its outline
_SPREAD = 0.6  # of the number of annotations a photo, lognormal: a few photos have ten times more


@dataclass(frozen=True)
class StandIn:
    """What was built: photos and annotations of each split, and bytes of the train JSON."""

    photos: dict[Split, int]
    annotations: dict[Split, int]
    train_bytes: int


def build(source: str | Path, out: str | Path, *, share: float = 1.0) -> StandIn:
    """Build a stand-in of Fashionpedia below `out`; the same source gives the same files.

    Every photo is a hard link to one of the few copies made, or a copy where links fail. Its
    annotations are those of the source's photo, then the same ones smaller, as many as it takes.

    Args:
        source: a dataset in Fashionpedia's layout, both splits; it is only read.
        out: folder to make; must be missing or empty.
        share: of Fashionpedia's photos and annotations, above 0.

    Raises:
        ValueError: `share` is not above 0, or a split has no annotated photo.
        OSError: `out` holds something.
    """
    if share <= 0:
        raise ValueError(f"share is {share}; expected a number above 0, such as 0.1.")
    photos: dict[Split, int] = {s: max(1, round(n * share)) for s, n in N_PHOTOS.items()}
    annotations: dict[Split, int] = {s: max(1, round(n * share)) for s, n in N_ANNOTATIONS.items()}
    with whole_folder(out) as folder:
        for split in photos:
            coco = read_annotations(annotation_path(source, split))
            records = [image for image in coco.images if coco.packed_of(image.id)]
            if not records:
                raise ValueError(
                    f"{coco.path} has no annotated photo; expected at least one in each split."
                )
            images = _link_photos(
                records, images_dir(source, split), images_dir(folder, split), photos[split]
            )
            _write_json(coco, records, images, annotation_path(folder, split), annotations[split])
        train_bytes = annotation_path(folder, "train").stat().st_size
    return StandIn(photos, annotations, train_bytes)


def _link_photos(
    records: list[ImageRecord], source_dir: Path, out_dir: Path, number: int
) -> list[dict[str, object]]:
    """Make the photos, the source's in turn; return their image records for the JSON."""
    out_dir.mkdir(parents=True)
    images: list[dict[str, object]] = []
    copies: list[Path] = []
    for n in range(number):
        record = records[n % len(records)]
        path = out_dir / f"{out_dir.name}_{n:06d}{Path(record.file_name).suffix}"
        if n < len(records):
            # A copy, not a link: the source stays untouched, whatever is done to these.
            shutil.copyfile(source_dir / record.file_name, path)
            copies.append(path)
        else:
            _link(copies[n % len(records)], path)
        size = {"width": record.width, "height": record.height}
        images.append({"id": n + 1, "file_name": path.name, **size})
    return images


def _link(existing: Path, path: Path) -> None:
    try:
        os.link(existing, path)
    except OSError:  # a file system without hard links, or with too few of them for one file
        shutil.copyfile(existing, path)


def _write_json(
    coco: CocoFile,
    records: list[ImageRecord],
    images: list[dict[str, object]],
    path: Path,
    n_annotations: int,
) -> None:
    """Write the annotation file, annotation by annotation: it is large."""
    counts = _counts(len(images), n_annotations)
    outlined = [[_outline(a, r) for a in coco.annotations_of(r.id)] for r in records]
    for edge_parts in itertools.count(1):
        bodies = [_annotation_bodies(items, edge_parts) for items in outlined]
        n_bytes = sum(map(len, _chosen(bodies, counts)))
        # Run lengths have no edges: a source without polygons may never get there.
        if n_bytes >= _MEAN_BYTES * n_annotations or edge_parts == _MAX_EDGE_PARTS:
            break
    head = {
        "info": {"description": f"Stand-in of Fashionpedia's size, made of {coco.path.name}"},
        "licenses": [],
        "categories": [
            {"id": c.id, "name": c.name, "supercategory": c.supercategory} for c in coco.categories
        ],
        "images": images,
    }
    image_ids = (image["id"] for image, n in zip(images, counts, strict=True) for _ in range(n))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number, (image_id, body) in enumerate(
            zip(image_ids, _chosen(bodies, counts), strict=True), start=1
        ):
            comma = ", " if number > 1 else ""
            file.write(f'{comma}{{"id": {number}, "image_id": {image_id}, {body}')
        file.write("]}\n")


def _chosen(bodies: list[list[str]], counts: list[int]) -> Iterator[str]:
    """The annotations of every photo in turn, as many as it has."""
    for n, count in enumerate(counts):
        yield from itertools.islice(itertools.cycle(bodies[n % len(bodies)]), count)


def _counts(n_images: int, n_annotations: int) -> list[int]:
    """Annotations of each photo, adding up to `n_annotations`; few have many."""
    weights = np.random.default_rng(0).lognormal(sigma=_SPREAD, size=n_images)
    ends = np.round(n_annotations * np.cumsum(weights) / weights.sum()).astype(int)
    return np.diff(ends, prepend=0).tolist()


@dataclass(frozen=True)
class _Outlined:
    """An annotation with its polygon parts, (N, 2) x and y each."""

    annotation: Annotation
    parts: list[np.ndarray]


def _outline(annotation: Annotation, record: ImageRecord) -> _Outlined:
    """Polygon parts of an annotation; those around its areas where it is RLE."""
    if not isinstance(annotation.segmentation, Rle):
        parts = [np.array(part, float).reshape(-1, 2) for part in annotation.segmentation]
        return _Outlined(annotation, parts)
    mask = annotation_to_instance_mask(annotation, record.height, record.width)
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    smooth = [cv2.approxPolyDP(contour, _SMOOTHING_PX, True) for contour in contours]
    # A speck of a pixel or two has no outline: a corner three times is a polygon of one pixel.
    usable = [c for c in smooth if len(c) >= 3] or [np.repeat(smooth[0][:1], 3, axis=0)]
    return _Outlined(annotation, [contour.reshape(-1, 2).astype(float) for contour in usable])


def _annotation_bodies(items: list[_Outlined], edge_parts: int) -> list[str]:
    """JSON of a photo's annotations without ids, each at every scale, the scales mixed."""
    return [
        _annotation_body(item, _SCALES[(n + turn) % len(_SCALES)], edge_parts)
        for turn in range(len(_SCALES))
        for n, item in enumerate(items)
    ]


def _annotation_body(item: _Outlined, scale: float, edge_parts: int) -> str:
    annotation = item.annotation
    segmentation: object
    if isinstance(annotation.segmentation, Rle) and scale == 1:
        rle = annotation.segmentation
        segmentation = {"size": list(rle.size), "counts": rle.counts}
        box = list(annotation.bbox)
    else:
        parts = [_scaled(part, annotation.bbox, scale, edge_parts) for part in item.parts]
        points = np.concatenate(parts)
        low, high = points.min(axis=0), points.max(axis=0)
        box = np.round([*low, *(high - low)], 1).tolist()
        segmentation = [part.ravel().tolist() for part in parts]
    values = {
        "category_id": annotation.category_id,
        "attribute_ids": [],
        "segmentation": segmentation,
        "bbox": box,
        "area": round(annotation.area * scale**2, 2),
        "iscrowd": annotation.iscrowd,
    }
    return json.dumps(values)[1:]


def _scaled(
    part: np.ndarray, bbox: tuple[float, float, float, float], scale: float, edge_parts: int
) -> np.ndarray:
    """Shrink a polygon part towards the middle of its annotation; cut its edges into pieces."""
    x, y, width, height = bbox
    middle = np.array([x + width / 2, y + height / 2])
    steps = np.arange(edge_parts)[:, None] / edge_parts
    edges = np.roll(part, -1, axis=0) - part
    points = (part[:, None] + steps * edges[:, None]).reshape(-1, 2)
    return np.round(middle + scale * (points - middle), 1)
