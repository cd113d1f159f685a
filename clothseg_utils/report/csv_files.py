"""CSV files of a run, checked: what a table lacks must not end a report."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

_REMEDY = "Rerun the notebook that writes it."

Kind = Callable[[str], object]


def _score(cell: str) -> float:
    """A number; an empty cell stands for NaN."""
    return float(cell or "nan")


_COLUMNS: dict[str, dict[str, Kind]] = {
    "03_network": {"part": str, "parameters": int},
    "04_options": {
        **{"option": str, "settings": str, "n": int, "seconds": float, "cost": float},
        **dict.fromkeys(["mean_iou", "gain", "low", "high"], _score),
    },
    "05_disagreement": {
        "photo": str,
        **dict.fromkeys(["disagreement", "label_doubt", "mean_iou"], _score),
    },
    "05_failed": {"photo": str, "reason": str},
}
"""Tables of which the report takes columns by name, and what these hold."""


def read_table(path: Path, columns: Mapping[str, Kind] | None = None) -> list[list[str]]:
    """Read a CSV file.

    Args:
        path: the file.
        columns: that it must have, and what they hold; by its name where they are not given.

    Returns:
        Rows of as many cells, the head first.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty or no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file ({error}); expected a table. {_REMEDY}") from None
    if not rows:
        raise ValueError(f"{path} is empty; expected a table. {_REMEDY}")
    head, *body = rows
    if len(set(head)) < len(head) or any(len(row) != len(head) for row in body):
        raise ValueError(
            f"{path}: rows and head do not fit together; expected a whole table. {_REMEDY}"
        )
    for name, kind in (_COLUMNS.get(path.stem, {}) if columns is None else columns).items():
        if name not in head:
            raise ValueError(f"{path} has no column {name}; expected one. {_REMEDY}")
        for row in body:
            _check_cell(path, name, row[head.index(name)], kind)
    return rows


def _check_cell(path: Path, name: str, cell: str, kind: Kind) -> None:
    try:
        kind(cell)
    except ValueError:
        raise ValueError(
            f'{path}: column {name} holds "{cell}"; expected a number. {_REMEDY}'
        ) from None
