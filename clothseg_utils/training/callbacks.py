"""What a Trainer calls while it trains: the clock, the history's file, panels, checkpoints."""

import csv
import datetime
import io
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from clothseg_utils.core.config import TrainConfig
from clothseg_utils.core.files import write_bytes, write_text
from clothseg_utils.core.ranks import world_size
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.pictures.panels import prediction_panel
from clothseg_utils.training.devices import from_first
from clothseg_utils.training.module import ClothingSegmenter, complete_row

PANEL_COUNT = 4
"""Val photos whose predictions TensorBoard shows after each check."""

PANEL_HEIGHT = 320
"""Height of the pictures in a panel, pixels: the legend stays readable at small inputs."""

CHECKPOINT_INTERVAL = datetime.timedelta(minutes=10)
"""Time between two `last.ckpt` within a check: the most that a kill there loses."""

_FIRST_FACTOR = 0.01  # a warm-up that began at 0 would waste its first step


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Share of `learning_rate` in use at a point of training.

    Args:
        progress: 0 at the start to 1 at the end.
        config: `warmup_fraction` and `schedule` are used.

    Example:
        >>> learning_rate_factor(1.0, TrainConfig(schedule="cosine"))
        0.0
    """
    if progress < config.warmup_fraction:
        return max(_FIRST_FACTOR, progress / config.warmup_fraction)
    if config.schedule == "constant":
        return 1.0
    after_warmup = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, after_warmup)))


class TrainingClock(pl.Callback):
    """Measures training, sets the learning rate, and ends a run that goes by the clock.

    The clock counts optimisation and validation from the first step and goes on after a resume.
    When `max_minutes` is up training ends there, and Lightning validates once more. Of several
    processes the first one's clock counts for all: with a clock each they would take different
    learning rates, and stop at different steps.

    Args:
        config: train section of the config.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._earlier = 0.0
        self._started: float | None = None
        self._batches = 0.0  # done since the latest check
        self._batches_before = 0.0  # of them, before training was cut short

    @property
    def seconds(self) -> float:
        """Seconds of optimisation and validation so far."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._earlier + running

    def progress(self, trainer: pl.Trainer, seconds: float | None = None) -> float:
        """Share of training that is done, 0..1; `seconds` of the clock if not as many as now."""
        if self.config.max_minutes > 0:
            spent = self.seconds if seconds is None else seconds
            return min(1.0, spent / (60 * self.config.max_minutes))
        # Steps would not do: after a resume on other devices a check has another number of them.
        n_batches = self._batches_before + trainer.num_training_batches
        checks = trainer.current_epoch + self._batches / max(1, n_batches)
        return min(1.0, checks / max(1, trainer.max_epochs or 1))

    def _agreed_progress(self, trainer: pl.Trainer) -> float:
        """The same in every process."""
        by_clock = self.config.max_minutes > 0
        return self.progress(trainer, from_first(self.seconds) if by_clock else None)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Count from the check's beginning, also where it goes on."""
        self._batches_before = pl_module.photos_before / (self.config.batch_size * world_size())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of this step."""
        if self._started is None:
            self._started = time.monotonic()
        self._batches = self._batches_before + batch_idx
        factor = learning_rate_factor(self._agreed_progress(trainer), self.config)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.config.learning_rate * factor

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop when the time is up."""
        self._batches = self._batches_before + batch_idx + 1
        if self.config.max_minutes > 0 and self._agreed_progress(trainer) >= 1:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Complete the row of the check with time and learning rate."""
        row = pl_module.history[-1]
        row["seconds"] = round(self.seconds, 2)
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        before = pl_module.history[-2]["seconds"] if len(pl_module.history) > 1 else 0.0
        images = pl_module.check_images
        row["images_per_second"] = round(images / max(1e-9, row["seconds"] - before), 2)
        figures = {f"progress/{name}": row[name] for name in ("learning_rate", "images_per_second")}
        trainer.logger.log_metrics(figures, step=trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self._earlier = state_dict["seconds"]


class CheckLength(pl.Callback):
    """Tells the Trainer how many batches the check that begins has (`order.CheckSizes`).

    It counts them once for all. And where it resumes, workers load by then what comes first of all
    checks: they begin anew with the one that comes next.

    It would go on within a check by the number of its batches, which may be others now, and without
    the hooks of its beginning: here what is left of a check is one that begins.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: ClothingSegmenter, checkpoint: dict[str, Any]
    ) -> None:
        """Let the Trainer begin the check that was cut short."""
        if pl_module.photos_before:
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts.update(dict.fromkeys(counts, counts["completed"]))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Count the batches; the order knows by now which check it is."""
        loop = trainer.fit_loop
        assert loop._combined_loader is not None
        loader = loop._combined_loader.flattened[0]
        loader.sampler.taken = pl_module.photos_before
        n_batches = len(loader)
        loop.max_batches = trainer.val_check_batch = n_batches
        loop._combined_loader.limits = [n_batches]
        if loop.is_resuming:
            iter(loop._data_fetcher)  # type: ignore[arg-type]  # it is there by now


class HistoryWriter(pl.Callback):
    """Writes `logs/history.csv` after each check, and one line per check where nobody watches.

    Lightning's own CSV logger deletes the earlier file when a run is resumed; this one writes the
    history that the checkpoint carries.

    Args:
        run: the run folder.
        print_lines: print a line per check.
    """

    def __init__(self, run: RunFolder, *, print_lines: bool) -> None:
        self.run = run
        self.print_lines = print_lines

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Write the file; print the line."""
        if not trainer.is_global_zero:
            return
        self._go_on()
        write_history(self.run.logs_dir / "history.csv", pl_module.history)
        if self.print_lines:
            row = pl_module.history[-1]
            print(
                f"epoch {row['epochs_done']:5g}  step {row['step']:6d}  {row['seconds']:7.1f} s  "
                f"train loss {row['train/loss']:.4f}  val loss {row['val/loss']:.4f}  "
                f"val mIoU {row['val/mean_iou']:.4f}  val F1 {row['val/macro_f1']:.4f}",
                flush=True,
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called before `last.ckpt` is written, within a check too."""
        if trainer.is_global_zero:
            self._go_on()

    def _go_on(self) -> None:
        """A finished training that goes on is no longer finished."""
        self.run.training_path.unlink(missing_ok=True)


class PanelLogger(pl.Callback):
    """Shows input, truth and prediction of the same few val photos in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Predict the first val photos and log a picture of each."""
        if not trainer.is_global_zero:
            return
        dataset = trainer.datamodule.val_dataset  # type: ignore[attr-defined]  # fit sets it
        samples = [dataset[index] for index in range(min(PANEL_COUNT, len(dataset)))]
        images = torch.stack([sample["image"] for sample in samples]).to(pl_module.device)
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            pred_masks = pl_module(images).max(dim=1).indices.byte().cpu().numpy()
        classes = pl_module.classes
        for number, (sample, pred_mask) in enumerate(zip(samples, pred_masks, strict=True)):
            picture = prediction_panel(
                sample["image"].permute(1, 2, 0).numpy(),
                pred_mask,
                classes.names,
                classes.colors,
                target=sample["mask"].numpy(),
                height=PANEL_HEIGHT,
            )
            trainer.logger.experiment.add_image(
                f"val_panels/{number}", picture, trainer.global_step, dataformats="HWC"
            )


class Checkpoints(ModelCheckpoint):
    """Lightning's, with names of files instead of their paths on this machine.

    By itself it forgets the best scores where the run folder was moved since, and tells whoever
    gets a checkpoint of the home folder that it was made in.
    """

    def state_dict(self) -> dict[str, Any]:
        """What to remember, without the folder."""
        return self._placed(super().state_dict(), "")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the files of those names in this run's folder."""
        super().load_state_dict(self._placed(state_dict, str(self.dirpath or "")))

    def _placed(self, state: dict[str, Any], folder: str) -> dict[str, Any]:
        def place(path: str) -> str:
            return str(Path(folder) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        placed = {name: place(state.get(name, "")) for name in paths}
        best = {place(path): score for path, score in state.get("best_k_models", {}).items()}
        return state | placed | {"dirpath": folder, "best_k_models": best}


class TimedCheckpoint(Checkpoints):
    """Writes a checkpoint every `train_time_interval` within a check, where one can go on."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write it if it is time.

        Not while gradients wait for further batches, which no checkpoint holds; nor after the last
        batch, as going on from there would leave out the validation.
        """
        loop = trainer.fit_loop.epoch_loop
        is_last = trainer.should_stop or loop._num_ready_batches_reached()
        if not (is_last or loop._should_accumulate()):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints so that a name always stands for a whole file.

    Lightning's own writes to the system's folder for temporary files and moves the file from there:
    between two disks that is a copy, of which a killed process leaves a half.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the file at once: an error of the disk is then no other than the disk's."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer.getvalue())


class Patience(EarlyStopping):
    """Lightning's, with the patience that is asked for now, not that of the checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        super().load_state_dict(state_dict | {"patience": self.patience})


class BestCheckpoint(Checkpoints):
    """A second one on the same quantity needs a state key of its own."""

    @property
    def state_key(self) -> str:
        """Unlike that of the top three."""
        return "BestCheckpoint"


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read `logs/history.csv`: one dict per check.

    Raises:
        ValueError: it is broken.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [{key: _number(v) for key, v in row.items()} for row in csv.DictReader(file)]
        return [complete_row(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise ValueError(
            f"{path} is no table of checks; expected it as training wrote it. Restore it, or "
            "delete checkpoints/training.json: training then ends once more, from last.ckpt."
        ) from None


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


def write_history(path: str | Path, history: list[dict[str, float]]) -> None:
    """Write `logs/history.csv`, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, buffer.getvalue())
