"""Fixtures that several test modules share."""

import os
from pathlib import Path

import matplotlib as mpl
import pytest

from clothseg_utils.runs import repo_root
from clothseg_utils.synthetic import synthesize

mpl.use("Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real photos and annotations; skips where there is none."""
    root = Path(os.environ.get("CLOTHSEG_REAL_DATA") or repo_root().parent / "shared" / "data")
    if not (root / "ccp").is_dir():
        pytest.skip("no real data: set CLOTHSEG_REAL_DATA to a folder with ccp/ and others")
    return root


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn dataset: 16 train and 8 val photos, seed 0. Read only."""
    root = tmp_path_factory.mktemp("data") / "synthetic"
    return synthesize(root, train=16, val=8, seed=0, workers=1, progress=False)
