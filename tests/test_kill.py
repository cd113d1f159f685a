"""Processes killed in the middle of their work, and the same work again.

`kill_anywhere.py` does this to every verb at random moments; it takes long.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from clothseg_utils.core.files import (
    atomic_path,
    is_temporary,
    read_json,
    repo_root,
    whole_folder,
    write_json,
    write_text,
)
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.training.resume import former_aside

with tempfile.TemporaryDirectory() as _folder, atomic_path(Path(_folder) / "a") as _temporary:
    _temporary.touch()
    HOST = _temporary.name.split("-")[1]  # as the names of this machine's temporaries have it
DAY = 24 * 3600


@contextlib.contextmanager
def started(*arguments: object):
    """A Python process; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=repo_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_at(code: str, *arguments: object) -> None:
    """Run code in a process that says when it may be killed, and kill it."""
    with started("-c", code, *arguments) as process:
        assert process.stdout.readline() == "now\n", process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_temporary_of_a_killed_process_goes_with_the_next_write(tmp_path):
    code = """
import sys, time
from clothseg_utils.core.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("now", flush=True)
    time.sleep(60)
"""
    kill_at(code, tmp_path / "metrics.json")
    (left,) = tmp_path.iterdir()
    assert is_temporary(left.name)
    write_text(tmp_path / "another.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["another.json"]


def test_temporaries_of_others_stay(tmp_path):
    mine, theirs, old = (
        tmp_path / f".a-{host}-{pid}-0123abcd.png"
        for host, pid in ((HOST, os.getpid()), ("0badcafe", 7), ("0badcafe", 8))
    )
    foreign = tmp_path / ".a-0123abcd.png"
    for path in (mine, theirs, old, foreign):
        path.touch()
    os.utime(old, (time.time() - DAY - 60,) * 2)
    write_text(tmp_path / "a.txt", "whole")
    assert hidden(tmp_path) == sorted(path.name for path in (mine, theirs, foreign))


def test_what_a_killed_training_left_is_not_kept_with_the_former_one(tmp_path):
    run = RunFolder(tmp_path, "small")
    run.checkpoints_dir.mkdir(parents=True)
    run.best_checkpoint.touch()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (run.checkpoints_dir / f".last-{HOST}-{ended.pid}-0123abcd.ckpt").touch()
    with former_aside(run):
        run.checkpoints_dir.mkdir()
        run.last_checkpoint.touch()
    assert [path.name for path in (run.path / "previous").rglob("*.ckpt")] == ["best.ckpt"]


def test_folder_that_a_killed_process_was_to_replace(tmp_path):
    code = """
import shutil, sys, time
from pathlib import Path
from clothseg_utils.core import files
rename = Path.rename
def stop(path, target):
    if Path(target).name == "made":  # between the two renames
        print("now", flush=True)
        time.sleep(60)
    rename(path, target)
Path.rename = stop
with files.whole_folder(sys.argv[1], replace=True) as unfinished:
    (unfinished / "a.txt").write_text("new")
"""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.txt").write_text("former")
    kill_at(code, tmp_path / "made")
    assert not (tmp_path / "made").exists()  # and no half of either
    with whole_folder(tmp_path / "made", replace=True) as unfinished:
        (unfinished / "a.txt").write_text("newer")
    assert (tmp_path / "made" / "a.txt").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_former_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    made = tmp_path / "made"
    made.mkdir()
    (made / "a.txt").write_text("former")
    rename = Path.rename

    def refuse(path, target):
        if (path / "new").exists():
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), whole_folder(made, replace=True) as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "a.txt"]


@pytest.fixture
def many_annotations(synthetic_root, tmp_path) -> Path:
    """Annotations that take two workers a few seconds; rasterization needs no photos."""
    coco = read_json(annotation_path(synthetic_root, "val"))
    many = {"images": [], "annotations": []}
    for copy in range(40):
        shift = copy * 10_000_000
        for image in coco["images"]:
            name = f"{copy}_{image['file_name']}"
            many["images"].append(image | {"id": image["id"] + shift, "file_name": name})
        for annotation in coco["annotations"]:
            ids = {name: annotation[name] + shift for name in ("id", "image_id")}
            many["annotations"].append(annotation | ids)
    write_json(tmp_path / "many.json", coco | many)
    return tmp_path / "many.json"


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_rasterize_that_was_ended_goes_on(many_annotations, tmp_path, cli, sign):
    out = tmp_path / "masks"
    command = ["rasterize", "--annotations", many_annotations, "--workers", 2, "--out"]
    with started("-m", "clothseg_utils", *command, out) as process:
        end = time.monotonic() + 60
        while not any(out.glob("*.png")) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(sign)
        sent = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - sent < 10
    if sign == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert said == "error: interrupted; the same command goes on where it stopped.\n"
    n_made = len(list(out.glob("*.png")))
    assert 0 < n_made < 320
    assert cli(*command, out).code == 0
    assert hidden(out) == []
    assert cli(*command, tmp_path / "sound").code == 0
    sound = {path.name: path.read_bytes() for path in (tmp_path / "sound").iterdir()}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == sound
    assert json.loads(sound["index.json"])["state"] == "complete"
