"""Depthwise convolutions that learn in float32 where a CPU is slow at bfloat16's gradients."""

import torch
from segmentation_models_pytorch import Unet
from timm.layers import Conv2dSame
from torch import nn

WIDE_DEVICES = ("cpu",)
"""Types of devices on which float32 was measured to be the faster one."""


def widen_depthwise(network: Unet) -> None:
    """Let depthwise convolutions of an encoder train in float32 under autocast; changed in place.

    On CPUs with bfloat16 those of 3 x 3 and stride 1 take half as long in it. All others take two
    to twenty times as long there as in float32, nearly all of it for their gradients, and are
    widened: a U-Net with EfficientNet-Lite0 then trains 1.5 times as fast at 128 pixels. What asks
    for no gradient, as in prediction, is left as it is; so are parameters and their names.
    """
    for module in network.encoder.modules():
        wide = _WIDE.get(type(module))
        if wide is None or not isinstance(module, nn.Conv2d):
            continue
        is_fast = module.kernel_size == (3, 3) and module.stride == (1, 1)
        if module.groups == module.in_channels > 1 and not is_fast:
            module.__class__ = wide  # its weights and settings stay where they are


class _Wide(nn.Conv2d):
    """Computes without autocast where a gradient will be asked for."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        device_type = input.device.type
        if device_type not in WIDE_DEVICES or not torch.is_grad_enabled():
            return super().forward(input)
        with torch.autocast(device_type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class _WideSame(_Wide, Conv2dSame):
    """The same for the padding of TensorFlow's models."""


_WIDE: dict[type[nn.Module], type[_Wide]] = {nn.Conv2d: _Wide, Conv2dSame: _WideSame}
