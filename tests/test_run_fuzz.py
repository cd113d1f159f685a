"""Run folders with files lost, cut or replaced: what is broken is named, the rest goes on."""

import dataclasses
import json
import random
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from damage import break_json, contents, damage, examples
from hypothesis import given
from test_report import _evaluation, _make_full_run
from test_sweep import leave_scores

from clothseg_utils.core.config import Config, config_to_parameters, replace_fields
from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import sha256_file, write_json, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, check_info
from clothseg_utils.prediction.compact import join_to_coco
from clothseg_utils.report.report import write_report
from clothseg_utils.scores.compare import compare_runs
from clothseg_utils.scores.evaluation import boundary_metrics, calibration_metrics, write_evaluation
from clothseg_utils.training import resume
from clothseg_utils.workflow import leaderboard, pipeline, sweep

SEEDS = st.integers(0, 2**32)
SHOW_ALL = ("lost", "at", "other", "garbage", "cut")  # such a file may be whole, or none


def check_line(error: Exception, name: str = "") -> None:
    """It is one line that names the file and what to do."""
    line = fault_line(error) or str(error)
    assert name in line
    assert "\n" not in line
    assert "expected" in line or "restore" in line


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> RunFolder:
    """A run with all that the report reads."""
    run = _make_full_run(tmp_path_factory.mktemp("whole"))
    evaluation = _evaluation(sha256_file(run.best_checkpoint))
    rng = np.random.default_rng(0)
    evaluation = dataclasses.replace(
        evaluation,
        boundaries=rng.integers(1, 9, (2, 3, 4)),
        calibration=rng.uniform(1, 9, (2, 15, 3)),
        class_calibration=rng.uniform(1, 9, (4, 15, 3)),
    )
    more = {
        "boundary": boundary_metrics(evaluation, 100),
        "calibration": calibration_metrics(evaluation, 100),
        "rolled_up": None,
    }
    write_evaluation(run.path, dataclasses.replace(evaluation, metrics=evaluation.metrics | more))
    write_text(
        run.tables_dir / "05_disagreement.csv",
        "photo,disagreement,label_doubt,mean_iou\ngood.jpg,0.25,0.5,0.75\nbad.jpg,0.1,,\n",
    )
    write_text(
        run.tables_dir / "04_options.csv",
        "option,settings,n,mean_iou,macro_f1,gain,low,high,seconds,cost\n"
        "none,none,2,0.5,0.5,0.0,,,0.1,1.0\n",
    )
    return run


def test_a_report_names_what_is_broken_and_shows_the_rest(whole_run, tmp_path):
    names = sorted(contents(whole_run.path))

    @examples(14)
    @given(SEEDS)
    def check(seed):
        rng = random.Random(seed)
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
        shutil.copytree(whole_run.path, tmp_path / "r")
        run = RunFolder(tmp_path, "r")
        name = rng.choice([*names, *["metrics.json"] * 5])
        how, before = damage(run.path, name, rng), contents(run.path)
        try:
            written = write_report(run)
        except (OSError, ValueError) as error:
            check_line(error, "metrics.json")
            assert contents(run.path) == before
            return
        text = written.markdown.read_text()
        assert list(written.broken) in ([], [name])
        assert all("\n" not in why and name in why for why in written.broken.values())
        assert ("could not be used" in text) == bool(written.broken)
        if how not in SHOW_ALL and name not in ("metrics.json", "checkpoints/best.ckpt"):
            assert written.broken or not name.endswith(".png")
        assert contents(run.path).items() >= before.items()

    check()


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """A sweep of two finished runs."""
    monkeypatch.setattr(leaderboard, "_picture", lambda *_: None)
    monkeypatch.setattr(sweep.RunFolder, "update_step", _update_step)
    folder = tmp_path / "whole"
    runs = {}
    for seed in (0, 1):
        run = RunFolder(folder, f"s-seed={seed}")
        leave_scores(run, 0.5 + seed / 10)
        config = replace_fields(Config(), {"seed": seed, "outputs_root": str(tmp_path / "out")})
        runs[run.name] = {"parameters": config_to_parameters(config), "state": "done"}
        runs[run.name] |= {"failure": ""}
    write_json(folder / "sweeps" / "s" / "sweep.json", {"runs": runs, "command": ["x"]})
    return folder


def _update_step(run, step, entry):
    write_json(run.manifest_path, {"steps": {step: entry}})


def test_a_leaderboard_names_the_run_that_cannot_be_read(two_runs, tmp_path):
    broken, other = RunFolder(tmp_path / "out", "s-seed=0"), RunFolder(tmp_path / "out", "s-seed=1")
    names = ["metrics.json", "manifest.json", "checkpoints/training.json"]
    names += ["evaluation/per_image.npz"]

    @examples(30)
    @given(SEEDS)
    def check(seed):
        rng = random.Random(seed)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(two_runs, tmp_path / "out")
        name = rng.choice(names)
        how, before = damage(broken.path, name, rng), contents(tmp_path / "out")
        folder = tmp_path / "out" / "sweeps" / "s"
        rows = leaderboard.write_leaderboard(folder, "s", sweep._read_record(folder))
        rows_by_name = {row["run_name"]: row for row in rows}
        assert rows_by_name[other.name]["mean_iou"] is not None
        assert not rows_by_name[other.name]["failure"]
        failure = rows_by_name[broken.name]["failure"]
        assert "\n" not in failure
        assert failure or how in SHOW_ALL
        assert failure in (folder / "leaderboard.csv").read_text().replace('""', '"')
        for read in (
            lambda: compare_runs(broken, other),
            lambda: broken.check_data(Config().data.data_root, "--run-name"),
            lambda: pipeline.step_seconds(broken),
            lambda: sweep._score_line(broken),
        ):
            try:
                read()
            except (OSError, ValueError) as error:
                check_line(error)
        assert contents(tmp_path / "out").items() >= before.items()

    check()


def test_a_broken_record_of_a_sweep_is_refused(two_runs):
    folder = two_runs / "sweeps" / "s"
    whole = (folder / "sweep.json").read_bytes()

    @examples(60)
    @given(SEEDS)
    def check(seed):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "sweep.json").write_bytes(whole)
        damage(folder, "sweep.json", random.Random(seed))
        try:
            record = sweep._read_record(folder)
        except (OSError, ValueError) as error:
            check_line(error, "sweep.json")
            return
        if record["runs"]:
            leaderboard.write_leaderboard(folder, "s", record)

    check()


def test_a_state_that_is_broken_is_no_training_to_go_on_with(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, "r")
    write_text(run.last_checkpoint, "read by a stand-in")
    row = {"epoch": 0, "epochs_done": 1, "step": 3, "val/mean_iou": 0.1, "seconds": 5.0}
    info = {
        "config": Config().model_dump(),
        "class_names": ["background", "hat"],
        "data": {"train_images": 3},
        "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "history": [row, row | {"epoch": 1, "epochs_done": 2}],
    }
    longer = replace_fields(Config(), {"max_minutes": 9, "learning_rate": 0.1})

    @examples(150)
    @given(SEEDS, st.booleans(), st.sampled_from([Config(), longer]))
    def check(seed, resume_only, config):
        content = {CHECKPOINT_KEY: json.loads(json.dumps(info))}
        break_json(content, random.Random(seed))

        def read(path):
            check_info(path, content.get(CHECKPOINT_KEY))
            return content | {"optimizer_states": []}

        monkeypatch.setattr(resume, "read_checkpoint", read)
        names = ["background", "hat"]
        try:
            resume.plan_start(
                config, {"train_images": 3}, names, run, "code", resume_only=resume_only
            )
        except ValueError as error:
            check_line(error)
        assert list(contents(tmp_path)) == ["r/checkpoints/last.ckpt"]

    check()


def test_lines_of_predict_are_joined_whole_or_not_at_all(tmp_path):
    region = {"class_id": 1, "class_name": "hat", "area": 4, "bbox": [0.0, 0.0, 2.0, 2.0]}
    region |= {"segmentation": {"size": [5, 6], "counts": "63e0"}, "score": 0.5}
    photos = [
        {"file_name": f"{n}.jpg", "height": 5, "width": 6, "annotations": [region] * n}
        for n in range(3)
    ]

    @examples(100)
    @given(SEEDS)
    def check(seed):
        shutil.rmtree(tmp_path / "p", ignore_errors=True)
        lines = "".join(json.dumps(photo) + "\n" for photo in photos)
        write_text(tmp_path / "p" / "all.jsonl", lines)
        write_json(tmp_path / "p" / "all.predict.json", {"classes": ["background", "hat"]})
        rng = random.Random(seed)
        name = rng.choice(("all.jsonl", "all.predict.json"))
        how = damage(tmp_path / "p", name, rng)
        before = contents(tmp_path / "p")
        try:
            n_photos, _ = join_to_coco(tmp_path / "p" / "all.jsonl", tmp_path / "p" / "all.json")
        except (OSError, ValueError) as error:
            check_line(error, "all")
            assert contents(tmp_path / "p") == before
            return
        if n_photos:
            joined = json.loads((tmp_path / "p" / "all.json").read_text())
            assert len(joined["images"]) == n_photos
        if name == "all.predict.json" or how == "lost":
            assert n_photos == 3

    check()
