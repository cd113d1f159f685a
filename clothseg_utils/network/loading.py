"""A trained network from a file, whatever form it has; torch is imported for a checkpoint only."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig
from clothseg_utils.core.text import printable
from clothseg_utils.prediction.onnx_model import OnnxSegmenter, is_onnx, load_onnx

if TYPE_CHECKING:
    from clothseg_utils.network.segmenter import Segmenter


def load(
    path: str | Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    inference: InferenceConfig = PLAIN_INFERENCE,
    batch_size: int | None = 1,
) -> Union["Segmenter", OnnxSegmenter]:
    """Read a trained network; nothing is downloaded, and no code of the file runs.

    Args:
        path: a checkpoint that training wrote, or an ONNX file that `export` made of one.
        device: "auto" takes CUDA where there is one.
        inference: test-time options; they belong to the use of a network, not to its training.
        batch_size: photos in one pass of `predict_batch` and `masks`, 1 or more; None takes 1 on a
            CPU and 8 elsewhere.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such file of this project, a broken one, or options that do not fit its
            input size.
    """
    if is_onnx(Path(path)):
        return load_onnx(path, device, inference, batch_size)
    try:
        from clothseg_utils.network.segmenter import load_segmenter
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{printable(Path(path))} is read as a checkpoint and {error.name} is not installed; "
            "expected an ONNX file, which `export` writes, or an environment with all packages."
        ) from None

    return load_segmenter(path, device, inference, batch_size)
