"""Photo files -> RGB arrays: every format, depth and orientation that cameras and the web give."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from clothseg_utils.core.files import atomic_path

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".hif"),
)
"""Suffixes, in lower case, of files that are photos whatever they hold: a broken one is named."""

IMAGE_HEAD_BYTES = 64
"""What `image_format` wants to see; a HEIF file's brands are among them."""

_MAGICS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_WIDE_GREY_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"


def image_format(head: bytes) -> str | None:
    """Name the format of an image by the first bytes of its file; None where it is no image.

    Example:
        >>> image_format(bytes.fromhex("ffd8ffe0")), image_format(b"%PDF-1.7")
        ('JPEG', None)
    """
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # reserved; prose may begin with BM
        return "BMP"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[start : start + 4] for start in (8, *range(16, end, 4))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIF" if any(brand in _HEIF_BRANDS for brand in brands) else None
    return None


def read_photo(path: str | Path) -> np.ndarray:
    """Read a photo as it is meant to be seen.

    EXIF orientation is applied; grey, palette, 16-bit and CMYK photos become RGB, and transparent
    ones are laid on white. Of an animation the first frame is read.

    Args:
        path: jpg, png, webp, bmp or tif file; recognised by content, not by suffix.

    Returns:
        image, (H, W, 3) uint8 RGB, 0..255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, truncated or no photo.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"photo {path} not found; expected a file. Check the path.")
    return decode_photo(path.read_bytes(), str(path))


def decode_photo(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a photo file, as `read_photo` does.

    Args:
        data: a whole jpg, png, webp, bmp or tif file.
        name: what an error calls the photo.

    Returns:
        image, (H, W, 3) uint8 RGB, 0..255.

    Raises:
        ValueError: the data are empty, truncated or no photo.
    """
    if not data:
        raise ValueError(f"photo {name} is empty (0 bytes); expected an image. Fetch it again.")
    try:
        with Image.open(io.BytesIO(data)) as photo:
            image = _fast_jpeg_to_image(photo, data)
            return _pillow_to_image(photo) if image is None else image
    # Decoders answer damaged bytes with almost any exception type (OSError, SyntaxError,
    # struct.error, IndexError, ...); to the caller they all mean one thing.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known image format"
        raise ValueError(
            f"photo {name} cannot be decoded ({reason}); expected a whole "
            f"{', '.join(suffix[1:] for suffix in PHOTO_SUFFIXES)} file. Fetch or export it again."
        ) from None


def check_photo(path: str | Path) -> tuple[int, int]:
    """Decode a photo fully and return its size, rows first: (height, width) in pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, truncated or no photo.
    """
    height, width = read_photo(path).shape[:2]
    return height, width


def _fast_jpeg_to_image(photo: Image.Image, data: bytes) -> np.ndarray | None:
    """Decode a plain, complete JPEG with OpenCV, twice as fast; None where Pillow has to do it."""
    if photo.format != "JPEG":
        return None
    # OpenCV 4 fills the missing rows of a truncated JPEG with grey, in silence. Pillow raises,
    # unless an interrupted download was padded with zeros, which decode as flat blocks.
    unpadded = data.rstrip(b"\0")
    if len(unpadded) < len(data) and unpadded.find(_JPEG_END, unpadded.rfind(_JPEG_SCAN)) < 0:
        raise ValueError("truncated, and padded with zeros")
    if photo.mode not in ("RGB", "L") or not unpadded.endswith(_JPEG_END):
        return None
    # IMREAD_COLOR applies EXIF orientation, as exif_transpose does below.
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _pillow_to_image(photo: Image.Image) -> np.ndarray:
    photo.load()
    upright = ImageOps.exif_transpose(photo)
    if upright.mode in _WIDE_GREY_MODES:
        # Pillow's own conversion clips at 255 and turns the photo white.
        grey = np.asarray(upright, dtype=np.int64).clip(0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba)
    return np.array(upright.convert("RGB"))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the suffix, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path} could not be written; expected a writable folder and space.")
