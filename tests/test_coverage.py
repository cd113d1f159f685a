"""Tests of `data.coverage`: nothing can be learned from masks that are all background."""

import json
import shutil

import pytest

from clothseg_utils.data.coco import annotation_path
from clothseg_utils.data.coverage import check_coverage

PHOTO = 700_000  # pixels

SOUND = {
    "half of each photo": [(PHOTO // 2, PHOTO)] * 3,
    "one photo of many": [(PHOTO // 4, PHOTO), *[(0, PHOTO)] * 800],
    # Clothing Co-Parsing with watches alone: the smallest accessory of the data here.
    "watches": [*[(337, 457_000)] * 22, *[(0, 457_000)] * 578],
    "rivets of a drawn photo": [(140, 123_000)] * 6,
    "a small photo": [(5, 30)],
    "no photo": [],
}

EMPTY = {
    "all": ([(0, PHOTO)] * 3, "nothing but background in the masks of 3 photos.*boxes without"),
    "shares of the size": ([(1, PHOTO)] * 3, "cover 3 pixels in 3 of 3 photos.*shares"),
    "shares, small photos": ([(1, 3072)] * 10, "cover 10 pixels in 10 of 10.*shares"),
    "shares, some photos": ([(2, 3072), (0, 3072)], "cover 2 pixels in 1 of 2.*shares"),
    "specks": ([(60, PHOTO)] * 3, "cover 180 pixels in 3 of 3 photos.*1 in 10,000"),
    "one speck in many": (
        [(337, PHOTO), *[(0, PHOTO)] * 100],
        "cover 337 pixels in 1 of 101 photos.*1 in 100,000.*left out .null.",
    ),
}


@pytest.mark.parametrize("photos", SOUND.values(), ids=SOUND)
def test_real_datasets_pass_and_so_do_small_accessories(photos):
    check_coverage(photos, "mine")


@pytest.mark.parametrize(("photos", "message"), EMPTY.values(), ids=EMPTY)
def test_nearly_nothing_is_refused_with_its_cause(photos, message):
    with pytest.raises(ValueError, match=f"^mine: .*{message}"):
        check_coverage(photos, "mine")


# --- where it stops ------------------------------------------------------------------------------


@pytest.fixture(params=[0, 2], ids=["nothing", "specks"])
def background_root(synthetic_root, tmp_path, request):
    """A dataset whose val split has no annotations, or masks of a pixel or two."""
    root = tmp_path / "background"
    shutil.copytree(synthetic_root, root)
    path = annotation_path(root, "val")
    file = json.loads(path.read_text())
    for annotation in file["annotations"]:
        annotation["segmentation"] = [[5, 5, 7, 5, 7, 6, 5, 6]]
    file["annotations"] = file["annotations"][: request.param]
    path.write_text(json.dumps(file))
    return root


VERBS = {
    "rasterize": "rasterize --annotations {root}/instances_attributes_val2020.json --out masks",
    "train": "train --profile smoke --data-root {root} --run-name x",
    "evaluate": "evaluate --checkpoint {best} --data-root {root} --out scores",
}


@pytest.mark.parametrize("command", VERBS.values(), ids=VERBS)
def test_nothing_is_trained_or_scored_on_background(
    cli, background_root, tiny_training, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    filled = command.format(root=background_root, best=tiny_training.run.best_checkpoint)
    result = cli(*filled.split())
    assert result.code != 0
    assert "instances_attributes_val2020.json" in result.err
    assert "nothing but background" in result.err  # nearly, or altogether
    assert "mIoU" not in result.out
    assert not (tmp_path / "scores").exists()
    assert not list(tmp_path.rglob("*.ckpt"))
