"""What the notebooks do beside their subject."""

import json

import IPython
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from clothseg_utils.core.config import config_from_parameters, config_to_parameters, replace_fields
from clothseg_utils.core.files import resolve_path, sha256_file
from clothseg_utils.pictures.data_figures import plot_supercategory_counts
from clothseg_utils.workflow.step import Step


@pytest.fixture
def shell(monkeypatch) -> InteractiveShell:
    """The notebook that a step believes to run in."""
    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    return shell


@pytest.fixture
def parameters(shell, tmp_path) -> dict[str, object]:
    """What a notebook has defined, its parameters among it."""
    return {"run_name": "one", "outputs_root": str(tmp_path), "image_limit": 3, "pd": pd}


def a_figure():
    annotations = pd.DataFrame({"supercategory": ["neck"], "class_color": ["#9d84ab"]})
    return plot_supercategory_counts(annotations, source="a test")


def test_settings_and_folder_come_from_the_parameters(parameters, tmp_path):
    step = Step("01_data_exploration", parameters)
    assert step.config == config_from_parameters(parameters)
    assert step.run.path == tmp_path / "one"
    assert not step.run.path.exists()  # nothing is written yet


def test_checkpoint_is_the_best_of_the_run_unless_one_is_named(parameters):
    step = Step("04_metric_evaluation", parameters)
    assert step.checkpoint == step.run.best_checkpoint
    step = Step("04_metric_evaluation", parameters | {"checkpoint": "outputs/a/b.ckpt"})
    assert step.checkpoint == resolve_path("outputs/a/b.ckpt")


def test_figures_and_tables_are_saved_by_name_and_returned(parameters, shell):
    step = Step("01_data_exploration", parameters)
    figure, table = a_figure(), pd.DataFrame({"photos": [2]}, index=pd.Index(["val"], name="split"))
    assert step.figure("01_counts", figure, "What it shows.") is figure
    assert step.table("01_summary", table) is table
    assert [path.name for path in sorted(step.run.figures_dir.iterdir())] == [
        "01_counts.png",
        "01_counts.svg",
    ]
    assert b"What it shows." in (step.run.figures_dir / "01_counts.svg").read_bytes()
    assert (step.run.tables_dir / "01_summary.csv").read_bytes() == b"split,photos\nval,2\n"
    _, metadata = shell.display_formatter.format(figure, include={"image/png"})
    assert metadata["image/png"]["alt"] == "What it shows."


def test_record_holds_settings_time_and_hashes_of_all_that_was_used_and_made(parameters):
    step = Step("01_data_exploration", parameters)
    step.table("01_summary", pd.DataFrame({"photos": [2]}))
    step.figure("01_counts", a_figure(), "What it shows.")
    read, made = step.run.path / "read.json", step.run.path / "audit.json"
    read.write_text("{}")
    made.write_text("[]")
    step.config = replace_fields(step.config, {"scheme": "category"})  # as a checkpoint says
    step.record(inputs=[read], outputs=[made], scores={"different_pixels": 0})
    manifest = json.loads(step.run.manifest_path.read_text())
    entry = manifest["steps"]["01_data_exploration"]
    assert entry["state"] == "done"
    assert 0 < entry["seconds"] < 60
    assert entry["parameters"] == config_to_parameters(step.config)
    assert entry["parameters"]["scheme"] == "category"
    assert list(entry["inputs"].values()) == [sha256_file(read)]
    figures = ["figures/01_counts.png", "figures/01_counts.svg"]
    names = ["audit.json", "tables/01_summary.csv", *figures]
    assert entry["outputs"] == {name: sha256_file(step.run.path / name) for name in names}
    assert entry["scores"] == {"different_pixels": 0}


def test_cell_run_again_leaves_one_output_with_the_latest_hash(parameters):
    step = Step("01_data_exploration", parameters)
    for photos in (1, 2):
        step.table("01_summary", pd.DataFrame({"photos": [photos]}))
    step.record(inputs=[])
    path = step.run.tables_dir / "01_summary.csv"
    entry = step.run.read_manifest()["steps"]["01_data_exploration"]
    assert entry["outputs"] == {"tables/01_summary.csv": sha256_file(path)}
    assert "scores" not in entry
