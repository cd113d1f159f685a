"""Settings to best checkpoint: the Trainer, its callbacks, resuming."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from clothseg_utils.core.config import Config, TrainConfig, replace_fields
from clothseg_utils.core.faults import fault_line, quiet_threads, words_of_worker
from clothseg_utils.core.files import check_writable, resolve_path, sha256_file, write_json
from clothseg_utils.core.progress import in_notebook, is_attended
from clothseg_utils.core.ranks import is_launched, local_world_size, rank, world_size
from clothseg_utils.core.reach import code_hash
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text
from clothseg_utils.data.splits import SplitData, splits_source
from clothseg_utils.network.checkpoints import (
    CHECKPOINT_KEY,
    read_checkpoint,
    stored_normalization,
)
from clothseg_utils.network.encoders import (
    check_encoder_name,
    encoder_card,
    encoder_normalization,
)
from clothseg_utils.network.transfer import StoredWeights, read_weights, take_weights
from clothseg_utils.network.unet import build_network, default_precision, set_prior_bias
from clothseg_utils.training.callbacks import (
    CHECKPOINT_INTERVAL,
    BestCheckpoint,
    CheckLength,
    CheckpointFiles,
    Checkpoints,
    HistoryWriter,
    PanelLogger,
    Patience,
    TimedCheckpoint,
    TrainingClock,
    read_history,
)
from clothseg_utils.training.devices import (
    first_on_each_machine,
    freeze_unused,
    from_first,
    stop_sharing_signals,
)
from clothseg_utils.training.launch import train_on_devices
from clothseg_utils.training.live import live_callbacks, log_layout, log_precision_recall
from clothseg_utils.training.loaders import ClothingDataModule
from clothseg_utils.training.module import MONITOR, ClothingSegmenter
from clothseg_utils.training.pipeline_file import pipeline_text
from clothseg_utils.training.resume import (
    FREE_FIELDS,
    LEARNING_SECTIONS,
    Start,
    former_aside,
    plan_start,
)

# Code that `train` uses to tell of training, not to decide what is learned.
_TELLING = tuple(
    f"clothseg_utils.{name}"
    for name in (
        "pictures",
        "training.launch",
        "training.live",
        "training.resume",
        "core.progress",
        "core.reach",
        "core.runs",
        "core.text",
    )
)


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes:
        best_checkpoint: the checkpoint with the highest `best_score`.
        best_score: val mIoU at network input size.
        best_epoch: epoch of the best checkpoint, from 0.
        epochs: epochs done; with several checks an epoch it may be a fraction.
        steps: optimisation steps done.
        seconds: optimisation and validation, over all resumes.
        reason: why training ended.
        history: one dict per check, as `ClothingSegmenter.history`.
    """

    best_checkpoint: Path
    best_score: float
    best_epoch: int
    epochs: float
    steps: int
    seconds: float
    reason: str
    history: list[dict[str, float]]


def train(
    config: Config,
    train_split: SplitData,
    val_split: SplitData,
    run: RunFolder,
    *,
    resume_only: bool = False,
) -> TrainResult:
    """Train a network and leave `checkpoints/best.ckpt` in the run folder.

    What the folder holds decides whether training begins, goes on from `last.ckpt`, begins anew or
    returns at once (`resume.plan_start`). A new one begins with the weights of `train.init_from`,
    if it is set (`transfer.take_weights`), else of `train.encoder_weights`. The code of a finished
    one is all that this module reaches but pictures and logs. A former training is moved to
    `previous/<number>/`, never deleted. With several `train.devices` the work is done in a process
    for each (`launch.train_on_devices`); in such a process, or one that torchrun started, it is
    done here, and only the first of them writes files.

    Args:
        config: the run's settings.
        train_split: photos to learn from.
        val_split: photos to check on.
        run: the run folder.
        resume_only: refuse where the folder's training cannot go on, instead of beginning anew.

    Raises:
        FileNotFoundError: a file that the settings name is missing.
        ValueError: settings that do not fit, too little memory, or a loss that is no longer
            finite; the former training is where it was if this one came to no checkpoint.
    """
    if config.train.devices > 1 and not is_launched():
        train_on_devices(config, resume_only=resume_only)
        return _finished_result(run)
    code = _learning_code()  # as it is now: files may change while training runs
    check_encoder_name(config.train.encoder_name)
    data_info = {
        "train_sha256": train_split.coco.sha256,
        "val_sha256": val_split.coco.sha256,
        "train_images": len(train_split.images),
        "val_images": len(val_split.images),
        "synthetic": train_split.coco.is_synthetic,
    }
    if config.augment.pipeline_file:
        data_info["pipeline"] = pipeline_text(config.augment.pipeline_file)
    init_from = config.train.init_from
    if init_from and resolve_path(init_from).is_file():
        data_info["init_from"] = sha256_file(resolve_path(init_from))
    class_names = train_split.classes.names

    def plan() -> Start | None:
        if rank():
            return None
        return plan_start(config, data_info, class_names, run, code, resume_only=resume_only)

    start = from_first(first_on_each_machine(plan))
    assert start is not None
    begins = start.checkpoint is None and not start.is_done
    # Before a former training is moved, where the file may lie.
    stored = read_weights(config) if begins else None
    if start.note and rank() == 0:
        print(start.note, flush=True)
    if start.is_done:
        return _finished_result(run)
    if start.checkpoint is not None:  # it goes on with what it began with
        began = read_checkpoint(start.checkpoint)[CHECKPOINT_KEY]
        normalization = stored_normalization(began)
        init_from = began["config"]["train"].get("init_from", "")
        config = replace_fields(config, {"init_from": init_from})
        if init_from:
            names = ("init_from", "weights", "license")
            data_info |= {name: began["data"].get(name, init_from) for name in names}
    elif stored is not None:
        normalization = stored.normalization(config.train.encoder_name)
    else:
        normalization = encoder_normalization(config.train.encoder_name)
    data_module = ClothingDataModule(config, train_split, val_split, normalization)
    data_module.rehearse()
    moves = start.moves_former and rank() == 0
    with former_aside(run) if moves else contextlib.nullcontext():
        about = data_info | {"code": code}
        _fit(config, data_module, run, about, start.checkpoint, stored)
    return _finished_result(run)


@quiet_threads()
def _fit(
    config: Config,
    data_module: ClothingDataModule,
    run: RunFolder,
    data_info: dict[str, Any],
    checkpoint_path: Path | None,
    stored: StoredWeights | None,
) -> None:
    """Train, and write what is told of it; several processes come here together."""
    train = config.train
    if rank() == 0:
        check_writable(run.checkpoints_dir)
        check_writable(run.logs_dir)
    pl.seed_everything(train.seed, workers=True, verbose=False)
    card = encoder_card(train.encoder_name, train.encoder_weights)
    card = {name: data_info.get(name, told) for name, told in card.items()}
    classes = data_module.classes
    # What other weights will replace is not fetched.
    is_new = checkpoint_path is None and stored is None
    encoder_weights = train.encoder_weights if is_new else "none"
    network = build_network(train.encoder_name, encoder_weights, classes.num_classes)
    kept_classes = None
    if stored is not None:
        taken = take_weights(network, stored, train.encoder_name, classes.names)
        kept_classes = taken.kept_classes
        card = {"weights": taken.note, "license": stored.license}
    if train.prior_bias:
        pixels = data_module.train_split.masks.class_pixels
        set_prior_bias(network, pixels / pixels.sum(), kept_classes)
    module = ClothingSegmenter(
        config,
        classes,
        data_info | card,
        data_module.normalization,
        network,
    )
    freeze_unused(module.network)
    module.to(memory_format=torch.channels_last)
    clock = TrainingClock(train)
    source = splits_source(data_module.train_split, data_module.val_split)
    with _quiet_lightning():
        trainer = _build_trainer(config, run, clock, source)
        stop_sharing_signals(trainer)
        if trainer.is_global_zero:
            print(_describe(trainer, train, data_module.num_workers), flush=True)
            if checkpoint_path is None:
                weights, license_name = card.values()
                what = f"encoder {train.encoder_name}" if stored is None else "network"
                print(f"{what} starts from weights: {weights}; licence: {license_name}", flush=True)
        with _plain_interrupts(trainer), _plain_faults(train):
            trainer.fit(
                module, datamodule=data_module, ckpt_path=checkpoint_path, weights_only=True
            )
    if trainer.is_global_zero:
        best_row = max(module.history, key=lambda row: row[MONITOR])
        module.load_state_dict(read_checkpoint(run.best_checkpoint)["state_dict"])
        module.to(trainer.strategy.root_device)  # `fit` leaves it on the CPU
        with trainer.precision_plugin.forward_context():
            log_precision_recall(
                trainer.logger.experiment, module, data_module.val_dataset, int(best_row["step"])
            )
        log_layout(trainer.logger.experiment)
        _log_hyperparameters(trainer, config, best_row)
        about = {"code": data_info["code"], "encoder": card}
        if train.init_from:
            about["init_from"] = {"file": train.init_from, "sha256": data_info["init_from"]}
        write_json(run.training_path, _summary(train, module.history, clock) | about)
    trainer.strategy.barrier()


def _summary(
    train: TrainConfig, history: Sequence[Mapping[str, float]], clock: TrainingClock
) -> dict[str, Any]:
    """What `training.json` says."""
    last_row, best_row = history[-1], max(history, key=lambda row: row[MONITOR])
    by_clock = train.max_minutes > 0
    if by_clock:
        reason = f"its time, {train.max_minutes:g} min, was up"
    elif last_row["epochs_done"] < train.max_epochs:
        reason = f"val mIoU did not improve in {train.patience} checks"
    else:
        reason = f"epoch {train.max_epochs}, its last, was done"
    return {
        "best_score": best_row[MONITOR],
        "best_epoch": best_row["epoch"],
        "epochs": last_row["epochs_done"],
        "steps": last_row["step"],
        "seconds": round(clock.seconds, 2),
        "reason": reason,
    }


def _build_trainer(config: Config, run: RunFolder, clock: TrainingClock, source: str) -> pl.Trainer:
    train = config.train
    attended = is_attended()
    # What Lightning calls an epoch is what lies between two checks, see `order.TrainingOrder`.
    check = "epoch" if train.checks_per_epoch == 1 else "check"
    checkpoint_options: dict[str, Any] = {
        "dirpath": run.checkpoints_dir,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,  # a "-v1" copy would leave the plain name stale
    }
    callbacks: list[pl.Callback] = [
        CheckLength(),
        clock,
        HistoryWriter(run, print_lines=not attended),
        PanelLogger(),
        Checkpoints(
            filename=f"{check}={{epoch:03d}}-miou={{val/mean_iou:.4f}}",
            monitor=MONITOR,
            mode="max",
            save_top_k=3,
            save_weights_only=True,
            **checkpoint_options,
        ),
        BestCheckpoint(
            filename="best",
            monitor=MONITOR,
            mode="max",
            save_top_k=1,
            save_weights_only=True,
            **checkpoint_options,
        ),
        Checkpoints(filename="last", **checkpoint_options),
        TimedCheckpoint(
            filename="last", train_time_interval=CHECKPOINT_INTERVAL, **checkpoint_options
        ),
    ]
    by_clock = train.max_minutes > 0
    if not by_clock:
        callbacks.append(Patience(MONITOR, mode="max", patience=train.patience))
    if rank() == 0:
        callbacks += live_callbacks(
            clock,
            0 if by_clock else train.max_epochs,
            source,
            checks=train.checks_per_epoch,
            is_attended=attended,
            in_notebook=in_notebook(),
        )
    plugins: list[Any] = [CheckpointFiles()]
    if not is_launched():
        # Left to itself it asks SLURM and MPI too, and fails where mpi4py finds no library of MPI.
        plugins.append(LightningEnvironment())
    return pl.Trainer(
        default_root_dir=run.path,
        accelerator="auto",
        devices=local_world_size(),
        num_nodes=world_size() // local_world_size(),
        # Running statistics are averaged before each check; shared in each step they would make
        # validation wait for processes that have a batch less.
        strategy="auto" if world_size() == 1 else DDPStrategy(broadcast_buffers=False),
        plugins=plugins,
        use_distributed_sampler=False,  # it shows some photos twice; ours are in `order`
        precision=_lightning_precision(train),
        max_epochs=-1 if by_clock else train.max_epochs * train.checks_per_epoch,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.gradient_clip_norm or None,
        logger=TensorBoardLogger(run.path, name=None, version="logs"),
        callbacks=callbacks,
        num_sanity_val_steps=0,  # its scores would be the first row of the history
        enable_progress_bar=False,  # ours is a callback
        enable_model_summary=False,
        log_every_n_steps=10,
        benchmark=True,  # cuDNN tries which algorithm is fastest: inputs are all of one size
    )


def _lightning_precision(train: TrainConfig) -> Any:
    if train.precision != "auto":
        return train.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = {torch.float16: "16-mixed", torch.bfloat16: "bf16-mixed", None: "32-true"}
    return names[default_precision(device)]


def _describe(trainer: pl.Trainer, train: TrainConfig, n_workers: int) -> str:
    """What trains, and what a step is, in one line."""
    device = trainer.strategy.root_device
    n_threads = torch.get_num_threads()
    name = f"CPU ({n_threads} threads)" if device.type == "cpu" else device.type
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    n_photos = train.batch_size * train.accumulate * trainer.world_size
    return (
        f"training on {trainer.world_size} x {name}, precision {trainer.precision}: "
        f"{n_photos} photos a step (batch_size {train.batch_size}, accumulate {train.accumulate}), "
        f"read by {count_text(n_workers, 'worker') if n_workers else 'the process that trains'}"
    )


@contextlib.contextmanager
def _plain_faults(train: TrainConfig) -> Iterator[None]:
    """Say what to change when memory runs out, or the machine refuses something else.

    Raises:
        ValueError: out of memory, on the device or on the host.
        OSError: as `faults.fault_line` says.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        said = words_of_worker(str(error))
        if said == str(error):
            raise
        raise type(error)(said) from None
    except (RuntimeError, MemoryError) as error:
        # Where CUDA's own calls run out it is a plain RuntimeError, or torch's AcceleratorError.
        told = ("out of memory", "can't allocate memory")
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_known and not any(words in str(error) for words in told):
            line = fault_line(error)
            if line is None:
                raise
            raise OSError(line) from error
        raise ValueError(
            f"out of memory with train.batch_size {train.batch_size}; expected a batch to fit. "
            "Lower it, and raise train.accumulate by the same factor: a step still learns from as "
            "many photos."
        ) from error


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
            # A training that goes on by the clock has no patience.
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint")
            # The name of this option from torch 2.15 on is unknown to the versions before it.
            warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated")
            # What is logged at the end of validation is summed over all processes already.
            warnings.filterwarnings("ignore", ".*sync_dist=True")
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


def _finished_result(run: RunFolder) -> TrainResult:
    """What the first process finds in the run folder, which others may see later."""
    result = from_first(_read_result(run) if rank() == 0 else None)
    assert result is not None
    return result


def _read_result(run: RunFolder) -> TrainResult:
    summary = run.read_training()
    told = {field.name for field in dataclasses.fields(TrainResult)}
    return TrainResult(
        best_checkpoint=run.best_checkpoint,
        history=read_history(run.logs_dir / "history.csv"),
        **{name: value for name, value in summary.items() if name in told},
    )


def _learning_code() -> str:
    """Hash of the code that decides what is learned."""
    return code_hash([__name__], without=_TELLING)


def _log_hyperparameters(trainer: pl.Trainer, config: Config, best_row: Mapping[str, Any]) -> None:
    """Show what decides the result beside the best scores in TensorBoard's HPARAMS tab."""
    scores = {f"best/{name}": best_row[name] for name in (MONITOR, "val/macro_f1", "val/loss")}
    settings = {
        field: value
        for section in LEARNING_SECTIONS
        for field, value in getattr(config, section).model_dump().items()
        if field not in FREE_FIELDS.get(section, ())
    }
    trainer.logger.log_hyperparams(settings, scores)
    trainer.logger.save()
