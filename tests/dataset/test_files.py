"""Unusual files and lists that `fault_sweep` does not have: each is read as it should be, or refused with its name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from dataset import build_dataset
from dataset.config import ImageConfig, ReadingConfig
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


def deep_images(folder):
    """Files of more than 8 bits or more than 3 bands, and the values that they hold, (H, W, bands)."""
    values = textured_image(SIZE).astype(np.uint16) * 12 + 100
    four = np.dstack([values, values[..., 0] // 2])
    for name, pixels in (("rgb.png", values[..., ::-1]), ("rgba.png", np.dstack([values[..., ::-1], values[..., 0]]))):
        cv2.imwrite(str(folder / name), pixels)
    cv2.imwrite(str(folder / "grey.png"), values[..., 0])
    tifffile.imwrite(folder / "rgb.tif", values, photometric="rgb")
    tifffile.imwrite(folder / "four.tif", four, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(folder / "planes.tif", np.moveaxis(four, -1, 0), photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(folder / "float.tif", values / np.float32(3160), photometric="rgb")
    tifffile.imwrite(
        folder / "bytes.tif", (four // 13).astype(np.uint8), photometric="minisblack", planarconfig="contig"
    )
    return values, four


SCALED = {
    "rgb.png": ({"image_range": (100, 3160)}, slice(3)),
    "rgba.png": ({"image_range": (100, 3160)}, slice(3)),
    "grey.png": ({"image_range": (100, 3160)}, [0, 0, 0]),
    "rgb.tif": ({"image_range": (100, 3160)}, slice(3)),
    "four.tif": ({"image_range": (100, 3160), "bands": (4, 1, 2)}, [3, 0, 1]),
    "planes.tif": ({"image_range": (100, 3160), "bands": (4, 1, 2)}, [3, 0, 1]),
}


@pytest.mark.parametrize("name", SCALED)
def test_deep_images_are_scaled_as_is_said(tmp_path, name):
    _, four = deep_images(tmp_path)
    options, bands = SCALED[name]
    expected = np.rint(((four[..., bands] - 100.0) * (255 / 3060)).clip(0, 255))
    found = read_image(str(tmp_path / name), ImageConfig(**options))
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.abs(found - expected).max() <= 1 and (found == expected).mean() > 0.99
    without = options | {"image_range": None}
    with pytest.raises(ValueError, match=rf"{name} has 16 bits per channel \(uint16, its values run from \d+ to \d+"):
        read_image(str(tmp_path / name), ImageConfig(**without))


def test_bands_are_chosen(tmp_path):
    values, four = deep_images(tmp_path)
    for name in ("bytes.tif", "four.tif"):
        with pytest.raises(ValueError, match=rf"{name} has 4 bands \(1 to 4\).*--bands R G B"):
            read_image(str(tmp_path / name))
    found = read_image(str(tmp_path / "bytes.tif"), ImageConfig(bands=(3, 2, 1)))
    np.testing.assert_array_equal(found, (four // 13).astype(np.uint8)[..., [2, 1, 0]])
    with pytest.raises(ValueError, match=r"has 4 band\(s\), and --bands 5 2 1 asks for more"):
        read_image(str(tmp_path / "bytes.tif"), ImageConfig(bands=(5, 2, 1)))
    Image.fromarray(textured_image(SIZE)).save(tmp_path / "usual.png")
    found = read_image(str(tmp_path / "usual.png"), ImageConfig(bands=(3, 1, 2)))
    np.testing.assert_array_equal(found, textured_image(SIZE)[..., [2, 0, 1]])
    found = read_image(str(tmp_path / "float.tif"), ImageConfig(image_range=(0, 1)))
    assert np.abs(found - values * (255 / 3160)).max() <= 1


@pytest.mark.parametrize(
    "given", [{"image_range": (5, 5)}, {"image_range": (1,)}, {"bands": (1, 2)}, {"bands": (0, 1, 2)}]
)
def test_settings_of_images_are_checked(given):
    with pytest.raises(ValueError, match="--image-range .*LOW below HIGH|--bands .*three numbers"):
        ImageConfig(**given)


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


def test_a_run_starts_on_images_of_more_bands_than_pillow_reads(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path, count=1)
    pixels = np.dstack([textured_image(SIZE), textured_image(SIZE)[..., :2]])
    tifffile.imwrite(root / "images/train_000.tif", pixels, photometric="minisblack", planarconfig="contig")
    (root / "train.txt").write_text("images/train_000.tif masks/train_000.png\n")
    data = build_dataset("custom", root, "train", reading=ReadingConfig(bands=(5, 2, 1)))
    assert not data.check_samples()
    np.testing.assert_array_equal(data[0][0], pixels[..., [4, 1, 0]])
