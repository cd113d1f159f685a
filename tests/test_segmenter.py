"""Tests of `network.segmenter`: looks, windows, and that they cover the photo exactly."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES
from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig
from clothseg_utils.network.segmenter import (
    Segmenter,
    logits_to_mask,
    logits_to_probabilities,
)
from clothseg_utils.prediction.looks import window_starts

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


class OfColor(nn.Module):
    """A network whose class depends on a pixel's own colour alone."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn((13, 3, 1, 1), generator=generator))
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return nn.functional.conv2d(images, self.weight)


class OfPlace(OfColor):
    """A network that says class 1 on the left half of its input, class 0 on the right."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros((1, 13, *images.shape[2:]))
        half = images.shape[3] // 2
        logits[:, 1, :, :half] = 20
        logits[:, 0, :, half:] = 20
        return logits


def trained(network: nn.Module, resize="squash", **options) -> Segmenter:
    return Segmenter(
        path=Path("none.ckpt"),
        network=network.eval(),
        class_names=SUPERCATEGORY_NAMES,
        image_size=SIDE,
        resize=resize,
        info={},
        inference=InferenceConfig(**options),
    )


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def mask_of(network: Segmenter, image: np.ndarray) -> np.ndarray:
    return logits_to_mask(network.logits(image), *image.shape[:2])


OPTIONS = [
    {"tta_flip": True},
    {"tta_scales": "2,3"},
    {"tta_flip": True, "tta_scales": "2"},
    {"window_px": SIDE},
    {"window_px": 2 * SIDE, "tta_flip": True, "tta_scales": "3"},
]


def test_without_options_it_is_one_pass():
    network = trained(OfColor())
    image = noise(40, 70)
    assert torch.equal(network.logits(image), network.look(image, SIDE, network.resize))
    assert network.network.calls == 2


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (9, 200), (33, 31), (100, 64)])
def test_masks_have_the_size_of_the_photo(resize, options, size):
    network = trained(OfColor(), resize, **options)
    logits = network.logits(noise(*size))
    assert torch.isfinite(logits).all()
    assert logits_to_mask(logits, *size).shape == size


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_agree_where_there_is_nothing_to_gain(options):
    """Every look at a photo of one colour says the same."""
    image = np.full((100, 64, 3), (200, 30, 90), np.uint8)
    network = trained(OfColor(), **options)
    plain = dataclasses.replace(network, inference=PLAIN_INFERENCE)
    assert np.array_equal(mask_of(network, image), mask_of(plain, image))
    pair = (logits_to_probabilities(n.logits(image), 4, 4) for n in (network, plain))
    assert np.allclose(*pair, atol=2e-3)


def test_mirrored_looks_are_turned_back():
    """A mirrored look at noise lines up with the plain one to the pixel."""
    image = noise(SIDE, SIDE)
    assert np.array_equal(
        mask_of(trained(OfColor(), tta_flip=True), image), mask_of(trained(OfColor()), image)
    )


def test_mirroring_cancels_what_depends_on_the_side():
    logits = trained(OfPlace(), tta_flip=True).logits(noise(SIDE, SIDE))
    probabilities = logits_to_probabilities(logits, SIDE, SIDE)
    assert np.allclose(probabilities[:2], 0.5, atol=1e-3)


def test_softmax_of_the_result_is_the_mean_of_the_looks():
    network = trained(OfColor(), tta_scales="2")
    image = noise(2 * SIDE, 2 * SIDE)
    small, large = (network.look(image, size, "squash").softmax(1) for size in (32, 64))
    upsampled = nn.functional.interpolate(small, (64, 64), mode="bilinear")
    expected = (upsampled + large) / 2
    assert torch.allclose(network.logits(image).softmax(1), expected, atol=1e-5)


def test_windows_at_native_size_see_every_pixel_unscaled():
    """A window of the input's size is no resizing at all, so each pixel keeps its own class."""
    image = noise(75, 110)
    network = trained(OfColor(), window_px=SIDE)
    cut = [noise(75, 110)[top : top + SIDE, :SIDE] for top in (0, 43)]
    mask = mask_of(network, image)
    plain = dataclasses.replace(network, inference=PLAIN_INFERENCE)
    for top, piece in zip((0, 43), cut, strict=True):
        assert np.array_equal(mask[top : top + SIDE, :SIDE], mask_of(plain, piece))


def test_windows_leave_smaller_photos_alone():
    network = trained(OfColor(), window_px=200)
    mask_of(network, noise(200, 150))
    assert network.network.calls == 1
    mask_of(network, noise(230, 150))
    assert network.network.calls == 3  # two windows above each other


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1, [0]), (32, [0]), (33, [0, 1]), (56, [0, 24]), (57, [0, 12, 25])],
)
def test_windows_reach_both_edges_and_overlap(length, starts):
    assert window_starts(length, SIDE) == starts


def test_squashing_for_the_reported_protocol_looks_once():
    network = trained(OfColor(), "letterbox", tta_flip=True, tta_scales="2", window_px=SIDE)
    logits = network.look(noise(100, 40), SIDE, "squash")
    assert logits.shape == (1, 13, SIDE, SIDE)
    assert network.network.calls == 1


def test_a_mask_does_not_depend_on_what_came_before(tiny_network):
    network = dataclasses.replace(
        tiny_network, inference=InferenceConfig(tta_flip=True, tta_scales="2", window_px=48)
    )
    image, other = noise(60, 70), noise(90, 33)
    alone = network.logits(image)
    network.logits(other)
    assert torch.equal(network.logits(image), alone)


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, None], ids=["bf16", "float32"])
def test_a_photo_s_logits_do_not_depend_on_its_batch(tiny_network, monkeypatch, dtype):
    monkeypatch.setattr("clothseg_utils.network.segmenter.default_precision", lambda _: dtype)
    sizes = [(40, 30), (32, 32), (20, 90), (64, 64), (7, 5)]
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    four = dataclasses.replace(tiny_network, batch_size=4)
    alone = [four.predict(photo).logits for photo in photos]
    assert all(one.abs().max() > 0 for one in alone)
    for chosen in ([0, 1, 2, 3], [3, 2, 1, 0], [4, 0], [1, 4, 2]):
        together = four.predict_batch([photos[index] for index in chosen])
        assert [one.mask().shape for one in together] == [sizes[index] for index in chosen]
        assert all(
            torch.equal(one.logits, alone[index])
            for one, index in zip(together, chosen, strict=True)
        )


def test_test_time_options_look_at_one_photo_after_the_other():
    segmenter = dataclasses.replace(trained(OfColor(), tta_flip=True), batch_size=4)
    photos = [np.full((20, 30, 3), 255, np.uint8), np.zeros((9, 9, 3), np.uint8)]
    together = segmenter.predict_batch(photos)
    assert segmenter.network.calls == 4  # two looks at each
    for one, photo in zip(together, photos, strict=True):
        assert torch.equal(one.logits, segmenter.logits(photo))
