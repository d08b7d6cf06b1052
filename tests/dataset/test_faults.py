"""Each fault of `fault_sweep`: training works, or one error names the file, or another sample replaces it."""

import re

import numpy as np
import pytest
from PIL import Image

from dataset import build_dataset
from dataset.loading.bad_samples import BadSamples
from dataset.loading.loaders import build_train_loader
from tests.dataset.fault_sweep import COUNT, CROP, FAULTS, spoiled, train
from tests.pseudo_datasets import write_pseudo_dataset


def read_all(root, allowed=0):
    """What a run does with its training split: lists it, checks it, reads two epochs."""
    counter = BadSamples(allowed, lambda text: None)
    data = build_dataset("custom", root, "train", max_missing=allowed)
    data.check_samples(allowed=allowed)
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=2, bad_samples=counter)
    for batch in loader:
        assert batch.images.shape == (COUNT, 3, *CROP) and batch.target.shape == (COUNT, *CROP)
    return counter


@pytest.mark.parametrize("case", FAULTS)
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
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=12, scales=(0.5, 1.0))
    small = next(index for index, path in enumerate(data.image_paths) if "train_001" in path)
    for batch in loader:
        for slot, position in enumerate(batch.positions.tolist()):
            height, width = batch.valid_size[slot].tolist()
            assert 1 <= height <= CROP[0] and 1 <= width <= CROP[1]
            assert (batch.target[slot, height:] == 255).all() and (batch.target[slot, :, width:] == 255).all()
            assert (batch.images[slot, :, height:] == 0).all() and (batch.images[slot, :, :, width:] == 0).all()
            if loader.samples.order.index(position) == small:
                assert height * width < CROP[0] * CROP[1]
                assert (batch.target[slot, :height, :width] < 3).all()


def test_an_ignored_mask_stays_ignored(tmp_path):
    root = spoiled("mask: all ignored", tmp_path)
    data = build_dataset("custom", root, "train")
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=1)
    void = [bool((target == 255).all()) for target in next(iter(loader)).target]
    order = [loader.samples.image_path(position) for position in range(COUNT)]
    assert void == ["train_001" in path for path in order]


def test_transparent_grey_and_palette_images_are_what_they_look_like(tmp_path):
    for mode in ("P", "RGBA", "L"):
        root = spoiled({"P": "image: palette", "RGBA": "image: RGBA", "L": "image: grey"}[mode], tmp_path / mode)
        data = build_dataset("custom", root, "train")
        shown = np.asarray(Image.open(data.image_paths[1]).convert("RGB"))
        np.testing.assert_array_equal(data[1][0], shown)


def late_fault(tmp_path):
    """Sixty samples, of which one is bad that the check before training does not open."""
    root = write_pseudo_dataset("custom", tmp_path, (48, 64), 60)
    (root / "masks/train_005.png").write_bytes(b"")
    build_dataset("custom", root, "train").check_samples(50)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", FAULTS)
def test_every_fault_through_the_command_line(case, tmp_path):
    fault, root = FAULTS[case], spoiled(case, tmp_path)
    plain = train(root)
    assert "Traceback" not in plain.stdout
    assert plain.returncode == (0 if fault.error is None else 2), plain.stdout
    if fault.error is None:
        return
    assert re.search(fault.error, plain.stdout), plain.stdout
    tolerant = train(root, "--skip-bad-samples", 1)
    assert "Traceback" not in tolerant.stdout
    assert tolerant.returncode == (0 if fault.one_sample else 2), tolerant.stdout
    if fault.one_sample:
        assert "bad training sample 1 of at most 1" in tolerant.stdout, tolerant.stdout
        assert "bad training samples met and replaced: 1\n" in tolerant.stdout, tolerant.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_that_is_found_late_is_named(tmp_path, workers):
    root = late_fault(tmp_path)
    words = ("--max-iterations", 30, "--workers", workers)
    plain = train(root, *words)
    assert plain.returncode == 2 and re.search(
        r"error: the mask .*train_005\.png cannot be read: it is empty", plain.stdout
    )
    assert "iteration 1/30" in plain.stdout and "iteration 30/30" not in plain.stdout
    tolerant = train(root, *words, "--overwrite", "--skip-bad-samples", 1)
    assert tolerant.returncode == 0 and tolerant.stdout.count("bad training sample 1 of at most 1") == 1, (
        tolerant.stdout
    )
