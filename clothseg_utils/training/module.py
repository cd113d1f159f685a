"""The LightningModule: one training step, one validation step, one row of figures per check."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.config import Config
from clothseg_utils.core.ranks import rank, world_size
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, checkpoint_info
from clothseg_utils.network.encoders import encoder_normalization
from clothseg_utils.network.unet import build_network, normalize_images
from clothseg_utils.prediction.geometry import Normalization
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.training.devices import add_up, average_buffers
from clothseg_utils.training.loaders import Sample
from clothseg_utils.training.losses import DiceFocalLoss, LossParts

MONITOR = "val/mean_iou"
"""The one quantity that chooses the best checkpoint and stops training early."""

# A run whose loss is not finite in so many batches one after the other will not recover.
_LOST_AFTER = 20

# A check that scored less than this share of the val photos says nothing of the network.
_LEAST_SCORED = 0.9


def complete_row(row: Mapping[str, float]) -> dict[str, float]:
    """A row of the history with `epochs_done`, which versions with one check an epoch left out."""
    done = row["epoch"] + 1
    return {"epoch": row["epoch"], "epochs_done": done, **row}


class _EpochTotals:
    """Sums from one check to the next, kept on the device so that no step waits for the GPU.

    A batch whose loss is not finite is left out of all of them but `images`.

    Attributes:
        images: photos seen by this process.
        confusion: (C * C,) pixels of each pair of classes.
    """

    def __init__(
        self, num_classes: int, device: torch.device, former: "_EpochTotals | None" = None
    ) -> None:
        # Apple's GPUs have no float64; three sums can live on the CPU there.
        float64_device = torch.device("cpu") if device.type == "mps" else device
        self._losses = torch.zeros(3, dtype=torch.float64, device=float64_device)
        self._counted, self._left_out, self._in_a_row, self._longest_row = torch.zeros(
            4, dtype=torch.int64, device=device
        )
        if former is not None:  # a check may have fewer batches than a row that is lost
            self._in_a_row = former._in_a_row
        self.images = 0
        self.confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)

    def add(self, parts: LossParts, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Add one batch: logits (N, C, H, W), target (N, H, W) class ids or 255."""
        is_finite = parts.loss.detach().isfinite()
        losses = torch.stack(parts).detach().where(is_finite, 0)
        self._losses += losses.to(self._losses.device).double() * len(target)
        self.images += len(target)
        self._counted += is_finite * len(target)
        self._left_out += ~is_finite
        self._in_a_row = (self._in_a_row + 1).where(~is_finite, 0)
        self._longest_row = torch.maximum(self._longest_row, self._in_a_row)
        self.confusion += _count_pairs(logits.detach(), target, is_finite)

    def state(self) -> dict[str, Any]:
        """What all processes counted so far, as plain values for a checkpoint."""
        (losses,) = add_up(self._losses)
        counted, confusion = add_up(self._counted, self.confusion)
        # The same in all of them: the loss is that of a batch of all.
        rows = torch.stack([self._left_out, self._in_a_row, self._longest_row])
        return {
            "losses": losses.tolist(),
            "counted": counted.item(),
            "confusion": confusion.tolist(),
            "rows": rows.tolist(),
        }

    def load_state(self, state: Mapping[str, Any], images: int) -> None:
        """Go on from there; what adds up over processes goes on in the first one.

        Args:
            state: as `state` gave it, whatever the number of processes was.
            images: photos seen by this process.
        """
        self.images = images
        self._left_out, self._in_a_row, self._longest_row = self._counted.new_tensor(state["rows"])
        if rank() == 0:
            self._losses = self._losses.new_tensor(state["losses"])
            self._counted = self._counted.new_tensor(state["counted"])
            self.confusion = self.confusion.new_tensor(state["confusion"])

    def sums(self) -> torch.Tensor:
        """What adds up over processes.

        Three losses, photos counted, batches left out, is lost, photos seen.
        """
        is_lost = self._longest_row >= _LOST_AFTER
        images = torch.full_like(self._counted, self.images)
        counts = torch.stack([self._counted, self._left_out, is_lost.long(), images])
        return torch.cat([self._losses, counts.to(self._losses.device).double()])


def _count_pairs(logits: torch.Tensor, target: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Count pixels by target and prediction, without reading anything back from the device.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) class ids or 255.
        counts: () bool; False counts nothing.

    Returns:
        (C * C,) int64, a confusion matrix row by row.
    """
    n_images, num_classes, height, width = logits.shape
    pred_mask = logits.max(dim=1).indices  # on CPUs 5 times faster than argmax
    pairs = target.long() * num_classes + pred_mask
    # What does not count goes to a last cell. Each row of pixels has cells of its own, or all
    # cores of a GPU would wait for the few cells of frequent pairs.
    pairs = pairs.where(counts & (target < num_classes), num_classes**2)
    pairs = pairs.view(n_images * height, width)
    # 32 bits hold a row's pixels: 145 MB of cells for 47 classes, 32 photos and 512 px.
    cells = pairs.new_zeros(len(pairs), num_classes**2 + 1, dtype=torch.int32)
    ones = torch.ones_like(pairs, dtype=torch.int32)
    return cells.scatter_add_(1, pairs, ones)[:, :-1].sum(0)


class ClothingSegmenter(pl.LightningModule):
    """U-Net, Dice + Focal loss, Adam(W), and the scores of each check.

    Scores are counted at the size of the network's input over one summed confusion matrix per
    epoch. They steer training; the headline score is `evaluate`'s.

    Args:
        config: the run's settings.
        classes: class table.
        data_info: plain values about the data, kept in every checkpoint.
        normalization: of the photos; None takes the encoder's. Kept in every checkpoint.
        network: to train; None builds the one of the settings.

    Attributes:
        history: one dict per check (epoch, epochs_done, step, seconds, learning_rate, train/...,
            val/...); kept in checkpoints, so it goes on after a resume.
        check_images: training photos that all processes saw before the latest check.
        latest_loss: of the latest training step, on the device: reading it waits for a GPU.
    """

    def __init__(
        self,
        config: Config,
        classes: ClassTable,
        data_info: Mapping[str, Any],
        normalization: Normalization | None = None,
        network: smp.Unet | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.classes = classes
        self.data_info = dict(data_info)
        self.normalization = normalization or encoder_normalization(config.train.encoder_name)
        self.network = network or build_network(
            config.train.encoder_name, config.train.encoder_weights, classes.num_classes
        )
        if config.train.freeze_encoder:
            self.network.encoder.requires_grad_(False)
        if config.train.compile_network:
            self.network.compile()  # in place: the names of the weights stay
        loss = config.loss
        self.loss = DiceFocalLoss(
            dice_weight=loss.dice_weight,
            focal_weight=loss.focal_weight,
            dice_form=loss.dice_form,
            focal_form=loss.focal_form,
            dice_smooth=loss.dice_smooth,
            focal_gamma=loss.focal_gamma,
            lovasz_weight=loss.lovasz_weight,
        )
        self.history: list[dict[str, float]] = []
        self.check_images = 0
        self.latest_loss = torch.zeros(())
        self._statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._totals: dict[str, _EpochTotals] = {}
        self._is_within_check = False
        self._cut_short: dict[str, Any] | None = None  # the check that a checkpoint was within

    @property
    def photos_before(self) -> int:
        """Training photos of this check that all processes saw before training was cut short."""
        return self._cut_short["photos"] if self._cut_short else 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W) uint8 RGB images, 0..255, to (N, C, H, W) logits."""
        images = normalize_images(images, self.normalization)
        images = images.contiguous(memory_format=torch.channels_last)
        # Compiled for training alone: each further size of batch would take as long to compile.
        run = self.network if self.training else self.network.forward
        return run(images)

    def on_fit_start(self) -> None:
        """Let float32 products on CUDA run in TF32, as cuDNN's convolutions do by default."""
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def training_step(self, batch: Sample, batch_idx: int) -> torch.Tensor:
        """Loss of one batch."""
        self._statistics = [(b, b.clone()) for b in self.network.buffers() if b.is_floating_point()]
        parts = self._step(batch, "train")
        self.latest_loss = parts.loss.detach()
        return parts.loss

    def on_after_backward(self) -> None:
        """Take back what a batch whose loss is not finite did to batch norm's statistics."""
        is_finite = self.latest_loss.isfinite()
        for buffer, before in self._statistics:
            buffer.copy_(buffer.where(is_finite, before))

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Count one batch of validation."""
        self._step(batch, "val")

    def _step(self, batch: Sample, group: str) -> LossParts:
        logits = self(batch["image"])
        parts = self.loss(logits, batch["mask"])
        self._totals[group].add(parts, logits, batch["mask"])
        return parts

    def on_train_epoch_start(self) -> None:
        """Start counting anew, or go on; keep a frozen encoder's statistics still."""
        self._totals["train"] = _EpochTotals(
            self.classes.num_classes, self.device, self._totals.get("train")
        )
        if self._cut_short:
            self._totals["train"].load_state(self._cut_short, self.photos_before // world_size())
        self._is_within_check = True
        if self.config.train.freeze_encoder:
            self.network.encoder.eval()

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Start random numbers anew.

        By the photos so far, so that dropped paths go on after a resume as if training had not
        stopped.
        """
        place = (self.current_epoch, self._photos_seen(), rank())
        seed = np.random.SeedSequence((self.config.train.seed, *place))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def _photos_seen(self) -> int:
        """Training photos of this check in all processes."""
        return self._totals["train"].images * world_size()

    def on_validation_epoch_start(self) -> None:
        """Start counting anew, with the same network in all processes."""
        average_buffers(self.network)
        self._totals["val"] = _EpochTotals(self.classes.num_classes, self.device)

    def on_validation_epoch_end(self) -> None:
        """Turn both groups' sums into one row of `history` and log it.

        What Lightning calls an epoch ends with validation, so the training sums are complete here.

        Raises:
            ValueError: the loss is no longer a finite number, or no garment is left to be scored.
        """
        row: dict[str, float] = {}
        for group, totals in self._totals.items():
            row |= self._figures(group, totals)
        self.check_images = self._photos_seen()
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
        self._is_within_check, self._cut_short = False, None

    def _figures(self, group: str, totals: _EpochTotals) -> dict[str, float]:
        reduce = self.trainer.strategy.reduce  # sums over the processes of a distributed run
        sums = reduce(totals.sums(), reduce_op="sum").tolist()
        loss, dice, focal, n_photos, n_left_out, is_lost, n_seen = sums
        if group == "train":  # a batch of all processes, counted by each
            n_left_out /= world_size()
            if is_lost:  # the row may have begun before the check
                n_left_out = max(n_left_out, _LOST_AFTER)
        else:
            is_lost = n_photos < _LEAST_SCORED * n_seen
        if is_lost or not n_photos:
            raise ValueError(
                f"the {group} loss became infinite or NaN in {n_left_out:.0f} batches by step "
                f"{self.global_step}; expected a finite number. Lower train.learning_rate or use "
                "train.precision=32-true."
            )
        if n_left_out and self.trainer.is_global_zero:
            print(
                f"by step {self.global_step}: {n_left_out:.0f} {group} batches left out, their "
                "loss was infinite or NaN",
                flush=True,
            )
        confusion = reduce(totals.confusion, reduce_op="sum").cpu().numpy()
        num_classes = self.classes.num_classes
        confusion = confusion.reshape(num_classes, num_classes)
        if group == "val" and not confusion[1:].any():  # background alone would score 1
            raise ValueError(
                f"the val masks hold no garment at the network's {self.config.data.image_size} px; "
                "expected garments that are not lost when photos are made that small. Raise "
                "data.image_size."
            )
        scores = scores_from_confusion(confusion)
        return {
            f"{group}/loss": loss / n_photos,
            f"{group}/dice_loss": dice / n_photos,
            f"{group}/focal_loss": focal / n_photos,
            f"{group}/mean_iou": float(scores.mean_iou),
            f"{group}/macro_f1": float(scores.macro_f1),
            f"{group}/pixel_accuracy": float(scores.pixel_accuracy),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; without weight decay it is Adam.

        The learning rate is set before each step by `callbacks.TrainingClock`.
        """
        train = self.config.train
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            trained,
            lr=train.learning_rate,
            betas=(0.9, train.adam_beta2),
            weight_decay=train.weight_decay,
            fused=True,
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Shorten the gradient to `gradient_clip_norm`, if any; skip a step that is not finite.

        Lightning's own form refuses a fused optimizer, which unscales float16's gradients after
        the clipping; here the limit is scaled instead. Nothing is read back from the device.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and not gradient_clip_val:
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if gradient_clip_val:
            limited = norm if scaler is None else norm / scaler.scale(torch.ones_like(norm))
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, limited)
        if scaler is None:
            # As a scaler does: the fused kernel leaves weights and moments alone where this is 1.
            optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader of the checkpoint needs, as plain values."""
        info = checkpoint_info(
            self.config.model_dump(), self.classes, self.data_info, self.normalization
        )
        checkpoint[CHECKPOINT_KEY] = info | {"history": self.history}
        if self._is_within_check:
            counted = self._totals["train"].state()
            checkpoint[CHECKPOINT_KEY]["within_check"] = {"photos": self._photos_seen()} | counted

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the run that is resumed, and within its check."""
        info = checkpoint[CHECKPOINT_KEY]
        self.history = [complete_row(row) for row in info["history"]]
        self._cut_short = info.get("within_check")
