"""Two programs on the same cores: what each loses by the threads of the other."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import ROOT, Row, alternate, photo_data_root
from benchmarks.prediction import write_checkpoint

N_PHOTOS, REPEATS = 24, 3
_MOST_TIMES = 2.2  # two at once, beside one alone
_USUAL_SPIN_COUNT = "300000"  # of GNU OpenMP


def rows() -> list[Row]:
    """Hold two predictions at once against one alone, and one alone against threads that spin."""
    root, words = photo_data_root()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder))
        photos = sorted((root / "test").glob("*.jpg"))
        for number in range(N_PHOTOS):
            (Path(folder) / f"{number}.jpg").symlink_to(photos[number % len(photos)].resolve())

        def predict(processes: int, **environment: str) -> None:
            running = [
                _start(checkpoint, Path(folder), f"out{number}", environment)
                for number in range(processes)
            ]
            failed = [process.args for process in running if process.wait()]
            if failed:
                raise RuntimeError(f"{failed[0]} failed; expected a prediction.")

        alone = alternate(
            lambda: predict(1, GOMP_SPINCOUNT=_USUAL_SPIN_COUNT),
            lambda: predict(1),
            REPEATS,
            warm_up=False,
        )
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            predict(2)
            seconds.append(time.perf_counter() - started)
    at_once = statistics.median(seconds)
    what = f"whole processes, {N_PHOTOS} {words} each, random weights"
    return [
        Row(
            name=f"two predictions at once, limit {_MOST_TIMES:g} x one alone",
            baseline=_MOST_TIMES * alone.ours,
            ours=at_once,
            unit="s",
            target=1.0,
            n=REPEATS,
            note=f"an absolute limit; {at_once / alone.ours:.2f} x one alone; {what}",
        ),
        Row(
            name="one prediction alone, beside threads that spin",
            baseline=alone.baseline,
            ours=alone.ours,
            unit="s",
            target=0.9,
            n=REPEATS,
            note=f"GOMP_SPINCOUNT={_USUAL_SPIN_COUNT}, as it is where nobody sets it; {what}",
        ),
    ]


def _start(
    checkpoint: Path, folder: Path, out: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "clothseg_utils", "predict", "--checkpoint", str(checkpoint)]
    # This process may have been told how to wait; its own choice is what is measured.
    kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return subprocess.Popen(
        [*command, "--out", str(folder / out), *map(str, folder.glob("*.jpg"))],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT)} | dict(environment),
        stdout=subprocess.DEVNULL,
    )
