"""Predict over a split and count, photo by photo."""

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES, name_differences
from clothseg_utils.core.files import portable_path, sha256_file
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import read_ahead
from clothseg_utils.data.coco import ImageRecord
from clothseg_utils.data.masks import write_mask
from clothseg_utils.data.splits import SplitData
from clothseg_utils.network.segmenter import (
    Segmenter,
    logits_to_confidence,
    logits_to_mask,
)
from clothseg_utils.scores.boundaries import boundary_counts
from clothseg_utils.scores.calibration import N_BINS, calibration_counts
from clothseg_utils.scores.composites import Composite, compose, lay_out, plan_composites
from clothseg_utils.scores.evaluation import (
    COMPOSITE_PROTOCOL,
    FRAMING_PROTOCOL,
    PROTOCOL,
    REPORTED_PROTOCOL,
    Evaluation,
    boundary_metrics,
    calibration_metrics,
    interval_metrics,
    score_strata,
)
from clothseg_utils.scores.framing import half_rows
from clothseg_utils.scores.metrics import confusion_matrix, scores_from_confusion, scores_to_dict
from clothseg_utils.scores.roll_up import find_roll_up, rolled_up_metrics
from clothseg_utils.scores.strata import INSTANCE_COLUMNS, PAIR_COLUMNS, count_annotations

_REPORTED_IMAGE_SIZE = 512

_FASHIONPEDIA_VAL_IMAGES = 1158

# Composites of each number of photos and layout: a part of the split, so that they cost less than
# half of what the photos themselves do, and no more than intervals need.
_PHOTOS_PER_COMPOSITE = 16

_FEWEST_COMPOSITES, _MOST_COMPOSITES = 2, 20


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

    def __init__(self, segmenter: Segmenter, split_data: SplitData, masks_dir: Path | None) -> None:
        self.segmenter = segmenter
        self.split_data = split_data
        self.masks_dir = masks_dir
        self.num_classes = split_data.classes.num_classes
        self.watch = _Stopwatch()
        self.reported_confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.class_calibration = np.zeros((self.num_classes, N_BINS, 3))
        self.per_photo: dict[str, list[np.ndarray]] = {
            name: []
            for name in (
                *("confusions", "overlap_confusions", "boundaries", "calibration"),
                *("framing_confusions", "framing_whole"),
            )
        }
        self.instances: list[tuple[int, ...]] = []
        self.pairs: list[tuple[int, ...]] = []
        self.composites = _composites(split_data)
        self.composite_confusions: list[tuple[np.ndarray, np.ndarray]] = []
        # Predictions of the photos that composites are made of, packed: a few thousand bytes each,
        # and at most as many as composites need.
        self._to_pack = {i for composite in self.composites for i in composite.members}
        self._packed: dict[int, bytes] = {}

    def add(self, record: ImageRecord, image: np.ndarray, target: np.ndarray) -> None:
        """Predict one photo and count."""
        self.watch.lap("reading")
        logits = self.segmenter.logits(image)
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
        if record.id in self._to_pack:
            self._packed[record.id] = zlib.compress(pred_mask.tobytes(), level=1)
        self.watch.lap("strata")
        self._add_halves(image, target, pred_mask)
        self.watch.lap("framing")

    def _add_halves(self, image: np.ndarray, target: np.ndarray, pred_mask: np.ndarray) -> None:
        """Predict each half of one photo and count, beside the whole photo's prediction."""
        halves, whole = [], []
        for rows in half_rows(len(target)):
            own = target[rows]
            own_pred = logits_to_mask(self.segmenter.logits(image[rows]), *own.shape)
            halves.append(confusion_matrix(own, own_pred, self.num_classes))
            whole.append(confusion_matrix(own, pred_mask[rows], self.num_classes))
        self.per_photo["framing_confusions"].append(np.stack(halves))
        self.per_photo["framing_whole"].append(np.stack(whole))

    def _predict_squashed(self, image: np.ndarray, logits: torch.Tensor) -> np.ndarray:
        """Mask at the network's own size, (image_size, image_size) uint8, of the squashed photo."""
        if self.segmenter.resize != "squash" or not self.segmenter.inference.is_plain:
            logits = self.segmenter.look(image, self.segmenter.image_size, "squash")
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
        pred_mask = logits_to_mask(self.segmenter.logits(image), *target.shape)
        self.composite_confusions.append(
            (
                confusion_matrix(target, pred_mask, self.num_classes),
                confusion_matrix(target, compose(alone, canvas), self.num_classes),
            )
        )
        self.watch.lap("composites")


def evaluate(
    segmenter: Segmenter,
    split_data: SplitData,
    *,
    bootstrap_samples: int = 2000,
    masks_dir: Path | None = None,
) -> Evaluation:
    """Predict every photo of a split and count, photo by photo.

    Each photo's halves are predicted too (`FRAMING_PROTOCOL`), and where the annotations do not
    count people, composites of two to four photos (`COMPOSITE_PROTOCOL`).

    Args:
        segmenter: from `segmenter.load_segmenter`.
        split_data: from `splits.load_split`, with the scheme that the network was trained on.
        bootstrap_samples: resamples of the photos behind each 95 % interval.
        masks_dir: write each predicted mask there, as `predict` does; None writes none.

    Raises:
        ValueError: the network's classes are not the split's, or a photo or mask is broken.
    """
    classes = split_data.classes
    if segmenter.class_names != classes.names:
        raise ValueError(
            f"checkpoint {segmenter.path.name} and {split_data.coco.path.name} have different "
            f"classes: {name_differences(segmenter.class_names, classes.names)}; expected the "
            "same. Score it on data with its classes, in the same data.scheme."
        )
    counter = _Counter(segmenter, split_data, masks_dir)
    pairs = read_ahead(split_data.read_pair, split_data.images)
    for record, pair in progress_bar(
        pairs, total=len(split_data.images), desc="evaluate", unit="photo"
    ):
        if isinstance(pair, Exception):
            raise pair
        counter.add(record, *pair)
    record_of = {record.id: record for record in split_data.images}
    for composite in progress_bar(counter.composites, desc="composites", unit="composite"):
        members = [split_data.read_pair(record_of[image_id]) for image_id in composite.members]
        counter.add_composite(composite, members)

    evaluation = _counts_to_evaluation(counter)
    evaluation.metrics.update(_metrics(evaluation, counter, bootstrap_samples))
    plan = find_roll_up(classes, split_data.coco.categories)
    if plan is not None:
        evaluation.metrics["rolled_up"] = rolled_up_metrics(evaluation, plan, bootstrap_samples) | {
            "comparable_with_reported": _is_reported_split(segmenter, split_data)
        }
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
    segmenter, split_data = counter.segmenter, counter.split_data
    confusion = evaluation.confusions.sum(axis=0)
    intervals = interval_metrics(evaluation, samples)
    watch.lap("counting")
    boundary = boundary_metrics(evaluation, samples)
    watch.lap("boundaries")
    calibration = calibration_metrics(evaluation, samples)
    watch.lap("calibration")
    strata = score_strata(evaluation, split_data, samples)
    watch.lap("strata")
    options = segmenter.inference
    return {
        "protocol": f"{PROTOCOL}; test-time options: {options.describe()}",
        "n_images": len(evaluation.image_ids),
        "excluded": split_data.excluded,
        "split": split_data.split,
        "dataset": split_data.coco.path.parent.name,
        "synthetic": split_data.coco.is_synthetic,
        "source": str(split_data.source),
        "checkpoint": portable_path(segmenter.path),
        "checkpoint_sha256": sha256_file(segmenter.path),
        "annotations_sha256": split_data.coco.sha256,
        "image_size": segmenter.image_size,
        "resize": segmenter.resize,
        "inference": options.model_dump(),
        **scores_to_dict(scores_from_confusion(confusion), names),
        "intervals": intervals,
        "reported_protocol": {
            "protocol": REPORTED_PROTOCOL.replace("image_size", str(segmenter.image_size)),
            **scores_to_dict(scores_from_confusion(counter.reported_confusion), names),
        },
        "comparable_with_reported": (
            split_data.classes.scheme == "supercategory"
            and _is_reported_split(segmenter, split_data)
        ),
        "boundary": boundary,
        "calibration": calibration,
        "strata": strata,
        "composite_protocol": COMPOSITE_PROTOCOL,
        "framing_protocol": FRAMING_PROTOCOL,
    }


def _is_reported_split(segmenter: Segmenter, split_data: SplitData) -> bool:
    """Whether these are the photos, at the size, that the earlier system was scored on."""
    return (
        segmenter.image_size == _REPORTED_IMAGE_SIZE
        and len(split_data.images) == _FASHIONPEDIA_VAL_IMAGES
        and split_data.split == "val"
        and not split_data.coco.is_synthetic
        and [(c.name, c.supercategory) for c in split_data.coco.categories]
        == [category[:2] for category in FASHIONPEDIA_CATEGORIES]
    )
