"""Unusual files and lists that `fault_sweep` does not have: each is read as it should be, or refused with its name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dataset import build_dataset
from dataset.config import ImageConfig
from dataset.reading import images
from dataset.reading.files import PathList
from dataset.reading.images import read_image, read_mask
from tests.dataset.conftest import chunk
from tests.pseudo_datasets import block_mask, textured_image, write_pseudo_dataset

SIZE = (32, 48)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_read_upright_unless_only_the_stored_rows_fit_the_mask(tmp_path, orientation, kind):
    exif, stored, path = Image.Exif(), textured_image(SIZE), str(tmp_path / f"x.{kind}")
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpg" else {}))
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert (upright.shape != stored.shape) == (orientation >= 5)
    np.testing.assert_array_equal(read_image(path), upright)
    np.testing.assert_array_equal(read_image(path, mask=upright.shape[:2]), upright)
    assert np.abs(read_image(path, ImageConfig(exif="ignore")).astype(int) - stored).max() < 16
    if orientation >= 5:
        assert read_image(path, mask=SIZE).shape == stored.shape


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_grey_masks_give_what_is_stored(tmp_path, bits):
    mask = block_mask(SIZE, tuple(range(min(2**bits, 19))))
    (tmp_path / "m.png").write_bytes(_grey_png(mask, bits))
    np.testing.assert_array_equal(read_mask(str(tmp_path / "m.png")), mask)


def _grey_png(mask: np.ndarray, bits: int) -> bytes:
    expanded = (mask[..., None].astype(int) >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(expanded.reshape(mask.shape[0], -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_test_list_of_absolute_paths_and_of_an_image_alone_with_a_space(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path, SIZE, count=2)
    (root / "images/test_000.png").rename(root / "images/a b.png")
    (root / "own.txt").write_text(f"images/a b.png\n{root}/images/test_001.png")
    data = build_dataset("custom", root, "test", list_file=str(root / "own.txt"))
    assert list(data.image_paths) == [str(root / "images/a b.png"), str(root / "images/test_001.png")]
    assert data.mask_paths is None and data[0][1] is None
    with pytest.raises(FileNotFoundError, match=r"none\.txt does not exist"):
        build_dataset("custom", root, "train", list_file=str(root / "none.txt"))


def test_check_reads_the_first_sample_and_some_of_the_rest(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path, (8, 8), count=10)
    (root / "images/train_000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train_000\.png cannot be read: it is empty"):
        build_dataset("custom", root, "train").check_samples(1)
    (root / "images/val_005.png").write_bytes(b"")
    build_dataset("custom", root, "val").check_samples(1)
    with pytest.raises(ValueError, match=r"val_005"):
        build_dataset("custom", root, "val").check_samples(2)


def test_path_list():
    paths = PathList(["/a/b", "", "/ü/道", "x" * 300])
    assert list(paths) == ["/a/b", "", "/ü/道", "x" * 300] and paths[-1] == "x" * 300
    with pytest.raises(IndexError):
        paths[4]


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_small_files_of_many_pixels_are_refused_and_photographs_of_any_size_read(tmp_path, monkeypatch, kind):
    assert Image.MAX_IMAGE_PIXELS is None  # 179 million are no limit
    monkeypatch.setattr(images, "LARGE", 50 * 50)
    empty, photograph = tmp_path / f"empty.{kind}", tmp_path / f"photograph.{kind}"
    Image.new("L", (300, 500)).save(empty, **({"compression": "tiff_deflate"} if kind == "tif" else {}))
    picture = textured_image((300, 500))
    Image.fromarray(picture).convert("L").save(photograph)
    assert read_image(str(photograph)).shape == (300, 500, 3)
    Image.new("L", (50, 50)).save(tmp_path / f"small.{kind}")
    assert read_image(str(tmp_path / f"small.{kind}")).shape == (50, 50, 3)
    with pytest.raises(ValueError, match=rf"empty\.{kind} cannot be read: it has 300x500 pixels in \S+ bytes.*cut it"):
        read_image(str(empty))
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 500 - 1)
    with pytest.raises(ValueError, match="at most 149,999 pixels are read"):
        read_image(str(photograph))
