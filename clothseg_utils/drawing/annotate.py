"""What a canvas shows, as annotations: polygons or run lengths that paint back to the picture."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from clothseg_utils.core.classes import FASHIONPEDIA_CATEGORIES
from clothseg_utils.drawing.canvas import Canvas

Polygons = list[list[float]]  # each x0, y0, x1, y1, ... in pixels

_MIN_VISIBLE_PX = 6  # what shows less than this is too little to annotate

# Official ids of the attributes that the drawings use: (id, name, supercategory, taxonomy id).
ATTRIBUTES = (
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


def annotate(canvas: Canvas) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Turn a finished canvas into annotations that paint back to exactly what it shows.

    A thing's mask is where it was drawn and is seen, and where something that lies on it (a
    pocket on a coat) is seen instead. Painted in the order (-area, position), later on top, the
    annotations give the category map, to the pixel.

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
        category_id = canvas.layers[index].category_id
        annotations.append(
            {
                "category_id": category_id,
                "attribute_ids": _attribute_ids(category_id),
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
    drawn = {index: canvas.layers[index].drawn for index in _present(owner)}
    masks = {index: _lies_on(canvas, index)[owner] & mask for index, mask in drawn.items()}
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
            masks[index] &= wrong != index


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


def mask_to_segmentation(mask: np.ndarray) -> tuple[Polygons | dict[str, Any], dict[str, Any]]:
    """Write a mask, (H, W) bool, not empty, as polygons, or as RLE where it has a hole.

    Returns:
        The segmentation for the JSON, and pycocotools' own encoding; both decode to `mask`.

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


def _to_polygons(outlines: Sequence[np.ndarray], tolerance: float, x: int, y: int) -> Polygons:
    polygons = []
    for outline in outlines:
        short = cv2.approxPolyDP(outline, tolerance, True)[:, 0]
        if len(short) < 3:
            short = outline[:, 0]
        # sub-pixels 0, 1, 2 of a pixel are at 0.2, 0.5, 0.8: pycocotools rounds to fifths
        places = np.round(short // 3 + 0.2 + 0.3 * (short % 3) + [x, y], 1)
        polygons.append(places.ravel().tolist())
    return polygons


def _attribute_ids(category_id: int) -> list[int]:
    name, supercategory, _ = FASHIONPEDIA_CATEGORIES[category_id]
    if supercategory in ("upperbody", "lowerbody", "wholebody"):
        return [115, 136, 295]
    return {"sleeve": [204], "pocket": [218]}.get(name, [])
