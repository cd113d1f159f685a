"""The notebooks' contract, read without a kernel; and, slow, the notebooks themselves."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
import torch
import yaml
from click.testing import CliRunner
from hostile import HOSTILE, rename_all, show_in_browser
from nbformat import NotebookNode
from papermill.cli import papermill as papermill_command

from clothseg_utils.core.config import Config, config_to_parameters, profile_config
from clothseg_utils.core.files import repo_root, sha256_file
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import printable
from clothseg_utils.network.checkpoints import read_checkpoint
from clothseg_utils.training.train import read_history
from clothseg_utils.workflow.pipeline import NOTEBOOKS, notebook_path

MAX_CODE_LINES = 760  # of all five
MAX_CELL_LINES = 20
MAX_IMPORT_LINES = 15


@pytest.fixture(params=NOTEBOOKS)
def notebook(request: pytest.FixtureRequest) -> str:
    """Each notebook in turn."""
    return request.param


def read(notebook: str) -> NotebookNode:
    return nbformat.read(notebook_path(notebook), as_version=4)


def code_cells(notebook: str) -> list[NotebookNode]:
    return [cell for cell in read(notebook).cells if cell.cell_type == "code"]


def parameters_cell(notebook: str) -> NotebookNode:
    (cell,) = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    return cell


# --- the contract --------------------------------------------------------------------------------


def test_first_cell_is_the_only_title(notebook):
    first, *others = read(notebook).cells
    texts = [cell.source for cell in others if cell.cell_type == "markdown"]
    assert not re.search(r"^# ", "\n".join(texts), re.MULTILINE)
    assert first.cell_type == "markdown"
    title = notebook[3:].replace("_", " ").capitalize()
    assert first.source.splitlines()[0] == f"# {notebook[:2]} · {title}"
    for word in ("You will learn", "**Reads**", "**Writes**", "**Time**", "**Expect**"):
        assert word in first.source


def test_papermill_lists_every_parameter_with_type_and_comment(notebook):
    """`papermill --help-notebook` leaves out what it cannot read, without a word."""
    command = ["--help-notebook", str(notebook_path(notebook))]
    listing = " ".join(CliRunner().invoke(papermill_command, command).output.split())
    for line in parameters_cell(notebook).source.splitlines():
        name, kind, value, comment = re.fullmatch(r"(\w+): (\w+) = (.+?)  # (.+)", line).groups()
        assert f" {name}: {kind} (default {value}) {comment}" in listing


def test_parameters_are_those_of_profile_demo_as_typed_literals_with_a_comment(notebook):
    demo = config_to_parameters(profile_config("demo"))
    for line in parameters_cell(notebook).source.splitlines():
        code, _, comment = line.partition("  # ")
        (statement,) = ast.parse(code).body
        value, name = ast.literal_eval(statement.value), statement.target.id
        assert ast.unparse(statement.annotation) == type(value).__name__, line
        assert (type(value), value) == (type(demo[name]), demo[name]), line
        assert comment, line
        assert "=" not in comment, line  # papermill's inspection would lose the parameter


def test_code_defines_no_function_or_class(notebook):
    for cell in code_cells(notebook):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, kinds)]


def test_imports_stand_in_one_cell_before_the_parameters(notebook):
    cells = code_cells(notebook)
    imports = (ast.Import, ast.ImportFrom)
    importing = [
        index
        for index, cell in enumerate(cells)
        if any(isinstance(node, imports) for node in ast.walk(ast.parse(cell.source)))
    ]
    assert importing == [0]
    assert "parameters" in cells[1].metadata.tags
    assert "sys.path" not in cells[0].source


def code_lines(cell: NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def test_code_cells_are_short(notebook):
    imports, _, *cells = code_cells(notebook)
    assert len(code_lines(imports)) <= MAX_IMPORT_LINES
    assert [cell.source for cell in cells if len(code_lines(cell)) > MAX_CELL_LINES] == []


def test_notebooks_together_are_short():
    lines = [line for name in NOTEBOOKS for cell in code_cells(name) for line in code_lines(cell)]
    assert len(lines) <= MAX_CODE_LINES


def test_pictures_are_named_with_their_room(notebook):
    """`data_figures.plot_layers` says where to look; five lines of imported names do not."""
    nodes = ast.walk(ast.parse(code_cells(notebook)[0].source))
    rooms = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert [room for room in rooms if room.startswith("clothseg_utils.pictures.")] == []


def test_text_is_as_frequent_as_code(notebook):
    cells = read(notebook).cells
    n_code = len(code_cells(notebook))
    assert len(cells) - n_code >= n_code


def test_nothing_of_a_run_is_kept(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


def test_kernel_is_python3(notebook):
    assert read(notebook).metadata.kernelspec.name == "python3"


def test_step_is_recorded_under_its_own_name(notebook):
    code = "\n".join(cell.source for cell in code_cells(notebook))
    assert code.count(f'step = Step("{notebook}", globals())') == code.count("Step(") == 1
    assert code.count("step.record(") == 1


def test_figures_and_tables_carry_the_notebooks_number(notebook):
    code = "\n".join(cell.source for cell in code_cells(notebook))
    saved = re.findall(r"step\.(figure|table)\(\s*(.+?),", code)
    assert {kind for kind, _ in saved} == {"figure", "table"}
    assert len(saved) == len(set(saved))
    assert [name for _, name in saved if not re.fullmatch(rf'"{notebook[:2]}_\w+"', name)] == []


def test_links_lead_to_files(notebook):
    links = [
        link
        for cell in read(notebook).cells
        for link in re.findall(r"\]\(([^)#]+)\)", cell.source)
        if "://" not in link
    ]
    missing = [link for link in links if not (notebook_path(notebook).parent / link).is_file()]
    assert missing == []
    number = NOTEBOOKS.index(notebook)
    neighbours = {f"{name}.ipynb" for name in NOTEBOOKS[max(0, number - 1) : number + 2]}
    assert neighbours - {f"{notebook}.ipynb"} <= set(links)


def test_contents_lead_to_every_section(notebook):
    cells = read(notebook).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    (contents,) = re.findall(r"^\*\*Contents\*\* (.+)$", cells[0].source, re.MULTILINE)
    # JupyterLab, nbconvert and GitHub make a heading's anchor of its text in this way.
    assert contents == " · ".join(f"[{h}](#{h.replace(' ', '-')})" for h in headings)


def test_first_and_last_cell_lead_to_the_neighbours(notebook):
    cells = read(notebook).cells
    number = NOTEBOOKS.index(notebook)
    neighbours = {NOTEBOOKS[i] for i in (number - 1, number + 1) if 0 <= i < len(NOTEBOOKS)}
    for cell in (cells[0], cells[-1]):
        assert set(re.findall(r"\]\((\d\d_\w+)\.ipynb\)", cell.source)) == neighbours


def test_every_figure_is_shown_and_explained_before_and_after(notebook):
    cells = read(notebook).cells
    plotting = [i for i, cell in enumerate(cells) if re.search(r"\.plot_\w+\(", cell.source)]
    assert plotting
    for index in plotting:
        assert isinstance(ast.parse(cells[index].source).body[-1], ast.Expr), "figure is not shown"
        assert cells[index - 1].cell_type == "markdown", cells[index].source
        assert cells[index + 1].cell_type == "markdown", cells[index].source
        # A heading would already be about the next thing.
        assert not cells[index + 1].source.startswith("#"), cells[index].source


# --- the notebooks, run --------------------------------------------------------------------------


def run_python(
    *arguments: str | Path, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        # Threads that wait for each other on a busy machine cost minutes.
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )


@dataclass(frozen=True)
class SmokeRun:
    """A finished run of profile smoke, from a home folder of its own, of data with hard names."""

    home: Path
    run: RunFolder
    photos: Path
    first: subprocess.CompletedProcess[str]
    again: Callable[[], subprocess.CompletedProcess[str]]


# What must be found in no file: the home folder, its owner, a secret of the environment.
HOME, USER, SECRET = "home-of-a-canary", "canary-bird", "canary-song-4711"


@pytest.fixture(scope="module")
def smoke(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """Profile smoke on drawn photos whose names are hard to show, with own photos to predict."""
    home = tmp_path_factory.mktemp("smoke") / HOME
    data = rename_all(synthetic_root, home / "data")
    photos = home / "own"
    photos.mkdir()
    for path in sorted((data / "test").iterdir())[:2]:
        shutil.copy(path, photos)
    (photos / "broken.jpg").write_bytes(b"no photo")
    command = ["clothseg_utils", "run", "--profile", "smoke", "--data-root", data]
    for setting in (
        f"run.outputs_root={home / 'outputs'}",
        f"data.derived_root={home / 'derived'}",
        f"predict.photos_dir={photos}",
        "data.image_limit=8",
    ):
        command += ["--set", setting]
    variables = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "CLOTHSEG_SECRET": SECRET}
    variables["MPLCONFIGDIR"] = mpl.get_configdir()  # or it looks for fonts first

    def again() -> subprocess.CompletedProcess[str]:
        return run_python(*command, cwd=home, **variables)

    return SmokeRun(home, RunFolder(home / "outputs", "smoke"), photos, again(), again)


@pytest.mark.slow
def test_smoke_run_ends_in_a_report_and_is_not_repeated(smoke):
    run, first = smoke.run, smoke.first
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    report, following, command_line = first.stdout.splitlines()[-3:]
    assert report == "report: outputs/smoke/report/index.html"  # seen from the current folder
    assert following.startswith("next: open the report in a browser")
    assert command_line.endswith(
        "predict --checkpoint outputs/smoke/checkpoints/best.ckpt --out predictions PHOTO_OR_FOLDER"
    )
    check_files(run)
    check_manifest(run, smoke.home)
    overlays = {path.name for path in (run.overlays_dir / "own_photos").iterdir()}
    for photo in smoke.photos.iterdir():
        results = {f"{photo.stem}_overlay.jpg", f"{photo.stem}.json", f"{photo.stem}.png"}
        assert results & overlays == (set() if photo.name == "broken.jpg" else results)
    report = (run.report_dir / "index.html").read_text()
    assert "broken.jpg" in (run.notebooks_dir / "05_qualitative_overlays.ipynb").read_text()
    assert "synthetic" in report

    written = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    second = smoke.again()
    assert (second.returncode, second.stderr) == (0, "")
    skipped = [f"[{i}/5] {name}: unchanged, skipped" for i, name in enumerate(NOTEBOOKS, 1)]
    assert second.stdout.splitlines() == [*skipped, *first.stdout.splitlines()[-3:]]
    locks = {run.path / name for name in (".lock", ".lock.pid", ".manifest.lock")}
    changed = [path for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert set(changed) <= locks


@pytest.mark.slow
def test_a_run_tells_nobody_whose_it_is_and_where_it_was_made(smoke):
    """Everything that a run leaves, checkpoints and logs of TensorBoard too, byte by byte."""
    assert smoke.first.returncode == 0, smoke.first.stderr
    words = [word.encode() for word in (HOME, USER, SECRET, str(repo_root()))]
    files = [p for name in ("outputs", "derived") for p in (smoke.home / name).rglob("*")]
    kinds = {path.suffix for path in files}
    assert {".ckpt", ".html", ".ipynb", ".json", ".png", ".svg", ".tex", ".md", ".npz"} <= kinds
    files = [path for path in files if path.is_file()]
    telling = [p for p in files if any(word in p.read_bytes() for word in words)]
    assert telling == []


@pytest.mark.slow
def test_names_are_text_wherever_a_run_shows_them(smoke):
    """Opened in a browser: what a name holds neither runs nor becomes a part of a page."""
    pages = [smoke.run.report_dir / "index.html", *smoke.run.notebooks_dir.glob("*.html")]
    assert len(pages) == 6
    for page, seen in show_in_browser(pages).items():
        assert seen.hit is None, page
        assert seen.scripts == 0, page
        assert seen.foreign == [], page
        assert "default-src 'none'" in seen.policy, page
        assert not re.search("[\x1b\u202e]", seen.outside_tables), page
    report = show_in_browser(pages[:1])[pages[0]]
    for name in HOSTILE:
        assert printable(name) in report.text, name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_tables_of_a_run_are_set_by_latex(smoke, tmp_path):
    shutil.copytree(smoke.run.report_dir / "latex", tmp_path / "latex")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all-tables.tex"]
    done = subprocess.run(command, cwd=tmp_path / "latex", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def check_files(run: RunFolder) -> None:
    for name in NOTEBOOKS:
        executed = nbformat.read(run.notebooks_dir / f"{name}.ipynb", as_version=4)
        counts = [c.execution_count for c in executed.cells if c.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1)), name
        # Nobody can click: no widget, but a viewer's still picture.
        assert "widgets" not in executed.metadata, name
        kinds = [set(o.get("data", {})) for c in executed.cells for o in c.get("outputs", ())]
        assert not any("application/vnd.jupyter.widget-view+json" in kind for kind in kinds), name
        has_viewer = name[:2] in ("01", "02", "05")
        assert any("image/jpeg" in kind for kind in kinds) == has_viewer, name
        assert "<html" in (run.notebooks_dir / f"{name}.html").read_text(), name
        assert list(run.figures_dir.glob(f"{name[:2]}_*.png")), name
    for name in NOTEBOOKS[:4]:
        assert list(run.tables_dir.glob(f"{name[:2]}_*.csv")), name
    for path in (
        run.path / "audit.json",
        run.path / "metrics.json",
        run.evaluation_dir / "per_image.npz",
        run.logs_dir / "history.csv",
        run.report_dir / "index.html",
        run.report_dir / "report.md",
        run.last_checkpoint,
    ):
        assert path.stat().st_size > 0, path
    assert list(run.logs_dir.glob("events.out.tfevents.*"))
    names = [path.name for path in run.checkpoints_dir.glob("*.ckpt")]
    assert [sum(word in name for name in names) for word in ("best", "last")] == [1, 1]
    assert json.loads((run.path / "metrics.json").read_text())["n_images"] == 8
    hidden = [path.name for path in run.path.rglob(".*") if ".lock" not in path.name]
    assert hidden == []  # no temporary file is left


def check_manifest(run: RunFolder, home: Path) -> None:
    manifest = run.read_manifest()
    assert manifest["run_name"] == "smoke"
    assert manifest["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "git_commit"} <= set(manifest)
    assert list(manifest["steps"]) == list(NOTEBOOKS)
    parameters = set(config_to_parameters(Config()))
    for name, step in manifest["steps"].items():
        assert step["state"] == "done", name
        assert 0 < step["seconds"] < step["notebook_seconds"], name
        assert len(step["key"]) == 64, name
        assert step["parameters"]["run_name"] == "smoke", name
        assert set(step["parameters"]) == parameters, name
        assert step["inputs"], name
        assert step["outputs"], name
        for files in (step["inputs"], step["outputs"]):
            for path, digest in files.items():
                inside = run.path / path
                outside = home / path.removeprefix("~/")  # its owner's name is not told
                assert sha256_file(inside if inside.exists() else outside) == digest


@pytest.mark.slow
def test_papermill_alone_runs_notebooks_with_a_file_of_parameters(synthetic_root, tmp_path):
    """One file for all, from the repository root and from `notebooks/` in turn.

    The first three: a run of the pipeline and the browser tests execute the last two.
    """
    parameters = {
        "run_name": 2026,  # YAML reads a number
        "outputs_root": str(tmp_path / "outputs"),
        "derived_root": str(tmp_path / "derived"),
        "data_root": str(synthetic_root),
        "image_size": 32,
        "image_limit": 4,
        "train_size": 64,
        "encoder_name": "mit_b0",
        "encoder_weights": "none",
        "batch_size": 2,
        "max_minutes": 0,
        "max_epochs": 1,
        "epoch_images": 0,
        "num_workers": 0,
        "mask_workers": 1,
        "trial_photos": 0,
        "overlay_count": 1,
        "bootstrap_samples": 100,
    }
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(parameters))
    for index, name in enumerate(NOTEBOOKS[:3]):
        cwd = repo_root() if index % 2 else repo_root() / "notebooks"
        path = notebook_path(name).relative_to(cwd)
        executed = tmp_path / f"{name}.ipynb"
        done = run_python("papermill", path, executed, "-f", file, cwd=cwd)
        assert done.returncode == 0, done.stderr
        for cell in nbformat.read(executed, as_version=4).cells:
            outputs = cell.get("outputs", [])
            assert "stderr" not in [output.get("name") for output in outputs], cell.source
            assert str(repo_root()) not in json.dumps(outputs), cell.source
    run = RunFolder(tmp_path / "outputs", "2026")
    stored = read_checkpoint(run.best_checkpoint)["clothseg"]["config"]
    assert stored["data"]["image_size"] == 32
    assert stored["train"]["learning_rate"] == Config().train.learning_rate
    assert len(read_history(run.logs_dir / "history.csv")) == 1
    assert run.read_manifest()["steps"]["03_training"]["state"] == "done"


@pytest.mark.slow
def test_misspelt_parameter_stops_the_notebook(synthetic_root, tmp_path):
    options = ["-p", "data_root", synthetic_root, "-p", "outputs_root", tmp_path, "-p", "sed", "1"]
    path = notebook_path("01_data_exploration")
    done = run_python("papermill", path, tmp_path / "out.ipynb", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert 'unknown parameter "sed" (did you mean seed?); expected one of run_name' in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_own_data_go_through_the_same_pipeline(synthetic_root, tmp_path):
    """A COCO file of other names, made of drawn photos: convert, explore, make masks."""
    drawn = json.loads((synthetic_root / "instances_attributes_train2020.json").read_text())
    names = {c["id"]: f"my {c['name']}" for c in drawn["categories"]}
    classes = {names[c["id"]]: c["supercategory"] for c in drawn["categories"]}
    own = {
        "images": [{"id": i["id"], "file_name": i["file_name"]} for i in drawn["images"]],
        "categories": [{"id": 100 + i, "name": name} for i, name in names.items()],
        "annotations": [
            {
                "image_id": a["image_id"],
                "category_id": 100 + a["category_id"],
                "segmentation": a["segmentation"],
            }
            for a in drawn["annotations"]
        ],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    command = ["clothseg_utils", "run", "--profile", "smoke", "--data-root", "new"]
    for setting in (
        "convert.coco_file=own.json",
        f"convert.coco_photos={synthetic_root / 'train'}",
        "convert.coco_classes=classes.json",
        "run.outputs_root=outputs",
        "data.derived_root=derived",
        "data.image_size=32",
        "train.max_epochs=1",
        "evaluate.trial_photos=0",
    ):
        command += ["--set", setting]
    for number in ("01", "02"):
        command += ["--only", number]
    done = run_python(*command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    run = RunFolder(tmp_path / "outputs", "smoke")
    assert run.read_manifest()["steps"]["02_mask_rasterization"]["state"] == "done"
    assert list((tmp_path / "derived").rglob("index.json"))
    counts = (run.tables_dir / "01_categories.csv").read_text()
    assert "upperbody,my " in counts
    again = run_python(*command, cwd=tmp_path)
    assert again.stdout.count("unchanged, skipped") == 2
