"""Tests of `network.evaluate`: what is counted, and what `metrics.json` says about it."""

import dataclasses
import gc
import json
import math
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES, SUPERCATEGORY_NAMES
from clothseg_utils.core.config import PLAIN_INFERENCE, DataConfig, InferenceConfig, replace_fields
from clothseg_utils.core.files import sha256_file
from clothseg_utils.data.rasterize import annotation_to_instance_mask
from clothseg_utils.data.splits import SplitData, load_split
from clothseg_utils.network import evaluate as evaluate_module
from clothseg_utils.network.evaluate import evaluate
from clothseg_utils.network.segmenter import Segmenter
from clothseg_utils.prediction.geometry import fit_mask
from clothseg_utils.scores.evaluation import (
    Evaluation,
    check_evaluated,
    image_scores,
    read_evaluation,
    scores_table,
    write_evaluation,
)
from clothseg_utils.scores.framing import half_rows
from clothseg_utils.scores.metrics import CLASS_SCORES

# The referee's decode(), pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

VAL_JSON = "instances_attributes_val2020.json"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def one_hot(mask: np.ndarray) -> torch.Tensor:
    """Logits, (1, 13, H, W), that are sure of a mask."""
    class_ids = torch.from_numpy(mask.astype(np.int64))[None]
    return torch.nn.functional.one_hot(class_ids, 13).permute(0, 3, 1, 2).float()


def stub_predictions(monkeypatch, masks_of):
    """Let the network say `masks_of(image)`: its mask at native size, and when squashed."""

    monkeypatch.setattr(Segmenter, "logits", lambda self, image: one_hot(masks_of(image)[0]))
    monkeypatch.setattr(Segmenter, "look", lambda self, image, *_: one_hot(masks_of(image)[1]))


# --- a case counted by hand ----------------------------------------------------------------------


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


@pytest.fixture
def hand_split(tmp_path) -> SplitData:
    """One photo of 8 x 8: upperbody on its left half, a closure of 2 x 2 on top of that."""
    root = tmp_path / "hand"
    (root / "test").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "test" / "a.png")
    record = {
        "categories": [
            {"id": 0, "name": "shirt", "supercategory": "upperbody"},
            {"id": 1, "name": "buckle", "supercategory": "closures"},
        ],
        "images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 8, "person_count": 2}],
        "annotations": [
            {"id": 10, "category_id": 0, "segmentation": rectangle(0, 0, 4, 8), "area": 32},
            {"id": 11, "category_id": 1, "segmentation": rectangle(2, 0, 4, 2), "area": 4},
        ],
    }
    for annotation, bbox in zip(record["annotations"], ([0, 0, 4, 8], [2, 0, 2, 2]), strict=True):
        annotation |= {"image_id": 7, "bbox": bbox, "iscrowd": 0}
    (root / VAL_JSON).write_text(json.dumps(record))
    config = DataConfig(data_root=str(root), derived_root=str(tmp_path / "derived"), mask_workers=1)
    return load_split(config, "val")


@pytest.fixture
def hand_evaluation(monkeypatch, hand_split, tiny_network) -> Evaluation:
    """Predicted: upperbody in the upper half; on the squashed photo nothing at all."""
    native = np.zeros((8, 8), np.uint8)
    native[:4] = 2
    stub_predictions(monkeypatch, lambda image: (native, np.zeros((32, 32), np.uint8)))
    return evaluate(tiny_network, hand_split, bootstrap_samples=100)


# Of 32 pixels of background 16 are right; of 28 of upperbody 12; of 4 of closures none.
# Background was predicted 32 times, upperbody 32 times.
HAND_IOU = {"background": 16 / 48, "closures": 0.0, "upperbody": 12 / 48}


def test_hand_counted_scores(hand_evaluation):
    metrics = hand_evaluation.metrics
    assert {
        n: c["iou"] for n, c in metrics["per_class"].items() if c["iou"] is not None
    } == HAND_IOU
    assert metrics["mean_iou"] == pytest.approx(sum(HAND_IOU.values()) / 3)
    assert metrics["mean_iou_no_background"] == pytest.approx((0 + 12 / 48) / 2)
    assert metrics["macro_f1"] == pytest.approx((32 / 64 + 0 + 24 / 60) / 3)
    assert metrics["pixel_accuracy"] == pytest.approx(28 / 64)
    confusion = np.array(metrics["confusion"])
    assert confusion[:3, :3].tolist() == [[16, 0, 16], [0, 0, 4], [16, 0, 12]]
    assert confusion.sum() == 64
    assert metrics["per_class"]["head"]["status"] == "absent"


def test_hand_counted_reported_protocol(hand_evaluation):
    reported = hand_evaluation.metrics["reported_protocol"]
    # At 32 x 32 every pixel of the photo counts 16 times; all of it was called background.
    assert np.array(reported["confusion"])[:3, 0].tolist() == [512, 64, 448]
    assert reported["mean_iou"] == pytest.approx((512 / 1024 + 0 + 0) / 3)
    assert reported["pixel_accuracy"] == pytest.approx(0.5)
    assert "32 x 32" in reported["protocol"]


def test_hand_counted_strata(hand_evaluation):
    (overlap,) = hand_evaluation.overlap_confusions
    assert overlap[1, 2] == overlap.sum() == 4  # the closure lies on the shirt
    strata = hand_evaluation.metrics["strata"]
    # Of 28 pixels of upperbody under one annotation 12 are right, of 4 of closures on it none.
    assert [row["score"] for row in strata["overlap"]] == pytest.approx([12 / 28, 0])
    (people,) = strata["people"]
    assert (people["stratum"], people["n"], people["unit"]) == ("2 people", 1, "photo")
    assert people["score"] == pytest.approx(sum(HAND_IOU.values()) / 3)


def test_hand_counted_annotations(hand_evaluation):
    # image, annotation, class, visible pixels, those found, category, pixels of its mask, those
    # predicted as its class: the shirt's upper half, the pixels below the closure among them
    assert hand_evaluation.instances.tolist() == [
        [7, 10, 2, 28, 12, 0, 32, 16],
        [7, 11, 1, 4, 0, 1, 4, 0],
    ]
    first, *others = hand_evaluation.metrics["strata"]["object_area"]
    assert (first["n"], first["unit"]) == (2, "annotation")
    assert first["score"] == pytest.approx((12 / 28 + 0) / 2)
    assert first["iou"] == pytest.approx((12 / 32 + 0) / 2)
    assert [row["n"] for row in others] == [0] * 4
    assert [row["score"] for row in others] == [None] * 4


def test_hand_counted_photo_score(hand_evaluation):
    assert image_scores(hand_evaluation).tolist() == pytest.approx([sum(HAND_IOU.values()) / 3])


def test_one_photo_has_scores_but_no_intervals(hand_evaluation):
    assert hand_evaluation.metrics["intervals"]["mean_iou"] == [None, None]
    table = scores_table(hand_evaluation).set_index("class_name")
    assert table.loc["upperbody", "iou"] == 0.25
    assert math.isnan(table.loc["upperbody", "iou_low"])


def test_hand_counted_halves(monkeypatch, hand_split, tiny_network):
    """The network calls the upper half of whatever it sees upperbody."""
    seen = []

    def upper_rows(image):
        seen.append(image.shape[:2])
        native = np.zeros(image.shape[:2], np.uint8)
        native[: len(image) // 2] = 2
        return native, np.zeros((32, 32), np.uint8)

    stub_predictions(monkeypatch, upper_rows)
    evaluation = evaluate(tiny_network, hand_split, bootstrap_samples=10)
    assert seen.count((8, 8)) >= 1
    assert seen.count((4, 8)) == 3
    (halves,), (whole,) = evaluation.framing_confusions, evaluation.framing_whole
    assert halves.shape == whole.shape == (3, 13, 13)
    # Of 4 rows two are called upperbody; the closure lies in the first two rows of the photo.
    assert halves[:, :3, :3].tolist() == [
        [[8, 0, 8], [0, 0, 4], [8, 0, 4]],
        [[8, 0, 8], [0, 0, 0], [8, 0, 8]],
        [[8, 0, 8], [0, 0, 0], [8, 0, 8]],
    ]
    assert whole[:, :3, :3].tolist() == [
        [[0, 0, 16], [0, 0, 4], [0, 0, 12]],
        [[8, 0, 8], [0, 0, 0], [8, 0, 8]],
        [[16, 0, 0], [0, 0, 0], [16, 0, 0]],
    ]
    upper, middle, lower, together = evaluation.metrics["strata"]["framing"]
    assert upper["score"] == pytest.approx((8 / 24 + 0 + 4 / 24) / 3)
    assert upper["alone"] == pytest.approx((0 + 0 + 12 / 32) / 3)
    assert middle["drop"] == 0
    assert lower["missed_alone"] == 1.0
    assert together["score"] == pytest.approx((24 / 72 + 0 + 20 / 72) / 3)
    assert "upper half" in evaluation.metrics["framing_protocol"]


@pytest.mark.parametrize("height", [1, 2, 3])
def test_halves_of_lowest_photos(tiny_network, tmp_path, height):
    (tmp_path / "test").mkdir()
    Image.new("RGB", (5, height)).save(tmp_path / "test" / "a.png")
    outline = {"segmentation": rectangle(0, 0, 5, height), "bbox": [0, 0, 5, height]}
    record = {
        "categories": [{"id": 0, "name": "shirt", "supercategory": "upperbody"}],
        "images": [{"id": 7, "file_name": "a.png", "width": 5, "height": height}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 0, "area": 5 * height, "iscrowd": 0} | outline
        ],
    }
    (tmp_path / VAL_JSON).write_text(json.dumps(record))
    config = DataConfig(
        data_root=str(tmp_path), derived_root=str(tmp_path / "derived"), mask_workers=1
    )
    evaluation = evaluate(tiny_network, load_split(config, "val"), bootstrap_samples=10)
    for counts in (evaluation.framing_confusions, evaluation.framing_whole):
        assert counts.sum(axis=(2, 3)).tolist() == [[5 * ((height + 1) // 2)] * 3]


def test_null_stands_for_undefined(hand_evaluation, tmp_path):
    write_evaluation(tmp_path, hand_evaluation)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    absent = metrics["per_class"]["wholebody"]
    assert [absent[name] for name in ("iou", "f1", "precision", "recall")] == [None] * 4
    assert absent["target_pixels"] == 0
    ends = metrics["intervals"]["per_class"]["wholebody"]
    assert ends == {score: [None, None] for score in CLASS_SCORES}
    assert metrics["boundary"]["per_class"]["wholebody"]["iou"] is None
    assert metrics["calibration"]["per_class"]["wholebody"]["ece"] is None


OWN_CATEGORIES = (("shirt", "upperbody", ""), ("buckle", "closures", ""))


@pytest.mark.parametrize(
    ("size", "images", "categories", "expected"),
    [
        (32, 1, OWN_CATEGORIES, True),
        (512, 1, OWN_CATEGORIES, False),  # another input size
        (32, 1158, OWN_CATEGORIES, False),  # another number of photos
        (32, 1, FASHIONPEDIA_CATEGORIES, False),  # other photos, as many of them
    ],
)
def test_comparable_with_reported(
    monkeypatch, hand_split, tiny_network, size, images, categories, expected
):
    monkeypatch.setattr(evaluate_module, "_REPORTED_IMAGE_SIZE", size)
    monkeypatch.setattr(evaluate_module, "_FASHIONPEDIA_VAL_IMAGES", images)
    monkeypatch.setattr(evaluate_module, "FASHIONPEDIA_CATEGORIES", categories)
    evaluation = evaluate(tiny_network, hand_split, bootstrap_samples=100)
    assert evaluation.metrics["comparable_with_reported"] is expected


def test_broken_mask_stops_evaluation(hand_split, tiny_network):
    mask_path = hand_split.masks.mask_path(7)
    Image.new("L", (8, 8), 99).save(mask_path)
    with pytest.raises(ValueError, match=r"class ids \[99\]"):
        evaluate(tiny_network, hand_split, bootstrap_samples=100)


# --- on drawn photos -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tiny_training, tiny_network, tmp_path_factory) -> tuple[Evaluation, Path]:
    """The tiny network's scores on the drawn val photos, and where they were written."""
    out = tmp_path_factory.mktemp("scored")
    evaluation = evaluate(
        tiny_network,
        tiny_training.val_split,
        bootstrap_samples=200,
        masks_dir=out / "masks",
    )
    write_evaluation(out, evaluation)
    return evaluation, out


def truth_of(split, image_size: int):
    """Of every photo, and every half of one, its bytes -> its mask, and that mask squashed."""
    truth = {}
    for record in split.images:
        image, target = split.read_pair(record)
        for rows in (slice(None), *half_rows(len(target))):
            squashed = fit_mask(target[rows], image_size, "squash")
            truth[image[rows].tobytes()] = (target[rows], squashed)
    return truth


def test_perfect_predictions_score_one(monkeypatch, tiny_training, tiny_network):
    split = tiny_training.val_split
    truth = truth_of(split, tiny_network.image_size)
    stub_predictions(monkeypatch, lambda image: truth[image.tobytes()])
    evaluation = evaluate(tiny_network, split, bootstrap_samples=100)
    metrics = evaluation.metrics
    for scores in (metrics, metrics["reported_protocol"]):
        for name in ("mean_iou", "mean_iou_no_background", "macro_f1", "pixel_accuracy"):
            assert scores[name] == 1.0, name
        for name, of_class in scores["per_class"].items():
            assert of_class["iou"] in (1.0, None), name
            assert (of_class["iou"] is None) == (of_class["target_pixels"] == 0), name
    assert metrics["intervals"]["mean_iou"] == [1.0, 1.0]
    assert metrics["intervals"]["macro_f1"] == [1.0, 1.0]
    strata = metrics["strata"]
    for name in ("people", "overlap", "object_area", "category", "framing"):
        assert {row["score"] for row in strata[name]} <= {1.0, None}, name
        assert 1.0 in {row["score"] for row in strata[name]}, name
    assert {row["drop"] for row in strata["framing"]} == {0.0}
    assert {row["score"] for row in strata["overlap_pairs"]} == {0.0}
    assert {row["recall"] for row in strata["overlap_pairs"]} == {1.0}
    assert metrics["boundary"]["mean_iou"] == 1.0
    assert metrics["boundary"]["intervals"]["mean_iou"] == [1.0, 1.0]
    assert metrics["calibration"]["pixel_accuracy"] == 1.0
    assert set(image_scores(evaluation)) == {1.0}


def paint(annotations, class_of_category, height, width):
    """The plain loop: decode each annotation whole, paint largest first."""
    target = np.zeros((height, width), np.int64)
    for annotation in sorted(annotations, key=lambda a: (-a["area"], a["id"])):
        rle = annotation["segmentation"]
        if isinstance(rle, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(rle, height, width))
        elif isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
        decoded = coco_mask.decode(rle)
        target[decoded == 1] = class_of_category[annotation["category_id"]]
    return target


@pytest.mark.parametrize("command", ["evaluate --write-masks", "predict"])
def test_scores_equal_a_recount_from_the_written_masks(
    cli, scored, synthetic_root, tiny_training, tmp_path, command
):
    _, out = scored
    mask_dir = out / "masks"
    if command == "predict":
        mask_dir = tmp_path / "predicted"
        checkpoint, photos = tiny_training.run.best_checkpoint, synthetic_root / "test"
        assert cli("predict", "--checkpoint", checkpoint, "--out", mask_dir, photos).code == 0
    record = json.loads((synthetic_root / VAL_JSON).read_text())
    class_of_category = {
        c["id"]: SUPERCATEGORY_NAMES.index(c["supercategory"]) for c in record["categories"]
    }
    confusion = np.zeros((13, 13))
    for image in record["images"]:
        own = [a for a in record["annotations"] if a["image_id"] == image["id"]]
        target = paint(own, class_of_category, image["height"], image["width"])
        with Image.open(mask_dir / f"{Path(image['file_name']).stem}.png") as mask:
            np.add.at(confusion, (target, np.asarray(mask)), 1)

    hits, of_target, of_pred = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = of_target + of_pred > 0
    with np.errstate(invalid="ignore"):
        iou = hits / (of_target + of_pred - hits)
        f1 = 2 * hits / (of_target + of_pred)
    metrics = json.loads((out / "metrics.json").read_text())
    assert confusion.sum() == sum(image["height"] * image["width"] for image in record["images"])
    assert len(np.flatnonzero(of_pred)) >= 4, "a network of one class would prove little"
    assert metrics["mean_iou"] == pytest.approx(iou[occurs].mean(), abs=1e-9)
    assert metrics["mean_iou_no_background"] == pytest.approx(iou[1:][occurs[1:]].mean(), abs=1e-9)
    assert metrics["mean_iou_target_classes"] == pytest.approx(iou[of_target > 0].mean(), abs=1e-9)
    assert metrics["macro_f1"] == pytest.approx(f1[occurs].mean(), abs=1e-9)
    assert metrics["pixel_accuracy"] == pytest.approx(hits.sum() / confusion.sum(), abs=1e-9)
    assert metrics["confusion"] == confusion.tolist()
    for class_id, name in enumerate(SUPERCATEGORY_NAMES):
        of_class = metrics["per_class"][name]
        assert of_class["target_pixels"] == of_target[class_id]
        if occurs[class_id]:
            assert of_class["iou"] == pytest.approx(iou[class_id], abs=1e-9)
            assert of_class["f1"] == pytest.approx(f1[class_id], abs=1e-9)
        if of_target[class_id]:
            recall = hits[class_id] / of_target[class_id]
            assert of_class["recall"] == pytest.approx(recall, abs=1e-9)
        if of_pred[class_id]:
            precision = hits[class_id] / of_pred[class_id]
            assert of_class["precision"] == pytest.approx(precision, abs=1e-9)


def test_written_files_hold_what_others_rely_on(scored, tiny_training):
    _, out = scored
    metrics = json.loads((out / "metrics.json").read_text())
    promised = "protocol n_images mean_iou mean_iou_no_background mean_iou_target_classes macro_f1"
    promised += " pixel_accuracy per_class confusion reported_protocol"
    assert set(promised.split()) <= set(metrics)
    per_class = {"iou", "f1", "precision", "recall", "target_pixels"}
    assert list(metrics["per_class"]) == list(SUPERCATEGORY_NAMES)
    assert all(per_class <= set(entry) for entry in metrics["per_class"].values())
    assert metrics["n_images"] == 8
    assert metrics["synthetic"] is True
    assert metrics["checkpoint_sha256"] == sha256_file(tiny_training.run.best_checkpoint)
    with np.load(out / "evaluation" / "per_image.npz") as arrays:
        assert arrays["image_ids"].shape == (8,)
        assert arrays["confusions"].shape == (8, 13, 13)
        assert arrays["class_names"].tolist() == list(SUPERCATEGORY_NAMES)
        assert arrays["confusions"].sum(axis=0).tolist() == metrics["confusion"]


def test_scores_table_holds_scores_and_intervals(scored):
    evaluation, _ = scored
    table = scores_table(evaluation).set_index("class_name")
    assert table.index.tolist() == list(SUPERCATEGORY_NAMES)
    for name, intervals in evaluation.metrics["intervals"]["per_class"].items():
        row = table.loc[name]
        assert row["iou"] == evaluation.metrics["per_class"][name]["iou"], name
        assert [row["iou_low"], row["iou_high"]] == intervals["iou"], name
        assert [row["f1_low"], row["f1_high"]] == intervals["f1"], name


def test_people_strata_add_up(scored, tiny_training):
    evaluation, _ = scored
    rows = evaluation.metrics["strata"]["people"]
    counts = [record.person_count for record in tiny_training.val_split.images]
    expected = {f"{n} {'person' if n == 1 else 'people'}": counts.count(n) for n in set(counts)}
    assert {row["stratum"]: row["n"] for row in rows} == expected
    assert sum(expected.values()) == len(evaluation.image_ids)


def test_overlap_and_rest_make_the_whole(scored, tiny_training):
    evaluation, _ = scored
    split = tiny_training.val_split
    rest = evaluation.confusions - evaluation.overlap_confusions
    assert (rest >= 0).all()
    for record, overlap in zip(split.images, evaluation.overlap_confusions, strict=True):
        layers = np.zeros((record.height, record.width), int)
        for annotation in split.coco.annotations_of(record.id):
            layers += annotation_to_instance_mask(annotation, record.height, record.width)
        assert overlap.sum() == (layers >= 2).sum() > 0
    scores = [row["score"] for row in evaluation.metrics["strata"]["overlap"]]
    assert all(0 <= score <= 1 for score in scores)


def test_boundary_and_calibration_count_the_same_pixels_as_the_headline(scored):
    evaluation, _ = scored
    metrics = evaluation.metrics
    calibration = metrics["calibration"]
    assert calibration["pixel_accuracy"] == pytest.approx(metrics["pixel_accuracy"], abs=1e-12)
    assert sum(row["pixels"] for row in calibration["bins"]) == evaluation.confusions.sum()
    np.testing.assert_allclose(evaluation.calibration.sum(0), evaluation.class_calibration.sum(0))
    of_predicted = evaluation.class_calibration[:, :, 0].sum(axis=1)
    assert of_predicted.tolist() == evaluation.confusions.sum(axis=(0, 1)).tolist()
    both, target, predicted = evaluation.boundaries.sum(axis=0)
    assert (both <= np.minimum(target, predicted)).all()
    assert (target <= evaluation.confusions.sum(axis=(0, 2))).all()
    low, high = metrics["boundary"]["intervals"]["mean_iou"]
    assert low <= metrics["boundary"]["mean_iou"] <= high


def test_time_is_split_among_jobs(scored):
    evaluation, _ = scored
    seconds = evaluation.metrics["seconds"]
    jobs = ("reading", "network", "counting", "boundaries", "calibration", "strata", "framing")
    assert set(jobs) <= set(seconds)
    assert min(seconds.values()) >= 0
    assert sum(seconds[job] for job in jobs) == pytest.approx(seconds["total"], abs=0.01)


def test_what_is_kept_does_not_grow_with_the_photos_size(monkeypatch, hand_split, tiny_network):
    """Photos and masks are let go: only counts, and packed masks for composites, are kept."""
    kept = []

    class Spy(evaluate_module._Counter):
        def add(self, record, image, target):
            super().add(record, image, target)
            kept.append([weakref.ref(image), weakref.ref(target)])

    monkeypatch.setattr(evaluate_module, "_Counter", Spy)
    evaluate(tiny_network, hand_split, bootstrap_samples=10)
    gc.collect()
    assert [reference() for photo in kept for reference in photo] == [None, None]


def test_area_bands_hold_every_visible_annotation_once(scored):
    evaluation, _ = scored
    rows = evaluation.metrics["strata"]["object_area"]
    visible = int((evaluation.instances[:, 3] > 0).sum())
    assert sum(row["n"] for row in rows) == visible
    assert (evaluation.instances[:, 4] <= evaluation.instances[:, 3]).all()


def test_evaluation_round_trip(scored):
    evaluation, out = scored
    again = read_evaluation(out)
    for field in dataclasses.fields(Evaluation):
        written, read = getattr(evaluation, field.name), getattr(again, field.name)
        if isinstance(written, np.ndarray):
            assert written.dtype == read.dtype, field.name
            assert np.array_equal(written, read), field.name
        else:
            assert written == read, field.name


def rewrite_arrays(out: Path, tmp_path: Path, *dropped: str) -> None:
    """Copy scores to `tmp_path`, without some of the arrays."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "metrics.json").write_bytes((out / "metrics.json").read_bytes())
    with np.load(out / "evaluation" / "per_image.npz") as stored:
        kept = {name: stored[name] for name in stored if name not in dropped}
    np.savez(tmp_path / "evaluation" / "per_image.npz", **kept)


def test_counts_of_a_version_that_cut_no_halves_are_read(scored, tmp_path):
    evaluation, out = scored
    rewrite_arrays(out, tmp_path, "framing_confusions", "framing_whole")
    again = read_evaluation(tmp_path)
    assert again.framing_confusions.shape == again.framing_whole.shape == (0, 3, 13, 13)
    assert np.array_equal(again.confusions, evaluation.confusions)
    write_evaluation(tmp_path, again)
    assert read_evaluation(tmp_path).framing_whole.shape == (0, 3, 13, 13)


def test_counts_of_another_version_are_refused(scored, tmp_path):
    rewrite_arrays(scored[1], tmp_path, "pairs", "framing_whole")
    with pytest.raises(ValueError, match=r"other counts than this version .*pairs.* notebook 04"):
        read_evaluation(tmp_path)


def test_reading_a_folder_without_scores(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"metrics\.json; expected the scores of notebook 04"
    ):
        read_evaluation(tmp_path)


def test_same_checkpoint_same_intervals(scored, tiny_training, tiny_network):
    evaluation, _ = scored
    split = tiny_training.val_split
    again = evaluate(tiny_network, split, bootstrap_samples=200)
    assert again.metrics["intervals"] == evaluation.metrics["intervals"]
    low, high = evaluation.metrics["intervals"]["mean_iou"]
    assert low < evaluation.metrics["mean_iou"] < high


def test_classes_of_another_scheme_are_refused(tiny_config, tiny_network):
    config = replace_fields(tiny_config, {"scheme": "category", "image_limit": 1})
    split = load_split(config.data, "val")
    with pytest.raises(
        ValueError,
        match=r"best\.ckpt and .*val2020\.json have different classes: only in the first: closures",
    ):
        evaluate(tiny_network, split)


# --- composites ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_person_counts(tiny_training) -> SplitData:
    """The drawn val photos, as a dataset whose annotations do not count people."""
    split = tiny_training.val_split
    images = tuple(msgspec.structs.replace(r, person_count=None) for r in split.images)
    return dataclasses.replace(split, images=images)


@pytest.mark.slow
def test_composites_stand_in_where_nobody_counted_people(without_person_counts, tiny_network):
    evaluation = evaluate(tiny_network, without_person_counts, bootstrap_samples=50)
    strata = evaluation.metrics["strata"]
    assert strata["people"] == []
    assert [row["stratum"] for row in strata["composites"]] == [
        f"{n} photos, {layout}" for layout in ("side by side", "overlapping") for n in (2, 3, 4)
    ]
    assert {(row["n"], row["unit"]) for row in strata["composites"]} == {(2, "composite")}
    for row in strata["composites"]:
        assert row["drop"] == pytest.approx(row["alone"] - row["score"])
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    assert evaluation.composite_members.shape == (12, 4)
    # The same pixels, twice: they agree on the truth.
    targets = [
        counts.sum(axis=2).tolist()
        for counts in (evaluation.composite_confusions, evaluation.composite_alone)
    ]
    assert targets[0] == targets[1]
    assert "composites" in evaluation.metrics["seconds"]


def test_no_composites_where_people_are_counted(scored):
    evaluation, _ = scored
    assert evaluation.metrics["strata"]["composites"] == []
    assert evaluation.composite_confusions.shape == (0, 13, 13)


# --- real photos ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_classes_that_do_not_occur_on_real_photos(monkeypatch, real_data, tiny_network, tmp_path):
    """Ten of the 13 classes occur; of the others one is predicted, in one pixel of one photo."""
    config = DataConfig(data_root=str(real_data / "ccp"), derived_root=str(tmp_path / "derived"))
    split = load_split(config, "val")
    split = dataclasses.replace(split, images=split.images[:40])
    monkeypatch.setattr(evaluate_module, "_composites", lambda split: [])
    truth = truth_of(split, tiny_network.image_size)
    key, (target, squashed) = next(iter(truth.items()))
    wrong = target.copy()
    wrong[0, 0] = 1
    truth[key] = (wrong, squashed)
    stub_predictions(monkeypatch, lambda image: truth[image.tobytes()])
    metrics = evaluate(tiny_network, split, bootstrap_samples=20).metrics
    absent = [n for n, scores in metrics["per_class"].items() if scores["status"] == "absent"]
    assert absent == ["garment parts", "decorations"]
    closures = metrics["per_class"]["closures"]
    assert (closures["status"], closures["iou"], closures["target_pixels"]) == ("no target", 0.0, 0)
    of_target = [s["iou"] for s in metrics["per_class"].values() if s["target_pixels"]]
    assert len(of_target) == 10
    assert metrics["mean_iou_target_classes"] == pytest.approx(sum(of_target) / 10, abs=1e-12)
    assert metrics["mean_iou"] == pytest.approx(sum(of_target) / 11, abs=1e-12)


def test_scores_belong_to_one_checkpoint_and_its_options(scored, tiny_training, tmp_path):
    evaluation, _ = scored
    checkpoint = tiny_training.run.best_checkpoint
    check_evaluated(evaluation, checkpoint, PLAIN_INFERENCE)
    with pytest.raises(ValueError, match="other test-time options; rerun notebook 04"):
        check_evaluated(evaluation, checkpoint, InferenceConfig(tta_flip=True))
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"trained again")
    with pytest.raises(ValueError, match=r"other\.ckpt is not evaluated yet; rerun notebook 04"):
        check_evaluated(evaluation, other, PLAIN_INFERENCE)


# --- on the command line -------------------------------------------------------------------------


def test_val_files_are_enough(cli, tiny_training, val_root, scored, tmp_path):
    checkpoint = tiny_training.run.best_checkpoint
    out = tmp_path / "out"
    result = cli("evaluate", "--checkpoint", checkpoint, "--data-root", val_root, "--out", out)
    assert (result.code, result.err) == (0, "")
    evaluation, _ = scored
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["confusion"] == evaluation.metrics["confusion"]
    assert f"8 photos: mIoU {metrics['mean_iou']:.4f}" in result.out
    assert not (out / "masks").exists()
    assert sorted(path.name for path in val_root.iterdir()) == [VAL_JSON, "test"]


def test_test_split_is_scored_whole(cli, tiny_training, val_root, scored, tmp_path):
    """The annotations of val under test's name, without train or val beside them."""
    (val_root / VAL_JSON).rename(val_root / VAL_JSON.replace("val", "test"))
    out = tmp_path / "out"
    words = ("--checkpoint", tiny_training.run.best_checkpoint, "--out", out)
    result = cli("evaluate", "--data-root", val_root, "--split", "test", *words)
    assert (result.code, result.err) == (0, "")
    metrics, expected = json.loads((out / "metrics.json").read_text()), scored[0].metrics
    assert metrics["confusion"] == expected["confusion"]
    assert (metrics["split"], metrics["n_images"]) == ("test", 8)
    assert metrics["source"].endswith("test, n = 8 photos")


def test_photo_left_out_is_counted_and_named(cli, tiny_training, val_root, tmp_path):
    record = json.loads((val_root / VAL_JSON).read_text())
    name = record["images"][0]["file_name"]
    (val_root / "test" / name).write_bytes(b"no photo")
    checkpoint = tiny_training.run.best_checkpoint
    out = tmp_path / "out"
    result = cli("evaluate", "--checkpoint", checkpoint, "--data-root", val_root, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert name in result.out.splitlines()[-1]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["n_images"] == 7
    assert list(metrics["excluded"]) == [name]


def test_single_photo_has_no_interval_to_print(cli, tiny_training, val_root, tmp_path):
    record = json.loads((val_root / VAL_JSON).read_text())
    record["images"] = record["images"][:1]
    only = record["images"][0]["id"]
    record["annotations"] = [a for a in record["annotations"] if a["image_id"] == only]
    (val_root / VAL_JSON).write_text(json.dumps(record))
    checkpoint = tiny_training.run.best_checkpoint
    out = tmp_path / "out"
    result = cli("evaluate", "--checkpoint", checkpoint, "--data-root", val_root, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert "1 photo: mIoU" in result.out
