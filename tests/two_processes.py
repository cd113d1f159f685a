"""What test_devices runs in two processes, and in one to compare: no test itself.

    python -m torch.distributed.run --nproc-per-node 2 tests/two_processes.py CONFIG.json OUT

Trains with batch norm at its running statistics (a batch of two has others than one of four), then,
if they are two, the same cut short within a check, and as usual but by clocks that differ, and
writes what each process saw to OUT/<name>-<rank>.json.
"""

import contextlib
import datetime
import hashlib
import itertools
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytorch_lightning as pl
import torch
from torch import nn

from clothseg_utils.core.config import Config, replace_fields
from clothseg_utils.core.ranks import rank, world_size
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.data.splits import load_split
from clothseg_utils.training import callbacks as callbacks_module
from clothseg_utils.training import train as train_module
from clothseg_utils.training.devices import process_group


class Witness(callbacks_module.HistoryWriter):
    """Notes the weights after each step, and what each check counted."""

    steps: ClassVar[list[str]] = []
    counted: ClassVar[list[float]] = []
    frozen_norms: ClassVar[bool] = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let batch norm use its running statistics."""
        for module in pl_module.modules():
            if self.frozen_norms and isinstance(module, nn.BatchNorm2d):
                module.eval()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        """Note all weights."""
        weights = torch.cat([p.detach().reshape(-1) for p in pl_module.parameters()])
        self.steps.append(hashlib.sha256(weights.numpy().tobytes()).hexdigest())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the running statistics, and the pixels counted in this process."""
        super().on_validation_end(trainer, pl_module)
        buffers = [b.reshape(-1) for b in pl_module.buffers() if b.is_floating_point()]
        self.steps.append(hashlib.sha256(torch.cat(buffers).numpy().tobytes()).hexdigest())
        self.counted.append(pl_module._totals["val"].images)


def train(config: Config, name: str, out: Path, **options: object) -> None:
    """Train once; write what was seen."""
    Witness.steps, Witness.counted = [], []
    for key, value in options.items():
        setattr(Witness, key, value)
    splits = [load_split(config.data, split) for split in ("train", "val")]
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    result = train_module.train(config, *splits, run)
    weights = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    seen = {
        "steps": Witness.steps,
        "counted": Witness.counted,
        "history": result.history,
        "weights": [float(value.double().sum()) for value in weights.values()],
    }
    (out / f"{name}-{rank()}.json").write_text(json.dumps(seen))


def cut_short(config: Config, out: Path) -> None:
    """Train until a checkpoint within the second check, begin again, and go on there."""
    step = train_module.ClothingSegmenter.training_step

    def failing_step(module, batch, batch_idx):
        if module.current_epoch == 1 and batch_idx == 1:
            raise InterruptedError
        return step(module, batch, batch_idx)

    train_module.ClothingSegmenter.training_step = failing_step
    interval, train_module.CHECKPOINT_INTERVAL = (
        train_module.CHECKPOINT_INTERVAL,
        datetime.timedelta(0),
    )
    with contextlib.suppress(InterruptedError):
        train(config, "cut", out)
    train_module.ClothingSegmenter.training_step = step
    train(config, "cut", out)
    train_module.CHECKPOINT_INTERVAL = interval


def main(config_path: str, out: str) -> None:
    """Train by epochs, then by clocks that differ."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    train_module.HistoryWriter = Witness
    callbacks_module.PANEL_COUNT = 1
    config = Config.model_validate(json.loads(Path(config_path).read_text()))
    batch = config.train.batch_size // world_size()
    if rank():
        train_module.read_json = None  # how it ended is told by the first process
    with process_group():
        config = replace_fields(config, {"batch_size": batch, "run_name": f"epochs{world_size()}"})
        train(config, "epochs", Path(out), frozen_norms=True)
        if world_size() == 1:
            return
        cut_short(replace_fields(config, {"run_name": "cut"}), Path(out))
        # 6 seconds a step in the first process, 7 in the second: one minute is 10 steps, or 9.
        ticks = itertools.count(1000 * rank(), 6 + rank())
        fields = {"run_name": "clock", "max_minutes": 1.0, "schedule": "cosine"}
        fields |= {"epoch_images": 48}  # twelve steps: it ends inside a check
        step = train_module.ClothingSegmenter.training_step
        now = [next(ticks)]

        def timed_step(module, batch, batch_idx):
            now[0] = next(ticks)
            return step(module, batch, batch_idx)

        train_module.ClothingSegmenter.training_step = timed_step
        callbacks_module.time = SimpleNamespace(monotonic=lambda: float(now[0]))
        train(replace_fields(config, fields), "clock", Path(out), frozen_norms=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
