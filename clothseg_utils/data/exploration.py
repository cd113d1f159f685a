"""Tables of a dataset, for exploration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

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
        columns annotation_id, image_id, category_id, category, supercategory, area_px (the
        JSON's area), kind ("polygon" or "rle"), n_parts (0 for RLE), bbox_width_px,
        bbox_height_px.
    """
    import pandas as pd

    category_of_id = {category.id: category for category in coco.categories}
    return pd.DataFrame(
        {
            "annotation_id": np.array([a.id for a in coco.packed], dtype=np.int64),
            "image_id": np.array([a.image_id for a in coco.packed], dtype=np.int64),
            "category_id": np.array([a.category_id for a in coco.packed], dtype=np.int64),
            "category": [category_of_id[a.category_id].name for a in coco.packed],
            "supercategory": [category_of_id[a.category_id].supercategory for a in coco.packed],
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

    names = list(dict.fromkeys(category.supercategory for category in coco.categories))
    column = {name: index for index, name in enumerate(names)}
    column_of_category = {c.id: column[c.supercategory] for c in coco.categories}
    row_of_image = {image.id: index for index, image in enumerate(coco.images)}
    present = np.zeros((len(coco.images), len(names)), dtype=np.int64)
    for annotation in coco.packed:
        present[row_of_image[annotation.image_id], column_of_category[annotation.category_id]] = 1
    return pd.DataFrame(present.T @ present, index=names, columns=names)
