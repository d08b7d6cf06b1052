"""The first rows of a PNG are those of the whole image, bit for bit; uncommon or damaged files are left to Pillow."""

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import build_dataset
from dataset.loading.loaders import TrainStream
from dataset.loading.transforms import CropWindow, TrainTransform, resized_window, rows_read
from dataset.reading.images import read_image, read_image_top, read_mask
from dataset.reading.png import GREY, PALETTE, RGB, decode_png
from tests.dataset.conftest import chunk
from tests.pseudo_datasets import block_mask, textured_image, write_pseudo_dataset

HEIGHT, WIDTH = 37, 50
IMAGE = textured_image((HEIGHT, WIDTH), 3)
ROWS = (1, 2, 19, 36, 37, 500)


def png(pixels: np.ndarray, colour_type: int, filters, extra: bytes = b"", idat_bytes: int = 100) -> bytes:
    """A PNG whose row y is written with filter filters[y % len(filters)], in image chunks of `idat_bytes`."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).astype(np.int64)
    step = rows.shape[1] // width
    coded = bytearray()
    above = np.zeros_like(rows[0])
    for y, row in enumerate(rows):
        left, corner = (np.r_[np.zeros(step, np.int64), line[:-step]] for line in (row, above))
        kind = filters[y % len(filters)]
        estimate = left + above - corner
        distances = np.stack([abs(estimate - left), abs(estimate - above), abs(estimate - corner)])
        paeth = np.choose(distances.argmin(0), [left, above, corner])
        predicted = [0, left, above, (left + above) // 2, paeth][kind]
        coded += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    stream = zlib.compress(bytes(coded))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    parts = [chunk(b"IDAT", stream[i : i + idat_bytes]) for i in range(0, len(stream), idat_bytes)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0)])
def test_rows_of_every_filter(filters):
    data = png(IMAGE, RGB, filters)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), IMAGE)
    for rows in ROWS:
        pixels, size = decode_png(data, (RGB,), rows)
        assert size == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(pixels, IMAGE[:rows])
    np.testing.assert_array_equal(decode_png(data, (RGB,))[0], IMAGE)


@pytest.mark.parametrize("colour_type", [GREY, PALETTE])
def test_masks(colour_type, tmp_path):
    mask = block_mask((HEIGHT, WIDTH), (0, 1, 2, 255))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", bytes(256))
    data = png(mask, colour_type, (4, 1), palette if colour_type == PALETTE else b"")
    (tmp_path / "m.png").write_bytes(data)
    for found in (decode_png(data, (GREY, PALETTE))[0], read_mask(str(tmp_path / "m.png"))):
        np.testing.assert_array_equal(found, mask)
    assert decode_png(data, (RGB,)) is None


def test_rows_below_are_not_decoded():
    """A stream that ends after 20 rows, under checksums that are right, is enough for 20 rows."""
    data = png(IMAGE[:20], RGB, (4,))
    data = data[:8] + chunk(b"IHDR", data[16:20] + struct.pack(">I", HEIGHT) + data[24:29]) + data[33:]
    np.testing.assert_array_equal(decode_png(data, (RGB,), 20)[0], IMAGE[:20])
    assert decode_png(data, (RGB,), 21) is None


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_modes_are_decoded_by_pillow(mode, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(IMAGE).convert(mode).save(path)
    whole = read_image(str(path))
    top, size = read_image_top(str(path), 5)
    assert size == (HEIGHT, WIDTH) and decode_png(path.read_bytes(), (RGB,), 5) is None
    np.testing.assert_array_equal(top, whole[:5])
    np.testing.assert_array_equal(whole, np.asarray(Image.fromarray(IMAGE).convert(mode).convert("RGB")))


WHOLE = png(IMAGE, RGB, (4,))
ODD = {
    "interlaced": WHOLE[:8] + chunk(b"IHDR", WHOLE[16:28] + b"\1") + WHOLE[33:],
    "cut": WHOLE[:-30],
    "without its end": WHOLE[:-12],
    "empty": b"",
    "signature alone": WHOLE[:8],
    "damaged": WHOLE[:300] + bytes([WHOLE[300] ^ 255]) + WHOLE[301:],
    "animated": png(IMAGE, RGB, (0,), chunk(b"acTL", bytes(8))),
    "unknown critical chunk": png(IMAGE, RGB, (0,), chunk(b"ABCD", b"")),
    "image in two places": WHOLE[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + WHOLE[-12:],
    "no image": WHOLE[:33] + WHOLE[-12:],
    "no pixels": WHOLE[:8] + chunk(b"IHDR", bytes(4) + WHOLE[20:29]) + WHOLE[33:],
    "too large": WHOLE[:8] + chunk(b"IHDR", b"\x7f\xff\xff\xff" * 2 + WHOLE[24:29]) + WHOLE[33:],
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_uncommon_and_damaged_files_are_left_to_pillow(case):
    assert decode_png(ODD[case], (RGB,), 3) is None


@pytest.mark.parametrize("case", ["cut", "damaged"])
def test_damage_below_the_rows_is_still_refused_by_name(case, tmp_path):
    (tmp_path / "x.png").write_bytes(ODD[case])
    with pytest.raises(ValueError, match=r"the image .*x\.png cannot be read"):
        read_image_top(str(tmp_path / "x.png"), 1)


@pytest.mark.parametrize("tenths", range(3, 21))
def test_the_rows_read_are_enough_for_the_window(tenths):
    scale = Fraction(tenths, 10)
    height, width = max(1, round(HEIGHT * scale)), max(1, round(WIDTH * scale))
    for top in range(0, height, 3):
        for count in (1, 2, height):
            window = CropWindow(scale, top, 0, min(count, height - top), width, False)
            rows = rows_read(window, HEIGHT)
            assert 0 < rows <= HEIGHT
            np.testing.assert_array_equal(resized_window(IMAGE[:rows], window), resized_window(IMAGE, window))


def test_the_stream_is_that_of_whole_images(tmp_path, monkeypatch):
    data = build_dataset("custom", write_pseudo_dataset("custom", tmp_path, (64, 48), 3), "train")
    stream = TrainStream(data, TrainTransform((20, 24)), seed=1)
    quick = stream.read(list(range(30)))
    rows = []

    def read_whole(path, count, *_):
        rows.append(count)
        return read_image(path), (64, 48)

    monkeypatch.setattr("dataset.base.read_image_top", read_whole)
    for fast, whole in zip(quick, stream.read(list(range(30))), strict=True):
        assert torch.equal(fast, whole)
    assert min(rows) < 30 and len(rows) == 30
