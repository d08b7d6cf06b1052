"""Bad and unusual files: each is read as it should be, or refused with its name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dataset import build_dataset
from dataset.reading.files import PathList, read_image, read_mask
from tests.pseudo_datasets import block_mask, textured_image, write_image, write_mask, write_pseudo_dataset

SIZE = (32, 48)


@pytest.fixture
def root(tmp_path):
    return write_pseudo_dataset("custom", tmp_path, SIZE, count=2)


def read_list(root, text, split="train", encoding="utf-8"):
    (root / "own.txt").write_bytes(text.encode(encoding))
    return build_dataset("custom", root, split, list_file=str(root / "own.txt"))


class TestImages:
    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
    def test_modes_become_rgb(self, tmp_path, mode):
        picture = Image.fromarray(textured_image(SIZE)).convert(mode)
        path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
        picture.save(path)
        image = read_image(str(path))
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")))

    def test_transparent_palette(self, tmp_path):
        Image.fromarray(textured_image(SIZE)).convert("P").save(tmp_path / "x.png", transparency=bytes(range(256)))
        assert read_image(str(tmp_path / "x.png")).shape == (*SIZE, 3)

    def test_sixteen_bits_are_refused(self, tmp_path):
        Image.fromarray(np.full(SIZE, 4000, dtype=np.uint16)).save(tmp_path / "x.png")
        with pytest.raises(ValueError, match=r"x\.png has more than 8 bits"):
            read_image(str(tmp_path / "x.png"))

    def test_camera_orientation_is_not_applied(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(textured_image(SIZE)).save(tmp_path / "x.jpg", exif=exif)
        assert read_image(str(tmp_path / "x.jpg")).shape == (*SIZE, 3)

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    @pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.9])
    def test_truncated_files_are_named(self, tmp_path, suffix, part):
        path = tmp_path / f"x{suffix}"
        write_image(path, textured_image((64, 64)))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(
            ValueError, match=rf"image .*x\{suffix} cannot be read" + (": it is empty" if not part else "")
        ):
            read_image(str(path))

    def test_text_is_not_an_image(self, tmp_path):
        (tmp_path / "x.png").write_text("<html>not found</html>")
        with pytest.raises(ValueError, match=r"x\.png cannot be read"):
            read_image(str(tmp_path / "x.png"))


class TestMasks:
    def test_palette_gives_indices(self, tmp_path):
        mask = block_mask(SIZE, (0, 1, 2, 255))
        write_mask(tmp_path / "m.png", mask, palette=True)
        assert Image.open(tmp_path / "m.png").mode == "P"
        np.testing.assert_array_equal(read_mask(str(tmp_path / "m.png")), mask)

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_grey_of_few_bits_gives_what_is_stored(self, tmp_path, bits):
        mask = block_mask(SIZE, tuple(range(2**bits)))
        (tmp_path / "m.png").write_bytes(_few_bit_grey_png(mask, bits))
        np.testing.assert_array_equal(read_mask(str(tmp_path / "m.png")), mask)

    def test_sixteen_bits_with_legal_values(self, root):
        mask = block_mask(SIZE, (0, 1, 2, 255))
        Image.fromarray(mask.astype(np.uint16)).save(root / "masks/train_000.png")
        np.testing.assert_array_equal(build_dataset("custom", root, "train")[0][1], mask)

    def test_thousands_of_values_stay_a_short_message(self, root):
        Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE)).save(root / "masks/train_000.png")
        with pytest.raises(
            ValueError, match=r"holds 1532 illegal value\(s\): 3, 4, .*\.\.\. \(1532 pixels\)"
        ) as caught:
            build_dataset("custom", root, "train").check_samples()
        assert len(str(caught.value)) < 500

    def test_colour_mask_is_refused(self, root):
        write_image(root / "masks/train_000.png", textured_image(SIZE))
        with pytest.raises(ValueError, match=r"train_000\.png has the colour mode RGB: expected one channel"):
            build_dataset("custom", root, "train").check_samples()

    def test_other_size_than_the_image(self, root):
        write_mask(root / "masks/train_000.png", block_mask((48, 32), (0, 1)))
        with pytest.raises(ValueError, match=r"images/train_000.png is 32x48, mask .*masks/train_000.png is 48x32"):
            build_dataset("custom", root, "train").check_samples()


class TestLists:
    def test_windows_line_ends_blank_lines_and_byte_order_mark(self, root):
        line = "images/train_00{0}.png masks/train_00{0}.png\r\n"
        data = read_list(root, "\ufeff\r\n" + line.format(0) + "\r\n  \r\n" + line.format(1))
        assert [path[-7:] for path in data.mask_paths] == ["000.png", "001.png"]
        assert data[1][0].shape == (*SIZE, 3)

    @pytest.mark.parametrize("form", ['"{0}" "{1}"', "{0}\t{1}", "{0} {1}", '{0}\t"{1}"'])
    def test_paths_with_spaces(self, root, form):
        (root / "my images").mkdir()
        (root / "images/train_000.png").rename(root / "my images/a b.png")
        (root / "masks/train_000.png").rename(root / "masks/a b.png")
        data = read_list(root, form.format("my images/a b.png", "masks/a b.png"))
        assert data.image_paths[0] == str(root / "my images/a b.png") and data.mask_paths[0] == str(
            root / "masks/a b.png"
        )

    def test_image_alone_with_a_space_in_a_test_list(self, root):
        (root / "images/test_000.png").rename(root / "images/a b.png")
        data = read_list(root, "images/a b.png\nimages/test_001.png", "test")
        assert len(data) == 2 and data.mask_paths is None and data[0][1] is None

    def test_names_beyond_ascii_links_and_absolute_paths(self, root):
        (root / "images/train_000.png").rename(root / "images/straße_道路.png")
        (root / "masks/ссылка.png").symlink_to(root / "masks/train_000.png")
        data = read_list(root, f"images/straße_道路.png {root}/masks/ссылка.png")
        assert data[0][1].shape == SIZE
        (root / "masks/train_000.png").unlink()
        with pytest.raises(FileNotFoundError, match="1 of 2 files .*are missing"):
            read_list(root, f"images/straße_道路.png {root}/masks/ссылка.png")

    @pytest.mark.parametrize(
        ("text", "split", "message"),
        [
            ("", "train", r"own\.txt is empty"),
            (" \n\r\n", "train", r"own\.txt is empty"),
            ("images/train_000.png", "train", r"own\.txt, line 1: no mask for 'images/train_000.png'"),
            ("a.png b.png c.png", "train", r"line 1: expected 'image mask' .* got 3 words.*double quotes"),
            ("images/test_000.png masks/test_000.png\nimages/test_001.png", "test", r"some lines have a mask and some"),
        ],
    )
    def test_unusable_lists(self, root, text, split, message):
        with pytest.raises(ValueError, match=message):
            read_list(root, text, split)

    def test_list_that_is_not_text(self, root):
        with pytest.raises(ValueError, match=r"own\.txt is not UTF-8"):
            read_list(root, "images/straße.png masks/x.png", encoding="latin-1")

    def test_missing_list(self, root):
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
    assert list(paths) == ["/a/b", "", "/ü/道", "x" * 300] and paths[-1] == "x" * 300 and paths[1:3] == ["", "/ü/道"]
    with pytest.raises(IndexError):
        paths[4]


def _few_bit_grey_png(mask: np.ndarray, bits: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    expanded = (mask[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(expanded.reshape(mask.shape[0], -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
