"""Bytes of other programs become JSON; values of any type are read where they are certain."""

import json
import math

import pytest

from clothseg_utils.data.json_bytes import (
    UNREADABLE,
    as_float,
    as_int,
    relax_json,
    shown,
    value_of,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NaN, -Infinity, Infinity, 1]", ["NaN", "-Infinity", "Infinity", 1]),
        ('{"NaN": "a NaN", "b": "\\" NaN"}', {"NaN": "a NaN", "b": '" NaN'}),
        (r'["\ud800", "\ud83d\ude00", "\\ud800", "\ude00\ud83d"]', ["�", "😀", r"\ud800", "��"]),
    ],
)
def test_what_python_writes_beyond_json_becomes_json(text, value):
    assert json.loads(relax_json(text.encode())) == value


def test_text_without_an_end_is_no_endless_work():
    text = b'["' + b'\\"' * 200_000
    assert relax_json(text) == text


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"1e999", math.inf),
        (b"-" + b"9" * 5000, -math.inf),
        (b"9" * 30, int("9" * 30)),
        (b"[1, 2]", [1, 2]),
        (b"[" * 5000 + b"]" * 5000, UNREADABLE),
        (b'"\xff"', UNREADABLE),
        (b"", UNREADABLE),
    ],
)
def test_any_value_is_decoded_or_unreadable(raw, value):
    assert value_of(raw) == value


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (64, 64, 64.0),
        (-64.0, -64, -64.0),
        (" 64 ", 64, 64.0),
        ("64.", 64, 64.0),
        ("6.4", None, 6.4),
        ("6e1", None, 60.0),
        (6.4, None, 6.4),
        (True, None, None),
        (None, None, None),
        ("", None, None),
        ("1_0", None, None),
        ("nan", None, None),
        ("٣", None, 3.0),
        (10**400, 10**400, None),
        ("9" * 500, None, None),
        (math.inf, None, None),
        (math.nan, None, None),
        ([1], None, None),
        (UNREADABLE, None, None),
    ],
)
def test_numbers_of_any_type(value, whole, number):
    assert (as_int(value), as_float(value)) == (whole, number)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("a\nb", r"'a\nb'"),
        (UNREADABLE, "not readable"),
        ("x" * 99, "'" + "x" * 56 + "..."),
    ],
)
def test_values_in_messages_stay_on_one_line(value, text):
    assert shown(value) == text
