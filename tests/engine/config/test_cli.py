"""What holds in every entry point."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

COUNT = """
import torch
from utils.cli import run_cli

def count():
    torch.set_num_threads(2)
    products = torch.full((1 << 20,), 1e-39) * 1.0
    print(int(products.count_nonzero()))

{call}
"""


def test_numbers_too_small_for_float32_are_zero_in_every_thread():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no such setting")
    found = []
    for call in ("run_cli(count)", "count()"):
        done = subprocess.run(
            [sys.executable, "-c", COUNT.format(call=call)],
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        found.append(int(done.stdout))
    assert found == [0, 1 << 20]
