"""Fused attention: the function, the gradients and the names of smp's own."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from clothseg_utils.network import attention
from clothseg_utils.network.attention import fuse_attention


@pytest.fixture
def calls(monkeypatch):
    """Number of calls of the fused function."""
    original = functional.scaled_dot_product_attention
    seen = []

    def counted(*args, **options):
        seen.append(1)
        return original(*args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    return seen


@pytest.fixture(scope="module")
def usual():
    torch.manual_seed(0)
    return smp.Unet("mit_b0", encoder_weights=None, classes=5).double()


def gradients(network):
    torch.manual_seed(0)  # the transformer drops paths at random
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    network.zero_grad()
    logits = network.train()(images)
    logits.square().mean().backward()
    return logits, {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_logits_and_gradients_are_those_of_smp(monkeypatch, calls, usual, devices):
    monkeypatch.setattr(attention, "FUSED_DEVICES", devices)
    ours = copy.deepcopy(usual)
    fuse_attention(ours)
    assert list(ours.state_dict()) == list(usual.state_dict())
    logits, grads = gradients(ours)
    assert len(calls) == (8 if devices else 0)  # two blocks in each of four stages
    expected_logits, expected_grads = gradients(copy.deepcopy(usual))
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-10)
    for name, expected in expected_grads.items():
        torch.testing.assert_close(grads[name], expected, rtol=1e-7, atol=1e-10)
