"""Tests of `workflow.pipeline`: what runs, what is skipped, and what a failure leaves.

Three notebooks of two cells stand for the five. In the fast tests they run in this process, without
a kernel; the real ones run in `test_notebooks.py`.
"""

import base64
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import nbformat
import numpy as np
import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from clothseg_utils.core.config import Config, DataConfig, config_to_parameters, replace_fields
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.workflow import pipeline
from clothseg_utils.workflow.pipeline import (
    NOTEBOOKS,
    NotebookFailedError,
    check_data_root,
    check_inputs,
    notebook_parameters,
    run_pipeline,
    select_notebooks,
    step_key,
    step_seconds,
)

STEPS = ("01_data_exploration", "03_training", "04_metric_evaluation")
PARAMETERS = 'run_name: str = "demo"\noutputs_root: str = "outputs"\ndata_root: str = "data"\n'
BODY = """
from clothseg_utils.core.runs import RunFolder
run = RunFolder(outputs_root, run_name)
if (run.path / "break {step}").exists():
    raise RuntimeError("no luck\\ntoday")
with (run.path / "log.txt").open("a") as log:
    print("{step}", file=log)
output = run.path / "{step}.txt"
output.write_text({content})
run.record_step("{step}", parameters={{}}, outputs=[output], seconds=1.0)
"""


def write_notebook(path: Path, step: str) -> None:
    """A notebook whose output file depends on its parameters; 03 has one more of them."""
    is_training = step == "03_training"
    parameters = PARAMETERS + ("learning_rate: float = 1.0\n" if is_training else "")
    content = "str(learning_rate)" if is_training else '"always the same"'
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(BODY.format(step=step, content=content)),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
    )
    nbformat.write(notebook, path)


def execute_here(source, target, *, parameters, **_):
    """papermill.execute_notebook without a kernel: parameters after their cell, copy at the end."""
    notebook = nbformat.read(source, as_version=4)
    namespace = {}
    try:
        for cell in notebook.cells:
            exec(cell.source, namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace.update(parameters)
    except Exception as error:
        raise papermill.PapermillExecutionError(
            0, 1, cell.source, type(error).__name__, str(error), []
        ) from error
    finally:
        nbformat.write(notebook, target)


@pytest.fixture
def notebook_dir(tmp_path, monkeypatch) -> Path:
    """The three notebooks, in place of the five."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for step in STEPS:
        write_notebook(folder / f"{step}.ipynb", step)
    monkeypatch.setattr(pipeline, "NOTEBOOKS", STEPS)
    monkeypatch.setattr(pipeline, "notebook_path", lambda step: folder / f"{step}.ipynb")
    return folder


@pytest.fixture
def without_kernel(monkeypatch) -> None:
    monkeypatch.setattr(papermill, "execute_notebook", execute_here)
    monkeypatch.setattr(pipeline, "_write_html", lambda executed: None)


@pytest.fixture
def data_root(tmp_path) -> Path:
    root = tmp_path / "data"
    for folder, split in (("train", "train"), ("test", "val")):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.jpg").write_bytes(b"photo")
        (root / f"instances_attributes_{split}2020.json").write_text("{}")
    return root


@pytest.fixture
def config(tmp_path, data_root) -> Config:
    values = {"outputs_root": str(tmp_path / "out"), "data_root": str(data_root)}
    return replace_fields(Config(), values)


@pytest.fixture
def run(config) -> RunFolder:
    folder = RunFolder(config.run.outputs_root, config.run.run_name)
    folder.path.mkdir(parents=True)
    return folder


@pytest.fixture
def steps_run(config, run, notebook_dir, without_kernel):
    """Run the pipeline; return the steps that ran and the lines that were said."""

    def call(config=config, only=()):
        log = run.path / "log.txt"
        log.unlink(missing_ok=True)
        said = []
        try:
            run_pipeline(config, only, say=said.append)
        finally:
            steps = log.read_text().split() if log.exists() else []
            call.said = said
        return steps

    return call


# --- choosing notebooks, checking data -----------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], NOTEBOOKS),
        (["03"], ("03_training",)),
        (["04_metric_evaluation"], ("04_metric_evaluation",)),
        (["05", "01"], ("01_data_exploration", "05_qualitative_overlays")),  # in their own order
        (["02", "02"], ("02_mask_rasterization",)),
    ],
)
def test_select_notebooks(only, expected):
    assert select_notebooks(only) == expected


@pytest.mark.parametrize("name", ["3", "06", "training", "03_train", ""])
def test_unknown_notebook_is_refused(name):
    with pytest.raises(ValueError, match=f'unknown notebook "{name}"; expected one of 01, 02'):
        select_notebooks(["01", name])


def test_whole_data_root_passes(data_root):
    check_data_root(DataConfig(data_root=str(data_root)))


def test_missing_default_data_root_passes(monkeypatch, tmp_path):
    # Notebook 01 draws it.
    monkeypatch.setattr("clothseg_utils.core.files.repo_root", lambda: tmp_path)
    check_data_root(DataConfig())
    assert not (tmp_path / "data").exists()


def test_missing_data_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such data root: .*nowhere; expected a folder"):
        check_data_root(DataConfig(data_root=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "part",
    ["train", "test", "instances_attributes_train2020.json", "instances_attributes_val2020.json"],
)
def test_missing_part_of_the_data_root_is_named(data_root, part):
    path = data_root / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"data lacks {part}; expected"):
        check_data_root(DataConfig(data_root=str(data_root)))


def test_nothing_is_written_when_data_are_missing(config, tmp_path):
    missing = replace_fields(config, {"data_root": str(tmp_path / "nowhere")})
    with pytest.raises(FileNotFoundError):
        run_pipeline(missing)
    assert not (tmp_path / "out").exists()


# --- parameters and keys -------------------------------------------------------------------------


def test_notebook_gets_the_parameters_that_it_lists(notebook_dir):
    config = replace_fields(Config(), {"learning_rate": 0.5, "run_name": "x"})
    expected = {"run_name": "x", "outputs_root": "outputs", "data_root": "data/synthetic"}
    assert notebook_parameters(STEPS[0], config) == expected
    assert notebook_parameters("03_training", config) == {**expected, "learning_rate": 0.5}


def test_parameter_that_is_no_setting_is_refused(notebook_dir):
    notebook = nbformat.read(notebook_dir / "03_training.ipynb", as_version=4)
    notebook.cells[0].source += "\nlearning_rat: float = 1.0"
    nbformat.write(notebook, notebook_dir / "03_training.ipynb")
    with pytest.raises(ValueError, match="notebook 03_training has the parameter learning_rat;"):
        notebook_parameters("03_training", Config())


def touch_later(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


CHANGES = {
    "notebook": lambda root: write_notebook(root / "notebooks/04_metric_evaluation.ipynb", "other"),
    "train annotations": lambda root: (
        root / "data/instances_attributes_train2020.json"
    ).write_text("{ }"),
    "val annotations": lambda root: (root / "data/instances_attributes_val2020.json").write_text(
        ""
    ),
    "photo time": lambda root: touch_later(root / "data/train/a.jpg"),
    "photo size": lambda root: (root / "data/test/a.jpg").write_bytes(b"longer photo"),
    "photo name": lambda root: (root / "data/test/a.jpg").rename(root / "data/test/b.jpg"),
    "photo added": lambda root: (root / "data/train/b.jpg").touch(),
    "upstream output": lambda root: (root / "out/demo/model.txt").write_text("other weights"),
    "upstream output gone": lambda root: (root / "out/demo/model.txt").unlink(),
    "checkpoint": lambda root: (root / "mine.ckpt").write_bytes(b"other"),
    "own photos": lambda root: touch_later(root / "own/a.jpg"),
}


@pytest.fixture
def key(config, run, notebook_dir, tmp_path):
    """The key of step 04, whose upstream step 03 wrote one file."""
    (run.path / "model.txt").write_text("weights")
    (tmp_path / "mine.ckpt").write_bytes(b"mine")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.jpg").touch()
    run.record_step("03_training", parameters={}, outputs=[run.path / "model.txt"], seconds=1.0)
    files = {"checkpoint": str(tmp_path / "mine.ckpt"), "photos_dir": str(tmp_path / "own")}

    def make(parameters=()):
        return step_key(config, run, "04_metric_evaluation", {"a": 1, **files, **dict(parameters)})

    return make


@pytest.mark.parametrize("change", CHANGES)
def test_key_changes_with(key, tmp_path, change):
    before = key()
    assert key() == before
    CHANGES[change](tmp_path)
    assert key() != before


def test_key_changes_with_parameters(key):
    assert key({"a": 1}) == key()
    assert key({"a": 2}) != key()
    assert key({"b": 1}) != key()


@pytest.mark.parametrize(
    ("changed", "rerun", "spared"),
    [
        ("pictures/score_figures.py", {"04", "05"}, {"01", "02", "03"}),
        ("pictures/training_figures.py", {"03"}, {"01", "02", "04", "05"}),
        ("training/losses.py", {"03"}, {"01", "02", "04", "05"}),
        ("network/decoder.py", {"03", "04", "05"}, {"01", "02"}),
        ("scores/boundaries.py", {"04", "05"}, {"01", "02", "03"}),
        ("data/rasterize.py", {"01", "02", "03", "04", "05"}, set()),
        ("core/__init__.py", {"01", "02", "03", "04", "05"}, set()),
        ("*.j2", {"05"}, {"01", "02", "03", "04"}),
        ("workflow/sweep.py", set(), {"01", "02", "03", "04", "05"}),
    ],
)
def test_changed_code_reruns_the_notebooks_that_reach_it(
    config, run, code_copy, changed, rerun, spared
):
    def keys():
        return {n[:2]: step_key(config, run, n, {}) for n in NOTEBOOKS}

    before = keys()
    path = next(code_copy.rglob(changed))
    path.write_text(path.read_text() + "# a comment\n")
    after = keys()
    assert rerun <= {number for number in before if before[number] != after[number]}
    assert spared <= {number for number in before if before[number] == after[number]}


def test_a_file_of_test_photos_reruns_notebook_01_alone(config, run, tmp_path):
    def keys():
        return {name: step_key(config, run, name, {}) for name in NOTEBOOKS}

    before = keys()
    (tmp_path / "data" / "instances_attributes_test2020.json").write_text("{}")
    changed = [name for name, key in keys().items() if key != before[name]]
    assert changed == ["01_data_exploration"]


def test_key_does_not_change_with_other_files(key, run, tmp_path):
    before = key()
    (run.path / "figures").mkdir()
    (run.path / "figures" / "a.png").touch()
    write_notebook(tmp_path / "notebooks" / "03_training.ipynb", "other")
    assert key() == before


# --- running and skipping ------------------------------------------------------------------------


def test_second_run_skips_every_step(steps_run, run):
    assert steps_run() == list(STEPS)
    assert steps_run.said[0] == "[1/3] 01_data_exploration: running"
    assert steps_run.said[1].startswith("[1/3] 01_data_exploration: done in ")
    manifest = run.read_manifest()
    assert steps_run() == []
    assert steps_run.said == [f"[{i}/3] {s}: unchanged, skipped" for i, s in enumerate(STEPS, 1)]
    assert run.read_manifest() == manifest
    assert sorted(path.name for path in run.notebooks_dir.iterdir()) == [
        f"{s}.ipynb" for s in STEPS
    ]


def test_manifest_keeps_state_and_seconds(steps_run, run):
    steps_run()
    steps = run.read_manifest()["steps"]
    assert {step: entry["state"] for step, entry in steps.items()} == dict.fromkeys(STEPS, "done")
    assert step_seconds(run) == {step: steps[step]["notebook_seconds"] for step in STEPS}


def test_changed_setting_reruns_the_step_and_what_follows_from_it(steps_run, config):
    steps_run()
    changed = replace_fields(config, {"learning_rate": 0.25})
    # 04 has no such parameter: it runs because the output of 03 changed.
    assert steps_run(changed) == ["03_training", "04_metric_evaluation"]
    assert steps_run(changed) == []


def test_a_step_whose_output_was_cut_off_runs_again(steps_run, run):
    steps_run()
    outputs = run.read_manifest()["steps"]["03_training"]["outputs"]
    path = next(run.path / name for name in outputs if (run.path / name).is_file())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if whole else b"more")
    assert steps_run() == ["03_training"]
    assert path.read_bytes() == whole


def test_setting_of_no_notebook_reruns_nothing(steps_run, config):
    steps_run()
    assert steps_run(replace_fields(config, {"overlay_count": 9})) == []


@pytest.mark.parametrize("step", STEPS)
def test_deleted_output_is_made_again(steps_run, run, step):
    steps_run()
    (run.path / f"{step}.txt").unlink()
    assert steps_run() == [step]  # its output is the same as before, so nothing follows
    assert steps_run() == []


def test_only_runs_what_was_asked_for(steps_run):
    assert steps_run(only=["03"]) == ["03_training"]
    assert steps_run() == ["01_data_exploration", "04_metric_evaluation"]


def test_step_that_was_cut_off_runs_again(steps_run, run):
    steps_run()
    run.update_step("03_training", {"state": "running"})  # as a killed process leaves it
    assert steps_run() == ["03_training"]


def test_data_drawn_by_a_notebook_do_not_make_it_run_twice(steps_run, notebook_dir, data_root, run):
    notebook = nbformat.read(notebook_dir / f"{STEPS[0]}.ipynb", as_version=4)
    notebook.cells[1].source += "\nfrom pathlib import Path\nPath(data_root, 'train/z.jpg').touch()"
    nbformat.write(notebook, notebook_dir / f"{STEPS[0]}.ipynb")
    assert steps_run() == list(STEPS)
    assert steps_run() == []


@pytest.mark.parametrize(("broken", "any_done"), [(STEPS[0], False), (STEPS[1], True)])
def test_failed_notebook_stops_the_run_and_is_run_again(steps_run, run, broken, any_done):
    (run.path / f"break {broken}").touch()
    with pytest.raises(NotebookFailedError) as caught:
        steps_run()
    assert caught.value.any_done is any_done
    message = str(caught.value)
    assert message.startswith("no luck\ntoday (notebook " + broken)
    assert "stopped with RuntimeError" in message
    assert (run.notebooks_dir / f"{broken}.ipynb").exists()
    assert run.read_manifest()["steps"][broken]["state"] == "failed"
    (run.path / f"break {broken}").unlink()
    assert steps_run() == list(STEPS[STEPS.index(broken) :])


def test_run_in_use_is_refused(steps_run, run):
    with run.lock(), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        steps_run()


def test_executed_copy_holds_no_path_of_this_machine(steps_run, run, monkeypatch):
    def execute_and_note(source, target, **options):
        execute_here(source, target, **options)
        notebook = nbformat.read(target, as_version=4)
        notebook.metadata.papermill = {"input_path": source, "output_path": target, "duration": 1}
        nbformat.write(notebook, target)

    monkeypatch.setattr(papermill, "execute_notebook", execute_and_note)
    monkeypatch.setattr("clothseg_utils.core.files.repo_root", lambda: run.path.parent.parent)
    steps_run(only=["03"])
    executed = json.loads((run.notebooks_dir / "03_training.ipynb").read_text())
    assert executed["metadata"]["papermill"] == {
        "input_path": "notebooks/03_training.ipynb",
        "output_path": "out/demo/notebooks/03_training.ipynb",
        "duration": 1,
    }


def test_only_a_training_waits_by_spinning(steps_run, monkeypatch):
    """Other notebooks share cores with other programs; there a network at work loses little."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    spins = {}

    def execute_and_note(source, target, **options):
        spins[Path(source).stem] = os.environ.get("GOMP_SPINCOUNT")
        execute_here(source, target, **options)

    monkeypatch.setattr(papermill, "execute_notebook", execute_and_note)
    steps_run()
    assert spins == {step: None if step == "03_training" else "3000" for step in STEPS}
    assert "GOMP_SPINCOUNT" not in os.environ


def test_copy_that_was_cut_off_is_kept_as_it_is(steps_run, run, monkeypatch):
    def cut_off(source, target, **options):
        Path(target).write_text('{"cells": [')
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", cut_off)
    with pytest.raises(KeyboardInterrupt):
        steps_run(only=["03"])
    assert (run.notebooks_dir / "03_training.ipynb").read_text() == '{"cells": ['


def test_dead_kernel_is_one_clear_error(steps_run, run, monkeypatch):
    step = STEPS[1]

    def die(source, target, **options):
        if step in source:
            raise DeadKernelError("Kernel died")
        execute_here(source, target, **options)

    monkeypatch.setattr(papermill, "execute_notebook", die)
    with pytest.raises(NotebookFailedError, match=f"process of notebook {step} died"):
        steps_run()
    assert run.read_manifest()["steps"][step]["state"] == "failed"


def test_page_needs_no_server_and_leads_to_its_neighbours(notebook_dir, tmp_path):
    notebook = nbformat.read(notebook_dir / "03_training.ipynb", as_version=4)
    link = "[next](04_metric_evaluation.ipynb#Checks), [other](else.ipynb)"
    notebook.cells.append(nbformat.v4.new_markdown_cell(link))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    pipeline._write_html(tmp_path / "a.ipynb")
    html = (tmp_path / "a.html").read_text()
    assert 'href="04_metric_evaluation.html#Checks"' in html
    assert 'href="else.ipynb"' in html
    assert not re.search(r"<(script|img|iframe)[^>]+src=.http", html)


def test_page_shows_the_captions_of_figures_and_gives_them_as_their_text(notebook_dir, tmp_path):
    notebook = nbformat.read(notebook_dir / "03_training.ipynb", as_version=4)
    png = base64.b64encode(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1]).decode()
    metadata = {"image/png": {"alt": 'A "b" < c'}}
    figure = nbformat.v4.new_output("display_data", data={"image/png": png}, metadata=metadata)
    notebook.cells.append(nbformat.v4.new_code_cell("figure", outputs=[figure]))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    pipeline._write_html(tmp_path / "a.ipynb")
    html = (tmp_path / "a.html").read_text()
    (picture,) = re.findall(r"<img[^>]*>", html)
    assert 'alt="A &quot;b&quot; &lt; c"' in picture or "alt='A \"b\" &lt; c'" in picture
    assert '>A "b" &lt; c</p>' in html.replace("&quot;", '"')


@pytest.mark.usefixtures("notebook_dir", "without_kernel")
def test_run_of_other_data_is_not_mixed_with_these(config, run):
    run.update_step(STEPS[0], {"state": "done", "parameters": {"data_root": "data/other"}})
    with pytest.raises(ValueError, match=r"of the data in data/other; .*Give --data-root data/o"):
        run_pipeline(config, STEPS[1:2], say=lambda line: None)
    assert list(run.read_manifest()["steps"]) == [STEPS[0]]


# --- a sibling's steps ---------------------------------------------------------------------------


@pytest.fixture
def sibling(steps_run, config, run) -> RunFolder:
    """A run of the same data that is done, and holds a copy of its first notebook."""
    steps_run()
    (run.notebooks_dir / f"{STEPS[0]}.html").write_text("page")
    return run


def run_beside(sibling: RunFolder, config: Config) -> tuple[RunFolder, list[str]]:
    """Run the pipeline beside a sibling; return the run and the steps that ran."""
    run = run_pipeline(config, sibling=sibling, say=lambda line: None)
    log = run.path / "log.txt"
    return run, log.read_text().split() if log.exists() else []


def test_what_is_known_of_the_data_is_copied(sibling, config):
    other = replace_fields(config, {"run_name": "other", "learning_rate": 0.5})
    run, steps = run_beside(sibling, other)
    assert steps == list(STEPS[1:])
    assert (run.path / f"{STEPS[0]}.txt").read_text() == "always the same"
    assert (run.notebooks_dir / f"{STEPS[0]}.html").read_text() == "page"
    entry = run.read_manifest()["steps"][STEPS[0]]
    assert (entry["state"], entry["copied_from"]) == ("done", "demo")
    assert entry["parameters"]["run_name"] == "other"
    # From now on it is the run's own.
    run, steps = run_beside(sibling, other)
    assert steps == list(STEPS[1:])  # the log of before
    assert run_pipeline(other, say=lambda line: None).path == run.path


@pytest.mark.parametrize("change", ["data", "unfinished", "itself"])
def test_what_is_not_the_same_is_not_copied(sibling, config, data_root, change):
    other = replace_fields(config, {"run_name": "other"})
    if change == "data":
        (data_root / "train" / "b.jpg").touch()
    elif change == "unfinished":
        sibling.update_step(STEPS[0], {"state": "failed"})
    else:
        other = config
        (sibling.path / f"{STEPS[0]}.txt").unlink()
        (sibling.path / "log.txt").unlink()
    assert STEPS[0] in run_beside(sibling, other)[1]


# --- own data ------------------------------------------------------------------------------------


@pytest.fixture
def own_config(config, tmp_path) -> Config:
    """Settings that make a dataset, which is not there yet, of own photos."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.jpg").touch()
    for name in ("shop.json", "classes.json"):
        (tmp_path / name).write_text("{}")
    return replace_fields(
        config,
        {
            "data_root": str(tmp_path / "new"),
            "coco_file": str(tmp_path / "shop.json"),
            "coco_photos": str(tmp_path / "shop"),
            "coco_classes": str(tmp_path / "classes.json"),
        },
    )


def test_data_root_may_be_missing_where_it_will_be_made(own_config):
    check_inputs(own_config, NOTEBOOKS)
    with pytest.raises(FileNotFoundError, match="no such data root"):
        check_inputs(own_config, NOTEBOOKS[1:])


@pytest.mark.parametrize("name", ["shop", "shop.json", "classes.json"])
def test_missing_own_data_are_named(own_config, tmp_path, name):
    path = tmp_path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} not found; expected"):
        check_inputs(own_config, NOTEBOOKS)


@pytest.mark.parametrize("field", ["checkpoint", "photos_dir", "encoder_weights", "init_from"])
def test_paths_of_later_notebooks_are_checked_first(config, tmp_path, field):
    path = tmp_path / "named"
    changed = replace_fields(config, {field: str(path)})
    with pytest.raises(FileNotFoundError, match=rf"{field} is .*named, which does not exist; exp"):
        run_pipeline(changed)
    assert not (tmp_path / "out").exists()
    if field != "init_from":  # which is read, too
        path.mkdir()
        check_inputs(changed, NOTEBOOKS)


def test_weights_are_tried_before_the_first_notebook(config, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(b"no weights")
    changed = replace_fields(config, {"init_from": str(path)})
    with pytest.raises(ValueError, match=r"net\.pt cannot be read as a torch file"):
        check_inputs(changed, NOTEBOOKS)
    check_inputs(changed, NOTEBOOKS[:2])  # they are of training alone


@pytest.mark.parametrize("field", ["encoder_weights", "init_from"])
def test_a_training_that_goes_on_needs_no_weights_to_begin_with(config, tmp_path, field):
    gone = replace_fields(config, {field: str(tmp_path / "gone.pth")})
    check_inputs(gone, ["03_training"], resume=True)


def test_pipeline_file_is_read_before_the_first_notebook(config, tmp_path):
    changed = replace_fields(config, {"pipeline_file": str(tmp_path / "own.yaml")})
    with pytest.raises(
        FileNotFoundError, match=r"pipeline_file is .*own\.yaml, which does not exi"
    ):
        check_inputs(changed, NOTEBOOKS)
    (tmp_path / "own.yaml").write_text("transform: {__class_fullname__: Flop}")
    with pytest.raises(ValueError, match='unknown transform "Flop"'):
        check_inputs(changed, NOTEBOOKS)
    check_inputs(changed, NOTEBOOKS[:2])  # it is of training alone


@pytest.mark.parametrize("field", ["pipeline_file", "init_from"])
def test_content_of_a_file_belongs_to_the_key_of_training(config, tmp_path, field):
    path, run = tmp_path / "own.yaml", RunFolder(tmp_path / "out", "x")
    keys = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        keys.append(step_key(config, run, STEPS[1], {field: str(path)}))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("name", ["shop/a.jpg", "shop.json", "classes.json"])
def test_key_changes_with_own_data(own_config, run, notebook_dir, tmp_path, name):
    names = ("coco_file", "coco_photos", "coco_classes")
    parameters = {n: getattr(own_config.convert, n) for n in names}
    before = step_key(own_config, run, STEPS[0], parameters)
    (tmp_path / name).write_bytes(b"{ }")
    assert step_key(own_config, run, STEPS[0], parameters) != before


# --- with a kernel -------------------------------------------------------------------------------


@pytest.mark.slow
def test_kernel_runs_the_notebook_and_html_is_written(config, run, notebook_dir):
    run_pipeline(config, ["03"], say=lambda line: None)
    assert (run.path / "03_training.txt").read_text() == "0.002"
    executed = json.loads((run.notebooks_dir / "03_training.ipynb").read_text())
    assert [cell["metadata"].get("tags") for cell in executed["cells"]] == [
        ["parameters"],
        ["injected-parameters"],
        [],
    ]
    assert "<html" in (run.notebooks_dir / "03_training.html").read_text()
    assert not list(run.notebooks_dir.glob(".*"))

    (run.path / "break 01_data_exploration").touch()
    with pytest.raises(NotebookFailedError, match="no luck") as caught:
        run_pipeline(config, ["01"], say=lambda line: None)
    assert caught.value.any_done is True
    failed = (run.notebooks_dir / "01_data_exploration.ipynb").read_text()
    assert "RuntimeError" in failed
    assert not list(run.notebooks_dir.glob(".*"))


def test_parameters_of_the_real_notebooks_are_settings():
    for notebook in NOTEBOOKS:
        parameters = notebook_parameters(notebook, Config())
        assert parameters.items() <= config_to_parameters(Config()).items()
        assert {"run_name", "outputs_root", "data_root"} <= set(parameters)


def test_a_notebook_at_work_is_told_by_its_heading(tmp_path):
    """papermill writes after each cell; in the middle of a write there is no heading to tell."""
    path = tmp_path / "unfinished.ipynb"
    assert pipeline._place(path) == "at work"
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\nintroduction"),
        nbformat.v4.new_code_cell("import time", metadata={"papermill": {"status": "completed"}}),
        nbformat.v4.new_markdown_cell("## Train\n\nText."),
        nbformat.v4.new_markdown_cell("Read it from the top."),
        nbformat.v4.new_code_cell("train()", metadata={"papermill": {"status": "running"}}),
        nbformat.v4.new_markdown_cell("## Later"),
        nbformat.v4.new_code_cell("x = 1", metadata={"papermill": {"status": "pending"}}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert pipeline._place(path) == "at work: Train"
    path.write_text(path.read_text()[:-40])
    assert pipeline._place(path) == "at work"
