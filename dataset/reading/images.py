"""Decoding of images and masks."""

import os
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

from dataset.config import ImageConfig
from dataset.reading.png import GREY, LARGE, PALETTE, RGB, SIGNATURE, decode_png

Image.MAX_IMAGE_PIXELS = None  # Pillow refuses images of 179 million pixels; `_refuse_bomb` looks at the file, too

Size = tuple[int, int]  # height, width
DEFAULT = ImageConfig()
TIFF = (".tif", ".tiff")
PIXELS_PER_BYTE = 100  # at most, of large images: photographs have about 10 and files made to fill the memory 1,000
MAX_PIXELS = 2**31  # what arrays of OpenCV and Pillow can hold
_EXIF_ORIENTATION = 0x0112
_DEEP = re.compile(r"[IF]|.*;(16|32)[A-Z]+")  # Pillow's raw modes of more than 8 bits per channel
_GREY_STRETCH = {"L;2": 85, "L;4": 17}  # of PNG of 2 and 4 bits, on decoding
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}  # EXIF's orientation -> what turns the stored rows upright
_BACK = {6: 8, 8: 6}  # orientation -> the one whose turn undoes its turn, if not itself


class Decoded(NamedTuple):
    """An image file as it is stored: pixels, (H, W) or (H, W, bands), of any type, and EXIF's orientation."""

    pixels: np.ndarray
    orientation: int


class Header(NamedTuple):
    """Of an image file: EXIF's orientation (1 where it has none), the stored (height, width), Pillow's mode."""

    orientation: int
    size: Size
    mode: str


def read_image(path: str, config: ImageConfig = DEFAULT, mask: Size | None = None) -> np.ndarray:
    """Decodes an image to RGB.

    Args:
        path: the file.
        config: how.
        mask: (height, width) of its mask, which decides between the orientations.

    Returns:
        uint8 array, (H, W, 3). Grey, palette, CMYK and transparent images are converted (transparency is dropped).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded to its end, or has more than 8 bits per channel or more than 3 bands and the
            config does not say how they are read.
    """
    return read_image_top(path, None, config, mask)[0]


def read_image_top(
    path: str, rows: int | None, config: ImageConfig = DEFAULT, mask: Size | None = None
) -> tuple[np.ndarray, Size]:
    """The first rows of an image and its (height, width); the other rows of common PNG files are not decoded."""
    if config.bands is None and (decoded := _decode_common_png(path, (RGB,), rows)) is not None:
        return decoded
    pixels, orientation = _decode_image(path, config)
    if turned(orientation, pixels.shape[:2], config, mask):
        pixels = np.ascontiguousarray(_TURNS[orientation](pixels))
    return pixels[:rows], pixels.shape[:2]


def turned(orientation: int, stored: Size, config: ImageConfig, mask: Size | None) -> bool:
    """Whether an image is turned upright: unless that alone keeps it from fitting its mask.

    Args:
        orientation: EXIF's.
        stored: (height, width) in the file.
        config: may say that it is not.
        mask: (height, width), None where there is none.
    """
    if config.exif == "ignore" or orientation not in _TURNS:
        return False
    upright = stored[::-1] if orientation >= 5 else stored
    return mask is None or upright == mask or stored != mask


def read_header(path: str) -> Header:
    """What the header of an image file says; its pixels are not decoded. Errors as for `read_image`."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            return Header(image.getexif().get(_EXIF_ORIENTATION, 1), image.size[::-1], image.mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError and others for bad files and unknown modes
        if path.lower().endswith(TIFF):
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                orientation = int(page.tags.valueof(_EXIF_ORIENTATION, default=1))
                mode = f"of {page.samplesperpixel} bands"
                return Header(orientation, (page.imagelength, page.imagewidth), mode)
        raise ValueError(f"the image {path} cannot be read: {error}") from error


def size_as_read(header: Header, config: ImageConfig, mask: Size | None = None) -> Size:
    """The (height, width) that `read_image` gives an image with this header."""
    orientation, stored, _ = header
    return stored[::-1] if orientation >= 5 and turned(orientation, stored, config, mask) else stored


def read_mask(path: str) -> np.ndarray:
    """Decodes a mask as it is stored: palette images give their indices, 16-bit images their values.

    Returns:
        (H, W): uint8, or a wider integer type where the file is wider. Of coloured masks uint8 (H, W, 3), without their
        transparency.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded to its end, or its pixels are neither colours nor whole numbers.
    """
    if (decoded := _decode_common_png(path, (GREY, PALETTE, RGB))) is not None:
        return decoded[0]
    mask, raw_mode, _ = _decode(path, "mask")
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode in ("RGB", "RGBA") and not _DEEP.fullmatch(raw_mode):
        return np.ascontiguousarray(np.asarray(mask)[..., :3])
    if mask.mode == "LA":
        return np.ascontiguousarray(np.asarray(mask)[..., 0])
    if mask.mode not in ("L", "P") and not mask.mode.startswith("I"):
        raise ValueError(
            f"mask {path} has the colour mode {mask.mode} ({raw_mode}): expected one channel with class numbers (grey "
            "or palette), or colours of 8 bits (RGB or RGBA)"
        )
    values = np.asarray(mask)
    # Grey PNG of 2 or 4 bits are stretched to 0..255 on decoding; what is stored are the class numbers.
    stretch = _GREY_STRETCH.get(raw_mode)
    return values // stretch if stretch else values


def _decode_image(path: str, config: ImageConfig) -> Decoded:
    """The pixels of an image as it is stored, uint8 (H, W, 3)."""
    if path.lower().endswith(TIFF) and (bands := _decode_tiff_bands(path, config)) is not None:
        return Decoded(_to_rgb(bands.pixels, path, config), bands.orientation)
    image, raw_mode, orientation = _decode(path, "image")
    if _DEEP.fullmatch(raw_mode) or image.mode[0] in "IF":
        pixels = cv2.imread(path, cv2.IMREAD_UNCHANGED)  # Pillow cuts colour images to 8 bits
        if pixels is None:
            raise ValueError(f"the image {path} cannot be read: OpenCV has no reader for {raw_mode}")
        pixels = pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB) if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
        return Decoded(_to_rgb(pixels, path, config), orientation)
    if config.bands is None:
        if image.mode == "P":
            image = image.convert("RGBA")  # through RGBA: Pillow warns about transparent palettes otherwise
        image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.asarray(image)
    if image.format == "TIFF" or path.lower().endswith(TIFF):  # Pillow turns these alone, and always
        pixels = _TURNS[_BACK.get(orientation, orientation)](pixels) if orientation in _TURNS else pixels
    return Decoded(pixels if config.bands is None else _to_rgb(pixels, path, config), orientation)


def _decode_tiff_bands(path: str, config: ImageConfig) -> Decoded | None:
    """The pixels of a TIFF with more than 8 bits or with bands beyond red, green, blue and transparency, else None."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            extra = [kind for kind in page.extrasamples if kind not in (1, 2)]  # 1 and 2 are transparency
            usual = not extra and page.samplesperpixel - len(page.extrasamples) in (1, 3)
            inks = page.photometric == tifffile.PHOTOMETRIC.SEPARATED
            if page.bitspersample <= 8 and page.dtype != np.int8 and (usual or inks) and config.bands is None:
                return None
            pixels = page.asarray()
            orientation = int(page.tags.valueof(_EXIF_ORIENTATION, default=1))
            separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3
    except FileNotFoundError:
        raise
    except Exception:  # tifffile raises many kinds for bad files; Pillow says what is wrong
        return None
    return Decoded(np.moveaxis(pixels, 0, -1) if separate else pixels, orientation)


def _to_rgb(pixels: np.ndarray, path: str, config: ImageConfig) -> np.ndarray:
    """uint8 (H, W, 3) of pixels of any type and number of bands, (H, W) or (H, W, bands)."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    count = pixels.shape[2]
    if config.bands is not None:
        if max(config.bands) > count:
            asked = " ".join(map(str, config.bands))
            raise ValueError(f"image {path} has {count} band(s), and --bands {asked} asks for more")
        pixels = pixels[..., [band - 1 for band in config.bands]]
    elif count == 1:
        pixels = pixels.repeat(3, axis=2)
    elif count > 3:
        raise ValueError(
            f"image {path} has {count} bands (1 to {count}), {pixels.dtype}: expected red, green and blue. Say which "
            "they are: --bands R G B, such as --bands 3 2 1"
        )
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if config.image_range is None:
        raise ValueError(
            f"image {path} has {8 * pixels.itemsize} bits per channel ({pixels.dtype}, its values run from "
            f"{pixels.min():g} to {pixels.max():g}): expected 8. Say which values become black and white: "
            "--image-range LOW HIGH, such as 0 4095, the same for all images; or convert them"
        )
    low, high = config.image_range
    scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(np.nan_to_num(scaled).clip(0, 255)).astype(np.uint8, order="C")


def _decode_common_png(
    path: str, colour_types: tuple[int, ...], rows: int | None = None
) -> tuple[np.ndarray, Size] | None:
    """As `decode_png`; None also for a missing file and other formats, which `_decode` handles."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(SIGNATURE))
            return decode_png(start + file.read(), colour_types, rows) if start == SIGNATURE else None
    except OSError:
        return None


def _decode(path: str, kind: str) -> tuple[Image.Image, str, int]:
    """The image, fully decoded, the raw mode of its pixels in the file, and EXIF's orientation."""
    try:
        with Image.open(path) as image:
            _refuse_bomb(path, image.size)
            raw_mode = image.tile[0][3] if image.tile else ""
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            image.load()
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error and others for bad files
        reason = "it is empty" if os.path.isfile(path) and not os.path.getsize(path) else error
        raise ValueError(f"the {kind} {path} cannot be read: {reason}") from error
    return image, raw_mode if isinstance(raw_mode, str) else (raw_mode or [""])[0], orientation


def _refuse_bomb(path: str, size: tuple[int, int]) -> None:
    """Raises a ValueError for an image of more pixels than a file of its length can be meant to hold."""
    pixels, length = size[0] * size[1], os.path.getsize(path)
    if pixels > MAX_PIXELS or (pixels > LARGE and pixels > PIXELS_PER_BYTE * length):
        raise ValueError(
            f"it has {size[0]}x{size[1]} pixels in {length:,} bytes, and at most {MAX_PIXELS:,} pixels are read, of "
            f"those with more than {LARGE:,} at most {PIXELS_PER_BYTE} a byte: cut it into parts"
        )
