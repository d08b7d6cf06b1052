"""Which pixels a shape has: those whose centres it encloses, against a plain computation for each pixel."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dataset.convert.shapes import Bitmap, Ellipse, Polygons, rectangle


def pixels(shape, size) -> np.ndarray:
    labels = np.zeros(size, dtype=np.uint8)
    shape.patch(size).paint(labels, 1)
    return labels.astype(bool)


def encloses(points: list, x: Fraction, y: Fraction) -> bool:
    """Even-odd rule in exact arithmetic: edges that a ray to the left crosses; points on left and upper edges count."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            inside = not inside
    return inside


def plain(points: np.ndarray, size) -> np.ndarray:
    exact = [(Fraction(x), Fraction(y)) for x, y in points.tolist()]
    half = Fraction(1, 2)
    return np.array([[encloses(exact, c + half, r + half) for c in range(size[1])] for r in range(size[0])])


@pytest.mark.parametrize("x0, y0, x1, y1", [(0, 0, 9, 7), (2, 1, 3, 2), (1, 3, 8, 6), (4, 0, 9, 1), (-3, -2, 4, 99)])
def test_a_box_of_whole_numbers_has_exactly_the_pixels_between_them(x0, y0, x1, y1):
    expected = np.zeros((7, 9), dtype=bool)
    expected[max(y0, 0) : y1, max(x0, 0) : x1] = True
    np.testing.assert_array_equal(pixels(rectangle((x0, y0), (x1, y1)), (7, 9)), expected)
    np.testing.assert_array_equal(pixels(rectangle((x1, y1), (x0, y0)), (7, 9)), expected)


@pytest.mark.parametrize(
    "x0, x1, first, last", [(0.5, 2.5, 0, 1), (0.51, 2.51, 1, 2), (0.49, 2.49, 0, 1), (1.6, 1.9, 1, 0), (-9, 99, 0, 3)]
)
def test_a_box_between_pixels_has_those_whose_centres_it_holds(x0, x1, first, last):
    expected = np.zeros((2, 4), dtype=bool)
    expected[:, first : last + 1] = True
    np.testing.assert_array_equal(pixels(rectangle((x0, 0), (x1, 2)), (2, 4)), expected)
    np.testing.assert_array_equal(pixels(rectangle((0, x0), (2, x1)), (4, 2)), expected.T)


@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_those_of_a_plain_computation(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, 20, (int(rng.integers(3, 9)), 2))  # which cross themselves, and leave the image
    points = np.round(points * 2) / 2 if seed % 3 == 0 else points  # corners and edges at centres
    np.testing.assert_array_equal(pixels(Polygons([points]), (14, 17)), plain(points, (14, 17)))


@pytest.mark.parametrize("seed", range(6))
def test_pixels_along_a_common_edge_are_in_exactly_one_polygon(seed):
    rng = np.random.default_rng(seed)
    corners = np.array([(0, 0), (30, 0), (30, 20), (0, 20)], dtype=np.float64)
    middle = rng.uniform((5, 5), (25, 15)) if seed else np.array([15.0, 10.0])
    triangles = [np.array([corners[i], corners[(i + 1) % 4], middle]) for i in range(4)]
    count = sum(pixels(Polygons([triangle]), (20, 30)).astype(int) for triangle in triangles)
    assert (count == 1).all()


def test_parts_are_united_and_what_one_part_encloses_twice_is_outside():
    one, other = rectangle((0, 0), (4, 4)).parts[0], rectangle((2, 2), (6, 6)).parts[0]
    expected = np.zeros((8, 8), dtype=bool)
    expected[0:4, 0:4] = expected[2:6, 2:6] = True
    np.testing.assert_array_equal(pixels(Polygons([one, other]), (8, 8)), expected)
    ring = np.array([(0, 0), (7, 0), (7, 7), (0, 7), (0, 0), (2, 2), (2, 5), (5, 5), (5, 2), (2, 2)], dtype=np.float64)
    hole = np.zeros((8, 8), dtype=bool)
    hole[0:7, 0:7] = True
    hole[2:5, 2:5] = False
    np.testing.assert_array_equal(pixels(Polygons([ring]), (8, 8)), hole)


@pytest.mark.parametrize("center, radii, angle", [((6, 5), (4, 4), 0), ((5.3, 4.1), (6, 2), 30), ((0, 9), (3, 5), 250)])
def test_ellipses(center, radii, angle):
    size, turn = (10, 13), math.radians(angle)
    expected = np.zeros(size, dtype=bool)
    for row, column in np.ndindex(size):
        dx, dy = column + 0.5 - center[0], row + 0.5 - center[1]
        along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        expected[row, column] = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1
    assert expected.any()
    np.testing.assert_array_equal(pixels(Ellipse(center, radii, angle), size), expected)


def test_a_box_is_turned_clockwise():
    corners = rectangle((1, 1), (5, 3), 90).parts[0]
    np.testing.assert_allclose(corners[:2], [(4, 0), (4, 4)], atol=1e-12)  # the upper left corner is upper right
    slanted = rectangle((2, 4), (8, 6), 45).parts[0]
    assert slanted[0, 1] < slanted[1, 1]  # the upper edge falls to the right


def test_bitmaps_are_cut_at_the_image():
    full = np.ones((3, 4), dtype=bool)
    for top, left, count in ((0, 0, 12), (-2, -1, 3), (3, 4, 2), (9, 0, 0), (-3, 0, 0)):
        assert pixels(Bitmap(top, left, full), (5, 5)).sum() == count, (top, left)


def test_shapes_outside_have_no_pixels():
    for shape in (rectangle((20, 0), (30, 5)), rectangle((-9, 1), (-1, 5)), Ellipse((50, 50), (3, 3)), Polygons([])):
        assert not pixels(shape, (6, 6)).any()
    assert not pixels(rectangle((1, 1), (1e7, 1.2)), (6, 6)).any()  # between the centres of two rows
