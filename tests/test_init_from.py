"""Training that begins with the weights of a file: whatever names it keeps them under."""

import argparse
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import timm
import torch
from conftest import CodeTrap
from safetensors.torch import save_file

from clothseg_utils.core.config import Config, replace_fields
from clothseg_utils.core.files import read_json, sha256_file
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, read_checkpoint
from clothseg_utils.network.transfer import (
    check_weights,
    read_weights,
    starting_normalization,
    take_weights,
)
from clothseg_utils.network.unet import build_network, set_prior_bias
from clothseg_utils.prediction.geometry import IMAGENET, Normalization
from clothseg_utils.training.train import train

ENCODER = "tu-mobilenetv3_small_050"  # few weights, quick to write
CLASSES = ("background", "shirt", "shoe")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain() -> smp.Unet:
    """A network as segmentation-models-pytorch makes it, of three classes."""
    torch.manual_seed(1)
    return smp.Unet(ENCODER, encoder_weights=None, classes=3)


def settings(path: Path, encoder_name: str = ENCODER) -> Config:
    return replace_fields(Config(), {"init_from": str(path), "encoder_name": encoder_name})


def take(path, encoder_name=ENCODER, class_names=CLASSES):
    """A new network, what it took over, and what it was before."""
    network = build_network(encoder_name, "none", len(class_names))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = read_weights(settings(path, encoder_name))
    return network, take_weights(network, stored, encoder_name, class_names), before


def equal(state, other, part=""):
    names = [name for name in other if name.startswith(part)]
    assert names
    return all(torch.equal(state[name], other[name]) for name in names)


def begin_with(words, state):
    return {f"{words}{name}": value for name, value in state.items()}


def plus_one(state):
    return {name: value + 1 for name, value in state.items()}


def encoder_of(state):
    return {name: value for name, value in state.items() if name.startswith("encoder.")}


WRAPPED = {
    "a state dict": lambda state: state,
    "under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "under model_state_dict": lambda state: {"epoch": 3, "model_state_dict": state},
    "under model, then ema": lambda state: {
        "model": state,
        "ema": plus_one(state),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1.0}]},
    },
    "two dicts deep": lambda state: {"nets": {"segmenter": state}},
    "Lightning, model.": lambda state: {
        "state_dict": begin_with("model.", state) | {"loss.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 0.1, "names": ["a"]},
        "callbacks": {"best": {"score": torch.tensor(0.5)}},
    },
    "net.": lambda state: begin_with("net.", state),
    "any.words.of.one's.own.": lambda state: begin_with("any.words.of.one's.own.", state),
    "DataParallel": lambda state: begin_with("module.", state),
    "compiled": lambda state: begin_with("_orig_mod.", state),
    "compiled inside": lambda state: {
        name.replace("encoder.", "encoder._orig_mod."): value for name, value in state.items()
    },
    "student and teacher": lambda state: (
        begin_with("student.", state) | begin_with("teacher.", plus_one(state))
    ),
    "teacher between": lambda state: (  # its decoder comes first
        begin_with("student.", encoder_of(state))
        | begin_with("teacher.", plus_one(state))
        | begin_with("student.", state)
    ),
    "with a classifier": lambda state: state | {"classification_head.3.bias": torch.ones(4)},
    "half precision": lambda state: {
        name: value.half().to(value.dtype) for name, value in state.items()
    },
}


@pytest.mark.parametrize("form", WRAPPED)
def test_whole_networks_are_found_in_every_wrapping(plain, tmp_path, form):
    torch.save(WRAPPED[form](plain.state_dict()), tmp_path / "net.pt")
    network, taken, _ = take(tmp_path / "net.pt")
    expected = WRAPPED["half precision" if form.startswith("half") else "a state dict"]
    assert equal(network.state_dict(), expected(plain.state_dict()))
    assert taken.kept_classes.all()
    assert "\n" not in taken.note


def test_what_is_left_and_what_else_was_there_is_said(plain, tmp_path):
    forms = ("Lightning, model.", "student and teacher")
    for form in forms:
        torch.save(WRAPPED[form](plain.state_dict()), tmp_path / f"{form}.pt")
    lightning, pair = (take(tmp_path / f"{form}.pt")[1].note for form in forms)
    assert "found under state_dict.model." in lightning
    assert "not taken: state_dict.loss.weight" in lightning
    assert "as much lies under teacher." in pair


def test_safetensors_are_read(plain, tmp_path):
    state = {name: value.contiguous() for name, value in plain.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    assert equal(take(tmp_path / "model.safetensors")[0].state_dict(), state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read as safetensors"):
        take(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("encoder_name", ["mit_b0", "mobilenet_v2", "tu-test_convnext"])
def test_names_of_every_kind_of_encoder_are_those_of_smp(tmp_path, encoder_name):
    """Ours replace modules of decoder, attention and depthwise convolutions."""
    given = smp.Unet(encoder_name, encoder_weights=None, classes=3)
    torch.save(given.state_dict(), tmp_path / "net.pt")
    network, taken, _ = take(tmp_path / "net.pt", encoder_name)
    assert equal(network.state_dict(), given.state_dict())
    assert "not taken" not in taken.note


@pytest.mark.parametrize(
    ("encoder_name", "given"),
    [
        ("mobilenet_v2", lambda: smp.Unet("mobilenet_v2", encoder_weights=None).encoder),
        ("tu-test_convnext", lambda: smp.Unet("tu-test_convnext", encoder_weights=None).encoder),
        ("tu-test_convnext", lambda: timm.create_model("test_convnext")),  # stages.0 for stages_0
        (ENCODER, lambda: timm.create_model("mobilenetv3_small_050")),  # with its classifier
    ],
)
def test_bare_encoder_is_taken_and_the_rest_is_new(tmp_path, encoder_name, given):
    torch.save(given().state_dict(), tmp_path / "encoder.pt")
    network, taken, before = take(tmp_path / "encoder.pt", encoder_name)
    state, theirs = network.state_dict(), torch.load(tmp_path / "encoder.pt", weights_only=True)
    ours = [value for name, value in state.items() if name.startswith("encoder.")]
    # In the same order; a classifier comes last.
    assert all(map(torch.equal, ours, theirs.values()))
    assert equal(state, before, "decoder.")
    assert equal(state, before, "segmentation_head.")
    assert not taken.kept_classes.any()
    assert "decoder new, head new" in taken.note


def own_checkpoint(path, state, class_names, encoder_name=ENCODER, **info):
    """A checkpoint as training leaves it, as far as another training reads it."""
    train_settings = {"encoder_name": encoder_name, "encoder_weights": "imagenet"}
    config = {"train": train_settings, "data": {"image_size": 64, "resize": "squash"}}
    config["data"]["scheme"] = "supercategory"
    about = {"config": config, "class_names": [*class_names], "data": {}}
    torch.save({"state_dict": begin_with("network.", state), CHECKPOINT_KEY: about | info}, path)
    return path


HEAD = "segmentation_head.0."


@pytest.mark.parametrize(
    ("now", "kept", "told"),
    [
        (CLASSES, {0: 0, 1: 1, 2: 2}, "head whole"),
        (("background", "shoe", "hat", "shirt"), {0: 0, 1: 2, 3: 1}, "(background; shoe; shirt)"),
        (("background", "dress"), {0: 0}, "new ones of dress"),
        (("nothing", "dress", "hat"), {}, "(none)"),  # as many classes, but others
    ],
)
def test_classes_of_equal_name_keep_their_rows_of_the_head(plain, tmp_path, now, kept, told):
    path = own_checkpoint(tmp_path / "best.ckpt", plain.state_dict(), CLASSES)
    network, taken, before = take(path, class_names=now)
    state, theirs = network.state_dict(), plain.state_dict()
    assert equal(state, theirs, "encoder.")
    assert equal(state, theirs, "decoder.")
    assert [*np.flatnonzero(taken.kept_classes)] == [*kept]
    for row in range(len(now)):
        for name in (f"{HEAD}weight", f"{HEAD}bias"):
            expected = theirs[name][kept[row]] if row in kept else before[name][row]
            assert torch.equal(state[name][row], expected), (row, name)
    assert told in taken.note


def test_head_of_a_file_without_names_is_taken_where_it_has_as_many_classes(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "net.pt")
    assert "its 3 are taken for ours, in order" in take(tmp_path / "net.pt")[1].note
    network, taken, before = take(tmp_path / "net.pt", class_names=["background", "shirt"])
    assert equal(network.state_dict(), before, HEAD)
    assert "head new (3 classes there, without names)" in taken.note


def test_prior_bias_leaves_rows_that_were_taken(plain, tmp_path):
    path = own_checkpoint(tmp_path / "best.ckpt", plain.state_dict(), CLASSES)
    network, taken, before = take(path, class_names=("background", "dress", "shoe"))
    set_prior_bias(network, np.array([0.7, 0.2, 0.1]), taken.kept_classes)
    head, theirs = network.segmentation_head[0], plain.segmentation_head[0]
    assert torch.equal(head.weight[[0, 2]], theirs.weight[[0, 2]])
    assert torch.equal(head.bias[[0, 2]], theirs.bias[[0, 2]])
    assert torch.sigmoid(head.bias[1]).item() == pytest.approx(0.2)
    torch.testing.assert_close(head.weight[1], before[f"{HEAD}weight"][1] * 0.1)


def test_decoder_of_another_width_is_named_and_new(tmp_path):
    widths = {"decoder_channels": (64, 32, 16, 16, 16)}
    given = smp.Unet(ENCODER, encoder_weights=None, classes=3, **widths)
    torch.save(given.state_dict(), tmp_path / "net.pt")
    network, taken, before = take(tmp_path / "net.pt")
    assert equal(network.state_dict(), given.state_dict(), "encoder.")
    assert equal(network.state_dict(), before, HEAD)  # it would read what its decoder never said
    shapes = r"decoder\.blocks\.0\.conv1\.0\.weight \(64, \d+, 3, 3\) instead of \(256, \d+, 3, 3\)"
    assert re.search(f"misshapes {shapes} and", taken.note)


# --- what is refused -----------------------------------------------------------------------------


def changed(state, **entries):
    return state | {name.replace("__", "."): value for name, value in entries.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda state: {}, "holds a dict without named tensors; expected a checkpoint"),
        (lambda state: torch.zeros(3), "holds a Tensor without named tensors"),
        (lambda state: {"epoch": 3}, "without named tensors"),
        (
            lambda state: {"features.0.weight": torch.zeros(3)},
            r"has 0 of the \d+ entries of encoder tu-mobilenetv3_small_050; .*it lacks "
            r"encoder\.model\.conv_stem\.weight and \d+ more; has features\.0\.weight\. Set",
        ),
        (
            lambda state: {n: v for n, v in state.items() if "conv_stem" not in n},
            r"it lacks encoder\.model\.conv_stem\.weight\. Set train\.encoder_name",
        ),
        (
            lambda state: state | {"encoder.model.conv_stem.weight": torch.zeros(16, 4, 3, 3)},
            r"misshapes encoder\.model\.conv_stem\.weight \(16, 4, 3, 3\) instead of "
            r"\(16, 3, 3, 3\)\.",
        ),
        (  # a network of more layers: its first ones alone would mean nothing
            lambda state: state | {"encoder.model.blocks.9.0.conv.weight": torch.zeros(1)},
            r"it has encoder\.model\.blocks\.9\.0\.conv\.weight\.",
        ),
        (
            lambda state: state | {"encoder.model.bn1.weight": torch.full((16,), torch.nan)},
            r"infinite or NaN in encoder\.model\.bn1\.weight; .* Take an earlier checkpoint",
        ),
        (
            lambda state: {"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1)},
            r"reading it would run argparse\.Namespace; .* torch\.save its state dict alone",
        ),
    ],
)
def test_file_that_does_not_fit_is_refused_in_one_line(plain, tmp_path, content, message):
    path = tmp_path / "net.pt"
    torch.save(content(plain.state_dict()), path)
    with pytest.raises(ValueError, match=message) as caught:
        take(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_encoder_names_both(plain, tmp_path):
    path = own_checkpoint(tmp_path / "best.ckpt", plain.state_dict(), CLASSES)
    with pytest.raises(ValueError, match=f"has the encoder {ENCODER} .* is mobilenet_v2; .* Set"):
        take(path, "mobilenet_v2")


def test_tag_of_the_first_weights_makes_no_other_encoder(plain, tmp_path):
    path = own_checkpoint(
        tmp_path / "best.ckpt", plain.state_dict(), CLASSES, f"{ENCODER}.lamb_in1k"
    )
    assert equal(take(path)[0].state_dict(), plain.state_dict())


def test_code_in_a_file_is_not_run(tmp_path):
    sign = tmp_path / "code was run"
    torch.save({"state_dict": CodeTrap(sign)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="holds more than weights: reading it would run"):
        take(tmp_path / "net.pt")
    assert not sign.exists()


# --- in a training -------------------------------------------------------------------------------


class Begun(Exception):
    """Training would begin here: what comes before is what is tested."""


@pytest.fixture
def begin(monkeypatch, tiny_training, tmp_path):
    """Bring a training to its first step; give its module."""
    modules = []

    def fit(trainer, module, **options):
        modules.append(module)
        raise Begun

    monkeypatch.setattr(pl.Trainer, "fit", fit)

    def call(**fields):
        config = replace_fields(
            tiny_training.config, {"outputs_root": str(tmp_path / "out")} | fields
        )
        run = RunFolder(config.run.outputs_root, config.run.run_name)
        with pytest.raises(Begun):
            train(config, tiny_training.train_split, tiny_training.val_split, run)
        return modules[-1]

    return call


def test_training_begins_with_a_checkpoint_and_says_so(begin, tiny_training, capsys):
    best = tiny_training.run.best_checkpoint
    # Other weights of the encoder are not even looked for.
    module = begin(init_from=str(best), encoder_weights="nowhere.pth", prior_bias=True)
    theirs = {
        name.removeprefix("network."): value
        for name, value in read_checkpoint(best)["state_dict"].items()
    }
    assert equal(module.network.state_dict(), theirs)
    assert module.data_info["init_from"] == sha256_file(best)
    assert module.data_info["weights"].startswith(f"{best}: encoder whole")
    out = capsys.readouterr().out
    assert f"network starts from weights: {best}: encoder whole" in out
    assert "licence: none (they began at random)" in out  # it began with random weights


def test_normalization_stays_with_the_weights(begin, tiny_training, tmp_path):
    checkpoint = read_checkpoint(tiny_training.run.best_checkpoint)
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    checkpoint[CHECKPOINT_KEY]["normalization"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    torch.save(checkpoint, tmp_path / "own.ckpt")
    torch.save(checkpoint["state_dict"], tmp_path / "foreign.pt")
    for name, expected in (("own.ckpt", halves), ("foreign.pt", IMAGENET)):
        module = begin(init_from=str(tmp_path / name))
        assert module.normalization == expected
        assert starting_normalization(module.config) == expected


def test_licence_goes_from_checkpoint_to_checkpoint(plain, tmp_path):
    def license_of(**info):
        path = own_checkpoint(tmp_path / "a.ckpt", plain.state_dict(), CLASSES, **info)
        return read_weights(settings(path)).license

    assert license_of() == "apache-2.0"  # of the encoder's weights on ImageNet
    assert license_of(data={"license": "of before"}) == "of before"
    torch.save(plain.state_dict(), tmp_path / "net.pt")
    assert read_weights(settings(tmp_path / "net.pt")).license == "unknown"


def test_a_run_does_not_begin_with_what_it_would_replace(tiny_training):
    """A rerun would find its own result there, and begin with it once more."""
    run, config = tiny_training.run, tiny_training.config
    changed = replace_fields(config, {"init_from": str(run.best_checkpoint)})
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ValueError, match=r'checkpoint of run "tiny" itself, .* another --run'):
        train(changed, tiny_training.train_split, tiny_training.val_split, run)
    with pytest.raises(ValueError, match='checkpoint of run "tiny" itself'):
        check_weights(changed)
    assert sorted(run.path.rglob("*")) == before


def test_weights_are_tried_before_any_work(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "net.pt")
    check_weights(Config())
    check_weights(settings(tmp_path / "net.pt"))
    with pytest.raises(ValueError, match="has 0 of the"):
        check_weights(settings(tmp_path / "net.pt", "mobilenet_v2"))


@pytest.mark.slow
def test_training_that_began_with_a_file_goes_on_and_names_it(tiny_training, tmp_path, capsys):
    best = tiny_training.run.best_checkpoint
    start = tmp_path / "start.ckpt"
    shutil.copy(best, start)
    fields = {"outputs_root": str(tmp_path), "init_from": str(start)}
    config = replace_fields(tiny_training.config, fields)
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    splits = tiny_training.train_split, tiny_training.val_split
    # The second resume finds what the first one wrote.
    for n_epochs, given in ((1, str(start)), (2, ""), (3, "")):
        longer = replace_fields(config, {"max_epochs": n_epochs, "init_from": given})
        assert train(longer, *splits, run, resume_only=n_epochs > 1).epochs == n_epochs
        start.unlink(missing_ok=True)
        told = read_json(run.training_path)
        assert told["init_from"] == {"file": str(start), "sha256": sha256_file(best)}
        assert told["encoder"]["weights"].startswith(f"{start}: encoder whole")
    capsys.readouterr()
    other = replace_fields(config, {"init_from": str(best), "max_epochs": 3})
    assert train(other, *splits, run, resume_only=True).epochs == 3
    assert capsys.readouterr().out == "already trained with these settings\n"
