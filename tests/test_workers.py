"""How many processes, and how they start."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pytest

from clothseg_utils.core import workers
from clothseg_utils.core.files import repo_root
from clothseg_utils.core.workers import affordable_workers, read_ahead, usable_cores, worker_pool


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Four cores of a larger machine, in no control group until `files` make one."""

    def lay_out(own_groups, files):
        (tmp_path / "own").write_text(own_groups)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + "\n")

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(workers, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(workers, "_CONTROL_GROUPS", tmp_path)
    return lay_out


V1_GROUPS = "9:name=systemd:/job\n4:cpu,cpuacct:/job/step\n3:cpuset:/cpu\n"


@pytest.mark.parametrize(
    ("own_groups", "files", "cores"),
    [
        ("0::/\n", {}, 4),
        ("0::/\n", {"cpu.max": "max 100000"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "900000 100000"}, 4),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2),  # a container sees its own at top
        (V1_GROUPS, {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (V1_GROUPS, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (
            V1_GROUPS,
            {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"},
            1,
        ),
    ],
)
def test_usable_cores_are_those_of_the_process_and_its_container(machine, own_groups, files, cores):
    machine(own_groups, files)
    assert usable_cores() == cores


def test_usable_cores_without_affinity_and_control_groups(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("given", "spin_count"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),  # it has a spin count of its own
    ],
)
def test_threads_of_a_loaded_network_spin_briefly_unless_told_otherwise(given, spin_count):
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import clothseg_utils, os; clothseg_utils.load; print(os.environ.get('GOMP_SPINCOUNT'))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | given,
        cwd=repo_root(),
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == str(spin_count)


MB = 1_000_000


@pytest.fixture
def free_megabytes(monkeypatch):
    """Sets what is free in /dev/shm, on a machine of 16 cores."""
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)

    def set_free(megabytes):
        usage = SimpleNamespace(free=megabytes * MB)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return set_free


@pytest.mark.parametrize(
    ("free", "ranks", "expected"),
    [
        (2000, 1, 8),
        (1254, 1, 8),  # 2 loaders x (2 x 8 + 3) batches x 33 MB
        (1253, 1, 7),
        (1253, 2, 3),
        (330, 1, 1),
        (329, 1, 0),
        (64, 1, 0),  # of a container
    ],
)
def test_so_many_workers_as_the_shared_memory_holds(free_megabytes, free, ranks, expected):
    free_megabytes(free)
    n_workers, reason = affordable_workers(8, 33 * MB, ranks)
    assert n_workers == expected
    assert ("--shm-size=" in reason) is (expected < 8)
    assert "\n" not in reason


def test_too_little_shared_memory_names_what_would_do(free_megabytes):
    free_megabytes(64)
    reason = affordable_workers(8, 33 * MB)[1]
    assert "0 instead of 8, as /dev/shm has 64 MB free and 8 need 1,254 MB" in reason
    assert reason.endswith("--shm-size=2g")


@pytest.mark.parametrize(("ranks", "expected"), [(1, 8), (2, 8), (4, 4), (32, 1)])
def test_workers_of_all_ranks_share_the_cores(free_megabytes, ranks, expected):
    free_megabytes(100_000)
    n_workers, reason = affordable_workers(8, MB, ranks)
    assert n_workers == expected
    assert (f"16 cores can be used by {ranks} ranks" in reason) is (expected < 8)


def test_a_system_without_shared_memory_as_files_limits_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path / "missing")
    assert affordable_workers(8, 33 * MB) == (8, "")
    assert affordable_workers(0, 33 * MB) == (0, "")


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
