"""An exported model at work on photos of any size, by ONNX Runtime and without torch."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig, Resize
from clothseg_utils.core.text import printable
from clothseg_utils.core.workers import usable_cores
from clothseg_utils.prediction.geometry import content_box, fit_image
from clothseg_utils.prediction.looks import LEAST_PROBABILITY
from clothseg_utils.prediction.model import PhotoModel
from clothseg_utils.prediction.model_card import CARD_KEY, ModelCard, read_card

_RUNTIME = "onnxruntime"
_CUDA = "CUDAExecutionProvider"
_GPU_BATCH_SIZE = 8

# Field 1 of an entry of a tensor's external data, in protobuf's form: a tag, a length, the text.
_EXTERNAL_DATA = b"\x0a\x08location"


@dataclass(frozen=True)
class OnnxSegmenter(PhotoModel):
    """A network read from an ONNX file that `export` wrote, with what is needed to use it.

    Attributes:
        path: the file.
        session: of ONNX Runtime.
        card: what the model says of itself.
        inference: test-time options; all that predicts with this network uses them.
        batch_size: photos in one pass of `predict`, 1 or more.
    """

    path: Path
    session: Any
    card: ModelCard
    inference: InferenceConfig = PLAIN_INFERENCE
    batch_size: int = 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Index = class id."""
        return self.card.class_names

    @property
    def colors(self) -> np.ndarray:
        """(C, 3) uint8 RGB; index = class id."""
        return self.card.colors

    @property
    def image_size(self) -> int:
        """Side of the square input, pixels."""
        return self.card.image_size

    @property
    def resize(self) -> Resize:
        """How a photo becomes the square."""
        return self.card.resize

    def _look_at(
        self, photos: Sequence[np.ndarray], image_size: int, resize: Resize, batch_size: int = 1
    ) -> list[np.ndarray]:
        """`look` at several photos in one pass of `batch_size`; black where there is none."""
        squares = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for square, photo in zip(squares, photos, strict=False):
            square[:] = fit_image(photo, image_size, resize, self.card.normalization.pad_color)
        (logits,) = self.session.run(None, {"images": squares})  # (N, C, S, S)
        looks = []
        for number, photo in enumerate(photos):
            box = content_box(photo.shape[0], photo.shape[1], image_size, resize)
            rows, columns = (
                slice(box.top, box.top + box.height),
                slice(box.left, box.left + box.width),
            )
            looks.append(logits[number : number + 1, :, rows, columns])
        return looks

    def _tools(self) -> "_NumpyTools":
        return _NumpyTools()

    def _say(self, logits: np.ndarray, height: int, width: int) -> "ArrayOfPhoto":
        return ArrayOfPhoto(logits, height, width)


@dataclass(frozen=True)
class ArrayOfPhoto:
    """A photo's logits, and what they say at its own size; a `prediction.model.Prediction`.

    Attributes:
        logits: (1, C, h, w) float32 that cover exactly the photo.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.
    """

    logits: np.ndarray
    height: int
    width: int

    def mask(self) -> np.ndarray:
        """(height, width) uint8 class ids; of equal logits the lower id wins, as with argmax.

        Goes class by class: memory does not grow with their number, and large photos fit.
        """
        best = self._upsampled(0)
        mask = np.zeros(best.shape, np.uint8)
        for class_id in range(1, self.logits.shape[1]):
            candidate = self._upsampled(class_id)
            # Ids rise: where this class is better, its id is larger than what stands there.
            is_better = (candidate > best).view(np.uint8)
            np.maximum(mask, np.multiply(is_better, np.uint8(class_id), out=is_better), out=mask)
            np.maximum(best, candidate, out=best)
        return mask

    def probabilities(self) -> np.ndarray:
        """(C, height, width) float16, 0..1; their argmax is the mask up to float16's rounding."""
        upsampled = np.stack([self._upsampled(n) for n in range(self.logits.shape[1])])[None]
        return _NumpyTools().softmax(upsampled)[0].astype(np.float16)

    def confidence(self) -> np.ndarray:
        """(height, width) float32: the probability of the best class, 1 / C..1.

        The largest of `probabilities`, in float32, but class by class as in `mask`.
        """
        best = self._upsampled(0)
        # Sum of exp(logit - best) so far. It is kept relative to the best one: no exp overflows.
        total = np.ones_like(best)
        for class_id in range(1, self.logits.shape[1]):
            difference = self._upsampled(class_id)
            difference -= best
            gain = np.maximum(difference, 0)
            best += gain
            difference -= gain  # now to the new best
            total *= np.exp(np.negative(gain, out=gain), out=gain)
            total += np.exp(difference, out=difference)
        return np.reciprocal(total, out=total)

    def _upsampled(self, class_id: int) -> np.ndarray:
        return _resize(self.logits[0, class_id], self.height, self.width)


class _NumpyTools:
    """`prediction.looks.ArrayTools` for numpy's arrays."""

    def from_numpy(self, values: np.ndarray) -> np.ndarray:
        return values

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        result = np.exp(logits - logits.max(axis=1, keepdims=True))
        result /= result.sum(axis=1, keepdims=True)
        return result

    def log(self, probabilities: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))

    def mirror(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[..., ::-1])

    def resize(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        return np.stack([_resize(plane, height, width) for plane in values[0]])[None]


def _resize(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres kept, as PyTorch's `interpolate` with align_corners=False."""
    resized = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane.copy() if resized is plane else resized


def is_onnx(path: Path) -> bool:
    """Whether a file is to be read as ONNX: by its content, else by its suffix.

    ONNX begins with the field of its version; PyTorch's files begin as a zip or a pickle does.
    """
    if not path.is_file():  # a pipe would be waited for
        return path.suffix.lower() == ".onnx"
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(2)
        if head[:1] in (b"\x08", b"\x80") or head == b"PK":
            return head[:1] == b"\x08"
    return path.suffix.lower() == ".onnx"


def load_onnx(
    path: str | Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    inference: InferenceConfig = PLAIN_INFERENCE,
    batch_size: int | None = 1,
) -> OnnxSegmenter:
    """Read an ONNX file that `export` wrote; no other file is read, whatever it names.

    Args:
        path: the file.
        device: "auto" takes CUDA where the installed ONNX Runtime has it.
        inference: test-time options.
        batch_size: photos in one pass of `predict`, 1 or more; None takes 1 on a CPU and 8 on CUDA.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ONNX Runtime is not installed; a file that is broken or not of this project;
            options that do not fit its input size.
    """
    path = Path(path)
    name = printable(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no such file: {name}; expected a model that `export` wrote. Check the path."
        )
    content = path.read_bytes()
    if _EXTERNAL_DATA in content:
        raise ValueError(
            f"{name} keeps its weights in other files, which are not read; expected one whole "
            "file, as `export` writes it."
        )
    session = _session(name, content, device)
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ValueError(
            f"{name} is no model of this project: its metadata lack {CARD_KEY!r}; expected a file "
            "that `export --format onnx` wrote."
        )
    try:
        card = read_card(text)
        if session.get_outputs()[0].shape[1] != len(card.class_names):
            raise ValueError(f"it names {len(card.class_names)} classes, the graph has others")
    except ValueError as error:
        raise ValueError(
            f"{name} says of itself, in its metadata, what does not fit: {error}; expected what "
            "`export` wrote. Export it again."
        ) from None
    inference.input_sizes(card.image_size)  # refused here, not at the first photo
    on_cuda = session.get_providers()[0] == _CUDA
    return OnnxSegmenter(
        path, session, card, inference, batch_size or (_GPU_BATCH_SIZE if on_cuda else 1)
    )


def _session(name: str, content: bytes, device: str) -> Any:
    runtime = _import_runtime(name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _threads()
    # Threads that spin while they wait take the cores of other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised, and reach the user as one line
    providers = ["CPUExecutionProvider"]
    has_cuda = _CUDA in runtime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise ValueError(
            f"device cuda for {name}: the installed ONNX Runtime has none; expected cpu. Install "
            "onnxruntime-gpu in its place."
        )
    if device != "cpu" and has_cuda:
        providers.insert(0, _CUDA)
    try:
        return runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # the runtime's own types, which share no other base
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be read as ONNX ({reason[:200]}); expected a whole file that `export` "
            "wrote. Copy or export it again."
        ) from None


def _import_runtime(name: str) -> Any:
    try:
        return importlib.import_module(_RUNTIME)
    except ImportError:
        raise ValueError(
            f"{name} is an ONNX model and {_RUNTIME} is not installed; install it: "
            f"{sys.executable} -m pip install {_RUNTIME}"
        ) from None


def _threads() -> int:
    """As many as the cores that this process may use, or as the user says for all programs."""
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "")))
    return usable_cores()
