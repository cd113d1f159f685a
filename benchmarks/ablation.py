"""The recipe step by step, each against the one before: same data, same time, same photos scored.

    python -m benchmarks.ablation --data-root DATASET --minutes 20 --seeds 0,1

Each step is trained and scored by notebooks 03 and 04 in a run of its own. What is done already is
skipped and what was cut short goes on, so the same command finishes a night's work. The table
holds every finished run of these data and minutes, whatever was asked for last.
"""

import argparse
import datetime
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.__main__ import environment_text, machine
from benchmarks.harness import ROOT, drawn_data_root
from clothseg_utils.core.config import (
    DataConfig,
    apply_overrides,
    config_to_parameters,
    profile_config,
    replace_fields,
)
from clothseg_utils.core.files import (
    portable_path,
    read_json,
    resolve_path,
    sha256_json,
    write_text,
)
from clothseg_utils.core.runs import RunFolder, library_versions
from clothseg_utils.core.text import MISSING, count_text, score_text, suggestion
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.scores.compare import Difference, compare_evaluations
from clothseg_utils.scores.evaluation import Evaluation, read_evaluation
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.scores.strata import AREA_BANDS
from clothseg_utils.workflow.leaderboard import NOT_COMPARED, SCORES, range_text, read_scores
from clothseg_utils.workflow.pipeline import check_inputs, select_notebooks
from clothseg_utils.workflow.sweep import PlannedRun, run_sweep


@dataclass(frozen=True)
class Step:
    """One step of the recipe.

    Attributes:
        name: of the step, for `--only`.
        why: what it is hoped to do.
        settings: `section.field=value`, on top of the step that it stands on.
        beside: an earlier step that it stands on, where it was tried and not kept; otherwise it
            stands on the kept step before it, and the next one stands on it.
    """

    name: str
    why: str
    settings: tuple[str, ...]
    beside: str = ""


BASE = (
    "data.image_size=96",
    "data.train_size=0",
    "data.resize=squash",
    "augment.crop_scale_min=1",
    "augment.crop_scale_max=1",
    "augment.crop_ratio_min=0.5",
    "augment.crop_ratio_max=2",
    "augment.group_probability=0",
    "loss.dice_weight=0.5",
    "loss.focal_weight=5",
    "loss.dice_form=present",
    "loss.focal_form=mean",
    "loss.lovasz_weight=0",
    "train.encoder_name=mit_b1",
    "train.encoder_weights=none",
    "train.batch_size=4",
    "train.epoch_images=640",
    "train.repeat_threshold=0",
    "train.learning_rate=0.001",
    "train.weight_decay=0.01",
    "train.adam_beta2=0.95",
    "evaluate.trial_photos=0",  # test-time options are no part of the recipe
)
"""Profile demo before the recipe, spelt out because the profile moves on; its other settings are
the profile's own."""

STEPS = (
    Step(
        "demo of before",
        "where it began: a network from scratch on small squashed photos",
        (
            "train.encoder_name=mit_b1",
            "train.encoder_weights=none",
            "data.image_size=128",
            "data.resize=squash",
        ),
    ),
    Step(
        "pretrained encoder",
        "a few hundred photos do not teach an encoder to see",
        ("train.encoder_name=tu-tf_efficientnet_lite0", "train.encoder_weights=imagenet"),
    ),
    Step(
        "larger",
        "small things vanish in small inputs",
        ("data.image_size=192", "train.batch_size=8"),
    ),
    Step(
        "crops, whole photos larger",
        "crops free the network of how photos are framed; garments keep one size in both",
        (
            "data.resize=letterbox",
            "data.train_size=192",
            "data.image_size=288",
            "augment.crop_scale_min=0.2",
            "augment.crop_ratio_min=0.75",
            "augment.crop_ratio_max=1.33",
        ),
    ),
    Step(
        "softmax focal",
        "classes compete for a pixel, which sigmoids do not know of",
        ("loss.focal_form=softmax", "loss.focal_weight=1"),
        beside="crops, whole photos larger",
    ),
    Step("higher rate", "little time is to be used", ("train.learning_rate=0.002",)),
    Step(
        "rare classes",
        "gloves, belts and bags are in few photos, and are forgotten between two of them",
        ("train.repeat_threshold=0.3",),
    ),
    Step(
        "groups",
        "several people, smaller than in a photo of one, some partly hidden",
        ("augment.group_probability=0.1", "augment.crop_scale_max=1.2"),
    ),
    Step(
        "Lovász",
        "what is scored is what should be learned",
        ("loss.lovasz_weight=0.5",),
        beside="groups",
    ),
)
"""The steps, in order. Edit freely: what changes gets runs of its own."""

_NOTEBOOKS = ("03", "04")


@dataclass(frozen=True)
class Result:
    """A finished run of a step."""

    step: Step
    seed: int
    run: RunFolder
    evaluation: Evaluation


# --- the plan ------------------------------------------------------------------------------------


def step_before(step: Step, steps: Sequence[Step]) -> Step | None:
    """Find the step that one stands on, and is compared with; None for the first."""
    earlier = steps[: steps.index(step)]
    if step.beside:
        return next(one for one in earlier if one.name == step.beside)
    return next((one for one in reversed(earlier) if not one.beside), None)


def settings_of(step: Step, steps: Sequence[Step]) -> list[str]:
    """All settings of a step, those that it stands on first; the last one of a field wins."""
    before = step_before(step, steps)
    return [*(settings_of(before, steps) if before else BASE), *step.settings]


def plan_run(
    step: Step, steps: Sequence[Step], data_root: str, minutes: float, seed: int
) -> PlannedRun:
    """Choose settings and name of a step's run; other settings give another name.

    Raises:
        ValueError: a setting that the config does not know or refuses.
    """
    config = apply_overrides(profile_config("demo"), settings_of(step, steps))
    fields = {"data_root": data_root, "max_minutes": minutes, "seed": seed}
    config = replace_fields(config, fields)
    parameters = config_to_parameters(config)
    decisive = {k: v for k, v in parameters.items() if k not in (*NOT_COMPARED, "seed")}
    run_name = "-".join(
        (_sweep_name(data_root), _slug(step.name), sha256_json(decisive)[:8], f"seed={seed}")
    )
    return PlannedRun(
        replace_fields(config, {"run_name": run_name}), {"step": step.name, "seed": seed}
    )


def _sweep_name(data_root: str) -> str:
    return f"ablation-{_slug(resolve_path(data_root).name)}"


def _slug(text: str) -> str:
    """A name as part of a folder's name."""
    return re.sub(r"[^\w.+=-]+", "_", text)[:30].strip("_")


# --- what the runs found -------------------------------------------------------------------------


def read_results(
    steps: Sequence[Step], data_root: str, minutes: float
) -> dict[tuple[str, int], Result]:
    """Read every finished run of the steps: (name of the step, seed) -> result, in their order."""
    results = {}
    for step in steps:
        planned = plan_run(step, steps, data_root, minutes, 0)
        outputs_root = planned.config.run.outputs_root
        prefix = planned.name.removesuffix("0")
        folders = resolve_path(outputs_root).glob(f"{prefix}*")
        for seed in sorted(int(folder.name.removeprefix(prefix)) for folder in folders):
            run = RunFolder(outputs_root, f"{prefix}{seed}")
            states = run.read_manifest().get("steps", {})
            if all(
                states.get(notebook, {}).get("state") == "done"
                for notebook in select_notebooks(_NOTEBOOKS)
            ):
                results[step.name, seed] = Result(step, seed, run, read_evaluation(run.path))
    return results


def difference_to(ours: Result, theirs: Result | None) -> Difference | None:
    """Difference in mean IoU, paired over the photos; None where there is nothing to compare."""
    if theirs is None:
        return None
    try:
        comparison = compare_evaluations(
            ours.evaluation, theirs.evaluation, (ours.run.name, theirs.run.name)
        )
    except ValueError:  # the data changed between the two, and one is not rerun yet
        return None
    return comparison.means["mean_iou"]


def limits(evaluation: Evaluation) -> dict[str, float | None]:
    """The three limits and framing; None for what the data do not have."""
    strata = evaluation.metrics["strata"]
    overlap, halves = (strata.get(name, [{}])[-1] for name in ("overlap", "framing"))
    return {
        "people_drop": _people_drop(evaluation),
        "recall_32": _recall_below(32, strata),
        "recall_64": _recall_below(64, strata),
        "overlaps_right": overlap.get("score"),
        "halves": halves.get("score"),
        "halves_drop": halves.get("drop"),
    }


def _people_drop(evaluation: Evaluation) -> float | None:
    if len(evaluation.composite_groups):
        alone, together = evaluation.composite_alone, evaluation.composite_confusions
    else:
        alone, together = (
            evaluation.confusions[among]
            for among in (evaluation.person_counts == 1, evaluation.person_counts > 1)
        )
    if not len(alone) or not len(together):
        return None
    return _mean_iou(alone) - _mean_iou(together)


def _mean_iou(confusions: Any) -> float:
    return scores_from_confusion(confusions.sum(axis=0)).mean_iou


def _recall_below(side: int, strata: Mapping[str, Any]) -> float | None:
    """Mean recall of the annotations below side² pixels, from that of the bands."""
    bands = zip(AREA_BANDS, strata.get("object_area", ()), strict=False)
    groups = [group for (_, high), group in bands if high and high <= side and group["n"]]
    number = sum(group["n"] for group in groups)
    return sum(group["n"] * group["score"] for group in groups) / number if number else None


def _images_per_second(run: RunFolder) -> float:
    """Photos trained on in a second of training, the scoring of checks included."""
    from clothseg_utils.training.callbacks import read_history

    images, seconds = 0.0, 0.0
    for row in read_history(run.logs_dir / "history.csv"):
        images += row["images_per_second"] * (row["seconds"] - seconds)
        seconds = row["seconds"]
    return images / seconds


# --- the page ------------------------------------------------------------------------------------

_HEAD = (
    *("step", "seed", "val mIoU (95 % interval)", "to the step before (95 % interval)"),
    *("several people: drop", "recall < 32² px", "recall < 64² px", "overlaps right"),
    *("halves: mIoU", "halves: drop", "training, s", "images/s", "steps"),
)


def to_markdown(
    results: Mapping[tuple[str, int], Result],
    steps: Sequence[Step],
    data_root: str,
    minutes: float,
) -> str:
    """The page: data, machine, what each step changes, its scores, and the command of each row.

    Args:
        results: from `read_results`; at least one.
        steps: of the recipe.
        data_root: as the user names it.
        minutes: of training of each run.
    """
    metrics = next(iter(results.values())).evaluation.metrics
    train_path = annotation_path(resolve_path(_portable(data_root)), "train")
    n_train = len(read_json(train_path)["images"])
    commits = {result.run.read_manifest()["git_commit"] for result in results.values()}
    texts = [
        f"# Ablation: {metrics['source']}",
        "Written by `python -m benchmarks.ablation`. "
        + environment_text(datetime.date.today().isoformat(), machine(), library_versions())
        + "".join(f" · {commit}" for commit in sorted(commits - {""})),
        f"Data: `{data_root}`, {count_text(n_train, 'photo')} in train. Each row is trained for "
        f"{minutes:g} minutes by the clock, checks on val included. The first step stands on "
        "`BASE` of benchmarks/ablation.py, all else is profile demo. Protocol: "
        f"{metrics['protocol']}.",
        _table(("step", "stands on", "why", "settings"), _step_cells(steps), text_columns=4),
        _table(_HEAD, [_cells(result, results, steps) for result in results.values()]),
        f"Differences are to the step that a step stands on, of the same seed, with intervals over "
        "the same photos: how much a second training would differ only several seeds tell. "
        "Several people: mean IoU lost from photos alone to composites of them, or, where the "
        "annotations count people, from photos of one to photos of several. Recall: mean over the "
        "annotations of that size. Overlaps: share of garment pixels under two or more "
        "annotations that are predicted right. Halves: every photo cut to its upper half, middle "
        "and lower half; the drop is from the same pixels in the whole photo. "
        f"{MISSING} is what the data do not have, or what was not run.",
    ]
    if len({result.seed for result in results.values()}) > 1:
        head = ("step", "seeds", "mean of val mIoU", "lowest to highest", "mean difference")
        texts.append(_table(head, list(_seed_cells(results, steps))))
    texts.append("Each row alone:")
    texts.append("\n".join(f"    {_command(r, data_root, minutes)}" for r in results.values()))
    return "\n\n".join(texts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    ruler = ["---" if column < text_columns else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows))


def _step_cells(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for step in steps:
        before = step_before(step, steps)
        stands_on = before.name if before else MISSING
        settings = ", ".join(f"`{setting}`" for setting in step.settings)
        note = " (not kept)" if step.beside else ""
        cells.append((f"{step.name}{note}", stands_on, step.why, settings))
    return cells


def _result_before(
    result: Result, results: Mapping[tuple[str, int], Result], steps: Sequence[Step]
) -> Result | None:
    before = step_before(result.step, steps)
    return results.get((before.name, result.seed)) if before else None


def _cells(
    result: Result, results: Mapping[tuple[str, int], Result], steps: Sequence[Step]
) -> tuple[str, ...]:
    difference = difference_to(result, _result_before(result, results, steps))
    columns = ("difference", "low", "high")
    training = read_json(result.run.training_path)
    return (
        result.step.name,
        str(result.seed),
        range_text(read_scores(result.run), SCORES),
        range_text(difference._asdict(), columns, sign="+") if difference else MISSING,
        *(score_text(value) for value in limits(result.evaluation).values()),
        f"{training['seconds']:.0f}",
        f"{_images_per_second(result.run):.1f}",
        f"{training['steps']:,.0f}",
    )


def _seed_cells(
    results: Mapping[tuple[str, int], Result], steps: Sequence[Step]
) -> Iterator[tuple[str, ...]]:
    for step in steps:
        mine = [result for result in results.values() if result.step == step]
        if not mine:
            continue
        scores = [result.evaluation.metrics["mean_iou"] for result in mine]
        found = [difference_to(one, _result_before(one, results, steps)) for one in mine]
        differences = [difference.difference for difference in found if difference]
        yield (
            step.name,
            str(len(mine)),
            score_text(fmean(scores)),
            f"{min(scores):.3f} to {max(scores):.3f}",
            score_text(fmean(differences) if differences else None, "+"),
        )


def _command(result: Result, data_root: str, minutes: float) -> str:
    words = ("--data-root", data_root, "--minutes", f"{minutes:g}", "--seeds", str(result.seed))
    return shlex.join(["python", "-m", "benchmarks.ablation", *words, "--only", result.step.name])


# --- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps asked for, and write the table of all that are done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--data-root", default=DataConfig().data_root, help="dataset in Fashionpedia's layout")
    add("--minutes", type=_minutes, default=10.0, help="training of each run (default: 10)")
    add("--seeds", type=_seeds, default=(0,), help="such as 0,1,2 (default: 0)")
    add("--only", nargs="+", metavar="NAME", help="run these steps only")
    add("--out", type=Path, help="the table (default: outputs/ablation/DATASET.md)")
    options = parser.parse_args(arguments)
    names = [step.name for step in STEPS]
    for name in options.only or ():
        if name not in names:
            parser.error(
                f'unknown step "{name}"{suggestion(name, names)}; expected some of '
                f"{shlex.join(names)} for --only."
            )
    chosen = [step for step in STEPS if step.name in (options.only or names)]
    data_root = _portable(options.data_root)
    if data_root == DataConfig().data_root:
        drawn_data_root()
    planned = [
        plan_run(step, STEPS, data_root, options.minutes, seed)
        for seed in options.seeds
        for step in chosen
    ]
    try:
        # As the sweep does, but before a table could be written of data that are gone.
        for run in planned:
            check_inputs(run.config, select_notebooks(_NOTEBOOKS))
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    hours = len(planned) * options.minutes / 60
    _say(f"{count_text(len(planned), 'run')}, {hours:.1f} hours of training where none is done")
    command = ["python", "-m", "benchmarks.ablation", *(arguments or sys.argv[1:])]
    try:
        result = run_sweep(_sweep_name(data_root), planned, _NOTEBOOKS, command=command, say=_say)
    finally:  # after Ctrl-C too: what is done is shown
        results = read_results(STEPS, data_root, options.minutes)
        out = options.out or ROOT / "outputs" / "ablation" / f"{Path(data_root).name}.md"
        if results:
            write_text(out, to_markdown(results, STEPS, options.data_root, options.minutes))
            _say(f"table of {count_text(len(results), 'run')}: {portable_path(out)}")
    for run_name, reason in result.failed.items():
        print(f"run {run_name}: {reason}", file=sys.stderr)
    return 1 if result.failed else 0


def _portable(data_root: str) -> str:
    """A path given on the command line, as settings hold it."""
    return portable_path(Path(data_root).expanduser().absolute())


def _say(line: str) -> None:
    print(line, flush=True)


def _minutes(text: str) -> float:
    minutes = float(text) if re.fullmatch(r"\d+\.?\d*|\.\d+", text) else 0.0
    if not minutes:
        raise argparse.ArgumentTypeError(f"got {text}; expected minutes above 0, such as 4.5")
    return minutes


def _seeds(text: str) -> tuple[int, ...]:
    seeds = [int(part) for part in text.split(",") if part.isdecimal()]
    if len({*seeds}) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"got {text}; expected different seeds such as 0,1,2")
    return tuple(seeds)


if __name__ == "__main__":
    sys.exit(main())
