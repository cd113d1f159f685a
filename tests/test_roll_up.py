"""Tests of `scores.roll_up`: fine classes scored in coarse ones, beside masks mapped by hand."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from clothseg_utils.core.classes import class_table
from clothseg_utils.core.config import DataConfig, InferenceConfig
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.data.coco import Category
from clothseg_utils.data.splits import SplitData, load_split
from clothseg_utils.network import segmenter as segmenters
from clothseg_utils.network.evaluate import evaluate
from clothseg_utils.network.segmenter import Segmenter
from clothseg_utils.report.report import write_report
from clothseg_utils.scores.compare import compare_evaluations, verdict
from clothseg_utils.scores.evaluation import (
    Evaluation,
    check_evaluated,
    headline_table,
    read_evaluation,
    write_evaluation,
)
from clothseg_utils.scores.roll_up import find_roll_up, roll_up_table, rolled_up
from clothseg_utils.workflow.leaderboard import write_leaderboard

VAL_JSON = "instances_attributes_val2020.json"
SIDE_PX = 24

CATEGORIES = {
    "shirt": "upperbody",
    "vest": "upperbody",
    "pants": "lowerbody",
    "shorts": "lowerbody",
    "hat": "head",
}
MAPPED_BY_HAND = np.array([0, 2, 2, 10, 10, 3], np.uint8)  # ids of the 13 classes


def categories(of: dict[str, str]) -> list[Category]:
    return [Category(i, name, supercategory) for i, (name, supercategory) in enumerate(of.items())]


# --- the same photos, scored in fine classes and in coarse ones ----------------------------------


def write_dataset(root: Path, rng: np.random.Generator) -> Path:
    """Six photos of noise, each with five overlapping rectangles of any category."""
    (root / "test").mkdir(parents=True)
    images, annotations = [], []
    for image_id in range(1, 7):
        noise = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
        Image.fromarray(noise).save(root / "test" / f"{image_id}.png")
        size = {"width": SIDE_PX, "height": SIDE_PX}
        images.append({"id": image_id, "file_name": f"{image_id}.png", **size})
        for number in range(5):
            left, top = rng.integers(0, SIDE_PX // 2, 2).tolist()
            width, height = rng.integers(4, SIDE_PX // 2, 2).tolist()
            right, bottom = left + width, top + height
            annotation = {
                "id": 10 * image_id + number,
                "image_id": image_id,
                "category_id": int(rng.integers(len(CATEGORIES))),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
            annotations.append(annotation)
    record = {
        "categories": [
            {"id": i, "name": name, "supercategory": supercategory}
            for i, (name, supercategory) in enumerate(CATEGORIES.items())
        ],
        "images": images,
        "annotations": annotations,
    }
    (root / VAL_JSON).write_text(json.dumps(record))
    return root


def fine_mask(image: np.ndarray) -> np.ndarray:
    """What the network says, (H, W): a fine class by the red of each pixel, whatever is asked."""
    return image[..., 0] % (len(CATEGORIES) + 1)


def one_hot(mask: np.ndarray, num_classes: int) -> torch.Tensor:
    class_ids = torch.from_numpy(mask.astype(np.int64))[None]
    return torch.nn.functional.one_hot(class_ids, num_classes).permute(0, 3, 1, 2).float()


def stub(split_data: SplitData, path: Path, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """A network of the split's scheme; the coarse one says the fine ones mapped by hand."""
    classes = split_data.classes

    def logits(self: Segmenter, image: np.ndarray, *_: object) -> torch.Tensor:
        mask = fine_mask(image)
        mask = mask if self.scheme == "category" else MAPPED_BY_HAND[mask]
        return one_hot(mask, len(self.class_names))

    monkeypatch.setattr(Segmenter, "logits", logits)
    monkeypatch.setattr(Segmenter, "look", logits)
    path.write_bytes(b"weights")
    info = {"config": {"data": {"scheme": classes.scheme}}}
    return Segmenter(path, None, classes.names, 32, "letterbox", info)


class Scored(NamedTuple):
    """The two evaluations of one set of photos, and what made the fine one."""

    fine: Evaluation
    coarse: Evaluation
    root: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Scored:
    folder = tmp_path_factory.mktemp("roll_up")
    root = write_dataset(folder / "photos", np.random.default_rng(0))
    evaluations = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for scheme in ("category", "supercategory"):
            config = DataConfig(
                data_root=str(root),
                derived_root=str(folder / "derived"),
                scheme=scheme,
                mask_workers=1,
            )
            split_data = load_split(config, "val")
            network = stub(split_data, folder / "best.ckpt", monkeypatch)
            evaluations.append(evaluate(network, split_data, bootstrap_samples=50))
    return Scored(*evaluations, root, folder / "best.ckpt")


@pytest.mark.parametrize(
    "name",
    [
        *("confusions", "overlap_confusions", "composite_confusions", "composite_alone"),
        *("framing_confusions", "framing_whole", "image_ids", "person_counts"),
    ],
)
def test_matrices_add_up_to_those_of_masks_mapped_pixel_by_pixel(scored, name):
    counts = getattr(rolled_up(scored.fine), name)
    assert counts.any()
    assert np.array_equal(counts, getattr(scored.coarse, name))


def test_scores_are_those_of_masks_mapped_pixel_by_pixel(scored):
    rolled, coarse = rolled_up(scored.fine), scored.coarse
    assert rolled.class_names == coarse.class_names
    for name in ("per_class", "confusion", "mean_iou", "macro_f1", "pixel_accuracy", "intervals"):
        assert rolled.metrics[name] == coarse.metrics[name], name
    ours, theirs = (dict(e.metrics["reported_protocol"]) for e in (rolled, coarse))
    assert ours.pop("protocol") == f"{theirs.pop('protocol')}; rolled up"
    assert ours == theirs
    for name in ("composites", "overlap", "framing"):
        assert rolled.metrics["strata"][name] == coarse.metrics["strata"][name], name


def test_what_does_not_add_up_is_left_out_and_named(scored):
    rolled, coarse = rolled_up(scored.fine), scored.coarse
    left_out = {n for n in coarse.metrics if n not in rolled.metrics}
    left_out |= coarse.metrics["strata"].keys() - rolled.metrics["strata"].keys()
    named = rolled.metrics["not_rolled_up"]
    assert left_out == {name for names in named for name in names.split(", ")}
    for name in ("instances", "pairs", "boundaries", "calibration", "class_calibration"):
        assert len(getattr(coarse, name))
        assert not len(getattr(rolled, name))


def test_rolled_up_scores_are_read_back(scored, tmp_path):
    rolled = rolled_up(scored.fine)
    for evaluation in (scored.fine, rolled):
        write_evaluation(tmp_path, evaluation)
        read = read_evaluation(tmp_path)
        again = rolled_up(read) or read
        assert again.class_names == rolled.class_names
        assert np.array_equal(again.confusions, rolled.confusions)
        assert again.metrics["per_class"] == rolled.metrics["per_class"]
    with pytest.raises(ValueError, match="rolled up to other classes; rerun notebook 04"):
        check_evaluated(rolled, scored.checkpoint, InferenceConfig())


def test_tables_set_both_beside_each_other(scored):
    headline = headline_table(scored.fine)
    assert headline.loc["mean_iou", "score"] == scored.fine.metrics["mean_iou"]
    assert headline.loc["mean_iou", "rolled up"] == scored.coarse.metrics["mean_iou"]
    assert headline.loc["mean_iou", "rolled up low"] <= headline.loc["mean_iou", "rolled up"]
    assert "rolled up" not in headline_table(scored.coarse)
    table = roll_up_table(scored.fine).set_index("class_name")
    fine = scored.fine.metrics["per_class"]
    assert table.loc["upperbody", "iou"] == scored.coarse.metrics["per_class"]["upperbody"]["iou"]
    assert table.loc["upperbody", "categories"] == 2
    mean = (fine["shirt"]["iou"] + fine["vest"]["iou"]) / 2
    assert table.loc["upperbody", "categories_iou"] == pytest.approx(mean)
    assert table.loc["neck", "status"] == "absent"
    assert np.isnan(table.loc["neck", "iou"])
    assert not len(roll_up_table(scored.coarse))


# --- two runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fine_first", [True, False])
def test_fine_classes_are_compared_in_the_coarse_ones_of_the_other_run(scored, fine_first):
    evaluations = {"fine": scored.fine, "coarse": scored.coarse}
    names = tuple(evaluations) if fine_first else tuple(reversed(evaluations))
    comparison = compare_evaluations(*(evaluations[name] for name in names), names)
    assert tuple(comparison.iou) == scored.coarse.class_names
    assert comparison.means["mean_iou"][:3] == (*[scored.coarse.metrics["mean_iou"]] * 2, 0)
    text = verdict(comparison)
    assert "have the same mean IoU" in text
    assert "The 6 classes of run fine are rolled up to the 13 of the other" in text


def test_runs_of_one_scheme_are_compared_in_their_own_classes(scored):
    comparison = compare_evaluations(scored.fine, scored.fine, ("a", "b"))
    assert tuple(comparison.iou) == scored.fine.class_names
    assert "rolled up" not in verdict(comparison)


def test_other_true_masks_are_refused_when_rolled_up_too(scored):
    other = dataclasses.replace(scored.coarse, confusions=scored.coarse.confusions + 1)
    with pytest.raises(ValueError, match="the true masks of 6 photos differ"):
        compare_evaluations(scored.fine, other, ("fine", "coarse"))


def test_leaderboard_ranks_fine_classes_by_their_scores_in_the_coarse_ones(scored, tmp_path):
    """Of two fine runs and a coarse one, all are ranked and compared in the coarse classes."""
    schemes = {"fine": "category", "again": "category", "coarse": "supercategory"}
    entries = {}
    for name, scheme in schemes.items():
        evaluation = scored.coarse if name == "coarse" else scored.fine
        write_evaluation(tmp_path / name, evaluation)
        parameters = {"outputs_root": str(tmp_path), "scheme": scheme}
        entries[name] = {"parameters": parameters, "state": "done", "failure": None}
    rows = write_leaderboard(tmp_path / "sweeps", "s", {"runs": entries})
    expected = scored.coarse.metrics
    for row in rows:
        assert row["mean_iou"] == expected["mean_iou"]
        assert row["mean_iou_of_halves"] == expected["strata"]["framing"][-1]["score"]
        assert row["difference_to_best"] in (None, 0)
        assert row["is_rolled_up"] == (row["scheme"] == "category")
    assert [row["verdict"] for row in rows] == ["the best", *["not told apart"] * 2]
    assert "its category belongs to" in (tmp_path / "sweeps" / "leaderboard.html").read_text()
    alone = write_leaderboard(tmp_path / "sweeps", "s", {"runs": {"fine": entries["fine"]}})
    assert alone[0]["mean_iou"] == scored.fine.metrics["mean_iou"]
    assert "is_rolled_up" not in (tmp_path / "sweeps" / "leaderboard.csv").read_text()


@pytest.mark.parametrize("compares", [False, True])
def test_report_shows_both_and_compares_in_the_coarse_classes(scored, tmp_path, compares):
    fine = scored.fine.metrics
    rolled = fine["rolled_up"] | {"comparable_with_reported": compares}
    ours = dataclasses.replace(scored.fine, metrics=fine | {"rolled_up": rolled})
    runs = [RunFolder(tmp_path, name) for name in ("fine", "coarse")]
    for run, evaluation in zip(runs, (ours, scored.coarse), strict=True):
        write_evaluation(run.path, evaluation)
    text = write_report(*runs)[1].read_text()
    chapter = text[text.index("### Rolled up to 13 classes") : text.index("### Boundaries")]
    assert f"| mean IoU | {fine['mean_iou']:.3f} |" in chapter
    assert f"| upperbody | ok | 2 | {roll_up_table(ours)['categories_iou'][2]:.3f} |" in chapter
    assert "not rolled up, boundary: " in chapter
    first_screen = text[: text.index("## Scores")]
    earlier = {line.split(" | ")[0]: line for line in first_screen.splitlines() if "| m" in line}
    assert earlier["| mean IoU"].endswith(" – |") == compares  # its own column stays empty
    assert ("0.544 |" in earlier["| mean IoU, rolled up to 13 classes"]) == compares
    assert "The 6 classes of run fine are rolled up to the 13 of the other" in text


# --- what rolls up -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "of",
    [
        {"coat": "", "cape": "", "tie": ""},
        {"coat": "coat", "cape": "cape", "tie": "tie"},
        {"coat": "clothes", "cape": "clothes", "tie": "clothes"},  # as some tools write a root
        {"coat": "warm", "Coat": "long", "cape": "warm"},  # one class in two
        {"coat": "background", "cape": "background", "tie": "neck"},
    ],
    ids=["no supercategories", "their own names", "one for all", "two for one", "background"],
)
def test_files_without_a_table_do_not_roll_up(of):
    assert find_roll_up(class_table("category", categories(of)), categories(of)) is None


def test_own_supercategories_roll_up():
    of = categories({"coat": "warm", "cape": "warm", "tie": "thin"})
    plan = find_roll_up(class_table("category", of), of)
    assert plan.names == ("background", "warm", "thin")
    assert plan.class_ids.tolist() == [0, 1, 1, 2]
    assert find_roll_up(class_table("supercategory", of), of) is None


# --- the verb ------------------------------------------------------------------------------------


@pytest.fixture
def verb(cli, scored, monkeypatch, tmp_path):
    """Run `evaluate` on a copy of the photos with a stub of a scheme; `change` edits the JSON."""

    def call(*options: str, scheme: str = "category", supercategory: str | None = None):
        root = tmp_path / "photos"
        root.mkdir()
        (root / "test").symlink_to(scored.root / "test")
        record = json.loads((scored.root / VAL_JSON).read_text())
        for category in record["categories"]:
            category["supercategory"] = supercategory or category["supercategory"]
        (root / VAL_JSON).write_text(json.dumps(record))
        split_data = load_split(
            DataConfig(data_root=str(root), derived_root=str(tmp_path / "d"), scheme=scheme), "val"
        )
        network = stub(split_data, tmp_path / "best.ckpt", monkeypatch)
        monkeypatch.setattr(segmenters, "load_segmenter", lambda *_, **__: network)
        out = ("--out", tmp_path / "scores", "--checkpoint", network.path)
        return cli("evaluate", "--data-root", root, *out, *options)

    return call


def test_evaluate_says_both_scores_and_writes_both(verb, scored, tmp_path):
    result = verb()
    assert result.code == 0, result.err
    first, second, *_ = result.out.splitlines()
    assert f"mIoU {scored.fine.metrics['mean_iou']:.4f}" in first
    assert second.startswith(
        f"rolled up to 13 classes: mIoU {scored.coarse.metrics['mean_iou']:.4f}"
    )
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["mean_iou"] == scored.fine.metrics["mean_iou"]
    assert metrics["rolled_up"]["mean_iou"] == scored.coarse.metrics["mean_iou"]


def test_evaluate_rolls_up_on_demand(verb, scored, tmp_path):
    result = verb("--roll-up")
    assert result.code == 0, result.err
    first, second, *_ = result.out.splitlines()
    assert f"mIoU {scored.coarse.metrics['mean_iou']:.4f}" in first
    assert first.endswith("native resolution, rolled up to 13 classes")
    assert second.startswith("scores: ")
    comparison = compare_evaluations(
        read_evaluation(tmp_path / "scores"), scored.coarse, ("rolled", "coarse")
    )
    assert comparison.means["mean_iou"].difference == 0


def test_evaluate_refuses_to_roll_up_coarse_classes(verb):
    result = verb("--roll-up", scheme="supercategory")
    assert result.code == 2
    assert result.err == (
        "error: the network has 13 classes of scheme supercategory, which roll up to nothing; "
        "expected scheme category. Score it without --roll-up.\n"
    )


def test_evaluate_refuses_to_roll_up_without_a_table(verb, tmp_path):
    result = verb("--roll-up", supercategory="clothes")
    assert result.code == 2
    assert result.err.startswith(f"error: {VAL_JSON}: the supercategories of its 5 categories are")
    assert not (tmp_path / "scores").exists()
