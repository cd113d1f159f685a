"""Checkpoints that cannot be used are told apart, each in a line; old ones go on being read."""

import copy
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CodeTrap

from clothseg_utils.core.classes import class_table
from clothseg_utils.core.config import profile_config, replace_fields
from clothseg_utils.core.files import repo_root
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, FORMAT, checkpoint_info
from clothseg_utils.network.segmenter import load_segmenter
from clothseg_utils.network.transfer import read_weights
from clothseg_utils.network.unet import build_network

ENCODER = "mit_b0"
CONFIG = replace_fields(
    profile_config("smoke"), {"encoder_name": ENCODER, "encoder_weights": "none", "image_size": 32}
)
Checkpoint = dict[str, Any]


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    """What training stores, of a network that has learned nothing."""
    torch.manual_seed(0)
    network = build_network(ENCODER, "none", 13)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    info = checkpoint_info(CONFIG.model_dump(), class_table("supercategory", []), {})
    return {"state_dict": state, "epoch": 0, CHECKPOINT_KEY: info}


def put(name: str, value: Any) -> Callable[[Checkpoint], Any]:
    """Change an entry, named by keys with dots between; None removes it."""

    def change(checkpoint: Checkpoint) -> Checkpoint:
        *folders, last = name.split(".")
        place = checkpoint
        for folder in folders:
            place = place[folder]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return checkpoint

    return change


NO_WEIGHTS = r"has no usable state_dict; expected a checkpoint as training left it\. Take another"
FAULTS: dict[str, tuple[Callable[[Checkpoint], Any], str]] = {
    "a state dict alone": (lambda c: c["state_dict"], "is not a checkpoint of this project"),
    "a list": (lambda _: [1], "is not a checkpoint of this project"),
    "a tensor": (lambda _: torch.zeros(2), "is not a checkpoint of this project"),
    "a later version": (
        put("clothseg.format", FORMAT + 1),
        rf"of a later version of this project \(format {FORMAT + 1}\); .*Update the project",
    ),
    "another encoder": (
        put("clothseg.config.train.encoder_name", "resnet18"),
        r"weights that do not fit its own settings \(resnet18, 13 classes\)",
    ),
    "no encoder": (
        put("clothseg.config.train.encoder_name", "mit_b9"),
        r"best\.ckpt cannot be used: .*mit_b9",
    ),
    "another number of classes": (
        put("clothseg.class_names", ["background", "shirt"]),
        r"weights that do not fit its own settings \(mit_b0, 2 classes\)",
    ),
    "no weights": (put("state_dict", None), NO_WEIGHTS),
    "weights that are none": (put("state_dict", {"a": 1}), NO_WEIGHTS),
    "info that is none": (
        put("clothseg", "mit_b0"),
        r"clothseg: input should be a valid dictionary; expected",
    ),
    "no size": (
        put("clothseg.config.data.image_size", None),
        r"clothseg, config\.data\.image_size: field required; expected .*Take another",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_checkpoint_that_cannot_be_used_says_why(whole, tmp_path, cli, change, message):
    path, photo = tmp_path / "best.ckpt", tmp_path / "a.jpg"
    photo.write_bytes(b"never read")
    torch.save(change(copy.deepcopy(whole)), path)
    with pytest.raises(ValueError, match=message):
        load_segmenter(path)
    result = cli("predict", photo, "--checkpoint", path, "--out", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {path}")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("ending", [".ckpt", ".pt"])
def test_a_checkpoint_that_was_cut_off_says_so(whole, tmp_path, share, ending):
    path = tmp_path / f"best{ending}"
    torch.save(whole, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for read in (load_segmenter, starting_from):
        with pytest.raises(ValueError, match="cannot be read as a torch file") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def starting_from(path: Path) -> Any:
    return read_weights(replace_fields(CONFIG, {"init_from": str(path)}))


def reading_encoder(path: Path) -> Any:
    return build_network(ENCODER, str(path), 13)


@pytest.mark.parametrize("read", [load_segmenter, starting_from, reading_encoder])
@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(dump(trap))])
@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".safetensors"])
def test_no_file_of_weights_runs_code(tmp_path, read, write, ending):
    path, sign = tmp_path / f"weights{ending}", tmp_path / "code was run"
    write({CHECKPOINT_KEY: CodeTrap(sign), "state_dict": CodeTrap(sign)}, path)
    with pytest.raises(ValueError, match=r"more than weights|cannot be read as") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not sign.exists()
    pickle.loads(dump(CodeTrap(sign)))
    assert sign.exists(), "the trap does not work"


def dump(trap: Any) -> bytes:
    return pickle.dumps(trap, 2)


def test_torch_reads_weights_alone_wherever_it_reads():
    """`torch.load` and Lightning's `ckpt_path` run what a pickle holds, unless told otherwise."""
    folder = repo_root() / "clothseg_utils"
    calls = [
        (path.name, line.strip())
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(path" in line or "ckpt_path=" in line
    ]
    assert len(calls) == 2
    assert [call for call in calls if "weights_only=True" not in call[1]] == []


def unpack_old(folder: Path) -> Path:
    """A checkpoint of version 0.1.0; how it was made stands in tests/checkpoints/README.md."""
    path = folder / "best.ckpt"
    packed = repo_root() / "tests" / "checkpoints" / "version-0.1.0.ckpt.xz"
    assert packed.stat().st_size < 100_000
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def test_a_checkpoint_of_version_0_1_0_is_read(tmp_path):
    segmenter = load_segmenter(unpack_old(tmp_path), "cpu")
    assert (segmenter.image_size, segmenter.resize) == (32, "letterbox")
    assert segmenter.class_names[:3] == ("background", "closures", "upperbody")
    assert len(segmenter.class_names) == 13
    state = segmenter.network.state_dict()
    # Every tensor was filled with one number: its place among the names, sorted.
    floats = sorted(name for name, value in state.items() if value.is_floating_point())
    wrong = [name for i, name in enumerate(floats) if not (state[name] == (i + 1) / 1024).all()]
    assert wrong == []
    mask = segmenter.mask(np.zeros((20, 30, 3), np.uint8))
    assert mask.shape == (20, 30)
    assert len(np.unique(mask)) == 1


def test_training_may_begin_with_a_checkpoint_of_version_0_1_0(tmp_path):
    stored = starting_from(unpack_old(tmp_path))
    assert stored.info["config"]["train"]["encoder_name"] == ENCODER
