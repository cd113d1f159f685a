"""Tables of an annotation file, counted by hand."""

from test_coco import TRIANGLE, annotation_json, read

from clothseg_utils.data.audit import audit
from clothseg_utils.data.exploration import (
    annotation_table,
    audit_table,
    image_table,
    supercategory_cooccurrence,
)


def test_audit_table_has_one_row_a_split(tmp_path):
    report = audit(read(tmp_path, annotation_json(area=0)))
    table = audit_table({"train": report, "val": report})
    assert table.index.name == "split"
    assert list(table.index) == ["train", "val"]
    assert table.loc["val"].tolist() == [2, 0, 1, 1, 1, 0]


def test_annotation_table_has_one_row_an_annotation(tmp_path):
    table = annotation_table(
        read(
            tmp_path,
            annotation_json(5, segmentation=TRIANGLE * 2),
            annotation_json(
                6, category_id=23, segmentation={"size": [5, 6], "counts": [30]}, area=0
            ),
        )
    )
    assert table.to_dict("records") == [
        {
            "annotation_id": 5,
            "image_id": 7,
            "category_id": 0,
            "category": "shirt, blouse",
            "supercategory": "upperbody",
            "class_id": 2,
            "class_color": "#6a41f4",
            "area_px": 4.0,
            "kind": "polygon",
            "n_parts": 2,
            "bbox_width_px": 2.0,
            "bbox_height_px": 2.0,
        },
        {
            "annotation_id": 6,
            "image_id": 7,
            "category_id": 23,
            "category": "shoe",
            "supercategory": "legs and feet",
            "class_id": 4,
            "class_color": "#61fc9d",
            "area_px": 0.0,
            "kind": "rle",
            "n_parts": 0,
            "bbox_width_px": 2.0,
            "bbox_height_px": 2.0,
        },
    ]


def test_image_table_counts_annotations(tmp_path):
    table = image_table(read(tmp_path, annotation_json(1), annotation_json(2)))
    assert table.to_dict("list") == {
        "image_id": [7, 9],
        "file_name": ["a.jpg", "b.jpg"],
        "width_px": [6, 6],
        "height_px": [5, 5],
        "n_annotations": [2, 0],
    }


def test_cooccurrence_counts_images_not_annotations(tmp_path):
    coco = read(
        tmp_path,
        annotation_json(1),
        annotation_json(2),
        annotation_json(3, category_id=23),
        annotation_json(4, image_id=9),
    )
    table = supercategory_cooccurrence(coco)
    assert list(table.index) == list(table.columns) == ["upperbody", "legs and feet"]
    assert table.to_numpy().tolist() == [[2, 1], [1, 1]]


def test_tables_of_an_empty_file_keep_their_columns(tmp_path):
    coco = read(tmp_path, images=[], annotations=[])
    assert len(annotation_table(coco)) == len(image_table(coco)) == 0
    assert "area_px" in annotation_table(coco)
    assert supercategory_cooccurrence(coco).to_numpy().sum() == 0


def test_own_classes_have_the_names_and_colors_of_the_class_table(tmp_path):
    categories = [
        {"id": 23, "name": "jeans", "supercategory": ""},
        {"id": 0, "name": "tee", "supercategory": "tops"},
    ]
    coco = read(
        tmp_path, annotation_json(1), annotation_json(2, category_id=23), categories=categories
    )
    table = annotation_table(coco)
    assert table["supercategory"].tolist() == ["tops", "jeans"]
    assert table["class_id"].tolist() == [1, 2]
    assert table["class_color"].nunique() == 2
    assert list(supercategory_cooccurrence(coco).index) == ["jeans", "tops"]


def test_supercategories_that_cannot_be_classes_are_shown_by_category(tmp_path):
    categories = [
        {"id": i, "name": n, "supercategory": "background"} for i, n in ((0, "a"), (23, "b"))
    ]
    coco = read(tmp_path, annotation_json(1, category_id=23), categories=categories)
    assert annotation_table(coco)["supercategory"].tolist() == ["b"]
