"""How many processes, and how they start."""

import os

import cv2
import pytest

from clothseg_utils.core import workers
from clothseg_utils.core.workers import read_ahead, usable_cores, worker_pool


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 4),  # no cgroup, or one of version 1
        ("max 100000", 4),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 4),
    ],
)
def test_usable_cores_are_those_of_the_process_and_its_container(
    monkeypatch, tmp_path, quota, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(workers, "_CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores() == cores


def test_usable_cores_without_affinity(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(workers, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert usable_cores() == 3


def test_opencv_starts_no_threads_in_workers():
    with worker_pool(1) as pool:
        assert pool.submit(cv2.getNumThreads).result(timeout=60) == 1


def test_read_ahead_hands_over_results_and_errors_in_order():
    def read(item):
        if item == "bad":
            raise ValueError("cannot be read")
        return item.upper()

    results = list(read_ahead(read, ["a", "bad", "c"]))
    assert results[0] == ("a", "A")
    assert results[1][0] == "bad"
    assert isinstance(results[1][1], ValueError)
    assert results[2] == ("c", "C")
    assert list(read_ahead(read, [])) == []


def test_read_ahead_does_not_hide_a_programming_error():
    with pytest.raises(KeyError):
        list(read_ahead({}.__getitem__, ["a"]))
