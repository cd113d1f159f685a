"""Any text as Markdown that shows it."""

import re
from typing import Any

from markupsafe import Markup

from clothseg_utils.core.text import printable


def to_markdown(value: Any) -> Markup:
    """Escape any text for GitHub's Markdown, table cells included; what is Markup stays.

    Signs that nobody sees, such as those that turn the direction of writing, show as their code.

    Example:
        >>> print(to_markdown("a|b <script> *c*"))
        a\\|b &lt;script&gt; \\*c\\*
    """
    if isinstance(value, Markup):
        return value
    text = printable(" ".join(str(value).split()))
    text = re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # At the start of a line these would begin a list or a rule.
    return Markup(re.sub(r"^([-+=]|\d+[.)](?!\d))", lambda m: f"{m[0][:-1]}\\{m[0][-1]}", text))
