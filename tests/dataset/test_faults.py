"""Each fault of `fault_sweep`: training works, or one error names the file, or another sample replaces it."""

import re

import pytest

from dataset import build_dataset
from dataset.config import AugmentationConfig
from dataset.loading.bad_samples import BadSamples
from dataset.loading.loaders import build_train_loader
from tests.dataset.conftest import batches
from tests.dataset.fault_sweep import COUNT, CROP, FAULTS, spoiled


def read_all(root, allowed=0):
    """What a run does with its training split: lists it, checks it, reads two epochs."""
    counter = BadSamples(allowed, lambda text: None)
    data = build_dataset("custom", root, "train", max_missing=allowed)
    data.check_samples(allowed=allowed)
    for batch in batches(data, crop_size=CROP, batch_size=COUNT, max_iterations=2, bad_samples=counter):
        assert batch.images.shape == (COUNT, 3, *CROP) and batch.target.shape == (COUNT, *CROP)
    return counter


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.filterwarnings("error:Palette images")
def test_a_fault_is_read_or_refused_by_name_or_replaced(case, tmp_path):
    fault, root = FAULTS[case], spoiled(case, tmp_path)
    if fault.error is None:
        read_all(root)
        assert not read_all(root, allowed=1).found
        return
    with pytest.raises((ValueError, FileNotFoundError), match=fault.error) as caught:
        read_all(root)
    assert len(str(caught.value)) < 1000
    if not fault.one_sample:
        with pytest.raises((ValueError, FileNotFoundError), match=fault.error):
            read_all(root, allowed=1)
        return
    ((image, reason),) = read_all(root, allowed=1).found.items()
    assert "train_001" in image and re.search(fault.error, reason)


@pytest.mark.parametrize("case", ["sizes: smaller than the crop", "sizes: one row", "sizes: 1x1"])
def test_small_images_are_padded_with_void(case, tmp_path):
    data = build_dataset("custom", spoiled(case, tmp_path), "train")
    shrunk = AugmentationConfig(scale_range=(0.5, 1.0))
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=12, augmentation=shrunk)
    for batch in loader:
        for image, target, size, position in zip(*batch, strict=True):
            height, width = size.tolist()
            assert 1 <= height <= CROP[0] and 1 <= width <= CROP[1]
            assert (target[height:] == 255).all() and (target[:, width:] == 255).all()
            assert (image[:, height:] == 0).all() and (image[:, :, width:] == 0).all()
            if "train_001" in loader.samples.image_path(position.item()):
                assert height * width < CROP[0] * CROP[1] and (target[:height, :width] < 3).all()


def test_an_ignored_mask_stays_ignored(tmp_path):
    data = build_dataset("custom", spoiled("mask: all ignored", tmp_path), "train")
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=1)
    void = [bool((target == 255).all()) for target in next(iter(loader)).target]
    assert void == ["train_001" in loader.samples.image_path(position) for position in range(COUNT)]
