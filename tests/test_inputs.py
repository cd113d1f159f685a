"""Tests of `prediction.inputs` and `prediction.tars`: lists, patterns and tars become photos."""

import io
import os
import tarfile
import threading
from pathlib import Path

import pytest
from PIL import Image

from clothseg_utils.data.photos import read_photo
from clothseg_utils.prediction.plan import PredictionPlan, parse_shard, plan_predictions
from clothseg_utils.prediction.predict import failure_lines, predict_photos


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Relative paths mean a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def make_photos(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (40 * number, 0, 90)).save(name, format="PNG")


def make_tar(tar: str, *members: str | tarfile.TarInfo) -> None:
    """Each photo of another colour; members that are no photo hold text."""
    with tarfile.open(tar, "w") as file:
        for number, member in enumerate(members):
            data = io.BytesIO(b"text")
            if isinstance(member, str):
                if member.endswith((".png", ".jpg")):
                    data = io.BytesIO()
                    Image.new("RGB", (8, 6), (40 * number, 0, 90)).save(data, format="PNG")
                member = tarfile.TarInfo(member)
                member.size = data.tell() or 4
                data.seek(0)
            file.addfile(member, data)


def planned(plan: PredictionPlan) -> dict[str, str]:
    return {str(task.photo): task.result_stem.as_posix() for task in plan.tasks}


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_keeps_the_folders_below_what_its_photos_share(tmp_path):
    Path("list.txt").write_text("p/x/a.jpg\np/b.jpg\r\n\np/x/y/a.jpg\n./p/x/a.jpg\n")
    plan = plan_predictions([], "out", ["list.txt"])
    expected = {"p/x/a.jpg": "out/x/a", "p/b.jpg": "out/b", "p/x/y/a.jpg": "out/x/y/a"}
    assert planned(plan) == expected, "nothing has to be there yet, and each counts once"
    assert [task.file_name for task in plan.tasks] == ["x/a.jpg", "b.jpg", "x/y/a.jpg"]
    Path("list.txt").write_text(f"p/x/a.jpg\n{tmp_path}/p/b.jpg\n")
    stems = planned(plan_predictions([], "out", ["list.txt"])).values()
    assert list(stems) == ["out/x/a", "out/b"]


def test_names_that_are_no_utf8_and_photos_that_are_gone(tiny_network):
    name = os.fsdecode(b"\xff caf\xe9.png")
    make_photos(name)
    Path("list.txt").write_bytes(os.fsencode(name) + b"\ngone.png\n")
    plan = plan_predictions([], "out", ["list.txt"])
    summary = predict_photos(tiny_network, plan.tasks)
    assert [task.name for task in summary.done] == [name]
    (line,) = failure_lines(summary.failed)
    assert "photo gone.png not found" in line


def test_a_list_that_is_none_is_refused():
    with pytest.raises(FileNotFoundError, match=r"no such list: gone\.txt"):
        plan_predictions([], "out", ["gone.txt"])
    Path("list.txt").write_bytes(b"\0\1\2")
    with pytest.raises(ValueError, match=r"list\.txt is no text"):
        plan_predictions([], "out", ["list.txt"])
    Path("list.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"no photo found in list\.txt"):
        plan_predictions([], "out", ["list.txt"])


# --- patterns ------------------------------------------------------------------------------------


def test_a_pattern_keeps_the_folders_behind_its_fixed_part():
    make_photos("p/x/a.jpg", "p/y/a.jpg", "p/y/b.png", "p/z/deep/a.jpg")
    plan = plan_predictions(["p/*/a.jpg"], "out")
    assert planned(plan) == {"p/x/a.jpg": "out/x/a", "p/y/a.jpg": "out/y/a"}
    assert len(plan_predictions(["p/**/*.jpg"], "out").tasks) == 3
    with pytest.raises(FileNotFoundError, match=r"nothing is called p/\*\.gif"):
        plan_predictions(["p/*.gif"], "out")


def test_a_file_with_a_pattern_s_name_is_itself():
    make_photos("p/[a].jpg", "p/a.jpg")
    assert list(planned(plan_predictions(["p/[a].jpg"], "out"))) == ["p/[a].jpg"]


# --- tars ----------------------------------------------------------------------------------------


def test_photos_of_tars_are_read_where_they_lie(tiny_network):
    members = ["s/0.jpg", "s/0.json", "s/1.png", "s/._1.png"]
    make_tar("00.tar", *members)
    make_tar("01.tar", "s/9.cls", *members)
    plan = plan_predictions(["00.tar", "01.tar"], "out")
    assert planned(plan)["00.tar/s/0.jpg"] == "out/00.tar/s/0"
    assert [task.file_name for task in plan.tasks][2:] == ["01.tar/s/0.jpg", "01.tar/s/1.png"]
    assert {reason: len(paths) for reason, paths in plan.skipped.items()} == {
        "no photo, .json": 2,
        "no photo, .cls": 1,
        "hidden": 2,
    }
    # named alike whatever else is in the call, so that each tar may be a call of its own
    assert plan_predictions(["01.tar"], "out").tasks[0].result_stem == Path("out/01.tar/s/0")
    with tarfile.open("01.tar") as file:
        file.extractall("unpacked", filter="data")
    for task in plan.tasks[2:]:
        image, has_more = task.decode(task.read())
        assert not has_more
        assert (image == read_photo(Path("unpacked", "s", task.name))).all()
    assert predict_photos(tiny_network, plan.tasks).done == plan.tasks


def test_a_member_s_name_leads_nowhere_else(tiny_network, tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    names = ["../../up.png", "/etc/root.png", "a/../b.png", "b.png", ".."]
    make_tar("x.tar", *names, link)
    plan = plan_predictions(["x.tar"], "out")
    assert plan.skipped["link or device in a tar"] == [Path("x.tar/link.png")]
    stems = list(planned(plan).values())
    assert stems == ["out/x.tar/up", "out/x.tar/etc/root", "out/x.tar/a/b", "out/x.tar/b"]
    before = {path for path in tmp_path.rglob("*")}
    predict_photos(tiny_network, plan.tasks, masks_only=True)
    new = {path for path in tmp_path.rglob("*")} - before
    assert len([path for path in new if path.is_file()]) == 4
    assert all(path.is_relative_to(tmp_path / "out") for path in new)


def test_a_damaged_tar_is_named_and_what_lies_before_is_read(tiny_network):
    make_tar("whole.tar", *(f"{number}.png" for number in range(9)))
    data = Path("whole.tar").read_bytes()
    Path("cut.tar").write_bytes(data[: 4 * 1024 + 100])
    plan = plan_predictions(["cut.tar"], "out")
    (line,) = failure_lines(plan.unread)
    assert "cut.tar cannot be read to its end" in line
    assert f"{len(plan.tasks)} photos before that are read" in line
    assert 0 < len(plan.tasks) < 9
    Path("no.tar").write_bytes(b"no tar" * 1000)
    (line,) = plan_predictions(["no.tar"], "out").unread.values()
    assert "expected a whole tar that is not compressed" in line
    plan = plan_predictions(["whole.tar"], "out")
    Path("whole.tar").write_bytes(data[:1500])  # after it was listed
    summary = predict_photos(tiny_network, plan.tasks)
    assert len(summary.done) == 1
    assert all("is cut: whole.tar ends in it" in why for why in summary.failed.values())


# --- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 3, 7, 20])
def test_shards_divide_the_photos_and_keep_their_names(of):
    make_photos(*(f"p/{number // 3}/a{number}.png" for number in range(10)), "p/0/a0.jpg")
    plan = plan_predictions(["p"], "out")
    parts = [plan.part(number, of).tasks for number in range(1, of + 1)]
    assert [task for tasks in parts for task in tasks] == plan.tasks
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/", "a/b", "-1/8", "1/8/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="expected one of so many, from 1/8 to 8/8"):
        parse_shard(text)


def test_a_list_that_windows_wrote():
    """A mark of UTF-8 at its beginning, and two signs at the end of a line."""
    make_photos("a.png", "b.png")
    Path("list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png\r\n")
    assert [task.name for task in plan_predictions([], "out", ["list.txt"]).tasks] == [
        "a.png",
        "b.png",
    ]


def test_a_tar_of_a_list_that_is_gone_is_named():
    Path("list.txt").write_text("gone.TAR\n")
    (line,) = plan_predictions([], "out", ["list.txt"]).unread.values()
    assert line == "tar gone.TAR not found; expected a file. Check the path."


@pytest.mark.skipif(os.name != "posix", reason="it takes pipes that have a name")
def test_list_may_be_a_pipe(tmp_path):
    """As in `--list <(find ...)`."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "list")
    writer = threading.Thread(
        target=(tmp_path / "list").write_text, args=[f"{tmp_path / 'a.jpg'}\n"], daemon=True
    )
    writer.start()
    plan = plan_predictions([], tmp_path / "out", [tmp_path / "list"])
    assert [task.photo for task in plan.tasks] == [tmp_path / "a.jpg"]
