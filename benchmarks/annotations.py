"""Reading an annotation JSON of the size of Fashionpedia's train file."""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import (
    Row,
    annotation_data_root,
    check_equal,
    read_report,
    report,
    seconds_of,
)

N_ANNOTATIONS = 333_401  # of the official train file, which has 542 MB
N_IMAGES = 45_623
_MEAN_BYTES = 1626


def baseline(path: str) -> None:
    """json.load and the index of pycocotools."""
    from pycocotools.coco import COCO

    seconds, coco = seconds_of(lambda: COCO(path))
    report(
        seconds=seconds,
        annotations=len(coco.anns),
        indexed=sum(map(len, coco.imgToAnns.values())),
        area=sum(a["area"] for a in coco.anns.values()),
    )


def ours(path: str) -> None:
    """The checked reader."""
    from clothseg_utils.data.coco import read_annotations

    seconds, coco = seconds_of(lambda: read_annotations(path))
    report(
        seconds=seconds,
        annotations=len(coco.packed),
        indexed=sum(len(coco.packed_of(image.id)) for image in coco.images),
        area=sum(annotation.area for annotation in coco.packed),
    )


def rows() -> list[Row]:
    """Compare time and peak memory, each side in a process of its own."""
    from clothseg_utils.data.coco import annotation_path

    root, what = annotation_data_root()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_large_file(annotation_path(root, "train"), path)
        reports = [
            (
                read_report("-m", __name__, "baseline", path),
                read_report("-m", __name__, "ours", path),
            )
            for _ in range(2)
        ]
        size = path.stat().st_size
    for name in ("annotations", "indexed", "area"):
        check_equal(f"{name} of the file", sum(a[name] != b[name] for a, b in reports))
    note = (
        f"{N_ANNOTATIONS:,} annotations, {size / 1e6:.0f} MB, {what} repeated; COCO(path); as "
        "many annotations, of the same areas, of the same images; ours checks every record"
    )
    return [
        Row(
            name=f"read a JSON of Fashionpedia's size, {quantity}",
            baseline=statistics.median(a[key] for a, _ in reports),
            ours=statistics.median(b[key] for _, b in reports),
            unit=unit,
            target=target,
            n=len(reports),
            note=note,
        )
        for quantity, key, unit, target in (
            ("time", "seconds", "s", 2.0),
            ("peak memory", "peak_mb", "MB", 3.0),
        )
    ]


def write_large_file(source: Path, path: Path) -> None:
    """Repeat real records with fresh ids until there are as many, and as long, as in train."""
    content = json.loads(source.read_text())
    images = {image["id"]: image for image in content["images"]}
    chosen, n_bytes = [], 0
    for annotation in sorted(content["annotations"], key=lambda a: -len(json.dumps(a))):
        n_bytes += len(json.dumps(annotation))
        if chosen and n_bytes < _MEAN_BYTES * (len(chosen) + 1):
            break
        chosen.append(annotation)
    used = sorted({annotation["image_id"] for annotation in chosen})
    n_copies = max(1, N_IMAGES // len(used))
    position = {image_id: index for index, image_id in enumerate(used)}
    head = {name: content[name] for name in content if name not in ("images", "annotations")}
    head["images"] = [
        images[image_id] | {"id": n * len(used) + index, "file_name": f"{n}-{index}.jpg"}
        for n in range(n_copies)
        for index, image_id in enumerate(used)
    ]
    with path.open("w") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number in range(N_ANNOTATIONS):
            annotation = chosen[number % len(chosen)]
            copy_number = (number // len(chosen)) % n_copies
            image_id = copy_number * len(used) + position[annotation["image_id"]]
            file.write(", " * (number > 0))
            file.write(json.dumps(annotation | {"id": number, "image_id": image_id}))
        file.write("]}")


if __name__ == "__main__":
    {"baseline": baseline, "ours": ours}[sys.argv[1]](sys.argv[2])
