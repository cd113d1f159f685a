"""Tests of `report.report`, on a run folder made by hand."""

import base64
import dataclasses
import io
import json
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mistune  # comes with nbconvert
import numpy as np
import pytest
from conftest import NOT_COUNTED
from PIL import Image, PngImagePlugin

from clothseg_utils.core.config import (
    PROFILE_NAMES,
    apply_overrides,
    config_from_parameters,
    config_to_parameters,
    profile_config,
    replace_fields,
)
from clothseg_utils.core.files import sha256_file, write_json, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.report.report import write_report
from clothseg_utils.scores.evaluation import REPORTED_SCORES, Evaluation, write_evaluation
from clothseg_utils.scores.metrics import scores_from_confusion, scores_to_dict

HOSTILE = "<script>alert('1')</script>|x_*y*.jpg"
NAMES = ("background", "closures", "upperbody", "head")
# Counted by hand: IoU of background 9 / 12, of upperbody 8 / 10, of head 0 / 1 (no target);
# closures are absent; 17 of 20 pixels are right.
CONFUSIONS = np.array(
    [
        [[5, 0, 0, 1], [0, 0, 0, 0], [2, 0, 4, 0], [0, 0, 0, 0]],
        [[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]],
    ]
)
CHAPTERS = [
    "Scores",
    "Limits measured",
    "Overlays",
    "Failures and photos left out",
    "Data",
    "Training and configuration",
    "Model card",
    "Reproducibility",
]


class Page(HTMLParser):
    """What a reader gets from a page: text, tables, pictures, headings, targets of links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self._open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.images.append(values)
        elif tag == "a":
            self.links.append(values["href"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))

    def handle_data(self, data: str) -> None:
        last = self._open[-1] if self._open else ""
        if last != "style":
            self.texts.append(data)
        if "td" in self._open[-2:] or "th" in self._open[-2:]:  # a strong may lie between
            self.tables[-1][-1][-1] += data
        if last in ("h1", "h2", "h3"):
            self.headings[-1] = (last, self.headings[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def table(self, *head: str) -> list[list[str]]:
        """Rows of the first table whose first columns have these titles."""
        return next(t[1:] for t in self.tables if t[0][: len(head)] == list(head))


def _scored(score: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"score": score, "low": low, "high": high}


def _evaluation(checkpoint_sha256: str = "no checkpoint") -> Evaluation:
    scores = scores_to_dict(scores_from_confusion(CONFUSIONS.sum(0)), NAMES)
    interval = {"iou": [0.61, 0.94], "f1": [None, None]}
    metrics = {
        "protocol": "native resolution, as in the test",
        "n_images": 2,
        "excluded": {HOSTILE: "photo is empty"},
        "split": "val",
        "dataset": "drawn",
        "synthetic": True,
        "source": "synthetic, val, n = 2 photos",
        "checkpoint": "elsewhere/other.ckpt",
        "checkpoint_sha256": checkpoint_sha256,
        "image_size": 64,
        "resize": "squash",
        **scores,
        "intervals": {
            "method": "95 % percentile bootstrap over photos, 200 resamples",
            "mean_iou": [0.412, 0.634],
            "macro_f1": [0.511, 0.622],
            "per_class": dict.fromkeys(NAMES, interval),
        },
        "reported_protocol": {"protocol": "squashed to 64 x 64", **scores, "mean_iou": 0.4567},
        "comparable_with_reported": False,
        "strata": {
            "people": [],
            "overlap": [
                {"stratum": "rest", "n": 2, "unit": "photo"} | _scored(0.5, 0.4, 0.6),
                {"stratum": "pile", "n": 2, "unit": "photo"} | _scored(0.25, 0.2, 0.3),
                {"stratum": "lone", "n": 1, "unit": "photo"} | _scored(0.9, None, None),
            ],
            "object_area": [
                {"stratum": "tiny", "n": 0, "unit": "annotation"} | _scored(None, None, None)
            ],
        },
    }
    return Evaluation(
        metrics=metrics,
        image_ids=np.array([11, 12]),
        file_names=["good.jpg", HOSTILE],
        confusions=CONFUSIONS[::-1],
        overlap_confusions=np.zeros_like(CONFUSIONS),
        person_counts=np.array([-1, -1]),
        instances=np.zeros((0, 5), np.int64),
        **dict.fromkeys(NOT_COUNTED, np.empty(0)),
        class_names=NAMES,
    )


def _write_figure(path: Path, width: int = 40, height: int = 30, caption: str = "") -> None:
    info = PngImagePlugin.PngInfo()
    if caption:
        info.add_text("Description", caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).save(
        path, pnginfo=info
    )


@pytest.fixture
def bare_run(tmp_path: Path) -> RunFolder:
    """A run of which nothing but the scores is there."""
    run = RunFolder(tmp_path, "bare")
    write_json(run.path / "metrics.json", _evaluation().metrics)
    return run


def _make_full_run(folder: Path) -> RunFolder:
    """A run with everything that a report can show."""
    run = RunFolder(folder, "full")
    write_text(run.best_checkpoint, "weights")
    write_evaluation(run.path, _evaluation(sha256_file(run.best_checkpoint)))
    audit = {
        "n_images": 3,
        "n_annotations": 1234,
        "n_polygon": 1200,
        "n_rle": 34,
        "n_annotations_left_out": 1,
        "n_images_without_annotations": 1,
        "problems": [{"kind": "photo_empty", "subject": HOSTILE, "detail": "0 bytes"}],
        "counts": {"photo_empty": 1},
        "excluded": {HOSTILE: "0 bytes"},
        "licenses": {"CC BY 4.0": 2},
        "near_equal": [["a.jpg", "b.jpg", 3]],
    }
    nothing = audit | {"problems": [], "counts": {}, "excluded": {}, "n_annotations_left_out": 0}
    nothing |= {"near_equal": None}
    write_json(run.path / "audit.json", {"train": nothing, "val": audit})
    for name in ("01_gallery", "02_layers", "03_curves", "04_confusion_matrix", "05_worst"):
        _write_figure(run.figures_dir / f"{name}.png", caption=f"What {name} shows. {HOSTILE}")
    _write_figure(run.figures_dir / "04_calibration.png")
    write_text(run.tables_dir / "03_network.csv", "part,parameters\nencoder,13000\nhead,21\n")
    write_text(
        run.tables_dir / "01_extra.csv",
        "name,image_id,share\na|b,7000,0.123456\nc,9,11958.5\n,8000,\n",
    )
    write_text(run.tables_dir / "05_failed.csv", "photo,reason\nown.jpg,truncated\n")
    write_text(
        run.logs_dir / "history.csv",
        "epoch,step,train/loss,val/mean_iou,learning_rate,seconds\n"
        "0,30,0.9,0.25,0.001,60.5\n1,60,0.8,0.375,0.0005,121.0\n2,90,0.7,0.3,0.0,180.0\n",
    )
    training: dict[str, Any] = {"best_score": 0.375, "best_epoch": 1, "epochs": 3}
    training |= {"steps": 90, "seconds": 180.0}
    training |= {"reason": "its time, 3 min, was up"}
    card = {"weights": "timm/convnext_tiny.fb_in22k", "license": "apache-2.0"}
    write_json(run.training_path, training | {"encoder": card})
    config = apply_overrides(
        profile_config("smoke"),
        [
            "train.encoder_name=mit_b1",
            "loss.dice_weight=0.25",
            "loss.focal_weight=0.5",
            "loss.dice_form=smp",
            "loss.focal_form=sum",
        ],
    )
    run.record_step(
        "03_training",
        parameters=config_to_parameters(config),
        inputs=[run.path / "audit.json"],
        seconds=181.0,
    )
    facts = {"git_commit": "a1b2c3-dirty", "libraries": {"torch": "9.8.7"}}
    write_json(run.manifest_path, run.read_manifest() | facts)
    return run


@pytest.fixture
def full_run(tmp_path: Path) -> RunFolder:
    """A full run for tests that change it or look at its files."""
    return _make_full_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a full run, for tests that only read it."""
    return _read(_make_full_run(tmp_path_factory.mktemp("report")))


def _read(run: RunFolder) -> Page:
    return Page(write_report(run)[0].read_text())


def _read_markdown(run: RunFolder) -> Page:
    """The Markdown, as another program than ours would show it."""
    render = mistune.create_markdown(escape=False, plugins=["table"])
    return Page(render(write_report(run)[1].read_text()))


def test_report_has_its_chapters_in_order_and_a_working_table_of_contents(page: Page) -> None:
    assert page.headings[0] == ("h1", "Clothing segmentation: run full")
    assert [text for tag, text in page.headings if tag == "h2"] == CHAPTERS
    assert page.links == [f"#{title.lower().replace(' ', '-')}" for title in CHAPTERS]
    assert page.links == [f"#{anchor}" for anchor in page.ids]


def test_markdown_says_the_same_as_the_page(full_run: RunFolder) -> None:
    page, markdown = _read(full_run), _read_markdown(full_run)
    assert len(page.tables) > 10
    assert markdown.tables == page.tables
    assert markdown.headings == page.headings
    assert [i["alt"] for i in markdown.images] == [i["alt"] for i in page.images]


def test_first_screen_says_what_and_how_well(full_run: RunFolder) -> None:
    """Data, network, scores with intervals, extremes, example photos; then chapters that fold."""
    _write_figure(full_run.figures_dir / "05_examples.png")
    html = write_report(full_run)[0].read_text()
    first = Page(html.partition("<details")[0])
    assert "2 photos of the val split of “drawn” (synthetic), each pixel put into one of 4" in (
        first.text
    )
    assert "by a U-Net with the encoder mit_b1, at 64 × 64 pixels" in first.text
    # F1: background 18 / 21, upperbody 16 / 18, head 0.
    assert first.tables == [
        [
            ["", "this run", "95 % interval"],
            ["mean IoU", "0.517", "0.412 to 0.634"],
            ["macro F1", "0.582", "0.511 to 0.622"],
        ]
    ]
    assert "upperbody is segmented best (IoU 0.800) and background worst (0.750)" in first.text
    assert "Synthetic data: every photo and mask is drawn." in first.text
    assert [i["alt"] for i in first.images] == [
        "Best, median and worst photo: truth and prediction"
    ]
    assert html.count('<details class="chapter">') == len(CHAPTERS)


def test_scores_are_set_beside_the_reported_ones_where_they_compare(bare_run: RunFolder) -> None:
    page = _read(bare_run)
    assert "This run is not (synthetic, val, n = 2 photos, 64 × 64 pixels)" in page.text
    assert "they do not compare" in page.text
    metrics = _evaluation().metrics | {"comparable_with_reported": True}
    write_json(bare_run.path / "metrics.json", metrics)
    page = _read(bare_run)
    assert "This run is such a run." in page.text
    assert "they do not compare" not in page.text
    assert page.tables[0][1] == ["mean IoU", "0.517", "0.412 to 0.634", "0.457", "0.544"]


def test_table_of_scores_puts_protocols_and_reported_scores_side_by_side(page: Page) -> None:
    rows = page.table("score", "headline")
    assert rows[0] == ["mean IoU", "0.517", "0.412 to 0.634", "0.457", "0.544"]
    assert rows[2] == ["mean IoU, classes with target only", "0.775", "–", "0.775", "–"]
    assert rows[3][4] == f"{REPORTED_SCORES['macro_f1']:.3f}"
    assert rows[5] == ["pixel accuracy", "0.850", "–", "0.850", "–"]
    assert "headline: native resolution, as in the test" in page.text


def test_class_table_marks_absent_and_untargeted_classes(page: Page) -> None:
    rows = {row[0]: row for row in page.table("class", "status")}
    assert rows["upperbody"][:6] == ["upperbody", "ok", "2", "0.800", "0.610 to 0.940", "0.889"]
    assert rows["upperbody"][6:] == ["–", "1.000", "–", "0.800", "–", "50.0 %"]
    assert rows["closures"][1:4] == ["absent", "0", "–"]
    assert rows["head"][1:4] == ["no target", "0", "0.000"]


def test_largest_confusions_are_shares_of_the_truth(page: Page) -> None:
    assert page.table("truth", "predicted as") == [
        ["upperbody", "background", "20.0 %", "2"],
        ["background", "head", "10.0 %", "1"],
    ]


def test_best_epoch_is_marked(page: Page) -> None:
    rows = page.table("epochs done", "steps")
    assert [row[0] for row in rows] == ["1", "2 (best)", "3"]
    assert rows[1] == ["2 (best)", "60", "0.800", "0.375", "5.0e-04", "121.0"]
    assert "Training ended because its time, 3 min, was up." in page.text
    assert "The best checkpoint is that of epoch 2, with a val mIoU of 0.375" in page.text


def test_hostile_names_are_shown_as_text(full_run: RunFolder) -> None:
    html_path, markdown_path, _ = write_report(full_run)
    for path in (html_path, markdown_path):
        assert not re.search("<script", path.read_text(), re.IGNORECASE)
    for page in (_read(full_run), _read_markdown(full_run)):
        assert "script" not in page.tags
        assert page.table("photo", "image id")[0][:2] == [HOSTILE, "12"]
        assert page.table("split", "photo") == [["val", HOSTILE, "0 bytes"]]
        assert f"What 05_worst shows. {HOSTILE}" in page.text


def test_no_value_of_a_run_becomes_markup(bare_run: RunFolder) -> None:
    """Whatever a dataset, a setting or a library is called."""
    hostile = (
        "</summary>\n\n# <img src=x onerror=alert(1)>\r```\r<script>\n\n## New\n"
        "[a](javascript:alert(1)) ![b](http://c/d.png)\n\n| e |\n|---|\n"
    )
    parameters = {"encoder_name": f"mit_{hostile}", "data_root": hostile}
    plain = _structures(_record(bare_run, {}, {}))
    words = dict.fromkeys(("dataset", "source", "protocol", "checkpoint"), hostile)
    assert _structures(_record(bare_run, words, parameters)) == plain


def _record(run: RunFolder, words: dict[str, str], parameters: dict[str, object]) -> RunFolder:
    write_json(run.path / "metrics.json", _evaluation().metrics | words)
    parameters = config_to_parameters(profile_config("smoke")) | parameters
    run.record_step("03_training", parameters=parameters, seconds=1)
    return run


def _structures(run: RunFolder) -> list[list[object]]:
    return [
        [page.tags, page.links, [text for tag, text in page.headings if tag == "h2"]]
        for page in (_read(run), _read_markdown(run))
    ]


def test_page_is_self_contained(page: Page) -> None:
    assert len(page.images) == 6
    for image in page.images:
        assert image["alt"].strip()
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", image["src"]).groups()
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format == kind.upper()
            assert picture.size == (int(image["width"]), int(image["height"])) == (40, 30)
    kinds = {i["alt"]: i["src"][11:15] for i in page.images}
    assert kinds["Worst photos: input, truth, prediction"] == "jpeg"  # photos
    assert kinds["Confusion matrix, rows are the truth"] == "png;"  # a drawing
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)


def test_wide_figures_are_shrunk(full_run: RunFolder) -> None:
    _write_figure(full_run.figures_dir / "04_overlap.png", width=3200, height=40)
    _write_figure(full_run.figures_dir / "05_best.png", width=2000, height=100)
    page = _read(full_run)
    sizes = {i["alt"]: (i["width"], i["height"]) for i in page.images}
    assert sizes["Score of overlapping annotations"] == ("1600", "20")
    assert sizes["Best photos: input, truth, prediction"] == ("1600", "80")


def test_markdown_links_to_copies_of_the_figures(full_run: RunFolder) -> None:
    name = "05_own_<b> (1)"  # an unknown figure with a name that is no URL
    _write_figure(full_run.figures_dir / f"{name}.png")
    markdown = _read_markdown(full_run)
    linked = {full_run.report_dir / unquote(image["src"]) for image in markdown.images}
    assert full_run.report_dir / "figures" / f"{name}.png" in linked
    assert linked == set((full_run.report_dir / "figures").iterdir())


def test_files_of_an_earlier_report_are_removed(full_run: RunFolder) -> None:
    write_text(full_run.report_dir / "latex" / "old.tex", "old")
    write_report(full_run)
    (full_run.figures_dir / "05_worst.png").unlink()
    write_report(full_run)
    names = {path.name for path in full_run.report_dir.glob("*/*")}
    assert not {"05_worst.jpg", "old.tex"} & names
    assert {"03_curves.png", "per-class.tex"} <= names


def test_equal_runs_give_equal_reports(full_run: RunFolder) -> None:
    def read() -> list[bytes]:
        written = write_report(full_run)
        return [written.page.read_bytes(), written.markdown.read_bytes()]

    assert read() == read()


def test_near_equal_photos_are_counted_where_they_were_looked_for(page: Page) -> None:
    row = page.table("", "train", "val")[-1]
    assert row == ["pairs with near-equal photos of train", "–", "1"]


def test_what_the_run_did_not_make_is_named(bare_run: RunFolder) -> None:
    page = _read(bare_run)
    assert page.images == []
    files = ("tables/03_network.csv", "checkpoints/training.json", "logs/history.csv")
    files += ("manifest.json", "evaluation/per_image.npz", "tables/05_disagreement.csv")
    figures = ("(01_gallery)", "(03_curves)", "(04_confusion_matrix)", "(05_examples)")
    for what in (*files, *figures, "the audit of train and val", "no own photos were given"):
        assert what in page.text
    assert "date not recorded" in page.text


def test_missing_scores_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json; expected .* notebook 04"):
        write_report(RunFolder(tmp_path, "empty"))
    assert not (tmp_path / "empty" / "report").exists()


def test_run_that_does_not_exist_is_an_error_that_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such run: .*nope; .* there is none yet\."):
        write_report(RunFolder(tmp_path, "nope"))
    write_json(tmp_path / "demo" / "metrics.json", {})
    with pytest.raises(FileNotFoundError, match=r"no such run: .*nope; expected one of demo\."):
        write_report(RunFolder(tmp_path, "nope"))


def test_broken_json_is_named_and_the_rest_is_shown(
    bare_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(bare_run.path.parent))  # often the name of the user
    write_text(bare_run.path / "audit.json", "{")
    written = write_report(bare_run)
    assert list(written.broken) == ["audit.json"]
    assert written.broken["audit.json"].startswith("~/bare/audit.json is not JSON")
    for path in (written.page, written.markdown):
        assert "could not be used" in path.read_text()
        assert str(bare_run.path.parent) not in path.read_text()


def test_undecodable_figure_is_named(full_run: RunFolder) -> None:
    (full_run.figures_dir / "03_curves.png").write_bytes(b"\x89PNG")
    written = write_report(full_run)
    assert list(written.broken) == ["figures/03_curves.png"]
    page = Page(written[0].read_text())
    assert "03_curves.png cannot be decoded; expected a PNG file. Rerun notebook 03." in page.text
    assert "Curves" not in [image["alt"] for image in page.images]


def test_unknown_figures_and_tables_are_shown(page: Page) -> None:
    assert "Calibration" in [image["alt"] for image in page.images]
    assert page.table("name", "image id") == [
        ["a|b", "7000", "0.1235"],
        ["c", "9", "11,958"],
        ["–", "8000", "–"],
    ]


def test_tables_name_the_test_time_options(full_run: RunFolder) -> None:
    path = full_run.path / "metrics.json"
    metrics = json.loads(path.read_text()) | {"inference": {"tta_flip": True}}
    write_json(path, metrics)
    assert "native resolution, mirrored too" in _read(full_run).text


def test_limits_say_why_a_stratum_is_empty(page: Page) -> None:
    assert "the annotations of this dataset carry no person counts" in page.text
    rows = page.table("group", "n", "mean recall")
    assert rows == [["tiny", "0 annotations", "–", "–", "–", "–"]]
    assert "this split holds nothing of that group" in page.text
    assert "0.500 in the group “rest” and 0.250 in the group “pile”" in page.text
    assert "nothing is known of them: closures" in page.text


def test_boundaries_and_calibration_are_reported(full_run: RunFolder) -> None:
    metrics = json.loads((full_run.path / "metrics.json").read_text())
    metrics["boundary"] = {
        "protocol": "bands of 2 %",
        "mean_iou": 0.321,
        "mean_iou_no_background": 0.123,
        "intervals": {"mean_iou": [0.3, 0.4]},
        "per_class": {name: {"iou": 0.25, "interval": [0.2, None]} for name in NAMES},
    }
    of_class = {"ece": None, "mean_confidence": 0.75, "precision": 0.5}
    metrics["calibration"] = {
        "protocol": "15 bins",
        "ece": 0.0625,
        "interval": [0.05, 0.07],
        "ece_no_background": 0.2,
        "mean_confidence": 0.9,
        "pixel_accuracy": 0.85,
        "per_class": dict.fromkeys(NAMES, of_class),
    }
    write_json(full_run.path / "metrics.json", metrics)
    page = _read(full_run)
    assert "Mean boundary IoU 0.321 (95 % interval 0.300 to 0.400)" in page.text
    assert page.table("class", "boundary IoU")[0] == ["background", "0.250", "–", "0.750"]
    assert "ECE 0.062 (95 % interval 0.050 to 0.070)" in page.text
    assert "gives its class 90.0 % and is right in 85.0 % of the pixels" in page.text
    assert "too sure" in page.text
    assert page.table("predicted class")[1] == ["closures", "–", "0.750", "0.500"]
    assert "bands of 2 %" in page.text


def test_composites_say_what_company_costs(full_run: RunFolder) -> None:
    metrics = json.loads((full_run.path / "metrics.json").read_text())
    metrics["composite_protocol"] = "photos made into one"
    metrics["strata"]["composites"] = [
        {
            "stratum": "2 photos, overlapping",
            "n": 7,
            "unit": "composite",
            **{"score": 0.3, "low": 0.2, "high": 0.4, "missed": 0.35},
            **{"alone": 0.5, "drop": 0.2, "drop_low": 0.1, "drop_high": 0.3, "missed_alone": 0.25},
        }
    ]
    write_json(full_run.path / "metrics.json", metrics)
    page = _read(full_run)
    assert "Protocol: photos made into one." in page.text
    (row,) = page.table("group", "n", "mean IoU", "95 % interval", "photos alone")
    assert row[2:5] == ["0.300", "0.200 to 0.400", "0.500"]
    assert row[5:] == ["0.200", "0.100 to 0.300", "0.350", "0.250"]


def test_halves_stand_beside_the_whole_photo(full_run: RunFolder) -> None:
    metrics = json.loads((full_run.path / "metrics.json").read_text())
    metrics["framing_protocol"] = "photos cut across"
    pair = {"score": 0.3, "low": 0.2, "high": 0.4, "missed": 0.35, "alone": 0.5}
    pair |= {"drop": 0.2, "drop_low": 0.1, "drop_high": 0.3, "missed_alone": 0.25}
    names = ("upper half", "all halves")
    metrics["strata"]["framing"] = [
        {"stratum": name, "n": 7, "unit": "photo"} | pair for name in names
    ]
    write_json(full_run.path / "metrics.json", metrics)
    page = _read(full_run)
    assert "Protocol: photos cut across." in page.text
    rows = page.table("group", "n", "mean IoU", "95 % interval", "in the whole photo")
    assert [row[0] for row in rows] == list(names)
    assert rows[1][1:5] == ["7 photos", "0.300", "0.200 to 0.400", "0.500"]
    assert rows[1][5:] == ["0.200", "0.100 to 0.300", "0.350", "0.250"]


def test_loss_section_holds_the_weights_of_the_run(page: Page) -> None:
    assert "L = 0.25 · D + 0.5 · F" in page.text
    assert "s = 1, γ = 2, C = 4" in page.text
    assert "F = 1/N · Σ" in page.text


def test_loss_section_has_the_lovasz_part_where_it_was_used(full_run: RunFolder) -> None:
    assert "Lovász" not in _read(full_run).text
    config = apply_overrides(profile_config("smoke"), ["loss.lovasz_weight=0.75"])
    full_run.record_step(
        "03_training", parameters=config_to_parameters(config), inputs=[], seconds=1.0
    )
    text = _read(full_run).text
    assert "L = 0.5 · D + 5 · F + 0.75 · J D = 1/K" in " ".join(text.split())
    assert "J, the Lovász-softmax loss: " in text


@pytest.mark.parametrize("name", ["tables", "figures", "figures/03_curves.png"])
def test_what_may_not_be_read_is_named_and_all_else_is_shown(
    full_run: RunFolder, unprivileged: Callable[..., Any], name: str
) -> None:
    path = full_run.path / name
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        written = unprivileged(write_report, full_run)
    finally:
        path.chmod(mode)
    assert list(written.broken) == [name]
    assert re.search("permission denied|may not be read", written.broken[name])
    page = Page(written[0].read_text())
    assert name in page.text
    assert "L = 0.25" in page.text


def test_network_parameters_are_added_up(page: Page) -> None:
    rows = page.table("part", "parameters")
    assert rows == [["encoder", "13,000"], ["head", "21"], ["total", "13,021"]]


def test_own_photos_that_failed_are_listed(page: Page) -> None:
    assert page.table("photo", "reason") == [["own.jpg", "truncated"]]


def test_scores_of_another_checkpoint_say_so(full_run: RunFolder) -> None:
    note = "These are the scores of elsewhere/other.ckpt, which is not this run's best.ckpt"
    assert note not in _read(full_run).text
    write_text(full_run.best_checkpoint, "trained again")
    assert note in _read(full_run).text


def test_reproducibility_names_commit_versions_and_inputs(full_run: RunFolder) -> None:
    page = _read(full_run)
    versions = dict(page.table("what", "version"))
    assert versions["commit"] == "a1b2c3 with local changes"
    assert versions["torch"] == "9.8.7"
    assert versions["seed"] == "0"
    [[path, digest]] = page.table("file", "SHA-256")
    assert path.endswith("audit.json")
    assert digest == sha256_file(full_run.path / "audit.json")
    assert page.table("step", "state")[0][3] == "3 min 1 s"


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_printed_command_makes_the_same_run(bare_run: RunFolder, profile: str) -> None:
    wanted = apply_overrides(
        replace_fields(profile_config(profile), {"data_root": "my data", "run_name": "mine"}),
        ["train.freeze_encoder=true", "train.learning_rate=3e-5", "predict.photos_dir=a b"],
    )
    parameters = config_to_parameters(wanted)
    # A notebook without a setting records the default; the one that has it decides.
    other = parameters | {"photos_dir": "", "bootstrap_samples": 123}
    bare_run.record_step("03_training", parameters=other, seconds=1)
    bare_run.record_step("04_metric_evaluation", parameters=parameters, seconds=1)
    bare_run.record_step("05_qualitative_overlays", parameters=parameters, seconds=1)
    html = write_report(bare_run)[0].read_text()
    command = Page(re.search("<pre>(.*?)</pre>", html, re.DOTALL)[0]).text

    words = shlex.split(command.replace("\\ ", ""))
    assert words[:6] == ["python", "-m", "clothseg_utils", "run", "--profile", profile]
    options = list(zip(words[6::2], words[7::2], strict=True))
    named = {k[2:].replace("-", "_"): v for k, v in options if k != "--set"}
    again = replace_fields(profile_config(profile), named)
    assert apply_overrides(again, [v for k, v in options if k == "--set"]) == wanted
    assert config_from_parameters(parameters) == wanted


def test_data_and_their_licences_are_announced(bare_run: RunFolder, full_run: RunFolder) -> None:
    assert "Synthetic data" in _read(bare_run).text
    for run in (bare_run, full_run):
        metrics = json.loads((run.path / "metrics.json").read_text())
        write_json(run.path / "metrics.json", metrics | {"synthetic": False})
    assert "Synthetic data" not in _read(bare_run).text
    assert "Where they are Fashionpedia's: its annotations are CC BY 4.0" in _read(bare_run).text
    assert "The annotation files name no licence of theirs." in _read(bare_run).text
    # Of train and of val.
    assert "name these licences: CC BY 4.0 (4 photos)." in _read(full_run).text


def test_mit_licence_is_mentioned_for_mit_only(bare_run: RunFolder, page: Page) -> None:
    assert "NVIDIA" in page.text
    bare_run.record_step("03_training", parameters={"encoder_name": "resnet34"}, seconds=1)
    assert "NVIDIA" not in _read(bare_run).text


def test_scores_without_intervals_and_strata_are_reported(bare_run: RunFolder) -> None:
    metrics = json.loads((bare_run.path / "metrics.json").read_text())
    del metrics["intervals"], metrics["reported_protocol"], metrics["strata"]
    write_json(bare_run.path / "metrics.json", metrics)
    assert "intervals: not made in this run" in _read(bare_run).text


# --- error analysis, options, model card --------------------------------------------------------


def test_disagreement_is_listed_by_label_doubt(full_run: RunFolder) -> None:
    write_text(
        full_run.tables_dir / "05_disagreement.csv",
        f'photo,disagreement,label_doubt,mean_iou\n"{HOSTILE}",0.25,0.125,0.4\nb.jpg,0.5,,\n',
    )
    for page in (_read(full_run), _read_markdown(full_run)):
        assert page.table("photo", "pixels that differ") == [
            [HOSTILE, "25.0 %", "0.125", "0.400"],
            ["b.jpg", "50.0 %", "–", "–"],
        ]


def test_options_show_gain_beside_cost(full_run: RunFolder) -> None:
    write_text(
        full_run.tables_dir / "04_options.csv",
        "option,settings,n,mean_iou,macro_f1,gain,low,high,seconds,cost\n"
        "none,none,9,0.4,0.5,0.0,0.0,0.0,0.02,1.0\n"
        "flip,mirrored too,9,0.42,0.52,0.02,-0.01,0.05,0.041,2.05\n",
    )
    page = _read(full_run)
    rows = page.table("option", "what it does")
    assert rows[1] == [
        "flip", "mirrored too", "0.420", "+0.020", "−0.010 to 0.050", "0.041", "2.0"
    ]  # fmt: skip
    assert "taken without test-time options" in page.text
    assert "synthetic, val, native resolution, paired on 9 photos spread" in page.text


def test_model_card_says_what_it_is_for_and_names_the_worst_classes(page: Page) -> None:
    assert "any real photo: it has seen drawn pictures only" in page.text
    assert "in the 1 class upperbody; not scored here: closures, head" in page.text
    assert "lowest IoU: background (0.750), upperbody (0.800)" in page.text
    assert "telling who a person is" in page.text


def test_model_card_names_origin_and_licence_of_the_encoder(
    page: Page, bare_run: RunFolder
) -> None:
    rows = dict(page.table("model", "value"))
    assert rows["its weights at the start"] == "timm/convnext_tiny.fb_in22k"
    assert rows["licence of these weights"] == "apache-2.0"
    bare = _read(bare_run).table("model", "value")
    assert dict(bare)["licence of these weights"] == "not recorded"


def test_file_that_training_began_with_is_named(full_run: RunFolder) -> None:
    random = "started from random weights"
    assert random in _read(full_run).text
    parameters = full_run.read_manifest()["steps"]["03_training"]["parameters"]
    began = {"parameters": parameters | {"init_from": "outputs/a/best.ckpt"}}
    full_run.update_step("03_training", began)
    page = _read(full_run)
    rows = dict(page.table("part", "value"))
    assert rows["weights at the start"] == "from outputs/a/best.ckpt"
    assert random not in page.text


def test_tables_are_written_as_latex(full_run: RunFolder) -> None:
    write_report(full_run)
    folder = full_run.report_dir / "latex"
    text = (folder / "per-class.tex").read_text()
    assert "upperbody & ok & 2 & 0.800 & 0.610 to 0.940" in text
    assert r"\caption{Per class; synthetic, val, n = 2 photos, native resolution}" in text
    hostile = next(t for p in folder.glob("*.tex") if "script" in (t := p.read_text()))
    assert r"\textless{}script\textgreater{}alert('1')" in hostile
    inputs = re.findall(r"\\input{(.+?)}", (folder / "all-tables.tex").read_text())
    assert {*inputs, "all-tables.tex"} == {path.name for path in folder.iterdir()}


# --- comparison of runs -------------------------------------------------------------------------


def _make_other_run(root: Path) -> RunFolder:
    """A run on the same two photos that takes half of upperbody for background."""
    run = RunFolder(root, "other")
    evaluation = _evaluation()
    worse = evaluation.confusions.copy()
    worse[:, 2, 2] -= 2
    worse[:, 2, 0] += 2
    write_evaluation(run.path, dataclasses.replace(evaluation, confusions=worse))
    config = replace_fields(profile_config("smoke"), {"learning_rate": 0.5})
    run.record_step("03_training", parameters=config_to_parameters(config), seconds=1)
    return run


def test_comparison_shows_differences_and_says_whether_they_are_real(
    full_run: RunFolder, tmp_path: Path
) -> None:
    html_path, markdown_path, _ = write_report(full_run, _make_other_run(tmp_path))
    page = Page(html_path.read_text())
    assert "Run full is better than run other by" in page.text
    rows = {row[0]: row for row in page.table("class", "full")}
    # IoU of upperbody 8 / 10 here; there 4 are lost: 4 / 10
    assert rows["upperbody"][1:4] == ["0.800", "0.400", "+0.400"]
    assert rows["upperbody"][5] == "full is better"
    assert rows["closures"][1:6] == ["–", "–", "–", "–", "absent"]
    assert ["learning_rate", "0.001", "0.5"] in page.table("field", "full")
    chapters = [t for tag, t in page.headings if tag == "h2"]
    assert chapters == [CHAPTERS[0], "Comparison", *CHAPTERS[1:]]
    assert "Differences between run full and run other, by class" in [
        image["alt"] for image in page.images
    ]
    assert "Run full is better" in markdown_path.read_text()
    names = {path.name for path in full_run.figures_dir.glob("06_*")}
    assert names == {"06_against_other.png", "06_against_other.svg"}
    # The next report without --against says nothing of it.
    assert "Comparison" not in [t for tag, t in _read(full_run).headings if tag == "h2"]


def test_command_line_says_the_verdict(cli, tmp_path: Path) -> None:
    outputs = tmp_path / "repo" / "outputs"
    _make_full_run(outputs)
    _make_other_run(outputs)
    done = cli("report", "--run-name", "full", "--against", "other")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith("Run full is better than run other by")
    report = outputs / "full" / "report" / "index.html"  # not below the current folder
    assert done.out.splitlines()[1].startswith(f"report: {report} (for a browser), ")


def test_runs_on_other_photos_are_refused_and_nothing_is_written(cli, tmp_path: Path) -> None:
    outputs = tmp_path / "repo" / "outputs"
    _make_full_run(outputs)
    other = _make_other_run(outputs)
    changed = dataclasses.replace(_evaluation(), image_ids=np.array([11, 99]))
    write_evaluation(other.path, changed)
    done = cli("report", "--run-name", "full", "--against", "other")
    assert done.code == 2
    assert (
        "image ids differ, 1 of 2 are only in full (12) and 1 of 2 only in other (99)" in done.err
    )
    assert done.err.count("\n") == 1
    assert not (outputs / "full" / "report").exists()


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("full", "run full is compared with itself"),
        ("none", "no such run: .*none; expected one of full"),
    ],
)
def test_nothing_to_compare_with_is_refused(cli, tmp_path: Path, against, message) -> None:
    _make_full_run(tmp_path / "repo" / "outputs")
    done = cli("report", "--run-name", "full", "--against", against)
    assert done.code == 2
    assert re.search(message, done.err)
