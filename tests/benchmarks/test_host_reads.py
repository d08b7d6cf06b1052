"""Operations that make the host wait for a GPU are found on the CPU."""

import numpy as np
import pytest
import torch

from benchmarks.host_reads import HostReadError, HostReads


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
        lambda x: x.long().repeat_interleave(x.long()),
        lambda x: x.index_put((x > 0,), x[0]),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x[[0, 2]],
    ],
)
def test_reads_are_noticed(read):
    x = torch.rand(5)
    with HostReads(refuse=True), pytest.raises(HostReadError):
        read(x)


def test_reads_of_tensors_on_the_host_do_not_count():
    counter, position = torch.tensor(3), torch.arange(4)
    with HostReads() as reads:
        [int(p) for p in position] + [counter.item()]
        assert reads.count == 5
    with HostReads(host=[counter, position]) as reads:
        [int(p) for p in position] + [counter.item(), *position.tolist()]
        assert reads.count == 0
        (counter + 1).item()
        assert reads.count == 1
