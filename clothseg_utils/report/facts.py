"""What a run folder holds: everything that the report is made from."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clothseg_utils.core.config import (
    Config,
    InferenceConfig,
    config_to_parameters,
    field_sections,
)
from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import portable_text, sha256_file
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.shapes import ABSENT, Count, Shape, read_shaped
from clothseg_utils.core.text import setting_text
from clothseg_utils.report.csv_files import read_table
from clothseg_utils.report.parts import Picture, read_picture
from clothseg_utils.scores.evaluation import Evaluation, image_scores, read_evaluation
from clothseg_utils.scores.metrics_file import check_needed, read_metrics

# The notebook that a section's settings are read by; training for all others.
_OWNERS = {
    "convert": "01_data_exploration",
    "evaluate": "04_metric_evaluation",
    "inference": "04_metric_evaluation",
    "predict": "05_qualitative_overlays",
}

# Without these there is no report.
_NEEDED = (
    *("protocol", "source", "n_images", "split", "dataset", "synthetic", "checkpoint"),
    *("checkpoint_sha256", "image_size", "resize", "mean_iou", "macro_f1", "per_class"),
    *("confusion", "comparable_with_reported"),
)


class _Problem(Shape):
    kind: str
    subject: str
    detail: str


class _Audit(Shape):
    n_images: Count
    n_images_without_annotations: Count
    n_annotations: Count
    n_polygon: Count
    n_rle: Count
    n_annotations_left_out: Count
    problems: list[_Problem]
    counts: dict[str, Count]
    excluded: dict[str, str]
    licenses: dict[str, Count] = ABSENT
    near_equal: list[Any] | None = ABSENT


@dataclass(frozen=True)
class Facts:
    """The contents of a run folder; empty where the run did not make it.

    Attributes:
        run: the folder.
        metrics: `metrics.json`.
        evaluation: the scored split, photo by photo; None without its arrays.
        manifest: `manifest.json`.
        audits: split -> what the audit found.
        history: one row per check.
        training: how training ended.
        tables: name -> rows of a notebook's CSV file, head first.
        figures: name -> figure of a notebook.
        scores_are_own: whether the scored network is the run's best one.
        broken: what could not be used and counts as not made: file below the run -> why.
    """

    run: RunFolder
    metrics: Mapping[str, Any]
    evaluation: Evaluation | None
    manifest: Mapping[str, Any]
    audits: Mapping[str, Mapping[str, Any]]
    history: Sequence[Mapping[str, str]]
    training: Mapping[str, Any]
    tables: Mapping[str, Sequence[Sequence[str]]]
    figures: Mapping[str, Picture]
    scores_are_own: bool
    broken: Mapping[str, str]

    @property
    def rolled_up(self) -> Mapping[str, Any]:
        """Scores in the classes that the run's own roll up to; empty where they do not."""
        return self.metrics.get("rolled_up", {})

    @property
    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        """Notebook -> what the manifest says of it."""
        return self.manifest.get("steps", {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Parameters of the run, each from the notebook that it steers."""
        parameters = {name: step.get("parameters", {}) for name, step in self.steps.items()}
        defaults = config_to_parameters(Config())
        settings = {}
        for name, section in field_sections().items():
            owner = parameters.get(_OWNERS.get(section, "03_training"), {})
            for recorded in (owner, *parameters.values()):
                value = recorded.get(name)
                if isinstance(value, type(defaults[name])) or type(value) is int:
                    settings[name] = value
                    break
        return settings

    def setting(self, name: str) -> str:
        """A parameter in words."""
        return setting_text(self.settings[name]) if name in self.settings else "not recorded"

    @property
    def date(self) -> str:
        """Day on which the last step ended."""
        finished = [step["finished"] for step in self.steps.values() if step.get("finished")]
        return max(finished)[:10] if finished else "date not recorded"

    @property
    def dataset(self) -> str:
        """The dataset's name, in quotes."""
        name = self.metrics["dataset"]
        drawn = self.metrics["synthetic"] and name != "synthetic"
        return f"“{name}”" + (" (synthetic)" if drawn else "")

    @property
    def source(self) -> str:
        """What a table of scores was made from: data, split, number of photos, protocol."""
        options = InferenceConfig(**self.metrics.get("inference", {}))
        note = "" if options.is_plain else f", {options.describe()}"
        return f"{self.metrics['source']}, native resolution{note}"

    def table_source(self, name: str) -> str:
        """What a notebook's table was made from: 01 counts train, 02 both splits, 04, 05 score."""
        if name >= "04":
            return self.source
        counted = ("train", "val") if name >= "02" else ("train",)
        splits = [split for split in counted if split in self.audits]
        texts = [f"{split}, n = {self.audits[split]['n_images']:,} photos" for split in splits]
        return "; ".join([self.metrics["dataset"], *texts])

    def photos_used(self, split: str) -> int | None:
        """Photos of a split that were neither left out nor cut off; None without its audit."""
        audit = self.audits.get(split)
        if audit is None:
            return None
        used = audit["n_images"] - len(audit["excluded"])
        return min(used, self.settings.get("image_limit", 0) or used)

    @cached_property
    def scored_classes(self) -> dict[str, float]:
        """IoU of the classes that occur in the truth, the lowest first."""
        per_class = self.metrics["per_class"].items()
        scored = [(name, c["iou"]) for name, c in per_class if c["target_pixels"] > 0]
        return dict(sorted(scored, key=lambda item: item[1]))

    @property
    def lowest_classes(self) -> dict[str, float]:
        """The three lowest of them, and all that are at 0: none of those is hidden."""
        n_zero = sum(iou == 0 for iou in self.scored_classes.values())
        return dict(list(self.scored_classes.items())[: max(3, n_zero)])

    def classes_of_status(self, status: str) -> list[str]:
        """Classes that are "absent", or have "no target"."""
        return [n for n, c in self.metrics["per_class"].items() if c["status"] == status]

    @cached_property
    def image_scores(self) -> np.ndarray:
        """Mean IoU of each photo, (n,); empty without the scored split."""
        return image_scores(self.evaluation) if self.evaluation else np.empty(0)

    @cached_property
    def excluded(self) -> dict[tuple[str, str], str]:
        """(split, photo) -> why it was left out."""
        excluded = {
            (split, name): reason
            for split, audit in self.audits.items()
            for name, reason in audit["excluded"].items()
        }
        for name, reason in self.metrics.get("excluded", {}).items():
            excluded.setdefault((self.metrics["split"], name), reason)
        return excluded

    @property
    def failed_steps(self) -> list[str]:
        """Notebooks that did not get through."""
        return [name for name, step in self.steps.items() if step.get("state") == "failed"]

    @property
    def licenses(self) -> list[tuple[str, int]]:
        """Licences that the annotation files name, and of how many photos."""
        named: Counter[str] = Counter()
        for audit in self.audits.values():
            named.update(audit.get("licenses", {}))
        return named.most_common()

    def records(self, name: str) -> list[dict[str, str]]:
        """A notebook's table, column -> cell of each row."""
        head, *rows = self.tables.get(name) or [[]]
        return [dict(zip(head, row, strict=True)) for row in rows]


def read_facts(run: RunFolder) -> Facts:
    """Read a run folder.

    Without scores there is nothing to tell; of all else, what is broken is noted.

    Raises:
        FileNotFoundError: there is no such run, or it has no scores yet.
        ValueError: its scores cannot be read.
    """
    if not run.path.is_dir():
        names = sorted(path.parent.name for path in run.path.parent.glob("*/metrics.json"))
        raise FileNotFoundError(
            f"no such run: {run.path}; expected "
            f"{'one of ' + ', '.join(names) if names else 'a run, of which there is none yet'}. "
            "Check the name, or run the notebooks first."
        )
    metrics_path = run.path / "metrics.json"
    if not metrics_path.exists():
        raise FileNotFoundError(
            f"no such file: {metrics_path}; expected the scores of notebook 04. Run it first."
        )
    metrics = read_metrics(metrics_path)
    check_needed(metrics, _NEEDED, metrics_path)
    broken: dict[str, str] = {}

    def read(path: Path, reader: Callable[[Path], Any], empty: Any) -> Any:
        if not path.exists():
            return empty
        try:
            return reader(path)
        except (OSError, ValueError) as error:
            said = portable_text(fault_line(error) or str(error))
            broken[path.relative_to(run.path).as_posix()] = said
            return empty

    def files(folder: Path, pattern: str) -> list[Path]:
        # Not by `glob`, to which a folder that may not be read is an empty one.
        return read(folder, lambda _: sorted(p for p in folder.iterdir() if p.match(pattern)), [])

    best = run.best_checkpoint
    own_sha256 = read(best, sha256_file, "")
    return Facts(
        run=run,
        metrics=metrics,
        evaluation=read(
            run.evaluation_dir / "per_image.npz", lambda _: read_evaluation(run.path), None
        ),
        manifest=read(run.manifest_path, lambda _: run.read_manifest(), {}),
        audits=read(run.path / "audit.json", _read_audits, {}),
        history=read(run.logs_dir / "history.csv", _read_history, []),
        training=read(run.training_path, lambda _: run.read_training(), {}),
        tables={path.stem: read(path, read_table, []) for path in files(run.tables_dir, "*.csv")},
        figures={
            path.stem: picture
            for path in files(run.figures_dir, "[0-9][0-9]_*.png")
            if (picture := read(path, _read_figure, None))
        },
        scores_are_own=own_sha256 == metrics["checkpoint_sha256"],
        broken=broken,
    )


def _read_figure(path: Path) -> Picture:
    try:
        return read_picture(path)
    except ValueError:
        raise ValueError(
            f"figure {path} cannot be decoded; expected a PNG file. Rerun notebook {path.stem[:2]}."
        ) from None


def _read_audits(path: Path) -> dict[str, Any]:
    return read_shaped(path, dict[str, _Audit], "Rerun notebook 01.")


def _read_history(path: Path) -> list[dict[str, str]]:
    head, *_ = read_table(path, {})
    head, *rows = read_table(path, dict.fromkeys(["epoch", "val/mean_iou", *head], float))
    checks = [dict(zip(head, row, strict=True)) for row in rows]
    # Runs of versions with one check an epoch lack this column.
    return [{"epochs_done": f"{float(row['epoch']) + 1:g}", **row} for row in checks]
