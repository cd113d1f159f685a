"""Dice + Focal, forward and backward, at the size of a training step."""

import sys
from collections.abc import Callable

import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torch import nn

from benchmarks.harness import (
    Row,
    alternate,
    check_equal,
    extra_peak_mb,
    read_report,
    report,
    seconds_of,
)
from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.training.losses import DiceFocalLoss

SHAPE = (4, 13, 512, 512)


class SmpLoss(nn.Module):
    """The two losses of segmentation-models-pytorch, half and half."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss("multiclass", smooth=1.0, ignore_index=IGNORE_INDEX)
        self.focal = FocalLoss("multiclass", ignore_index=IGNORE_INDEX)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, C, H, W) for an int64 target (N, H, W)."""
        return 0.5 * self.dice(logits, target) + 0.5 * self.focal(logits, target)


def rows() -> list[Row]:
    """Compare time and extra peak memory; loss and gradient must agree."""
    logits, target = make_batch()
    timing = alternate(usual(logits, target), ours(logits, target), 5)
    value, grad = timing.our_result
    # smp's own float32 Dice, an L1 norm over all pixels, is off by up to 1e-3.
    exact = logits.detach().double().requires_grad_()
    expected, expected_grad = usual(exact, target)()
    check_equal("loss (relative, beyond 1e-5)", int(abs(value / expected - 1) > 1e-5))
    difference = float((grad - expected_grad).norm() / expected_grad.norm())
    check_equal("gradient (relative, beyond 1e-4)", int(difference > 1e-4))
    note = (
        f"{SHAPE} float32; smp DiceLoss + FocalLoss; gradient within {difference:.0e} of "
        "theirs in float64"
    )
    times = Row(
        "Dice + Focal, forward and backward",
        timing.baseline,
        timing.ours,
        "s",
        6.0,
        timing.n,
        note,
        floor=timing.baseline / least_seconds(logits.detach()),
        floor_note=(
            "softmax, exp and log of every logit, one read and one write of each, which no form "
            "of these two losses can do without"
        ),
    )
    # Memory once freed stays with the process: each side needs one of its own.
    memory = [read_report("-m", __name__, side)["extra_mb"] for side in ("usual", "ours")]
    return [times, Row("Dice + Focal, extra peak memory", *memory, "MB", 2.0, 1, note)]


def usual(logits: torch.Tensor, target: torch.Tensor) -> Callable[[], tuple[float, torch.Tensor]]:
    """Loss and gradient of the library's losses, as one call."""
    loss_function = SmpLoss()
    return lambda: _value_and_gradient(loss_function(logits, target), logits)


def ours(logits: torch.Tensor, target: torch.Tensor) -> Callable[[], tuple[float, torch.Tensor]]:
    """The same of ours."""
    loss_function = DiceFocalLoss()
    ids = target.to(torch.uint8)  # as the loader gives it
    return lambda: _value_and_gradient(loss_function(logits, ids).loss, logits)


def _value_and_gradient(value: torch.Tensor, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


def least_seconds(logits: torch.Tensor, repeats: int = 3) -> float:
    """Time of what every form has to compute, each in memory that is there already."""
    works = [torch.empty_like(logits) for _ in range(3)]

    def compute() -> None:
        torch.softmax(logits, 1, out=works[0])
        torch.exp(logits, out=works[1])
        torch.log(works[1], out=works[2])

    compute()
    return min(seconds_of(compute)[0] for _ in range(repeats))


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a network that has learned a little; a target in patches with a strip of 255."""
    generator = torch.Generator().manual_seed(0)
    n_images, num_classes, height, width = SHAPE
    target = torch.randint(num_classes, (n_images, height // 32, width // 32), generator=generator)
    target = target.repeat_interleave(32, 1).repeat_interleave(32, 2)
    logits = torch.randn(SHAPE, generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full((n_images, 1, height, width), 2.0))
    target[:, :16] = IGNORE_INDEX
    return logits.requires_grad_(), target


if __name__ == "__main__":
    side = {"usual": usual, "ours": ours}[sys.argv[1]]
    report(extra_mb=extra_peak_mb(side(*make_batch())))
