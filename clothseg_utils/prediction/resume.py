"""What of a job is done already: results of the same settings, written after these were noted."""

import contextlib
import importlib.metadata
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clothseg_utils.core.config import InferenceConfig
from clothseg_utils.core.files import read_json, sha256_file, write_json
from clothseg_utils.core.text import printable
from clothseg_utils.prediction.model import Model
from clothseg_utils.prediction.plan import PhotoTask


def result_settings(
    checkpoint: Path, model: Model, inference: InferenceConfig, **options: Any
) -> dict[str, Any]:
    """What decides the bytes of results: results of other settings are never taken for done.

    Args:
        checkpoint: the file that `model` was read from.
        model: its classes are noted for who reads the results.
        inference: test-time options of it.
        options: what else decides, JSON-able.
    """
    return {
        "checkpoint": checkpoint.name,
        "sha256": sha256_file(checkpoint),
        "package": importlib.metadata.version("clothseg_utils"),
        "inference": inference.model_dump(),
        "classes": list(model.class_names),
        **options,
    }


@dataclass(frozen=True)
class Record:
    """A file beside results that holds their settings.

    Attributes:
        path: of the JSON file.
        settings: of this call, from `result_settings`.
    """

    path: Path
    settings: Mapping[str, Any]

    def stored(self) -> Any:
        """What the file holds; None where there is no such file or it is broken."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return read_json(self.path)
        return None

    def begin(self) -> None:
        """Note this call's settings, unless they stand there."""
        if self.stored() != self.settings:
            write_json(self.path, self.settings)

    def refuse_others(self, remedy: str) -> None:
        """Refuse to go on where results of other settings lie.

        Raises:
            ValueError: the file holds other settings; they are named.
        """
        stored = self.stored()
        if stored is None or stored == self.settings:
            return
        names = [name for name in self.settings if _get(stored, name) != self.settings[name]]
        raise ValueError(
            f"{printable(self.path)} is of results with another {', '.join(names) or 'setting'}; "
            f"expected the same in all of them. {remedy}"
        )

    def remaining(self, tasks: Iterable[PhotoTask], **written: bool) -> list[PhotoTask]:
        """The photos that have to be predicted.

        The others have every result, each newer than the record and not older than the photo.

        Args:
            tasks: of this call.
            written: what is written of each, as for `PhotoTask.results`.
        """
        tasks = list(tasks)
        if self.stored() != self.settings:
            return tasks
        since = self.path.stat().st_mtime_ns
        return [task for task in tasks if not _is_done(task, since, written)]


def _get(stored: Any, name: str) -> Any:
    return stored.get(name) if isinstance(stored, dict) else None


def _is_done(task: PhotoTask, since: int, written: Mapping[str, bool]) -> bool:
    try:
        times = [path.stat().st_mtime_ns for path in task.results(**written)]
        photo = _mtime(task.member.tar) if task.member else task.photo.stat().st_mtime_ns
    except OSError:
        return False
    # In one tick of the file system's clock a result may be older than the record.
    return min(times) > since and min(times) >= photo


@lru_cache(maxsize=1)
def _mtime(tar: Path) -> int:
    return os.stat(tar).st_mtime_ns
