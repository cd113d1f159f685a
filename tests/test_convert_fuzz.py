"""Broken annotation files through convert, audit and rasterize; a thousand more:

python tests/test_convert_fuzz.py 1000 2000
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from test_reader_fuzz import broken_file, check_accepted, referee_mask

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.masks import rasterize_split, read_mask
from clothseg_utils.intake.convert import convert_photos

N_FILES = 80
N_PHOTOS = 12


def write_photos(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, N_PHOTOS + 1):
        photo = rng.integers(0, 256, (5, 6, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.jpg"), photo)
    return folder


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def painted(coco, image, class_of_category):
    """A photo's mask by pycocotools: larger areas first, of equal ones the smaller id."""
    mask = np.zeros((image.height, image.width), np.uint8)
    own = sorted(coco.annotations_of(image.id), key=lambda one: (-one.area, one.id))
    for annotation in own:
        covered = referee_mask(annotation.segmentation, image.height, image.width)
        assert covered.sum() == annotation.area
        mask[covered] = class_of_category[annotation.category_id]
    return mask


def check_dataset(data_root, masks_root):
    """What was accepted reads without a problem, and its masks are the referee's."""
    n_photos = 0
    for split in ("train", "val"):
        coco = read_annotations(annotation_path(data_root, split), strict=True)
        check_accepted(coco)
        assert coco.problems == ()
        assert audit(coco, image_dir=images_dir(data_root, split)).excluded == {}
        index = rasterize_split(coco.path, masks_root / split, "category", workers=1)
        class_ids = {c.id: n for n, c in enumerate(sorted(coco.categories, key=lambda c: c.id), 1)}
        for image in coco.images:
            mask = read_mask(index.mask_path(image.id), len(index.class_names))
            assert np.array_equal(mask, painted(coco, image, class_ids))
        n_photos += len(coco.images)
    return n_photos


def check_file(folder, photos_dir, seed):
    """Convert one broken file and check what it made; False where it was refused."""
    source = folder / "coco.json"
    text, _ = broken_file(seed)
    source.write_text(text, encoding="utf-8", errors="surrogatepass")
    before = files_below(folder)
    data_root = folder / f"data{seed}"
    refusal, made = "", None
    try:
        made = convert_photos(photos_dir, data_root, annotations=[source])
    except (ValueError, FileNotFoundError) as error:
        refusal = str(error)
    if made is None:
        assert "\n" not in refusal, f"seed {seed}: {refusal}"
        assert files_below(folder) == before, f"seed {seed}"
        return False
    top = {name.split("/")[0] for name in files_below(folder)}
    assert top == {name.split("/")[0] for name in before} | {data_root.name}, f"seed {seed}"
    assert check_dataset(data_root, folder / f"masks{seed}") == sum(made.photos.values())
    return True


def test_broken_files_are_converted_right_or_refused_with_nothing_left(tmp_path):
    photos_dir = write_photos(tmp_path / "photos")
    taken = [check_file(tmp_path, photos_dir, seed) for seed in range(N_FILES)]
    assert N_FILES / 20 < sum(taken) < N_FILES * 19 / 20


if __name__ == "__main__":
    counts = [0, 0]
    for seed in range(*map(int, sys.argv[1:3])):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            counts[check_file(place, write_photos(place / "photos"), seed)] += 1
    print("refused {}, converted {}".format(*counts))
