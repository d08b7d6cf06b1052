"""The training stream and the evaluation shards: equal for any workers and processes, startable anywhere."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dataset import build_dataset
from dataset.config import AugmentationConfig
from dataset.loading.loaders import build_eval_loader, build_train_loader
from dataset.loading.samplers import StreamBatchSampler, StreamOrder
from tests.conftest import assert_same
from tests.dataset.conftest import batches, joined
from tests.pseudo_datasets import write_pseudo_dataset

# more workers than cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

AUGMENTATION = AugmentationConfig(scale_range=(0.4, 1.5), color_jitter=(0.4, 0.4, 0.4, 0.1), crop_by_class=0.5)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_pseudo_dataset("custom", tmp_path_factory.mktemp("data"), (24, 36), 7)
    return build_dataset("custom", root, "train")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    return build_dataset("citys", write_pseudo_dataset("citys", tmp_path_factory.mktemp("citys")), "test")


def test_batch_fields(data):
    batch = batches(data, max_iterations=1)[0]
    assert batch.images.shape == (4, 3, 16, 20) and batch.images.dtype == torch.uint8
    assert batch.target.shape == (4, 16, 20) and batch.target.dtype == torch.uint8
    assert batch.valid_size.shape == (4, 2) and batch.valid_size.dtype == torch.int64
    assert batch.positions.tolist() == [0, 1, 2, 3]
    assert batch.images.is_contiguous()


@pytest.mark.parametrize("workers", [0, 3])
def test_stream_from_the_middle_is_that_from_the_start(data, workers):
    whole = batches(data, max_iterations=105, crop_size=(5, 6))
    rest = batches(data, max_iterations=105, start_iteration=100, crop_size=(5, 6), workers=workers)
    assert rest[0].positions.tolist() == [400, 401, 402, 403]
    assert_same(whole[100:], rest)


@pytest.mark.parametrize(
    ("workers", "world_size", "accumulation"), [(0, 1, 2), (0, 2, 1), (0, 4, 2), (1, 1, 1), (3, 2, 2)]
)
def test_global_batches_do_not_depend_on_processes_workers_or_accumulation(data, workers, world_size, accumulation):
    options = {"batch_size": 8, "max_iterations": 3, "augmentation": AUGMENTATION, "class_pixels": (9, 5, 1)}
    expected = batches(data, **options)
    options |= {"world_size": world_size, "workers": workers, "accumulation_steps": accumulation}
    ranks = [batches(data, rank=rank, **options) for rank in range(world_size)]
    micro_batches = [joined(parts) for parts in zip(*ranks, strict=True)]
    assert all(len(rank[0].positions) == 8 // accumulation // world_size for rank in ranks)
    steps = [joined(micro_batches[i : i + accumulation]) for i in range(0, len(micro_batches), accumulation)]
    assert_same(expected, steps)


def test_epochs_are_permutations_and_small_data_sets_wrap(data):
    order = StreamOrder(7, seed=5)
    epochs = [[order.index(p) for p in range(e * 7, e * 7 + 7)] for e in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 3
    assert len(batches(data, batch_size=20, max_iterations=2)[1].positions) == 20
    assert [StreamOrder(7, seed=6).index(p) for p in range(7)] != epochs[0]


def test_the_same_sample_is_augmented_anew_in_each_epoch(data):
    stream = build_train_loader(data, crop_size=(16, 20), batch_size=1, max_iterations=14, seed=5).samples
    seen = {}
    for position in range(14):
        seen.setdefault(stream.image_path(position), []).append(stream.read([position]).images)
    assert len(seen) == 7 and sum(not torch.equal(a, b) for a, b in seen.values()) >= 6


def test_loaders_leave_the_global_generators_alone(data):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches(data, workers=1)
    list(build_eval_loader(data))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "accumulation_steps": 4, "world_size": 2}, r"= 8; batch sizes that do: 8, 16$"),
        ({"batch_size": 6, "world_size": 4}, r"batch sizes that do: 4, 8; numbers of processes that do: 1, 2, 3, 6"),
        ({"batch_size": 0}, "at least 1"),
        ({"crop_size": (0, 0)}, "crop size 0 x 0"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_invalid_settings(data, options, message):
    with pytest.raises(ValueError, match=message):
        batches(data, **options)


def test_a_split_without_masks_is_evaluated_and_not_trained_on(unlabelled):
    assert (next(iter(build_eval_loader(unlabelled))).target == 255).all()
    with pytest.raises(ValueError, match="has no masks"):
        batches(unlabelled)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 1), (3, 1), (10, 0)])
def test_evaluation_reads_each_image_once(data, world_size, workers):
    seen = []
    for rank in range(world_size):
        loader = build_eval_loader(data, rank=rank, world_size=world_size, workers=workers)
        shard = list(loader)
        assert len(shard) == len(loader)
        assert all(batch.positions.item() % world_size == rank for batch in shard)
        seen += shard
    assert sorted(batch.positions.item() for batch in seen) == list(range(7))
    for batch in seen:
        image, mask = data[batch.positions.item()]
        assert torch.equal(batch.images[0].permute(1, 2, 0), torch.from_numpy(image.copy()))
        assert torch.equal(batch.target[0], torch.from_numpy(mask)) and batch.valid_size.tolist() == [[24, 36]]


def test_evaluation_limit(data):
    shards = [build_eval_loader(data, limit=3, rank=rank, world_size=2) for rank in range(2)]
    assert [[batch.positions.item() for batch in shard] for shard in shards] == [[0, 4], [2]]


def test_sampler_length():
    sampler = StreamBatchSampler(12, 10, start_iteration=7, accumulation_steps=3, rank=1, world_size=2)
    assert len(sampler) == len(list(sampler)) == 9
    assert list(sampler)[0] == [7 * 12 + 2, 7 * 12 + 3]
    assert len(StreamBatchSampler(4, 5, start_iteration=9)) == 0


_SIGNALS = """
import os, signal, subprocess, sys, time
from dataset import build_dataset
from dataset.loading.loaders import build_train_loader

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
loader = build_train_loader(
    build_dataset("custom", sys.argv[1], "train"), crop_size=(16, 16), batch_size=2, max_iterations=400, workers=2
)
batches = iter(loader)
next(batches), next(batches)  # both workers have started
for name in ("TERM", "INT", "USR1"):
    subprocess.run(["kill", "-s", name, "--", f"-{os.getpgid(0)}"])  # from outside, as a batch system does
    time.sleep(0.2)
print(sum(1 for _ in batches), flush=True)
left_alive = iter(loader)  # its workers are ended by signal at exit
next(left_alive)
raise SystemExit(3)
"""


def test_signals_to_the_group_leave_the_workers_to_the_main_process(data):
    """A batch system signals every process; the main one saves first. Its end must end the workers immediately."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALS, str(data.root)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout.strip(), done.returncode) == ("398", 3), done.stderr
    assert time.monotonic() - began < 60
