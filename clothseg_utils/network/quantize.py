"""A checkpoint as ONNX with convolutions in 8 bits, their ranges taken from photos."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import atomic_path, write_text
from clothseg_utils.core.text import printable
from clothseg_utils.data.photo_files import list_photos
from clothseg_utils.data.photos import check_photo, read_photo
from clothseg_utils.network.export import check_out, export_model
from clothseg_utils.network.segmenter import Segmenter
from clothseg_utils.prediction.geometry import fit_image
from clothseg_utils.prediction.onnx_model import load_onnx

_MOST_PHOTOS = 40  # of which ranges are taken
_MOST_DIFFERING = 0.05  # share of the pixels


class Int8Export(NamedTuple):
    """What `export_int8` found out.

    Attributes:
        differing_share: share of the photos' pixels, 0..1, that get another class than in float32.
        left_out: photo that cannot be read -> one line that says why.
    """

    differing_share: float
    left_out: dict[Path, str]


def export_int8(segmenter: Segmenter, out: str | Path, photos_dir: str | Path) -> Int8Export:
    """Write a network as ONNX with convolutions in 8 bits: static ranges, weights by channel.

    The first and the last convolution stay in float32, and so do depthwise ones and products of
    matrices: with all of them in 8 bits the demo's network lost 8 points of mean IoU, so 0.1.

    Args:
        segmenter: from `segmenter.load_segmenter`; it stays as it is.
        out: file to write, whose name ends in .onnx; `<stem>.json` is written beside it.
        photos_dir: folder of photos of the kind that the model is for; some of them are used.

    Raises:
        ValueError, OSError: as `export.export_model`; no photo, or none that can be read; or too
            many pixels get another class, and nothing is written.
    """
    out = Path(out)
    check_out("onnx", out, segmenter.path)
    photos = list_photos(photos_dir).photos if Path(photos_dir).is_dir() else []
    if not photos:
        raise ValueError(
            f"--int8 {printable(photos_dir)} holds no photo; expected some in a folder, to take "
            "ranges from. Check its spelling."
        )
    photos = photos[:: -(-len(photos) // _MOST_PHOTOS)]
    left_out = _unreadable(photos)
    photos = [photo for photo in photos if photo not in left_out]
    if not photos:
        first = next(iter(left_out.values()))
        raise ValueError(
            f"none of the {len(left_out)} photos taken from {printable(photos_dir)} can be read: "
            f"{first}"
        )
    with tempfile.TemporaryDirectory() as folder, atomic_path(out) as temporary:
        whole = Path(folder) / "whole.onnx"
        card = export_model(segmenter, "onnx", whole)
        _quantize(whole, temporary, photos)
        share = _differing_share(whole, temporary, photos)
        if share > _MOST_DIFFERING:
            raise ValueError(
                f"in 8 bits {share:.1%} of the pixels of {len(photos)} photos get another class; "
                f"expected at most {_MOST_DIFFERING:.0%}. Nothing was written; export without "
                "--int8, or give photos of the kind that the network was trained on."
            )
        write_text(out.with_suffix(".json"), card.read_text("utf-8"))
    return Int8Export(share, left_out)


def _unreadable(photos: Sequence[Path]) -> dict[Path, str]:
    reasons = {}
    for photo in photos:
        try:
            check_photo(photo)
        except (OSError, ValueError) as error:
            reasons[photo] = fault_line(error) or str(error)
    return reasons


def _quantize(whole: Path, out: Path, photos: Sequence[Path]) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    card = load_onnx(whole, "cpu").card

    def squares() -> Iterator[np.ndarray]:
        color = card.normalization.pad_color
        for photo in map(read_photo, photos):
            yield fit_image(photo, card.image_size, card.resize, color)[None]

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # its advice on preprocessing, which is done
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
            convolutions = [n for n in onnx.load(prepared).graph.node if n.op_type == "Conv"]
            kept = [convolutions[0], convolutions[-1], *filter(_is_depthwise, convolutions)]
            quantize_static(
                str(prepared),
                str(out),
                _Reader(squares()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[node.name for node in kept],
            )
    finally:
        logger.setLevel(level)


def _differing_share(one: Path, other: Path, photos: Sequence[Path]) -> float:
    models = [load_onnx(path, "cpu") for path in (one, other)]
    masks = ([model.mask(photo) for model in models] for photo in map(read_photo, photos))
    counts = np.array([(np.count_nonzero(a != b), a.size) for a, b in masks])
    differing, total = counts.sum(axis=0)
    return float(differing / total)


class _Reader:
    """What the quantizer takes photos from."""

    def __init__(self, squares: Iterable[np.ndarray]) -> None:
        self._squares = iter(squares)

    def get_next(self) -> dict[str, np.ndarray] | None:
        square = next(self._squares, None)
        return None if square is None else {"images": square}


def _is_depthwise(node: object) -> bool:
    return any(a.name == "group" and a.i > 1 for a in node.attribute)  # type: ignore[attr-defined]
