"""What `metrics.json` must hold to be read; docs/run-folder.md says what it means.

Versions before this one left out some of it: only what is there is checked.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from clothseg_utils.core.config import InferenceConfig
from clothseg_utils.core.shapes import ABSENT, Count, Shape, read_shaped
from clothseg_utils.core.text import first_names

_REMEDY = "Rerun notebook 04, or `evaluate`."

_Score = float | None
_Interval = Annotated[list[_Score], Field(min_length=2, max_length=2)]


class _ClassScores(Shape):
    iou: _Score
    f1: _Score
    precision: _Score
    recall: _Score
    target_pixels: Count
    status: str


class _Means(Shape):
    protocol: str = ABSENT
    mean_iou: _Score = ABSENT
    mean_iou_no_background: _Score = ABSENT
    mean_iou_target_classes: _Score = ABSENT
    macro_f1: _Score = ABSENT
    macro_f1_no_background: _Score = ABSENT
    pixel_accuracy: _Score = ABSENT
    per_class: dict[str, _ClassScores] = ABSENT
    confusion: list[list[Count]] = ABSENT


class _Intervals(Shape):
    __pydantic_extra__: dict[str, _Interval]
    method: str = ABSENT
    per_class: dict[str, dict[str, _Interval]] = ABSENT


class _Group(Shape):
    stratum: str
    n: Count | str  # with its unit in words, as versions before had it
    unit: str = ABSENT
    photos: Count = ABSENT
    score: _Score
    low: _Score
    high: _Score
    alone: _Score = ABSENT
    drop: _Score = ABSENT
    drop_low: _Score = ABSENT
    drop_high: _Score = ABSENT
    iou: _Score = ABSENT
    iou_low: _Score = ABSENT
    iou_high: _Score = ABSENT
    median_area: _Score = ABSENT
    missed: _Score = ABSENT
    missed_alone: _Score = ABSENT
    recall: _Score = ABSENT


class _RolledUp(_Means):
    mean_iou: _Score
    per_class: dict[str, _ClassScores]
    classes: dict[str, list[str]]
    intervals: _Intervals
    reported_protocol: _Means
    not_rolled_up: dict[str, str]
    comparable_with_reported: bool


class _ClassBoundary(Shape):
    iou: _Score
    interval: _Interval


class _Boundary(Shape):
    protocol: str
    mean_iou: _Score
    mean_iou_no_background: _Score
    intervals: dict[str, _Interval]
    per_class: dict[str, _ClassBoundary]


class _ClassCalibration(Shape):
    ece: _Score
    mean_confidence: _Score
    precision: _Score


class _Calibration(Shape):
    protocol: str
    ece: _Score
    interval: _Interval
    ece_no_background: _Score
    mean_confidence: _Score
    pixel_accuracy: _Score
    per_class: dict[str, _ClassCalibration]


class _Metrics(_Means):
    n_images: Count = ABSENT
    excluded: dict[str, str] = ABSENT
    split: str = ABSENT
    dataset: str = ABSENT
    synthetic: bool = ABSENT
    source: str = ABSENT
    checkpoint: str = ABSENT
    checkpoint_sha256: str = ABSENT
    image_size: Count = ABSENT
    resize: str = ABSENT
    inference: InferenceConfig = ABSENT
    intervals: _Intervals = ABSENT
    reported_protocol: _Means = ABSENT
    comparable_with_reported: bool = ABSENT
    boundary: _Boundary | None = ABSENT
    calibration: _Calibration | None = ABSENT
    strata: dict[str, list[_Group] | None] = ABSENT
    rolled_up: _RolledUp | None = ABSENT
    composite_protocol: str = ABSENT
    framing_protocol: str = ABSENT


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Read `metrics.json`.

    Raises:
        OSError: it cannot be read.
        ValueError: not JSON, of another shape, or its parts are of different classes.
    """
    metrics = read_shaped(path, _Metrics, _REMEDY)
    names = list(metrics.get("per_class", ()))
    for part, of_part in _classes_of_parts(metrics):
        if other := set(of_part) ^ set(names):
            raise ValueError(
                f"{path}: {part} and per_class differ in classes ({first_names(sorted(other))}); "
                f"expected the same ones. {_REMEDY}"
            )
    sides = {len(metrics.get("confusion", ())), *map(len, metrics.get("confusion", ()))}
    if names and metrics.get("confusion") and sides != {len(names)}:
        raise ValueError(
            f"{path}: confusion has sides of {sorted(sides)}; expected {len(names)} classes. "
            + _REMEDY
        )
    return metrics


def _classes_of_parts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for part in ("boundary", "calibration"):
        if metrics.get(part):
            yield part, list(metrics[part]["per_class"])
    if rolled := metrics.get("rolled_up"):
        yield "rolled_up", [name for names in rolled["classes"].values() for name in names]


def check_needed(metrics: Mapping[str, Any], needed: tuple[str, ...], path: str | Path) -> None:
    """Refuse metrics that lack a key.

    Raises:
        ValueError: the keys are named.
    """
    if lacking := [name for name in needed if metrics.get(name) is None]:
        raise ValueError(
            f"{path} lacks {first_names(lacking)}; expected the scores of notebook 04. {_REMEDY}"
        )
