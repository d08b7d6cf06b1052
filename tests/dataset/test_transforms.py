"""Crop before resize equals resize before crop; padding, flip and normalisation."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from dataset.loading.transforms import (
    BGR_MEAN,
    PUBLISHED_SCALES,
    CropWindow,
    TrainTransform,
    nearest_indices,
    normalize,
    resized_window,
    rows_read,
    scaled_length,
)
from tests.pseudo_datasets import block_mask, textured_image

SCALES = [Fraction(scale).limit_denominator(100) for scale in (*PUBLISHED_SCALES, 0.25, 1.25, 3.7)]


def bilinear_by_definition(image, scale):
    """float64 bilinear samples at (x + 1/2) / scale - 1/2, edges repeated."""
    result = image.astype(np.float64)
    for axis in (0, 1):
        length = image.shape[axis]
        at = np.clip((np.arange(scaled_length(length, scale)) + 0.5) / float(scale) - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, length - 1)
        result = result.take(low, axis) * (1 - weight) + result.take(high, axis) * weight
    return result


def noisy(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3))
    return ((textured_image(size, seed).astype(int) + noise) // 2).astype(np.uint8)


def applied(transform, image, mask, window):
    """Crop of image and mask; asserts that the rest is padded."""
    pixels, target = np.empty((3, *transform.crop_size), np.uint8), np.empty(transform.crop_size, np.uint8)
    transform.apply(image, mask, window, pixels, target)
    for part, padding in ((pixels.transpose(1, 2, 0), 0), (target, 255)):
        assert (part[window.height :] == padding).all() and (part[:, window.width :] == padding).all()
    return pixels[:, : window.height, : window.width], target[: window.height, : window.width]


def random_windows(size, scale, crop, count):
    rng, transform = np.random.default_rng(3), TrainTransform(crop, [float(scale)])
    return [transform.draw(size, rng) for _ in range(count)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(101, 203), (64, 97), (333, 127), (7, 5)])
def test_window_equals_resize_then_crop(size, scale):
    image = noisy(size)
    exact = bilinear_by_definition(image, scale)
    whole = cv2.resize(image, None, fx=float(scale), fy=float(scale), interpolation=cv2.INTER_LINEAR)
    assert whole.shape == exact.shape
    for window in random_windows(size, scale, (41, 53), 8):
        part = resized_window(image, window)
        place = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
        assert np.abs(part - exact[place]).max() <= 1.0
        assert np.abs(part.astype(int) - whole[place]).max() <= 1
        assert (part != whole[place]).mean() < 0.02


@pytest.mark.parametrize("scale", SCALES)
def test_every_length_has_its_last_rows(scale):
    """cv2 rounds floating-point products: at 0.7 it makes 255 rows of 365, whose exact product is 255.5, thus 256."""
    longest = noisy((1100, 7))  # not 1: what stays as it is, cv2 copies
    for length in range(1, 1100):
        image = longest[:length]
        height = scaled_length(length, scale)
        shown = min(height, 40)
        window = CropWindow(scale, height - shown, 0, shown, 1, flip=False)
        part = resized_window(image[: rows_read(window, length)], window)
        assert part.shape == (shown, 1, 3), length
        if length < 60 or round(length * float(scale)) != height:
            assert np.abs(part - bilinear_by_definition(image, scale)[-shown:, :1]).max() <= 1.0, length


@pytest.mark.parametrize("size", [(365, 500), (705, 725), (345, 325)])
def test_sides_whose_exact_product_is_a_half_are_padded(size):
    image, mask = noisy(size), block_mask(size, (0, 1, 2))
    transform = TrainTransform((512, 512), [0.7])
    window = transform.draw(size, np.random.default_rng(0))
    pixels, target = applied(transform, image, mask, window)
    assert (target != 255).all() and (pixels[:, -1] > 0).any()


@pytest.mark.parametrize("scale", SCALES)
def test_mask_takes_the_pixel_of_the_largest_bilinear_weight(scale):
    """The chosen pixel is at most half a pixel from the coordinate where the image is sampled."""
    length = 61
    index = nearest_indices(0, scaled_length(length, scale), scale, length)
    centre = (np.arange(len(index)) + 0.5) / float(scale) - 0.5
    assert np.abs(index - np.clip(centre, 0, length - 1)).max() <= 0.5 + 1e-9
    assert (np.diff(index) >= 0).all()


def test_image_and_mask_stay_aligned():
    """An image painted with its labels shows, after any transform, the label's colour wherever blocks are flat."""
    mask = np.kron(block_mask((8, 10), (0, 1, 2, 3)), np.ones((16, 16), dtype=np.uint8))
    image = np.repeat(mask[..., None] * 60, 3, axis=2).astype(np.uint8)
    transform = TrainTransform((60, 80))
    for seed in range(40):
        window = transform.draw(mask.shape, np.random.default_rng(seed))
        pixels, target = applied(transform, image, mask, window)
        # a pixel is mixed at edges only
        assert (np.abs(pixels[0].astype(int) - target * 60) > 1).mean() < 0.15


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_the_image_and_keeps_the_padding_right_and_below(flip):
    image, mask = noisy((20, 30)), block_mask((20, 30), (0, 1, 2))
    window = CropWindow(Fraction(1), 0, 0, 20, 30, flip)
    pixels, target = applied(TrainTransform((32, 40), [1.0]), image, mask, window)
    step = -1 if flip else 1
    np.testing.assert_array_equal(pixels, image[:, ::step].transpose(2, 0, 1))
    np.testing.assert_array_equal(target, mask[:, ::step])


def test_draws_cover_scales_places_and_flips():
    transform = TrainTransform((40, 40))
    windows = [transform.draw((100, 100), np.random.default_rng(seed)) for seed in range(2000)]
    assert {float(w.scale) for w in windows} == set(PUBLISHED_SCALES)
    assert 900 < sum(w.flip for w in windows) < 1100
    half = [w for w in windows if w.scale == Fraction(1, 2)]
    assert {w.top for w in half} == set(range(11)) == {w.left for w in half}


@pytest.mark.parametrize("scales", [[], [0.0], [-1.0], [float("nan")], [float("inf")], [0.001]])
def test_bad_settings(scales):
    with pytest.raises(ValueError, match="scale"):
        TrainTransform((5, 5), scales)
    with pytest.raises(ValueError, match="at least 1"):
        TrainTransform((5, 0))


def test_normalize():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    valid_size = torch.tensor([[5, 7], [3, 4]])
    result = normalize(images, valid_size)
    expected = images.flip(1).double() - torch.tensor(BGR_MEAN).double().view(1, 3, 1, 1)
    assert result.dtype == torch.float32
    torch.testing.assert_close(normalize(images), expected.float())
    expected[1, :, 3:], expected[1, :, :, 4:] = 0, 0
    torch.testing.assert_close(result, expected.float())
