"""Test-time options tried side by side on the same photos: what each gains and what it costs."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import read_ahead
from clothseg_utils.data.coco import ImageRecord
from clothseg_utils.data.splits import SplitData
from clothseg_utils.network.segmenter import Segmenter
from clothseg_utils.scores.bootstrap import bootstrap_differences
from clothseg_utils.scores.metrics import confusion_matrix, scores_from_confusion

PLAIN = "none"
"""Name of the trial without options, which the others are measured against."""


class Trial(NamedTuple):
    """One set of options on the photos of a trial.

    Attributes:
        option: its name.
        settings: the options in words.
        n: photos.
        mean_iou: over one confusion matrix, native resolution.
        macro_f1: the same.
        gain: mean IoU minus that without options.
        low: lower end of its 95 % interval, paired over photos; NaN for fewer than two photos.
        high: upper end.
        seconds: of prediction, per photo.
        cost: seconds over those without options.
    """

    option: str
    settings: str
    n: int
    mean_iou: float
    macro_f1: float
    gain: float
    low: float
    high: float
    seconds: float
    cost: float


def standard_options(records: Sequence[ImageRecord], image_size: int) -> dict[str, InferenceConfig]:
    """Name the options that are tried on a split, the plain one first.

    Windows are half as long as the longer side of the median photo. The further input sizes are a
    quarter below and above the network's `image_size`, or the next multiples of 32 beyond that.
    """
    longer = [max(record.height, record.width) for record in records]
    window_px = max(32, round(float(np.median(longer)) / 2))
    below = max(32, 32 * math.floor(0.75 * image_size / 32))
    above = 32 * math.ceil(1.25 * image_size / 32)
    scales = ",".join(f"{side / image_size:g}" for side in (below, above) if side != image_size)
    return {
        PLAIN: PLAIN_INFERENCE,
        "flip": InferenceConfig(tta_flip=True),
        "scales": InferenceConfig(tta_scales=scales),
        "flip and scales": InferenceConfig(tta_flip=True, tta_scales=scales),
        "windows": InferenceConfig(window_px=window_px),
    }


def try_options(
    segmenter: Segmenter,
    split_data: SplitData,
    options: Mapping[str, InferenceConfig],
    *,
    photos: int,
    bootstrap_samples: int = 2000,
) -> list[Trial]:
    """Predict photos of a split with each set of options.

    All options see a photo before the next one is read, so that a machine that is busy for a
    while slows all of them.

    Args:
        segmenter: the network; its own options do not matter here.
        split_data: from `splits.load_split`, with the scheme that the network was trained on.
        options: name -> options; those named `PLAIN` are what the others are measured against.
        photos: how many are used, at least 1, evenly over the split; all where there are fewer.
        bootstrap_samples: resamples of the photos behind each interval.

    Returns:
        One trial per set of options, in their order.

    Raises:
        ValueError: a photo or mask is broken.
    """
    records = _spread(split_data.images, photos)
    networks = {
        name: dataclasses.replace(segmenter, inference=chosen) for name, chosen in options.items()
    }
    num_classes = split_data.classes.num_classes
    confusions: dict[str, list[np.ndarray]] = {name: [] for name in options}
    seconds = dict.fromkeys(options, 0.0)
    for index, (_, pair) in enumerate(
        progress_bar(
            read_ahead(split_data.read_pair, records),
            total=len(records),
            desc="test-time options",
            unit="photo",
        )
    ):
        if isinstance(pair, Exception):
            raise pair
        image, target = pair
        for name, network in networks.items():
            if index == 0:
                network.mask(image)  # the first pass at a size plans and allocates
            started = time.perf_counter()
            pred_mask = network.mask(image)
            seconds[name] += time.perf_counter() - started
            confusions[name].append(confusion_matrix(target, pred_mask, num_classes))
    stacked = {name: np.stack(matrices) for name, matrices in confusions.items()}
    return [
        Trial(
            option=name,
            settings=options[name].describe(),
            n=len(records),
            **_gain(stacked[name], stacked[PLAIN], bootstrap_samples),
            seconds=seconds[name] / len(records),
            cost=seconds[name] / seconds[PLAIN],
        )
        for name in options
    ]


def _gain(confusions: np.ndarray, plain: np.ndarray, samples: int) -> dict[str, float]:
    scores, before = (scores_from_confusion(one.sum(axis=0)) for one in (confusions, plain))
    # A fixed generator of its own: the intervals of a checkpoint are the same every time.
    ends = bootstrap_differences(confusions, plain, samples=samples, rng=np.random.default_rng(0))
    low, high = ends["mean_iou"].tolist()
    return {
        "mean_iou": scores.mean_iou,
        "macro_f1": scores.macro_f1,
        "gain": scores.mean_iou - before.mean_iou,
        "low": low,
        "high": high,
    }


def _spread(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Choose so many records, evenly over the list."""
    count = min(count, len(records))
    return [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)]
