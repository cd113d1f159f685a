"""Tests of `prediction.compact`: a line a photo, whatever was interrupted, and one COCO file."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from clothseg_utils.prediction.compact import compact_file, join_to_coco, shard_path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def photos(synthetic_root, tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted((synthetic_root / "test").iterdir())[:5]:
        shutil.copy(photo, folder / photo.name)
    return folder


@pytest.fixture
def predict(cli, tiny_training, photos, tmp_path):
    """Predict the photos on the command line, to a compact file."""

    def call(name: str, *options: str | Path):
        checkpoint = tiny_training.run.best_checkpoint
        file = tmp_path / name
        return cli("predict", "--checkpoint", checkpoint, "--compact", file, photos, *options)

    return call


def test_shards_one_after_the_other_are_one_run_and_join_to_its_coco_file(
    predict, cli, tiny_training, photos, tmp_path
):
    (photos / "b_broken.jpg").write_bytes(b"no photo")
    assert predict("one/all.jsonl").code == 1
    whole = (tmp_path / "one/all.jsonl").read_bytes()
    names = [json.loads(line)["file_name"] for line in whole.splitlines()]
    assert names == sorted(p.name for p in photos.iterdir() if p.name != "b_broken.jpg")
    codes = [predict("all.jsonl", "--shard", f"{number}/3").code for number in (2, 3)]
    with pytest.raises(ValueError, match=r"all-00001-of-00003\.jsonl is not finished"):
        join_to_coco(tmp_path / "all.jsonl", tmp_path / "all.json")
    codes.append(predict("all.jsonl", "--shard", "1/3").code)
    assert sorted(codes) == [0, 0, 1]
    shards = [shard_path(tmp_path / "all.jsonl", number, 3) for number in (1, 2, 3)]
    assert b"".join(path.read_bytes() for path in shards) == whole
    coco = ("--coco", tmp_path / "expected.json")
    cli("predict", "--checkpoint", tiny_training.run.best_checkpoint, "--out", tmp_path / "out",
        photos, *coco)  # fmt: skip
    result = cli("join", tmp_path / "all.jsonl", "--coco", tmp_path / "all.json")
    assert (result.code, result.out[:24]) == (1, "5 photos in one COCO fil")
    (failed,) = tmp_path.glob("all-*.failed.txt")
    assert f"1 more failed and are not in it: {failed}" in " ".join(result.err.split())
    assert "b_broken.jpg" in failed.read_text()
    assert (tmp_path / "all.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_a_photo_that_was_mended_is_added(predict, cli, photos, tmp_path):
    whole = next(photos.iterdir()).read_bytes()
    (photos / "z.jpg").write_bytes(b"no photo")
    assert predict("all.jsonl").code == 1
    (photos / "z.jpg").write_bytes(whole)
    result = predict("all.jsonl")
    assert (result.code, list(tmp_path.glob("*.failed.txt"))) == (0, [])
    assert cli("join", tmp_path / "all.jsonl", "--coco", tmp_path / "all.json").code == 0


def test_shards_of_other_photos_are_refused(predict, photos, tmp_path):
    """Else a photo could stand in two of them, or in none."""
    predict("all.jsonl", "--shard", "1/2")
    shutil.copy(next(photos.iterdir()), photos / "a.jpg")
    result = predict("all.jsonl", "--shard", "2/2")
    assert result.code == 2
    assert "is of results with another photos" in result.err


@pytest.mark.parametrize("ending", ["", ".part"])
def test_shards_of_another_number_are_refused(predict, tmp_path, ending):
    predict("all.jsonl", "--shard", "1/5")
    shard = shard_path(tmp_path / "all.jsonl", 1, 5)
    shard = shard.rename(shard.with_name(shard.name + ending))
    before = shard.read_bytes()
    (tmp_path / "all-00001-of-00003.jsonl.gz").write_bytes(b"of somebody else")
    result = predict("all.jsonl", "--shard", "1/2")
    assert result.code == 2
    assert f"{shard.name} is of 5 shards; expected 2" in " ".join(result.err.split())
    assert (shard.read_bytes(), list(tmp_path.glob("*of-00002*"))) == (before, [])
    assert predict("all.jsonl", "--shard", "2/5").code == 0


@pytest.mark.parametrize("torn", [b'{"file_name": "ha', b'{"file_name": "half"}\n', bytes(50)])
def test_a_line_that_was_interrupted_is_written_again(predict, tmp_path, torn):
    predict("all.jsonl")
    file = tmp_path / "all.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.unlink()
    file.with_name("all.jsonl.part").write_bytes(b"".join(lines[:2]) + torn)
    result = predict("all.jsonl")
    assert "done before, with the same checkpoint and options: 2" in result.out
    assert file.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.glob("*all*")) == ["all.jsonl", "all.predict.json"]


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    with contextlib.suppress(KeyboardInterrupt), compact_file(path) as (_, add):
        add(b'{"file_name": "a", "height": 1, "width": 1, "annotations": []}')
        raise KeyboardInterrupt
    assert not path.exists()
    with compact_file(path) as (done, _):
        assert done == {"a"}
    assert path.exists()


def test_two_processes_do_not_write_one_file(predict, tmp_path):
    with FileLock(tmp_path / ".all.jsonl.lock"):
        result = predict("all.jsonl")
    assert result.code == 2
    assert "is being written by another process" in result.err


def test_a_file_of_somebody_else_stays(predict, tmp_path):
    file = tmp_path / "list.jsonl"
    file.write_text("a.jpg\n")
    result = predict("list.jsonl")
    assert result.code == 2
    assert "without list.predict.json of an earlier predict" in result.err
    assert file.read_text() == "a.jpg\n"
    (tmp_path / "my.failed.txt").write_text("notes")
    assert "my.failed.txt is there, without" in " ".join(predict("my.jsonl").err.split())
    assert (tmp_path / "my.failed.txt").read_text() == "notes"
    predict("all.jsonl")
    result = predict("all.jsonl", "--parts")
    assert result.code == 2
    assert "is of results with another parts" in result.err


def test_what_cannot_be_joined_is_named(predict, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"all\.predict\.json not found"):
        join_to_coco(tmp_path / "all.jsonl", tmp_path / "all.json")
    predict("all.jsonl", "--shard", "1/2")
    shutil.copy(tmp_path / "all-00001-of-00002.jsonl", tmp_path / "all-00001-of-00003.jsonl")
    with pytest.raises(ValueError, match=r"divided in several ways, by \[2, 3\]"):
        join_to_coco(tmp_path / "all.jsonl", tmp_path / "all.json")
    (tmp_path / "all.jsonl").write_text("no line of ours\n")
    with pytest.raises(ValueError, match=r"all\.jsonl, line 1 is no record"):
        join_to_coco(tmp_path / "all.jsonl", tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "o", "--compact", "c.jsonl"), "expected one of --out and --compact"),
        ((), "expected one of --out and --compact"),
        (("--compact", "c.jsonl", "--json"), "--compact writes nothing else"),
    ],
)
def test_options_that_do_not_go_together(cli, options, message):
    result = cli("predict", "--checkpoint", "x.ckpt", "p", *options)
    assert (result.code, message in result.err) == (2, True)


def test_lines_of_another_folder_are_not_taken_for_done(predict, photos, tmp_path):
    predict("all.jsonl")
    shutil.copytree(photos, tmp_path / "others")
    shutil.rmtree(photos)
    (tmp_path / "others").rename(tmp_path / "moved")
    (tmp_path / "list.txt").write_text("".join(f"{p}\n" for p in (tmp_path / "moved").iterdir()))
    photos.mkdir()
    result = predict("all.jsonl", "--list", tmp_path / "list.txt")
    assert result.code == 2
    assert "is of results with another folder" in result.err


def test_join_replaces_nothing_of_somebody_else(predict, tmp_path):
    predict("all.jsonl")
    before = (tmp_path / "all.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"all\.jsonl is there and no COCO file of predict's"):
        join_to_coco(tmp_path / "all.jsonl", tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_bytes() == before


def test_an_unfinished_file_of_somebody_else_stays(predict, tmp_path):
    (tmp_path / "all.jsonl.part").write_text("mine\n")
    result = predict("all.jsonl")
    assert result.code == 2
    assert "all.jsonl.part is there, without all.predict.json" in result.err
    assert (tmp_path / "all.jsonl.part").read_text() == "mine\n"
