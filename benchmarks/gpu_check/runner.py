"""Runs the parts, each in a process of its own: none can take the others' time or their GPU."""

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LEAST_SECONDS = 3.0
"""Time left under which a part is not begun."""


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        key: its number, as other parts name it.
        name: what it looks at.
        limit: seconds that it may take.
        function: "module:function"; called with the setting and a `Findings`. Imported in the
            part's own process, so that a missing package fails the parts that need it alone.
    """

    key: str
    name: str
    limit: float
    function: str


class Findings:
    """What a part has found so far; each finding goes to the parent at once."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def figure(self, **values: Any) -> None:
        """Report figures; a later one replaces an earlier one of its name."""
        self._pipe.send(("figures", _plain(values)))

    def check(self, **verdicts: bool | None) -> None:
        """Report what was asked for and whether it holds; None where this device cannot show it."""
        self._pipe.send(
            ("checks", {name: v if v is None else bool(v) for name, v in verdicts.items()})
        )


def run_parts(
    parts: Sequence[Part],
    setting: Any,
    seconds: float,
    save: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Run parts in order; print one JSON line for each.

    Args:
        parts: those that matter most first.
        setting: handed to each part.
        seconds: for all of them; parts that no time is left for say so.
        save: called with all rows after every finding.
    """
    deadline = time.monotonic() + seconds
    # A fork spares a dozen imports of torch; the parent itself must never touch the GPU.
    method = "fork"
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows.append(_empty_row(part))
        _run_part(part, setting, deadline, method, rows[-1], lambda: save(rows))
        if rows[-1]["state"] == "failed" and len(rows) == 1:
            # Some library may have touched it all the same, and a fork cannot use it then.
            method = "spawn"
            rows[-1] = _empty_row(part)
            _run_part(part, setting, deadline, method, rows[-1], lambda: save(rows))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _empty_row(part: Part) -> dict[str, Any]:
    return {
        "part": part.key,
        "name": part.name,
        "state": "running",
        "seconds": 0.0,
        "error": None,
        "checks": {},
        "figures": {},
    }


def _run_part(
    part: Part,
    setting: Any,
    deadline: float,
    method: str,
    row: dict[str, Any],
    save: Callable[[], None],
) -> None:
    started = time.monotonic()
    end = min(started + part.limit, deadline)
    if end - started < min(LEAST_SECONDS, part.limit):
        row["state"] = "no time left"
        save()
        return
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_here, args=(part, setting, sender))
    process.start()
    sender.close()
    try:
        while row["state"] == "running":
            _receive(row, receiver, process, end)
            row["seconds"] = round(time.monotonic() - started, 2)
            save()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it and whatever it started
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # if it came no further than its start
        process.join()


def _receive(row: dict[str, Any], receiver: Connection, process: Any, end: float) -> None:
    """Wait for the next finding, the end of the part, its death or its limit."""
    ready = wait([receiver, process.sentinel], max(0.0, end - time.monotonic()))
    if receiver in ready:
        try:
            kind, values = receiver.recv()
        except EOFError:
            kind, values = "died", None
    elif ready:
        kind, values = "died", None
    else:
        row["state"] = "out of time"
        return
    if kind in ("figures", "checks"):
        row[kind] |= values
        return
    row["state"] = "done" if kind == "end" else "failed"
    if kind == "error":
        row["error"] = values
    elif kind == "died":
        process.join(1)
        row["error"] = f"its process ended with code {process.exitcode}"


def _run_here(part: Part, setting: Any, pipe: Connection) -> None:
    os.setpgid(0, 0)  # so that what it starts can be ended with it
    os.dup2(2, 1)  # stdout is for the JSON lines
    try:
        module, _, function = part.function.partition(":")
        getattr(importlib.import_module(module), function)(setting, Findings(pipe))
    except BaseException as error:
        traceback.print_exc()
        pipe.send(("error", describe_error(error)))
    else:
        pipe.send(("end", None))
    sys.stderr.flush()
    os._exit(0)  # worker processes of a loader must not be waited for


def describe_error(error: BaseException) -> str:
    """Type, first line and place of an error, for a row."""
    frames = traceback.extract_tb(error.__traceback__)
    folders = ("/clothseg_utils/", "/benchmarks/")
    own = [
        frame
        for frame in frames
        if frame.filename != __file__ and any(folder in frame.filename for folder in folders)
    ]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}{place}"


def _plain(value: Any) -> Any:
    """Values as JSON takes them: six digits, no NaN or infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
