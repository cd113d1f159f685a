"""Parts 3, 4 and 5: what a training step waits for, takes, and consists of."""

import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks.gpu_check.runner import Findings, describe_error
from benchmarks.gpu_check.setting import (
    Setting,
    counted_confusion,
    normalized,
    our_module,
    plain_loss,
    plain_network,
    use_form,
)
from clothseg_utils.core.config import Config
from clothseg_utils.network.unet import default_precision

PHASES = ("forward", "loss", "backward", "optimizer")
TARGET_RATIO = 1.5
"""Images per second over plain eager that was asked for."""


@dataclass(frozen=True)
class Variant:
    """One way to run the step; the defaults are the product's."""

    loss: Literal["smp", "ours"] = "ours"
    is_plain: bool = False  # smp's network and Adam
    plain_decoder: bool = False  # smp's own steps
    channels_last: bool = True
    dtype: torch.dtype = torch.float16
    compiled: bool = False


PLAIN = Variant(loss="smp", is_plain=True, channels_last=False)
VARIANTS = {
    "a": PLAIN,
    "b": replace(PLAIN, channels_last=True),
    "c": Variant(),
    "d": Variant(plain_decoder=True),
    "e": Variant(loss="smp"),
    "f": Variant(),
    "g": Variant(compiled=True),
    "h": Variant(dtype=torch.bfloat16),
}
"""Plain smp; in channels_last; ours; with smp's decoder; with smp's loss; with
cuDNN's search for the fastest kernels, as `train` does; compiled; in bfloat16."""


class Step:
    """A training step on a batch that stays on the device; `batch` may be replaced."""

    def __init__(self, variant: Variant, batch_size: int, setting: Setting) -> None:
        device = setting.device
        self.variant = variant
        self.device = device
        self.batch = setting.batch(batch_size)
        # A CPU has no float16 worth the name.
        self.dtype = variant.dtype if setting.on_gpu else default_precision(device)
        self.memory_format = (
            torch.channels_last if variant.channels_last else torch.contiguous_format
        )
        module = our_module(setting.config())
        if variant.is_plain:
            module.network = plain_network(setting.encoder).to(memory_format=self.memory_format)
        if variant.plain_decoder:
            use_form(module.network, "plain")
        module.to(device).train()
        if variant.compiled:  # as train.compile_network does; inductor is its backend too
            module.network.compile(backend="inductor" if setting.on_gpu else "eager")
        self.network = module.network
        self.loss = plain_loss() if variant.loss == "smp" else module.loss
        self.optimizer = (
            torch.optim.Adam(self.network.parameters(), lr=1e-4)
            if variant.is_plain
            else module.configure_optimizers()
        )
        is_scaled = setting.on_gpu and self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_scaled)

    def forward(self) -> torch.Tensor:
        """Logits of the batch."""
        images = normalized(self.batch["image"]).contiguous(memory_format=self.memory_format)
        return self.network(images)

    def __call__(self, mark: Callable[[], None] = lambda: None) -> None:
        """Do one step; `mark` is called at its start and after each of `PHASES`."""
        mark()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.forward()
            mark()
            target = self.batch["mask"]
            if self.variant.loss == "smp":
                loss = self.loss(logits, target.long())
            else:
                loss = self.loss(logits, target).loss
        mark()
        self.scaler.scale(loss).backward()
        mark()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        mark()

    def synchronize(self) -> None:
        """Wait until all of it is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class _Marks:
    """Moments in a stream of work: CUDA events, or the clock where there is no GPU."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.moments: list[Any] = []

    def __call__(self) -> None:
        if self.step.device.type != "cuda":
            self.moments.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.moments.append(event)

    def milliseconds(self) -> dict[str, float]:
        """Mean of each phase; the work must be done."""
        n_marks = len(PHASES) + 1
        rows = [self.moments[i : i + n_marks] for i in range(0, len(self.moments), n_marks)]
        return {
            phase: statistics.fmean(_milliseconds(row[i], row[i + 1]) for row in rows)
            for i, phase in enumerate(PHASES)
        }


def _milliseconds(start: Any, end: Any) -> float:
    return 1000 * (end - start) if isinstance(start, float) else start.elapsed_time(end)


def compare(setting: Setting, found: Findings) -> None:
    """Part 4: the ways that need no compiling, in turn."""
    _compare(setting, found, ("c", "a", "b", "e", "d", "h"), setting.batch_size)
    found.figure(counting_ms=_counting_ms(setting))


def compare_searched(setting: Setting, found: Findings) -> None:
    """Part 4f: in a process of its own, as cuDNN keeps the first kernels that it chose."""
    torch.backends.cudnn.benchmark = True
    _compare(setting, found, ("f",), setting.batch_size)


def compare_compiled(setting: Setting, found: Findings) -> None:
    """Part 4g: the compiled network beside the eager one."""
    _compare(setting, found, ("c", "g"), setting.batch_size)


def compare_doubled(setting: Setting, found: Findings) -> None:
    """Part 4d: the same at twice the batch, which no CPU gains from."""
    if not setting.on_gpu:
        found.figure(not_on_this_device="compiled kernels")
        return
    _compare(setting, found, ("c", "g"), 2 * setting.batch_size)


def _compare(setting: Setting, found: Findings, keys: tuple[str, ...], batch_size: int) -> None:
    warm_up, count, repeats = (1, 1, 2) if setting.is_small else (10, 40, 3)
    steps: dict[str, Step] = {}
    figures: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for key in keys:
        try:
            steps[key] = _warm(key, batch_size, setting, warm_up, figures[key])
        except torch.OutOfMemoryError as error:
            figures[key]["error"] = describe_error(error)
        if setting.on_gpu:
            torch.cuda.empty_cache()
        found.figure(**{key: figures[key]})
    timings: dict[str, list[dict[str, float]]] = {key: [] for key in steps}
    for _ in range(repeats):
        for key, step in steps.items():
            timings[key].append(_time(step, batch_size, count))
            medians = {
                figure: statistics.median(timing[figure] for timing in timings[key])
                for figure in timings[key][0]
            }
            found.figure(**{key: figures[key] | medians})


def _warm(
    key: str, batch_size: int, setting: Setting, warm_up: int, figures: dict[str, Any]
) -> Step:
    """Build a step and run it some times; note its memory and the seconds of the first one."""
    before = 0
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    step = Step(VARIANTS[key], batch_size, setting)
    started = time.perf_counter()
    step()
    step.synchronize()
    figures["first_step_seconds"] = time.perf_counter() - started
    for _ in range(warm_up - 1):
        step()
    step.synchronize()
    figures["dtype"] = str(step.dtype)
    if setting.on_gpu:
        figures["peak_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return step


def _time(step: Step, batch_size: int, count: int) -> dict[str, float]:
    marks = _Marks(step)
    step.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        step(marks)
    step.synchronize()
    seconds = time.perf_counter() - started
    phases = marks.milliseconds()
    return {
        "images_per_second": batch_size * count / seconds,
        "wall_ms": 1000 * seconds / count,
        "device_ms": sum(phases.values()),
        **{f"{phase}_ms": value for phase, value in phases.items()},
    }


def _counting_ms(setting: Setting) -> float:
    """The counting of a batch, which the product's step does beside the loss."""
    step = Step(VARIANTS["c"], setting.batch_size, setting)
    with torch.no_grad():
        logits = step.forward()
        parts = step.loss(logits, step.batch["mask"])

        def count() -> None:
            counted_confusion(parts, logits, step.batch["mask"])

        count()
        step.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            count()
        step.synchronize()
    return 1000 * (time.perf_counter() - started) / 20


class _SyncWatch(pl.Callback):
    """Notes where the host waits for the GPU in each step after the first ones."""

    def __init__(self, on_gpu: bool, first: int) -> None:
        self.on_gpu = on_gpu
        self.first = first
        self.places: Counter[str] = Counter()
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to watch once everything is warm."""
        if batch_idx == self.first and self.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Count the steps."""
        self.steps += 1

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Look away again: once an epoch may wait."""
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("default")

    def note(self, message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        """Take a warning; name the line and the innermost line of ours above it."""
        if "synchroniz" not in str(message) or "prototype" in str(message):
            return  # the second is what torch says of its watching
        own = [f for f in traceback.extract_stack() if "/clothseg_utils/" in f.filename]
        ours = f" from {_short(own[-1].filename)}:{own[-1].lineno}" if own else ""
        self.places[f"{_short(filename)}:{line}{ours}"] += 1


def _short(filename: str) -> str:
    return "/".join(filename.rsplit("/", 3)[-3:])


def syncs(setting: Setting, found: Findings) -> None:
    """Part 3: real training steps through the Trainer, with torch reporting each wait."""
    first, count = 3, 5
    watch = _SyncWatch(setting.on_gpu, first)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = watch.note  # type: ignore[assignment]
        losses = short_fit(setting, setting.config(), first + count, [watch])
    found.figure(
        steps=watch.steps - first,
        losses=losses,
        syncs_a_step=sum(watch.places.values()) / count,
        places=dict(watch.places.most_common(20)),
    )
    if not setting.on_gpu:
        found.figure(not_on_this_device="waits for a GPU")
    found.check(no_syncs=not watch.places if setting.on_gpu else None)


class _Losses(pl.Callback):
    """Keeps each step's loss on the device."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Keep it."""
        self.values.append(outputs["loss"].detach().clone())


def short_fit(
    setting: Setting,
    config: Config,
    count: int,
    callbacks: Sequence[pl.Callback] = (),
    module: pl.LightningModule | None = None,
    *,
    validate: bool = False,
) -> list[float]:
    """Some steps of the product's module under Lightning, without files; return the losses."""
    module = module or our_module(config)
    batch = {name: tensor.cpu() for name, tensor in setting.batch(setting.batch_size).items()}
    samples: Any = [
        {"image": image, "mask": mask}
        for image, mask in zip(batch["image"], batch["mask"], strict=True)
    ]
    loader: Any = DataLoader(
        samples * count, batch_size=setting.batch_size, pin_memory=setting.on_gpu, num_workers=0
    )
    losses = _Losses()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="auto",
        devices=1,
        plugins=[LightningEnvironment()],  # as the product does
        precision="16-mixed" if setting.on_gpu else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*callbacks, losses],
    )
    trainer.fit(module, loader, loader if validate else None)
    return torch.stack(losses.values).cpu().tolist()


def profile_step(setting: Setting, found: Findings) -> None:
    """Part 5: kernels of three steps, and how much of the time the GPU has something to do."""
    step = Step(VARIANTS["c"], setting.batch_size, setting)
    for _ in range(2 if setting.is_small else 10):
        step()
    step.synchronize()
    count = 3
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setting.on_gpu
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        for _ in range(count):
            step()
        step.synchronize()
        seconds = time.perf_counter() - started
    found.figure(step_ms=1000 * seconds / count)
    events = profiler.events()
    on_device = [
        event
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)  # spans that others are named in
    ]
    if on_device:
        spans = sorted((e.time_range.start, e.time_range.end) for e in on_device)
        found.figure(
            kernels_a_step=len(spans) / count,
            gpu_busy_share=_covered(spans) / (spans[-1][1] - spans[0][0]),
        )
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in on_device or events:
        took = event.time_range.elapsed_us() if on_device else event.self_cpu_time_total
        times[event.name[:90]] += took
        calls[event.name[:90]] += 1
    whole = sum(times.values())
    found.figure(
        top=[
            {
                "kernel": name,
                "ms": took / 1000 / count,
                "calls": calls[name] / count,
                "share": took / whole,
            }
            for name, took in times.most_common(15)
        ]
    )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of sorted spans."""
    total, reached = 0.0, spans[0][0]
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def ratios(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Speed of each way over plain eager; the compiled one's by way of the eager one beside it.

    Args:
        figures: part -> its figures; those of parts 4, 4f and 4g are used.
    """

    def speed(part: str, key: str) -> float | None:
        return figures.get(part, {}).get(key, {}).get("images_per_second")

    plain, ours = speed("4", "a"), speed("4", "c")
    if not plain or not ours:
        return {}
    found = {key: speed("4", key) for key in "bcdeh"} | {"f": speed("4f", "f")}
    compiled, beside = speed("4g", "g"), speed("4g", "c")
    if compiled and beside:
        found["g"] = ours * compiled / beside
    return {key: value / plain for key, value in sorted(found.items()) if value}
