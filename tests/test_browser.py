"""The notebooks in a real JupyterLab and a run's logs in a real TensorBoard, in a real browser.

Pictures of what the browser showed are left in `outputs/browser/`.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clothseg_utils.config import config_to_parameters, profile_config, replace_fields
from clothseg_utils.pipeline import NOTEBOOKS
from clothseg_utils.runs import RunFolder, repo_root
from clothseg_utils.train import read_history

pytest.importorskip("playwright.sync_api", reason="no Playwright: install the dev dependencies")

from lab import CHROMIUM_FLAGS, CHROMIUM_NAMES, Lab
from playwright.sync_api import Error, Page, expect, sync_playwright

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]

SHOTS_DIR = repo_root() / "outputs" / "browser"


@pytest.fixture(scope="module")
def chromium_path() -> str:
    """A Chromium on this machine; skips where there is none."""
    names = (os.environ.get("CLOTHSEG_CHROMIUM") or "", *CHROMIUM_NAMES)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser: install chromium, or set CLOTHSEG_CHROMIUM to one")
    return found


@pytest.fixture(scope="module")
def page(chromium_path: str) -> Iterator[Page]:
    """One page of a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path, args=list(CHROMIUM_FLAGS)
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def parameters(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Profile smoke, in scratch folders."""
    root = tmp_path_factory.mktemp("run")
    config = replace_fields(
        profile_config("smoke"),
        {
            "run_name": "browser",
            "outputs_root": str(root / "outputs"),
            "data_root": str(synthetic_root),
            "derived_root": str(root / "derived"),
            "mask_workers": 1,
        },
    )
    return config_to_parameters(config)


@pytest.fixture(scope="module")
def run(parameters: dict[str, Any]) -> RunFolder:
    """Folder of the run that the notebooks make."""
    return RunFolder(parameters["outputs_root"], parameters["run_name"])


@pytest.fixture(scope="module")
def lab(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab, started by `make lab`."""
    lab = Lab(tmp_path_factory.mktemp("lab"), page)
    yield lab
    lab.stop()


@pytest.fixture
def opened(lab: Lab, parameters: dict[str, Any]) -> Iterator[Any]:
    """Open a notebook with a fresh kernel; its kernel ends with the test."""

    def open_notebook(notebook: str, **changes: Any) -> Lab:
        lab.copy(notebook, parameters | changes)
        lab.open(notebook)
        return lab

    yield open_notebook
    with contextlib.suppress(Error):  # the test may have failed before there was a kernel
        lab.shut_down()


def check_outputs(lab: Lab, notebook: str) -> None:
    """No error, nothing on stderr, and a picture where a cell ends in a figure or a viewer."""
    saved = lab.save(notebook)
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr", output
        if cell.source.splitlines()[-1:] == ["figure"]:
            kinds = [set(o.get("data", {})) for o in cell.outputs]
            assert any("image/png" in kind for kind in kinds), cell.source
    widths = lab.page.eval_on_selector_all(
        ".jp-OutputArea-output img", "images => images.map(image => image.naturalWidth)"
    )
    n_figures = sum(cell.source.splitlines()[-1:] == ["figure"] for cell in code)
    assert len(widths) >= n_figures
    assert all(width > 100 for width in widths), widths


# --- the five notebooks, in order: each reads what the one before it wrote -----------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_cells(opened, notebook, run):
    lab = opened(notebook)
    ok = lab.run_all()
    lab.page.wait_for_timeout(1000)  # what the last cells sent is drawn
    lab.screenshot(SHOTS_DIR / f"{notebook}.png")
    assert ok, lab.page.locator(".jp-NotebookPanel").inner_text()[-2000:]
    check_outputs(lab, notebook)
    assert run.read_manifest()["steps"][notebook]["state"] == "done"
    bars = lab.page.locator(".jp-OutputArea-output .widget-hprogress, .jupyter-widget-hprogress")
    if notebook == "03_training":
        assert bars.count() >= 1
    for bar in bars.all():
        assert bar.locator(".progress-bar-success").count() == 1  # full and green
