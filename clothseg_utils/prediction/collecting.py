"""Files of `predict` on all photos together: where they may lie, and what goes into them."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from clothseg_utils.core.text import printable
from clothseg_utils.prediction.coco_results import (
    PANOPTIC_NAME,
    check_replaced,
    coco_writer,
    is_ours,
    panoptic_writer,
    photo_record,
)
from clothseg_utils.prediction.model import Model, Prediction
from clothseg_utils.prediction.plan import PhotoTask
from clothseg_utils.prediction.result_names import ENDINGS

Collect = Callable[[PhotoTask, np.ndarray, Prediction], None]


def check_collected(
    inputs: Iterable[str | Path],
    out_dir: str | Path,
    tasks: Iterable[PhotoTask],
    *,
    coco: str | Path | None = None,
    panoptic: str | Path | None = None,
) -> None:
    """Refuse files on all photos that would replace something else, before anything is written.

    Args:
        inputs, out_dir: as for `plan_predictions`.
        tasks: from it.
        coco, panoptic: as for `collecting`.

    Raises:
        ValueError: one of them is there and not from an earlier `predict`, or would meet a result
            of this one or a folder of photos.
    """
    tasks = list(tasks)
    if coco is not None:
        _check_coco(Path(coco), tasks)
    if panoptic is not None:
        _check_panoptic(Path(panoptic), inputs, Path(out_dir), tasks)
        if coco is not None and _absolute(coco) == _absolute(_panoptic_json(panoptic)):
            raise ValueError(f"{printable(coco)} is of --panoptic too; name another file.")


def _check_coco(coco: Path, tasks: list[PhotoTask]) -> None:
    check_replaced(coco)
    stems = {
        _absolute(coco.with_name(coco.name.removesuffix(ending)))
        for ending in ENDINGS
        if coco.name.endswith(ending) and coco.name != ending
    }
    for task in tasks:
        if _absolute(task.result_stem) in stems:
            raise ValueError(
                f"{printable(coco)} is called as a result of {printable(task.photo)} in --out; "
                "name another file."
            )


def _check_panoptic(
    folder: Path, inputs: Iterable[str | Path], out_dir: Path, tasks: list[PhotoTask]
) -> None:
    json_file = _panoptic_json(folder)
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new and not (json_file.is_file() and is_ours(json_file)):
        raise ValueError(
            f"{printable(folder)} is there and not from an earlier --panoptic; expected a new "
            "folder, or one to fill again. Name another one, or move it away."
        )
    real = _real(folder)
    if any(_real(parent).is_relative_to(real) for parent in {t.result_stem.parent for t in tasks}):
        raise ValueError(
            f"{printable(folder)} is a folder of results in --out; name another one for --panoptic."
        )
    # What lies in --out is known to be no photo.
    if not real.is_relative_to(_real(out_dir)):
        for given in map(Path, inputs):
            if given.is_dir() and real.is_relative_to(_real(given)):
                raise ValueError(
                    f"{printable(folder)} lies in {printable(given)}, where its pictures would be "
                    "taken for photos next time; name a folder outside, or one in --out."
                )


def _panoptic_json(folder: str | Path) -> Path:
    return Path(folder) / f"{PANOPTIC_NAME}.json"


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def collecting(
    model: Model,
    out_dir: str | Path,
    *,
    coco: str | Path | None = None,
    panoptic: str | Path | None = None,
    parts: bool = False,
) -> Iterator[Collect]:
    """Write files on all photos while they are predicted; they appear when the block succeeds.

    Args:
        model: that predicts.
        out_dir: of the photos' own results.
        coco: COCO file to write, with scores: see `coco_results.coco_writer`.
        panoptic: folder of a COCO panoptic set to write: see `coco_results.panoptic_writer`.
        parts: connected parts are instances of their own, in both.

    Yields:
        A function for `predict_photos`; it raises ValueError for a photo that cannot be taken up.
    """
    names = model.class_names
    with contextlib.ExitStack() as files:
        add_to_coco = files.enter_context(coco_writer(coco, names)) if coco else None
        add_to_panoptic = (
            files.enter_context(panoptic_writer(panoptic, names, model.colors, parts=parts))
            if panoptic
            else None
        )

        def collect(task: PhotoTask, mask: np.ndarray, prediction: Prediction) -> None:
            name = task.file_name
            if (add_to_coco or add_to_panoptic) and not _is_text(name):
                raise ValueError("its name is no text, which JSON could hold; rename it.")
            if add_to_panoptic:
                png = task.result_stem.relative_to(out_dir).as_posix() + ".png"
                add_to_panoptic(name, png, mask)
            if add_to_coco:
                confidence = prediction.confidence()
                add_to_coco(photo_record(name, mask, names, confidence, parts=parts))

        yield collect


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return False
    return True
