"""Tests of `prediction.onnx_model`: predicts as the network does, without torch."""

import dataclasses
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import onnx
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clothseg_utils as cs
from clothseg_utils.core.config import InferenceConfig
from clothseg_utils.core.files import repo_root
from clothseg_utils.data.photos import write_image
from clothseg_utils.network.export import export_model
from clothseg_utils.network.segmenter import LogitsOfPhoto, Segmenter
from clothseg_utils.prediction.model_card import CARD_KEY, read_card
from clothseg_utils.prediction.onnx_model import ArrayOfPhoto, OnnxSegmenter, load_onnx


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def onnx_path(tiny_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_model(tiny_network, "onnx", path)
    return path


@pytest.fixture
def model(onnx_path):
    return load_onnx(onnx_path)


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr("clothseg_utils.network.segmenter.default_precision", lambda device: None)


# --- from logits to a mask, as PyTorch does it ---


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (16, 24), (100, 61), (40, 300)])
def test_logits_become_what_torch_makes_of_them(size):
    logits = np.random.default_rng(1).normal(0, 4, (1, 5, 16, 24)).astype(np.float32)
    ours, theirs = ArrayOfPhoto(logits, *size), LogitsOfPhoto(torch.from_numpy(logits), *size)
    assert ours.mask().dtype == np.uint8
    assert np.count_nonzero(ours.mask() != theirs.mask()) <= size[0] * size[1] // 2000
    assert ours.probabilities().dtype == np.float16
    assert np.allclose(ours.probabilities(), theirs.probabilities(), atol=2e-3)
    assert ours.confidence().dtype == np.float32
    assert np.allclose(ours.confidence(), theirs.confidence(), atol=1e-4)


def test_of_equal_logits_the_lower_id_wins():
    logits = np.array([[[[0, 2, 1]], [[0, 2, 3]], [[0, 1, 3]]]], np.float32)
    assert ArrayOfPhoto(logits, 1, 3).mask().tolist() == [[0, 0, 1]]


def test_logits_stay_as_they_are():
    logits = np.random.default_rng(1).normal(0, 4, (1, 5, 8, 8)).astype(np.float32)
    before = logits.copy()
    prediction = ArrayOfPhoto(logits, 8, 8)
    prediction.mask(), prediction.probabilities(), prediction.confidence()
    assert np.array_equal(logits, before)


# --- the whole model beside the checkpoint ---

OPTIONS = [
    {},
    {"tta_flip": True},
    {"tta_scales": "2,3"},
    {"window_px": 48, "tta_flip": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(9, 70), (101, 64)])
def test_predicts_as_the_checkpoint_does(tiny_network, model, in_float32, options, size):
    inference = InferenceConfig(**options)
    ours = dataclasses.replace(model, inference=inference)
    theirs = dataclasses.replace(tiny_network, inference=inference)
    photo = noise(*size)
    logits = theirs.logits(photo).numpy()
    assert ours.logits(photo).shape == logits.shape
    assert np.allclose(ours.logits(photo), logits, atol=2e-3)
    assert np.count_nonzero(ours.mask(photo) != theirs.mask(photo)) <= photo.size // 3000


def test_says_what_the_checkpoint_says(tiny_network, model):
    assert model.class_names == tiny_network.class_names
    assert np.array_equal(model.colors, tiny_network.colors)
    assert (model.image_size, model.resize) == (tiny_network.image_size, tiny_network.resize)
    public = {name for name in dir(Segmenter) if not name.startswith("_")}
    of_torch = {"network", "device", "info", "normalization", "scheme"}
    assert public - of_torch <= set(dir(model))


def test_the_face_takes_either(tiny_network, onnx_path, in_float32):
    photos = [noise(40, 30), noise(21, 50, seed=1), noise(40, 30, seed=2)]
    models = [cs.load(path, batch_size=2) for path in (tiny_network.path, onnx_path)]
    assert [type(model) for model in models] == [Segmenter, OnnxSegmenter]
    for model in models:
        masks = model.masks(photos)
        assert [np.array_equal(m, model.mask(p)) for m, p in zip(masks, photos, strict=True)] == [
            True
        ] * 3
        expected = cs.overlay(photos[0], masks[0], model.colors)
        assert np.array_equal(model.overlay(photos[0]), expected)
    assert models[1].masks([]) == []


def test_a_photo_does_not_depend_on_its_batch(onnx_path):
    model = load_onnx(onnx_path, batch_size=3)
    photos = [noise(40, 30), noise(21, 50, seed=1), noise(64, 64, seed=2)]
    together = [p.logits for p in model.predict_batch(photos)]
    assert all(
        np.array_equal(model.predict(p).logits, one)
        for p, one in zip(photos, together, strict=True)
    )


def test_threads_are_ours_and_do_not_spin(onnx_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    options = load_onnx(onnx_path).session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("clothseg_utils.prediction.onnx_model.usable_cores", lambda: 1)
    assert load_onnx(onnx_path).session.get_session_options().intra_op_num_threads == 1


# Finds the packages named in argv alone; then come the model and the verb's arguments.
WITHOUT_TORCH = """
import sys
from importlib.metadata import packages_distributions

packages = {"clothseg-utils", *sys.argv.pop(1).split()}
owners = {
    module: {name.lower().replace("_", "-") for name in names}
    for module, names in packages_distributions().items()
}

class Installed:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if owners.get(name.partition(".")[0], packages) & packages:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Installed, sys.meta_path)
import clothseg_utils as cs
model, photo = sys.argv[1:3]
mask = cs.load(model).mask(cs.read_photo(photo))
cs.load(model).overlay(cs.read_photo(photo))
from clothseg_utils.__main__ import main
sys.argv = ["__main__.py", "predict", "--checkpoint", model, *sys.argv[2:]]
code = main()
assert (mask == cs.read_mask(sys.argv[-1] + "/a.png", num_classes=13)).all()
print("imported:", *{owner for name in sys.modules for owner in owners.get(name, ())})
sys.exit(code)
"""


def with_all_they_require(names: Iterable[str]) -> set[str]:
    """Packages, and those that pip installs with them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            wanted = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_predicts_without_torch(onnx_path, tmp_path):
    """All of `requirements-onnx.txt` is imported, and nothing that it does not install."""
    lines = (repo_root() / "requirements-onnx.txt").read_text().splitlines()[1:]
    named = {Requirement(line).name for line in lines}
    packages = with_all_they_require(named)
    assert "torch" not in packages
    write_image(tmp_path / "a.png", noise(50, 40))
    out = tmp_path / "out"
    arguments = [tmp_path / "a.png", "--json", "--probabilities", "--out", out]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, " ".join(packages), onnx_path, *arguments],
        cwd=repo_root(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert "1 of 1 photos are done" in process.stdout
    (imported,) = re.findall("imported: (.*)", process.stdout)
    assert named - set(imported.split()) == set()
    assert {p.name for p in out.iterdir()} >= {"a.png", "a_color.png", "a_overlay.jpg", "a.json"}


# --- what is refused, each in one line ---


def test_content_decides_before_the_suffix(tiny_network, onnx_path, tmp_path):
    shutil.copy(tiny_network.path, tmp_path / "zip.onnx")
    shutil.copy(onnx_path, tmp_path / "model.ckpt")
    assert isinstance(cs.load(tmp_path / "zip.onnx"), Segmenter)
    assert isinstance(cs.load(tmp_path / "model.ckpt"), OnnxSegmenter)


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_truncated_file(onnx_path, tmp_path, kept):
    path = tmp_path / "cut.onnx"
    path.write_bytes(onnx_path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"cut\.onnx (cannot be read as ONNX|is no model)"
    ) as error:
        cs.load(path)
    assert "\n" not in str(error.value)


def graph_of_one_addition(initializer: onnx.TensorProto) -> onnx.ModelProto:
    value = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [initializer])
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_another_projects_model(tmp_path):
    weights = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    onnx.save(graph_of_one_addition(weights), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is no model of this project"):
        cs.load(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    "tag", [b"\x0a\x08location", b"\x0a\x88\x00location"], ids=["usual", "odd"]
)
def test_other_files_are_not_followed(tmp_path, monkeypatch, tag):
    """In the odd form of the same field our check sees nothing, and the runtime refuses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    weights = onnx.TensorProto(
        name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL
    )
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    model = graph_of_one_addition(weights)
    onnx.helper.set_model_props(model, {CARD_KEY: "{}"})
    content = model.SerializeToString()
    if b"\x88" in tag:
        # One byte more, and so it is in the three messages around the field.
        content = _with_longer_field(model, tag)
    path = tmp_path / "outside.onnx"
    path.write_bytes(content)
    assert tag in content
    with pytest.raises(ValueError, match=r"outside\.onnx (keeps its weights in|cannot be read)"):
        cs.load(path)


def _with_longer_field(model: onnx.ModelProto, tag: bytes) -> bytes:
    """Serialise with the location's key of a length in two bytes, all lengths around it right."""
    entry = tag + b"\x12\x0asecret.bin"
    tensor = b"\x08\x04" + b"\x10\x01" + b"\x42\x01w" + b"\x70\x01"
    tensor += b"\x6a" + bytes([len(entry)]) + entry
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    inner = graph.SerializeToString() + b"\x2a" + bytes([len(tensor)]) + tensor
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    assert len(inner) < 256
    return outer.SerializeToString() + b"\x3a" + bytes([len(inner) % 128 + 128, 1]) + inner


def with_card(onnx_path, path, change) -> None:
    model = onnx.load(onnx_path)
    card = json.loads({e.key: e.value for e in model.metadata_props}[CARD_KEY])
    onnx.helper.set_model_props(model, {CARD_KEY: json.dumps(change(card))})
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: {k: v for k, v in card.items() if k != "id2label"}, "it lacks 'id2label'"),
        (lambda card: card | {"image_size": 50}, "image_size 50 is no multiple of 32"),
        (lambda card: card | {"resize": "crop"}, "resize crop or scheme"),
        (lambda card: card | {"id2label": {"0": "a", "1": "b"}}, "it names 2 classes, the graph"),
        (lambda card: card | {"id2label": {"0": "a", "2": "b"}}, "it lacks 1"),
        (lambda card: [], "it is no card"),
    ],
)
def test_a_card_that_does_not_fit(onnx_path, tmp_path, change, message):
    with_card(onnx_path, tmp_path / "changed.onnx", change)
    with pytest.raises(ValueError, match=rf"changed\.onnx says of itself.*{message}"):
        cs.load(tmp_path / "changed.onnx")


def test_a_card_is_read_as_it_was_written(model):
    assert read_card(model.card.to_json()) == model.card


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.onnx"):
        cs.load(tmp_path / "gone.onnx")


def test_no_onnxruntime(cli, onnx_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    write_image(tmp_path / "a.png", noise(5, 4))
    out = ("--out", tmp_path / "out")
    result = cli("predict", "--checkpoint", onnx_path, *out, tmp_path / "a.png")
    assert result.code == 2
    assert "onnxruntime is not installed; install it:" in result.err
    assert result.err.count("\n") == 1


def test_no_cuda_where_the_runtime_has_none(onnx_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(ValueError, match="the installed ONNX Runtime has none"):
        load_onnx(onnx_path, "cuda")


def test_scales_that_do_not_fit_are_refused_at_once(onnx_path):
    with pytest.raises(ValueError, match="come to the same input size"):
        cs.load(onnx_path, inference=InferenceConfig(tta_scales="1.1"))
