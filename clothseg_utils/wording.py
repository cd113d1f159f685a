"""Numbers in words, the same everywhere."""


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
