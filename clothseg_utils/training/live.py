"""What people watch while a network trains: a live line, growing curves, TensorBoard's extras."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.progress import LINE_SECONDS, progress_bar
from clothseg_utils.training.loaders import SegmentationDataset
from clothseg_utils.training.module import MONITOR, ClothingSegmenter

PR_PHOTOS = 200
"""Val photos behind the precision-recall curves, at most; evenly spread over the split."""

PR_PIXELS = 5000
"""Pixels of each of these photos, at most; drawn by a fixed generator."""

_PR_THRESHOLDS = 101
_LINE_FORMAT = "{percentage:3.0f}%|{bar}| {desc}"

# Train and val of one quantity share a chart in TensorBoard's tab "Custom scalars".
_LAYOUT = {
    "training": {
        name: ["Multiline", [f"train/{score}$", f"val/{score}$"]]
        for name, score in (
            ("loss", "loss"),
            ("Dice loss", "dice_loss"),
            ("focal loss", "focal_loss"),
            ("mean IoU", "mean_iou"),
            ("macro F1", "macro_f1"),
            ("pixel accuracy", "pixel_accuracy"),
        )
    }
}


class Clock(Protocol):
    """What `train.TrainingClock` tells."""

    @property
    def seconds(self) -> float:
        """Seconds of optimisation and validation so far."""

    def progress(self, trainer: pl.Trainer) -> float:
        """Share of training that is done, 0..1."""


class LiveLine(pl.Callback):
    """One line, a widget in a notebook: epoch, loss, val mIoU, images per second, time left.

    The time left is what remains at the present pace; early stopping may end training before.

    Args:
        clock: measures the training.
        max_epochs: epochs planned; 0 where the clock decides.
        checks: checks an epoch.
    """

    seconds_between = 0.2

    def __init__(self, clock: Clock, max_epochs: int, checks: int = 1) -> None:
        self._clock = clock
        self._max_epochs = max_epochs
        self._checks = checks
        self._bar: tqdm | None = None
        self._epoch_started = 0.0
        self._images = 0
        self._images_per_second = 0.0
        self._refreshed = 0.0
        self._loss: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the empty line."""
        self._bar = progress_bar(total=1.0, bar_format=_LINE_FORMAT, leave=True)
        self._bar.set_description_str("starting")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the pace of each epoch anew."""
        self._epoch_started = time.monotonic()
        self._images = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: ClothingSegmenter,
        outputs: Any,
        batch: Mapping[str, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Go on; now and then, because reading the loss waits for a GPU."""
        self._images += len(batch["mask"]) * trainer.world_size
        now = time.monotonic()
        self._images_per_second = self._images / max(1e-9, now - self._epoch_started)
        if now - self._refreshed >= self.seconds_between:
            self._loss = float(pl_module.latest_loss)
            self._refresh(trainer)
            self._refreshed = now

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say why the line stands still."""
        self._refresh(trainer, "validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new score."""
        self._refresh(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fill the line: training that stopped early is finished too."""
        if self._bar is not None:
            self._bar.n = self._bar.total or 1.0
            self._refresh(trainer)
            self._bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the line where it stopped."""
        if self._bar is not None:
            self._bar.close()

    def _refresh(self, trainer: pl.Trainer, doing: str = "") -> None:
        if self._bar is None:
            return
        done = max(self._bar.n, min(1.0, self._clock.progress(trainer)))
        self._bar.n = done
        self._bar.set_description_str(self._text(trainer, done, doing))

    def _text(self, trainer: pl.Trainer, done: float, doing: str = "") -> str:
        number = trainer.current_epoch // self._checks + 1
        epoch = f"epoch {number}"
        if self._max_epochs:
            epoch = f"epoch {min(number, self._max_epochs)}/{self._max_epochs}"
        parts = [epoch]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        if MONITOR in trainer.progress_bar_metrics:
            parts.append(f"val mIoU {trainer.progress_bar_metrics[MONITOR]:.3f}")
        if self._images_per_second:
            parts.append(f"{self._images_per_second:.1f} images/s")
        left = time_left(self._clock.seconds, done)
        parts.append(doing or (f"{left} left" if done < 1 else "done"))
        return ", ".join(parts)


class PrintedLines(LiveLine):
    """The same where nobody watches: a line of the log whenever a check takes long to come."""

    seconds_between = LINE_SECONDS

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw nothing."""
        self._refreshed = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """`HistoryWriter` has printed the line of the check."""
        self._refreshed = time.monotonic()

    def _refresh(self, trainer: pl.Trainer, doing: str = "") -> None:
        if not doing:
            print(self._text(trainer, min(1.0, self._clock.progress(trainer))), flush=True)


def time_left(seconds: float, progress: float) -> str:
    """Time that remains at the pace so far.

    Args:
        seconds: taken so far.
        progress: share done, 0..1.

    Example:
        >>> time_left(30.0, 0.25)
        '01:30'
        >>> time_left(0.0, 0.0)
        '?'
    """
    if progress <= 0 or seconds <= 0:
        return "?"
    return tqdm.format_interval(round(seconds * (1 - progress) / progress))


class LiveCurves(pl.Callback):
    """Curves below the cell that trains; drawn anew after each validation.

    Args:
        source: what the data are, for the figure's foot.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._handle: Any = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Draw the history so far in place of the former figure."""
        # Imported here: a terminal trains without matplotlib, pandas and IPython.
        import pandas as pd
        from IPython.display import display

        from clothseg_utils.pictures.training_figures import plot_live_curves

        figure = plot_live_curves(pd.DataFrame(pl_module.history), source=self._source)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)


def log_layout(writer: SummaryWriter) -> None:
    """Describe TensorBoard's tab "Custom scalars": train beside val, a chart for each score."""
    writer.add_custom_scalars(_LAYOUT)


def log_precision_recall(
    writer: SummaryWriter, module: ClothingSegmenter, dataset: SegmentationDataset, step: int
) -> None:
    """Log each class's precision-recall curve over pixels, at the size of the network's input.

    A pixel counts as predicted if the class's probability reaches the threshold, whatever the
    other classes have. Of at most `PR_PHOTOS` photos, `PR_PIXELS` each are drawn, the same every
    time. Classes without any of these pixels have no curve.

    Args:
        writer: of the run's TensorBoard log.
        module: with the weights to be looked at; left in eval mode.
        dataset: val photos, not augmented.
        step: optimisation step that the weights are from.
    """
    module.eval()
    rng = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, PR_PHOTOS).round().astype(int))
    targets, probabilities = [], []
    for index in chosen.tolist():
        sample = dataset[index]
        target = sample["mask"].numpy().ravel()
        pixels = rng.permutation(np.flatnonzero(target != IGNORE_INDEX))[:PR_PIXELS]
        with torch.inference_mode():
            logits = module(sample["image"][None].to(module.device))
            probability = logits.float().softmax(dim=1)[0].flatten(1).cpu().numpy()  # (C, S * S)
        targets.append(target[pixels])
        probabilities.append(probability[:, pixels].astype(np.float16))  # a million pixels each
    target, probability = np.concatenate(targets), np.concatenate(probabilities, axis=1)
    for class_id, name in enumerate(module.classes.names):
        is_class = target == class_id
        if is_class.any():
            writer.add_pr_curve(
                f"val_pr/{_tag(name)}",
                is_class,
                np.float32(probability[class_id]),
                step,
                _PR_THRESHOLDS,
            )


def _tag(class_name: str) -> str:
    """A class's name as TensorBoard takes it: no spaces, commas or slashes."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in class_name)


def live_callbacks(
    clock: Clock,
    max_epochs: int,
    source: str,
    *,
    checks: int,
    is_attended: bool,
    in_notebook: bool,
) -> Sequence[pl.Callback]:
    """What tells of a training while it goes on."""
    if not is_attended:
        return [PrintedLines(clock, max_epochs, checks)]
    line = LiveLine(clock, max_epochs, checks)
    return [line, LiveCurves(source)] if in_notebook else [line]
