import random

import numpy as np
import pytest
import torch

from utils.seed import hash_bits, hash_randint, hash_uniform, seed_everything, set_deterministic


def plain_hash(*keys: int) -> int:
    state = 0
    for key in keys:
        word = ((key & 0xFFFFFFFF) ^ (((key >> 32) & 0xFFFFFFFF) * 0x2C1B3C6D)) & 0xFFFFFFFF
        state = ((state ^ word) + 0x9E3779B9) & 0xFFFFFFFF
        state ^= state >> 16
        state = state * 0x85EBCA6B % 2**32
        state ^= state >> 13
        state = state * 0xC2B2AE35 % 2**32
        state ^= state >> 16
    return state


@pytest.mark.parametrize("keys", [(0,), (1, 2, 3), (2**31, 2**32 - 1), (-1, 7), (12345678901234, 5)])
def test_hash_is_the_unsigned_32_bit_function_for_ints_and_tensors(keys):
    expected = plain_hash(*keys)
    assert int(hash_bits(*keys)) == expected
    assert int(hash_bits(*(torch.tensor(key) for key in keys))) == expected


def test_tensor_keys_broadcast():
    rows, columns = torch.arange(3)[:, None], torch.arange(5)
    table = hash_bits(9, rows, 4, columns)
    assert table.shape == (3, 5)
    assert all(int(table[i, j]) == plain_hash(9, i, 4, j) for i in range(3) for j in range(5))
    with pytest.raises(ValueError, match="key"):
        hash_bits()


def test_uniform_is_flat_and_consecutive_keys_are_uncorrelated():
    u = hash_uniform(3, torch.arange(200_000)).double()
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, bins=20, min=0, max=1)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations
    for shift in (1, 2, 7):
        assert abs(torch.corrcoef(torch.stack([u[:-shift], u[shift:]]))[0, 1]) < 0.012
    other = hash_uniform(4, torch.arange(200_000)).double()
    assert abs(torch.corrcoef(torch.stack([u, other]))[0, 1]) < 0.012


def test_randint_covers_the_range_and_takes_tensor_bounds():
    draws = hash_randint(7, 1, torch.arange(7000))
    assert draws.dtype == torch.int64
    assert (torch.bincount(draws, minlength=7) - 1000).abs().max() < 160
    bounds = torch.tensor([0, 1, 5, 2**31 - 1])
    many = hash_randint(bounds, torch.arange(1000)[:, None])
    assert (many[:, :2] == 0).all() and many[:, 2].max() == 4 and (many >= 0).all() and (many[:, 3] < bounds[3]).all()


@pytest.mark.gpu
def test_hash_is_the_same_on_a_gpu():
    keys = torch.arange(10_000) * 77_777_777
    assert torch.equal(hash_bits(5, keys), hash_bits(5, keys.cuda()).cpu())


def test_seed_everything_repeats_and_differs_between_ranks():
    def draw(seed, rank):
        seed_everything(seed, rank)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(3, 1) == draw(3, 1)
    for a, b in zip(draw(3, 0), draw(3, 1), strict=True):
        assert a != b
    with pytest.raises(ValueError, match="seed"):
        seed_everything(-1)


def test_set_deterministic_switches_both_ways():
    try:
        set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        set_deterministic(False)
        assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    finally:
        torch.use_deterministic_algorithms(False)
