"""The Jaccard index as a loss: what is scored, nearly, is what is learned."""

import torch
from torch import Tensor

# Sorting is what it costs, and pixels next to each other say much the same.
_STRIDE = 2


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász extension of one minus the Jaccard index, mean over the classes of a batch's target.

    Pooled over the batch, as the score is over the split, so a class of few pixels counts like any
    other. Of every second row and column, to save three quarters of the sorting.

    Args:
        logits: (N, C, H, W), any floating dtype.
        target: (N, H, W) uint8 or int64, class ids 0..C-1; all others are ignored.

    Returns:
        0-d, 0..1, float32 (float64 for float64 logits); 0 where every pixel is ignored. Of the
        classes in this process's batch, where several processes train.

    Source: Berman, Triki and Blaschko, CVPR 2018, the Lovász-softmax loss of present classes.
    """
    logits, target = logits[:, :, ::_STRIDE, ::_STRIDE], target[:, ::_STRIDE, ::_STRIDE].flatten()
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ids = torch.arange(logits.shape[1], device=logits.device)
    if target.device.type == "cpu":  # elsewhere the device would have to answer first
        ids = ids[torch.bincount(target, minlength=len(ids))[: len(ids)] > 0]
    p = x.softmax(1).transpose(0, 1).flatten(1)[ids]  # (K, P)
    y = (target == ids[:, None]).to(p.dtype)
    is_valid = (target >= 0) & (target < logits.shape[1])
    errors, order = ((y - p).abs() * is_valid).sort(dim=1, descending=True)
    y = y.gather(1, order)
    labelled = y.sum(1, keepdim=True)
    # If all pixels up to one of these were wrong, and the others right: what each adds to the loss.
    missed, added = y.cumsum(1), (1 - y).cumsum(1)
    jaccard_loss = 1 - (labelled - missed) / (labelled + added)
    losses = (errors * jaccard_loss.diff(dim=1, prepend=torch.zeros_like(labelled))).sum(1)
    present = labelled[:, 0] > 0
    return (losses * present).sum() / present.sum().clamp_min(1)
