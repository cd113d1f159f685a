"""What of a job is done already: results of the same settings, written after these were noted."""

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import clothseg_utils
from clothseg_utils.core.config import InferenceConfig
from clothseg_utils.core.files import portable_path, sha256_file, write_json
from clothseg_utils.core.shapes import ABSENT, Shape, read_shaped
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
        "package": clothseg_utils.__version__,
        "inference": inference.model_dump(),
        "classes": list(model.class_names),
        **options,
    }


_FOLDERS = "folders"


class _Stored(Shape):
    folders: dict[str, list[str]] = ABSENT


@dataclass(frozen=True)
class Record:
    """A file beside results that holds their settings, and which folders their photos lie in.

    Photos of another folder may have the same names.

    Attributes:
        path: of the JSON file.
        settings: of this call, from `result_settings`.
    """

    path: Path
    settings: Mapping[str, Any]

    def stored(self) -> Any:
        """Settings that the file holds; None where there is no such file or it is broken."""
        stored = self._read()
        if isinstance(stored, dict):
            stored.pop(_FOLDERS, None)
        return stored

    def _read(self) -> Any:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return read_shaped(self.path, _Stored, "")
        return None

    def is_continued(self, tasks: Iterable[PhotoTask]) -> bool:
        """Whether results of these settings lie there, and none of photos of other folders."""
        stored = _get(self._read(), _FOLDERS) or {}
        return self.stored() == self.settings and all(
            sources <= set(stored.get(target, sources))
            for target, sources in self._folders(tasks).items()
        )

    def _folders(self, tasks: Iterable[PhotoTask]) -> dict[str, set[str]]:
        """Folders of results, below the record's -> those of their photos."""
        folders: dict[str, set[str]] = defaultdict(set)
        for target, source in {(task.target, task.folder) for task in tasks}:
            name = target.relative_to(self.path.parent).as_posix()
            folders[name].add(portable_path(os.path.abspath(source)))
        return folders

    def begin(self, tasks: Sequence[PhotoTask] = ()) -> None:
        """Note this call's settings and the folders of its photos, unless they stand there."""
        is_continued = self.is_continued(tasks) and not self.is_of_the_future()
        stored = (_get(self._read(), _FOLDERS) or {}) if is_continued else {}
        folders = stored | {
            target: sorted(sources.union(stored.get(target, ())))
            for target, sources in self._folders(tasks).items()
        }
        if is_continued and folders == stored:
            return
        since = self.path.stat().st_mtime_ns if is_continued else None
        write_json(self.path, {**self.settings, _FOLDERS: dict(sorted(folders.items()))})
        if since is not None:  # what is done stays done
            os.utime(self.path, ns=(since, since))

    def is_of_the_future(self) -> bool:
        """Whether the clock was set back since the file was written: no result can be newer."""
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=self.path.parent) as file:
            # The file system's own clock, which may be another machine's.
            return self.path.stat().st_mtime_ns > os.fstat(file.fileno()).st_mtime_ns
        return False

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

        The others have every result, each newer than the record and not older than the photo: than
        its content, and its name or place, since a photo that is moved here keeps its own time.

        Args:
            tasks: of this call.
            written: what is written of each, as for `PhotoTask.results`.
        """
        tasks = list(tasks)
        if not self.is_continued(tasks) or self.is_of_the_future():
            return tasks
        since = self.path.stat().st_mtime_ns
        return [task for task in tasks if not _is_done(task, since, written)]


def _get(stored: Any, name: str) -> Any:
    return stored.get(name) if isinstance(stored, dict) else None


def _is_done(task: PhotoTask, since: int, written: Mapping[str, bool]) -> bool:
    try:
        times = [path.stat().st_mtime_ns for path in task.results(**written)]
        photo = _tar_changed(task.member.tar) if task.member else _changed(task.photo)
    except OSError:
        return False
    # In one tick of the file system's clock a result may be older than the record.
    return min(times) > since and min(times) >= photo


def _changed(path: Path) -> int:
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


_tar_changed = lru_cache(maxsize=1)(_changed)
