"""Draw the embedded dataset: dressed people before cluttered backgrounds, in Fashionpedia's layout.

It lets a machine without a network run the whole pipeline, and its masks are known exactly. People
and clothes are drawn by `wardrobe`; here are scenes, annotations and files.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES
from clothseg_utils.core.files import write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.wardrobe import (
    UMBRELLA,
    Body,
    Canvas,
    Dresser,
    Fabric,
    contrast_color,
    near_color,
    plan_outfit,
    random_color,
    smooth,
    xy,
)

DRAWING_VERSION = 1  # rises whenever the same seed would draw something else

_SPLITS = (  # name, photo folder, annotation file, first image id, first annotation id
    ("train", "train", "instances_attributes_train2020.json", 1, 1),
    ("val", "test", "instances_attributes_val2020.json", 500_001, 5_000_001),
)
_JPEG_QUALITY = 90
_MIN_VISIBLE_PX = 6  # what shows less than this is too little to annotate
_MAX_REDRAWS = 12  # attempts to show the category that an image is meant to show
_CLOSE_UP_SHARE = 0.08  # of the scenes of one person
_EMPTY_EVERY = 50  # one scene in so many shows nobody

NUM_CATEGORIES = len(FASHIONPEDIA_CATEGORIES)

# Official ids of the attributes that the drawings use: (id, name, supercategory, taxonomy id).
_ATTRIBUTES = (
    (115, "symmetrical", "silhouette", "att000118_00"),
    (136, "regular (fit)", "silhouette", "att000139_00"),
    (295, "no non-textile material", "non-textile material type", "att000313_00"),
    (317, "plain (pattern)", "textile pattern", "att000338_00"),
    (322, "check", "textile pattern", "att000344_00"),
    (323, "dot", "textile pattern", "att000345_00"),
    (325, "floral", "textile pattern", "att000347_00"),
    (328, "stripe", "textile pattern", "att000350_00"),
    (330, "herringbone (pattern)", "textile pattern", "att000352_00"),
    (318, "abstract", "textile pattern", "att000339_00"),
    (204, "set-in sleeve", "nickname", "att000210_00"),
    (218, "patch (pocket)", "nickname", "att000225_00"),
)


@dataclass(frozen=True)
class Drawing:
    """One photo and what is known about it.

    Attributes:
        image: (H, W, 3) uint8 RGB, 0..255.
        category_map: (H, W) int16, category id of what lies on top, -1 where that is nothing
            annotated.
        annotations: in drawing order, without `id` and `image_id`.
        person_count: people in the scene, 0..4.
    """

    image: np.ndarray
    category_map: np.ndarray
    annotations: list[dict[str, Any]]
    person_count: int


def synthesize(
    out_dir: str | Path,
    *,
    train: int = 240,
    val: int = 60,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Draw a dataset in Fashionpedia's layout; the same arguments give the same bytes.

    The folder appears only when it is complete. One that already holds this very dataset is left
    as it is.

    Args:
        out_dir: folder to make.
        train: photos of the train split, at least 1. From 100 on, every category occurs.
        val: photos of the val split, at least 1.
        seed: what to draw, 0 or more.
        workers: processes; 0 means one per core, 1 draws in this process. Does not change a byte.
            A script that uses several needs `if __name__ == "__main__"`.
        progress: show a progress bar.

    Returns:
        `out_dir`, holding `train/`, `test/` and the two annotation files.

    Raises:
        ValueError: a number is out of range, or `out_dir` holds anything else.
    """
    out_dir = Path(out_dir)
    least_allowed = (
        ("train", train, 1),
        ("val", val, 1),
        ("seed", seed, 0),
        ("workers", workers, 0),
    )
    for name, value, least in least_allowed:
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")
    recipe = {"drawing_version": DRAWING_VERSION, "train": train, "val": val, "seed": seed}
    if _check_target(out_dir, recipe):
        return out_dir
    target = out_dir.resolve()  # a link to an empty folder is filled, not replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        unfinished = Path(scratch) / target.name
        unfinished.mkdir()
        _draw_splits(unfinished, recipe, workers, progress)
        try:
            if target.exists():
                target.rmdir()
            unfinished.rename(target)
        except OSError:  # somebody filled the folder meanwhile; that is fine if it is this dataset
            if not _check_target(out_dir, recipe):
                raise
    return out_dir


def draw(seed: int, split_index: int, image_index: int) -> Drawing:
    """Draw one photo of a dataset; it depends on nothing but these three numbers.

    Args:
        seed: of the dataset, 0 or more.
        split_index: 0 train, 1 val.
        image_index: position in the split, from 0.

    Returns:
        The photo with its annotations.
    """
    rng = np.random.default_rng([seed, split_index, image_index])
    required = image_index % NUM_CATEGORIES  # so that 100 photos show all categories
    for _ in range(_MAX_REDRAWS):
        drawing = _draw_scene(rng, image_index, required)
        shown = {annotation["category_id"] for annotation in drawing.annotations}
        if required in shown or not drawing.person_count:
            break
    return drawing


def _check_target(out_dir: Path, recipe: dict[str, int]) -> bool:
    """Tell whether the folder already holds this dataset; refuse one that holds anything else."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    if out_dir.is_dir() and all(_holds(out_dir, recipe, split) for split in _SPLITS):
        return True
    wanted = ", ".join(f"{name} {value}" for name, value in recipe.items())
    raise ValueError(
        f"{out_dir} is not empty and is not this synthetic dataset ({wanted}); "
        "name another folder, or delete this one"
    )


def _holds(out_dir: Path, recipe: dict[str, int], split: tuple[str, str, str, int, int]) -> bool:
    _, folder, file_name, _, _ = split
    try:
        content = json.loads((out_dir / file_name).read_text(encoding="utf-8"))
        if content["info"]["synthetic"] != recipe:
            return False
        return all((out_dir / folder / row["file_name"]).is_file() for row in content["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _draw_splits(root: Path, recipe: dict[str, int], workers: int, progress: bool) -> None:
    jobs = []
    for split_index, (name, folder, _, _, _) in enumerate(_SPLITS):
        (root / folder).mkdir()
        jobs += [(split_index, image_index) for image_index in range(recipe[name])]
    work = partial(_draw_to_file, str(root), recipe["seed"])
    workers = min(workers or _usable_cores(), len(jobs))
    bar = partial(progress_bar, total=len(jobs), desc="drawing", unit="photo", disable=not progress)
    if workers <= 1:
        records = list(bar(map(work, jobs)))
    else:
        # spawn: forking a notebook's kernel after torch started its threads can hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as pool:
            try:
                records = list(bar(pool.map(work, jobs, chunksize=4)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # or it would draw the rest first
                raise
    for split_index, split in enumerate(_SPLITS):
        rows = [r for (s, _), r in zip(jobs, records, strict=True) if s == split_index]
        # compact: indentation would make these files three times as long
        text = json.dumps(_annotation_file(rows, recipe, split), separators=(",", ":"))
        write_text(root / split[2], text)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _use_one_thread() -> None:
    cv2.setNumThreads(1)


def _draw_to_file(
    root: str, seed: int, job: tuple[int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw one photo into its file; return its image record and annotations, without ids."""
    split_index, image_index = job
    drawing = draw(seed, split_index, image_index)
    stem = hashlib.md5(f"{seed}/{split_index}/{image_index}".encode()).hexdigest()
    path = Path(root) / _SPLITS[split_index][1] / f"{stem}.jpg"
    bgr = cv2.cvtColor(drawing.image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    path.write_bytes(encoded.tobytes())
    height, width = drawing.image.shape[:2]
    image = {
        "file_name": path.name,
        "width": width,
        "height": height,
        "person_count": drawing.person_count,
    }
    return image, drawing.annotations


def _annotation_file(
    rows: list[tuple[dict[str, Any], list[dict[str, Any]]]],
    recipe: dict[str, int],
    split: tuple[str, str, str, int, int],
) -> dict[str, Any]:
    """Build the JSON of one split, with every top-level key of the official file."""
    name, _, _, image_id, annotation_id = split
    images, annotations = [], []
    for index, (image, parts) in enumerate(rows):
        record = {"id": image_id + index, **image, "license": 1, "time_captured": ""}
        images.append(record | {"original_url": "", "isstatic": 1, "kaggle_id": ""})
        for part in parts:
            ids = {"id": annotation_id + len(annotations), "image_id": image_id + index}
            annotations.append(ids | part)
    return {
        "info": {
            "year": "2020",
            "version": "1.0",
            "description": f"Synthetic drawings in Fashionpedia's layout, {name}",
            "contributor": "clothseg_utils",
            "url": "",
            "date_created": "",
            "synthetic": recipe,
        },
        "licenses": [{"id": 1, "name": "MIT", "url": ""}],
        "categories": [
            {"id": i, "name": n, "supercategory": s, "level": 2, "taxonomy_id": t}
            for i, (n, s, t) in enumerate(FASHIONPEDIA_CATEGORIES)
        ],
        "attributes": [
            {"id": i, "name": n, "supercategory": s, "level": 1, "taxonomy_id": t}
            for i, n, s, t in _ATTRIBUTES
        ],
        "images": images,
        "annotations": annotations,
    }


# -- scenes --------------------------------------------------------------------------------


def _person_count(rng: np.random.Generator, image_index: int) -> int:
    """Choose how many people a scene shows: every fifth scene two to four."""
    if image_index % _EMPTY_EVERY == _EMPTY_EVERY - 2:
        return 0
    if image_index % 5 == 4:
        return int(rng.choice([2, 3, 4], p=[0.7, 0.2, 0.1]))
    return 1


def _draw_scene(rng: np.random.Generator, image_index: int, required: int) -> Drawing:
    people = _person_count(rng, image_index)
    if people >= 3 or (people == 2 and rng.random() < 0.5):
        height, width = int(rng.integers(320, 385)), int(rng.integers(416, 481))
    else:
        height, width = int(rng.integers(384, 433)), int(rng.integers(256, 289))
    outfits = [plan_outfit(rng, required if k == 0 else None) for k in range(max(people, 1))]
    colors = [cloth.color for outfit in outfits for cloth in outfit.cloths]
    canvas = Canvas(_background(rng, height, width, colors), rng)
    # the last one is drawn in front; the required category is on the first, so draw that last
    for k in reversed(range(people)):
        umbrella = UMBRELLA in outfits[k].wishes
        size, top = _place(rng, height, width, people, umbrella)
        slot = width / max(people, 1)
        x = slot * (k + 0.5) + rng.normal(0, 0.07 * slot)
        body = Body(rng, x, top, size, raise_arm=umbrella)
        _ground_shadow(canvas, body)
        Dresser(canvas, body, outfits[k], rng).draw()
    image = _finish(rng, canvas.image)
    category_map, annotations = annotate(canvas)
    return Drawing(image, category_map, annotations, people)


def _place(
    rng: np.random.Generator, height: int, width: int, people: int, umbrella: bool
) -> tuple[float, float]:
    """Choose a person's height and the crown's row, pixels."""
    if people > 1:
        size = min(rng.uniform(0.74, 0.92) * height, width * 0.95)
    elif rng.random() < _CLOSE_UP_SHARE:  # down to the knees, or less
        size = rng.uniform(1.1, 1.55) * height
        return size, height * rng.uniform(0.03, 0.09) + size * 0.09 * umbrella
    else:
        size = rng.uniform(0.84, 0.95) * height
    if umbrella:
        size *= 0.84
    room = height - size
    return size, room * (rng.uniform(0.75, 0.9) if umbrella else rng.uniform(0.4, 0.8))


def _ground_shadow(canvas: Canvas, body: Body) -> None:
    feet = (body.legs[0].at(1.0) + body.legs[1].at(1.0)) / 2 + [0, body.px(0.04)]
    soft = np.zeros((canvas.height, canvas.width), np.uint8)
    x, y = (int(v) for v in feet)
    cv2.ellipse(soft, (x, y), (int(body.px(0.14)), int(body.px(0.025))), 0, 0, 360, 255, -1)
    soft = cv2.GaussianBlur(soft, (0, 0), 4)
    # a shadow on the floor, not on the people who stand behind
    soft[canvas.owner > 0] = 0
    canvas.tint(soft, np.full(3, 15, np.float32), 0.4)


def _finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light and film: exposure, colour cast, vignette, grain."""
    height, width = image.shape[:2]
    cast = rng.uniform(0.95, 1.15) * (1 + rng.normal(0, 0.03, 3))
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    tilt = rng.normal(0, 0.06, 2)
    light = 1 - 0.08 * (rows**2 + columns**2) + tilt[0] * rows + tilt[1] * columns
    image = image * light[..., None].astype(np.float32) * cast.astype(np.float32)
    image += rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(1, 4)
    return np.clip(image, 0, 255).astype(np.uint8)


# -- backgrounds ---------------------------------------------------------------------------


def _background(
    rng: np.random.Generator, height: int, width: int, colors: list[np.ndarray]
) -> np.ndarray:
    """Draw a place, (height, width, 3) float32 RGB; its colours mimic the clothes."""
    scene = _Backdrop(rng, height, width, colors)
    kinds = (scene.street, scene.room, scene.foliage, scene.boxes, scene.studio)
    kinds[rng.choice(5, p=[0.26, 0.28, 0.14, 0.1, 0.22])]()
    return _out_of_focus(rng, scene.image)


def _out_of_focus(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blur and haze: the camera is focused on the people."""
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 4.0))
    air = image.mean(axis=(0, 1), dtype=np.float32)
    return air + (image - air) * np.float32(rng.uniform(0.3, 0.65))


class _Backdrop:
    def __init__(
        self, rng: np.random.Generator, height: int, width: int, colors: list[np.ndarray]
    ) -> None:
        self.rng, self.height, self.width, self.colors = rng, height, width, colors
        base = np.linspace(random_color(rng), random_color(rng) * 0.5 + 90, height)
        self.image = np.repeat(base[:, None], width, axis=1).astype(np.float32)
        self._rows, self._columns = np.indices((height, width), dtype=np.float32)
        self._add_texture(8.0)

    def _color(self) -> np.ndarray:
        """Draw a colour; half of them are nearly those of the clothes in the picture."""
        if self.rng.random() < 0.5:
            return near_color(self.rng, self.colors[self.rng.integers(len(self.colors))], 14)
        return random_color(self.rng)

    def _add_texture(self, strength: float) -> None:
        coarse = self.rng.normal(0, 1, (self.height // 6 + 2, self.width // 6 + 2))
        size = (self.width, self.height)
        cloud = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        self.image += strength * cloud[..., None]

    def _fill(self, polygon: np.ndarray, fabric: Fabric | None = None, edge: float = 0.3) -> None:
        fabric = Fabric.random(self.rng, self._color()) if fabric is None else fabric
        left, top = np.maximum(np.floor(polygon.min(axis=0)).astype(int) - 1, 0)
        right, bottom = np.ceil(polygon.max(axis=0)).astype(int) + 2
        window = np.s_[top : max(bottom, 0), left : max(right, 0)]
        rows, columns = self._rows[window], self._columns[window]
        if not rows.size:
            return
        fixed = [np.round((polygon - [left, top]) * 16).astype(np.int32)]
        coverage = np.zeros(rows.shape, np.uint8)
        cv2.fillPoly(coverage, fixed, 255, cv2.LINE_AA, 4)
        line = np.zeros_like(coverage)
        cv2.polylines(line, fixed, True, 255, 1, cv2.LINE_AA, 4)
        slope = np.linspace(1.1, 1.1 - edge, rows.shape[1], dtype=np.float32)[None, :, None]
        weight = coverage[..., None] * np.float32(1 / 255)
        cloth = fabric.texture(rows, columns, 0.0) * slope
        self.image[window] += weight * (cloth - self.image[window])
        self.image[window] *= 1 - line[..., None] * np.float32(0.25 / 255)

    def _box(self, x: float, y: float, w: float, h: float, fabric: Fabric | None = None) -> None:
        self._fill(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]), fabric)

    def street(self) -> None:
        """Houses with windows, a pavement, things on it."""
        rng, w, h = self.rng, self.width, self.height
        floor = h * rng.uniform(0.68, 0.85)
        x = -rng.uniform(0, 30)
        while x < w:
            wide, top = rng.uniform(60, 130), rng.uniform(-40, 0.35 * h)
            self._box(x, top, wide, floor - top, Fabric(self._color() * 0.7 + 50))
            glass = Fabric(self._color())
            for row in np.arange(top + 14, floor - 40, rng.uniform(34, 50)):
                for column in np.arange(x + 9, x + wide - 18, rng.uniform(24, 34)):
                    self._box(column, row, 14, 20, glass)
            x += wide
        self._box(-5, floor, w + 10, h - floor + 5, Fabric(self._color() * 0.4 + 75))
        for k in np.linspace(-1.4, 1.4, 7):
            ends = np.array([(w / 2 + k * w * 0.4, floor), (w / 2 + k * w, h)])
            self._fill(np.concatenate([ends, ends[::-1] + xy(2, 0)]), Fabric(np.full(3, 90.0)))
        for _ in range(int(rng.integers(1, 5))):
            bw, bh = rng.uniform(20, 60), rng.uniform(25, 90)
            self._box(rng.uniform(-10, w), floor - bh + rng.uniform(0, 25), bw, bh)
        self._add_texture(5.0)

    def room(self) -> None:
        """A wall with pictures, a floor, furniture and hanging cloth."""
        rng, w, h = self.rng, self.width, self.height
        floor = h * rng.uniform(0.72, 0.88)
        self._box(-5, -5, w + 10, floor + 5, Fabric.random(rng, self._color() * 0.6 + 70))
        self._box(-5, floor, w + 10, h - floor + 5, Fabric.random(rng, self._color()))
        self._box(-5, floor - 8, w + 10, 8, Fabric(self._color()))
        for _ in range(int(rng.integers(2, 6))):  # pictures
            pw, ph = rng.uniform(25, 80), rng.uniform(25, 80)
            x, y = rng.uniform(-20, w - 20), rng.uniform(0, 0.5 * h)
            self._box(x - 4, y - 4, pw + 8, ph + 8, Fabric(self._color()))
            self._box(x, y, pw, ph)
        for _ in range(int(rng.integers(1, 5))):  # furniture
            fw, fh = rng.uniform(30, 90), rng.uniform(40, 150)
            self._box(rng.uniform(-30, w), floor - fh + rng.uniform(-5, 25), fw, fh)
        if rng.random() < 0.5:  # a curtain
            x, cw = rng.choice([-10, w - 50]), rng.uniform(40, 70)
            self._box(x, -5, cw, floor + 5)
            for k in range(6):
                self._box(x + k * cw / 6, -5, 3, floor + 5, Fabric(np.full(3, 60.0)))

    def foliage(self) -> None:
        """Leaves, trunks and grass, in any colour."""
        rng, w, h = self.rng, self.width, self.height
        leaf = self._color()
        self.image *= 0.65
        for _ in range(int(rng.integers(1, 4))):
            x, wide = rng.uniform(0, w), rng.uniform(12, 34)
            self._box(x, -5, wide, h, Fabric(self._color() * 0.6))
        length = float(rng.uniform(16, 34))
        t = np.linspace(-1, 1, 5)
        blade = np.concatenate([np.stack([t, 1 - t**2], 1), np.stack([-t, t**2 - 1], 1)[1:-1]])
        for k in range(260):  # the ones in front are brighter
            turn = rng.normal(np.pi / 2, 0.8)
            c, s = np.cos(turn), np.sin(turn)
            shape = blade * [length, length * 0.24] @ np.array([(c, s), (-s, c)])
            color = near_color(rng, leaf, 16) * (0.6 + 0.6 * k / 260)
            self._fill(shape + xy(rng.uniform(0, w), rng.uniform(0, h)), Fabric(color), edge=0.5)

    def boxes(self) -> None:
        """Shelves full of coloured and patterned things."""
        rng, w, h = self.rng, self.width, self.height
        for _ in range(int(rng.integers(14, 34))):
            bw, bh = rng.uniform(20, 110), rng.uniform(20, 130)
            x, y = rng.uniform(-30, w), rng.uniform(-30, h)
            if rng.random() < 0.7:
                self._box(x, y, bw, bh)
            else:
                t = np.linspace(0, 2 * np.pi, 7)[:-1]
                wobble = rng.uniform(0.6, 1.2, 6)[:, None]
                ring = np.stack([np.cos(t) * bw / 2, np.sin(t) * bh / 2], 1) * wobble
                self._fill(smooth(ring, closed=True) + xy(x, y))

    def studio(self) -> None:
        """A plain sweep of paper, as in a catalogue."""
        rng = self.rng
        floor = self.height * rng.uniform(0.8, 0.92)
        color = self._color() * 0.6 + 80
        self.image[:] = color
        self._box(-5, floor, self.width + 10, self.height, Fabric(contrast_color(color, 18)))
        self.image = cv2.GaussianBlur(self.image, (0, 0), 6)
        self._add_texture(3.0)


# -- annotations ---------------------------------------------------------------------------


def annotate(canvas: Canvas) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Turn a finished canvas into annotations that paint back to exactly what it shows.

    A thing's mask is where it was drawn and is seen, and where something that lies on it (a
    pocket on a coat) is seen instead. Painted in the order (-area, position), later on top, the
    annotations give `category_map`, to the pixel.

    Args:
        canvas: a finished picture.

    Returns:
        The category map, (H, W) int16, -1 where nothing annotated is seen; and the annotations
        in drawing order, without `id` and `image_id`.
    """
    owner = _drop_slivers(canvas)
    masks = _consistent_masks(canvas, owner)
    category_of_layer = np.array([layer.category_id for layer in canvas.layers], np.int16)
    annotations = []
    for index, mask in masks.items():
        segmentation, encoded = mask_to_segmentation(mask)
        annotations.append(
            {
                "category_id": canvas.layers[index].category_id,
                "attribute_ids": _attribute_ids(canvas.layers[index].category_id),
                "segmentation": segmentation,
                "area": int(coco_mask.area(encoded)),
                "bbox": [float(v) for v in coco_mask.toBbox(encoded)],
                "iscrowd": 0,
            }
        )
    return category_of_layer[owner], annotations


def _drop_slivers(canvas: Canvas) -> np.ndarray:
    """Return the owner map with what is hardly seen given to what it lies on, (H, W) int16."""
    owner = canvas.owner.copy()
    # last first: a layer always comes after the one that it lies on
    for index in range(len(canvas.layers) - 1, 0, -1):
        mine = owner == index
        if 0 < np.count_nonzero(mine) < _MIN_VISIBLE_PX:
            parent = canvas.layers[index].parent
            owner[mine] = np.where(canvas.layers[parent].drawn[mine], parent, 0) if parent else 0
    return owner


def _consistent_masks(canvas: Canvas, owner: np.ndarray) -> dict[int, np.ndarray]:
    """Return (H, W) bool masks by layer, whose painting in area order gives the owner map."""
    masks = {}
    for index in _present(owner):
        masks[index] = _lies_on(canvas, index)[owner] & canvas.layers[index].drawn
    while True:
        order = sorted(masks, key=lambda index: (-np.count_nonzero(masks[index]), index))
        painted = np.zeros_like(owner)
        for index in order:
            painted[masks[index]] = index
        wrong = np.where(painted != owner, painted, 0)
        if not wrong.any():
            return masks
        # whatever hides the true owner loses these pixels; the owner itself never does
        for index in _present(wrong):
            masks[index] = masks[index] & (wrong != index)


def _present(owner: np.ndarray) -> list[int]:
    """Return the layers above 0 that occur in an owner map, ascending."""
    return [index for index in np.flatnonzero(np.bincount(owner.ravel())).tolist() if index]


def _lies_on(canvas: Canvas, index: int) -> np.ndarray:
    """Tell for every layer whether it is this one or lies on it, directly or not, (n,) bool."""
    found = np.zeros(len(canvas.layers), bool)
    found[index] = True
    for later in range(index + 1, len(canvas.layers)):
        found[later] = found[canvas.layers[later].parent]
    return found


def mask_to_segmentation(
    mask: np.ndarray,
) -> tuple[list[list[float]] | dict[str, Any], dict[str, Any]]:
    """Write a mask as polygons, or as compressed RLE where it has a hole.

    Args:
        mask: (H, W) bool, not empty.

    Returns:
        The segmentation for the JSON, and pycocotools' own encoding of it; both decode to
        exactly `mask`.

    Example:
        >>> square = np.zeros((4, 4), bool)
        >>> square[1:3, 1:3] = True
        >>> mask_to_segmentation(square)[0]
        [[1.2, 1.2, 1.2, 2.8, 2.8, 2.8, 2.8, 1.2]]
    """
    height, width = mask.shape
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    # three by three: the outline then runs inside the edge pixels, past no pixel's centre
    fine = np.repeat(np.repeat(mask[y : y + h, x : x + w].view(np.uint8), 3, 0), 3, 1)
    outlines, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    target = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    if np.all(hierarchy[0, :, 3] < 0):  # no outline lies inside another: no holes
        for tolerance in (1.0, 0.0):  # the shorter polygon, where it decodes to the same
            polygons = _to_polygons(outlines, tolerance, x, y)
            encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            if encoded["counts"] == target["counts"]:
                return polygons, encoded
    rle = {"size": [height, width], "counts": target["counts"].decode("ascii")}
    return rle, target


def _to_polygons(
    outlines: tuple[np.ndarray, ...], tolerance: float, x: int, y: int
) -> list[list[float]]:
    polygons = []
    for outline in outlines:
        short = cv2.approxPolyDP(outline, tolerance, True)[:, 0]
        if len(short) < 3:
            short = outline[:, 0]
        # sub-pixels 0, 1, 2 of a pixel are at 0.2, 0.5, 0.8: pycocotools rounds to fifths
        places = np.round((short // 3 + 0.2 + 0.3 * (short % 3) + [x, y]), 1)
        polygons.append(places.ravel().tolist())
    return polygons


def _attribute_ids(category_id: int) -> list[int]:
    supercategory = FASHIONPEDIA_CATEGORIES[category_id][1]
    if supercategory in ("upperbody", "lowerbody", "wholebody"):
        return [115, 136, 295]
    return {"sleeve": [204], "pocket": [218]}.get(FASHIONPEDIA_CATEGORIES[category_id][0], [])
