"""Pictures in and out: every common photo file becomes an upright RGB array."""

import base64
import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import (
    Image,
    ImageDraw,
    ImageFile,
    ImageFont,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
)

from fsgan.media.files import write_beside
from fsgan.validation import check_file

if TYPE_CHECKING:  # slow to import, and rarely needed
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm",
    ".avif",
})
# fmt: on
_SAVE_OPTIONS = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 97, "subsampling": "4:4:4"},
    ".jpeg": {"format": "JPEG", "quality": 97, "subsampling": "4:4:4"},
    ".webp": {"format": "WEBP", "quality": 97},
}
PICTURE_SUFFIXES = tuple(_SAVE_OPTIONS)  # of pictures that can be written
_LONGEST_SIDES = {"JPEG": 65_500, "WEBP": 16_383}  # pixels, that encoders take
_ANIMATED_FORMATS = {"GIF", "PNG", "WEBP", "AVIF"}  # others hold pages, not frames
# What Pillow's readers raise on damaged pixels.
# fmt: off
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error,
)
# fmt: on
_truncated_lock = threading.Lock()
_ORIENTATION = 0x0112  # EXIF; 5..8 lie on their side


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture file as an upright RGB array.

    The EXIF rotation is applied, gray (8 and 16 bit), palette and CMYK become RGB,
    transparent parts are laid over white. Of several pages or frames the first is
    read, and the log says so. A file that breaks off gives the part that decodes and
    logs a warning.

    Args:
        path: picture file; what it holds counts, not its suffix.

    Returns:
        RGB uint8 `(height, width, 3)`.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: no picture, damaged beyond use, far too large, or floating point.
    """
    image, damage = read_damaged_image(path)
    if damage is not None:
        logger.warning("%s is damaged (%s): what decodes is used", path, damage)
    return image


def read_damaged_image(path: str | Path) -> tuple[np.ndarray, Exception | None]:
    """Read a picture file as `read_image` does, and tell whether it is whole.

    Returns:
        RGB uint8 `(height, width, 3)`, and what is wrong with the file if only a part
        of it decodes (the rest is gray or black), else `None`.
    """
    path = Path(path)
    with _one_sentence(path):
        try:
            return _load(path), None
        except UnidentifiedImageError:
            raise
        except DECODING_ERRORS as error:
            damage = error
        with _truncated_lock:  # the switch is global
            before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                return _load(path), damage
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = before


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (width, height) of what `read_image` gives from the head of the file."""
    path = Path(path)
    with open_image(path) as opened:
        # Asked for EXIF that is not in its head, a PNG is decoded to look behind.
        behind = opened.format == "PNG" and "exif" not in opened.info
        sideways = not behind and opened.getexif().get(_ORIENTATION, 1) >= 5
        return opened.size[::-1] if sideways else opened.size


def is_animated(path: str | Path) -> bool | None:
    """Tell an animation from a photo, by what the file holds.

    Returns:
        True for a GIF, PNG, WebP or AVIF of several pictures, False for any other
        picture, None for a file that is none.

    Raises:
        FileNotFoundError, IsADirectoryError: as of `read_image`.
    """
    path = Path(path)
    try:
        with open_image(path) as opened:
            if opened.format == "MPEG":  # known to Pillow by its first bytes alone
                return None
            animated = getattr(opened, "is_animated", False)
            return animated and opened.format in _ANIMATED_FORMATS
    except ValueError:
        return None


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a picture of at most 179 million pixels; what is asked of it is decoded.

    Raises:
        ValueError: no picture, damaged, or too large.
        OSError: as of `check_file`.
    """
    with _one_sentence(path), _open(path) as opened:
        yield opened


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a picture into one sentence."""
    check_file(path)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; copy or download it again")
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture that can be read; convert it to PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is too large a picture to open safely; scale it down first"
        ) from error
    except DECODING_ERRORS as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def _load(path: Path) -> np.ndarray:
    with _open(path) as opened:
        image = upright_rgb(opened)
        with suppress(*DECODING_ERRORS):
            several = getattr(opened, "is_animated", False)
            if several and opened.format != "MPO":  # a JPEG with previews of itself
                logger.warning("%s holds several pictures: the first is read", path)
        return image


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():  # Pillow warns of half of what it refuses
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Convert an opened picture as `read_image` does, or raise a DECODING_ERROR."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating point pixels have no agreed range, save 8 or 16 bit")
    if image.mode.startswith("I"):  # 16-bit gray: convert() would clip at 255
        gray = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(gray.round(), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def write_image(
    path: str | Path,
    image: np.ndarray,
    xmp: bytes | None = None,
    compress_level: int = 6,
) -> None:
    """Write a picture, whole or not at all, as `encode_image` encodes it.

    Args:
        path: file ending in .png, .jpg, .jpeg or .webp; its folder is created.
        image: as of `encode_image`, like all that follows.
        xmp: XMP packet to embed.
        compress_level: of a PNG.

    Raises:
        ValueError: as of `encode_image`.
        OSError: the folder cannot be written to, or the disk is full.
    """
    encoded = encode_image(Path(path), image, xmp, compress_level)
    with write_beside(path) as temporary:
        temporary.write_bytes(encoded)


def encode_image(
    path: Path, image: np.ndarray, xmp: bytes | None = None, compress_level: int = 6
) -> bytes:
    """Encode a picture by the suffix of `path`: PNG exact, JPEG and WebP at quality 97.

    Args:
        path: name ending in .png, .jpg, .jpeg or .webp; nothing is written.
        image: RGB uint8 `(height, width, 3)`; a PNG may also be gray, `(height, width,
            1)`, or have straight alpha, `(height, width, 4)`.
        xmp: XMP packet to embed; `None` for none.
        compress_level: of a PNG, 0 (none) to 9 (slowest).

    Raises:
        ValueError: as of `check_picture`, or `image` is not as above.
    """
    check_picture(path, image.shape)
    options = dict(_SAVE_OPTIONS[path.suffix.lower()])
    is_png = options["format"] == "PNG"
    channels = {1, 3, 4} if is_png else {3}
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in channels:
        raise ValueError(
            f"image must be RGB uint8 (height, width, 3), or for PNG 1 or 4 channels, "
            f"got {image.dtype} {image.shape}"
        )
    if is_png:
        options["compress_level"] = compress_level
    if xmp is not None and is_png:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None:
        options["xmp"] = xmp
    encoded, gray = io.BytesIO(), image.shape[2] == 1
    Image.fromarray(image[..., 0] if gray else image).save(encoded, **options)
    return encoded.getvalue()


def check_picture(path: Path, shape: Sequence[int]) -> None:
    """Refuse a picture that cannot be encoded.

    Args:
        path: its name.
        shape: its height and width, and whatever follows.

    Raises:
        ValueError: the suffix is none of `PICTURE_SUFFIXES`, or that kind of file does
            not hold pictures of this size.
    """
    options = _SAVE_OPTIONS.get(path.suffix.lower())
    if options is None:
        raise ValueError(f"path must end in {', '.join(PICTURE_SUFFIXES)}, got {path}")
    longest = _LONGEST_SIDES.get(options["format"], np.inf)
    if max(shape[:2]) > longest:
        raise ValueError(
            f"{path} cannot hold {shape[1]}x{shape[0]} pixels, at most {longest} a "
            "side: write it as .png"
        )


def list_images(folder: str | Path) -> list[Path]:
    """List the pictures of a folder in natural order: frame2 before frame10.

    Args:
        folder: folder to look in; subfolders and hidden files are left out.

    Returns:
        Paths whose suffix is in `IMAGE_SUFFIXES`, upper or lower case.

    Raises:
        FileNotFoundError: the folder is missing or holds no picture.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} does not exist; check the name")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder of pictures")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no pictures ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return sorted(found, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    # Split text and numbers alternate, so parts at one position always compare.
    parts: list[str | int] = list(re.split(r"([0-9]+)", path.name.casefold()))
    parts[1::2] = map(int, parts[1::2])
    return parts, path.name


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int = 8,
    size: int = 96,
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """Lay pictures out as one grid, row by row.

    Args:
        images: RGB uint8 `(height, width, 3)` of any sizes, fitted into their tile.
        columns: tiles in a row; fewer pictures make a narrower sheet.
        size: side of a tile, pixels.
        labels: a short text under each picture, in a strip of 16 pixels.

    Returns:
        RGB uint8 `(rows * size, columns * size, 3)`, rows 16 pixels taller with labels.

    Raises:
        ValueError: no images, `columns` or `size` below 1, or another number of labels.
    """
    if not len(images):
        raise ValueError("images must hold at least one picture, got none")
    if columns < 1 or size < 1:
        raise ValueError(f"columns and size must be at least 1, got {columns}, {size}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"labels must be one for each of {len(images)} images, got {len(labels)}"
        )
    strip = 0 if labels is None else 16
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * size, rows * (size + strip)))
    for index, image in enumerate(images):
        tile = Image.new("RGB", (size, size + strip))
        tile.paste(ImageOps.pad(Image.fromarray(image), (size, size)))
        if labels is not None:
            middle, font = (size / 2, size + strip / 2), ImageFont.load_default(12)
            ImageDraw.Draw(tile).text(middle, labels[index], "white", font, "mm")
        row, column = divmod(index, columns)
        sheet.paste(tile, (column * size, row * (size + strip)))
    return np.array(sheet)


def picture_html(image: np.ndarray) -> str:
    """Return an RGB uint8 picture as an HTML `<img>` element that holds it as PNG."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    url = data_url(png.getvalue(), "image/png")
    return f'<img style="max-width: 100%" src="{url}">'


def data_url(content: bytes, mime: str) -> str:
    """Return the address of a file that an HTML page holds itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def encode_jpeg(image: np.ndarray, xmp: bytes | None = None) -> bytes:
    """Return an RGB uint8 picture that is shown, not kept, as a JPEG file."""
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=90, xmp=xmp or b"")
    return jpeg.getvalue()


def rasterize(figure: "Figure") -> np.ndarray:
    """Return a figure of Matplotlib as a picture, RGB uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly spread, the first and last among them."""
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).round()
    return [items[int(index)] for index in picked]
