"""Predict over a split; one confusion matrix per image; tables.

Everything that is reported derives from the per-image matrices (DESIGN: "What a score means").
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from clothseg_utils.classes import IGNORE_INDEX, ClassTable
from clothseg_utils.coco import Annotation, ImageRecord
from clothseg_utils.dataset import SplitData
from clothseg_utils.masks import annotation_to_instance_mask, write_mask
from clothseg_utils.metrics import (
    Intervals,
    bootstrap_intervals,
    bootstrap_ratio,
    confusion_matrix,
    confusion_to_table,
    scores_from_confusion,
    scores_to_dict,
)
from clothseg_utils.network import TrainedNetwork
from clothseg_utils.predict import logits_to_mask, predict_logits, read_ahead
from clothseg_utils.progress import progress_bar
from clothseg_utils.runs import (
    atomic_path,
    portable_path,
    read_json,
    sha256_file,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd

PROTOCOL = (
    "native resolution: logits upsampled to each photo's size, then argmax; one confusion matrix "
    "over the split; ignored pixels left out; absent classes left out of means; background in"
)
REPORTED_PROTOCOL = (
    "photo and mask squashed to image_size x image_size and scored there; one confusion matrix "
    "over the split; background in"
)

REPORTED_SCORES = {"mean_iou": 0.544, "macro_f1": 0.679}
"""What the earlier system reported on Fashionpedia val, 512 px, after 7 epochs."""

_REPORTED_IMAGE_SIZE = 512
_FASHIONPEDIA_VAL_IMAGES = 1158

AREA_BANDS = ((0, 16), (16, 32), (32, 64), (64, 96), (96, None))
"""Object sizes: areas from low² to below high² pixels; None is open."""


@dataclass(frozen=True)
class Evaluation:
    """All that evaluation counted.

    Attributes:
        metrics: content of `metrics.json`, plain values, NaN as None.
        image_ids: (n,) int64.
        file_names: n names, in the order of `image_ids`.
        confusions: (n, C, C) int64, rows = target; native resolution.
        overlap_confusions: (n, C, C) int64, pixels under two or more annotations only.
        person_counts: (n,) int64; -1 where the annotations do not say.
        instances: one row per annotation, (m, 5) int64: image_id, annotation_id, class_id,
            visible pixels (its own, not painted over), visible pixels predicted as its class.
        class_names: index = class id.
    """

    metrics: dict[str, Any]
    image_ids: np.ndarray
    file_names: list[str]
    confusions: np.ndarray
    overlap_confusions: np.ndarray
    person_counts: np.ndarray
    instances: np.ndarray
    class_names: tuple[str, ...]


def evaluate(
    trained: TrainedNetwork,
    split_data: SplitData,
    *,
    bootstrap_samples: int = 2000,
    masks_dir: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Predict every photo of a split and count, photo by photo.

    Args:
        trained: from `network.load_network`.
        split_data: from `dataset.load_split`, with the scheme that the network was trained on.
        bootstrap_samples: resamples of the photos behind each 95 % interval.
        masks_dir: write each predicted mask there, as `predict` does; None writes none.
        progress: show a bar where somebody watches.

    Raises:
        ValueError: the network's classes are not the split's, or a photo or mask is broken.
    """
    classes = split_data.classes
    if trained.class_names != classes.names:
        raise ValueError(
            f"the checkpoint knows {len(trained.class_names)} classes "
            f"({', '.join(trained.class_names[1:4])}, ...) and the data have "
            f"{classes.num_classes}; expected the same. Set data.scheme as in training."
        )
    num_classes = classes.num_classes
    confusions, overlap_confusions, instances = [], [], []
    reported_confusion = np.zeros((num_classes, num_classes), np.int64)
    seconds = {"network": 0.0, "counting": 0.0}
    started = time.perf_counter()
    pairs = read_ahead(split_data.read_pair, split_data.images)
    for record, pair in progress_bar(
        pairs, total=len(split_data.images), desc="evaluate", unit="photo", disable=not progress
    ):
        if isinstance(pair, Exception):
            raise pair
        image, target = pair
        tick = time.perf_counter()
        logits = predict_logits(trained, image)
        pred_mask = logits_to_mask(logits, *target.shape)
        squashed_logits = (
            logits if trained.resize == "squash" else predict_logits(trained, image, squash=True)
        )
        squashed_pred = squashed_logits.max(dim=1).indices[0].byte().cpu().numpy()
        tock = time.perf_counter()
        confusions.append(confusion_matrix(target, pred_mask, num_classes))
        squashed_target = cv2.resize(
            target, squashed_pred.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        )
        reported_confusion += confusion_matrix(squashed_target, squashed_pred, num_classes)
        overlap, rows = _count_annotations(split_data, record, target, pred_mask)
        overlap_confusions.append(overlap)
        instances += rows
        if masks_dir is not None:
            write_mask(masks_dir / f"{Path(record.file_name).stem}.png", pred_mask)
        seconds["network"] += tock - tick
        seconds["counting"] += time.perf_counter() - tock
    seconds["total"] = time.perf_counter() - started

    stacked = np.stack(confusions)
    person_counts = [record.person_count for record in split_data.images]
    evaluation = Evaluation(
        metrics={},
        image_ids=np.array([record.id for record in split_data.images], np.int64),
        file_names=[record.file_name for record in split_data.images],
        confusions=stacked,
        overlap_confusions=np.stack(overlap_confusions),
        person_counts=np.array([-1 if n is None else n for n in person_counts], np.int64),
        instances=np.array(instances, np.int64).reshape(-1, 5),
        class_names=classes.names,
    )
    evaluation.metrics.update(
        _metrics(evaluation, trained, split_data, reported_confusion, bootstrap_samples, seconds)
    )
    return evaluation


def _count_annotations(
    split_data: SplitData, record: ImageRecord, target: np.ndarray, pred_mask: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Count what needs the annotations: pixels under several of them, and each one's recall."""
    classes = split_data.classes
    layers = np.zeros(target.shape, np.uint8)
    rows = []
    for annotation in split_data.coco.annotations_of(record.id):
        instance_mask = annotation_to_instance_mask(annotation, *target.shape)
        layers += instance_mask & (layers < 2)
        rows.append(_count_instance(annotation, instance_mask, classes, target, pred_mask))
    overlap_target = np.where(layers >= 2, target, np.uint8(IGNORE_INDEX))
    return confusion_matrix(overlap_target, pred_mask, classes.num_classes), rows


def _count_instance(
    annotation: Annotation,
    instance_mask: np.ndarray,
    classes: ClassTable,
    target: np.ndarray,
    pred_mask: np.ndarray,
) -> tuple[int, ...]:
    class_id = classes.class_of_category[annotation.category_id]
    visible = instance_mask & (target == class_id)
    hits = visible & (pred_mask == class_id)
    return (
        annotation.image_id,
        annotation.id,
        class_id,
        int(np.count_nonzero(visible)),
        int(np.count_nonzero(hits)),
    )


def _metrics(
    evaluation: Evaluation,
    trained: TrainedNetwork,
    split_data: SplitData,
    reported_confusion: np.ndarray,
    bootstrap_samples: int,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    names = evaluation.class_names
    confusion = evaluation.confusions.sum(axis=0)
    intervals = _bootstrap(evaluation.confusions, bootstrap_samples)
    return {
        "protocol": PROTOCOL,
        "n_images": len(evaluation.image_ids),
        "excluded": split_data.excluded,
        "split": split_data.split,
        "dataset": split_data.coco.path.parent.name,
        "synthetic": split_data.coco.is_synthetic,
        "source": split_data.source,
        "checkpoint": portable_path(trained.path),
        "checkpoint_sha256": sha256_file(trained.path),
        "annotations_sha256": split_data.coco.sha256,
        "image_size": trained.image_size,
        "resize": trained.resize,
        **scores_to_dict(scores_from_confusion(confusion), names),
        "intervals": _intervals_to_dict(intervals, names, bootstrap_samples),
        "reported_protocol": {
            "protocol": REPORTED_PROTOCOL.replace("image_size", str(trained.image_size)),
            **scores_to_dict(scores_from_confusion(reported_confusion), names),
        },
        "comparable_with_reported": (
            trained.image_size == _REPORTED_IMAGE_SIZE
            and len(evaluation.image_ids) == _FASHIONPEDIA_VAL_IMAGES
            and split_data.split == "val"
            and split_data.classes.scheme == "supercategory"
            and not split_data.coco.is_synthetic
        ),
        "strata": {
            "people": _people_strata(evaluation, bootstrap_samples),
            "overlap": _overlap_strata(evaluation, bootstrap_samples),
            "object_area": _area_strata(evaluation, bootstrap_samples),
        },
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _bootstrap(confusions: np.ndarray, samples: int) -> Intervals:
    # A fixed generator of its own: the intervals of a checkpoint are the same every time.
    return bootstrap_intervals(confusions, samples=samples, rng=np.random.default_rng(0))


def _intervals_to_dict(
    intervals: Intervals, class_names: tuple[str, ...], samples: int
) -> dict[str, Any]:
    """Intervals as plain values: [low, high], None where undefined."""
    return {
        "method": f"95 % percentile bootstrap over photos, {samples} resamples",
        "mean_iou": _pair(intervals.mean_iou_low, intervals.mean_iou_high),
        "macro_f1": _pair(intervals.macro_f1_low, intervals.macro_f1_high),
        "per_class": {
            name: {
                "iou": _pair(intervals.iou_low[class_id], intervals.iou_high[class_id]),
                "f1": _pair(intervals.f1_low[class_id], intervals.f1_high[class_id]),
            }
            for class_id, name in enumerate(class_names)
        },
    }


def _pair(low: float, high: float) -> list[float | None]:
    return [_or_none(low), _or_none(high)]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _stratum(name: str, confusions: np.ndarray, samples: int) -> dict[str, Any]:
    """Mean IoU of one group of photos, or of one group of pixels of every photo."""
    scores = scores_from_confusion(confusions.sum(axis=0))
    intervals = _bootstrap(confusions, samples)
    return {
        "stratum": name,
        "n": _count(len(confusions), "photo"),
        "score": _or_none(scores.mean_iou),
        "low": _or_none(intervals.mean_iou_low),
        "high": _or_none(intervals.mean_iou_high),
    }


def _people_strata(evaluation: Evaluation, samples: int) -> list[dict[str, Any]]:
    """Mean IoU by number of people; empty where the annotations do not count them."""
    counts = evaluation.person_counts
    return [
        _stratum(
            f"{count} {'person' if count == 1 else 'people'}",
            evaluation.confusions[counts == count],
            samples,
        )
        for count in np.unique(counts[counts >= 0]).tolist()
    ]


def _overlap_strata(evaluation: Evaluation, samples: int) -> list[dict[str, Any]]:
    """Mean IoU on pixels under two or more annotations, and on the rest."""
    overlap = evaluation.overlap_confusions
    return [
        _stratum("under 0 or 1 annotation", evaluation.confusions - overlap, samples),
        _stratum("under 2 or more annotations", overlap, samples),
    ]


def _area_strata(evaluation: Evaluation, samples: int) -> list[dict[str, Any]]:
    """Mean recall inside an annotation's visible pixels, by their number."""
    position = {image_id: index for index, image_id in enumerate(evaluation.image_ids.tolist())}
    owners = np.array([position[i] for i in evaluation.instances[:, 0].tolist()], np.int64)
    areas, hits = evaluation.instances[:, 3], evaluation.instances[:, 4]
    n_images = len(evaluation.image_ids)
    strata = []
    for low, high in AREA_BANDS:
        inside = (areas >= max(1, low**2)) & (areas < (high**2 if high else np.inf))
        recalls = hits[inside] / areas[inside]
        interval = bootstrap_ratio(
            np.bincount(owners[inside], weights=recalls, minlength=n_images),
            np.bincount(owners[inside], minlength=n_images),
            samples=samples,
            rng=np.random.default_rng(0),
        )
        strata.append(
            {
                "stratum": f"{low}² to {high}² px" if high else f"over {low}² px",
                "n": _count(int(inside.sum()), "annotation"),
                "score": float(recalls.mean()) if inside.any() else None,
                "low": _or_none(interval[0]),
                "high": _or_none(interval[1]),
            }
        )
    return strata


def write_evaluation(out_dir: str | Path, evaluation: Evaluation) -> list[Path]:
    """Write `metrics.json` and `evaluation/per_image.npz`; return their paths."""
    metrics_path = Path(out_dir) / "metrics.json"
    arrays_path = Path(out_dir) / "evaluation" / "per_image.npz"
    with atomic_path(arrays_path) as temporary:
        np.savez_compressed(
            temporary,
            image_ids=evaluation.image_ids,
            file_names=np.array(evaluation.file_names),
            confusions=evaluation.confusions,
            overlap_confusions=evaluation.overlap_confusions,
            person_counts=evaluation.person_counts,
            instances=evaluation.instances,
            class_names=np.array(evaluation.class_names),
        )
    write_json(metrics_path, evaluation.metrics)
    return [metrics_path, arrays_path]


def read_evaluation(out_dir: str | Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        FileNotFoundError: nothing was evaluated into this folder.
    """
    metrics_path = Path(out_dir) / "metrics.json"
    arrays_path = Path(out_dir) / "evaluation" / "per_image.npz"
    for path in (metrics_path, arrays_path):
        if not path.exists():
            raise FileNotFoundError(
                f"no such file: {path}; expected the scores of notebook 04. Run it first."
            )
    with np.load(arrays_path) as arrays:
        return Evaluation(
            metrics=read_json(metrics_path),
            image_ids=arrays["image_ids"],
            file_names=arrays["file_names"].tolist(),
            confusions=arrays["confusions"],
            overlap_confusions=arrays["overlap_confusions"],
            person_counts=arrays["person_counts"],
            instances=arrays["instances"],
            class_names=tuple(arrays["class_names"].tolist()),
        )


def scores_table(evaluation: Evaluation) -> "pd.DataFrame":
    """Lay out the per-class scores with their intervals, one row per class.

    Returns:
        class_name, iou, f1, precision, recall, target_share, status, iou_low, iou_high, f1_low,
        f1_high; the intervals are those of `metrics.json`.
    """
    scores = scores_from_confusion(evaluation.confusions.sum(axis=0))
    table = confusion_to_table(scores, evaluation.class_names)
    per_class = evaluation.metrics["intervals"]["per_class"]
    for score in ("iou", "f1"):
        for end, column in enumerate((f"{score}_low", f"{score}_high")):
            table[column] = [
                np.nan if per_class[name][score][end] is None else per_class[name][score][end]
                for name in evaluation.class_names
            ]
    return table


def image_scores(evaluation: Evaluation) -> np.ndarray:
    """Mean IoU of each photo over the classes that it holds; for ranking, not for reporting.

    Returns:
        (n,) float, 0..1; NaN for a photo whose pixels are all ignored.
    """
    return np.array(
        [scores_from_confusion(one).mean_iou_target_classes for one in evaluation.confusions]
    )
