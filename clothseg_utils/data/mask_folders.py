"""A folder of photos and a folder of masks -> the records that a COCO file would give."""

import hashlib
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from clothseg_utils.core.classes import MOST_CLASSES, is_background, plain_name
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import count_text, first_names
from clothseg_utils.core.workers import usable_cores, worker_pool
from clothseg_utils.data.coco import (
    Category,
    CocoFile,
    ImageRecord,
    PackedAnnotation,
    Problem,
)
from clothseg_utils.data.photos import PHOTO_SUFFIXES


def read_mask_folder(
    masks_dir: str | Path,
    photos_dir: str | Path,
    names_file: str | Path | None = None,
    *,
    ignore_unknown: bool = False,
    strict: bool = False,
) -> CocoFile:
    """Read masks as a COCO file would say the same: an RLE for each class of a photo.

    Photo and mask have the same place and stem below their folders, such as `a/1.jpg` and
    `a/1.png`; a mask's stem may end in `_mask`, `_seg` or `_label` besides. Masks are index images
    (grey of 8 or 16 bits, or with a palette, whose index counts), in which 0 is background, or
    images of colours, in which black is.

    Args:
        masks_dir: folder of the masks, subfolders included; only read.
        photos_dir: folder of the photos, subfolders included; only read.
        names_file: JSON, in one of the forms {"shirt": [255, 0, 0]}, {"shirt": "#ff0000"},
            {"shirt": 1}, {"1": "shirt"} and ["shirt", "jeans"]: the list counts from 1, or from 0
            where its first name is background. None calls the values class 1, class 2, ...
        ignore_unknown: take values and colours without a name, and 255, for background.
        strict: a photo or mask that cannot be used is an error instead of being left out.

    Returns:
        Photos with a mask, by their path below `photos_dir`; `problems` names what was left out.
        A category has the value as its id, or its place in `names_file` where colours are named.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no mask fits a photo; values or colours without a name; a names file of another
            form; more than a tenth of the masks unreadable or of another size than their photo.
    """
    raise NotImplementedError
