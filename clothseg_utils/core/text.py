"""Wording of messages and texts, the same everywhere."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_HARMLESS = "\N{NO-BREAK SPACE}\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"

MISSING = "–"
"""Stands where there is no number."""


def count_text(number: float, one: str, several: str | None = None) -> str:
    """Give a number with its noun.

    Args:
        number: how many.
        one: the noun for 1.
        several: the noun for all else; `one` with an s where it is not given.

    Example:
        >>> count_text(1, "photo"), count_text(1234, "photo"), count_text(0, "class", "classes")
        ('1 photo', '1,234 photos', '0 classes')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def first_names(names: Sequence[object]) -> str:
    """List the first five of some names, and how many more there are.

    Example:
        >>> first_names(["a.jpg", "b, c.jpg"]), first_names(range(2000))
        ('a.jpg; b, c.jpg', '0; 1; 2; 3; 4 and 1,995 more')
    """
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return "; ".join(map(str, names[:5])) + more  # names may hold commas


def printable(text: object) -> str:
    """Escape what names may hold and screens obey or cannot print, such as turns of direction.

    Example:
        >>> print(printable("two\\nlines, \\x1b[2J, café, \\udcff, \\u202etxt.gpj"))
        two\\nlines, \\x1b[2J, café, \\udcff, \\u202etxt.gpj
    """
    return "".join(
        sign if sign.isprintable() or sign in _HARMLESS else sign.encode("unicode_escape").decode()
        for sign in str(text)
    )


def is_writable(text: str) -> bool:
    """Whether a path and a file in UTF-8 can hold a text: no NUL, no halves of signs.

    Example:
        >>> is_writable("café \\u202etxt"), is_writable("a\\0b"), is_writable("\\udcff")
        (True, False, False)
    """
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def folded(name: str) -> str:
    """Make names equal that differ in case or Unicode form only, as some file systems take them.

    Example:
        >>> folded("Cafe\\u0301.JPG") == folded("café.jpg")
        True
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Ask whether a close one of the choices was meant; empty where none is close.

    Args:
        name: what somebody wrote.
        choices: what is valid.

    Example:
        >>> suggestion("batchsize", ["batch_size", "seed"]), suggestion("x", ["seed"])
        (' (did you mean batch_size?)', '')
    """
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def score_text(value: float | None, sign: str = "") -> str:
    """Give a score, or with sign "+" a difference of scores; None and NaN are missing.

    Example:
        >>> score_text(0.51666), score_text(0.02, "+"), score_text(-0.02, "+"), score_text(None)
        ('0.517', '+0.020', '−0.020', '–')
    """
    if value is None or value != value:
        return MISSING
    return f"{value:{sign}.3f}".replace("-", "\N{MINUS SIGN}")


def interval_text(ends: Sequence[float | None] | None) -> str:
    """Give both ends of an interval.

    Example:
        >>> interval_text([0.41, 0.634]), interval_text([0.41, None]), interval_text(None)
        ('0.410 to 0.634', '–', '–')
    """
    texts = [score_text(end) for end in ends or (None, None)]
    return MISSING if MISSING in texts else " to ".join(texts)


def percent_text(share: float) -> str:
    """Give a share of 0..1 in percent; what would be rounded to nothing is said to be little.

    Example:
        >>> percent_text(0.2), percent_text(0.0002), percent_text(0)
        ('20.0 %', '< 0.1 %', '0.0 %')
    """
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "< 0.1 %"


def duration_text(seconds: float) -> str:
    """Give seconds in words.

    Example:
        >>> duration_text(9.26), duration_text(272), duration_text(8000)
        ('9.3 s', '4 min 32 s', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def setting_text(value: Any) -> str:
    """Give a setting (str, bool, int or float) in words.

    Example:
        >>> setting_text(""), setting_text(True), setting_text(0.5), setting_text("flip")
        ('(empty)', 'yes', '0.5', 'flip')
    """
    if value == "":
        return "(empty)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number_text(value) if isinstance(value, float) else str(value)


def number_text(value: float) -> str:
    """Give a number as short as can be, and exactly.

    Example:
        >>> number_text(3e-4), number_text(7.0), number_text(0.1234567), number_text(60)
        ('0.0003', '7', '0.1234567', '60')
    """
    short = f"{value:g}"
    return short if float(short) == value else str(value)
