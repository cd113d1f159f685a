"""Tables as LaTeX: ready for \\input, with booktabs; any text is escaped."""

import re
from collections.abc import Sequence

PACKAGES = ("booktabs", "longtable", "adjustbox")
"""What a document that takes these tables in has to load."""

_MOST_ROWS = 40  # that fit one page; longer tables are broken over pages

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
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
_KNOWN_LETTERS = re.compile(
    "[ -~\u00a0-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e]"
)


def escape_latex(text: str) -> str:
    """Escape any text for LaTeX, on one line; letters that pdflatex does not know get their code.

    Example:
        >>> print(escape_latex("50 % of a_b\\n& 中"))
        50 \\% of a\\_b \\& [U+4E2D]
    """
    return "".join(map(_escape_letter, " ".join(text.split())))


def _escape_letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    return letter if _KNOWN_LETTERS.match(letter) else f"[U+{ord(letter):04X}]"


def latex_label(text: str) -> str:
    """Turn a title into a label and file name: lower-case letters, digits and dashes.

    Example:
        >>> latex_label("Scores of each class (95 %)")
        'scores-of-each-class-95'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def table_to_latex(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: int,
    caption: str,
    label: str,
    marked: int = -1,
) -> str:
    """Set a table of texts; a wide one is shrunk to the line, a long one broken over pages.

    Args:
        head: column titles.
        rows: as many cells each as there are titles.
        text_columns: so many columns at the left are set left, the others right.
        caption: any text.
        label: from `latex_label`; becomes `tab:<label>`.
        marked: index of the row that is set bold; -1 for none.

    Raises:
        ValueError: a row has another number of cells than the head.

    Example:
        >>> rows = [["x_y", "1"]]
        >>> print(table_to_latex(["a", "n"], rows, text_columns=1, caption="C", label="c"))
        \\begin{table}
        \\centering
        \\caption{C}
        \\label{tab:c}
        \\begin{adjustbox}{max width=\\linewidth}
        \\begin{tabular}{lr}
        \\toprule
        a & n \\\\
        \\midrule
        x\\_y & 1 \\\\
        \\bottomrule
        \\end{tabular}
        \\end{adjustbox}
        \\end{table}
        <BLANKLINE>
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(
                f'table "{caption}" has a row of {len(row)} cells; expected {len(head)}.'
            )
    columns = "l" * text_columns + "r" * (len(head) - text_columns)
    titles = _line(head)
    body = [_line(row, bold=index == marked) for index, row in enumerate(rows)]
    named = [f"\\caption{{{escape_latex(caption)}}}", f"\\label{{tab:{label}}}"]
    if len(rows) > _MOST_ROWS:
        # What is broken over pages cannot be shrunk to the line.
        lines = [r"{\footnotesize\setlength{\tabcolsep}{3pt}"]
        lines += [f"\\begin{{longtable}}{{{columns}}}", "".join(named) + r" \\", r"\toprule"]
        lines += [titles, r"\midrule", r"\endhead", *body, r"\bottomrule", r"\end{longtable}}"]
    else:
        lines = [r"\begin{table}", r"\centering", *named]
        lines += [r"\begin{adjustbox}{max width=\linewidth}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += [r"\toprule", titles, r"\midrule", *body, r"\bottomrule"]
        lines += [r"\end{tabular}", r"\end{adjustbox}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def document(file_names: Sequence[str], title: str) -> str:
    """Write a document that takes in the named tables, to look at them or to copy its preamble."""
    inputs = [f"\\input{{{name}}}" for name in file_names]
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[margin=2cm]{geometry}",
            *(f"\\usepackage{{{package}}}" for package in PACKAGES),
            r"\begin{document}",
            f"\\section*{{{escape_latex(title)}}}",
            *inputs,
            r"\end{document}",
            "",
        ]
    )


def _line(cells: Sequence[str], bold: bool = False) -> str:
    texts = [escape_latex(cell) for cell in cells]
    # In front of a first cell, a [ would be an argument of the line break before it.
    texts[0] = f"{{}}{texts[0]}" if texts[0].startswith("[") else texts[0]
    if bold:
        texts = [f"\\textbf{{{text}}}" for text in texts]
    return " & ".join(texts) + r" \\"
