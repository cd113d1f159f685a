"""The file of a scored split: what was counted, and the scores that follow from it.

Everything that is reported derives from the per-image counts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clothseg_utils.core.config import InferenceConfig
from clothseg_utils.core.files import (
    atomic_path,
    portable_path,
    sha256_file,
    write_json,
)
from clothseg_utils.data.splits import SplitData
from clothseg_utils.scores.bootstrap import bootstrap_counts, bootstrap_intervals
from clothseg_utils.scores.boundaries import BAND_SHARE
from clothseg_utils.scores.calibration import (
    N_BINS,
    bootstrap_calibration_error,
    expected_calibration_error,
)
from clothseg_utils.scores.composites import composite_strata
from clothseg_utils.scores.framing import FRAMINGS, framing_strata
from clothseg_utils.scores.metrics import (
    CLASS_SCORES,
    MEAN_SCORES,
    confusion_to_table,
    nan_to_none,
    scores_from_confusion,
    scores_of_counts,
)
from clothseg_utils.scores.metrics_file import read_metrics
from clothseg_utils.scores.strata import (
    STRATA,
    area_strata,
    category_strata,
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

FRAMING_PROTOCOL = (
    "every photo cut to its upper half, its middle and its lower half (full width, half of the "
    "rows), each predicted as a photo of its own, at native resolution; beside it the same pixels "
    "as the whole photo's prediction has them; the network gets a half of a tall photo larger than "
    "in the whole, so a half can gain as well as lose"
)

REPORTED_SCORES = {"mean_iou": 0.544, "macro_f1": 0.679}
"""What the earlier system reported on Fashionpedia val, 512 px, after 7 epochs."""


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
        framing_confusions: (n, 3, C, C) int64, each photo's halves, as in `framing.FRAMINGS`; n is
            0 in files of versions that cut none.
        framing_whole: (n, 3, C, C) int64, the same pixels where the whole photo was predicted.
    """

    metrics: dict[str, Any]
    image_ids: np.ndarray
    file_names: list[str]
    confusions: np.ndarray
    overlap_confusions: np.ndarray
    person_counts: np.ndarray
    instances: np.ndarray
    class_names: tuple[str, ...]
    boundaries: np.ndarray
    calibration: np.ndarray
    class_calibration: np.ndarray
    pairs: np.ndarray
    composite_members: np.ndarray
    composite_groups: np.ndarray
    composite_confusions: np.ndarray
    composite_alone: np.ndarray
    framing_confusions: np.ndarray
    framing_whole: np.ndarray


# Arrays that older files may lack, which then say nothing about halves and are read all the same.
_ADDED = ("framing_confusions", "framing_whole")


def interval_metrics(evaluation: Evaluation, samples: int) -> dict[str, Any]:
    """Intervals of the scores as plain values: [low, high], None where undefined."""
    # A fixed generator of its own: the intervals of a checkpoint are the same every time.
    intervals = bootstrap_intervals(
        evaluation.confusions, samples=samples, rng=np.random.default_rng(0)
    )
    return {
        "method": f"95 % percentile bootstrap over photos, {samples} resamples",
        **{name: _pair(*intervals[name]) for name in MEAN_SCORES},
        "per_class": {
            name: {score: _pair(*intervals[score][:, class_id]) for score in CLASS_SCORES}
            for class_id, name in enumerate(evaluation.class_names)
        },
    }


def boundary_metrics(evaluation: Evaluation, samples: int) -> dict[str, Any]:
    """Boundary IoU per class and on average, with intervals."""
    both, target, predicted = evaluation.boundaries.sum(axis=0)
    iou = scores_of_counts(both, target, predicted)["iou"]
    intervals = bootstrap_counts(
        *evaluation.boundaries.swapaxes(0, 1), samples=samples, rng=np.random.default_rng(0)
    )
    return {
        "protocol": BOUNDARY_PROTOCOL,
        "mean_iou": _nanmean_or_none(iou),
        "mean_iou_no_background": _nanmean_or_none(iou[1:]),
        "intervals": {
            name: _pair(*intervals[name]) for name in ("mean_iou", "mean_iou_no_background")
        },
        "per_class": {
            name: {
                "iou": nan_to_none(iou[class_id]),
                "interval": _pair(*intervals["iou"][:, class_id]),
                "target_pixels": int(target[class_id]),
            }
            for class_id, name in enumerate(evaluation.class_names)
        },
    }


def calibration_metrics(evaluation: Evaluation, samples: int) -> dict[str, Any]:
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
        "ece": nan_to_none(float(expected_calibration_error(bins))),
        "interval": _pair(low, high),
        "ece_no_background": nan_to_none(float(garments)),  # of the pixels predicted as a garment
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


def score_strata(
    evaluation: Evaluation, split_data: SplitData, samples: int
) -> dict[str, list[dict[str, Any]]]:
    """The three known limits, and halves of photos, as groups of photos, annotations and pixels."""
    names, image_ids = evaluation.class_names, evaluation.image_ids
    instances = evaluation.instances
    categories = {category.id: category.name for category in split_data.coco.categories}
    strata = confusion_strata(evaluation, samples) | {
        "object_area": area_strata(instances, image_ids, samples),
        "category": category_strata(instances, image_ids, categories, names, samples),
        "overlap_pairs": pair_strata(evaluation.pairs, image_ids, categories, samples),
        "hidden": hidden_strata(instances, image_ids, names, samples),
    }
    return {name: strata[name] for name in STRATA}


def confusion_strata(evaluation: Evaluation, samples: int) -> dict[str, list[dict[str, Any]]]:
    """Those strata of `score_strata` that follow from confusion matrices alone."""
    return {
        "people": people_strata(evaluation.confusions, evaluation.person_counts, samples),
        "composites": composite_strata(
            evaluation.composite_confusions,
            evaluation.composite_alone,
            evaluation.composite_groups.tolist(),
            samples,
        ),
        "overlap": overlap_strata(evaluation.confusions, evaluation.overlap_confusions, samples),
        "framing": framing_strata(evaluation.framing_confusions, evaluation.framing_whole, samples),
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
    arrays: dict[str, Any] = {name: np.asarray(getattr(evaluation, name)) for name in names}
    del arrays["metrics"]
    with atomic_path(arrays_path) as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(metrics_path, evaluation.metrics)
    return [metrics_path, arrays_path]


def read_evaluation(out_dir: str | Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        FileNotFoundError: nothing was evaluated into this folder.
        ValueError: a file is broken, the arrays are those of another version, or the two files are
            not of one evaluation.
    """
    metrics_path = Path(out_dir) / "metrics.json"
    arrays_path = Path(out_dir) / "evaluation" / "per_image.npz"
    for path in (metrics_path, arrays_path):
        if not path.exists():
            raise FileNotFoundError(
                f"no such file: {path}; expected the scores of notebook 04. Run it first."
            )
    try:
        # Opened here, as NumPy leaves open what is no archive.
        with arrays_path.open("rb") as file, np.load(file) as stored:
            arrays = dict(stored)
    except Exception as error:  # NumPy, zip and zlib each raise types of their own
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{arrays_path} cannot be read ({type(error).__name__}); expected the counts of "
            "notebook 04, whole. Rerun it."
        ) from None
    differing = {field.name for field in dataclasses.fields(Evaluation)} ^ {"metrics", *arrays}
    if differing - set(_ADDED):
        raise ValueError(
            f"{arrays_path} holds other counts than this version ({', '.join(sorted(differing))}); "
            "expected those of this one. Rerun notebook 04."
        )
    num_classes = _check_counts(arrays, arrays_path)
    for name in _ADDED:
        arrays.setdefault(name, np.zeros((0, len(FRAMINGS), num_classes, num_classes), np.int64))
    for name, to_plain in (("file_names", list), ("class_names", tuple)):
        arrays[name] = to_plain(arrays[name].tolist())
    metrics = read_metrics(metrics_path)
    counted = (len(arrays["file_names"]), list(arrays["class_names"]))
    told = (metrics.get("n_images", counted[0]), list(metrics.get("per_class", counted[1])))
    if counted != told:
        raise ValueError(
            f"{arrays_path} and {metrics_path.name} are of two evaluations: photos or classes "
            "differ; expected one. Rerun notebook 04."
        )
    return Evaluation(metrics=metrics, **arrays)


def _check_counts(arrays: Mapping[str, np.ndarray], path: Path) -> int:
    """Refuse arrays that do not fit together; return how many classes they are of."""
    n_photos, num_classes = arrays["image_ids"].size, arrays["class_names"].size
    shapes = {
        "image_ids": (n_photos,),
        "file_names": (n_photos,),
        "person_counts": (n_photos,),
        "class_names": (num_classes,),
        "confusions": (n_photos, num_classes, num_classes),
        "overlap_confusions": (n_photos, num_classes, num_classes),
    }
    for name, shape in shapes.items():
        kinds = "U" if name.endswith("names") else "iu"
        if arrays[name].shape != shape or arrays[name].dtype.kind not in kinds:
            raise ValueError(
                f"{path}: {name} is {arrays[name].dtype} of {arrays[name].shape}; expected "
                f"{'text' if kinds == 'U' else 'integers'} of {shape}. Rerun notebook 04."
            )
    return num_classes


def check_evaluated(
    evaluation: Evaluation, checkpoint: str | Path, inference: InferenceConfig
) -> None:
    """Check that an evaluation is of this checkpoint with these test-time options.

    Raises:
        ValueError: it is of another checkpoint or of other options, or rolled up.
    """
    if evaluation.metrics["checkpoint_sha256"] != sha256_file(checkpoint):
        raise ValueError(f"{portable_path(checkpoint)} is not evaluated yet; rerun notebook 04.")
    if evaluation.metrics["inference"] != inference.model_dump():
        raise ValueError("the scores were taken with other test-time options; rerun notebook 04.")
    if "not_rolled_up" in evaluation.metrics:
        raise ValueError("the scores are rolled up to other classes; rerun notebook 04.")


def headline_table(evaluation: Evaluation) -> "pd.DataFrame":
    """Lay out the means of a split, one row per score.

    Returns:
        score, low, high (its interval) and reported protocol; further rolled up, rolled up low and
        rolled up high where the classes roll up to coarser ones.
    """
    import pandas as pd  # the rest of the module must not wait for it

    names = [name for name in MEAN_SCORES if name != "macro_f1_no_background"]
    metrics = evaluation.metrics
    columns = _means(metrics, names) | {
        "reported protocol": [metrics["reported_protocol"][name] for name in names]
    }
    if "rolled_up" in metrics:
        rolled = _means(metrics["rolled_up"], names)
        columns |= {f"rolled up {name}".removesuffix(" score"): v for name, v in rolled.items()}
    return pd.DataFrame(columns, index=pd.Index(names, name="name")).astype(float)


def _means(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[float | None]]:
    ends = [metrics["intervals"][name] for name in names]
    return {
        "score": [metrics[name] for name in names],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }


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
        pairs = [per_class[name][score] for name in evaluation.class_names]
        for end, values in zip(("low", "high"), zip(*pairs, strict=True), strict=True):
            table[f"{score}_{end}"] = np.array(values, np.float64)  # None becomes NaN
    return table


def boundaries_table(evaluation: Evaluation) -> "pd.DataFrame":
    """Lay out the boundary IoU of each class: class_name, iou (of masks), boundary_iou, low, high.

    One row per class; the intervals are those of `metrics.json`.
    """
    table = scores_table(evaluation)[["class_name", "iou"]]
    per_class = [evaluation.metrics["boundary"]["per_class"][name] for name in table["class_name"]]
    ends = np.array([scores["interval"] for scores in per_class], np.float64)
    iou = np.array([scores["iou"] for scores in per_class], np.float64)  # None becomes NaN
    return table.assign(boundary_iou=iou, low=ends[:, 0], high=ends[:, 1])


def image_scores(evaluation: Evaluation) -> np.ndarray:
    """Mean IoU of each photo over the classes that it holds; for ranking, not for reporting.

    Returns:
        (n,) float, 0..1; NaN for a photo whose pixels are all ignored.
    """
    return np.array(
        [scores_from_confusion(one).mean_iou_target_classes for one in evaluation.confusions]
    )
