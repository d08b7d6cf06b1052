import itertools

import numpy as np
import pytest
from PIL import Image

from utils.visualize import blend, colorize, confusion_plot, error_map, generated_palette, save_indexed_png

PALETTE = [(10, 20, 30), (200, 100, 0)]
MASK = np.array([[0, 1], [255, 7]], dtype=np.uint8)


def test_colorize():
    assert colorize(MASK, PALETTE).tolist() == [[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert colorize(MASK.astype(np.int64) - 256, PALETTE).max() == 0  # negative ids are void, not the last colours
    assert colorize(MASK, PALETTE).dtype == np.uint8


def test_indexed_png_gives_ids_and_colours_back(tmp_path):
    save_indexed_png(MASK, PALETTE, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image), MASK)
        assert np.array_equal(np.array(image.convert("RGB")), colorize(MASK, PALETTE))
    with pytest.raises(ValueError, match="int64"):
        save_indexed_png(MASK.astype(np.int64), PALETTE, tmp_path / "mask.png")
    with pytest.raises(ValueError, match="257"):
        save_indexed_png(MASK, [(0, 0, 0)] * 257, tmp_path / "mask.png")


def test_blend():
    image, color = np.full((1, 2, 3), 100, np.uint8), np.full((1, 2, 3), 255, np.uint8)
    assert blend(image, color).tolist() == [[[178] * 3] * 2]  # 177.5
    with pytest.raises(ValueError, match="shape"):
        blend(image, color[:, :1])


def test_error_map():
    prediction, target = np.array([[0, 1, 1]]), np.array([[0, 0, 255]])
    right, wrong, ignored = error_map(prediction, target)[0].astype(int)
    assert right.max() < 100 and ignored.min() > 200
    assert wrong[0] > 150 and wrong[1:].max() < 80
    with pytest.raises(ValueError, match="shape"):
        error_map(prediction, target[:, :2])


def test_generated_palette():
    palette = generated_palette(256)
    assert len(palette) == 256 and (0, 0, 0) not in palette
    assert all(isinstance(channel, int) and 0 <= channel <= 255 for color in palette for channel in color)
    for count, distance in ((0, 0), (60, 60), (182, 30), (256, 10)):
        assert generated_palette(count) == palette[:count]
        for one, other in itertools.combinations(palette[:count], 2):
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) >= distance


@pytest.mark.parametrize("classes", [1, 8, 182])
def test_confusion_plot(tmp_path, classes):
    matrix = np.eye(classes, dtype=np.int64) * 10
    matrix[0] = 0  # a class that does not occur
    confusion_plot(matrix, [f"class {index}" for index in range(classes)], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 500
        pixels = np.array(image.convert("RGB"))
    if classes > 1:
        assert (pixels == (8, 48, 107)).all(axis=2).sum() > 100  # 100 % of a class
    with pytest.raises(ValueError, match="class names"):
        confusion_plot(matrix, ["x"] * (classes + 1), tmp_path / "c.png")
