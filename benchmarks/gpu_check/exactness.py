"""Part 2: what the GPU computes beside the CPU, which has double precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_check.runner import Findings
from benchmarks.gpu_check.setting import (
    Setting,
    counted_confusion,
    our_loss,
    our_module,
    plain_network,
    use_form,
)
from benchmarks.loss import make_batch
from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.network.segmenter import logits_to_mask
from clothseg_utils.scores.metrics import confusion_matrix
from clothseg_utils.training.losses import LossParts

_GRAD_SCALE = 2.0**16
"""As the scaler begins: without it a gradient in float16 is 0."""


def exactness(setting: Setting, found: Findings) -> None:
    """Part 2."""
    torch.backends.cudnn.allow_tf32 = False  # a product of 10 bits would hide what is looked for
    _decoders(setting, found)
    side = 64 if setting.is_small else 512
    logits, target = make_batch()
    logits, target = logits.detach()[..., :side, :side], target[..., :side, :side].byte()
    _losses(setting, found, logits, target)
    _counts(setting, found, logits, target)


def _losses(setting: Setting, found: Findings, logits: torch.Tensor, target: torch.Tensor) -> None:
    last = torch.channels_last
    # name: logits, target, largest relative error of the gradient; float16 has 11 bits.
    cases = {
        "float32": (logits, target, 1e-4),
        "float16": (logits.half(), target, 1e-3),
        "channels_last": (logits.contiguous(memory_format=last), target, 1e-4),
        "float16 channels_last": (logits.half().contiguous(memory_format=last), target, 1e-3),
        "one photo": (logits[:1], target[:1], 1e-4),
        "all ignored": (logits, torch.full_like(target, IGNORE_INDEX), 1e-4),
    }
    for name, (values, ids, most) in cases.items():
        parts, grad = _loss_and_grad(values.to(setting.device), ids.to(setting.device))
        exact_parts, exact_grad = _loss_and_grad(values.double(), ids)
        value_error = max(
            abs(part - exact) / max(abs(exact), 1e-12) if exact else abs(part)
            for part, exact in zip(parts, exact_parts, strict=True)
        )
        grad_error = _relative(grad, exact_grad)
        found.figure(**{f"loss, {name}": {"value": value_error, "gradient": grad_error}})
        found.check(**{f"loss, {name}": value_error < 1e-5 and grad_error < most})


def _loss_and_grad(logits: torch.Tensor, target: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    logits = logits.detach().requires_grad_()
    parts = our_loss()(logits, target)
    (parts.loss * _GRAD_SCALE).backward()
    assert logits.grad is not None
    return [part.item() for part in parts], logits.grad.double().cpu() / _GRAD_SCALE


def _relative(value: torch.Tensor, exact: torch.Tensor) -> float:
    norm = exact.norm()
    return float((value - exact).norm() / norm if norm else value.norm())


def _counts(setting: Setting, found: Findings, logits: torch.Tensor, target: torch.Tensor) -> None:
    num_classes = logits.shape[1]
    zero = torch.zeros((), device=setting.device)
    counted = counted_confusion(
        LossParts(zero, zero, zero), logits.to(setting.device), target.to(setting.device)
    )
    expected = confusion_matrix(
        target.numpy(), logits.argmax(1).byte().numpy(), num_classes=num_classes
    )
    found.check(counts=bool((counted.cpu().numpy() == expected).all()))
    height, width = (100, 80) if setting.is_small else (1024, 768)
    masks = [
        logits_to_mask(logits[:1].to(device), height, width) for device in ("cpu", setting.device)
    ]
    differing = float(np.mean(masks[0] != masks[1]))
    found.figure(mask_differing_share=differing)
    found.check(masks=differing < 1e-4)


def _decoders(setting: Setting, found: Findings) -> None:
    """Ours in its fused form and smp's, of the same weights, beside smp's in float64."""
    plain = plain_network(setting.encoder)
    ours = our_module(setting.config()).network
    ours.load_state_dict(plain.state_dict())
    use_form(ours, "fused")
    for network in (plain, ours):
        _smoothen(network.decoder)
    side = 128  # smaller, and batch norm sees too few pixels at the deepest block
    generator = torch.Generator().manual_seed(0)
    channels = plain.encoder.out_channels
    features = [
        torch.randn((2, count, side >> depth, side >> depth), generator=generator)
        for depth, count in enumerate(channels)
    ]
    weight = torch.randn(
        (2, plain.segmentation_head[0].out_channels, side, side), generator=generator
    )
    exact = _decode(plain.double(), [f.double() for f in features], weight.double(), None)
    plain.float()
    for dtype, most in ((None, 1e-4), (torch.float16 if setting.on_gpu else torch.bfloat16, None)):
        errors = {}
        for name, network in (("smp", plain), ("ours", ours)):
            network.to(setting.device)
            got = _decode(
                network,
                [f.to(setting.device) for f in features],
                weight.to(setting.device),
                dtype,
            )
            errors[name] = {
                what: _relative(value, expected)
                for what, value, expected in zip(("logits", "gradients"), got, exact, strict=True)
            }
        label = f"decoder, {dtype or torch.float32}"
        found.figure(**{label: errors})
        # Alone they are compared with a fixed bound; narrow, with the other's own rounding.
        found.check(
            **{
                label: all(
                    errors["ours"][what] < (most or 1.5 * errors["smp"][what])
                    for what in errors["ours"]
                )
            }
        )


def _smoothen(module: nn.Module) -> None:
    """Put a smooth function for each ReLU: where one flips by rounding alone, gradients jump."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        else:
            _smoothen(child)


def _decode(
    network: Any,
    features: list[torch.Tensor],
    weight: torch.Tensor,
    dtype: torch.dtype | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the gradients of all weights behind the encoder, whose features are given."""
    network.train()
    network.zero_grad()
    give: Callable[[torch.Tensor], list[torch.Tensor]] = lambda image: features  # noqa: E731
    network.encoder.forward = give
    with torch.autocast(weight.device.type, dtype, enabled=dtype is not None):
        logits = network(features[0][:, :1].expand(-1, 3, -1, -1))
    (logits.to(weight.dtype) * weight).sum().backward()
    grads = [
        parameter.grad.flatten().double().cpu()
        for name, parameter in network.named_parameters()
        if not name.startswith("encoder.")
    ]
    return logits.detach().double().cpu(), torch.cat(grads)
