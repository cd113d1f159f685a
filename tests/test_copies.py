"""Copies of one photo are found by name and by picture; different photos are left alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from clothseg_utils.data import copies
from clothseg_utils.data.copies import (
    MOST_BITS,
    Hashes,
    hash_folder,
    hash_photos,
    near_equal,
    read_pairs,
    source_groups,
)
from clothseg_utils.data.photos import read_photo, write_image


def groups_of(names, **options):
    """Groups of photos that are not there: names alone decide."""
    found = source_groups({name: Path("nowhere") / name for name in names}, **options)
    members = {}
    for name, key in found.key_of.items():
        members.setdefault(key, []).append(name)
    return [group for group in members.values() if len(group) > 1]


# --- names ---------------------------------------------------------------------------------------

ROBOFLOW = "rf.0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "names",
    [
        (f"dress_jpg.{ROBOFLOW}.jpg", "dress_jpg.rf.ffffffffffffffffffffffffffffffff.jpg"),
        (f"dress_png.{ROBOFLOW}.jpg", "dress.png"),
        (f"dress.{ROBOFLOW}.jpg", "dress_jpg.rf.Ab3dEfGhIjKlMnOp.webp"),
        (f"walk_mp4-12_jpg.{ROBOFLOW}.jpg", f"walk_mp4-130_jpg.{ROBOFLOW}.jpg"),
        ("walk_frame_0001.jpg", "walk_frame_0250.jpg"),
        ("x_crop0.jpg", "x_crop1.jpg", "x.jpg"),
        ("x-crop-1.JPG", "x-crop-12.JPG"),
        ("x.jpg", "x_flip.jpg", "x_hflip.jpg", "x_aug_3.jpg", "x_rot90.jpg"),
        ("x_crop0_aug_1.png", "x_crop1_aug_1.png"),
        ("x.jpg", "x - Copy.jpg", "x - Copy (2).jpg", "x copy.jpg", "x copy 2.jpg"),
        ("shop/x_crop0.jpg", "shop/x_crop1.jpg"),
        ("shop\\x_crop0.jpg", "shop/x_crop1.jpg"),
    ],
)
def test_names_of_copies_belong_together(names):
    assert groups_of([*names, "other.jpg"]) == [list(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("img_001.jpg", "img_002.jpg"),
        ("dress (1).jpg", "dress (2).jpg"),  # Windows numbers different photos so
        ("IMG.001", "IMG.002"),  # names without suffix
        ("crop0.jpg", "crop1.jpg"),  # of nothing
        ("frame_0001.jpg", "frame_0002.jpg"),
        ("crop_top_1.jpg", "crop_top_2.jpg"),
        ("kleid_rot_1.jpg", "kleid_rot_2.jpg"),
        ("a/1_crop0.jpg", "b/1_crop0.jpg"),
        ("a_mp4.jpg", "a_mov.jpg"),
    ],
)
def test_names_of_different_photos_do_not(names):
    assert groups_of(names) == []


def test_pattern_puts_more_photos_together():
    names = ["anna_1.jpg", "anna_2.jpg", "ben_1.jpg", "ben_1_crop0.jpg", "7.jpg", "8.jpg"]
    by_group = source_groups(dict.fromkeys(names, Path("nowhere")), pattern="^([a-z]+)_")
    assert by_group.key_of == {
        "anna_1.jpg": "anna_1.jpg",
        "anna_2.jpg": "anna_1.jpg",
        "ben_1.jpg": "ben_1.jpg",
        "ben_1_crop0.jpg": "ben_1.jpg",
        "7.jpg": "7.jpg",
        "8.jpg": "8.jpg",
    }
    assert by_group.unmatched == ("7.jpg", "8.jpg")
    assert groups_of(names, pattern="_1") == [["anna_1.jpg", "ben_1.jpg", "ben_1_crop0.jpg"]]
    series = ["a1_x.jpg", "a1_y.jpg", "a2_x.jpg", "b1_x.jpg"]
    assert groups_of(series, pattern=r"^(\w)(\d)") == [["a1_x.jpg", "a1_y.jpg"]]
    # Names still tell copies, and where nothing is found nothing is shared.
    copies = ["anna_1_crop0.jpg", "anna_1_crop1.jpg", "b.jpg", "b_jpg.rf.0123456789.jpg"]
    assert groups_of(copies, pattern="crop.") == [copies[:2], copies[2:]]
    assert groups_of(names, pattern="^(anna)?") == [names[:2], names[2:4]]
    assert groups_of(["a.jpg", "b.jpg", "anna.jpg"], pattern="^(anna)?") == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"'\(' is no regular expression \(missing"),
        ("^shop", "'\\^shop' matches no photo name, such as a.jpg; expected"),
    ],
)
def test_bad_pattern_is_named(pattern, message):
    with pytest.raises(ValueError, match=message):
        groups_of(["a.jpg"], pattern=pattern)


# --- pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(synthetic_root):
    return sorted((synthetic_root / "train").iterdir())


def hash_paths(paths):
    return hash_photos({str(path): path for path in paths})


def cropped(image, share):
    margin_y, margin_x = (round(share * side / 2) for side in image.shape[:2])
    return image[margin_y : -margin_y or None, margin_x : -margin_x or None]


COPIES = {
    "smaller": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
    "squashed": lambda image: cv2.resize(image, (300, 300)),
    "cropped": lambda image: cropped(image, 0.05),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1),
    "mirrored": lambda image: image[:, ::-1],
    "mirrored and cropped": lambda image: cropped(image[:, ::-1], 0.04),
    "grey": lambda image: np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
}


@pytest.mark.parametrize("change", COPIES)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_changed_copy_is_found(drawn, tmp_path, change, suffix):
    paths = []
    for index, path in enumerate(drawn[:4]):
        paths.append(tmp_path / f"{index}.{suffix}")
        write_image(paths[-1], np.ascontiguousarray(COPIES[change](read_photo(path))))
    pairs = near_equal(hash_paths(drawn), hash_paths(paths))
    expected = list(zip(map(str, drawn[:4]), map(str, paths), strict=True))
    assert sorted((pair.first, pair.second) for pair in pairs) == sorted(expected)
    assert [pair.bits for pair in pairs] == sorted(pair.bits for pair in pairs)


def test_low_quality_and_rotation_by_exif_change_nothing(drawn, tmp_path):
    turned = Image.open(drawn[0]).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned back when shown
    turned.save(tmp_path / "a.jpg", quality=50, exif=exif)
    (pair,) = near_equal(hash_paths(drawn), hash_paths([tmp_path / "a.jpg"]))
    assert pair.first == str(drawn[0])
    assert pair.bits < 25


def test_a_photo_above_pillows_own_limit_is_compared(drawn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it warns above, and refuses at double
    assert hash_paths(drawn[:1]).names == (str(drawn[0]),)


def test_different_photos_of_similar_people_are_not_near_equal(drawn):
    assert source_groups({path.name: path for path in drawn}).pairs == ()


@pytest.mark.real
def test_real_photos_are_paired_where_they_are_one(real_data):
    """Looked at: these six pairs are one photo each, recoloured or cropped; there are no others."""
    folders = (real_data / "ccp" / "train", real_data / "ccp" / "test")
    pairs = source_groups({p.stem: p for folder in folders for p in folder.iterdir()}).pairs
    numbers = {tuple(sorted((pair.first, pair.second))) for pair in pairs}
    assert numbers == {
        *(("0183", "0730"), ("0594", "0722"), ("0078", "0984")),
        *(("0907", "0990"), ("0692", "0732"), ("0197", "0671")),
    }


@pytest.mark.parametrize(
    "picture",
    [
        np.full((40, 30), 200),
        np.tile(np.linspace(0, 255, 30), (40, 1)),
        np.where(np.arange(30) < 15, 0, 255) * np.ones((40, 1)),
    ],
    ids=["plain", "gradient", "edge"],
)
def test_pictures_without_detail_are_no_copies(tmp_path, picture):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture.astype(np.uint8))
    assert hash_folder(tmp_path).names == ()


def test_photo_that_cannot_be_read_has_no_picture(drawn, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(drawn[0].read_bytes()[:2000])
    (tmp_path / "empty.jpg").touch()
    photos = {"cut": tmp_path / "cut.jpg", "empty": tmp_path / "empty.jpg", "whole": drawn[0]}
    assert hash_photos(photos | {"missing": tmp_path / "x.jpg"}).names == ("whole",)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_every_pair_is_compared_once(monkeypatch, within, block):
    """Against a comparison bit by bit, over random hashes of which some are nearly another's."""
    monkeypatch.setattr(copies, "_BLOCK", block)
    rng = np.random.default_rng(0)
    bits = rng.random((40, 256)) < 0.5
    for row in range(30, 40):  # 50 to 68 changed, every second one mirrored
        bits[row] = bits[row - 30]
        bits[row, rng.choice(256, 50 + 2 * (row - 30), replace=False)] ^= True
        bits[row, 128:] ^= row % 2 == 0
    words = np.packbits(bits, axis=1).view(np.uint64).T.copy()
    hashes = Hashes(tuple(map(str, range(40))), words)
    first = hashes if within else Hashes(hashes.names[:25], words[:, :25].copy())
    expected = {}
    for i in range(len(first.names)):
        for j in range(i + 1 if within else 0, 40):
            even, odd = np.split(bits[i] != bits[j], 2)
            distance = even.sum() + min(odd.sum(), (~odd).sum())
            if distance <= MOST_BITS:
                expected[str(i), str(j)] = distance
    pairs = list(copies._close_pairs(first, hashes, within=within))
    assert {(pair.first, pair.second): pair.bits for pair in pairs} == expected
    assert len(pairs) == len(expected) >= (5 if within else 30)


def test_each_photo_is_paired_with_the_closest(drawn, tmp_path):
    image = read_photo(drawn[0])
    for name, changed in (("far", cropped(image, 0.04)), ("near", image), ("other", image[::-1])):
        write_image(tmp_path / f"{name}.png", changed.copy())
    (pair,) = near_equal(hash_folder(tmp_path), hash_paths(drawn))
    assert (pair.first, pair.second) == ("near.png", str(drawn[0]))


def test_pictures_join_what_names_do_not(drawn, tmp_path):
    for name, index in (("b_crop0", 0), ("b_crop1", 1), ("c", 1), ("a", 2), ("d", 3)):
        write_image(tmp_path / f"{name}.jpg", read_photo(drawn[index])[:, ::-1].copy())
    photos = {path.name: path for path in tmp_path.iterdir()} | {"e.jpg": drawn[0]}
    groups = source_groups(photos)
    assert groups.key_of == {
        **{"a.jpg": "a.jpg", "d.jpg": "d.jpg"},
        **dict.fromkeys(["b_crop0.jpg", "b_crop1.jpg", "c.jpg", "e.jpg"], "b_crop0.jpg"),
    }
    assert groups.sizes == {"b_crop0.jpg": 4}
    found = {frozenset((pair.first, pair.second)) for pair in groups.pairs}
    assert found == {frozenset(("b_crop1.jpg", "c.jpg")), frozenset(("b_crop0.jpg", "e.jpg"))}
    # The order of the photos decides nothing.
    turned = source_groups(dict(reversed(photos.items())))
    assert (turned.key_of, turned.pairs) == (groups.key_of, groups.pairs)


def test_hashes_are_remembered_until_a_photo_changes(drawn, tmp_path, monkeypatch):
    cache_path, photo = tmp_path / "hashes.json", tmp_path / "a.jpg"
    photo.write_bytes(drawn[0].read_bytes())
    photos = {"a": photo, "b": drawn[1], "missing": tmp_path / "x.jpg"}
    first = hash_photos(photos, cache_path=cache_path)
    looked_at = []
    monkeypatch.setattr(copies, "_small_picture", looked_at.append)
    again = hash_photos(photos, cache_path=cache_path)
    assert (again.names, again.words.tolist()) == (first.names, first.words.tolist())
    assert looked_at == []
    monkeypatch.undo()
    photo.write_bytes(drawn[2].read_bytes())
    pairs = near_equal(hash_photos(photos, cache_path=cache_path), first)
    assert [(pair.first, pair.second) for pair in pairs] == [("b", "b")]
    assert set(json.loads(cache_path.read_text())) == set(photos)


def test_pairs_are_read_for_a_figure(drawn, tmp_path):
    write_image(tmp_path / "x.png", read_photo(drawn[1]))
    pairs = near_equal(hash_folder(drawn[0].parent), hash_folder(tmp_path))
    photos, titles = read_pairs(pairs, drawn[0].parent, tmp_path)
    assert titles == [f"train {drawn[1].name}", "val x.png"]
    assert [photo.tolist() for photo in photos] == [read_photo(drawn[1]).tolist()] * 2
    assert read_pairs(pairs, drawn[0].parent, tmp_path, most=0) == ([], [])


def test_folder_without_photos_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no photo in"):
        hash_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no photo in .*nowhere"):
        hash_folder(tmp_path / "nowhere")
