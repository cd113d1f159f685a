"""Mix Transformers' attention without its table of weights: same function, less memory on a GPU."""

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch.nn import functional

FUSED_DEVICES = ("cuda",)
"""Types of devices that use PyTorch's fused attention. On CPUs smp's own steps are faster."""


def fuse_attention(network: smp.Unet) -> None:
    """Let a Mix Transformer's attention go without storing its weights; changed in place.

    At 512 pixels these are 16,384 x 256 numbers a photo in each block of the first stage alone.
    Parameters and their names stay. Encoders of other kinds are left as they are.
    """
    for module in network.encoder.modules():
        if type(module) is Attention:
            module.__class__ = _FusedAttention  # its layers and settings stay where they are


class _FusedAttention(Attention):
    """smp's attention of a Mix Transformer, by `scaled_dot_product_attention` on a GPU."""

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Map (N, height * width, C) to the same shape."""
        if x.device.type not in FUSED_DEVICES:
            return super().forward(x, height, width)
        n, _, channels = x.shape
        heads = (self.num_heads, channels // self.num_heads)
        below = x
        if self.sr_ratio > 1:  # keys and values come from a coarser grid
            grid = x.transpose(1, 2).reshape(n, channels, height, width)
            below = self.norm(self.sr(grid).flatten(2).transpose(1, 2))
        queries = self.q(x).view(n, -1, *heads).transpose(1, 2)  # (N, heads, pixels, C / heads)
        keys, values = self.kv(below).view(n, -1, 2, *heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))
