"""Files and folders appear when they are whole; paths mean the same on each machine."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clothseg_utils.core.files import (
    atomic_path,
    portable_path,
    portable_text,
    read_json,
    repo_root,
    resolve_path,
    sha256_file,
    sha256_json,
    whole_folder,
    write_json,
    write_text,
)

HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


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


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "a.json"
    link.symlink_to(tmp_path / "far" / "b.json")
    for text in ("new", "newer"):  # led nowhere before the first
        write_text(link, text)
        assert (link.is_symlink(), (tmp_path / "far" / "b.json").read_text()) == (True, text)
    assert len(list(tmp_path.rglob("*"))) == 3
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OSError, match=r"symbolic links: '.*circle'"):
        write_text(tmp_path / "circle", "new")


@pytest.mark.skipif(os.name != "posix", reason="it takes pipes that have a name")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is a device or a pipe; expected a file"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()


def test_another_container_of_the_same_name_leaves_unfinished_files_alone(tmp_path):
    """It sees none of our processes, and its own have the same numbers."""
    contained = ["unshare", "--pid", "--fork", "--mount-proc"]
    if (
        sys.platform != "linux"
        or subprocess.run([*contained, "true"], capture_output=True).returncode
    ):
        pytest.skip("no processes of their own can be had here: that takes Linux and root")
    write = (
        "import sys; from clothseg_utils.core.files import write_text; write_text(sys.argv[1], '')"
    )
    with atomic_path(tmp_path / "ours.txt") as temporary:
        temporary.write_text("whole")
        for command in (contained, []):
            other = [*command, sys.executable, "-c", write, tmp_path / "theirs.txt"]
            subprocess.run(other, check=True, cwd=repo_root())
    assert (tmp_path / "ours.txt").read_text() == "whole"


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    def write(error: OSError):
        with atomic_path(tmp_path / "a.json"):
            raise error

    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match=r"other\.json"):
        write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "other.json"))
    with pytest.raises(BrokenPipeError) as closed:
        write(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
    assert closed.value.filename is None, "not of this file"


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


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "data" / "mine"
    with whole_folder(path) as unfinished:
        (unfinished / "a.txt").touch()
        assert not path.exists()
    assert [p.name for p in path.iterdir()] == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.parent.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def fail():
        with whole_folder(tmp_path / "mine") as unfinished:
            (unfinished / "a.txt").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_filled_stays(tmp_path):
    path = tmp_path / "mine"
    with pytest.raises(OSError, match="not empty"), whole_folder(path):
        write_text(path / "b.txt", "theirs")
    assert list(tmp_path.rglob("*")) == [path, path / "b.txt"]


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with whole_folder(tmp_path / "link") as unfinished:
        (unfinished / "a.txt").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "a.txt").exists()


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Ärmel", "scores": [1, None]})
    assert read_json(tmp_path / "a.json") == {"name": "Ärmel", "scores": [1, None]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not JSON .*; restore or delete it"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_known_file(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    assert sha256_file(tmp_path / "a") == HELLO_SHA256


def test_sha256_of_json_does_not_depend_on_key_order():
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_a_relative_path_means_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("data/synthetic") == repo_root() / "data" / "synthetic"
    assert (repo_root() / "clothseg_utils" / "core" / "runs.py").is_file()


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/photos") == tmp_path / "photos"


def test_records_name_files_of_the_repository_without_the_machine(tmp_path):
    """A manifest from one machine must make sense on another."""
    inside = repo_root() / "data" / "synthetic"
    assert portable_path(inside) == "data/synthetic"
    assert resolve_path(portable_path(inside)) == inside
    assert portable_path(tmp_path / "a") == (tmp_path / "a").as_posix()


@pytest.mark.parametrize(
    ("home", "path", "recorded"),
    [
        ("/homes/ann", "/homes/ann/photos/a.jpg", "~/photos/a.jpg"),
        ("/homes/ann", "/homes/anna/a.jpg", "/homes/anna/a.jpg"),
        ("/", "/data/a.jpg", "/data/a.jpg"),  # accounts of batch systems
    ],
)
def test_records_do_not_name_the_home_folder(monkeypatch, home, path, recorded):
    monkeypatch.setenv("HOME", home)
    assert portable_path(path) == recorded
    assert resolve_path(recorded) == Path(path)


def test_a_folder_called_like_a_home_is_recorded_as_that_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("clothseg_utils.core.files.repo_root", lambda: tmp_path)
    assert resolve_path(portable_path(tmp_path / "~data" / "a")) == tmp_path / "~data" / "a"


def test_an_unknown_home_is_named():
    with pytest.raises(ValueError, match=r"no home folder ~nobody9 is known; expected a path"):
        resolve_path("~nobody9/data")


def test_messages_name_files_without_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    inside = f"{repo_root()}/outputs/a.json is not JSON; see {tmp_path}/b/c and /elsewhere/d"
    assert portable_text(inside) == "outputs/a.json is not JSON; see ~/b/c and /elsewhere/d"
    monkeypatch.setenv("HOME", "/")
    assert portable_text("/elsewhere/d is lost") == "/elsewhere/d is lost"
