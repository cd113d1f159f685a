"""What the machine refuses: provoked for real, said in one line, and the rerun works."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from clothseg_utils.core.faults import fault_in_words, fault_line, show_faults_in_notebook
from clothseg_utils.core.files import write_text
from clothseg_utils.core.workers import worker_pool
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.training.callbacks import CheckpointFiles

LONG_STEM = "a" * 300


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes; skips where nobody may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here: that takes Linux and root")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def limited(what: int, value: int):
    """Set a limit of this process, lifted before pytest writes on: its output is a file too."""
    former = resource.getrlimit(what)
    resource.setrlimit(what, (value, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, former)


def raised(action) -> Exception:
    """The error that an action ends with."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- the command line ----------------------------------------------------------------------------


def test_full_disk_is_one_line_and_the_rerun_goes_on(cli, small_disk, synthetic_root, tmp_path):
    disk = small_disk("size=200k")
    arguments = ["rasterize", "--annotations", annotation_path(synthetic_root, "val"), "--out"]
    (disk / "other").write_bytes(bytes(170_000))
    result = cli(*arguments, disk / "masks")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "the disk is full; expected room to write. Make some" in result.err
    assert str(disk / "masks") in result.err
    assert not [name for name in names_below(disk) if name.startswith(".")]
    (disk / "other").unlink()
    assert cli(*arguments, disk / "masks").code == 0
    assert cli(*arguments, tmp_path / "sound").code == 0
    for name in names_below(tmp_path / "sound"):
        assert (disk / "masks" / name).read_bytes() == (tmp_path / "sound" / name).read_bytes()


def test_read_only_disk(cli, small_disk, synthetic_root):
    out = small_disk("ro") / "masks"
    annotations = annotation_path(synthetic_root, "val")
    result = cli("rasterize", "--annotations", annotations, "--out", out)
    assert (result.code, result.err) == (
        2,
        f"error: {out}: the file system is read-only; expected a folder that can be written to. "
        "Name another one.\n",
    )


def test_file_where_a_folder_is_to_be(cli, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = cli("synthesize", "--out", tmp_path / "out" / "data", "--train", 1, "--val", 1)
    assert result.code == 2
    assert result.err.startswith(
        f"error: {tmp_path / 'out'}: a file stands where a folder is to be"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_mistake_of_ours_keeps_its_traceback(cli, monkeypatch):
    def mistake(*_, **__):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("clothseg_utils.drawing.dataset.synthesize", mistake)
    with pytest.raises(RuntimeError, match="a mistake"):
        cli("synthesize", "--out", "a")


# --- each fault ----------------------------------------------------------------------------------


def test_file_that_grows_too_large(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_text("the former one")
    content = {"weights": torch.zeros(1000)}
    with limited(resource.RLIMIT_FSIZE, 1000):
        error = raised(lambda: CheckpointFiles().save_checkpoint(content, checkpoint))
    assert (fault_line(error) or "").startswith(f"{checkpoint}: the file would be larger than")
    assert checkpoint.read_text() == "the former one"
    assert names_below(tmp_path) == ["last.ckpt"]


def test_too_many_open_files(tmp_path):
    path = tmp_path / "a"
    path.touch()
    with path.open() as file, limited(resource.RLIMIT_NOFILE, file.fileno() + 1):
        error = raised(lambda: [path.open() for _ in range(2000)])
    assert (fault_line(error) or "").startswith(f"{path}: too many files are open; expected")


def test_killed_worker():
    with worker_pool(1) as pool:
        error = raised(pool.submit(signal.raise_signal, signal.SIGKILL).result)
    assert (fault_line(error) or "").startswith("a worker process was ended by the system")


@pytest.mark.parametrize(
    "action",
    [
        lambda: bytes(2**62),
        lambda: np.empty(2**60, np.uint8),
        lambda: torch.empty(2**60, dtype=torch.uint8),
    ],
    ids=["Python", "NumPy", "torch"],
)
def test_out_of_memory(action):
    assert (fault_line(raised(action)) or "").startswith("out of memory; expected more to be free")


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (lambda folder: (folder / "none").read_text(), "none: no such file or folder"),
        (lambda folder: folder.read_text(), "a folder stands where a file is to be"),
        (lambda folder: write_text(folder / LONG_STEM / "a", ""), "the name is too long"),
    ],
)
def test_wrong_paths(tmp_path, action, what):
    line = fault_line(raised(lambda: action(tmp_path))) or ""
    assert what in line
    assert line.startswith(str(tmp_path))
    assert "[Errno" not in line


def test_words_of_libraries():
    loader = "DataLoader worker (pid 7) is killed by signal: "
    assert "/dev/shm" in (fault_in_words("RuntimeError", loader + "Bus error. It is") or "")
    assert "worker process" in (fault_in_words("RuntimeError", loader + "Killed.") or "")
    assert fault_in_words("ValueError", "train.batch_size: out of memory") is None  # it is ours
    assert fault_in_words("RuntimeError", "shapes differ") is None


def test_fault_that_a_clean_up_hid():
    def clean_up():
        try:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        finally:
            raise RuntimeError("call it first")

    assert (fault_line(raised(clean_up)) or "").startswith("too many files are open")


# --- notebooks -----------------------------------------------------------------------------------


def test_cell_of_a_notebook_ends_with_the_line(monkeypatch):
    shell, shown = InteractiveShell(), []
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, error, stb: shown.append(stb))
    show_faults_in_notebook()
    shell.run_cell("raise OSError(28, 'No space left on device', 'a.json')")
    shell.run_cell("raise OSError('ours')")
    fault, ours = shown
    assert len(fault) == 1
    assert fault[0].startswith("a.json: the disk is full; expected room to write")
    assert "Traceback" in "".join(ours)
    assert ours[-1].endswith(": ours")
