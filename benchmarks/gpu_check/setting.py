"""Sizes of the check, and the pieces of the product that it takes: all such names are here."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from benchmarks.harness import ROOT
from benchmarks.loss import SmpLoss
from benchmarks.training_step import ENCODER, IMAGE_SIZE, NUM_CLASSES
from clothseg_utils.core.classes import IGNORE_INDEX, class_table
from clothseg_utils.core.config import Config, Profile, profile_config, replace_fields
from clothseg_utils.core.workers import usable_cores
from clothseg_utils.network.decoder import DecoderForm, use_decoder_form
from clothseg_utils.network.unet import normalize_images
from clothseg_utils.training.devices import freeze_unused
from clothseg_utils.training.losses import DiceFocalLoss, LossParts
from clothseg_utils.training.module import ClothingSegmenter, _EpochTotals


@dataclass(frozen=True)
class Setting:
    """Where the check works and at what size.

    Attributes:
        out: folder of what is kept.
        work: folder of what is not: data, runs.
        asked_small: the small size was asked for.
    """

    out: Path
    work: Path
    asked_small: bool

    @functools.cached_property
    def device(self) -> torch.device:
        """The GPU, where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def is_small(self) -> bool:
        """Whether to take seconds, with figures that mean nothing: without a GPU always."""
        return self.asked_small or not self.on_gpu

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return "mit_b0" if self.is_small else ENCODER

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        return 64 if self.is_small else IMAGE_SIZE

    @property
    def batch_size(self) -> int:
        """That of profile reported."""
        return 2 if self.is_small else 32

    @property
    def workers(self) -> tuple[int, ...]:
        """Numbers of loader processes to try, the one to train with last."""
        return (1,) if self.is_small else tuple(sorted({8, max(1, min(14, usable_cores() - 2))}))

    @property
    def data_root(self) -> Path:
        """Drawn photos, made by part 1."""
        return self.work / "data"

    @property
    def real_root(self) -> Path:
        """Real photos, repeated; part 1 makes it where there are some."""
        return self.work / "real"

    def config(self, profile: Profile = "reported", **fields: Any) -> Config:
        """Settings of a run in the folder of work, with random weights."""
        own = {
            "data_root": str(self.data_root),
            "derived_root": str(self.work / "derived"),
            "outputs_root": str(self.work / "outputs"),
            "encoder_name": self.encoder,
            "encoder_weights": "none",
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "num_workers": self.workers[-1],
            "checks_per_epoch": 1,  # the photos are too few for more
        }
        return replace_fields(profile_config(profile), own | fields)

    def need_data(self) -> None:
        """Refuse to go on without the drawn photos.

        Raises:
            FileNotFoundError: there are none.
        """
        if not self.data_root.is_dir():
            raise FileNotFoundError("there are no photos: part 1 did not end well")

    def batch(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Random photos and patches of classes on the device, as the loader gives them."""
        generator = torch.Generator().manual_seed(0)
        side = self.image_size
        images = torch.randint(256, (batch_size, 3, side, side), generator=generator)
        patches = torch.randint(
            NUM_CLASSES, (batch_size, side // 32, side // 32), generator=generator
        )
        mask = patches.repeat_interleave(32, 1).repeat_interleave(32, 2)
        mask[:, : side // 32] = IGNORE_INDEX
        return {"image": images.byte().to(self.device), "mask": mask.byte().to(self.device)}


def our_module(config: Config) -> ClothingSegmenter:
    """The product's network, loss and optimizer, as `train` builds them."""
    torch.manual_seed(0)
    module = ClothingSegmenter(config, class_table("supercategory", ()), {})
    freeze_unused(module.network)
    return module.to(memory_format=torch.channels_last)


def use_form(network: Any, form: DecoderForm) -> None:
    """Choose how the decoder of the product's network computes."""
    use_decoder_form(network, form)


def our_loss() -> DiceFocalLoss:
    """The product's loss in smp's form, half and half."""
    return DiceFocalLoss()


def plain_network(encoder: str) -> Any:
    """The library's own network."""
    torch.manual_seed(0)
    return smp.Unet(encoder, encoder_weights=None, classes=NUM_CLASSES)


def plain_loss() -> nn.Module:
    """The library's own losses; they take an int64 target."""
    return SmpLoss()


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Photos as an encoder takes them."""
    return normalize_images(images)


def counted_confusion(parts: LossParts, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(C, C) counts as a training step makes them, on the logits' device."""
    num_classes = logits.shape[1]
    totals = _EpochTotals(num_classes, logits.device)
    totals.add(parts, logits, target)
    return totals.confusion.reshape(num_classes, num_classes)


def start_product(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start a verb of the command line; stdout and stderr come in one pipe, line by line.

    Args:
        words: the verb and its options.
        environment: variables to set.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "clothseg_utils", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def training_words(setting: Setting, run_name: str, **fields: Any) -> list[str | Path]:
    """Verb `train` of profile reported, as a user types it."""
    config = setting.config(**fields)
    sections = config.model_dump()
    changed = {"outputs_root": "run", "derived_root": "data", "image_size": "data"}
    changed |= dict.fromkeys(
        ("encoder_name", "encoder_weights", "batch_size", "num_workers"), "train"
    )
    changed |= dict.fromkeys(("checks_per_epoch", *fields), "train")
    words: list[str | Path] = ["train", "--profile", "reported", "--run-name", run_name]
    words += ["--data-root", setting.data_root]
    words += [] if setting.on_gpu else ["--on-cpu"]
    for name, section in changed.items():
        words += ["--set", f"{section}.{name}={sections[section][name]}"]
    return words
