"""Files broken at random: lost, cut, emptied, replaced, or changed at one place."""

import json
import os
import random
from pathlib import Path

from hypothesis import HealthCheck, settings
from test_reader_fuzz import break_at, paths_in

TIMES = float(os.environ.get("CLOTHSEG_FUZZ", "1"))
"""Examples, in multiples of what every `make test` tries."""

GARBAGE = (
    *("null", "[]", "{}", "3", '"x"', "[[[[]]]]", '{"steps": 3}', '{"steps": {"a": 5}}'),
    *('{"train": 1}', '{"runs": {"a": {}}}', "[1, 2", "NaN", '{"a": NaN}', "\x00", "\ufeff{}"),
    *("[" * 100_000, "9" * 5000),
)


def examples(number: int) -> settings:
    """Settings of hypothesis: so many examples every day, the same ones; more, and others, by
    CLOTHSEG_FUZZ."""
    return settings(
        max_examples=round(number * TIMES),
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def damage(folder: Path, name: str, rng: random.Random) -> str:
    """Break one file of a folder; say how."""
    path = folder / name
    data = path.read_bytes()
    how = rng.choice(("lost", "cut", "emptied", "folder", "other", "garbage", "bytes", *["at"] * 4))
    if how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "other":
        others = sorted(one for one in folder.rglob("*") if one.is_file())
        path.write_bytes(rng.choice(others).read_bytes())
    elif how == "garbage":
        path.write_text(rng.choice(GARBAGE))
    elif how == "bytes":
        path.write_bytes(rng.randbytes(rng.randrange(1, 300)))
    elif path.suffix == ".json" and isinstance(content := json.loads(data), dict):
        break_json(content, rng)
        path.write_text(json.dumps(content))
    elif path.suffix == ".csv":
        rows = [line.split(",") for line in data.decode().splitlines()]
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(("", "x", "nan", "-1", "1e999", '"', "a,b", "９"))
        path.write_text("\n".join(map(",".join, rows)))
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + rng.randbytes(7) + data[middle + 7 :])
    return how


def break_json(content: dict, rng: random.Random) -> None:
    """Change decoded JSON at one or two places, as often above as deep inside."""
    for _ in range(rng.choice((1, 1, 2))):
        places = [place for place in paths_in(content) if place]
        if not places:  # the change before left nothing
            return
        depth = rng.choice((1, 2, 2, 3, 3, 4, 5))
        break_at(content, rng.choice([p for p in places if len(p) == depth] or places), rng)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
