"""A checkpoint as a file for other programs: ONNX, TorchScript, or bare weights.

Written by PyTorch's exporter that records a run. The newer one, which reads the code, takes 10 to
30 times as long, needs more packages, and does not come to an end with EfficientNet-Lite.
"""

import copy
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import clothseg_utils
from clothseg_utils.core.files import atomic_path, write_text
from clothseg_utils.core.text import printable
from clothseg_utils.network.decoder import use_decoder_form
from clothseg_utils.network.encoders import encoder_card
from clothseg_utils.network.segmenter import Segmenter
from clothseg_utils.network.unet import build_network, normalize_images
from clothseg_utils.prediction.geometry import Normalization
from clothseg_utils.prediction.model_card import CARD_KEY, SIZE_MULTIPLE, ModelCard
from clothseg_utils.prediction.onnx_model import load_onnx

Format = Literal["onnx", "torchscript", "safetensors"]

SUFFIXES: Mapping[Format, str] = {
    "onnx": ".onnx",
    "torchscript": ".pt",
    "safetensors": ".safetensors",
}
"""What the names of exported files end with."""

TORCHSCRIPT_CARD = f"{CARD_KEY}.json"
"""Extra file of a TorchScript archive that holds the card."""

_OPSET = 18
_MOST_DIFFERENCE = 1e-3  # of the largest logit; float32 in another order differs by 1e-5


def export_model(segmenter: Segmenter, format: Format, out: str | Path) -> Path:
    """Write a network as a file of another format, and `<stem>.json` beside it.

    ONNX and TorchScript take (N, H, W, 3) uint8 RGB, 0..255, H and W multiples of 32, normalise
    themselves, and give (N, C, H, W) float32 logits. safetensors hold the weights alone, under the
    names of `network.unet.build_network`. All hold the class table, the input and the licence of
    the encoder's weights in their metadata; the JSON holds the same text.

    The file is read back, and its logits are compared with the network's, before it gets its name.

    Args:
        segmenter: from `segmenter.load_segmenter`; it stays as it is.
        format: "onnx", "torchscript" or "safetensors".
        out: file to write; its suffix is that of `SUFFIXES`.

    Returns:
        The JSON's path.

    Raises:
        ValueError: another suffix, a package that is not installed, an encoder that the format
            cannot hold, or an exported model that computes something else.
        OSError: a JSON of that name is there that no export wrote.
    """
    out = Path(out)
    check_out(format, out, segmenter.path)
    card = _card(segmenter)
    text = card.to_json()
    network = copy.deepcopy(segmenter.network).float().cpu().eval()
    use_decoder_form(network, "plain")  # ONNX Runtime is slower with transposed convolutions
    model = _Exported(network, segmenter.normalization).eval()
    write, read_back = {
        "onnx": (_write_onnx, _read_onnx),
        "torchscript": (_write_torchscript, _read_torchscript),
        "safetensors": (_write_safetensors, _read_safetensors),
    }[format]
    with atomic_path(out) as temporary:
        write(model, text, temporary)
        _check_equal(model, read_back(temporary, segmenter), card, format)
        write_text(out.with_suffix(".json"), text)
    return out.with_suffix(".json")


def check_out(format: Format, out: Path, checkpoint: Path) -> None:
    """Refuse a name that does not fit the format, a missing package, or to replace another's file.

    Raises:
        ValueError, OSError: as for `export_model`.
    """
    if format not in get_args(Format):
        raise ValueError(f'unknown format "{format}"; expected {", ".join(get_args(Format))}.')
    if out.suffix != SUFFIXES[format] or out.is_dir():
        raise ValueError(
            f"--out {printable(out)} for format {format}; expected a file whose name ends in "
            f"{SUFFIXES[format]}, such as {printable(out.with_suffix(SUFFIXES[format]))}."
        )
    beside = out.with_suffix(".json")
    is_ours = beside.is_file() and "clothseg_version" in beside.read_text("utf-8", errors="replace")
    for path in (out, beside):
        is_source = path.exists() and checkpoint.exists() and path.samefile(checkpoint)
        if path.exists() and (is_source or not is_ours):
            raise FileExistsError(
                f"{printable(path)} is there and no export wrote it; it would be replaced. Choose "
                "another --out, or move it."
            )
    if format == "onnx":
        for package in ("onnx", "onnxruntime"):
            try:
                importlib.import_module(package)
            except ImportError:
                raise ValueError(
                    f"format onnx needs the packages onnx and onnxruntime, and {package} is not "
                    f"installed; install them: {sys.executable} -m pip install onnx onnxruntime"
                ) from None


def _card(segmenter: Segmenter) -> ModelCard:
    train = segmenter.info["config"]["train"]
    # Checkpoints from before they recorded it say what the settings would start from today.
    known = encoder_card(train["encoder_name"], train["encoder_weights"])
    recorded = segmenter.info["data"]
    return ModelCard(
        class_names=segmenter.class_names,
        image_size=segmenter.image_size,
        resize=segmenter.resize,
        scheme=segmenter.scheme,
        normalization=segmenter.normalization,
        encoder_name=train["encoder_name"],
        encoder_weights=recorded.get("weights", known["weights"]),
        encoder_license=recorded.get("license", known["license"]),
        version=clothseg_utils.__version__,
    )


class _Exported(nn.Module):
    """The network with its normalisation: (N, H, W, 3) uint8 RGB to (N, C, H, W) logits."""

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values).mul(255).view(1, 3, 1, 1) for values in normalization)
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = images.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
        return self.network(values * self.scale + self.shift)


def _example(height: int, width: int, n: int = 1) -> torch.Tensor:
    """Soft blobs of colour, (n, height, width, 3) uint8: nearer to photos than noise is."""
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (n, height // 8, width // 8, 3), np.uint8)
    large = [cv2.resize(blob, (width, height), interpolation=cv2.INTER_CUBIC) for blob in blobs]
    return torch.from_numpy(np.stack(large))


def _write_onnx(model: _Exported, text: str, path: Path) -> None:
    import onnx

    sizes = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        torch.onnx.export(
            model,
            (_example(64, 96, n=2),),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch", 1: "height", 2: "width"}, "logits": sizes},
        )
    proto = onnx.load(path)
    card = json.loads(text)
    # Each of the card's values by itself too, for programs that list a model's metadata.
    onnx.helper.set_model_props(
        proto,
        {CARD_KEY: text} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in card.items()},
    )
    proto.doc_string = "Clothing segmentation: " + card["input"] + "; " + card["output"]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _read_onnx(path: Path, segmenter: Segmenter) -> Callable[[torch.Tensor], torch.Tensor]:
    session = load_onnx(path, "cpu").session
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torchscript(model: _Exported, text: str, path: Path) -> None:
    with _quiet():
        traced = torch.jit.trace(model, (_example(64, 96, n=2),), check_trace=False)
        # Given a path, torch says what the disk refuses in words of its own.
        with path.open("wb") as file:
            torch.jit.save(traced, file, _extra_files={TORCHSCRIPT_CARD: text})


def _read_torchscript(path: Path, segmenter: Segmenter) -> Callable[[torch.Tensor], torch.Tensor]:
    with _quiet():
        return torch.jit.load(str(path))


def _write_safetensors(model: _Exported, text: str, path: Path) -> None:
    # Weights trained in channels_last lie in that order, which this format does not keep.
    state = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    metadata = {"format": "pt", CARD_KEY: text}
    path.write_bytes(safetensors.torch.save(state, metadata))  # save_file's is for its owner only


def _read_safetensors(path: Path, segmenter: Segmenter) -> Callable[[torch.Tensor], torch.Tensor]:
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    encoder_name = segmenter.info["config"]["train"]["encoder_name"]
    network = build_network(encoder_name, "none", len(segmenter.class_names)).eval()
    network.load_state_dict(state)
    return lambda images: network(
        normalize_images(images.permute(0, 3, 1, 2), segmenter.normalization)
    )


def _check_equal(
    model: nn.Module,
    exported: Callable[[torch.Tensor], torch.Tensor],
    card: ModelCard,
    format: Format,
) -> None:
    """Run both on inputs of other batches and sizes than were recorded.

    Raises:
        ValueError: they differ.
    """
    side = card.image_size
    for n, height, width in ((1, side, side), (3, side + SIZE_MULTIPLE, SIZE_MULTIPLE)):
        images = _example(height, width, n)
        fault = ""
        with torch.inference_mode():
            expected = model(images)
            try:
                found = exported(images)
            except Exception as error:  # each format's runtime has types of its own
                fault = " ".join(f"it fails with {type(error).__name__}: {error}".split())[:200]
            else:
                if found.shape != expected.shape:
                    fault = f"it gives {tuple(found.shape)}, not {tuple(expected.shape)}"
                else:
                    most = float((found - expected).abs().max() / expected.abs().max())
                    if not most <= _MOST_DIFFERENCE:  # NaN too
                        fault = f"its logits differ by {most:.1e} of the largest"
        if fault:
            raise ValueError(
                f"format {format} does not hold encoder {card.encoder_name}: on {n} images of "
                f"{height} x {width} {fault}; expected the network's own logits. Nothing was "
                "written; choose another format or encoder."
            )


class _quiet(warnings.catch_warnings):
    """Hold back what recording a run says: that it is the older way, and of values it keeps.

    That nothing is kept which depends on the image is what `_check_equal` finds out.
    """

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore")
        return result
