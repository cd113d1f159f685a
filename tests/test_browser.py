"""The notebooks in a real JupyterLab and a run's logs in a real TensorBoard, in a real browser.

Pictures of what the browser showed are left in `outputs/browser/`.
"""

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clothseg_utils.core.config import config_to_parameters, profile_config, replace_fields
from clothseg_utils.core.files import repo_root
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.training.train import read_history
from clothseg_utils.workflow.pipeline import NOTEBOOKS

pytest.importorskip("playwright.sync_api", reason="no Playwright: install the dev dependencies")

from hostile import find_chromium
from lab import CHROMIUM_FLAGS, PATIENCE_MS, Lab, Server, free_port
from playwright.sync_api import Error, Page, expect, sync_playwright

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]

SHOTS_DIR = repo_root() / "outputs" / "browser"
VIEWERS = ("DatasetBrowser", "PaintingViewer", "PredictionViewer")


@pytest.fixture(scope="module")
def chromium_path() -> str:
    """A Chromium on this machine; skips where there is none."""
    return find_chromium()


@pytest.fixture(scope="module")
def page(chromium_path: str) -> Iterator[Page]:
    """One page of a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path, args=list(CHROMIUM_FLAGS)
        )
        SHOTS_DIR.mkdir(parents=True, exist_ok=True)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
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
    """No error, nothing on stderr, sharp figures, and viewers with the picture for other places."""
    saved = lab.save(notebook)
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr", output
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if ends_in_figure(cell.source):
            assert "image/png" in kinds, cell.source
        if any(f"{viewer}(" in cell.source for viewer in VIEWERS):
            assert {"application/vnd.jupyter.widget-view+json", "image/jpeg"} <= kinds
    images = lab.page.eval_on_selector_all(
        ".jp-RenderedImage img", "all => all.map(one => [one.naturalWidth, one.clientWidth])"
    )
    assert len(images) >= sum(ends_in_figure(cell.source) for cell in code)
    for natural_px, shown_px in images:
        assert shown_px > 100
        assert natural_px >= 1.9 * min(shown_px, 400), "not sharp on a HiDPI screen"


def ends_in_figure(source: str) -> bool:
    return source.splitlines()[-1].startswith("step.figure(")


def check_bars(page: Page) -> None:
    """Every progress bar in sight is full and green."""
    bars = page.locator(".jp-OutputArea-output .widget-hprogress")
    full = page.locator(".jp-OutputArea-output .widget-hprogress .progress-bar-success")
    assert bars.count() == full.count()


def check_dataset_browser(page: Page, _: Path) -> None:
    view = page.locator(".clothseg-view")
    first = view.inner_text()
    assert view.locator("svg path title").count() > 0  # names for the mouse
    page.get_by_role("button", name="next ▶").click()
    expect(view).not_to_have_text(first)
    page.get_by_role("button", name="val", exact=True).click()
    expect(page.get_by_text("of 8", exact=True)).to_be_visible()
    page.locator(".widget-dropdown select").select_option("shoe")
    expect(view.locator("li").filter(has_text="shoe")).to_be_visible()


def check_painting(page: Page, _: Path) -> None:
    view = page.locator(".clothseg-view")
    expect(view.locator("li.last")).to_have_count(1)
    expect(view.locator("li.later")).to_have_count(0)
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.focus()
    handle.press("ArrowLeft")
    expect(view.locator("li.later")).to_have_count(1)


def check_predictions(page: Page, folder: Path) -> None:
    view = page.locator(".clothseg-view")
    first = view.inner_text()
    page.get_by_role("button", name="next ▶").click()
    expect(view).not_to_have_text(first)
    page.get_by_role("button", name="errors", exact=True).click()
    expect(view.locator("li").filter(has_text="correct")).to_be_visible()
    page.get_by_role("button", name="prediction", exact=True).click()
    # Noise does not compress: more than the 10 MB that a server takes by itself.
    noise = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), dtype=np.uint8)
    photo = folder / "large.png"
    cv2.imwrite(str(photo), noise)
    assert photo.stat().st_size > 11e6
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="own photos").click()
    chooser.value.set_files(photo)
    expect(view.get_by_text("large.png (uploaded)")).to_be_visible()


CHECKS = {
    "01_data_exploration": check_dataset_browser,
    "02_mask_rasterization": check_painting,
    "05_qualitative_overlays": check_predictions,
}


# --- the five notebooks, in order: each reads what the one before it wrote -----------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_cells(opened, notebook, run, tmp_path):
    lab = opened(notebook)
    ok = lab.run_all()
    lab.page.wait_for_timeout(1000)  # what the last cells sent is drawn
    lab.screenshot(SHOTS_DIR / f"{notebook}.png")
    assert ok, lab.page.locator(".jp-NotebookPanel").inner_text()[-2000:]
    check_outputs(lab, notebook)
    check_bars(lab.page)
    assert run.read_manifest()["steps"][notebook]["state"] == "done"
    if notebook in CHECKS:
        CHECKS[notebook](lab.page, tmp_path)
        lab.page.locator(".clothseg-view").scroll_into_view_if_needed()
        lab.page.screenshot(path=SHOTS_DIR / f"{notebook}_viewer.png")


def test_stepping_with_shift_enter_and_running_each_cell_twice(opened):
    notebook = "02_mask_rasterization"
    lab = opened(notebook)
    cells = lab.cells()
    for index, cell in enumerate(cells[:-1]):
        lab.select(index)
        lab.page.keyboard.press("Shift+Enter")
        assert lab.active() == index + 1
        if cell["kind"] == "code":
            lab.wait_for_cell(index, None)
            once = lab.cells()[index]["count"]
            lab.select(index)
            lab.page.keyboard.press("Shift+Enter")
            lab.wait_for_cell(index, once)
    assert cells[-1]["kind"] == "markdown"  # so Shift-Enter has never added a cell
    counts = [cell["count"] for cell in lab.cells() if cell["kind"] == "code"]
    assert counts == list(range(2, 2 * len(counts) + 1, 2))
    check_outputs(lab, notebook)


def test_training_is_watched_and_goes_on_after_a_kernel_restart(opened, parameters):
    # Longer than any machine needs for an epoch; the test does not wait for the end.
    lab = opened("03_training", run_name="restarted", max_minutes=30.0)
    run = RunFolder(parameters["outputs_root"], "restarted")
    lab.start_command("notebook:run-all-cells")
    line = lab.page.locator(".jp-OutputArea-output").get_by_text("images/s")
    expect(line).to_be_visible()
    expect(line).to_contain_text("val mIoU")
    expect(line).to_contain_text(" left")
    curves = lab.page.locator(".jp-RenderedImage img")
    expect(curves.nth(1)).to_be_visible()  # after that of the batch
    line.scroll_into_view_if_needed()
    lab.page.screenshot(path=SHOTS_DIR / "03_training_live.png")
    wait_until(run.last_checkpoint.exists)
    lab.restart_kernel()
    before = read_history(run.logs_dir / "history.csv")

    lab.start_command("notebook:run-all-cells")
    expect(lab.page.get_by_text("training goes on from last.ckpt, after")).to_be_visible()
    wait_until(lambda: len(read_history(run.logs_dir / "history.csv")) > len(before))
    after = read_history(run.logs_dir / "history.csv")
    # The row of the epoch that the restart cut off may have been written already.
    assert after[: len(before) - 1] == before[:-1]
    seconds = [row["seconds"] for row in after]
    assert seconds == sorted(seconds)  # the clock went on


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for something that the page does not show."""
    until = time.monotonic() + PATIENCE_MS / 1000
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)


# --- TensorBoard ---------------------------------------------------------------------------------


@pytest.fixture
def tensorboard(tiny_training: Any, tmp_path: Path) -> Iterator[str]:
    """TensorBoard, started by `make tensorboard`, on the logs of a finished training."""
    port = free_port()
    server = Server(
        [
            *("make", "-o", ".venv/.installed", "tensorboard"),
            f"VENV_PYTHON={shlex.quote(sys.executable)}",
            f"LOG_FOLDER={shlex.quote(str(tiny_training.run.path))}",
            f"TENSORBOARD_OPTIONS=--port {port}",
        ],
        f"http://127.0.0.1:{port}/",
        tmp_path / "tensorboard.log",
        {},
    )
    yield server.url
    server.stop()


def test_tensorboard_shows_what_training_logged(tensorboard, page, tiny_training):
    page.goto(tensorboard)
    tags = {
        plugin: page.evaluate(
            "url => fetch(url).then(answer => answer.json())", f"/data/plugin/{plugin}/tags"
        )["logs"]
        for plugin in ("scalars", "images", "pr_curves")
    }
    groups = {tag.partition("/")[0] for tag in tags["scalars"]}
    assert groups == {"train", "val", "progress", "best"}
    assert {"progress/learning_rate", "progress/images_per_second"} <= set(tags["scalars"])
    assert sorted(tags["images"]) == [f"val_panels/{number}" for number in range(4)]
    assert "val_pr/background" in tags["pr_curves"]
    for tab, text in (
        ("timeseries", "progress"),
        ("images", "val_panels/0"),
        ("custom_scalars", "mean IoU"),
        ("pr_curves", "val_pr"),
        ("hparams", "learning_rate"),
    ):
        page.goto(f"{tensorboard}?darkMode=false#{tab}")
        page.reload()
        expect(page.get_by_text(text).first).to_be_visible()
        page.wait_for_timeout(2000)  # charts draw themselves
        page.screenshot(path=SHOTS_DIR / f"tensorboard_{tab}.png")
