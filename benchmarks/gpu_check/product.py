"""Parts 7, 10 and 9a: the command line from photos to scores and masks, as a user runs it; and what
it says when the memory does not suffice."""

import math
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu_check.runner import Findings
from benchmarks.gpu_check.setting import Setting, start_product, training_words
from benchmarks.harness import real_data
from clothseg_utils.core.files import read_json
from clothseg_utils.data.coco import images_dir
from clothseg_utils.training.callbacks import read_history

_RUN_NAME = "check"
_SAME_MASKS = 1e-3
"""Share of pixels that two devices may give another class."""


def product(setting: Setting, found: Findings) -> None:
    """Part 7: train two epochs, go on to a third, evaluate."""
    setting.need_data()
    run = _run_dir(setting)
    # The photos are few: an epoch that draws them several times says more about the speed.
    options = {"epoch_images": 6 if setting.is_small else 3200}
    with _Utilisation(found):
        train = _Verb(
            setting, "train", *training_words(setting, _RUN_NAME, max_epochs=2, **options)
        )
        found.figure(train=train.figures())
        found.check(train=train.code == 0)
        if train.code:
            raise RuntimeError(f"train ended with code {train.code}: {train.last_line}")
        history = read_history(run / "logs" / "history.csv")
        _tell_history(setting, history, found)
        resume = _Verb(
            setting,
            "resume",
            *training_words(setting, _RUN_NAME, max_epochs=3, **options),
            "--resume",
        )
        resumed = read_history(run / "logs" / "history.csv")
        found.figure(resume=resume.figures(), epochs_after_resume=len(resumed))
        found.check(resume=resume.code == 0 and len(resumed) == 3 and resumed[:2] == history)
    scored = _Verb(
        setting,
        "evaluate",
        *("evaluate", "--checkpoint", run / "checkpoints" / "best.ckpt"),
        *("--data-root", setting.data_root, "--out", setting.work / "scores"),
    )
    found.figure(evaluate=scored.figures())
    found.check(evaluate=scored.code == 0)
    if scored.code == 0:
        metrics = read_json(setting.work / "scores" / "metrics.json")
        found.figure(scored_photos=metrics["n_images"], mean_iou=metrics["mean_iou"])


def _tell_history(setting: Setting, history: list[dict[str, float]], found: Findings) -> None:
    losses = [row["train/loss"] for row in history]
    found.figure(
        losses=losses,
        val_losses=[row["val/loss"] for row in history],
        val_mean_iou=[row["val/mean_iou"] for row in history],
        images_per_second=[row["images_per_second"] for row in history],
    )
    found.check(
        loss_falls=None if setting.is_small else losses[-1] < losses[0],
        finite=all(math.isfinite(value) for row in history for value in row.values()),
    )


def _run_dir(setting: Setting) -> Path:
    return setting.work / "outputs" / _RUN_NAME


def prediction(setting: Setting, found: Findings) -> None:
    """Part 10: masks of part 7's network on the GPU, on the CPU, and by its ONNX file."""
    checkpoint = _run_dir(setting) / "checkpoints" / "best.ckpt"
    mini = real_data()
    root = setting.data_root if mini is None else mini / "fashionpedia_mini"
    photos = sorted(images_dir(root, "val").iterdir())[: 4 if setting.is_small else 24]
    found.figure(photos="drawn" if mini is None else "real", count=len(photos))
    onnx = setting.work / "check.onnx"
    export = _Verb(setting, "export", "export", "--checkpoint", checkpoint, "--out", onnx)
    found.figure(export=export.figures())
    found.check(export=export.code == 0)
    masks = {}
    ways = {"gpu": (checkpoint, {}), "cpu": (checkpoint, {"CUDA_VISIBLE_DEVICES": ""})}
    for name, (model, environment) in (ways | {"onnx": (onnx, {})}).items():
        out = setting.work / f"masks_{name}"
        words = ("predict", "--checkpoint", model, "--out", out, "--masks-only", *photos)
        verb = _Verb(setting, f"predict_{name}", *words, **environment)
        found.figure(**{f"predict, {name}": verb.figures()})
        if verb.code == 0:
            masks[name] = [
                cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(out.glob("*.png"))
            ]
            found.check(**{f"all masks, {name}": len(masks[name]) == len(photos)})
    for name in ("cpu", "onnx"):
        if name not in masks or "gpu" not in masks:
            found.check(**{f"gpu beside {name}": False})
            continue
        pairs = zip(masks["gpu"], masks[name], strict=True)
        differing = np.concatenate([(a != b).ravel() for a, b in pairs])
        found.figure(**{f"differing_share, gpu beside {name}": float(differing.mean())})
        is_same = differing.mean() < _SAME_MASKS
        # A network of a few steps is of two minds everywhere.
        found.check(**{f"gpu beside {name}": None if setting.is_small else is_same})
    many, n_many = setting.work / "many", 8 if setting.is_small else 1024
    many.mkdir()
    for index in range(n_many):
        photo = photos[index % len(photos)].resolve()
        (many / f"{index:05d}{photo.suffix}").symlink_to(photo)
    words = ("predict", "--checkpoint", checkpoint, "--out", setting.work / "many_masks")
    verb = _Verb(setting, "predict_many", *words, "--masks-only", many)
    found.figure(many=verb.figures() | {"photos": n_many})
    found.check(many=verb.code == 0)


class _Verb:
    """A command that is run to its end; its output is kept in the folder of results.

    Attributes:
        code: exit code.
        lines: what it printed.
    """

    def __init__(self, setting: Setting, name: str, *words: str | Path, **environment: str) -> None:
        started = time.perf_counter()
        last_epoch = None
        self.lines: list[str] = []
        process = start_product(*words, **environment)
        assert process.stdout is not None
        with (setting.out / f"{name}.log").open("w", encoding="utf-8") as log:
            for line in process.stdout:
                now = time.perf_counter() - started
                log.write(f"{now:7.2f} {line}")
                log.flush()
                self.lines.append(line.rstrip())
                if re.match(r"epoch +[\d.]+ +step", line):
                    last_epoch = now
        self.code = process.wait()
        self._seconds = time.perf_counter() - started
        self._last_epoch = last_epoch

    def figures(self) -> dict[str, Any]:
        """Exit code, seconds, and the last line."""
        values = {"code": self.code, "seconds": self._seconds, "last_line": self.last_line}
        if self._last_epoch is not None:
            values["seconds_after_last_epoch"] = self._seconds - self._last_epoch
        return values

    @property
    def last_line(self) -> str:
        """The last line that it printed."""
        return next((line[:400] for line in reversed(self.lines) if line), "")


class _Utilisation:
    """Asks the driver each second how busy the GPU is and how much memory is in use."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.rows: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> None:
        fields = "--query-gpu=utilization.gpu,memory.used"
        try:
            self.process = subprocess.Popen(
                ["nvidia-smi", fields, "--format=csv,noheader,nounits", "-l", "1"],
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError:
            return
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: Any) -> None:
        self.rows.extend(process.stdout)

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        pairs = [row.split(",") for row in list(self.rows) if re.match(r"\d+, *\d+", row)]
        if pairs:
            self.found.figure(
                utilisation_percent=[int(busy) for busy, _ in pairs],
                gpu_memory_peak_mib=max(int(memory) for _, memory in pairs),
            )


def out_of_memory(setting: Setting, found: Findings) -> None:
    """Part 9a: a batch that no card holds; the last line must name the remedy."""
    setting.need_data()
    if not setting.on_gpu:
        found.figure(not_on_this_device="a memory that ends with one line")
        found.check(out_of_memory_line=None)
        return
    verb = _Verb(
        setting,
        "out_of_memory",
        *training_words(setting, "large", max_epochs=1, batch_size=1024, epoch_images=1024),
    )
    found.figure(**verb.figures(), lines=len(verb.lines))
    found.check(out_of_memory_line=verb.code != 0 and "batch_size" in verb.last_line)
