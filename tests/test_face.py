"""The face of the package: what `import clothseg_utils as cs` offers, and what it costs."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest

import clothseg_utils as cs
from clothseg_utils.core.files import repo_root
from clothseg_utils.data.masks import write_mask
from clothseg_utils.data.photos import write_image


def test_every_name_is_there_and_says_what_it_does():
    for name in cs.__all__:
        assert getattr(cs, name).__doc__, name
    assert set(cs.__all__) <= set(dir(cs))


def test_type_checkers_see_the_same_names():
    tree = ast.parse((repo_root() / "clothseg_utils" / "__init__.py").read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("clothseg_utils.")
        for node in block.body
        for alias in node.names
    }
    assert homes == cs._HOMES
    assert sorted(homes) == sorted(cs.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'segment'"):
        _ = cs.segment


def test_torch_waits_for_the_first_checkpoint():
    code = (
        "import sys\n"
        "import clothseg_utils as cs\n"
        "assert len([m for m in sys.modules if m.startswith('clothseg_utils')]) == 1\n"
        "free = set(cs.__all__) - {'Segmenter'}\n"
        "for name in free: getattr(cs, name)\n"
        "assert 'torch' not in sys.modules\n"
        "cs.Segmenter\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo_root(), check=True, timeout=120)


def test_readme_from_photo_to_mask_to_score(tiny_network, tmp_path, monkeypatch):
    """The lines under "From Python" run as they stand."""
    section = (repo_root() / "README.md").read_text(encoding="utf-8").split("## From Python")[1]
    blocks = re.findall(r"^(?: {4}.*\n|\n)+", section.split("\n## ")[0], re.M)
    code = "".join(re.sub(r"^ {4}", "", block, flags=re.M) for block in blocks)
    assert "cs.load(" in code
    assert "scores_from_confusion" in code
    checkpoint = tmp_path / "outputs" / "demo" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(tiny_network.path)
    photo = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    write_image(tmp_path / "me.png", photo)
    (tmp_path / "me.png").rename(tmp_path / "me.jpg")  # told by its content; PNG keeps the pixels
    write_mask(tmp_path / "truth.png", tiny_network.mask(photo))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert np.array_equal(names["mask"], tiny_network.mask(photo))
    assert names["picture"].shape == photo.shape
    assert names["scores"].mean_iou == 1
