"""The run folder: its layout, its manifest, its lock."""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clothseg_utils.core.files import (
    portable_path,
    repo_root,
    resolve_path,
    sha256_file,
    write_json,
)
from clothseg_utils.core.shapes import ABSENT, Shape, read_shaped

MOST_SIGNS = 100
MOST_BYTES = 200  # of names on disk 255, which some files make longer; letters have up to 4
"""Of a run's name."""

_RECORDED_LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "segmentation-models-pytorch",
    "timm",
    "opencv-python-headless",
    "pycocotools",
    "numpy",
    "papermill",
)


class _Step(Shape):
    state: str = ABSENT
    key: str | None = ABSENT
    seconds: float = ABSENT
    notebook_seconds: float = ABSENT
    finished: str = ABSENT
    parameters: dict[str, str | bool | int | float | None] = ABSENT
    inputs: dict[str, str] = ABSENT
    outputs: dict[str, str] = ABSENT


class _Manifest(Shape):
    steps: dict[str, _Step]
    git_commit: str = ABSENT
    python: str = ABSENT
    libraries: dict[str, str] = ABSENT


class _Encoder(Shape):
    __pydantic_extra__: dict[str, str | None]


class _Training(Shape):
    best_score: float
    best_epoch: float
    epochs: float
    steps: int
    seconds: float
    reason: str
    code: str | None = ABSENT
    encoder: _Encoder = ABSENT


class RunFolder:
    """One run's folder, `outputs/<run_name>/`.

    Attributes:
        path: the folder; made when first written to.
        figures_dir, tables_dir, logs_dir, checkpoints_dir, evaluation_dir, notebooks_dir,
        report_dir, overlays_dir: its parts (docs/run-folder.md).

    Raises:
        ValueError: a run name that is not one plain folder name.
    """

    def __init__(self, outputs_root: str | Path, run_name: str) -> None:
        check_run_name(run_name)
        self.name = run_name
        self.path = resolve_path(outputs_root) / run_name
        self.figures_dir = self.path / "figures"
        self.tables_dir = self.path / "tables"
        self.logs_dir = self.path / "logs"
        self.checkpoints_dir = self.path / "checkpoints"
        self.evaluation_dir = self.path / "evaluation"
        self.notebooks_dir = self.path / "notebooks"
        self.overlays_dir = self.path / "overlays"
        self.report_dir = self.path / "report"
        self.manifest_path = self.path / "manifest.json"
        self.best_checkpoint = self.checkpoints_dir / "best.ckpt"
        self.last_checkpoint = self.checkpoints_dir / "last.ckpt"
        self.training_path = self.checkpoints_dir / "training.json"

    def __repr__(self) -> str:
        return f"RunFolder({portable_path(self.path)!r})"

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest; an empty dict before the first record.

        Raises:
            ValueError: the file is not JSON, or not a manifest.
        """
        if not self.manifest_path.exists():
            return {}
        remedy = "Restore it, or delete it: the notebooks run again."
        return read_shaped(self.manifest_path, _Manifest, remedy)

    def read_training(self) -> dict[str, Any]:
        """Read how training ended; an empty dict where none has.

        Raises:
            ValueError: the file is broken.
        """
        if not self.training_path.exists():
            return {}
        remedy = "Delete it: training then ends once more, from last.ckpt."
        return read_shaped(self.training_path, _Training, remedy)

    def record_step(
        self,
        step: str,
        *,
        parameters: Mapping[str, Any],
        inputs: Iterable[str | Path] = (),
        outputs: Iterable[str | Path] = (),
        scores: Mapping[str, Any] | None = None,
        seconds: float,
    ) -> None:
        """Write what a step did into the manifest, with hashes of what it read and wrote.

        Args:
            step: the notebook's name, such as "03_training".
            parameters: name -> value, JSON-able.
            inputs: files read; missing ones are an error.
            outputs: files written.
            scores: numbers to keep beside the step.
            seconds: wall time of the step.
        """
        entry = {
            "state": "done",
            "seconds": round(seconds, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "parameters": dict(parameters),
            "inputs": {portable_path(path): sha256_file(path) for path in inputs},
            "outputs": {
                Path(path).relative_to(self.path).as_posix()
                if Path(path).is_relative_to(self.path)
                else portable_path(path): sha256_file(path)
                for path in outputs
            },
        }
        if scores is not None:
            entry["scores"] = dict(scores)
        self.update_step(step, entry)

    def update_step(self, step: str, entry: Mapping[str, Any]) -> None:
        """Merge `entry` into one step of the manifest; safe with several writers."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".manifest.lock"):
            manifest = self.read_manifest() or {"steps": {}}
            manifest["run_name"] = self.name
            manifest["git_commit"] = git_commit()
            manifest["python"] = sys.version.split()[0]
            manifest["libraries"] = library_versions()
            manifest["steps"].setdefault(step, {}).update(entry)
            write_json(self.manifest_path, manifest)

    def check_data(self, data_root: str | Path, option: str) -> None:
        """Refuse to mix two datasets in one run: its report would tell of both as if they were one.

        Args:
            data_root: the dataset that is going to be used.
            option: how messages call the place of another run.

        Raises:
            ValueError: the run has steps of another dataset.
        """
        for step in self.read_manifest().get("steps", {}).values():
            recorded = step.get("parameters", {}).get("data_root")
            if isinstance(recorded, str) and resolve_path(recorded) != resolve_path(data_root):
                raise ValueError(
                    f"run {self.name} is of the data in {recorded}; got "
                    f"{portable_path(data_root)}. Give --data-root {recorded}, or another {option}."
                )

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run for one process, see `hold_folder`."""
        return hold_folder(self.path, f'run "{self.name}"', "a run", "--run-name")


@contextlib.contextmanager
def hold_folder(folder: Path, what: str, kind: str, option: str) -> Iterator[None]:
    """Hold a folder for one process; on a local disk the lock goes with it, even if killed.

    Args:
        folder: to hold; it is made.
        what, kind, option: how the message calls it, such as `run "a"`, "a run", "--run-name".

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder_path = folder / ".lock.pid"  # Windows lets nobody read a file that is locked
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        holder = (holder_path.read_text() if holder_path.exists() else "") or "?"
        raise ValueError(
            f"{what} is in use by process {holder}; expected one process {kind}. Wait for it, or "
            f"choose another {option}."
        ) from None
    with lock:
        holder_path.write_text(str(os.getpid()))
        try:
            yield
        finally:
            holder_path.unlink(missing_ok=True)


def check_run_name(name: str, what: str = "run_name", option: str = "--run-name") -> None:
    """Refuse what is not one plain folder name on every file system.

    Args:
        name: of a run, or of what stands beside runs.
        what, option: how messages call it.

    Raises:
        ValueError: it is none.
    """
    if re.fullmatch(r"\w[\w.+=-]*", name) and fits_name(name):
        return
    raise ValueError(
        f'{what} "{name}" is not a folder name; expected 1 to {MOST_SIGNS} letters, digits or '
        f". _ - + =, not starting with a dot or dash, of {MOST_BYTES} bytes at most. Choose "
        f"another {option}."
    )


def fits_name(name: str) -> bool:
    """Whether a name is short enough for a run."""
    return len(name) <= MOST_SIGNS and len(name.encode()) <= MOST_BYTES


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a result."""
    return {name: importlib.metadata.version(name) for name in _RECORDED_LIBRARIES}


def git_commit() -> str:
    """Commit of the checkout, with "-dirty" after local changes; "" outside a git checkout."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=repo_root(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
