"""A training step on a GPU, where there is one: the best batch size of each way to run it."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.training_step import ENCODER, IMAGE_SIZE, NUM_CLASSES, forward_flops
from clothseg_utils.network.unet import build_network, normalize_images
from clothseg_utils.training.losses import DiceFocalLoss

BATCH_SIZES = (8, 16, 32, 64, 128)
WARM_UP_STEPS, STEPS = 5, 20

# Dense bf16 FLOP/s with float32 accumulation, from the makers' data sheets.
_PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


@dataclass(frozen=True)
class GpuFigure:
    """The best batch size of one way to run the step.

    Attributes:
        compiled: with torch.compile.
        channels_last: memory format of network and images.
        batch_size: the one with the most images per second of `BATCH_SIZES`.
        images_per_second: of whole steps, images already on the card.
        peak_share: of the card's dense bf16 peak, 0..1; None for an unknown card.
    """

    compiled: bool
    channels_last: bool
    batch_size: int
    images_per_second: float
    peak_share: float | None


def measure() -> list[GpuFigure]:
    """Run the step with and without torch.compile and channels_last; empty without a GPU."""
    if not torch.cuda.is_available():
        return []
    n_flops = 3 * forward_flops()
    peak = card_peak(torch.cuda.get_device_name())
    figures = []
    for compiled, channels_last in itertools.product((False, True), repeat=2):
        speeds: dict[int, float] = {}
        for batch_size in BATCH_SIZES:
            try:
                speeds[batch_size] = _images_per_second(batch_size, compiled, channels_last)
            except torch.OutOfMemoryError:
                break
            finally:
                torch.compiler.reset()
                torch.cuda.empty_cache()
        if not speeds:
            continue
        best = max(speeds, key=speeds.__getitem__)
        share = None if peak is None else speeds[best] * n_flops / peak
        figures.append(GpuFigure(compiled, channels_last, best, speeds[best], share))
    return figures


def card_peak(name: str) -> float | None:
    """Dense bf16 FLOP/s of a card; None if it is not in the list."""
    words = name.replace("-", " ").split()
    return next((peak for card, peak in _PEAK_FLOPS.items() if card in words), None)


def _images_per_second(batch_size: int, compiled: bool, channels_last: bool) -> float:
    step = _make_step(batch_size, compiled, channels_last)
    for _ in range(WARM_UP_STEPS):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return batch_size * STEPS / (time.perf_counter() - started)


def _make_step(batch_size: int, compiled: bool, channels_last: bool) -> Callable[[], None]:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = build_network(ENCODER, "none", NUM_CLASSES).train().cuda()
    network.to(memory_format=memory_format)
    loss_function = DiceFocalLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    shape = (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randint(256, shape, dtype=torch.uint8, device="cuda")
    target = torch.randint(NUM_CLASSES, (batch_size, *shape[2:]), device="cuda").byte()
    run = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad()
        normalized = normalize_images(images).contiguous(memory_format=memory_format)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_function(run(normalized), target).loss
        loss.backward()
        optimizer.step()

    return step
