"""Tests of `workflow.kernel`: a notebook's process ends when it is time."""

import os
import signal
import threading
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbformat.v4 import new_code_cell, new_notebook

from clothseg_utils.workflow.kernel import Kernel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def interrupt_when(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_kernel_gets_time_unless_it_was_interrupted(tmp_path, monkeypatch):
    ends = []

    async def shutdown(kernel, now=False, restart=False):
        ends.append(now)
        await end(kernel, now, restart)

    end = AsyncKernelManager.shutdown_kernel
    monkeypatch.setattr(AsyncKernelManager, "shutdown_kernel", shutdown)
    began = tmp_path / "began.txt"
    # As a training does, it holds SIGTERM back.
    busy = f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(began)!r}, "w").write(str(os.getpid()))
        time.sleep(60)
    """
    for name, source in {"short": "1 + 1", "long": busy.replace("\n        ", "\n")}.items():
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    options = {"kernel_name": "python3", "progress_bar": False, "kernel_manager_class": Kernel}
    papermill.execute_notebook(str(tmp_path / "short.ipynb"), None, **options)
    assert ends == [False]
    thread = threading.Thread(target=interrupt_when, args=(began,))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        papermill.execute_notebook(str(tmp_path / "long.ipynb"), None, **options)
    thread.join()
    assert ends == [False, True]
    with pytest.raises(ProcessLookupError):
        os.kill(int(began.read_text()), 0)
