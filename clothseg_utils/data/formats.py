"""Files of other annotation tools: what they are, and the way from there to COCO."""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from clothseg_utils.data.json_bytes import as_float

_PEEK_BYTES = 100_000
_COCO_KEYS = ("images", "annotations", "categories")
_RUN_LENGTHS = re.compile(r"\b(EncodedPixels|rle|encoded_pixels)\b", re.IGNORECASE)


class Format(NamedTuple):
    """A format that is not COCO: its name, and how its labels get into a COCO file."""

    name: str
    way: str


def _is_yolo(text: str) -> bool:
    words = text.lstrip().partition("\n")[0].split()
    is_class_first = len(words) > 4 and words[0].isdecimal()
    return is_class_first and all(as_float(word) is not None for word in words)


def _is_csv(text: str) -> bool:
    first_line, end, _ = text.partition("\n")
    return first_line.count(",") > 1 and end == "\n"


def _is_run_lengths(text: str) -> bool:
    return _is_csv(text) and _RUN_LENGTHS.search(text.partition("\n")[0]) is not None


_NO_MASKS = "it holds boxes, not masks; draw outlines first"
_DATUMARO = "`datum convert` of the package datumaro writes format coco_instances"

# Which JSON is which: by the keys of the object, or of the first entry of a list.
_JSON_FORMATS: tuple[tuple[frozenset[str], bool, Format], ...] = tuple(
    (frozenset(keys.split()), is_list, Format(name, way))
    for keys, is_list, name, way in (
        (
            "shapes imagePath",
            False,
            "LabelMe's, one JSON for each photo",
            "the package labelme2coco makes one COCO file of a folder of them",
        ),
        (
            "data annotations",
            True,
            "Label Studio's JSON",
            'export as "COCO", brush labels as "Brush labels to COCO"',
        ),
        (
            "annotation_id annotator",
            True,
            "Label Studio's JSON-MIN",
            'export as "COCO", brush labels as "Brush labels to COCO"',
        ),
        (
            "_via_img_metadata",
            False,
            "a project of the VGG Image Annotator (VIA)",
            'choose "Annotation > Export Annotations (COCO format)"',
        ),
        (
            "objects size tags",
            False,
            "Supervisely's, one JSON for each photo",
            'run its app "Export to COCO"',
        ),
        (
            "data_row",
            True,
            "Labelbox's",
            "convert it to COCO instance segmentation, as the package labelbox or Roboflow can",
        ),
        (
            "item1",
            False,
            "DeepFashion2's, one JSON for each photo",
            "deepfashion2_to_coco.py of its repository makes one COCO file of them",
        ),
        ("dm_format_version items", False, "Datumaro's", _DATUMARO),
        ("items categories info", False, "Datumaro's", _DATUMARO),
        ("image annotations", True, "CreateML's", _NO_MASKS),
        (
            "samples",
            False,
            "a dataset of FiftyOne",
            "export it with dataset_type=fo.types.COCODetectionDataset",
        ),
        (
            "image_id category_id",
            True,
            "a list of COCO results or annotations alone",
            "put it under `annotations` into the file that has the images and categories",
        ),
    )
)
_VIA_REGIONS = Format(
    "the JSON of the VGG Image Annotator (VIA)",
    'choose "Annotation > Export Annotations (COCO format)"',
)
_PANOPTIC = Format(
    "COCO's panoptic form, whose masks lie in PNG files",
    "panoptic2detection_coco_format.py of panopticapi writes them into the annotations",
)

_TEXT_FORMATS: tuple[tuple[Callable[[str], Any], Format], ...] = (
    (
        re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<annotations>", re.DOTALL).match,
        Format("CVAT's XML", 'choose "Export dataset" and the format "COCO 1.0"'),
    ),
    (
        re.compile(r"\s*(<\?xml[^>]*>\s*)?<annotation[\s>]").match,
        Format("Pascal VOC's XML", f"{_NO_MASKS}, or take its folder SegmentationClass as masks"),
    ),
    (
        re.compile(r"\s*<(!doctype html|html)", re.IGNORECASE).match,
        Format("a web page", "fetch the file itself"),
    ),
    (
        _is_yolo,
        Format(
            "YOLO's text, one file for each photo",
            "the package supervision reads it by DetectionDataset.from_yolo(..., force_masks=True) "
            "and writes as_coco(...)",
        ),
    ),
    (
        _is_run_lengths,
        Format(
            "a CSV of run lengths",
            "decode them to masks, and encode those with pycocotools, or take a folder of masks",
        ),
    ),
    (_is_csv, Format("a CSV", "export as COCO instead")),
)
_BINARY_FORMATS = (
    (b"PK\x03\x04", Format("a ZIP archive", "unpack it, and name the JSON inside")),
    (b"\x89PNG", Format("a picture", "a folder of masks can be taken as labels")),
    (b"\xff\xd8\xff", Format("a photo", "name the annotation file")),
)


def recognise(data: bytes) -> Format | None:
    """Recognise a file of another tool by its beginning and its top-level keys; None for others.

    Args:
        data: the file's bytes, UTF-8 where it is text.

    Example:
        >>> recognise(b'{"version": "5.2.1", "shapes": [], "imagePath": "a.jpg"}').name
        "LabelMe's, one JSON for each photo"
        >>> recognise(b'{"images": [], "annotations": [], "categories": []}') is None
        True
    """
    for magic, binary in _BINARY_FORMATS:
        if data.startswith(magic):
            return binary
    start = data[:_PEEK_BYTES].decode(errors="replace")
    if start.lstrip()[:1] in ("{", "["):
        return _recognise_json(data, start)
    return next((found for matches, found in _TEXT_FORMATS if matches(start)), None)


def _recognise_json(data: bytes, start: str) -> Format | None:
    first, is_list = _first_object(data, start)
    keys = first.keys()
    if set(_COCO_KEYS) <= keys:
        return _PANOPTIC if b'"segments_info"' in data[:_PEEK_BYTES] else None
    for expected, of_list, found in _JSON_FORMATS:
        if expected <= keys and (of_list or not is_list):
            return found
    if not is_list and first and _has_regions(next(iter(first.values()))):
        return _VIA_REGIONS
    return None


def _first_object(data: bytes, start: str) -> tuple[dict[str, msgspec.Raw], bool]:
    """The file's object, or the first of its list or of its lines; and whether there are several.

    Values stay undecoded.
    """
    first_line = start.partition("\n")[0].encode()
    for text, several in ((data, False), (first_line, True)):
        try:
            return msgspec.json.decode(text, type=dict[str, msgspec.Raw]), several
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    try:
        entries = msgspec.json.decode(data, type=list[msgspec.Raw])
        return msgspec.json.decode(entries[0], type=dict[str, msgspec.Raw]), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        return {}, False


def _has_regions(raw: msgspec.Raw) -> bool:
    try:
        value = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"filename", "regions"} <= value.keys()
