"""Parts 8 and 9: whether the step learns in both half precisions, and what faults do to it."""

import pickle
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.gpu_check.runner import Findings, describe_error
from benchmarks.gpu_check.setting import Setting, our_module
from benchmarks.gpu_check.steps import short_fit
from clothseg_utils.data.splits import load_split
from clothseg_utils.network.unet import default_precision
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.training.callbacks import learning_rate_factor
from clothseg_utils.training.loaders import SegmentationDataset

_LEARNED = 0.8
"""Mean IoU on the photos learned by heart that counts as learned."""


def learning(setting: Setting, found: Findings) -> None:
    """Part 8: learn 32 photos by heart, from nothing."""
    setting.need_data()
    dtypes = (
        (torch.float16, torch.bfloat16) if setting.on_gpu else (default_precision(setting.device),)
    )
    count, steps, side = (4, 3, 64) if setting.is_small else (32, 400, 256)
    # The demo's rate is made for weights from ImageNet.
    config = setting.config(
        "demo", batch_size=count, prior_bias=False, image_size=side, learning_rate=5e-4
    )
    dataset = SegmentationDataset(load_split(config.data, "train"), config.data)
    samples = [dataset[index] for index in range(count)]
    batch = {
        name: torch.stack([sample[name] for sample in samples]).to(setting.device)
        for name in ("image", "mask")
    }
    for dtype in dtypes:
        figures = _learn(setting, config, batch, dtype, steps)
        name = str(dtype or torch.float32).removeprefix("torch.")
        found.figure(**{name: figures})
        is_learned = figures["mean_iou"] > _LEARNED
        found.check(**{f"learns in {name}": None if setting.is_small else is_learned})


def _learn(
    setting: Setting, config: Any, batch: dict[str, torch.Tensor], dtype: Any, steps: int
) -> dict[str, Any]:
    module = our_module(config).to(setting.device).train()
    optimizer = module.configure_optimizers()
    is_scaled = setting.on_gpu and dtype is torch.float16
    scaler = torch.amp.GradScaler(setting.device.type, enabled=is_scaled)
    autocast = torch.autocast(setting.device.type, dtype, enabled=dtype is not None)
    losses, skipped = [], 0
    for index in range(steps):
        rate = config.train.learning_rate * learning_rate_factor((index + 1) / steps, config.train)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with autocast:
            loss = module.loss(module(batch["image"]), batch["mask"]).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.train.gradient_clip_norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(loss.detach())
    module.eval()
    with torch.inference_mode(), autocast:
        pred_masks = module(batch["image"]).argmax(1)
    num_classes = module.classes.num_classes
    counted = batch["mask"] < num_classes
    pairs = batch["mask"][counted].long() * num_classes + pred_masks[counted]
    confusion = torch.bincount(pairs, minlength=num_classes**2).cpu().numpy()
    return {
        "mean_iou": float(scores_from_confusion(confusion.reshape(num_classes, -1)).mean_iou),
        "loss": [losses[0].item(), losses[-1].item()],
        "scale": scaler.get_scale(),
        "skipped_steps": skipped,
    }


def faults(setting: Setting, found: Findings) -> None:
    """Part 9: one infinite logit; loader processes that get everything by pickle."""
    try:
        figures = _one_infinite_logit(setting)
        found.figure(infinite_logit=figures)
        found.check(goes_on_after_infinite_logit=figures["weights_finite"])
    except Exception as error:
        found.figure(infinite_logit=describe_error(error))
        found.check(goes_on_after_infinite_logit=False)
    setting.need_data()
    try:
        found.figure(**_forkserver(setting))
        found.check(forkserver=True)
    except Exception as error:
        found.figure(forkserver_error=describe_error(error))
        found.check(forkserver=False)


def _one_infinite_logit(setting: Setting) -> dict[str, Any]:
    """Six steps under Lightning, with validation at the end; the third has an infinite logit."""
    module = our_module(setting.config())
    calls = 0

    def spoil(network: Any, images: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            logits = logits.clone()
            logits[0, 1, 20, 20] = float("inf")
        return logits

    module.network.register_forward_hook(spoil)
    losses = short_fit(setting, setting.config(), 6, module=module, validate=True)
    weights = torch.stack([parameter.detach().float().sum() for parameter in module.parameters()])
    return {
        "losses": losses,
        "weights_finite": bool(weights.isfinite().all()),
        "history": module.history,
    }


def _forkserver(setting: Setting) -> dict[str, Any]:
    config = setting.config()
    dataset = SegmentationDataset(load_split(config.data, "train"), config.data, config.augment)
    size = len(pickle.dumps(dataset))
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="forkserver")
    next(iter(loader))
    return {"dataset_pickle_mb": size / 1e6}
