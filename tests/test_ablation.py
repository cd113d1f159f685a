"""Tests of `benchmarks.ablation`: what steps add up to, the table, what the command refuses."""

from dataclasses import replace

import numpy as np
import pytest
from test_sweep import leave_scores

from benchmarks import ablation
from benchmarks.ablation import (
    STEPS,
    Step,
    limits,
    plan_run,
    read_results,
    settings_of,
    step_before,
    to_markdown,
)
from clothseg_utils.core.files import read_json, write_json
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.training.callbacks import write_history

FIRST = Step("first", "to begin", ("train.batch_size=8", "train.learning_rate=0.01"))
TRIED = Step("tried, not kept", "a try", ("train.batch_size=2",), beside="first")
SECOND = Step("second", "a gain", ("train.learning_rate=0.02",))
THIRD = Step("third", "more", ("data.image_size=64",))
SIDE = Step("side", "a try of the third", ("loss.focal_weight=1",), beside="third")
PLAN = (FIRST, TRIED, SECOND, THIRD, SIDE)


@pytest.mark.parametrize(
    ("step", "before", "expected"),
    [
        (FIRST, None, {"batch_size": 8, "learning_rate": 0.01, "image_size": 96}),
        (TRIED, FIRST, {"batch_size": 2, "learning_rate": 0.01}),
        (SECOND, FIRST, {"batch_size": 8, "learning_rate": 0.02, "focal_weight": 5.0}),
        (THIRD, SECOND, {"batch_size": 8, "learning_rate": 0.02, "image_size": 64}),
        (SIDE, THIRD, {"learning_rate": 0.02, "image_size": 64, "focal_weight": 1.0}),
    ],
)
def test_a_step_adds_to_the_kept_one_before_or_to_what_it_is_beside(step, before, expected):
    assert step_before(step, PLAN) == before
    config = plan_run(step, PLAN, "data/x", 3, 5).config
    tree = {k: v for section in config.model_dump().values() for k, v in section.items()}
    expected = expected | {"data_root": "data/x", "max_minutes": 3.0, "seed": 5}
    assert {name: tree[name] for name in expected} == expected


def test_other_settings_data_or_minutes_are_another_run():
    edited = (FIRST, Step("second", "a gain", ("train.learning_rate=0.03",)), THIRD)
    names = {
        plan_run(THIRD, PLAN, "data/x", 3, 0).name,
        plan_run(THIRD, PLAN, "data/x", 3, 1).name,
        plan_run(THIRD, PLAN, "data/x", 4, 0).name,
        plan_run(THIRD, PLAN, "other/x", 3, 0).name,
        plan_run(THIRD, edited, "data/x", 3, 0).name,  # what it stands on changed
    }
    assert len(names) == 5
    assert plan_run(THIRD, PLAN, "data/x", 3, 0).name in names  # the same one every time


def test_the_steps_of_the_recipe_can_be_run():
    assert len({step.name for step in STEPS}) == len(STEPS)
    names = {plan_run(step, STEPS, "data/x", 10, 0).name for step in STEPS}
    assert len(names) == len(STEPS)
    for step in STEPS:
        # A setting that changes nothing against the step before is an oversight.
        before = step_before(step, STEPS)
        if before:
            ours, theirs = (
                dict(setting.split("=", 1) for setting in settings_of(one, STEPS))
                for one in (step, before)
            )
            assert ours != theirs


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Runs go to a folder of the test's."""
    places = (f"run.outputs_root={tmp_path}/out", f"data.derived_root={tmp_path}/derived")
    monkeypatch.setattr(ablation, "BASE", (*ablation.BASE, *places))


def _group(**values):
    """A row of a stratum as `evaluate` writes it, as far as another stage reads it."""
    return {"stratum": "some", "n": 1, "score": None, "low": None, "high": None} | values


def leave_run(config, right: float) -> RunFolder:
    """Leave what notebooks 03 and 04 would; `right` as in `leave_scores`."""
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    leave_scores(run, right)
    metrics = read_json(run.path / "metrics.json") | {"protocol": "the headline"}
    metrics["strata"] = {
        "object_area": [
            _group(n=0),
            _group(n=1, score=0.2),
            _group(n=3, score=0.4),
            _group(n=5, score=0.9),
        ],
        "overlap": [_group(score=0.75), _group(score=0.5)],
        "framing": [_group(score=0.1, drop=0.9), _group(score=0.125, drop=0.25)],
    }
    write_json(run.path / "metrics.json", metrics)
    write_json(run.training_path, {"best_score": 0.3, "steps": 1200, "epochs": 2, "seconds": 40.0})
    rows = [
        {"epoch": 0, "seconds": 10.0, "images_per_second": 20.0},
        {"epoch": 1, "seconds": 40.0, "images_per_second": 4.0},
    ]
    write_history(run.logs_dir / "history.csv", rows)
    run.update_step("04_metric_evaluation", {"state": "done"})
    return run


def table_rows(page: str) -> dict[tuple[str, str], list[str]]:
    """(step, seed) -> the other cells, of the table of scores."""
    tables = [text for text in page.split("\n\n") if text.startswith("| step | seed |")]
    (lines,) = [table.splitlines()[2:] for table in tables]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in cells}


def test_the_table_compares_each_run_with_the_step_before_of_its_seed(base, synthetic_root):
    data_root = str(synthetic_root)
    for step, seed, right in [(FIRST, 0, 0.7), (SECOND, 0, 0.8), (TRIED, 0, 0.6), (SECOND, 1, 0.9)]:
        leave_run(plan_run(step, PLAN, data_root, 3, seed).config, right)
    leave_run(plan_run(FIRST, PLAN, data_root, 4, 0).config, 0.99)  # of other minutes
    unfinished = leave_run(plan_run(THIRD, PLAN, data_root, 3, 0).config, 0.99)
    unfinished.update_step("04_metric_evaluation", {"state": "running"})

    results = read_results(PLAN, data_root, 3)
    assert list(results) == [
        ("first", 0),
        ("tried, not kept", 0),
        ("second", 0),
        ("second", 1),
    ]
    page = to_markdown(results, PLAN, data_root, 3)
    rows = table_rows(page)
    assert list(rows) == [(name, str(seed)) for name, seed in results]
    scores = {key: result.evaluation.metrics["mean_iou"] for key, result in results.items()}
    first, second = rows["first", "0"], rows["second", "0"]
    assert first[0].startswith(f"{scores['first', 0]:.3f} ({scores['first', 0] - 0.01:.3f} to ")
    assert first[1] == rows["second", "1"][1] == "–"  # nothing before, or not of this seed
    gain = scores["second", 0] - scores["first", 0]
    low, high = (float(end.strip("()")) for end in second[1].split(" ")[1::2])
    assert second[1].startswith(f"{gain:+.3f} (")
    assert 0 < low < gain < high
    assert rows["tried, not kept", "0"][1].startswith("−")
    # No people are counted and no composites made: the data do not have this limit.
    assert first[2:8] == ["–", "0.200", "0.350", "0.500", "0.125", "0.250"]
    assert first[8:] == ["40", "8.0", "1,200"]
    assert (
        f"    python -m benchmarks.ablation --data-root {data_root} --minutes 3 --seeds 0 " in page
    )
    assert "--only 'tried, not kept'\n" in page
    assert "16 photos in train" in page
    assert "the headline" in page


def test_seeds_are_averaged(base, synthetic_root):
    data_root = str(synthetic_root)
    for step, seed, right in [(FIRST, 0, 0.7), (FIRST, 1, 0.5), (SECOND, 0, 0.8), (SECOND, 1, 0.7)]:
        leave_run(plan_run(step, PLAN, data_root, 3, seed).config, right)
    results = read_results(PLAN, data_root, 3)
    scores = {key: result.evaluation.metrics["mean_iou"] for key, result in results.items()}
    mean = (scores["second", 0] + scores["second", 1]) / 2
    gain = mean - (scores["first", 0] + scores["first", 1]) / 2
    ends = f"{scores['second', 1]:.3f} to {scores['second', 0]:.3f}"
    expected = f"| second | 2 | {mean:.3f} | {ends} | {gain:+.3f} |"
    assert expected in to_markdown(results, PLAN, data_root, 3).splitlines()


def test_people_drop_is_that_of_composites_or_of_counted_people(base, synthetic_root):
    config = plan_run(FIRST, PLAN, str(synthetic_root), 3, 0).config
    leave_run(config, 0.7)
    (result,) = read_results(PLAN, str(synthetic_root), 3).values()
    evaluation = result.evaluation
    good, bad = np.array([[8, 0], [0, 8]]), np.array([[4, 4], [4, 4]])  # mean IoU 1 and 1/3
    n_photos = len(evaluation.confusions)
    counted = np.where(np.arange(n_photos) % 3, 2, 1)
    pictured = np.where((counted == 1)[:, None, None], good, bad)
    evaluation = replace(evaluation, confusions=pictured, person_counts=counted)
    assert limits(evaluation)["people_drop"] == pytest.approx(2 / 3)
    groups = np.array(["2 photos, side by side"] * 3)
    # Composites count where there are any; these ones are better than their photos.
    made = {"composite_alone": np.stack([bad] * 3), "composite_confusions": np.stack([good] * 3)}
    evaluation = replace(evaluation, **made, composite_groups=groups)
    assert limits(evaluation)["people_drop"] == pytest.approx(-2 / 3)


# --- the command ---------------------------------------------------------------------------------


def test_missing_data_are_named_and_nothing_is_run(base, capsys, tmp_path):
    assert ablation.main(["--data-root", str(tmp_path / "nowhere")]) == 2
    assert f"no such data root: {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "zoom"], 'unknown step "zoom"'),
        (["--seeds", "0,0"], "got 0,0; expected different seeds"),
        (["--seeds", "a"], "got a; expected different seeds"),
        (["--minutes", "0"], "got 0; expected minutes above 0"),
        (["--minutes", "x"], "got x; expected minutes above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        ablation.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_steps_by_the_notebooks_and_one_of_them_again(
    base, synthetic_root, tmp_path, monkeypatch, capsys
):
    small = ("train.encoder_name=mit_b0", "data.image_size=32", "data.image_limit=6")
    small += ("evaluate.bootstrap_samples=100",)
    steps = (Step("small", "for a test", small), Step("hot", "a try", ("train.learning_rate=0.1",)))
    monkeypatch.setattr(ablation, "STEPS", steps)
    out = tmp_path / "table.md"
    arguments = ["--data-root", str(synthetic_root), "--minutes", "0.03", "--out", str(out)]
    assert ablation.main([*arguments, "--only", "hot"]) == 0
    rows = table_rows(out.read_text())
    assert list(rows) == [("hot", "0")]
    assert rows["hot", "0"][1] == "–"
    assert ablation.main(arguments) == 0
    rows = table_rows(out.read_text())
    assert list(rows) == [("small", "0"), ("hot", "0")]
    assert rows["hot", "0"][1] != "–"
    assert float(rows["small", "0"][9]) > 0
    assert capsys.readouterr().out.count("unchanged, skipped") == 2
