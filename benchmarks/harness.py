"""What all stages share: rows, alternating repeats, processes, memory, data."""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: the condition.
        baseline, ours: medians; of an absolute limit the baseline is the limit.
        unit: of both.
        target: the ratio asked for; None where none was.
        n: repeats of each side.
        note: what was compared, and what agreed.
        floor: the best ratio possible on this machine, where one was worked out.
        floor_note: how it was found.
    """

    name: str
    baseline: float
    ours: float
    unit: Literal["s", "MB"]
    target: float | None
    n: int
    note: str
    floor: float | None = None
    floor_note: str = ""

    @property
    def ratio(self) -> float:
        """Baseline over ours: bigger is better."""
        return self.baseline / self.ours

    @property
    def is_missed(self) -> bool:
        """Whether there is a target and it was not reached."""
        return self.target is not None and self.ratio < self.target

    def as_dict(self) -> dict[str, Any]:
        """Plain values for bench.json; the floor is given where the target was missed."""
        values = asdict(self) | {"ratio": self.ratio}
        if not self.is_missed:
            del values["floor"], values["floor_note"]
        return values


@dataclass(frozen=True)
class Timing:
    """Medians of alternating repeats, seconds, and the last result of each side."""

    baseline: float
    ours: float
    n: int
    baseline_result: Any
    our_result: Any


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """Run a function; return the seconds that it took and what it returned."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def measure_stage(stage: str) -> tuple[float, list[Row]]:
    """Seconds that a stage took, and its rows.

    In a process of its own: what a stage leaves behind changes the times of the next one.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_stage_rows, stage).result()


def _stage_rows(stage: str) -> tuple[float, list[Row]]:
    return seconds_of(importlib.import_module(f"benchmarks.{stage}").rows)


def alternate(
    baseline: Callable[[], Any], ours: Callable[[], Any], repeats: int, *, warm_up: bool = True
) -> Timing:
    """Time both sides in turn: what slows the machine down for a while slows both.

    Args:
        baseline: the usual way.
        ours: this project's way.
        repeats: of each side.
        warm_up: run each once before, uncounted.
    """
    if warm_up:
        baseline(), ours()
    times: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(repeats):
        for side, function in enumerate((baseline, ours)):
            results[side] = None  # the result before must not add to this run's memory
            seconds, results[side] = seconds_of(function)
            times[side].append(seconds)
    return Timing(statistics.median(times[0]), statistics.median(times[1]), repeats, *results)


def run_python(*arguments: str | Path) -> str:
    """Run this Python in the repository; return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{process.stderr[-2000:]}")
    return process.stdout


def report(**values: Any) -> None:
    """Print the figures of a measured process, for `read_report`."""
    print(json.dumps(values | {"peak_mb": _status_mb("VmHWM")}))


def read_report(*arguments: str | Path) -> dict[str, Any]:
    """Run this Python and return what its `report` said."""
    return json.loads(run_python(*arguments).splitlines()[-1])


def extra_peak_mb(function: Callable[[], Any]) -> float:
    """Megabytes that a function holds at most beyond what was there before.

    Linux only; 5 in clear_refs sets the high-water mark back.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    result = function()
    peak = _status_mb("VmHWM") - before
    del result
    return peak


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def real_data() -> Path | None:
    """Folder of the real photos and annotations, as the tests find it; None without one."""
    folder = Path(os.environ.get("CLOTHSEG_REAL_DATA") or ROOT.parent / "shared" / "data")
    return folder if (folder / "fashionpedia_mini").is_dir() else None


def photo_data_root() -> tuple[Path, str]:
    """A dataset with photos of native size and what to call it; drawn where there is no real one.

    Returns:
        data root, and words for a row's note.
    """
    real = real_data()
    if real is not None:
        return real / "fashionpedia_mini", "real photos of Fashionpedia"
    return drawn_data_root(), "drawn photos, no real ones here"


def annotation_data_root() -> tuple[Path, str]:
    """As `photo_data_root`, for annotations."""
    real = real_data()
    if real is not None:
        return real / "fashionpedia_annotations", "real annotations"
    return drawn_data_root(), "drawn annotations, no real ones here"


def drawn_data_root() -> Path:
    """Folder of the drawn dataset, which is drawn now if it is not there."""
    from clothseg_utils.drawing.dataset import synthesize

    root = ROOT / "data" / "synthetic"
    if not root.exists():
        synthesize(root)
    return root


@contextlib.contextmanager
def one_thread():
    """Let torch and OpenCV use one core: what a loader process has."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def check_equal(what: str, differing: int, allowed: int = 0) -> None:
    """Refuse a comparison whose two sides do not agree.

    Raises:
        RuntimeError: more differs than is allowed.
    """
    if differing > allowed:
        raise RuntimeError(f"{what}: {differing} differ; expected at most {allowed}.")


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table, one line per row."""
    print(f"{'':58s} {'baseline':>10s} {'ours':>10s}      {'ratio':>7s} {'target':>7s}")
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        verdict = "" if row.target is None else "missed" if row.is_missed else "met"
        floor = f", best possible {row.floor:.2f}" if row.is_missed and row.floor else ""
        print(
            f"{row.name[:58]:58s} {row.baseline:10.4g} {row.ours:10.4g} {row.unit:3s} "
            f"{row.ratio:8.2f} {target:>7s}  {verdict}{floor}"
        )
