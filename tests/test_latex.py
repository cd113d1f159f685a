"""Tests of `report.latex`: what is escaped, and the shape of a table."""

import re
import shutil
import subprocess

import pytest

from clothseg_utils.report.latex import (
    escape_latex,
    latex_label,
    table_to_latex,
    tables_to_latex,
)
from clothseg_utils.report.parts import Table

HARD = r"\input{/etc/passwd} $x^2$ #1 ~ <b>| 16² × 9 – “a” 服.jpg 👗 Łódź"


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
    rows = tuple((str(i), "1") for i in range(41))
    long = table_to_latex(Table(("a", "n"), rows, title="C"), "c")
    assert r"\begin{longtable}{lr}" in long
    short = table_to_latex(Table(("a", "n"), rows[:40], title="C"), "c")
    assert r"\begin{tabular}{lr}" in short
    for text in (long, short):
        assert "\\caption{C}" in text
        assert "\\label{tab:c}" in text
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)


def test_marked_rows_are_bold_and_brackets_are_no_argument():
    text = table_to_latex(Table(("a", "a"), (("[x]", "1"), ("y", "2")), marked=1), "c")
    assert "\na & a \\\\\n" in text  # columns may have one title
    assert "\n{}[x] & 1 \\\\\n\\textbf{y} & \\textbf{2} \\\\\n" in text


def test_files_are_named_after_titles_and_taken_in_by_one_document():
    one = Table(("a",), (("x",),), title="Scores; n = 2")
    files = tables_to_latex([one, Table(("a",), (("x",),)), one], "Run a_b")
    assert list(files) == ["scores.tex", "scores-2.tex", "all-tables.tex"]
    for line in (r"\usepackage{booktabs}", r"\input{scores-2.tex}", r"\section*{Run a\_b}"):
        assert line in files["all-tables.tex"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_pdflatex_sets_hard_tables(tmp_path):
    rows = tuple((f"{HARD} {i}", "1") for i in range(41))
    tables = [Table((HARD, "n"), rows, title=HARD), Table(("[x]", "n"), rows[:3], title="[x]")]
    tables.append(Table(("a",), (), title="no rows"))
    for name, text in tables_to_latex(tables, HARD).items():
        (tmp_path / name).write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all-tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
