"""Tests of `training.train`: what a training leaves behind, and how it goes on."""

import csv
import dataclasses
import datetime
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import mpi
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clothseg_utils.core.config import Config, TrainConfig, replace_fields
from clothseg_utils.core.files import read_json, repo_root, sha256_file, write_json
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, read_checkpoint
from clothseg_utils.network.segmenter import load_segmenter
from clothseg_utils.prediction.geometry import IMAGENET, Normalization
from clothseg_utils.scores.metrics import scores_from_confusion
from clothseg_utils.training import callbacks as callbacks_module
from clothseg_utils.training import module as model_module
from clothseg_utils.training import resume as resume_module
from clothseg_utils.training import train as train_module
from clothseg_utils.training.callbacks import learning_rate_factor, read_history, write_history
from clothseg_utils.training.module import ClothingSegmenter
from clothseg_utils.training.pipeline_file import pipeline_text
from clothseg_utils.training.resume import former_aside
from clothseg_utils.training.train import train

SCORES = ("loss", "dice_loss", "focal_loss", "mean_iou", "macro_f1", "pixel_accuracy")
FIGURES = {f"{group}/{score}" for group in ("train", "val") for score in SCORES}


@pytest.fixture(autouse=True)
def light_training(monkeypatch):
    """One thread and one panel: what is tested here is neither speed nor pictures."""
    torch.set_num_threads(1)
    monkeypatch.setattr(callbacks_module, "PANEL_COUNT", 1)


@pytest.fixture
def splits(tiny_training):
    return tiny_training.train_split, tiny_training.val_split


@pytest.fixture
def small_config(tiny_config, tmp_path) -> Config:
    """Two steps an epoch, outputs of its own."""
    return replace_fields(tiny_config, {"outputs_root": str(tmp_path), "run_name": "small"})


def folder_of(config: Config) -> RunFolder:
    return RunFolder(config.run.outputs_root, config.run.run_name)


def assert_same_weights(config: Config, other: Config) -> None:
    """Of the last checkpoints of two runs, bit by bit."""
    ours, others = (
        torch.load(folder_of(one).last_checkpoint, weights_only=True)["state_dict"]
        for one in (config, other)
    )
    assert all(torch.equal(ours[name], others[name]) for name in others)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_files(folder: Path) -> dict[str, int]:
    """Every file below a folder with its inode: equal if none was moved, replaced or written."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in paths}


def plan_scores(monkeypatch, planned):
    """Let epoch i report the val mean IoU `planned[i]`; everything else stays as counted."""
    calls = Counter()

    def counted_scores(confusion):
        calls["all"] += 1
        scores = scores_from_confusion(confusion)
        if calls["all"] % 2:  # each epoch counts train first, then val
            return scores
        return dataclasses.replace(scores, mean_iou=planned[calls["all"] // 2 - 1])

    monkeypatch.setattr(model_module, "scores_from_confusion", counted_scores)


class Crash(Exception):
    """What a run dies of in these tests."""


def train_until_crash(monkeypatch, config, splits, epoch):
    with monkeypatch.context() as patch:
        original = ClothingSegmenter.on_train_epoch_start

        def crash(module):
            if module.current_epoch == epoch:
                raise Crash
            original(module)

        patch.setattr(ClothingSegmenter, "on_train_epoch_start", crash)
        with pytest.raises(Crash):
            train(config, *splits, folder_of(config))


# --- learning rate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "schedule", "warmup", "expected"),
    [
        (0.0, "constant", 0.0, 1.0),  # no warm-up: all of it at once
        (1.0, "constant", 0.0, 1.0),
        (0.0, "constant", 0.1, 0.01),  # warm-up starts at next to nothing
        (0.05, "constant", 0.1, 0.5),
        (0.1, "constant", 0.1, 1.0),
        (0.0, "cosine", 0.0, 1.0),
        (0.5, "cosine", 0.0, 0.5),
        (0.25, "cosine", 0.0, 0.5 + 0.25 * math.sqrt(2)),
        (1.0, "cosine", 0.0, 0.0),
        (0.1, "cosine", 0.2, 0.5),  # in the warm-up
        (0.2, "cosine", 0.2, 1.0),  # at its end
        (0.6, "cosine", 0.2, 0.5),  # halfway through the rest
        (1.0, "cosine", 0.2, 0.0),
        (1.2, "cosine", 0.2, 0.0),  # a last step past the end does not rise again
    ],
)
def test_learning_rate_factor(progress, schedule, warmup, expected):
    config = TrainConfig(schedule=schedule, warmup_fraction=warmup)
    assert learning_rate_factor(progress, config) == pytest.approx(expected)


# --- what a training leaves behind ---------------------------------------------------------------


def test_result_matches_its_history(tiny_training):
    result = tiny_training.result
    scores = [row["val/mean_iou"] for row in result.history]
    assert result.epochs == 2
    assert result.steps == 4
    assert result.best_score == max(scores)
    assert result.best_epoch == scores.index(max(scores))
    assert result.reason == "epoch 2, its last, was done"
    assert result.seconds >= result.history[-1]["seconds"]  # checkpoints are written after it


def test_history_file_holds_the_history(tiny_training):
    with (tiny_training.run.logs_dir / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["step"] for row in rows] == ["2", "4"]
    others = {"epoch", "epochs_done", "step", "seconds", "learning_rate", "images_per_second"}
    assert set(rows[0]) == FIGURES | others
    assert float(rows[1]["val/loss"]) == tiny_training.result.history[1]["val/loss"]
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"])


def test_history_round_trip(tmp_path):
    history = [
        {"epoch": 0, "epochs_done": 0.5, "step": 2, "x": 0.1 + 0.2},
        {"epoch": 0, "epochs_done": 1, "step": 4, "x": math.inf},
    ]
    write_history(tmp_path / "history.csv", history)
    assert read_history(tmp_path / "history.csv") == history


def test_history_of_one_check_an_epoch_is_completed(tmp_path):
    """As versions wrote it that knew no other."""
    write_history(tmp_path / "history.csv", [{"epoch": 2, "step": 6}])
    assert read_history(tmp_path / "history.csv") == [{"epoch": 2, "epochs_done": 3, "step": 6}]


def test_tensorboard_shows_figures_and_panels(tiny_training):
    events = EventAccumulator(str(tiny_training.run.logs_dir), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    progress = {f"progress/{name}" for name in ("learning_rate", "images_per_second")}
    assert {tag for tag in tags["scalars"] if not tag.startswith("best/")} == FIGURES | progress
    assert sorted(tags["images"]) == [f"val_panels/{number}" for number in range(4)]
    assert [event.step for event in events.Scalars("val/mean_iou")] == [2, 4]
    assert [event.step for event in events.Images("val_panels/0")] == [2, 4]
    logged = [event.value for event in events.Scalars("val/loss")]
    expected = [row["val/loss"] for row in tiny_training.result.history]
    assert logged == pytest.approx(expected)


def test_training_killed_while_its_first_check_was_written_begins_anew(tiny_training, tmp_path):
    """`last.ckpt` is written last: without it there is nothing to go on with, nor to refuse for."""
    run = RunFolder(tmp_path, "small")
    run.checkpoints_dir.mkdir(parents=True)
    (run.checkpoints_dir / ".last-0123abcd-7-0123abcd.ckpt").touch()
    assert not resume_module.holds_training(run)
    shutil.copy(tiny_training.run.best_checkpoint, run.best_checkpoint)
    resume_module.check_wish(run, resume=False)
    with pytest.raises(ValueError, match=r"holds no training to go on with; .* without --resume"):
        resume_module.check_wish(run, resume=True)
    shutil.copy(tiny_training.run.last_checkpoint, run.last_checkpoint)
    with pytest.raises(ValueError, match="holds a training; expected a new run"):
        resume_module.check_wish(run, resume=False)


@pytest.mark.slow
def test_resumed_training_keeps_the_normalisation_that_it_began_with(
    monkeypatch, small_config, splits, capsys
):
    """A checkpoint of before names none; the encoder's own may be another one today."""
    config = replace_fields(small_config, {"max_epochs": 2})
    train_until_crash(monkeypatch, config, splits, epoch=1)
    assert "starts from weights: random" in capsys.readouterr().out
    run = folder_of(config)
    checkpoint = read_checkpoint(run.last_checkpoint)
    del checkpoint[CHECKPOINT_KEY]["normalization"]
    torch.save(checkpoint, run.last_checkpoint)
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for module in (train_module, model_module):
        monkeypatch.setattr(module, "encoder_normalization", lambda _: halves)
    train(config, *splits, run)
    out = capsys.readouterr().out
    assert "training goes on" in out
    assert "starts from" not in out
    assert load_segmenter(run.last_checkpoint, "cpu").normalization == IMAGENET
    anew = replace_fields(small_config, {"max_epochs": 1, "run_name": "anew"})
    train(anew, *splits, folder_of(anew))
    assert load_segmenter(folder_of(anew).best_checkpoint, "cpu").normalization == halves


def test_summary_says_where_the_encoder_started(tiny_training):
    assert read_json(tiny_training.run.training_path)["encoder"]["weights"] == "random"


def test_only_last_checkpoint_holds_optimizer_states(tiny_training):
    for path in tiny_training.run.checkpoints_dir.glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert ("optimizer_states" in checkpoint) == (path.name == "last.ckpt"), path.name


@pytest.mark.slow
def test_best_top_three_last_and_early_stopping(monkeypatch, small_config, splits):
    plan_scores(monkeypatch, [0.1, 0.4, 0.2, 0.3, 0.9])
    config = replace_fields(small_config, {"max_epochs": 5, "patience": 2})
    run = folder_of(config)
    result = train(config, *splits, run)
    assert result.reason == "val mIoU did not improve in 2 checks"
    assert (result.epochs, result.best_epoch, result.best_score) == (4, 1, 0.4)
    # One "best", one "last", the top three of four epochs, no "-v1" copies.
    assert names_in(run.checkpoints_dir) == [
        "best.ckpt",
        "epoch=001-miou=0.4000.ckpt",
        "epoch=002-miou=0.2000.ckpt",
        "epoch=003-miou=0.3000.ckpt",
        "last.ckpt",
        "training.json",
    ]
    best = torch.load(run.best_checkpoint, weights_only=True)
    same_epoch = torch.load(run.checkpoints_dir / "epoch=001-miou=0.4000.ckpt", weights_only=True)
    assert best["epoch"] == 1
    for name, value in best["state_dict"].items():
        assert torch.equal(value, same_epoch["state_dict"][name]), name
    assert torch.load(run.last_checkpoint, weights_only=True)["epoch"] == 3


# --- going on, and starting anew -----------------------------------------------------------------


def train_until_killed(config: Config, epoch: int, batch: int, seconds_between: float) -> None:
    """Train in a process that kills itself in a step: nothing can clean up after it.

    Args:
        config: the run's settings.
        epoch: of the step, from 0.
        batch: of the epoch, from 0.
        seconds_between: at the most two `last.ckpt` within a check.
    """
    config_path = folder_of(config).path / "config.json"
    write_json(config_path, config.model_dump())
    script = f"""
        import datetime, json, os, signal, sys
        from pathlib import Path
        import torch
        from clothseg_utils.core.config import Config
        from clothseg_utils.data.splits import load_split
        from clothseg_utils.training import train
        from clothseg_utils.training.module import ClothingSegmenter
        from clothseg_utils.core.runs import RunFolder

        torch.set_num_threads(1)
        train.CHECKPOINT_INTERVAL = datetime.timedelta(seconds={seconds_between})
        config = Config.model_validate(json.loads(Path(sys.argv[1]).read_text()))
        run = RunFolder(config.run.outputs_root, config.run.run_name)
        step = ClothingSegmenter.training_step

        def dying_step(module, batch, batch_idx):
            if (module.current_epoch, batch_idx) == ({epoch}, {batch}):
                assert run.last_checkpoint.exists()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(module, batch, batch_idx)

        ClothingSegmenter.training_step = dying_step
        with run.lock():
            splits = [load_split(config.data, split) for split in ("train", "val")]
            train.train(config, *splits, run)
    """
    script = "\n".join(line.removeprefix(" " * 8) for line in script.splitlines())
    child = subprocess.run(
        [sys.executable, "-c", script, str(config_path)],
        cwd=repo_root(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.slow
def test_killed_training_goes_on_where_it_stopped(small_config, splits, capsys):
    config = replace_fields(small_config, {"max_epochs": 3})
    run = folder_of(config)
    train_until_killed(config, epoch=1, batch=1, seconds_between=600)
    assert not run.training_path.exists()
    (killed_row,) = read_history(run.logs_dir / "history.csv")
    moved = replace_fields(config, {"mask_workers": 2})  # changes no result
    capsys.readouterr()
    with run.lock():  # the dead process holds it no more
        result = train(moved, *splits, run)
    assert capsys.readouterr().out.startswith("training goes on from last.ckpt, after 1 epoch\n")
    assert [row["epoch"] for row in result.history] == [0, 1, 2]
    assert [row["step"] for row in result.history] == [2, 4, 6]
    assert result.history[0] == killed_row
    assert killed_row["seconds"] < result.history[1]["seconds"] < result.history[2]["seconds"]
    assert read_history(run.logs_dir / "history.csv") == result.history
    assert result.reason == "epoch 3, its last, was done"
    assert not (run.path / "previous").exists()
    names = [name for name in names_in(run.checkpoints_dir) if name.endswith(".ckpt")]
    assert sum("best" in name for name in names) == 1
    assert sum("last" in name for name in names) == 1
    assert len(names) == 5


@pytest.mark.slow
def test_training_killed_within_a_check_ends_as_if_it_had_not_been(small_config, splits, capsys):
    """In its first epoch, which no check ended, of four batches and two steps."""
    fields = {"max_epochs": 2, "batch_size": 2, "accumulate": 2, "num_workers": 1}
    config = replace_fields(small_config, fields | {"schedule": "cosine"})
    whole = replace_fields(config, {"run_name": "whole"})
    expected = without_times(train(whole, *splits, folder_of(whole)).history)
    run = folder_of(config)
    train_until_killed(config, epoch=0, batch=3, seconds_between=0)
    assert names_in(run.checkpoints_dir) == ["last.ckpt"]
    capsys.readouterr()
    with run.lock():
        result = train(config, *splits, run)
    assert capsys.readouterr().out.startswith("training goes on from last.ckpt, after 0.5 epochs\n")
    assert [row["step"] for row in result.history] == [2, 4]
    assert without_times(result.history) == expected
    assert 0 < result.history[0]["seconds"] < result.history[1]["seconds"]
    assert_same_weights(config, whole)


@pytest.mark.slow
def test_training_that_goes_on_is_unfinished_from_its_next_checkpoint(
    monkeypatch, capsys, finished, splits
):
    """Two epochs, three asked for, cut within the third: with no new check in history.csv yet."""
    monkeypatch.setattr(train_module, "CHECKPOINT_INTERVAL", datetime.timedelta(0))
    longer = replace_fields(finished, {"max_epochs": 3})
    run = folder_of(finished)
    step = ClothingSegmenter.training_step

    def failing_step(module, batch, batch_idx):
        if batch_idx == 1:
            raise Crash
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClothingSegmenter, "training_step", failing_step)
        with pytest.raises(Crash):
            train(longer, *splits, run)
    assert not run.training_path.exists()
    with pytest.raises(ValueError, match=r"has 2\.5 epochs done and train\.max_epochs is 2"):
        train(finished, *splits, run)
    capsys.readouterr()
    assert [row["step"] for row in train(longer, *splits, run).history] == [2, 4, 6]
    assert "goes on from last.ckpt, after 2.5 epochs\n" in capsys.readouterr().out


def test_keyboard_interrupt_arrives_and_leaves_the_signal_on(monkeypatch, small_config, splits):
    # Lightning alone turns it into sys.exit(1), and ignores further ones meanwhile.
    handler = signal.getsignal(signal.SIGINT)
    original = ClothingSegmenter.on_train_epoch_start

    def interrupt(module):
        if module.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        original(module)

    monkeypatch.setattr(ClothingSegmenter, "on_train_epoch_start", interrupt)
    config = replace_fields(small_config, {"max_epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        train(config, *splits, folder_of(config))
    assert signal.getsignal(signal.SIGINT) is handler
    assert folder_of(config).last_checkpoint.exists()


@pytest.fixture
def finished(tiny_training, tmp_path):
    """The finished training once more, by hard links: replace its files, never write into them."""
    config = replace_fields(tiny_training.config, {"outputs_root": str(tmp_path)})
    shutil.copytree(tiny_training.run.path, folder_of(config).path, copy_function=os.link)
    return config


def forbid_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(pl.Trainer, "fit", refuse)


def stop_at_fit(monkeypatch):
    """Let training end where it would begin: what comes before is what is tested."""

    def stop(*args, **kwargs):
        raise Crash

    monkeypatch.setattr(pl.Trainer, "fit", stop)


def test_a_machine_with_half_of_mpi_trains(monkeypatch, tmp_path, small_config, splits):
    """mpi4py without MPI's own library: Lightning would ask it how many processes there are."""
    package = tmp_path / "site" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(mpi, "_MPI4PY_AVAILABLE", True)  # found out once a process
    with pytest.raises(RuntimeError, match="cannot load MPI library"):
        pl.Trainer(logger=False)
    stop_at_fit(monkeypatch)
    with pytest.raises(Crash):
        train(small_config, *splits, folder_of(small_config))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_out_of_memory_names_the_batch(monkeypatch, small_config, splits, error, is_memory):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pl.Trainer, "fit", fail)
    with pytest.raises(ValueError if is_memory else RuntimeError) as caught:
        train(small_config, *splits, folder_of(small_config))
    assert ("train.batch_size 4" in str(caught.value)) == is_memory
    assert (caught.value is error) != is_memory


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_network_is_compiled_once_for_the_photos_size_alone(monkeypatch, small_config, splits):
    """For any size would be slower, and each further graph takes minutes."""
    graphs = []

    def count(graph, inputs):
        graphs.append([value for value in inputs if isinstance(value, torch.SymInt)])
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile_module(self, backend=count)
    )
    torch._dynamo.reset()
    config = replace_fields(small_config, {"compile_network": True})
    train(config, *splits, folder_of(config))
    assert graphs == [[]]


def test_finished_training_returns_at_once(monkeypatch, capsys, tiny_training, finished, splits):
    forbid_training(monkeypatch)
    result = train(finished, *splits, folder_of(finished))
    assert result.history == tiny_training.result.history
    assert result.best_checkpoint == folder_of(finished).best_checkpoint
    for field in ("best_score", "best_epoch", "epochs", "steps", "seconds", "reason"):
        assert getattr(result, field) == getattr(tiny_training.result, field), field
    assert capsys.readouterr().out == "already trained with these settings\n"


def test_settings_that_came_and_went_since_do_not_hurt(monkeypatch, capsys, finished, splits):
    """A checkpoint of before has `resized_side`, which is gone, and not yet `focal_form`."""
    forbid_training(monkeypatch)
    run = folder_of(finished)
    for path in (run.last_checkpoint, run.best_checkpoint):
        checkpoint = read_checkpoint(path)
        checkpoint[CHECKPOINT_KEY]["config"]["data"]["resized_side"] = 0
        del checkpoint[CHECKPOINT_KEY]["config"]["loss"]["focal_form"]
        path.unlink()
        torch.save(checkpoint, path)
    train(finished, *splits, run)
    assert capsys.readouterr().out == "already trained with these settings\n"
    assert load_segmenter(run.best_checkpoint, "cpu").image_size == finished.data.image_size


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 0.5}, "train.learning_rate was 0.001 and is 0.5"),
        ({"dice_weight": 0.25}, "loss.dice_weight was 0.5 and is 0.25"),
        ({"flip_probability": 0.0}, "augment.flip_probability was 0.5 and is 0.0"),
        ({"resize": "squash"}, "data.resize was 'letterbox' and is 'squash'"),
        ({"max_epochs": 1}, "train.max_epochs was 2 and is 1"),
    ],
)
def test_changed_setting_starts_a_finished_training_anew(
    monkeypatch, capsys, finished, splits, changes, reason
):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    before = all_files(run.path)
    with pytest.raises(Crash):
        train(replace_fields(finished, changes), *splits, run)
    note = f"training starts anew: {reason}; the former one is in previous/\n"
    assert capsys.readouterr().out.startswith(note)
    # It failed before its first checkpoint: the former training is where it was.
    assert all_files(run.path) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_epochs": 3}, "after 2 epochs, with train.max_epochs 3 instead of 2"),
        ({"patience": 9}, "after 2 epochs, with train.patience 9 instead of 6"),
    ],
)
def test_finished_training_goes_on_for_longer(monkeypatch, capsys, finished, splits, changes, told):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    before = all_files(run.path)
    with pytest.raises(Crash):
        train(replace_fields(finished, changes), *splits, run)
    assert capsys.readouterr().out.startswith(f"training goes on from last.ckpt, {told}\n")
    assert all_files(run.path) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.5}, ", train.learning_rate 0.5 instead of 0.001"),
        ({"max_epochs": 5}, "with train.max_epochs 5 instead of 2"),
        ({"max_minutes": 2.0}, ", train.max_minutes 2 instead of 0"),
        ({"num_workers": 1}, "train.max_epochs 3 instead of 2"),
        ({"precision": "32-true"}, "train.max_epochs 3 instead of 2"),
    ],
)
def test_training_that_was_cut_short_goes_on(monkeypatch, capsys, finished, splits, changes, told):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    run.training_path.unlink()
    with pytest.raises(Crash):
        train(replace_fields(finished, {"max_epochs": 3} | changes), *splits, run)
    note, _ = capsys.readouterr().out.splitlines()
    assert note.startswith("training goes on from last.ckpt, after 2 epochs, with ")
    assert told in note


@pytest.mark.parametrize(
    ("stored", "now", "expected"),
    [
        ({"max_minutes": 4.0}, {"max_minutes": 5.0}, True),
        ({"max_minutes": 4.0}, {"max_minutes": 4.0, "max_epochs": 99, "patience": 99}, False),
        ({"max_minutes": 4.0}, {"max_minutes": 0.0, "max_epochs": 51}, True),
        ({"max_minutes": 4.0}, {"max_minutes": 0.0, "max_epochs": 50}, False),
        ({"max_epochs": 5}, {"max_epochs": 6, "patience": 1}, True),
        ({"max_epochs": 5}, {"max_epochs": 4, "patience": 99}, False),
        ({"patience": 6}, {"patience": 7}, True),
        ({}, {}, False),
    ],
)
def test_longer_is_what_the_end_of_training_hangs_on(stored, now, expected):
    """By the clock neither epochs nor patience end a training."""
    before = TrainConfig(**{"max_minutes": 0.0} | stored)
    after = TrainConfig(**before.model_dump() | now)
    history = [{"epoch": 49}]
    state = {"config": {"train": before.model_dump()}, "history": history}
    assert resume_module._is_longer(Config(train=after), state) == expected


def test_fewer_epochs_than_are_done_are_refused(finished, splits):
    run = folder_of(finished)
    run.training_path.unlink()
    before = all_files(run.path)
    with pytest.raises(ValueError, match=r"has 2 epochs done and train\.max_epochs is 1"):
        train(replace_fields(finished, {"max_epochs": 1}), *splits, run)
    assert all_files(run.path) == before


def test_training_moved_aside_by_a_start_that_was_killed_is_moved_back(
    monkeypatch, capsys, finished, splits
):
    forbid_training(monkeypatch)
    run = folder_of(finished)
    before = all_files(run.path)
    aside = former_aside(run)
    aside.__enter__()  # and never left: SIGKILL
    run.logs_dir.mkdir()
    (run.logs_dir / "events.out").touch()
    assert "best.ckpt" in names_in(run.path / "previous" / "1" / "checkpoints")
    train(finished, *splits, run)
    assert capsys.readouterr().out == "already trained with these settings\n"
    assert all_files(run.path) == before


@pytest.mark.slow
def test_training_that_goes_on_is_unfinished_until_its_new_end(
    monkeypatch, capsys, finished, splits
):
    """Two epochs, five asked for, cut after the third: then two are fewer than are done."""
    longer = replace_fields(finished, {"max_epochs": 5})
    train_until_crash(monkeypatch, longer, splits, epoch=3)
    run = folder_of(finished)
    with pytest.raises(ValueError, match=r"has 3 epochs done and train\.max_epochs is 2"):
        train(finished, *splits, run)
    capsys.readouterr()
    result = train(replace_fields(longer, {"batch_size": 2}), *splits, run)
    assert "after 3 epochs, with train.batch_size 2 instead of 4\n" in capsys.readouterr().out
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3, 4]
    assert names_in(run.path) == ["checkpoints", "logs"]


@pytest.mark.slow
def test_resume_may_change_the_patience(monkeypatch, small_config, splits):
    plan_scores(monkeypatch, [0.4, 0.1])
    config = replace_fields(small_config, {"max_epochs": 9, "patience": 5})
    train_until_crash(monkeypatch, config, splits, epoch=2)
    plan_scores(monkeypatch, [0.1, 0.1, 0.1])
    result = train(replace_fields(config, {"patience": 2}), *splits, folder_of(config))
    assert (len(result.history), result.reason) == (3, "val mIoU did not improve in 2 checks")


def test_progress_goes_on_where_a_resume_makes_other_steps():
    """Eight of fifteen epochs are done in many steps; two devices make half as many an epoch."""
    clock = callbacks_module.TrainingClock(TrainConfig(max_minutes=0.0))
    trainer = SimpleNamespace(
        current_epoch=8, num_training_batches=50, max_epochs=15, global_step=800,
        estimated_stepping_batches=750,
    )  # fmt: skip
    assert clock.progress(trainer) == pytest.approx(8 / 15)


@pytest.mark.slow
def test_moved_run_folder_keeps_its_best_checkpoint(monkeypatch, finished, splits):
    """`finished` lies in another folder than that where it was trained."""
    run = folder_of(finished)
    best = read_checkpoint(run.best_checkpoint)
    plan_scores(monkeypatch, [0.0001])  # worse than both epochs before
    result = train(replace_fields(finished, {"max_epochs": 3}), *splits, run)
    assert len(result.history) == 3
    kept = read_checkpoint(run.best_checkpoint)
    assert kept["epoch"] == best["epoch"]
    assert len([name for name in names_in(run.checkpoints_dir) if "miou=" in name]) == 3


@pytest.mark.slow
def test_training_that_was_killed_at_its_very_end_is_ended(tiny_training, finished, splits):
    run = folder_of(finished)
    run.training_path.unlink()
    result = train(finished, *splits, run)
    assert result.history == tiny_training.result.history
    assert result.reason == tiny_training.result.reason


def test_changed_loss_starts_anew_even_if_cut_short(monkeypatch, capsys, finished, splits):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    run.training_path.unlink()
    with pytest.raises(Crash):
        train(replace_fields(finished, {"dice_weight": 0.25}), *splits, run)
    assert "starts anew: loss.dice_weight was 0.5 and is 0.25" in capsys.readouterr().out


def test_misspelt_encoder_leaves_the_former_training_where_it_is(finished, splits):
    run = folder_of(finished)
    before = names_in(run.checkpoints_dir)
    with pytest.raises(ValueError, match='unknown encoder_name "mit_b9"'):
        train(replace_fields(finished, {"encoder_name": "mit_b9"}), *splits, run)
    assert "best.ckpt" in before
    assert names_in(run.checkpoints_dir) == before


def test_other_photos_start_anew(monkeypatch, capsys, finished, splits):
    stop_at_fit(monkeypatch)
    train_split, val_split = splits
    fewer = dataclasses.replace(train_split, images=train_split.images[:4])
    with pytest.raises(Crash):
        train(finished, fewer, val_split, folder_of(finished))
    assert "starts anew: the data differ (train_images)" in capsys.readouterr().out


def with_pipeline(config, path, degrees):
    """The settings with a pipeline of one's own in place of our augmentation."""
    A.save(A.Compose([A.Rotate(degrees, p=1)]), path)
    return replace_fields(config, {"pipeline_file": str(path)})


def test_content_of_a_pipeline_file_decides_on_starting_anew_not_its_name(
    capsys, monkeypatch, finished, splits, tmp_path
):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    for path in (run.last_checkpoint, run.best_checkpoint):  # as if it had been trained with one
        checkpoint = read_checkpoint(path)
        with_pipeline(finished, tmp_path / "a.json", 10)
        checkpoint[CHECKPOINT_KEY]["data"]["pipeline"] = pipeline_text(tmp_path / "a.json")
        path.unlink()
        torch.save(checkpoint, path)
    train(with_pipeline(finished, tmp_path / "b.json", 10), *splits, run)
    assert capsys.readouterr().out == "already trained with these settings\n"
    for other in (with_pipeline(finished, tmp_path / "a.json", 11), finished):
        with pytest.raises(Crash):
            train(other, *splits, run)
        assert "starts anew: augment.pipeline_file holds another" in capsys.readouterr().out


def test_pipeline_that_cannot_train_leaves_the_former_training_where_it_is(
    finished, splits, tmp_path
):
    run, path = folder_of(finished), tmp_path / "crop.json"
    before = names_in(run.checkpoints_dir)
    A.save(A.Compose([A.RandomCrop(5000, 5000)]), path)
    with pytest.raises(ValueError, match=r"crop\.json fails on a photo of"):
        train(replace_fields(finished, {"pipeline_file": str(path)}), *splits, run)
    assert names_in(run.checkpoints_dir) == before


@pytest.mark.slow
def test_training_anew_keeps_the_former_ones(monkeypatch, capsys, finished, splits):
    monkeypatch.setattr(train_module, "is_attended", lambda: False)
    run = folder_of(finished)
    former = all_files(run.checkpoints_dir)
    for number in ("1", "3"):
        (run.path / "previous" / number).mkdir(parents=True)
        (run.path / "previous" / number / "older.txt").touch()
    config = replace_fields(finished, {"max_epochs": 1})
    result = train(config, *splits, run)
    assert result.epochs == 1
    assert names_in(run.path / "previous") == ["1", "3", "4"]
    assert names_in(run.path / "previous" / "3") == ["older.txt"]
    assert all_files(run.path / "previous" / "4" / "checkpoints") == former
    assert len([name for name in names_in(run.checkpoints_dir) if "epoch=" in name]) == 1
    printed = capsys.readouterr()  # the note, what trains and from where, then epochs
    note, about, start, line = printed.out.splitlines()
    assert note.startswith("training starts anew: train.max_epochs was 2 and is 1; ")
    assert about.startswith("training on 1 x CPU")
    assert start.endswith("starts from weights: random; licence: none (they began at random)")
    assert re.fullmatch(r"epoch +1  step +2 .* val mIoU 0\.\d{4}  val F1 0\.\d{4}", line)
    assert printed.err == ""
    train(config, *splits, run)
    assert capsys.readouterr().out == "already trained with these settings\n"


@pytest.mark.parametrize(
    "changed",
    ["training/losses.py", "training/train.py", "network/unet.py", "data/photos.py"],
)
def test_finished_training_of_changed_code_starts_anew(
    monkeypatch, capsys, finished, splits, code_copy, changed
):
    stop_at_fit(monkeypatch)
    path = code_copy / changed
    path.write_text(path.read_text() + "# a comment\n")
    with pytest.raises(Crash):
        train(finished, *splits, folder_of(finished))
    assert "starts anew: the code of training changed since" in capsys.readouterr().out


def test_finished_training_outlasts_changed_figures_and_logs(
    monkeypatch, capsys, finished, splits, code_copy
):
    stop_at_fit(monkeypatch)
    figures = list((code_copy / "pictures").glob("*.py"))
    for path in [*figures, code_copy / "training" / "live.py", code_copy / "core" / "text.py"]:
        path.write_text(path.read_text() + "# a comment\n")
    train(finished, *splits, folder_of(finished))
    assert capsys.readouterr().out == "already trained with these settings\n"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "no readable last.ckpt"),
        ("truncated", "no readable last.ckpt"),
        ("best", "last.ckpt holds weights alone"),
    ],
)
def test_last_checkpoint_that_nothing_can_go_on_from(
    monkeypatch, capsys, finished, splits, damage, reason
):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    beginning = run.last_checkpoint.read_bytes()[:1000]
    run.last_checkpoint.unlink()
    if damage == "truncated":
        run.last_checkpoint.write_bytes(beginning)
    elif damage == "best":
        shutil.copy(run.best_checkpoint, run.last_checkpoint)
    before = all_files(run.path)
    with pytest.raises(ValueError, match=f"cannot go on: {reason}; expected .* its weights: ") as e:
        train(finished, *splits, run, resume_only=True)
    assert str(e.value).endswith(f"--set train.init_from={run.best_checkpoint}.")
    assert all_files(run.path) == before
    with pytest.raises(Crash):
        train(finished, *splits, run)
    assert f"starts anew: {reason}" in capsys.readouterr().out
    assert all_files(run.path) == before


# --- resume alone --------------------------------------------------------------------------------


LONGER = "; expected a longer training, as this one is finished (2 epochs, "


@pytest.mark.parametrize(
    ("is_finished", "changes", "reason"),
    [
        (True, {"image_size": 64}, "data.image_size was 32 and is 64; expected the settings and"),
        (False, {"dice_weight": 0.25}, "loss.dice_weight was 0.5 and is 0.25"),
        (False, {"weight_decay": 0.5}, "train.weight_decay was 0.01 and is 0.5"),
        (True, {"seed": 1, "max_epochs": 5, "learning_rate": 0.5}, "on: train.seed was 0 and is 1"),
        (False, {"seed": 1, "resize": "squash"}, "'squash'; train.seed was 0 and is 1; expected"),
        # Where it is not finished these go on.
        (True, {"learning_rate": 0.5}, f"train.learning_rate was 0.001 and is 0.5{LONGER}"),
        (True, {"batch_size": 2}, f"train.batch_size was 4 and is 2{LONGER}"),
        (True, {"max_epochs": 1}, f"train.max_epochs was 2 and is 1{LONGER}"),
    ],
)
def test_resume_refuses_what_it_cannot_go_on_with(
    monkeypatch, finished, splits, is_finished, changes, reason
):
    forbid_training(monkeypatch)
    run = folder_of(finished)
    if not is_finished:
        run.training_path.unlink()
    before = all_files(run.path)
    with pytest.raises(ValueError, match="cannot go on: ") as caught:
        train(replace_fields(finished, changes), *splits, run, resume_only=True)
    assert reason in str(caught.value)
    assert f"--run-name NEW --set train.init_from={run.best_checkpoint}" in str(caught.value)
    assert all_files(run.path) == before


def test_another_encoder_is_not_sent_to_weights_that_do_not_fit(finished, splits):
    changed = replace_fields(finished, {"encoder_name": "resnet18"})
    with pytest.raises(ValueError, match=r"'mit_b0' and is 'resnet18'; .* by --run-name") as caught:
        train(changed, *splits, folder_of(finished), resume_only=True)
    assert "init_from" not in str(caught.value)


def test_other_classes_and_data_are_named(finished, splits):
    train_split, val_split = splits
    names = (*train_split.classes.names[:-1], "cape")
    classes = dataclasses.replace(train_split.classes, names=names)
    fewer = dataclasses.replace(train_split, images=train_split.images[:4], classes=classes)
    message = r"the classes differ \(gone: wholebody; new: cape\); the data differ \(train_images\)"
    with pytest.raises(ValueError, match=message):
        train(finished, fewer, val_split, folder_of(finished), resume_only=True)


def test_resume_does_not_begin(monkeypatch, small_config, splits):
    forbid_training(monkeypatch)
    with pytest.raises(ValueError, match='run "small" holds no training to go on with'):
        train(small_config, *splits, folder_of(small_config), resume_only=True)
    assert not folder_of(small_config).path.exists()


def test_other_code_does_not_keep_a_training_from_going_on(
    monkeypatch, capsys, finished, splits, code_copy
):
    path = code_copy / "training" / "losses.py"
    path.write_text(path.read_text() + "# a comment\n")
    stop_at_fit(monkeypatch)
    train(finished, *splits, folder_of(finished), resume_only=True)
    assert capsys.readouterr().out == "already trained with these settings, by other code\n"
    longer = replace_fields(finished, {"max_epochs": 3})
    with pytest.raises(Crash):
        train(longer, *splits, folder_of(finished), resume_only=True)
    assert "training goes on from last.ckpt" in (out := capsys.readouterr().out)
    assert "changed code" in out


@pytest.mark.parametrize(
    ("minutes", "now", "message"),
    [
        (4.0, {"max_minutes": 0.25}, r"0\.5 minutes done and train\.max_minutes is 0\.25"),
        (4.0, {"max_minutes": 0.75}, None),
        (4.0, {"max_minutes": 0.0, "max_epochs": 1}, r"2 epochs done and train\.max_epochs is 1"),
        (4.0, {"max_minutes": 0.0, "max_epochs": 3}, None),
        (0.25, {"max_minutes": 0.25}, None),  # it was killed at its very end
    ],
)
def test_training_by_the_clock_goes_on_for_what_is_left(
    monkeypatch, finished, splits, minutes, now, message
):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    run.training_path.unlink()
    checkpoint = read_checkpoint(run.last_checkpoint)
    checkpoint[CHECKPOINT_KEY]["config"]["train"]["max_minutes"] = minutes
    checkpoint[CHECKPOINT_KEY]["history"][-1]["seconds"] = 30.0
    run.last_checkpoint.unlink()
    torch.save(checkpoint, run.last_checkpoint)
    with pytest.raises(ValueError if message else Crash, match=message):
        train(replace_fields(finished, now), *splits, run, resume_only=True)


@pytest.fixture
def begun_with(tiny_training, finished, tmp_path):
    """Files a, its copy b and another c; as if the training had begun with the first."""
    run = folder_of(finished)
    paths = [tmp_path / name for name in ("a.ckpt", "b.ckpt", "c.ckpt")]
    for path in paths:
        shutil.copy(tiny_training.run.best_checkpoint, path)
    torch.save(read_checkpoint(paths[2]) | {"note": "another file"}, paths[2])
    for path in (run.last_checkpoint, run.best_checkpoint):
        checkpoint = read_checkpoint(path)
        checkpoint[CHECKPOINT_KEY]["config"]["train"]["init_from"] = str(paths[0])
        checkpoint[CHECKPOINT_KEY]["data"]["init_from"] = sha256_file(paths[0])
        path.unlink()
        torch.save(checkpoint, path)
    return paths


def test_content_of_init_from_decides_on_going_on_not_its_name(
    monkeypatch, capsys, finished, splits, begun_with
):
    stop_at_fit(monkeypatch)
    run = folder_of(finished)
    train(replace_fields(finished, {"init_from": str(begun_with[1])}), *splits, run)
    assert capsys.readouterr().out == "already trained with these settings\n"
    for other in (str(begun_with[2]), ""):
        with pytest.raises(Crash):
            train(replace_fields(finished, {"init_from": other}), *splits, run)
        told = f"starts anew: train.init_from was '{begun_with[0]}' and is '{other}'"
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "is_gone", "goes_on"),
    [
        (None, False, True),  # what last.ckpt began with counts
        (None, True, True),
        (0, True, True),
        (1, False, True),  # the same weights by another name
        (1, True, False),
        (2, False, False),
    ],
)
def test_resume_needs_neither_init_from_nor_its_file(
    monkeypatch, finished, splits, begun_with, number, is_gone, goes_on
):
    stop_at_fit(monkeypatch)
    given = "" if number is None else str(begun_with[number])
    if is_gone:
        for path in begun_with:
            path.unlink()
    asked = replace_fields(finished, {"init_from": given, "max_epochs": 3})
    difference = f"train.init_from was '{begun_with[0]}' and is '{given}'"
    with pytest.raises(
        Crash if goes_on else ValueError, match=None if goes_on else re.escape(difference)
    ):
        train(asked, *splits, folder_of(finished), resume_only=True)


def test_resume_does_not_take_other_weights_of_the_same_name(finished, splits, begun_with):
    shutil.copy(begun_with[2], begun_with[0])
    asked = replace_fields(finished, {"init_from": str(begun_with[0])})
    with pytest.raises(ValueError, match=r"a\.ckpt holds other weights than it did; expected"):
        train(asked, *splits, folder_of(finished), resume_only=True)


def test_weights_that_do_not_fit_leave_the_former_training_where_it_is(finished, splits, tmp_path):
    run, path = folder_of(finished), tmp_path / "net.pt"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    before = all_files(run.path)
    with pytest.raises(ValueError, match="has 0 of the"):
        train(replace_fields(finished, {"init_from": str(path)}), *splits, run)
    assert all_files(run.path) == before


# --- by the clock --------------------------------------------------------------------------------


class StepClock:
    """A clock that only optimisation moves: 12 seconds a step."""

    def __init__(self, monkeypatch, start):
        self.now = start
        step = ClothingSegmenter.training_step

        def timed_step(module, batch, batch_idx):
            self.now += 12.0
            return step(module, batch, batch_idx)

        monkeypatch.setattr(ClothingSegmenter, "training_step", timed_step)
        fake_time = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(callbacks_module, "time", fake_time)


@pytest.fixture
def clock_config(small_config):
    """One minute is five steps of 12 seconds: two epochs of two, and one step of the third."""
    fields = {"max_minutes": 1.0, "patience": 1, "warmup_fraction": 0.0, "schedule": "cosine"}
    return replace_fields(small_config, fields)


@pytest.mark.slow
def test_clock_ends_training_inside_an_epoch(monkeypatch, clock_config, splits):
    plan_scores(monkeypatch, [0.5, 0.4, 0.3])  # early stopping with patience 1 would end it
    StepClock(monkeypatch, start=500.0)
    result = train(clock_config, *splits, folder_of(clock_config))
    assert result.reason == "its time, 1 min, was up"
    assert [row["step"] for row in result.history] == [2, 4, 5]  # the last one is validated too
    assert [row["seconds"] for row in result.history] == [24.0, 48.0, 60.0]
    assert (result.steps, result.seconds, result.epochs) == (5, 60.0, 3)
    assert result.history[-1]["val/mean_iou"] == 0.3
    # The rate of a step follows the time before it: 12, 36 and 48 of 60 seconds.
    rates = [row["learning_rate"] / 1e-3 for row in result.history]
    expected = [0.5 * (1 + math.cos(math.pi * share)) for share in (0.2, 0.6, 0.8)]
    assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_clock_is_kept_across_a_resume(monkeypatch, clock_config, splits):
    StepClock(monkeypatch, start=500.0)
    train_until_crash(monkeypatch, clock_config, splits, epoch=1)  # after 24 seconds
    StepClock(monkeypatch, start=9000.0)  # the time in between does not count
    result = train(clock_config, *splits, folder_of(clock_config))
    assert [row["step"] for row in result.history] == [2, 4, 5]
    assert [row["seconds"] for row in result.history] == [24.0, 48.0, 60.0]


# --- seeds and precision -------------------------------------------------------------------------


def without_times(history):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in history
    ]


@pytest.mark.slow
def test_interrupted_training_ends_as_if_it_had_not_stopped(monkeypatch, small_config, splits):
    """Eight photos in steps of three: checks differ in length, and a worker loads ahead."""
    fields = {"max_epochs": 3, "checks_per_epoch": 2, "batch_size": 3, "num_workers": 1}
    config = replace_fields(small_config, fields | {"epoch_images": 8})
    whole = replace_fields(config, {"run_name": "whole"})
    expected = without_times(train(whole, *splits, folder_of(whole)).history)
    assert [row["step"] for row in expected] == [1, 2, 4, 5, 6, 8]
    train_until_crash(monkeypatch, config, splits, epoch=4)
    assert without_times(train(config, *splits, folder_of(config)).history) == expected
    assert_same_weights(config, whole)


@pytest.mark.slow
def test_same_seed_same_result(small_config, splits):
    results, weights = [], []
    for run_name, seed in (("a", 3), ("b", 3), ("c", 4)):
        config = replace_fields(small_config, {"run_name": run_name, "seed": seed, "max_epochs": 1})
        run = folder_of(config)
        results.append(without_times(train(config, *splits, run).history))
        weights.append(torch.load(run.last_checkpoint, weights_only=True)["state_dict"])
    assert results[0] == results[1]
    assert results[0] != results[2]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("asked", "has_cuda", "has_bf16", "expected"),
    [
        ("auto", True, True, "16-mixed"),
        ("auto", False, True, "bf16-mixed"),
        ("auto", False, False, "32-true"),
        ("32-true", True, True, "32-true"),  # what the user says wins
        ("bf16-mixed", False, False, "bf16-mixed"),
        ("16-mixed", True, False, "16-mixed"),
    ],
)
def test_precision(monkeypatch, small_config, asked, has_cuda, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    chosen = {}
    monkeypatch.setattr(pl, "Trainer", lambda **options: chosen.update(options))
    config = replace_fields(small_config, {"precision": asked})
    clock = callbacks_module.TrainingClock(config.train)
    train_module._build_trainer(config, folder_of(config), clock, "synthetic")
    assert chosen["precision"] == expected
