"""Draw the embedded dataset: dressed people before cluttered backgrounds, in Fashionpedia's layout.

It lets a machine without a network run the whole pipeline, and its masks are known exactly.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES
from clothseg_utils.core.files import whole_folder, write_text
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import usable_cores, worker_pool
from clothseg_utils.drawing.annotate import ATTRIBUTES
from clothseg_utils.drawing.scene import Drawing, draw_scene

DRAWING_VERSION = 1  # rises whenever the same seed would draw something else

_Split = tuple[str, str, str, int, int]
_Rows = tuple[dict[str, Any], list[dict[str, Any]]]  # an image record and its annotations

_SPLITS: tuple[_Split, ...] = (
    # name, photo folder, annotation file, first image id, first annotation id
    ("train", "train", "instances_attributes_train2020.json", 1, 1),
    ("val", "test", "instances_attributes_val2020.json", 500_001, 5_000_001),
)
_MAX_REDRAWS = 12  # attempts to show the category that an image is meant to show


def synthesize(
    out_dir: str | Path, *, train: int = 240, val: int = 60, seed: int = 0, workers: int = 0
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

    Returns:
        `out_dir`, holding `train/`, `test/` and the two annotation files.

    Raises:
        ValueError: a number is out of range, or `out_dir` holds anything else.
    """
    out_dir = Path(out_dir)
    recipe = {"drawing_version": DRAWING_VERSION, "train": train, "val": val, "seed": seed}
    for name, value in (*recipe.items(), ("workers", workers)):
        least = 1 if name in ("train", "val") else 0
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")
    if _check_target(out_dir, recipe):
        return out_dir
    try:
        with whole_folder(out_dir) as unfinished:
            _draw_splits(unfinished, recipe, workers)
    except OSError:  # somebody filled the folder meanwhile; that is fine if it is this dataset
        if not _check_target(out_dir, recipe):
            raise
    return out_dir


def draw(seed: int, split_index: int, image_index: int) -> Drawing:
    """Draw one photo of a dataset; it depends on nothing but these three numbers.

    `split_index` is 0 for train and 1 for val, `image_index` the position in the split, from 0.
    """
    rng = np.random.default_rng([seed, split_index, image_index])
    required = image_index % len(FASHIONPEDIA_CATEGORIES)  # so that 100 photos show all categories
    for _ in range(_MAX_REDRAWS):
        drawing = draw_scene(rng, image_index, required)
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


def _holds(out_dir: Path, recipe: dict[str, int], split: _Split) -> bool:
    _, folder, file_name, _, _ = split
    try:
        content = json.loads((out_dir / file_name).read_text(encoding="utf-8"))
        if content["info"]["synthetic"] != recipe:
            return False
        return all((out_dir / folder / row["file_name"]).is_file() for row in content["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _draw_splits(root: Path, recipe: dict[str, int], workers: int) -> None:
    jobs = []
    for split_index, (name, folder, *_) in enumerate(_SPLITS):
        (root / folder).mkdir()
        jobs += [(split_index, image_index) for image_index in range(recipe[name])]
    work = partial(_draw_to_file, str(root), recipe["seed"])
    workers = min(workers or usable_cores(), len(jobs))
    bar = partial(progress_bar, total=len(jobs), desc="drawing", unit="photo")
    if workers <= 1:
        records = list(bar(map(work, jobs)))
    else:
        with worker_pool(workers) as pool:
            records = list(bar(pool.map(work, jobs, chunksize=4)))
    for split_index, split in enumerate(_SPLITS):
        rows = [r for (s, _), r in zip(jobs, records, strict=True) if s == split_index]
        # compact: indentation would make these files three times as long
        text = json.dumps(_annotation_file(rows, recipe, split), separators=(",", ":"))
        write_text(root / split[2], text)


def _draw_to_file(root: str, seed: int, job: tuple[int, int]) -> _Rows:
    """Draw one photo into its file; return its image record and annotations, without ids."""
    split_index, image_index = job
    drawing = draw(seed, split_index, image_index)
    stem = hashlib.md5(f"{seed}/{split_index}/{image_index}".encode()).hexdigest()
    path = Path(root) / _SPLITS[split_index][1] / f"{stem}.jpg"
    bgr = cv2.cvtColor(drawing.image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    path.write_bytes(encoded.tobytes())
    height, width = drawing.image.shape[:2]
    image = {"file_name": path.name, "width": width, "height": height}
    return image | {"person_count": drawing.person_count}, drawing.annotations


def _annotation_file(rows: list[_Rows], recipe: dict[str, int], split: _Split) -> dict[str, Any]:
    """Build the JSON of one split, with every top-level key of the official file."""
    name, _, _, image_id, annotation_id = split
    images = []
    annotations: list[dict[str, Any]] = []
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
            for i, n, s, t in ATTRIBUTES
        ],
        "images": images,
        "annotations": annotations,
    }
