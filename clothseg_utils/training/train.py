"""Settings to best checkpoint: the Trainer, its callbacks, resuming."""

import contextlib
import csv
import io
import logging
import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from clothseg_utils.core.config import Config, TrainConfig
from clothseg_utils.core.files import read_json, write_json, write_text
from clothseg_utils.core.progress import in_notebook, is_attended
from clothseg_utils.core.reach import code_hash
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text
from clothseg_utils.data.splits import SplitData, splits_source
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, read_checkpoint
from clothseg_utils.network.encoders import check_encoder_name, encoder_card
from clothseg_utils.network.unet import default_precision, set_prior_bias
from clothseg_utils.pictures.panels import prediction_panel
from clothseg_utils.training.live import live_callbacks, log_layout, log_precision_recall
from clothseg_utils.training.loaders import ClothingDataModule
from clothseg_utils.training.module import MONITOR, ClothingSegmenter

PANEL_COUNT = 4
"""Val photos whose predictions TensorBoard shows after each check."""

PANEL_HEIGHT = 320
"""Height of the pictures in a panel, pixels: the legend stays readable at small inputs."""

# Code that `train` uses to tell of training, not to decide what is learned.
_TELLING = tuple(
    f"clothseg_utils.{name}"
    for name in (
        "pictures",
        "training.live",
        "core.progress",
        "core.reach",
        "core.runs",
        "core.text",
    )
)

_LEARNING_SECTIONS = ("data", "augment", "loss", "train")

# Settings that change where and how fast, not what is learned: a resume may change them.
_FREE_FIELDS = {
    "data": {"data_root", "derived_root", "mask_workers"},
    "train": {"num_workers"},
}


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes:
        best_checkpoint: the checkpoint with the highest `best_score`.
        best_score: val mIoU at network input size.
        best_epoch: epoch of the best checkpoint, from 0.
        epochs: epochs done.
        steps: optimisation steps done.
        seconds: optimisation and validation, over all resumes.
        reason: why training ended.
        history: one dict per epoch, as `ClothingSegmenter.history`.
        notes: what happened before training: resumed, started anew and why.
    """

    best_checkpoint: Path
    best_score: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    reason: str
    history: list[dict[str, float]]
    notes: tuple[str, ...]


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
        return progress / config.warmup_fraction
    if config.schedule == "constant":
        return 1.0
    after_warmup = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, after_warmup)))


class TrainingClock(pl.Callback):
    """Measures training, sets the learning rate, and ends a run that goes by the clock.

    The clock counts optimisation and validation from the first step and goes on after a resume.
    When `max_minutes` is up the epoch ends there, and Lightning validates once more.

    Args:
        config: train section of the config.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._earlier = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of optimisation and validation so far."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._earlier + running

    def progress(self, trainer: pl.Trainer) -> float:
        """Share of training that is done, 0..1."""
        if self.config.max_minutes > 0:
            return min(1.0, self.seconds / (60 * self.config.max_minutes))
        return min(1.0, trainer.global_step / max(1, trainer.estimated_stepping_batches))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of this step."""
        if self._started is None:
            self._started = time.monotonic()
        rate = self.config.learning_rate * learning_rate_factor(self.progress(trainer), self.config)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop when the time is up."""
        if self.config.max_minutes > 0 and self.progress(trainer) >= 1:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Complete the epoch's row with time and learning rate."""
        row = pl_module.history[-1]
        row["seconds"] = round(self.seconds, 2)
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        before = pl_module.history[-2]["seconds"] if len(pl_module.history) > 1 else 0.0
        images = pl_module.epoch_images
        row["images_per_second"] = round(images / max(1e-9, row["seconds"] - before), 2)
        figures = {f"progress/{name}": row[name] for name in ("learning_rate", "images_per_second")}
        trainer.logger.log_metrics(figures, step=trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self._earlier = state_dict["seconds"]


class HistoryWriter(pl.Callback):
    """Writes `logs/history.csv` after each check, and one line per epoch where nobody watches.

    Lightning's own CSV logger deletes the earlier file when a run is resumed; this one writes the
    history that the checkpoint carries.

    Args:
        path: the CSV file.
        print_lines: print a line per epoch.
    """

    def __init__(self, path: Path, *, print_lines: bool) -> None:
        self.path = path
        self.print_lines = print_lines

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ClothingSegmenter) -> None:
        """Write the file; print the line."""
        if not trainer.is_global_zero:
            return
        write_history(self.path, pl_module.history)
        if self.print_lines:
            row = pl_module.history[-1]
            print(
                f"epoch {row['epoch'] + 1:3d}  step {row['step']:6d}  {row['seconds']:7.1f} s  "
                f"train loss {row['train/loss']:.4f}  val loss {row['val/loss']:.4f}  "
                f"val mIoU {row['val/mean_iou']:.4f}  val F1 {row['val/macro_f1']:.4f}",
                flush=True,
            )


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


class _BestCheckpoint(ModelCheckpoint):
    """A second ModelCheckpoint on the same quantity needs a state key of its own."""

    @property
    def state_key(self) -> str:
        return "BestCheckpoint"


def train(
    config: Config,
    train_split: SplitData,
    val_split: SplitData,
    run: RunFolder,
    *,
    resume: bool = True,
) -> TrainResult:
    """Train a network and leave `checkpoints/best.ckpt` in the run folder.

    A run that was cut short goes on from `last.ckpt`, if data, network and training settings
    equal those stored in it; a finished one returns at once, if the code that decides what is
    learned is the same: all that this module reaches but pictures and logs. Otherwise training
    starts anew, says so, and moves the former checkpoints and logs to `previous/`.

    Args:
        config: the run's settings.
        train_split: photos to learn from.
        val_split: photos to check on after each epoch.
        run: the run folder.
        resume: go on from what is there; False always starts anew.

    Raises:
        ValueError: settings that do not fit, or a loss that is no longer finite.
    """
    code = _learning_code()  # as it is now: files may change while training runs
    check_encoder_name(config.train.encoder_name)  # before a former training is moved aside
    data_info = {
        "train_sha256": train_split.coco.sha256,
        "val_sha256": val_split.coco.sha256,
        "train_images": len(train_split.images),
        "val_images": len(val_split.images),
        "synthetic": train_split.coco.is_synthetic,
    }
    notes: list[str] = []
    checkpoint_path: Path | None = None
    state = _read_state(run)
    if state is not None:
        is_finished = run.training_path.exists() and run.best_checkpoint.exists()
        difference = _difference(config, data_info, state) if resume else "no resume was asked for"
        # None where a version without `code` finished it.
        trained_by = read_json(run.training_path).get("code") if is_finished else None
        if is_finished and not difference and trained_by != code:
            difference = "the code of training changed since"
        if difference:
            _set_aside(run)
            notes.append(f"training starts anew: {difference}; the former one is in previous/")
        elif is_finished:
            print("already trained with these settings", flush=True)
            return _finished_result(run, ("already trained with these settings",))
        else:
            checkpoint_path = run.last_checkpoint
            done = count_text(len(state["history"]), "epoch")
            notes.append(f"training goes on from last.ckpt, after {done}")
    elif run.checkpoints_dir.exists() and any(run.checkpoints_dir.iterdir()):
        _set_aside(run)
        notes.append("training starts anew: no readable last.ckpt; the rest is in previous/")
    for note in notes:
        print(note, flush=True)

    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    module = ClothingSegmenter(config, train_split.classes, data_info)
    if config.train.prior_bias:
        pixels = train_split.masks.class_pixels
        set_prior_bias(module.network, pixels / pixels.sum())
    module.to(memory_format=torch.channels_last)
    data_module = ClothingDataModule(config, train_split, val_split)
    clock = TrainingClock(config.train)
    with _quiet_lightning():
        trainer = _build_trainer(config, run, clock, splits_source(train_split, val_split))
        with _plain_interrupts(trainer):
            trainer.fit(
                module, datamodule=data_module, ckpt_path=checkpoint_path, weights_only=True
            )
    last_row = module.history[-1]
    best_row = max(module.history, key=lambda row: row[MONITOR])
    by_clock = config.train.max_minutes > 0
    stopped_early = not by_clock and last_row["epoch"] + 1 < config.train.max_epochs
    summary = {
        "best_score": best_row[MONITOR],
        "best_epoch": best_row["epoch"],
        "epochs": len(module.history),
        "steps": last_row["step"],
        "seconds": round(clock.seconds, 2),
        "reason": (
            f"its time, {config.train.max_minutes:g} min, was up"
            if by_clock
            else f"val mIoU did not improve in {config.train.patience} checks"
            if stopped_early
            else f"epoch {config.train.max_epochs}, its last, was done"
        ),
    }
    if trainer.is_global_zero:
        writer = trainer.logger.experiment
        module.load_state_dict(read_checkpoint(run.best_checkpoint)["state_dict"])
        with trainer.precision_plugin.forward_context():
            log_precision_recall(writer, module, data_module.val_dataset, int(best_row["step"]))
        log_layout(writer)
        _log_hyperparameters(trainer, config, best_row)
        encoder = encoder_card(config.train.encoder_name, config.train.encoder_weights)
        write_json(run.training_path, summary | {"code": code, "encoder": encoder})
    return _finished_result(run, tuple(notes))


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read `logs/history.csv`: one dict per epoch."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows]


def write_history(path: str | Path, history: list[dict[str, float]]) -> None:
    """Write `logs/history.csv`, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, buffer.getvalue())


def _build_trainer(config: Config, run: RunFolder, clock: TrainingClock, source: str) -> pl.Trainer:
    train = config.train
    attended = is_attended()
    checkpoint_options: dict[str, Any] = {
        "dirpath": run.checkpoints_dir,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,  # a "-v1" copy would leave the plain name stale
    }
    callbacks: list[pl.Callback] = [
        clock,
        HistoryWriter(run.logs_dir / "history.csv", print_lines=not attended),
        PanelLogger(),
        ModelCheckpoint(
            filename="epoch={epoch:03d}-miou={val/mean_iou:.4f}",
            monitor=MONITOR,
            mode="max",
            save_top_k=3,
            save_weights_only=True,
            **checkpoint_options,
        ),
        _BestCheckpoint(
            filename="best",
            monitor=MONITOR,
            mode="max",
            save_top_k=1,
            save_weights_only=True,
            **checkpoint_options,
        ),
        ModelCheckpoint(filename="last", **checkpoint_options),
    ]
    by_clock = train.max_minutes > 0
    if not by_clock:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=train.patience))
    if attended:
        planned = 0 if by_clock else train.max_epochs
        callbacks += live_callbacks(clock, planned, source, in_notebook=in_notebook())
    return pl.Trainer(
        default_root_dir=run.path,
        accelerator="auto",
        devices=train.devices,
        num_nodes=train.num_nodes,
        strategy=train.strategy,
        precision=_lightning_precision(train),
        max_epochs=-1 if by_clock else train.max_epochs,
        gradient_clip_val=train.gradient_clip_norm or None,
        logger=TensorBoardLogger(run.path, name=None, version="logs"),
        callbacks=callbacks,
        num_sanity_val_steps=0,  # its scores would be the first row of the history
        enable_progress_bar=False,  # ours is a callback
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _lightning_precision(train: TrainConfig) -> Any:
    if train.precision != "auto":
        return train.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = {torch.float16: "16-mixed", torch.bfloat16: "bf16-mixed", None: "32-true"}
    return names[default_precision(device)]


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's announcements and its advice on workers out of notebooks and terminals."""
    loggers = [
        logging.getLogger(f"pytorch_lightning{name}") for name in ("", ".utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Small data: few batches are normal. Few workers: the user chose their number.
            warnings.filterwarnings("ignore", ".*does not have many workers")
            warnings.filterwarnings("ignore", ".*number of training batches")
            # We resume into our own folder on purpose.
            warnings.filterwarnings("ignore", ".*exists and is not empty")
            # Checkpoints are written at the end of an epoch, never inside one.
            warnings.filterwarnings("ignore", ".*mid-epoch")
            # Lightning 2.6.6 asks torch for a tree class that torch 2.15 no longer likes.
            warnings.filterwarnings("ignore", ".*LeafSpec")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _plain_interrupts(trainer: pl.Trainer) -> Iterator[None]:
    """Let Ctrl-C arrive as KeyboardInterrupt; Lightning answers it with `sys.exit(1)`."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


def _read_state(run: RunFolder) -> dict[str, Any] | None:
    """What `last.ckpt` stores about its run; None if it is missing or broken."""
    try:
        return read_checkpoint(run.last_checkpoint)[CHECKPOINT_KEY]
    except (FileNotFoundError, ValueError):
        return None


def _difference(config: Config, data_info: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """The first thing that differs from a stored run, in words; empty if nothing does."""
    for section in _LEARNING_SECTIONS:
        stored = state["config"].get(section, {})
        for field, value in getattr(config, section).model_dump().items():
            if field in _FREE_FIELDS.get(section, ()):
                continue
            if stored.get(field) != value:
                return f"{section}.{field} was {stored.get(field)!r} and is {value!r}"
    for name, value in data_info.items():
        if state["data"].get(name) != value:
            return f"the data differ ({name})"
    return ""


def _set_aside(run: RunFolder) -> None:
    """Move checkpoints and logs to `previous/`, replacing what was there."""
    previous = run.path / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir(parents=True)
    for folder in (run.checkpoints_dir, run.logs_dir):
        if folder.exists():
            folder.rename(previous / folder.name)


def _finished_result(run: RunFolder, notes: tuple[str, ...]) -> TrainResult:
    summary = read_json(run.training_path)
    del summary["code"], summary["encoder"]
    return TrainResult(
        best_checkpoint=run.best_checkpoint,
        history=read_history(run.logs_dir / "history.csv"),
        notes=notes,
        **summary,
    )


def _learning_code() -> str:
    """Hash of the code that decides what is learned."""
    return code_hash([__name__], without=_TELLING)


def _log_hyperparameters(trainer: pl.Trainer, config: Config, best_row: Mapping[str, Any]) -> None:
    """Show what decides the result beside the best scores in TensorBoard's HPARAMS tab."""
    scores = {f"best/{name}": best_row[name] for name in (MONITOR, "val/macro_f1", "val/loss")}
    settings = {
        field: value
        for section in _LEARNING_SECTIONS
        for field, value in getattr(config, section).model_dump().items()
        if field not in _FREE_FIELDS.get(section, ())
    }
    trainer.logger.log_hyperparams(settings, scores)
    trainer.logger.save()
