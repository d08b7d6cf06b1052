"""Fast decoding of the PNG files that data sets consist of, from the top down to the row that is needed.

The rows of a PNG are one compressed stream, from which the first rows can be inflated alone: the decoder gets the same
stream under a header with fewer rows. libspng decodes (in about half of Pillow's
time). Only common files are decoded: 8 bits, not interlaced, complete, all checksums right. Pillow handles the others.
"""

import struct
import zlib
from collections.abc import Collection

import numpy as np
from imagecodecs import SpngError, deflate_crc32, spng_decode

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types
LARGE = 2**27  # pixels, above which a file has to be as large as photographs are
_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filter, interlace


def decode_png(
    data: bytes, colour_types: Collection[int], rows: int | None = None
) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Decodes the first rows of a PNG.

    Args:
        data: the file.
        colour_types: accepted ones of `GREY`, `RGB`, `PALETTE`; a palette image gives its indices.
        rows: number of rows from the top; None: all.

    Returns:
        uint8 (rows, W) or (rows, W, 3), and the (height, width) of the whole image. None where the file is of another
        kind or damaged; of rows that are not decoded only the checksums are verified.
    """
    try:
        (width, height, bits, colour_type, *methods), stream = _parts(data)
        common = bits == 8 and colour_type in colour_types and not any(methods)
        if not common or not 0 < width * height <= LARGE:
            return None
        taken = height if rows is None else min(rows, height)
        # Palette indices are stored like grey values.
        header = _header(width, taken, GREY if colour_type == PALETTE else colour_type)
        values = spng_decode(b"".join((SIGNATURE, header, stream, _END)))
    except (struct.error, SpngError, ValueError):
        return None
    return values.reshape(taken, width, 3) if colour_type == RGB else values.reshape(taken, width), (height, width)


def _parts(data: bytes) -> tuple[tuple[int, ...], memoryview]:
    """The fields of the header, and the image's chunks as they are in the file.

    Raises:
        ValueError, struct.error: the file is not a complete plain PNG.
    """
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR":
        raise ValueError("not a PNG")
    view = memoryview(data)
    first, end, position, kind = 0, 0, len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        after = position + 12 + length
        (checksum,) = struct.unpack_from(">I", data, after - 4)
        if deflate_crc32(view[position + 4 : after - 4]) != checksum:
            raise ValueError(f"chunk {kind!r} is damaged")
        if kind == b"IDAT":
            if end not in (0, position):
                raise ValueError("the image chunks are not contiguous")
            first, end = first or position, after
        elif kind in (b"acTL", b"eXIf") or (kind[:1].isupper() and kind not in (b"IHDR", b"PLTE", b"IEND")):
            raise ValueError(f"chunk {kind!r} is not of a plain image")
        position = after
    return _HEADER.unpack_from(data, 16), view[first:end]


def _header(width: int, height: int, colour_type: int) -> bytes:
    chunk = b"IHDR" + _HEADER.pack(width, height, 8, colour_type, 0, 0, 0)
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
