"""Photos whose size is not what the annotation file says: how its coordinates become theirs."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from clothseg_utils.core.progress import progress_bar
from clothseg_utils.data.coco import PackedAnnotation
from clothseg_utils.data.photos import read_photo_size
from clothseg_utils.data.rle import Rle, Segmentation

# EXIF orientations that swap width and height, and what turns the pixels as stored upright.
_UPRIGHT = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_ROUNDING = 0.05  # of the ratio, in photos so small that a pixel is more
_AGREEMENT = 0.9  # of the photos that tell, so that the others of the file follow them
_FEW = 3  # photos whose outlines cross an edge by a pixel, so that they tell
_MANY = 10  # annotations that together reach near the edge of the frame they were drawn in
_REACH = 0.8  # of the frame's width or height
_MUCH_SMALLER = 0.75  # of the other frame's side; garments may well leave a narrower rim free
_KEPT = "size taken from the photo, where the outlines lie"
_SCALED = "annotations scaled to the photo"
_SWAPPED = "width and height swapped, as the photo is turned"
_TURNED = "annotations turned as the photo is"
_GUESS = {
    "scaled": "; no outline tells in which size they were drawn, taken as the file's",
    "swapped": "; no outline tells which way, taken as drawn on the upright photo",
}


@dataclass(frozen=True)
class PhotoSize:
    """Size of a photo as `read_photo` gives it, and how the file is turned to be seen so.

    Attributes:
        width, height: pixels, upright.
        orientation: of EXIF, 1..8; 1 where it says nothing.
    """

    width: int
    height: int
    orientation: int = 1


@dataclass(frozen=True)
class Fit:
    """How an image's annotations are moved to fit its photo.

    Attributes:
        how: what was done, as a line says it; "" where nothing was to do.
        width, height: of the photo, pixels.
        orientation: of EXIF, by which coordinates are turned; 1 for none.
        scale: of x and of y, once turned.
    """

    how: str
    width: int
    height: int
    orientation: int = 1
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def moves(self) -> bool:
        """Whether any coordinate changes."""
        return self.orientation != 1 or self.scale != (1.0, 1.0)

    @property
    def frame_wh(self) -> tuple[float, float]:
        """(width, height) in which the coordinates lie before they are moved."""
        upright_wh = self.width / self.scale[0], self.height / self.scale[1]
        return upright_wh if self.orientation == 1 else upright_wh[::-1]


_Lie = Literal["photo", "scaled", "swapped", "turned"]
"""Where coordinates lie: in the photo as it is seen; there, once scaled; in the size that the file
says, once its width and height are swapped; or in the photo before EXIF turns it."""


@dataclass(frozen=True)
class Sized:
    """An image of the file beside its photo.

    Attributes:
        file_wh: (width, height) as the file says.
        photo: the photo's own size.
        packed: annotations of the image; looked at only where there is more than one way.
    """

    file_wh: tuple[int, int]
    photo: PhotoSize
    packed: Sequence[PackedAnnotation] = ()

    @property
    def photo_wh(self) -> tuple[int, int]:
        """(width, height) of the photo."""
        return self.photo.width, self.photo.height

    @property
    def is_turned(self) -> bool:
        """Whether EXIF turns the photo on its side."""
        return self.photo.orientation != 1

    @property
    def relation(self) -> Literal["equal", "scaled", "swapped", "other"]:
        """How the two sizes belong together."""
        if self.file_wh == self.photo_wh:
            return "equal"
        if _is_scaled(self.file_wh, self.photo_wh):
            return "scaled"
        return "swapped" if _is_scaled(self.file_wh[::-1], self.photo_wh) else "other"

    @cached_property
    def frames(self) -> dict[_Lie, tuple[int, int]]:
        """(width, height) in which coordinates may lie, by what that means; the likeliest first."""
        file_wh, turned_wh = self.file_wh, self.file_wh[::-1]
        frames: dict[_Lie, tuple[int, int]] = {}
        if self.relation == "equal":
            frames["photo"] = file_wh
        elif self.relation == "scaled":
            frames["scaled"] = file_wh
            if _are_apart(file_wh, self.photo_wh):
                frames["photo"] = self.photo_wh
        elif self.relation == "swapped":
            return {"swapped": turned_wh, "turned": file_wh}
        else:
            return frames
        if self.is_turned and turned_wh != file_wh:
            frames["turned"] = turned_wh
        return frames

    @cached_property
    def extent(self) -> tuple[float, float, frozenset[tuple[int, int]]]:
        """How far outlines go in x and y, and the sizes (width, height) of run lengths."""
        far_x = far_y = 0.0
        sizes = set()
        for packed in self.packed:
            segmentation = packed.unpack().segmentation
            if isinstance(segmentation, Rle):
                sizes.add((segmentation.size[1], segmentation.size[0]))
                continue
            far_x = max(far_x, *(max(part[::2]) for part in segmentation))
            far_y = max(far_y, *(max(part[1::2]) for part in segmentation))
        return far_x, far_y, frozenset(sizes)

    def lie(self, *, exact: bool = False) -> _Lie | None:
        """Where coordinates lie, if all but one of the frames are too small for the outlines.

        Args:
            exact: a pixel tells too, though outlines are often drawn a little past the edge.
        """
        far_x, far_y, sizes = self.extent
        fitting: list[_Lie] = []
        for lie, frame in self.frames.items():
            # Run lengths of the photo's own size stay as they are beside others.
            is_size = not sizes or (frame in sizes and sizes <= {frame, self.photo_wh})
            if is_size and not _leaves((far_x, far_y), frame, exact=exact):
                fitting.append(lie)
        return fitting[0] if len(fitting) == 1 else None


def _leaves(far: tuple[float, float], frame_wh: tuple[int, int], *, exact: bool = False) -> bool:
    return any(
        value > side + (0.5 if exact else past_edge(side))
        for value, side in zip(far, frame_wh, strict=True)
    )


def past_edge(side: int) -> float:
    """How far past the edge outlines are commonly drawn, pixels."""
    return 0.02 * side + 1


def _are_apart(one_wh: tuple[int, int], other_wh: tuple[int, int]) -> bool:
    """Whether two frames differ by more than outlines are drawn past the edge."""
    pairs = zip(one_wh, other_wh, strict=True)
    return any(abs(a - b) > past_edge(min(a, b)) for a, b in pairs)


def _is_scaled(one_wh: tuple[int, int], other_wh: tuple[int, int]) -> bool:
    """Whether one size is the other one enlarged, but for the rounding of a pixel."""
    x, y = (b / a for a, b in zip(one_wh, other_wh, strict=True))
    return abs(x / y - 1) <= min(_MOST_ROUNDING, 1 / min(*one_wh, *other_wh))


def photo_sizes(photos: Mapping[int, Path]) -> tuple[dict[int, PhotoSize], dict[int, str]]:
    """Read sizes out of photos' headers; no pixel is decoded.

    Returns:
        size of each photo, and for those without one what is wrong.
    """
    sizes: dict[int, PhotoSize] = {}
    broken: dict[int, str] = {}
    for image_id, path in progress_bar(photos.items(), desc="sizes of photos", unit="photo"):
        try:
            sizes[image_id] = read_size(path)
        except (OSError, ValueError) as error:
            broken[image_id] = str(error).replace(f"photo {path} ", "", 1).partition(";")[0]
    return sizes, broken


def read_size(path: Path) -> PhotoSize:
    """Read a photo's size out of its head.

    Raises:
        ValueError: the file is empty, no photo, or too large.
    """
    width, height, orientation = read_photo_size(path)
    return PhotoSize(width, height, orientation if orientation in _UPRIGHT else 1)


def fit_photos(images: Mapping[int, Sized]) -> tuple[dict[int, Fit], dict[int, str]]:
    """Find for each image of a file how its annotations fit the photo.

    Sizes are swapped where width and height are those of the unturned photo, scaled where the
    ratio is the same. Outlines too large for all frames but one tell in which they lie; where a
    photo's do not, those of the other photos of the file do: one tool made them all.

    Returns:
        the fit of each image, and for those that cannot be healed why.
    """
    lies = {i: sized.lie() for i, sized in images.items() if len(sized.frames) > 1}
    usual: dict[str, tuple[_Lie, str]] = {}
    for relation in ("equal", "scaled", "swapped"):
        same = {i: images[i] for i in lies if images[i].relation == relation}
        found = _usual(same.values(), [lies[i] for i in same])
        if found is not None:
            usual[relation] = found
    fits: dict[int, Fit] = {}
    misfits: dict[int, str] = {}
    for image_id, sized in images.items():
        lie, why = lies.get(image_id), ""
        if lie is None and sized.relation in usual and len(sized.frames) > 1:
            lie, why = usual[sized.relation]
        fit = _fit(sized, lie, why)
        if isinstance(fit, Fit):
            fits[image_id] = fit
        else:
            told = " x ".join(map(str, sized.file_wh))
            own = " x ".join(map(str, sized.photo_wh))
            misfits[image_id] = f"the file says {told} px, the photo has {own} px{fit}"
    return fits, misfits


def _usual(images: Collection[Sized], lies: Iterable[_Lie | None]) -> tuple[_Lie, str] | None:
    """Where coordinates lie in most photos that tell, and what is to be said about it."""
    told = [lie for lie in lies if lie is not None]
    if not told:
        # Frames that are nearly square differ by less than outlines go past the edge.
        square = [sized for sized in images if not _are_apart(sized.file_wh, sized.file_wh[::-1])]
        told = [lie for sized in square if (lie := sized.lie(exact=True)) is not None]
        told = told if len(told) >= _FEW else []
    for lie, count in Counter(told).items():
        if count >= _AGREEMENT * len(told):
            return lie, ""
    return None if told else _reached(images)


def _reached(images: Iterable[Sized]) -> tuple[_Lie, str] | None:
    """The smaller of a file's and its photos' frames, where outlines fill it and none leaves it.

    Of many outlines some come near the edge of the frame in which they were drawn.
    """
    reach: dict[_Lie, float] = {}
    n_annotations: Counter[_Lie] = Counter()
    for sized in images:
        if sized.relation != "scaled" or not sized.packed:
            continue
        smaller_wh, far = min(sized.file_wh, sized.photo_wh), sized.extent[:2]
        if _leaves(far, smaller_wh):
            return None
        if smaller_wh[0] > _MUCH_SMALLER * max(sized.file_wh[0], sized.photo_wh[0]):
            continue
        lie: _Lie = "photo" if smaller_wh == sized.photo_wh else "scaled"
        shares = (value / side for value, side in zip(far, smaller_wh, strict=True))
        reach[lie] = max(reach.get(lie, 0), *shares)
        n_annotations[lie] += len(sized.packed)
    filled = [lie for lie in reach if reach[lie] > _REACH and n_annotations[lie] >= _MANY]
    if len(filled) != 1:
        return None
    return filled[0], f"; no outline of {n_annotations[filled[0]]:,} goes beyond"


def _fit(sized: Sized, lie: _Lie | None, why: str) -> Fit | str:
    """Return how the annotations fit the photo, or the end of a sentence that says why not.

    Args:
        sized: the image.
        lie: where its coordinates lie; None where nothing tells.
        why: what is to be said about that.
    """
    width, height = sized.photo_wh
    if sized.relation == "other":
        return ", another shape"
    if lie in (None, "turned") and sized.relation == "swapped" and not sized.is_turned:
        return ", turned, and neither EXIF nor an outline says which way"
    # Labelling tools show photos upright; their exports read the size of the unturned file.
    where = lie if lie is not None else next(iter(sized.frames))
    if where == "photo":
        return Fit("" if sized.relation == "equal" else f"{_KEPT}{why}", width, height)
    upright_wh = sized.file_wh[::-1] if sized.relation == "swapped" else sized.file_wh
    scale = width / upright_wh[0], height / upright_wh[1]
    if where == "turned":
        return Fit(_TURNED, width, height, sized.photo.orientation, scale)
    if lie is None and sized.packed and (where == "swapped" or "photo" in sized.frames):
        why = _GUESS[where]
    return Fit(f"{_SCALED if where == 'scaled' else _SWAPPED}{why}", width, height, scale=scale)


def move_segmentation(segmentation: Segmentation, fit: Fit) -> Segmentation:
    """Move a segmentation to where it lies in the photo.

    Polygons are moved exactly. Run lengths are resized as masks are, by nearest pixel.

    Args:
        segmentation: polygons, or run lengths of the file's size or of the photo's.
        fit: of the image.

    Example:
        >>> half = Fit("", 10, 10, scale=(0.5, 0.5))
        >>> move_segmentation([[0, 0, 8, 0, 8, 6]], half)
        [[0.0, 0.0, 4.0, 0.0, 4.0, 3.0]]
    """
    if isinstance(segmentation, Rle):
        return _move_rle(segmentation, fit)
    return [move_part(part, fit) for part in segmentation]


def move_part(part: Sequence[float], fit: Fit) -> list[float]:
    x, y = np.array(part, float).reshape(-1, 2).T
    width, height = fit.width / fit.scale[0], fit.height / fit.scale[1]  # turned, not yet scaled
    turned = {
        1: (x, y),
        5: (y, x),
        6: (width - y, x),
        7: (width - y, height - x),
        8: (y, height - x),
    }
    points = np.stack(turned[fit.orientation], axis=1) * fit.scale
    return points.ravel().tolist()


def _move_rle(rle: Rle, fit: Fit) -> Rle:
    if rle.size == (fit.height, fit.width):
        return rle
    code = {"size": list(rle.size), "counts": rle.counts}
    packed = code if isinstance(rle.counts, str) else mask_api.frPyObjects(code, *rle.size)
    mask = Image.fromarray(mask_api.decode(packed))
    moved = move_raster(mask, fit.orientation, (fit.width, fit.height))
    counts = mask_api.encode(np.asfortranarray(moved))["counts"]
    return Rle((fit.height, fit.width), counts.decode())


def move_raster(mask: Image.Image, orientation: int, size_wh: tuple[int, int]) -> Image.Image:
    """Turn a mask of the pixels as stored as EXIF turns the photo, and scale it by nearest pixel.

    Args:
        mask: of any mode.
        orientation: of EXIF, 5..8; 1 turns nothing.
        size_wh: of the photo as it is seen, pixels.
    """
    upright = mask if orientation == 1 else mask.transpose(_UPRIGHT[orientation])
    return upright if upright.size == size_wh else upright.resize(size_wh, Image.Resampling.NEAREST)
