"""Depthwise convolutions in float32: where, and with which gradients."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from clothseg_utils.network.depthwise import widen_depthwise

LITE = "tu-tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def usual():
    torch.manual_seed(0)
    return smp.Unet(LITE, encoder_weights=None, classes=5).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def widened(usual):
    ours = copy.deepcopy(usual)
    widen_depthwise(ours)
    return ours


def dtypes(network):
    """What each depthwise convolution of the encoder computes in, under autocast."""
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda m, args, output, name=name: seen.__setitem__(name, (m.kernel_size, output.dtype))
        )
        for name, module in network.encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    ]
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return seen


def test_only_what_bfloat16_is_slow_at_trains_in_float32(usual, widened):
    assert {dtype for _, dtype in dtypes(usual).values()} == {torch.bfloat16}
    seen = dtypes(widened)
    strides = {
        name: module.stride for name, module in widened.encoder.named_modules() if name in seen
    }
    for name, (kernel_size, dtype) in seen.items():
        is_fast = (kernel_size, strides[name]) == ((3, 3), (1, 1))
        assert dtype == (torch.bfloat16 if is_fast else torch.float32)
    assert len({dtype for _, dtype in seen.values()}) == 2  # the encoder has both kinds


def test_prediction_stays_in_bfloat16(widened):
    with torch.inference_mode():
        assert {dtype for _, dtype in dtypes(widened).values()} == {torch.bfloat16}


def test_function_gradients_and_names_are_the_usual_ones(usual, widened):
    assert list(widened.state_dict()) == list(usual.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    results = []
    for network in (copy.deepcopy(usual), copy.deepcopy(widened)):
        logits = network.train()(images)
        logits.square().mean().backward()
        results.append((logits, [parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=0)
