"""Photo of any size to mask of the photo's own size, for one photo, many, or a folder."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional

from clothseg_utils.inference import photo_logits, run_network
from clothseg_utils.masks import write_mask
from clothseg_utils.network import TrainedNetwork
from clothseg_utils.overlays import colorize, overlay_with_legend
from clothseg_utils.photos import PHOTO_SUFFIXES, read_photo
from clothseg_utils.progress import progress_bar
from clothseg_utils.runs import atomic_path, write_text

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def predict_logits(
    trained: TrainedNetwork, image: np.ndarray, *, squash: bool = False
) -> torch.Tensor:
    """Run the network on one photo, with its test-time options.

    One photo a batch, always: the result then does not depend on what else is predicted.

    Args:
        trained: network, its input geometry and its test-time options.
        image: (H, W, 3) uint8 RGB, 0..255, any size.
        squash: fill the square whatever the network was trained on, and look once whatever its
            options are (for `reported_protocol`).

    Returns:
        (1, C, h, w) float32 logits on the network's device, covering exactly the photo. With
        test-time options: the logarithm of the looks' mean probabilities.
    """
    if squash:
        return run_network(trained, image, trained.image_size, "squash")
    return photo_logits(trained, image)


def logits_to_mask(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size (bilinear), then take the best class of each pixel.

    Goes class by class: memory does not grow with their number, and large photos fit.

    Args:
        logits: (1, C, h, w) float32.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.

    Returns:
        (height, width) uint8 class ids; of equal logits the lower id wins, as with argmax.
    """
    with torch.inference_mode():
        best = _upsample(logits[:, :1], height, width)
        mask = torch.zeros_like(best, dtype=torch.uint8)
        for class_id in range(1, logits.shape[1]):
            candidate = _upsample(logits[:, class_id : class_id + 1], height, width)
            # Ids rise: where this class is better, its id is larger than what stands there.
            is_better = candidate > best
            torch.maximum(mask, is_better.view(torch.uint8).mul_(class_id), out=mask)
            torch.maximum(best, candidate, out=best)
    return mask[0, 0].cpu().numpy()


def logits_to_probabilities(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size, then softmax.

    Returns:
        (C, height, width) float16, 0..1; their argmax is the mask up to float16's rounding.
    """
    with torch.inference_mode():
        upsampled = _upsample(logits, height, width)
        return upsampled.softmax(dim=1)[0].half().cpu().numpy()


def logits_to_confidence(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size, then take the softmax probability of the best class.

    The largest of `logits_to_probabilities`, in float32, but class by class as in
    `logits_to_mask`: memory does not grow with their number.

    Args:
        logits: (1, C, h, w) float32.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.

    Returns:
        (height, width) float32, 1 / C..1.
    """
    with torch.inference_mode():
        best = _upsample(logits[:, :1], height, width)
        # Sum of exp(logit - best) so far. It is kept relative to the best one: no exp overflows.
        total = torch.ones_like(best)
        for class_id in range(1, logits.shape[1]):
            difference = _upsample(logits[:, class_id : class_id + 1], height, width).sub_(best)
            gain = difference.clamp(min=0)
            best += gain
            difference -= gain  # now to the new best
            total.mul_(gain.neg_().exp_()).add_(difference.exp_())
        return total.reciprocal_()[0, 0].cpu().numpy()


def _upsample(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def predict_mask(trained: TrainedNetwork, image: np.ndarray) -> np.ndarray:
    """Predict the mask of one photo.

    Args:
        trained: from `network.load_network`.
        image: (H, W, 3) uint8 RGB, 0..255, any size.

    Returns:
        (H, W) uint8 class ids.
    """
    return logits_to_mask(predict_logits(trained, image), *image.shape[:2])


def mask_to_coco(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Write a mask as COCO compressed RLE, one entry per class that occurs, background left out.

    Args:
        mask: (H, W) uint8 class ids.
        class_names: index = class id.

    Returns:
        JSON-able: height, width, and annotations with class_id, class_name, area (pixels), bbox
        (x, y, width, height) and segmentation (size, counts) for `pycocotools.mask.decode`.

    Example:
        >>> record = mask_to_coco(np.array([[0, 1]], np.uint8), ["background", "head"])
        >>> record["annotations"][0]["bbox"]
        [1.0, 0.0, 1.0, 1.0]
    """
    annotations = []
    for class_id in np.unique(mask).tolist():
        if class_id == 0:
            continue
        rle = coco_mask.encode(np.asfortranarray(mask == class_id, dtype=np.uint8))
        annotations.append(
            {
                "class_id": class_id,
                "class_name": class_names[class_id],
                "area": int(coco_mask.area(rle)),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return {"height": mask.shape[0], "width": mask.shape[1], "annotations": annotations}


@dataclass(frozen=True)
class PhotoTask:
    """One photo to predict and the path, without suffix, that its results share."""

    photo: Path
    result_stem: Path

    def results(self, *, as_json: bool = False, probabilities: bool = False) -> list[Path]:
        """Every file that this photo's prediction writes."""
        endings = [".png", "_color.png", "_overlay.jpg"]
        endings += [".json"] * as_json + [".npz"] * probabilities
        return [self.result_stem.with_name(self.result_stem.name + ending) for ending in endings]


def plan_predictions(
    inputs: Iterable[str | Path],
    out_dir: str | Path,
    *,
    as_json: bool = False,
    probabilities: bool = False,
) -> list[PhotoTask]:
    """List the photos and where their results go, before anything is written.

    A folder stands for the photos in it and below; its subfolders are kept below `out_dir`, and
    an `out_dir` inside it is not read.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: no photo at all, two photos with one result name, or a result that would
            overwrite an input.
    """
    out_dir = Path(out_dir)
    tasks: list[PhotoTask] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            photos = sorted(
                path
                for path in entry.rglob("*")
                if path.suffix.lower() in PHOTO_SUFFIXES
                and path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(entry).parts)
                and not (_is_inside(out_dir, entry) and _is_inside(path, out_dir))
            )
            tasks += [
                PhotoTask(photo, out_dir / photo.relative_to(entry).with_suffix(""))
                for photo in photos
            ]
        elif entry.exists():
            tasks.append(PhotoTask(entry, out_dir / entry.stem))
        else:
            raise FileNotFoundError(
                f"no such photo or folder: {entry}; expected an existing path. Check its spelling."
            )
    if not tasks:
        raise ValueError(
            "no photo found; expected at least one file with a suffix of "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}. Name a photo or a folder with photos."
        )
    photos = {task.photo.resolve() for task in tasks}
    writers: dict[Path, Path] = {}
    for task in tasks:
        for result in task.results(as_json=as_json, probabilities=probabilities):
            resolved = result.resolve()
            if resolved in photos:
                raise ValueError(
                    f"the result {result} would overwrite an input photo; nothing was written. "
                    "Choose another --out."
                )
            other = writers.setdefault(resolved, task.photo)
            if other != task.photo:
                raise ValueError(
                    f"{other} and {task.photo} would both write {result}; nothing was written. "
                    "Rename one of them, or predict them into two folders."
                )
    return tasks


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` lies strictly below `folder`."""
    return folder.resolve() in path.resolve().parents


@dataclass(frozen=True)
class PredictSummary:
    """What `predict_photos` did: photos done, and photo -> reason for those that failed."""

    done: list[Path]
    failed: dict[Path, str]


def predict_photos(
    trained: TrainedNetwork,
    tasks: Sequence[PhotoTask],
    *,
    as_json: bool = False,
    probabilities: bool = False,
    opacity: float = 0.55,
    progress: bool = True,
) -> PredictSummary:
    """Predict photos and write their results; an unreadable photo is reported, not fatal.

    Args:
        trained: from `network.load_network`.
        tasks: from `plan_predictions`.
        as_json: write `<stem>.json` with COCO compressed RLE too.
        probabilities: write `<stem>.npz` with `probabilities` (C, H, W) float16, 0..1, too.
        opacity: of the class colour over the photo, 0..1.
        progress: show a bar, or lines where nobody watches.
    """
    summary = PredictSummary([], {})
    reads = read_ahead(lambda task: read_photo(task.photo), tasks)
    for task, image in progress_bar(
        reads, total=len(tasks), desc="predict", unit="photo", disable=not progress
    ):
        if isinstance(image, Exception):
            summary.failed[task.photo] = str(image)
            continue
        logits = predict_logits(trained, image)
        mask = logits_to_mask(logits, *image.shape[:2])
        stem = task.result_stem
        write_mask(stem.with_name(stem.name + ".png"), mask)
        color_mask = colorize(mask, trained.colors)
        write_image(stem.with_name(stem.name + "_color.png"), color_mask)
        blended = overlay_with_legend(
            image, mask, trained.class_names, trained.colors, opacity=opacity
        )
        write_image(stem.with_name(stem.name + "_overlay.jpg"), blended)
        if as_json:
            annotations = mask_to_coco(mask, trained.class_names)
            text = json.dumps({"file_name": task.photo.name, **annotations})
            write_text(stem.with_name(stem.name + ".json"), text + "\n")
        if probabilities:
            with atomic_path(stem.with_name(stem.name + ".npz")) as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=logits_to_probabilities(logits, *image.shape[:2]),
                    class_names=np.array(trained.class_names),
                )
        summary.done.append(task.photo)
    return summary


def read_ahead(
    read: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Result | Exception]]:
    """Read the next item in a thread while the caller works on this one.

    Yields:
        Each item with what `read` returned for it, or with the ValueError or OSError it raised.
    """

    def attempt(item: _Item) -> _Result | Exception:
        try:
            return read(item)
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor(max_workers=1) as executor:
        iterator = iter(items)
        try:
            item = next(iterator)
        except StopIteration:
            return
        pending = executor.submit(attempt, item)
        for following in iterator:
            result = pending.result()
            pending = executor.submit(attempt, following)
            yield item, result
            item = following
        yield item, pending.result()


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the suffix, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path} could not be written; expected a writable folder and space.")
