"""A run folder -> report: Markdown with its pictures beside it, one self-contained HTML page made
from it, and its tables as LaTeX.

Every number comes from a file of the run; what the run did not make is named. Equal run folders
give equal reports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clothseg_utils.core.files import atomic_path, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import (
    count_text,
    duration_text,
    interval_text,
    percent_text,
    score_text,
    setting_text,
)
from clothseg_utils.pictures.style import FIGURES
from clothseg_utils.report import run_tables, score_tables
from clothseg_utils.report.document import Document
from clothseg_utils.report.facts import read_facts
from clothseg_utils.report.latex import PACKAGES, tables_to_latex
from clothseg_utils.scores.bootstrap import LEVEL
from clothseg_utils.scores.compare import compare_runs, verdict
from clothseg_utils.scores.evaluation import REPORTED_SCORES

# Tables that a chapter shows in its own way, or as a figure; all others are shown as they are.
_KNOWN_TABLES = (
    *("01_summary", "03_history", "03_network", "04_boundaries", "04_headline", "04_per_class"),
    *("04_options", "04_reliability", "04_rolled_up", "04_strata", "05_class_extremes"),
    *("05_disagreement", "05_failed"),
)


class WrittenReport(NamedTuple):
    """What `write_report` made.

    Attributes:
        page: `index.html`.
        markdown: `report.md`, whose pictures lie in `report/figures/`.
        broken: files of the run that could not be used, and why; both name them.
    """

    page: Path
    markdown: Path
    broken: Mapping[str, str]


def write_report(run: RunFolder, against: RunFolder | None = None) -> WrittenReport:
    """Write `report/index.html`, `report/report.md` and `report/latex/` from a run folder alone.

    Args:
        run: the run folder; `metrics.json` must be in it, everything else may be missing or broken.
        against: another run to compare it with, scored on the same photos. The figure of the
            differences is kept in the run's `figures/`.

    Raises:
        FileNotFoundError: the run, or the other one, has no scores yet.
        ValueError: the scores of one are broken, or the two runs cannot be compared.
    """
    facts, other = read_facts(run), None if against is None else read_facts(against)
    comparison = None if against is None else compare_runs(run, against)
    document = Document()
    document.render(
        "report.md.j2",
        facts=facts,
        metrics=facts.metrics,
        other=other,
        comparison=comparison,
        verdict=verdict,
        level=LEVEL,
        reported=REPORTED_SCORES,
        known_figures=FIGURES,
        known_tables=_KNOWN_TABLES,
        latex_packages=PACKAGES,
        run_tables=run_tables,
        score_tables=score_tables,
        count=count_text,
        duration=duration_text,
        interval=interval_text,
        percent=percent_text,
        score=score_text,
        in_words=setting_text,
    )
    folder = run.report_dir
    pictures = {picture.file_name: picture.data for picture in document.pictures.values()}
    latex = tables_to_latex(document.tables, f"Clothing segmentation: run {run.name}")
    _write_folder(folder / "figures", pictures)
    _write_folder(folder / "latex", {name: text.encode() for name, text in latex.items()})
    write_text(folder / "report.md", document.markdown)
    write_text(folder / "index.html", document.page())
    return WrittenReport(folder / "index.html", folder / "report.md", facts.broken)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files; remove those of an earlier report."""
    for name, data in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(data)
    for path in folder.glob("*.*"):
        if path.name not in files and path.is_file():
            path.unlink()
