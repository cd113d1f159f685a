"""Two runs scored on the same photos: the differences, and whether they are real.

Paired: both runs are scored on the same resamples of the photos, so a difference is judged by how
it varies from photo to photo, not by how much the photos themselves do.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text, first_names
from clothseg_utils.scores.bootstrap import LEVEL, bootstrap_differences
from clothseg_utils.scores.evaluation import Evaluation, read_evaluation
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.scores.roll_up import rolled_up

COMPARED_MEANS = {
    "mean_iou": "mean IoU",
    "mean_iou_no_background": "mean IoU without background",
    "mean_iou_target_classes": "mean IoU, classes with target only",
    "macro_f1": "macro F1",
    "pixel_accuracy": "pixel accuracy",
}
"""Means that are compared, in words."""

_SAMPLES = 2000  # resamples behind each interval


class Difference(NamedTuple):
    """A score of two runs, and the first minus the second with its interval; NaN: undefined."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class Comparison(NamedTuple):
    """Two runs on the same photos.

    Attributes:
        names: of the two runs.
        n_images: photos that both were scored on.
        samples: resamples behind each interval.
        means: score, as in `COMPARED_MEANS` -> difference.
        iou: class name -> difference of its IoU.
        f1: class name -> difference of its F1.
        rolled_up: run -> how many classes it has, where they were rolled up to the other's.
    """

    names: tuple[str, str]
    n_images: int
    samples: int
    means: dict[str, Difference]
    iou: dict[str, Difference]
    f1: dict[str, Difference]
    rolled_up: Mapping[str, int] = {}


def compare_evaluations(ours: Evaluation, theirs: Evaluation, names: tuple[str, str]) -> Comparison:
    """Compare two evaluations of the same photos; their order may differ.

    Where the classes of one roll up to those of the other (`roll_up`), it is compared in these.

    Args:
        ours: from `evaluation.read_evaluation`.
        theirs: the same of the other run.
        names: of the two runs.

    Raises:
        ValueError: the two were not scored on the same photos, masks and classes.
    """
    n_classes = dict(zip(names, map(_count_classes, (ours, theirs)), strict=True))
    ours, theirs = _in_common_classes(ours, theirs), _in_common_classes(theirs, ours)
    order = match_photos(ours, theirs, names)
    pair = ours.confusions, theirs.confusions[order]
    # A fixed generator of its own: the same two runs give the same intervals every time.
    ends = bootstrap_differences(*pair, samples=_SAMPLES, rng=np.random.default_rng(0))
    first, second = (scores_from_confusion(confusions.sum(axis=0)) for confusions in pair)
    return Comparison(
        names=names,
        n_images=len(order),
        samples=_SAMPLES,
        means={
            name: _difference(getattr(first, name), getattr(second, name), ends[name])
            for name in COMPARED_MEANS
        },
        **{
            score: {
                class_name: _difference(
                    getattr(first, score)[class_id],
                    getattr(second, score)[class_id],
                    ends[score][:, class_id],
                )
                for class_id, class_name in enumerate(ours.class_names)
            }
            for score in ("iou", "f1")
        },
        rolled_up={name: n for name, n in n_classes.items() if n != _count_classes(ours)},
    )


def _count_classes(evaluation: Evaluation) -> int:
    return len(evaluation.class_names)


def _in_common_classes(one: Evaluation, other: Evaluation) -> Evaluation:
    """The first evaluation, rolled up where that gives the other's classes."""
    rolled = rolled_up(one)
    return one if rolled is None or rolled.class_names != other.class_names else rolled


def compare_runs(run: RunFolder, other: RunFolder) -> Comparison:
    """Compare the scores of two run folders.

    Raises:
        FileNotFoundError: one of them is not evaluated.
        ValueError: they are one run, or were not scored on the same photos.
    """
    if run.path == other.path:
        raise ValueError(f"run {run.name} is compared with itself; expected another run.")
    return compare_evaluations(
        read_evaluation(run.path), read_evaluation(other.path), (run.name, other.name)
    )


def match_photos(ours: Evaluation, theirs: Evaluation, names: tuple[str, str]) -> np.ndarray:
    """Find each of our photos among theirs; refuse what cannot be compared.

    The same id is not enough, because drawn datasets number their photos alike: file name and the
    true pixels of every class must be the same too.

    Returns:
        (n,) positions in `theirs` of our photos.

    Raises:
        ValueError: other classes, other photos, or other masks.
    """
    runs = f"runs {names[0]} and {names[1]} cannot be compared"
    remedy = "Evaluate both on the same split of the same data"
    if ours.class_names != theirs.class_names:
        raise ValueError(
            f"{runs}: they have {len(ours.class_names)} and {len(theirs.class_names)} classes of "
            "different names, and none that roll up to the other's; expected one class scheme, or "
            f"a run of scheme category scored by this version. {remedy}."
        )
    our_ids, their_ids = ours.image_ids.tolist(), theirs.image_ids.tolist()
    only_ours = sorted(set(our_ids) - set(their_ids))
    only_theirs = sorted(set(their_ids) - set(our_ids))
    if only_ours or only_theirs:
        raise ValueError(
            f"{runs}: image ids differ, {len(only_ours)} of {len(our_ids)} are only in {names[0]}"
            f"{_some(only_ours)} and {len(only_theirs)} of {len(their_ids)} only in {names[1]}"
            f"{_some(only_theirs)}; expected the same photos. {remedy}."
        )
    position = {image_id: index for index, image_id in enumerate(their_ids)}
    order = np.array([position[image_id] for image_id in our_ids], np.int64)
    renamed = [
        f"{image_id} is {ours.file_names[index]} and {theirs.file_names[order[index]]}"
        for index, image_id in enumerate(our_ids)
        if ours.file_names[index] != theirs.file_names[order[index]]
    ]
    if renamed:
        raise ValueError(
            f"{runs}: {len(renamed)} image ids mean different photos, the first {renamed[0]}; "
            f"expected the same photos. {remedy}."
        )
    changed = (ours.confusions.sum(2) != theirs.confusions[order].sum(2)).any(axis=1)
    if changed.any():
        photos = [ours.file_names[index] for index in np.flatnonzero(changed)]
        raise ValueError(
            f"{runs}: the true masks of {len(photos)} photos differ{_some(photos)}; "
            f"expected the same annotations. {remedy}."
        )
    return order


def verdict(comparison: Comparison) -> str:
    """Say in plain words whether the difference in mean IoU is real.

    Example:
        >>> better = Difference(0.5, 0.4, 0.1, 0.05, 0.15)
        >>> print(verdict(Comparison(("a", "b"), 60, 2000, {"mean_iou": better}, {}, {})))
        Run a is better than run b by 0.100 mean IoU (95 % interval 0.050 to 0.150 over the same \
60 photos): zero lies outside, so the difference is real for photos like these.
    """
    return " ".join([_mean_verdict(comparison), *roll_up_texts(comparison)])


def roll_up_texts(comparison: Comparison) -> list[str]:
    """Say in which classes runs were compared that were not trained on them; [] for all others."""
    return [
        f"The {n} classes of run {name} are rolled up to the {len(comparison.iou)} of the other, "
        "in truth and prediction, pixel by pixel."
        for name, n in comparison.rolled_up.items()
    ]


def _mean_verdict(comparison: Comparison) -> str:
    one, other = comparison.names
    mean = comparison.means["mean_iou"]
    photos = f"the same {comparison.n_images} photos"
    if np.isnan(mean.low):
        return (
            f"Run {one} and run {other} differ by {mean.difference:+.3f} mean IoU; whether that is "
            f"real cannot be said from {count_text(comparison.n_images, 'photo')}."
        )
    interval = f"{LEVEL:.0%}".replace("%", " %") + f" interval {_range(mean)} over {photos}"
    if mean.low == mean.high == mean.difference == 0:
        return f"Run {one} and run {other} have the same mean IoU ({interval})."
    if not mean.is_real:
        return (
            f"Run {one} and run {other} differ by {mean.difference:+.3f} mean IoU ({interval}): "
            "zero lies inside, so on these photos the two cannot be told apart."
        )
    better, worse = (one, other) if mean.difference > 0 else (other, one)
    ends = mean if mean.difference > 0 else mean._replace(low=-mean.high, high=-mean.low)
    interval = interval.replace(_range(mean), _range(ends))
    return (
        f"Run {better} is better than run {worse} by {abs(mean.difference):.3f} mean IoU "
        f"({interval}): zero lies outside, so the difference is real for photos like these."
    )


def class_verdict(difference: Difference, names: Sequence[str]) -> str:
    """Say which of two runs is better in one class.

    Example:
        >>> class_verdict(Difference(0.5, 0.4, 0.1, 0.05, 0.15), ["a", "b"])
        'a is better'
    """
    if np.isnan(difference.difference):
        return "absent in one" if np.isfinite([*difference[:2]]).any() else "absent"
    if np.isnan(difference.low):
        return "too few photos"
    if not difference.is_real:
        return "not told apart"
    return f"{names[0] if difference.difference > 0 else names[1]} is better"


def _difference(ours: float, theirs: float, ends: np.ndarray) -> Difference:
    return Difference(
        float(ours), float(theirs), float(ours - theirs), float(ends[0]), float(ends[1])
    )


def _range(difference: Difference) -> str:
    return f"{difference.low:.3f} to {difference.high:.3f}"


def _some(items: Sequence[object]) -> str:
    """The first few in brackets; nothing where there are none."""
    return f" ({first_names(items)})" if items else ""
