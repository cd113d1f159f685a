"""Splits: photos with their masks, without broken ones, and disjoint."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from clothseg_utils.core.classes import class_table
from clothseg_utils.core.config import PLAIN_INFERENCE, DataConfig, InferenceConfig
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.data.masks import rasterize_split
from clothseg_utils.data.splits import check_disjoint, load_split, read_splits


def data_config(data_root, derived_root, **fields):
    return DataConfig(
        data_root=str(data_root),
        derived_root=str(derived_root),
        mask_workers=1,
        **{"image_size": 64, "resize": "letterbox"} | fields,
    )


@pytest.fixture(scope="module")
def derived_root(tmp_path_factory):
    return tmp_path_factory.mktemp("derived")


@pytest.fixture(scope="module")
def config(synthetic_root, derived_root):
    return data_config(synthetic_root, derived_root)


@pytest.fixture(scope="module")
def train_split(config):
    return load_split(config, "train")


@pytest.fixture(scope="module")
def val_split(config):
    return load_split(config, "val")


def load_val(root):
    return load_split(data_config(root, root.parent / "derived"), "val")


def test_what_the_annotations_leave_out_is_said_when_a_split_is_loaded(
    synthetic_root, tmp_path, capsys
):
    root = tmp_path / "data"
    shutil.copytree(synthetic_root, root)
    load_val(root)
    assert "left out" not in capsys.readouterr().out
    path = annotation_path(root, "val")
    file = json.loads(path.read_text())
    file["annotations"][0]["category_id"] = None
    path.write_text(json.dumps(file))
    split = load_val(root)
    said = f"{path.name}: 1 annotation left out (it has no usable category_id)"
    assert capsys.readouterr().out.startswith(said)
    assert split.coco.problems[0].kind == "annotation_left_out"
    rasterize_split(path, tmp_path / "masks", "supercategory", workers=1)
    assert capsys.readouterr().out.startswith(said)


def test_split_holds_every_photo_in_the_jsons_order(train_split, synthetic_root):
    listed = json.loads(annotation_path(synthetic_root, "train").read_text())["images"]
    assert [record.file_name for record in train_split.images] == [i["file_name"] for i in listed]
    assert train_split.excluded == {}
    assert train_split.classes.num_classes == 13
    assert str(train_split.source) == "synthetic, train, n = 16 photos"
    assert train_split.source.without_number == "synthetic, train"
    native = f"{train_split.source}, native resolution"
    assert train_split.scored_source(PLAIN_INFERENCE) == native
    mirrored = InferenceConfig(tta_flip=True)
    assert train_split.scored_source(mirrored) == f"{native}, mirrored too"


def test_annotations_can_be_let_go(config, train_split):
    light = load_split(config, "train", annotations=False)
    assert light.coco.packed == light.coco.packed_of(light.images[0].id) == ()
    assert (light.images, light.masks) == (train_split.images, train_split.masks)
    assert light.coco.sha256 == train_split.coco.sha256
    assert str(light.source) == str(train_split.source)


def test_split_pairs_each_photo_with_its_own_mask(train_split):
    for record in train_split.images:
        image, mask = train_split.read_pair(record)
        assert image.shape == (record.height, record.width, 3)
        assert mask.shape == (record.height, record.width)
        assert mask.dtype == np.uint8
        assert 0 < mask.max() <= 12


def test_pairs_by_number_are_those_of_the_records(val_split):
    pairs = val_split.pairs()
    assert len(pairs) == len(val_split.images)
    for ours, expected in zip(pairs.read(5), val_split.read_pair(val_split.images[5]), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_image_limit_takes_the_first(config):
    limited = load_split(config.model_copy(update={"image_limit": 3}), "val")
    whole = load_split(config, "val")
    assert limited.images == whole.images[:3]


def test_broken_photos_are_left_out_by_name(val_split, val_root):
    names = [record.file_name for record in val_split.images]
    photos = [val_root / "test" / name for name in names]
    photos[0].write_bytes(b"")
    photos[2].write_bytes(photos[2].read_bytes()[:2000])
    photos[4].unlink()
    cv2.imwrite(str(photos[6]), np.zeros((10, 20, 3), np.uint8))

    split = load_val(val_root)

    assert [record.file_name for record in split.images] == names[1::2]
    assert list(split.excluded) == names[::2]
    for name, reason in zip(
        names[::2], ["0 bytes", "cannot be decoded", "no such file", "20 x 10 px"], strict=True
    ):
        assert reason in split.excluded[name]
    for record in split.images:  # the others keep their own masks
        np.testing.assert_array_equal(split.read_pair(record)[1], val_split.read_pair(record)[1])


def test_split_without_any_usable_photo_is_an_error(val_root):
    for photo in (val_root / "test").iterdir():
        photo.unlink()
    with pytest.raises(ValueError, match=r"no usable photo in .*Check --data-root"):
        load_val(val_root)


def test_photo_that_changed_since_is_not_paired_with_the_old_mask(val_root):
    split = load_val(val_root)
    record = split.images[0]
    cv2.imwrite(str(split.photo_path(record)), np.zeros((10, 20, 3), np.uint8))
    size = f"{record.width} x {record.height}"
    with pytest.raises(
        ValueError, match=f"photo {record.file_name} is 20 x 10 but its mask .* {size};"
    ):
        split.read_pair(record)


def test_photo_without_annotations_is_background(val_root):
    path = annotation_path(val_root, "val")
    content = json.loads(path.read_text())
    image_id = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != image_id]
    path.write_text(json.dumps(content))
    split = load_val(val_root)
    assert split.images[0].id == image_id
    assert not split.read_pair(split.images[0])[1].any()


def test_data_root_with_the_val_split_only(val_root, val_split):
    assert load_val(val_root).images == val_split.images
    with pytest.raises(FileNotFoundError, match=r"instances_attributes_train2020\.json"):
        load_split(data_config(val_root, val_root.parent), "train")


def test_split_without_its_folder_of_photos(val_root):
    shutil.rmtree(val_root / "test")
    with pytest.raises(FileNotFoundError, match="val_only/test"):
        load_val(val_root)


def test_splits_of_a_dataset_are_disjoint(train_split, val_split):
    check_disjoint(train_split, val_split)


def test_shared_photos_are_refused(train_split, val_split):
    shared = train_split.images[3]
    leaky = dataclasses.replace(val_split, images=(*val_split.images, shared))
    with pytest.raises(
        ValueError, match=f"1 photos are in train and in val, such as {shared.file_name}"
    ):
        check_disjoint(train_split, leaky)


def test_splits_with_different_classes_are_refused(train_split, val_split):
    other = class_table("category", val_split.coco.categories)
    with pytest.raises(ValueError, match="have different classes: only in the first: closures"):
        check_disjoint(train_split, dataclasses.replace(val_split, classes=other))


# --- test ----------------------------------------------------------------------------------------


@pytest.fixture
def tested_root(synthetic_root, tmp_path):
    """The drawn dataset; one of the photos that val lists is test's instead."""
    root = tmp_path / "tested"
    shutil.copytree(synthetic_root, root)
    record = json.loads(annotation_path(root, "val").read_text())
    for split, images in (("val", record["images"][1:]), ("test", record["images"][:1])):
        ids = {image["id"] for image in images}
        annotations = [a for a in record["annotations"] if a["image_id"] in ids]
        text = json.dumps(record | {"images": images, "annotations": annotations})
        annotation_path(root, split).write_text(text)
    return root


def test_test_is_a_split_of_its_own_beside_val(tested_root, tmp_path, val_split):
    config = data_config(tested_root, tmp_path / "derived")
    val, test = load_split(config, "val"), load_split(config, "test")
    assert [*test.images, *val.images] == list(val_split.images)
    assert test.image_dir == val.image_dir
    assert test.masks.mask_dir != val.masks.mask_dir
    expected = val_split.read_pair(test.images[0])
    assert all(map(np.array_equal, test.read_pair(test.images[0]), expected))
    assert str(test.source) == "synthetic, test, n = 1 photos"


def test_splits_that_there_are_are_read(synthetic_root, tested_root):
    assert list(read_splits(synthetic_root)) == ["train", "val"]
    assert {split: len(coco.images) for split, coco in read_splits(tested_root).items()} == {
        "train": 16,
        "val": 7,
        "test": 1,
    }
    annotation_path(tested_root, "val").unlink()
    with pytest.raises(FileNotFoundError, match="val2020"):
        read_splits(tested_root)


def test_missing_test_split_is_named(config):
    message = r"has no test split; expected instances_attributes_test2020\.json in it"
    with pytest.raises(FileNotFoundError, match=message):
        load_split(config, "test")
