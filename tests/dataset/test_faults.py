"""Each fault of `fault_sweep`: training works, or one error names the file, or another sample replaces it."""

import re

import pytest

from dataset import build_dataset
from dataset.loading.bad_samples import BadSamples
from dataset.loading.loaders import build_train_loader
from tests.conftest import STUDENT
from tests.dataset.conftest import batches
from tests.dataset.fault_sweep import COUNT, CROP, FAULTS, spoiled
from tests.programs import exit_code
from tests.pseudo_datasets import write_pseudo_dataset


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
    loader = build_train_loader(data, crop_size=CROP, batch_size=COUNT, max_iterations=12, scales=(0.5, 1.0))
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


@pytest.fixture
def train(run_main, capsys):
    def run(root, *words):
        command = ["--dataset", "custom", "--data", root, "--save-dir", root / "runs", "--device", "cpu", "--skip-val"]
        command += ["--model", STUDENT[0], "--backbone", STUDENT[1], "--crop-size", *CROP, "--batch-size", 2]
        command += ["--max-iterations", 2, "--log-iter", 1, "--workers", 1, *words]
        code = exit_code(lambda words: run_main("train_baseline", *words), command)
        return code, "".join(capsys.readouterr())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_that_is_found_late_is_named(tmp_path, train, workers):
    """Sixty samples, of which one is bad that the check before training does not open."""
    root = write_pseudo_dataset("custom", tmp_path, (48, 64), 60)
    (root / "masks/train_005.png").write_bytes(b"")
    words = ("--max-iterations", 30, "--workers", workers)
    code, output = train(root, *words)
    assert code == 2 and re.search(r"error: the mask .*train_005\.png cannot be read: it is empty", output), output
    assert "iteration 1/30" in output and "iteration 30/30" not in output
    code, output = train(root, *words, "--overwrite", "--skip-bad-samples", 1)
    assert code == 0 and output.count("bad training sample 1 of at most 1") == 1, output
    assert re.search(r"bad training samples .*replaced: 1\n", output) and "Traceback" not in output, output
