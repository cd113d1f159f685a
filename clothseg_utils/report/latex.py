"""Tables as LaTeX: ready for \\input, with booktabs; any text is escaped."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from clothseg_utils.report.parts import Table

PACKAGES = ("booktabs", "longtable", "adjustbox")
"""What a document that takes these tables in has to load."""

_MOST_ROWS = 40  # that fit one page; longer tables are broken over pages

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "{}&%$#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Signs that not every font of pdflatex has.
    "²": r"$^2$",
    "×": r"$\times$",
    "−": r"$-$",
    "γ": r"$\gamma$",
    "·": r"$\cdot$",
    "–": "--",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
}

# Letters that pdflatex knows with T1 fonts, found by trying: Latin-1 and most of Latin Extended-A.
_KNOWN_LETTER = re.compile(
    "[ -~\u00a0-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e]"
)


def escape_latex(text: str) -> str:
    """Escape any text for LaTeX, on one line; letters that pdflatex does not know get their code.

    Example:
        >>> print(escape_latex("50 % of a_b\\n& 中"))
        50 \\% of a\\_b \\& [U+4E2D]
    """
    return "".join(
        _SPECIAL.get(letter)
        or (letter if _KNOWN_LETTER.match(letter) else f"[U+{ord(letter):04X}]")
        for letter in " ".join(text.split())
    )


def latex_label(text: str) -> str:
    """Turn a title into a label and file name: lower-case letters, digits and dashes.

    Example:
        >>> latex_label("Scores of each class (95 %)")
        'scores-of-each-class-95'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def tables_to_latex(tables: Iterable[Table], title: str) -> dict[str, str]:
    """Set every table that has a title, and a document that takes them all in: file name -> text.

    Files are named after the titles, up to a semicolon.
    """
    texts: dict[str, str] = {}
    for table in tables:
        if table.title:
            name = latex_label(table.title.partition(";")[0])
            labels = [name, *(f"{name}-{n}" for n in range(2, len(texts) + 3))]
            label = next(label for label in labels if f"{label}.tex" not in texts)
            texts[f"{label}.tex"] = table_to_latex(table, label)
    return texts | {"all-tables.tex": _document(list(texts), title)}


def table_to_latex(table: Table, label: str) -> str:
    """Set a table, its title as caption; a wide one is shrunk to the line, a long one broken."""
    # At the start of a row, a [ would be an argument of the rule or line break before it.
    head, *rows = (
        [re.sub(r"^\[", "{}[", escape_latex(cell)) for cell in row]
        for row in (table.head, *table.rows)
    )
    if table.marked >= 0:
        rows[table.marked] = [f"\\textbf{{{cell}}}" for cell in rows[table.marked]]
    n_text = min(table.text_columns, len(head))
    is_long = len(rows) > _MOST_ROWS
    # Several columns may have one title, so the titles are set over column numbers.
    styler = pd.DataFrame(rows, columns=range(len(head))).style.hide(axis="index")
    titles: dict[object, str] = dict(enumerate(head))
    text = styler.format_index(titles.__getitem__, axis="columns").to_latex(
        column_format="l" * n_text + "r" * (len(head) - n_text),
        caption=escape_latex(table.title),
        label=f"tab:{label}",
        hrules=True,
        position_float=None if is_long else "centering",
        environment="longtable" if is_long else None,
    )
    if is_long:  # what is broken over pages cannot be shrunk to the line
        return f"{{\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n{text}}}\n"
    box = r"\\begin{adjustbox}{max width=\\linewidth}\n\1\n\\end{adjustbox}"
    return re.sub(r"(\\begin{tabular}.*\\end{tabular})", box, text, flags=re.DOTALL)


def _document(file_names: Sequence[str], title: str) -> str:
    """A document that takes in the named tables, to look at them or to copy its preamble."""
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[margin=2cm]{geometry}",
            *(f"\\usepackage{{{package}}}" for package in PACKAGES),
            r"\begin{document}",
            f"\\section*{{{escape_latex(title)}}}",
            *(f"\\input{{{name}}}" for name in file_names),
            r"\end{document}",
            "",
        ]
    )
