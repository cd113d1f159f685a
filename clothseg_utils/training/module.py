"""The LightningModule: one training step, one validation step, one row of figures per epoch."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from clothseg_utils.core.classes import IGNORE_INDEX, ClassTable
from clothseg_utils.core.config import Config
from clothseg_utils.core.ranks import world_size
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, checkpoint_info
from clothseg_utils.network.unet import build_network, normalize_images
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.training.devices import average_buffers
from clothseg_utils.training.loaders import Sample
from clothseg_utils.training.losses import DiceFocalLoss, LossParts

MONITOR = "val/mean_iou"
"""The one quantity that chooses the best checkpoint and stops training early."""


def complete_row(row: Mapping[str, float]) -> dict[str, float]:
    """A row of the history with `epochs_done`, which versions with one check an epoch left out."""
    done = row["epoch"] + 1
    return {"epoch": row["epoch"], "epochs_done": done, **row}


class _EpochTotals:
    """Sums over one epoch, kept on the device so that no step waits for the GPU."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # Apple's GPUs have no float64; three sums can live on the CPU there.
        float64_device = torch.device("cpu") if device.type == "mps" else device
        self.losses = torch.zeros(3, dtype=torch.float64, device=float64_device)
        self.images = 0
        self.confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)

    def add(self, parts: LossParts, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Add one batch: logits (N, C, H, W), target (N, H, W) class ids or 255."""
        num_classes = logits.shape[1]
        batch_losses = torch.stack([part.detach().double() for part in parts])
        self.losses += batch_losses.to(self.losses.device) * len(target)
        self.images += len(target)
        pred_mask = logits.detach().max(dim=1).indices  # on CPUs 5 times faster than argmax
        counted = target != IGNORE_INDEX
        pairs = target[counted].long() * num_classes + pred_mask[counted]
        self.confusion += torch.bincount(pairs, minlength=num_classes**2)


class ClothingSegmenter(pl.LightningModule):
    """U-Net, Dice + Focal loss, Adam(W), and the scores of each epoch.

    Scores are counted at the size of the network's input over one summed confusion matrix per
    epoch. They steer training; the headline score is `evaluate`'s.

    Args:
        config: the run's settings.
        classes: class table.
        data_info: plain values about the data, kept in every checkpoint.

    Attributes:
        history: one dict per check (epoch, epochs_done, step, seconds, learning_rate, train/...,
            val/...); kept in checkpoints, so it goes on after a resume.
        check_images: training photos that all processes saw before the latest check.
    """

    def __init__(self, config: Config, classes: ClassTable, data_info: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.classes = classes
        self.data_info = dict(data_info)
        self.network = build_network(
            config.train.encoder_name, config.train.encoder_weights, classes.num_classes
        )
        if config.train.freeze_encoder:
            self.network.encoder.requires_grad_(False)
        loss = config.loss
        self.loss = DiceFocalLoss(
            dice_weight=loss.dice_weight,
            focal_weight=loss.focal_weight,
            dice_form=loss.dice_form,
            dice_smooth=loss.dice_smooth,
            focal_gamma=loss.focal_gamma,
        )
        self.history: list[dict[str, float]] = []
        self.check_images = 0
        self._totals: dict[str, _EpochTotals] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W) uint8 RGB images, 0..255, to (N, C, H, W) logits."""
        images = normalize_images(images).contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: Sample, batch_idx: int) -> torch.Tensor:
        """Loss of one batch."""
        parts = self._step(batch, "train")
        self.log("loss", parts.loss.detach(), prog_bar=True, logger=False)
        return parts.loss

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Count one batch of validation."""
        self._step(batch, "val")

    def _step(self, batch: Sample, group: str) -> LossParts:
        logits = self(batch["image"])
        parts = self.loss(logits, batch["mask"])
        self._totals[group].add(parts, logits, batch["mask"])
        return parts

    def on_train_epoch_start(self) -> None:
        """Start counting anew; keep a frozen encoder's batch statistics still."""
        self._totals["train"] = _EpochTotals(self.classes.num_classes, self.device)
        if self.config.train.freeze_encoder:
            self.network.encoder.eval()

    def on_validation_epoch_start(self) -> None:
        """Start counting anew, with the same network in all processes."""
        average_buffers(self.network)
        self._totals["val"] = _EpochTotals(self.classes.num_classes, self.device)

    def on_validation_epoch_end(self) -> None:
        """Turn both groups' sums into one row of `history` and log it.

        Validation is the last thing in an epoch, so the training sums are complete here.

        Raises:
            ValueError: the training loss is no longer a finite number.
        """
        row: dict[str, float] = {}
        for group, totals in self._totals.items():
            row |= self._figures(group, totals)
        if not torch.isfinite(torch.tensor(row["train/loss"])):
            raise ValueError(
                f"the training loss became {row['train/loss']} by step {self.global_step}; "
                "expected a finite number. Lower train.learning_rate or use "
                "train.precision=32-true."
            )
        self.check_images = self._totals["train"].images * world_size()
        for name, value in row.items():
            self.log(name, value, prog_bar=name == MONITOR)
        # TensorBoard's x axis; by itself Lightning is one step behind the history here.
        self.log("step", float(self.global_step))
        n_checks = self.config.train.checks_per_epoch
        epochs_done = (self.current_epoch + 1) / n_checks
        counted = {
            "epoch": self.current_epoch // n_checks,
            "epochs_done": int(epochs_done) if epochs_done.is_integer() else epochs_done,
            "step": self.global_step,
        }
        self.history.append(counted | row)

    def _figures(self, group: str, totals: _EpochTotals) -> dict[str, float]:
        reduce = self.trainer.strategy.reduce  # sums over the processes of a distributed run
        counts = torch.tensor([totals.images], dtype=torch.float64, device=totals.losses.device)
        losses = reduce(totals.losses, reduce_op="sum") / reduce(counts, reduce_op="sum")
        confusion = reduce(totals.confusion, reduce_op="sum").cpu().numpy()
        num_classes = self.classes.num_classes
        scores = scores_from_confusion(confusion.reshape(num_classes, num_classes))
        loss, dice, focal = losses.tolist()
        return {
            f"{group}/loss": loss,
            f"{group}/dice_loss": dice,
            f"{group}/focal_loss": focal,
            f"{group}/mean_iou": float(scores.mean_iou),
            f"{group}/macro_f1": float(scores.macro_f1),
            f"{group}/pixel_accuracy": float(scores.pixel_accuracy),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; without weight decay it is Adam.

        The learning rate is set before each step by `train.TrainingClock`.
        """
        train = self.config.train
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            trained,
            lr=train.learning_rate,
            betas=(0.9, train.adam_beta2),
            weight_decay=train.weight_decay,
            # On CUDA, float16 gradients are scaled; a fused step unscales them after the clipping.
            fused=train.gradient_clip_norm == 0 or self.device.type != "cuda",
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Shorten the gradient to `gradient_clip_norm`; 0 leaves it as it is.

        Lightning's own form refuses a fused optimizer in any mixed precision, bfloat16 too, where
        nothing is scaled.
        """
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader of the checkpoint needs, as plain values."""
        info = checkpoint_info(self.config.model_dump(), self.classes, self.data_info)
        checkpoint[CHECKPOINT_KEY] = info | {"history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the run that is resumed."""
        self.history = [complete_row(row) for row in checkpoint[CHECKPOINT_KEY]["history"]]
