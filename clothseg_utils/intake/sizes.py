"""Photos whose size is not what the annotation file says: how its coordinates become theirs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pycocotools import mask as mask_api

from clothseg_utils.core.progress import progress_bar
from clothseg_utils.data.coco import PackedAnnotation
from clothseg_utils.data.photos import read_photo_size
from clothseg_utils.data.rle import Rle, Segmentation

_TURNING = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_MOST_ROUNDING = 0.05  # of the ratio, in photos so small that a pixel is more
_AGREEMENT = 0.9  # of the photos that tell, so that the others of the file follow them


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


_Frame = Literal["file", "photo"]


@dataclass(frozen=True)
class Sized:
    """An image of the file beside its photo.

    Attributes:
        file_wh: (width, height) as the file says.
        photo: the photo's own size.
        packed: annotations of the image; looked at only where the sizes differ.
    """

    file_wh: tuple[int, int]
    photo: PhotoSize
    packed: Sequence[PackedAnnotation] = ()

    @property
    def photo_wh(self) -> tuple[int, int]:
        """(width, height) of the photo."""
        return self.photo.width, self.photo.height

    @property
    def is_equal(self) -> bool:
        """Whether there is nothing to do."""
        return self.file_wh == self.photo_wh

    @property
    def relation(self) -> Literal["scaled", "swapped", "other"]:
        """How two sizes that differ belong together."""
        if _is_scaled(self.file_wh, self.photo_wh):
            return "scaled"
        return "swapped" if _is_scaled(self.file_wh[::-1], self.photo_wh) else "other"

    @property
    def frame(self) -> _Frame | None:
        """Where the outlines lie: in the size that the file says, or upright in the photo's own.

        An outline that leaves one of the two frames and stays in the other tells; None where no
        outline does.
        """
        other = self.file_wh[::-1] if self.relation == "swapped" else self.photo_wh
        leaves_file, leaves_other = False, False
        for packed in self.packed:
            segmentation = packed.unpack().segmentation
            if isinstance(segmentation, Rle):
                leaves_other |= segmentation.size != other[::-1]
                leaves_file |= segmentation.size != self.file_wh[::-1]
                continue
            for part in segmentation:
                far = max(part[::2]), max(part[1::2])
                leaves_file |= _leaves(far, self.file_wh)
                leaves_other |= _leaves(far, other)
        if leaves_file == leaves_other:
            return None
        return "photo" if leaves_file else "file"


def _leaves(far: tuple[float, float], frame_wh: tuple[int, int]) -> bool:
    # Outlines drawn a little past the edge are common.
    return any(value > 1.02 * side + 1 for value, side in zip(far, frame_wh, strict=True))


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
    return PhotoSize(width, height, orientation if orientation in _TURNING else 1)


def fit_photos(images: Mapping[int, Sized]) -> tuple[dict[int, Fit], dict[int, str]]:
    """Find for each image of a file how its annotations fit the photo.

    Sizes are swapped where width and height are those of the unturned photo, scaled where the
    ratio is the same. Outlines that leave one of the two frames tell in which they lie; where a
    photo's do not, those of the other photos of the file do: one tool made them all.

    Returns:
        the fit of each image, and for those that cannot be healed why.
    """
    frames = {i: sized.frame for i, sized in images.items() if not sized.is_equal}
    usual = {
        relation: _usual(frames[i] for i in frames if images[i].relation == relation)
        for relation in ("scaled", "swapped")
    }
    fits: dict[int, Fit] = {}
    misfits: dict[int, str] = {}
    for image_id, sized in images.items():
        if sized.is_equal:
            fits[image_id] = Fit("", *sized.photo_wh)
            continue
        fit = _fit(sized, frames[image_id] or usual.get(sized.relation))
        if isinstance(fit, Fit):
            fits[image_id] = fit
        else:
            told = " x ".join(map(str, sized.file_wh))
            own = " x ".join(map(str, sized.photo_wh))
            misfits[image_id] = f"the file says {told} px, the photo has {own} px{fit}"
    return fits, misfits


def _usual(frames: Iterable[_Frame | None]) -> _Frame | None:
    counts = Counter(frame for frame in frames if frame is not None)
    for frame, count in counts.items():
        if count >= _AGREEMENT * counts.total():
            return frame
    return None


def _fit(sized: Sized, frame: _Frame | None) -> Fit | str:
    """Return how the annotations fit the photo, or the end of a sentence that says why not."""
    width, height = sized.photo_wh
    if sized.relation == "other":
        return ", another shape"
    if sized.relation == "scaled":
        if frame == "photo":
            return Fit("size taken from the photo, where the outlines lie", width, height)
        scale = width / sized.file_wh[0], height / sized.file_wh[1]
        return Fit("annotations scaled to the photo", width, height, scale=scale)
    upright = sized.file_wh[::-1]
    scale = width / upright[0], height / upright[1]
    has_exif = sized.photo.orientation != 1
    # Labelling tools show photos upright; their exports read the size of the unturned file.
    if frame == "photo" or (frame is None and has_exif):
        return Fit("width and height swapped, as the photo is turned", width, height, scale=scale)
    if not has_exif:
        return ", turned, and neither EXIF nor an outline says which way"
    how = "annotations turned as the photo is"
    return Fit(how, width, height, sized.photo.orientation, scale)


def move_segmentation(
    segmentation: Segmentation, fit: Fit, file_wh: tuple[int, int]
) -> Segmentation:
    """Move a segmentation to where it lies in the photo.

    Polygons are moved exactly. Run lengths are resized as masks are, by nearest pixel.

    Args:
        segmentation: polygons, or run lengths of the file's size or of the photo's.
        fit: of the image.
        file_wh: (width, height) as the file says.

    Example:
        >>> half = Fit("", 10, 10, scale=(0.5, 0.5))
        >>> move_segmentation([[0, 0, 8, 0, 8, 6]], half, (20, 20))
        [[0.0, 0.0, 4.0, 0.0, 4.0, 3.0]]
    """
    if isinstance(segmentation, Rle):
        return _move_rle(segmentation, fit)
    return [_move_part(part, fit, file_wh) for part in segmentation]


def _move_part(part: Sequence[float], fit: Fit, file_wh: tuple[int, int]) -> list[float]:
    x, y = np.array(part, float).reshape(-1, 2).T
    width, height = file_wh
    turned = {
        1: (x, y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }
    points = np.stack(turned[fit.orientation], axis=1) * fit.scale
    return points.ravel().tolist()


def _move_rle(rle: Rle, fit: Fit) -> Rle:
    if rle.size == (fit.height, fit.width):
        return rle
    code = {"size": list(rle.size), "counts": rle.counts}
    packed = code if isinstance(rle.counts, str) else mask_api.frPyObjects(code, *rle.size)
    mask = mask_api.decode(packed)
    turned = {
        1: mask,
        5: mask.T,
        6: np.rot90(mask, -1),
        7: np.rot90(mask.T, 2),
        8: np.rot90(mask),
    }
    upright = np.ascontiguousarray(turned[fit.orientation])
    size_wh = fit.width, fit.height
    resized = cv2.resize(upright, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
    counts = mask_api.encode(np.asfortranarray(resized))["counts"]
    return Rle((fit.height, fit.width), counts.decode())
