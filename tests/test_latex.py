"""Tests of `clothseg_utils.latex`: what is escaped, and the shape of a table."""

import re

import pytest

from clothseg_utils.latex import document, escape_latex, latex_label, table_to_latex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("$x^2$ #1 ~", r"\$x\textasciicircum{}2\$ \#1 \textasciitilde{}"),
        ("16² × 9 – “a”", "16$^2$ $\\times$ 9 -- ``a''"),
        ("two\nlines\t", "two lines"),
        ("<b>|", r"\textless{}b\textgreater{}\textbar{}"),
        ("Łódź, naïve café", "Łódź, naïve café"),
        ("服.jpg 👗", "[U+670D].jpg [U+1F457]"),
    ],
)
def test_any_text_is_escaped(text, expected):
    assert escape_latex(text) == expected


def test_labels_are_safe_file_names():
    assert latex_label("../IoU of a & b") == "iou-of-a-b"
    assert latex_label("²") == "table"


def test_long_tables_are_broken_over_pages():
    rows = [[str(i), "1"] for i in range(41)]
    long = table_to_latex(["a", "n"], rows, text_columns=1, caption="C", label="c")
    assert long.startswith(r"{\footnotesize")
    assert long.count("{") == long.count("}")
    assert ("\\begin{longtable}{lr}\n\\caption{C}\\label{tab:c} \\\\\n\\toprule") in long
    assert long.count(r"\endhead") == 1
    short = table_to_latex(["a", "n"], rows[:40], text_columns=1, caption="C", label="c")
    assert r"\begin{tabular}{lr}" in short
    for text in (long, short):
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)


def test_marked_rows_are_bold_and_brackets_are_no_argument():
    text = table_to_latex(["a"], [["[x]"], ["y"]], text_columns=1, caption="", label="c", marked=1)
    assert "\n{}[x] \\\\\n\\textbf{y} \\\\\n" in text


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match='table "C" has a row of 1 cells; expected 2'):
        table_to_latex(["a", "b"], [["x"]], text_columns=1, caption="C", label="c")


def test_document_loads_what_the_tables_need():
    text = document(["one.tex"], "Run a_b")
    for line in (r"\usepackage{booktabs}", r"\input{one.tex}", r"\section*{Run a\_b}"):
        assert line in text
