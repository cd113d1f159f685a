"""Encoders: which are taken, why others are not, and whose weights they are."""

import re

import pytest
import torch

from clothseg_utils.network.encoders import check_encoder_name, encoder_card


@pytest.mark.parametrize(
    "encoder_name",
    [
        "mit_b1",
        "tu-resnet18",  # features from stride 2 on
        "tu-convnext_atto",  # from stride 4 on
        "tu-convnext_tiny.fb_in22k",
        "tu-vgg11",  # from stride 1 on
    ],
)
def test_encoder_is_taken(encoder_name):
    check_encoder_name(encoder_name)


@pytest.mark.parametrize(
    ("encoder_name", "message"),
    [
        ("mit_b9", r'unknown encoder_name "mit_b9" \(did you mean mit_b\d\?\)'),
        ("convnext_tiny", r"\(did you mean tu-convnext_tiny\?\); expected .* timm\.list_models"),
        ("tu-convnext_tinny", r"\(did you mean tu-convnext_tiny\?\)"),
        ("tu-convnext_tinny.fb_in22k", r"\(did you mean tu-convnext_tiny\?\)"),
        ("tu-resnet18.fb_in22k", r'unknown weights "fb_in22k" of .*; expected one of a1_in1k, '),
        ("tu-vit_tiny_patch16_224", r"strides 16, 16, 16; expected features of strides 4, 8"),
        ("tu-swin_tiny_patch4_window7_224", r"cannot take images of 64 x 96 pixels \(.*224"),
    ],
)
def test_encoder_is_refused_in_one_line_with_the_reason(encoder_name, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_encoder_name(encoder_name)
    assert "\n" not in str(caught.value)


def test_a_check_draws_no_random_numbers():
    """Training seeds once; whether a check was made before must not change what follows."""
    before = torch.get_rng_state()
    check_encoder_name("tu-resnet26")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("encoder_name", "encoder_weights", "weights", "license_name"),
    [
        ("tu-convnext_tiny", "imagenet", "timm/convnext_tiny.in12k_ft_in1k", "apache-2.0"),
        ("tu-convnextv2_atto.fcmae", "imagenet", "timm/convnextv2_atto.fcmae", "cc-by-nc-4.0"),
        ("tu-res2net50_26w_4s", "imagenet", "timm/res2net50_26w_4s.in1k", "unknown"),
        ("mit_b1", "imagenet", "mit_b1, ImageNet", "NVIDIA Source Code License: .*only"),
        ("resnet34", "imagenet", "resnet34, ImageNet", "bsd-3-clause"),
        ("xception", "imagenet", "xception, ImageNet", "unknown"),
        ("mit_b1", "none", "random", "none of others"),
        ("resnet34", "weights/own.pt", "weights/own.pt", "unknown"),
    ],
)
def test_weights_are_named_with_their_licence(encoder_name, encoder_weights, weights, license_name):
    check_encoder_name(encoder_name)
    card = encoder_card(encoder_name, encoder_weights)
    assert card["weights"] == weights
    assert re.fullmatch(license_name, card["license"])
