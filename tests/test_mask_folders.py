"""Tests of `data.mask_folders`: photos and masks become what a COCO file would say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clothseg_utils.core.classes import class_table
from clothseg_utils.core.config import DataConfig
from clothseg_utils.data.coco import CocoFile
from clothseg_utils.data.rasterize import rasterize
from clothseg_utils.data.splits import load_split
from clothseg_utils.intake import mask_folders
from clothseg_utils.intake.convert import convert_photos
from clothseg_utils.intake.mask_folders import read_mask_folder
from clothseg_utils.intake.mask_names import code_to_color, read_mask_names

WIDTH, HEIGHT = 12, 8
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLORS = {"shirt": RED, "jeans": GREEN}
IDS = {"shirt": 1, "jeans": 2}


def ids(*changes: tuple[slice, slice, int], dtype: type = np.uint8) -> np.ndarray:
    """A mask of a shirt (1) and jeans (2) below it, and what else is painted over."""
    mask = np.zeros((HEIGHT, WIDTH), dtype)
    mask[1:4, 2:7] = 1
    mask[4:7, 3:6] = 2
    for rows, columns, value in changes:
        mask[rows, columns] = value
    return mask


def colored(mask: np.ndarray, *colors: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) with the colours of values 1, 2, ... on black."""
    return np.array([(0, 0, 0), *colors], np.uint8)[mask]


def with_palette(mask: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([channel for color in ((0, 0, 0), *colors) for channel in color])
    return image


class Folders:
    """A user's photos and masks."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.masks = folder / "photos", folder / "masks"
        self.photos.mkdir()
        self.masks.mkdir()
        self.names = folder / "names.json"

    def add_photo(self, name: str, size_wh=(WIDTH, HEIGHT), orientation: int = 1) -> None:
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", size_wh, (90, 90, 90)).save(path, exif=exif)

    def add_mask(self, name: str, mask: np.ndarray | Image.Image, **options) -> None:
        path = self.masks / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(path, **options)

    def add(self, stem: str, mask: np.ndarray | Image.Image) -> None:
        self.add_photo(f"{stem}.jpg")
        self.add_mask(f"{stem}.png", mask)

    def read(self, names: object = None, **options) -> CocoFile:
        if names is not None:
            self.names.write_text(json.dumps(names))
            options["names_file"] = self.names
        return read_mask_folder(self.masks, self.photos, **options)


@pytest.fixture
def own(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def painted(coco: CocoFile, file_name: str) -> np.ndarray:
    """The mask of a photo, as training would paint it."""
    image = next(image for image in coco.images if image.file_name == file_name)
    classes = class_table("supercategory", coco.categories)
    annotations = coco.annotations_of(image.id)
    return rasterize(annotations, classes.class_of_category, image.height, image.width)


def names_of(coco: CocoFile) -> dict[int, str]:
    return {category.id: category.name for category in coco.categories}


# --- forms of masks ------------------------------------------------------------------------------

FORMS: dict[str, tuple[Callable[[], np.ndarray | Image.Image], object]] = {
    "grey of 8 bits": (ids, IDS),
    "grey of 16 bits": (lambda: ids(dtype=np.uint16), IDS),
    "grey as colour": (lambda: np.repeat(ids()[:, :, None], 3, axis=2), IDS),
    "names by value": (ids, {"1": "shirt", "2": "jeans"}),
    "list from 1": (ids, ["shirt", "jeans"]),
    "list from background": (ids, ["_background_", "shirt", "jeans"]),
    "background named": (ids, IDS | {"Background": 0}),
    "palette, values named": (lambda: with_palette(ids(), BLUE, RED), IDS),
    "palette, colours named": (lambda: with_palette(ids(), RED, GREEN), COLORS),
    "colours": (lambda: colored(ids(), RED, GREEN), COLORS),
    "colours in hex": (
        lambda: colored(ids(), RED, GREEN),
        {"shirt": "#FF0000", "jeans": "#00ff00"},
    ),
    "colours, background named": (
        lambda: np.where(ids()[..., None] > 0, colored(ids(), RED, GREEN), np.uint8(200)),
        COLORS | {"background": [200, 200, 200]},
    ),
    "transparent ground": (
        lambda: np.dstack([colored(ids(), RED, GREEN) | 7, 255 * (ids() > 0)]).astype("u1"),
        {"shirt": [255, 7, 7], "jeans": [7, 255, 7]},
    ),
}


@pytest.mark.parametrize(("make", "names"), FORMS.values(), ids=FORMS)
def test_every_form_paints_the_users_mask(own, make, names):
    own.add("a", make())
    coco = own.read(names)
    assert sorted(names_of(coco).values()) == ["jeans", "shirt"]
    expected = ids()
    table = class_table("supercategory", coco.categories)
    shirt, jeans = table.names.index("shirt"), table.names.index("jeans")
    np.testing.assert_array_equal(
        painted(coco, "a.jpg"), np.choose(expected, [0, shirt, jeans]).astype(np.uint8)
    )
    assert sorted(annotation.area for annotation in coco.annotations) == [9, 15]
    assert {annotation.bbox for annotation in coco.annotations} == {(2, 1, 5, 3), (3, 4, 3, 3)}
    assert coco.problems == ()


def test_black_and_white_masks_are_one_class(own):
    own.add("a", np.where(ids() > 0, np.uint8(255), np.uint8(0)))
    own.add("b", np.zeros((HEIGHT, WIDTH), np.uint8))
    coco = own.read({"garment": 255})
    assert names_of(coco) == {255: "garment"}
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids() > 0)
    assert [len(coco.annotations_of(image.id)) for image in coco.images] == [1, 0]
    assert own.read().categories[0].name == "class 255"


@pytest.mark.parametrize("value", [1, 255])
def test_white_of_one_bit_is_1_or_255_as_the_names_say(own, value):
    own.add("a", Image.fromarray(ids() > 0))
    coco = own.read({"garment": value})
    assert names_of(coco) == {value: "garment"}
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids() > 0)
    assert names_of(own.read()) == {1: "class 1"}
    assert names_of(own.read({"hat": 255, "shirt": 1})) == {1: "shirt", 255: "hat"}
    with pytest.raises(ValueError, match=r"values without a name, .* 1 "):
        own.read({"hat": 7})


def test_values_without_names_are_called_by_their_value_and_it_is_said(own):
    own.add("a", ids())
    coco = own.read()
    assert names_of(coco) == {1: "class 1", 2: "class 2"}
    (note,) = coco.problems
    assert note.kind == "healed"
    assert "class 1; class 2" in note.detail
    assert "--mask-names" in note.detail


def test_two_values_of_one_name_are_one_class(own):
    own.add("a", ids())
    own.add("b", ids())
    coco = own.read({"1": "Shirt", "2": "shirt"})
    made = convert_photos(
        own.photos, own.photos.parent / "out", masks_dir=own.masks, mask_names=own.names
    )
    assert list(made.categories) == ["Shirt"]
    assert "categories united, of one name but for case and spaces: 1" in made.summary()
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids() > 0)


def test_the_value_0_can_have_a_name(own):
    own.add("a", ids())
    coco = own.read({"skin": 0, "shirt": 1, "jeans": 2})
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids() + 1)


def test_classes_keep_the_order_of_the_names(own):
    own.add("a", colored(ids(), RED, GREEN))
    coco = own.read({"hat": BLUE, "jeans": GREEN, "shirt": RED})
    table = class_table("supercategory", coco.categories)
    assert table.names == ("background", "hat", "jeans", "shirt")


def test_large_folders_are_read_in_processes_with_the_same_result(own, monkeypatch):
    for number in range(5):
        own.add(f"{number}", ids((slice(0, 1), slice(0, number + 1), 2)))
    alone = own.read(IDS)
    monkeypatch.setattr(mask_folders, "_MIN_MASKS_PER_WORKER", 2)
    monkeypatch.setattr(mask_folders, "_CHUNK_MASKS", 2)
    monkeypatch.setattr(mask_folders, "usable_cores", lambda: 2)
    together = own.read(IDS)
    assert together.sha256 == alone.sha256
    assert together.annotations == alone.annotations
    assert len(together.annotations) == 10


def test_what_the_records_come_from_decides_their_hash(own):
    own.add("a", ids())
    first = own.read(IDS).sha256
    assert own.read(IDS).sha256 == first
    assert own.read({"shirt": 1, "skirt": 2}).sha256 != first
    own.add("a", ids((slice(0, 1), slice(0, 1), 1)))
    assert own.read(IDS).sha256 != first


# --- what has no name ----------------------------------------------------------------------------


def test_values_without_a_name_are_counted_and_refused_or_ignored(own):
    own.add("a", ids((slice(7, 8), slice(0, 4), 9)))
    own.add("b", ids((slice(7, 8), slice(0, 2), 9), (slice(0, 1), slice(0, 1), 255)))
    with pytest.raises(ValueError, match="7 pixels in all") as caught:
        own.read(IDS)
    for part in ("9 (6 px in 2 masks, such as a.png)", "255 (1 px in 1 mask, such as b.png)"):
        assert part in str(caught.value)
    coco = own.read(IDS, ignore_unknown=True)
    np.testing.assert_array_equal(painted(coco, "b.jpg"), ids())
    (note,) = coco.problems
    assert (note.kind, note.count) == ("healed", 7)  # pixels
    assert "9 (6 px in 2 masks" in note.detail


@pytest.mark.parametrize("void", [255, 65_535])
def test_the_value_of_pixels_that_nobody_knows_is_no_class(own, void):
    own.add("a", ids((slice(0, 1), slice(0, 5), void), dtype=np.uint16))
    with pytest.raises(ValueError, match=f"{void} \\(5 px.*nobody knows"):
        own.read()
    coco = own.read(ignore_unknown=True)
    assert names_of(coco) == {1: "class 1", 2: "class 2"}
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids())


def test_255_with_a_name_is_a_class(own):
    own.add("a", ids((slice(0, 1), slice(0, 5), 255)))
    assert names_of(own.read(IDS | {"hat": 255})) == {1: "shirt", 2: "jeans", 255: "hat"}


def test_colours_near_a_named_one_are_told_from_others(own):
    own.add("a", colored(ids(), (254, 3, 0), BLUE))
    with pytest.raises(ValueError, match="smoothed") as caught:
        own.read(COLORS)
    assert "#fe0300, nearest shirt #ff0000 (15 px in 1 mask, such as a.png)" in str(caught.value)
    own.add("a", colored(ids(), RED, BLUE))
    with pytest.raises(ValueError, match="#0000ff") as caught:
        own.read(COLORS)
    assert "smoothed" not in str(caught.value)


def test_jpeg_masks_are_refused_with_the_reason(own):
    large = np.kron(colored(ids(), RED, GREEN), np.ones((8, 8, 1), np.uint8))
    own.add_photo("a.jpg", (8 * WIDTH, 8 * HEIGHT))
    own.add_mask("a.jpg", large, quality=80)
    with pytest.raises(ValueError, match="JPEG or smoothed"):
        own.read(COLORS)
    own.add_mask("a.jpg", np.kron(ids(), np.ones((8, 8), np.uint8)) * 120, quality=80)
    with pytest.raises(ValueError, match="JPEG and smoothed"):
        own.read(ignore_unknown=True)


@pytest.mark.parametrize("names", [None, IDS])
def test_masks_of_nothing_but_background_are_refused(own, names):
    own.add("a", np.zeros((HEIGHT, WIDTH), np.uint8))
    own.add("b", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match="nothing but background in 2 masks"):
        own.read(names)


def test_smoothed_masks_without_names_are_refused(own):
    own.add("a", np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="95 different values"):
        own.read()


@pytest.mark.parametrize("names", [None, IDS])
def test_colours_where_values_are_expected_are_listed_to_be_named(own, names):
    own.add("a", colored(ids(), RED, GREEN))
    with pytest.raises(ValueError, match="hold colours") as caught:
        own.read(names, ignore_unknown=True)
    listed = str(caught.value)
    assert '{"name 1": [255, 0, 0], "name 2": [0, 255, 0]}' in listed


def test_palettes_in_different_order_are_refused_unless_names_say_what_counts(own):
    own.add("a", with_palette(ids(), RED, GREEN))
    swapped = np.choose(ids(), [0, 2, 1]).astype(np.uint8)
    own.add("b", with_palette(swapped, GREEN, RED))
    with pytest.raises(ValueError, match=r"\[255, 0, 0\] for value 1 in a.png and \[0, 255, 0\]"):
        own.read()
    coco = own.read(COLORS)
    np.testing.assert_array_equal(painted(coco, "a.jpg"), painted(coco, "b.jpg"))
    by_value = own.read(IDS)
    np.testing.assert_array_equal(painted(by_value, "b.jpg"), swapped)
    assert by_value.problems[0].detail.startswith("values read, whose colours differ: the palette")


def test_whole_numbers_in_floating_point_are_values(own):
    own.add_photo("a.jpg")
    own.add_mask("a.tif", ids().astype(np.float32))
    np.testing.assert_array_equal(painted(own.read(IDS), "a.jpg"), ids())


# --- which mask belongs to which photo -----------------------------------------------------------

MATCHES = {
    "equal stems": ("a.jpg", "a.png"),
    "subfolders alike": ("x/a.jpg", "x/a.png"),
    "another folder": ("x/a.jpg", "y/z/a.png"),
    "case": ("A.JPG", "a.png"),
    "Unicode form": ("j\u00e4.jpg", "ja\u0308.png"),
    "_mask": ("a.jpg", "a_mask.png"),
    "-seg": ("a.jpg", "a-seg.png"),
    "_label": ("a.jpg", "a_Label.png"),
    "dots": ("a.v1.2.jpg", "a.v1.2.png"),
    "of Roboflow": ("p_jpg.rf.0f3a.jpg", "p_jpg.rf.0f3a_mask.png"),
    "suffix twice": ("a.jpg", "a.jpg.png"),
    "other forms": ("a.jpeg", "a.bmp"),
}


@pytest.mark.parametrize(("photo", "mask"), MATCHES.values(), ids=MATCHES)
def test_masks_are_found_by_name(own, photo, mask):
    own.add_photo(photo)
    own.add_photo("other.jpg")
    own.add_mask(mask, ids())
    coco = own.read(IDS)
    assert [image.file_name for image in coco.images] == [photo]
    np.testing.assert_array_equal(painted(coco, photo), ids())
    assert [(p.kind, p.subject) for p in coco.problems] == [("image_left_out", "other.jpg")]


@pytest.mark.parametrize("folder", [".", "masks"])
def test_masks_may_lie_among_the_photos(own, folder):
    own.masks = own.photos / folder
    own.add_photo("a.jpg")
    own.add_photo("b.jpg")
    own.add_mask("a_mask.png", ids())
    coco = own.read(IDS)
    assert [image.file_name for image in coco.images] == ["a.jpg"]
    assert [problem.subject for problem in coco.problems] == ["b.jpg"]


def test_equal_stems_come_before_endings(own):
    own.add("a", ids())
    own.add("a_label", ids((slice(0, 1), slice(0, 1), 2)))
    coco = own.read(IDS)
    assert [image.file_name for image in coco.images] == ["a.jpg", "a_label.jpg"]
    np.testing.assert_array_equal(painted(coco, "a.jpg"), ids())


def test_what_fits_twice_or_not_at_all_is_named(own):
    own.add("good", ids())
    own.add("twice", ids())
    own.add_mask("twice_mask.png", ids())
    own.add_photo("same.jpg")
    own.add_photo("same.png")
    own.add_mask("same.png", ids())
    own.add_mask("lonely.png", ids())
    coco = own.read(IDS)
    assert [image.file_name for image in coco.images] == ["good.jpg"]
    assert {(problem.subject, problem.detail) for problem in coco.problems} == {
        ("lonely.png", "no photo fits"),
        ("same.png", "several photos fit: same.jpg; same.png"),
        ("same.jpg", "no mask of its name"),
        ("same.png", "no mask of its name"),
        ("twice.jpg", "several masks fit: twice.png; twice_mask.png"),
    }


def test_folders_without_a_pair_are_refused(own):
    own.add_photo("a.jpg")
    with pytest.raises(ValueError, match="no mask in"):
        own.read(IDS)
    own.add_mask("b.png", ids())
    with pytest.raises(ValueError, match=r"expected equal names .* b\.png for a\.jpg"):
        own.read(IDS)
    with pytest.raises(FileNotFoundError, match="mask folder"):
        read_mask_folder(own.masks / "none", own.photos)
    with pytest.raises(FileNotFoundError, match="photo folder"):
        read_mask_folder(own.masks, own.photos / "none")


# --- sizes and broken files ----------------------------------------------------------------------


def test_mask_of_the_same_ratio_is_scaled_by_nearest(own):
    own.add_photo("a.jpg", (2 * WIDTH, 2 * HEIGHT))
    own.add_mask("a.png", ids())
    coco = own.read(IDS)
    np.testing.assert_array_equal(painted(coco, "a.jpg"), np.kron(ids(), np.ones((2, 2), "u1")))
    assert [problem.kind for problem in coco.problems] == ["healed"]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (5, lambda m: m.T),
        (6, lambda m: np.rot90(m, -1)),
        (7, lambda m: np.rot90(m.T, 2)),
        (8, np.rot90),
    ],
)
def test_mask_of_a_photo_as_stored_is_turned_with_it(own, orientation, turn):
    own.add_photo("a.jpg", orientation=orientation)
    own.add_mask("a.png", ids())
    coco = own.read(IDS)
    np.testing.assert_array_equal(painted(coco, "a.jpg"), turn(ids()))
    own.add_mask("a.png", np.ascontiguousarray(turn(ids())))  # painted on the photo as seen
    coco = own.read(IDS)
    np.testing.assert_array_equal(painted(coco, "a.jpg"), turn(ids()))
    assert coco.problems == ()


BROKEN: dict[str, Callable[[Folders], None]] = {
    "another shape": lambda own: own.add_mask("bad.png", np.zeros((HEIGHT, WIDTH - 3), "u1")),
    "no picture": lambda own: (own.masks / "bad.png").write_bytes(b"no picture"),
    "cut off": lambda own: (own.masks / "bad.png").write_bytes(
        (own.masks / "bad.png").read_bytes()[:60]
    ),
    "photo broken": lambda own: (own.photos / "bad.jpg").write_bytes(b""),
    "fractions": lambda own: own.add_mask("bad.tif", ids().astype(np.float32) / 2),
    "several pictures": lambda own: own.add_mask(
        "bad.tif", Image.fromarray(ids()), save_all=True, append_images=[Image.fromarray(ids())]
    ),
}


@pytest.mark.parametrize("do", BROKEN.values(), ids=BROKEN)
def test_one_broken_pair_is_left_out_and_many_are_refused(own, do):
    own.add("bad", ids())
    do(own)
    if (own.masks / "bad.tif").exists():
        (own.masks / "bad.png").unlink()
    with pytest.raises(ValueError, match=r"1 cannot be used: bad\.jpg: .*bad"):
        own.read(IDS)
    for number in range(3):
        own.add(f"{number}", ids())
    coco = own.read(IDS)
    assert len(coco.images) == 3
    assert [(p.kind, p.subject) for p in coco.problems] == [("image_left_out", "bad.jpg")]
    with pytest.raises(ValueError, match=r"cannot be used: bad\.jpg"):
        own.read(IDS, strict=True)


# --- the names file ------------------------------------------------------------------------------

NO_NAMES = {
    "empty": {},
    "a number": 3,
    "both": {"shirt": 1, "jeans": [0, 255, 0]},
    "text": {"shirt": "red"},
    "too large": {"shirt": 70_000},
    "negative": {"shirt": -1},
    "true": {"shirt": True},
    "no colour": {"shirt": [255, 0]},
    "beyond 255": {"shirt": [256, 0, 0]},
    "nameless": {"": 3},
    "no text": [None, 3],
    "twice": {"shirt": 3, "top": 3},
    "colour twice": {"shirt": "#ff0000", "top": [255, 0, 0]},
}


@pytest.mark.parametrize("names", NO_NAMES.values(), ids=NO_NAMES)
def test_names_of_another_form_are_refused_by_file(own, names):
    own.names.write_text(json.dumps(names))
    with pytest.raises(ValueError, match=r"names\.json.*expected"):
        read_mask_names(own.names)


def test_names_file_must_be_there_and_json(own):
    with pytest.raises(FileNotFoundError, match=r"names\.json"):
        read_mask_names(own.names)
    own.names.write_text("shirt: 1")
    with pytest.raises(ValueError, match="is not JSON"):
        read_mask_names(own.names)
    own.names.write_text('{"shirt": 1, "shirt": 2}')
    with pytest.raises(ValueError, match="the key 'shirt' occurs twice"):
        read_mask_names(own.names)
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        own.names.write_bytes('{"shirt": 1}'.encode(encoding))
        assert read_mask_names(own.names).name_of == {1: "shirt"}


def test_colours_and_codes():
    assert [code_to_color(code) for code in (0xFF0000, 0x00FF00, 0x010203)] == [
        (255, 0, 0),
        (0, 255, 0),
        (1, 2, 3),
    ]


# --- to the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["grey of 8 bits", "palette, colours named", "colours"])
def test_converted_masks_are_the_users_to_the_pixel(own, tmp_path, form):
    make, names = FORMS[form]
    rng = np.random.default_rng(0)
    drawn = {}
    for number in range(10):
        noise = rng.integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)  # every pixel alone
        drawn[f"p{number}"] = noise
        image = make()
        if isinstance(image, Image.Image):
            image = with_palette(noise, RED, GREEN)
        else:
            image = noise if image.ndim == 2 else colored(noise, RED, GREEN)
        own.add(f"sub/p{number}", image)
    own.names.write_text(json.dumps(names))
    root = tmp_path / "dataset"
    made = convert_photos(own.photos, root, masks_dir=own.masks, mask_names=own.names)
    assert made.photos == {"train": 8, "val": 2}
    assert made.categories == {"shirt": "shirt", "jeans": "jeans"}
    config = DataConfig(data_root=str(root), derived_root=str(tmp_path / "derived"), mask_workers=1)
    seen = {}
    for split in ("train", "val"):
        data = load_split(config, split)
        assert data.classes.names == ("background", "shirt", "jeans")
        for record in data.images:
            seen[Path(record.file_name).stem.removeprefix("sub__")] = data.read_pair(record)[1]
    assert seen.keys() == drawn.keys()
    for name, mask in drawn.items():
        np.testing.assert_array_equal(seen[name], mask)


def test_what_convert_says_of_masks_counts_photos_masks_and_pixels(own, tmp_path):
    for number in range(3):
        own.add(f"p{number}", np.roll(ids((slice(0, 1), slice(0, 5), 255)), number, axis=1))
    own.add("empty", np.zeros_like(ids()))
    own.add_mask("lonely.png", ids())
    own.add_photo("bare.jpg")
    made = convert_photos(own.photos, tmp_path / "out", masks_dir=own.masks, ignore_unknown=True)
    assert made.count("pixels of values without a name, taken for background") == 15
    assert made.count("photos with masks whose values have no names") == 3
    assert made.count("masks left out, no photo fits") == 1
    assert made.count("photos left out, without a mask of their name") == 1


def test_one_of_each_is_no_plural(own, tmp_path):
    for number in range(2):
        own.add(f"p{number}", np.roll(np.minimum(ids(), 1), number, axis=1))
    made = convert_photos(own.photos, tmp_path / "out", masks_dir=own.masks)
    assert "2 annotations in 1 category\n" in made.summary()
