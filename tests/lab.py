"""A real JupyterLab for the browser tests: started by `make lab`, driven in headless Chromium."""

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from clothseg_utils.core.files import repo_root
from clothseg_utils.workflow.pipeline import notebook_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 300_000
"""Longest wait for any one thing: a busy machine is slow, and a broken page waits for ever."""

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Cells out of sight stay in the page, or a picture of the whole notebook would miss them; and no
# question about news covers it.
_SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A web server in a process group of its own, waited for and stopped whole.

    Args:
        command: starts it, in the repository root.
        url: answers once it is up.
        log_path: takes its output.
        environment: variables on top of this process's.
    """

    def __init__(
        self, command: list[str], url: str, log_path: Path, environment: Mapping[str, str]
    ) -> None:
        self.url = url
        self._log = log_path.open("w")
        self._process = subprocess.Popen(
            command,
            cwd=repo_root(),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait(log_path)
        except BaseException:
            self.stop()
            raise

    def _wait(self, log_path: Path, seconds: float = PATIENCE_MS / 1000) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self.url, timeout=10):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise RuntimeError(f"no answer from {self.url}:\n{log_path.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the process and its children."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sign)
                self._process.wait(timeout=20)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._log.close()


class Lab:
    """JupyterLab on copies of the notebooks, with parameters as papermill would inject them.

    Args:
        folder: scratch folder; notebooks are copied there, settings and logs kept there.
        page: the browser's page.
    """

    def __init__(self, folder: Path, page: "Page") -> None:
        self.folder = folder / "notebooks"
        self.folder.mkdir(parents=True)
        self.page = page
        for name, settings in _SETTINGS.items():
            path = folder / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        self._token = secrets.token_hex(16)
        port = free_port()
        options = (
            f"--no-browser --port={port} --ServerApp.port_retries=0 --allow-root "
            f"--IdentityProvider.token={self._token} --LabApp.expose_app_in_browser=True"
        )
        self._root = f"http://127.0.0.1:{port}"
        places = ("config", "settings", "workspaces", "runtime", "data")
        names = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        names += ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
        self.server = Server(
            # `-o setup`: the environment that runs this test is the one to use.
            [
                *("make", "-o", "setup", "lab", f"VENV_PYTHON={shlex.quote(sys.executable)}"),
                f"LAB_FOLDER={shlex.quote(str(self.folder))}",
                f"LAB_OPTIONS={options}",
            ],
            f"{self._root}/api",
            folder / "lab.log",
            {
                **{n: str(folder / place) for n, place in zip(names, places, strict=True)},
                "IPYTHONDIR": str(folder / "ipython"),
                "OMP_NUM_THREADS": "1",
            },
        )

    def stop(self) -> None:
        """End the server and every kernel."""
        self.server.stop()

    def copy(self, notebook: str, parameters: Mapping[str, Any]) -> Path:
        """Copy a notebook, with its parameters replaced, into the served folder."""
        source = notebook_path(notebook)
        names = papermill.inspect_notebook(str(source))
        chosen = {name: value for name, value in parameters.items() if name in names}
        copied = parameterize_notebook(load_notebook_node(str(source)), chosen)
        path = self.folder / source.name
        nbformat.write(copied, path)
        return path

    def open(self, notebook: str) -> None:
        """Open a notebook with a fresh kernel, and wait until it is ready."""
        address = f"{self._root}/lab/tree/{notebook}.ipynb?token={self._token}&reset"
        self.page.goto(address, wait_until="load", timeout=PATIENCE_MS)
        # The reset redirects once and wipes the page's state.
        self.page.wait_for_url("**/lab/**", timeout=PATIENCE_MS)
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=PATIENCE_MS)
        self.page.wait_for_timeout(3000)
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=PATIENCE_MS)
        self._wait_for_kernel()

    def _wait_for_kernel(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext"
            "?.session?.kernel?.status === 'idle'",
            timeout=PATIENCE_MS,
        )

    def run_all(self) -> bool:
        """Run All Cells; whether every cell ran without an error."""
        return self.command("notebook:run-all-cells")

    def command(self, name: str) -> Any:
        """Run one of JupyterLab's commands to its end."""
        return self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def start_command(self, name: str) -> None:
        """Run one of JupyterLab's commands, and do not wait for it."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)

    def restart_kernel(self) -> None:
        """Restart the kernel, and answer yes when asked."""
        self.start_command("notebook:restart-kernel")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_selector(".jp-Dialog", state="detached")
        self._wait_for_kernel()

    def save(self, notebook: str) -> NotebookNode:
        """Save the notebook, and read it from its file."""
        self.command("docmanager:save")
        return nbformat.read(self.folder / f"{notebook}.ipynb", as_version=4)

    def cells(self) -> list[dict[str, Any]]:
        """Type, execution count and state of each cell, as the page has them."""
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell => ({"
            "  kind: cell.model.type,"
            "  count: cell.model.executionCount ?? null,"
            "  state: cell.model.executionState ?? null}))"
        )

    def active(self) -> int:
        """Index of the cell that has the focus."""
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
        )

    def select(self, index: int) -> None:
        """Give a cell the focus, in command mode."""
        self.page.evaluate(
            "index => { const notebook = window.jupyterapp.shell.currentWidget.content;"
            " notebook.activeCellIndex = index; notebook.mode = 'command'; notebook.activate(); }",
            index,
        )

    def wait_for_cell(self, index: int, count: int | None) -> None:
        """Wait until a cell has finished, with another execution count than `count`."""
        self.page.wait_for_function(
            "([index, count]) => { const model ="
            " window.jupyterapp.shell.currentWidget.content.widgets[index].model;"
            " return model.executionCount && model.executionCount !== count &&"
            " model.executionState === 'idle'; }",
            arg=[index, count],
            timeout=PATIENCE_MS,
        )

    def screenshot(self, path: Path) -> None:
        """Take a picture of the whole notebook: the window grows until nothing has to scroll."""
        if self._is_left_area_open():
            self.command("application:toggle-left-area")
        size = self.page.viewport_size
        for _ in range(2):  # what comes into sight may grow
            height = self.page.evaluate(
                "() => { const outer = document.querySelector("
                "'.jp-NotebookPanel .jp-WindowedPanel-outer'); outer.scrollTop = 0;"
                " return outer.scrollHeight - outer.clientHeight + window.innerHeight; }"
            )
            self.page.set_viewport_size({"width": size["width"], "height": min(height, 16_000)})
            self.page.wait_for_timeout(700)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        self.page.set_viewport_size(size)

    def _is_left_area_open(self) -> bool:
        return not self.page.evaluate("() => window.jupyterapp.shell.leftCollapsed")

    def shut_down(self) -> None:
        """End the kernel of the open notebook."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
