"""The run folder: one owner, a manifest that loses nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_files import HELLO_SHA256

from clothseg_utils.core import runs
from clothseg_utils.core.files import (
    read_json,
    repo_root,
)
from clothseg_utils.core.runs import RunFolder


def start_python(code, *arguments):
    """Start another Python process with pipes on all three streams."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=repo_root(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Run names


@pytest.mark.parametrize("name", ["demo", "ccp_2", "lr=1e-3", "v1.0+x", "été", "x" * 100])
def test_plain_run_names(tmp_path, name):
    assert RunFolder(tmp_path, name).path == tmp_path / name


HOSTILE = ("", ".", "..", "../elsewhere", "/etc", "a/b", "a\\b", ".hidden", "-rf", "two words")


@pytest.mark.parametrize("name", [*HOSTILE, "line\n", "nul\0", "$(reboot)", "x" * 101])
def test_hostile_run_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not a folder name; expected 1 to 100 letters"):
        RunFolder(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_made_only_when_written_to(tmp_path):
    run = RunFolder(tmp_path, "demo")
    assert run.read_manifest() == {}
    assert not run.path.exists()


# Manifest


def test_manifest_records_what_a_step_did(tmp_path):
    run = RunFolder(tmp_path / "outputs", "demo")
    (tmp_path / "in.json").write_bytes(b"hello")
    run.figures_dir.mkdir(parents=True)
    (run.figures_dir / "a.png").write_bytes(b"hello")
    run.record_step(
        "01_data_exploration",
        parameters={"image_size": 64},
        inputs=[tmp_path / "in.json"],
        outputs=[run.figures_dir / "a.png"],
        scores={"mean_iou": 0.5},
        seconds=1.234,
    )
    manifest = read_json(run.manifest_path)
    step = manifest["steps"]["01_data_exploration"]
    assert step["state"] == "done"
    assert step["seconds"] == 1.23
    assert step["parameters"] == {"image_size": 64}
    assert step["inputs"] == {(tmp_path / "in.json").as_posix(): HELLO_SHA256}
    assert step["outputs"] == {"figures/a.png": HELLO_SHA256}
    assert step["scores"] == {"mean_iou": 0.5}
    assert manifest["run_name"] == "demo"
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["libraries"].keys() >= {"torch", "opencv-python-headless", "numpy"}


def test_manifest_of_a_missing_input_is_not_written(tmp_path):
    run = RunFolder(tmp_path, "demo")
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        run.record_step("01", parameters={}, inputs=[tmp_path / "gone.json"], seconds=0)
    assert run.read_manifest() == {}


def test_a_step_is_updated_not_replaced(tmp_path):
    run = RunFolder(tmp_path, "demo")
    run.update_step("01", {"key": "abc", "state": "running"})
    run.update_step("02", {"state": "running"})
    run.update_step("01", {"state": "done"})
    assert run.read_manifest()["steps"] == {
        "01": {"key": "abc", "state": "done"},
        "02": {"state": "running"},
    }


@pytest.mark.parametrize("content", ["[]", "{}", '{"steps": []}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path, content):
    run = RunFolder(tmp_path, "demo")
    run.path.mkdir()
    run.manifest_path.write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json.*; expected .*Restore it, or delete"):
        run.read_manifest()


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    """Read, change and write must be one act: each process adds ten steps of its own."""
    code = """
import sys
from clothseg_utils.core import runs
vars(runs).update(git_commit=lambda: "", library_versions=lambda: {})  # slow
run = runs.RunFolder(sys.argv[1], "demo")
sys.stdin.read(1)  # all start together
for number in range(10):
    run.update_step(f"{sys.argv[2]}-{number}", {"state": "done"})
"""
    processes = [start_python(code, tmp_path, name) for name in "abc"]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
    steps = RunFolder(tmp_path, "demo").read_manifest()["steps"]
    assert steps.keys() == {f"{name}-{number}" for name in "abc" for number in range(10)}


def test_git_commit_is_empty_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "repo_root", lambda: tmp_path)
    assert runs.git_commit() == ""


# Lock

HOLD_LOCK = """
import sys
from clothseg_utils.core.runs import RunFolder
with RunFolder(sys.argv[1], "demo").lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def lock_holder(outputs_root):
    """Another process that holds the lock of run "demo"."""
    process = start_python(HOLD_LOCK, outputs_root)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_told_who_holds_the_run(tmp_path):
    with lock_holder(tmp_path) as process:
        with (
            pytest.raises(
                ValueError,
                match=f'run "demo" is in use by process {process.pid}; .* another --run-name',
            ),
            RunFolder(tmp_path, "demo").lock(),
        ):
            pass
        with RunFolder(tmp_path, "other").lock():  # another run is free
            pass


def test_the_lock_dies_with_a_killed_process(tmp_path):
    with lock_holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        with RunFolder(tmp_path, "demo").lock():
            holder = (tmp_path / "demo" / ".lock.pid").read_text()
    assert holder == str(os.getpid())


def test_the_lock_is_free_after_an_error(tmp_path):
    run = RunFolder(tmp_path, "demo")
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock():
        pass


def test_the_lock_also_holds_within_one_process(tmp_path):
    run = RunFolder(tmp_path, "demo")
    with run.lock(), pytest.raises(ValueError, match="is in use"), run.lock():
        pass


def test_the_manifest_can_be_written_while_the_run_is_locked(tmp_path):
    """The pipeline holds the run while its notebooks record their steps."""
    run = RunFolder(tmp_path, "demo")
    with run.lock():
        run.update_step("01", {"state": "done"})
    assert json.loads(run.manifest_path.read_text())["steps"] == {"01": {"state": "done"}}


def test_manifest_names_nothing_of_this_machine_for_files_in_the_repository(tmp_path):
    run = RunFolder(tmp_path, "demo")
    run.record_step("01", parameters={}, inputs=[repo_root() / "pyproject.toml"], seconds=0)
    step = run.read_manifest()["steps"]["01"]
    assert list(step["inputs"]) == ["pyproject.toml"]
    assert Path(repr(run).split("'")[1]) == tmp_path / "demo"
