"""The command line: one verb per stage. `python -m clothseg_utils --help` lists them."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C while the rest is imported ends without a traceback; `run_program` answers it later.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import atexit
import contextlib
import functools
import gc
import os
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.ranks import OtherProcessError, is_launched, rank
from clothseg_utils.core.text import count_text, first_names, printable

# Every verb imports what it needs itself: --help and errors in the arguments answer at once.

_MODULE_PROGRAM = "python -m clothseg_utils"
_SCRIPT_PROGRAM = "clothseg"  # the same as a command of its own, which shells can complete


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Import torch and what stands on it in a tenth less time.

    They make hundreds of thousands of objects, all of them to keep, which the garbage collector
    would walk again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
        atexit.register(gc.unfreeze)  # libraries complain about what is left at exit


class _Verb(TyperCommand):
    """A verb that refuses an option given twice; by itself the last one would win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            once = option.param_type_name == "option" and not (option.multiple or option.is_eager)
            if once and times > 1 and not ctx.resilient_parsing:
                ctx.fail(f"Option '{option.opts[0]}' is given {times} times, expected once.")
        return super().parse_args(ctx, args)


class _App(typer.Typer):
    def command(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return super().command(*args, cls=_Verb, **kwargs)


app = _App(
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Clothing segmentation on Fashionpedia, from photos to a report.

    \b
    Examples:
      python -m clothseg_utils run --profile demo
      python -m clothseg_utils run --help

    The first one needs no data: it draws them, trains for minutes and writes a report.
    """,
)

# Typer carries its own copy of click and names only the leaves of its errors; this is their root.
_ClickError: Any = typer.BadParameter.__mro__[2]

# What shells report for a program that Ctrl-C ended; typer answers Ctrl-C with it too. A batch
# system's SIGTERM is answered alike.
_INTERRUPTED = 130


def _complete_profile() -> list[str]:
    from clothseg_utils.core.config import PROFILE_NAMES

    return list(PROFILE_NAMES)


def _complete_setting(incomplete: str) -> list[str]:
    from clothseg_utils.core.config import field_sections

    names = [f"{section}.{field}=" for field, section in field_sections().items()]
    return [name for name in names if name.startswith(incomplete)]


def _complete_run_name(incomplete: str) -> list[str]:
    from clothseg_utils.core.config import RunConfig
    from clothseg_utils.core.files import resolve_path

    manifests = resolve_path(RunConfig().outputs_root).glob("*/manifest.json")
    return sorted(p.parent.name for p in manifests if p.parent.name.startswith(incomplete))


_Profile = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="demo, laptop, fashionpedia, reported or smoke.",
        autocompletion=_complete_profile,
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="Change a setting; repeatable. All of them: clothseg_utils/core/config.py.",
        autocompletion=_complete_setting,
    ),
]
_Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NN",
        help="Run this notebook only, such as 03; repeatable.",
        autocompletion=lambda: ["01", "02", "03", "04", "05"],
    ),
]
_DataRoot = Annotated[Path | None, typer.Option(help="Dataset in Fashionpedia's layout.")]
_Flip = Annotated[bool, typer.Option("--tta-flip", help="Average with the mirrored photo.")]
_Scales = Annotated[
    str,
    typer.Option(metavar="FACTORS", help="Further input sizes to average over, such as 0.5,1.5."),
]
_Window = Annotated[
    int,
    typer.Option(
        min=0, metavar="PIXELS", help="Slide windows of this side over photos that are larger."
    ),
]
_OnCpu = Annotated[
    bool, typer.Option("--on-cpu", help="Train fashionpedia or reported without a GPU: days.")
]
_RUN_NAME = typer.Option(
    metavar="NAME", help="Folder under outputs/.", autocompletion=_complete_run_name
)
# As `core.classes.Scheme` and `data.coco.Split`, whose modules import too much for --help.
_Scheme = Annotated[Literal["supercategory", "category"], typer.Option(help="Class scheme.")]
_Split = Annotated[Literal["train", "val", "test"], typer.Option(help="Photos to score.")]


@app.command()
def run(
    profile: _Profile = "demo",
    data_root: _DataRoot = None,
    run_name: Annotated[str | None, _RUN_NAME] = None,
    set_: _Set = None,
    only: _Only = None,
    on_cpu: _OnCpu = False,
) -> int:
    """Run the five notebooks, from photos to a report.

    What is done already and did not change is skipped.

    \b
    Examples:
      python -m clothseg_utils run --profile demo
      python -m clothseg_utils run --profile fashionpedia
      python -m clothseg_utils run --data-root data/mine --run-name mine \\
          --set train.batch_size=16 --set data.image_size=256
      python -m clothseg_utils run --data-root data/mine --run-name mine \\
          --only 04 --only 05
    """
    from clothseg_utils.workflow.pipeline import (
        NotebookFailedError,
        run_pipeline,
        select_notebooks,
    )

    config = _config(profile, data_root, run_name, set_)
    if "03_training" in select_notebooks(only or ()):
        _check_gpu(profile, on_cpu)
    try:
        folder = run_pipeline(config, only or (), say=_say)
    except NotebookFailedError as error:
        _complain(error)
        return 1 if error.any_done else 2
    report = folder.report_dir / "index.html"
    if not report.exists():
        _say(f"run: {_shown(folder.path)}; the report is written by notebook 05 (--only 05)")
        return 0
    _say(f"report: {_shown(report)}")
    words = ("predict", "--checkpoint", folder.best_checkpoint, "--out", "predictions")
    _say_next(*words, why=" open the report in a browser; for photos of your own:")
    return 0


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    train: Annotated[int, typer.Option(min=1, help="Photos in the train split.")] = 240,
    val: Annotated[int, typer.Option(min=1, help="Photos in the val split.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds draw equal photos.")] = 0,
) -> int:
    """Draw a dataset: people in layered clothes, with exact masks.

    \b
    Examples:
      python -m clothseg_utils synthesize --out data/synthetic
      python -m clothseg_utils synthesize --out data/large --train 2000 --val 300
    """
    from clothseg_utils.drawing.dataset import synthesize as draw

    path = draw(out, train=train, val=val, seed=seed)
    _say(f"{train} train and {val} val photos are in {path}")
    _say_next("run", "--data-root", path)
    return 0


@app.command()
def download(
    data_root: Annotated[Path, typer.Option(help="Folder to fetch Fashionpedia into.")],
    sha256: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE=HEX", help="SHA-256 that a file must have; repeatable."),
    ] = None,
) -> int:
    """Fetch and unpack Fashionpedia; goes on where it stopped.

    Files and photos that are there already are taken as they are.

    \b
    Examples:
      python -m clothseg_utils download --data-root data/fashionpedia
      python -m clothseg_utils download --data-root data/fashionpedia \\
          --sha256 train2020.zip=0123...cdef
    """
    from clothseg_utils.data.download import download as fetch

    digests = {name: digest for name, _, digest in (one.partition("=") for one in sha256 or ())}
    fetched = fetch(data_root, sha256=digests)
    _say(f"{len(fetched)} files are in {data_root}; sizes and sha256 in download.json")
    found = [one.name for one in fetched if not one.url]
    if found:
        _say(f"found there, not fetched: {first_names(found)}")
    _say_next("run", "--profile", "fashionpedia", "--data-root", data_root)
    return 0


@app.command()
def convert(
    photos: Annotated[Path, typer.Option(help="Folder of your photos, subfolders included.")],
    out: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    annotations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SPLIT=]FILE",
            help="COCO JSON of these photos, maybe for train=, val= or test= alone; repeatable. "
            "Without it those in --photos are taken.",
        ),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks instead.")] = None,
    mask_names: Annotated[
        Path | None, typer.Option(help="JSON: name -> value or colour in the masks.")
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Take what it does not name for background.")
    ] = False,
    classes: Annotated[
        Path | None, typer.Option(help="JSON: category name -> class name, or null to leave out.")
    ] = None,
    val_share: Annotated[
        float, typer.Option(help="Share of the photos to validate on, if no split is given.")
    ] = 0.2,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Photos of which it finds the same in the name stay together."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first fault.")] = False,
) -> int:
    """Make a dataset of your own photos and their labels.

    The photos are only read. Without --classes the file's own supercategories are the classes.
    Photos whose names or pictures show that they are copies of one source stay in one split.

    \b
    Examples:
      python -m clothseg_utils convert --photos shop/ --annotations shop.json \\
          --classes classes.json --out data/shop
      python -m clothseg_utils convert --photos roboflow_export/ --out data/shop
      python -m clothseg_utils convert --photos shop/ --annotations train=a.json \\
          --annotations val=b.json --annotations test=c.json --out data/shop
      python -m clothseg_utils convert --photos shop/ --masks masks/ \\
          --mask-names names.json --out data/shop

    In the first example classes.json holds

    \b
      {"T-shirt": "upperbody", "jeans": "lowerbody", "person": null}
    """
    from clothseg_utils.intake.convert import convert_photos

    made = convert_photos(
        photos,
        out,
        annotations=annotations or (),
        masks_dir=masks,
        mask_names=mask_names,
        ignore_unknown=ignore_unknown,
        classes_file=classes,
        val_share=val_share,
        group_by=group_by,
        strict=strict,
    )
    _say(f"{out}: {made.summary()}")
    by_category = ["--set", "data.scheme=category"] if made.by_category else []
    if by_category:
        _say("each category is a class of its own; for the 12 classes, or own ones, give --classes")
    run_name = re.sub(r"[^\w.+=-]+", "_", out.resolve().name).lstrip("._-") or "mine"
    _say_next(
        "run", "--profile", "laptop", "--data-root", out, "--run-name", run_name, *by_category
    )
    return 0


@app.command()
def audit(
    annotations: Annotated[Path, typer.Option(help="Annotation JSON.")],
    images_dir: Annotated[Path | None, typer.Option(help="Folder of its photos.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder of another split's photos, to find copies of.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the findings there.")] = None,
) -> int:
    """Check annotations, and the photos that they name.

    \b
    Examples:
      python -m clothseg_utils audit --annotations val.json
      python -m clothseg_utils audit --annotations val.json --images-dir test \\
          --against train --json findings.json
    """
    from clothseg_utils.data.audit import audit as find_problems
    from clothseg_utils.data.audit import write_audit
    from clothseg_utils.data.coco import read_annotations
    from clothseg_utils.data.copies import hash_folder

    if against and not images_dir:
        raise ValueError("--against compares photos; expected --images-dir too.")
    if json is not None and json.exists() and annotations.exists() and json.samefile(annotations):
        raise ValueError(f"--json {json} is the annotation file; expected another one.")
    coco = read_annotations(annotations)
    others = hash_folder(against) if against else None
    findings = find_problems(coco, image_dir=images_dir, others=others)
    _say(findings.summary())
    if json is not None:
        write_audit(json, findings)
        _say(f"findings: {json}")
    return 0


@app.command()
def rasterize(
    annotations: Annotated[Path, typer.Option(help="Annotation JSON.")],
    out: Annotated[Path, typer.Option(help="Folder for <stem>.png and index.json.")],
    scheme: _Scheme = "supercategory",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
) -> int:
    """Paint the annotations of a split into masks.

    Makes what is missing or stale. A pixel's value is its class id, so the masks look black.

    \b
    Examples:
      python -m clothseg_utils rasterize --annotations val.json --out masks
      python -m clothseg_utils rasterize --annotations val.json --out masks47 \\
          --scheme category
    """
    from clothseg_utils.data.masks import rasterize_split

    index = rasterize_split(annotations, out, scheme, workers=workers)
    _say(f"{len(index.entries)} masks are in {out}; class names in {out / 'index.json'}")
    return 0


@app.command()
def train(
    data_root: Annotated[Path, typer.Option(help="Dataset in Fashionpedia's layout.")],
    run_name: Annotated[str, _RUN_NAME],
    profile: _Profile = "demo",
    set_: _Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from last.ckpt.")] = False,
    on_cpu: _OnCpu = False,
) -> int:
    """Train a network.

    With train.devices above 1 in a process for each device; torchrun starts this verb on several
    machines (docs/devices.md).

    \b
    Examples:
      python -m clothseg_utils train --data-root data/synthetic --run-name mine
      python -m clothseg_utils train --data-root data/synthetic --run-name mine \\
          --set train.max_minutes=20 --resume
    """
    config = _config(profile, data_root, run_name, set_)
    _check_gpu(profile, on_cpu)
    with heavy_imports():
        from clothseg_utils.core.runs import RunFolder
        from clothseg_utils.data.splits import load_training_splits
        from clothseg_utils.training.devices import first_on_each_machine, process_group
        from clothseg_utils.training.resume import check_wish
        from clothseg_utils.training.train import train as fit
        from clothseg_utils.workflow.pipeline import check_inputs

    if rank() == 0:
        check_inputs(config, ["03_training"], resume=resume)
    folder = RunFolder(config.run.outputs_root, config.run.run_name)

    def prepare() -> Any:
        if rank() == 0:
            check_wish(folder, resume=resume)
        return load_training_splits(config.data)

    with folder.lock() if rank() == 0 else contextlib.nullcontext(), process_group():
        train_split, val_split = first_on_each_machine(prepare)
        if rank() == 0:
            _say_excluded(train_split.excluded | val_split.excluded)
        result = fit(config, train_split, val_split, folder, resume_only=resume)
    if rank():
        return 0
    _say(
        f"val mIoU {result.best_score:.4f} at network size after "
        f"{count_text(result.epochs, 'epoch')} ({result.reason}): {_shown(result.best_checkpoint)}"
    )
    words = ("--data-root", data_root, "--out", folder.path)
    _say_next("evaluate", "--checkpoint", result.best_checkpoint, *words)
    return 0


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint that training wrote.")],
    data_root: Annotated[Path, typer.Option(help="Dataset in Fashionpedia's layout.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and evaluation/.")],
    split: _Split = "val",
    write_masks: Annotated[bool, typer.Option("--write-masks", help="Keep the masks.")] = False,
    roll_up: Annotated[
        bool, typer.Option("--roll-up", help="Score categories as their supercategories.")
    ] = False,
    tta_flip: _Flip = False,
    tta_scales: _Scales = "",
    window_px: _Window = 0,
) -> int:
    """Score a checkpoint on a split.

    Needs the files of that split only. Nothing is trained on a test split: it has an annotation
    file of its own, and its photos lie in test/, beside val's.

    Of a network of scheme category the supercategories are scored too, in a part of metrics.json;
    with --roll-up all of it is in these (docs/scores.md). The masks stay in the network's classes.

    \b
    Examples:
      python -m clothseg_utils evaluate --data-root data/synthetic --out scores \\
          --checkpoint outputs/demo/checkpoints/best.ckpt
      python -m clothseg_utils evaluate --data-root data/synthetic --out scores \\
          --checkpoint best.ckpt --split train --write-masks
      python -m clothseg_utils evaluate --data-root data/synthetic --out rolled \\
          --checkpoint outputs/cat/checkpoints/best.ckpt --roll-up
    """
    from clothseg_utils.core.workers import spin_briefly

    spin_briefly()
    with heavy_imports():
        from clothseg_utils.core.config import DataConfig
        from clothseg_utils.core.files import check_writable
        from clothseg_utils.core.runs import RunFolder
        from clothseg_utils.data.splits import load_split
        from clothseg_utils.network.evaluate import evaluate as score
        from clothseg_utils.network.segmenter import load_segmenter
        from clothseg_utils.scores.evaluation import seconds_text, write_evaluation
        from clothseg_utils.scores.roll_up import check_roll_up, rolled_up

    inference = _inference(tta_flip, tta_scales, window_px)
    segmenter = load_segmenter(checkpoint, inference=inference)
    data_config = DataConfig(data_root=_portable(data_root), scheme=segmenter.scheme)
    split_data = load_split(data_config, split)
    if roll_up:
        check_roll_up(split_data.classes, split_data.coco)
    check_writable(out)
    place = out.resolve()
    if (place / "manifest.json").is_file():  # a run's folder, whose report would mix them
        RunFolder(place.parent, place.name).check_data(data_config.data_root, "--out")
    evaluation = score(segmenter, split_data, masks_dir=out / "masks" if write_masks else None)
    rolled = rolled_up(evaluation)
    if roll_up and rolled is not None:
        evaluation, rolled = rolled, None
    started = time.perf_counter()
    write_evaluation(out, evaluation)
    writing = time.perf_counter() - started
    n_photos = count_text(len(evaluation.image_ids), "photo")
    protocol = evaluation.metrics["protocol"].split(":")[0]
    note = f", rolled up to {len(evaluation.class_names)} classes" if roll_up else ""
    _say(f"{n_photos}: {_scores_text(evaluation.metrics)}; {protocol}{note}")
    if rolled is not None:
        _say(f"rolled up to {len(rolled.class_names)} classes: {_scores_text(rolled.metrics)}")
    _say(f"scores: {out / 'metrics.json'}")
    seconds = seconds_text(evaluation.metrics["seconds"], writing)
    _say(f"time, and share of the network's: {seconds}")
    _say_excluded(split_data.excluded)
    return 0


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint, or ONNX file that `export` wrote.")],
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PHOTO_OR_FOLDER...", help="Also tars and quoted patterns.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the results.")
    ] = None,
    lists: Annotated[
        list[Path] | None,
        typer.Option("--list", metavar="FILE", help="Photos and tars, one a line; repeatable."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="COCO RLE as <stem>.json.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Class probabilities as <stem>.npz.")
    ] = False,
    masks_only: Annotated[
        bool, typer.Option("--masks-only", help="Neither colours nor overlays.")
    ] = False,
    coco: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One COCO JSON of all photos.")
    ] = None,
    panoptic: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="COCO panoptic: JSON and PNGs.")
    ] = None,
    compact: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines instead of --out, a photo a line."),
    ] = None,
    parts: Annotated[
        bool,
        typer.Option("--parts", help="In these three, an instance for each connected part."),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="This part of the photos only: 1/8 to 8/8.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=0, help="Photos in one pass; 0 takes 1 on a CPU, 8 on a GPU.")
    ] = 0,
    tta_flip: _Flip = False,
    tta_scales: _Scales = "",
    window_px: _Window = 0,
) -> int:
    """Segment photos of any size.

    Each gets a mask of class ids, a colour mask and an overlay, of its own size. The same command
    again goes on where it stopped.

    \b
    Examples:
      python -m clothseg_utils predict --out predictions photos/ \\
          --checkpoint outputs/demo/checkpoints/best.ckpt
      python -m clothseg_utils predict --out predictions me.jpg you.png --json \\
          --checkpoint best.ckpt
      python -m clothseg_utils predict --out predictions photos/ \\
          --coco predictions.json --parts --checkpoint best.ckpt
      python -m clothseg_utils predict --compact all.jsonl --list photos.txt \\
          --shard 3/8 --checkpoint best.ckpt
    """
    if parts and not (coco or panoptic or compact):
        raise ValueError(
            "--parts divides what --coco, --panoptic and --compact write; expected one of them."
        )
    if (out is None) == (compact is None):
        raise ValueError("expected one of --out and --compact; give one, and not the other.")
    if compact and (json or probabilities or masks_only or coco or panoptic):
        raise ValueError("--compact writes nothing else; expected no option for files of --out.")
    if not (photos or lists):
        raise _ClickError("Missing argument 'PHOTO_OR_FOLDER...' or option '--list'")
    from clothseg_utils.core.workers import spin_briefly
    from clothseg_utils.network.loading import load
    from clothseg_utils.prediction import plan as planning
    from clothseg_utils.prediction import predict as predicting
    from clothseg_utils.prediction.collecting import check_collected, collecting
    from clothseg_utils.prediction.compact import predict_compact, record_path, shard_path
    from clothseg_utils.prediction.result_names import RECORD_NAME
    from clothseg_utils.prediction.resume import Record, result_settings

    spin_briefly()
    part = None if shard is None else planning.parse_shard(shard)
    if part and (coco or panoptic):
        raise ValueError("a shard has not all photos; expected --compact, and then the verb join.")
    inference = _inference(tta_flip, tta_scales, window_px)
    target = out or compact
    assert target  # one of them is given
    plan = planning.plan_predictions(photos or (), target, lists or ())
    origin = {"folder": plan.folder(), "photos": plan.digest() if part else ""}
    if part:
        plan = plan.part(*part)
    with heavy_imports():  # of torch, for a checkpoint
        segmenter = load(checkpoint, inference=inference, batch_size=batch_size or None)
    if compact:
        settings = result_settings(checkpoint, segmenter, inference, parts=parts, **origin)
        record = Record(record_path(compact), settings)
        summary, n_before = predict_compact(
            segmenter, plan.tasks, compact, record, shard=part, parts=parts, unread=plan.unread
        )
    else:
        check_collected(photos or (), target, plan.tasks, coco=coco, panoptic=panoptic)
        written = {"as_json": json, "probabilities": probabilities, "masks_only": masks_only}
        record = Record(target / RECORD_NAME, result_settings(checkpoint, segmenter, inference))
        if part or masks_only:
            planning.check_apart(plan.tasks)
        if part:
            record.refuse_others("Give these shards another --out.")
        elif record.stored() is None and record.path.exists():
            _say(f"{record.path} cannot be read: all are made again")
        elif record.stored() not in (None, record.settings):
            _say(f"{target} holds results of another checkpoint or options: all are made again")
        elif record.stored() and not record.is_continued(plan.tasks):
            _say(f"{target} holds results of photos of another folder: all are made again")
        elif record.stored() and record.is_of_the_future():
            _say(f"{record.path} is dated later than now: all are made again")
        # Files on all photos need all of them.
        tasks = plan.tasks if coco or panoptic else record.remaining(plan.tasks, **written)
        n_before = len(plan.tasks) - len(tasks)
        with collecting(segmenter, target, coco=coco, panoptic=panoptic, parts=parts) as collect:
            summary = predicting.predict_photos(
                segmenter,
                tasks,
                **written,
                collect=collect,
                before_first=functools.partial(record.begin, plan.tasks),
            )
        if summary.done:
            record.refuse_others("Another call wrote into this folder meanwhile; run both again.")
    failed = plan.unread | summary.failed
    for line in predicting.failure_lines(failed):
        _complain(line)
    n_done = n_before + len(summary.done)
    if n_done or part:
        file = shard_path(compact, *part) if compact and part else out or compact
        done = f"{n_done} of {len(plan.tasks)} photos are done: {file}"
        hint = "" if compact or masks_only else " (look at the overlays, *_overlay.jpg)"
        _say(f"{done}{hint if n_done else ''}")
        if n_before:
            _say(f"done before, with the same checkpoint and options: {n_before}")
        if coco:
            _say(f"COCO file: {coco}")
        if panoptic:
            _say(f"COCO panoptic: {panoptic / 'panoptic.json'}, PNGs in {panoptic / 'panoptic'}")
    for line in predicting.remarks(plan, summary):
        _say(line)
    is_empty = part and not plan.tasks  # more shards than photos
    return (1 if failed else 0) if n_done or is_empty else 2


@app.command()
def join(
    compact: Annotated[Path, typer.Argument(metavar="FILE", help="As predict --compact had it.")],
    coco: Annotated[Path, typer.Option(metavar="FILE", help="COCO JSON to write.")],
) -> int:
    """Make one COCO file of the lines of predict --compact.

    They may stand in one file, or in the files of all shards. Exit code 1: some photos had failed.

    \b
    Examples:
      python -m clothseg_utils join all.jsonl --coco all.json
    """
    from clothseg_utils.prediction.compact import join_to_coco

    n_photos, failed = join_to_coco(compact, coco)
    _say(f"{count_text(n_photos, 'photo')} in one COCO file: {coco}")
    for path, number in failed.items():
        _complain(f"{number:,} more failed and are not in it: {path}")
    return 1 if failed else 0


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint that training wrote.")],
    format_: Annotated[
        Literal["onnx", "torchscript", "safetensors"],
        typer.Option("--format", help="Form of the file."),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.  [default: beside the checkpoint]"),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="ONNX in 8 bits, with ranges from photos there."),
    ] = None,
) -> int:
    """Write a network for other programs.

    \b
    Examples:
      python -m clothseg_utils export --checkpoint best.ckpt --out shop.onnx
      python -m clothseg_utils export --checkpoint best.ckpt --int8 photos/
      python -m clothseg_utils export --checkpoint best.ckpt --format safetensors
    """
    if int8 and format_ != "onnx":
        raise ValueError(f"--int8 with format {format_}; expected format onnx.")
    with heavy_imports():
        from clothseg_utils.network.export import SUFFIXES, check_out, export_model
        from clothseg_utils.network.quantize import export_int8
        from clothseg_utils.network.segmenter import load_segmenter
        from clothseg_utils.prediction.predict import failure_lines

    stem = f"{checkpoint.stem}_int8" if int8 else checkpoint.stem
    out = out or checkpoint.with_name(stem + SUFFIXES[format_])
    check_out(format_, out, checkpoint)
    segmenter = load_segmenter(checkpoint, "cpu")
    if int8:
        share, left_out = export_int8(segmenter, out, int8)
        _say(f"{out}: in 8 bits {share:.2%} of the photos' pixels get another class")
        for line in failure_lines(left_out):
            _say(f"left out: {line}")
    else:
        export_model(segmenter, format_, out)
        _say(f"{out}: its logits are the network's")
    _say(f"classes and sizes: {out.with_suffix('.json')}")
    if format_ == "onnx":
        _say_next("predict", "--checkpoint", out, "--out", "predictions")
    return 0


@app.command()
def report(
    run_name: Annotated[str, _RUN_NAME],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another run, to compare with on the same photos.",
            autocompletion=_complete_run_name,
        ),
    ] = None,
) -> int:
    """Write a run's report again.

    With --against it is compared with another run on the same photos.

    \b
    Examples:
      python -m clothseg_utils report --run-name demo
      python -m clothseg_utils report --run-name demo --against other
    """
    from clothseg_utils.core.config import RunConfig
    from clothseg_utils.core.runs import RunFolder
    from clothseg_utils.report.report import write_report
    from clothseg_utils.scores.compare import compare_runs, verdict

    run, *others = (
        RunFolder(RunConfig().outputs_root, name) for name in (run_name, against) if name
    )
    written = write_report(run, *others)
    for other in others:
        _say(verdict(compare_runs(run, other)))
    for why in written.broken.values():
        _complain(f"left out of the report: {why}")
    page, markdown = _shown(written.page), _shown(written.markdown)
    _say(f"report: {page} (for a browser), {markdown} (for GitHub)")
    return 1 if written.broken else 0


@app.command()
def sweep(
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SECTION.FIELD=V1,V2",
            help="Values to try, or one value for all runs; repeatable.",
            autocompletion=_complete_setting,
        ),
    ],
    profile: _Profile = "demo",
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Folder under outputs/sweeps/.  [default: the profile]"),
    ] = None,
    data_root: _DataRoot = None,
    only: _Only = None,
) -> int:
    """Run a grid of settings, and rank the runs.

    Every combination is a run of its own; what is done already is skipped, and a run that fails
    does not stop the others. A value that holds a comma goes in double quotes.

    \b
    Examples:
      python -m clothseg_utils sweep --profile demo --set train.seed=0,1,2
      python -m clothseg_utils sweep --name encoders --set train.max_minutes=2 \\
          --set train.seed=0,1,2 --set train.encoder_name=mit_b0,mit_b1
      python -m clothseg_utils sweep --name scales --only 04 \\
          --set evaluate.checkpoint=outputs/demo/checkpoints/best.ckpt \\
          --set 'inference.tta_scales=,"0.5,1.5"'
    """
    from clothseg_utils.workflow.sweep import expand_grid, plan_sweep, run_sweep

    configs = [_config(profile, data_root, None, settings) for settings in expand_grid(set_)]
    name = profile if name is None else name
    planned = plan_sweep(name, configs)
    result = run_sweep(
        name, planned, only or (), command=[*_MODULE_PROGRAM.split(), *sys.argv[1:]], say=_say
    )
    for run_name, reason in result.failed.items():
        _complain(f"run {run_name}: {reason}")
    for run_name, reason in result.unusable.items():
        _complain(f"run {run_name} is done, but {reason}")
    _say(f"{len(result.done)} of {len(planned)} runs are done")
    if result.best is not None:
        _say(f"best: {result.best['run_name']}, mIoU {result.best['mean_iou']:.4f}")
    _say(f"leaderboard: {_shown(result.html_path)} (for a browser), {_shown(result.csv_path)}")
    if not result.failed:
        return 1 if result.unusable else 0
    _say("next: the same command runs what failed again")
    return 1 if result.done or result.any_step_done else 2


def _config(
    profile: Any, data_root: Path | None, run_name: str | None, overrides: list[str] | None
) -> Any:
    """Profile, options and --set, in this order; paths given here mean the current folder."""
    from clothseg_utils.core.config import (
        PATH_FIELDS,
        apply_overrides,
        config_to_parameters,
        profile_config,
        replace_fields,
    )

    config = profile_config(profile)
    options = {"data_root": data_root and _portable(data_root), "run_name": run_name}
    options = {name: value for name, value in options.items() if value is not None}
    config = replace_fields(config, options)
    config = apply_overrides(config, overrides or ())
    set_names = [
        override.partition("=")[0].strip().partition(".")[2] for override in overrides or ()
    ]
    for name, times in Counter([*options, *set_names]).items():
        if times > 1:
            raise ValueError(
                f"{name} is given {times} times; expected once. Leave out all but one."
            )
    given = set(set_names)
    values = config_to_parameters(config)
    paths = {name: values[name] for name in given & (PATH_FIELDS | {"encoder_weights"})}
    no_paths = {"encoder_weights": ("", "imagenet", "none")}
    changed = {n: _portable(Path(p)) for n, p in paths.items() if p not in no_paths.get(n, ("",))}
    return replace_fields(config, changed)


def _inference(tta_flip: bool, tta_scales: str, window_px: int) -> Any:
    """Test-time options given on the command line, checked like settings of a run."""
    from clothseg_utils.core.config import Config, replace_fields

    options = {"tta_flip": tta_flip, "tta_scales": tta_scales, "window_px": window_px}
    return replace_fields(Config(), options).inference


def _check_gpu(profile: str, on_cpu: bool) -> None:
    """Refuse to begin days of work that were meant to be hours."""
    if profile not in ("fashionpedia", "reported") or on_cpu:
        return
    with heavy_imports():
        import torch

    if not torch.accelerator.is_available():
        raise ValueError(
            f"profile {profile} wants a GPU and torch finds none: on a CPU an epoch of "
            "Fashionpedia takes over six hours. Take profile laptop, check the driver "
            "(docs/devices.md), or give --on-cpu."
        )


def _portable(path: Path) -> str:
    """A path given on the command line, as settings hold it: relative ones mean the repository."""
    from clothseg_utils.core.files import expand_home, portable_path

    return portable_path(expand_home(path).absolute())


def _say(text: str) -> None:
    """Lines on stdout; names in them may hold what a terminal would obey."""
    print("\n".join(map(printable, text.split("\n"))), flush=True)


def _shown(path: Path) -> str:
    """A path as a user can open it from the current folder."""
    path = Path(path).absolute()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _say_next(verb: str, *arguments: str | Path, why: str = "") -> None:
    """A command to type next, from the current folder and with the Python in use."""
    _say(f"next:{why}")
    if Path(sys.argv[0]).name == _SCRIPT_PROGRAM:
        program = [sys.argv[0]]
    else:
        on_path = shutil.which("python") == sys.executable
        program = ["python" if on_path else _shown(Path(sys.executable)), "-m", "clothseg_utils"]
    words = (_shown(a) if isinstance(a, Path) and a.is_absolute() else str(a) for a in arguments)
    to_fill_in = " PHOTO_OR_FOLDER" if verb == "predict" else ""  # not quoted
    _say(f"    {shlex.join([*program, verb, *words])}{to_fill_in}")


def _scores_text(metrics: dict[str, Any]) -> str:
    low, high = metrics["intervals"]["mean_iou"]
    interval = "" if low is None else f" ({low:.4f} to {high:.4f})"  # one photo has none
    no_background = metrics["mean_iou_no_background"]  # None where all is background
    garments = "" if no_background is None else f", without background {no_background:.4f}"
    return f"mIoU {metrics['mean_iou']:.4f}{interval}{garments}, macro F1 {metrics['macro_f1']:.4f}"


def _say_excluded(excluded: dict[str, str]) -> None:
    if excluded:
        name, reason = next(iter(excluded.items()))
        _say(f"{len(excluded)} photos were left out, the first {name}: {reason}")


def _complain(error: object) -> None:
    """One line on stderr, whatever the message holds."""
    print("error: " + printable(" ".join(str(error).split())), file=sys.stderr, flush=True)


def main() -> int:
    """Run the command line; return the exit code (0 done, 1 partly done, 2 nothing done)."""
    arguments = sys.argv[1:] or ["--help"]
    is_script = Path(sys.argv[0]).name == _SCRIPT_PROGRAM
    # Shells complete a command by its one name; `python -m` has none of its own.
    about_completion = arguments[0] in ("--install-completion", "--show-completion")
    program = _SCRIPT_PROGRAM if is_script or about_completion else _MODULE_PROGRAM
    try:
        code = app(arguments, standalone_mode=False, prog_name=program) or 0
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else program
        message = error.format_message().replace("Value error, ", "").rstrip(".?")
        remedy = f"see {command} --help"
        if message.endswith("is not readable"):
            remedy = "change its mode or owner, or name another one"
        _complain(f"{message}; {remedy}.")
        return 2
    except OtherProcessError:
        return 2  # which has said why
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        line = fault_line(error)
        if line is None and not isinstance(error, (ValueError, OSError)):
            raise  # a mistake of ours, which a traceback helps to find
        _complain(line or error)
        return 2
    if code == _INTERRUPTED:
        # Before its first last.ckpt a training has nothing to go on with.
        again = " with --resume, once there is a last.ckpt," if arguments[0] == "train" else ""
        _complain(f"interrupted; the same command{again} goes on where it stopped.")
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _open_streams() -> None:
    """Give what daemons and `>&-` have closed an end in nothing, before a file takes its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def run_program() -> None:
    """Run the command line and exit; the entry point of the command `clothseg` too."""
    _open_streams()
    if not is_launched():  # there the agent ends all processes
        signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A closed pipe (`... | head`) is no error of ours.
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if is_launched():  # one of several processes that train
        from clothseg_utils.training.devices import leave

        leave(code)
    if code == _INTERRUPTED:
        os._exit(code)  # after SIGTERM seconds count, of which taking torch apart takes some
    for sign in (signal.SIGINT, signal.SIGTERM):  # all is done: Python's own end is no traceback's
        if signal.getsignal(sign) is not signal.SIG_IGN:
            signal.signal(sign, signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    run_program()
