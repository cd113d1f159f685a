"""Several processes that train together, for real: two of them on this machine's CPU, over gloo."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import pytorch_lightning as pl
import torch

from clothseg_utils.__main__ import main
from clothseg_utils.core.config import Config, replace_fields
from clothseg_utils.core.files import repo_root, write_json
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.network.unet import build_network
from clothseg_utils.training import devices
from clothseg_utils.training.callbacks import read_history
from clothseg_utils.training.launch import train_on_devices

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1"}


def start(*command: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*map(str, command)],
        cwd=repo_root(),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def config(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two steps of four photos before each check; seven photos to check on."""
    fields = {
        "outputs_root": str(tmp_path_factory.mktemp("devices")),
        "encoder_name": "resnet18",
        "precision": "32-true",
        "image_limit": 7,
        "epoch_images": 8,
        "batch_size": 4,
        "max_epochs": 2,
        "warmup_fraction": 0.0,
    }
    return replace_fields(tiny_config, fields)


def settings(config: Config, **fields: object) -> list[str]:
    """Everything that differs from profile smoke, as the command line takes it."""
    changed = replace_fields(config, fields)
    base = {"run_name", "data_root"}
    words = ["--profile", "smoke", "--data-root", changed.data.data_root]
    words += ["--run-name", changed.run.run_name]
    for section in ("run", "data", "train"):
        for field, value in getattr(changed, section).model_dump().items():
            if field not in base:
                words += ["--set", f"{section}.{field}={value}"]
    return words


@pytest.fixture(scope="module")
def seen(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the processes saw: "epochs-0" and "-1" of two, and "alone" of the one to compare."""
    folder = tmp_path_factory.mktemp("seen")
    write_json(folder / "config.json", config.model_dump())
    (folder / "two").mkdir()
    (folder / "one").mkdir()
    script = repo_root() / "tests" / "two_processes.py"
    two = start(*TORCHRUN, "--nproc-per-node", "2", script, folder / "config.json", folder / "two")
    one = start(sys.executable, script, folder / "config.json", folder / "one")
    finish(two)
    finish(one)
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "two").glob("*.json")}
    return found | {"alone": json.loads((folder / "one" / "epochs-0.json").read_text())}


def test_both_processes_hold_the_same_weights_after_every_step(seen):
    first, second = seen["epochs-0"], seen["epochs-1"]
    assert len(set(first["steps"])) >= 4
    assert first["steps"] == second["steps"]


def test_both_processes_return_what_the_first_one_wrote(seen):
    assert seen["epochs-0"]["history"] == seen["epochs-1"]["history"]


def test_apples_gpu_is_refused_for_several_processes(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"Apple's GPU.*train\.devices=1"), devices.process_group():
        pass


def test_two_processes_learn_what_one_learns_from_the_whole_batch(seen):
    two, one = seen["epochs-0"], seen["alone"]
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-4)
    for ours, alone in zip(two["history"], one["history"], strict=True):
        for name in ("train/loss", "train/mean_iou", "val/mean_iou", "val/pixel_accuracy"):
            assert ours[name] == pytest.approx(alone[name], rel=1e-3), name


def test_two_processes_go_on_within_a_check(seen):
    """What is left are the last steps of a training that nobody cut short."""
    for number in (0, 1):
        cut, whole = seen[f"cut-{number}"], seen[f"epochs-{number}"]
        assert cut["steps"] == whole["steps"][-len(cut["steps"]) :]
        assert cut["weights"] == whole["weights"]
        for ours, expected in zip(cut["history"], whole["history"], strict=True):
            times = ("seconds", "images_per_second")
            kept = {name: value for name, value in expected.items() if name not in times}
            assert {name: ours[name] for name in kept} == pytest.approx(kept, rel=1e-12)


def test_each_val_photo_is_counted_once(seen):
    counted = zip(seen["epochs-0"]["counted"], seen["epochs-1"]["counted"], strict=True)
    assert [sum(photos) for photos in counted] == [7, 7]


def test_one_clock_rules_all_processes(seen):
    first, second = seen["clock-0"], seen["clock-1"]
    assert first["steps"] == second["steps"]
    assert first["history"][-1]["step"] == second["history"][-1]["step"] == 10


def processes_of(pid: int) -> dict[str, psutil.Process]:
    """The training's processes below another by their rank; "none" is the agent."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.setdefault(child.environ().get("RANK", "none"), child)
    return found


def wait_for_a_check(run: RunFolder, *processes: subprocess.Popen[str]) -> None:
    while not run.last_checkpoint.exists():
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_one_process_of_two_is_killed_and_training_goes_on_with_one_device(
    config, capfd, monkeypatch
):
    """Rank 1 is killed after the first check: a clear end, and nothing of the check is lost."""
    run = RunFolder(config.run.outputs_root, "killed")
    words = settings(config, run_name=run.name, devices=2, max_epochs=200, batch_size=2)
    process = start(sys.executable, "-m", "clothseg_utils", "train", *words)
    try:
        wait_for_a_check(run, process)
        ranks = processes_of(process.pid)
        ranks["1"].kill()
        killed = time.monotonic()
        out, err = finish(process, code=2)
    finally:
        process.kill()
    assert time.monotonic() - killed < 60
    assert err.count("error: ") == 1
    assert re.match(r"error: process 1 of the training ended by SIGKILL, .*\n\Z", err)
    assert "Traceback" not in err
    assert "training on 2 x CPU" in out
    assert not psutil.pid_exists(ranks["0"].pid)
    done = len(read_history(run.logs_dir / "history.csv"))
    # Twice the photos on half the devices: the same steps.
    words = settings(config, run_name=run.name, devices=1, batch_size=4, max_epochs=done + 1)
    monkeypatch.setattr(sys, "argv", ["clothseg_utils", "train", *words, "--resume"])
    assert main() == 0
    out = capfd.readouterr().out
    assert "training goes on from last.ckpt" in out
    assert "train.batch_size 4 instead of 2" in out
    assert "training on 1 x CPU" in out
    history = read_history(run.logs_dir / "history.csv")
    assert [row["epoch"] for row in history] == list(range(len(history)))
    assert [row["step"] for row in history] == [2 * (i + 1) for i in range(len(history))]


def test_sigterm_to_the_one_that_waits_ends_them_all(config, tmp_path, monkeypatch):
    """The run is free only when no process trains any more, and nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fields = {"run_name": "parent", "devices": 2, "max_epochs": 200, "batch_size": 2}
    run = RunFolder(config.run.outputs_root, "parent")
    alive: list[psutil.Process] = []

    def end_this_process() -> None:
        wait_for_a_check(run)
        alive.extend(processes_of(os.getpid()).values())
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=end_this_process)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train_on_devices(replace_fields(config, fields))
    thread.join()
    assert len(alive) == 3
    assert not any(process.is_running() for process in alive)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is handler


def test_two_machines_meet_by_torchrun_and_end_together(config):
    """Two agents of one process each, at two addresses, as `docs/devices.md` starts them.

    A process that gets SIGTERM ends at once: one that waited for the others' answer to it, as
    Lightning's handler does, would hold them all.
    """
    words = settings(config, run_name="machines", batch_size=2, max_epochs=200)
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    common += ["--rdzv-id", "test", "--rdzv-endpoint", "127.0.0.2:29617"]
    agents = [
        start(
            *TORCHRUN, *common, "--local-addr", f"127.0.0.{number}",
            "-m", "clothseg_utils", "train", *words,
        )
        for number in (2, 3)
    ]  # fmt: skip
    run = RunFolder(config.run.outputs_root, "machines")
    try:
        wait_for_a_check(run, *agents)
        workers = [child for agent in agents for child in processes_of(agent.pid).values()]
        workers[1].terminate()
        said = [agent.communicate(timeout=60)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert all(agent.returncode for agent in agents)
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert sum("training on 2 x CPU" in out for out in said) == 1
    assert sum("val mIoU" in out for out in said) == 1


def test_layers_without_a_gradient_are_left_out_of_training():
    """DistributedDataParallel would wait for it; EfficientNet keeps layers of its classifier."""
    network = build_network("efficientnet-b0", "none", 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    devices.freeze_unused(network)
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == [
        "encoder._bn1.bias", "encoder._bn1.weight", "encoder._conv_head.weight",
    ]  # fmt: skip
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_lightning_still_has_what_is_left_out():
    trainer = pl.Trainer(logger=False)
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert callable(trainer._signal_connector.register_signal_handlers)


def test_what_is_wrong_is_said_once(config, capfd):
    """Both processes find it, as they are told to go on; their agent says it once, in a line."""
    said = "holds no training to go on with"
    changed = replace_fields(config, {"run_name": "wrong", "devices": 2})
    with pytest.raises(ValueError, match=rf"^[^\n]* {said}[^\n]*\Z"):
        train_on_devices(changed, resume_only=True)
    assert said not in "".join(capfd.readouterr())  # whoever called says it


def test_notebook_03_starts_the_processes_and_shows_what_they_say(config):
    words = settings(config, run_name="notebook", devices=2, batch_size=2)
    command = [sys.executable, "-m", "clothseg_utils", "run", "--only", "03"]
    out, _ = finish(start(*command, *words))
    run = RunFolder(config.run.outputs_root, "notebook")
    cells = json.loads((run.notebooks_dir / "03_training.ipynb").read_text())["cells"]
    (cell,) = [cell for cell in cells if "train(config" in "".join(cell["source"])]
    shown = "".join("".join(output.get("text", "")) for output in cell["outputs"])
    for said in (out, shown):
        assert "training on 2 x CPU" in said
        assert len(re.findall(r"epoch +\d  step +\d ", said)) == 2
    assert run.read_manifest()["steps"]["03_training"]["state"] == "done"
