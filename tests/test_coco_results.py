"""Tests of `prediction.coco_results` and `collecting`: predictions as other tools read them."""

import dataclasses
import json
import os
import resource
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_colors, class_table
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.photos import read_photo
from clothseg_utils.data.rasterize import rasterize
from clothseg_utils.intake.convert import convert_photos
from clothseg_utils.prediction.coco_results import (
    coco_writer,
    label_parts,
    mask_to_coco,
    panoptic_writer,
    photo_record,
)
from clothseg_utils.prediction.collecting import check_collected, collecting
from clothseg_utils.prediction.plan import plan_predictions
from clothseg_utils.prediction.predict import PredictSummary, predict_photos

# The referee's decode(), pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

NAMES = ["background", "closures", "upperbody", "shoe, left", "Hüte"]


def random_mask(height: int, width: int, seed: int, grain: int = 1) -> np.ndarray:
    """Class ids in blocks of `grain` pixels, some classes in several parts."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, len(NAMES), (-(-height // grain), -(-width // grain)), np.uint8)
    return np.ascontiguousarray(small.repeat(grain, 0).repeat(grain, 1)[:height, :width])


RANDOM_MASKS = [
    random_mask(*size, seed=seed, grain=grain)
    for size in ((1, 1), (1, 9), (9, 1), (17, 23), (40, 31))
    for seed, grain in ((0, 1), (1, 4), (2, 40))
]


def painted(record: dict) -> np.ndarray:
    """The mask that a record's annotations paint; no two of them share a pixel."""
    mask = np.zeros((record["height"], record["width"]), np.uint8)
    for annotation in record["annotations"]:
        inside = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert not mask[inside].any()
        mask[inside] = annotation["class_id"]
    return mask


# --- a photo's record ----------------------------------------------------------------------------


def test_mask_to_coco_by_hand():
    mask = np.array([[0, 2, 2], [0, 0, 2]], np.uint8)
    record = mask_to_coco(mask, ["background", "closures", "upperbody"])
    (annotation,) = record["annotations"]
    assert (record["height"], record["width"]) == (2, 3)
    assert annotation["area"] == 3
    assert annotation["bbox"] == [1.0, 0.0, 2.0, 2.0]
    assert annotation["segmentation"]["size"] == [2, 3]
    assert mask_to_coco(np.zeros((2, 3), np.uint8), ["background"])["annotations"] == []


@pytest.mark.parametrize("mask", RANDOM_MASKS, ids=lambda mask: f"{mask.shape}")
def test_a_class_is_written_as_the_mask_api_itself_writes_it(mask):
    record = photo_record("a.jpg", mask, NAMES)
    expected = []
    for class_id in range(1, len(NAMES)):
        rle = coco_mask.encode(np.asfortranarray(mask == class_id, dtype=np.uint8))
        if (mask == class_id).any():
            expected.append(
                {
                    "class_id": class_id,
                    "class_name": NAMES[class_id],
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    height, width = mask.shape
    assert list(record) == ["file_name", "height", "width", "annotations"]
    assert record == {
        "file_name": "a.jpg",
        "height": height,
        "width": width,
        "annotations": expected,
    }


def test_the_json_of_a_photo_to_the_byte(model, tmp_path):
    make_photo(model, tmp_path / "a.png", 1, np.array([[0, 2, 2], [1, 0, 2]], np.uint8))
    predict_photos(model, plan_predictions([tmp_path / "a.png"], tmp_path).tasks, as_json=True)
    assert (tmp_path / "a.png.json").read_text() == (
        '{"file_name": "a.png", "height": 2, "width": 3, "annotations": [{"class_id": 1, '
        '"class_name": "closures", "area": 1, "bbox": [0.0, 1.0, 1.0, 1.0], "segmentation": '
        '{"size": [2, 3], "counts": "114"}}, {"class_id": 2, "class_name": "upperbody", "area": 3, '
        '"bbox": [1.0, 0.0, 2.0, 2.0], "segmentation": {"size": [2, 3], "counts": "2111"}}]}\n'
    )
    assert model.n_confidences == 0


@pytest.mark.parametrize("mask", RANDOM_MASKS, ids=lambda mask: f"{mask.shape}")
def test_parts_are_connected_and_paint_the_mask(mask):
    record = mask_to_coco(mask, NAMES, parts=True)
    assert np.array_equal(painted(record), mask)
    n_parts = sum(
        cv2.connectedComponents((mask == class_id).astype(np.uint8))[0] - 1
        for class_id in range(1, len(NAMES))
    )
    assert len(record["annotations"]) == n_parts
    for annotation in record["annotations"]:
        alone = coco_mask.decode(annotation["segmentation"])
        assert cv2.connectedComponents(alone)[0] == 2
        assert annotation["area"] == alone.sum()
        assert annotation["bbox"] == list(cv2.boundingRect(alone))


def test_parts_by_hand():
    mask = np.array([[1, 0, 1, 2], [0, 1, 0, 0], [2, 0, 0, 1]], np.uint8)
    labels, class_of_label = label_parts(mask)
    assert labels.tolist() == [[1, 0, 1, 3], [0, 1, 0, 0], [4, 0, 0, 2]]
    assert class_of_label.tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("parts", [False, True])
def test_score_is_the_mean_confidence_of_the_regions_pixels(parts):
    mask = random_mask(40, 31, seed=3, grain=5)
    confidence = np.random.default_rng(4).random(mask.shape, np.float32)
    record = mask_to_coco(mask, NAMES, confidence, parts=parts)
    for annotation in record["annotations"]:
        inside = coco_mask.decode(annotation["segmentation"]).astype(bool)
        expected = confidence[inside].astype(np.float64).mean()
        assert annotation["score"] == pytest.approx(expected, abs=5.1e-5)
    assert len(record["annotations"]) > 3


# --- all photos in one file ----------------------------------------------------------------------


@dataclasses.dataclass
class KnownModel:
    """A `prediction.model.Model` that knows each photo's mask."""

    masks: dict[bytes, np.ndarray]
    class_names: tuple[str, ...] = tuple(NAMES)
    batch_size: int = 2
    n_confidences: int = 0

    @property
    def colors(self) -> np.ndarray:
        return class_colors(len(self.class_names))

    def predict(self, photo: np.ndarray) -> "KnownPrediction":
        return KnownPrediction(self, self.masks[photo.tobytes()])

    def predict_batch(self, photos: Sequence[np.ndarray]) -> "list[KnownPrediction]":
        return [self.predict(photo) for photo in photos]


@dataclasses.dataclass
class KnownPrediction:
    model: KnownModel
    known: np.ndarray

    def mask(self) -> np.ndarray:
        return self.known

    def probabilities(self) -> np.ndarray:
        raise AssertionError("nobody asked")

    def confidence(self) -> np.ndarray:
        self.model.n_confidences += 1
        return np.where(self.known == 1, 0.75, 0.5).astype(np.float32)


def make_photo(model: KnownModel, path: Path, seed: int, mask: np.ndarray | None = None) -> None:
    """Save a photo whose mask the model knows."""
    mask = random_mask(30 + seed, 41, seed, grain=7) if mask is None else mask
    photo = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path)
    model.masks[photo.tobytes()] = mask


@pytest.fixture
def model() -> KnownModel:
    return KnownModel({})


@pytest.fixture
def photos(model, tmp_path) -> Path:
    """Three photos, one of them without a garment, and one that nobody can read."""
    folder = tmp_path / "photos"
    make_photo(model, folder / "a.png", 1)
    make_photo(model, folder / "sub" / "a.png", 2)
    make_photo(model, folder / "sub" / "b é.png", 3, np.zeros((20, 10), np.uint8))
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def predict(model: KnownModel, out: Path, *inputs: Path, **options) -> PredictSummary:
    """As the verb does it."""
    tasks = plan_predictions(inputs, out).tasks
    files = {name: path for name, path in options.items() if name != "parts"}
    check_collected(inputs, out, tasks, **files)
    with collecting(model, out, **options) as collect:
        return predict_photos(model, tasks, collect=collect)


def opened(path: Path, capsys) -> COCO:
    coco = COCO(path)
    capsys.readouterr()  # it prints
    return coco


def masks_of(coco: COCO) -> dict[str, np.ndarray]:
    """Masks as the annotations of a COCO file paint them: file name -> class ids."""
    masks = {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask[coco.annToMask(annotation) == 1] = annotation["category_id"]
        masks[image["file_name"]] = mask
    return masks


@pytest.mark.parametrize("parts", [False, True])
def test_one_coco_file_holds_the_masks_of_all_photos(model, photos, tmp_path, capsys, parts):
    file = tmp_path / "deep" / "coco.json"
    summary = predict(model, tmp_path / "out", photos, coco=file, parts=parts)
    assert [path.name for path in summary.failed] == ["broken.jpg"]
    coco = opened(file, capsys)
    masks = masks_of(coco)
    assert list(masks) == ["a.png", "sub/a.png", "sub/b é.png"]
    for name, mask in masks.items():
        with Image.open((tmp_path / "out" / name).with_suffix(".png")) as written:
            assert np.array_equal(mask, written)
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(
        enumerate(NAMES[1:], start=1)
    )
    assert coco.getAnnIds() == list(range(1, len(coco.anns) + 1))
    assert coco.getAnnIds(imgIds=3) == [], "a photo without a garment"
    regions = {(a["image_id"], a["category_id"]) for a in coco.anns.values()}
    assert (len(coco.anns) > len(regions)) == parts
    for annotation in coco.anns.values():
        assert annotation["score"] == (0.75 if annotation["category_id"] == 1 else 0.5)
        assert annotation["area"] == coco.annToMask(annotation).sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()


def test_its_annotations_are_results_that_the_mask_api_scores(model, photos, tmp_path, capsys):
    file = tmp_path / "coco.json"
    predict(model, tmp_path / "out", photos, coco=file, parts=True)
    truth = opened(file, capsys)
    results = truth.loadRes(json.loads(file.read_text())["annotations"])
    evaluation = COCOeval(truth, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_the_form_that_importers_want(model, photos, tmp_path):
    """What supervision's `from_coco` and FiftyOne's `COCODetectionDataset` take by these keys.

    Both find a photo as the folder of photos joined with file_name, each once, and want whole
    numbers for ids; supervision sorts the categories by id and looks them up by name; FiftyOne cuts
    the decoded mask by bbox, takes score for confidence, and shows supercategory.
    """
    file = tmp_path / "coco.json"
    predict(model, tmp_path / "out", photos, coco=file)
    content = json.loads(file.read_text())
    assert set(content) == {"info", "categories", "annotations", "images"}
    assert content["info"] == {"description": "Predictions of clothseg_utils"}
    for image in content["images"]:
        assert set(image) == {"id", "file_name", "height", "width"}
        with Image.open(photos / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
    for category in content["categories"]:
        assert category.keys() == {"id", "name", "supercategory"}
    assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4]
    annotations = content["annotations"]
    for annotation in annotations:
        keys = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score"}
        assert set(annotation) == keys
        assert annotation["iscrowd"] == 0
        assert isinstance(annotation["segmentation"]["counts"], str)
    assert len({a["id"] for a in annotations}) == len(annotations) > 0


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(
    ("names", "scheme"), [(NAMES, "category"), (SUPERCATEGORY_NAMES, "supercategory")]
)
def test_convert_takes_it_back_pixel_by_pixel(tmp_path, parts, names, scheme):
    """Own class names and ours; a photo that its file stores lying on its side."""
    model = KnownModel({}, tuple(names))
    photos = tmp_path / "photos"
    for seed in range(1, 6):
        mask = random_mask(30 + seed, 41, seed, grain=6)
        make_photo(model, photos / f"{seed % 2}" / f"{seed}.png", seed, mask)
    upright = np.asarray(Image.open(photos / "1" / "1.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(np.rot90(upright)).save(photos / "1" / "1.png", exif=exif)
    file = tmp_path / "coco.json"
    predict(model, tmp_path / "out", photos, coco=file, parts=parts)
    convert_photos(photos, tmp_path / "dataset", annotations=[str(file)], val_share=0.4)
    n_photos = 0
    for split in ("train", "val"):
        coco = read_annotations(annotation_path(tmp_path / "dataset", split))
        classes = class_table(scheme, coco.categories)
        for image in coco.images:
            annotations = coco.annotations_of(image.id)
            back = rasterize(annotations, classes.class_of_category, image.height, image.width)
            photo = read_photo(images_dir(tmp_path / "dataset", split) / image.file_name)
            names_back = np.array(classes.names)[back]
            assert np.array_equal(names_back, np.array(names)[model.masks[photo.tobytes()]])
            n_photos += 1
    assert n_photos == 5


def test_the_same_call_again_writes_the_same_file(model, photos, tmp_path):
    file = tmp_path / "coco.json"
    predict(model, tmp_path / "out", photos, coco=file)
    first = file.read_bytes()
    predict(model, tmp_path / "out", photos / "sub", coco=file)
    names = [image["file_name"] for image in json.loads(file.read_text())["images"]]
    assert names == ["a.png", "b é.png"], "replaced, not added to"
    predict(model, tmp_path / "out", photos, coco=file)
    assert file.read_bytes() == first


def test_where_nothing_is_done_a_former_file_stays(model, photos, tmp_path):
    file, panoptic = tmp_path / "coco.json", tmp_path / "panoptic"
    files = {"coco": file, "panoptic": panoptic}
    assert predict(model, tmp_path / "out", photos / "broken.jpg", **files).done == []
    assert not file.exists()
    predict(model, tmp_path / "out", photos, **files)
    first = file.read_bytes()
    predict(model, tmp_path / "out", photos / "broken.jpg", **files)
    assert file.read_bytes() == first
    assert sorted(os.listdir(panoptic)) == ["panoptic", "panoptic.json"]


def test_a_name_that_json_cannot_hold_fails_alone(model, photos, tmp_path):
    bad = os.fsdecode(b"\xff.png")
    make_photo(model, photos / bad, 4)
    summary = predict(model, tmp_path / "out", photos, coco=tmp_path / "coco.json")
    assert "its name is no text" in summary.failed[photos / bad]
    assert len(summary.done) == 3
    assert len(read_annotations(tmp_path / "coco.json", plain_names=False).images) == 3


def test_memory_does_not_grow_with_the_photos(tmp_path):
    record = photo_record("a.jpg", random_mask(40, 31, seed=0), NAMES)
    file = tmp_path / "coco.json"
    tracemalloc.start()
    try:
        with coco_writer(file, NAMES) as add:
            for number in range(500):
                add({**record, "file_name": f"{number}.jpg"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 5 * peak
    assert len(json.loads(file.read_text())["annotations"]) == 4 * 500


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    """A limit on a file's size stands for it; it comes with the same kind of error."""
    record = photo_record("a.jpg", random_mask(40, 31, seed=0), NAMES)
    file = tmp_path / "coco.json"
    file.write_text("as it was")

    def write():
        with coco_writer(file, NAMES) as add:
            for number in range(100):
                add({**record, "file_name": f"{number}.jpg"})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*coco\.json'"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
    assert file.read_text() == "as it was"


# --- panoptic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [False, True])
def test_panoptic_pngs_hold_the_ids_of_their_segments(model, photos, tmp_path, parts):
    """As panopticapi reads them: red + 256 green + 256 * 256 blue, 0 where there is no segment."""
    folder = tmp_path / "out" / "panoptic"
    predict(model, tmp_path / "out", photos, panoptic=folder, parts=parts)
    assert model.n_confidences == 0, "it takes time, and only scores need it"
    content = json.loads((folder / "panoptic.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    names = [a["file_name"] for a in content["annotations"]]
    assert names == ["a.png", "sub/a.png", "sub/b é.png"]
    things = {c["id"] for c in content["categories"] if c["isthing"] == 1}
    assert things == ({1, 2, 3, 4} if parts else set())
    assert [c["color"] for c in content["categories"]] == model.colors[1:].tolist()
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        with Image.open(folder / "panoptic" / annotation["file_name"]) as png:
            red, green, blue = np.moveaxis(np.asarray(png).astype(np.int64), 2, 0)
        ids = red + 256 * green + 256**2 * blue
        assert ids.shape == (image["height"], image["width"])
        mask = np.zeros(ids.shape, np.uint8)
        segments = annotation["segments_info"]
        assert {0, *(s["id"] for s in segments)} == {0, *np.unique(ids).tolist()}
        for segment in segments:
            inside = ids == segment["id"]
            mask[inside] = segment["category_id"]
            assert segment["area"] == inside.sum()
            assert segment["bbox"] == list(cv2.boundingRect(inside.astype(np.uint8)))
            assert segment["iscrowd"] == 0
        with Image.open(tmp_path / "out" / annotation["file_name"]) as written:
            assert np.array_equal(mask, written)


def test_panoptic_ids_above_a_byte(tmp_path):
    dots = np.zeros((60, 60), np.uint8)
    dots[::2, ::2] = 1
    with panoptic_writer(tmp_path, NAMES, class_colors(len(NAMES)), parts=True) as add:
        add("a.jpg", "a.png", dots)
    with Image.open(tmp_path / "panoptic" / "a.png") as png:
        red, green, _ = np.moveaxis(np.asarray(png).astype(int), 2, 0)
    assert np.array_equal(np.unique(red + 256 * green), np.arange(901))


# --- what is refused -----------------------------------------------------------------------------


def refuse(photos: Path, out: Path, match: str, **files) -> None:
    with pytest.raises(ValueError, match=match) as error:
        check_collected([photos], out, plan_predictions([photos], out).tasks, **files)
    assert "\n" not in str(error.value)


def test_files_that_are_not_ours_are_refused(photos, tmp_path):
    out = tmp_path / "out"
    other = tmp_path / "instances.json"
    other.write_text('{"info": {}, "images": []}')
    for file in (other, photos / "a.png", photos):
        refuse(photos, out, "is there and no COCO file of predict's", coco=file)
    refuse(photos, out, "is called as a result of .*a.png in --out", coco=out / "sub" / "a.json")
    refuse(photos, out, "is there and not from an earlier", panoptic=photos)
    refuse(photos, out, "is there and not from an earlier", panoptic=other)
    refuse(photos, out, "lies in .*photos, where its pictures", panoptic=photos / "panoptic")
    refuse(photos, out, "is a folder of results in --out", panoptic=out)
    refuse(photos, out, "is a folder of results in --out", panoptic=out / "sub")
    meeting = tmp_path / "new" / "panoptic.json"
    refuse(photos, out, "is of --panoptic too", coco=meeting, panoptic=tmp_path / "new")


def test_panoptic_in_the_results_below_the_photos(model, photos):
    """There nothing is a photo, next time neither."""
    out = photos / "out"
    for _ in range(2):
        summary = predict(model, out, photos, coco=out / "coco.json", panoptic=out / "panoptic")
        assert len(summary.done) == 3


# --- the command line ----------------------------------------------------------------------------


def test_the_verb_writes_both(cli, tiny_training, synthetic_root, tmp_path, capsys):
    photo = min((synthetic_root / "test").iterdir())
    wish = ("predict", "--checkpoint", tiny_training.run.best_checkpoint, "--out", tmp_path / "out")
    files = ("--coco", tmp_path / "coco.json", "--panoptic", tmp_path / "panoptic", "--parts")
    done = cli(*wish, *files, photo)
    assert done.code == 0
    assert f"COCO file: {tmp_path / 'coco.json'}" in done.out
    coco = opened(tmp_path / "coco.json", capsys)
    with Image.open(tmp_path / "out" / f"{photo.stem}.png") as written:
        assert np.array_equal(masks_of(coco)[photo.name], written)
    assert len(coco.anns) > 0
    assert all(1 / 13 <= a["score"] <= 1 for a in coco.anns.values())
    assert (tmp_path / "panoptic" / "panoptic" / f"{photo.stem}.png").is_file()
    refused = cli(*wish, "--coco", photo, photo)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    alone = cli(*wish, "--parts", photo)
    assert (alone.code, "expected one of them" in alone.err) == (2, True)
