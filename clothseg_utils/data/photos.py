"""Photo files -> RGB arrays: every format, depth and orientation that cameras and the web give."""

import contextlib
import importlib
import io
import os
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from clothseg_utils.core.files import write_bytes
from clothseg_utils.core.text import printable

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
MEGAPIXELS_VARIABLE = "CLOTHSEG_MAX_MEGAPIXELS"
"""Environment variable that raises the limit of a photo's size, also in worker processes."""

_MAX_MEGAPIXELS = 250.0  # phones take photos of 200
_GB_PER_MEGAPIXEL = 0.017  # at the peak of `predict`, measured with 200 megapixels
_MOST_BYTES_PER_PIXEL = 8  # 16 bits of red, green, blue and alpha, not compressed
_HEIF_PACKAGE = "pillow_heif"
_SEVERAL_FRAMES = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")  # a phone's JPEG holds depth maps instead
_RAW_VERSION = 50706  # TIFF tags: of DNG
_KIND_OF_PICTURE = 254  # bit 0: a smaller one of another picture in the file
_PILLOW_LOCK = threading.Lock()
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


def max_megapixels() -> float:
    """Size above which photos are refused: small files can unfold to more than fits in memory.

    Raises:
        ValueError: the environment variable holds no such number.
    """
    text = os.environ.get(MEGAPIXELS_VARIABLE, "")
    with contextlib.suppress(ValueError):
        if not text or 0 < float(text) < float("inf"):
            return float(text or _MAX_MEGAPIXELS)
    raise _RefusedError(
        f"{MEGAPIXELS_VARIABLE} is {text!r}; expected the largest size of a photo in megapixels, "
        f"such as {_MAX_MEGAPIXELS:.0f}."
    )


def read_photo(path: str | Path) -> np.ndarray:
    """Read a photo as it is meant to be seen.

    EXIF orientation is applied; grey, palette, 16-bit and CMYK photos become RGB, and transparent
    ones are laid on white. Of an animation, and of a file with pages, the first picture is read.

    Args:
        path: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, or HEIC where pillow-heif is installed;
            recognised by content, not by suffix.

    Returns:
        image, (H, W, 3) uint8 RGB, 0..255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, truncated, no photo, or larger than `max_megapixels`.
    """
    return read_first_picture(path)[0]


def read_first_picture(path: str | Path) -> tuple[np.ndarray, bool]:
    """Read a photo as `read_photo` does, and say whether its file holds further pictures."""
    path = Path(path)
    return decode_first_picture(read_photo_file(path), printable(path))


def read_photo_file(path: Path) -> bytes:
    """Read a photo's file without decoding it; errors are those of `read_photo`."""
    name = printable(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{name} is no regular file; expected a photo. Name another.")
        raise FileNotFoundError(f"photo {name} not found; expected a file. Check the path.")
    check_n_bytes(path.stat().st_size, name)
    try:
        return path.read_bytes()
    except PermissionError:
        raise PermissionError(f"photo {name} may not be read; change its permissions.") from None


def check_n_bytes(n_bytes: int, name: str) -> None:
    """Refuse a file that no photo fills, before it is read.

    Raises:
        ValueError: it has more bytes than `max_megapixels` can take.
    """
    if n_bytes > max_megapixels() * 1e6 * _MOST_BYTES_PER_PIXEL:
        raise ValueError(
            f"photo {name} has {n_bytes / 1e6:,.0f} MB, more than {max_megapixels():g} megapixels "
            f"can take; expected a photo. {MEGAPIXELS_VARIABLE} raises the limit."
        )


def megapixels(data: bytes) -> float:
    """Size of a photo by the head of its file; 0 where that says none."""
    with contextlib.suppress(Exception), open_photo(data, "") as photo:
        return photo.width * photo.height / 1e6
    return 0.0


def read_photo_size(path: Path) -> tuple[int, int, int]:
    """Read a photo's size out of its head, which tells nothing of what is broken behind.

    Returns:
        (width, height) in pixels as `read_photo` gives it, and the orientation in its EXIF, 1..8.

    Raises:
        ValueError: the file is empty, no photo, or larger than `max_megapixels`.
    """
    with contextlib.suppress(Exception), open_photo(path, printable(path)) as photo:
        if photo.format != "TIFF":  # a TIFF's pictures are compared before one is the photo
            orientation = photo.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = photo.size[::-1] if orientation in (5, 6, 7, 8) else photo.size
            return width, height, orientation
    height, width = check_photo(path)  # which says what is wrong, if anything is
    return width, height, 1


def decode_photo(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a photo file, as `read_photo` does.

    Args:
        data: a whole file.
        name: what an error calls the photo.

    Returns:
        image, (H, W, 3) uint8 RGB, 0..255.

    Raises:
        ValueError: the data are empty, truncated, no photo, or larger than `max_megapixels`.
    """
    return decode_first_picture(data, printable(name))[0]


def decode_first_picture(data: bytes, name: str) -> tuple[np.ndarray, bool]:
    """Decode as `decode_photo` does, and say whether the file holds further pictures."""
    if not data:
        raise ValueError(f"photo {name} is empty (0 bytes); expected an image. Fetch it again.")
    try:
        with open_photo(data, name) as photo:
            image = _fast_jpeg_to_image(photo, data)
            return _pillow_to_image(photo) if image is None else image, _has_more(photo)
    except _RefusedError:
        raise
    # Decoders answer damaged bytes with almost any exception type (OSError, SyntaxError,
    # struct.error, IndexError, ...); to the caller they all mean one thing.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known image format"
        raise ValueError(
            f"photo {name} cannot be decoded ({reason}); expected a whole JPEG, PNG, WebP, BMP, "
            "TIFF, GIF, AVIF or HEIC file. Fetch or export it again."
        ) from None


class _RefusedError(ValueError):
    """A photo that may be whole: the message says what to do."""


def open_photo(source: bytes | Path, name: str) -> Image.Image:
    """Read the head of a photo: its size and its EXIF data, but no pixel.

    Args:
        source: the bytes of a file, or its path.
        name: what an error calls the photo.

    Returns:
        Pillow's image, to be closed.

    Raises:
        ValueError: larger than `max_megapixels`, or HEIC without the package for it.
        Exception: of any type, where the file is damaged or no photo.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(IMAGE_HEAD_BYTES)
    else:
        head = source[:IMAGE_HEAD_BYTES]
    if image_format(head) == "HEIF":
        _prepare_heif(name)
    with _PILLOW_LOCK:  # Pillow's own limit warns first, and refuses at its double
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            photo = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    megapixels, most = photo.width * photo.height / 1e6, max_megapixels()
    if megapixels > most:
        photo.close()
        raise _RefusedError(
            f"photo {name} has {megapixels:,.1f} megapixels, more than the {most:g} that "
            f"{MEGAPIXELS_VARIABLE} allows; set it to {int(megapixels) + 1} to read it, which "
            f"takes about {megapixels * _GB_PER_MEGAPIXEL:.0f} GB of memory."
        )
    return photo


def _prepare_heif(name: str) -> None:
    try:
        importlib.import_module(_HEIF_PACKAGE).register_heif_opener()
    except ImportError:
        raise _RefusedError(
            f"photo {name} is HEIC, which needs one package more, "
            f'{sys.executable} -m pip install "pillow-heif>=1"; or export it as JPEG.'
        ) from None


def _has_more(photo: Image.Image) -> bool:
    # What is broken behind the first picture does not matter.
    with contextlib.suppress(Exception):
        return photo.format in _SEVERAL_FRAMES and getattr(photo, "is_animated", False)
    return False


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
    tags = getattr(photo, "tag_v2", {})
    if _RAW_VERSION in tags or tags.get(_KIND_OF_PICTURE, 0) & 1:
        raise ValueError("of a camera's raw file only a small preview can be read")
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


def encode_image(image: np.ndarray, suffix: str) -> bytes:
    """Encode (H, W, 3) uint8 RGB in the format of a suffix.

    Raises:
        ValueError: the format cannot hold it; a JPEG has at most 65,500 pixels a side.
    """
    with contextlib.suppress(cv2.error):
        is_done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if is_done:
            return data.tobytes()
    height, width = image.shape[:2]
    raise ValueError(f"{width} x {height} pixels do not fit into a {suffix[1:]} file")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the suffix, atomically.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format cannot hold it.
    """
    write_bytes(path, encode_image(image, path.suffix))
