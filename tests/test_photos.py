"""Photos of every kind come back upright, RGB and whole, or not at all."""

import base64
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clothseg_utils.data.photos import (
    MEGAPIXELS_VARIABLE,
    check_photo,
    decode_photo,
    image_format,
    open_photo,
    read_first_picture,
    read_photo,
    write_image,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two_halves() -> Image.Image:
    """16 wide, 8 high; left half red, right half blue."""
    photo = Image.new("RGB", (16, 8), BLUE)
    photo.paste(RED, (0, 0, 8, 8))
    return photo


def near(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    """JPEG and CMYK are not exact."""
    return bool(np.abs(pixel.astype(int) - color).max() <= 6)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {"quality": 95, "subsampling": 0}),
        (".png", {}),
        (".webp", {"lossless": True}),
        (".bmp", {}),
        (".tif", {}),
        (".jfif", {"format": "JPEG", "quality": 95, "subsampling": 0}),
        (".gif", {}),
        (".avif", {"quality": 100, "subsampling": "4:4:4"}),
        ("", {"format": "PNG"}),
    ],
)
def test_format_is_read_as_rgb(tmp_path, suffix, options):
    path = tmp_path / f"photo{suffix}"
    two_halves().save(path, **options)
    image = read_photo(path)
    assert image.shape == (8, 16, 3)
    assert image.dtype == np.uint8
    assert near(image[4, 2], RED)
    assert near(image[4, 13], BLUE)


def test_format_is_recognised_by_content_not_by_suffix(tmp_path):
    two_halves().save(tmp_path / "photo.jpg", format="PNG")
    assert tuple(read_photo(tmp_path / "photo.jpg")[0, 0]) == RED


@pytest.mark.parametrize("suffix", [".jpg", ".png"])  # OpenCV's way and Pillow's
def test_exif_orientation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored left is seen on top
    path = tmp_path / f"turned{suffix}"
    two_halves().save(path, exif=exif, quality=95, subsampling=0)
    image = read_photo(path)
    assert image.shape == (16, 8, 3)
    assert near(image[2, 4], RED)
    assert near(image[13, 4], BLUE)
    assert check_photo(path) == (16, 8)


ORIENTATIONS = {  # EXIF's number -> how the stored rows and columns are seen
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
MODES = {"1": ".png", "L": ".jpg", "LA": ".png", "P": ".png", "RGB": ".jpg", "RGBA": ".png"}
MODES |= {"CMYK": ".jpg", "I;16": ".png", "YCbCr": ".jpg"}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_in_every_orientation_is_seen_upright(tmp_path, mode, orientation):
    """Four quarters of four greys, so that no two orientations look alike."""
    quarters = np.kron([[0, 255], [255, 255]], np.ones((16, 24))).astype(np.uint8)
    quarters[:8, 24:] = 0
    if mode == "I;16":
        stored = Image.fromarray(quarters.astype(np.uint16) * 257)
    else:
        stored = Image.fromarray(quarters).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{MODES[mode]}"
    stored.save(path, exif=exif, **({"quality": 95} if MODES[mode] == ".jpg" else {}))
    image = read_photo(path)
    expected = ORIENTATIONS[orientation](quarters)
    assert image.shape == (*expected.shape, 3)
    assert ((image > 127) == (expected > 127)[:, :, None]).all()


@pytest.mark.parametrize(
    ("photo", "expected", "reason"),
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77), "grey"),
        (Image.new("1", (4, 4), 1), WHITE, "black and white"),
        (two_halves().quantize(2), RED, "palette"),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), RED, "opaque"),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), WHITE, "transparent, laid on white"),
        (Image.new("LA", (4, 4), (0, 0)), WHITE, "transparent grey"),
        (
            Image.fromarray(np.full((4, 4), 0x8012, np.uint16)),
            (128, 128, 128),
            "16 bits, scaled and not clipped",
        ),
        (Image.fromarray(np.full((4, 4), 0xFFFF, np.uint16)), WHITE, "16 bits, brightest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixel_type_becomes_rgb(tmp_path, photo, expected, reason):
    photo.save(tmp_path / "photo.png")
    assert tuple(read_photo(tmp_path / "photo.png")[0, 0].tolist()) == expected, reason


def test_half_transparent_red_on_white_is_pink(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "photo.png")
    assert near(read_photo(tmp_path / "photo.png")[0, 0], (255, 127, 127))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_color_model_is_read(tmp_path, mode):
    color = {"L": 90, "CMYK": (0, 255, 255, 0)}[mode]
    Image.new(mode, (8, 8), color).save(tmp_path / "photo.jpg", quality=95)
    expected = {"L": (90, 90, 90), "CMYK": RED}[mode]
    assert near(read_photo(tmp_path / "photo.jpg")[4, 4], expected)


def test_fast_jpeg_path_agrees_with_pillow(tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    coarse.resize((131, 90), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=80)
    with Image.open(tmp_path / "photo.jpg") as photo:
        expected = np.array(photo.convert("RGB"), dtype=int)
    assert np.abs(read_photo(tmp_path / "photo.jpg") - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_several_pictures_the_first_is_read_and_said(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / f"one{suffix}")
    frames[0].save(tmp_path / f"two{suffix}", save_all=True, append_images=frames[1:])
    assert not read_first_picture(tmp_path / f"one{suffix}")[1]
    image, has_more = read_first_picture(tmp_path / f"two{suffix}")
    assert has_more
    assert near(image[3, 3], RED)


# 64 x 48, left half red, right half blue, as two_halves() and pillow-heif 1.8.1 made it
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAACQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAAB"
    "AAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACxt"
    "ZGF0AAAAICgBrwtg9eWDr//0HHfxxiDxcWVf/cyQPox//0XwifTg"
)


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo"])
def test_heic_without_its_package_names_the_command(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # importing it fails
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(ValueError, match=rf"{name} is HEIC.* -m pip install .pillow-heif"):
        read_photo(tmp_path / name)


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    pytest.importorskip("pillow_heif", reason="no pillow-heif: pip install .[heif]")
    image = decode_photo(HEIC, "photo.heic")
    assert image.shape == (48, 64, 3)
    assert near(image[24, 8], RED)
    assert near(image[24, 56], BLUE)


def png_of_size(width: int, height: int) -> bytes:
    """A black picture, small as a file."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("setting", "width", "refused"),
    [
        ("", 20_000, False),  # 200 megapixels: phones take such photos, and Pillow refuses them
        ("", 25_001, True),
        ("1", 100, False),
        ("1", 101, True),
        ("0.5", 100, True),
    ],
)
def test_one_limit_of_megapixels_that_can_be_raised(tmp_path, monkeypatch, setting, width, refused):
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, setting)
    monkeypatch.setattr("clothseg_utils.data.photos._pillow_to_image", lambda photo: photo.size)
    data = png_of_size(width, 10_000)
    (tmp_path / "big.png").write_bytes(data)
    if refused:
        reason = rf"big\.png has [\d.]+ megapixels, .*{MEGAPIXELS_VARIABLE} allows; .* GB"
        with pytest.raises(ValueError, match=reason):
            decode_photo(data, "big.png")
        with pytest.raises(ValueError, match=reason):
            open_photo(tmp_path / "big.png", "big.png")
    else:
        with open_photo(tmp_path / "big.png", "big.png") as photo:
            assert photo.size == (width, 10_000)
        assert decode_photo(data, "big.png") == (width, 10_000)
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow's limit is gone for everybody else"


@pytest.mark.parametrize("setting", ["many", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, setting):
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, setting)
    with pytest.raises(ValueError, match=f"{MEGAPIXELS_VARIABLE} is '{setting}'; expected"):
        decode_photo(png_of_size(4, 4), "a.png")


def test_a_file_larger_than_any_photo_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.001")
    (tmp_path / "disk.jpg").write_bytes(bytes(9000))
    with pytest.raises(ValueError, match=r"disk\.jpg has 0 MB, more than 0\.001 megapixels"):
        read_photo(tmp_path / "disk.jpg")


def test_what_is_no_regular_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="is no regular file"):
            read_photo(path)


def test_a_photo_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"a\.jpg may not be read"):
        read_photo(tmp_path / "a.jpg")


def test_signs_that_a_terminal_obeys_are_escaped(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"two\\nlines \\x1b\[31m"):
        read_photo(tmp_path / "two\nlines \x1b[31m.jpg")


def jpeg_bytes() -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("appended", [b"by a camera", bytes(500), b"by a camera" + bytes(500)])
def test_jpeg_with_bytes_after_its_end_is_read(tmp_path, appended):
    (tmp_path / "photo.jpg").write_bytes(jpeg_bytes() + appended)
    assert check_photo(tmp_path / "photo.jpg") == (64, 64)


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    two_halves().resize((64, 64)).save(buffer, format="PNG")
    return buffer.getvalue()


def tiff_bytes(photo: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format="TIFF", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (jpeg_bytes()[:-800], "truncated"),
        (jpeg_bytes()[:-800] + bytes(800), "truncated, and padded with zeros"),
        (png_bytes()[:-40], "cannot be decoded"),
        (b"<html>404 not found</html>", "no known image format"),
        (
            tiff_bytes(Image.fromarray(np.zeros((4, 4), np.float32))),
            "floating-point pixels have no known range",
        ),
        (tiff_bytes(two_halves(), tiffinfo={50706: b"\1\4\0\0"}), "raw file only a small preview"),
        (tiff_bytes(two_halves(), tiffinfo={254: 1}), "raw file only a small preview"),
    ],
    ids=[
        *("empty", "truncated jpg", "truncated jpg with zeros", "truncated png", "html", "float"),
        *("DNG", "other raw"),
    ],
)
def test_damaged_file_is_one_line_that_names_it(tmp_path, data, message):
    path = tmp_path / "damaged.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_photo(path)
    assert "damaged.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_photo_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photo .*none\.jpg not found"):
        check_photo(tmp_path / "none.jpg")


@pytest.mark.real
def test_every_real_photo_is_read_alike_by_both_decoders(real_data):
    paths = sorted((real_data / "photos").glob("*.jpg"))[:4]
    assert paths
    for path in paths:
        with Image.open(path) as photo:
            expected = np.array(photo.convert("RGB"), dtype=int)
        assert np.abs(read_photo(path) - expected).max() <= 1


def test_bytes_are_read_as_a_file_is(tmp_path):
    path = tmp_path / "photo.jpg"
    two_halves().save(path)
    assert (decode_photo(path.read_bytes(), "upload") == read_photo(path)).all()


@pytest.mark.parametrize("name", ["a.png", "deep/a.jpg"])
def test_write_image_keeps_rgb(tmp_path, name):
    image = np.zeros((16, 24, 3), np.uint8)
    image[..., 0] = 200  # red
    write_image(tmp_path / name, image)
    written = read_photo(tmp_path / name)
    assert np.abs(written.astype(int) - image).max() <= 3  # JPEG rounds


def test_write_image_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="70000 x 1 pixels do not fit into a jpg file"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 70_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("ffd8ffe1", "JPEG"),
        ("89504e470d0a1a0a", "PNG"),
        (b"GIF89a".hex(), "GIF"),
        (b"II*\0".hex(), "TIFF"),
        (b"MM\0*".hex(), "TIFF"),
        (b"BM\x36\x30\0\0\0\0\0\0\x36".hex(), "BMP"),
        (b"BMW is a car".hex(), None),
        (b"RIFF\x10\0\0\0WEBPVP8 ".hex(), "WEBP"),
        (b"RIFF\x10\0\0\0WAVEfmt ".hex(), None),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf".hex(), "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif".hex(), "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic".hex(), "HEIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41heic".hex(), "HEIF"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt  mp42".hex(), None),
        (b"\xff\xff\xff\xffftypqt  ".hex(), None),
        (b"%PDF-1.7".hex(), None),
        ("", None),
    ],
)
def test_formats_are_known_by_their_first_bytes(head, expected):
    assert image_format(bytes.fromhex(head)) == expected
