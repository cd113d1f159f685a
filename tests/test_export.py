"""Tests of `network.export`: every format opened by its own library, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import clothseg_utils
from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_colors
from clothseg_utils.core.files import repo_root
from clothseg_utils.data.photos import read_photo, write_image
from clothseg_utils.network import export
from clothseg_utils.network.export import SUFFIXES, TORCHSCRIPT_CARD, export_model
from clothseg_utils.network.loading import load
from clothseg_utils.network.segmenter import Segmenter, load_segmenter
from clothseg_utils.network.unet import build_network, normalize_images
from clothseg_utils.prediction.model_card import CARD_KEY, ModelCard, read_card


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def exact_logits(segmenter: Segmenter, images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) of the network itself, in float32."""
    batch = normalize_images(torch.from_numpy(images).permute(0, 3, 1, 2), segmenter.normalization)
    with torch.inference_mode():
        return segmenter.network(batch).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def onnx_path(tiny_network, folder):
    path = folder / "tiny.onnx"
    assert export_model(tiny_network, "onnx", path) == folder / "tiny.json"
    return path


SIZES = [(1, 32, 32), (3, 64, 96), (2, 160, 32)]  # (N, H, W)


@pytest.mark.parametrize("size", SIZES)
def test_plain_onnxruntime_gives_the_networks_logits(tiny_network, onnx_path, size):
    session = onnxruntime.InferenceSession(onnx_path)
    images = noise(*size, 3)
    (logits,) = session.run(None, {"images": images})
    expected = exact_logits(tiny_network, images)
    assert logits.shape == (size[0], 13, *size[1:])
    assert logits.dtype == np.float32
    assert np.allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_the_page_runs_as_it_stands(onnx_path, tmp_path, monkeypatch):
    """The lines under "Without this package", of docs/export.md, on a photo that is a square."""
    page = (repo_root() / "docs" / "export.md").read_text(encoding="utf-8")
    section = page.split("## Without this package")[1].split("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    shutil.copy(onnx_path, tmp_path / "best.onnx")
    photo = noise(96, 96, 3)
    write_image(tmp_path / "me.png", photo)
    (tmp_path / "me.png").rename(tmp_path / "me.jpg")  # told by its content; PNG keeps the pixels
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "export.md", "exec"), names)
    expected = load(onnx_path).mask(photo)
    assert np.array_equal(names["mask"], expected)
    assert names["found"] == {SUPERCATEGORY_NAMES[n] for n in np.unique(expected)}


def test_a_photo_alone_gives_what_it_gives_in_a_batch(onnx_path):
    session = onnxruntime.InferenceSession(onnx_path)
    images = noise(3, 32, 64, 3)
    (together,) = session.run(None, {"images": images})
    (alone,) = session.run(None, {"images": images[1:2]})
    assert np.allclose(together[1:2], alone, atol=1e-5)


def test_the_onnx_file_is_valid_whole_and_says_what_it_is(tiny_network, onnx_path):
    model = onnx.load(onnx_path)
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", "height", "width", 3]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    beside = onnx_path.with_suffix(".json").read_text("utf-8")
    assert metadata[CARD_KEY] == beside
    card = json.loads(beside)
    assert card["id2label"] == {str(n): name for n, name in enumerate(SUPERCATEGORY_NAMES)}
    assert card["label2id"] == {name: n for n, name in enumerate(SUPERCATEGORY_NAMES)}
    assert card["colors"] == class_colors(13).tolist()
    expected = {
        "image_size": 32,
        "resize": "letterbox",
        "scheme": "supercategory",
        "encoder_name": "mit_b0",
        "encoder_weights": "random",
        "encoder_license": "none (they began at random)",
        "clothseg_version": clothseg_utils.__version__,
        "image_mean": list(tiny_network.normalization.mean),
    }
    assert {key: card[key] for key in expected} == expected
    assert metadata["encoder_name"] == "mit_b0"
    assert str(onnx_path.parent).encode() not in onnx_path.read_bytes()


def test_torchscript(tiny_network, folder):
    path = folder / "script.pt"
    export_model(tiny_network, "torchscript", path)
    extra = {TORCHSCRIPT_CARD: ""}
    with pytest.warns(FutureWarning, match="deprecated"):
        script = torch.jit.load(path, _extra_files=extra)
    assert extra[TORCHSCRIPT_CARD].decode() == path.with_suffix(".json").read_text("utf-8")
    for n, height, width in SIZES:
        images = noise(n, height, width, 3)
        with torch.inference_mode():
            logits = script(torch.from_numpy(images)).numpy()
        expected = exact_logits(tiny_network, images)
        assert np.allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_safetensors_fit_the_network_they_name(tiny_network, folder):
    path = folder / "weights.safetensors"
    export_model(tiny_network, "safetensors", path)
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()[CARD_KEY])
    assert card == json.loads(path.with_suffix(".json").read_text("utf-8"))
    network = build_network(card["encoder_name"], "none", card["num_labels"]).eval()
    network.load_state_dict(safetensors.torch.load_file(path))
    own = tiny_network.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


def test_the_segmenter_stays_as_it_is(tiny_network, folder):
    photo = noise(40, 30, 3)
    before = tiny_network.logits(photo)
    export_model(tiny_network, "safetensors", folder / "again.safetensors")
    assert torch.equal(tiny_network.logits(photo), before)


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_that_differs_does_not_stay(tiny_network, tmp_path, monkeypatch, format):
    write = getattr(export, f"_write_{format}")

    def write_another(model, text, path):
        with torch.no_grad():
            head = model.network.segmentation_head[0]
            head.bias.add_(1)
            write(model, text, path)
            head.bias.sub_(1)

    monkeypatch.setattr(export, f"_write_{format}", write_another)
    with pytest.raises(ValueError, match=r"does not hold encoder mit_b0.*logits differ by"):
        export_model(tiny_network, format, tmp_path / f"a{SUFFIXES[format]}")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_one_size_is_refused(tiny_network, tmp_path, monkeypatch):
    """Recording a run must not freeze the size that was recorded."""

    class OfOneSize(export._Exported):
        def forward(self, images):
            height, width = (int(n) for n in images.shape[1:3])
            return super().forward(images).reshape(-1, 13, height, width)

    monkeypatch.setattr(export, "_Exported", OfOneSize)
    with pytest.raises(ValueError, match="does not hold encoder mit_b0: on 1 images of 32 x 32 it"):
        export_model(tiny_network, "torchscript", tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pt", r"a\.pt for format onnx; expected a file whose name ends in \.onnx"),
        ("folder.onnx", "expected a file whose name ends in"),
        ("other.onnx", r"other\.json is there and no export wrote it"),
        ("mine.onnx", r"mine\.onnx is there and no export wrote it"),
    ],
)
def test_names_that_are_refused(tiny_network, tmp_path, name, message):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "other.json").write_text('{"mine": 1}')
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    with pytest.raises((ValueError, FileExistsError), match=message):
        export_model(tiny_network, "onnx", tmp_path / name)
    assert (tmp_path / "other.json").read_text() == '{"mine": 1}'
    assert (tmp_path / "mine.onnx").read_bytes() == b"mine"


def test_the_checkpoint_itself_is_never_replaced(cli, tiny_network, tmp_path):
    checkpoint = Path(shutil.copy(tiny_network.path, tmp_path / "model.pt"))
    assert cli("export", "--checkpoint", checkpoint).code == 0  # model.onnx, and its JSON
    before = checkpoint.read_bytes()
    result = cli("export", "--checkpoint", checkpoint, "--format", "torchscript")
    assert result.code == 2
    assert "model.pt is there and no export wrote it" in result.err
    assert checkpoint.read_bytes() == before


def test_a_missing_package_is_one_line(cli, tiny_network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = cli("export", "--checkpoint", tiny_network.path, "--out", tmp_path / "a.onnx")
    assert (result.code, result.out) == (2, "")
    assert "onnx is not installed; install them:" in result.err
    assert result.err.count("\n") == 1


def test_the_verb_writes_beside_the_checkpoint(cli, tiny_network, tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(Path(tiny_network.path).read_bytes())
    result = cli("export", "--checkpoint", checkpoint, "--format", "safetensors")
    assert (result.code, result.err) == (0, "")
    assert sorted(p.name for p in tmp_path.glob("best*")) == [
        "best.ckpt",
        "best.json",
        "best.safetensors",
    ]
    assert "best.safetensors" in result.out


def test_an_exported_model_is_no_checkpoint(cli, onnx_path, tmp_path):
    result = cli("export", "--checkpoint", onnx_path, "--out", tmp_path / "b.onnx")
    assert result.code == 2
    assert "is an ONNX model, with which `predict` alone works" in result.err


@pytest.mark.slow
def test_eight_bits(cli, tiny_network, synthetic_root, tmp_path, monkeypatch):
    photos = shutil.copytree(synthetic_root / "test", tmp_path / "photos")
    (photos / "broken.jpg").write_text("no photo")
    arguments = ("export", "--checkpoint", tiny_network.path, "--int8", photos)
    path = tmp_path / "small.onnx"
    # Of a network that is hardly trained many classes are nearly as likely as another.
    monkeypatch.setattr("clothseg_utils.network.quantize._MOST_DIFFERING", 1)
    result = cli(*arguments, "--out", path)
    assert (result.code, result.err) == (0, "")
    assert f"left out: photo {photos / 'broken.jpg'} cannot be decoded" in result.out
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert load(path).card == json_card(path)
    photo = noise(40, 30, 3)
    pair = load(path).logits(photo).ravel(), tiny_network.logits(photo).numpy().ravel()
    assert np.corrcoef(*pair)[0, 1] > 0.98
    monkeypatch.setattr("clothseg_utils.network.quantize._MOST_DIFFERING", -1)
    result = cli(*arguments, "--out", tmp_path / "refused.onnx")
    assert result.code == 2
    assert "of the pixels of 8 photos get another class" in result.err
    assert list(tmp_path.glob("*refused*")) == []


def json_card(path: Path) -> ModelCard:
    return read_card(path.with_suffix(".json").read_text("utf-8"))


def test_eight_bits_need_photos_and_onnx(cli, tiny_network, tmp_path):
    (tmp_path / "none").mkdir()
    arguments = ("export", "--checkpoint", tiny_network.path, "--int8", tmp_path / "none")
    result = cli(*arguments, "--out", tmp_path / "a.onnx")
    assert (result.code, "none holds no photo; expected some" in result.err) == (2, True)
    (tmp_path / "none" / "a.jpg").write_text("no photo")
    result = cli(*arguments, "--out", tmp_path / "a.onnx")
    assert (result.code, "none of the 1 photos taken from" in result.err) == (2, True)
    assert "a.jpg cannot be decoded" in result.err
    result = cli(*arguments, "--format", "torchscript", "--out", tmp_path / "a.pt")
    assert (result.code, "--int8 with format torchscript" in result.err) == (2, True)


def with_encoder(tiny_network: Segmenter, encoder_name: str) -> Segmenter:
    """The tiny network's settings around another encoder, of random weights."""
    torch.manual_seed(0)
    train = {**tiny_network.info["config"]["train"], "encoder_name": encoder_name}
    info = {**tiny_network.info, "config": {**tiny_network.info["config"], "train": train}}
    network = build_network(encoder_name, "none", 13).eval()
    return Segmenter(tiny_network.path, network, tiny_network.class_names, 64, "letterbox", info)


@pytest.mark.slow
@pytest.mark.parametrize("encoder_name", ["tu-tf_efficientnet_lite0", "resnet18"])
def test_other_encoders(tiny_network, tmp_path, encoder_name):
    """What is written was compared at three sizes; here at one more."""
    segmenter = with_encoder(tiny_network, encoder_name)
    export_model(segmenter, "onnx", tmp_path / "a.onnx")
    images = noise(2, 96, 160, 3)
    (logits,) = load(tmp_path / "a.onnx").session.run(None, {"images": images})
    expected = exact_logits(segmenter, images)
    assert np.allclose(logits, expected, atol=1e-3 * np.abs(expected).max())


def differing_share(onnx_path: Path, segmenter: Segmenter, photos: list[Path]) -> float:
    model = load(onnx_path)
    pairs = [(model.mask(p), segmenter.mask(p)) for p in map(read_photo, photos)]
    return sum(np.count_nonzero(a != b) for a, b in pairs) / sum(a.size for a, _ in pairs)


@pytest.mark.real
def test_masks_of_real_photos(tiny_network, onnx_path, real_data, monkeypatch):
    monkeypatch.setattr("clothseg_utils.network.segmenter.default_precision", lambda device: None)
    photos = [*sorted((real_data / "photos").glob("*.jpg"))[:6]]
    photos += sorted((real_data / "ccp" / "test").glob("*.jpg"))[:6]
    assert differing_share(onnx_path, tiny_network, photos) <= 1e-3


@pytest.mark.real
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_of_real_photos_against_cuda(tiny_network, onnx_path, real_data, monkeypatch):
    monkeypatch.setattr("clothseg_utils.network.segmenter.default_precision", lambda device: None)
    photos = sorted((real_data / "photos").glob("*.jpg"))[:6]
    on_gpu = load_segmenter(tiny_network.path, "cuda")
    assert differing_share(onnx_path, on_gpu, photos) <= 1e-3
