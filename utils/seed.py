"""Seeding, and random numbers that are a pure function of their keys.

A generator has a state: two processes that draw a different number of times from it diverge, and a run that resumes
must restore it. The functions here have none. ``hash_uniform(seed, iteration, image)`` is the same number in every
process, on every device and at every time, so selections made from it do not depend on how many processes share a
batch, need no synchronisation and nothing in a checkpoint.
"""

import os
import random

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_INCREMENT = 0x9E3779B9
_HIGH_WORD = 0x2C1B3C6D
# The multipliers of the murmur3 finaliser, as signed 32-bit numbers: a product of one with a 32-bit word then stays
# within int64, and its low 32 bits are those of the unsigned product.
_MULTIPLIERS = (0x85EBCA6B - (1 << 32), 0xC2B2AE35 - (1 << 32))


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators (all devices), differently in every process.

    Args:
        seed: the seed of the run, at least 0.
        rank: this process's rank; pass 0 in every process where they must draw alike.

    Raises:
        ValueError: when ``seed`` is negative.
    """
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {seed}")
    mixed = int(hash_bits(seed, rank)) if rank else seed
    random.seed(mixed)
    np.random.seed(mixed % (1 << 32))
    torch.manual_seed(mixed)


def set_deterministic(enabled: bool) -> None:
    """Ask torch for the same bits at every run (slower), or for its fastest kernels.

    Operations that have no deterministic kernel warn rather than raise: the networks use a few of them on CUDA.
    The cuBLAS workspace is read when the first kernel runs, so call this before using the device.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled, warn_only=enabled)
    torch.backends.cudnn.deterministic = enabled
    torch.backends.cudnn.benchmark = not enabled


def hash_bits(*keys: int | Tensor) -> Tensor:
    """Hash of the keys to 32 bits.

    Args:
        keys: at least one integer or int64 tensor; tensors, of one device, are broadcast against each other.
            The order of the keys matters.

    Returns:
        int64 in [0, 2^32), of the broadcast shape (0-dimensional on the CPU when every key is an int).
    """
    if not keys:
        raise ValueError("at least one key is needed")
    state: int | Tensor = 0
    for key in keys:
        word = (key ^ ((key >> 32) & _MASK) * _HIGH_WORD) & _MASK
        state = _mix(((state ^ word) + _INCREMENT) & _MASK)
    return state if isinstance(state, Tensor) else torch.tensor(state)


def hash_uniform(*keys: int | Tensor) -> Tensor:
    """Uniform float32 numbers in [0, 1) with 24 random bits; see :func:`hash_bits` for the keys."""
    return (hash_bits(*keys) >> 8).to(torch.float32) * (1.0 / (1 << 24))


def hash_randint(high: int | Tensor, *keys: int | Tensor) -> Tensor:
    """Uniform int64 numbers in [0, high), ``high`` < 2^31 (a tensor is broadcast against the keys)."""
    return (hash_bits(*keys) * high) >> 32


def _mix(word: int | Tensor) -> int | Tensor:
    """The murmur3 finaliser: every bit of the result depends on every bit of ``word`` (32 bits held in 64)."""
    word = word ^ (word >> 16)
    word = (word * _MULTIPLIERS[0]) & _MASK
    word = word ^ (word >> 13)
    word = (word * _MULTIPLIERS[1]) & _MASK
    return word ^ (word >> 16)
