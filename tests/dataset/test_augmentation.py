"""What may be added to the augmentation: other scales, changed colours, and crops around rare classes."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference

from dataset import build_dataset
from dataset.config import AugmentationConfig
from dataset.loading.class_crops import ClassCrops
from dataset.loading.color import ColorChange
from dataset.loading.transforms import PUBLISHED_SCALES, CropWindow, nearest_indices, scaled_length
from tests.conftest import assert_same
from tests.dataset.conftest import batches, build_small
from tests.pseudo_datasets import textured_image, write_mask, write_pseudo_dataset, write_source

JITTER = (0.4, 0.3, 0.5, 0.1)
PIXELS = (1000, 10, 100)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_pseudo_dataset("custom", tmp_path_factory.mktemp("data"), (24, 36), 7)
    return build_dataset("custom", root, "train")


# --- scales -----------------------------------------------------------------------------------------------------------


def test_scales_are_tenths_from_low_to_high():
    assert AugmentationConfig().scales == PUBLISHED_SCALES
    assert AugmentationConfig(scale_range=(0.9, 1.2)).scales == (0.9, 1.0, 1.1, 1.2)
    assert AugmentationConfig(scale_range="1 1").scales == (1.0,)


@pytest.mark.parametrize("scales", [(0.5,), (0.5, 1, 2), (0.55, 1.0), (1.5, 1.0), (0.0, 1.0), (1.0, 10.5), (-1, 1)])
def test_other_ranges_are_refused(scales):
    with pytest.raises(ValueError, match=r"--scale-range .*two multiples of 0.1 from 0.1 to 10"):
        AugmentationConfig(scale_range=scales)


def test_samples_are_scaled_by_what_is_given(data):
    sizes = torch.cat([b.valid_size for b in batches(data, crop_size=(96, 144), augmentation=scaled(0.5, 0.6))])
    assert {tuple(size) for size in sizes.tolist()} == {(12, 18), (14, 22)}


def scaled(low, high, **others):
    return AugmentationConfig(scale_range=(low, high), **others)


# --- colours ----------------------------------------------------------------------------------------------------------


def by_torchvision(image, change):
    """float64 values of 0 to 255, rounded after each step."""
    steps = (
        (reference.adjust_brightness, change.brightness),
        (reference.adjust_contrast, change.contrast),
        (reference.adjust_saturation, change.saturation),
        (reference.adjust_hue, change.hue),
    )
    result = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
    for place in change.order:
        function, amount = steps[place]
        result = (function(result, amount) * 255).round() / 255
    return result.numpy().transpose(1, 2, 0) * 255


@pytest.mark.parametrize("seed", range(12))
def test_changes_are_those_of_torchvision(seed):
    """One after the other in any order; a rounding at half a grey level turns the hue of what is nearly grey."""
    image = textured_image((40, 60), seed)
    change = ColorChange.draw(JITTER, np.random.default_rng(seed))
    result = change.apply(image)
    difference = np.abs(result - by_torchvision(image, change))
    assert result.dtype == np.uint8 and difference.max() <= 6.01 and difference.mean() < 0.2
    assert np.abs(result.astype(int) - image).mean() > 2


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("amount", [0.3, -0.4])
def test_each_change_alone_is_exact(name, amount):
    image = textured_image((40, 60), 3)
    change = ColorChange(**{name: amount if name == "hue" else 1 + amount})
    assert np.abs(change.apply(image) - by_torchvision(image, change)).max() <= 1.01


def test_strengths_bound_the_draws_and_0_leaves_a_property_alone():
    changes = [ColorChange.draw(JITTER, np.random.default_rng(seed)) for seed in range(500)]
    for name, strength in zip(("brightness", "contrast", "saturation", "hue"), JITTER, strict=True):
        drawn = np.array([getattr(change, name) for change in changes]) - (name != "hue")
        assert 0.97 * strength < drawn.max() <= strength and -strength <= drawn.min() < -0.97 * strength
    assert len({change.order for change in changes}) == 24
    image = textured_image((9, 11))
    assert ColorChange.draw((0, 0, 0, 0), np.random.default_rng(1)).apply(image) is image


@pytest.mark.parametrize("jitter", [(0.4,), (0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.6), (1.1, 0, 0, 0), (-0.1, 0, 0, 0)])
def test_other_strengths_are_refused(jitter):
    with pytest.raises(ValueError, match="--color-jitter .*four numbers: brightness, contrast and saturation"):
        AugmentationConfig(color_jitter=jitter)


def test_colours_change_images_alone_and_no_other_draw(data):
    plain, changed = (
        batches(data, crop_size=(30, 50), augmentation=a) for a in (None, scaled(0.5, 2.0, color_jitter=JITTER))
    )
    for one, other in zip(plain, changed, strict=True):
        assert_same(one._replace(images=None), other._replace(images=None))
        for image, coloured, (height, width) in zip(one.images, other.images, one.valid_size.tolist(), strict=True):
            assert not coloured[:, height:].any() and not coloured[:, :, width:].any()
            assert (image != coloured).float().mean() > 0.1


# --- crops by class ---------------------------------------------------------------------------------------------------


def mask_with(*places):
    """Class 0 with some pixels of class 1 and of class 2; void around."""
    mask = np.full((60, 90), 255, np.uint8)
    mask[5:55, 5:85] = 0
    for label, row, column in places:
        mask[row, column] = label
    return mask


def centres(crops, mask, scale=Fraction(1), crop=(9, 9), count=400):
    """Label in the centre of each moved crop, or None where it did not move."""
    scaled_size = [scaled_length(length, scale) for length in mask.shape]
    height, width = map(min, scaled_size, crop)
    start = CropWindow(scale, 0, 0, height, width, flip=False)
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        window = crops.move(start, mask, rng)
        assert 0 <= window.top <= scaled_size[0] - height and 0 <= window.left <= scaled_size[1] - width
        row, column = window.top + height // 2, window.left + width // 2
        place = [nearest_indices(at, 1, scale, length)[0] for at, length in zip((row, column), mask.shape, strict=True)]
        found.append(None if window is start else int(mask[tuple(place)]))
        assert rng.random() == np.random.default_rng(seed).random(4)[3]  # so many draws, whatever comes of them
    return found


def test_classes_of_the_mask_are_drawn_in_inverse_proportion_to_their_pixels():
    mask = mask_with((1, 20, 30), (1, 21, 30), (2, 40, 60))
    found = centres(ClassCrops(1.0, PIXELS), mask, count=3000)
    shares = np.array([found.count(label) for label in (0, 1, 2)]) / 3000
    expected = 1 / np.array(PIXELS)
    assert shares == pytest.approx(expected / expected.sum(), abs=0.02)
    without = centres(ClassCrops(1.0, PIXELS), mask_with((2, 40, 60)))
    assert without.count(2) / 400 == pytest.approx(10 / 11, abs=0.04) and 1 not in without


def test_the_share_of_moved_crops_is_that_which_is_asked_for():
    mask = mask_with((1, 20, 30))
    for share in (0.0, 0.5, 1.0):
        found = centres(ClassCrops(share, PIXELS), mask, count=1000)
        assert sum(label is not None for label in found) / 1000 == pytest.approx(share, abs=0.04)


def test_every_pixel_of_the_class_is_drawn_alike():
    places = [(1, 20, column) for column in range(30, 34)] + [(1, 40, 70)]
    crops, mask, start = ClassCrops(1.0, (10**9, 1, 1)), mask_with(*places), CropWindow(Fraction(1), 0, 0, 1, 1, False)
    drawn = [crops.move(start, mask, np.random.default_rng(seed)) for seed in range(2000)]
    counts = [sum((window.top, window.left) == place[1:] for window in drawn) for place in places]
    assert sum(counts) == 2000 and min(counts) > 340 and max(counts) < 460


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(7, 10), Fraction(19, 10)])
@pytest.mark.parametrize("crop", [(9, 9), (30, 64), (500, 500)])
def test_the_pixel_is_in_the_crop_which_is_inside_the_image(scale, crop):
    """Pixels at every edge and inside; blocks of 2 x 2, of which halving leaves one."""
    for row, column in ((0, 0), (0, 44), (58, 88), (30, 0), (27, 51)):
        mask = np.zeros((60, 90), np.uint8)
        mask[row : row + 2, column : column + 2] = 1
        crops = ClassCrops(1.0, (10**9, 1))
        scaled_size = [scaled_length(length, scale) for length in mask.shape]
        height, width = map(min, scaled_size, crop)
        for seed in range(20):
            window = crops.move(CropWindow(scale, 0, 0, height, width, False), mask, np.random.default_rng(seed))
            assert 0 <= window.top <= scaled_size[0] - height and 0 <= window.left <= scaled_size[1] - width
            rows, columns = (
                nearest_indices(start, length, scale, side)
                for start, length, side in zip((window.top, window.left), (height, width), mask.shape, strict=True)
            )
            assert (mask[rows][:, columns] == 1).any()


def test_a_mask_without_labels_or_with_unknown_counts_is_no_error():
    assert set(centres(ClassCrops(1.0, PIXELS), np.full((60, 90), 255, np.uint8))) == {None}
    assert set(centres(ClassCrops(1.0, (10**9, 0, 10**9)), mask_with((1, 20, 30)))) == {1}  # left out when counted


def test_rare_classes_are_in_more_crops_of_the_stream_and_the_other_crops_stay(tmp_path):
    """One class has a block of 3 x 4 pixels in each image of 40 x 60."""
    root = write_pseudo_dataset("custom", tmp_path, (40, 60), 4)
    for index in range(4):
        mask = np.zeros((40, 60), np.uint8)
        mask[30:33, 10 * index : 10 * index + 4] = 2
        write_mask(root / f"masks/train_{index:03d}.png", mask)
    data = build_dataset("custom", root, "train")
    options = {"crop_size": (12, 16), "batch_size": 400, "max_iterations": 1, "class_pixels": (9552, 0, 48)}
    (plain,), (half,), (all_,) = (
        batches(data, augmentation=scaled(1.0, 1.0, crop_by_class=share), **options) for share in (0.0, 0.5, 1.0)
    )
    shares = [float((batch.target == 2).flatten(1).any(1).float().mean()) for batch in (plain, half, all_)]
    assert shares[0] < 0.35 and shares[1] == pytest.approx((shares[0] + 1) / 2, abs=0.06) and shares[2] > 0.98
    same = (plain.images == half.images).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6


@pytest.mark.parametrize("share", [1.5, -0.1])
def test_other_shares_are_refused(share):
    with pytest.raises(ValueError, match="--crop-by-class .*a probability from 0 to 1"):
        AugmentationConfig(crop_by_class=share)


# --- all together -----------------------------------------------------------------------------------------------------


def test_decoded_caches_give_the_same_samples(tmp_path):
    root = write_source("custom", tmp_path / "source", 7)
    build_small(root, tmp_path / "out")
    options = {"crop_size": (24, 31), "max_iterations": 30, "class_pixels": PIXELS}
    options["augmentation"] = scaled(0.3, 2.5, crop_by_class=0.7, color_jitter=JITTER)
    files, cached = (build_dataset("custom", folder, "train") for folder in (root, tmp_path / "out"))
    assert_same(batches(files, **options), batches(cached, workers=2, **options))
