"""Every sample once an epoch, whatever the data set's size, the processes and the micro-batches."""

import math

import pytest

from dataset.loading.samplers import StreamBatchSampler, StreamOrder


@pytest.mark.parametrize("samples", [1, 4, 7, 12, 13])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_sample_is_lost_or_doubled_in_an_epoch(samples, accumulation, world_size):
    """Epochs end inside a batch: its rest is the beginning of the next epoch, on whichever process that falls."""
    batch = 12
    iterations = math.lcm(samples, batch) // batch * 3  # so that whole epochs have passed, several of them
    shares = [
        [
            position
            for part in StreamBatchSampler(
                batch, iterations, accumulation_steps=accumulation, rank=rank, world_size=world_size
            )
            for position in part
        ]
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {iterations * batch // world_size}  # no process waits for another
    order = StreamOrder(samples, seed=3)
    positions = sorted(position for share in shares for position in share)
    assert positions == list(range(iterations * batch))
    drawn = [order.index(position) for position in positions]
    for start in range(0, len(drawn), samples):
        assert sorted(drawn[start : start + samples]) == list(range(samples))
