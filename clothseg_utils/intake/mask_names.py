"""What the values or colours of mask images mean: the names file of a mask folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clothseg_utils.core.classes import is_background, plain_name
from clothseg_utils.data.json_bytes import read_hand_written

_FORMS = (
    '{"shirt": [255, 0, 0]}, {"shirt": "#ff0000"}, {"shirt": 1}, {"1": "shirt"} or '
    '["background", "shirt"]'
)

MOST_VALUE = 65_535
"""Largest value of a mask: 16 bits."""

_HEX_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class MaskNames:
    """Names of the values, or of the colours, of mask images.

    Attributes:
        by_color: whether colours are named.
        name_of: value, or colour as `color_to_code` writes it, -> name.
    """

    by_color: bool
    name_of: Mapping[int, str]


def read_mask_names(path: str | Path) -> MaskNames:
    """Read a names file.

    Args:
        path: JSON of one of the forms {"shirt": [255, 0, 0]}, {"shirt": "#ff0000"}, {"shirt": 1},
            {"1": "shirt"} and ["background", "shirt"]; a list whose first name is not background
            counts from 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another form, a value or colour out of range, or one with two names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found; expected a JSON of the masks' names. Check the path."
        )
    content = read_hand_written(path, _FORMS)
    pairs = _list_pairs(content)
    if not pairs:
        raise ValueError(f"{path} is no names file; expected names of one form: {_FORMS}.")
    colors = {isinstance(value, str | list) for _, value in pairs}
    if len(colors) > 1:
        raise ValueError(f"{path} names both values and colours; expected one of them: {_FORMS}.")
    name_of: dict[int, str] = {}
    for name, value in pairs:
        code = _to_code(value)
        if code is None or not isinstance(name, str) or not plain_name(name):
            raise ValueError(
                f"{path}: {name!r} has {value!r}; expected a name, with a value of 0 to "
                f"{MOST_VALUE:,} or a colour of three numbers of 0 to 255: {_FORMS}."
            )
        if code in name_of:
            raise ValueError(
                f'{path}: "{name_of[code]}" and "{plain_name(name)}" have the same '
                f"{value!r}; expected one name for each. Remove one."
            )
        name_of[code] = plain_name(name)
    return MaskNames(colors.pop(), name_of)


def _list_pairs(content: Any) -> list[tuple[Any, Any]]:
    """Pairs of name and value or colour, still unchecked; empty for anything else."""
    if isinstance(content, list):
        has_background = bool(content) and isinstance(content[0], str) and is_background(content[0])
        return [(name, value) for value, name in enumerate(content, start=not has_background)]
    if not isinstance(content, dict):
        return []
    are_codes = all(key.isdecimal() or _HEX_COLOR.fullmatch(key) for key in content)
    if are_codes and all(
        isinstance(v, str) and not _HEX_COLOR.fullmatch(v) for v in content.values()
    ):
        return [(name, int(key) if key.isdecimal() else key) for key, name in content.items()]
    return list(content.items())


def _to_code(value: Any) -> int | None:
    """The value, or the code of a colour; None where it is neither."""
    if isinstance(value, str):
        return int(value[1:], 16) if _HEX_COLOR.fullmatch(value) else None
    if isinstance(value, list):
        is_color = len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)
        return color_to_code(*value) if is_color else None
    return value if type(value) is int and 0 <= value <= MOST_VALUE else None


def color_to_code(red: int, green: int, blue: int) -> int:
    """Write a colour of 0..255 each as one number."""
    return red << 16 | green << 8 | blue


def code_to_color(code: int) -> tuple[int, int, int]:
    """Read what `color_to_code` wrote.

    Example:
        >>> code_to_color(color_to_code(1, 2, 255))
        (1, 2, 255)
    """
    return code >> 16, code >> 8 & 255, code & 255
