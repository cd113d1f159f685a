"""Pipelines of albumentations: read as saved, fit for masks, and refused in one line if not."""

import os
import pickle
import random
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest
import yaml

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import AugmentConfig, profile_config
from clothseg_utils.core.files import repo_root
from clothseg_utils.prediction.geometry import fit_image, fit_mask
from clothseg_utils.training.augment import TrainTransform, build_pipeline
from clothseg_utils.training.pipeline_file import pipeline_text, read_pipeline


@pytest.fixture
def save(tmp_path):
    """Saves transforms as a pipeline's file."""

    def save_transforms(*transforms, data_format="yaml", **options):
        path = tmp_path / f"own.{data_format}"
        A.save(A.Compose(list(transforms), **options), path, data_format=data_format)
        return path

    return save_transforms


def changed(path, change):
    """Change what the first transform of a YAML file says."""
    saved = yaml.safe_load(path.read_text())
    change(saved["transform"]["transforms"][0])
    path.write_text(yaml.safe_dump(saved))
    return path


def transform_of(path, size=64, resize="letterbox"):
    return TrainTransform(AugmentConfig(pipeline_file=str(path)), size, resize)


def photo(height=100, width=80):
    """Noise, and a mask without background: fill 0 and mixed ids would show."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.choice(np.array([3, 12], np.uint8), (height, width))


def test_import_asks_no_network_and_warns_of_nothing():
    code = (
        "import socket\n"
        "def refuse(*arguments): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import clothseg_utils, albumentations\n"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=repo_root(),
        env={n: v for n, v in os.environ.items() if n != "NO_ALBUMENTATIONS_UPDATE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


@pytest.mark.parametrize("data_format", ["yaml", "json"])
def test_our_own_pipeline_can_be_saved_and_read_back(tmp_path, data_format):
    ours = build_pipeline(profile_config("fashionpedia").augment, 64, "letterbox", (1, 2, 3))
    path = tmp_path / "ours"
    A.save(ours, path, data_format=data_format)
    again = read_pipeline(path)
    assert repr(again) == repr(ours)
    for pipeline in (ours, again):
        pipeline.set_random_state(np.random.default_rng(5), random.Random(5))
    image, mask = photo()
    first, second = ours(image=image, mask=mask), again(image=image, mask=mask)
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(first["mask"], second["mask"])


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
def test_what_a_pipeline_makes_is_fitted_as_validation_fits_photos(save, resize):
    image, mask = photo()
    found_image, found_mask = transform_of(save(A.HorizontalFlip(p=1)), 64, resize)(image, mask)
    flipped = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    np.testing.assert_array_equal(found_image, fit_image(flipped[0], 64, resize))
    np.testing.assert_array_equal(found_mask, fit_mask(flipped[1], 64, resize))


def test_a_square_of_the_right_size_is_left_as_it_is(save):
    path = save(A.Resize(64, 64, interpolation=cv2.INTER_CUBIC))
    image, mask = photo()
    expected = cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(transform_of(path)(image, mask)[0], expected)


@pytest.mark.parametrize(
    "transform",
    [
        A.Affine(rotate=(-40, 40), scale=(0.5, 1.0), p=1),  # fill_mask is 0 by default
        A.Affine(rotate=(-40, 40), mask_interpolation=cv2.INTER_LINEAR, p=1),
        A.PadIfNeeded(120, 120, p=1),
        A.CoarseDropout(fill_mask=0, p=1),
        A.PixelDropout(mask_drop_value=0, p=1),
        A.ElasticTransform(alpha=50, p=1),
        A.OneOf([A.Rotate(p=1), A.Sequential([A.Perspective(p=1)], p=1)], p=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_masks_get_255_where_the_photo_is_not_and_no_mixed_ids(save, transform):
    own = transform_of(save(transform))
    own.rehearse([(100, 80)])
    seen = set()
    for seed in range(10):
        own.set_random_seed(seed)
        seen |= set(np.unique(own(*photo())[1]).tolist())
    assert seen == {3, 12, IGNORE_INDEX}


def test_dropout_that_leaves_the_mask_alone_goes_on_leaving_it(save):
    own = transform_of(save(A.CoarseDropout(p=1)), resize="squash")
    assert set(np.unique(own(*photo())[1])) == {3, 12}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Normalize(), "has Normalize; .* Remove it: the network normalises"),
        (A.ToTensorV2(), "has ToTensorV2; .* Remove it"),
        (A.OneOf([A.NoOp(), A.Normalize()]), "has Normalize"),
    ],
)
def test_the_networks_own_work_is_refused(save, transform, message):
    with pytest.raises(ValueError, match=message):
        read_pipeline(save(transform))


@pytest.mark.parametrize("field", ["bbox_params", "keypoint_params"])
def test_boxes_and_points_are_refused(save, field):
    params = A.BboxParams("coco") if field == "bbox_params" else A.KeypointParams("xy")
    with pytest.raises(ValueError, match=f"has {field}; .* Save the pipeline without {field}"):
        read_pipeline(save(A.HorizontalFlip(), **{field: params}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_value": 255}, "Affine: Argument.* 'mask_value' are not valid"),  # only a warning
        ({"always_apply": False}, "'always_apply' are not valid"),  # of albumentations 1
        ({"p": 2}, "Affine: .*less than or equal to 1"),
        ({"__class_fullname__": "Afine"}, r'unknown transform "Afine" \(did you mean Affine\?\)'),
        ({"__class_fullname__": "os.system"}, 'unknown transform "os.system"'),
    ],
)
def test_unknown_transforms_and_arguments_are_errors(save, changes, message):
    path = changed(save(A.Affine()), lambda node: node.update(changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_pipeline(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "a: [", "{", "{}", "transform: 3", "transform: {transforms: []}"]
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no pipeline of albumentations .*albumentations.save"):
        read_pipeline(path)


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"augment.pipeline_file is none\.yaml, which does"):
        read_pipeline("none.yaml")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.RandomCrop(90, 90, p=1), "fails on a photo of 80 x 100 px: .* PadIfNeeded"),
        (A.ToGray(num_output_channels=1, p=1), r"makes an image, uint8 \(100, 80\)"),
        (A.GridElasticDeform((4, 4), 10, p=1), r"masks with ids \[0\]"),  # it has no fill
        (A.Mosaic(p=1), "mosaic_metadata"),
    ],
)
def test_what_does_not_work_fails_in_the_rehearsal(save, transform, message):
    with pytest.raises(ValueError, match=message) as caught:
        transform_of(save(transform)).rehearse([(100, 80)])
    assert "\n" not in str(caught.value)


def test_equal_seeds_agree_and_transforms_draw_apart(save):
    """Left to `set_random_seed`, all transforms would flip a coin of the same side."""
    own = transform_of(save(A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)), 64, "squash")
    image, mask = photo(64, 64)
    results = {}
    for seed in [(0, number) for number in range(40)]:
        pair = []
        for _ in range(2):
            own.set_random_seed(seed)
            pair.append(own(image, mask)[0].tobytes())
        assert pair[0] == pair[1]
        results[pair[0]] = seed
    assert len(results) == 4  # neither, one, the other, both


def test_a_transform_is_the_same_after_pickling(save):
    own = transform_of(save(A.Affine(rotate=(-40, 40), p=1)))
    copy = pickle.loads(pickle.dumps(own))
    for transform in (own, copy):
        transform.set_random_seed((1, 2))
    np.testing.assert_array_equal(own(*photo())[0], copy(*photo())[0])


def test_text_is_the_content_not_the_form(save):
    as_yaml, as_json = (
        pipeline_text(save(A.Affine(rotate=(-9, 9)), data_format=kind)) for kind in ("yaml", "json")
    )
    other = pipeline_text(save(A.Affine(rotate=(-8, 9))))
    assert as_yaml == as_json != other
