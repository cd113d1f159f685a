"""One photo to its mask on disk, with the model loaded; and the whole `predict` process."""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.harness import (
    Row,
    alternate,
    check_equal,
    photo_data_root,
    read_report,
    report,
    run_python,
    seconds_of,
)
from clothseg_utils.core.text import count_text

IMAGE_SIZE, NUM_CLASSES, ENCODER = 512, 13, "mit_b1"
_MOST_DIFFERING = 0.001  # share of the mask's pixels
_IN_A_ROW = 4  # photos predicted in one timing
_MASKS = 20  # encoded in one timing


def rows() -> list[Row]:
    """Compare one photo, its mask as COCO regions, the start-up, the whole process, and ONNX."""
    root, _ = photo_data_root()
    photo = sorted((root / "test").glob("*.jpg"))[0]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder))
        return [
            _compare_photo(checkpoint, photo, Path(folder)),
            _compare_many(checkpoint, sorted((root / "test").glob("*.jpg")), Path(folder)),
            _compare_regions(),
            _compare_start(checkpoint),
            _compare_process(checkpoint, photo, Path(folder)),
            _compare_onnx(checkpoint, photo, Path(folder)),
        ]


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of random weights for both sides."""
    import pytorch_lightning as pl
    import torch

    from clothseg_utils.core.classes import class_table
    from clothseg_utils.core.config import profile_config, replace_fields
    from clothseg_utils.data.coco import annotation_path, read_annotations
    from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, checkpoint_info
    from clothseg_utils.network.unet import build_network

    torch.manual_seed(0)
    state = build_network(ENCODER, "none", NUM_CLASSES).state_dict()
    coco = read_annotations(annotation_path(photo_data_root()[0], "val"))
    settings = {"image_size": IMAGE_SIZE, "encoder_name": ENCODER}
    config = replace_fields(profile_config("reported"), settings)
    classes = class_table("supercategory", coco.categories)
    path = folder / "bench.ckpt"
    torch.save(
        {
            "state_dict": {f"network.{key}": value for key, value in state.items()},
            "pytorch-lightning_version": pl.__version__,
            "hyper_parameters": {"encoder_name": ENCODER, "num_classes": NUM_CLASSES},
            CHECKPOINT_KEY: checkpoint_info(config.model_dump(), classes, {}),
        },
        path,
    )
    return path


def baseline_load(checkpoint: Path):
    """What a user's script does: import what training needed, then load through Lightning."""
    import matplotlib.pyplot as plt
    import pandas as pd
    import pytorch_lightning as pl
    import segmentation_models_pytorch as smp

    del plt, pd  # imported at the top of such a script, used elsewhere in it

    class Segmenter(pl.LightningModule):
        def __init__(self, encoder_name: str, num_classes: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.network = smp.Unet(encoder_name, encoder_weights=None, classes=num_classes)

    return Segmenter.load_from_checkpoint(checkpoint, map_location="cpu").eval().network


def baseline_predictor(network, photo: Path, path: Path) -> Callable[[], np.ndarray]:
    """The usual pipeline: Pillow, float32, interpolate, argmax, imwrite."""
    import cv2
    import torch
    from PIL import Image
    from torch.nn import functional

    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def predict() -> np.ndarray:
        image = np.asarray(Image.open(photo).convert("RGB"))
        square = cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
        tensor = torch.from_numpy(square).permute(2, 0, 1) / 255
        with torch.no_grad():
            logits = network(((tensor - mean) / std)[None])
            size = image.shape[:2]
            native = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        mask = native.argmax(1)[0].numpy().astype(np.uint8)
        cv2.imwrite(str(path), mask)
        return mask

    return predict


def repeat(predict: Callable[[], np.ndarray]) -> np.ndarray:
    """Predict some times in a row; return the last mask."""
    return [predict() for _ in range(_IN_A_ROW)][-1]


def _compare_photo(checkpoint: Path, photo: Path, folder: Path) -> Row:
    import torch

    from benchmarks.training_step import forward_flops, matmul_flops_per_second
    from clothseg_utils.data.masks import write_mask
    from clothseg_utils.data.photos import read_photo
    from clothseg_utils.network.segmenter import load_segmenter
    from clothseg_utils.network.unet import default_precision

    trained = dataclasses.replace(load_segmenter(checkpoint, "cpu"), image_size=IMAGE_SIZE)

    def ours() -> np.ndarray:
        mask = trained.mask(read_photo(photo))
        write_mask(folder / "ours.png", mask)
        return mask

    usual = baseline_predictor(baseline_load(checkpoint), photo, folder / "usual.png")
    # Some in a row, as photos are predicted: the first after the other side may be slower.
    timing = alternate(lambda: repeat(usual), lambda: repeat(ours), 5)
    # In float32 on both sides: of random weights' classes many are nearly as likely as another,
    # and bf16's rounding decides between them.
    with mock.patch("clothseg_utils.network.segmenter.default_precision", return_value=None):
        exact = ours()
    differing = int(np.count_nonzero(timing.baseline_result != exact))
    check_equal("pixels of the mask", differing, int(_MOST_DIFFERING * exact.size))
    dtype = default_precision(torch.device("cpu"))
    n_flops, peak = forward_flops(), matmul_flops_per_second(dtype or torch.float32)
    return Row(
        name=f"predict one photo at {IMAGE_SIZE}, decoding to mask on disk",
        baseline=timing.baseline / _IN_A_ROW,
        ours=timing.ours / _IN_A_ROW,
        unit="s",
        target=2.5,
        n=timing.n,
        note=(
            f"model loaded (random weights), mean of {_IN_A_ROW} in a row; fp32 eager, Pillow, "
            "interpolate, argmax, imwrite; ours in "
            f"{'fp32: this CPU has no bf16' if dtype is None else dtype}; in fp32 "
            f"{differing / exact.size:.3%} of the mask's pixels differ"
        ),
        floor=timing.baseline / _IN_A_ROW / (n_flops / peak),
        floor_note=(
            f"{n_flops / 1e9:.0f} GFLOP of convolutions and matrix products at the "
            f"{peak / 1e9:.0f} GFLOP/s that a 1024 x 1024 product reaches here, nothing else "
            "counted"
        ),
    )


def one_after_the_other(segmenter, tasks) -> None:
    """Predict as this package did at first: the next photo is read meanwhile, nothing else."""
    from clothseg_utils.core.files import write_bytes
    from clothseg_utils.core.workers import ahead
    from clothseg_utils.data.masks import encode_mask
    from clothseg_utils.data.photos import encode_image
    from clothseg_utils.pictures.overlays import colorize
    from clothseg_utils.pictures.panels import overlay_with_legend

    for task, image in ahead((task, task.decode(task.read())[0]) for task in tasks):
        mask = segmenter.predict(image).mask()
        names, colors = segmenter.class_names, segmenter.colors
        pictures = {
            "_color.png": colorize(mask, colors),
            "_overlay.jpg": overlay_with_legend(image, mask, names, colors),
        }
        encoded = {e: encode_image(picture, Path(e).suffix) for e, picture in pictures.items()}
        for ending, data in {".png": encode_mask(mask), **encoded}.items():
            write_bytes(task.result(ending), data)


def _compare_many(checkpoint: Path, photos: list[Path], folder: Path) -> Row:
    from clothseg_utils.core.workers import usable_cores
    from clothseg_utils.network.segmenter import load_segmenter
    from clothseg_utils.prediction.plan import plan_predictions
    from clothseg_utils.prediction.predict import predict_photos

    segmenter = load_segmenter(checkpoint, "cpu")
    plans = [plan_predictions(photos, folder / side) for side in ("before", "now")]
    timing = alternate(
        lambda: one_after_the_other(segmenter, plans[0].tasks),
        lambda: predict_photos(segmenter, plans[1].tasks),
        5,
    )
    pairs = zip(*(sorted((folder / side).rglob("*.*")) for side in ("before", "now")), strict=True)
    check_equal("files", sum(one.read_bytes() != other.read_bytes() for one, other in pairs))
    return Row(
        name=f"predict {len(photos)} photos at {IMAGE_SIZE} to all their files",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=0.95,
        n=timing.n,
        note=(
            f"model loaded, {count_text(usable_cores(), 'core')}; one photo after the other, as "
            "this package did at first; every file has the same bytes; where cores are free, "
            "pictures are drawn beside the network"
        ),
    )


def _compare_regions() -> Row:
    from pycocotools import mask as coco_mask

    from clothseg_utils.core.classes import class_table
    from clothseg_utils.data.coco import annotation_path, read_annotations
    from clothseg_utils.data.rasterize import rasterize
    from clothseg_utils.prediction.coco_results import mask_to_coco

    coco = read_annotations(annotation_path(photo_data_root()[0], "val"))
    classes = class_table("supercategory", coco.categories)
    masks = [
        rasterize(
            coco.annotations_of(image.id), classes.class_of_category, image.height, image.width
        )
        for image in coco.images[:_MASKS]
    ]

    def usual() -> list[list[bytes]]:
        return [
            [
                coco_mask.encode(np.asfortranarray(mask == class_id, dtype=np.uint8))["counts"]
                for class_id in np.unique(mask)
                if class_id > 0
            ]
            for mask in masks
        ]

    def ours() -> list[list[bytes]]:
        regions = [mask_to_coco(mask, classes.names)["annotations"] for mask in masks]
        return [[r["segmentation"]["counts"].encode() for r in record] for record in regions]

    timing = alternate(usual, ours, 5)
    pairs = zip(timing.baseline_result, timing.our_result, strict=True)
    check_equal("masks' run lengths", sum(usual != own for usual, own in pairs))
    return Row(
        name=f"masks of {len(masks)} photos as COCO run lengths",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=None,
        n=timing.n,
        note="pycocotools' encode of each class; equal to the byte; ours finds area and box too",
    )


def _compare_start(checkpoint: Path) -> Row:
    timing = alternate(
        lambda: read_report("-m", __name__, "load_usual", checkpoint)["seconds"],
        lambda: read_report("-m", __name__, "load_ours", checkpoint)["seconds"],
        3,
    )
    least = seconds_of(lambda: run_python("-c", "import segmentation_models_pytorch"))[0]
    return Row(
        name="start-up of predict: process, imports, loading the network",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=1 / 0.7,
        n=timing.n,
        note=(
            "Lightning's load_from_checkpoint with smp, matplotlib and pandas imported; whole "
            "process, interpreter included"
        ),
        floor=timing.baseline / least,
        floor_note=(
            f"{least:.1f} s for a process that imports segmentation_models_pytorch, which imports "
            "torch, torchvision and timm, and nothing else"
        ),
    )


def _compare_process(checkpoint: Path, photo: Path, folder: Path) -> Row:
    timing = alternate(
        lambda: run_python("-m", __name__, "predict_usual", checkpoint, photo, folder / "u.png"),
        lambda: run_python(
            "-m", "clothseg_utils", "predict", "--checkpoint", checkpoint,
            "--out", folder / "out", photo,
        ),
        3,
        warm_up=False,
    )  # fmt: skip
    return Row(
        name=f"predict one photo at {IMAGE_SIZE}, whole process",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=None,
        n=timing.n,
        note="as above and one photo; ours also writes the colour mask and the overlay",
    )


def _compare_onnx(checkpoint: Path, photo: Path, folder: Path) -> Row:
    from clothseg_utils.data.photos import read_photo
    from clothseg_utils.network.export import export_model
    from clothseg_utils.network.loading import load

    exported = folder / "bench.onnx"
    network = load(checkpoint, "cpu")
    export_model(network, "onnx", exported)
    image = read_photo(photo)
    with mock.patch("clothseg_utils.network.segmenter.default_precision", return_value=None):
        expected = network.mask(image)
    differing = int(np.count_nonzero(load(exported, "cpu").mask(image) != expected))
    check_equal("pixels of the mask", differing, int(_MOST_DIFFERING * expected.size))

    def predict(model: Path) -> None:
        arguments = ("--checkpoint", model, "--out", folder / model.suffix, photo)
        run_python("-m", "clothseg_utils", "predict", *arguments)

    timing = alternate(lambda: predict(checkpoint), lambda: predict(exported), 3)
    return Row(
        name=f"predict one photo at {IMAGE_SIZE}, whole process: ONNX",
        baseline=timing.baseline,
        ours=timing.ours,
        unit="s",
        target=3.0,
        n=timing.n,
        note=(
            "the same verb with the checkpoint, which imports torch; in fp32 "
            f"{differing / expected.size:.3%} of the mask's pixels differ"
        ),
    )


def _load_ours(checkpoint: str) -> None:
    # What the command imports before it predicts, and how.
    from clothseg_utils.__main__ import heavy_imports
    from clothseg_utils.network.loading import load
    from clothseg_utils.prediction.plan import plan_predictions
    from clothseg_utils.prediction.predict import predict_photos

    del plan_predictions, predict_photos
    with heavy_imports():
        load(checkpoint)


def main(what: str, checkpoint: str, *paths: str) -> None:
    """One side of a comparison, in a process of its own."""
    started = time.perf_counter()
    if what == "load_ours":
        _load_ours(checkpoint)
    else:
        network = baseline_load(Path(checkpoint))
        if what == "predict_usual":
            baseline_predictor(network, *map(Path, paths))()
    report(seconds=time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
