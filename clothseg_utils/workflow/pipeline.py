"""The five notebooks through papermill: in order, resumable, without a person."""

import json
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from clothseg_utils.core.config import (
    Config,
    DataConfig,
    TrainConfig,
    config_to_parameters,
    replace_fields,
)
from clothseg_utils.core.faults import fault_in_words
from clothseg_utils.core.files import (
    atomic_path,
    portable_path,
    repo_root,
    resolve_path,
    sha256_file,
    sha256_json,
    write_text,
)
from clothseg_utils.core.progress import never_silent
from clothseg_utils.core.reach import code_hash, notebook_imports
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.workers import children_spin_briefly
from clothseg_utils.data.coco import annotation_path, images_dir
from clothseg_utils.data.splits import check_scheme
from clothseg_utils.intake.own_classes import read_classes
from clothseg_utils.intake.sources import find_sources

NOTEBOOKS = (
    "01_data_exploration",
    "02_mask_rasterization",
    "03_training",
    "04_metric_evaluation",
    "05_qualitative_overlays",
)
"""The steps of a run, in order."""

# What these find depends on the data alone: a run can take it over from another one.
_ABOUT_DATA = NOTEBOOKS[:2]
_TRAINING = NOTEBOOKS[2]

# Steps whose outputs a step reads. Masks are no such output: they follow from the annotations,
# and every reader makes what is missing.
_UPSTREAM = {
    "04_metric_evaluation": ("03_training",),
    "05_qualitative_overlays": NOTEBOOKS[:4],
}


class NotebookFailedError(RuntimeError):
    """A notebook stopped with an error.

    Attributes:
        any_done: whether an earlier step of the run is done.
    """

    def __init__(self, message: str, *, any_done: bool) -> None:
        super().__init__(message)
        self.any_done = any_done


def select_notebooks(only: Iterable[str]) -> tuple[str, ...]:
    """Choose notebooks by name or number; all of them if none is named.

    Raises:
        ValueError: no such notebook.

    Example:
        >>> select_notebooks(["03", "01"])
        ('01_data_exploration', '03_training')
    """
    only = list(only)
    for name in only:
        if not any(name in (notebook, notebook[:2]) for notebook in NOTEBOOKS):
            numbers = ", ".join(notebook[:2] for notebook in NOTEBOOKS)
            raise ValueError(f'unknown notebook "{name}"; expected one of {numbers} for --only.')
    return tuple(n for n in NOTEBOOKS if not only or n in only or n[:2] in only)


def check_data_root(config: DataConfig) -> None:
    """Check that the data are there, before any notebook starts.

    The default data root may be missing: notebook 01 draws it.

    Raises:
        FileNotFoundError: the data root or one of its parts is missing.
    """
    data_root = resolve_path(config.data_root)
    if config.data_root == DataConfig().data_root and not data_root.exists():
        return
    if not data_root.is_dir():
        raise FileNotFoundError(
            f"no such data root: {data_root}; expected a folder in Fashionpedia's layout "
            "(data/README.md). Check --data-root, or make one with `download` or `synthesize`."
        )
    for split in ("train", "val"):
        for path in (annotation_path(data_root, split), images_dir(data_root, split)):
            if not path.exists():
                raise FileNotFoundError(
                    f"{data_root} lacks {path.name}; expected Fashionpedia's layout "
                    "(data/README.md). Fetch it with `download`."
                )


def run_pipeline(
    config: Config,
    only: Iterable[str] = (),
    *,
    say: Callable[[str], None] = print,
    sibling: RunFolder | None = None,
) -> RunFolder:
    """Run the notebooks into the run folder; skip those whose inputs did not change.

    Args:
        config: the run's settings.
        only: notebooks to run, by name or number; empty means all.
        say: takes one line per step.
        sibling: a run below the same `outputs_root`. What it found out about the data is taken
            over where that is the same for this run.

    Returns:
        The run folder.

    Raises:
        FileNotFoundError: the data are missing; nothing was done.
        ValueError: another process holds the run, it is of other data, or a bad notebook name;
            nothing was done.
        NotebookFailedError: a notebook stopped with an error; the steps before it are done.
    """
    notebooks = select_notebooks(only)
    check_inputs(config, notebooks)
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    with run.lock():
        run.check_data(config.data.data_root, "--run-name")
        for notebook in notebooks:
            number = f"[{NOTEBOOKS.index(notebook) + 1}/{len(NOTEBOOKS)}] {notebook}"
            parameters = notebook_parameters(notebook, config)
            key = step_key(config, run, notebook, parameters)
            if _is_done(run, notebook, key):
                say(f"{number}: unchanged, skipped")
                continue
            if sibling and _take_over(sibling, config, run, notebook, key):
                say(f"{number}: the same as in run {sibling.name}, copied")
                continue
            say(f"{number}: running")
            seconds = _run_notebook(run, notebook, parameters)
            # Made anew: notebook 01 may have drawn the data that the key depends on.
            key = step_key(config, run, notebook, parameters)
            run.update_step(notebook, {"key": key, "notebook_seconds": round(seconds, 2)})
            say(f"{number}: done in {seconds:.0f} s")
    return run


def check_inputs(config: Config, notebooks: Sequence[str], *, resume: bool = False) -> None:
    """Check what the notebooks will read, before the first of them starts.

    A misspelt path must not show only when training is over.

    Args:
        config: the run's settings.
        notebooks: names without suffix.
        resume: a training goes on, which needs the weights no more that it began with.

    Raises:
        FileNotFoundError: the data, or a file or folder that a setting names, is missing.
        ValueError: an encoder, weights, an augmentation pipeline or a scheme that cannot be used.
    """
    if "04_metric_evaluation" in notebooks and not config.evaluate.checkpoint:
        config.inference.input_sizes(config.data.image_size)
    if resume:
        config = replace_fields(config, {"init_from": "", "encoder_weights": "none"})
    convert = config.convert
    if convert.coco_file and NOTEBOOKS[0] in notebooks:
        find_sources(resolve_path(convert.coco_photos), [resolve_path(convert.coco_file)])
        if convert.coco_classes:
            read_classes(resolve_path(convert.coco_classes))
    else:
        check_data_root(config.data)
        if _TRAINING in notebooks:
            check_scheme(config.data)
    weights = config.train.encoder_weights
    named = {
        "evaluate.checkpoint": (
            config.evaluate.checkpoint,
            "a checkpoint that training wrote",
            NOTEBOOKS[3:],
        ),
        "predict.photos_dir": (config.predict.photos_dir, "a folder of photos", NOTEBOOKS[4:]),
        "train.encoder_weights": (
            "" if weights in ("imagenet", "none") else weights,
            "imagenet, none, or a file with the encoder's state dict",
            (_TRAINING,),
        ),
        "train.init_from": (
            config.train.init_from,
            "a checkpoint, or another file with a network's weights",
            (_TRAINING,),
        ),
        "augment.pipeline_file": (
            config.augment.pipeline_file,
            "a file that albumentations.save wrote",
            (_TRAINING,),
        ),
    }
    for name, (path, expected, readers) in named.items():
        if path and {*readers} & {*notebooks} and not resolve_path(path).exists():
            raise FileNotFoundError(
                f"{name} is {path}, which does not exist; expected {expected}. Check the path."
            )
    # The default is known to exist; for another one the list of encoders takes seconds to import.
    encoder_name = config.train.encoder_name
    if _TRAINING in notebooks and encoder_name != TrainConfig().encoder_name:
        from clothseg_utils.network.encoders import check_encoder_name

        check_encoder_name(encoder_name)
    if _TRAINING in notebooks and config.train.init_from:
        from clothseg_utils.network.transfer import check_weights

        check_weights(config)
    if _TRAINING in notebooks and config.augment.pipeline_file:
        from clothseg_utils.training.augment import TrainTransform

        TrainTransform(config.augment, config.data.input_size, config.data.resize)


def _take_over(sibling: RunFolder, config: Config, run: RunFolder, notebook: str, key: str) -> bool:
    """Copy what a sibling's step left, if it is what this step would leave; say whether it is."""
    if notebook not in _ABOUT_DATA or sibling.path == run.path:
        return False
    theirs = replace_fields(config, {"run_name": sibling.name})
    parameters = notebook_parameters(notebook, theirs)
    if not _is_done(sibling, notebook, step_key(theirs, sibling, notebook, parameters)):
        return False
    entry = dict(sibling.read_manifest()["steps"][notebook])
    executed = [sibling.notebooks_dir / f"{notebook}{suffix}" for suffix in (".ipynb", ".html")]
    inside = [sibling.path / name for name in entry["outputs"]]
    for path in (*inside, *executed):
        # Masks lie outside the run, for all runs.
        is_inside = path.is_relative_to(sibling.path) and ".." not in path.parts
        if is_inside and path.is_file():
            with atomic_path(run.path / path.relative_to(sibling.path)) as temporary:
                shutil.copyfile(path, temporary)
    entry["parameters"] = {**entry["parameters"], "run_name": run.name}
    run.update_step(notebook, {**entry, "key": key, "copied_from": sibling.name})
    return True


def notebook_path(notebook: str) -> Path:
    """Path of a notebook's source."""
    return repo_root() / "notebooks" / f"{notebook}.ipynb"


def notebook_parameters(notebook: str, config: Config) -> dict[str, Any]:
    """Choose the settings that a notebook's parameters cell lists.

    Raises:
        ValueError: the notebook lists a parameter that is no field of the config.
    """
    import papermill

    names = papermill.inspect_notebook(str(notebook_path(notebook)))
    values = config_to_parameters(config)
    unknown = [name for name in names if name not in values]
    if unknown:
        raise ValueError(
            f"notebook {notebook} has the parameter {unknown[0]}; expected fields of the config."
        )
    return {name: values[name] for name in names}


def step_key(config: Config, run: RunFolder, notebook: str, parameters: Mapping[str, Any]) -> str:
    """Hash of everything that a step depends on.

    Parameters, the notebook's source, the code that it reaches, the annotation files, (name, size,
    mtime) of photos, files named by parameters, and what upstream steps wrote.
    """
    data_root = resolve_path(config.data.data_root)
    parts: dict[str, Any] = {
        "parameters": dict(parameters),
        "notebook": sha256_file(notebook_path(notebook)),
        "code": code_hash(notebook_imports(notebook_path(notebook))),
    }
    if notebook == "01_data_exploration":  # the only one that looks at it
        parts["test"] = _hash_if_there(annotation_path(data_root, "test"))
    for split in ("train", "val"):
        path = annotation_path(data_root, split)
        parts[path.name] = _hash_if_there(path)
        parts[f"{split} photos"] = _list_files(images_dir(data_root, split))
    for name in (
        "checkpoint",
        "encoder_weights",
        "init_from",
        "pipeline_file",
        "coco_file",
        "coco_classes",
    ):
        if parameters.get(name):
            parts[name] = _hash_if_there(resolve_path(parameters[name]))
    for name in ("photos_dir", "coco_photos"):
        if parameters.get(name):
            parts[name] = _list_files(resolve_path(parameters[name]))
    steps = run.read_manifest().get("steps", {})
    for upstream in _UPSTREAM.get(notebook, ()):
        outputs = steps.get(upstream, {}).get("outputs", {})
        parts[upstream] = {name: _hash_if_there(_output_path(run, name)) for name in outputs}
    return sha256_json(parts)


def _list_files(folder: Path) -> list[tuple[str, int, int]]:
    if not folder.is_dir():
        return []
    return sorted(
        (path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and (stat := path.stat())
    )


def _hash_if_there(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _output_path(run: RunFolder, name: str) -> Path:
    """Outputs are recorded relative to the run folder, or to the repository where outside it."""
    inside = run.path / name
    return inside if inside.exists() else resolve_path(name)


def _is_done(run: RunFolder, notebook: str, key: str) -> bool:
    step = run.read_manifest().get("steps", {}).get(notebook, {})
    return (
        step.get("state") == "done"
        and step.get("key") == key
        and all(_is_whole(run, *item) for item in step.get("outputs", {}).items())
    )


def _is_whole(run: RunFolder, name: str, sha256: str) -> bool:
    """Whether an output is there as it was written: a run is copied, cut off and cleaned up."""
    path = _output_path(run, name)
    if not path.is_relative_to(run.path) or path.is_relative_to(run.report_dir):
        return path.is_file()  # masks of other runs too; a report that was written again
    return _hash_if_there(path) == sha256


def _run_notebook(run: RunFolder, notebook: str, parameters: Mapping[str, Any]) -> float:
    """Execute one notebook; leave its executed copy and its HTML in the run folder."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    from clothseg_utils.workflow.kernel import Kernel

    source = notebook_path(notebook)
    executed = run.notebooks_dir / source.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    unfinished = executed.with_name(f".{source.name}")
    run.update_step(notebook, {"state": "running", "key": None})
    started = time.perf_counter()
    # papermill announces every cell, and nbclient a process that ended: what a notebook prints, and
    # the error that is raised, are enough.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            nullcontext() if notebook == _TRAINING else children_spin_briefly(),
            never_silent(sys.stdout, partial(_place, unfinished)) as output,
        ):
            warnings.simplefilter("ignore")  # deprecations inside papermill and nbclient
            papermill.execute_notebook(
                str(source),
                str(unfinished),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                stdout_file=output,
                kernel_manager_class=Kernel,
                # The kernel warns of its own transport on our stderr; its errors reach us anyway.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        run.update_step(notebook, {"state": "failed"})
        if isinstance(error, DeadKernelError):
            reason = (
                f"the process of notebook {notebook} died, most often for lack of memory; expected "
                "it to end by itself. Lower data.image_size, train.batch_size or train.num_workers."
            )
        else:
            said = fault_in_words(error.ename, error.evalue) or error.evalue.strip()
            reason = (
                f"{said} (notebook {notebook} stopped with {error.ename}; its executed copy is "
                f"{portable_path(executed)})"
            )
        steps = run.read_manifest()["steps"].values()
        any_done = any(step.get("state") == "done" for step in steps)
        raise NotebookFailedError(reason, any_done=any_done) from None
    finally:
        if unfinished.exists():
            _hide_paths(unfinished, source, executed)
            unfinished.replace(executed)
    _write_html(executed)
    return time.perf_counter() - started


def _place(unfinished: Path) -> str:
    """Where a notebook is at work: the heading above the cell that papermill notes as running."""
    heading = ""
    try:
        cells = json.loads(unfinished.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        cells = []  # not written yet, or in the middle of it
    for cell in cells:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE)
            heading = found[-1] if found else heading
        elif cell["metadata"].get("papermill", {}).get("status") == "running":
            return f"at work: {heading}"
    return "at work"


def _hide_paths(unfinished: Path, source: Path, executed: Path) -> None:
    """papermill notes where it read and wrote, on this machine; keep that relative."""
    try:
        notebook = json.loads(unfinished.read_text(encoding="utf-8"))
    except ValueError:
        return  # cut off in the middle of a write
    noted = notebook["metadata"].get("papermill", {})
    for name, path in (("input_path", source), ("output_path", executed)):
        if name in noted:
            noted[name] = portable_path(path)
    write_text(unfinished, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


# JupyterLab's own look, with the captions that figures carry: below them and as alternative text.
_PAGE_TEMPLATE = """
{%- extends "lab/index.html.j2" -%}
{% block data_png scoped %}
{%- set caption = output | get_metadata("alt", "image/png") | default("", true) | escape_html -%}
{%- set below = '<p style="font-size: 0.85em; color: #555">' ~ caption ~ "</p>" -%}
{{ super()
   | replace("<img ", '<img alt="' ~ caption ~ '" ')
   | replace("</div>", below ~ "</div>") if caption else super() }}
{% endblock %}
"""


_PAGE_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; font-src data:; style-src 'unsafe-inline'\">"
)


def _write_html(executed: Path) -> None:
    """Export an executed notebook as one self-contained HTML file beside it."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    exporter.raw_template = _PAGE_TEMPLATE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert warns of pictures without alternative text
        body, _ = exporter.from_filename(str(executed))
    # Scripts are for formulas and live widgets, of which there are none: the page asks no server,
    # and what a name or an output of other origin may hold does not run.
    body = re.sub(r"<script\b.*?</script\s*>", "", body, flags=re.DOTALL | re.IGNORECASE)
    body = body.replace("<head>", f"<head>{_PAGE_POLICY}", 1)
    # The neighbours lie beside it as pages, too; a browser would only save their notebooks.
    body = re.sub(rf'href="({"|".join(NOTEBOOKS)})\.ipynb', r'href="\1.html', body)
    write_text(executed.with_suffix(".html"), body)


def step_seconds(run: RunFolder) -> dict[str, float]:
    """Wall time of each finished step of a run, seconds."""
    steps = run.read_manifest().get("steps", {}).items()
    return {name: step["notebook_seconds"] for name, step in steps if "notebook_seconds" in step}
