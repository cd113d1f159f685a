"""Tables of what went into a run: data, network, training, code; and the command that repeats it.

Each function takes the facts and gives one table; where a run may lack what it shows, the
template asks first.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from clothseg_utils.core.config import (
    Config,
    Profile,
    config_to_parameters,
    field_sections,
    profile_config,
    replace_fields,
)
from clothseg_utils.core.text import MISSING, count_text, duration_text, score_text
from clothseg_utils.report.document import command_lines
from clothseg_utils.report.facts import Facts
from clothseg_utils.report.parts import Table

MOST_ROWS = 60
"""Of a table that can be as long as the dataset; its file is named."""

_EPOCH_COLUMNS = {
    "epochs_done": "epochs done",
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


def audit(facts: Facts) -> Table:
    """Photos and annotations of each split."""
    rows: dict[str, Callable[[Mapping[str, Any]], int]] = {
        "photos listed": lambda a: a["n_images"],
        "photos without annotations (all background)": lambda a: a["n_images_without_annotations"],
        "photos left out": lambda a: len(a["excluded"]),
        "annotations used": lambda a: a["n_annotations"],
        "of these polygons": lambda a: a["n_polygon"],
        "of these RLE": lambda a: a["n_rle"],
        "annotations left out": lambda a: a["n_annotations_left_out"],
    }
    cells = tuple(
        (label, *(f"{count(audit):,}" for audit in facts.audits.values()))
        for label, count in rows.items()
    )
    near_equal = [audit.get("near_equal") for audit in facts.audits.values()]
    texts = [MISSING if pairs is None else f"{len(pairs):,}" for pairs in near_equal]
    cells += (("pairs with near-equal photos of train", *texts),)
    return Table(("", *facts.audits), cells, title="What the audit counted")


def findings(facts: Facts) -> Table | None:
    """Kinds of problems that the audit found, each with its first case; None without any."""
    rows = []
    for split, audit in facts.audits.items():
        first = {p["kind"]: f"{p['subject']}: {p['detail']}" for p in reversed(audit["problems"])}
        rows += [
            (split, kind.replace("_", " "), first.get(kind, MISSING), f"{n:,}")
            for kind, n in audit["counts"].items()
        ]
    head = ("split", "finding", "the first of them", "count")
    return Table(head, tuple(rows), 3, title="Findings of the audit") if rows else None


def excluded(facts: Facts) -> Table:
    """Photos that were left out."""
    rows = tuple((*key, reason) for key, reason in list(facts.excluded.items())[:MOST_ROWS])
    return Table(("split", "photo", "reason"), rows, 3, title=f"{len(facts.excluded):,} left out")


def failed_own_photos(facts: Facts) -> Table | None:
    """Own photos that could not be read; None without any."""
    rows = tuple(map(tuple, facts.tables.get("05_failed", ())[1:]))
    title = f"{count_text(len(rows), 'own photo')} could not be read"
    return Table(("photo", "reason"), rows, 2, title=title) if rows else None


def network(facts: Facts) -> Table:
    """What the network is, in words."""
    weights = {
        "none": "random: trained from scratch",
        "imagenet": "ImageNet",
        "not recorded": "not recorded",
    }
    resize = {
        "letterbox": "letterbox: aspect ratio kept, the rest padded and ignored",
        "squash": "squash: both sides scaled to the input size, aspect ratio lost",
    }
    size, way = facts.metrics["image_size"], facts.metrics["resize"]
    start = facts.settings.get("init_from") or facts.setting("encoder_weights")
    rows = (
        ("network", "U-Net"),
        ("encoder", facts.setting("encoder_name")),
        ("weights at the start", weights.get(start, f"from {start}")),
        ("encoder frozen", facts.setting("freeze_encoder")),
        ("head begins at the classes' shares", facts.setting("prior_bias")),
        ("classes", f"{len(facts.metrics['per_class'])}, background counted"),
        ("input", f"{size} × {size} pixels, RGB"),
        ("resize", resize.get(way, way)),
    )
    return Table(("part", "value"), rows, text_columns=2, title="Network")


def card(facts: Facts) -> Table:
    """The network for those who pass it on: whose weights it began with, and their licence."""
    encoder = facts.training.get("encoder", {})
    rows = (
        ("network", "U-Net"),
        ("encoder", facts.setting("encoder_name")),
        ("its weights at the start", encoder.get("weights", "not recorded")),
        ("licence of these weights", encoder.get("license", "not recorded")),
    )
    return Table(("model", "value"), rows, text_columns=2, title="Network and its origin")


def parameters(facts: Facts) -> Table:
    """Parameters of each part of the network, with their sum."""
    counts = {row["part"]: int(row["parameters"]) for row in facts.records("03_network")}
    counts.setdefault("total", sum(counts.values()))
    rows = tuple((part, f"{count:,}") for part, count in counts.items())
    return Table(("part", "parameters"), rows, title="Parameters", marked=len(rows) - 1)


def epochs(facts: Facts) -> Table:
    """The course of training; the check of the best checkpoint stands out."""
    columns = [name for name in _EPOCH_COLUMNS if name in facts.history[0]]
    best_score = facts.training.get("best_score")
    rows, marked = [], -1
    for index, row in enumerate(facts.history):
        cells = [_epoch_cell(name, float(row[name])) for name in columns]
        if marked < 0 and float(row["val/mean_iou"]) == best_score:
            cells[0], marked = f"{cells[0]} (best)", index
        rows.append(tuple(cells))
    return Table(
        tuple(_EPOCH_COLUMNS[name] for name in columns),
        tuple(rows),
        title="At each check; scores at the network's input size",
        folded=len(rows) > MOST_ROWS,
        marked=marked,
    )


def _epoch_cell(name: str, value: float) -> str:
    if name == "epochs_done":
        return f"{value:g}"
    if name == "step":
        return f"{value:,.0f}"
    if name == "learning_rate":
        return f"{value:.1e}"
    return f"{value:,.1f}" if name in ("seconds", "images_per_second") else score_text(value)


def settings(facts: Facts) -> Table | None:
    """Every recorded parameter; None without a record."""
    rows = tuple(
        (section, name, facts.setting(name))
        for name, section in field_sections().items()
        if name in facts.settings
    )
    head = ("section", "field", "value")
    return Table(head, rows, 3, title="All recorded parameters", folded=True) if rows else None


def differing_settings(facts: Facts, other: Facts) -> Table | None:
    """Settings of which two runs have different ones; None without any."""
    names = (facts.run.name, other.run.name)
    rows = tuple(
        (name, facts.setting(name), other.setting(name))
        for name in field_sections()
        if facts.settings.get(name) != other.settings.get(name) and name != "run_name"
    )
    title = f"Settings that differ between {names[0]} and {names[1]}"
    return Table(("field", *names), rows, 3, title=title) if rows else None


def versions(facts: Facts) -> Table:
    """Code, libraries and seed."""
    commit = facts.manifest.get("git_commit") or "not recorded (no git checkout)"
    rows = (
        ("commit", commit.replace("-dirty", " with local changes")),
        ("Python", facts.manifest.get("python", "not recorded")),
        *facts.manifest.get("libraries", {}).items(),
        ("seed", facts.setting("seed")),
    )
    return Table(("what", "version"), rows, 2, title="Code, libraries, seed")


def steps(facts: Facts) -> Table:
    """State and time of each notebook."""
    rows = tuple(
        (
            name,
            # The notebook that writes the report has not ended yet.
            "under way when this was written"
            if step.get("state") == "running"
            else step.get("state", MISSING),
            step.get("finished", MISSING).replace("T", " "),
            *(
                duration_text(step[key]) if key in step else MISSING
                for key in ("seconds", "notebook_seconds")
            ),
        )
        for name, step in facts.steps.items()
    )
    head = ("step", "state", "finished", "work", "notebook as a whole")
    return Table(head, rows, text_columns=3, title="Time of each step")


def inputs(facts: Facts) -> Table:
    """Files that the notebooks read, with their hashes."""
    read = {item for step in facts.steps.values() for item in step.get("inputs", {}).items()}
    return Table(("file", "SHA-256"), tuple(sorted(read)), 2, title="Files that were read")


def rerun_command(facts: Facts) -> list[str]:
    """The shortest `run` command that gives the recorded settings, one option per line.

    Empty where this version does not take them.
    """
    sections = field_sections()
    try:
        config = replace_fields(Config(), facts.settings)
    except ValueError:
        return []
    wanted = config_to_parameters(config)

    def changes(profile: Profile) -> dict[str, Any]:
        values = config_to_parameters(profile_config(profile))
        return {name: value for name, value in wanted.items() if values[name] != value}

    profile = min(get_args(Profile), key=lambda one: len(changes(one)))
    words = ["python", "-m", "clothseg_utils", "run", "--profile", profile]
    for name, value in changes(profile).items():
        if name in ("data_root", "run_name"):
            words += [f"--{name.replace('_', '-')}", value]
        else:
            words += ["--set", f"{sections[name]}.{name}={value}"]
    return command_lines(words)


def as_saved(facts: Facts, name: str) -> Table:
    """A table as a notebook wrote it, numbers shortened."""
    head, *body = facts.tables[name]
    numeric = [
        column for column in range(len(head)) if body and all(_is_number(r[column]) for r in body)
    ]
    title = name[3:].replace("_", " ").capitalize()
    more = f"; the first {MOST_ROWS} of {len(body):,} rows" if len(body) > MOST_ROWS else ""
    return Table(
        tuple(column.replace("_", " ") for column in head),
        tuple(tuple(map(_cell_text, head, row)) for row in body[:MOST_ROWS]),
        text_columns=min(numeric, default=len(head)),
        title=f"{title}; {facts.table_source(name)} (tables/{name}.csv{more})",
        folded=True,
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _cell_text(column: str, cell: str) -> str:
    if not cell or cell == "nan":
        return MISSING
    if re.fullmatch(r"-?\d+", cell):
        return cell if column.endswith("id") else f"{int(cell):,}"
    if not _is_number(cell):
        return cell
    value = float(cell)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
