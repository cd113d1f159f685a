"""`python -m benchmarks.gpu_check`: run the parts, those that matter most first."""

import argparse
import datetime
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.runner import Part, describe_error, run_parts
from benchmarks.harness import ROOT

# Worker processes import this module again: what is heavy is imported in `main`.

_HERE = "benchmarks.gpu_check"
PARTS = (
    Part("0", "facts", 60, f"{_HERE}.data:facts"),
    Part("1", "data", 60, f"{_HERE}.data:make_data"),
    Part("2", "exactness", 75, f"{_HERE}.exactness:exactness"),
    Part("3", "syncs", 30, f"{_HERE}.steps:syncs"),
    Part("7", "the product", 160, f"{_HERE}.product:product"),
    Part("4", "the step", 120, f"{_HERE}.steps:compare"),
    Part("8", "learning", 60, f"{_HERE}.learning:learning"),
    Part("10", "prediction", 90, f"{_HERE}.product:prediction"),
    Part("4g", "the step, compiled", 120, f"{_HERE}.steps:compare_compiled"),
    Part("6", "loader", 40, f"{_HERE}.data:loader"),
    Part("5", "profile", 30, f"{_HERE}.steps:profile_step"),
    Part("9", "faults", 60, f"{_HERE}.learning:faults"),
    Part("9a", "out of memory", 75, f"{_HERE}.product:out_of_memory"),
    Part("4f", "the step, cuDNN's search", 40, f"{_HERE}.steps:compare_searched"),
    Part("4d", "the step, twice the batch", 100, f"{_HERE}.steps:compare_doubled"),
)


def main() -> int:
    """Run the check; 1 if a part failed or something asked for does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu_check")
    parser.add_argument("--seconds", type=float, default=840, help="for all parts [840]")
    parser.add_argument("--small", action="store_true", help="seconds; without a GPU always")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "gpu_check.json"
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "words": []}
    try:
        from benchmarks.gpu_check import data, exactness, learning, product, steps  # noqa: F401
        from benchmarks.gpu_check.words import sentences
        from clothseg_utils.core.files import write_json
    except ImportError as error:
        print(f"{describe_error(error)}; benchmarks/gpu_check/wheels.txt", file=sys.stderr)
        return 2

    from benchmarks.gpu_check.setting import Setting

    def save(rows: list[dict[str, Any]]) -> None:
        write_json(path, results | {"parts": rows})

    work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    try:
        setting = Setting(arguments.out.resolve(), work, arguments.small)
        # A rehearsal may take its time: a busy machine is no finding.
        parts = [replace(part, limit=arguments.seconds) for part in PARTS]
        rows = run_parts(parts if arguments.small else PARTS, setting, arguments.seconds, save)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    results["words"] = sentences(rows)
    save(rows)
    print("\n".join(results["words"]))
    is_well = all(r["state"] == "done" and False not in r["checks"].values() for r in rows)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
