"""Names as other tools write them meet the photos on disk, or are named with the nearest ones."""

import os
import unicodedata
from pathlib import Path

import pytest

from clothseg_utils.data.photo_files import HIDDEN, NO_FILE, NOT_FOLLOWED, list_photos
from clothseg_utils.intake.photo_names import Matches, match_photos

JPEG_HEAD = b"\xff\xd8\xff\xe0"
NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if "." in name else JPEG_HEAD)
    return folder


def matched(folder: Path, *names: str) -> Matches:
    return match_photos(dict(enumerate(names)), folder)


def found(folder: Path, *names: str) -> list[str | None]:
    """The photo of each name below the folder, None where none was found."""
    matches = matched(folder, *names).found
    paths = [matches.get(index) for index in range(len(names))]
    return [path and path.relative_to(folder).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("name", "photo"),
    [
        ("a.jpg", "a.jpg"),
        ("train/a.jpg", "train/a.jpg"),
        ("./train//a.jpg", "train/a.jpg"),
        (" a.jpg\n", "a.jpg"),
        ("a.jpg", "A.JPG"),
        ("Train/A.jpg", "train/a.JPG"),
        (NFC, NFD),
        (NFD, NFC),
        ("a", "a.jpg"),
        ("a.png", "a.jpg"),
        ("IMG.2023.01", "IMG.2023.01.jpeg"),
        ("a.jpg", "a"),
        # folders on one side only
        ("a.jpg", "train/deep/a.jpg"),
        ("shop/2023/a.jpg", "a.jpg"),
        ("shop/2023/a.jpg", "2023/a.jpg"),
        ("2023/a.png", "shop/2023/a.jpg"),
        # from other machines
        ("/home/ann/photos/train/a.jpg", "train/a.jpg"),
        ("C:\\Users\\Ann\\My photos\\a.jpg", "a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("..\\photos\\a.jpg", "a.jpg"),
        ("../../photos/a.jpg", "a.jpg"),
        # URLs and upload paths
        ("https://bucket.s3.amazonaws.com/shop/a.jpg?X-Amz=1&b=2", "a.jpg"),
        ("https://shop.com/my%20shirt%20%231.jpg#top", "my shirt #1.jpg"),
        ("https://shop.com/my+shirt.jpg", "my shirt.jpg"),
        ("https://shop.com/image?path=/x/a.jpg&size=9", "a.jpg"),
        ("s3://bucket/shop/a #1?.jpg", "a #1?.jpg"),
        ("gs://bucket/shop/a.jpg", "shop/a.jpg"),
        ("file:///C:/photos/a%20b.jpg", "a b.jpg"),
        ("/data/local-files/?d=shop/my%20photo%20%231%20100%25.jpg", "my photo #1 100%.jpg"),
        ("/data/local-files/?d=shop%2Fa+b.jpg", "shop/a+b.jpg"),
        ("/data/upload/8/abc123-a.jpg", "a.jpg"),
        ("/data/upload/8/12345678-a.jpg", "a.jpg"),
        ("upload/8/0a1b2c3d-my_shirt_1.jpg", "train/My shirt (1).jpg"),
        ("a_jpg.rf.0123456789abcdef.jpg", "a.jpg"),
        ("caf%C3%A9.jpg", NFC),
        # what the disk has in this way
        ("my shirt.jpg", "my%20shirt.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        # a suffix twice, or spaces before it
        ("a.jpg", "a.jpg.jpg"),
        ("a.JPG.jpeg", "a.jpg"),
        ("train/a", "train/A.png.jpg"),
        ("a.jpg", "train/a .jpg"),
        ("a  .jpg", "a.png"),
    ],
)
def test_a_name_finds_its_photo(tmp_path, name, photo):
    touch(tmp_path, photo, "other.jpg", "other/else.jpg")
    assert found(tmp_path, name) == [photo]


@pytest.mark.parametrize(
    ("name", "photo", "reason"),
    [
        ("val/001.jpg", "train/001.jpg", "the folders do not agree"),
        ("/home/ann/val/001.jpg", "train/001.jpg", "nor do they here"),
        ("20230101-a.jpg", "a.jpg", "a date is no hash of an upload"),
        ("facade-a.jpg", "a.jpg", "nor is a word"),
        ("a_jpg.rf.0123456789abcdef.jpg", "A.JPG", "Roboflow's names are compared exactly"),
        ("b.jpg", "a.jpg", "another name"),
        ("a.txt", "a.jpg", "no photo's suffix"),
        ("a.txt.jpg", "a.jpg", "nor here"),
        ("a 1.jpg", "a1.jpg", "a space inside is part of the name"),
        ("a.jpg", ".a.jpg", "hidden"),
        ("", "a.jpg", "empty"),
        ("/", "a.jpg", "no name at all"),
        ("http://[", "a.jpg", "no URL"),
        ("x/" * 100_000 + "a.jpg", "a.jpg", "no path"),
    ],
)
def test_what_is_not_certain_is_missing(tmp_path, name, photo, reason):
    touch(tmp_path, photo)
    matches = matched(tmp_path, name)
    assert matches.found == {}, reason
    assert list(matches.missing) == [name]


def test_no_name_leads_out_of_the_folder(tmp_path):
    folder = touch(tmp_path / "photos", "a.jpg")
    touch(tmp_path, "secret.jpg")
    (folder / "way_out").symlink_to(tmp_path)
    names = ["../secret.jpg", f"{tmp_path}/secret.jpg", "way_out/secret.jpg", "x/%2e%2e/secret.jpg"]
    assert found(folder, *names) == [None] * 4


@pytest.mark.parametrize(
    ("photos", "names", "expected"),
    [
        # the path as it stands comes before every other rule
        (["a.jpg", "A.JPG"], ["A.JPG", "a.jpg"], ["A.JPG", "a.jpg"]),
        (["a.jpg", "train/a.jpg"], ["a.jpg", "train/a.jpg"], ["a.jpg", "train/a.jpg"]),
        (["train/a.jpg", "a.jpg"], ["x/train/a.jpg"], ["train/a.jpg"]),
        # what a stricter rule has given away is not given again
        (["a.jpg"], ["a.jpg", "a.png"], ["a.jpg", None]),
        (["a.jpg"], ["A.jpg", "a.png"], ["a.jpg", None]),
        (["train/001.jpg"], ["train/001.jpg", "001.jpg"], ["train/001.jpg", None]),
        (["a.jpg", "a.jpg.jpg"], ["a.jpg", "a.png"], ["a.jpg", None]),
        (["a .jpg", "a.jpg.jpg"], ["a.jpg"], [None]),  # several fit
        # masks beside photos
        (
            ["x/a.jpg", "x/c.jpg", "y/a.jpg.png", "y/b.jpg.png"],
            ["a.jpg", "b.jpg"],
            ["x/a.jpg", None],
        ),
        # one photo listed twice
        (["a.jpg"], ["a.jpg", "./a.jpg", "a.jpg"], ["a.jpg"] * 3),
        (["a.jpg"], ["https://x/a.jpg?1", "https://x/a.jpg?2"], ["a.jpg"] * 2),
        # a mask is not taken for a photo that is not there
        (
            ["images/b.jpg", "masks/a.png", "masks/b.png"],
            ["a.jpg", "b.jpg"],
            [None, "images/b.jpg"],
        ),
        # some of each
        (["a.JPG", "b.jpg", "s/c.png"], ["a.jpg", "b.jpg", "c"], ["a.JPG", "b.jpg", "s/c.png"]),
    ],
)
def test_strict_rules_come_first(tmp_path, photos, names, expected):
    assert found(touch(tmp_path, *photos), *names) == expected


@pytest.mark.parametrize(
    ("photos", "names"),
    [
        (["x/a.jpg", "y/a.jpg"], ["a.jpg"]),
        (["a.jpg", "a.png"], ["a"]),
        (["a.JPG", "A.jpg"], ["a.jpg"]),
        # several names for one photo
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["a.jpg"], ["a_jpg.rf.0123.jpg", "a_jpg.rf.4567.jpg"]),
        (["a.jpg"], ["A.jpg", "a.JPG"]),
    ],
)
def test_what_fits_more_than_once_is_ambiguous(tmp_path, photos, names):
    matches = matched(touch(tmp_path, *photos), *names)
    assert (matches.found, matches.missing, matches.not_listed) == ({}, {}, [])
    assert {name: set(paths) for name, paths in matches.ambiguous.items()} == {
        name: {tmp_path / photo for photo in photos} for name in names
    }


def test_the_nearest_photos_of_a_missing_name(tmp_path):
    touch(tmp_path, "shirt_01.jpg", "train/trousers.jpg", "listed.jpg", "notes.txt", "._a.jpg")
    matches = matched(tmp_path, "shirt_1.jpg", "val/trousers.jpg", "listed.jpg", "zzz.jpg")
    assert matches.missing == {
        "shirt_1.jpg": ["shirt_01.jpg"],
        "val/trousers.jpg": ["train/trousers.jpg"],
        "zzz.jpg": [],
    }
    assert matches.not_listed == [tmp_path / "shirt_01.jpg", tmp_path / "train/trousers.jpg"]


def test_a_photo_of_unknown_suffix_is_found_by_its_very_name(tmp_path):
    touch(tmp_path, "a.ppm")
    assert found(tmp_path, "a.ppm", "A.ppm") == ["a.ppm", None]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        match_photos({1: "a.jpg"}, tmp_path / "none")


# --- which files are photos ----------------------------------------------------------------------


def test_photos_of_a_folder_are_known_by_suffix_or_content(tmp_path):
    touch(tmp_path, "b.JPG", "sub/c.jfif", "Thumbs.db", ".DS_Store", "._b.JPG", "__MACOSX/b.jpg")
    (tmp_path / "plain").write_bytes(JPEG_HEAD)
    (tmp_path / "text").write_bytes(b"BM is no bitmap")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0mp42isom")
    (tmp_path / "raw.NEF").write_bytes(b"II*\0\0\0")
    (tmp_path / "link.png").symlink_to("b.JPG")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.jpg")
    listing = list_photos(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in listing.photos]
    assert names == ["b.JPG", "link.png", "plain", "sub/c.jfif"]
    assert {path.name: reason for path, reason in listing.others.items()} == {
        ".DS_Store": HIDDEN,
        "._b.JPG": HIDDEN,
        "__MACOSX": HIDDEN,
        "Thumbs.db": "no photo, .db",
        "fifo.jpg": NO_FILE,
        "film.mp4": "no photo, .mp4",
        "loop": NOT_FOLLOWED,
        "raw.NEF": "camera raw, to be exported as JPEG, .nef",
        "text": "no photo, without a suffix",
    }
    assert {path.name: reason for path, reason in listing.unread.items()} == {
        "gone.jpg": "the link leads nowhere"
    }


@pytest.mark.usefixtures("closed_folders")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    listing = list_photos(tmp_path)
    assert listing.photos == [tmp_path / "a.jpg"]
    assert listing.unread == {tmp_path / "closed": "Permission denied"}
