"""Several processes that train together, one for each device: PyTorch's process group.

torchrun starts them and tells each by environment variables which one it is (`core.ranks`). With
one process everything here does nothing.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from clothseg_utils.core.ranks import OtherProcessError, local_rank, world_size

_Value = TypeVar("_Value")

# The others wait this long while the first makes masks and checks photos.
_TIMEOUT = datetime.timedelta(hours=1)


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Meet the other processes; part from them at the end.

    Raises:
        ValueError: a device that only one process can use.
    """
    if world_size() == 1:
        yield
        return
    if torch.backends.mps.is_available():
        raise ValueError(
            f"{world_size()} processes are to train together and this machine has Apple's GPU; "
            "expected CUDA, or CPUs alone. Set train.devices=1."
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"  # what the host shares need not wait for the device
    dist.init_process_group(backend, timeout=_TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others


def leave(code: int) -> NoReturn:
    """Exit; after an error without the clean-up that waits for work shared with the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code and world_size() > 1:
        os._exit(code)
    sys.exit(code)


def first_on_each_machine(action: Callable[[], _Value]) -> _Value:
    """Do something in one process of each machine, then in the others, which find it done.

    Raises:
        OtherProcessError: it failed in another process.
    """
    if world_size() == 1:
        return action()
    values: list[_Value] = []
    error: Exception | None = None
    if local_rank() == 0:
        try:
            values.append(action())
        except Exception as caught:
            error = caught
    failed: list[Any] = [None] * world_size()
    dist.all_gather_object(failed, error is not None)
    if error is not None:
        raise error
    if any(failed):
        raise OtherProcessError("another process of this training failed")
    return values[0] if values else action()


def from_first(value: _Value) -> _Value:
    """What the first process has for `value`: plain values, None included."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def add_up(*values: Tensor) -> tuple[Tensor, ...]:
    """Add tensors of equal dtype up over all processes, gradients included.

    Each process then computes the loss of the whole batch. As DistributedDataParallel averages
    gradients, they are those that one process with the whole batch would have.

    Args:
        values: any shapes.

    Returns:
        The sums, in the same shapes, the same in every process.
    """
    if world_size() == 1:
        return values
    joined = _AddUp.apply(torch.cat([value.reshape(-1) for value in values]))
    parts = joined.split([value.numel() for value in values])
    return tuple(part.view_as(value) for part, value in zip(parts, values, strict=True))


class _AddUp(torch.autograd.Function):
    """`torch.distributed.nn.functional.all_reduce`, which torch 2.15 calls deprecated, in short."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        """Sum over processes."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """Each process's value is part of every process's sum."""
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def freeze_unused(network: nn.Module) -> None:
    """Leave parameters out of training that no output depends on.

    DistributedDataParallel waits for every gradient. Some encoders, such as EfficientNet's, keep
    layers of the classifier that they were made for. One process leaves them out too: its optimizer
    then goes on with several.
    """
    was_training = network.training
    # Not by a call: `compile` would begin with this size, and then allow for any.
    network.eval().forward(torch.zeros(1, 3, 64, 64)).sum().backward()
    network.train(was_training)
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
    network.zero_grad()


def stop_sharing_signals(trainer: pl.Trainer) -> None:
    """Let SIGTERM end a process of several at once; the agent of torchrun then ends the others.

    Lightning tells the others of it instead: in the signal's handler, where it waits for an answer
    that nobody gives, and before each batch, where it waits for the device.
    """
    if world_size() > 1:
        epoch_loop = trainer.fit_loop.epoch_loop
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        signals = trainer._signal_connector
        signals.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def average_buffers(module: nn.Module) -> None:
    """Give all processes the mean of their running statistics (batch norm's), in place."""
    if world_size() == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if buffers:
        joined = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.all_reduce(joined)
        joined /= world_size()
        parts = joined.split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
