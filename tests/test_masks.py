"""A folder of masks is never half right."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from clothseg_utils.core import workers
from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_table
from clothseg_utils.data import masks as masks_module
from clothseg_utils.data.coco import annotation_path, read_annotations
from clothseg_utils.data.masks import (
    count_hidden_pixels,
    make_masks,
    rasterize_split,
    read_mask,
    select_images,
    write_mask,
)
from clothseg_utils.data.rasterize import layer_hidden_pixels


def test_mask_survives_writing_and_reading(tmp_path):
    mask = np.array([[0, 12, 255], [1, 1, 0]], np.uint8)
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", num_classes=13), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_class_id_beyond_the_table_is_named(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 13, 47]], np.uint8))
    with pytest.raises(
        ValueError, match=r"a\.png has class ids \[13, 47\]; expected 0\.\.12 or 255"
    ):
        read_mask(tmp_path / "a.png", num_classes=13)


def test_colour_truncated_or_empty_mask_is_refused(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is shape \(4, 4, 3\), uint8"):
        read_mask(path, 13)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        read_mask(path, 13)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png is no readable image"):
        read_mask(path, 13)
    with pytest.raises(FileNotFoundError, match=r"b\.png not found; rerun notebook 02"):
        read_mask(tmp_path / "b.png", 13)


def test_pixels_of_a_huge_mask_are_counted_exactly():
    mask = np.zeros((4100, 4100), np.uint8)
    mask[0, 0] = 2
    assert masks_module._count_pixels(mask, [1, 2, 2], 3) == [4100 * 4100 - 1, 0, 1]


@pytest.fixture
def dataset(tmp_path):
    """A data root of 5 tiny images, the last without annotations; 6 x 5 and 4 x 3 pixels."""
    images = [
        {"id": i, "file_name": f"{name}.jpg", "width": 6 - 2 * (i % 2), "height": 5 - 2 * (i % 2)}
        for i, name in enumerate("abcde")
    ]
    annotations = [
        {
            "id": 10 + i,
            "image_id": i,
            "category_id": i % 2,
            "segmentation": [[0, 0, width, 0, width, 2, 0, 2]],
            "area": 2,
            "bbox": [0, 0, width, 2],
        }
        for i, width in enumerate([2, 2, 3, 4])
    ]
    categories = [
        {"id": 0, "name": "coat", "supercategory": "upperbody"},
        {"id": 1, "name": "shoe", "supercategory": "legs and feet"},
    ]
    root = tmp_path / "tiny"
    root.mkdir()
    file = {"images": images, "annotations": annotations, "categories": categories}
    annotation_path(root, "train").write_text(json.dumps(file))
    return root


def change(dataset, **changes):
    """Rewrite the dataset's JSON."""
    path = annotation_path(dataset, "train")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read_train(root):
    return read_annotations(annotation_path(root, "train"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def written(monkeypatch):
    """Names of the masks written in this process, in order."""
    seen = []

    def spy(path, mask):
        seen.append(Path(path).name)
        write_mask(path, mask)

    monkeypatch.setattr(masks_module, "write_mask", spy)
    return seen


ALL = ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_split_leaves_masks_and_index_only(dataset, tmp_path):
    out_dir = tmp_path / "out"
    index = rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [*ALL, "index.json"]
    np.testing.assert_array_equal(
        read_mask(out_dir / "b.png", 13), [[4, 4, 0, 0], [4, 4, 0, 0], [0, 0, 0, 0]]
    )
    assert not read_mask(index.mask_path(4), 13).any()
    assert index.class_names == SUPERCATEGORY_NAMES
    assert index.class_pixels[[0, 2, 4]].tolist() == [90 + 24 - 22, 4 + 6, 4 + 8]
    assert index.class_pixels.sum() == 3 * 30 + 2 * 12


def test_index_says_what_was_made_of_what(dataset, tmp_path):
    index = rasterize_split(
        annotation_path(dataset, "train"), tmp_path / "out", "category", workers=1
    )
    written = json.loads(index.path.read_text())
    assert written["state"] == "complete"
    assert written["annotations_file"] == "instances_attributes_train2020.json"
    assert written["sha256"] == read_annotations(annotation_path(dataset, "train")).sha256
    assert written["scheme"] == "category"
    assert written["class_names"] == ["background", "coat", "shoe"]
    assert written["rule_version"] == masks_module.RULE_VERSION
    assert written["entries"][1] == {
        "image_id": 1,
        "file_name": "b.jpg",
        "mask": "b.png",
        "height": 3,
        "width": 4,
        "n_bytes": (tmp_path / "out/b.png").stat().st_size,
        "class_pixels": [8, 0, 4],
    }


def test_rerun_makes_nothing(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    first = rasterize_split(*arguments, workers=1)
    assert written == ALL
    modified = first.path.stat().st_mtime_ns
    second = rasterize_split(*arguments, workers=1)
    assert written == ALL
    assert second == first
    assert first.path.stat().st_mtime_ns == modified


def test_rerun_makes_what_is_missing_or_truncated(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    first = rasterize_split(*arguments, workers=1)
    whole = (tmp_path / "out/d.png").read_bytes()
    (tmp_path / "out/b.png").unlink()
    (tmp_path / "out/d.png").write_bytes(whole[:-7])
    written.clear()
    assert rasterize_split(*arguments, workers=1) == first
    assert written == ["b.png", "d.png"]
    assert (tmp_path / "out/d.png").read_bytes() == whole


@pytest.mark.parametrize("what", ["json", "scheme", "rule"])
def test_stale_masks_are_made_anew(dataset, tmp_path, written, monkeypatch, what):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    rasterize_split(path, out_dir, "supercategory", workers=1)
    written.clear()
    if what == "json":
        change(dataset, annotations=json.loads(path.read_text())["annotations"][:1])
    if what == "rule":
        monkeypatch.setattr(masks_module, "RULE_VERSION", masks_module.RULE_VERSION + 1)
    scheme = "category" if what == "scheme" else "supercategory"
    rasterize_split(path, out_dir, scheme, workers=1)
    assert written == ALL
    expected = {"json": 0, "scheme": 2, "rule": 4}[what]
    assert read_mask(out_dir / "b.png", 13).max() == expected


def test_masks_of_images_that_are_gone_are_removed_but_nobody_elses(dataset, tmp_path):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    rasterize_split(path, out_dir, "supercategory", workers=1)
    (out_dir / "own.png").write_bytes(b"a user's")
    file = json.loads(path.read_text())
    change(dataset, images=file["images"][:2], annotations=file["annotations"][:2])
    rasterize_split(path, out_dir, "supercategory", workers=1)
    assert names(out_dir) == ["a.png", "b.png", "index.json", "own.png"]


def test_image_limit_takes_the_first_and_grows(dataset, tmp_path, written):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    index = rasterize_split(*arguments, workers=1, image_limit=2)
    assert [entry.mask for entry in index.entries] == ["a.png", "b.png"]
    assert names(tmp_path / "out") == ["a.png", "b.png", "index.json"]
    with pytest.raises(ValueError, match=r"image 3 has no mask in .*without image_limit"):
        index.mask_path(3)
    assert len(rasterize_split(*arguments, workers=1).entries) == 5
    (tmp_path / "out/a.png").unlink()
    assert len(rasterize_split(*arguments, workers=1, image_limit=3).entries) == 3
    assert len(json.loads(index.path.read_text())["entries"]) == 5
    assert written == [*ALL, "a.png"]
    assert names(tmp_path / "out") == [*ALL, "index.json"]


def test_interrupted_work_goes_on_where_it_stopped(dataset, tmp_path, written, monkeypatch):
    arguments = (annotation_path(dataset, "train"), tmp_path / "out", "supercategory")
    monkeypatch.setattr(masks_module, "_CHUNK_IMAGES", 1)
    sound = masks_module.write_mask

    def interrupt(path, mask):
        if Path(path).name == "c.png":
            raise KeyboardInterrupt
        sound(path, mask)

    monkeypatch.setattr(masks_module, "write_mask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rasterize_split(*arguments, workers=1)
    half = json.loads((tmp_path / "out/index.json").read_text())
    assert half["state"] == "partial"
    assert [entry["n_bytes"] > 0 for entry in half["entries"]] == [True, True, False, False, False]
    monkeypatch.setattr(masks_module, "write_mask", sound)
    rasterize_split(*arguments, workers=1)
    assert written == ALL
    assert json.loads((tmp_path / "out/index.json").read_text())["state"] == "complete"


def test_leavings_of_a_killed_process_are_cleared(dataset, tmp_path):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    for name in (".lock", ".a-0123abcd-9-aaaaaaaa.png", ".index-0123abcd-9-bbbbbbbb.json"):
        (out_dir / name).write_bytes(b"")
    rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [*ALL, "index.json"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("holiday.jpg", "", r"holds other files, such as holiday\.jpg, and no index\.json"),
        ("index.json", "{}", r"index\.json is not an index of masks"),
        ("index.json", "<html>", r"index\.json is not an index of masks"),
    ],
)
def test_folder_of_somebody_else_is_left_alone(dataset, tmp_path, name, text, message):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        rasterize_split(annotation_path(dataset, "train"), out_dir, "supercategory", workers=1)
    assert names(out_dir) == [name]


def test_bad_arguments_write_nothing(dataset, tmp_path):
    path, out_dir = annotation_path(dataset, "train"), tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"none\.json not found"):
        rasterize_split(tmp_path / "none.json", out_dir, "supercategory")
    background = {"name": "x", "supercategory": "background"}
    change(dataset, categories=[{"id": i, **background} for i in (0, 1)])
    with pytest.raises(ValueError, match='has the class "background"'):
        rasterize_split(path, out_dir, "supercategory")
    assert not out_dir.exists()
    out_dir.write_text("")
    with pytest.raises(ValueError, match="out is a file; expected a folder"):
        rasterize_split(path, out_dir, "category")


@pytest.mark.parametrize("image_limit", [0, 4])
def test_all_background_stops_and_so_does_a_second_try(dataset, tmp_path, image_limit):
    file = json.loads(annotation_path(dataset, "train").read_text())
    last = file["annotations"][3] | {"image_id": 4}
    change(dataset, annotations=[last] if image_limit else [])
    path = annotation_path(dataset, "train")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train2020\.json: nothing but background"):
            rasterize_split(
                path, tmp_path / "out", "supercategory", workers=1, image_limit=image_limit
            )
        assert not (tmp_path / "out").exists()
        with pytest.raises(ValueError, match=r"train2020\.json: nothing but background"):
            make_masks(
                read_train(dataset),
                "supercategory",
                tmp_path / "derived",
                workers=1,
                image_limit=image_limit,
            )


def test_images_whose_masks_collide_are_left_out(dataset, tmp_path):
    path = annotation_path(dataset, "train")
    images = json.loads(path.read_text())["images"]
    images[2]["file_name"] = "a.png"
    change(dataset, images=images)
    index = rasterize_split(path, tmp_path / "out", "supercategory", workers=1)
    assert names(tmp_path / "out") == ["b.png", "d.png", "e.png", "index.json"]
    assert [entry.image_id for entry in index.entries] == [1, 3, 4]


def test_images_are_selected_by_the_files_order(dataset):
    change(
        dataset, images=json.loads(annotation_path(dataset, "train").read_text())["images"][::-1]
    )
    coco = read_annotations(annotation_path(dataset, "train"))
    assert [image.file_name for image in select_images(coco, 2)] == ["e.jpg", "d.jpg"]
    assert len(select_images(coco, 0)) == len(select_images(coco, 99)) == 5


def test_worker_processes_make_the_same_masks(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(masks_module, "_CHUNK_IMAGES", 1)
    path = annotation_path(dataset, "train")
    alone = rasterize_split(path, tmp_path / "alone", "supercategory", workers=1)
    monkeypatch.setattr(masks_module, "_MIN_IMAGES_PER_WORKER", 1)
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(workers, "_process_context", lambda: spawn)
    # Calls in this process would fail now; those in the workers, which import anew, do not.
    monkeypatch.setattr(masks_module, "rasterize", None)
    together = rasterize_split(path, tmp_path / "together", "supercategory", workers=2)
    assert together.entries == alone.entries
    for name in ALL:
        assert (tmp_path / "together" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()


FORKING = """
import sys, threading
import cv2, numpy as np
from clothseg_utils.core import workers
from clothseg_utils.data import masks

path, alone, together = sys.argv[1:]
masks._MIN_IMAGES_PER_WORKER = masks._CHUNK_IMAGES = 1
cv2.setNumThreads(2)
cv2.warpAffine(np.zeros((2000, 2000), np.uint8), np.eye(2, 3), (2000, 2000))  # starts its threads
masks.rasterize_split(path, alone, "supercategory", workers=1)
masks.rasterize_split(path, together, "supercategory", workers=2)
print(workers._process_context().get_start_method())
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(workers._process_context().get_start_method())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_forked_processes_make_the_same_masks_and_threads_rule_them_out(dataset, tmp_path):
    path = annotation_path(dataset, "train")
    folders = [tmp_path / "alone", tmp_path / "together"]
    command = [sys.executable, "-c", FORKING, path, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["fork", "spawn"]
    for name in ALL:
        first, second = (folder / name for folder in folders)
        assert first.read_bytes() == second.read_bytes()


def test_masks_are_filed_under_name_and_hash_of_the_dataset(dataset, tmp_path):
    index = make_masks(read_train(dataset), "supercategory", tmp_path / "derived", workers=1)
    assert index.mask_dir == tmp_path / f"derived/tiny-{index.sha256[:8]}/supercategory/masks"
    assert names(index.mask_dir) == [*ALL, "index.json"]
    assert names(dataset) == ["instances_attributes_train2020.json"]


def test_finished_masks_are_not_made_again(dataset, tmp_path, written):
    arguments = (read_train(dataset), "supercategory", tmp_path / "derived")
    first = make_masks(*arguments, workers=1)
    written.clear()
    assert make_masks(*arguments) == first
    assert make_masks(*arguments, image_limit=2).entries == first.entries[:2]
    assert written == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "limit", "index"])
def test_damaged_masks_are_mended(dataset, tmp_path, damage):
    arguments = (read_train(dataset), "supercategory", tmp_path / "derived")
    first = make_masks(*arguments, workers=1, image_limit=2 if damage == "limit" else 0)
    if damage == "missing":
        first.mask_path(1).unlink()
    if damage == "truncated":
        first.mask_path(1).write_bytes(b"")
    if damage == "index":
        first.path.write_text(first.path.read_text().replace('"complete"', '"partial"'))
    assert [entry.mask for entry in make_masks(*arguments, workers=1).entries] == ALL
    assert read_mask(first.mask_path(1), 13).max() == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_hidden_pixels_are_those_of_the_photos_one_by_one(
    synthetic_root, tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(masks_module, "_MIN_IMAGES_PER_WORKER", 1)
    monkeypatch.setattr(masks_module, "_CHUNK_IMAGES", 2)
    coco = read_train(synthetic_root)
    classes = class_table("supercategory", coco.categories)
    index = make_masks(coco, "supercategory", tmp_path / "derived", workers=1, image_limit=6)
    expected = sum(
        layer_hidden_pixels(
            coco.annotations_of(image.id), classes.class_of_category, image.height, image.width, 13
        )
        for image in coco.images[:6]
    )
    hidden = count_hidden_pixels(coco, classes, index, workers=workers)
    assert hidden.tolist() == expected.tolist()
    assert hidden.sum() > 0


def test_lock_is_held_by_one_at_a_time_and_leaves_nothing(tmp_path):
    order = []

    def second():
        with masks_module._folder_lock(tmp_path):
            order.append("second in")

    with masks_module._folder_lock(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)
        order.append("first out")
    waiting.join(timeout=10)
    assert order == ["first out", "second in"]
    assert names(tmp_path) == []


def test_two_processes_at_once_agree_and_leave_a_whole_folder(dataset, tmp_path):
    program = (
        "import sys; from clothseg_utils.data.coco import read_annotations\n"
        "from clothseg_utils.data.masks import make_masks\n"
        "coco = read_annotations(sys.argv[1])\n"
        "index = make_masks(coco, 'supercategory', sys.argv[2], workers=1)\n"
        "print(index.mask_dir, index.class_pixels.tolist())"
    )
    path = annotation_path(dataset, "train")
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "derived")]
    environment = os.environ | {"PYTHONPATH": str(Path(masks_module.__file__).parents[2])}
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    answers = {run.communicate(timeout=60)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(answers) == 1
    mask_dir = Path(answers.pop().split(" [")[0])
    assert names(mask_dir) == [*ALL, "index.json"]
