"""A run folder -> report: one self-contained HTML page, Markdown with its pictures beside it, and
its tables as LaTeX.

The report is built once, as sections of blocks (text, tables, pictures), and each template only
lays those blocks out: all formats say the same. Every number comes from a file of the run; what
the run did not make is named. Equal run folders give equal reports.
"""

import base64
import csv
import io
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from clothseg_utils.core.classes import class_colors
from clothseg_utils.core.config import (
    Config,
    InferenceConfig,
    Profile,
    config_to_parameters,
    field_sections,
    profile_config,
    replace_fields,
)
from clothseg_utils.core.files import atomic_path, read_json, sha256_file, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text
from clothseg_utils.data.photos import read_photo
from clothseg_utils.latex import PACKAGES, document, latex_label, table_to_latex
from clothseg_utils.scores.compare import (
    COMPARED_MEANS,
    LEVEL,
    Comparison,
    Difference,
    class_verdict,
    compare_runs,
    verdict,
)
from clothseg_utils.scores.metrics import nan_to_none
from clothseg_utils.scores.rankings import largest_confusions

if TYPE_CHECKING:
    from clothseg_utils.scores.evaluation import Evaluation

_MAX_WIDTH_PX = 1600
_JPEG_QUALITY = 85
_MISSING = "–"
_MOST_ROWS = 60  # of a table that can be as long as the dataset; the file itself is named
_MOST_CONFUSIONS = 10
_WORST_PHOTOS = 10

_FIGURE_TITLES = {
    "01_category_counts": "Annotations per category",
    "01_supercategory_counts": "Annotations per supercategory",
    "01_area_histogram": "Areas of the annotations",
    "01_area_by_supercategory": "Areas by supercategory",
    "01_annotations_per_image": "Annotations per photo",
    "01_image_sizes": "Sizes of the photos",
    "01_cooccurrence": "Supercategories that occur together",
    "01_gallery": "Photos with their annotations drawn",
    "02_layers": "One mask, layer by layer",
    "02_class_shares": "Share of the pixels of each class",
    "02_hidden_pixels": "What painting order hides of each class",
    "03_batch": "Photos and masks as the network gets them",
    "03_curves": "Training curves: train Dice loss, train loss, val loss, val mIoU, val F1",
    "04_class_scores": "Scores of each class",
    "04_confusion_matrix": "Confusion matrix, rows are the truth",
    "04_error_kinds": "Kinds of error of each class: correct, missed, wrong class, false alarm",
    "04_options": "Test-time options: gain of mean IoU and cost",
    "04_boundaries": "Boundary IoU of each class, beside its mask IoU",
    "04_reliability": "Reliability diagram of the pixel probabilities",
    "04_people": "Score by number of people",
    "04_composites": "Composites of several photos, beside the photos alone",
    "04_object_area": "Recall and IoU by size of the object, and by category",
    "04_overlap": "Score of overlapping annotations",
    "04_overlap_pairs": "Categories that are taken for the one below them",
    "04_hidden": "What painting order hides of each class",
    "04_image_scores": "Scores of single photos",
    "04_comparison": "Comparison with the earlier system",
    "05_best": "Best photos: input, truth, prediction",
    "05_median": "Median photos: input, truth, prediction",
    "05_worst": "Worst photos: input, truth, prediction",
    "05_class_extremes": "Best, median and worst photo of each class, errors in colour",
    "05_confusions": "The largest confusions: photo, truth, prediction",
    "05_disagreement": "Photos on which network and label disagree, with error maps",
    "05_own_photos": "Own photos: overlays",
}

# Figures made of photos; the others are drawings, which JPEG would blur.
_PHOTO_FIGURES = re.compile(r"01_gallery|02_layers|03_batch|05_.*")

# Tables whose content a section shows in its own way; all others are shown as they are.
_KNOWN_TABLES = (
    "01_summary",
    "03_history",
    "03_network",
    "04_boundaries",
    "04_headline",
    "04_per_class",
    "04_options",
    "04_reliability",
    "04_strata",
    "05_class_extremes",
    "05_disagreement",
    "05_failed",
)

_STRATUM_TITLES = {
    "people": "Several people in one photo",
    "composites": "Several people: composites of photos",
    "object_area": "Small objects",
    "category": "Small objects, by category",
    "overlap": "Overlapping annotations",
    "overlap_pairs": "Overlapping categories that are confused",
    "hidden": "What painting order hides",
}

# What a stratum's score is; mean IoU where nothing is said.
_STRATUM_SCORES = {
    "object_area": "mean recall",
    "category": "mean recall",
    "overlap": "share of garment pixels predicted right",
    "overlap_pairs": "predicted as the one below",
    "hidden": "hidden share",
}

# What else is known of the groups of a stratum: column title -> keys, one or (low, high).
_STRATUM_COLUMNS: Mapping[str, Mapping[str, str | tuple[str, str]]] = {
    "people": {"taken for background": "missed"},
    "composites": {
        "photos alone": "alone",
        "drop": "drop",
        "95 % interval of the drop": ("drop_low", "drop_high"),
        "taken for background": "missed",
        "alone": "missed_alone",
    },
    "object_area": {"mean IoU": "iou", "95 % interval of the IoU": ("iou_low", "iou_high")},
    "category": {"mean IoU": "iou", "median area, px": "median_area"},
    "overlap": {"taken for background": "missed"},
    "overlap_pairs": {"predicted right": "recall"},
}

_STRATUM_TEXTS = {
    "object_area": "Inside the mask of each annotation; bands by the area of that mask. The recall "
    "counts the pixels that are not painted over; the IoU sets false alarms inside the mask "
    "against them, which can only lie where another annotation is on top: where nothing overlaps, "
    "both are equal.",
    "category": "As above, small categories first.",
    "overlap": "Of the pixels of all classes but background. A mean over classes would mislead: "
    "background is under no annotation, and most classes never lie on another one.",
    "overlap_pairs": "Of the pixels of the upper category that lie on the lower one; most confused "
    "pixels first, pairs of different classes in at least two photos.",
    "hidden": "The part of each class's annotated pixels over which another class is painted: what "
    "the masks, and so the scores, do not know of.",
}

# Why a stratum may be empty.
_STRATUM_EMPTY = {
    "people": "Not measured: the annotations of this dataset carry no person counts.",
    "composites": "Not made: composites stand in where the annotations carry no person counts, and "
    "need two photos.",
    "category": "This split holds no annotations.",
    "overlap_pairs": "No two categories of different classes overlap in two photos of this split.",
}
_FOLDED_STRATA = ("category",)

# Strata whose groups have no order from which something would follow.
_UNORDERED_STRATA = ("composites", "category", "overlap_pairs", "hidden")

# The notebook that a section's settings are read by; training for all others.
_OWNERS = {
    "convert": "01_data_exploration",
    "evaluate": "04_metric_evaluation",
    "inference": "04_metric_evaluation",
    "predict": "05_qualitative_overlays",
}


# --- blocks: what a report is made of ---------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A paragraph; "note" stands out, "missing" names what the run did not make."""

    text: str
    style: Literal["plain", "note", "missing"] = "plain"
    kind: ClassVar = "text"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    kind: ClassVar = "heading"


@dataclass(frozen=True)
class Items:
    """A list of sentences; with style "formula", `_` and `^` work as in `Lines`."""

    items: tuple[str, ...]
    style: Literal["plain", "formula"] = "plain"
    kind: ClassVar = "items"


@dataclass(frozen=True)
class Lines:
    """Lines kept as they are: a formula (`_` lowers and `^` raises what follows) or a command."""

    lines: tuple[str, ...]
    style: Literal["formula", "command"]
    kind: ClassVar = "lines"


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        head: column titles.
        rows: one tuple of cells per row.
        text_columns: so many columns at the left hold text; the others hold numbers.
        title: says what the table shows.
        folded: shown on demand, for long tables.
        marked: index of the row that stands out; -1 for none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    title: str = ""
    folded: bool = False
    marked: int = -1
    kind: ClassVar = "table"


@dataclass(frozen=True)
class Picture:
    """A picture, encoded as the report embeds it.

    Attributes:
        file_name: name below `report/figures/`.
        data: bytes of a PNG or JPEG file.
        size_wh: pixels.
        alt: what is said to those who do not see it.
        caption: stands below it; may be empty.
    """

    file_name: str
    data: bytes
    size_wh: tuple[int, int]
    alt: str
    caption: str
    kind: ClassVar = "picture"

    @property
    def is_photo(self) -> bool:
        """Whether it is made of photos, whose details need room."""
        return self.file_name.endswith(".jpg")

    @property
    def data_uri(self) -> str:
        """The picture inside a URI."""
        subtype = "jpeg" if self.is_photo else "png"
        return f"data:image/{subtype};base64,{base64.b64encode(self.data).decode()}"

    @property
    def relative_uri(self) -> str:
        """The picture's address as seen from `report/`."""
        return f"figures/{quote(self.file_name)}"


Block = Text | Heading | Items | Lines | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the report, listed in its table of contents."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Id of the heading, as GitHub makes it from the title."""
        return self.title.lower().replace(" ", "-")


# --- facts: what the run folder holds ----------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """Everything that the report is made from; empty where the run did not make it."""

    run: RunFolder
    metrics: Mapping[str, Any]
    evaluation: "Evaluation | None"
    reported_scores: Mapping[str, float]
    image_scores: np.ndarray
    manifest: Mapping[str, Any]
    audits: Mapping[str, Mapping[str, Any]]
    history: Sequence[Mapping[str, str]]
    training: Mapping[str, Any]
    tables: Mapping[str, Sequence[Sequence[str]]]
    figures: Mapping[str, Path]
    scores_are_own: bool

    @property
    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        return self.manifest.get("steps", {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Parameters of the run, each from the notebook that it steers."""
        parameters = {name: step.get("parameters", {}) for name, step in self.steps.items()}
        settings = {}
        for name, section in field_sections().items():
            owner = parameters.get(_OWNERS.get(section, "03_training"), {})
            for recorded in (owner, *parameters.values()):
                if name in recorded:
                    settings[name] = recorded[name]
                    break
        return settings

    @property
    def is_synthetic(self) -> bool:
        return bool(self.metrics["synthetic"])

    @property
    def has_mit_encoder(self) -> bool:
        return str(self.settings.get("encoder_name", "")).startswith("mit_")

    def setting(self, name: str) -> str:
        """A parameter in words."""
        return _value_text(self.settings[name]) if name in self.settings else "not recorded"


def _read_facts(run: RunFolder) -> _Facts:
    # evaluate loads torch; importing the report must not.
    from clothseg_utils.scores.evaluation import REPORTED_SCORES, image_scores, read_evaluation

    metrics_path = run.path / "metrics.json"
    if not metrics_path.exists():
        raise FileNotFoundError(
            f"no such file: {metrics_path}; expected the scores of notebook 04. Run it first."
        )
    has_arrays = (run.evaluation_dir / "per_image.npz").exists()
    evaluation = read_evaluation(run.path) if has_arrays else None
    history = _read_rows(run.logs_dir / "history.csv")
    metrics = read_json(metrics_path)
    audit_path = run.path / "audit.json"
    best = run.best_checkpoint
    return _Facts(
        run=run,
        metrics=metrics,
        evaluation=evaluation,
        reported_scores=REPORTED_SCORES,
        image_scores=image_scores(evaluation) if evaluation else np.empty(0),
        manifest=run.read_manifest(),
        audits=read_json(audit_path) if audit_path.exists() else {},
        history=[dict(zip(history[0], row, strict=True)) for row in history[1:]],
        training=read_json(run.training_path) if run.training_path.exists() else {},
        tables={path.stem: _read_rows(path) for path in sorted(run.tables_dir.glob("*.csv"))},
        figures={path.stem: path for path in sorted(run.figures_dir.glob("[0-9][0-9]_*.png"))},
        scores_are_own=best.exists() and sha256_file(best) == metrics["checkpoint_sha256"],
    )


def _read_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file, head first; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if row]


# --- the report ----------------------------------------------------------------------------------


def write_report(run: RunFolder, against: RunFolder | None = None) -> list[Path]:
    """Write `report/index.html`, `report/report.md` and `report/latex/` from a run folder.

    Reads nothing else. The page holds its pictures; the Markdown links to copies below
    `report/figures/`.

    Args:
        run: the run folder; `metrics.json` must be in it, everything else may be missing.
        against: another run to compare it with, scored on the same photos. The figure of the
            differences is kept in the run's `figures/`.

    Returns:
        The paths of the page and of the Markdown.

    Raises:
        FileNotFoundError: the run, or the other one, has no scores yet.
        ValueError: a JSON file of the run is broken, or the two runs cannot be compared.
    """
    for named in (run, against):
        if named is not None:
            _check_run(named)
    facts = _read_facts(run)
    comparison = None if against is None else compare_runs(run, against)
    sections = [Section(title, tuple(build(facts))) for title, build in _SECTIONS.items()]
    if comparison is not None and against is not None:
        blocks = _comparison(facts, comparison, _read_facts(against))
        sections.insert(1 + list(_SECTIONS).index("Scores"), Section("Comparison", tuple(blocks)))
    content = {
        "title": f"Clothing segmentation: run {run.name}",
        "date": _date(facts),
        "summary": _summary(facts),
        "sections": sections,
    }
    pictures = [b for section in sections for b in section.blocks if isinstance(b, Picture)]
    _write_pictures(run.report_dir / "figures", pictures)
    _write_latex(run.report_dir / "latex", sections, content["title"])
    html_path, markdown_path = run.report_dir / "index.html", run.report_dir / "report.md"
    write_text(markdown_path, _render("report.md.j2", content, finalize=_to_markdown))
    write_text(html_path, _render("report.html.j2", content))
    return [html_path, markdown_path]


def _check_run(run: RunFolder) -> None:
    if run.path.is_dir():
        return
    names = sorted(path.parent.name for path in run.path.parent.glob("*/metrics.json"))
    raise FileNotFoundError(
        f"no such run: {run.path}; expected "
        f"{'one of ' + ', '.join(names) if names else 'a run, of which there is none yet'}. Check "
        "the name, or run the notebooks first."
    )


def write_page(
    path: str | Path,
    title: str,
    *,
    date: str,
    summary: Sequence[Block],
    sections: Sequence[Section],
) -> None:
    """Write a page of other content in the report's own form, as one self-contained HTML file.

    Args:
        path: the file.
        title: heading of the page.
        date: line below it.
        summary: blocks above the table of contents.
        sections: parts of the page; cells of tables may be `Markup`, such as links.
    """
    content = {"title": title, "date": date, "summary": summary, "sections": sections}
    write_text(path, _render("report.html.j2", content))


def _write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write the pictures; remove those of an earlier report."""
    for picture in pictures:
        with atomic_path(folder / picture.file_name) as temporary:
            temporary.write_bytes(picture.data)
    names = {picture.file_name for picture in pictures}
    for path in folder.glob("*.*"):
        if path.name not in names:
            path.unlink()


def _write_latex(folder: Path, sections: Sequence[Section], title: str) -> None:
    """Write each table that has a title as LaTeX; remove those of an earlier report."""
    texts: dict[str, str] = {}
    tables = [b for section in sections for b in section.blocks if isinstance(b, Table)]
    for table in tables:
        if not table.title:
            continue
        name = latex_label(table.title.partition(";")[0])
        label = next(
            label
            for label in itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
            if f"{label}.tex" not in texts
        )
        texts[f"{label}.tex"] = table_to_latex(
            table.head,
            table.rows,
            text_columns=min(table.text_columns, len(table.head)),
            caption=table.title,
            label=label,
            marked=table.marked,
        )
    texts["all-tables.tex"] = document(list(texts), title)
    for name, text in texts.items():
        write_text(folder / name, text)
    for path in folder.glob("*.tex"):
        if path.name not in texts:
            path.unlink()


def _render(
    template: str, content: Mapping[str, Any], finalize: Callable[[Any], Any] | None = None
) -> str:
    environment = Environment(
        loader=PackageLoader("clothseg_utils"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["formula"] = _formula_to_html
    environment.filters["verbatim"] = _verbatim
    return environment.get_template(template).render(content)


def _to_markdown(value: Any) -> Markup:
    """Escape any text for GitHub Markdown, table cells included; what is Markup stays.

    Example:
        >>> print(_to_markdown("a|b <script> *c*"))
        a\\|b &lt;script&gt; \\*c\\*
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    text = re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # At the start of a line these would begin a list or a rule.
    return Markup(re.sub(r"^([-+=]|\d+[.)](?!\d))", _escape_last, text))


def _escape_last(match: re.Match[str]) -> str:
    return f"{match[0][:-1]}\\{match[0][-1]}"


def _verbatim(text: str) -> Markup:
    """Let one line of text into Markdown as it is."""
    return Markup(text.replace("\n", " "))


def _formula_to_html(line: str) -> Markup:
    """Set `x_c` with a lowered c and `x^2` with a raised 2.

    Example:
        >>> print(_formula_to_html("p_c < q^2"))
        p<sub>c</sub> &lt; q<sup>2</sup>
    """
    html = re.sub(r"_(\w+)", r"<sub>\1</sub>", str(escape(line)))
    return Markup(re.sub(r"\^(\w+)", r"<sup>\1</sup>", html))


# --- parts of sections ---------------------------------------------------------------------------


def _date(facts: _Facts) -> str:
    """Day on which the last step ended."""
    finished = [step["finished"] for step in facts.steps.values() if step.get("finished")]
    return max(finished)[:10] if finished else "date not recorded"


def _missing(what: str) -> Text:
    return Text(f"Not made in this run: {what}.", "missing")


def _pictures(facts: _Facts, *names: str) -> list[Block]:
    """The named figures, and one line that names those which the run did not make."""
    blocks: list[Block] = []
    lost = []
    for name in names:
        if name not in facts.figures:
            lost.append(f"{_FIGURE_TITLES[name].partition(':')[0]} ({name})")
            continue
        try:
            blocks.append(_read_picture(facts.figures[name]))
        except ValueError:  # one broken picture must not cost the report
            text = f"Figure {name} cannot be decoded. Rerun notebook {name[:2]}."
            blocks.append(Text(text, "note"))
    if lost:
        blocks.append(_missing(("figure " if len(lost) == 1 else "figures ") + "; ".join(lost)))
    return blocks


def _further(facts: _Facts, *prefixes: str) -> list[Block]:
    """Figures and tables of these notebooks that no section knows by name."""
    names = [
        name for name in facts.figures if name.startswith(prefixes) and name not in _FIGURE_TITLES
    ]
    blocks = _pictures(facts, *names)
    for name, rows in facts.tables.items():
        if name.startswith(prefixes) and name not in _KNOWN_TABLES and rows:
            blocks.append(_file_table(facts, name, rows))
    return blocks


def _read_picture(path: Path, alt: str = "") -> Picture:
    """Encode a figure for the report: photos as JPEG, drawings as PNG, at most 1600 pixels wide.

    The caption is the PNG's text chunk "Description"; without `alt`, the figure's title is it.

    Raises:
        ValueError: the file cannot be decoded.
    """
    image = Image.fromarray(read_photo(path))
    with Image.open(path) as original:  # the head alone: `save_figure` puts the text before pixels
        caption = str(original.info.get("Description", ""))
    is_photo = _PHOTO_FIGURES.fullmatch(path.stem) is not None
    fits = image.width <= _MAX_WIDTH_PX
    if not fits:
        height = max(1, round(image.height * _MAX_WIDTH_PX / image.width))
        image = image.resize((_MAX_WIDTH_PX, height), Image.Resampling.LANCZOS)
    if fits and not is_photo:
        data = path.read_bytes()
    else:
        buffer = io.BytesIO()
        if is_photo:
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        else:
            image.save(buffer, "PNG")
        data = buffer.getvalue()
    return Picture(
        file_name=f"{path.stem}.{'jpg' if is_photo else 'png'}",
        data=data,
        size_wh=image.size,
        alt=alt or _figure_title(path.stem),
        caption=" ".join(caption.split()),
    )


def _figure_title(name: str) -> str:
    return _FIGURE_TITLES.get(name) or name[3:].replace("_", " ").capitalize()


def _file_table(facts: _Facts, name: str, rows: Sequence[Sequence[str]]) -> Table:
    """A table as a notebook wrote it, numbers shortened."""
    head, *body = rows
    numeric = [
        column for column in range(len(head)) if body and all(_is_number(r[column]) for r in body)
    ]
    text_columns = min(numeric, default=len(head))
    title = name[3:].replace("_", " ").capitalize()
    more = f"; the first {_MOST_ROWS} of {len(body):,} rows" if len(body) > _MOST_ROWS else ""
    return Table(
        tuple(cell.replace("_", " ") for cell in head),
        tuple(
            tuple(_cell_text(name, cell) for name, cell in zip(head, row, strict=True))
            for row in body[:_MOST_ROWS]
        ),
        text_columns=text_columns,
        title=f"{title}; {_table_source(facts, name)} (tables/{name}.csv{more})",
        folded=True,
    )


def _table_source(facts: _Facts, name: str) -> str:
    """What a notebook's table was made from: 01 counts train, 02 both splits, 04 and 05 score."""
    if name >= "04":
        return _source(facts)
    splits = facts.audits if name >= "02" else facts.audits.keys() & {"train"}
    texts = [f"{split}, n = {facts.audits[split]['n_images']:,} photos" for split in splits]
    return "; ".join([facts.metrics["dataset"], *texts])


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _cell_text(column: str, cell: str) -> str:
    if not cell or cell == "nan":
        return _MISSING
    if re.fullmatch(r"-?\d+", cell):
        return cell if column.endswith("id") else f"{int(cell):,}"
    if not _is_number(cell):
        return cell
    value = float(cell)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _score(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"


def _range(interval: Sequence[float | None] | None) -> str:
    if interval is None or None in interval:
        return _MISSING
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "< 0.1 %"


def _duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> _duration(9.26), _duration(272), _duration(8000)
        ('9.3 s', '4 min 32 s', '2 h 13 min')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _value_text(value: Any) -> str:
    """A setting in words; settings are str, bool, int or float."""
    if value == "":
        return "(empty)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- sections ------------------------------------------------------------------------------------


def _summary(facts: _Facts) -> list[Block]:
    metrics, intervals = facts.metrics, facts.metrics.get("intervals", {})
    blocks: list[Block] = []
    if facts.is_synthetic:
        blocks.append(
            Text(
                "Synthetic data: every photo, mask and score in this report comes from drawn "
                "pictures. The scores say nothing about real photos.",
                "note",
            )
        )
    scored = {n: c for n, c in metrics["per_class"].items() if c["target_pixels"] > 0}
    best = max(scored, key=lambda n: scored[n]["iou"], default=None)
    lowest = min((scores["iou"] for scores in scored.values()), default=None)
    worst = [name for name, scores in scored.items() if scores["iou"] == lowest]
    extremes = (
        f" Of the {len(scored)} classes that occur, {best} is segmented best "
        f"(IoU {_score(scored[best]['iou'])}) and {', '.join(worst)} worst "
        f"({_score(scored[worst[0]]['iou'])})."
        if scored
        else ""
    )
    name = facts.settings.get("encoder_name")
    encoder = f" with the encoder {name}" if name else ""
    blocks.append(
        Text(
            f"A U-Net{encoder}, at {metrics['image_size']} × {metrics['image_size']} pixels, "
            f"reaches a mean IoU of {_score(metrics['mean_iou'])} (95 % interval "
            f"{_range(intervals.get('mean_iou'))}) and a macro F1 of "
            f"{_score(metrics['macro_f1'])} ({_range(intervals.get('macro_f1'))}) on "
            f"{count_text(metrics['n_images'], 'photo')} of the {metrics['split']} split of "
            f"{_dataset_name(facts)}.{extremes} Protocol: {metrics['protocol']}."
        )
    )
    return blocks


def _dataset_name(facts: _Facts) -> str:
    name = facts.metrics["dataset"]
    return f"“{name}”" + (" (synthetic)" if facts.is_synthetic and name != "synthetic" else "")


def _source(facts: _Facts) -> str:
    """What a table of scores was made from: data, split, number of photos, protocol."""
    options = InferenceConfig(**facts.metrics.get("inference", {}))
    note = "" if options.is_plain else f", {options.describe()}"
    return f"{facts.metrics['source']}, native resolution{note}"


def _data(facts: _Facts) -> list[Block]:
    limit = facts.settings.get("image_limit", 0)
    blocks: list[Block] = [
        Text(
            "Knowing which pixel belongs to which garment is the ground for search by look, for "
            "virtual fitting and for statistics of dress. "
            + (
                "This dataset is drawn, so that the whole way from photos to this report can be "
                "walked without any download, with true masks known exactly."
                if facts.is_synthetic
                else "The annotations mark garments, their parts and their accessories one by one; "
                "here they become one class per pixel."
            )
        ),
        Text(
            f"Dataset {_dataset_name(facts)}; class scheme {facts.setting('scheme')}, "
            f"{len(facts.metrics['per_class'])} classes with background"
            + (
                f"; only the first {count_text(limit, 'photo')} of each split were used"
                if limit
                else ""
            )
            + ". Annotations are painted into masks larger first, so that a small object stays "
            "visible on a large one."
        ),
    ]
    if facts.audits:
        blocks += [_audit_table(facts), Heading("What was left out, and why"), *_findings(facts)]
    absent = [split for split in ("train", "val") if split not in facts.audits]
    if absent:
        blocks.append(_missing(f"the audit of {' and '.join(absent)} (notebook 01)"))
    blocks.append(Heading("Annotations and photos"))
    blocks += _pictures(facts, *(n for n in _FIGURE_TITLES if n.startswith("01_")))
    blocks += _further(facts, "01_")
    blocks.append(Heading("Masks"))
    blocks += _pictures(facts, *(n for n in _FIGURE_TITLES if n.startswith("02_")))
    return blocks + _further(facts, "02_")


def _audit_table(facts: _Facts) -> Table:
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "photos listed": lambda a: f"{a['n_images']:,}",
        "photos without annotations (all background)": lambda a: (
            f"{a['n_images_without_annotations']:,}"
        ),
        "photos left out": lambda a: f"{len(a['excluded']):,}",
        "annotations used": lambda a: f"{a['n_annotations']:,}",
        "of these polygons": lambda a: f"{a['n_polygon']:,}",
        "of these RLE": lambda a: f"{a['n_rle']:,}",
        "annotations left out": lambda a: f"{a['n_annotations_left_out']:,}",
    }
    return Table(
        ("", *facts.audits),
        tuple(
            (label, *(count(audit) for audit in facts.audits.values()))
            for label, count in rows.items()
        ),
        title="What the audit counted",
    )


def _findings(facts: _Facts) -> list[Block]:
    rows = []
    for split, audit in facts.audits.items():
        first = {p["kind"]: p for p in reversed(audit["problems"])}
        rows += [
            (
                split,
                kind.replace("_", " "),
                f"{first[kind]['subject']}: {first[kind]['detail']}",
                f"{n:,}",
            )
            for kind, n in audit["counts"].items()
        ]
    n_excluded = sum(len(audit["excluded"]) for audit in facts.audits.values())
    n_annotations = sum(audit["n_annotations_left_out"] for audit in facts.audits.values())
    text = (
        f"The audit left out {count_text(n_excluded, 'photo')} and "
        f"{count_text(n_annotations, 'annotation')}. "
        + (
            "A photo that is missing, broken or of another size than its record is left out by "
            "name, see the failures below; other findings are only reported."
            if rows
            else "It found nothing wrong."
        )
    )
    blocks: list[Block] = [Text(text)]
    if rows:
        head = ("split", "finding", "the first of them", "count")
        blocks.append(Table(head, tuple(rows), text_columns=3, title="Findings of the audit"))
    return blocks


def _architecture(facts: _Facts) -> list[Block]:
    metrics = facts.metrics
    weights = {
        "none": "random: trained from scratch",
        "imagenet": "ImageNet",
        "not recorded": "not recorded",
    }
    encoder_weights = facts.setting("encoder_weights")
    resize = {
        "letterbox": "letterbox: aspect ratio kept, the rest padded and ignored",
        "squash": "squash: both sides scaled to the input size, aspect ratio lost",
    }
    rows = [
        ("network", "U-Net"),
        ("encoder", facts.setting("encoder_name")),
        ("weights at the start", weights.get(encoder_weights, f"from {encoder_weights}")),
        ("encoder frozen", facts.setting("freeze_encoder")),
        ("head begins at the classes' shares", facts.setting("prior_bias")),
        ("classes", f"{len(metrics['per_class'])}, background counted"),
        ("input", f"{metrics['image_size']} × {metrics['image_size']} pixels, RGB"),
        ("resize", resize.get(metrics["resize"], metrics["resize"])),
    ]
    blocks: list[Block] = [
        Text(
            "A photo is resized to the square input; the encoder turns it into features at falling "
            "resolution, the decoder puts them together again, and each pixel gets one logit per "
            "class. Logits are upsampled to the photo's own size before the largest one is taken."
        ),
        Table(("part", "value"), tuple(rows), text_columns=2, title="Network"),
    ]
    parameters = facts.tables.get("03_network")
    if parameters:
        blocks.append(_parameter_table(parameters))
    else:
        blocks.append(_missing("the number of parameters (tables/03_network.csv)"))
    return blocks


def _parameter_table(rows: Sequence[Sequence[str]]) -> Table:
    """Parameters of each part of the network, with their sum."""
    head, *body = rows
    counts = {row[head.index("part")]: int(row[head.index("parameters")]) for row in body}
    counts.setdefault("total", sum(counts.values()))
    cells = tuple((part, f"{count:,}") for part, count in counts.items())
    return Table(("part", "parameters"), cells, title="Parameters", marked=len(cells) - 1)


def _loss(facts: _Facts) -> list[Block]:
    wanted = ("dice_weight", "focal_weight", "dice_form", "dice_smooth", "focal_gamma")
    if any(name not in facts.settings for name in wanted):
        return [_missing("a record of the loss (parameters of 03_training)")]
    dice_weight, focal_weight, form, smooth, gamma = (facts.setting(name) for name in wanted)
    num_classes = len(facts.metrics["per_class"])
    averaged = {
        "smp": "K = C: all classes count, whether in the batch or not",
        "present": "K is the number of classes with target pixels in the batch",
    }
    return [
        Text("The loss is a weighted sum of soft Dice and focal loss, taken over one batch:"),
        Lines(
            (
                f"L = {dice_weight} · D + {focal_weight} · F",
                "D = 1/K · Σ_c [ 1 − (I_c + s) / ((P_c + Y_c)/2 + s) ], over the c with Y_c > 0",
                "F = 1/(N·C) · Σ_i Σ_c (1 − q_ic)^γ · (−ln q_ic)",
                f"s = {smooth}, γ = {gamma}, C = {num_classes}",
            ),
            "formula",
        ),
        Items(
            (
                "D, the Dice loss, per class c: I_c is the sum of p·y, P_c of p and Y_c of y over "
                "the batch's counted pixels; p is the softmax probability, y is 1 where the pixel "
                "belongs to the class, else 0",
                f"{averaged.get(form, form)} (form “{form}”)",
                "F, the focal loss, per pixel i and class c: q_ic is the sigmoid of the logit "
                "where c is the pixel's class, one minus it elsewhere; N counts the pixels",
                "pixels marked as ignored, such as padding, are not counted",
            ),
            "formula",
        ),
    ]


def _configuration(facts: _Facts) -> list[Block]:
    rows = [
        (section, name, facts.setting(name))
        for name, section in field_sections().items()
        if name in facts.settings
    ]
    if not rows:
        return [_missing("a record of the parameters (manifest.json)")]
    title = "All recorded parameters"
    return [Table(("section", "field", "value"), tuple(rows), 3, title=title, folded=True)]


def _training(facts: _Facts) -> list[Block]:
    blocks: list[Block] = []
    training = facts.training
    if training:
        blocks.append(
            Text(
                f"{count_text(training['epochs'], 'epoch')}, "
                f"{count_text(training['steps'], 'step')}, {_duration(training['seconds'])} "
                f"of optimisation and validation. Training ended because {training['reason']}. "
                "The best checkpoint is that after epoch "
                f"{training['best_epoch'] + 1}, with a val mIoU of "
                f"{_score(training['best_score'])} at the network's input size; that number only "
                "chose the checkpoint."
            )
        )
    else:
        blocks.append(_missing("the summary of training (checkpoints/training.json)"))
    blocks += _pictures(facts, "03_batch", "03_curves")
    if facts.history:
        blocks.append(_epoch_table(facts))
    else:
        blocks.append(_missing("the table of epochs (logs/history.csv)"))
    return blocks + _further(facts, "03_")


_EPOCH_COLUMNS = {
    "epoch": "epochs done",
    "step": "steps",
    "train/dice_loss": "train Dice loss",
    "train/loss": "train loss",
    "val/loss": "val loss",
    "val/mean_iou": "val mIoU",
    "val/macro_f1": "val F1",
    "learning_rate": "learning rate",
    "images_per_second": "photos/s",
    "seconds": "seconds so far",
}


def _epoch_table(facts: _Facts) -> Table:
    best = facts.training.get("best_epoch")
    columns = [name for name in _EPOCH_COLUMNS if name in facts.history[0]]
    rows, marked = [], -1
    for index, row in enumerate(facts.history):
        cells = [_history_cell(name, row[name]) for name in columns]
        if int(float(row["epoch"])) == best:
            cells[0], marked = f"{cells[0]} (best)", index
        rows.append(tuple(cells))
    return Table(
        tuple(_EPOCH_COLUMNS[name] for name in columns),
        tuple(rows),
        title="After each epoch; scores at the network's input size",
        folded=len(rows) > _MOST_ROWS,
        marked=marked,
    )


def _history_cell(name: str, cell: str) -> str:
    value = float(cell)
    if name == "epoch":
        return f"{value + 1:.0f}"  # counted from 0 in the file
    if name == "step":
        return f"{value:,.0f}"
    if name == "learning_rate":
        return f"{value:.1e}"
    return f"{value:,.1f}" if name in ("seconds", "images_per_second") else _score(value)


_HEADLINES = {
    "mean_iou": "mean IoU",
    "mean_iou_no_background": "mean IoU without background",
    "mean_iou_target_classes": "mean IoU, classes with target only",
    "macro_f1": "macro F1",
    "macro_f1_no_background": "macro F1 without background",
    "pixel_accuracy": "pixel accuracy",
}


def _scores(facts: _Facts) -> list[Block]:
    metrics = facts.metrics
    squashed, intervals = metrics.get("reported_protocol", {}), metrics.get("intervals", {})
    rows = tuple(
        (
            label,
            _score(metrics.get(name)),
            _range(intervals.get(name)),
            _score(squashed.get(name)),
            _score(facts.reported_scores.get(name)),
        )
        for name, label in _HEADLINES.items()
    )
    head = ("score", "headline", "95 % interval", "squashed protocol", "earlier system")
    blocks = _checkpoint_note(facts)
    blocks += [
        Table(head, rows, title=f"Scores; {metrics['source']}"),
        Items(
            (
                f"headline: {metrics['protocol']}",
                f"squashed protocol: {squashed.get('protocol', 'not made in this run')}",
                f"intervals: {intervals.get('method', 'not made in this run')}; a resample without "
                "any photo of a class leaves it out of its means, so few photos of a low class "
                "raise the upper end; too narrow for a class in fewer than about ten photos, none "
                "in fewer than two",
            )
        ),
        Text(_comparison_text(facts)),
        *_pictures(facts, "04_comparison"),
        Heading("Scores of each class"),
        _class_table(facts),
        Text(
            "“absent”: neither in the truth nor predicted, so without a score and left out of "
            "every mean. “no target”: predicted but not in the truth, so IoU 0 and counted."
        ),
        *_pictures(facts, "04_class_scores"),
        Heading("Boundaries"),
        *_boundaries(facts),
        Heading("Calibration"),
        *_calibration(facts),
        Heading("Confusions"),
        *_pictures(facts, "04_confusion_matrix", "04_error_kinds"),
        _confusion_table(facts),
        *_pictures(facts, "04_image_scores"),
        Heading("Test-time options"),
        *_options(facts),
    ]
    return blocks


def _options(facts: _Facts) -> list[Block]:
    """What looking more than once at each photo gains and costs."""
    used = facts.metrics.get("inference", {})
    on = [f"{name} = {_value_text(value)}" for name, value in used.items() if value]
    blocks: list[Block] = [
        Text(
            "The scores of this report were taken "
            + (f"with {', '.join(on)}." if on else "without test-time options.")
        )
    ]
    rows = facts.tables.get("04_options")
    if not rows:
        return [*blocks, _missing("a trial of the test-time options (tables/04_options.csv)")]
    head, *body = rows
    trials = [dict(zip(head, row, strict=True)) for row in body]
    cells = tuple(
        (
            t["option"],
            t["settings"],
            _score(_float(t["mean_iou"])),
            _signed(_float(t["gain"])),
            _range((_float(t["low"]), _float(t["high"]))),
            f"{float(t['seconds']):.3f}",
            f"{float(t['cost']):.1f}",
        )
        for t in trials
    )
    title = (
        f"Test-time options; {facts.metrics['source'].partition(', n =')[0]}, native resolution, "
        f"paired on {count_text(int(trials[0]['n']), 'photo')} spread over the split"
    )
    columns = ("option", "what it does", "mean IoU", "gain", "95 % interval of the gain")
    return [
        *blocks,
        *_pictures(facts, "04_options"),
        Table((*columns, "s per photo", "times the cost"), cells, text_columns=2, title=title),
    ]


def _float(cell: str) -> float | None:
    """A number of a CSV file; None for an empty cell, which stands for NaN."""
    return float(cell) if cell else None


def _signed(value: float | None) -> str:
    return _MISSING if value is None else f"{value:+.3f}"


def _comparison(facts: _Facts, comparison: Comparison, other: _Facts) -> list[Block]:
    """This run and another one on the same photos."""
    one, two = comparison.names
    n_classes = sum(np.isfinite(d.low) for d in comparison.iou.values())
    by_chance = (1 - LEVEL) * n_classes
    head = (one, two, "difference", "95 % interval", "verdict")
    means = tuple(
        (COMPARED_MEANS[name], *_difference_cells(difference, comparison.names))
        for name, difference in comparison.means.items()
    )
    classes = tuple(
        (name, *_difference_cells(comparison.iou[name], comparison.names), _signed_of(f1))
        for name, f1 in comparison.f1.items()
    )
    blocks: list[Block] = [
        Text(verdict(comparison)),
        Items(
            (
                f"paired bootstrap: both runs are scored on the same {comparison.samples:,} "
                "resamples of the photos; a difference counts as real where the interval leaves "
                "zero out",
                f"of {count_text(n_classes, 'class', 'classes')}, about {by_chance:.1f} would "
                "leave zero out by chance alone",
                "the interval covers which photos happened to be in the split, not what another "
                "training with another seed would give",
            )
        ),
        Table(("score", *head), means, title=f"Means of {one} and {two}; {_source(facts)}, paired"),
        _difference_picture(facts, comparison),
        Table(
            ("class", *head, "difference of F1"),
            classes,
            title=f"IoU of each class in {one} and {two}; {_source(facts)}, paired",
        ),
    ]
    differing = tuple(
        (name, facts.setting(name), other.setting(name))
        for name in field_sections()
        if facts.settings.get(name) != other.settings.get(name) and name != "run_name"
    )
    if differing:
        title = f"Settings that differ between {one} and {two}"
        return [*blocks, Table(("field", one, two), differing, 3, title=title)]
    return [*blocks, Text("The two runs have no recorded setting that differs.")]


def _difference_cells(difference: Difference, names: tuple[str, str]) -> tuple[str, ...]:
    ours, theirs, _, low, high = (nan_to_none(value) for value in difference)
    return (
        _score(ours),
        _score(theirs),
        _signed_of(difference),
        _range((low, high)),
        class_verdict(difference, names),
    )


def _signed_of(difference: Difference) -> str:
    return _signed(nan_to_none(difference.difference))


def _difference_picture(facts: _Facts, comparison: Comparison) -> Picture:
    """Draw the differences of the classes; keep the figure with those of the run."""
    # matplotlib and pandas take a second; a report without comparison must not wait for them.
    import pandas as pd

    from clothseg_utils.pictures.score_figures import plot_differences
    from clothseg_utils.pictures.style import save_figure

    one, two = comparison.names
    rows = [
        {"class_name": name, "difference": d.difference, "low": d.low, "high": d.high}
        for name, d in comparison.iou.items()
    ]
    source = f"{_source(facts)}, paired, 95 % intervals"
    names = tuple(comparison.iou)
    figure = plot_differences(
        pd.DataFrame(rows), comparison.names, names, class_colors(len(names)), source=source
    )
    caption = f"IoU of run {one} minus that of run {two}, class by class. {source}."
    stem = facts.run.figures_dir / f"06_against_{two}"
    png_path, _ = save_figure(figure, stem, caption=caption)
    return _read_picture(png_path, alt=f"Differences between run {one} and run {two}, by class")


def _checkpoint_note(facts: _Facts) -> list[Block]:
    """Say it where the scores do not belong to the training that the report describes."""
    if facts.scores_are_own:
        return []
    return [
        Text(
            f"These are the scores of {facts.metrics['checkpoint']}, which is not this run's "
            "best.ckpt: loss, configuration and training above do not describe it.",
            "note",
        )
    ]


def _comparison_text(facts: _Facts) -> str:
    metrics = facts.metrics
    size = metrics["image_size"]
    return (
        "The earlier system's scores were taken on Fashionpedia val, photo and mask squashed to "
        "512 × 512 pixels: they compare with the column “squashed protocol” only, and only for a "
        "run on the same photos at the same size. "
        + (
            "This run is such a run."
            if metrics["comparable_with_reported"]
            else f"This run is not ({metrics['source']}, {size} × {size} pixels): the columns must "
            "not be compared."
        )
    )


def _class_table(facts: _Facts) -> Table:
    metrics = facts.metrics
    intervals = metrics.get("intervals", {}).get("per_class", {})
    total = sum(scores["target_pixels"] for scores in metrics["per_class"].values())
    photos = {name: _MISSING for name in metrics["per_class"]}
    if facts.evaluation is not None:
        counts = (facts.evaluation.confusions.sum(axis=2) > 0).sum(axis=0)
        photos = {name: f"{count:,}" for name, count in zip(photos, counts, strict=True)}
    rows = tuple(
        (
            name,
            scores["status"],
            photos[name],
            _score(scores["iou"]),
            _range(intervals.get(name, {}).get("iou")),
            _score(scores["f1"]),
            _range(intervals.get(name, {}).get("f1")),
            _score(scores["precision"]),
            _range(intervals.get(name, {}).get("precision")),
            _score(scores["recall"]),
            _range(intervals.get(name, {}).get("recall")),
            _percent(scores["target_pixels"] / total) if total else _MISSING,
        )
        for name, scores in metrics["per_class"].items()
    )
    interval = "95 % interval"
    head = ("class", "status", "photos", "IoU", interval, "F1", interval, "precision", interval)
    return Table(
        (*head, "recall", interval, "target share"),
        rows,
        text_columns=2,
        title=f"Per class; {_source(facts)}",
    )


def _boundaries(facts: _Facts) -> list[Block]:
    boundary = facts.metrics.get("boundary")
    if boundary is None:
        return [_missing("boundary IoU")]
    interval = _range(boundary["intervals"]["mean_iou"])
    rows = tuple(
        (
            name,
            _score(scores["iou"]),
            _range(scores["interval"]),
            _score(facts.metrics["per_class"][name]["iou"]),
        )
        for name, scores in boundary["per_class"].items()
    )
    head = ("class", "boundary IoU", "95 % interval", "mask IoU")
    return [
        Text(
            f"Mean boundary IoU {_score(boundary['mean_iou'])} (95 % interval {interval}); without "
            f"background {_score(boundary['mean_iou_no_background'])}. Protocol: "
            f"{boundary['protocol']}."
        ),
        Table(head, rows, title=f"Boundary IoU per class; {_source(facts)}"),
        *_pictures(facts, "04_boundaries"),
    ]


def _calibration(facts: _Facts) -> list[Block]:
    calibration = facts.metrics.get("calibration")
    if calibration is None:
        return [_missing("calibration")]
    sure, right = calibration["mean_confidence"], calibration["pixel_accuracy"]
    verdict = ""
    if sure is not None:
        judgement = "too sure" if sure > right else "too unsure"
        if abs(sure - right) < 0.01:
            judgement = "about as sure as it is right, which says little of single classes"
        verdict = (
            f" On average the network gives its class {_percent(sure)} and is right in "
            f"{_percent(right)} of the pixels, most of them background: it is {judgement}."
        )
    rows = tuple(
        (
            name,
            _score(scores["ece"]),
            _score(scores["mean_confidence"]),
            _score(scores["precision"]),
        )
        for name, scores in calibration["per_class"].items()
    )
    head = ("predicted class", "ECE", "mean probability", "share that is right")
    return [
        Text(
            f"ECE {_score(calibration['ece'])} (95 % interval {_range(calibration['interval'])}); "
            "of the pixels predicted as a garment "
            f"{_score(calibration['ece_no_background'])}.{verdict} Protocol: "
            f"{calibration['protocol']}."
        ),
        *_pictures(facts, "04_reliability"),
        Table(head, rows, title=f"Calibration per predicted class; {_source(facts)}", folded=True),
    ]


def _confusion_table(facts: _Facts) -> Table:
    """The largest entries off the diagonal, as shares of their row."""
    names = list(facts.metrics["per_class"])
    confusion = np.array(facts.metrics["confusion"], np.int64)
    rows = tuple(
        (names[one.target], names[one.predicted], _percent(one.share), f"{one.pixels:,}")
        for one in largest_confusions(confusion, _MOST_CONFUSIONS)
    )
    head = ("truth", "predicted as", "share of the truth", "pixels")
    return Table(head, rows, text_columns=2, title=f"The largest confusions; {_source(facts)}")


def _limits(facts: _Facts) -> list[Block]:
    blocks: list[Block] = []
    strata = facts.metrics.get("strata", {})
    for name in dict.fromkeys([*_STRATUM_TITLES, *strata]):
        blocks.append(Heading(_STRATUM_TITLES.get(name, name.replace("_", " ").capitalize())))
        if strata.get(name):
            blocks += _stratum_blocks(facts, name, strata[name])
            figure = f"04_{name}"
            blocks += _pictures(facts, figure) if figure in _FIGURE_TITLES else []
        elif name in _STRATUM_EMPTY and name in strata:
            blocks.append(Text(_STRATUM_EMPTY[name]))
        else:
            blocks.append(_missing(f"the stratum {name}"))
    further = _further(facts, "04_")
    if further:
        blocks += [Heading("Further measurements"), *further]
    return [*blocks, Heading("What these scores cannot say"), Items(tuple(_general_limits(facts)))]


def _stratum_blocks(facts: _Facts, name: str, strata: Sequence[Mapping[str, Any]]) -> list[Block]:
    label = _STRATUM_SCORES.get(name, "mean IoU")
    further = _STRATUM_COLUMNS.get(name, {})
    rows = tuple(
        (
            s["stratum"],
            s["n"],
            _score(s["score"]),
            _range((s["low"], s["high"])),
            *(_stratum_cell(s, keys) for keys in further.values()),
        )
        for s in strata
    )
    head = ("group", "n", label, "95 % interval", *further)
    source = _source(facts)
    if name == "composites":
        source = f"{facts.metrics['source'].split(', n =')[0]}, scaled to one height"
    title = f"{_STRATUM_TITLES.get(name, name)}; {source}"
    folded = name in _FOLDED_STRATA
    blocks: list[Block] = [Table(head, rows, text_columns=2, title=title, folded=folded)]
    known = [s for s in strata if s["score"] is not None]
    sure = [s for s in known if s["low"] is not None]  # one photo says nothing about others
    if name in _STRATUM_TEXTS:
        blocks.insert(0, Text(_STRATUM_TEXTS[name]))
    if name == "composites":
        blocks.insert(0, Text(f"Protocol: {facts.metrics['composite_protocol']}."))
    elif name in _UNORDERED_STRATA:
        pass
    elif len(sure) > 1:
        first, last = sure[0], sure[-1]
        text = (
            f"The {label} is {_score(first['score'])} in the group “{first['stratum']}” and "
            f"{_score(last['score'])} in the group “{last['stratum']}”."
        )
        blocks.insert(0, Text(text))
    if len(known) < len(strata):
        blocks.append(Text(f"{_MISSING}: this split holds nothing of that group."))
    return blocks


def _stratum_cell(stratum: Mapping[str, Any], keys: str | tuple[str, str]) -> str:
    if isinstance(keys, tuple):
        low, high = keys
        return _range((stratum.get(low), stratum.get(high)))
    value = stratum.get(keys)
    if keys == "median_area" and value is not None:
        return f"{value:,.0f}"
    return _score(value)


def _general_limits(facts: _Facts) -> Iterable[str]:
    metrics = facts.metrics
    if facts.is_synthetic:
        yield "The data are drawn: nothing here was measured on a real photo."
    yield (
        f"The intervals come from {count_text(metrics['n_images'], 'photo')}: they cover which "
        f"photos happened to be in the split, not what another training (this one: seed "
        f"{facts.setting('seed')}) would give."
    )
    if metrics["split"] == "val" and facts.scores_are_own:
        yield (
            "The checkpoint was chosen by its score on the same photos as are scored here, so the "
            "scores are slightly too good."
        )
    size = metrics["image_size"]
    yield (
        f"The network sees {size} × {size} pixels: what is smaller than about one pixel there "
        "is lost, however large the photo."
    )
    if metrics["resize"] == "squash":
        yield "Photos are squashed to a square, which distorts long and wide garments."
    if facts.has_mit_encoder:
        yield (
            f"The encoder {facts.setting('encoder_name')} passes nothing finer than a quarter of "
            "the input's resolution to the decoder, which costs small accessories."
        )
    if facts.settings.get("encoder_weights") == "none":
        yield "The encoder started from random weights, without what ImageNet would have taught it."
    for status, meaning in {
        "absent": "occur neither in the truth nor in the prediction, so nothing is known of them",
        "no target": "are predicted but do not occur in the truth, so only false alarms are known",
    }.items():
        names = [n for n, scores in metrics["per_class"].items() if scores["status"] == status]
        if names:
            yield f"On this split these classes {meaning}: {', '.join(names)}."


def _overlays(facts: _Facts) -> list[Block]:
    own, names = "05_own_photos", ("05_best", "05_median", "05_worst")
    blocks: list[Block] = [
        Text(
            "Photos are ranked by their mean IoU over the classes that each one holds; those "
            "without any garment are not shown. Colours are those of the class table, the same in "
            "every figure."
        ),
        *_pictures(facts, *names),
        Heading("Own photos"),
    ]
    if own in facts.figures:
        return [*blocks, *_pictures(facts, own), *_further(facts, "05_")]
    blocks.append(Text("Not made in this run: no own photos were given (photos_dir).", "missing"))
    return [*blocks, *_further(facts, "05_")]


def _failures(facts: _Facts) -> list[Block]:
    blocks: list[Block] = [Heading("Photos scored worst")]
    evaluation = facts.evaluation
    if evaluation is None:
        blocks.append(_missing("scores of single photos (evaluation/per_image.npz)"))
    else:
        scores = facts.image_scores
        order = [i for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
        rows = tuple(
            (evaluation.file_names[i], str(evaluation.image_ids[i]), _score(float(scores[i])))
            for i in order[:_WORST_PHOTOS]
        )
        title = f"Lowest mean IoU over the classes that a photo holds; {_source(facts)}"
        blocks.append(Table(("photo", "image id", "mean IoU"), rows, 2, title=title))
    extremes = facts.tables.get("05_class_extremes")
    blocks += [
        Heading("Each class at its best and worst"),
        *_pictures(facts, "05_class_extremes"),
        *([_file_table(facts, "05_class_extremes", extremes)] if extremes else []),
        Heading("Classes taken for each other"),
        *_pictures(facts, "05_confusions"),
        Heading("Where network and label disagree"),
        *_disagreement(facts),
        Heading("Photos left out"),
    ]
    excluded = {
        (split, name): reason
        for split, audit in facts.audits.items()
        for name, reason in audit["excluded"].items()
    }
    for name, reason in facts.metrics.get("excluded", {}).items():
        excluded.setdefault((facts.metrics["split"], name), reason)
    if excluded:
        rows = tuple((*key, reason) for key, reason in list(excluded.items())[:_MOST_ROWS])
        blocks.append(
            Table(("split", "photo", "reason"), rows, 3, title=f"{len(excluded):,} left out")
        )
        if len(excluded) > _MOST_ROWS:
            rest = len(excluded) - _MOST_ROWS
            blocks.append(Text(f"And {rest:,} more: see audit.json."))
    else:
        blocks.append(Text("No photo was left out."))
    own = facts.tables.get("05_failed", ())[1:]
    if own:
        title = f"{count_text(len(own), 'own photo')} could not be read"
        blocks.append(Table(("photo", "reason"), tuple(map(tuple, own)), 2, title=title))
    failed = [f"{n} ({s['state']})" for n, s in facts.steps.items() if s.get("state") == "failed"]
    if failed:
        blocks.append(Text(f"Steps that failed: {', '.join(failed)}.", "note"))
    return blocks


def _disagreement(facts: _Facts) -> list[Block]:
    """Photos that are worth a second look at their labels."""
    rows = facts.tables.get("05_disagreement")
    if not rows:
        return [_missing("the ranking by disagreement (tables/05_disagreement.csv)")]
    head, *body = rows
    cells = tuple(
        (
            photo["photo"],
            _percent(float(photo["disagreement"])),
            _score(_float(photo["label_doubt"])),
            _score(_float(photo["mean_iou"])),
        )
        for photo in (dict(zip(head, row, strict=True)) for row in body[:_WORST_PHOTOS])
        if photo["disagreement"]
    )
    titles = ("photo", "pixels that differ", "label doubt", "mean IoU")
    return [
        Text(
            "Label doubt is the mean, over a photo's pixels, of the probability of the predicted "
            "class minus that of the label; it is taken of the photos that differ most. A photo "
            "on top of this list holds a blunder of the network or an error in its label."
        ),
        *_pictures(facts, "05_disagreement"),
        Table(
            titles,
            cells,
            title=f"Photos by label doubt; {_source(facts)} (all: tables/05_disagreement.csv)",
        ),
    ]


def _reproducibility(facts: _Facts) -> list[Block]:
    if not facts.steps:
        return [_missing("the manifest (manifest.json)")]
    manifest = facts.manifest
    commit = manifest.get("git_commit") or "not recorded (no git checkout)"
    rows = [
        ("commit", commit.replace("-dirty", " with local changes")),
        ("Python", manifest.get("python", "not recorded")),
        *manifest.get("libraries", {}).items(),
        ("seed", facts.setting("seed")),
    ]
    steps = tuple(
        (
            name,
            # The notebook that writes the report has not ended yet.
            "under way when this was written" if step.get("state") == "running" else step["state"],
            step.get("finished", _MISSING).replace("T", " "),
            _duration(step["seconds"]) if "seconds" in step else _MISSING,
            _duration(step["notebook_seconds"]) if "notebook_seconds" in step else _MISSING,
        )
        for name, step in facts.steps.items()
    )
    inputs = {
        (path, digest)
        for step in facts.steps.values()
        for path, digest in step.get("inputs", {}).items()
    }
    by_clock = facts.settings.get("max_minutes", 0) > 0
    return [
        Text(
            "Training went by the clock (max_minutes), so another machine, or a busier one, takes "
            "another number of steps and ends with other numbers."
            if by_clock
            else "The length of training is set in epochs: the same seed on the same machine gives "
            "the same result."
        ),
        Text(
            "Beside this report: its tables as LaTeX in report/latex/, one file each, for a "
            f"document that loads {', '.join(PACKAGES)}; its figures as PNG and SVG in figures/."
        ),
        Text("In the repository's root, this makes the run again:"),
        Lines(tuple(_rerun_command(facts)), "command"),
        Table(("what", "version"), tuple(rows), 2, title="Code, libraries, seed"),
        Table(
            ("step", "state", "finished", "work", "notebook as a whole"),
            steps,
            text_columns=3,
            title="Time of each step",
        ),
        Table(("file", "SHA-256"), tuple(sorted(inputs)), 2, title="Files that were read"),
    ]


def _rerun_command(facts: _Facts) -> list[str]:
    """The shortest `run` command that gives the recorded settings, one option per line."""
    sections = field_sections()
    config = replace_fields(Config(), {n: v for n, v in facts.settings.items() if n in sections})
    wanted = config_to_parameters(config)

    def changes(profile: Profile) -> dict[str, Any]:
        values = config_to_parameters(profile_config(profile))
        return {name: value for name, value in wanted.items() if values[name] != value}

    profile = min(get_args(Profile), key=lambda one: len(changes(one)))
    options = [["--profile", profile]]
    for name, value in changes(profile).items():
        if name in ("data_root", "run_name"):
            options.append([f"--{name.replace('_', '-')}", value])
        else:
            options.append(["--set", f"{sections[name]}.{name}={value}"])
    lines = ["python -m clothseg_utils run", *(f"    {shlex.join(option)}" for option in options)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _model_card(facts: _Facts) -> list[Block]:
    metrics = facts.metrics
    of_class = {n: scores for n, scores in metrics["per_class"].items() if n != "background"}
    names = [name for name, scores in of_class.items() if scores["target_pixels"] > 0]
    unscored = [name for name in of_class if name not in names]
    use = [
        "finding clothes and their parts in photos of people, pixel by pixel, in the "
        f"{count_text(len(names), 'class', 'classes')} {', '.join(names)}"
        + (f"; not scored here: {', '.join(unscored)}" if unscored else ""),
        "research, teaching, and as a start for training on other photos",
    ]
    misuse = [
        "telling who a person is, or anything about a person beyond what is worn",
        "decisions about people, or measures of their bodies",
        "photos unlike those it was scored on: other views, other clothes, other cameras",
    ]
    if facts.is_synthetic:
        misuse.insert(0, "any real photo: it has seen drawn pictures only")
    return [
        Heading("Intended use"),
        Items(tuple(use)),
        Heading("Not intended for"),
        Items(tuple(misuse)),
        Heading("Trained and scored on"),
        Text(
            f"Dataset {_dataset_name(facts)}. Trained on "
            f"{_photos_used(facts, 'train')} of its train split, from "
            f"{_start_text(facts)}; scored on {count_text(metrics['n_images'], 'photo')} of its "
            f"{metrics['split']} split, mean IoU {_score(metrics['mean_iou'])}. Who took the "
            "photos, and of whom, decides for whom it works: nothing here was measured by skin, "
            "age, body or culture of dress, because the annotations do not say."
        ),
        Heading("Known limits"),
        Items(tuple(_card_limits(facts))),
        Heading("Licences"),
        *_licences(facts),
    ]


def _photos_used(facts: _Facts, split: str) -> str:
    audit = facts.audits.get(split)
    if audit is None:
        return "the photos"
    used = audit["n_images"] - len(audit["excluded"])
    limit = facts.settings.get("image_limit", 0)
    return count_text(min(used, limit) if limit else used, "photo")


def _start_text(facts: _Facts) -> str:
    weights = facts.setting("encoder_weights")
    return {"none": "random weights", "imagenet": "an encoder trained on ImageNet"}.get(
        weights, f"weights: {weights}"
    )


def _card_limits(facts: _Facts) -> Iterable[str]:
    """The limits as numbers of this run, in one line each."""
    scored = {
        name: scores["iou"]
        for name, scores in facts.metrics["per_class"].items()
        if scores["target_pixels"] > 0
    }
    worst = sorted(scored, key=scored.__getitem__)
    worst = worst[: max(3, sum(iou == 0 for iou in scored.values()))]  # no class at 0 is hidden
    if worst:
        texts = [f"{name} ({_score(scored[name])})" for name in worst]
        yield f"lowest IoU: {', '.join(texts)}"
    for name, title in _STRATUM_TITLES.items():
        # A group of one photo, which has no interval, is no limit of the network.
        strata = facts.metrics.get("strata", {}).get(name, ())
        known = [s for s in strata if s["low"] is not None]
        if name in _UNORDERED_STRATA or len(known) < 2:
            continue
        label = _STRATUM_SCORES.get(name, "mean IoU")
        first, last = known[0], known[-1]
        yield (
            f"{title.lower()}: {label} {_score(first['score'])} ({first['stratum']}), "
            f"{_score(last['score'])} ({last['stratum']})"
        )
    yield "more, and what the scores cannot say: see “Limits measured”"


def _licences(facts: _Facts) -> list[Block]:
    if facts.is_synthetic:
        data = "Photos and annotations were drawn by this project; its own licence (MIT) holds."
    else:
        data = (
            f"The pictures above show photos of {_dataset_name(facts)}; whoever passes this report "
            f"on needs the right to. {_named_licenses(facts)} Where they are Fashionpedia's: its "
            "annotations are CC BY 4.0, and its photos belong to their authors, each under its own "
            "licence (field “license” of the JSON), some of which exclude commercial use."
        )
    blocks: list[Block] = [Text(data)]
    if facts.has_mit_encoder:
        blocks.append(
            Text(
                f"The encoder {facts.setting('encoder_name')} is a Mix Transformer (MiT): its code "
                "and its ImageNet weights are under NVIDIA's licence for research and evaluation, "
                "not for commercial use. resnet34 is an encoder without that restriction."
            )
        )
    return blocks


def _named_licenses(facts: _Facts) -> str:
    named: Counter[str] = Counter()
    for audit in facts.audits.values():
        named.update(audit.get("licenses", {}))
    if not named:
        return "The annotation files name no licence of theirs."
    texts = [f"{name} ({count_text(n, 'photo')})" for name, n in named.most_common()]
    return f"The annotation files name these licences: {', '.join(texts)}."


_SECTIONS: Mapping[str, Callable[[_Facts], list[Block]]] = {
    "Data": _data,
    "Architecture": _architecture,
    "Loss": _loss,
    "Configuration": _configuration,
    "Training": _training,
    "Scores": _scores,
    "Limits measured": _limits,
    "Overlays": _overlays,
    "Failures and photos left out": _failures,
    "Model card": _model_card,
    "Reproducibility": _reproducibility,
}
