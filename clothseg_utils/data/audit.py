"""What would be paired wrongly or could not be read, found and named."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from clothseg_utils.core.files import atomic_path
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import first_names, percent_text
from clothseg_utils.data.coco import (
    Annotation,
    CocoFile,
    ImageRecord,
    Problem,
    ProblemKind,
    Split,
    colliding_images,
    images_dir,
)
from clothseg_utils.data.conversion import conversion_changes
from clothseg_utils.data.copies import Hashes, NearEqual, hash_photos, near_equal
from clothseg_utils.data.photo_cache import look_once
from clothseg_utils.data.photos import check_photo
from clothseg_utils.data.records import count_kinds
from clothseg_utils.data.rle import Rle, Segmentation, rle_to_counts
from clothseg_utils.data.segmentations import measure

_BBOX_TOLERANCE_PX = 2.0
_AREA_TOLERANCE = 0.2

_DRESS = "dress"
_TOPS = frozenset({"shirt, blouse", "top, t-shirt, sweatshirt", "sweater", "cardigan", "vest"})
_BEGINS = (0.6, 1.5)  # of the top's height below the top's upper edge: where a skirt begins
_SAME_PERSON = 0.5  # of the narrower one's width that both have

_Edges = tuple[float, float, float, float]  # left, top, right, bottom; pixels


class Audit(Struct, frozen=True):
    """What is in a dataset and what is wrong with it; JSON-able.

    Attributes:
        annotations_file: name of the JSON.
        sha256: of the JSON, hex.
        n_images: images listed, those left out for their photo or mask included.
        n_annotations: annotations used; `n_polygon` + `n_rle`.
        n_annotations_left_out: annotations that cannot be used, or have no mask.
        n_images_without_annotations: all background; not a fault.
        photos_checked: whether the files were looked at.
        problems: every finding, in the JSON's order within each kind of check.
        counts: findings of each kind that occurs.
        excluded: file_name -> reason, for every image left out.
        licenses: name -> images listed under it, most first; those without one are not counted.
        near_equal: photos of this split (second) that are near-equal to one of another (first),
            the closest of it, and the bits that differ; None where they were not compared.
        converted: what `convert` left out or read in another way, where it made the dataset.
    """

    annotations_file: str
    sha256: str
    n_images: int
    n_annotations: int
    n_polygon: int
    n_rle: int
    n_annotations_left_out: int
    n_images_without_annotations: int
    photos_checked: bool
    problems: list[Problem]
    counts: dict[ProblemKind, int]
    excluded: dict[str, str]
    licenses: dict[str, int]
    near_equal: list[NearEqual] | None = None
    converted: list[str] = []

    def summary(self) -> str:
        """A few lines for a terminal: totals, what is left out, and each kind of finding."""
        lines = [
            f"{self.annotations_file}: {self.n_images:,} images "
            f"({self.n_images_without_annotations:,} without annotations), "
            f"{self.n_annotations:,} annotations ({self.n_polygon:,} polygon, {self.n_rle:,} RLE)",
            f"left out: {len(self.excluded) + self.counts.get('image_left_out', 0):,} images, "
            f"{self.n_annotations_left_out:,} annotations",
        ]
        for kind, count in self.counts.items():
            found = [
                p.subject if p.count == 1 else f"{p.detail} ({p.count:,} times, first {p.subject})"
                for p in self.problems
                if p.kind == kind
            ]
            lines.append(f"  {kind} {count:,}: {first_names(found)}")
        if self.near_equal == []:
            lines.append("  near_equal 0: no photo is near-equal to one of the other split")
        lines += [f"  convert: {line}" for line in self.converted]
        return "\n".join(lines)


def audit(
    coco: CocoFile,
    *,
    image_dir: str | Path | None = None,
    cache_path: Path | None = None,
    others: Hashes | None = None,
) -> Audit:
    """Find what would be paired wrongly or could not be read, and name it.

    Photos are decoded in full, since a truncated file shows only then. An image without annotations
    is not a fault, nor is a photo that the JSON does not list.

    Args:
        coco: the annotation file.
        image_dir: folder of the photos; None leaves photos unchecked.
        cache_path: as for `photo_problems`; None decodes every photo, whatever was found before.
        others: photos of another split, to find those of `image_dir` that are near-equal.

    Raises:
        FileNotFoundError: `image_dir` is not a folder, or holds none of the photos.
    """
    collisions = colliding_images(coco)
    problems = [*coco.problems, *_annotation_problems(coco)]
    problems += [Problem("same_stem", name, reason) for name, reason in collisions.items()]
    excluded = dict(collisions)
    if image_dir is not None:
        found = _find_photo_problems(coco.images, image_dir, cache_path)
        problems += found.values()
        for name, problem in found.items():
            excluded.setdefault(name, problem.detail)
        n_lost = sum(problem.kind == "photo_missing" for problem in found.values())
        if coco.images and n_lost == len({image.file_name for image in coco.images}):
            raise FileNotFoundError(
                f"{image_dir} holds none of the photos that {coco.path.name} names ({n_lost}); "
                "expected the folder of these photos. Check its path."
            )
    pairs = None
    if image_dir is not None and others is not None:
        pairs = near_equal(others, _hash_split(coco, image_dir, cache_path))
        problems += [
            Problem(
                "near_equal",
                f"{pair.second} = {pair.first}",
                f"{pair.bits} of the 256 bits of their hashes differ",
            )
            for pair in pairs
        ]
    annotated = {annotation.image_id for annotation in coco.packed}
    names = [coco.license_names.get(str(image.license)) for image in coco.images]
    n_rle = sum(annotation.n_parts == 0 for annotation in coco.packed)
    counts = count_kinds(problems)
    return Audit(
        annotations_file=coco.path.name,
        sha256=coco.sha256,
        n_images=len(coco.images),
        n_annotations=len(coco.packed),
        n_polygon=len(coco.packed) - n_rle,
        n_rle=n_rle,
        n_annotations_left_out=sum(
            counts.get(kind, 0) for kind in ("annotation_left_out", "without_mask")
        ),
        n_images_without_annotations=sum(image.id not in annotated for image in coco.images),
        photos_checked=image_dir is not None,
        problems=problems,
        counts=counts,
        excluded=excluded,
        licenses=dict(Counter(name for name in names if name).most_common()),
        near_equal=pairs,
        converted=conversion_changes(coco.path.parent),
    )


def audit_splits(
    coco: Mapping[Split, CocoFile], data_root: str | Path, derived_root: str | Path
) -> dict[Split, Audit]:
    """Audit the splits of a dataset with their photos; all others are compared with train."""
    train = coco["train"]
    cache_path = photo_cache_path(train, derived_root)
    hashes = _hash_split(train, images_dir(data_root, "train"), cache_path)
    return {
        split: audit(
            file,
            image_dir=images_dir(data_root, split),
            cache_path=photo_cache_path(file, derived_root),
            others=None if split == "train" else hashes,
        )
        for split, file in coco.items()
    }


def _hash_split(coco: CocoFile, image_dir: str | Path, cache_path: Path | None) -> Hashes:
    """Hash the photos of a split; what is remembered of them lies beside `cache_path`."""
    photos = {image.file_name: Path(image_dir) / image.file_name for image in coco.images}
    return hash_photos(photos, cache_path=cache_path and cache_path.with_name("hashes.json"))


def photo_problems(
    images: Sequence[ImageRecord], image_dir: str | Path, *, cache_path: Path
) -> dict[str, str]:
    """Find the photos that cannot be used: missing, empty, undecodable, or of another size.

    A photo is decoded once and remembered by name, size and modification time.

    Args:
        images: records to check.
        image_dir: folder of the photos.
        cache_path: JSON file of what was found before, for these annotations; made if missing.

    Returns:
        file_name -> reason, for the photos to leave out.

    Raises:
        FileNotFoundError: `image_dir` is not a folder.
    """
    found = _find_photo_problems(images, image_dir, cache_path)
    return {name: problem.detail for name, problem in found.items()}


def photo_cache_path(coco: CocoFile, derived_root: str | Path) -> Path:
    """File in which the photos of an annotation file are remembered, for `photo_problems`."""
    return coco.derived_dir(derived_root) / "photos.json"


def _find_photo_problems(
    images: Sequence[ImageRecord], image_dir: str | Path, cache_path: Path | None
) -> dict[str, Problem]:
    """What is wrong with which photo, by file name, in the JSON's order; a cache is kept up."""
    folder = Path(image_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"photo folder {folder} not found; expected a folder of photos.")
    image_of_name = {image.file_name: image for image in images}

    def look(name: str) -> Problem | None:
        return _photo_problem(folder / name, image_of_name[name])

    found = look_once(
        {name: folder / name for name in image_of_name},
        look,
        Problem | None,
        cache_path=cache_path,
        desc="checking photos",
    )
    return {name: problem for name, problem in found.items() if problem is not None}


def write_audit(path: str | Path, audit: Audit | Mapping[str, Audit]) -> None:
    """Write an audit, or one of each split, as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(audit)) + b"\n")


def _annotation_problems(coco: CocoFile) -> Iterator[Problem]:
    """Oddities that leave an annotation in: it is still rasterized, by the rule."""
    image_of_id = {image.id: image for image in coco.images}
    name_of_id = {category.id: category.name for category in coco.categories}
    dresses: list[tuple[int, str, _Edges]] = []  # image id, subject, edges
    tops: dict[int, list[tuple[str, _Edges]]] = {}  # by image id
    other_areas: list[str] = []
    first_subject = ""
    for packed in progress_bar(coco.packed, desc="checking annotations", unit="annotation"):
        annotation = packed.unpack()
        image = image_of_id[annotation.image_id]
        subject = f"annotation {annotation.id} of {image.file_name}"
        if annotation.area <= 0:
            yield Problem("area_zero", subject, f"area {annotation.area:g}; painted last, on top")
        pixels = _other_area(annotation, image)
        if pixels is not None:
            first_subject = first_subject or subject
            other_areas.append(f"{annotation.area:,.0f}, not {pixels:,}")
        box = _segmentation_to_box(annotation.segmentation)
        name = name_of_id[annotation.category_id]
        if name == _DRESS:
            dresses.append((image.id, subject, box))
        elif name in _TOPS:
            tops.setdefault(image.id, []).append((name, box))
        x, y, width, height = annotation.bbox
        own = x, y, x + width, y + height
        # Past the photo's edge some tools measure the outline, others what is left of it.
        inside = np.clip(box, 0, [image.width, image.height] * 2).tolist()
        most = min(
            max(abs(a - b) for a, b in zip(own, other, strict=True)) for other in (box, inside)
        )
        if most > _BBOX_TOLERANCE_PX:
            yield Problem(
                "bbox_differs",
                subject,
                f"bbox {list(annotation.bbox)} is up to {most:.0f} px off the "
                "segmentation, which decides",
            )
    for image_id, subject, dress in dresses:
        above = next((name for name, top in tops.get(image_id, ()) if _ends_above(top, dress)), "")
        if above:
            yield Problem(
                "dress_below_top", subject, f"begins where a garment ends, as a skirt does: {above}"
            )
    if other_areas:
        share = percent_text(len(other_areas) / len(coco.packed))
        yield Problem(
            "area_differs",
            first_subject,
            f"area, which decides what is painted on top, is more than {_AREA_TOLERANCE:.0%} off "
            f"the mask in {share} of the annotations: {other_areas[0]} px",
            count=len(other_areas),
        )


def _other_area(annotation: Annotation, image: ImageRecord) -> int | None:
    """Pixels of the mask where `area` is far from them, else None."""

    def is_near(area: float) -> bool:
        # Small masks: half a pixel all around is what an outline and its pixels differ by.
        return abs(annotation.area - area) <= max(_AREA_TOLERANCE * area, 2 * math.sqrt(area))

    # The outline tells enough for nearly all; the mask takes ten times as long.
    if is_near(_outline_area(annotation.segmentation)):
        return None
    pixels, _ = measure(annotation.segmentation, image.height, image.width)
    return None if is_near(pixels) else pixels


def _outline_area(segmentation: Segmentation) -> float:
    """Area that run lengths or outlines enclose, parts added up, square pixels."""
    if isinstance(segmentation, Rle):
        return float(rle_to_counts(segmentation)[1::2].sum())
    total = 0.0
    for part in segmentation:
        x, y = np.array(part).reshape(-1, 2).T
        total += 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    return total


def _ends_above(top: _Edges, dress: _Edges) -> bool:
    """Whether a dress lies below a top of the same person, so that it is most likely a skirt."""
    in_common = min(top[2], dress[2]) - max(top[0], dress[0])
    narrower = min(top[2] - top[0], dress[2] - dress[0])
    begins = dress[1] - top[1]
    least, most = (share * (top[3] - top[1]) for share in _BEGINS)
    return in_common > _SAME_PERSON * narrower and least <= begins <= most


def _segmentation_to_box(segmentation: Segmentation) -> _Edges:
    """Tight box (left, top, right, bottom) of a segmentation, pixels; zeros where it is empty."""
    if isinstance(segmentation, Rle):
        height = segmentation.size[0]
        counts = rle_to_counts(segmentation)
        edges = np.cumsum(counts)
        starts, stops = edges[0 : 2 * (len(counts) // 2) : 2], edges[1::2]
        starts, stops = starts[starts < stops], stops[starts < stops]
        if starts.size == 0:
            return 0.0, 0.0, 0.0, 0.0
        left, right = starts[0] // height, (stops[-1] - 1) // height + 1
        # A run into the next column covers the lowest row of one and the first row of the other.
        wraps = starts // height < (stops - 1) // height
        top = 0 if wraps.any() else (starts % height).min()
        bottom = height if wraps.any() else ((stops - 1) % height).max() + 1
        return float(left), float(top), float(right), float(bottom)
    xs = [x for part in segmentation for x in part[0::2]]
    ys = [y for part in segmentation for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _photo_problem(path: Path, image: ImageRecord) -> Problem | None:
    if not path.is_file():
        return Problem("photo_missing", path.name, f"no such file for image {image.id}")
    if path.stat().st_size == 0:
        return Problem("photo_empty", path.name, "the file has 0 bytes")
    try:
        height, width = check_photo(path)
    except (OSError, ValueError) as error:
        return Problem("photo_unreadable", path.name, str(error).replace(str(path), path.name))
    if (height, width) != (image.height, image.width):
        return Problem(
            "photo_size",
            path.name,
            f"the file is {width} x {height} px (width x height); the JSON says {image.width} x "
            f"{image.height}",
        )
    return None
