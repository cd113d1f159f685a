"""A whole training step: U-Net MiT-B1, batch 4 at 512 pixels."""

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, alternate, seconds_of
from benchmarks.loss import SmpLoss, make_batch
from clothseg_utils.network.unet import build_network, default_precision, normalize_images
from clothseg_utils.training.losses import DiceFocalLoss

BATCH_SIZE, IMAGE_SIZE, NUM_CLASSES = 4, 512, 13
ENCODER = "mit_b1"


def rows() -> list[Row]:
    """Compare steps; where the CPU has no bf16, say how much was left to gain."""
    images = torch.randint(256, (BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    target = make_batch()[1]
    timing = alternate(baseline_step(images, target), our_step(images, target), 3)
    dtype = default_precision(torch.device("cpu"))
    n_flops = 3 * forward_flops()  # the backward pass computes two products for each one
    peak = matmul_flops_per_second(dtype or torch.float32)
    return [
        Row(
            name=f"training step, U-Net {ENCODER}, batch {BATCH_SIZE} at {IMAGE_SIZE}",
            baseline=timing.baseline,
            ours=timing.ours,
            unit="s",
            target=2.5,
            n=timing.n,
            note=(
                "fp32 eager, smp losses, Adam; ours in "
                f"{'fp32: this CPU has no bf16' if dtype is None else dtype}, channels_last, "
                f"fused; {BATCH_SIZE / timing.ours:.2f} images a second"
            ),
            floor=timing.baseline / (n_flops * BATCH_SIZE / peak),
            floor_note=(
                f"{n_flops * BATCH_SIZE / 1e9:.0f} GFLOP of convolutions and matrix products at "
                f"the {peak / 1e9:.0f} GFLOP/s that a 1024 x 1024 product reaches here, nothing "
                "else counted"
            ),
        )
    ]


def baseline_step(images: torch.Tensor, target: torch.Tensor) -> Callable[[], float]:
    """The usual step: float32, the library's losses, Adam."""
    torch.manual_seed(0)
    network = smp.Unet(ENCODER, encoder_weights=None, classes=NUM_CLASSES).train()
    loss_function = SmpLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_function(network(normalize_images(images)), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(images: torch.Tensor, target: torch.Tensor) -> Callable[[], float]:
    """What `train` does in a step: `module.ClothingSegmenter` in the precision of this CPU."""
    torch.manual_seed(0)
    network = build_network(ENCODER, "none", NUM_CLASSES).train()
    network.to(memory_format=torch.channels_last)
    loss_function = DiceFocalLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    dtype = default_precision(torch.device("cpu"))
    ids = target.to(torch.uint8)

    def step() -> float:
        optimizer.zero_grad()
        normalized = normalize_images(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits = network(normalized)
            loss = loss_function(logits, ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def forward_flops() -> int:
    """Floating-point operations of one photo's forward pass, convolutions and products only."""
    network = smp.Unet(ENCODER, encoder_weights=None, classes=NUM_CLASSES).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return counter.get_total_flops()


def matmul_flops_per_second(dtype: torch.dtype, side: int = 1024, repeats: int = 10) -> float:
    """The best speed of a square matrix product: what the network could reach at most."""
    a, b = torch.randn(2, side, side).to(dtype)
    a @ b
    return 2 * side**3 / min(seconds_of(lambda: a @ b)[0] for _ in range(repeats))
