"""The GPU check: parts that fail cost the others nothing, and all of it runs without a GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from benchmarks.gpu_check.__main__ import PARTS
from benchmarks.gpu_check.runner import Part, run_parts
from clothseg_utils.core.files import repo_root

# What Python 3.12 says of a fork beside torch's threads; the check itself forks before it has any.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def succeed(setting, found):
    found.figure(number=setting)
    found.check(is_well=True)


def fail(setting, found):
    found.figure(before=1.23456789, infinite=float("inf"))
    raise ValueError("first line\nsecond line")


def hang(setting, found):
    found.figure(before=1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found.figure(child=child.pid)
    time.sleep(60)


def die(setting, found):
    found.figure(before=1)
    os.kill(os.getpid(), signal.SIGKILL)


def part(function, limit=30.0):
    return Part(function.__name__, "a part", limit, f"{__name__}:{function.__name__}")


def run(parts, seconds=60.0, saved=None):
    states = [] if saved is None else saved
    return run_parts(
        parts, 7, seconds, lambda rows: states.append([row["figures"].copy() for row in rows])
    )


def is_running(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_parts_that_fail_or_die_leave_what_they_found_and_the_next_go_on(capsys):
    rows = run([part(succeed), part(fail), part(die), part(succeed)])
    assert [row["state"] for row in rows] == ["done", "failed", "failed", "done"]
    assert rows[1]["error"] == "ValueError: first line"
    assert rows[1]["figures"] == {"before": 1.23457, "infinite": "inf"}
    assert rows[2]["figures"] == {"before": 1}
    assert "-9" in rows[2]["error"]
    assert rows[3]["figures"] == {"number": 7}
    assert rows[3]["checks"] == {"is_well": True}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_a_part_that_hangs_is_ended_with_what_it_started():
    rows = run([part(succeed), part(hang, limit=2.0), part(succeed)])
    assert [row["state"] for row in rows] == ["done", "out of time", "done"]
    assert rows[1]["figures"]["before"] == 1
    deadline = time.monotonic() + 10
    while is_running(rows[1]["figures"]["child"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(rows[1]["figures"]["child"])


def test_parts_that_no_time_is_left_for_say_so():
    rows = run([part(succeed)], seconds=0.0)
    assert rows[0]["state"] == "no time left"


def test_every_finding_is_saved_at_once():
    saved = []
    run([part(fail)], saved=saved)
    assert [{"before": 1.23457, "infinite": "inf"}] in saved


@pytest.mark.slow
def test_all_parts_run_small(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--small", "--out", tmp_path],
        cwd=repo_root(),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=480,
    )
    *lines, trains, _speed, _limit = process.stdout.splitlines()
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["parts"] == [json.loads(line) for line in lines]
    assert content["words"][0] == trains
    rows = {row["part"]: row for row in content["parts"]}
    assert list(rows) == [part.key for part in PARTS]
    assert {key: row["error"] for key, row in rows.items() if row["state"] != "done"} == {}

    figures = {key: row["figures"] for key, row in rows.items()}
    assert all(rows["2"]["checks"].values())
    assert len(figures["3"]["losses"]) == 8
    assert figures["7"]["train"]["code"] == figures["7"]["evaluate"]["code"] == 0
    assert len(figures["7"]["losses"]) == 2
    assert figures["7"]["scored_photos"] == 8
    assert figures["7"]["train"]["seconds_after_last_epoch"] > 0
    for key in "abcdeh":
        assert figures["4"][key]["images_per_second"] > 0
    assert figures["4f"]["f"]["images_per_second"] > 0
    assert figures["4g"]["g"]["images_per_second"] > 0
    assert len(figures["5"]["top"]) == 15
    assert figures["6"]["1 workers"]["alone_images_per_second"] > 0
    (learned,) = figures["8"].values()
    assert learned["loss"][1] < learned["loss"][0]
    assert rows["9"]["checks"] == {"goes_on_after_infinite_logit": True, "forkserver": True}
    assert figures["0"]["cv2"] == cv2.__version__
