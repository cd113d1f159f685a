"""Results of millions of photos: one file of JSON lines, a photo a line, for each shard."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import numpy as np
from filelock import FileLock, Timeout

from clothseg_utils.core.files import write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.shapes import Shape, read_shaped
from clothseg_utils.core.text import count_text, printable
from clothseg_utils.prediction.coco_results import check_replaced, coco_writer, photo_record
from clothseg_utils.prediction.model import Model, Prediction
from clothseg_utils.prediction.pipeline import predict_each
from clothseg_utils.prediction.plan import PhotoTask
from clothseg_utils.prediction.predict import PredictSummary
from clothseg_utils.prediction.resume import Record

_UNFINISHED = ".part"


class _Line(msgspec.Struct):
    """What tells a whole line of ours; the rest of it is read as JSON only."""

    file_name: str
    height: int
    width: int
    annotations: msgspec.Raw


class _Region(msgspec.Struct):
    class_id: int
    area: int
    bbox: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]
    segmentation: dict[str, Any]


class _WholeLine(_Line):
    annotations: list[_Region]  # type: ignore[assignment]


class _Settings(Shape):
    classes: list[str]


_DECODER = msgspec.json.Decoder(_Line)
_WHOLE_DECODER = msgspec.json.Decoder(_WholeLine)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def shard_path(file: Path, number: int, of: int) -> Path:
    """What one shard's file is called.

    Example:
        >>> shard_path(Path("a/all.jsonl"), 1, 8).name
        'all-00001-of-00008.jsonl'
    """
    return file.with_name(f"{file.stem}-{number:05}-of-{of:05}{file.suffix}")


def record_path(file: Path) -> Path:
    """Where the settings lie, of a file and of all its shards."""
    return file.with_name(f"{file.stem}.predict.json")


def failures_path(file: Path) -> Path:
    """Where it stands which photos a file, or a shard's, lacks; not there where it has all."""
    return file.with_name(f"{file.stem}.failed.txt")


@contextlib.contextmanager
def compact_file(path: Path) -> Iterator[tuple[set[str], Callable[[bytes], None]]]:
    """Add lines to a file, which has its name when all of them are there.

    Until then it is called `<name>.part`. A line that an interrupted call left unfinished is cut
    off, with all that follows it.

    Yields:
        The file names of photos that have a line, and a function that adds a line.

    Raises:
        ValueError: another process writes it.
    """
    unfinished = _unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{printable(path)} is being written by another process; expected one for each shard. "
            "Wait for it."
        ) from None
    with lock:
        if path.exists():
            path.replace(unfinished)
        with unfinished.open("ab+") as file:
            done = _whole_lines(file)

            def add(line: bytes) -> None:
                file.write(line + b"\n")
                file.flush()  # whole, in one call of the system

            yield done, add
            os.fsync(file.fileno())
        unfinished.replace(path)
    Path(lock.lock_file).unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


def _whole_lines(file: Any) -> set[str]:
    """File names of the lines up to the first that is not whole; the file is cut before that."""
    done: set[str] = set()
    file.seek(0)
    end = 0
    for line in file:
        with contextlib.suppress(*_UNDECODABLE):
            if line.endswith(b"\n"):
                done.add(_DECODER.decode(line).file_name)
                end += len(line)
                continue
        break
    file.truncate(end)
    return done


def predict_compact(
    model: Model,
    tasks: Sequence[PhotoTask],
    file: Path,
    record: Record,
    *,
    shard: tuple[int, int] | None = None,
    parts: bool = False,
    unread: Mapping[Path, str] = MappingProxyType({}),
) -> tuple[PredictSummary, int]:
    """Predict photos and write a line for each, `coco_results.photo_record` with scores.

    Lines stand in the order of the photos: the shards' files one after the other are the file
    without shards. Photos that have a line are not predicted again. What fails has a line in
    `failures_path` instead, and is tried again by the same call.

    Args:
        model: from `network.segmenter.load_segmenter`, or another.
        tasks: from `plan_predictions`, of this shard.
        file: of all shards; this one's is `shard_path`.
        record: its settings.
        shard: number, from 1 on, and of how many.
        parts: connected parts have annotations of their own.
        unread: what may hold photos and cannot be looked at -> one line that says why.

    Returns:
        What was done, and how many photos were done before.

    Raises:
        ValueError: the file is not from an earlier call with the same settings, or a shard of it
            was divided otherwise.
    """
    path = shard_path(file, *shard) if shard else file
    record.refuse_others("Name another file, or move this one away.")
    if shard:
        _refuse_other_division(file, shard[1])
    if record.stored() is None:
        for there in (path, _unfinished(path), failures_path(path)):
            if there.exists():
                raise ValueError(
                    f"{printable(there)} is there, without {record.path.name} of an earlier "
                    "predict beside it; expected a new file. Name another one, or move it away."
                )
    summary = PredictSummary([], {}, [])

    def look(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        return prediction.mask(), prediction.confidence()

    def finish(task: PhotoTask, _: np.ndarray, looked: tuple[np.ndarray, np.ndarray]) -> bytes:
        mask, confidence = looked
        line = photo_record(task.file_name, mask, model.class_names, confidence, parts=parts)
        try:
            return json.dumps(line, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("its name is no text, which JSON could hold; rename it.") from None

    record.begin()
    with compact_file(path) as (done, add):
        remaining = [task for task in tasks if task.file_name not in done]
        n_before = len(tasks) - len(remaining)
        done.clear()
        outcomes = predict_each(model, remaining, look, finish)
        for (task, has_more), line in progress_bar(
            outcomes, total=len(remaining), desc="predict", unit="photo"
        ):
            if isinstance(line, Exception):
                summary.add_failure(task, line)
                continue
            add(line)
            summary.done.append(task)
            if has_more:
                summary.first_of_several.append(task.photo)
        lines = [*unread.values(), *summary.failed.values()]
        if lines:
            write_text(failures_path(path), "".join(f"{line}\n" for line in lines))
        else:
            failures_path(path).unlink(missing_ok=True)
    return summary, n_before


def _refuse_other_division(file: Path, of: int) -> None:
    for name, there in sorted(_divisions(file).items()):
        if there != of:
            raise ValueError(
                f"{printable(file.with_name(name))} is of {count_text(there, 'shard')}; expected "
                f"{of:,} as in this call. Take the same number for all shards, or name another "
                "file."
            )


def join_to_coco(file: Path, coco: Path) -> tuple[int, dict[Path, int]]:
    """Write one COCO file of all photos from a compact file or its shards.

    Args:
        file: as it was given to `predict`, without a shard's number.
        coco: the JSON, see `coco_results.coco_writer`.

    Returns:
        How many photos it holds; and where it stands how many others failed.

    Raises:
        ValueError: a shard is missing or not finished, or its settings are; or `coco` is there and
            something else.
    """
    check_replaced(coco)
    settings_path = _existing(record_path(file), file)
    remedy = "Move it away with the lines, and run predict again."
    class_names = read_shaped(settings_path, _Settings, remedy)["classes"]
    n_photos = 0
    failed: dict[Path, int] = {}
    with coco_writer(coco, class_names) as add:
        for path in _finished_files(file):
            if (failures := failures_path(path)).is_file():
                failed[failures] = len(failures.read_text("utf-8").splitlines())
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        regions = _WHOLE_DECODER.decode(line).annotations
                        if any(not 0 < one.class_id < len(class_names) for one in regions):
                            raise msgspec.DecodeError("of another class")
                    except _UNDECODABLE:
                        raise ValueError(
                            f"{printable(path)}, line {number} is no record of predict; expected "
                            "the file as predict left it. Run predict again."
                        ) from None
                    add(json.loads(line))
                    n_photos += 1
    return n_photos, failed


def _finished_files(file: Path) -> list[Path]:
    if file.exists():
        return [file]
    counts = set(_divisions(file).values())
    if len(counts) > 1:
        raise ValueError(
            f"{printable(file)} was divided in several ways, by {sorted(counts)}; expected one. "
            "Move the other files away."
        )
    of = counts.pop() if counts else 0
    paths = [shard_path(file, number, of) for number in range(1, of + 1)] or [file]
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(
            f"{printable(missing[0])} is not finished"
            f"{f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''}; expected "
            f"{count_text(len(paths), 'whole file')}. Run predict with this shard again."
        )
    return paths


def _divisions(file: Path) -> dict[str, int]:
    """Names of the shards' files that are there, finished or not -> of how many they are one."""
    stem, suffix = re.escape(file.stem), re.escape(file.suffix)
    pattern = re.compile(
        rf"{stem}-[0-9]{{5,}}-of-([0-9]{{5,}}){suffix}(?:{re.escape(_UNFINISHED)})?"
    )
    names = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
    matches = map(pattern.fullmatch, names)
    return {match.string: int(match[1]) for match in matches if match}


def _existing(path: Path, file: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{printable(path)} not found; expected it beside {file.name}, as predict --compact "
            "leaves it. Name that file, without a shard's number."
        )
    return path
