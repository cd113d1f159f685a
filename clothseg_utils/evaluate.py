"""Predict over a split; one confusion matrix per image; tables.

Everything that is reported derives from the per-image matrices (DESIGN: "What a score means").
"""

import dataclasses
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from clothseg_utils.boundaries import BAND_SHARE, boundary_counts
from clothseg_utils.calibration import (
    N_BINS,
    bootstrap_calibration_error,
    calibration_counts,
    expected_calibration_error,
)
from clothseg_utils.classes import FASHIONPEDIA_CATEGORIES
from clothseg_utils.coco import ImageRecord
from clothseg_utils.composites import Composite, compose, lay_out, plan_composites
from clothseg_utils.dataset import SplitData
from clothseg_utils.masks import write_mask
from clothseg_utils.metrics import (
    CLASS_SCORES,
    MEAN_SCORES,
    Intervals,
    bootstrap_counts,
    bootstrap_intervals,
    confusion_matrix,
    confusion_to_table,
    iou_of_counts,
    nan_to_none,
    scores_from_confusion,
    scores_to_dict,
)
from clothseg_utils.network import TrainedNetwork
from clothseg_utils.predict import (
    logits_to_confidence,
    logits_to_mask,
    predict_logits,
    read_ahead,
)
from clothseg_utils.progress import progress_bar
from clothseg_utils.runs import (
    atomic_path,
    portable_path,
    read_json,
    sha256_file,
    write_json,
)
from clothseg_utils.strata import (
    INSTANCE_COLUMNS,
    PAIR_COLUMNS,
    area_strata,
    category_strata,
    composite_strata,
    count_annotations,
    hidden_strata,
    overlap_strata,
    pair_strata,
    people_strata,
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

BOUNDARY_PROTOCOL = (
    "boundary IoU (Cheng et al., CVPR 2021) at native resolution: of each class only the pixels "
    f"within {100 * BAND_SHARE:g} % of the photo's diagonal inside its outline count, in truth and "
    "prediction; pixels summed over the split; ignored pixels left out; absent classes left out of "
    "means; background in"
)
CALIBRATION_PROTOCOL = (
    f"expected calibration error (Guo et al., ICML 2017) over {N_BINS} equal bins: logits "
    "upsampled to each photo's size, then softmax; every pixel counts once, by the probability of "
    "its predicted class; ignored pixels left out; background in"
)
COMPOSITE_PROTOCOL = (
    "two to four photos of the split made into one, drawn at random with a fixed seed, side by "
    "side or overlapping; beside it the same pixels of the photos predicted alone; each photo is "
    "taken to show one person; all are scaled to the lowest one's height, and in the network's "
    "input each person is smaller than alone, which is part of the drop"
)

REPORTED_SCORES = {"mean_iou": 0.544, "macro_f1": 0.679}
"""What the earlier system reported on Fashionpedia val, 512 px, after 7 epochs."""

_REPORTED_IMAGE_SIZE = 512
_FASHIONPEDIA_VAL_IMAGES = 1158

# Composites of each number of photos and layout: a part of the split, so that they cost less than
# half of what the photos themselves do, and no more than intervals need.
_PHOTOS_PER_COMPOSITE = 16
_FEWEST_COMPOSITES, _MOST_COMPOSITES = 2, 20


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
        instances: one row per annotation, (m, 8) int64: `strata.INSTANCE_COLUMNS`.
        class_names: index = class id.

    The following are None where they were not counted:

    Attributes:
        boundaries: (n, 3, C) int64, pixels in both bands of a class, in the target's, in the
            prediction's.
        calibration: (n, N_BINS, 3) float64, by confidence: pixels, right ones, sum of confidences.
        class_calibration: (C, N_BINS, 3) float64, the same over the split by predicted class.
        pairs: (m, 6) int64, `strata.PAIR_COLUMNS`.
        composite_members: (k, 4) int64 image ids, -1 where there are fewer photos; k is 0 where
            the annotations count people.
        composite_groups: (k,) names.
        composite_confusions: (k, C, C) int64.
        composite_alone: (k, C, C) int64, the same pixels of the photos predicted alone.
    """

    metrics: dict[str, Any]
    image_ids: np.ndarray
    file_names: list[str]
    confusions: np.ndarray
    overlap_confusions: np.ndarray
    person_counts: np.ndarray
    instances: np.ndarray
    class_names: tuple[str, ...]
    boundaries: np.ndarray | None = None
    calibration: np.ndarray | None = None
    class_calibration: np.ndarray | None = None
    pairs: np.ndarray | None = None
    composite_members: np.ndarray | None = None
    composite_groups: np.ndarray | None = None
    composite_confusions: np.ndarray | None = None
    composite_alone: np.ndarray | None = None


class _Stopwatch:
    """Splits the time since it was made among named jobs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, job: str) -> None:
        """Charge the time since the last call to a job."""
        now = time.perf_counter()
        self.seconds[job] = self.seconds.get(job, 0.0) + now - self._last
        self._last = now


class _Counter:
    """Counts photo by photo; what it keeps of a photo does not grow with the photo's size."""

    def __init__(
        self, trained: TrainedNetwork, split_data: SplitData, masks_dir: Path | None
    ) -> None:
        self.trained = trained
        self.split_data = split_data
        self.masks_dir = masks_dir
        self.num_classes = split_data.classes.num_classes
        self.watch = _Stopwatch()
        self.reported_confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.class_calibration = np.zeros((self.num_classes, N_BINS, 3))
        self.per_photo: dict[str, list[np.ndarray]] = {
            name: [] for name in ("confusions", "overlap_confusions", "boundaries", "calibration")
        }
        self.instances: list[tuple[int, ...]] = []
        self.pairs: list[tuple[int, ...]] = []
        self.composites = _composites(split_data)
        self.composite_confusions: list[tuple[np.ndarray, np.ndarray]] = []
        # Predictions of the photos that composites are made of, packed: a few thousand bytes each,
        # and at most as many as composites need.
        self._packed = dict.fromkeys(
            image_id for composite in self.composites for image_id in composite.members
        )

    def add(self, record: ImageRecord, image: np.ndarray, target: np.ndarray) -> None:
        """Predict one photo and count."""
        self.watch.lap("reading")
        logits = predict_logits(self.trained, image)
        pred_mask = logits_to_mask(logits, *target.shape)
        squashed_pred = self._predict_squashed(image, logits)
        self.watch.lap("network")
        self.per_photo["confusions"].append(confusion_matrix(target, pred_mask, self.num_classes))
        squashed_target = cv2.resize(
            target, squashed_pred.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        )
        self.reported_confusion += confusion_matrix(
            squashed_target, squashed_pred, self.num_classes
        )
        if self.masks_dir is not None:
            write_mask(self.masks_dir / f"{Path(record.file_name).stem}.png", pred_mask)
        self.watch.lap("counting")
        self.per_photo["boundaries"].append(boundary_counts(target, pred_mask, self.num_classes))
        self.watch.lap("boundaries")
        confidence = logits_to_confidence(logits, *target.shape)
        counts = calibration_counts(confidence, pred_mask, target, self.num_classes)
        self.per_photo["calibration"].append(counts.sum(axis=0))
        self.class_calibration += counts
        self.watch.lap("calibration")
        by_annotation = count_annotations(
            self.split_data.coco.annotations_of(record.id),
            self.split_data.classes.class_of_category,
            target,
            pred_mask,
            self.num_classes,
        )
        self.per_photo["overlap_confusions"].append(by_annotation.overlap_confusion)
        self.instances += by_annotation.instances
        self.pairs += by_annotation.pairs
        if record.id in self._packed:
            self._packed[record.id] = zlib.compress(pred_mask, level=1)
        self.watch.lap("strata")

    def _predict_squashed(self, image: np.ndarray, logits: torch.Tensor) -> np.ndarray:
        """Mask at the network's own size, (image_size, image_size) uint8, of the squashed photo."""
        if self.trained.resize != "squash" or not self.trained.inference.is_plain:
            logits = predict_logits(self.trained, image, squash=True)
        return logits.max(dim=1).indices[0].byte().cpu().numpy()

    def add_composite(
        self, composite: Composite, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Predict one composite and count; `pairs` are photo and mask of its members."""
        images, targets = zip(*pairs, strict=True)
        canvas = lay_out(composite, targets)
        image, target = compose(images, canvas), compose(targets, canvas)
        alone = [
            np.frombuffer(zlib.decompress(self._packed[image_id]), np.uint8).reshape(own.shape)
            for image_id, own in zip(composite.members, targets, strict=True)
        ]
        pred_mask = logits_to_mask(predict_logits(self.trained, image), *target.shape)
        self.composite_confusions.append(
            (
                confusion_matrix(target, pred_mask, self.num_classes),
                confusion_matrix(target, compose(alone, canvas), self.num_classes),
            )
        )
        self.watch.lap("composites")


def evaluate(
    trained: TrainedNetwork,
    split_data: SplitData,
    *,
    bootstrap_samples: int = 2000,
    masks_dir: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Predict every photo of a split and count, photo by photo.

    Where the annotations do not count people, composites of two to four photos are predicted too
    (`COMPOSITE_PROTOCOL`).

    Args:
        trained: from `network.load_network`.
        split_data: from `dataset.load_split`, with the scheme that the network was trained on.
        bootstrap_samples: resamples of the photos behind each 95 % interval.
        masks_dir: write each predicted mask there, as `predict` does; None writes none.
        progress: show a bar, or lines where nobody watches.

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
    counter = _Counter(trained, split_data, masks_dir)
    pairs = read_ahead(split_data.read_pair, split_data.images)
    for record, pair in progress_bar(
        pairs, total=len(split_data.images), desc="evaluate", unit="photo", disable=not progress
    ):
        if isinstance(pair, Exception):
            raise pair
        counter.add(record, *pair)
    record_of = {record.id: record for record in split_data.images}
    for composite in progress_bar(
        counter.composites, desc="composites", unit="composite", disable=not progress
    ):
        members = [split_data.read_pair(record_of[image_id]) for image_id in composite.members]
        counter.add_composite(composite, members)

    evaluation = _counts_to_evaluation(counter)
    evaluation.metrics.update(_metrics(evaluation, counter, bootstrap_samples))
    counter.watch.lap("counting")
    seconds = {**counter.watch.seconds, "total": sum(counter.watch.seconds.values())}
    evaluation.metrics["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    return evaluation


def _composites(split_data: SplitData) -> list[Composite]:
    """Composites to be made; none where the annotations count people."""
    if any(record.person_count is not None for record in split_data.images):
        return []
    # A photo with no garment in it has no person to be seen.
    annotated = {e.image_id for e in split_data.masks.entries if sum(e.class_pixels[1:]) > 0}
    image_ids = [record.id for record in split_data.images if record.id in annotated]
    per_group = len(image_ids) // _PHOTOS_PER_COMPOSITE
    per_group = min(_MOST_COMPOSITES, max(_FEWEST_COMPOSITES, per_group))
    return plan_composites(image_ids, per_group)


def _counts_to_evaluation(counter: _Counter) -> Evaluation:
    """Stack what was counted; `metrics` is still empty."""
    images = counter.split_data.images
    person_counts = [record.person_count for record in images]
    num_classes = counter.num_classes
    composites = counter.composites
    members = np.full((len(composites), 4), -1, np.int64)
    for row, composite in zip(members, composites, strict=True):
        row[: len(composite.members)] = composite.members
    together, alone = np.reshape(
        np.array(counter.composite_confusions, np.int64), (-1, 2, num_classes, num_classes)
    ).swapaxes(0, 1)
    return Evaluation(
        metrics={},
        image_ids=np.array([record.id for record in images], np.int64),
        file_names=[record.file_name for record in images],
        person_counts=np.array([-1 if n is None else n for n in person_counts], np.int64),
        **{name: np.stack(counts) for name, counts in counter.per_photo.items()},
        instances=_rows(counter.instances, INSTANCE_COLUMNS),
        class_names=counter.split_data.classes.names,
        class_calibration=counter.class_calibration,
        pairs=_rows(counter.pairs, PAIR_COLUMNS),
        composite_members=members,
        composite_groups=np.array([composite.group for composite in composites], np.str_),
        composite_confusions=together,
        composite_alone=alone,
    )


def _rows(rows: Sequence[tuple[int, ...]], columns: Sequence[str]) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, len(columns))


def _metrics(evaluation: Evaluation, counter: _Counter, samples: int) -> dict[str, Any]:
    """Content of `metrics.json`; the time it takes is charged to the jobs it belongs to."""
    names, watch = evaluation.class_names, counter.watch
    trained, split_data = counter.trained, counter.split_data
    confusion = evaluation.confusions.sum(axis=0)
    intervals = _bootstrap(evaluation.confusions, samples)
    watch.lap("counting")
    boundary = _boundary_metrics(evaluation, samples)
    watch.lap("boundaries")
    calibration = _calibration_metrics(evaluation, samples)
    watch.lap("calibration")
    strata = _strata(evaluation, split_data, samples)
    watch.lap("strata")
    options = trained.inference
    return {
        "protocol": f"{PROTOCOL}; test-time options: {options.describe()}",
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
        "inference": options.model_dump(),
        **scores_to_dict(scores_from_confusion(confusion), names),
        "intervals": _intervals_to_dict(intervals, names, samples),
        "reported_protocol": {
            "protocol": REPORTED_PROTOCOL.replace("image_size", str(trained.image_size)),
            **scores_to_dict(scores_from_confusion(counter.reported_confusion), names),
        },
        "comparable_with_reported": (
            trained.image_size == _REPORTED_IMAGE_SIZE
            and len(evaluation.image_ids) == _FASHIONPEDIA_VAL_IMAGES
            and split_data.split == "val"
            and split_data.classes.scheme == "supercategory"
            and not split_data.coco.is_synthetic
            and [(c.name, c.supercategory) for c in split_data.coco.categories]
            == [category[:2] for category in FASHIONPEDIA_CATEGORIES]
        ),
        "boundary": boundary,
        "calibration": calibration,
        "strata": strata,
        "composite_protocol": COMPOSITE_PROTOCOL,
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
        **{name: _pair(*intervals.of(name)) for name in MEAN_SCORES},
        "per_class": {
            name: {
                score: _pair(*(ends[class_id] for ends in intervals.of(score)))
                for score in CLASS_SCORES
            }
            for class_id, name in enumerate(class_names)
        },
    }


def _boundary_metrics(evaluation: Evaluation, samples: int) -> dict[str, Any]:
    """Boundary IoU per class and on average, with intervals."""
    both, target, predicted = evaluation.boundaries.sum(axis=0)
    iou = iou_of_counts(both, target, predicted)
    intervals = bootstrap_counts(
        *evaluation.boundaries.swapaxes(0, 1), samples=samples, rng=np.random.default_rng(0)
    )
    return {
        "protocol": BOUNDARY_PROTOCOL,
        "mean_iou": _nanmean_or_none(iou),
        "mean_iou_no_background": _nanmean_or_none(iou[1:]),
        "intervals": {
            name: _pair(*intervals.of(name)) for name in ("mean_iou", "mean_iou_no_background")
        },
        "per_class": {
            name: {
                "iou": nan_to_none(iou[class_id]),
                "interval": _pair(intervals.iou_low[class_id], intervals.iou_high[class_id]),
                "target_pixels": int(target[class_id]),
            }
            for class_id, name in enumerate(evaluation.class_names)
        },
    }


def _calibration_metrics(evaluation: Evaluation, samples: int) -> dict[str, Any]:
    """Calibration error with interval, its bins, and the error of each predicted class."""
    by_class = evaluation.class_calibration
    bins = by_class.sum(axis=0)
    pixels, right, confidence = bins.sum(axis=0)
    low, high = bootstrap_calibration_error(
        evaluation.calibration, samples=samples, rng=np.random.default_rng(0)
    )
    errors = expected_calibration_error(by_class)
    garments = expected_calibration_error(by_class[1:].sum(axis=0))
    return {
        "protocol": CALIBRATION_PROTOCOL,
        "ece": nan_to_none(expected_calibration_error(bins)),
        "interval": _pair(low, high),
        "ece_no_background": nan_to_none(garments),  # of the pixels predicted as a garment
        "mean_confidence": confidence / pixels if pixels else None,
        "pixel_accuracy": right / pixels if pixels else None,
        "bins": [
            {
                "low": index / N_BINS,
                "high": (index + 1) / N_BINS,
                "pixels": int(n),
                "accuracy": n_right / n if n else None,
                "confidence": total / n if n else None,
            }
            for index, (n, n_right, total) in enumerate(bins.tolist())
        ],
        "per_class": {
            name: {
                "ece": nan_to_none(errors[class_id]),
                "mean_confidence": total / n if n else None,
                "precision": n_right / n if n else None,
            }
            for class_id, (name, (n, n_right, total)) in enumerate(
                zip(evaluation.class_names, by_class.sum(axis=1).tolist(), strict=True)
            )
        },
    }


def _strata(
    evaluation: Evaluation, split_data: SplitData, samples: int
) -> dict[str, list[dict[str, Any]]]:
    """The three known limits as groups of photos, annotations and pixels."""
    names, image_ids = evaluation.class_names, evaluation.image_ids
    instances = evaluation.instances
    categories = {category.id: category.name for category in split_data.coco.categories}
    return {
        "people": people_strata(evaluation.confusions, evaluation.person_counts, samples),
        "composites": composite_strata(
            evaluation.composite_confusions,
            evaluation.composite_alone,
            evaluation.composite_groups.tolist(),
            samples,
        ),
        "object_area": area_strata(instances, image_ids, samples),
        "category": category_strata(instances, image_ids, categories, names, samples),
        "overlap": overlap_strata(evaluation.confusions, evaluation.overlap_confusions, samples),
        "overlap_pairs": pair_strata(evaluation.pairs, image_ids, categories, samples),
        "hidden": hidden_strata(instances, image_ids, names, samples),
    }


def _pair(low: float, high: float) -> list[float | None]:
    return [nan_to_none(low), nan_to_none(high)]


def _nanmean_or_none(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def seconds_text(seconds: Mapping[str, float], writing: float = 0.0) -> str:
    """Say where the time of an evaluation went, with shares of the network's time.

    Args:
        seconds: `metrics["seconds"]`.
        writing: seconds that writing the results took.

    Example:
        >>> seconds_text({"network": 40.0, "counting": 1.0, "strata": 4.0}, writing=1.0)
        'network 40.0 s; counting and writing 2.0 s (5 %); strata 4.0 s (10 %)'
    """
    parts = {"counting and writing": seconds.get("counting", 0.0) + writing}
    parts |= {
        name: value
        for name, value in seconds.items()
        if name not in ("network", "counting", "total")
    }
    network = seconds["network"]
    share = 100 / network if network else 0.0
    texts = [f"{name} {value:.1f} s ({value * share:.0f} %)" for name, value in parts.items()]
    return "; ".join([f"network {network:.1f} s", *texts])


def write_evaluation(out_dir: str | Path, evaluation: Evaluation) -> list[Path]:
    """Write `metrics.json` and `evaluation/per_image.npz`; return their paths."""
    metrics_path = Path(out_dir) / "metrics.json"
    arrays_path = Path(out_dir) / "evaluation" / "per_image.npz"
    names = [field.name for field in dataclasses.fields(Evaluation)]
    arrays = {name: getattr(evaluation, name) for name in names}
    del arrays["metrics"]
    with atomic_path(arrays_path) as temporary:
        np.savez_compressed(
            temporary,
            **{name: np.asarray(value) for name, value in arrays.items() if value is not None},
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
    with np.load(arrays_path) as stored:
        arrays = dict(stored)
    names = [field.name for field in dataclasses.fields(Evaluation)]
    arrays = {name: value for name, value in arrays.items() if name in names}
    for name, to_plain in (("file_names", list), ("class_names", tuple)):
        arrays[name] = to_plain(arrays[name].tolist())
    return Evaluation(metrics=read_json(metrics_path), **arrays)


def scores_table(evaluation: Evaluation) -> "pd.DataFrame":
    """Lay out the per-class scores with their intervals, one row per class.

    Returns:
        class_name, iou, f1, precision, recall, target_share, status, then iou_low, iou_high and so
        on for each of them; the intervals are those of `metrics.json`.
    """
    scores = scores_from_confusion(evaluation.confusions.sum(axis=0))
    table = confusion_to_table(scores, evaluation.class_names)
    per_class = evaluation.metrics["intervals"]["per_class"]
    for score in CLASS_SCORES:
        pairs = [per_class[name].get(score, (None, None)) for name in evaluation.class_names]
        for end, values in zip(("low", "high"), zip(*pairs, strict=True), strict=True):
            table[f"{score}_{end}"] = np.array(values, np.float64)  # None becomes NaN
    return table


def image_scores(evaluation: Evaluation) -> np.ndarray:
    """Mean IoU of each photo over the classes that it holds; for ranking, not for reporting.

    Returns:
        (n,) float, 0..1; NaN for a photo whose pixels are all ignored.
    """
    return np.array(
        [scores_from_confusion(one).mean_iou_target_classes for one in evaluation.confusions]
    )
