"""Photos -> files of their own: mask, colours, overlay, regions and probabilities."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clothseg_utils.core.files import atomic_path, write_bytes, write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import count_text, first_names, printable
from clothseg_utils.data.masks import encode_mask
from clothseg_utils.data.photos import encode_image
from clothseg_utils.pictures.overlays import colorize
from clothseg_utils.pictures.panels import overlay_with_legend
from clothseg_utils.prediction.coco_results import photo_record
from clothseg_utils.prediction.model import Model, Prediction
from clothseg_utils.prediction.pipeline import predict_each
from clothseg_utils.prediction.plan import PhotoTask, PredictionPlan, skipped_lines
from clothseg_utils.prediction.result_names import MASK_SOFTWARE


@dataclass(frozen=True)
class PredictSummary:
    """What `predict_photos` did.

    Attributes:
        done: photos that have results.
        failed: photo -> one line that says why it has none.
        first_of_several: photos done whose file holds further pictures: frames or pages.
    """

    done: list[PhotoTask]
    failed: dict[Path, str]
    first_of_several: list[Path]

    def add_failure(self, task: PhotoTask, error: Exception) -> None:
        """Note why a photo has no results; the line names it."""
        name = printable(task.photo)
        self.failed[task.photo] = str(error) if name in str(error) else f"photo {name}: {error}"


class _Looked(NamedTuple):
    mask: np.ndarray
    probabilities: np.ndarray | None
    prediction: Prediction


def predict_photos(
    model: Model,
    tasks: Sequence[PhotoTask],
    *,
    as_json: bool = False,
    probabilities: bool = False,
    masks_only: bool = False,
    opacity: float = 0.55,
    collect: Callable[[PhotoTask, np.ndarray, Prediction], None] | None = None,
    before_first: Callable[[], None] | None = None,
) -> PredictSummary:
    """Predict photos and write their results; an unreadable photo is reported, not fatal.

    Args:
        model: from `network.segmenter.load_segmenter`, or another.
        tasks: from `plan_predictions`.
        as_json: write `<stem>.json` with COCO compressed RLE too.
        probabilities: write `<stem>.npz` with `probabilities` (C, H, W) float16, 0..1, too.
        masks_only: write neither colours nor overlay.
        opacity: of the class colour over the photo, 0..1.
        collect: takes each photo that gets results, its mask and its prediction; a photo for
            which it raises ValueError has failed.
        before_first: called before the first result is written.
    """
    summary = PredictSummary([], {}, [])

    def look(prediction: Prediction) -> _Looked:
        nonlocal before_first
        if before_first is not None:
            before_first()
            before_first = None
        kept = prediction.probabilities() if probabilities else None
        return _Looked(prediction.mask(), kept, prediction)

    def finish(task: PhotoTask, image: np.ndarray, looked: _Looked) -> _Looked:
        mask = looked.mask
        pictures = {}
        if not masks_only:
            pictures["_color.png"] = colorize(mask, model.colors)
            pictures["_overlay.jpg"] = overlay_with_legend(
                image, mask, model.class_names, model.colors, opacity=opacity
            )
        encoded = {e: encode_image(picture, Path(e).suffix) for e, picture in pictures.items()}
        # Written in one go: an interrupted call leaves no half of a photo's results.
        for ending, data in {".png": encode_mask(mask, MASK_SOFTWARE), **encoded}.items():
            write_bytes(task.result(ending), data)
        if as_json:
            record = photo_record(task.name, mask, model.class_names)
            write_text(task.result(".json"), json.dumps(record) + "\n")
        if looked.probabilities is not None:
            with atomic_path(task.result(".npz")) as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=looked.probabilities,
                    class_names=np.array(model.class_names),
                )
        return looked

    outcomes = predict_each(model, tasks, look, finish)
    for (task, has_more), result in progress_bar(
        outcomes, total=len(tasks), desc="predict", unit="photo"
    ):
        if isinstance(result, Exception):
            summary.add_failure(task, result)
            continue
        if collect is not None:
            try:
                collect(task, result.mask, result.prediction)
            except ValueError as error:
                summary.add_failure(task, error)
                continue
        summary.done.append(task)
        if has_more:
            summary.first_of_several.append(task.photo)
    return summary


def remarks(plan: PredictionPlan, summary: PredictSummary | None = None) -> list[str]:
    """Lines for what was skipped, by kind, and for files of which one picture was read."""
    lines = skipped_lines(plan)
    if summary and (files := summary.first_of_several):
        lines.append(
            f"only the first frame or page was read of {count_text(len(files), 'file')} "
            f"({printable(first_names(files))})"
        )
    return lines


def failure_lines(failed: Mapping[Path, str]) -> list[str]:
    """A line for each reason, and for the photos that share it."""
    alike: dict[str, list[Path]] = defaultdict(list)
    for photo, reason in failed.items():
        alike[reason.replace(printable(photo), "")].append(photo)
    return [
        failed[first]
        + (f" And {len(others):,} more alike: {printable(first_names(others))}" if others else "")
        for first, *others in alike.values()
    ]
