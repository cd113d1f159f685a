"""Tests of `data.sources`: where labels and photos lie, and which split they are for."""

import shutil
from pathlib import Path

import pytest

from clothseg_utils.intake.sources import Source, find_sources, unused_files


def lay_out(folder: Path, *names: str) -> Path:
    """Make empty files; a name that ends in / is a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    return folder


def found(root: Path, sources: list[Source]) -> list[tuple[str, str, str | None]]:
    """Labels and photo folder below the root, and split."""
    return [
        (
            source.labels.relative_to(root).as_posix(),
            source.photos_dir.relative_to(root).as_posix(),
            source.split,
        )
        for source in sources
    ]


ROBOFLOW = "_annotations.coco.json"

LAYOUTS = {
    "one file": (["shop.json", "a.jpg"], [("shop.json", ".", None)]),
    "one file in a folder named after a split": (
        ["train/_annotations.coco.json", "train/a.jpg"],
        [("train/_annotations.coco.json", "train", None)],
    ),
    "roboflow": (
        [f"{s}/{n}" for s in ("train", "valid", "test") for n in (ROBOFLOW, "1.jpg")],
        [
            ("test/_annotations.coco.json", "test", "test"),
            ("train/_annotations.coco.json", "train", "train"),
            ("valid/_annotations.coco.json", "valid", "val"),
        ],
    ),
    "coco": (
        [
            *(f"annotations/{what}_{split}2017.json" for what in ("instances", "captions")
              for split in ("train", "val")),
            *("train2017/1.jpg", "val2017/1.jpg"),
        ],
        [
            ("annotations/instances_train2017.json", "train2017", "train"),
            ("annotations/instances_val2017.json", "val2017", "val"),
        ],
    ),
    "cvat with subsets": (
        [
            *("annotations/instances_Train.json", "annotations/instances_Validation.json"),
            *("images/Train/1.jpg", "images/Validation/1.jpg"),
        ],
        [
            ("annotations/instances_Train.json", "images/Train", "train"),
            ("annotations/instances_Validation.json", "images/Validation", "val"),
        ],
    ),
    "alone in a folder of its own": (
        ["ds0/annotations/a.json", "ds0/images/1.jpg", ".vscode/settings.json"],
        [("ds0/annotations/a.json", ".", None)],
    ),
    "on a disk of macOS": (["shop.json", "._shop.json", "a.jpg"], [("shop.json", ".", None)]),
    "several folders of one split": (
        [f"{s}/{n}" for s in ("train1", "train2", "val") for n in (ROBOFLOW, "1.jpg")],
        [
            ("train1/_annotations.coco.json", "train1", "train"),
            ("train2/_annotations.coco.json", "train2", "train"),
            ("val/_annotations.coco.json", "val", "val"),
        ],
    ),
    "zipped": (["labels.json.gz", "data/1.jpg"], [("labels.json.gz", ".", None)]),
}  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_files_of_an_export_are_found(tmp_path, names, expected):
    lay_out(tmp_path, *names)
    assert found(tmp_path, find_sources(tmp_path)) == expected


def test_labels_beside_those_that_are_taken_are_known(tmp_path):
    folders = ("train", "val", "dev", "made")
    lay_out(tmp_path, *(f"{folder}/{ROBOFLOW}" for folder in folders), "made/convert.json")
    (unused,) = unused_files(tmp_path, find_sources(tmp_path))
    assert unused == tmp_path / "dev" / ROBOFLOW
    masks = tmp_path / "masks"
    lay_out(masks, "train/1.png", "val/2.png", "dev/3.png")
    assert unused_files(tmp_path, find_sources(tmp_path, masks_dir=masks)) == [masks / "dev"]


def test_folders_that_cannot_be_listed_are_not_passed_over(tmp_path, unprivileged):
    """Beside labels that are taken they are named; where the labels may be in them, it ends."""
    lay_out(tmp_path, "train/a.json", "val/b.json", "dev/c.json", "deep/er/d.json")
    lay_out(tmp_path, ".Trash-0/e.json")
    shut = [tmp_path / "dev", tmp_path / ".Trash-0"]
    for folder in shut:
        folder.chmod(0)
    try:
        taken = find_sources(tmp_path)
        unused = unprivileged(unused_files, tmp_path, taken)
        assert unused == [tmp_path / "deep" / "er" / "d.json", tmp_path / "dev"]
        shutil.rmtree(tmp_path / "train")
        shutil.rmtree(tmp_path / "val")
        with pytest.raises(FileNotFoundError, match=r"what may not be listed: dev; expected one"):
            unprivileged(find_sources, tmp_path)
        shut[0].chmod(0o755)
        shutil.rmtree(shut[0])
        (source,) = unprivileged(find_sources, tmp_path)  # what is hidden does not matter
        assert source.labels == tmp_path / "deep" / "er" / "d.json"
    finally:
        for folder in filter(Path.exists, shut):
            folder.chmod(0o755)


@pytest.mark.parametrize(
    ("annotations", "splits"),
    [
        (["a.json"], [None]),
        (["train.json"], [None]),
        (["test.json"], [None]),
        (["a.json", "b.json"], [None, None]),
        (["train_a.json", "train_b.json"], [None, None]),
        (["train_a.json", "val.json", "my-test.json"], ["train", "val", "test"]),
        (["a.json", "val.json"], [None, "val"]),
        (["train_val.json", "latest.json", "test.json"], [None, None, "test"]),
        (["train=a.json", "val=b.json", "test=test.json"], ["train", "val", "test"]),
        (["val=train.json", "a.json"], ["val", None]),
        (["valid=b.json", "train=a.json"], ["val", "train"]),
        (["train/x.json", "valid/x.json"], ["train", "val"]),
        (["test/a.json", "test/train.json"], [None, "train"]),
        (["val=a.json", "val=b.json"], [None, None]),
    ],
)
def test_split_is_what_is_said_or_what_names_tell_apart(tmp_path, monkeypatch, annotations, splits):
    """A folder that all files share says nothing, nor does the name of a single one."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, "photos/", *(text.rpartition("=")[2] for text in annotations))
    if annotations == ["val=a.json", "val=b.json"]:
        lay_out(tmp_path, *annotations)  # files of these very names
    sources = find_sources("photos", annotations)
    assert [source.split for source in sources] == splits


def test_a_file_of_another_format_for_each_photo_is_named(tmp_path):
    for name in ("1.json", "2.json"):
        (tmp_path / name).write_text('{"version": "5", "shapes": [], "imagePath": "1.jpg"}')
    with pytest.raises(
        ValueError, match=r"2 JSON files .* 1\.json looks like LabelMe's.*labelme2coco"
    ):
        find_sources(tmp_path)


def test_photos_of_a_split_are_looked_for_in_its_folder_first(tmp_path):
    lay_out(tmp_path, "photos/train/1.jpg", "photos/valid/1.jpg", "a.json", "b.json")
    sources = find_sources(
        tmp_path / "photos", [f"train={tmp_path / 'a.json'}", f"val={tmp_path / 'b.json'}"]
    )
    assert [source.photos_dir.name for source in sources] == ["train", "valid"]


def test_masks_may_have_a_folder_for_each_split(tmp_path):
    lay_out(tmp_path, "masks/train/1.png", "masks/val/2.png", "photos/train/1.jpg", "photos/val/")
    sources = find_sources(tmp_path / "photos", masks_dir=tmp_path / "masks")
    assert found(tmp_path, sources) == [
        ("masks/train", "photos/train", "train"),
        ("masks/val", "photos/val", "val"),
    ]
    assert all(source.has_masks for source in sources)


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        ([], {}, FileNotFoundError, r"photo folder .*photos not found"),
        (["photos/1.jpg"], {}, FileNotFoundError, "no COCO JSON in .*--annotations"),
        (
            ["photos/a/b.json", "photos/c/d.json"],
            {},
            FileNotFoundError,
            "deeper a/b.json; c/d.json",
        ),
        (["photos/a.json", "photos/b.json"], {}, ValueError, r"2 JSON files \(a\.json; b\.json"),
        (
            ["photos/train/_annotations.coco.json", "photos/train/notes.json"],
            {},
            ValueError,
            r"train holds 2 JSON files .* --annotations",
        ),
        (
            ["photos/"],
            {"annotations": ["no.json"]},
            FileNotFoundError,
            r"no\.json not found; expected a COCO JSON",
        ),
        (
            ["photos/", "masks/", "a.json"],
            {"annotations": ["a.json"], "masks_dir": "masks"},
            ValueError,
            "expected one of the two",
        ),
        (["photos/"], {"masks_dir": "masks"}, FileNotFoundError, "mask folder masks not found"),
        (
            ["photos/", "a.json"],
            {"annotations": ["val=a.json"]},
            ValueError,
            "all for val or test; expected labels to train on",
        ),
    ],
)
def test_sources_that_are_not_there_are_named(
    tmp_path, monkeypatch, names, options, error, message
):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, *names)
    with pytest.raises(error, match=message):
        find_sources("photos", **options)
