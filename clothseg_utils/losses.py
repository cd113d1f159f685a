"""Dice + Focal, the loss of the reported system, over all classes at once.

The values are those of segmentation-models-pytorch 0.6.0 (``DiceLoss("multiclass", smooth=1)`` and
``FocalLoss("multiclass")``); the gradients are written out, because the loop over classes and the
dozen saved (N, C, H, W) tensors of the original cost a third of a training step on a CPU.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

DiceForm = Literal["smp", "present"]

# Floor of the Dice denominator: smp's own, so that smooth = 0 agrees with it as well.
_DICE_EPSILON = 1e-7


class LossParts(NamedTuple):
    """The loss and what it is made of, each a 0-d float32 tensor (float64 for float64 logits)."""

    loss: Tensor
    dice: Tensor
    focal: Tensor


class DiceFocalLoss(nn.Module):
    """Weighted sum of soft Dice and focal loss.

    Dice is one minus the soft Dice score of each class, pooled over the batch. Focal is a sum of
    one-versus-rest sigmoid focal losses without alpha, averaged over pixels and classes.

    The two Dice forms treat a class without target pixels in the batch alike, as 0, but divide by
    different numbers. ``"smp"`` divides by all C classes, so the same error counts for less in a
    batch of few classes; ``"present"`` divides by the classes that the batch's target holds.

    Everything is computed in float32 whatever autocast made of the logits, and nothing waits for
    the device. When every pixel is ignored all three parts are 0, and so is the gradient.

    Args:
        dice_weight: factor of the Dice part, at least 0.
        focal_weight: factor of the focal part, at least 0.
        dice_form: which classes the Dice part is averaged over, see above.
        dice_smooth: added to numerator and denominator of the Dice score, pixels, at least 0.
        focal_gamma: exponent that plays down pixels already right, at least 0.
        ignore_index: target value that is left out.

    Raises:
        ValueError: unknown ``dice_form``, or a negative number.

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
        dice_smooth: float = 1.0,
        focal_gamma: float = 2.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if dice_form not in ("smp", "present"):
            raise ValueError(f"dice_form is {dice_form!r}; expected 'smp' or 'present'.")
        for name, value in {
            "dice_weight": dice_weight,
            "focal_weight": focal_weight,
            "dice_smooth": dice_smooth,
            "focal_gamma": focal_gamma,
        }.items():
            if not value >= 0:  # `not >=` and not `<`, so that NaN is refused too
                raise ValueError(f"{name} is {value}; expected a number of at least 0.")
        self.dice_weight = dice_weight
        self.focal_weight = focal_weight
        self.dice_form = dice_form
        self.dice_smooth = dice_smooth
        self.focal_gamma = focal_gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> LossParts:
        """Compute the loss of one batch.

        Args:
            logits: (N, C, H, W), any floating dtype and memory format.
            target: (N, H, W) uint8 or int64, class ids 0..C-1 or ``ignore_index``.

        Returns:
            The loss and its two parts before weighting.

        Raises:
            ValueError: shapes or dtype do not fit, or a class id is out of range. Ids are looked at
                on the CPU only: on an accelerator the answer would stall the device in every step,
                and ``masks.read_mask`` has checked each mask already. There, pixels with an unknown
                id are left out like ignored ones.
        """
        num_classes = logits.shape[1]
        _check_batch(logits, target, self.ignore_index)
        # Ignored pixels need no mask below: they are the ones that belong to no class.
        hits, predicted, labelled, focal_sum = _PixelSums.apply(logits, target, self.focal_gamma)

        smooth = self.dice_smooth
        denominator = ((predicted + labelled) / 2 + smooth).clamp_min(_DICE_EPSILON)
        present = labelled > 0  # (C,)
        class_losses = torch.where(present, 1 - (hits + smooth) / denominator, 0.0)
        averaged_over = num_classes if self.dice_form == "smp" else present.sum().clamp_min(1)
        dice = class_losses.sum() / averaged_over

        focal = focal_sum / (labelled.sum().clamp_min(1) * num_classes)
        return LossParts(self.dice_weight * dice + self.focal_weight * focal, dice, focal)


class _PixelSums(torch.autograd.Function):
    """Sum over the pixels of a batch what Dice and focal need, with the gradient in closed form.

    Only the logits and the target are kept for the backward pass, which computes the rest again
    image by image: no temporary is larger than one image's (C, H, W), and none has the strides of
    channels-last logits, on which broadcasting is slow.

    With p the softmax over classes, y the one-hot target (all 0 where ignored), v its sum over
    classes, s the sigmoid of z = x for the other classes and z = -x for the target class:

        hits      = sum of p y         (C,)
        predicted = sum of p v         (C,)
        labelled  = sum of y           (C,)
        focal     = sum of v s^gamma softplus(z)

    and, as softplus' = s and s' = s (1 - s),

        d hits, predicted / dx: G = g_hits y + g_predicted; v (p G - p (sum over classes of p G))
        d focal / dx          : v dz/dx s^gamma (gamma (1 - s) softplus(z) + s)
    """

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, gamma: float):
        ctx.save_for_backward(logits, target)
        ctx.gamma = gamma
        sums = []
        for image_logits, image_target in zip(logits, target, strict=True):
            x, y, v = _one_image(image_logits, image_target)
            p = x.softmax(0).mul_(v)
            predicted = p.sum((1, 2))
            hits = p.mul_(y).sum((1, 2))
            z = torch.addcmul(x, x, y, value=-2)
            focal = z.sigmoid().pow_(gamma).mul_(functional.softplus(z)).mul_(v)
            sums.append((hits, predicted, y.sum((1, 2)), focal.sum()))
        hits, predicted, labelled, focal = (torch.stack(s).sum(0) for s in zip(*sums, strict=True))
        ctx.mark_non_differentiable(labelled)
        return hits, predicted, labelled, focal

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hits: Tensor, grad_predicted: Tensor, _, grad_focal: Tensor):
        logits, target = ctx.saved_tensors
        gamma = ctx.gamma
        grad_logits = torch.empty_like(logits)
        for n, (image_logits, image_target) in enumerate(zip(logits, target, strict=True)):
            x, y, v = _one_image(image_logits, image_target)
            z = torch.addcmul(x, x, y, value=-2)
            s = z.sigmoid()
            grad = (1 - s).mul_(functional.softplus(z)).mul_(gamma).add_(s)
            grad.mul_(s.pow_(gamma)).mul_(grad_focal).addcmul_(grad, y, value=-2)  # dz/dx = 1 - 2 y
            p = x.softmax(0)
            p_g = torch.addcmul(grad_predicted[:, None, None], y, grad_hits[:, None, None]).mul_(p)
            grad.add_(p_g).addcmul_(p, p_g.sum(0), value=-1)
            grad_logits[n] = grad.mul_(v)
        return grad_logits, None, None


def _one_image(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (C, H, W) in float32 or better, the one-hot target y (C, H, W) and v (H, W)."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    x = logits.to(dtype).contiguous()
    class_ids = torch.arange(len(x), dtype=target.dtype, device=target.device)
    y = (target == class_ids[:, None, None]).to(dtype)
    return x, y, y.sum(0)


def _check_batch(logits: Tensor, target: Tensor, ignore_index: int) -> None:
    num_classes = logits.shape[1]
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 4 or tuple(target.shape) != expected:
        raise ValueError(
            f"target has shape {tuple(target.shape)} for logits {tuple(logits.shape)}; "
            "expected (N, H, W) for (N, C, H, W)."
        )
    if target.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"target is {target.dtype}; expected torch.uint8 or torch.int64.")
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index {ignore_index} is a class id; expected none of 0..{num_classes - 1}."
        )
    if target.device.type == "cpu":
        wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
        if wrong.any():
            ids = target[wrong].unique().tolist()
            raise ValueError(
                f"target has class ids {ids}; expected 0..{num_classes - 1} or {ignore_index}. "
                "Check that masks and network use the same scheme."
            )
