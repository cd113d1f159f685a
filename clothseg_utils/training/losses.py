"""Dice + Focal over all classes at once, with the gradients written out.

The values are those of segmentation-models-pytorch: ``DiceLoss("multiclass", smooth=1)`` and
``FocalLoss("multiclass")``, the latter as of 0.6.0 or as before, see `DiceFocalLoss`. The loop over
classes and the dozen saved (N, C, H, W) tensors of the original cost a third of a training step on
a CPU.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import DiceForm, FocalForm
from clothseg_utils.training.devices import add_up
from clothseg_utils.training.lovasz import lovasz_softmax

# Floor of the Dice denominator: smp's own, so that smooth = 0 agrees with it as well.
_DICE_EPSILON = 1e-7
# Its exponential is finite in float32; softplus and sigmoid have reached their limits long before.
_LARGEST_EXPONENT = 80.0
# Numbers in one block, 1 MiB of float32: its five buffers stay in a third-level cache.
_BLOCK_NUMBERS = 2**18


class LossParts(NamedTuple):
    """The loss and what it is made of, each a 0-d float32 tensor (float64 for float64 logits)."""

    loss: Tensor
    dice: Tensor
    focal: Tensor


class DiceFocalLoss(nn.Module):
    """Weighted sum of soft Dice and focal loss, and of `lovasz_softmax` where it is asked for.

    Dice is one minus the soft Dice score of each class, pooled over the batch. Focal is averaged
    over pixels, without alpha: of one-versus-rest sigmoid losses, one for each class, or of the
    softmax.

    The two Dice forms treat a class without target pixels in the batch alike, as 0, but divide by
    different numbers. ``"smp"`` divides by all C classes, so the same error counts for less in a
    batch of few classes; ``"present"`` divides by the classes that the batch's target holds.

    The first two focal forms differ by the factor C, 13 for the usual scheme: ``"mean"`` averages
    the classes' one-versus-rest losses, as segmentation-models-pytorch does from 0.6.0 on,
    ``"sum"`` adds them up, as it did until 0.5.0, with which the earlier system was trained.
    ``"softmax"`` is (1 - q)^gamma times the cross-entropy, with q the probability of the right
    class (Lin et al. 2017, equation 4, for more than two classes); with gamma 0 it is the
    cross-entropy itself.

    Where several processes train, the loss is that of the batch of all of them; its Lovász part is
    that of each one's own photos.

    Everything is computed in float32 whatever autocast made of the logits, and nothing waits for
    the device. When every pixel is ignored all three parts are 0, and so is the gradient.

    Args:
        dice_weight: factor of the Dice part, at least 0.
        focal_weight: factor of the focal part, at least 0.
        dice_form: which classes the Dice part is averaged over, see above.
        focal_form: of sigmoids, their mean or sum over classes, or of the softmax, see above.
        dice_smooth: added to numerator and denominator of the Dice score, pixels, at least 0.
        focal_gamma: exponent that plays down pixels already right, at least 0.
        lovasz_weight: factor of the Lovász part, at least 0; at 0 it is not computed.

    Example:
        >>> logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # two pixels, two classes
        >>> parts = DiceFocalLoss()(logits, torch.tensor([[[0, 255]]]))
        >>> round(parts.loss.item(), 4)
        0.0
    """

    def __init__(
        self,
        dice_weight: float = 0.5,
        focal_weight: float = 0.5,
        dice_form: DiceForm = "smp",
        focal_form: FocalForm = "mean",
        dice_smooth: float = 1.0,
        focal_gamma: float = 2.0,
        lovasz_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.focal_weight = focal_weight
        self.dice_form = dice_form
        self.focal_form = focal_form
        self.dice_smooth = dice_smooth
        self.focal_gamma = focal_gamma
        self.lovasz_weight = lovasz_weight

    def forward(self, logits: Tensor, target: Tensor) -> LossParts:
        """Compute the loss of one batch.

        Args:
            logits: (N, C, H, W), any floating dtype and memory format.
            target: (N, H, W) uint8 or int64, class ids 0..C-1 or 255 (ignored).

        Returns:
            The loss, and its Dice and focal parts before weighting.

        Raises:
            ValueError: a class id is out of range. Ids are looked at on the CPU only: on an
                accelerator the answer would stall the device in every step, and
                ``masks.read_mask`` has checked each mask already. There, pixels with an unknown id
                are left out like ignored ones.
        """
        num_classes = logits.shape[1]
        _check_ids(target, num_classes)
        # All that is needed of the pixels is in these sums over the batch, numerators and
        # denominators. Ignored pixels need no mask below: they are those that belong to no class.
        pixel_sums = _BlockSums if logits.device.type == "cpu" else _BatchSums
        of_softmax = self.focal_form == "softmax"
        sums = pixel_sums.apply(logits, target, self.focal_gamma, of_softmax)
        if torch.is_grad_enabled():  # in validation processes may have different numbers of batches
            sums = add_up(*sums)
        hits, predicted, labelled, focal_sum = sums

        smooth = self.dice_smooth
        denominator = ((predicted + labelled) / 2 + smooth).clamp_min(_DICE_EPSILON)
        present = labelled > 0  # (C,)
        class_losses = torch.where(present, 1 - (hits + smooth) / denominator, 0.0)
        averaged_over = num_classes if self.dice_form == "smp" else present.sum().clamp_min(1)
        dice = class_losses.sum() / averaged_over

        averaged_over = labelled.sum().clamp_min(1)
        if self.focal_form == "mean":
            averaged_over = averaged_over * num_classes
        focal = focal_sum / averaged_over
        loss = self.dice_weight * dice + self.focal_weight * focal
        if self.lovasz_weight:
            loss = loss + self.lovasz_weight * lovasz_softmax(logits, target)
        return LossParts(loss, dice, focal)


class _BlockSums(torch.autograd.Function):
    """Sum over the pixels of a batch what Dice and focal need, with the gradient in closed form.

    One pass over the logits, block by block, each small enough to stay in a CPU's cache. It leaves
    for the backward pass the target and two (N, C, H, W) tensors: p v and d focal / dx, which
    share the pass's exponentials. Without a gradient, as in validation, it leaves nothing.

    With p the softmax over classes, y the one-hot target (all 0 where ignored), v its sum over
    classes, s the sigmoid of z = x for the other classes and z = -x for the target class:

        hits      = sum of p y         (C,)
        predicted = sum of p v         (C,)
        labelled  = sum of y           (C,)
        focal     = sum of v s^gamma softplus(z)

    and, as softplus' = s and s' = s (1 - s),

        d hits, predicted / dx: G = g_hits y + g_predicted; v (p G - p (sum over classes of p G))
        d focal / dx          : v dz/dx s^gamma (gamma (1 - s) softplus(z) + s)

    The softmax's focal has one term a pixel, with q the p of its target class:

        focal     = sum of v (1 - q)^gamma (-log q)
        d focal / dx          : v (gamma q (1 - q)^(gamma - 1) log q - (1 - q)^gamma) (y - p)
    """

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, gamma: float, of_softmax: bool):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        kept: tuple[Tensor, ...] = ()
        if ctx.needs_input_grad[0]:
            kept = tuple(torch.empty(logits.shape, dtype=dtype, device=logits.device) for _ in "pf")
        sums = []
        for image, rows, (x, y, a, b, c) in _blocks(logits, n_buffers=5):
            x.copy_(logits[image, :, rows])
            v = _write_one_hot(y, target[image, rows])
            p = torch.softmax(x, 0, out=a).mul_(v)
            hits, predicted = torch.mul(p, y, out=b).sum((1, 2)), p.sum((1, 2))
            if kept:
                kept[0][image, :, rows] = p
            if of_softmax:  # log q from the logits: q itself may be 0 in float32
                log_q = torch.mul(x, y, out=b).sum(0).sub_(x.logsumexp(0)).mul_(v)
                focal, slope = _softmax_focal(log_q, gamma)
                sums.append((hits, predicted, y.sum((1, 2)), focal.sum()))
                if kept:
                    torch.mul(y.sub_(p), slope, out=kept[1][image, :, rows])
                continue
            z = x.addcmul_(x, y, value=-2)
            exp_z = torch.clamp(z, max=_LARGEST_EXPONENT, out=a).exp_()
            one_plus = torch.add(exp_z, 1, out=b)
            one_minus_s = torch.reciprocal(one_plus, out=c)
            s = exp_z.mul_(one_minus_s)
            # log1p would be exact for small exp(z) as well, where s^gamma makes it count for
            # nothing, and takes twice as long. Beyond the largest exponent softplus is z itself.
            softplus = torch.maximum(one_plus.log_(), z, out=b)
            s_gamma = torch.pow(s, gamma, out=x)
            focal = softplus.mul_(s_gamma)
            sums.append((hits, predicted, y.sum((1, 2)), focal.sum(0).mul_(v).sum()))
            if kept:
                grad = s_gamma.mul_(s).addcmul_(focal, one_minus_s, value=gamma)
                grad.addcmul_(grad, y, value=-2)  # dz/dx = 1 - 2 y
                torch.mul(grad, v, out=kept[1][image, :, rows])
        ctx.save_for_backward(target, *kept)
        ctx.logits_dtype = logits.dtype
        hits, predicted, labelled, focal = (torch.stack(s).sum(0) for s in zip(*sums, strict=True))
        ctx.mark_non_differentiable(labelled)
        return hits, predicted, labelled, focal

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hits: Tensor, grad_predicted: Tensor, _, grad_focal: Tensor):
        target, kept_p, kept_focal = ctx.saved_tensors
        grad_logits = torch.empty_like(kept_p, dtype=ctx.logits_dtype)
        grad_hits, grad_predicted = grad_hits[:, None, None], grad_predicted[:, None, None]
        for image, rows, (y, grad) in _blocks(kept_p, n_buffers=2):
            p = kept_p[image, :, rows]
            _write_one_hot(y, target[image, rows])
            torch.addcmul(grad_predicted, y, grad_hits, out=grad).mul_(p)
            grad.addcmul_(p, grad.sum(0), value=-1)
            grad.addcmul_(kept_focal[image, :, rows], grad_focal)
            grad_logits[image, :, rows] = grad
        return grad_logits, None, None, None


class _BatchSums(torch.autograd.Function):
    """What `_BlockSums` computes, by few kernels over the whole batch, as accelerators want it.

    Memory is what limits them, so the backward pass computes anew from the logits, which are all
    that is kept beside the target.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, gamma: float, of_softmax: bool):
        ctx.save_for_backward(logits, target)
        ctx.form = (gamma, of_softmax)
        hits, predicted, labelled, focal = _batch_sums(logits, target, gamma, of_softmax)
        ctx.mark_non_differentiable(labelled)
        return hits, predicted, labelled, focal

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hits: Tensor, grad_predicted: Tensor, _, grad_focal: Tensor):
        gradient = _batch_gradient(
            *ctx.saved_tensors, *ctx.form, grad_hits, grad_predicted, grad_focal
        )
        return gradient, None, None, None


def _fused(function: Callable) -> Callable:
    """Compile a function of tensors for CUDA; elsewhere, or without a compiler, run it as it is."""
    compiled = torch.compile(function, fullgraph=True)
    can_compile = True

    @functools.wraps(function)
    def run(logits: Tensor, *args):
        nonlocal can_compile
        if can_compile and _wants_fusion(logits):
            try:
                return compiled(logits, *args)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # Compilers fail in many ways, each with a type of its own.
                can_compile = False
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"the loss is not compiled and takes longer ({type(error).__name__}: "
                    f"{reason}); expected Triton and a C compiler.",
                    stacklevel=2,
                )
        return function(logits, *args)

    return run


def _wants_fusion(logits: Tensor) -> bool:
    return logits.is_cuda


@_fused
def _batch_sums(
    logits: Tensor, target: Tensor, gamma: float, of_softmax: bool
) -> tuple[Tensor, ...]:
    """Hits, predicted, labelled (C,) and focal, as `_BlockSums` defines them."""
    x, y, v = _with_one_hot(logits, target)
    p = x.softmax(1) * v
    if of_softmax:
        focal, _ = _softmax_focal((x.log_softmax(1) * y).sum(1, keepdim=True), gamma)
    else:
        z, s = _signed(x, y)
        # Over classes first: so it shares a kernel with the softmax.
        focal = (s**gamma * nn.functional.softplus(z)).sum(1, keepdim=True) * v
    over_pixels = (0, 2, 3)
    hits, predicted, labelled = (p * y).sum(over_pixels), p.sum(over_pixels), y.sum(over_pixels)
    return hits, predicted, labelled, focal.sum()


@_fused
def _batch_gradient(
    logits: Tensor,
    target: Tensor,
    gamma: float,
    of_softmax: bool,
    grad_hits: Tensor,
    grad_predicted: Tensor,
    grad_focal: Tensor,
) -> Tensor:
    """Gradient of the logits, as `_BlockSums` defines it."""
    x, y, v = _with_one_hot(logits, target)
    p = x.softmax(1) * v
    p_grad = p * (y * grad_hits[:, None, None] + grad_predicted[:, None, None])
    if of_softmax:
        _, slope = _softmax_focal((x.log_softmax(1) * y).sum(1, keepdim=True), gamma)
        focal_grad = slope * (y - p)
    else:
        z, s = _signed(x, y)
        focal_grad = s**gamma * (gamma * (1 - s) * nn.functional.softplus(z) + s)
        focal_grad = focal_grad * (1 - 2 * y) * v  # dz/dx = 1 - 2 y
    grad = p_grad - p * p_grad.sum(1, keepdim=True) + focal_grad * grad_focal
    return torch.empty_like(logits).copy_(grad)  # in the logits' own memory format


def _with_one_hot(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits x in float32 or better, one-hot target y, both (N, C, H, W), and v (N, 1, H, W)."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ids = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    y = (target[:, None] == ids).to(x.dtype)
    return x, y, y.sum(1, keepdim=True)


def _softmax_focal(log_q: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss of each pixel by log q of its target class, and its slope, which `_BlockSums`
    has before y - p. Both are 0 or without effect where log q is 0, as for ignored pixels.
    """
    if gamma == 0:
        return -log_q, -torch.ones_like(log_q)
    missing = -log_q.expm1()  # 1 - q, exact where q is nearly 1
    weight = missing**gamma
    # Where q is 1, log q is 0, and a negative power of `missing` must not make that undefined.
    steep = torch.where(missing > 0, missing, 1) ** (gamma - 1)
    return -log_q * weight, gamma * log_q.exp() * steep * log_q - weight


def _signed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    z = x * (1 - 2 * y)
    return z, z.sigmoid()


def _blocks(logits: Tensor, n_buffers: int) -> Iterator[tuple[int, slice, list[Tensor]]]:
    """Cut (N, C, H, W) into pieces of one image: rows that fit a CPU's cache.

    Yields:
        Image, rows, and work buffers (C, rows, W) in float32 or better, the same ones for every
        piece: fresh memory costs more than most of what is computed in it.
    """
    n_images, num_classes, height, width = logits.shape
    n_rows = min(height, max(1, _BLOCK_NUMBERS // (num_classes * width)))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    shape = (num_classes, n_rows, width)
    buffers = [torch.empty(shape, dtype=dtype, device=logits.device) for _ in range(n_buffers)]
    for image in range(n_images):
        for start in range(0, height, n_rows):
            rows = slice(start, min(height, start + n_rows))
            yield image, rows, [buffer[:, : rows.stop - start] for buffer in buffers]


def _write_one_hot(y: Tensor, target: Tensor) -> Tensor:
    """Fill y (C, h, W) with the one-hot form of a target (h, W); return its sum v (h, W).

    Both are 0 where the target is ignored.
    """
    is_class = (target >= 0) & (target < len(y))
    v = is_class.to(y.dtype)
    # Scattered: to compare the target with every class takes as long as the softmax.
    y.zero_().scatter_(0, target.where(is_class, 0).long()[None], v[None])
    return v


def _check_ids(target: Tensor, num_classes: int) -> None:
    if target.device.type != "cpu":
        return
    wrong = ((target < 0) | (target >= num_classes)) & (target != IGNORE_INDEX)
    if wrong.any():
        raise ValueError(
            f"target has class ids {target[wrong].unique().tolist()}; expected "
            f"0..{num_classes - 1} or {IGNORE_INDEX}. Check that masks and network use the same "
            "scheme."
        )
