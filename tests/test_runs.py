"""The run folder: whole files, one owner, a manifest that loses nothing."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clothseg_utils.core import runs
from clothseg_utils.core.files import (
    atomic_path,
    portable_path,
    read_json,
    repo_root,
    resolve_path,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from clothseg_utils.core.runs import RunFolder

HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


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


# Atomic writes


def test_the_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "mask.png"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == path.parent  # a rename across file systems would be a copy
        assert temporary.suffix == ".png"  # image writers go by the suffix
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"mean_iou": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_are_as_readable_as_others(tmp_path):
    """A temporary file as Python makes them is private; these must follow the umask."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "é")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9"


def test_a_very_long_name_is_written(tmp_path):
    path = tmp_path / f"{'x' * 250}.txt"
    write_text(path, "a")
    assert path.read_text() == "a"


# JSON and hashes


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Ärmel", "scores": [1, None]})
    assert read_json(tmp_path / "a.json") == {"name": "Ärmel", "scores": [1, None]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not JSON .*; restore or delete it"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_known_file(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    assert sha256_file(tmp_path / "a") == HELLO_SHA256


def test_sha256_of_json_does_not_depend_on_key_order():
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_package_hash_follows_the_source(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "report.html.j2").write_text("a")
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    before = runs.package_hash()
    (tmp_path / "__pycache__" / "runs.pyc").write_text("compiled")
    assert runs.package_hash() == before
    (tmp_path / "templates" / "report.html.j2").write_text("b")
    assert runs.package_hash() != before


# Paths


def test_a_relative_path_means_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("data/synthetic") == repo_root() / "data" / "synthetic"
    assert (repo_root() / "clothseg_utils" / "core" / "runs.py").is_file()


def test_an_absolute_path_stays(tmp_path):
    assert resolve_path(tmp_path / "a") == tmp_path / "a"


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/photos") == tmp_path / "photos"


def test_records_name_files_of_the_repository_without_the_machine(tmp_path):
    """A manifest from one machine must make sense on another."""
    inside = repo_root() / "data" / "synthetic"
    assert portable_path(inside) == "data/synthetic"
    assert resolve_path(portable_path(inside)) == inside
    assert portable_path(tmp_path / "a") == (tmp_path / "a").as_posix()


# Run names


@pytest.mark.parametrize("name", ["demo", "ccp_2", "lr=1e-3", "v1.0+x", "été", "x" * 100])
def test_plain_run_names(tmp_path, name):
    assert RunFolder(tmp_path, name).path == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../elsewhere",
        "/etc",
        "a/b",
        "a\\b",
        ".hidden",
        "-rf",
        "two words",
        "line\n",
        "nul\0",
        "$(reboot)",
        "x" * 101,
    ],
)
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
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest .*restore or delete"):
        run.read_manifest()


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    """Read, change and write must be one act: each process adds ten steps of its own."""
    code = """
import sys
from clothseg_utils.core import runs
vars(runs).update(git_commit=lambda: None, library_versions=lambda: None)  # slow
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
            holder = (tmp_path / "demo" / ".lock").read_text()
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
