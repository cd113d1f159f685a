"""Scores of fine classes in coarse ones: what 47 categories come to in 13 supercategories.

A pixel counts as the coarse class of its fine one, in the truth and in the prediction, whose fine
class is the most probable one. So confusion matrices add up exactly, photo by photo, and all that
follows from them is what mapping both masks pixel by pixel would give. What follows from other
counts does not add up and is left out: `NOT_ROLLED_UP` says why.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clothseg_utils.core.classes import ClassTable, class_table
from clothseg_utils.data.coco import Category, CocoFile
from clothseg_utils.scores.evaluation import (
    Evaluation,
    confusion_strata,
    interval_metrics,
    scores_table,
)
from clothseg_utils.scores.metrics import scores_from_confusion, scores_to_dict

if TYPE_CHECKING:
    import pandas as pd

ROLL_UP_PROTOCOL = (
    "rolled up: a pixel counts as the class that its category belongs to, in truth and prediction, "
    "whose category is the most probable one; another mask than that of the largest summed "
    "probability"
)

NOT_ROLLED_UP = {
    "boundary": "the outlines between categories of one class fall away, and the counts do not say "
    "which pixels lie along them",
    "calibration": "the probability of a class is the sum over its categories, of which only the "
    "largest was counted",
    "object_area, category, hidden": "an object under another category of its class would be "
    "visible, and the counts do not say what lies on it",
    "overlap_pairs": "of the pixels predicted as neither of two categories, the counts do not say "
    "how many have the class of one of them",
}
"""What is not rolled up, as `metrics.json` calls it, and why."""


@dataclass(frozen=True)
class RollUp:
    """Which coarse class each fine one belongs to.

    Attributes:
        names: of the K coarse classes, index = class id; 0 = "background".
        class_ids: (C,) int64, fine class id -> coarse class id; 0 -> 0.
    """

    names: tuple[str, ...]
    class_ids: np.ndarray

    def confusions(self, confusions: np.ndarray) -> np.ndarray:
        """Add up confusion matrices: (..., C, C) integer counts to (..., K, K) int64.

        Example:
            >>> coat_and_cape = RollUp(("background", "wholebody"), np.array([0, 1, 1]))
            >>> coat_and_cape.confusions(np.array([[4, 1, 0], [2, 5, 3], [0, 1, 1]]))
            array([[ 4,  1],
                   [ 2, 10]])
        """
        belongs = np.zeros((len(self.class_ids), len(self.names)), np.int64)
        belongs[np.arange(len(self.class_ids)), self.class_ids] = 1
        return belongs.T @ np.asarray(confusions, np.int64) @ belongs


def find_roll_up(classes: ClassTable, categories: Iterable[Category]) -> RollUp | None:
    """Find the coarse class of each class of scheme "category" by its supercategory.

    Args:
        classes: the classes that are scored.
        categories: of the annotation file.

    Returns:
        None where nothing can be rolled up: another scheme, a file whose supercategories unite no
        categories or all of them, or give one class two supercategories.
    """
    if classes.scheme != "category":
        return None
    try:
        coarse = class_table("supercategory", categories)
    except ValueError:  # a supercategory called background: these are no classes
        return None
    of = {(f, coarse.class_of_category[c]) for c, f in classes.class_of_category.items()}
    used = {coarse_id for _, coarse_id in of}
    n_fine = classes.num_classes - 1
    if len(of) != n_fine or not 1 < len(used) < n_fine:
        return None
    class_ids = np.zeros(classes.num_classes, np.int64)
    for fine_id, coarse_id in of:
        class_ids[fine_id] = coarse_id
    return RollUp(coarse.names, class_ids)


def check_roll_up(classes: ClassTable, coco: CocoFile) -> None:
    """Refuse to roll up what does not roll up.

    Raises:
        ValueError: says why.
    """
    if classes.scheme != "category":
        raise ValueError(
            f"the network has {classes.num_classes} classes of scheme {classes.scheme}, which roll "
            "up to nothing; expected scheme category. Score it without --roll-up."
        )
    if find_roll_up(classes, coco.categories) is None:
        raise ValueError(
            f"{coco.path.name}: the supercategories of its {classes.num_classes - 1} categories "
            "are no classes to roll up to; expected at least two that unite some of them, each "
            "category in one. Write them into the file, or score without --roll-up."
        )


def rolled_up_metrics(evaluation: Evaluation, plan: RollUp, samples: int) -> dict[str, Any]:
    """Score an evaluation in coarse classes: the part "rolled_up" of `metrics.json`.

    Args:
        evaluation: of fine classes, with its `metrics`.
        plan: from `find_roll_up`.
        samples: resamples of the photos behind each interval.

    Returns:
        The keys of `metrics.json` that hold scores, in coarse classes; further `classes` (coarse ->
        its fine ones, in the order of the ids) and `not_rolled_up`.
    """
    rolled = _rolled_counts(evaluation, plan)
    squashed = evaluation.metrics["reported_protocol"]
    squashed_confusion = plan.confusions(np.array(squashed["confusion"]))
    fine_names = np.array(evaluation.class_names)
    return {
        "protocol": f"{evaluation.metrics['protocol']}; {ROLL_UP_PROTOCOL}",
        "classes": {
            name: fine_names[plan.class_ids == class_id].tolist()
            for class_id, name in enumerate(plan.names)
        },
        **scores_to_dict(scores_from_confusion(rolled.confusions.sum(axis=0)), plan.names),
        "intervals": interval_metrics(rolled, samples),
        "reported_protocol": {
            "protocol": f"{squashed['protocol']}; rolled up",
            **scores_to_dict(scores_from_confusion(squashed_confusion), plan.names),
        },
        "strata": confusion_strata(rolled, samples),
        "not_rolled_up": NOT_ROLLED_UP,
    }


def rolled_up(evaluation: Evaluation) -> Evaluation | None:
    """Turn an evaluation of fine classes into one of coarse classes, as far as it is known.

    Args:
        evaluation: just made or read; its metrics say which class belongs where.

    Returns:
        Counts and metrics in coarse classes, with empty arrays for what is not rolled up; None
        where the classes do not roll up, or the scores are of a version that did not do it.
    """
    part = evaluation.metrics.get("rolled_up")
    if part is None:
        return None
    plan = _plan_of(part["classes"], evaluation.class_names)
    lost = {"rolled_up", "boundary", "calibration"}
    kept = {name: value for name, value in evaluation.metrics.items() if name not in lost}
    return dataclasses.replace(_rolled_counts(evaluation, plan), metrics=kept | part)


def roll_up_table(evaluation: Evaluation) -> "pd.DataFrame":
    """Lay out the scores of the coarse classes, as `scores_table` those of the fine ones.

    Returns:
        The columns of `scores_table`; further `categories` (how many the class unites) and
        `categories_iou` (mean IoU of those that occur). No rows where nothing is rolled up.
    """
    import pandas as pd  # the rest of the module must not wait for it

    rolled = rolled_up(evaluation)
    if rolled is None:
        return pd.DataFrame()
    table = scores_table(rolled)
    fine = scores_table(evaluation).set_index("class_name")["iou"]
    united = rolled.metrics["classes"]
    table.insert(1, "categories", [len(united[name]) for name in table["class_name"]])
    table.insert(2, "categories_iou", [fine[united[name]].mean() for name in table["class_name"]])
    return table


def _plan_of(united: Mapping[str, list[str]], fine_names: tuple[str, ...]) -> RollUp:
    coarse_of = {fine: index for index, names in enumerate(united.values()) for fine in names}
    return RollUp(tuple(united), np.array([coarse_of[name] for name in fine_names]))


def _rolled_counts(evaluation: Evaluation, plan: RollUp) -> Evaluation:
    """The counts that add up, in coarse classes; `metrics` stay those of the fine ones."""
    matrices = (
        *("confusions", "overlap_confusions", "composite_confusions", "composite_alone"),
        *("framing_confusions", "framing_whole"),
    )
    others = ("instances", "pairs", "boundaries", "calibration", "class_calibration")
    counts: dict[str, Any] = {name: plan.confusions(getattr(evaluation, name)) for name in matrices}
    counts |= {name: getattr(evaluation, name)[:0] for name in others}
    return dataclasses.replace(evaluation, class_names=plan.names, **counts)
