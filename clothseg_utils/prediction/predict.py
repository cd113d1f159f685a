"""Photos and folders of photos -> masks, overlays and COCO files."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clothseg_utils.core.files import atomic_path, write_bytes, write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import count_text, first_names, printable
from clothseg_utils.core.workers import read_ahead
from clothseg_utils.data.masks import encode_mask
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.data.photos import encode_image, read_first_picture
from clothseg_utils.pictures.overlays import colorize
from clothseg_utils.pictures.panels import overlay_with_legend
from clothseg_utils.prediction.coco_results import photo_record
from clothseg_utils.prediction.model import Model, Prediction
from clothseg_utils.prediction.result_names import (
    ENDINGS,
    Source,
    file_names,
    former_results,
    result_stems,
)

_RESULT = "results of predict"


@dataclass(frozen=True)
class PhotoTask:
    """One photo to predict.

    Attributes:
        photo: the file.
        result_stem: the path, without ending, that its results share.
        file_name: what it is called in files on all photos, see `result_names.file_names`.
    """

    photo: Path
    result_stem: Path
    file_name: str

    def result(self, ending: str) -> Path:
        """The result with one of the endings of `result_names.ENDINGS`."""
        return self.result_stem.with_name(self.result_stem.name + ending)

    def results(self, *, as_json: bool = False, probabilities: bool = False) -> list[Path]:
        """Every file that this photo's prediction writes."""
        endings = [*ENDINGS[:3], *[".json"] * as_json, *[".npz"] * probabilities]
        return [self.result(ending) for ending in endings]


@dataclass(frozen=True)
class PredictionPlan:
    """What `predict` is going to do.

    Attributes:
        tasks: the photos.
        skipped: what is no photo: reason, a suffix or words -> files.
        unread: what may hold photos and cannot be looked at -> one line that says why.
    """

    tasks: list[PhotoTask]
    skipped: dict[str, list[Path]]
    unread: dict[Path, str]


def plan_predictions(inputs: Iterable[str | Path], out_dir: str | Path) -> PredictionPlan:
    """List the photos and where their results go, before anything is written.

    A folder stands for the photos in it and below; its subfolders are kept below `out_dir`. A file
    is a photo by its suffix, else by its content. What an earlier `predict` wrote is no photo, nor
    is anything in an `out_dir` that lies in the folder. A file that is named itself is always
    predicted. Results never meet each other or a photo: see `result_names.result_stems`.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: no photo at all.
    """
    out_dir = Path(out_dir)
    sources: dict[str, Source] = {}
    skipped: dict[str, list[Path]] = defaultdict(list)
    unread: dict[Path, str] = {}
    given = [Path(entry) for entry in inputs]
    for entry in given:
        if entry.is_dir():
            try:
                listing = list_photos(entry)
            except OSError as error:
                unread[entry] = f"{printable(entry)}: {error.strerror}; nothing in it was read."
                continue
            results = former_results([*listing.photos, *listing.other_files()])
            inner = _inside(out_dir, entry)
            for path, reason in [*((p, "") for p in listing.photos), *listing.others.items()]:
                if path in results or (inner and path.is_relative_to(inner)):
                    skipped[_RESULT].append(path)
                elif reason:
                    skipped[reason].append(path)
                else:
                    sources.setdefault(os.path.abspath(path), Source(path, entry))
            unread |= {path: f"{printable(path)}: {why}" for path, why in listing.unread.items()}
        elif entry.is_file():
            sources.setdefault(os.path.abspath(entry), Source(entry, entry.parent))
        elif entry.exists():
            unread[entry] = f"{printable(entry)} is no regular file; expected a photo or a folder."
        else:
            raise FileNotFoundError(
                f"no such photo or folder: {printable(entry)}; expected an existing path. "
                "Check its spelling."
            )
    photos = list(sources.values())
    stems = result_stems(photos, out_dir)
    names = file_names(photos)
    tasks = [PhotoTask(s.photo, stem, n) for s, stem, n in zip(photos, stems, names, strict=True)]
    plan = PredictionPlan(tasks, dict(sorted(skipped.items(), key=lambda k: -len(k[1]))), unread)
    if not tasks and not unread:
        raise ValueError(
            f"no photo found in {printable(first_names(given))}; expected at least one. "
            + " ".join(remarks(plan))
        )
    return plan


def _inside(out_dir: Path, folder: Path) -> Path | None:
    """`out_dir` as it is called below `folder`; None if it is not below it."""
    inner, outer = (Path(os.path.realpath(path)) for path in (out_dir, folder))
    return folder / inner.relative_to(outer) if outer in inner.parents else None


@dataclass(frozen=True)
class PredictSummary:
    """What `predict_photos` did.

    Attributes:
        done: photos that have results.
        failed: photo -> one line that says why it has none.
        first_of_several: photos done whose file holds further pictures: frames or pages.
    """

    done: list[Path]
    failed: dict[Path, str]
    first_of_several: list[Path]


def predict_photos(
    model: Model,
    tasks: Sequence[PhotoTask],
    *,
    as_json: bool = False,
    probabilities: bool = False,
    opacity: float = 0.55,
    collect: Callable[[PhotoTask, np.ndarray, Prediction], None] | None = None,
) -> PredictSummary:
    """Predict photos and write their results; an unreadable photo is reported, not fatal.

    Args:
        model: from `network.segmenter.load_segmenter`, or another.
        tasks: from `plan_predictions`.
        as_json: write `<stem>.json` with COCO compressed RLE too.
        probabilities: write `<stem>.npz` with `probabilities` (C, H, W) float16, 0..1, too.
        opacity: of the class colour over the photo, 0..1.
        collect: takes each photo that gets results, its mask and its prediction; a photo for
            which it raises ValueError has failed.
    """
    summary = PredictSummary([], {}, [])
    reads = read_ahead(lambda task: read_first_picture(task.photo), tasks)
    for task, read in progress_bar(reads, total=len(tasks), desc="predict", unit="photo"):
        if isinstance(read, Exception):
            summary.failed[task.photo] = str(read)
            continue
        image, has_more = read
        prediction = model.predict(image)
        mask = prediction.mask()
        blended = overlay_with_legend(image, mask, model.class_names, model.colors, opacity=opacity)
        pictures = {"_color.png": colorize(mask, model.colors), "_overlay.jpg": blended}
        try:
            encoded = {e: encode_image(picture, Path(e).suffix) for e, picture in pictures.items()}
            if collect is not None:
                collect(task, mask, prediction)
        except ValueError as error:
            summary.failed[task.photo] = f"photo {printable(task.photo)}: {error}"
            continue
        # Written in one go: an interrupted call leaves no half of a photo's results.
        for ending, data in {".png": encode_mask(mask), **encoded}.items():
            write_bytes(task.result(ending), data)
        if as_json:
            record = photo_record(task.photo.name, mask, model.class_names)
            write_text(task.result(".json"), json.dumps(record) + "\n")
        if probabilities:
            with atomic_path(task.result(".npz")) as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=prediction.probabilities(),
                    class_names=np.array(model.class_names),
                )
        summary.done.append(task.photo)
        if has_more:
            summary.first_of_several.append(task.photo)
    return summary


def remarks(plan: PredictionPlan, summary: PredictSummary | None = None) -> list[str]:
    """Lines for what was skipped, by kind, and for files of which one picture was read."""
    lines = [
        f"skipped, {reason}: {len(paths):,} ({printable(first_names(paths))})"
        for reason, paths in plan.skipped.items()
    ]
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
