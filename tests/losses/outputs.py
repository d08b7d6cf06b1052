"""Outputs of two small networks, and comparisons of losses with plain formulas, for the tests of the methods."""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.types import SegOutput

CLASSES = 5


def make_output(
    channels: int,
    size: tuple[int, int],
    *,
    batch: int = 2,
    classes: int = CLASSES,
    aux: bool = False,
    grad: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> SegOutput:
    """Random maps of one size; with ``grad`` all of them require one."""
    generator = torch.Generator().manual_seed(seed)

    def maps(depth: int) -> Tensor:
        values = torch.randn(batch, depth, *size, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_(grad)

    return SegOutput(maps(classes), maps(channels), maps(classes) if aux else None)


def make_target(batch: int, size: tuple[int, int], *, classes: int = CLASSES, seed: int = 0) -> Tensor:
    """Labels, about a sixth of the pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes + 1, (batch, *size), generator=generator)
    return labels.where(labels < classes, 255)


def assert_same(got: Tensor, expected: Tensor, inputs: Sequence[Tensor], rtol: float = 1e-7) -> None:
    """Compares two scalars and their gradients, none of which may be 0 everywhere."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=1e-12)
    wanted = torch.autograd.grad(expected, inputs, retain_graph=True)
    assert all(grad.any() for grad in wanted)
    for index, (a, b) in enumerate(zip(torch.autograd.grad(got, inputs, retain_graph=True), wanted, strict=True)):
        error, norm = (a - b).norm().item(), b.norm().item()
        assert error <= rtol * norm, f"gradient {index}: error {error:.3e} of {norm:.3e}"
