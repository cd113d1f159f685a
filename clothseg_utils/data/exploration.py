"""Tables of a dataset, for exploration."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from clothseg_utils.core.classes import ClassTable, class_table
from clothseg_utils.data.audit import Audit
from clothseg_utils.data.coco import CocoFile

if TYPE_CHECKING:
    import pandas as pd


def audit_table(audits: Mapping[str, Audit]) -> "pd.DataFrame":
    """Totals of each split's audit as a table, one row a split.

    Returns:
        columns photos, photos left out, photos without annotations, annotations, polygons, RLE;
        the index "split".
    """
    import pandas as pd

    rows = {
        split: {
            "photos": audit.n_images,
            "photos left out": len(audit.excluded),
            "photos without annotations": audit.n_images_without_annotations,
            "annotations": audit.n_annotations,
            "polygons": audit.n_polygon,
            "RLE": audit.n_rle,
        }
        for split, audit in audits.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def annotation_table(coco: CocoFile) -> "pd.DataFrame":
    """Annotations as a table, one row each, in the JSON's order.

    Returns:
        columns annotation_id, image_id, category_id, category, supercategory (the category's name
        where it has none), class_id and class_color ("#rrggbb") of scheme "supercategory", area_px
        (the JSON's area), kind ("polygon" or "rle"), n_parts (0 for RLE), bbox_width_px,
        bbox_height_px.
    """
    import pandas as pd

    name_of_id = {category.id: category.name for category in coco.categories}
    classes = _shown_classes(coco)
    class_ids = [classes.class_of_category[a.category_id] for a in coco.packed]
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors.tolist()]
    return pd.DataFrame(
        {
            "annotation_id": np.array([a.id for a in coco.packed], dtype=np.int64),
            "image_id": np.array([a.image_id for a in coco.packed], dtype=np.int64),
            "category_id": np.array([a.category_id for a in coco.packed], dtype=np.int64),
            "category": [name_of_id[a.category_id] for a in coco.packed],
            "supercategory": [classes.names[class_id] for class_id in class_ids],
            "class_id": np.array(class_ids, dtype=np.int64),
            "class_color": [colors[class_id] for class_id in class_ids],
            "area_px": np.array([a.area for a in coco.packed], dtype=np.float64),
            "kind": ["polygon" if a.n_parts else "rle" for a in coco.packed],
            "n_parts": np.array([a.n_parts for a in coco.packed], dtype=np.int64),
            "bbox_width_px": np.array([a.bbox[2] for a in coco.packed], dtype=np.float64),
            "bbox_height_px": np.array([a.bbox[3] for a in coco.packed], dtype=np.float64),
        }
    )


def image_table(coco: CocoFile) -> "pd.DataFrame":
    """Images as a table, one row each, in the JSON's order.

    Returns:
        columns image_id, file_name, width_px, height_px, n_annotations.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "image_id": np.array([image.id for image in coco.images], dtype=np.int64),
            "file_name": [image.file_name for image in coco.images],
            "width_px": np.array([image.width for image in coco.images], dtype=np.int64),
            "height_px": np.array([image.height for image in coco.images], dtype=np.int64),
            "n_annotations": np.array([len(coco.packed_of(i.id)) for i in coco.images], np.int64),
        }
    )


def supercategory_cooccurrence(coco: CocoFile) -> "pd.DataFrame":
    """Number of images that hold both supercategories; the diagonal counts images with one.

    Returns:
        square and symmetric, int64; rows and columns are the supercategories in the order in
        which the JSON's categories name them.
    """
    import pandas as pd

    classes = _shown_classes(coco)
    name_of_category = {
        c.id: classes.names[classes.class_of_category[c.id]] for c in coco.categories
    }
    names = list(dict.fromkeys(name_of_category.values()))
    column_of_category = {i: names.index(name) for i, name in name_of_category.items()}
    row_of_image = {image.id: index for index, image in enumerate(coco.images)}
    present = np.zeros((len(coco.images), len(names)), dtype=np.int64)
    for annotation in coco.packed:
        present[row_of_image[annotation.image_id], column_of_category[annotation.category_id]] = 1
    return pd.DataFrame(present.T @ present, index=names, columns=names)


def _shown_classes(coco: CocoFile) -> ClassTable:
    """Classes by which annotations are grouped: of supercategories, of categories where need be."""
    with contextlib.suppress(ValueError):  # such as supercategory "background": no class
        return class_table("supercategory", coco.categories)
    return class_table("category", coco.categories)
