"""Parts 0, 1 and 6: the machine, the photos, and how fast they come."""

import itertools
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import cv2
import torch

from benchmarks.gpu_check.runner import Findings
from benchmarks.gpu_check.setting import Setting, start_product
from benchmarks.gpu_check.steps import VARIANTS, Step
from benchmarks.harness import real_data, seconds_of
from benchmarks.rasterize import repeat_images
from clothseg_utils.core.workers import affordable_workers, usable_cores
from clothseg_utils.data.coco import annotation_path, images_dir
from clothseg_utils.data.splits import load_split
from clothseg_utils.training.loaders import ClothingDataModule

_LIBRARIES = (
    *("torch", "torchvision", "triton", "pytorch-lightning", "timm", "numpy"),
    *("segmentation-models-pytorch", "opencv-python-headless", "pycocotools", "pydantic"),
)


def facts(setting: Setting, found: Findings) -> None:
    """Part 0."""
    found.figure(
        python=platform.python_version(),
        libraries={name: _version(name) for name in _LIBRARIES},
        cv2=cv2.__version__,  # whatever package it came with
        cores=usable_cores(),
        shared_memory_gb=shutil.disk_usage("/dev/shm").total / 1e9,
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        small=setting.is_small,
        device="cpu",
    )
    if not setting.on_gpu:
        return
    torch.ones(1, device="cuda").add_(1).item()  # a GPU that cannot be used shows here
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    found.figure(
        device=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        gpus=torch.cuda.device_count(),
        gpu_free_gb=free / 1e9,
        gpu_total_gb=total / 1e9,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        driver=_driver(),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError as error:
        return str(error)


def make_data(setting: Setting, found: Findings) -> None:
    """Part 1: drawn photos by the product's own verb; real ones repeated, where there are some."""
    train, val, repeats = (16, 8, 32) if setting.is_small else (512, 64, 1024)
    started = time.perf_counter()
    process = start_product(
        "synthesize", "--out", setting.data_root, "--train", str(train), "--val", str(val)
    )
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"synthesize ended with {process.returncode}: {output[-300:]}")
    found.figure(drawn=train + val, drawing_seconds=time.perf_counter() - started)
    seconds, split = seconds_of(lambda: load_split(setting.config().data, "train"))
    found.figure(mask_seconds=seconds)
    found.check(photos=len(split.images) == train)
    mini = real_data()
    if mini is not None:
        _repeat_real(setting, mini / "fashionpedia_mini", repeats)
        found.figure(real=repeats)


def _repeat_real(setting: Setting, root: Any, n_photos: int) -> None:
    """Copies of the real photos under new names, train only; val is the drawn one's."""
    content = json.loads(annotation_path(root, "train").read_text())
    own = content["images"]
    images_dir(setting.real_root, "train").mkdir(parents=True)
    repeated = repeat_images(content, n_photos)
    for index, image in enumerate(repeated["images"]):
        source = images_dir(root, "train") / own[index % len(own)]["file_name"]
        shutil.copy(source, images_dir(setting.real_root, "train") / image["file_name"])
    annotation_path(setting.real_root, "train").write_text(json.dumps(repeated))


def loader(setting: Setting, found: Findings) -> None:
    """Part 6: the loader alone, then with the network consuming; how long the GPU waits for it."""
    setting.need_data()
    root = setting.real_root if setting.real_root.is_dir() else setting.data_root
    batches = 2 if setting.is_small else 60
    train = load_split(setting.config(data_root=str(root)).data, "train")
    val = load_split(setting.config().data, "val")
    found.figure(photos="real" if root == setting.real_root else "drawn")
    batch_bytes = setting.batch_size * 4 * setting.image_size**2
    _, too_few = affordable_workers(setting.workers[-1], batch_bytes)
    found.figure(too_few_workers=too_few)
    step = Step(VARIANTS["c"], setting.batch_size, setting)
    on_card = _seconds_a_batch(itertools.repeat(step.batch), 3, batches, step)
    found.figure(step_images_per_second=setting.batch_size / on_card)
    fed = on_card
    for n_workers in setting.workers:
        ready = 2 * n_workers  # batches that wait when the first one is taken: not counted
        n_photos = setting.batch_size * (batches + ready)
        config = setting.config(num_workers=n_workers, epoch_images=n_photos)
        data_module = ClothingDataModule(config, train, val)
        alone = _seconds_a_batch(data_module.train_dataloader(), ready, batches)
        fed = _seconds_a_batch(data_module.train_dataloader(), ready, batches, step)
        figures = {
            "alone_images_per_second": setting.batch_size / alone,
            "with_network_images_per_second": setting.batch_size / fed,
            "gpu_wait_share": max(0.0, 1 - on_card / fed),
            "workers": data_module.num_workers,
        }
        found.figure(**{f"{n_workers} workers": figures})
    waits = max(0.0, 1 - on_card / fed)
    found.figure(gpu_wait_share=waits)
    found.check(wait_under_5_percent=waits < 0.05 if setting.on_gpu else None)


def _seconds_a_batch(
    batches: Iterable[Any], uncounted: int, counted: int, step: Step | None = None
) -> float:
    """Seconds to fetch a batch and, where a step is given, to do it."""
    iterator = iter(batches)
    started = 0.0
    for index in range(uncounted + counted):
        if index == uncounted:
            if step is not None:
                step.synchronize()
            started = time.perf_counter()
        batch = next(iterator)
        if step is not None:
            step.batch = {
                name: tensor.to(step.device, non_blocking=True) for name, tensor in batch.items()
            }
            step()
    if step is not None:
        step.synchronize()
    return (time.perf_counter() - started) / counted
