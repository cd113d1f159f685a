"""The bytes of an annotation file -> JSON that the decoder takes; values out of it."""

import gzip
import hashlib
import io
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import msgspec

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_UNPACKED_BYTES = 4 << 30  # the official train file has 0.5 GiB
_LONGEST_INTEGER = 400  # digits; beyond this a float is infinite

_STRING_OR_LITERAL = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|(?<![\w.+-])-?(?:NaN|Infinity)(?![\w.])', re.DOTALL
)
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

UNREADABLE: Any = object()
"""What `value_of` gives for a value that is no JSON, or too deep for any reader."""


def read_json_bytes(path: Path) -> tuple[bytes, str]:
    """Read a JSON file as UTF-8 without a byte order mark, and the SHA-256 of the file itself.

    Raises:
        ValueError: a damaged gzip file, or bytes that are no text.
    """
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(_GZIP_MAGIC):
        data = _unzip(path, data)
    encoding = json.detect_encoding(data)
    if encoding == "utf-8-sig":
        data = data[3:]
    elif encoding != "utf-8":
        try:
            data = data.decode(encoding).encode()
        except UnicodeError as error:
            raise ValueError(
                f"{path} is neither UTF-8 nor sound {encoding.upper()} ({error}); expected JSON "
                "in UTF-8. Export it again."
            ) from None
    return data, sha256


def read_hand_written(path: Path, expected: str) -> Any:
    """Read a small JSON that somebody wrote, in whatever encoding their editor or shell has.

    Args:
        path: the file.
        expected: what it is to hold, in words.

    Raises:
        ValueError: no JSON, or a key twice in an object.
    """
    data, _ = read_json_bytes(path)
    check_keys_once(path, data)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {expected}.") from None


def _unzip(path: Path, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(_MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is a gzip file that cannot be unpacked ({error}); expected a whole one. "
            "Fetch it again."
        ) from None
    if len(unpacked) > _MAX_UNPACKED_BYTES:
        raise ValueError(
            f"{path} unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB; expected an annotation "
            "file. Unpack it yourself if it is one."
        )
    return unpacked


def relax_json(data: bytes) -> bytes:
    """Turn what Python and others write beyond JSON into JSON.

    NaN and infinities become text, which is then no number where one is needed, and half a
    surrogate pair becomes the replacement character.

    Example:
        >>> relax_json(b'{"area": NaN, "name": "NaN"}')
        b'{"area": "NaN", "name": "NaN"}'
    """
    pieces, end = [], 0
    for found in _STRING_OR_LITERAL.finditer(data):
        text = found[0]
        if not text.startswith(b'"'):
            relaxed = b'"' + text + b'"'
        elif b"\\u" in text:
            relaxed = _ESCAPE.sub(_whole_escape, text)
        else:
            continue
        pieces += [data[end : found.start()], relaxed]
        end = found.end()
    return b"".join([*pieces, data[end:]])


def _whole_escape(found: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if found["lone"] else found[0]


def check_keys_once(path: Path, data: bytes) -> None:
    """Raise ValueError where an object has a key twice: of the two, decoders take the last."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            key = next(key for key in keys if keys.count(key) > 1)
            raise _RepeatedKeyError(key)

    try:
        json.loads(data, object_pairs_hook=check, parse_int=_bounded_int)
    except _RepeatedKeyError as error:
        raise ValueError(
            f"{path}: the key {shown(error.args[0])} occurs twice in one object; expected it once. "
            "Join what stands in both, or write the file again."
        ) from None
    except (ValueError, RecursionError):
        return  # other readers say what is wrong


class _RepeatedKeyError(Exception):
    pass


def value_of(raw: msgspec.Raw | bytes) -> Any:
    """Decode one value; `UNREADABLE` where nothing can. Numbers too large become infinite."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(bytes(raw), parse_int=_bounded_int)
    except (ValueError, RecursionError):
        return UNREADABLE


def _bounded_int(digits: str) -> float:
    if len(digits) <= _LONGEST_INTEGER:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def as_int(value: Any) -> int | None:
    """A whole number, whatever type it is written in; None for all else, true and false too.

    Example:
        >>> as_int("64"), as_int(64.0), as_int(True), as_int("6.5"), as_int(None)
        (64, 64, None, None, None)
    """
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        value = value.strip()
        if re.fullmatch(r"[-+]?[0-9]{1,30}(\.0*)?", value):
            return int(value.partition(".")[0])
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def as_float(value: Any) -> float | None:
    """A finite number, whatever type it is written in; None for all else.

    Example:
        >>> as_float("6.5"), as_float(7), as_float("1e999"), as_float(True), as_float("1_0")
        (6.5, 7.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and ("_" in value or len(value) > _LONGEST_INTEGER):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """A value in a message: on one line, cut where it is long."""
    if value is UNREADABLE:
        return "not readable"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
