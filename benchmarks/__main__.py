"""Run the comparisons: table, figure, `bench.json` and `RESULTS.md` in outputs/bench/."""

import argparse
import datetime
import importlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Row, measure_stage, print_rows

OUT_DIR = ROOT / "outputs" / "bench"

# The cheap ones first: what is wrong shows early.
STAGES = (
    "startup",
    "drawing",
    "scoring",
    "upsampling",
    "samples",
    "loss",
    "rasterize",
    "conversion",
    "prediction",
    "sharing",
    "annotations",
    "training_step",
    "rehearse",
)
_MET_COLOR, _MISSED_COLOR = "#0072b2", "#d55e00"  # told apart by colour-blind readers
_LIBRARIES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "pytorch-lightning",
    "torchmetrics",
    "pycocotools",
    "opencv-python-headless",
    "albumentations",
    "numpy",
)


def main() -> None:
    """Run the stages asked for and write what they found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=STAGES, help="one stage; repeatable")
    stages = parser.parse_args().only or STAGES
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for stage in stages:
        print(f"{stage} ...", flush=True)
        seconds[stage], found = measure_stage(stage)
        rows += found
        print_rows(found)
    speeds = data_path_speeds(rows)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "rows": [row.as_dict() for row in rows],
        "data_path": speeds,
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
    }
    write_results(results, rows)
    print()
    print_rows(rows)
    for line in speeds:
        print(f"{line['what']:58s} {line['images_per_second']:10.2f} images/s")
    print(f"{sum(seconds.values()) / 60:.1f} minutes; {OUT_DIR.relative_to(ROOT)}/bench.json")


def data_path_speeds(rows: list[Row]) -> list[dict[str, Any]]:
    """Images per second that a loader core gives beside those that the network eats."""
    loaders = [row for row in rows if row.name.startswith("one training sample")]
    speeds = [
        {
            "what": f"loader, one core: {row.name.partition(', ')[2]}",
            "images_per_second": 1 / row.ours,
        }
        for row in loaders
    ]
    for row in rows:
        if row.name.startswith("training step"):
            batch_size = importlib.import_module("benchmarks.training_step").BATCH_SIZE
            speeds.append(
                {
                    "what": "network, training on this CPU",
                    "images_per_second": batch_size / row.ours,
                }
            )
    return speeds


def machine() -> dict[str, Any]:
    """CPU and GPU in words."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }


def environment_text(date: str, about: Mapping[str, Any], libraries: Mapping[str, str]) -> str:
    """Say in one line when, on what and with which versions something was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return (
        f"{date} · {about['cpu']}, {about['threads']} threads, {about['capability']}"
        f"{', bf16' if about['bf16'] else ', no bf16'} · Python {about['python']}, {versions}"
    )


def write_results(results: dict[str, Any], rows: list[Row]) -> None:
    """Write bench.json, bench.png and RESULTS.md."""
    from clothseg_utils.core.files import write_json, write_text

    write_json(OUT_DIR / "bench.json", results)
    write_text(OUT_DIR / "RESULTS.md", to_markdown(results, rows))
    figure = plot_rows(rows)
    figure.savefig(OUT_DIR / "bench.png", dpi=150)


def to_markdown(results: dict[str, Any], rows: list[Row]) -> str:
    """The results as a page, in the form of benchmarks/RESULTS.md."""
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`; ratio is baseline over ours, bigger is better. The baselines are "
        "in this folder, one file for each stage.",
        "",
        environment_text(results["date"], results["machine"], results["libraries"]),
        "",
        "| stage | baseline | ours | ratio | target | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        target = "" if row.target is None else f"{row.target:.3g}"
        verdict = "" if row.target is None else "**missed**" if row.is_missed else "met"
        lines.append(
            f"| {row.name} | {row.baseline:.4g} {row.unit} | {row.ours:.4g} {row.unit} | "
            f"{row.ratio:.2f} | {target} | {verdict} |"
        )
    lines += ["", "What was compared:", ""]
    lines += [f"- {row.name}: {row.note} (n = {row.n})." for row in rows]
    missed = [row for row in rows if row.is_missed]
    if missed:
        lines += ["", "Missed:", ""]
        for row in missed:
            best = f"best ratio possible {row.floor:.2f}: " if row.floor else ""
            lines.append(f"- {row.name}: {best}{row.floor_note or 'no floor was worked out'}.")
    lines += ["", "## Data path and network", "", "| | images per second |", "|---|---:|"]
    lines += [
        f"| {line['what']} | {line['images_per_second']:.2f} |" for line in results["data_path"]
    ]
    lines += ["", "## GPU", "", "[RESULTS-gpu.md](RESULTS-gpu.md)"]
    return "\n".join(lines) + "\n"


def plot_rows(rows: list[Row]) -> Any:
    """Ratio and target of each row; returns a matplotlib Figure."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(
        places,
        [row.ratio for row in rows],
        height=0.62,
        color=[_MISSED_COLOR if row.is_missed else _MET_COLOR for row in rows],
    )
    for place, row in zip(places, rows, strict=True):
        is_close = row.target is not None and row.ratio < row.target < 1.3 * row.ratio
        axes.annotate(
            f"{row.ratio:.1f}",
            (row.target if is_close else row.ratio, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if row.target is not None:
            axes.plot([row.target] * 2, [place - 0.42, place + 0.42], color="black", lw=2)
    axes.plot([], [], color="black", lw=2, label="target")
    axes.add_patch(Rectangle((0, 0), 0, 0, color=_MISSED_COLOR, label="target missed"))
    axes.axvline(1, color="grey", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.5, 2.2 * max(row.ratio for row in rows))
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("baseline over ours (time or memory; bigger is better)")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
