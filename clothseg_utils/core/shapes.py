"""What files of a run must hold, checked where they are read: anybody may have changed them."""

import functools
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clothseg_utils.core.files import read_json

Count = Annotated[int, Field(ge=0, lt=2**63)]


ABSENT: Any = None
"""Default of a key that may be missing."""


class Shape(BaseModel):
    """Keys of a JSON object; there may be further ones."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def read_shaped(path: str | Path, shape: Any, remedy: str) -> Any:
    """Read a JSON file and check what it holds.

    Args:
        path: the file.
        shape: a `Shape`, or another type that pydantic can check.
        remedy: how to get the file again, a sentence.

    Returns:
        The content as it stands there, plain dicts and lists.

    Raises:
        OSError: it cannot be read.
        ValueError: not JSON, or of another shape; the first place is named.
    """
    value = read_json(path)
    check_shape(value, shape, f"{path}", remedy)
    return value


def check_shape(value: Any, shape: Any, name: str, remedy: str) -> None:
    """Refuse plain values of another shape: see `read_shaped`.

    Example:
        >>> check_shape({"a": [None]}, dict[str, list[int]], "a.json", "Make it again.")
        Traceback (most recent call last):
        ValueError: a.json, a.0: input should be a valid integer; expected what was written there. Make it again.
    """  # noqa: E501
    try:
        _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f".{part}" for part in first["loc"])
        said = first["msg"][:1].lower() + first["msg"][1:].partition(" or instance of ")[0]
        raise ValueError(
            f"{name}{place and ', '}{place[1:]}: {said}; expected what was written there. {remedy}"
        ) from None
