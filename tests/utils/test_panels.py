import numpy as np
import pytest

from utils.panels import contact_sheet, panel, prediction_panel, stripes
from utils.visualize import colorize, generated_palette

PALETTE = [(10, 20, 30), (200, 100, 0)]
CLASSES = ["one", "two", "three"]
COLORS = [(128, 64, 128), (0, 128, 0), (0, 0, 200)]
RIGHT, WRONG = (70, 70, 70), (220, 30, 30)


def test_panel_keeps_the_pictures_whole():
    small, large = colorize(np.eye(4, dtype=np.uint8), PALETTE), np.full((300, 90, 3), 77, np.uint8)
    made = panel([("a", small), ("b", large)], cell_height=12)
    assert made.dtype == np.uint8 and made.shape[1] == 10 + 12 + 10 + 90 + 10
    enlarged = small.repeat(3, axis=0).repeat(3, axis=1)
    top = np.argwhere((made[:, 10] == PALETTE[1]).all(axis=1)).min()
    assert np.array_equal(made[top : top + 12, 10:22], enlarged)
    assert np.array_equal(made[top : top + 300, 32:122], large)
    assert (made[:, :10] == 255).all() and (made[-10:] == 255).all()
    assert (made[:top, 10:22] < 255).any()  # the title


def test_panel_default_height_and_legend():
    image = np.full((50, 400, 3), 128, np.uint8)
    plain = panel([("title", image)])
    assert plain.shape[0] > 240 and plain.shape[1] == 5 * 400 + 20
    legend = [(f"class {index}", color) for index, color in enumerate(generated_palette(60))]
    explained = panel([("title", image)], legend=legend)
    assert explained.shape[1] == plain.shape[1] and explained.shape[0] > plain.shape[0] + 30
    beneath = explained[plain.shape[0] :].reshape(-1, 3)
    found = set(map(tuple, beneath.tolist()))
    assert all(color in found for _, color in legend)
    assert (explained[:, -10:] == 255).all()  # nothing runs out of the page


def test_long_titles_and_names_stay_within_their_width():
    image = np.full((240, 60, 3), 128, np.uint8)
    made = panel([("several words that need lines", image), ("w" * 80, image)], legend=[("n" * 300, (1, 2, 3))])
    assert made.shape[1] == 150
    pictures_end = np.argwhere((made[:, 10] == 128).all(axis=1)).max()
    assert (made[:pictures_end, 70:80] == 255).all() and (made[:, 140:] == 255).all()
    assert ((made[pictures_end:] == (1, 2, 3)).all(axis=2)).any()


def test_contact_sheet_has_rows_of_whole_pictures_and_a_legend():
    cells = [(f"picture {n}" * 9, np.full((40 + 20 * (n == 1), 160), 40 * n, np.uint8)) for n in range(5)]
    cells = [(title, image[..., None].repeat(3, axis=2)) for title, image in cells]
    made = contact_sheet(cells, [("one", (200, 10, 10)), ("two", (10, 200, 10))], columns=3)
    assert made.dtype == np.uint8 and made.shape[1] == 3 * 170 + 10
    for number, (_, image) in enumerate(cells[1:], 1):
        rows, columns = np.nonzero((made == 40 * number).all(axis=2)[:, number % 3 * 170 + 10 :][:, :160])
        assert len(rows) >= image.shape[0] * 160 and columns.min() == 0
    assert all((made[-60:] == color).all(axis=2).any() for color in ((200, 10, 10), (10, 200, 10)))
    assert (made[:, -10:] == 255).all() and (made[:10] == 255).all()  # long titles are cut
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_panel_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="at least one"):
        panel([])
    with pytest.raises(ValueError, match="'mask' is float64"):
        panel([("mask", np.zeros((4, 4, 3)))])


def sample(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, its truth (classes 0 and 1, the right quarter void) and a prediction that is wrong in the top half."""
    image = np.random.default_rng(0).integers(0, 120, (height, width, 3), dtype=np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[:, width // 2 :] = 1
    truth[:, 3 * width // 4 :] = 255
    prediction = np.where(truth == 255, 1, truth).astype(np.uint8)
    prediction[: height // 2, : width // 2] = 1
    prediction[: height // 2, width // 2 :] = 0
    return image, truth, prediction


def parts(made: np.ndarray, height: int, width: int, count: int) -> list[np.ndarray]:
    """The pictures in a panel; their top is where the first column of a cell ends being white and stays so."""
    column = (made[:, 10] != 255).any(axis=1)
    run = np.convolve(column, np.ones(height, int), "valid")
    (top,) = np.flatnonzero(run == height)[:1]
    return [made[top : top + height, left : left + width] for left in range(10, (width + 10) * count, width + 10)]


def test_prediction_panel_shows_image_truth_prediction_and_errors():
    image, truth, prediction = sample(256, 160)
    made = prediction_panel(image, prediction, CLASSES, COLORS, truth)
    assert made.shape[1] == 4 * 160 + 5 * 10
    shown_image, shown_truth, shown_prediction, errors = parts(made, 256, 160, 4)
    assert np.array_equal(shown_image, image)
    assert np.array_equal(shown_prediction, colorize(prediction, COLORS))
    void = truth == 255
    assert np.array_equal(shown_truth[~void], colorize(truth, COLORS)[~void])
    assert np.array_equal(shown_truth[void], stripes(256, 160)[void])
    assert np.array_equal(errors[void], stripes(256, 160)[void])
    assert (errors[:128, :120] == WRONG).all() and (errors[128:, :120] == RIGHT).all()


def test_legend_names_the_classes_that_occur():
    image, truth, prediction = sample(256, 160)
    made = prediction_panel(image, prediction, CLASSES, COLORS, truth)
    end = int(np.flatnonzero((made[:, 12] == RIGHT).all(axis=1) | (made[:, 180] == COLORS[0]).all(axis=1)).max()) + 2

    def legend_colors(made):
        return set(map(tuple, made[end:].reshape(-1, 3).tolist()))

    found = legend_colors(made)
    assert set(COLORS[:2]) <= found and COLORS[2] not in found
    assert (made[end:] == 0).all(axis=2).any()  # the stripes of void
    prediction[0, 0] = 2  # a single pixel of the prediction
    assert COLORS[2] in legend_colors(prediction_panel(image, prediction, CLASSES, COLORS, truth))
    clean = prediction_panel(image, prediction, CLASSES, COLORS, np.minimum(truth, 1))
    assert not (clean[end:] == 0).all(axis=2).any()


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (12, 3000), (3000, 12), (1024, 2048)])
def test_any_size_is_shown_legibly(size):
    image, truth, prediction = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), np.ones(size, np.uint8)
    made = prediction_panel(image, prediction, CLASSES, COLORS, truth)
    assert 600 < made.shape[1] <= 2400 and 50 < made.shape[0] < 1600
    shown = (made == COLORS[1]).all(axis=2)
    assert shown.any() and (made == WRONG).all(axis=2).any()


def test_small_label_maps_are_enlarged_in_whole_pixels():
    truth = np.array([[0, 1], [2, 0]], np.uint8)
    made = prediction_panel(np.full((2, 2, 3), 7, np.uint8), truth, CLASSES, COLORS)
    assert made.shape[1] == 2 * 240 + 3 * 10
    image, shown = parts(made, 240, 240, 2)
    assert (image == 7).all()
    assert np.array_equal(shown, colorize(truth, COLORS).repeat(120, axis=0).repeat(120, axis=1))


def test_large_label_maps_keep_their_colours():
    labels = np.random.default_rng(0).integers(0, 3, (700, 3000)).astype(np.uint8)
    made = prediction_panel(np.zeros((700, 3000, 3), np.uint8), labels, CLASSES, COLORS)
    shown = parts(made, round(700 * 1185 / 3000), 1185, 2)[1]
    assert set(map(tuple, shown.reshape(-1, 3).tolist())) == set(COLORS)


def test_different_sizes_are_refused():
    image, truth, prediction = sample(20, 30)
    with pytest.raises(ValueError, match=r"image \(20, 30, 3\), prediction \(19, 30\)"):
        prediction_panel(image, prediction[1:], CLASSES, COLORS)
    with pytest.raises(ValueError, match=r"truth \(20, 29\)"):
        prediction_panel(image, prediction, CLASSES, COLORS, truth[:, 1:])
