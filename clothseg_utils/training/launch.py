"""A training on several devices of this machine: one process for each, watched by torchrun's agent.

`train_on_devices` starts this module as a program, the agent; the agent starts it again once for
each device. Neither holds the run's lock: the caller does, and waits.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clothseg_utils.core.config import Config
from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import repo_root, write_json
from clothseg_utils.core.progress import in_notebook
from clothseg_utils.core.ranks import OtherProcessError, rank
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.workers import usable_cores
from clothseg_utils.data.splits import load_training_splits
from clothseg_utils.training.devices import first_on_each_machine, leave, process_group


def train_on_devices(config: Config, *, resume_only: bool = False) -> None:
    """Train in `train.devices` processes and wait for their end; rank 0 writes the run folder.

    Args:
        config: the run's settings.
        resume_only: as `train.train` takes it.

    Raises:
        ValueError: fewer devices than asked for, or a process stopped or died; what it said.
    """
    n_devices = config.train.devices
    n_there = torch.cuda.device_count()
    if torch.cuda.is_available() and n_devices > n_there:
        raise ValueError(
            f"train.devices is {n_devices} and this machine has {n_there}; expected at most as "
            "many. Lower it, or start one process a device with torchrun on several machines."
        )
    with tempfile.TemporaryDirectory() as folder:
        config_path = Path(folder) / "config.json"
        write_json(config_path, {"config": config.model_dump(), "resume_only": resume_only})
        # A notebook shows what its own process prints, a terminal also what a child does.
        is_piped = in_notebook()
        with subprocess.Popen(
            [sys.executable, "-m", "clothseg_utils.training.launch", "watch", str(config_path)],
            cwd=repo_root(),
            # A session of its own: Ctrl-C reaches this process, which tells the agent once.
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if is_piped else None,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                with _sigterm_interrupts():
                    said = _follow(child)
            except BaseException:
                child.terminate()
                child.wait()
                raise
    if child.returncode:
        raise ValueError(said or f"the training's processes ended with code {child.returncode}.")


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Answer SIGTERM as Ctrl-C: by itself it would leave the processes to a run without a lock."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _follow(child: subprocess.Popen[str]) -> str:
    """Wait for the agent; hand on what it prints; return its error."""
    error: list[str] = []

    def read_errors() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith(_ERROR):
                error.append(line.removeprefix(_ERROR).strip())
            else:
                sys.stderr.write(line)

    reader = threading.Thread(target=read_errors, daemon=True)
    reader.start()
    if child.stdout is not None:
        for line in child.stdout:
            print(line, end="", flush=True)
    child.wait()
    reader.join()
    return error[-1] if error else ""


_ERROR = "error: "


def _watch(config_path: Path) -> int:
    """Be the agent: start the processes, end all when one ends badly, say the first cause."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    n_devices = _read_task(config_path)[0].train.devices
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // n_devices)))
    # The agent tells of each step of its own; what a user needs is the cause of a failure.
    logging.disable(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ended: list[int] = []
    if hasattr(os, "waitid"):
        threading.Thread(target=_note_first_end, args=(ended,), daemon=True).start()
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_devices,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(config_path.parent / "agent")),
    )
    try:
        elastic_launch(launch, sys.executable)(
            "-m", "clothseg_utils.training.launch", "work", config_path
        )
    except SignalException:
        return 1
    except ChildFailedError as error:
        print(_cause(error.failures, ended, config_path.parent), file=sys.stderr)
        return 1
    return 0


def _note_first_end(ended: list[int]) -> None:
    """Note the process that ends first; its exit code is left for the agent."""
    while not ended:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            ended += [found.si_pid] if found else []
        except ChildProcessError:  # none is started yet
            time.sleep(0.1)


def _cause(failures: Mapping[int, Any], ended: Sequence[int], folder: Path) -> str:
    """Why it ended, in one line after what was not foreseen.

    Args:
        failures: number of a process -> how it ended.
        ended: the process that ended first, if known.
        folder: where processes wrote their errors.
    """
    # One that was killed is the cause of what the others complain of. By SIGTERM the agent ends
    # the others too, so then it is the first.
    signals = {number: -failure.exitcode for number, failure in failures.items()}
    killed = [
        number
        for number, by in signals.items()
        if by > 0 and (by != signal.SIGTERM or failures[number].pid in ended)
    ]
    said = sorted(folder.glob("error-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    if said and not killed:
        *before, last = said[0].read_text(encoding="utf-8").strip().splitlines()
        return "\n".join([*before, _ERROR + last])
    number = min(killed or failures)
    failure = failures[number]
    how = f"by {failure.signal_name()}" if number in killed else f"with code {failure.exitcode}"
    return (
        f"{_ERROR}process {number} of the training ended {how}, and the others with it; expected "
        "all to end by themselves. Rerun it to go on from last.ckpt; where memory ran out, "
        "lower train.batch_size or train.num_workers."
    )


def _end_with_parent() -> None:
    """Do not outlive the process that started this one, which holds the run: its pipe closes."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _end_with_agent() -> None:
    agent = os.getppid()
    while os.getppid() == agent:
        time.sleep(1)
    os._exit(1)


def _work(config_path: Path) -> int:
    """Be one of the processes that train."""
    from clothseg_utils.training.train import train

    threading.Thread(target=_end_with_agent, daemon=True).start()
    config, resume_only = _read_task(config_path)
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    try:
        with process_group():
            splits = first_on_each_machine(lambda: load_training_splits(config.data))
            train(config, *splits, run, resume_only=resume_only)
    except (OtherProcessError, KeyboardInterrupt):
        return 1
    except Exception as error:
        # The agent says the first of them: most failures are the same in every process.
        said = fault_line(error)
        if said is None and isinstance(error, (ValueError, OSError)):
            said = " ".join(str(error).split())
        text = said or traceback.format_exc()
        config_path.with_name(f"error-{rank()}.txt").write_text(text, encoding="utf-8")
        return 1
    return 0


def _read_task(path: Path) -> tuple[Config, bool]:
    task = json.loads(path.read_text(encoding="utf-8"))
    return Config.model_validate(task["config"]), task["resume_only"]


if __name__ == "__main__":
    role, config_file = sys.argv[1:]
    leave((_watch if role == "watch" else _work)(Path(config_file)))
