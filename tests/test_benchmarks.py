"""What bench.json promises, and the data that the comparisons are made of. No times here."""

import json

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.__main__ import data_path_speeds
from benchmarks.annotations import write_large_file
from benchmarks.harness import Row, alternate, check_equal
from benchmarks.rasterize import repeat_images
from clothseg_utils.data.coco import annotation_path, read_annotations


def row(**changes):
    values = {
        "name": "training step",
        "baseline": 6.0,
        "ours": 2.0,
        "unit": "s",
        "target": 2.5,
        "n": 3,
        "note": "as usual",
    }
    return Row(**values | changes)


def test_a_row_holds_the_fields_that_its_readers_rely_on():
    values = row().as_dict()
    assert list(values) == ["name", "baseline", "ours", "unit", "target", "n", "note", "ratio"]
    assert values["ratio"] == 3.0
    assert json.loads(json.dumps(row(target=None).as_dict()))["target"] is None


@pytest.mark.parametrize(
    ("changes", "is_missed"),
    [({}, False), ({"target": 3.0}, False), ({"target": 3.1}, True), ({"target": None}, False)],
)
def test_a_row_is_missed_below_its_target(changes, is_missed):
    assert row(**changes).is_missed is is_missed


def test_both_sides_are_run_in_turn():
    calls = []
    timing = alternate(lambda: calls.append("a") or 1, lambda: calls.append("b") or 2, 3)
    assert calls == ["a", "b"] * 4  # once to warm up
    assert (timing.baseline_result, timing.our_result, timing.n) == (1, 2, 3)


def test_the_median_is_what_counts(monkeypatch):
    seconds = iter([1.0, 10.0, 5.0, 30.0, 2.0, 20.0])
    monkeypatch.setattr(harness, "seconds_of", lambda function: (next(seconds), function()))
    timing = alternate(lambda: None, lambda: None, 3, warm_up=False)
    assert (timing.baseline, timing.ours) == (2.0, 20.0)


def test_sides_that_disagree_are_not_compared():
    check_equal("pixels", 3, allowed=3)
    with pytest.raises(RuntimeError, match="pixels: 4 differ; expected at most 3"):
        check_equal("pixels", 4, allowed=3)


def test_extra_peak_memory_is_that_of_the_function():
    assert 70 < harness.extra_peak_mb(lambda: np.ones(80_000_000, np.uint8)) < 110


def test_repeated_images_have_fresh_ids_and_their_own_annotations(synthetic_root):
    content = json.loads(annotation_path(synthetic_root, "train").read_text())
    n_images = len(content["images"])
    repeated = repeat_images(content, 2 * n_images + 1)
    assert len({image["id"] for image in repeated["images"]}) == 2 * n_images + 1
    assert len({image["file_name"] for image in repeated["images"]}) == 2 * n_images + 1
    ids = [annotation["id"] for annotation in repeated["annotations"]]
    assert len(set(ids)) == len(ids) > 2 * len(content["annotations"])
    assert json.loads(annotation_path(synthetic_root, "train").read_text()) == content  # untouched


def test_the_large_file_is_one_that_the_reader_takes(synthetic_root, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.annotations.N_ANNOTATIONS", 1000)
    monkeypatch.setattr("benchmarks.annotations.N_IMAGES", 50)
    path = tmp_path / "large.json"
    write_large_file(annotation_path(synthetic_root, "train"), path)
    coco = read_annotations(path)
    assert len(coco.packed) == 1000
    assert coco.problems == ()
    assert path.stat().st_size / 1000 > 1000  # bytes each, near the official file's


def test_loader_and_network_are_set_side_by_side():
    rows = [
        row(name="one training sample at 512, native photos", ours=0.02),
        row(name="training step, U-Net", ours=8.0),
    ]
    speeds = [line["images_per_second"] for line in data_path_speeds(rows)]
    assert speeds == pytest.approx([50.0, 0.5])
