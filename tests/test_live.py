"""What people watch while a network trains."""

from types import SimpleNamespace

import IPython.display
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clothseg_utils.core.config import replace_fields
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.training import live
from clothseg_utils.training import train as train_module
from clothseg_utils.training.live import (
    LiveCurves,
    LiveLine,
    PrintedLines,
    live_callbacks,
    log_precision_recall,
    time_left,
)
from clothseg_utils.training.train import train


class Bar:
    """Stands for tqdm's; remembers its texts."""

    def __init__(self, **options):
        self.total, self.n = options["total"], 0.0
        self.texts = []
        self.is_closed = False

    def set_description_str(self, text):
        self.texts.append(text)

    def close(self):
        self.is_closed = True


@pytest.fixture
def bars(monkeypatch):
    """Every bar that is made."""
    made = []
    monkeypatch.setattr(live, "progress_bar", lambda **o: made.append(Bar(**o)) or made[-1])
    monkeypatch.setattr(LiveLine, "seconds_between", 0.0)
    return made


def a_trainer(progress, **metrics):
    return SimpleNamespace(current_epoch=2, progress_bar_metrics=metrics, world_size=2)


def test_line_says_epoch_loss_score_pace_and_time_left(bars, monkeypatch):
    now = iter([100.0, 104.0])
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(now)))
    line = LiveLine(SimpleNamespace(seconds=30.0, progress=lambda trainer: 0.25), max_epochs=15)
    trainer = a_trainer(0.25, **{"val/mean_iou": 0.5})
    module = SimpleNamespace(latest_loss=torch.tensor(0.61234))
    line.on_train_start(trainer, None)
    line.on_train_epoch_start(trainer, None)
    line.on_train_batch_end(trainer, module, None, {"mask": torch.zeros(8, 4, 4)}, 0)
    # 8 photos on each of 2 devices in 4 seconds; a quarter took 30 seconds.
    text = "epoch 3/15, loss 0.612, val mIoU 0.500, 4.0 images/s, 01:30 left"
    assert bars[0].texts[-1] == text
    assert bars[0].n == 0.25
    line.on_validation_start(trainer, None)
    assert bars[0].texts[-1].endswith("4.0 images/s, validating")


def test_where_nobody_watches_a_line_is_printed_every_twenty_seconds(capsys, monkeypatch):
    now = iter([100.0, 100.0, 110.0, 121.0, 122.0, 141.9, 142.1])
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(now)))
    lines = PrintedLines(SimpleNamespace(seconds=30.0, progress=lambda trainer: 0.25), 15)
    module = SimpleNamespace(latest_loss=torch.tensor(0.61234))
    lines.on_train_start(a_trainer(0), None)
    lines.on_train_epoch_start(a_trainer(0), None)
    printed = []
    for _ in range(2):
        lines.on_train_batch_end(a_trainer(0), module, None, {"mask": torch.zeros(8, 4, 4)}, 0)
        printed.append(capsys.readouterr().out)
    lines.on_validation_start(a_trainer(0), None)
    lines.on_validation_end(a_trainer(0), None)  # a check has a line of its own
    for _ in range(2):
        lines.on_train_batch_end(a_trainer(0), module, None, {"mask": torch.zeros(8, 4, 4)}, 0)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[2] == ""
    assert printed[1] == "epoch 3/15, loss 0.612, 1.5 images/s, 01:30 left\n"
    assert printed[3].startswith("epoch 3/15, loss 0.612, ")


def test_line_by_the_clock_has_no_last_epoch(bars):
    line = LiveLine(SimpleNamespace(seconds=0.0, progress=lambda trainer: 0.0), max_epochs=0)
    line.on_train_start(a_trainer(0), None)
    line.on_validation_end(a_trainer(0), None)
    assert bars[0].texts[-1] == "epoch 3, ? left"


def test_finished_line_is_full_and_an_interrupted_one_is_not(bars):
    for ends in ("on_train_end", "on_exception"):
        line = LiveLine(SimpleNamespace(seconds=5.0, progress=lambda trainer: 0.5), max_epochs=4)
        line.on_train_start(a_trainer(0), None)
        line.on_validation_end(a_trainer(0), None)
        getattr(line, ends)(a_trainer(0), None, *[KeyboardInterrupt()] * (ends == "on_exception"))
    finished, interrupted = bars
    assert (finished.n, finished.is_closed) == (1.0, True)
    assert finished.texts[-1].endswith("done")
    assert (interrupted.n, interrupted.is_closed) == (0.5, True)


@pytest.mark.slow
def test_training_drives_the_line(bars, tiny_config, tiny_training, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "is_attended", lambda: True)
    config = replace_fields(tiny_config, {"outputs_root": str(tmp_path)})
    splits = tiny_training.train_split, tiny_training.val_split
    train(config, *splits, RunFolder(tmp_path, "line"))
    (bar,) = bars
    assert bar.texts[1].startswith("epoch 1/2, loss ")
    assert any("val mIoU" in text for text in bar.texts)
    assert bar.texts[-1].endswith("done")
    assert (bar.n, bar.is_closed) == (1.0, True)


@pytest.mark.parametrize(
    ("seconds", "progress", "expected"),
    [(30, 0.25, "01:30"), (3600, 0.5, "1:00:00"), (10, 1.0, "00:00"), (0, 0.5, "?"), (5, 0, "?")],
)
def test_time_left(seconds, progress, expected):
    assert time_left(seconds, progress) == expected


def test_curves_are_drawn_once_and_then_replaced(monkeypatch):
    shown, updated = [], []
    handle = SimpleNamespace(update=updated.append)
    monkeypatch.setattr(IPython.display, "display", lambda f, display_id: shown.append(f) or handle)
    row = {"train/loss": 0.5, "val/loss": 0.6, "val/mean_iou": 0.1, "val/macro_f1": 0.2}
    module = SimpleNamespace(history=[{"epochs_done": 1, **row}])
    curves = LiveCurves("synthetic")
    curves.on_validation_end(None, module)
    module.history.append({"epochs_done": 2, **row})
    curves.on_validation_end(None, module)
    assert [len(figures) for figures in (shown, updated)] == [1, 1]
    assert isinstance(updated[0], Figure)


def test_only_a_notebook_gets_curves():
    def kinds(**where):
        return [type(one) for one in live_callbacks(None, 3, "", checks=1, **where)]

    assert kinds(is_attended=True, in_notebook=True) == [LiveLine, LiveCurves]
    assert kinds(is_attended=True, in_notebook=False) == [LiveLine]
    assert kinds(is_attended=False, in_notebook=True) == [PrintedLines]


# --- precision and recall ------------------------------------------------------------------------


class OneProbability(torch.nn.Module):
    """Gives class 1 the probability that the photo's red channel says; class 2 none."""

    device = torch.device("cpu")
    classes = SimpleNamespace(num_classes=3, names=("background", "top, blouse", "never"))

    def forward(self, images):
        probability = images[:, 0].float() / 100
        rest = torch.zeros_like(probability)
        return torch.stack([1 - probability, probability, rest], dim=1).log()


def test_curve_takes_pixels_that_are_not_ignored():
    image = torch.tensor([[[95, 55, 15, 95]]] * 3, dtype=torch.uint8)
    mask = torch.tensor([[1, 0, 1, 255]], dtype=torch.uint8)
    written = {}
    writer = SimpleNamespace(
        add_pr_curve=lambda tag, labels, predictions, *rest: written.update(
            {tag: (labels.tolist(), predictions.tolist(), rest)}
        )
    )
    log_precision_recall(writer, OneProbability(), [{"image": image, "mask": mask}], step=7)
    assert list(written) == ["val_pr/background", "val_pr/top__blouse"]
    labels, probabilities, (step, _) = written["val_pr/top__blouse"]
    assert sorted(zip(probabilities, labels, strict=True)) == [
        (pytest.approx(0.15, rel=1e-3), True),
        (pytest.approx(0.55, rel=1e-3), False),
        (pytest.approx(0.95, rel=1e-3), True),
    ]
    assert step == 7


def test_curve_takes_the_same_few_pixels_of_each_photo_every_time(monkeypatch):
    monkeypatch.setattr(live, "PR_PIXELS", 5)
    image = torch.arange(99, dtype=torch.uint8).reshape(1, 9, 11).expand(3, -1, -1)
    photos = [{"image": image, "mask": (image[0] % 2)}] * 2
    drawn = []
    writer = SimpleNamespace(
        add_pr_curve=lambda tag, labels, predictions, *rest: drawn.append(predictions.tolist())
    )
    for _ in range(2):
        log_precision_recall(writer, OneProbability(), photos, step=7)
    assert drawn[:2] == drawn[2:]
    assert [len(probabilities) for probabilities in drawn] == [10] * 4
    assert len(set(drawn[0])) > 5  # not the same pixels of both photos


def test_curves_and_charts_are_in_the_log(tiny_training):
    events = EventAccumulator(str(tiny_training.run.logs_dir))
    events.Reload()
    curves = events.PluginTagToContent("pr_curves")
    assert "val_pr/background" in curves
    assert all(tag.startswith("val_pr/") for tag in curves)
    assert events.PluginTagToContent("custom_scalars")
    assert events.PluginTagToContent("hparams")
