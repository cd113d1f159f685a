"""Files of other tools are named, with the way from there to COCO."""

import json

import pytest
from test_coco import annotation_json, file_json, write

from clothseg_utils.data.coco import read_annotations
from clothseg_utils.data.formats import recognise

POLYGON = [[10, 10], [60, 10], [60, 60]]
REGION = {"shape_attributes": {"name": "polygon"}, "region_attributes": {}}
VIA_PHOTO = {"filename": "a.jpg", "size": 123, "regions": [REGION], "file_attributes": {}}
FILES = [
    ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe's", "labelme2coco"),
    ([{"id": 1, "data": {}, "annotations": []}], "Label Studio's JSON", '"COCO"'),
    ([{"id": 1, "annotation_id": 2, "annotator": 1}], "Label Studio's JSON-MIN", '"COCO"'),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA", "COCO format"),
    ({"a.jpg123": VIA_PHOTO}, "VIA", "COCO format"),
    ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely's", "Export to COCO"),
    ([{"data_row": {"id": "x"}, "projects": {}}], "Labelbox's", "Roboflow"),
    ({"source": "shop", "item1": {}}, "DeepFashion2's", "deepfashion2_to_coco.py"),
    ({"info": {}, "categories": {}, "items": []}, "Datumaro's", "datum convert"),
    ([{"image": "a.jpg", "annotations": []}], "CreateML's", "boxes, not masks"),
    ({"samples": [{}]}, "FiftyOne", "COCODetectionDataset"),
    ([annotation_json()], "a list of COCO results", "images and categories"),
    (file_json({"image_id": 7, "segments_info": []}, extra=1), "panoptic", "panopticapi"),
    ("<?xml version='1.0'?>\n<annotations><version>1.1</version>", "CVAT's XML", "COCO 1.0"),
    ("<annotation>\n<folder>VOC</folder>", "Pascal VOC's XML", "boxes, not masks"),
    ("<!DOCTYPE html><html>", "a web page", "fetch the file"),
    ("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.1 0.2 0.3 0.4 0.5 0.6\n", "YOLO's text", "from_yolo"),
    ("ImageId,EncodedPixels,Height\na.jpg,1 2,3\n", "a CSV of run lengths", "pycocotools"),
    ("name,x,y\na,1,2\n", "a CSV", "COCO"),
    ('{"data_row": {"id": "x"}}\n{"data_row": {"id": "y"}}\n', "Labelbox's", "Roboflow"),
    (b"PK\x03\x04rest", "a ZIP archive", "unpack"),
    (b"\xff\xd8\xff\xe0", "a photo", "annotation file"),
]


@pytest.mark.parametrize(("content", "name", "way"), FILES, ids=[name for _, name, _ in FILES])
def test_file_of_another_tool_is_named_with_the_way_to_coco(tmp_path, content, name, way):
    path = tmp_path / "labels"
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"is not a COCO annotation file but looks like") as caught:
        read_annotations(path)
    assert name in str(caught.value)
    assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [file_json(), file_json(annotation_json())])
def test_coco_itself_is_no_other_format(tmp_path, file):
    file["categories"][0]["supercategory"] = None
    path = write(tmp_path, file | {"objects": [], "size": 1, "tags": [], "samples": []})
    assert recognise(path.read_bytes()) is None
    assert len(read_annotations(path).images) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"[[1]]", b"nonsense", b'{"a": {"b": 1}}', b"\x00\xff", b"[" * 10_000],
)
def test_what_nobody_knows_has_no_name(data):
    assert recognise(data) is None
