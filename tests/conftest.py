"""Fixtures that several test modules share."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import pytest

from clothseg_utils.__main__ import main
from clothseg_utils.core import files, reach
from clothseg_utils.core.config import Config, profile_config, replace_fields
from clothseg_utils.core.files import repo_root
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.drawing.dataset import synthesize

if TYPE_CHECKING:
    from clothseg_utils.data.splits import SplitData
    from clothseg_utils.network.segmenter import Segmenter
    from clothseg_utils.training.train import TrainResult

mpl.use("Agg")

NOT_COUNTED = (
    *("boundaries", "calibration", "class_calibration", "pairs"),
    *("composite_members", "composite_groups", "composite_confusions", "composite_alone"),
    *("framing_confusions", "framing_whole"),
)
"""Arrays of an Evaluation that a test of other scores leaves empty."""


OVERRULE_MODES = 0b110  # the capabilities dac_override and dac_read_search
CAPABILITY_VERSION = 0x20080522


class CodeTrap:
    """An object whose unpickling runs code: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def closed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called "closed" in `tmp_path` may not be listed."""
    scandir = os.scandir

    def refuse(folder: str | Path | int) -> object:  # an open one has a number
        if not isinstance(folder, int) and Path(folder) == tmp_path / "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)


def obey_modes() -> None:
    """Let the modes of files hold for this thread and what it starts, even if it is root's."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of two words each
    assert libc.capget(header, sets) == 0
    sets[0] &= ~OVERRULE_MODES
    sets[1] &= ~OVERRULE_MODES
    assert libc.capset(header, sets) == 0


@pytest.fixture
def unprivileged() -> Iterator[Callable[..., Any]]:
    """Does something in a thread for which the modes of files hold."""
    if sys.platform != "linux":
        pytest.skip("capabilities are Linux's")
    with ThreadPoolExecutor(1, initializer=obey_modes) as pool:
        yield lambda action, *arguments: pool.submit(action, *arguments).result()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real photos and annotations; skips where there is none."""
    root = Path(os.environ.get("CLOTHSEG_REAL_DATA") or repo_root().parent / "shared" / "data")
    if not (root / "ccp").is_dir():
        pytest.skip("no real data: set CLOTHSEG_REAL_DATA to a folder with ccp/ and others")
    return root


@pytest.fixture
def code_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources to edit; keys and trainings are compared with it."""
    copy = tmp_path / "code" / "clothseg_utils"
    shutil.copytree(repo_root() / "clothseg_utils", copy)
    monkeypatch.setattr(reach, "_PACKAGE_DIR", copy)
    return copy


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn dataset: 16 train and 8 val photos, seed 0. Read only."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    return synthesize(root, train=16, val=8, seed=0, workers=1)


@pytest.fixture(scope="session")
def tiny_config(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Profile smoke on the drawn dataset, smaller still, with outputs and masks in a tmp folder."""
    root = tmp_path_factory.mktemp("tiny")
    return replace_fields(
        profile_config("smoke"),
        {
            "run_name": "tiny",
            "outputs_root": str(root / "outputs"),
            "data_root": str(synthetic_root),
            "derived_root": str(root / "derived"),
            "prior_bias": False,  # so few steps would leave nothing but background
            "image_size": 32,
            "resize": "letterbox",
            "image_limit": 8,
            "mask_workers": 1,
        },
    )


@pytest.fixture
def val_root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A writable copy that holds the val split only, as for evaluation alone."""
    root = tmp_path / "val_only"
    shutil.copytree(synthetic_root / "test", root / "test")
    shutil.copy(synthetic_root / "instances_attributes_val2020.json", root)
    return root


@dataclass(frozen=True)
class TinyTraining:
    """A finished training of two epochs. Read only."""

    config: Config
    train_split: "SplitData"
    val_split: "SplitData"
    run: RunFolder
    result: "TrainResult"


@pytest.fixture(scope="session")
def tiny_training(tiny_config: Config) -> TinyTraining:
    """Train mit_b0 on 8 photos at 32 px; the scores mean nothing."""
    # Imported here: most test modules need neither torch nor Lightning.
    import torch

    from clothseg_utils.data.splits import load_split
    from clothseg_utils.training.train import train

    torch.set_num_threads(1)
    train_split = load_split(tiny_config.data, "train")
    val_split = load_split(tiny_config.data, "val")
    run = RunFolder(tiny_config.run.outputs_root, tiny_config.run.run_name)
    result = train(tiny_config, train_split, val_split, run)
    return TinyTraining(tiny_config, train_split, val_split, run, result)


@pytest.fixture(scope="session")
def tiny_network(tiny_training: TinyTraining) -> "Segmenter":
    """The network of `tiny_training`, as `predict` and `evaluate` load it."""
    from clothseg_utils.network.segmenter import load_segmenter

    return load_segmenter(tiny_training.run.best_checkpoint)


class CliResult(NamedTuple):
    """What a command left: exit code, and the text on stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., CliResult]:
    """Run a command line in this process, in a scratch folder that stands for the repository."""
    (tmp_path / "repo").mkdir()
    monkeypatch.setattr(files, "repo_root", lambda: tmp_path / "repo")

    def call(*arguments: str | Path, program: str = "__main__.py") -> CliResult:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capsys.readouterr()  # what came before is not this command's
        code = main()
        return CliResult(code, *capsys.readouterr())

    # What a command printed that ended in an exception, such as SystemExit.
    call.read = lambda: CliResult(-1, *capsys.readouterr())
    return call
