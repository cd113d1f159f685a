"""Tests of `workflow.sweep`: the grid, what failures and repetitions do, the leaderboard.

A stand-in for the pipeline leaves the scores of a run; the real one runs in a slow test.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import NOT_COUNTED
from hostile import HOSTILE, show_in_browser

from clothseg_utils.core.config import Config, profile_config, replace_fields
from clothseg_utils.core.files import read_json, write_json
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import printable
from clothseg_utils.scores.evaluation import Evaluation, write_evaluation
from clothseg_utils.workflow import leaderboard, sweep
from clothseg_utils.workflow.pipeline import NotebookFailedError
from clothseg_utils.workflow.sweep import expand_grid, plan_sweep, run_sweep

DRAW_PICTURE = leaderboard._picture

# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["a.b=1,2"], [["a.b=1"], ["a.b=2"]]),
        (["a.b=1, 2 ", "c.d=x"], [["a.b=1", "c.d=x"], ["a.b=2", "c.d=x"]]),
        # The last one runs fastest.
        (
            ["a.b=1,2", "c.d=x,y"],
            [["a.b=1", "c.d=x"], ["a.b=1", "c.d=y"], ["a.b=2", "c.d=x"], ["a.b=2", "c.d=y"]],
        ),
        (['a.b="0.75,1.25",1.5'], [["a.b=0.75,1.25"], ["a.b=1.5"]]),  # a value with a comma
        (['a.b=,"1,2"'], [["a.b="], ["a.b=1,2"]]),  # an empty value
        (["a.b=", "c.d=x=1,y"], [["a.b=", "c.d=x=1"], ["a.b=", "c.d=y"]]),
    ],
)
def test_grid_is_every_combination(settings, expected):
    assert expand_grid(settings) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.seed"], '"train.seed" has no "="; expected section.field=v1,v2'),
        (["train.seed=1"], "no setting has several values; expected at least one such as"),
        ([], "no setting has several values"),
        (['train.seed=1,"2'], r"is not a list of values \(unexpected end of data\); expected"),
        (["train.seed=1\n2,3"], "not a list of values .*write it in one line"),
        (["a.b=1,2", "a.b =3"], r"a\.b is given twice; expected once, with all values"),
        (["run.run_name=a,b"], "a sweep names its runs itself; use --name"),
    ],
)
def test_bad_grid_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        expand_grid(settings)


def configs(**values: list) -> list[Config]:
    """One config per position of the lists."""
    rows = zip(*values.values(), strict=True)
    return [replace_fields(Config(), dict(zip(values, row, strict=True))) for row in rows]


def test_runs_are_named_after_what_they_differ_in():
    planned = plan_sweep(
        "lr", configs(learning_rate=["1e-3", "0.0001"], tta_flip=[False, True], seed=[7, 7])
    )
    assert [run.name for run in planned] == [
        "lr-learning_rate=0.001-tta_flip=false",
        "lr-learning_rate=0.0001-tta_flip=true",
    ]
    assert planned[1].describe() == "learning_rate=0.0001 tta_flip=true"
    assert planned[1].config.run.run_name == planned[1].name


def test_values_that_no_folder_name_holds_get_a_hash():
    planned = plan_sweep("x", configs(encoder_weights=["none", "my dir/a.pth", "my_dir/a.pth"]))
    names = [run.name for run in planned]
    assert names[0] == "x-encoder_weights=none"
    assert all(re.fullmatch(r"x-encoder_weights=my_dir_a\.pth-[0-9a-f]{8}", n) for n in names[1:])
    assert len(set(names)) == 3


def test_long_names_are_cut_and_stay_apart():
    planned = plan_sweep("x", configs(checkpoint=["a" * 150, "a" * 151]))
    assert [len(run.name) for run in planned] == [100, 100]
    assert planned[0].name != planned[1].name


def test_values_that_differ_past_the_sixth_digit_stay_apart():
    planned = plan_sweep("x", configs(learning_rate=["0.0012345671", "0.0012345672"]))
    assert [run.name[-12:] for run in planned] == ["0.0012345671", "0.0012345672"]


def test_names_fit_the_disk_in_any_script():
    planned = plan_sweep("x", configs(checkpoint=["衣" * 90, "衣" * 91]))
    assert [len(run.name.encode()) <= 200 for run in planned] == [True, True]
    with pytest.raises(ValueError, match=r"a sweep's name .* of 200 bytes at most"):
        plan_sweep("衣" * 90, configs(seed=[0, 1]))


def test_runs_with_the_same_settings_are_refused():
    with pytest.raises(ValueError, match="two runs would have the same settings; expected"):
        plan_sweep("x", configs(learning_rate=["1e-3", "0.001"]))
    with pytest.raises(ValueError, match=r"the same settings \(seed=1\); expected different"):
        plan_sweep("x", configs(seed=[1, 2, 1]))


# --- running -------------------------------------------------------------------------------------


def leave_scores(run: RunFolder, right: float, n_photos: int = 12, synthetic: bool = True) -> None:
    """Leave what notebooks 03 and 04 would: photos of which about the part `right` is found."""
    rng = np.random.default_rng(0)
    hits = (np.clip(right + rng.normal(0, 0.02, n_photos), 0, 1) * 100).astype(np.int64)
    confusions = np.stack([np.array([[h, 100 - h], [100 - h, h]]) for h in hits])
    total = confusions.sum(0)
    iou = float(total[0, 0] / (2 * total[0].sum() - total[0, 0]))
    evaluation = Evaluation(
        metrics={
            "mean_iou": iou,
            "macro_f1": 0.5,
            "pixel_accuracy": 0.25,
            "intervals": {"mean_iou": [iou - 0.01, iou + 0.01]},
            "strata": {
                "framing": [
                    {"stratum": name, "n": n_photos, "unit": "photo", "score": score}
                    | {"low": None, "high": None}
                    for name, score in (("upper half", 0.1), ("all halves", 0.125))
                ]
            },
            "source": f"synthetic, val, n = {n_photos} photos",
            "synthetic": synthetic,
        },
        image_ids=np.arange(n_photos),
        file_names=[f"{i}.jpg" for i in range(n_photos)],
        confusions=confusions,
        overlap_confusions=np.zeros_like(confusions),
        person_counts=np.full(n_photos, -1),
        instances=np.zeros((0, 8), np.int64),
        **dict.fromkeys(NOT_COUNTED, np.empty(0)),
        class_names=("background", "head"),
    )
    write_evaluation(run.path, evaluation)
    training = {"best_score": 0.3, "best_epoch": 1, "epochs": 2, "steps": 9, "seconds": 90.0}
    write_json(run.training_path, training | {"reason": "its end"})
    (run.report_dir).mkdir(exist_ok=True)
    (run.report_dir / "index.html").write_text("report")
    run.update_step("03_training", {"state": "done", "notebook_seconds": 100.0})


class Stand:
    """Stands for `run_pipeline`: scores follow from the seed and the learning rate."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], str | None]] = []
        self.broken: dict[int, BaseException] = {}
        self.n_photos = {0: 12}

    def __call__(self, config, only, *, say, sibling):
        run = RunFolder(config.run.outputs_root, config.run.run_name)
        self.calls.append((run.name, list(only), sibling and sibling.name))
        say("[1/5] running")
        seed = config.train.seed
        if seed in self.broken:
            raise self.broken[seed]
        right = 0.9 - 0.1 * seed - (config.train.learning_rate > 0.01) * 0.3
        leave_scores(run, right, self.n_photos.get(seed, 12))
        return run


@pytest.fixture
def stand(monkeypatch) -> Stand:
    stand = Stand()
    monkeypatch.setattr(sweep, "run_pipeline", stand)
    monkeypatch.setattr(
        leaderboard, "_picture", lambda fields, rows: []
    )  # drawing takes most of the time
    return stand


@pytest.fixture
def go(tmp_path, synthetic_root):
    """Run a sweep named "s" over fields; return its result. What was said is in `go.said`."""

    def call(only=(), name="s", base=None, **values):
        base = {"outputs_root": str(tmp_path / "out"), "data_root": str(synthetic_root)} | (
            base or {}
        )
        settings = [f"{field}={','.join(map(str, row))}" for field, row in values.items()]
        grid = [dict(s.split("=") for s in combination) for combination in expand_grid(settings)]
        planned = plan_sweep(name, [replace_fields(Config(), base | row) for row in grid])
        call.said = []
        return run_sweep(
            name,
            planned,
            only,
            command=["program", "sweep", "--set", "a=1 2", "--only", "03"],
            say=call.said.append,
        )

    return call


def read_rows(result) -> list[dict[str, str]]:
    with result.csv_path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_runs_in_its_own_folder(go, stand, tmp_path):
    result = go(seed=[0, 1], learning_rate=[0.001, 0.1], only=["03"])
    names = [
        "s-learning_rate=0.001-seed=0",
        "s-learning_rate=0.1-seed=0",
        "s-learning_rate=0.001-seed=1",
        "s-learning_rate=0.1-seed=1",
    ]
    # What the first run finds out about the data serves the others.
    assert stand.calls == [
        (name, ["03"], names[0] if index else None) for index, name in enumerate(names)
    ]
    assert result.done == tuple(names)
    assert result.failed == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "sweeps"}
    files = sorted(path.name for path in (tmp_path / "out" / "sweeps" / "s").iterdir())
    assert files == [".lock", "leaderboard.csv", "leaderboard.html", "sweep.json"]
    assert go.said[:2] == ["run 1 of 4: learning_rate=0.001 seed=0", "  [1/5] running"]
    assert go.said[2].startswith("  mIoU 0.8")


def test_leaderboard_ranks_the_runs_and_names_their_differences(go, stand):
    result = go(seed=[1, 0, 2])
    rows = read_rows(result)
    assert [(row["rank"], row["run_name"], row["seed"]) for row in rows] == [
        ("1", "s-seed=0", "0"),
        ("2", "s-seed=1", "1"),
        ("3", "s-seed=2", "2"),
    ]
    assert "learning_rate" not in rows[0]  # the runs do not differ in it
    best, second = rows[:2]
    assert float(best["mean_iou"]) == pytest.approx(0.8, abs=0.03)
    assert float(best["mean_iou_low"]) == pytest.approx(float(best["mean_iou"]) - 0.01)
    assert best["difference_to_best"] == ""
    difference = float(second["mean_iou"]) - float(best["mean_iou"])
    assert float(second["difference_to_best"]) == pytest.approx(difference)
    assert float(second["difference_low"]) <= difference <= float(second["difference_high"]) < 0
    assert (best["macro_f1"], best["pixel_accuracy"]) == ("0.5", "0.25")
    assert best["mean_iou_of_halves"] == "0.125"  # of all halves, which come last
    assert best["val_mean_iou_at_input_size"] == "0.3"
    times = [best[name] for name in ("epochs", "training_seconds", "total_seconds")]
    assert times == ["2", "90.0", "100.0"]
    assert result.best["run_name"] == "s-seed=0"


def test_failed_run_does_not_stop_the_others_and_is_listed(go, stand):
    stand.broken[1] = NotebookFailedError("no luck\ntoday", any_done=True)
    result = go(seed=[0, 1, 2])
    assert result.done == ("s-seed=0", "s-seed=2")
    assert result.failed == {"s-seed=1": "no luck today"}
    assert result.any_step_done
    last = read_rows(result)[-1]
    assert [last["run_name"], last["state"]] == ["s-seed=1", "failed"]
    assert last["failure"] == "no luck today"
    assert (last["rank"], last["mean_iou"]) == ("", "")
    assert "s-seed=1: no luck today" in result.html_path.read_text()
    assert "  failed: no luck today" in go.said


@pytest.mark.slow
def test_failures_and_settings_are_text_on_the_leaderboard(go, stand, tmp_path):
    stand.broken = {n: NotebookFailedError(t, any_done=True) for n, t in enumerate(HOSTILE)}
    folder = tmp_path / " ".join(HOSTILE[1:2] + HOSTILE[4:])
    folder.mkdir()
    result = go(base={"photos_dir": str(folder)}, seed=[*range(len(HOSTILE) + 2)])
    ((_, seen),) = show_in_browser([result.html_path]).items()
    assert (seen.hit, seen.scripts, seen.foreign) == (None, 0, [])
    assert "default-src 'none'" in seen.policy
    assert not re.search("[\x1b\u202e]", seen.text)
    assert printable(folder.name) in seen.text
    assert [text for text in HOSTILE if f": {printable(text)}" not in seen.text] == []


def test_any_kind_of_failure_is_listed(go, stand):
    stand.broken = {
        0: ValueError("run is in use"),
        1: RuntimeError("kernel"),
        2: OSError(28, "full"),
    }
    result = go(seed=[0, 1, 2])
    *said, disk = result.failed.values()
    assert said == ["run is in use", "kernel"]
    assert disk.startswith("the disk is full; expected room")
    assert (result.done, result.best, result.any_step_done) == ((), None, False)
    assert [row["state"] for row in read_rows(result)] == ["failed"] * 3


def test_scores_from_before_a_failure_are_not_shown(go, stand):
    go(seed=[0, 1])
    stand.broken[0] = ValueError("no luck")
    result = go(seed=[0, 1])
    assert [row["run_name"] for row in read_rows(result) if row["mean_iou"]] == ["s-seed=1"]


def test_interrupt_keeps_what_is_done(go, stand, tmp_path):
    stand.broken[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(seed=[0, 1, 2])
    folder = tmp_path / "out" / "sweeps" / "s"
    states = [entry["state"] for entry in read_json(folder / "sweep.json")["runs"].values()]
    assert states == ["done", "running", "waiting"]
    assert "1 done, 2 not begun" in (folder / "leaderboard.html").read_text()
    stand.broken.clear()
    assert len(go(seed=[0, 1, 2]).done) == 3


def test_larger_grid_adds_to_the_leaderboard(go, stand):
    go(seed=[0, 1])
    result = go(seed=[2, 3])
    assert [row["seed"] for row in read_rows(result)] == ["0", "1", "2", "3"]
    assert result.done == ("s-seed=2", "s-seed=3")
    # Another field varies: it becomes a column.
    result = go(learning_rate=[0.003, 0.1])
    assert {row["learning_rate"] for row in read_rows(result)} == {"0.002", "0.003", "0.1"}


def test_run_of_other_settings_is_not_replaced(go, stand, tmp_path):
    go(seed=[0, 1])
    calls = list(stand.calls)
    with pytest.raises(
        ValueError,
        match=r'sweep "s" has a run s-seed=0 with train\.batch_size 8; expected the same '
        r"settings, got 16\. Choose another --name",
    ):
        go(seed=[0, 1], base={"batch_size": 16})
    assert stand.calls == calls
    assert len(go(seed=[0, 1], base={"batch_size": 16}, name="other").done) == 2


def test_deleted_run_has_no_scores(go, stand, tmp_path):
    go(seed=[0, 1])
    shutil.rmtree(tmp_path / "out" / "s-seed=0")
    rows = read_rows(go(seed=[2, 3]))
    assert [row["run_name"] for row in rows if not row["mean_iou"]] == ["s-seed=0"]


def test_missing_data_are_named_before_anything_runs(go, stand, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data root"):
        go(seed=[0, 1], base={"data_root": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match='unknown notebook "09"'):
        go(seed=[0, 1], only=["09"])
    assert stand.calls == []
    assert not (tmp_path / "out").exists()


def test_broken_record_is_named(go, stand, tmp_path):
    folder = tmp_path / "out" / "sweeps" / "s"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sweep\.json: input should be a valid dictionary;"):
        go(seed=[0, 1])


# --- the page ------------------------------------------------------------------------------------


def test_page_links_to_the_reports_and_says_what_is_real(go, stand, monkeypatch, tmp_path):
    monkeypatch.setattr(leaderboard, "_picture", DRAW_PICTURE)
    html = go(seed=[0, 1], learning_rate=[0.001, 0.1]).html_path.read_text()
    name = "s-learning_rate=0.001-seed=0"
    address = name.replace("=", "%3D")
    assert f'<a href="../../{address}/report/index.html" title="{name}">1.</a>' in html
    assert "4 runs: 4 done." in html
    assert "drawn photos (synthetic)" in html
    assert ">worse</td>" in html
    assert "<strong>the best</strong></td>" in html
    assert "data:image/png;base64," in html
    command = "program sweep \\\n    --set 'a=1 2' \\\n    --only 03"
    assert f"<pre><code>{command}\n</code></pre>" in html  # to run it again
    assert str(tmp_path) not in html.replace(str(tmp_path / "out"), "")
    for section in ("Leaderboard", "Over seeds", "Settings"):
        assert f">{section}</h2>" in html
    assert ">Failures</h2>" not in html


def test_run_without_a_report_leads_to_its_scores(go, stand, tmp_path):
    go(seed=[0, 1])
    run = tmp_path / "out" / "s-seed=0"
    shutil.rmtree(run / "report")
    (run / "notebooks").mkdir()
    (run / "notebooks" / "04_metric_evaluation.html").touch()
    shutil.rmtree(tmp_path / "out" / "s-seed=1" / "report")
    rows = read_json(tmp_path / "out" / "sweeps" / "s" / "sweep.json")
    leaderboard.write_leaderboard(tmp_path / "out" / "sweeps" / "s", "s", rows)
    html = (tmp_path / "out" / "sweeps" / "s" / "leaderboard.html").read_text()
    assert re.findall('href="([^"#]+)"', html) == [
        "../../s-seed%3D0/notebooks/04_metric_evaluation.html"
    ]


def test_seeds_are_averaged_by_hand(go, stand):
    result = go(seed=[0, 1], learning_rate=[0.001, 0.1])
    html = result.html_path.read_text()
    table = html[html.index(">Over seeds</h2>") :]
    rows = re.findall(r"<tr>(\s*<td.*?)</tr>", table, re.S)[:2]
    first = re.findall(r">([^<>]*)</td>", rows[0])
    ranked = [row for row in read_rows(result) if row["learning_rate"] == "0.001"]
    scores = [float(row["mean_iou"]) for row in ranked]
    mean = sum(scores) / 2
    deviation = abs(scores[0] - scores[1]) / 2**0.5
    assert first[:4] == ["0.001", "2", f"{mean:.3f}", f"{deviation:.3f}"]


def test_other_photos_are_not_compared(go, stand):
    stand.n_photos = {0: 12, 1: 11}
    result = go(seed=[0, 1])
    assert read_rows(result)[1]["difference_to_best"] == ""
    assert ">not comparable</td>" in result.html_path.read_text()


def test_runs_that_cannot_be_told_apart_say_so(go, stand, monkeypatch):
    monkeypatch.setattr(Stand, "__call__", lambda self, config, only, *, say, sibling: same(config))

    def same(config):
        run = RunFolder(config.run.outputs_root, config.run.run_name)
        leave_scores(run, 0.8, synthetic=False)
        return run

    html = go(seed=[0, 1]).html_path.read_text()
    assert ">not told apart</td>" in html
    assert "1 other run is not told apart from it" in html
    assert "synthetic)" not in html.split("<table")[0].replace("(synthetic, val", "")


# --- with notebooks ------------------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_sweep_makes_masks_once_and_goes_on(synthetic_root, tmp_path):
    base = {
        "outputs_root": str(tmp_path / "outputs"),
        "derived_root": str(tmp_path / "derived"),
        "data_root": str(synthetic_root),
        "image_size": 32,
        "image_limit": 6,
        "max_epochs": 1,
        "trial_photos": 0,
        "mask_workers": 1,
    }
    config = replace_fields(profile_config("smoke"), base)
    planned = plan_sweep("s", [replace_fields(config, {"seed": seed}) for seed in (0, 1)])
    # Enough to see one run profit from the other; scores and reports are tested above.
    only = ("01", "02", "03")
    said: list[str] = []
    result = run_sweep("s", planned, only, say=said.append)
    assert result.failed == {}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "derived").rglob("*.png")}
    assert len(made) == 12
    assert any(
        "02_mask_rasterization: the same as in run s-seed=0, copied" in line for line in said
    )
    for run in planned:
        folder = RunFolder(tmp_path / "outputs", run.name)
        assert folder.best_checkpoint.is_file()
        assert (folder.figures_dir / "01_gallery.png").is_file()
        assert (folder.notebooks_dir / "01_data_exploration.html").is_file()
    assert [row["state"] for row in read_rows(result)] == ["done", "done"]

    said.clear()
    again = run_sweep("s", planned, only, say=said.append)
    assert again.done == result.done
    assert sum("unchanged, skipped" in line for line in said) == 6
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "derived").rglob("*.png")} == made
    assert json.loads((result.csv_path.parent / "sweep.json").read_text())["runs"].keys() == {
        run.name for run in planned
    }
    assert isinstance(result.csv_path, Path)
