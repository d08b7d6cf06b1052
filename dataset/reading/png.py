"""Fast decoding of the PNG files that data sets consist of, from the top down to the row that is needed.

The rows of a PNG are one compressed stream, from which the first rows can be inflated alone: the decoder gets the same
stream under a header with fewer rows. Where at least half of the rows are wanted, libdeflate inflates all, much faster
than zlib, and the decoder gets the rows in a stream that is not compressed. libspng decodes (in about half of Pillow's
time). Only common files are decoded: 8 bits, not interlaced, complete, all checksums right. Pillow handles the others.
"""

import struct
import zlib
from collections.abc import Collection

import numpy as np
from imagecodecs import DeflateError, SpngError, deflate_adler32, deflate_crc32, deflate_decode, spng_decode

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types
LARGE = 2**27  # pixels, above which a file has to be as large as photographs are
_END = b"\0\0\0\0IEND\xaeB`\x82"
_BLOCK = 65535  # bytes that one block of a stream can hold as they are
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
        if 2 * taken >= height:
            row = 1 + width * (3 if colour_type == RGB else 1)
            stream = _stored(deflate_decode(_contents(stream), out=row * height)[: row * taken])
        values = spng_decode(b"".join((SIGNATURE, header, stream, _END)))
    except (struct.error, SpngError, DeflateError, ValueError):
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


def _contents(chunks: memoryview) -> bytes:
    """What contiguous chunks hold."""
    found, position = [], 0
    while position < len(chunks):
        (length,) = struct.unpack_from(">I", chunks, position)
        found.append(chunks[position + 8 : position + 8 + length])
        position += length + 12
    return b"".join(found)


def _stored(rows: bytes) -> bytes:
    """A chunk whose zlib stream holds these bytes as they are."""
    view, pieces = memoryview(rows), [b"IDAT\x78\x01"]
    for start in range(0, len(view), _BLOCK):
        block = view[start : start + _BLOCK]
        pieces += [struct.pack("<BHH", start + _BLOCK >= len(view), len(block), len(block) ^ 0xFFFF), block]
    chunk = b"".join([*pieces, struct.pack(">I", deflate_adler32(view))])
    return b"".join([struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", deflate_crc32(chunk))])


def _header(width: int, height: int, colour_type: int) -> bytes:
    chunk = b"IHDR" + _HEADER.pack(width, height, 8, colour_type, 0, 0, 0)
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
