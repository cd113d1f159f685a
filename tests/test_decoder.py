"""The faster decoder: the function, the gradients and the names of smp's own."""

import pytest
import segmentation_models_pytorch as smp
import torch

from clothseg_utils.network import decoder
from clothseg_utils.network.decoder import speed_up_decoder, use_decoder_form
from clothseg_utils.network.unet import build_network

# mit_b0 and ConvNeXt have no feature map of half the input's size.
ENCODERS = ["resnet18", "mit_b0", "tu-resnet18", "tu-convnext_atto"]
FORMS = ["fused", "plain"]


def both_networks(encoder_name):
    """smp's network and ours with the same random weights and running statistics, in float64."""
    networks = []
    for change in (lambda network: None, speed_up_decoder):
        torch.manual_seed(0)
        network = smp.Unet(encoder_name, encoder_weights=None, classes=5)
        for module in network.decoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 2.0)
                torch.nn.init.uniform_(module.bias)
                torch.nn.init.uniform_(module.running_mean)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
        change(network)
        networks.append(network.double())
    return networks


def random_images(n=2, height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_logits_are_those_of_smp(encoder_name, form):
    usual, ours = both_networks(encoder_name)
    use_decoder_form(ours, form)
    with torch.inference_mode():
        expected = usual.eval()(random_images())
        logits = ours.eval()(random_images())
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_gradients_and_running_statistics_are_those_of_smp(encoder_name, form):
    usual, ours = both_networks(encoder_name)
    use_decoder_form(ours, form)
    for network in (usual, ours):
        torch.manual_seed(0)  # the transformer drops paths at random
        network.train()(random_images()).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in usual.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-7, atol=1e-10)
    statistics = dict(ours.named_buffers())
    for name, buffer in usual.named_buffers():
        torch.testing.assert_close(statistics[name], buffer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_state_dict_fits_both(encoder_name):
    usual, ours = both_networks(encoder_name)
    assert list(ours.state_dict()) == list(usual.state_dict())
    usual.load_state_dict(ours.state_dict())


def test_decoder_gets_features_as_its_convolutions_take_them():
    network = build_network("mit_b0", "none", 5)
    seen = []
    network.encoder.register_forward_hook(lambda *call: seen.append(call[-1][1:]))
    images = random_images().float()
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(images)
        network(images)
    assert [{skip.dtype for skip in skips} for skips in seen] == [{torch.bfloat16}, {torch.float32}]
    assert all(
        skip.is_contiguous(memory_format=torch.channels_last)
        for skips in seen
        for skip in skips
        if skip.numel()
    )


def channels_kept_at_full_size(network):
    """Channels of the full-size feature maps that the gradient will need."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor
    ):
        network.train()(random_images().float())
    return {shape[1] for shape in saved if len(shape) == 4 and shape[2:] == (64, 96)}


def test_doubled_features_are_not_kept_for_the_gradient():
    """The last block doubles 32 channels; at full size only its 16 and the image stay."""
    network = build_network("resnet18", "none", 5)
    assert channels_kept_at_full_size(network) == {3, 16}
    use_decoder_form(network, "plain")
    assert channels_kept_at_full_size(network) == {3, 16, 32}


@pytest.mark.parametrize(("fused_devices", "channels"), [(("cpu",), {3, 16}), ((), {3, 16, 32})])
def test_the_device_chooses_the_form(monkeypatch, fused_devices, channels):
    monkeypatch.setattr(decoder, "FUSED_DEVICES", fused_devices)
    assert channels_kept_at_full_size(build_network("resnet18", "none", 5)) == channels


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_attention_type": "scse"},
        {"decoder_use_norm": False},
        {"decoder_interpolation": "bilinear"},
    ],
)
def test_another_decoder_is_refused(options):
    network = smp.Unet("resnet18", encoder_weights=None, classes=5, **options)
    with pytest.raises(ValueError, match="expected smp's default"):
        speed_up_decoder(network)
