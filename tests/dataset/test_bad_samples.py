"""Bad training samples: replaced in a way that repeats, counted once each, refused beyond the number allowed."""

import threading
import time

import pytest
import torch

from dataset import build_dataset
from dataset.loading.bad_samples import BadSamples, listed
from dataset.loading.loaders import TrainStream, build_eval_loader, build_train_loader
from dataset.loading.transforms import TrainTransform
from tests.pseudo_datasets import write_pseudo_dataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNT, BATCH, ITERATIONS = 6, 4, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six samples, of which 1 and 4 are bad."""
    root = write_pseudo_dataset("custom", tmp_path_factory.mktemp("bad"), (24, 36), COUNT)
    data = build_dataset("custom", root, "train")
    (root / "images/train_001.png").write_bytes(b"")
    (root / "masks/train_004.png").unlink()
    return data


def batches(data, bad_samples, **options):
    settings = {"crop_size": (16, 20), "batch_size": BATCH, "max_iterations": ITERATIONS, "seed": 5} | options
    return list(build_train_loader(data, bad_samples=bad_samples, **settings))


def tolerant(allowed=2):
    warnings = []
    return BadSamples(allowed, warnings.append), warnings


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y)


def test_each_is_warned_of_once_with_its_file_and_the_reason(data):
    counter, warnings = tolerant()
    batches(data, counter)
    assert sorted(path[-13:] for path in counter.found) == ["train_001.png", "train_004.png"]
    assert len(warnings) == 2 and "of at most 2" in warnings[0]
    text = "\n".join(warnings)
    assert "images/train_001.png cannot be read: it is empty" in text and "masks/train_004.png does not exist" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_allowed_stops_with_the_list(data, workers):
    counter, warnings = tolerant(1)
    with pytest.raises(
        ValueError, match=r"^2 training samples cannot be used, and --skip-bad-samples allows 1:"
    ) as caught:
        batches(data, counter, workers=workers)
    assert "train_001.png" in str(caught.value) and "train_004.png" in str(caught.value) and len(warnings) == 1


@pytest.mark.parametrize("counter", [None, BadSamples(0, print)])
def test_none_allowed_is_an_error_of_the_file(data, counter):
    with pytest.raises((ValueError, FileNotFoundError), match=r"train_00[14]\.png") as caught:
        batches(data, counter)
    assert "--skip-bad-samples" not in str(caught.value)


def test_replacements_are_good_samples_in_the_window_of_the_position_and_nothing_else_changes(data):
    stream = TrainStream(data, TrainTransform((16, 20)), seed=5)
    good = [index for index in range(COUNT) if index not in (1, 4)]
    for position in range(40):
        replaced = stream.read([position], bad=[])
        index = stream.order.index(position)
        candidates = [index] if index in good else good
        samples = []
        for candidate in candidates:
            images = torch.empty((3, 16, 20), dtype=torch.uint8)
            stream._read_one(candidate, position, images.numpy(), torch.empty((16, 20), dtype=torch.uint8).numpy())
            samples.append(images)
        assert sum(torch.equal(replaced.images[0], sample) for sample in samples) == 1
        assert replaced.positions.tolist() == [position]


def test_different_positions_get_different_replacements(data):
    order = TrainStream(data, TrainTransform((16, 20)), seed=5).order
    firsts = [next(order.replacements(position)) for position in range(60)]
    assert set(firsts) == set(range(COUNT))
    assert firsts == [next(order.replacements(position)) for position in range(60)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_and_a_resume_change_nothing(data, workers):
    whole = batches(data, tolerant()[0])
    assert_same(whole, batches(data, tolerant()[0], workers=workers))
    assert_same(whole[3:], batches(data, tolerant()[0], workers=workers, start_iteration=3))


def test_processes_change_nothing_and_count_what_they_meet(data):
    whole = batches(data, tolerant()[0])
    counters = [tolerant()[0] for _ in range(2)]
    ranks = [batches(data, counters[rank], rank=rank, world_size=2) for rank in range(2)]
    joined = [type(a)(*(torch.cat(fields) for fields in zip(a, b, strict=True))) for a, b in zip(*ranks, strict=True)]
    assert_same(whole, joined)
    assert counters[0].found | counters[1].found == {
        path: reason for counter in counters for path, reason in counter.found.items()
    }
    assert len(counters[0].found | counters[1].found) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_met_when_its_batch_is_taken(data, workers):
    """Workers read ahead; bad samples are reported at the iteration that needs them."""
    order = TrainStream(data, TrainTransform((16, 20)), seed=5).order
    first_bad = next(position for position in range(100) if order.index(position) in (1, 4))
    counter, warnings = tolerant()
    loader = build_train_loader(
        data, crop_size=(16, 20), batch_size=1, max_iterations=20, seed=5, workers=workers, bad_samples=counter
    )
    for position, _ in enumerate(loader):
        assert bool(warnings) == (position >= first_bad)


def test_nothing_but_bad_samples_is_an_error(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path, (8, 8), 2)
    data = build_dataset("custom", root, "train")
    for path in data.image_paths:
        open(path, "wb").close()
    with pytest.raises(ValueError, match=r"none of 100 replacements .* can be read: the image .*it is empty"):
        batches(data, tolerant(10)[0])


def test_the_check_before_training_allows_as_many(data):
    data.check_samples(allowed=2)
    with pytest.raises(ValueError, match=r"^2 training samples cannot be used, and --skip-bad-samples allows 1:"):
        data.check_samples(allowed=1)


def test_missing_files_within_the_number_are_left_to_reading(data):
    root = data.root
    with pytest.raises(FileNotFoundError, match="1 of 12 files are missing"):
        build_dataset("custom", root, "train")
    assert len(build_dataset("custom", root, "train", max_missing=1)) == COUNT


def test_a_long_list_is_cut():
    text = listed({str(number): f"reason {number}" for number in range(60)})
    assert "reason 49" in text and "reason 50" not in text and text.endswith("and 10 more")


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_reads_on_while_an_image_is_in_use(tmp_path, workers):
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
    for _ in range(200):  # as long as it takes: nobody asks for the second image meanwhile
        if marker.exists():
            break
        time.sleep(0.1)
    assert marker.exists()
    assert [batch.positions.item() for batch in loader] == [1, 2]


def test_the_reading_thread_ends_with_a_pass_that_is_broken_off(tmp_path):
    data = build_dataset("custom", write_pseudo_dataset("custom", tmp_path, (8, 8), 8), "val")
    loader = iter(build_eval_loader(data))
    next(loader)
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
