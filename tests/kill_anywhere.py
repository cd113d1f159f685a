"""Kills each verb at random moments and runs it again: what is left must be what it always is.

    python tests/kill_anywhere.py --seed 1 --moments 20
    python tests/kill_anywhere.py --seed 1 --moments 5 --verb train --signal TERM

No test itself: twenty moments take about half an hour on one core for all verbs but `sweep`, which
takes another 45 minutes; `test_kill.py` kills each of a few once. The process that imported all
once forks one for each call, so that a moment falls into the work and not into the imports. Only
that one is killed, as the kernel does where memory runs out; its workers must end by themselves.
Then the same command runs to its end, and every file is compared with those of a call that nobody
killed.
"""

import argparse
import contextlib
import csv
import datetime
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What tells of time or of this call, in files that are compared.
_TIMES = (
    *("seconds", "images_per_second", "finished", "notebook_seconds", "key", "inputs"),
    "checkpoint_sha256",  # of a checkpoint that holds its history
)
_LOCKS = (".lock", ".manifest.lock")  # empty files that stay on purpose
_NOT_COMPARED = re.compile(r"events\.out|logs/|04_options|\.ckpt$|\.lock$|\.ipynb$|\.html$")


@dataclass(frozen=True)
class Verb:
    """One command to kill.

    Attributes:
        arguments: of the command line; again: of the rerun, if it takes others.
        made: folders that it fills, which are compared.
        fresh: what lies there before.
    """

    arguments: Sequence[str]
    made: Sequence[Path]
    again: Sequence[str] | None = None
    fresh: Callable[[], None] = lambda: None


def call(arguments: Sequence[str], log: Path, kill_after: float | None, sign: int) -> int:
    """Run the command line in a process of its own; its exit code, below 0 if killed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["clothseg_utils", *arguments]
        from clothseg_utils.__main__ import main

        code = 70
        try:
            code = main()
        except BaseException:  # a traceback, which a user would see
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    started = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill_after is not None and time.monotonic() - started > kill_after:
            os.kill(child, sign)
            sent = time.monotonic()
            _, status = os.waitpid(child, 0)
            took = time.monotonic() - sent
            if took > 10:
                print(f"  ended only {took:.0f} s after the signal")
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)


def without_times(value: Any) -> Any:
    """A JSON value without what differs between two equal calls."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in _TIMES)}
        return {k: without_times(v) for k, v in kept.items()}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def digest(path: Path) -> str:
    """Of a file's content, times left out."""
    data = path.read_bytes()
    if path.suffix == ".json":
        value = without_times(json.loads(data))
        for step in value["steps"].values() if path.name == "manifest.json" else ():
            step["outputs"] = sorted(step.get("outputs", ()))  # some of these files tell of time
        data = json.dumps(value, sort_keys=True).encode()
    elif path.name.endswith(("history.csv", "leaderboard.csv")):
        rows = list(csv.reader(data.decode().splitlines()))
        keep = [i for i, name in enumerate(rows[0]) if not any(word in name for word in _TIMES)]
        data = "\n".join(",".join(row[i] for i in keep) for row in rows).encode()
    elif path.suffix == ".svg":  # names of clip paths follow the last bits of the layout
        data = re.sub(rb"\bp[0-9a-f]{10}\b", b"", data)
    elif path.suffix in (".md", ".csv", ".tex"):
        data = re.sub(rb"\d+(\.\d+)? (s|min|h|photos/s|ms)\b|20\d\d-\d\d-\d\dT?[\d:+ ]*", b"", data)
    return hashlib.sha256(data).hexdigest()[:12]


def contents(folders: Sequence[Path]) -> dict[str, str]:
    """Each file that is compared, with the digest of its content."""
    return {
        str(path): "" if _NOT_COMPARED.search(str(path)) else digest(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not re.search(r"/\.|miou=|events\.out|/previous/", str(path))
    }


def hidden(folders: Sequence[Path]) -> list[str]:
    """Temporary files and folders below some folders, and beside them."""
    seen = {path for folder in folders for path in folder.rglob(".*")}
    seen |= {path for folder in folders for path in folder.parent.glob(".*")}
    return sorted("/".join(path.parts[-3:]) for path in seen if path.name not in _LOCKS)


def prepare(root: Path) -> dict[str, Verb]:
    """Data and a finished small run below `root`, and what is called on them."""
    from clothseg_utils.core.files import read_json, write_json
    from clothseg_utils.drawing.dataset import synthesize

    data = synthesize(root / "data/synthetic", train=24, val=12, seed=0, workers=1)
    # Rasterization needs no photos: the same annotations under many names, enough for two workers.
    coco = read_json(data / "instances_attributes_val2020.json")
    images, annotations = [], []
    for copy in range(30):
        shift = copy * 10_000_000
        images += [
            i | {"id": i["id"] + shift, "file_name": f"{copy}_{i['file_name']}"}
            for i in coco["images"]
        ]
        annotations += [
            a | {"id": a["id"] + shift, "image_id": a["image_id"] + shift}
            for a in coco["annotations"]
        ]
    write_json(root / "many.json", coco | {"images": images, "annotations": annotations})
    masks, made, predictions = root / "masks", root / "converted" / "made", root / "predictions"
    outputs, scores = root / "outputs", root / "scores"
    small = [
        *("--profile", "smoke", "--set", "data.image_size=32"),
        *("--set", "train.prior_bias=False", "--set", "train.num_workers=0"),
    ]
    train = ["train", "--data-root", str(data), "--run-name", "killed", *small]
    train += ["--set", "train.max_epochs=3"]
    best = str(root / "best.ckpt")
    log = root / "log.txt"
    code = call([*train[:4], "small", *train[5:-1], "train.max_epochs=1"], log, None, 0)
    assert code == 0, log.read_text()
    shutil.copy(outputs / "small/checkpoints/best.ckpt", best)
    evaluate = ["evaluate", "--data-root", str(data), "--checkpoint", best, "--out"]
    assert call([*evaluate, str(outputs / "small")], log, None, 0) == 0

    def clear(*folders: Path) -> Callable[[], None]:
        return lambda: [shutil.rmtree(f, ignore_errors=True) for f in folders] and None

    val_photos = str(data / "test")
    val_labels = str(data / "instances_attributes_val2020.json")
    killed = outputs / "killed"
    swept = [outputs / "sweeps", outputs / "s-seed=0", outputs / "s-seed=1"]
    return {
        "rasterize": Verb(
            [
                *("rasterize", "--annotations", str(root / "many.json"), "--out", str(masks)),
                *("--workers", "2"),
            ],
            [masks],
            fresh=clear(masks),
        ),
        "convert": Verb(
            ["convert", "--photos", val_photos, "--annotations", val_labels, "--out", str(made)],
            [made],
            fresh=clear(made.parent),
        ),
        "synthesize": Verb(
            ["synthesize", "--out", str(root / "drawn/made"), "--train", "4", "--val", "2"],
            [root / "drawn/made"],
            fresh=clear(root / "drawn"),
        ),
        "train": Verb(train, [killed], again=[*train, "--resume"], fresh=clear(killed)),
        "evaluate": Verb([*evaluate, str(scores)], [scores], fresh=clear(scores)),
        "predict": Verb(
            [
                *("predict", val_photos, "--checkpoint", best, "--out", str(predictions)),
                *("--json", "--coco", str(predictions / "coco.json")),
            ],
            [predictions],
            fresh=clear(predictions),
        ),
        "report": Verb(
            ["report", "--run-name", "small"],
            [outputs / "small/report"],
            fresh=clear(outputs / "small/report"),
        ),
        "sweep": Verb(
            [
                *("sweep", "--name", "s", *small, "--data-root", str(data)),
                *("--only", "03", "--only", "04", "--set", "train.seed=0,1"),
            ],
            swept,
            fresh=clear(*swept),
        ),
    }


def _explain(killed: Sequence[str], log: Path, before: int) -> str:
    text = log.read_bytes()[before:].decode(errors="replace").strip()
    return "; ".join(killed) + ("\n    " + text[-1500:].replace("\n", "\n    ") if text else "")


def kill_verb(name: str, verb: Verb, rng: random.Random, moments: int, sign: int) -> bool:
    """Kill one verb at each of some moments; print a line of figures, and what went wrong."""
    log = Path(os.environ["KILL_ROOT"]) / f"{name}.log"
    verb.fresh()
    started = time.monotonic()
    code = call(verb.arguments, log, None, 0)
    seconds = time.monotonic() - started
    assert code == 0, log.read_text()
    expected = contents(verb.made)
    n_killed, n_left, wrong = 0, 0, []
    kept_later, codes = 0, set()
    for _ in range(moments):
        moment = rng.uniform(0, 1.05 * seconds)
        verb.fresh()
        before = log.stat().st_size
        code = call(verb.arguments, log, moment, sign)
        codes.add(code)
        n_killed += code != 0
        if sign != signal.SIGKILL and b"Traceback" in log.read_bytes()[before:]:
            wrong.append(_explain([f"killed at {moment:.2f} s: traceback"], log, before))
        n_left += bool(hidden(verb.made))
        if code == 0:
            continue
        before = log.stat().st_size
        code = call(verb.again or verb.arguments, log, None, 0)
        if code == 2 and verb.again and b"no training to go on" in log.read_bytes()[before:]:
            code = call(verb.arguments, log, None, 0)
        found = contents(verb.made)
        faults = [] if code == 0 else [f"the rerun ended with {code}"]
        faults += [f"left: {', '.join(names[:3])}" for names in [hidden(verb.made)] if names]
        kept_later += bool(hidden(verb.made))
        names = {Path(p).name for p in expected.keys() | found if expected.get(p) != found.get(p)}
        faults += [f"other: {', '.join(sorted(names)[:5])}"] if names else []
        if faults:
            text = log if code else Path(os.devnull)
            wrong.append(
                _explain([f"killed at {moment:.2f} s", *faults], text, before * bool(code))
            )
    print(
        f"{name:10} {seconds:6.1f} s  {moments} moments, {n_killed} killed, exit {sorted(codes)}; "
        f"temporaries after the kill {n_left}, after the rerun {kept_later}; wrong {len(wrong)}",
        flush=True,
    )
    for text in wrong:
        print(f"  {text}", flush=True)
    return not wrong


def main() -> int:
    """Kill every verb, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--verb", action="append", help="repeatable; default: all")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT"])
    options = parser.parse_args()
    sign = signal.Signals["SIG" + options.signal]

    from clothseg_utils.core import files

    repo = files.repo_root()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        root = Path(folder)
        os.environ["KILL_ROOT"] = folder
        (root / "notebooks").symlink_to(repo / "notebooks")
        # Notebooks' processes find their repository by where the package lies.
        shutil.copytree(repo / "clothseg_utils", root / "clothseg_utils")
        os.environ["PYTHONPATH"] = folder
        files.repo_root = lambda: root
        from clothseg_utils.network import evaluate, segmenter  # noqa: F401  once, for all forks
        from clothseg_utils.report import report  # noqa: F401
        from clothseg_utils.training import train
        from clothseg_utils.workflow import sweep  # noqa: F401

        # Within its epochs too, of which each takes a second or two.
        train.CHECKPOINT_INTERVAL = datetime.timedelta(seconds=0.3)
        verbs = prepare(root)
        rng = random.Random(options.seed)
        print(f"seed {options.seed}, SIG{options.signal}")
        results = [
            kill_verb(name, verbs[name], rng, options.moments, sign)
            for name in options.verb or verbs
        ]
        return 0 if all(results) else 1
    return 130


if __name__ == "__main__":
    sys.exit(main())
