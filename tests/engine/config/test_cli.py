"""What holds in every entry point."""

import pytest
import torch

from tests.processes import run_processes
from utils.cli import run_cli


def count_small_products(with_cli: bool) -> int:
    """How many of 2^20 products below float32's normal numbers are not 0, computed by two threads."""
    found = []

    def count() -> None:
        torch.set_num_threads(2)
        found.append(int((torch.full((1 << 20,), 1e-39) * 1.0).count_nonzero()))

    run_cli(count) if with_cli else count()
    return found[0]


def test_numbers_too_small_for_float32_are_zero_in_every_thread():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such setting")
    # each in a process without threads: they take the setting from the one that starts them
    assert [run_processes(count_small_products, 1, with_cli) for with_cli in (True, False)] == [[0], [1 << 20]]
