"""Labels as other tools write them, one row each: taken whole, or what is lost is said.

Every row changes one sound export: ten photos, a shirt and trousers on each.
"""

import copy
import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from clothseg_utils.data.audit import audit
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.conversion import Conversion
from clothseg_utils.data.masks import rasterize_split
from clothseg_utils.intake.convert import convert_photos

WIDTH, HEIGHT, N_PHOTOS = 64, 48, 10
SHIRT, PANTS = (11, 5, 41, 23), (13, 22, 39, 42)  # x0, y0, x1, y1; a row of pixels overlaps
PIXELS = {"upperbody": 540 - 26, "lowerbody": 520}  # of each photo: the smaller one is on top
OTHER_SIZE = "photos of another size than the file says"


def box_part(box: tuple[float, ...]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def rle(box: tuple[int, ...], width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    """Uncompressed run lengths of a box."""
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=2)), prepend=0)
    return {"size": [height, width], "counts": runs.tolist()}


def annotation(number: int, image_id: int, category_id: int, box: tuple[int, ...]) -> dict:
    x0, y0, x1, y1 = box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": [box_part(box)],
        "area": float((x1 - x0) * (y1 - y0)),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
    }


def sound_file(n_photos: int = N_PHOTOS) -> dict[str, Any]:
    images, annotations = [], []
    for i in range(n_photos):
        name = f"p{i:02d}.jpg"
        images.append({"id": i + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations.append(annotation(2 * i + 1, i + 1, 1, SHIRT))
        annotations.append(annotation(2 * i + 2, i + 1, 2, PANTS))
    return {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "shirt", "supercategory": "upperbody"},
            {"id": 2, "name": "pants", "supercategory": "lowerbody"},
        ],
    }


def write_photo(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int = 1) -> None:
    """A photo of noise, another one for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.stem + path.parent.name))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, format="JPEG", exif=exif)


class Export:
    """What a user has: `shop.json` and `photos/`, to be changed and converted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coco_file = folder / "shop.json"
        self.photos = folder / "photos"
        self.out = folder / "out"
        self.file = sound_file()
        self.encode: Callable[[dict], bytes] = lambda file: json.dumps(file).encode()
        self.size_wh, self.orientations = (WIDTH, HEIGHT), [1] * N_PHOTOS
        self.options: dict[str, Any] = {}
        self.disk_names = [f"p{i:02d}.jpg" for i in range(N_PHOTOS)]

    def each(self, key: str, **changes: Any) -> None:
        """Set fields of all records; a function gets the record."""
        for record in self.file[key]:
            for name, value in changes.items():
                record[name] = value(record) if callable(value) else value

    def convert(self, **options: Any) -> Conversion:
        for name, orientation in zip(self.disk_names, self.orientations, strict=True):
            write_photo(self.photos / name, *self.size_wh, orientation)
        self.coco_file.write_bytes(self.encode(self.file))
        options = {"annotations": [self.coco_file]} | self.options | options
        return convert_photos(self.photos, self.out, **options)

    def class_pixels(self) -> dict[str, int]:
        """Pixels of each class in the masks, over all splits."""
        total: dict[str, int] = {}
        for path in sorted(self.out.glob("*.json")):
            if path.name.startswith("instances"):
                index = rasterize_split(path, self.folder / path.stem, "supercategory")
                for name, count in zip(index.class_names, index.class_pixels, strict=True):
                    total[name] = total.get(name, 0) + int(count)
        del total["background"]
        return {name: count for name, count in total.items() if count}

    def problems(self) -> list[Any]:
        """What the audit finds in the dataset, with its photos."""
        found = []
        for split in ("train", "val"):
            coco = read_annotations(annotation_path(self.out, split), strict=True)
            found += audit(coco, image_dir=images_dir(self.out, split)).problems
        return found


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path)


# --- taken whole ---------------------------------------------------------------------------------


def turned(box: tuple[int, ...]) -> tuple[int, ...]:
    """Where a box lies once its photo is turned by EXIF orientation 6."""
    x0, y0, x1, y1 = box
    return HEIGHT - y1, x0, HEIGHT - y0, x1


def annotated_upright(export: Export, image_ids: range) -> None:
    for record in export.file["annotations"]:
        if record["image_id"] in image_ids:
            box = SHIRT if record["category_id"] == 1 else PANTS
            record |= annotation(
                record["id"], record["image_id"], record["category_id"], turned(box)
            )


def exif_turned(export: Export) -> None:
    export.orientations = [6] * N_PHOTOS
    annotated_upright(export, range(1, N_PHOTOS + 1))


def exif_turned_half(export: Export) -> None:
    export.orientations = [1, 6] * (N_PHOTOS // 2)
    annotated_upright(export, range(2, N_PHOTOS + 1, 2))


def exif_turned_annotations_not(export: Export) -> None:
    """Further right than the turned photo is wide."""
    export.orientations = [6] * N_PHOTOS
    moved(export, 20, 0)


def exif_turned_runs(export: Export) -> None:
    export.orientations = [8] * N_PHOTOS
    export.each(
        "annotations", segmentation=lambda r: rle(SHIRT if r["category_id"] == 1 else PANTS)
    )


def exif_size_upright(export: Export) -> None:
    """Only the outlines lie in the photo before EXIF turns it."""
    exif_turned_annotations_not(export)
    export.each("images", width=HEIGHT, height=WIDTH)


def exif_size_upright_runs(export: Export) -> None:
    exif_turned_runs(export)
    export.each("images", width=HEIGHT, height=WIDTH)


def exif_size_upright_runs_alone(export: Export) -> None:
    """Neither boxes nor areas."""
    exif_size_upright_runs(export)
    without("annotations", "area", "bbox")(export)


def exif_turned_runs_upright(export: Export) -> None:
    """Run lengths of the photo as it is seen; only the file's width and height are swapped."""
    exif_turned(export)
    boxes = {1: turned(SHIRT), 2: turned(PANTS)}
    export.each("annotations", segmentation=lambda r: rle(boxes[r["category_id"]], HEIGHT, WIDTH))


def photos_shrunk_runs_too(export: Export) -> None:
    boxes = {1: SHIRT, 2: PANTS}
    export.each("images", width=10 * WIDTH, height=10 * HEIGHT)
    export.each("annotations", segmentation=lambda r: rle(boxes[r["category_id"]]))


def exif_stripped(export: Export) -> None:
    """Further down than the file says that the photo is high."""
    export.size_wh = HEIGHT, WIDTH
    annotated_upright(export, range(1, N_PHOTOS + 1))
    moved(export, 0, 20)


def moved(export: Export, x: int, y: int) -> None:
    export.each(
        "annotations",
        segmentation=lambda r: [np.add(r["segmentation"][0], [x, y] * 4).tolist()],
        bbox=lambda r: np.add(r["bbox"], [x, y, 0, 0]).tolist(),
    )


def photos_shrunk(export: Export) -> None:
    """The file is of photos ten times as large."""
    export.each("images", width=10 * WIDTH, height=10 * HEIGHT)
    export.each(
        "annotations", segmentation=lambda r: [[10 * value for value in r["segmentation"][0]]]
    )


def photos_enlarged(export: Export) -> None:
    export.each("images", width=WIDTH // 2, height=HEIGHT // 2)
    export.each("annotations", segmentation=lambda r: [[v / 2 for v in r["segmentation"][0]]])


def sizes_of_other_photos(export: Export) -> None:
    """Only width and height are wrong: the outlines lie all over the photo."""
    export.each("images", width=WIDTH // 2, height=HEIGHT // 2)


def named(names: Callable[[int], str], on_disk: Callable[[int], str]) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        export.disk_names = [on_disk(i) for i in range(N_PHOTOS)]
        export.each("images", file_name=lambda record: names(record["id"] - 1))

    return change


def changed(key: str, **changes: Any) -> Callable[[Export], None]:
    return lambda export: export.each(key, **changes)


def topped(**changes: Any) -> Callable[[Export], None]:
    return lambda export: export.file.update(changes)


def without(key: str, *fields: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for record in export.file[key]:
            for name in fields:
                del record[name]

    return change


def text_ids(export: Export) -> None:
    export.each("images", id=lambda r: f"img-{r['id']}")
    export.each("annotations", image_id=lambda r: f"img-{r['image_id']}")


def encoded(encode: Callable[[str], bytes]) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        export.encode = lambda file: encode(json.dumps(file))

    return change


def zipped(export: Export) -> None:
    export.coco_file = export.folder / "shop.json.gz"
    export.encode = lambda file: gzip.compress(json.dumps(file).encode())


def shares(record: dict) -> list[list[float]]:
    sides = (WIDTH, HEIGHT) * 4
    return [[value / side for value, side in zip(record["segmentation"][0], sides, strict=True)]]


def some_in_shares(export: Export) -> None:
    for record in export.file["annotations"][:4]:
        box = np.divide(record["bbox"], (WIDTH, HEIGHT) * 2).tolist()
        record |= {"segmentation": shares(record), "bbox": box, "area": 0.2}


def named_by_url_alone(export: Export) -> None:
    """As LVIS does."""
    for record in export.file["images"]:
        record["coco_url"] = f"http://images.example.org/train2017/{record.pop('file_name')}"


def listed_twice(export: Export) -> None:
    export.file["images"].append(export.file["images"][0] | {"id": 99})
    export.file["annotations"][1]["image_id"] = 99


def root_category(export: Export) -> None:
    for category in export.file["categories"]:
        category["supercategory"] = "clothes-X1"
    export.file["categories"].insert(0, {"id": 0, "name": "clothes-X1", "supercategory": "none"})
    export.options["classes_file"] = export.folder / "classes.json"
    export.options["classes_file"].write_text('{"shirt": "upperbody", "pants": "lowerbody"}')


def odd_case(export: Export) -> None:
    """Half of the shirts are of another category, whose name differs in case and space."""
    export.file["categories"].append({"id": 9, "name": "Shirt ", "supercategory": "Upperbody"})
    for record in export.file["annotations"][::4]:
        record["category_id"] = 9


def background_category(export: Export) -> None:
    export.file["categories"].append({"id": 3, "name": "Background", "supercategory": ""})


WHOLE = {
    "sound": (lambda export: None, None),
    # sizes
    "exif, annotated upright": (exif_turned, f"{OTHER_SIZE}, width and height swapped"),
    "exif, half of them": (exif_turned_half, f"{OTHER_SIZE}, width and height swapped"),
    "exif, annotated unturned": (exif_turned_annotations_not, f"{OTHER_SIZE}, annotations turned"),
    "exif, run lengths": (exif_turned_runs, f"{OTHER_SIZE}, annotations turned"),
    "exif, size upright": (exif_size_upright, "unturned one, turned with it"),
    "exif, size upright, run lengths": (exif_size_upright_runs, "unturned one, turned with it"),
    "exif, size upright, run lengths alone": (exif_size_upright_runs_alone, "turned with it"),
    "exif, run lengths upright": (
        exif_turned_runs_upright,
        f"{OTHER_SIZE}, width and height swapped",
    ),
    "photos shrunk, run lengths too": (
        photos_shrunk_runs_too,
        f"{OTHER_SIZE}, size taken from the photo",
    ),
    "exif, taken out since": (exif_stripped, f"{OTHER_SIZE}, width and height swapped"),
    "photos shrunk": (photos_shrunk, f"{OTHER_SIZE}, annotations scaled"),
    "sizes of other photos": (sizes_of_other_photos, f"{OTHER_SIZE}, size taken from the photo"),
    "no sizes": (without("images", "width", "height"), "width and height taken from the photo"),
    "sizes null": (changed("images", width=None), "width and height taken from the photo"),
    # names
    "upload paths": (
        named(
            lambda i: f"/data/local-files/?d=shop/my%20photo%20{i}%20%231%20100%25.jpg",
            lambda i: f"my photo {i} #1 100%.jpg",
        ),
        None,
    ),
    "urls": (named(lambda i: f"https://x.com/shop/p{i}.jpg?X-Amz=1", lambda i: f"p{i}.jpg"), None),
    "case of the suffix": (named(lambda i: f"p{i}.jpg", lambda i: f"p{i}.JPG"), None),
    "no name but a url": (named_by_url_alone, None),
    "some of each case": (
        named(lambda i: f"p{i}.jpg", lambda i: f"p{i}.{'JPG' if i > 6 else 'jpg'}"),
        None,
    ),
    "accents": (
        named(lambda i: f"café_{i}.jpg", lambda i: unicodedata.normalize("NFD", f"café_{i}.jpg")),
        None,
    ),
    "no suffix": (named(lambda i: f"p{i}", lambda i: f"p{i}.jpg"), None),
    "another suffix": (named(lambda i: f"p{i}.png", lambda i: f"p{i}.jpg"), None),
    "in subfolders": (named(lambda i: f"p{i}.jpg", lambda i: f"train/p{i}.jpg"), None),
    "folders that do not agree": (
        named(lambda i: f"/data/upload/8/p{i}.jpg", lambda i: f"photos/p{i}.jpg"),
        None,
    ),
    "paths of another machine": (
        named(lambda i: f"C:\\Users\\me\\p{i}.jpg", lambda i: f"p{i}.jpg"),
        None,
    ),
    # types
    "ids as text": (changed("images", id=lambda r: str(r["id"])), None),
    "image_id as text": (changed("annotations", image_id=lambda r: str(r["image_id"])), "image_id"),
    "ids that are no numbers": (text_ids, None),
    "annotation ids as text": (changed("annotations", id=lambda r: f"ann-{r['id']}"), None),
    "category_id as float": (
        changed("annotations", category_id=lambda r: float(r["category_id"])),
        None,
    ),
    "category_id as text": (
        changed("annotations", category_id=lambda r: str(r["category_id"])),
        "category_id",
    ),
    "iscrowd false": (changed("annotations", iscrowd=False), None),
    "iscrowd text": (changed("annotations", iscrowd="0"), None),
    "iscrowd null": (changed("annotations", iscrowd=None), None),
    "iscrowd float": (changed("annotations", iscrowd=0.0), None),
    "sizes as text": (changed("images", width="64", height="48"), "width"),
    "sizes as float": (changed("images", width=64.0, height=48.0), None),
    "area as text": (changed("annotations", area="540.0"), "area"),
    "area nan": (changed("annotations", area=float("nan")), None),
    "area of the box, all equal": (changed("annotations", area=3072), None),
    "area of the wrong one": (changed("annotations", area=lambda r: 1 / r["area"]), None),
    "no area, box, crowd, id": (without("annotations", "area", "bbox", "iscrowd", "id"), None),
    "info null": (topped(info={"description": None, "year": None}, licenses=None), None),
    "info list": (topped(info=[]), None),
    "info text": (topped(info="export"), None),
    "bom": (encoded(lambda text: b"\xef\xbb\xbf" + text.encode()), None),
    "utf-16": (encoded(lambda text: text.encode("utf-16")), None),
    "gzip": (zipped, None),
    # segmentations
    "flat polygon": (changed("annotations", segmentation=lambda r: r["segmentation"][0]), "flat"),
    "nested polygon": (
        changed("annotations", segmentation=lambda r: [r["segmentation"]]),
        "nested",
    ),
    "pairs of points": (
        changed(
            "annotations",
            segmentation=lambda r: [np.reshape(r["segmentation"][0], (-1, 2)).tolist()],
        ),
        "points",
    ),
    "shares of the size": (changed("annotations", segmentation=shares), "shares"),
    "shares among pixels": (some_in_shares, "shares of the image's size: 4"),
    "run lengths": (
        changed(
            "annotations", segmentation=lambda r: rle(SHIRT if r["category_id"] == 1 else PANTS)
        ),
        None,
    ),
    # categories
    "root category": (root_category, "categories left out that have no annotation"),
    "names in another case": (odd_case, "categories united"),
    "background": (background_category, "categories left out as background"),
    "supercategory upper case": (
        changed("categories", supercategory=lambda r: r["supercategory"].upper()),
        None,
    ),
    "listed twice": (listed_twice, "photo"),
}


@pytest.mark.parametrize(("change", "note"), WHOLE.values(), ids=WHOLE)
def test_export_is_taken_whole(export, change, note):
    change(export)
    made = export.convert()
    assert sum(made.photos.values()) == N_PHOTOS
    assert made.annotations == 2 * N_PHOTOS
    assert export.class_pixels() == {name: N_PHOTOS * count for name, count in PIXELS.items()}
    assert export.problems() == []
    assert note is None or note in " ".join(made.changes())


def test_enlarged_photos_are_painted_at_their_size(export):
    photos_enlarged(export)
    made = export.convert()
    assert (
        f"{OTHER_SIZE}, annotations scaled to the photo; no outline of 20 goes beyond: 10"
        in made.summary()
    )
    assert export.class_pixels() == {name: N_PHOTOS * count for name, count in PIXELS.items()}


# --- a part left out, and said -------------------------------------------------------------------


class Lost(NamedTuple):
    photos: int
    annotations: int
    text: str


def annotation_of_no_image(export: Export) -> None:
    for record in export.file["annotations"][:2]:
        record["image_id"] = 77


def no_category(export: Export) -> None:
    export.file["annotations"][0]["category_id"] = None


def swapped_runs(export: Export) -> None:
    runs = rle(SHIRT)
    export.file["annotations"][0] |= {"segmentation": runs | {"size": [7, 9]}}


def photo_missing(export: Export) -> None:
    export.file["images"][3]["file_name"] = "p99.jpg"


def photo_of_other_shape(export: Export) -> None:
    export.file["images"][3] |= {"width": 100}


def photo_unreadable(export: Export) -> None:
    export.disk_names.append("empty.jpg")
    export.orientations.append(1)
    (export.photos).mkdir()
    export.file["images"][3]["file_name"] = "note.jpg"
    (export.photos / "note.jpg").write_text("no picture")


def photo_cut(export: Export) -> None:
    write_photo(export.photos / "half.jpg")
    (export.photos / "half.jpg").write_bytes((export.photos / "half.jpg").read_bytes()[:2000])
    export.file["images"][3]["file_name"] = "half.jpg"


def outside(export: Export) -> None:
    export.file["annotations"][0]["segmentation"] = [box_part((200, 200, 240, 240))]


def second_part_broken(export: Export) -> None:
    export.file["annotations"][0]["segmentation"].append([1, 2])


PARTLY = {
    "annotation of no image": (annotation_of_no_image, Lost(10, 18, "annotations left out")),
    "no category": (no_category, Lost(10, 19, "annotations left out")),
    "run lengths of another size": (swapped_runs, Lost(10, 19, "annotations left out")),
    "photo missing": (photo_missing, Lost(9, 18, "photos left out, not in the folder: 1 (p99.jpg")),
    "photo of another shape": (
        photo_of_other_shape,
        Lost(
            9, 18, "left out, of another size than the file says: 1 (p03.jpg: the file says 100 x"
        ),
    ),
    "no photo": (photo_unreadable, Lost(9, 18, "photos left out that cannot be read: 1 (note.jpg")),
    "half a photo": (photo_cut, Lost(9, 18, "left out that cannot be decoded: 1 (half.jpg")),
    "outside": (outside, Lost(10, 19, "annotations left out that cover no pixel: 1 (annotation 1")),
    "a broken part": (second_part_broken, Lost(10, 20, "polygon part")),
}


@pytest.mark.parametrize(("change", "lost"), PARTLY.values(), ids=PARTLY)
def test_what_is_left_out_is_said(export, change, lost):
    change(export)
    made = export.convert()
    assert sum(made.photos.values()) == lost.photos
    assert made.annotations == lost.annotations
    assert lost.text in made.summary()
    assert export.problems() == []


@pytest.mark.parametrize(("change", "lost"), PARTLY.values(), ids=PARTLY)
def test_strict_stops_at_it(export, change, lost):
    change(export)
    with pytest.raises(
        ValueError, match=r"shop\.json|photos left out|annotations left out|parts left out"
    ):
        export.convert(strict=True)
    assert not export.out.exists()


# --- taken, and doubted --------------------------------------------------------------------------

FAR = "annotations whose own box is far from their mask"


@pytest.mark.parametrize(
    "box",
    [
        lambda r: [*SHIRT] if r["category_id"] == 1 else [*PANTS],  # corners
        lambda r: np.divide(r["bbox"], [WIDTH, HEIGHT] * 2).tolist(),
        lambda r: [0, 0, 0, 0],
        lambda r: [0, 0, WIDTH, HEIGHT],
        lambda r: [3, 4, 5, r["id"] % 2],  # a third of them empty, and the others all the same
        lambda r: None,
        lambda r: np.add(r["bbox"], [1, -1, 2, 1]).tolist(),  # drawn loosely
    ],
    ids=["corners", "shares", "nothing", "whole image", "all alike", "null", "loose"],
)
def test_boxes_that_say_nothing_against_the_masks_raise_no_doubt(export, box):
    export.each("annotations", bbox=box)
    made = export.convert()
    assert made.annotations == 2 * N_PHOTOS
    assert made.count(FAR) == 0


def test_masks_far_from_their_own_box_are_said(export):
    for record in export.file["annotations"][4:6]:
        record["bbox"] = np.add(record["bbox"], [15, 0, 0, 0]).tolist()
    made = export.convert()
    assert f"{FAR}, which is taken: 2 (annotation 5 of p02.jpg; annotation 6" in made.summary()
    assert export.problems() == []


def test_masks_of_a_pixel_that_may_be_shares_are_said(export):
    for record in export.file["annotations"][4:6]:
        record |= {"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]], "bbox": [0, 0, 1, 1], "area": 1}
    made = export.convert()
    assert made.count("annotations of a pixel, with coordinates of 0 to 1") == 2


def test_outlines_that_leave_the_photo_are_said(export):
    for record, x in zip(export.file["annotations"], [-14, 40, 2, 0], strict=False):
        box = np.add(record["bbox"], [x, 0, 0, 0])
        part = box_part((*box[:2], *(box[:2] + box[2:])))
        record |= {"bbox": box.tolist(), "segmentation": [[float(value) for value in part]]}
    made = export.convert()
    cut = "outlines that leave the photo, cut at its edge: 2 (annotation 1 of p00.jpg; annotation 2"
    assert cut in made.summary()
    assert made.count(FAR) == 0


@pytest.mark.parametrize(("scale", "count"), [(0.45, 1), (1, 0)])
def test_masks_of_smaller_photos_are_said(export, scale, count):
    """Outlines, boxes and sizes agree, but were drawn on previews."""
    for record in export.file["annotations"]:
        box = tuple(np.multiply(SHIRT if record["category_id"] == 1 else PANTS, scale).tolist())
        record |= annotation(record["id"], record["image_id"], record["category_id"], box)
    made = export.convert()
    assert made.count("files whose masks all lie in the upper left quarter") == count


def test_classes_that_nothing_shows_are_said(export):
    export.file["categories"] += [
        {"id": 3, "name": "hat", "supercategory": "head"},
        {"id": 4, "name": "top", "supercategory": "upperbody"},
    ]
    assert "classes without any annotation: 1 (head)" in export.convert().summary()


# --- refused, with the reason --------------------------------------------------------------------


def key_points(export: Export) -> None:
    without("annotations", "segmentation")(export)
    export.each("annotations", keypoints=[1, 2, 2] * 17, num_keypoints=17)


def boxes(export: Export) -> None:
    export.each("annotations", segmentation=[])


def many_categories(export: Export) -> None:
    export.file["categories"] = [{"id": i, "name": f"c{i}"} for i in range(1, 301)]


def slip(export: Export) -> None:
    export.file["categories"][0]["supercategory"] = "upperbdy"


def no_garment(export: Export) -> None:
    export.options["classes_file"] = export.folder / "classes.json"
    export.options["classes_file"].write_text('{"shirt": null, "pants": null}')


def many_broken(export: Export) -> None:
    for record in export.file["annotations"][:5]:
        record["segmentation"] = [[1, 2]]


def one_photo(export: Export) -> None:
    export.file = sound_file(1)


def all_of_other_shape(export: Export) -> None:
    export.each("images", width=100)


def a_quarter_outside(export: Export) -> None:
    for record in export.file["annotations"][:5]:
        record["segmentation"] = [np.add(record["segmentation"][0], 1000).tolist()]


def windows_1252(export: Export) -> None:
    export.file["categories"][0]["name"] = "chemis\u00e9"
    export.encode = lambda file: json.dumps(file, ensure_ascii=False).encode("cp1252")


def objects_of_points(export: Export) -> None:
    export.each("annotations", segmentation=lambda r: {"polygon": r["segmentation"]})


def all_names_wrong(export: Export) -> None:
    export.each("images", file_name=lambda r: f"q{r['file_name'][1:]}")


def box_of(record: dict) -> tuple[int, ...]:
    return SHIRT if record["category_id"] == 1 else PANTS


def runs_by_row(export: Export) -> None:
    def transposed(record: dict) -> dict:
        x0, y0, x1, y1 = box_of(record)
        return rle((y0, x0, y1, x1), HEIGHT, WIDTH) | {"size": [HEIGHT, WIDTH]}

    export.each("annotations", segmentation=transposed)


def runs_exchanged(export: Export) -> None:
    """Background for object."""

    def exchanged(record: dict) -> dict:
        runs = rle(box_of(record))
        return runs | {"counts": [0, *runs["counts"]]}

    export.each("annotations", segmentation=exchanged)


def lists_of_x_and_y(export: Export) -> None:
    for record in export.file["annotations"]:
        x0, y0, x1, y1 = SHIRT if record["category_id"] == 1 else (20, 2, 60, 18)
        record["bbox"] = [x0, y0, x1 - x0, y1 - y0]
        record["segmentation"] = [[x0, x0 + 9, x1, x1, x0 + 9, x0], [y0, y0, y0, y1, y1, y1]]


def percent(export: Export) -> None:
    """Boxes too: 10 times the photos' size, of which outlines reach up to 88 percent."""
    export.size_wh = 10 * WIDTH, 10 * HEIGHT
    export.each("images", width=10 * WIDTH, height=10 * HEIGHT)
    for record in export.file["annotations"]:
        shares = np.divide(box_of(record), (WIDTH, HEIGHT) * 2)
        box = tuple((100 * shares).tolist())
        ids = record["id"], record["image_id"], record["category_id"]
        record |= annotation(*ids, box)


REFUSED = {
    "key points only": (key_points, "key points"),
    "boxes only": (boxes, "box"),
    "300 categories": (many_categories, r"300 categories .* a mask holds 255.*--classes"),
    "a slip in a class": (slip, 'unknown class "upperbdy" .did you mean upperbody'),
    "no garment": (no_garment, "background|no photo|classes"),
    "a quarter broken": (many_broken, "5 of 20|5 annotations"),
    "one photo": (one_photo, "expected at least 2"),
    "all of another shape": (all_of_other_shape, "no photo fits: .*another shape"),
    "run lengths row by row": (runs_by_row, "20 of 20 masks .* own box .*row by row"),
    "background for object": (runs_exchanged, "20 of 20 masks .* own box .*background"),
    "lists of x and of y": (lists_of_x_and_y, "20 of 20 masks .* own box .*lists of x"),
    "percent": (percent, "20 outlines goes beyond 100.*percent"),
    "a quarter outside": (a_quarter_outside, "5 of 20 annotations lie outside .*annotation 1 of"),
    "not utf-8": (windows_1252, r"categories\[0\]: its text is not UTF-8"),
    "objects of points": (objects_of_points, "annotation 1 of p00.jpg: it has polygon"),
    "all names wrong": (all_names_wrong, "no photo that .*shop.json names is in .*photos"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_export_that_cannot_be_used_is_refused(export, change, message):
    change(export)
    with pytest.raises(ValueError, match=message):
        export.convert()
    assert not export.out.exists()


FOREIGN = {
    "labelme": {"version": "5.2.1", "flags": {}, "shapes": [], "imagePath": "a.jpg"},
    "label studio": [{"id": 1, "data": {"image": "/a.jpg"}, "annotations": [{"result": []}]}],
    "via": {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": []}},
    "deepfashion2": {"source": "shop", "pair_id": 1, "item1": {"category_id": 1}},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_labels_of_other_formats_are_refused_with_the_way_to_coco(export, content):
    export.file = copy.deepcopy(content)
    with pytest.raises(ValueError, match=r"shop\.json.*COCO"):
        export.convert()


# --- own class names, several files --------------------------------------------------------------


def test_classes_may_have_names_of_the_users_own(export):
    export.options["classes_file"] = export.folder / "classes.json"
    export.options["classes_file"].write_text('{"shirt": "tops", "pants": "bottoms"}')
    made = export.convert()
    assert not made.by_category
    assert export.class_pixels() == {"tops": 5140, "bottoms": 5200}


def test_roboflow_folder_keeps_its_splits(export):
    for split, numbers in {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}.items():
        file = sound_file(len(numbers))
        for image, number in zip(file["images"], numbers, strict=True):
            image["file_name"] = f"r{number:02d}_jpg.rf.{number:032d}.jpg"
            write_photo(export.photos / split / image["file_name"])
        (export.photos / split / "_annotations.coco.json").write_text(json.dumps(file))
    made = convert_photos(export.photos, export.out)
    assert made.photos == {"train": 6, "val": 2, "test": 2}
    assert made.annotations == 20
    assert export.class_pixels() == {name: N_PHOTOS * count for name, count in PIXELS.items()}


# --- exports of tools, as their own code writes them ---------------------------------------------


def roboflow(folder: Path) -> None:
    """COCO segmentation: a folder for each split, and a root category that nothing is of."""
    for split, numbers in {"train": range(7), "valid": range(7, 10)}.items():
        file = sound_file(len(numbers)) | {
            "info": {"year": "2025", "version": "3", "description": "Exported from roboflow.com"},
            "licenses": [{"id": 1, "url": "https://creativecommons.org/", "name": "CC BY 4.0"}],
            "categories": [
                {"id": 0, "name": "shirt-pants-aBcD", "supercategory": "none"},
                {"id": 1, "name": "shirt", "supercategory": "shirt-pants-aBcD"},
                {"id": 2, "name": "pants", "supercategory": "shirt-pants-aBcD"},
            ],
        }
        for image, number in zip(file["images"], numbers, strict=True):
            image["file_name"] = f"DSC{number:04d}_JPG.rf.{number:032x}.jpg"
            image |= {"license": 1, "date_captured": "", "extra": {"name": f"DSC{number:04d}.JPG"}}
            write_photo(folder / split / image["file_name"])
        (folder / split / "_annotations.coco.json").write_text(json.dumps(file))


def cvat(folder: Path) -> None:
    """COCO 1.0: every field there, ids from 1, a task of one subset, masks as crowds."""
    file = sound_file() | {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {
            **{"contributor": "", "date_created": "", "description": "", "url": ""},
            **{"version": "", "year": ""},
        },
    }
    for category in file["categories"]:
        category["supercategory"] = ""
    for image in file["images"]:
        image |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        write_photo(folder / "images" / "default" / image["file_name"])
    for record in file["annotations"]:
        record["attributes"] = {"occluded": False}
    shirt = file["annotations"][0]
    shirt |= {"segmentation": rle(SHIRT), "iscrowd": 1}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(file))


def label_studio(folder: Path) -> None:
    """result.json: ids from 0, no supercategories, names as Windows or the upload writes them."""
    file = sound_file() | {"info": {"year": 2025, "version": "1.0", "contributor": "Label Studio"}}
    file["categories"] = [{"id": 0, "name": "shirt"}, {"id": 1, "name": "pants"}]
    for image in file["images"]:
        image["id"] -= 1
        name = f"8f3c2a1b-{image['file_name']}"
        image["file_name"] = f"images\\{name}" if image["id"] % 2 else f"/data/upload/8/{name}"
        write_photo(folder / "images" / name)
    for record in file["annotations"]:
        for field in ("id", "image_id", "category_id"):
            record[field] -= 1
        record["ignore"] = 0
    (folder / "result.json").write_text(json.dumps(file))


def fiftyone(folder: Path) -> None:
    """labels.json beside data/: nulls for what is unknown, run lengths for what is a crowd."""
    file = sound_file() | {
        "info": {"year": "", "version": "", "description": "Exported from FiftyOne", "url": ""},
        "licenses": [],
    }
    for category in file["categories"]:
        category["supercategory"] = None
    for image in file["images"]:
        image |= {"license": None, "coco_url": None, "date_captured": None}
        write_photo(folder / "data" / image["file_name"])
    file["annotations"][1] |= {"segmentation": rle(PANTS), "iscrowd": 1, "area": None}
    (folder / "labels.json").write_text(json.dumps(file))


def coco_annotator(folder: Path) -> None:
    """A dataset's export: paths on its server, booleans, colours, empty annotations of nothing."""
    file = sound_file()
    for category in file["categories"]:
        category |= {"supercategory": "", "color": "#2a87d3", "metadata": {}, "keypoint_colors": []}
    for image in file["images"]:
        image |= {
            **{
                "dataset_id": 1,
                "category_ids": [1, 2],
                "path": f"/datasets/x/{image['file_name']}",
            },
            **{"annotated": True, "deleted": False, "milliseconds": 5012, "metadata": {}},
            **{"num_annotations": 2, "regenerate_thumbnail": False, "is_modified": False},
        }
        write_photo(folder / image["file_name"])
    for record in file["annotations"]:
        record |= {"iscrowd": False, "isbbox": False, "color": "#f21b3c", "metadata": {}}
    (folder / "x.json").write_text(json.dumps(file))


@pytest.mark.parametrize("write", [roboflow, cvat, label_studio, fiftyone, coco_annotator])
def test_export_of_a_tool_is_found_and_taken_whole(export, write):
    """The unpacked folder is all that is given."""
    classes = export.folder / "classes.json"
    classes.write_text('{"shirt": "upperbody", "pants": "lowerbody"}')
    write(export.photos)
    made = convert_photos(export.photos, export.out, classes_file=classes)
    assert sum(made.photos.values()) == N_PHOTOS
    assert made.annotations == 2 * N_PHOTOS
    assert made.count("annotations left out") == made.count("photos left out") == 0
    assert export.class_pixels() == {name: N_PHOTOS * count for name, count in PIXELS.items()}
    assert export.problems() == []
