"""What the tests of distillation methods share: outputs of two small networks, building, comparison with formulas."""

from collections.abc import Iterable

import torch
from torch import Tensor

from losses import METHODS
from losses.base import Distiller
from utils.types import SegOutput

CLASSES, STUDENT, TEACHER = 5, 6, 9
SIZES = [((5, 7), (5, 7)), ((4, 6), (7, 9)), ((8, 10), (5, 5))]
"""Of the student's and the teacher's maps."""
SMALL_BANKS = {
    "pixel_memory_size": 60,
    "region_memory_size": 6,
    "channel_memory_size": 400,
    "pixel_contrast_size": 40,
    "region_contrast_size": 20,
    "channel_contrast_size": 64,
    "bank_dtype": "float32",
    "seed": 3,
}


def make_output(
    channels: int, size: tuple[int, int], *, batch: int = 3, grad: bool = False, seed: int = 0, dtype=torch.float64
) -> SegOutput:
    """Random maps of one size, auxiliary logits and inner maps included; with ``grad`` all of them require one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, depth, *size) for depth in (CLASSES, channels, CLASSES, channels + 2, channels + 4)]
    maps = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return SegOutput(*(tensor.requires_grad_(grad) for tensor in maps))


def make_target(batch: int, size: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Labels, about a sixth of the pixels ignored; the last class never occurs."""
    labels = torch.randint(0, CLASSES, (batch, *size), generator=torch.Generator().manual_seed(seed))
    return labels.where(labels < CLASSES - 1, 255)


def make_batch(batch=3, size_s=(5, 7), size_t=(5, 7), *, channels=(STUDENT, TEACHER), dtype=torch.float64, seed=0):
    """Student's output with gradients, teacher's output, and labels at four times its size."""
    student = make_output(channels[0], size_s, batch=batch, grad=True, seed=2 * seed, dtype=dtype)
    teacher = make_output(channels[1], size_t, batch=batch, seed=2 * seed + 1, dtype=dtype)
    return student, teacher, make_target(batch, (4 * size_t[0], 4 * size_t[1]), seed=seed)


def build(method: str, batch=None, dtype=torch.float64, **options) -> Distiller:
    """The method for the shapes of a batch, always with the same parameters; a method with banks has small ones."""
    student, teacher, _ = batch or make_batch()
    config = METHODS[method].Config
    known = {name: value for name, value in SMALL_BANKS.items() if name in config.__dataclass_fields__}
    torch.manual_seed(0)
    shapes = student.features.shape[1:], teacher.features.shape[1:]
    pairs = {name: (getattr(student, name), getattr(teacher, name)) for name in ("last_stage", "inner")}
    inner = {name: tuple(maps.shape[1:] for maps in pair) for name, pair in pairs.items() if None not in pair}
    return METHODS[method](*shapes, CLASSES, config(**known | options), inner).to(dtype)


def assert_same(got: Tensor, expected: Tensor, inputs: Iterable[Tensor | None], rtol: float = 1e-7) -> None:
    """Compare two scalars and their gradients, at least one of which is there; no gradient and 0 are the same."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=1e-12)
    inputs = [tensor for tensor in inputs if tensor is not None]
    grads = [torch.autograd.grad(v, inputs, retain_graph=True, materialize_grads=True) for v in (got, expected)]
    assert any(grad.any() for grad in grads[1])
    for index, (a, b) in enumerate(zip(*grads, strict=True)):
        error, norm = (a - b).norm().item(), b.norm().item()
        assert error <= rtol * norm + 1e-14, f"gradient {index}: error {error:.3e} of {norm:.3e}"
