"""Tests of `training.module`: what an epoch counts, and what a checkpoint keeps."""

import contextlib
import copy
import math
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from clothseg_utils.core.classes import class_table
from clothseg_utils.core.config import Config, profile_config, replace_fields
from clothseg_utils.data.coco import Category
from clothseg_utils.data.splits import load_split
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY
from clothseg_utils.network.unet import default_precision, normalize_images
from clothseg_utils.scores.metrics import confusion_matrix
from clothseg_utils.training import losses
from clothseg_utils.training import module as model_module
from clothseg_utils.training.loaders import SegmentationDataset
from clothseg_utils.training.module import ClothingSegmenter

pytestmark = [
    # The loaders here are lists of a few samples in the main process.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    # Lightning 2.6.6 asks torch 2.15 for a class that torch deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SMALL_ENCODER = "resnet18"  # has batch norm, which a Mix Transformer has not


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def classes():
    return class_table("supercategory", [Category(id=23, name="shoe", supercategory="head")])


def config_with(**fields) -> Config:
    return replace_fields(profile_config("smoke"), {"encoder_name": SMALL_ENCODER, **fields})


class PaintedNetwork(nn.Module):
    """Predicts the class that the photo's red channel names; "learns" one unused number."""

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.scale = scale

    def forward(self, images):
        red = images[:, 0] * 0.229 + 0.485  # back from ImageNet's mean and deviation
        class_ids = (red * 255).round().long()  # (N, H, W)
        one_hot = nn.functional.one_hot(class_ids, 13).permute(0, 3, 1, 2)
        return one_hot * self.scale + 0 * self.unused


def painted_sample(pred_mask, target):
    red = np.array(pred_mask, np.uint8)
    return {
        "image": torch.from_numpy(np.stack([red, red, red])),
        "mask": torch.from_numpy(np.array(target, np.uint8)),
    }


# Two batches, [A, B] and [C]; B is ignored throughout. Summed over both:
#   class 0: 4 target, 4 predicted, 3 hit -> IoU 3 / 5, F1 6 / 8
#   class 1: 1 target, 2 predicted, 1 hit -> IoU 1 / 2, F1 2 / 3
#   class 2: 2 target, 1 predicted, 1 hit -> IoU 1 / 2, F1 2 / 3
# Batch by batch the mean IoU would be (1/2 + 7/12) / 2 = 0.5417 instead.
SAMPLES = [
    painted_sample([[0, 1], [1, 1]], [[0, 0], [1, 255]]),
    painted_sample([[5, 5], [5, 5]], [[255, 255], [255, 255]]),
    painted_sample([[0, 2], [0, 0]], [[2, 2], [0, 0]]),
]


def fit(module, samples, *, epochs=1, batch_size=2, **trainer_options):
    loader = DataLoader(samples, batch_size=batch_size)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **trainer_options,
    )
    trainer.fit(module, loader, loader)
    return module


def painted_module(classes, scale=4.0):
    module = ClothingSegmenter(config_with(), classes, {})
    module.network = PaintedNetwork(scale)
    return module


def random_samples(count=4, side=32):
    rng = np.random.default_rng(0)
    return [
        {
            "image": torch.from_numpy(rng.integers(0, 256, (3, side, side), dtype=np.uint8)),
            "mask": torch.from_numpy(rng.integers(0, 13, (side, side), dtype=np.uint8)),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("group", ["train", "val"])
def test_epoch_scores_come_from_one_summed_confusion_matrix(classes, group):
    (row,) = fit(painted_module(classes), SAMPLES).history
    assert row[f"{group}/mean_iou"] == pytest.approx((3 / 5 + 1 / 2 + 1 / 2) / 3)
    assert row[f"{group}/macro_f1"] == pytest.approx((6 / 8 + 2 / 3 + 2 / 3) / 3)
    assert row[f"{group}/pixel_accuracy"] == pytest.approx(5 / 7)


def test_epoch_loss_is_the_mean_over_photos_not_over_batches(classes):
    module = painted_module(classes)
    (row,) = fit(module, SAMPLES).history
    batches = [SAMPLES[:2], SAMPLES[2:]]
    expected = np.zeros(3)
    for batch in batches:
        images = torch.stack([sample["image"] for sample in batch])
        masks = torch.stack([sample["mask"] for sample in batch])
        with torch.no_grad():
            parts = module.loss(module(images), masks)
        expected += np.array([float(part) for part in parts]) * len(batch) / 3
    got = [row[f"val/{name}"] for name in ("loss", "dice_loss", "focal_loss")]
    assert got == pytest.approx(expected.tolist())


def test_each_epoch_counts_anew(classes):
    first, second = fit(painted_module(classes), SAMPLES, epochs=2).history
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert (first["step"], second["step"]) == (2, 4)
    assert first["val/mean_iou"] == second["val/mean_iou"]
    assert first["train/loss"] == pytest.approx(second["train/loss"])


def test_check_images_counts_the_photos_since_the_former_check(classes):
    assert fit(painted_module(classes), SAMPLES, epochs=2).check_images == 3


def test_loss_that_is_not_a_number_stops_with_one_line(classes):
    with pytest.raises(
        ValueError, match=r"loss became infinite or NaN in 2 batches by step 2; .*learning_rate"
    ) as caught:
        fit(painted_module(classes, scale=float("nan")), SAMPLES)
    assert "\n" not in str(caught.value)


def test_val_masks_without_a_garment_stop_instead_of_scoring_1(classes):
    sample = painted_sample([[0, 0], [0, 0]], [[0, 0], [0, 255]])
    with pytest.raises(ValueError, match=r"no garment at the network's 64 px.*data\.image_size"):
        fit(painted_module(classes), [sample] * 2)


class FailingNetwork(PaintedNetwork):
    """In training, its logits are infinite in batches `fails`, counted from 0; weight 1 learns."""

    def __init__(self, fails):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.fails = fails
        self.batches = 0

    def forward(self, images):
        logits = super().forward(images) * self.weight
        if self.training:
            if self.batches in self.fails:
                logits = logits / 0.0
            self.batches += 1
        return logits


def scaled_float16():
    """As on CUDA: float16 and a GradScaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


@pytest.mark.parametrize("options", [{}, scaled_float16()], ids=["float32", "float16"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_one_infinite_batch_is_left_out_and_its_step_skipped(classes, capsys, options, clip):
    states = []

    class Watched(ClothingSegmenter):
        def on_train_batch_end(self, *args):
            state = self.optimizers().state[self.network.weight]
            values = self.network.weight, state["exp_avg"], state["exp_avg_sq"], state["step"]
            states.append([value.item() for value in values])

    module = Watched(config_with(gradient_clip_norm=clip), classes, {})
    module.network = FailingNetwork(fails={1})
    samples = [SAMPLES[0]] * 3
    fit(module, samples, batch_size=1, gradient_clip_val=clip or None, **options)
    assert states[0] == states[1]  # weights and moments
    assert states[1][0] != states[2][0]
    assert states[2][3] == 2
    assert "by step 3: 1 train batches left out" in capsys.readouterr().out
    (row,) = module.history
    clean = ClothingSegmenter(config_with(gradient_clip_norm=clip), classes, {})
    clean.network = FailingNetwork(fails=set())
    fit(clean, samples[:2], batch_size=1, gradient_clip_val=clip or None, **options)
    for name, value in clean.history[0].items():
        if name not in ("step", "epoch"):
            assert row[name] == pytest.approx(value, rel=1e-6), name
    assert module.check_images == 3


class FailingBeforeNorm(FailingNetwork):
    """What is infinite goes through a batch norm, which keeps statistics of it."""

    def __init__(self, fails):
        super().__init__(fails)
        self.norm = nn.BatchNorm2d(13)

    def forward(self, images):
        return self.norm(super().forward(images))


def test_one_infinite_batch_leaves_no_trace_in_batch_norm(classes):
    networks = []
    for fails, samples in (({1}, [SAMPLES[0]] * 3), (set(), [SAMPLES[0]] * 2)):
        module = painted_module(classes)
        module.network = FailingBeforeNorm(fails)
        fit(module, samples, batch_size=1)
        networks.append(module.network)
    for name in ("running_mean", "running_var"):
        after, clean = (getattr(network.norm, name) for network in networks)
        assert after.isfinite().all()
        torch.testing.assert_close(after, clean)


@pytest.mark.parametrize(
    ("fails", "ends"), [({1, 2, 3}, True), ({1, 2, 4, 5}, False), ({4, 5, 6}, True)]
)
def test_several_infinite_batches_in_a_row_end_the_run(classes, monkeypatch, fails, ends):
    """Six batches a check: a row may go over two checks."""
    monkeypatch.setattr(model_module, "_LOST_AFTER", 3)
    module = painted_module(classes)
    module.network = FailingNetwork(fails)
    if ends:
        with pytest.raises(ValueError, match="train loss became infinite or NaN in 3 batches"):
            fit(module, [SAMPLES[0]] * 6, batch_size=1, epochs=2)
    else:
        history = fit(module, [SAMPLES[0]] * 6, batch_size=1, epochs=2).history
        assert math.isfinite(history[0]["train/loss"])


class FailingInValidation(FailingNetwork):
    """Its logits are infinite in the first batch of validation alone."""

    def forward(self, images):
        logits = super().forward(images)
        self.shown = getattr(self, "shown", 0) + (not self.training)
        return logits if self.training or self.shown > 1 else logits / 0.0


@pytest.mark.parametrize(("n_photos", "ends"), [(10, False), (9, True)])
def test_a_check_without_a_tenth_of_its_photos_does_not_count(classes, capsys, n_photos, ends):
    module = painted_module(classes)
    module.network = FailingInValidation(fails=set())
    refused = pytest.raises(ValueError, match=r"the val loss .* in 1 batches by step 9")
    with refused if ends else contextlib.nullcontext():
        fit(module, [SAMPLES[0]] * n_photos, batch_size=1)
    assert ("1 val batches left out" in capsys.readouterr().out) == (not ends)
    assert len(module.history) == (not ends)


def test_pixels_are_counted_as_in_the_scores():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 6, 7, generator=generator)
    target = torch.randint(0, 5, (3, 6, 7), generator=generator)
    target[:, :2], target[0, 5] = 255, 5  # 5 is no class here
    expected = confusion_matrix(
        target.where(target < 5, 255).byte().numpy(), logits.argmax(1).byte().numpy(), 5
    )
    count = model_module._count_pairs
    for ids in (target, target.byte()):
        counted = count(logits, ids, torch.tensor(True))
        assert counted.reshape(5, 5).tolist() == expected.tolist()
    assert count(logits, target, torch.tensor(False)).sum() == 0


class NoWaiting(TorchDispatchMode):
    """Refuses what reads a tensor's values, or brings Python's values to it.

    On a GPU, each of these waits until all work so far is done. Sizes that hang on values are of
    the same kind.
    """

    REFUSED = frozenset(
        f"aten.{name}"
        for name in (
            "_local_scalar_dense",  # item(), float(), bool()
            "nonzero",
            "masked_select",
            "bincount",
            "_unique2",
            "unique_dim",
            "repeat_interleave",
            "lift_fresh",  # torch.tensor(...)
        )
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if str(func).startswith("aten.index.") else ()
        masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
        if masks or str(func).rpartition(".")[0] in self.REFUSED:
            raise AssertionError(f"{func} waits for a GPU")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0, 2.0]),
        lambda x: torch.bincount(x.long()),
        lambda x: bool((x > 0).any()),
    ],
)
def test_no_waiting_sees_what_waits(wait):
    with NoWaiting(), pytest.raises(AssertionError, match="waits for a GPU"):
        wait(torch.ones(3))


@pytest.mark.parametrize("options", [{}, scaled_float16()], ids=["float32", "float16"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_no_step_waits_for_the_device(classes, monkeypatch, options, clip):
    """Forward, loss, counting, backward, clipping and optimizer, as an accelerator runs them."""
    monkeypatch.setattr(losses, "_check_ids", lambda *_: None)  # on the CPU only
    monkeypatch.setattr(losses, "_BlockSums", losses._BatchSums)
    watched = contextlib.ExitStack()

    class Watch(pl.Callback):
        """From the second step, as what is made once may wait, to the start of the last."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 1:
                watched.enter_context(NoWaiting())
            if batch_idx == 3:
                watched.close()

    module = ClothingSegmenter(config_with(gradient_clip_norm=clip), classes, {})
    options = {"gradient_clip_val": clip or None, "callbacks": [Watch()], **options}
    with watched:
        fit(module, random_samples(8), **options)
    assert module.history[0]["step"] == 4


def test_frozen_encoder_stays_as_it_is(classes):
    module = ClothingSegmenter(config_with(freeze_encoder=True), classes, {})
    encoder_before = copy.deepcopy(module.network.encoder.state_dict())
    decoder_before = copy.deepcopy(module.network.decoder.state_dict())
    fit(module, random_samples(), epochs=2)  # two: validation in between switches modes
    encoder = module.network.encoder.state_dict()
    assert "bn1.running_mean" in encoder
    changed = [name for name in encoder if not torch.equal(encoder[name], encoder_before[name])]
    assert changed == []
    decoder = module.network.decoder.state_dict()
    assert any(not torch.equal(decoder[name], decoder_before[name]) for name in decoder)


def test_encoder_learns_unless_frozen(classes):
    module = ClothingSegmenter(config_with(), classes, {})
    before = copy.deepcopy(module.network.encoder.state_dict())
    fit(module, random_samples())
    after = module.network.encoder.state_dict()
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])


def test_optimizer_holds_what_is_trained_and_nothing_else(classes):
    config = config_with(freeze_encoder=True, weight_decay=0.25, learning_rate=0.125)
    module = ClothingSegmenter(config, classes, {})
    (group,) = module.configure_optimizers().param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.25)
    trained = [*module.network.decoder.parameters(), *module.network.segmentation_head.parameters()]
    assert {id(parameter) for parameter in group["params"]} == {id(p) for p in trained}


def test_forward_normalizes_uint8_photos(classes):
    module = ClothingSegmenter(config_with(), classes, {}).eval()
    images = torch.stack([sample["image"] for sample in random_samples(2)])
    with torch.no_grad():
        logits = module(images)
        expected = module.network(normalize_images(images))
    assert logits.shape == (2, 13, 32, 32)
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder_name", "expected"),
    [
        ("resnet18", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
        ("tu-tf_efficientnet_lite0", {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}),
    ],
)
def test_photos_are_normalised_as_the_encoder_was_trained(classes, encoder_name, expected):
    """In the forward pass, and for all that read the checkpoint."""
    module = ClothingSegmenter(config_with(encoder_name=encoder_name), classes, {}).eval()
    images = torch.stack([sample["image"] for sample in random_samples(2)])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in expected.values())
    with torch.no_grad():
        logits = module(images)
        plain = module.network((images / 255 - mean) / std)
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint[CHECKPOINT_KEY]["normalization"] == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own, of a machine without CUDA
def test_compiled_network_is_the_same_network(classes, monkeypatch):
    def small_network(*_):
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 13, 1))

    monkeypatch.setattr(model_module, "build_network", small_network)
    rows, states = [], []
    for compile_network in (False, True):
        torch.manual_seed(0)
        config = config_with(compile_network=compile_network)
        module = ClothingSegmenter(config, classes, {})
        fit(module, random_samples())
        assert (module.network._compiled_call_impl is not None) == compile_network
        rows.append(module.history[0])
        states.append(module.state_dict())
    assert list(states[0]) == list(states[1])
    for name in ("train/loss", "val/loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-3)


def plain_types(value) -> set[type]:
    if isinstance(value, dict):
        return set().union(*(plain_types(v) | plain_types(k) for k, v in value.items()))
    if isinstance(value, list):
        return set().union(*map(plain_types, value))
    return {type(value)}


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_checkpoint_loads_weights_only_and_keeps_plain_values(tiny_training, name):
    checkpoint = torch.load(tiny_training.run.checkpoints_dir / name, weights_only=True)
    info = checkpoint[CHECKPOINT_KEY]
    assert plain_types(info) <= {str, int, float, bool}
    assert Config.model_validate(info["config"]) == tiny_training.config
    assert tuple(info["class_names"]) == tiny_training.train_split.classes.names
    assert info["class_of_category"]["23"] == 4  # shoe -> legs and feet
    assert info["data"]["train_sha256"] == tiny_training.train_split.coco.sha256
    assert info["data"]["train_images"] == 8
    assert info["history"][0]["val/mean_iou"] == tiny_training.result.history[0]["val/mean_iou"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"precision": "32-true"}, {"precision": "bf16-mixed"}, scaled_float16()],
    ids=["float32", "bfloat16", "float16"],
)
def test_clipped_gradients_reach_a_fused_optimizer(classes, options):
    """Those of float16 are scaled when they are clipped; the step leaves them unscaled."""
    norms = []

    class Watched(ClothingSegmenter):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            assert optimizer.defaults["fused"]
            optimizer.register_step_post_hook(lambda *_: norms.append(self.gradient_norm()))
            return optimizer

        def gradient_norm(self):
            return nn.utils.get_total_norm([p.grad for p in self.parameters()]).item()

    module = Watched(config_with(gradient_clip_norm=1e-3), classes, {})
    fit(module, random_samples(), gradient_clip_val=1e-3, **options)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)
    assert len(norms) == 2  # four photos in batches of two


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(
    default_precision(torch.device("cpu")) is None, reason="this CPU does not compute in bf16"
)
def test_bf16_learns_as_fp32_does_within_the_noise_of_the_order(real_data, tmp_path):
    """Fifty steps on real photos: the last losses of bf16 lie among those of fp32 in any order."""
    config = config_with(
        data_root=str(real_data / "ccp"),
        derived_root=str(tmp_path),
        encoder_name="mit_b0",
        image_size=64,
        image_limit=40,
        mask_workers=1,
    )
    split = load_split(config.data, "train")
    dataset = SegmentationDataset(split, config.data)
    samples = [dataset[index] for index in range(len(dataset))]

    def last_losses(order_seed: int, dtype: torch.dtype) -> float:
        torch.manual_seed(0)
        module = ClothingSegmenter(config, split.classes, {}).train()
        module.to(memory_format=torch.channels_last)
        optimizer = module.configure_optimizers()
        order = torch.Generator().manual_seed(order_seed)
        losses = []
        for _ in range(50):
            chosen = torch.randperm(len(samples), generator=order)[:4].tolist()
            images = torch.stack([samples[index]["image"] for index in chosen])
            masks = torch.stack([samples[index]["mask"] for index in chosen])
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = module.loss(module(images), masks).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10])  # it does learn
        return sum(losses[-10:]) / 10

    reference = [last_losses(order_seed, torch.float32) for order_seed in range(2)]
    noise = max(reference) - min(reference)
    assert abs(last_losses(0, torch.bfloat16) - reference[0]) < max(noise, 0.05 * reference[0])
