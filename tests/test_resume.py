"""Tests of `prediction.resume`: what is done is not done again, unless it is another's."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

COLORS, MASK = "_color.png", ".png"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def photos(synthetic_root, tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, photo in enumerate(sorted((synthetic_root / "test").iterdir())[:5]):
        shutil.copy(photo, folder / ("sub" if number > 2 else "") / photo.name)
    return folder


@pytest.fixture
def predict(cli, tiny_training, photos, tmp_path):
    """Predict the photos on the command line, into `out`."""

    def call(*options: str | Path, out: str = "out", checkpoint: Path | None = None):
        checkpoint = checkpoint or tiny_training.run.best_checkpoint
        return cli("predict", "--checkpoint", checkpoint, "--out", tmp_path / out, photos, *options)

    return call


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def times(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def changed(folder: Path, before: dict[str, int]) -> set[str]:
    return {name for name, time in times(folder).items() if before.get(name) != time}


def test_what_is_done_is_not_done_again(predict, photos, tmp_path):
    assert predict().code == 0
    whole, before = contents(tmp_path / "out"), times(tmp_path / "out")
    again = predict()
    assert again.code == 0
    assert again.out.startswith(f"5 of 5 photos are done: {tmp_path / 'out'} ")
    assert "done before, with the same checkpoint and options: 5" in again.out
    assert changed(tmp_path / "out", before) == set()
    # a result that is missing, and a photo that was changed since
    first, second = sorted(p for p in photos.iterdir() if p.is_file())[:2]
    (tmp_path / "out" / f"{first.stem}{COLORS}").unlink()
    os.utime(second)
    assert "done before, with the same checkpoint and options: 3" in predict().out
    assert contents(tmp_path / "out") == whole
    again = {f"{photo.stem}{e}" for photo in (first, second) for e in (MASK, COLORS)}
    assert changed(tmp_path / "out", before) >= again
    # more is asked for
    assert "done before" not in predict("--json").out


def test_results_of_another_checkpoint_are_never_taken_for_done(
    predict, tiny_training, photos, tmp_path
):
    other = tmp_path / "other.ckpt"
    stored = torch.load(tiny_training.run.best_checkpoint, weights_only=True)
    for name, value in stored["state_dict"].items():
        if name.endswith("segmentation_head.0.bias"):
            value += torch.arange(len(value)) % 3
    torch.save(stored, other)
    predict(out="expected", checkpoint=other)
    predict()
    result = predict(checkpoint=other)
    assert "results of another checkpoint or options: all are made again" in result.out
    assert "done before" not in result.out
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert "done before" not in predict("--tta-flip", checkpoint=other).out
    # interrupted when one photo was done: what stands there of before does not count
    record = tmp_path / "out" / "predict.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": "of another"}))
    predict(checkpoint=other)
    one = min(p for p in (tmp_path / "out").glob("*_color.png"))
    os.utime(one, ns=(1, 1))
    result = predict(checkpoint=other)
    assert "done before, with the same checkpoint and options: 4" in result.out


def test_shards_give_the_files_of_one_run(predict, photos, tmp_path):
    shutil.copy(next(photos.glob("*.jpg")), photos / "a.jpg")
    shutil.copy(photos / "a.jpg", photos / "a.jpeg")  # named by what else is in the folder
    predict(out="whole")
    for number in (3, 1, 2):
        result = predict("--shard", f"{number}/3")
        assert result.code == 0
        assert "done before" not in result.out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert predict("--shard", "8/8", out="more").code == 0
    assert predict("--shard", "1/8", out="more").out.startswith("0 of 0 photos are done")


def test_shards_of_different_settings_are_refused(predict, tmp_path):
    predict("--shard", "1/2")
    before = times(tmp_path / "out")
    result = predict("--shard", "2/2", "--tta-flip")
    assert result.code == 2
    assert "is of results with another inference" in result.err
    assert changed(tmp_path / "out", before) == set()


@pytest.mark.parametrize("options", [("--shard", "1/2"), ("--masks-only",)])
def test_results_that_could_be_taken_for_photos_are_refused(predict, photos, options):
    before = contents(photos)
    result = predict(*options, out="photos")
    assert result.code == 2
    assert "holds photos and would hold results" in result.err
    assert contents(photos) == before


def test_masks_alone_are_no_photos(predict, photos, cli, tiny_training, tmp_path):
    predict("--masks-only", out="photos/out")
    assert len(contents(photos / "out")) == 5 + 1
    result = predict(out="elsewhere")
    assert result.out.startswith("5 of 5 photos are done")
    assert "skipped, results of predict: 6" in result.out


def test_a_mask_beside_photos_whose_colours_are_missing_is_no_photo(predict, photos):
    predict(out="photos")
    whole = contents(photos)
    next(photos.glob("*_color.png")).unlink()  # killed between two files
    predict(out="photos")
    assert contents(photos) == whole


def test_files_on_all_photos_are_made_of_all_photos(predict, tmp_path):
    predict("--coco", tmp_path / "first.json")
    result = predict("--coco", tmp_path / "second.json")
    assert "done before" not in result.out
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    result = predict("--shard", "1/2", "--coco", tmp_path / "third.json")
    assert (result.code, "a shard has not all photos" in result.err) == (2, True)


def test_photos_of_another_folder_are_not_done_whatever_their_names(
    cli, tiny_training, photos, tmp_path
):
    """Cameras number from 1 in each folder."""
    first, second, third = sorted(p for p in photos.iterdir() if p.is_file())[:3]
    for name, photo in {"a": first, "b": second, "c/d": third}.items():
        (tmp_path / name).mkdir(parents=True)
        os.utime(shutil.copy(photo, tmp_path / name / "1.jpg"), (1, 1))

    def predict(folder: str, out: str = "out"):
        given = ("--checkpoint", tiny_training.run.best_checkpoint, "--out", tmp_path / out)
        return cli("predict", *given, tmp_path / folder).out

    predict("b", out="expected")
    assert "done before" not in predict("a")
    result = predict("b")
    assert "holds results of photos of another folder: all are made again" in result
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    # a further folder of results leaves what is done
    assert "done before" not in predict("c")
    assert "options: 1" in predict("b")
    assert "options: 1" in predict("c")
