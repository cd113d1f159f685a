"""The three known limits, measured: several people, small accessories, overlapping garments.

First what is counted in one photo with the help of its annotations, then the groups (strata) that
follow from these counts over a split. A stratum is a dict of plain values: `stratum` (name), `n`
and `unit` (how many of what), `score`, `low`, `high` (95 % interval over photos), and what else the
group can say; None where there is nothing to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.text import count_text
from clothseg_utils.data.coco import Annotation
from clothseg_utils.data.rasterize import annotation_to_instance_mask, painting_order
from clothseg_utils.scores.bootstrap import (
    bootstrap_differences,
    bootstrap_intervals,
    bootstrap_ratios,
)
from clothseg_utils.scores.metrics import confusion_matrix, nan_to_none, scores_from_confusion

AREA_BANDS = ((0, 16), (16, 32), (32, 64), (64, 96), (96, None))
"""Object sizes: areas from low² to below high² pixels; None is open."""

INSTANCE_COLUMNS = (
    "image_id",
    "annotation_id",
    "class_id",
    "visible",  # pixels that carry its class in the mask: not painted over by another class
    "hits",  # of these, predicted as its class
    "category_id",
    "area",  # pixels of its own mask, hidden ones included
    "predicted",  # of these, predicted as its class
)
"""What is kept of each annotation."""

PAIR_COLUMNS = (
    "image_id",
    "category_id",  # on top
    "below_id",  # category of the annotation right below
    "pixels",
    "hits",  # predicted as the class on top
    "confused",  # predicted as the class below
)
"""What is kept of each pair of categories of different classes that overlap in a photo."""

_MOST_PAIRS = 12
_FEWEST_PAIR_PHOTOS = 2  # one photo says nothing about a pair


@dataclass(frozen=True)
class Stratum:
    """How one limit is called and told; its groups are plain dicts, as said above.

    Attributes:
        title: heading of the limit.
        score: what `score` is.
        columns: what else is known of a group: title -> its key, or those of low and high.
        text: how it was counted, where that needs a word.
        protocol: key of `metrics.json` that says how, where the metrics themselves do.
        empty: why there may be no groups.
        is_long: it has a group for each of many things.
        is_ordered: something follows from the order of its groups.
    """

    title: str
    score: str = "mean IoU"
    columns: Mapping[str, str | tuple[str, str]] = field(default_factory=dict)
    text: str = ""
    protocol: str = ""
    empty: str = ""
    is_long: bool = False
    is_ordered: bool = True


STRATA = {
    "people": Stratum(
        "Several people in one photo",
        columns={"taken for background": "missed"},
        empty="Not measured: the annotations of this dataset carry no person counts.",
    ),
    "composites": Stratum(
        "Several people: composites of photos",
        columns={
            "photos alone": "alone",
            "drop": "drop",
            "95 % interval of the drop": ("drop_low", "drop_high"),
            "taken for background": "missed",
            "alone": "missed_alone",
        },
        protocol="composite_protocol",
        empty="Not made: composites stand in where the annotations carry no person counts, and "
        "need two photos.",
        is_ordered=False,
    ),
    "object_area": Stratum(
        "Small objects",
        score="mean recall",
        columns={"mean IoU": "iou", "95 % interval of the IoU": ("iou_low", "iou_high")},
        text="Inside the mask of each annotation; bands by the area of that mask. The recall "
        "counts the pixels that are not painted over; the IoU sets false alarms inside the mask "
        "against them, which can only lie where another annotation is on top: where nothing "
        "overlaps, both are equal.",
    ),
    "category": Stratum(
        "Small objects, by category",
        score="mean recall",
        columns={"mean IoU": "iou", "median area, px": "median_area"},
        text="As above, small categories first.",
        empty="This split holds no annotations.",
        is_long=True,
        is_ordered=False,
    ),
    "overlap": Stratum(
        "Overlapping annotations",
        score="share of garment pixels predicted right",
        columns={"taken for background": "missed"},
        text="Of the pixels of all classes but background. A mean over classes would mislead: "
        "background is under no annotation, and most classes never lie on another one.",
    ),
    "overlap_pairs": Stratum(
        "Overlapping categories that are confused",
        score="predicted as the one below",
        columns={"predicted right": "recall"},
        text="Of the pixels of the upper category that lie on the lower one; most confused "
        "pixels first, pairs of different classes in at least two photos.",
        empty="No two categories of different classes overlap in two photos of this split.",
        is_ordered=False,
    ),
    "hidden": Stratum(
        "What painting order hides",
        score="hidden share",
        text="The part of each class's annotated pixels over which another class is painted: "
        "what the masks, and so the scores, do not know of.",
        is_ordered=False,
    ),
    "framing": Stratum(
        "Half of a photo",
        columns={
            "in the whole photo": "alone",
            "drop": "drop",
            "95 % interval of the drop": ("drop_low", "drop_high"),
            "taken for background": "missed",
            "taken for background in the whole photo": "missed_alone",
        },
        protocol="framing_protocol",
        is_ordered=False,
    ),
}
"""The measured limits, by name."""


def stratum_count_text(group: Mapping[str, Any]) -> str:
    """Say in words what a stratum counts; text of metrics of earlier releases stays as it is.

    Example:
        >>> stratum_count_text({"n": 1, "unit": "photo"}), stratum_count_text({"n": "2 photos"})
        ('1 photo', '2 photos')
        >>> stratum_count_text({"n": 1234, "unit": "px", "photos": 3})
        '1,234 px in 3 photos'
    """
    n = group["n"]
    if isinstance(n, str) or "unit" not in group:
        return str(n)
    text = count_text(n, group["unit"], "px" if group["unit"] == "px" else None)
    return f"{text} in {count_text(group['photos'], 'photo')}" if "photos" in group else text


# --- one photo -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnotationCounts:
    """What the annotations of one photo say about its prediction.

    Attributes:
        overlap_confusion: (C, C) int64, pixels under two or more annotations only.
        instances: rows of `INSTANCE_COLUMNS`.
        pairs: rows of `PAIR_COLUMNS`.
    """

    overlap_confusion: np.ndarray
    instances: list[tuple[int, ...]]
    pairs: list[tuple[int, ...]]


def count_annotations(
    annotations: Iterable[Annotation],
    class_of_category: Mapping[int, int],
    target: np.ndarray,
    pred_mask: np.ndarray,
    num_classes: int,
) -> AnnotationCounts:
    """Count, for one photo, what needs its annotations.

    Args:
        annotations: of this photo.
        class_of_category: category_id -> class id.
        target: (H, W) uint8, class ids; the mask that these annotations paint.
        pred_mask: (H, W) uint8, class ids.
        num_classes: C, background included.
    """
    ordered = painting_order(annotations)
    # Place of each pixel's topmost annotation in `ordered`, and of the one below it; -1 is none.
    top, below = np.full((2, *target.shape), -1, np.int32)
    instances = []
    for place, annotation in enumerate(ordered):
        instance_mask = annotation_to_instance_mask(annotation, *target.shape)
        class_id = class_of_category[annotation.category_id]
        visible = instance_mask & (target == class_id)
        predicted = instance_mask & (pred_mask == class_id)
        instances.append(
            (
                annotation.image_id,
                annotation.id,
                class_id,
                int(np.count_nonzero(visible)),
                int(np.count_nonzero(visible & predicted)),
                annotation.category_id,
                int(np.count_nonzero(instance_mask)),
                int(np.count_nonzero(predicted)),
            )
        )
        np.copyto(below, top, where=instance_mask)
        np.copyto(top, np.int32(place), where=instance_mask)
    overlaps = below >= 0
    overlap_target = np.where(overlaps, target, np.uint8(IGNORE_INDEX))
    return AnnotationCounts(
        overlap_confusion=confusion_matrix(overlap_target, pred_mask, num_classes),
        instances=sorted(instances),
        pairs=_count_pairs(
            ordered, class_of_category, top[overlaps], below[overlaps], pred_mask[overlaps]
        ),
    )


def _count_pairs(
    ordered: Sequence[Annotation],
    class_of_category: Mapping[int, int],
    top: np.ndarray,
    below: np.ndarray,
    predicted: np.ndarray,
) -> list[tuple[int, ...]]:
    """Rows of `PAIR_COLUMNS` from pixels, each (k,): places in `ordered`, and the prediction."""
    if not top.size:
        return []
    category_ids, category_of_place = np.unique(
        [annotation.category_id for annotation in ordered], return_inverse=True
    )
    classes = np.array([class_of_category[category_id] for category_id in category_ids.tolist()])
    top, below = category_of_place[top], category_of_place[below]
    cells = top * len(classes) + below
    pixels, hits, confused = (
        np.bincount(cells[among], minlength=len(classes) ** 2).tolist()
        for among in (slice(None), predicted == classes[top], predicted == classes[below])
    )
    image_id = ordered[0].image_id
    return [
        (image_id, int(category_ids[a]), int(category_ids[b]), pixels[c], hits[c], confused[c])
        for c, (a, b) in enumerate(np.ndindex(len(classes), len(classes)))
        if pixels[c] and classes[a] != classes[b]
    ]


# --- several people ------------------------------------------------------------------------------


def people_strata(
    confusions: np.ndarray, person_counts: np.ndarray, samples: int
) -> list[dict[str, Any]]:
    """Score photos by the number of people in them; empty where the annotations do not count them.

    Args:
        confusions: (n, C, C) counts of each photo.
        person_counts: (n,) int; -1 is unknown.
        samples: resamples behind each interval.
    """
    return [
        _confusion_stratum(
            count_text(count, "person", "people"),
            confusions[person_counts == count],
            samples,
        )
        for count in np.unique(person_counts[person_counts >= 0]).tolist()
    ]


def paired_stratum(
    name: str,
    confusions: np.ndarray,
    alone_confusions: np.ndarray,
    samples: int,
    *,
    unit: str = "photo",
) -> dict[str, Any]:
    """Score pixels that were predicted twice: in an arrangement of ours, and as the photo was.

    Args:
        name: of the group.
        confusions: (n, C, C) counts of each picture.
        alone_confusions: (n, C, C) counts of the same pixels, predicted in the photo as it was.
        samples: resamples of the pictures behind each interval.
        unit: what a picture is called.

    Returns:
        Stratum of mean IoU; further `alone`, `alone_low`, `alone_high` (the same of the photos as
        they were), `drop`, `drop_low`, `drop_high` (alone minus score, paired), `missed` and
        `missed_alone` (part of the garments' pixels taken for background).
    """
    alone = _confusion_stratum(name, alone_confusions, samples)
    ours = _confusion_stratum(name, confusions, samples, unit=unit)
    ends = bootstrap_differences(
        alone_confusions, confusions, samples=samples, rng=np.random.default_rng(0)
    )
    low, high = ends["mean_iou"]
    return ours | {
        "alone": alone["score"],
        "alone_low": alone["low"],
        "alone_high": alone["high"],
        "drop": alone["score"] - ours["score"] if ours["score"] is not None else None,
        "drop_low": nan_to_none(low),
        "drop_high": nan_to_none(high),
        "missed_alone": alone["missed"],
    }


# --- small accessories ---------------------------------------------------------------------------


def area_strata(instances: np.ndarray, image_ids: np.ndarray, samples: int) -> list[dict[str, Any]]:
    """Mean recall and IoU inside each annotation's mask, by the area of that mask.

    Annotations that are painted over entirely have no recall and are left out.

    Args:
        instances: (m, 8) int, `INSTANCE_COLUMNS`.
        image_ids: (n,) int, all photos of the split.
        samples: resamples of the photos behind each interval.

    Returns:
        Strata of mean recall; further `iou`, `iou_low`, `iou_high`.
    """
    names = [_band_name(low, high) for low, high in AREA_BANDS]
    limits = [high**2 for _, high in AREA_BANDS if high]
    bands = np.digitize(_column(instances, "area"), limits)
    return _instance_strata(names, bands, instances, image_ids, samples)


def _band_name(low: int, high: int | None) -> str:
    if high is None:
        return f"over {low}² px"
    return f"{low}² to {high}² px" if low else f"under {high}² px"


def category_strata(
    instances: np.ndarray,
    image_ids: np.ndarray,
    categories: Mapping[int, str],
    class_names: Sequence[str],
    samples: int,
) -> list[dict[str, Any]]:
    """Mean recall and IoU inside each annotation's mask, by category, small ones first.

    Args:
        instances, image_ids, samples: as for `area_strata`.
        categories: category_id -> name.
        class_names: index = class id.

    Returns:
        Strata as of `area_strata`, of the categories that occur, by their median area; further
        `class_name` and `median_area` (pixels).
    """
    ids, group_of_instance = np.unique(_column(instances, "category_id"), return_inverse=True)
    names = [categories[category_id] for category_id in ids.tolist()]
    strata = _instance_strata(names, group_of_instance, instances, image_ids, samples)
    areas, classes = _column(instances, "area"), _column(instances, "class_id")
    visible = _column(instances, "visible") > 0
    for group, stratum in enumerate(strata):
        own = group_of_instance == group
        shown = own & visible if (own & visible).any() else own
        stratum["class_name"] = class_names[classes[own][0]]
        stratum["median_area"] = float(np.median(areas[shown]))
    return sorted(strata, key=lambda stratum: stratum["median_area"])


def _instance_strata(
    names: Sequence[str],
    group_of_instance: np.ndarray,
    instances: np.ndarray,
    image_ids: np.ndarray,
    samples: int,
) -> list[dict[str, Any]]:
    """Mean recall and IoU of the annotations of each group, 0..len(names)-1."""
    visible = _column(instances, "visible") > 0
    seen, groups = instances[visible], group_of_instance[visible]
    area, hits = _column(seen, "visible"), _column(seen, "hits")
    union = area + _column(seen, "predicted") - hits
    owners = _positions(_column(seen, "image_id"), image_ids)
    shape = (len(image_ids), len(names))
    counts = _sums(owners, groups, np.ones(len(seen)), shape)
    recall, iou = (
        _ratios(_sums(owners, groups, values, shape), counts, samples)
        for values in (hits / area, hits / union)
    )
    return [
        _stratum(name, n, "annotation", recall[:, group])
        | {
            "iou": nan_to_none(iou[0, group]),
            "iou_low": nan_to_none(iou[1, group]),
            "iou_high": nan_to_none(iou[2, group]),
        }
        for group, (name, n) in enumerate(zip(names, counts.sum(axis=0), strict=True))
    ]


# --- overlaps ------------------------------------------------------------------------------------


def overlap_strata(
    confusions: np.ndarray, overlap_confusions: np.ndarray, samples: int
) -> list[dict[str, Any]]:
    """Find the share of the garments' pixels predicted right under one annotation and under more.

    A mean IoU would compare two sets of classes: background is never under an annotation, and most
    classes never lie on another one, so in the overlaps they could only be false alarms.

    Args:
        confusions: (n, C, C) counts of each photo.
        overlap_confusions: (n, C, C) those of its pixels under two or more annotations.
        samples: resamples behind each interval; the same ones for both groups.

    Returns:
        Two strata; further `missed`: part of the garments' pixels taken for background.
    """
    names = ("under 1 annotation", "under 2 or more annotations")
    groups = np.stack([confusions - overlap_confusions, overlap_confusions], axis=1)[:, :, 1:]
    garments = groups.sum(axis=(2, 3))  # (n, 2)
    right = np.trace(groups[..., 1:], axis1=2, axis2=3)
    shares = _ratios(right, garments, samples)
    missed = groups[..., 0].sum(axis=(0, 2)) / np.maximum(1, garments.sum(axis=0))
    return [
        _stratum(name, np.count_nonzero(garments[:, group]), "photo", shares[:, group])
        | {"missed": float(missed[group]) if garments[:, group].any() else None}
        for group, name in enumerate(names)
    ]


def pair_strata(
    pairs: np.ndarray, image_ids: np.ndarray, categories: Mapping[int, str], samples: int
) -> list[dict[str, Any]]:
    """Find the overlapping categories of which the lower one is seen instead of the upper one.

    Args:
        pairs: (m, 6) int, `PAIR_COLUMNS`.
        image_ids: (n,) int, all photos of the split.
        categories: category_id -> name.
        samples: resamples of the photos behind each interval.

    Returns:
        Strata of the part of the upper category's pixels that are predicted as the class below,
        those with most such pixels first, at most 12, none that overlap in one photo only; further
        `photos` (how many), `recall` (predicted as the class on top) and `confused` (pixels).
    """
    keys, group_of_row = np.unique(pairs[:, 1:3], axis=0, return_inverse=True)
    owners = _positions(_column(pairs, "image_id", PAIR_COLUMNS), image_ids)
    shape = (len(image_ids), len(keys))
    pixels, hits, confused = (
        _sums(owners, group_of_row, _column(pairs, name, PAIR_COLUMNS), shape)
        for name in ("pixels", "hits", "confused")
    )
    n_photos = np.count_nonzero(pixels, axis=0)
    order = np.argsort(-confused.sum(axis=0), kind="stable")
    order = order[n_photos[order] >= _FEWEST_PAIR_PHOTOS][:_MOST_PAIRS]
    shares = _ratios(confused[:, order], pixels[:, order], samples)
    recalls = hits[:, order].sum(axis=0) / np.maximum(1, pixels[:, order].sum(axis=0))
    return [
        _stratum(
            f"{categories[int(keys[group, 0])]} on {categories[int(keys[group, 1])]}",
            pixels[:, group].sum(),
            "px",
            shares[:, place],
        )
        | {
            "photos": int(n_photos[group]),
            "recall": float(recalls[place]),
            "confused": int(confused[:, group].sum()),
        }
        for place, group in enumerate(order.tolist())
    ]


def hidden_strata(
    instances: np.ndarray, image_ids: np.ndarray, class_names: Sequence[str], samples: int
) -> list[dict[str, Any]]:
    """Give the part of each class's annotated pixels over which another class is painted.

    A pixel under two annotations of the class counts twice.

    Args:
        instances, image_ids, samples: as for `area_strata`.
        class_names: index = class id.

    Returns:
        A stratum for each class but background, which nothing paints.
    """
    owners = _positions(_column(instances, "image_id"), image_ids)
    classes, areas = _column(instances, "class_id"), _column(instances, "area")
    shape = (len(image_ids), len(class_names))
    area = _sums(owners, classes, areas, shape)
    hidden = _sums(owners, classes, areas - _column(instances, "visible"), shape)
    shares = _ratios(hidden, area, samples)
    counts = np.bincount(classes, minlength=len(class_names))
    return [
        _stratum(name, counts[class_id], "annotation", shares[:, class_id])
        for class_id, name in enumerate(class_names)
        if class_id > 0
    ]


# --- parts ---------------------------------------------------------------------------------------


def _confusion_stratum(
    name: str, confusions: np.ndarray, samples: int, *, unit: str = "photo"
) -> dict[str, Any]:
    """Mean IoU of photos, (n, C, C); further `missed`: garments' pixels taken for background."""
    confusion = confusions.sum(axis=0)
    intervals = bootstrap_intervals(confusions, samples=samples, rng=np.random.default_rng(0))
    score = scores_from_confusion(confusion).mean_iou
    garments = confusion[1:].sum()
    return _stratum(name, len(confusions), unit, (score, *intervals["mean_iou"])) | {
        "missed": float(confusion[1:, 0].sum() / garments) if garments else None
    }


def _stratum(name: str, n: Any, unit: str, values: Iterable[float]) -> dict[str, Any]:
    """What every stratum has; the values are its score and both ends of the interval."""
    score, low, high = map(nan_to_none, values)
    return {"stratum": name, "n": int(n), "unit": unit, "score": score, "low": low, "high": high}


def _column(rows: np.ndarray, name: str, columns: Sequence[str] = INSTANCE_COLUMNS) -> np.ndarray:
    return rows[:, columns.index(name)]


def _positions(ids: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    """Index in `image_ids`, which need not be sorted, of each id."""
    order = np.argsort(image_ids)
    return order[np.searchsorted(image_ids, ids, sorter=order)]


def _sums(
    owners: np.ndarray, groups: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Sum of the values of each photo and group: `shape` float64."""
    cells = owners * shape[1] + groups
    return np.bincount(cells, weights=values, minlength=shape[0] * shape[1]).reshape(shape)


def _ratios(numerators: np.ndarray, denominators: np.ndarray, samples: int) -> np.ndarray:
    """Ratios of the sums over photos, and both ends of the intervals: (3, k); NaN: undefined."""
    above, below = numerators.sum(axis=0), denominators.sum(axis=0)
    ratios = np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
    # A fixed generator of its own: the intervals of a checkpoint are the same every time.
    ends = bootstrap_ratios(numerators, denominators, samples=samples, rng=np.random.default_rng(0))
    return np.stack([ratios, *ends])
