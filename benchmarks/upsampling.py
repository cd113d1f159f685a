"""Logits at the network's size to a mask at the photo's."""

import numpy as np
import torch
from torch.nn import functional

from benchmarks.harness import Row, alternate, check_equal
from clothseg_utils.network.segmenter import logits_to_mask

HEIGHT, WIDTH, SIDE, NUM_CLASSES = 1024, 682, 512, 13


def rows() -> list[Row]:
    """Compare with interpolate and argmax; the masks must be identical."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, NUM_CLASSES, 32, 32, generator=generator)
    logits = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")

    def baseline() -> np.ndarray:
        with torch.inference_mode():
            size = (HEIGHT, WIDTH)
            native = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            return native.argmax(1)[0].byte().numpy()

    timing = alternate(baseline, lambda: logits_to_mask(logits, HEIGHT, WIDTH), 9)
    differing = np.count_nonzero(timing.baseline_result != timing.our_result)
    check_equal("pixels of the mask", int(differing))
    return [
        Row(
            name="upsampling and argmax of logits",
            baseline=timing.baseline,
            ours=timing.ours,
            unit="s",
            target=3.0,
            n=timing.n,
            note=f"{NUM_CLASSES} x {SIDE} x {SIDE} to {HEIGHT} x {WIDTH}; 0 pixels differ",
        )
    ]
