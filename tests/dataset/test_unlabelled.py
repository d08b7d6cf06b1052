"""Training images without masks: where they stand in the stream, what they hold, in files and in a decoded cache."""

import numpy as np
import pytest

from dataset import build_dataset
from dataset.loading.loaders import build_eval_loader, build_train_loader
from dataset.loading.samplers import MixedOrder
from tests.dataset.conftest import build_small
from tests.pseudo_datasets import write_pseudo_dataset
from utils.types import UNLABELLED


@pytest.fixture
def partly(tmp_path):
    """Of five training images the first and the third have no mask."""
    root = write_pseudo_dataset("custom", tmp_path / "data", count=5)
    lines = (root / "train.txt").read_text().splitlines()
    lines = [line.split()[0] if number in (0, 2) else line for number, line in enumerate(lines)]
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("cached", [False, True])
def test_images_without_masks_come_last_and_are_marked(partly, tmp_path, cached):
    if cached:
        build_small(partly, tmp_path / "out", ["train"])
    data = build_dataset("custom", tmp_path / "out" if cached else partly, "train")
    assert data.num_unlabelled == 2 and len(data) == 5
    assert [path.rsplit("_", 1)[1] for path in data.image_paths] == [
        "001.png",
        "003.png",
        "004.png",
        "000.png",
        "002.png",
    ]
    for index in range(5):
        image, mask = data[index]
        assert image.shape[:2] == mask.shape and (mask == UNLABELLED).all() == (index >= 3)
    assert len(build_eval_loader(data)) == 3  # nothing else can be measured
    batch = next(iter(build_train_loader(data, crop_size=(96, 96), batch_size=5, max_iterations=1)))
    for target, size in zip(batch.target, batch.valid_size.tolist(), strict=True):
        inner = target[: size[0], : size[1]]
        assert (inner == UNLABELLED).all() or (inner != UNLABELLED).all()
        assert (target[size[0] :] == 255).all()
    assert (batch.target == UNLABELLED).any() and not data.check_samples()[1:]


def test_further_images_are_added(partly, tmp_path):
    build_small(partly, tmp_path / "out", ["train"])
    more = [str(partly / f"images/val_00{number}.png") for number in range(2)]
    for root in (partly, tmp_path / "out"):
        data = build_dataset("custom", root, "train")
        data.add_unlabelled(more)
        assert len(data) == 7 and data.num_unlabelled == 4 and list(data.image_paths)[-2:] == more
        np.testing.assert_array_equal(data[6][0], build_dataset("custom", partly, "val")[1][0])
        assert (data[6][1] == UNLABELLED).all()


@pytest.mark.parametrize(("fraction", "places"), [(0.5, [1, 3, 5, 7]), (0.25, [3, 7]), (0.3, [3, 6])])
def test_every_batch_has_its_share(fraction, places):
    order = MixedOrder(num_samples=30, num_unlabelled=10, seed=3, batch_size=8, fraction=fraction)
    found = np.array([[order.index(8 * batch + place) for place in range(8)] for batch in range(50)])
    is_unlabelled = found >= 20
    assert all(np.flatnonzero(row).tolist() == places for row in is_unlabelled)
    for kind, size in ((True, 10), (False, 20)):  # both are permutations, one after the other
        stream = found[is_unlabelled == kind]
        for start in range(0, len(stream) - size, size):
            assert len(set(stream[start : start + size])) == size


@pytest.mark.parametrize("fraction", [0.05, 0.99])
def test_a_share_that_is_no_image_is_refused(fraction):
    order = (30, 10, 0, 8, fraction)
    if fraction == 0.99:
        assert MixedOrder(*order).unlabelled.sum() == 7
        return
    with pytest.raises(ValueError, match="--unlabelled-fraction 0.05 of a batch of 8 is 0"):
        MixedOrder(*order)
