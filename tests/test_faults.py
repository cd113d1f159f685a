"""What the machine refuses: provoked for real, said in one line, and the rerun works."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from clothseg_utils.core.faults import (
    fault_in_words,
    fault_line,
    quiet_threads,
    show_faults_in_notebook,
    words_of_worker,
)
from clothseg_utils.core.files import check_writable, write_text
from clothseg_utils.core.workers import worker_pool
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.data.photo_cache import look_once
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


@contextlib.contextmanager
def closed(path: Path, mode: int = 0):
    """A file or folder whose mode forbids all, or so much."""
    former = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(former)


READ_ONLY = 0o555


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


def test_read_only_disk_names_the_file_that_was_asked_for(cli, small_disk, synthetic_root):
    out = small_disk("ro") / "findings.json"
    result = cli("audit", "--annotations", annotation_path(synthetic_root, "val"), "--json", out)
    assert result.code == 2
    assert result.err.startswith(f"error: {out}: the file system is read-only; ")


def test_file_where_a_folder_is_to_be(cli, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = cli("synthesize", "--out", tmp_path / "out" / "data", "--train", 1, "--val", 1)
    assert result.code == 2
    assert result.err.startswith(
        f"error: {tmp_path / 'out'}: a file stands where a folder is to be"
    )
    assert (tmp_path / "out").read_text() == "mine"


@pytest.fixture
def work(tmp_path, synthetic_root, tiny_training) -> Path:
    """Folder that holds what the verbs read: a dataset, a checkpoint, and lines of predict."""
    shutil.copytree(synthetic_root, tmp_path / "data")
    shutil.copy(tiny_training.run.best_checkpoint, tmp_path / "best.ckpt")
    shutil.copytree(synthetic_root / "test", tmp_path / "photos")
    (tmp_path / "out").mkdir()
    return tmp_path


VAL_JSON = "data/instances_attributes_val2020.json"
TRAIN = "train --data-root data --run-name a --profile smoke --set run.outputs_root=out"
PREDICT = "predict --checkpoint best.ckpt photos"
EVALUATE = "evaluate --checkpoint best.ckpt --data-root data --out"


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (f"audit --annotations {VAL_JSON}", VAL_JSON),
        (f"audit --annotations {VAL_JSON} --images-dir photos", "photos"),
        (f"convert --photos photos --annotations {VAL_JSON} --out out/a", "photos"),
        (f"convert --photos photos --annotations {VAL_JSON} --out out/a", VAL_JSON),
        (f"rasterize --annotations {VAL_JSON} --out out/a", VAL_JSON),
        (f"{EVALUATE} out/a", "data"),
        (f"{EVALUATE} out/a", "best.ckpt"),
        (TRAIN, "data"),
        (f"{TRAIN} --set train.init_from=best.ckpt", "best.ckpt"),
        (f"{PREDICT} --out out/a", "best.ckpt"),
        (f"{PREDICT} --compact out/a.jsonl", "best.ckpt"),
        ("export --checkpoint best.ckpt --out out/a.onnx", "best.ckpt"),
    ],
)
def test_what_may_not_be_read_is_named(cli, unprivileged, work, monkeypatch, command, path):
    monkeypatch.chdir(work)
    with closed(work / path):
        result = unprivileged(cli, *command.split())
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert path in result.err
    assert "hange its mode or owner" in result.err
    assert [name for name in names_below(work / "out") if not name.endswith(".lock")] == []


@pytest.mark.parametrize(
    "command",
    [
        f"audit --annotations {VAL_JSON} --json out/a.json",
        f"convert --photos photos --annotations {VAL_JSON} --out out/a",
        f"rasterize --annotations {VAL_JSON} --out out/a",
        "synthesize --train 1 --val 1 --out out/a",
        "download --data-root out/a",
        f"{EVALUATE} out/a",
        TRAIN,
        f"{PREDICT} --out out/a",
        f"{PREDICT} --out new --coco out/a.json",
        f"{PREDICT} --out new --panoptic out/a",
        f"{PREDICT} --compact out/a.jsonl",
        f"{PREDICT} --compact out/a.jsonl --shard 1/2",
        "export --checkpoint best.ckpt --format safetensors --out out/a.safetensors",
    ],
)
@pytest.mark.parametrize("hindrance", ["read-only folder", "file"])
def test_where_nothing_can_be_written_is_named(
    cli, unprivileged, work, monkeypatch, command, hindrance
):
    monkeypatch.chdir(work)
    # Long work is not begun.
    monkeypatch.setattr("clothseg_utils.network.evaluate.evaluate", None)
    if hindrance == "file":
        (work / "out").rmdir()
        (work / "out").write_text("mine")
    with closed(work / "out", READ_ONLY):
        result = unprivileged(cli, *command.split())
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert f"{work / 'out'}" in result.err or "error: out" in result.err
    told = "permission denied" if hindrance != "file" else "a file stands where a folder is to be"
    assert told in result.err
    assert "ame another one" in result.err


@pytest.mark.slow
def test_shared_memory_of_64_kb(work):
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "--mount", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("no /dev/shm can be mounted here: that takes Linux and root")
    command = [sys.executable, "-m", "clothseg_utils", *TRAIN.split()]
    settings = ["--set", "train.num_workers=2", "--set", "train.max_epochs=1"]
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{small} && exec "$@"', "sh", *command, *settings],
        cwd=work,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "0 instead of 2, as /dev/shm has 0 MB free" in result.stdout + result.stderr
    assert (work / "out" / "a" / "checkpoints" / "best.ckpt").is_file()


def test_photo_that_may_not_be_read_is_named_and_done_next_time(
    cli, unprivileged, work, monkeypatch
):
    monkeypatch.chdir(work)
    photo = min((work / "photos").iterdir())
    arguments = [*PREDICT.split(), "--out", "out", "--masks-only"]
    with closed(photo):
        result = unprivileged(cli, *arguments)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{photo.name} may not be read; change its permissions" in result.err
    assert "7 of 8 photos are done" in result.out
    assert cli(*arguments).code == 0
    assert len(list((work / "out").glob("*.png"))) == 8


def test_folder_that_may_not_be_read_is_named_by_convert(cli, unprivileged, work, monkeypatch):
    monkeypatch.chdir(work)
    photo = min((work / "photos").iterdir())
    (work / "photos" / "shut").mkdir()
    photo.rename(work / "photos" / "shut" / photo.name)
    arguments = f"convert --photos photos --annotations {VAL_JSON} --out out/a".split()
    with closed(work / "photos" / "shut"):
        result = unprivileged(cli, *arguments)
    assert result.code == 0
    assert "folders and files that cannot be read: 1 (shut: Permission denied)" in result.out
    assert f"photos left out, not in the folder: 1 ({photo.name}" in result.out
    assert "left out, not in the folder" not in cli(*arguments).out  # made anew, with all


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


def test_photo_that_could_not_be_read_is_looked_at_again(tmp_path, unprivileged, monkeypatch):
    photo = tmp_path / "a.jpg"
    photo.write_text("whole")

    def look(_: str) -> str:
        try:
            return photo.read_text()
        except OSError as error:
            return type(error).__name__

    def found() -> str:
        options = {"cache_path": tmp_path / "cache.json", "desc": ""}
        return look_once({"a": photo}, look, str, **options)["a"]

    with closed(photo):
        assert unprivileged(found) == "PermissionError"
    assert found() == "whole"
    photo.write_text("another")
    with monkeypatch.context() as patch:  # it vanishes after it was listed, and comes back
        patch.setattr(
            Path, "read_text", lambda path: path.rename(tmp_path / "away") and path.open()
        )
        assert found() == "FileNotFoundError"
    (tmp_path / "away").rename(photo)
    assert found() == "another"


def test_folder_that_cannot_be_written_to(tmp_path, unprivileged):
    with closed(tmp_path, READ_ONLY):
        error = raised(lambda: unprivileged(check_writable, tmp_path))
    assert (fault_line(error) or "").startswith(f"{tmp_path}: permission denied; expected")
    check_writable(tmp_path / "new" / "folder")
    assert names_below(tmp_path) == []


def test_threads_that_meet_a_fault_are_quiet(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: told.append(str(ended.exc_value)))

    def end(error: Exception) -> None:
        raise error

    with quiet_threads():
        for error in (OSError(errno.ENOSPC, "No space left"), ValueError("a mistake")):
            thread = threading.Thread(target=end, args=(error,))
            thread.start()
            thread.join()
    assert told == ["a mistake"]


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


def test_names_in_bytes():
    line = fault_in_words("PermissionError", "[Errno 13] Permission denied: b'/logs/events'")
    assert (line or "").startswith("/logs/events: permission denied; expected a file that you may")


def test_words_of_libraries():
    loader = "DataLoader worker (pid 7) is killed by signal: "
    assert "/dev/shm" in (fault_in_words("RuntimeError", loader + "Bus error. It is") or "")
    assert "worker process" in (fault_in_words("RuntimeError", loader + "Killed.") or "")
    assert fault_in_words("ValueError", "train.batch_size: out of memory") is None  # it is ours
    assert fault_in_words("RuntimeError", "shapes differ") is None


class OneFile(torch.utils.data.Dataset):
    """A dataset of one item, which it fails to read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "a.jpg: no such file or"),
        (MemoryError("all of it"), "out of memory; expected"),
        (RuntimeError("a mistake"), None),
        (FileNotFoundError("photo a.jpg not found; fetch it"), None),
    ],
)
def test_what_a_loader_s_worker_met(error, line):
    loader = torch.utils.data.DataLoader(OneFile(error), num_workers=1)
    found = raised(lambda: next(iter(loader)))
    assert str(error) in words_of_worker(str(found))
    assert "Traceback" not in words_of_worker(str(found))
    assert (fault_line(found) or "").startswith(line or "")
    assert (fault_line(found) is None) == (line is None)


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
