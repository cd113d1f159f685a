"""Tests of `network.trials`: every option on the same photos, against none."""

import math

import pytest
import torch

from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig
from clothseg_utils.network.evaluate import evaluate
from clothseg_utils.network.trials import PLAIN, standard_options, try_options


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.slow
def test_options_are_tried_on_the_same_photos(tiny_network, tiny_training):
    split = tiny_training.val_split
    options = {
        PLAIN: PLAIN_INFERENCE,
        "flip": InferenceConfig(tta_flip=True),
        "again": PLAIN_INFERENCE,
    }
    trials = try_options(tiny_network, split, options, photos=99, bootstrap_samples=100)
    plain, flip, again = trials
    assert [trial.option for trial in trials] == list(options)
    assert {trial.n for trial in trials} == {len(split.images)}
    # Without options it is what `evaluate` counts.
    metrics = evaluate(tiny_network, split, bootstrap_samples=100).metrics
    assert (plain.mean_iou, plain.macro_f1) == (metrics["mean_iou"], metrics["macro_f1"])
    assert (plain.gain, plain.low, plain.high, plain.cost) == (0, 0, 0, 1)
    assert again.gain == 0
    assert flip.gain == flip.mean_iou - plain.mean_iou != 0
    assert flip.low <= flip.gain <= flip.high
    assert flip.settings == "mirrored too"
    assert flip.seconds > 0


def test_fewer_photos_are_spread_over_the_split(tiny_network, tiny_training):
    (plain,) = try_options(
        tiny_network,
        tiny_training.val_split,
        {PLAIN: PLAIN_INFERENCE},
        photos=1,
        bootstrap_samples=100,
    )
    assert plain.n == 1
    assert math.isnan(plain.low)


def test_standard_options_start_plain_and_differ(tiny_training):
    options = standard_options(tiny_training.val_split.images, 64)
    assert next(iter(options)) == PLAIN
    assert options[PLAIN] == PLAIN_INFERENCE
    assert len(set(options.values())) == len(options)
    record = tiny_training.val_split.images[0]
    assert 32 <= options["windows"].window_px < max(record.height, record.width)


@pytest.mark.parametrize(
    ("image_size", "sizes"),
    [(32, [64, 32]), (64, [96, 64, 32]), (96, [128, 96, 64]), (512, [640, 512, 384])],
)
def test_standard_scales_are_input_sizes_of_their_own(tiny_training, image_size, sizes):
    options = standard_options(tiny_training.val_split.images, image_size)
    assert options["scales"].input_sizes(image_size) == sizes
