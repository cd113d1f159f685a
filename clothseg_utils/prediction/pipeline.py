"""Reading, network and writing at the same time, with memory that does not grow."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from clothseg_utils.core.workers import ahead, usable_cores
from clothseg_utils.data.photos import megapixels
from clothseg_utils.prediction.model import Model, Prediction
from clothseg_utils.prediction.plan import PhotoTask

_BATCH_MEGAPIXELS = 64.0  # of the photos in one batch; a larger one is alone
_LARGE_MEGAPIXELS = 16.0  # nothing else is worked on while such a photo is written
_MOST_WRITERS = 4

_Read = tuple[np.ndarray, bool] | Exception  # a photo, and whether its file holds further ones
_Value = TypeVar("_Value")
_Looked = TypeVar("_Looked")
_Finished = TypeVar("_Finished")


class Outcome(NamedTuple):
    """What became of a photo.

    Attributes:
        task: the photo.
        has_more: whether its file holds further pictures.
    """

    task: PhotoTask
    has_more: bool


_Pending = deque[tuple[Outcome, Future[_Finished] | Exception]]


def predict_each(
    model: Model,
    tasks: Iterable[PhotoTask],
    look: Callable[[Prediction], _Looked],
    finish: Callable[[PhotoTask, np.ndarray, _Looked], _Finished],
) -> Iterator[tuple[Outcome, _Finished | Exception]]:
    """Predict photos; the next ones are read, and former ones finished, in other threads.

    Args:
        model: from `network.segmenter.load_segmenter`, or another.
        tasks: from `plan_predictions`.
        look: takes of a prediction what is needed; it runs here, where the network's threads are.
        finish: encodes and writes, from the photo, (H, W, 3) uint8 RGB, and what `look` gave.

    Yields:
        In the order of the tasks, what `finish` returned, or the OSError or ValueError that reading
        met, or the ValueError of `finish`.

    Raises:
        OSError: `finish` could not write.
    """
    pending: _Pending[_Finished] = deque()
    n_writers = min(_MOST_WRITERS, usable_cores())
    with ThreadPoolExecutor(n_writers) as pool:
        for batch in ahead(_read_batches(tasks, model.batch_size)):
            images = [read[0] for _, read in batch if not isinstance(read, Exception)]
            predictions = iter(model.predict_batch(images) if images else ())
            for task, read in batch:
                most_pending = 2 * n_writers
                if isinstance(read, Exception):
                    pending.append((Outcome(task, False), read))
                else:
                    image, has_more = read
                    future = pool.submit(finish, task, image, look(next(predictions)))
                    pending.append((Outcome(task, has_more), future))
                    if image.size > 3e6 * _LARGE_MEGAPIXELS:
                        most_pending = 0
                yield from _settle(pending, most_pending)
        yield from _settle(pending, 0)


def _settle(
    pending: _Pending[_Finished], most: int
) -> Iterator[tuple[Outcome, _Finished | Exception]]:
    """Wait until no more than `most` are pending."""
    while len(pending) > most:
        outcome, result = pending.popleft()
        if isinstance(result, Exception):
            yield outcome, result
            continue
        try:
            finished: _Finished | Exception = result.result()
        except ValueError as error:
            finished = error
        yield outcome, finished


def _read_batches(
    tasks: Iterable[PhotoTask], batch_size: int
) -> Iterator[list[tuple[PhotoTask, _Read]]]:
    """Read photos; those of a batch are decoded at the same time, large ones alone."""
    batch: list[tuple[PhotoTask, bytes | Exception]] = []
    total = 0.0
    with ThreadPoolExecutor(min(batch_size, usable_cores())) as pool:
        for task in tasks:
            data = _attempt(task.read)
            size = megapixels(data) if batch_size > 1 and isinstance(data, bytes) else 0.0
            if len(batch) == batch_size or (batch and total + size > _BATCH_MEGAPIXELS):
                yield list(pool.map(_decode, batch))
                batch, total = [], 0.0
            batch.append((task, data))
            total += size
        if batch:
            yield list(pool.map(_decode, batch))


def _decode(file: tuple[PhotoTask, bytes | Exception]) -> tuple[PhotoTask, _Read]:
    task, data = file
    return task, data if isinstance(data, Exception) else _attempt(lambda: task.decode(data))


def _attempt(read: Callable[[], _Value]) -> _Value | Exception:
    try:
        return read()
    except (OSError, ValueError) as error:
        return error
