"""Photos of every kind come back upright, RGB and whole, or not at all."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from clothseg_utils.data.photos import check_photo, decode_photo, read_photo, write_image

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


def float_tiff_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, format="TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (jpeg_bytes()[:-800], "truncated"),
        (jpeg_bytes()[:-800] + bytes(800), "truncated, and padded with zeros"),
        (png_bytes()[:-40], "cannot be decoded"),
        (b"<html>404 not found</html>", "no known image format"),
        (float_tiff_bytes(), "floating-point pixels have no known range"),
    ],
    ids=["empty", "truncated jpg", "truncated jpg with zeros", "truncated png", "html", "float"],
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


def test_write_image_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(OSError, match=r"a\.png could not be written"):
        write_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
