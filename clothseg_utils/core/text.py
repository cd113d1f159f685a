"""Wording of messages and texts, the same everywhere."""

import difflib
from collections.abc import Iterable, Sequence


def count_text(number: int, one: str, several: str | None = None) -> str:
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
