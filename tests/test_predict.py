"""Tests of `prediction.predict`: any photo to a mask of its own size, and where files go."""

import dataclasses
import io
import json
import os
import re
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES
from clothseg_utils.data.masks import encode_mask
from clothseg_utils.data.photos import read_photo
from clothseg_utils.network.segmenter import (
    logits_to_confidence,
    logits_to_mask,
    logits_to_probabilities,
)
from clothseg_utils.prediction.plan import PhotoTask, plan_predictions
from clothseg_utils.prediction.predict import failure_lines, predict_photos
from clothseg_utils.prediction.result_names import MASK_SOFTWARE

# The referee's decode(), pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photos(synthetic_root) -> list[Path]:
    return sorted((synthetic_root / "test").iterdir())


@pytest.fixture(scope="module")
def drawn(photos) -> Image.Image:
    """Part of a drawn photo, 96 wide and 64 high, on which the tiny network finds classes."""
    return Image.fromarray(read_photo(photos[0])[100:164, 60:156])


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# --- logits to mask ------------------------------------------------------------------------------


@pytest.mark.parametrize("height_width", [(32, 48), (9, 200), (1, 1), (10, 7)])
@pytest.mark.parametrize("levels", ["continuous", "with ties"])
def test_mask_equals_interpolation_then_argmax(height_width, levels):
    logits = torch.randn((1, 13, 16, 24), generator=torch.Generator().manual_seed(0))
    if levels == "with ties":
        logits = logits.round()
    upsampled = torch.nn.functional.interpolate(
        logits, height_width, mode="bilinear", align_corners=False
    )
    expected = upsampled.argmax(dim=1)[0].numpy()
    mask = logits_to_mask(logits, *height_width)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


def test_mask_of_cropped_channels_last_logits():
    # What a network gives: channels_last, and a letterbox crop that is not contiguous.
    logits = torch.randn((1, 13, 20, 20), generator=torch.Generator().manual_seed(1))
    cropped = logits.contiguous(memory_format=torch.channels_last)[:, :, 3:17, 0:20]
    upsampled = torch.nn.functional.interpolate(
        logits[:, :, 3:17].contiguous(), (70, 100), mode="bilinear", align_corners=False
    )
    top_two = upsampled.topk(2, dim=1).values[0]
    clear = (top_two[0] - top_two[1] > 1e-5).numpy()  # another memory format rounds otherwise
    expected = upsampled.argmax(dim=1)[0].numpy()
    assert clear.mean() > 0.999
    assert np.array_equal(logits_to_mask(cropped, 70, 100)[clear], expected[clear])


def test_probabilities_add_up_and_agree_with_the_mask(tiny_network, drawn):
    image = np.asarray(drawn)
    logits = tiny_network.logits(image)
    mask = logits_to_mask(logits, *image.shape[:2])
    probabilities = logits_to_probabilities(logits, *image.shape[:2])
    assert probabilities.shape == (13, 64, 96)
    assert probabilities.dtype == np.float16
    assert (probabilities >= 0).all()
    assert np.abs(probabilities.astype(np.float64).sum(axis=0) - 1).max() < 13 * 2**-11
    # Where float16 rounds two classes to one value, either of them is right.
    of_mask = np.take_along_axis(probabilities, mask[None].astype(np.int64), axis=0)[0]
    assert np.array_equal(of_mask, probabilities.max(axis=0))
    assert len(np.unique(mask)) >= 3, "one class only would prove nothing"


def test_confidence_is_the_probability_of_the_masks_class(tiny_network, drawn):
    image = np.asarray(drawn)
    logits = tiny_network.logits(image)
    probabilities = logits_to_probabilities(logits, *image.shape[:2])
    confidence = logits_to_confidence(logits, *image.shape[:2])
    assert confidence.shape == (64, 96)
    assert confidence.dtype == np.float32
    np.testing.assert_allclose(confidence, probabilities.max(axis=0), atol=2**-11)


def test_confidence_of_extreme_logits():
    """Between a pixel that is sure of class 0 and one that is sure of class 2."""
    logits = torch.full((1, 3, 1, 2), -400.0)
    logits[0, 0, 0, 0] = logits[0, 2, 0, 1] = 400.0
    assert logits_to_confidence(logits, 1, 3).tolist() == [[1.0, 0.5, 1.0]]


# --- one photo -----------------------------------------------------------------------------------


def test_letterbox_logits_cover_the_photo_only(tiny_network):
    tall = np.zeros((60, 20, 3), np.uint8)
    assert tiny_network.logits(tall).shape == (1, 13, 32, 11)  # 20 / 60 of 32
    assert tiny_network.look(tall, tiny_network.image_size, "squash").shape == (1, 13, 32, 32)
    squashing = dataclasses.replace(tiny_network, resize="squash")
    assert squashing.logits(tall).shape == (1, 13, 32, 32)


def save_rotated(photo: Image.Image, path: Path) -> None:
    """Store a photo lying on its side, with the note that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


PHOTO_KINDS = {
    "a.jpg": lambda photo, path: photo.save(path, quality=95),
    "a.jpeg": lambda photo, path: photo.save(path, quality=95),
    "a.png": lambda photo, path: photo.save(path),
    "a.webp": lambda photo, path: photo.save(path, lossless=True),
    "grey.jpg": lambda photo, path: photo.convert("L").save(path),
    "grey16.png": lambda photo, path: Image.fromarray(
        np.asarray(photo.convert("L")).astype(np.uint16) * 257
    ).save(path),
    "rgba.png": lambda photo, path: photo.convert("RGBA").save(path),
    "palette.png": lambda photo, path: photo.convert("P").save(path),
    "cmyk.jpg": lambda photo, path: photo.convert("CMYK").save(path),
    "rotated.jpg": save_rotated,
}


@pytest.mark.parametrize("name", PHOTO_KINDS)
def test_every_kind_of_photo_gets_a_mask_of_its_displayed_size(tiny_network, drawn, tmp_path, name):
    photo = tmp_path / name
    PHOTO_KINDS[name](drawn, photo)
    tasks = plan_predictions([photo], tmp_path / "out").tasks
    assert predict_photos(tiny_network, tasks).done == tasks
    mask = read_png(tmp_path / "out" / f"{photo.stem}.png")
    assert mask.shape == (64, 96)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, tiny_network.mask(read_photo(photo)))


def test_lossless_formats_of_one_picture_get_one_mask(tiny_network, drawn, tmp_path):
    masks = []
    for name in ("a.png", "a.webp", "rgba.png"):
        PHOTO_KINDS[name](drawn, tmp_path / name)
        masks.append(tiny_network.mask(read_photo(tmp_path / name)))
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize("size", [(1, 1), (57, 1), (1, 57), (3000, 2), (3000, 700)])
def test_extreme_sizes(tiny_network, photos, tmp_path, size):
    photo = tmp_path / "photo.png"
    Image.open(photos[0]).resize(size).save(photo)
    summary = predict_photos(tiny_network, plan_predictions([photo], tmp_path / "out").tasks)
    assert summary.failed == {}
    for name in ("photo.png", "photo_color.png"):
        assert read_png(tmp_path / "out" / name).shape[:2] == size[::-1]


def test_results_of_one_photo(tiny_network, photos, tmp_path):
    options = {"as_json": True, "probabilities": True}
    (task,) = plan_predictions([photos[0]], tmp_path).tasks
    predict_photos(tiny_network, [task], **options)
    stem = photos[0].stem
    endings = [".png", "_color.png", "_overlay.jpg", ".json", ".npz"]
    assert files_below(tmp_path) == sorted(stem + ending for ending in endings)
    assert [path.name for path in task.results(**options)] == [stem + e for e in endings]

    image = read_photo(photos[0])
    mask = read_png(tmp_path / f"{stem}.png")
    assert len(np.unique(mask)) >= 4, "fewer classes would prove little"
    color_mask = read_png(tmp_path / f"{stem}_color.png")
    assert np.array_equal(color_mask, tiny_network.colors[mask])
    overlay = read_photo(tmp_path / f"{stem}_overlay.jpg")
    assert overlay.shape[0] >= image.shape[0]
    assert overlay.shape[1] > image.shape[1]  # the legend stands beside it
    with np.load(tmp_path / f"{stem}.npz") as arrays:
        assert arrays["probabilities"].shape == (13, *mask.shape)
        assert arrays["class_names"].tolist() == list(SUPERCATEGORY_NAMES)


def test_json_decodes_to_the_written_mask(tiny_network, photos, tmp_path):
    tasks = plan_predictions(photos[:2], tmp_path).tasks
    predict_photos(tiny_network, tasks, as_json=True)
    for photo in photos[:2]:
        mask = read_png(tmp_path / f"{photo.stem}.png")
        record = json.loads((tmp_path / f"{photo.stem}.json").read_text())
        assert record["file_name"] == photo.name
        assert (record["height"], record["width"]) == mask.shape
        decoded = np.zeros_like(mask)
        for annotation in record["annotations"]:
            instance_mask = coco_mask.decode(annotation["segmentation"])
            assert instance_mask.sum() == annotation["area"]
            assert annotation["class_name"] == SUPERCATEGORY_NAMES[annotation["class_id"]]
            decoded[instance_mask == 1] = annotation["class_id"]
        assert np.array_equal(decoded, mask)


def test_mask_does_not_depend_on_what_else_is_in_the_call(tiny_network, photos, tmp_path):
    wide = tmp_path / "wide.png"
    Image.open(photos[1]).resize((300, 40)).save(wide)
    predict_photos(tiny_network, plan_predictions([photos[0]], tmp_path / "alone").tasks)
    together = plan_predictions([wide, *photos[1:3], photos[0]], tmp_path / "together").tasks
    predict_photos(tiny_network, together)
    name = f"{photos[0].stem}.png"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()


# --- what is read, and where results go ----------------------------------------------------------


def make_photos(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "navy").save(folder / name)


def planned(tasks: list[PhotoTask], root: Path) -> dict[str, str]:
    return {
        task.photo.relative_to(root).as_posix(): task.result_stem.relative_to(root).as_posix()
        for task in tasks
    }


def test_subfolders_are_kept_below_out(tmp_path):
    make_photos(tmp_path / "in", "b.jpg", "deep/er/a.PNG", "deep/a.webp", ".hidden/x.jpg")
    (tmp_path / "in" / "notes.txt").write_text("no photo")
    (tmp_path / "in" / "folder.jpg").mkdir()
    assert planned(plan_predictions([tmp_path / "in"], tmp_path / "out").tasks, tmp_path) == {
        "in/b.jpg": "out/b",
        "in/deep/a.webp": "out/deep/a",
        "in/deep/er/a.PNG": "out/deep/er/a",
    }


def test_single_photos_go_directly_into_out(tmp_path):
    make_photos(tmp_path, "x/a.jpg", "y/b.c.jpg")
    tasks = plan_predictions([tmp_path / "x/a.jpg", tmp_path / "y/b.c.jpg"], tmp_path / "out").tasks
    assert planned(tasks, tmp_path) == {"x/a.jpg": "out/a", "y/b.c.jpg": "out/b.c"}
    assert tasks[1].results()[0] == tmp_path / "out" / "b.c.png"


def test_out_inside_the_input_folder_is_not_read(tiny_network, tmp_path):
    make_photos(tmp_path, "a.jpg", "sub/b.jpg")
    first = plan_predictions([tmp_path], tmp_path / "out").tasks
    predict_photos(tiny_network, first)
    assert (tmp_path / "out" / "sub" / "b_color.png").exists()
    assert plan_predictions([tmp_path], tmp_path / "out").tasks == first


def test_results_beside_the_photos(tiny_network, tmp_path):
    make_photos(tmp_path, "a.jpg")
    predict_photos(tiny_network, plan_predictions([tmp_path], tmp_path).tasks)
    assert files_below(tmp_path) == ["a.jpg", "a.png", "a_color.png", "a_overlay.jpg"]


@pytest.mark.parametrize(
    ("files", "inputs", "out", "stems"),
    [
        (["a.jpg", "b.png"], ["."], "out", ["a", "b"]),
        # photos of one folder keep their suffixes, whichever of them are asked for
        (["a.jpg", "a.png"], ["."], "out", ["a.jpg", "a.png"]),
        (["a.jpg", "a.png"], ["a.png"], "out", ["a.png"]),
        (["A.jpg", "a.webp"], ["."], "out", ["A.jpg", "a.webp"]),
        (["a.jpg", "a.png", "a.jpg.bmp"], ["."], "out", ["a.jpg-#", "a.jpg.bmp", "a.png"]),
        (["a.jpg", "A.jpg"], ["."], "out", ["A.jpg-#", "a.jpg-#"]),
        (["sub/a.jpg", "SUB/a.jpg"], ["."], "out", ["SUB/a-#", "sub/a-#"]),
        # the colour mask of `a` and the mask of `a_color`
        (["a.png", "a_color.jpg"], ["."], "out", ["a.png", "a_color.jpg"]),
        # of several folders: their names become folders
        (["x/a.jpg", "y/a.jpg"], ["x/a.jpg", "y/a.jpg"], "out", ["x/a", "y/a"]),
        (["x/s/a.jpg", "y/s/a.jpg", "z/b.jpg"], ["x", "y", "z"], "out", ["x/s/a", "y/s/a", "b"]),
        (["x/i/a.jpg", "y/i/a.jpg"], ["x/i", "y/i"], "out", ["i-#/a", "i-#/a"]),
        # one photo twice
        (["x/a.jpg"], ["x", "x/a.jpg", "x/../x"], "out", ["a"]),
        # results beside the photos never replace a photo, asked for or not
        (["a.png"], ["."], ".", ["a.png"]),
        (["a.png"], ["a.png"], ".", ["a.png"]),
        (["a.jpg", "a.png"], ["a.jpg"], ".", ["a.jpg"]),
        (["a.jpg", "a_color.png"], ["."], ".", ["a.jpg", "a_color.png"]),
        (["a.jpg", "a_overlay.jpg"], ["."], ".", ["a.jpg", "a_overlay"]),
        (["x/a.jpg", "y/a.png"], ["x"], "y", ["a.jpg"]),
        (["x/a.jpg", "y/a.jpg"], ["x", "y"], ".", ["x/a", "y/a"]),
    ],
)
def test_results_never_meet_a_photo_or_each_other(tmp_path, files, inputs, out, stems):
    make_photos(tmp_path, *files)
    inputs = [tmp_path / name for name in inputs]
    tasks = plan_predictions(inputs, tmp_path / out).tasks
    names = [task.result_stem.relative_to(tmp_path / out).as_posix() for task in tasks]
    assert [re.sub("-[0-9a-f]{8}", "-#", name) for name in names] == stems
    results = [path for task in tasks for path in task.results(as_json=True, probabilities=True)]
    assert len({str(path).lower() for path in results}) == len(results)
    assert not {path.resolve() for path in results} & {tmp_path / name for name in files}
    assert plan_predictions(inputs, tmp_path / out).tasks == tasks


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["x"], ["a.jpg", "s/a.jpg"]),
        (["x/a.jpg"], ["a.jpg"]),
        (["x/s/a.jpg", "x/a.jpg"], ["s/a.jpg", "a.jpg"]),
        (["x", "x/a.jpg", "x/../x/s"], ["a.jpg", "s/a.jpg"]),
        # of several folders: below the one that holds them
        (["x", "y"], ["x/a.jpg", "x/s/a.jpg", "y/a.jpg"]),
        (["y/a.jpg", "x/s"], ["y/a.jpg", "x/s/a.jpg"]),
    ],
)
def test_photos_are_called_by_their_path_below_what_was_given(tmp_path, inputs, names):
    make_photos(tmp_path, "x/a.jpg", "x/s/a.jpg", "y/a.jpg")
    plan = plan_predictions([tmp_path / name for name in inputs], tmp_path / "out")
    assert [task.file_name for task in plan.tasks] == names


def test_a_link_to_the_photos_is_seen(tmp_path):
    make_photos(tmp_path, "in/a.png")
    (tmp_path / "out").symlink_to(tmp_path / "in")
    (task,) = plan_predictions([tmp_path / "in"], tmp_path / "out").tasks
    assert task.results()[0] == tmp_path / "out" / "a.png.png"


def test_former_results_are_replaced(tiny_network, tmp_path):
    make_photos(tmp_path, "in/a.jpg")
    (tmp_path / "out").mkdir()
    of_interrupted_call = encode_mask(np.zeros((2, 2), np.uint8), MASK_SOFTWARE)
    (tmp_path / "out" / "a.png").write_bytes(of_interrupted_call)
    (tmp_path / "out" / "predict.json").write_text("{}")
    for _ in range(2):
        predict_photos(tiny_network, plan_predictions([tmp_path / "in"], tmp_path / "out").tasks)
        expected = ["a.png", "a_color.png", "a_overlay.jpg", "predict.json"]
        assert files_below(tmp_path / "out") == expected
    assert read_png(tmp_path / "out" / "a.png").shape == (6, 8)


@pytest.fixture
def folder(tmp_path) -> Path:
    make_photos(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    return tmp_path / "in"


@pytest.fixture
def predict(cli, tiny_training, folder, tmp_path):
    """Predict the three photos of `folder` into `out` on the command line."""

    def call(*options: str):
        checkpoint = tiny_training.run.best_checkpoint
        out = ("--out", tmp_path / "out")
        return cli("predict", "--checkpoint", checkpoint, *out, folder, *options)

    return call


def test_nothing_that_predict_did_not_write_is_replaced(predict, tmp_path):
    """Neither by the first call nor by the next, which finds a record beside what lay there."""
    out = tmp_path / "out"
    out.mkdir()
    Image.new("L", (2, 2)).save(out / "a.png")
    Image.new("RGB", (2, 2)).save(out / "b_overlay.jpg")
    (out / "c.json").write_text('{"version": "5.0.1", "shapes": []}')  # a labelling tool's
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for _ in range(2):
        result = predict("--json")
        assert result.code == 0
        assert {name: (out / name).read_bytes() for name in before} == before
    assert "done before, with the same checkpoint and options: 3" in result.out
    assert len(files_below(out)) == len(before) + 3 * 4 + 1


def test_record_is_not_replaced_by_the_regions_of_a_photo_of_its_name(tmp_path):
    make_photos(tmp_path, "in/predict.jpg")
    (task,) = plan_predictions([tmp_path / "in"], tmp_path / "out").tasks
    assert task.result(".json").name == "predict.jpg.json"


def test_photo_that_was_moved_in_is_predicted_whatever_its_date(predict, folder, tmp_path):
    predict()
    Image.new("RGB", (30, 20)).save(tmp_path / "new.jpg")
    os.utime(tmp_path / "new.jpg", (0, 0))
    (tmp_path / "new.jpg").replace(folder / "a.jpg")
    assert "done before, with the same checkpoint and options: 2" in predict().out
    assert read_png(tmp_path / "out" / "a.png").shape == (20, 30)


def test_clock_that_was_set_back_costs_one_run(predict, tmp_path):
    predict()
    tomorrow = time.time() + 24 * 3600
    for path in (tmp_path / "out").iterdir():
        written = tomorrow + (path.name != "predict.json")
        os.utime(path, (written, written))
    result = predict()
    assert "predict.json is dated later than now: all are made again" in result.out
    assert "done before" not in result.out
    assert "done before, with the same checkpoint and options: 3" in predict().out


@pytest.mark.parametrize("out", [".", "out", "deep/out"])
def test_the_same_call_again_takes_results_for_results(tiny_network, tmp_path, out):
    make_photos(tmp_path, "a.jpg", "b.png", "sub/b.jpg")
    first = plan_predictions([tmp_path], tmp_path / out)
    assert first.skipped == {}
    predict_photos(tiny_network, first.tasks, as_json=True)
    files = files_below(tmp_path)
    again = plan_predictions([tmp_path], tmp_path / out)
    assert again.tasks == first.tasks
    assert len(again.skipped["results of predict"]) == 3 * 4
    predict_photos(tiny_network, again.tasks, as_json=True)
    assert files_below(tmp_path) == files
    # and results that lie somewhere else than in this call's folder
    assert len(plan_predictions([tmp_path], tmp_path.parent / "elsewhere").tasks) == 3


def test_photos_named_as_results_are_photos(tmp_path):
    make_photos(tmp_path, "a.png", "a_color.png", "a_overlay.jpg")  # the first in colour
    assert len(plan_predictions([tmp_path], tmp_path / "out").tasks) == 3


@pytest.mark.parametrize("name", ["x" * 250 + ".jpg", "帽" * 80 + ".jpg", "👗" * 62 + ".jpg"])
def test_the_longest_names_have_results(tiny_network, tmp_path, name):
    make_photos(tmp_path / "in", name)
    tasks = plan_predictions([tmp_path / "in"], tmp_path / "out").tasks
    assert predict_photos(tiny_network, tasks, as_json=True).failed == {}
    assert len(files_below(tmp_path / "out")) == 4


def test_missing_input_is_named(tmp_path):
    make_photos(tmp_path, "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no such photo or folder: .*b\.jpg"):
        plan_predictions([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "out")


def test_folder_without_photos_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no photo found in .*in; .*\.txt: 1 \(.*notes\.txt"):
        plan_predictions([tmp_path / "in"], tmp_path / "out")


# --- photos that cannot be read ------------------------------------------------------------------


def spoil(path: Path, photo: Path, how: str) -> None:
    whole = photo.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no photo", "cut": whole[: len(whole) // 2]}[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut"])
def test_unreadable_photo_is_named_and_others_are_done(cli, tiny_training, photos, tmp_path, how):
    folder = tmp_path / "in"
    folder.mkdir()
    spoil(folder / "bad.jpg", photos[0], how)
    for photo in photos[:2]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    checkpoint = tiny_training.run.best_checkpoint
    result = cli("predict", "--checkpoint", checkpoint, "--out", tmp_path / "out", folder)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert "bad.jpg" in line
    assert result.out.startswith(f"2 of 3 photos are done: {tmp_path / 'out'} ")
    written = {Path(name).stem.split("_")[0] for name in files_below(tmp_path / "out")}
    assert "bad" not in written
    assert (tmp_path / "out" / f"{photos[0].stem}.png").exists()
    assert (tmp_path / "out" / f"{photos[1].stem}_overlay.jpg").exists()


def test_nothing_readable_is_an_error(cli, tiny_training, photos, tmp_path):
    spoil(tmp_path / "a.jpg", photos[0], "empty")
    spoil(tmp_path / "b.png", photos[0], "text")
    checkpoint = tiny_training.run.best_checkpoint
    result = cli(
        *("predict", "--checkpoint", checkpoint, "--out", tmp_path / "out"),
        *(tmp_path / "a.jpg", tmp_path / "b.png"),
    )
    assert result.code == 2
    first, second = result.err.splitlines()
    assert "a.jpg" in first
    assert "b.png" in second
    assert result.out == ""
    assert not (tmp_path / "out").exists()


def test_every_file_of_a_messy_folder_is_done_or_named(cli, tiny_training, photos, tmp_path):
    folder = tmp_path / "in"
    make_photos(folder, "a.jpg", "b.jfif", "deep/c.avif", "\x1b[31mred\n.png")
    Image.new("RGB", (8, 6), "navy").save(folder / "plain", format="WEBP")
    frames = [Image.new("RGB", (8, 6), color) for color in ("navy", "red")]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    for number in range(1000):
        (folder / f"{number:03}.txt").touch()
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (folder / ".DS_Store").touch()
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken.png").write_bytes(b"no photo")
    (folder / "broken_too.png").write_bytes(b"no photo")
    checkpoint = tiny_training.run.best_checkpoint
    result = cli("predict", "--checkpoint", checkpoint, "--out", tmp_path / "out", folder)
    assert result.code == 1
    masks = {"a.png", "b.png", "deep/c.png", "film.png", "plain.png", "\x1b[31mred\n.png"}
    assert masks < set(files_below(tmp_path / "out"))
    assert len(files_below(tmp_path / "out")) == 3 * 6 + 1  # predict.json
    done, *remarks = result.out.splitlines()
    assert done.startswith("6 of 8 photos are done")
    said = {line.partition(" (")[0] for line in remarks}
    assert said == {
        "skipped, no photo, .txt: 1,000",
        "skipped, no photo, .mp4: 1",
        "skipped, hidden: 1",
        "skipped, link to a folder, not followed: 1",
        "skipped, pipe, socket or device: 1",
        "only the first frame or page was read of 1 file",
    }
    link, broken = result.err.splitlines()  # one line for photos with one fault
    assert "gone.jpg: the link leads nowhere" in link
    assert "broken.png" in broken
    assert "1 more alike" in broken
    assert "broken_too.png" in broken


def broken_photos(photo: Path) -> dict[str, bytes]:
    """Ten files with a photo's suffix that are none, each in its own way."""
    jpeg, buffer = photo.read_bytes(), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    png, webp, tiff = buffer.getvalue(), io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(webp, "WEBP")
    Image.fromarray(noise).save(tiff, "TIFF")
    size = (30_000).to_bytes(4, "big") * 2
    head = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + head + zlib.crc32(head).to_bytes(4, "big")
    return {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "text.png": b"no photo",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "padded.jpg": jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2),
        "cut.png": png[:-400],
        "cut.webp": webp.getvalue()[:200],
        "cut.tif": tiff.getvalue()[:200],
        "zip.jpg": b"PK\3\4" + bytes(60),
        "bomb.png": bomb,  # 30,000 x 30,000 pixels in some dozen bytes
    }


@pytest.mark.slow
def test_ten_broken_photos_of_a_thousand_are_named_and_990_done(
    cli, tiny_training, photos, tmp_path
):
    """Others have a wrong suffix or one pixel, which is no fault."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(990):
        image = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8))
        image = image.resize((1, 1)) if number % 100 == 1 else image
        form = "PNG" if number % 100 == 2 else "JPEG"
        image.save(folder / f"{number:03}.jpg", form)
    broken = broken_photos(photos[0])
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    checkpoint, out = tiny_training.run.best_checkpoint, tmp_path / "out"
    result = cli("predict", "--checkpoint", checkpoint, "--out", out, folder)
    assert result.code == 1
    assert f"990 of 1000 photos are done: {out} " in result.out  # slow machines say more before
    assert [name for name in broken if name not in result.err] == []
    assert all(line.startswith("error: photo ") for line in result.err.splitlines())
    assert len(list(out.glob("*_overlay.jpg"))) == 990
    assert not {Path(name).stem for name in broken} & {p.stem for p in out.iterdir()}


def test_what_cannot_be_read_at_all_is_an_error(cli, tiny_training, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    checkpoint = tiny_training.run.best_checkpoint
    result = cli(
        *("predict", "--checkpoint", checkpoint, "--out", tmp_path / "out"), tmp_path / "pipe.jpg"
    )
    assert result.code == 2
    assert "pipe.jpg is no regular file" in result.err


def test_a_folder_that_vanishes_is_named(tiny_network, tmp_path):
    make_photos(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    tasks = plan_predictions([tmp_path / "in"], tmp_path / "out").tasks
    shutil.rmtree(tmp_path / "in")
    summary = predict_photos(tiny_network, tasks)
    assert summary.done == []
    (line,) = failure_lines(summary.failed)
    assert "a.jpg not found" in line
    assert "2 more alike" in line


@pytest.mark.usefixtures("closed_folders")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    make_photos(tmp_path, "open/a.jpg", "closed/b.jpg")
    plan = plan_predictions([tmp_path / "open", tmp_path / "closed"], tmp_path / "out")
    assert [task.photo.name for task in plan.tasks] == ["a.jpg"]
    (line,) = failure_lines(plan.unread)
    assert "closed: Permission denied" in line


def test_a_photo_too_wide_for_its_overlay_is_named(tiny_network, tmp_path):
    Image.new("1", (66_000, 1)).save(tmp_path / "wide.png")
    tasks = plan_predictions([tmp_path / "wide.png"], tmp_path / "out").tasks
    ((photo, reason),) = predict_photos(tiny_network, tasks).failed.items()
    assert photo.name == "wide.png"
    assert "do not fit into a jpg file" in reason
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("--tta-flip", "--tta-scales", "2"), ("--window-px", "100", "--tta-flip")]
)
def test_test_time_options_give_predict_and_evaluate_one_mask(
    cli, tiny_training, synthetic_root, tmp_path, options
):
    checkpoint = ("--checkpoint", tiny_training.run.best_checkpoint, *options)
    photo = min((synthetic_root / "test").iterdir())
    predicted = cli("predict", *checkpoint, "--out", tmp_path / "p", photo)
    scored = ("--data-root", synthetic_root, "--out", tmp_path / "e", "--write-masks")
    evaluated = cli("evaluate", *checkpoint, *scored)
    assert (predicted.code, evaluated.code) == (0, 0)
    name = f"{photo.stem}.png"
    mask = read_png(tmp_path / "p" / name)
    assert np.array_equal(mask, read_png(tmp_path / "e" / "masks" / name))
    plain = cli("predict", *checkpoint[:2], "--out", tmp_path / "plain", photo)
    assert plain.code == 0
    assert (mask != read_png(tmp_path / "plain" / name)).any(), "the options changed nothing"
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert "; test-time options: mirrored too" in metrics["protocol"]
