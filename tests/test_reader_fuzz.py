"""Sound annotation files, broken at random: read right, or refused with one line; more of them:

python tests/test_reader_fuzz.py 1000 9000
"""

import copy
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_api

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import read_annotations
from clothseg_utils.data.rasterize import annotation_to_instance_mask
from clothseg_utils.data.rle import Rle

N_FILES = 400
ODD_VALUES = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**400, 0.5, 1e-9, 1e300,
    float("nan"), float("inf"), "", "7", "7.0", "x", "NaN", "1e999", "\ud800", "\x00", "../a.jpg",
    [], {}, [[]], [1], [1, 2, 3, 4], [[1, 2], [3, 4], [5, 1]], ["1", "2", "3", "4", "9", "9"],
    {"x": 1, "y": 2}, {"x": 1, "y": 2, "width": 3, "height": 4}, {"size": [5, 6], "counts": [30]},
    {"size": [6, 5], "counts": "63e0"}, {"counts": [6, 3, 21]},
    [{"size": [5, 6], "counts": [0, 30]}], "[[1, 1, 3, 1, 3, 3]]", "b'63e0'",
)  # fmt: skip
OUTLINES = (
    [[1, 1, 3, 1, 3, 3]],
    [[0, 0, 5, 0, 5, 4, 0, 4], [1.5, 1, 2, 3, 4, 4]],
    {"size": [5, 6], "counts": [6, 3, 21]},
    {"size": [5, 6], "counts": "63e0"},
)


def sound_file(n_images=12):
    """Images of 6 x 5 px, two annotations each."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 6, "height": 5} for i in range(1, n_images + 1)
    ]
    annotations = [
        {
            "id": n + 1,
            "image_id": n // 2 + 1,
            "category_id": n % 2,
            "segmentation": copy.deepcopy(OUTLINES[n % 4]),
            "area": 4,
            "bbox": [1, 1, 2, 2],
            "iscrowd": 0,
        }
        for n in range(2 * n_images)
    ]
    categories = [{"id": n, "name": f"c{n}", "supercategory": "head"} for n in range(2)]
    return {"images": images, "annotations": annotations, "categories": categories}


def paths_in(value, path=()):
    """Every place in a decoded JSON."""
    yield path
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        yield from paths_in(item, (*path, key))


def break_at(file, path, rng):
    """Replace, delete, wrap, double or retype what is at a place of the file."""
    *above, key = path
    holder = file
    for step in above:
        holder = holder[step]
    value = holder[key]
    what = rng.choice(("odd", "odd", "odd", "delete", "nest", "text", "unnest", "again", "number"))
    if what == "delete":
        del holder[key]
    elif what == "again" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif what == "nest":
        holder[key] = [value]
    elif what == "unnest" and isinstance(value, list) and value:
        holder[key] = rng.choice(value)
    elif what == "text":
        holder[key] = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    elif what == "number" and isinstance(value, (int, float)):
        holder[key] = value * rng.choice((-1, 0, 0.01, 1.5, 1000, 1e6))
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def broken_file(seed):
    """JSON of a file broken at one to four places, and the places; None where it may be others."""
    rng = random.Random(seed)
    file = sound_file()
    broken = []
    for _ in range(rng.randint(1, 4)):
        places = [path for path in paths_in(file) if path]
        # As often a record's own field as one of the many coordinates.
        depth = rng.choice((1, 2, 3, 3, 3, 4, 5, 6))
        broken.append(rng.choice([p for p in places if len(p) == depth] or places))
        break_at(file, broken[-1], rng)
    text = json.dumps(file)
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        more = rng.choice(("[" * 2000, "9" * 5000, '"', "NaN", "\\ud800", "{", ",", "1e999"))
        return text[:at] + rng.choice((more + text[at:], "")), None
    return text, broken


def referee_mask(segmentation, height, width):
    if isinstance(segmentation, Rle):
        code = {"size": [height, width], "counts": segmentation.counts}
        if isinstance(segmentation.counts, list):
            code = mask_api.frPyObjects(code, height, width)
    else:
        code = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    return mask_api.decode(code).astype(bool)


def check_accepted(coco):
    """Everything that was accepted can be painted, and equals the referee."""
    image_of_id = {image.id: image for image in coco.images}
    assert len(image_of_id) == len(coco.images)
    category_ids = {category.id for category in coco.categories}
    assert len({annotation.id for annotation in coco.packed}) == len(coco.packed)
    for annotation in coco.annotations:
        image = image_of_id[annotation.image_id]
        assert annotation.category_id in category_ids
        assert np.isfinite([annotation.area, *annotation.bbox]).all()
        if image.width * image.height > 10**7:
            continue
        ours = annotation_to_instance_mask(annotation, image.height, image.width)
        referee = referee_mask(annotation.segmentation, image.height, image.width)
        assert np.array_equal(ours, referee)


def check_file(path, seed, **options):
    """Read one broken file and check it; None where it was refused."""
    text, broken = broken_file(seed)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        coco = read_annotations(path, **options)
    except ValueError as error:
        message = str(error)
        is_one_line = path.name in message and "\n" not in message
        return None if is_one_line else pytest.fail(f"seed {seed}: {message}")
    check_accepted(coco)
    if options.get("plain_names", True):
        assert all(image.file_name.count("/") == 0 for image in coco.images)
    audit(coco)
    check_nothing_lost(coco, path)
    again = read_annotations(path, **options)
    assert (again.images, again.categories, again.problems) == (
        (coco.images, coco.categories, coco.problems)
    )
    assert again.annotations == coco.annotations
    # What was not touched is there, with the pixels that it had.
    if broken and all(len(place) > 2 and place[0] == "annotations" for place in broken):
        touched = {place[1] for place in broken}
        sound = sound_file()["annotations"]
        left = {(a.image_id, a.category_id, pixels(a)) for a in coco.annotations}
        for n in set(range(len(sound))) - touched:
            mask = referee_mask(to_segmentation(sound[n]["segmentation"]), 5, 6)
            key = (sound[n]["image_id"], sound[n]["category_id"], mask.tobytes())
            assert key in left
    return coco


def check_nothing_lost(coco, path):
    """Every record that the file lists is used, or counted among what is not."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except ValueError:
        return
    counts = Counter()
    for problem in coco.problems:
        counts[problem.kind] += problem.count
        if problem.reason.endswith("listed more than once, taken once"):
            counts[problem.reason.removeprefix("the same ").split()[0]] += problem.count
    for what, used, kinds in (
        ("images", coco.images, ("image_left_out", "image")),
        ("annotations", coco.packed, ("annotation_left_out", "without_mask", "annotation")),
        ("categories", coco.categories, ("category_left_out", "category")),
    ):
        if isinstance(listed[what], list):
            assert len(listed[what]) == len(used) + sum(counts[kind] for kind in kinds), what


def pixels(annotation):
    return annotation_to_instance_mask(annotation, 5, 6).tobytes()


def to_segmentation(value):
    return Rle((5, 6), value["counts"]) if isinstance(value, dict) else value


@pytest.mark.parametrize("options", [{}, {"plain_names": False}, {"strict": True}], ids=str)
def test_broken_files_are_read_right_or_refused_with_one_line(tmp_path, options):
    read = [check_file(tmp_path / "a.json", seed, **options) for seed in range(N_FILES)]
    assert N_FILES / 20 < read.count(None) < N_FILES * 19 / 20


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(*map(int, sys.argv[1:3]))
        read = [check_file(Path(folder) / "a.json", seed) for seed in seeds]
    print(f"refused {read.count(None)}, read {len(read) - read.count(None)}")
