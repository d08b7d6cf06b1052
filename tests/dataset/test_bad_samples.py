"""Bad training samples: replaced in a way that repeats, counted once each, refused beyond the number allowed."""

import threading
import time

import numpy as np
import pytest

from dataset import build_dataset
from dataset.loading.bad_samples import BadSamples, listed
from dataset.loading.loaders import TrainStream, build_eval_loader, build_train_loader
from dataset.loading.transforms import TrainTransform
from tests.conftest import assert_same
from tests.dataset.conftest import batches, joined
from tests.pseudo_datasets import write_pseudo_dataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNT = 6
TOO_MANY = r"^2 training samples cannot be used, and --skip-bad-samples allows 1:"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six samples, of which 1 and 4 are bad."""
    root = write_pseudo_dataset("custom", tmp_path_factory.mktemp("bad"), (24, 36), COUNT)
    data = build_dataset("custom", root, "train")
    (root / "images/train_001.png").write_bytes(b"")
    (root / "masks/train_004.png").unlink()
    return data


@pytest.fixture(scope="module")
def stream(data):
    return TrainStream(data, TrainTransform((16, 20)), seed=5)


@pytest.fixture(scope="module")
def whole(data):
    return tolerant_batches(data)


def tolerant(allowed=2):
    warnings = []
    return BadSamples(allowed, warnings.append), warnings


def tolerant_batches(data, **options):
    return batches(data, bad_samples=tolerant()[0], **options)


def test_each_is_warned_of_once_with_its_file_and_the_reason(data):
    counter, warnings = tolerant()
    batches(data, bad_samples=counter)
    assert sorted(path[-13:] for path in counter.found) == ["train_001.png", "train_004.png"]
    assert len(warnings) == 2 and "of at most 2" in warnings[0]
    text = "\n".join(warnings)
    assert "images/train_001.png cannot be read: it is empty" in text and "masks/train_004.png does not exist" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_allowed_stops_with_the_list(data, workers):
    counter, warnings = tolerant(1)
    with pytest.raises(ValueError, match=TOO_MANY) as caught:
        batches(data, bad_samples=counter, workers=workers)
    assert "train_001.png" in str(caught.value) and "train_004.png" in str(caught.value) and len(warnings) == 1


@pytest.mark.parametrize(("workers", "counter"), [(0, None), (2, None), (2, BadSamples(0, print))])
@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (0, FileNotFoundError, r"^\S*masks/train_004\.png does not exist$"),
        (1, ValueError, r"^the image \S*images/train_001\.png cannot be read: it is empty$"),
    ],
)
def test_none_allowed_is_an_error_of_the_file_with_its_own_message(data, workers, counter, start, error, message):
    with pytest.raises(error, match=message):
        batches(data, bad_samples=counter, workers=workers, start_iteration=start, batch_size=2)


def test_replacements_are_good_samples_in_the_window_of_the_position_and_nothing_else_changes(stream):
    good = [index for index in range(COUNT) if index not in (1, 4)]
    for position in range(40):
        replaced = stream.read([position], bad=[])
        index = stream.order.index(position)
        same = 0
        for candidate in [index] if index in good else good:
            image, mask = np.empty((3, 16, 20), np.uint8), np.empty((16, 20), np.uint8)
            stream._read_one(candidate, position, image, mask)
            same += np.array_equal(replaced.images[0], image)
        assert same == 1 and replaced.positions.tolist() == [position]


def test_different_positions_get_different_replacements(stream):
    firsts = [next(stream.order.replacements(position)) for position in range(60)]
    assert set(firsts) == set(range(COUNT))
    assert firsts == [next(stream.order.replacements(position)) for position in range(60)]


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_and_a_resume_change_nothing(data, whole, workers):
    assert_same(whole, tolerant_batches(data, workers=workers))
    assert_same(whole[3:], tolerant_batches(data, workers=workers, start_iteration=3))


def test_processes_change_nothing_and_count_their_bad_samples(data, whole):
    counters = [tolerant()[0] for _ in range(2)]
    ranks = [batches(data, bad_samples=counters[rank], rank=rank, world_size=2) for rank in range(2)]
    assert_same(whole, [joined(parts) for parts in zip(*ranks, strict=True)])
    assert len(counters[0].found | counters[1].found) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_reported_when_its_batch_is_taken(data, stream, workers):
    """Workers read ahead; bad samples are reported at the iteration that needs them."""
    first_bad = next(position for position in range(100) if stream.order.index(position) in (1, 4))
    counter, warnings = tolerant()
    options = {"batch_size": 1, "max_iterations": 20, "seed": 5, "workers": workers, "bad_samples": counter}
    for position, _ in enumerate(build_train_loader(data, crop_size=(16, 20), **options)):
        assert bool(warnings) == (position >= first_bad)


def test_nothing_but_bad_samples_is_an_error(tmp_path):
    data = build_dataset("custom", write_pseudo_dataset("custom", tmp_path, (8, 8), 2), "train")
    for path in data.image_paths:
        open(path, "wb").close()
    with pytest.raises(ValueError, match=r"none of 100 replacements .* can be read: the image .*it is empty"):
        batches(data, bad_samples=tolerant(10)[0])


def test_the_checks_before_training_allow_as_many(data):
    data.check_samples(allowed=2)
    with pytest.raises(ValueError, match=TOO_MANY):
        data.check_samples(allowed=1)
    with pytest.raises(FileNotFoundError, match="1 of 12 files are missing"):
        build_dataset("custom", data.root, "train")
    assert len(build_dataset("custom", data.root, "train", max_missing=1)) == COUNT


def test_a_long_list_is_cut():
    text = listed({str(number): f"reason {number}" for number in range(60)})
    assert "reason 49" in text and "reason 50" not in text and text.endswith("and 10 more")


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_reads_ahead_while_an_image_is_in_use(tmp_path, workers):
    data = build_dataset("custom", write_pseudo_dataset("custom", tmp_path, (8, 8), 3), "val")
    marker, plain = tmp_path / "the second image was read", type(data)

    class Marking(plain):
        def __getitem__(self, index):
            if index == 1:
                marker.touch()
            return plain.__getitem__(self, index)

    data.__class__ = Marking
    loader = iter(build_eval_loader(data, workers=workers))
    next(loader)
    deadline = time.monotonic() + 20
    while not marker.exists():  # although nobody asks for the second image
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [batch.positions.item() for batch in loader] == [1, 2]


def test_the_reading_thread_ends_with_an_abandoned_pass(data):
    loader = iter(build_eval_loader(build_dataset("custom", data.root, "val")))
    next(loader)
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
