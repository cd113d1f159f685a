"""The whole of Fashionpedia, rehearsed: a stand-in of its size through the five notebooks.

    python -m benchmarks.rehearse build --from DATASET --out DIR --share 1.0
    python -m benchmarks.rehearse run --data DIR --out OTHER_DIR

`run` trains a small network for a few steps: what is measured is the way of the data.
"""

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.harness import ROOT, Row, photo_data_root
from benchmarks.stand_in import build

LIMIT_MB = 2000.0
"""No process may hold more."""

LIMIT_SILENCE = 30.0
"""Seconds within which something is printed."""

_LIMIT_SECONDS = 150.0  # of the first three notebooks at a tenth, on two cores
_SHOWN_SECONDS = 5.0  # cells that take longer have a row
_SAMPLE_SECONDS = 0.25
_SETTINGS = (
    "data.image_size=64",
    "data.train_size=0",
    "train.encoder_name=mit_b0",
    "train.encoder_weights=none",
    "train.batch_size=32",
    "train.max_minutes=0",
    "train.max_epochs=1",
    "train.epoch_images=256",
    "train.num_workers=1",
    "evaluate.trial_photos=2",
)


@dataclass(frozen=True)
class Sample:
    """What one process held at one time.

    Attributes:
        when: seconds since 1970.
        pid: of the process.
        role: "pipeline", "kernel" or "worker".
        rss_mb: resident; pages that it shares are counted in full.
        peak_mb: the most that was resident so far.
        cpu_seconds: that it computed so far, in all its threads.
    """

    when: float
    pid: int
    role: str
    rss_mb: float
    peak_mb: float
    cpu_seconds: float


@dataclass(frozen=True)
class Cell:
    """One code cell of an executed notebook; times in seconds since 1970."""

    notebook: str
    title: str
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.ended - self.started


@dataclass(frozen=True)
class Rehearsal:
    """What a run of the notebooks showed.

    Attributes:
        cells: of all notebooks, in order.
        samples: of all processes, in the order of time.
        said: times of the lines printed, seconds since 1970; the run's start is the first.
    """

    cells: list[Cell]
    samples: list[Sample]
    said: list[float]

    def notebooks(self) -> dict[str, list[Cell]]:
        """Cells by notebook."""
        return {
            name: [cell for cell in self.cells if cell.notebook == name]
            for name in dict.fromkeys(cell.notebook for cell in self.cells)
        }

    def peak_mb(self, started: float, ended: float, role: str = "") -> float:
        """The most that one process held between two times."""
        return max(
            (
                sample.rss_mb
                for sample in self.samples
                if started <= sample.when <= ended and role in ("", sample.role)
            ),
            default=float("nan"),
        )

    def cpu_seconds(self, started: float, ended: float) -> float:
        """Seconds that all processes computed between two times, as far as they were seen."""
        seen: dict[int, list[float]] = {}
        for sample in self.samples:
            if started <= sample.when <= ended:
                seen.setdefault(sample.pid, []).append(sample.cpu_seconds)
        return sum(seconds[-1] - seconds[0] for seconds in seen.values())

    def longest_silence(self, started: float, ended: float) -> float:
        """Seconds of the longest time without a line between two times."""
        times = [started, *(when for when in self.said if started < when < ended), ended]
        return max(after - before for before, after in itertools.pairwise(times))

    def longest_pause(self) -> float:
        """Seconds that the measuring itself had to wait at most: a busy machine is no silence."""
        times = sorted({sample.when for sample in self.samples})
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def largest(self) -> Sample:
        """The process that held most, at its peak."""
        return max(self.samples, key=lambda sample: sample.peak_mb)


def rehearse(data_root: Path, out: Path, only: Sequence[str] = ()) -> Rehearsal:
    """Run the notebooks over a stand-in, as the command line does, and measure.

    Args:
        data_root: the stand-in.
        out: folder for masks and run; what is done there already is skipped.
        only: notebooks by number; empty means all five.

    Raises:
        RuntimeError: the run failed; the message ends with what it said.
    """
    settings = (f"run.outputs_root={out / 'outputs'}", f"data.derived_root={out / 'derived'}")
    command = [sys.executable, "-u", "-m", "clothseg_utils", "run", "--run-name", "rehearsal"]
    command += ["--data-root", str(data_root), *(f"--only={number}" for number in only)]
    command += [f"--set={setting}" for setting in (*settings, *_SETTINGS)]
    said: list[tuple[float, str]] = [(time.time(), "")]
    samples: list[Sample] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        # Threads that wait for each other on a busy machine cost minutes.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        reader = threading.Thread(target=_read_lines, args=(process.stdout, said))
        reader.start()
        while process.poll() is None:
            samples += _sample(process.pid)
            time.sleep(_SAMPLE_SECONDS)
        reader.join()
    if process.returncode:
        text = "".join(line for _, line in said)
        raise RuntimeError(f"the run failed (exit status {process.returncode}):\n{text[-2000:]}")
    executed = sorted((out / "outputs" / "rehearsal" / "notebooks").glob("*.ipynb"))
    cells = [cell for path in executed for cell in read_cells(path)]
    times = [when for when, _ in said]
    return Rehearsal([cell for cell in cells if cell.ended > times[0]], samples, times)


def _read_lines(lines: Iterable[str], said: list[tuple[float, str]]) -> None:
    for line in lines:
        said.append((time.time(), line))
        print(f"{said[-1][0] - said[0][0]:7.1f} s  {line}", end="", flush=True)


def _sample(pid: int) -> Iterator[Sample]:
    """Memory of a process and all that descend from it."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            is_kernel = "ipykernel_launcher" in process.cmdline()
            status = Path(f"/proc/{process.pid}/status").read_text()
            cpu = process.cpu_times()
        except (OSError, psutil.Error):
            continue  # it has just ended
        kilobytes = dict(re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", status))
        if kilobytes:
            now, peak = (int(kilobytes[name]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
            role = "pipeline" if process.pid == pid else "kernel" if is_kernel else "worker"
            yield Sample(time.time(), process.pid, role, now, peak, cpu.user + cpu.system)


def read_cells(path: Path) -> Iterator[Cell]:
    """Code cells of an executed notebook with their times; the heading above is their title."""
    title = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        headings = re.findall(r"^#+ (.+)$", source, re.MULTILINE)
        if cell["cell_type"] == "markdown":
            title = headings[-1] if headings else title
            continue
        noted = cell["metadata"].get("papermill", {})
        if noted.get("end_time"):
            started, ended = (
                datetime.fromisoformat(noted[name]).replace(tzinfo=UTC).timestamp()
                for name in ("start_time", "end_time")
            )
            yield Cell(path.stem, f"{title}: `{source.splitlines()[0][:60]}`", started, ended)


def to_markdown(found: Rehearsal) -> str:
    """Tables: notebooks, slow cells."""
    lines = [
        "| notebook | seconds | CPU, s | kernel's peak, MB | a worker's, MB | silence, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, cells in found.notebooks().items():
        span = cells[0].started, cells[-1].ended
        kernel, worker = (found.peak_mb(*span, role) for role in ("kernel", "worker"))
        workers = "" if math.isnan(worker) else f"{worker:.0f}"
        lines.append(
            f"| {name} | {span[1] - span[0]:.0f} | {found.cpu_seconds(*span):.0f} | "
            f"{kernel:.0f} | {workers} | "
            f"{found.longest_silence(*span):.0f} |"
        )
    lines += ["", "| cells over 5 s | seconds | CPU, s | largest process, MB | silence, s |"]
    lines.append("|---|---:|---:|---:|---:|")
    for cell in found.cells:
        if cell.seconds > _SHOWN_SECONDS:
            span = cell.started, cell.ended
            lines.append(
                f"| {cell.notebook[:2]} · {cell.title} | {cell.seconds:.1f} | "
                f"{found.cpu_seconds(*span):.1f} | {found.peak_mb(*span):.0f} | "
                f"{found.longest_silence(*span):.0f} |"
            )
    largest = found.largest()
    silence = found.longest_silence(found.said[0], found.said[-1])
    lines += [
        "",
        f"Largest process: {largest.peak_mb:.0f} MB ({largest.role}); limit {LIMIT_MB:.0f} MB. "
        f"Longest silence of the whole run: {silence:.0f} s; limit {LIMIT_SILENCE:.0f} s. "
        f"{found.said[-1] - found.said[0]:.0f} s from start to end. The measuring itself, due each "
        f"{_SAMPLE_SECONDS:g} s, had to wait up to {found.longest_pause():.0f} s for the machine.",
    ]
    return "\n".join(lines) + "\n"


def rows() -> list[Row]:
    """Limits of the first three notebooks, at a tenth of the size; minutes more for all five."""
    root, what = photo_data_root()
    with tempfile.TemporaryDirectory() as folder:
        data_root = Path(folder) / "data"
        built = build(root, data_root, share=0.1)
        found = rehearse(data_root, Path(folder) / "out", only=("01", "02", "03"))
    started, ended = found.said[0], found.said[-1]
    note = (
        f"an absolute limit; {sum(built.photos.values()):,} photos, "
        f"{built.train_bytes / 1e6:.0f} MB of train JSON, made of {what}; mit_b0 at 64 px, 8 "
        "steps; all five notebooks at full size: benchmarks/RESULTS-rehearsal.md"
    )
    name = "notebooks 01 to 03, a tenth of Fashionpedia"
    return [
        Row(f"{name}, {what}", limit, ours, unit, target=1, n=1, note=note)
        for what, limit, ours, unit in (
            ("time", _LIMIT_SECONDS, ended - started, "s"),
            ("longest silence", LIMIT_SILENCE, found.longest_silence(started, ended), "s"),
            ("largest process", LIMIT_MB, found.largest().peak_mb, "MB"),
        )
    ]


def main() -> None:
    """Build a stand-in, or run the notebooks over one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearse", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    builder = verbs.add_parser("build", help="build a stand-in of Fashionpedia's size")
    builder.add_argument("--from", dest="source", type=Path, required=True, help="small dataset")
    builder.add_argument("--out", type=Path, required=True, help="folder to make")
    builder.add_argument("--share", type=float, default=1.0, help="of Fashionpedia's size")
    runner = verbs.add_parser("run", help="run the five notebooks over it and measure")
    runner.add_argument("--data", type=Path, required=True, help="the stand-in")
    runner.add_argument("--out", type=Path, required=True, help="folder for masks and run")
    runner.add_argument("--only", action="append", default=[], help="notebook, such as 01")
    options = parser.parse_args()
    if options.verb == "build":
        built = build(options.source, options.out, share=options.share)
        print(
            f"{built.photos} photos, {built.annotations} annotations, "
            f"{built.train_bytes / 1e6:.0f} MB of train JSON"
        )
    else:
        found = rehearse(options.data.resolve(), options.out.resolve(), options.only)
        print(to_markdown(found))


if __name__ == "__main__":
    main()
