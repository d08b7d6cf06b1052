"""Inputs of the relations, their expected values and gradients, and tolerances."""

import torch
import torch.nn.functional as F

from losses import functional as LF
from losses.relation.precision import MatmulPrecision

ALL = [(i, j) for i in range(3) for j in range(3)]
AMX = torch.cpu._is_amx_tile_supported()  # bfloat16 products on a CPU; without, oneDNN computes in float32
PAIRS = {
    "all": ALL,
    "one order": [(0, 1), (1, 2)],
    "mixed": [(2, 0), (0, 0), (0, 1), (0, 2), (1, 1)],
    "twice": ALL + ALL,
}


def as_on_cuda(monkeypatch):
    """bfloat16 tensors as operands and a separate buffer for the gradient, on a CPU."""
    choose = MatmulPrecision.choose

    def choose_cuda(*arguments):
        return MatmulPrecision(choose(*arguments).dtype, choose(*arguments).rounded, "cuda")

    monkeypatch.setattr(MatmulPrecision, "choose", choose_cuda)


def half_tolerance(kl):
    """The documented relative tolerance of value and gradient with bfloat16 operands."""
    return 3e-3 + 5e-6 / kl, 5e-3 + 5e-3 / kl**0.5


def rows(count, dim, generator, like=None):
    values = torch.randn(count, dim, generator=generator)
    return F.normalize(values if like is None else like + 0.5 * F.normalize(values, dim=-1), dim=-1)


def bank(n=300, k=70, dim=40, seed=0):
    """Student anchors like the teacher's, and keys of both."""
    generator = torch.Generator().manual_seed(seed)
    teacher = rows(n, dim, generator)
    return rows(n, dim, generator, teacher).requires_grad_(), teacher, rows(k, dim, generator).bfloat16()


def active(counts, dim, noise, seed=0):
    """Features after a ReLU, whose channels have different means: for every count of rows the student's (n, dim),
    not normalised yet and with gradient, and the teacher's unit rows; mutual cosine of rows 0.6."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(dim, generator=generator)
    results = []
    for count in counts:
        teacher = torch.randn(count, dim, generator=generator) + mean
        student = teacher + noise * torch.randn(count, dim, generator=generator)
        results.append((student.relu().requires_grad_(), LF.unit(teacher.relu(), 1)))
    return results


def clustered(counts, dim, noise, spread, seed=0):
    """Features of 19 classes, ``spread`` times as far apart as a class is wide, otherwise as :func:`active`."""
    generator = torch.Generator().manual_seed(seed)
    centres = spread * rows(19, dim, generator)
    results = []
    for count in counts:
        labels = torch.randint(0, 19, (count,), generator=generator)
        teacher = centres[labels] + torch.randn(count, dim, generator=generator) / dim**0.5
        student = teacher + noise * torch.randn(count, dim, generator=generator) / dim**0.5
        results.append((student.requires_grad_(), LF.unit(teacher, 1)))
    return results


def images(batch=3, length=45, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    teacher = rows(batch * length, dim, generator)
    student = rows(batch * length, dim, generator, teacher)
    return student.view(batch, length, dim).requires_grad_(), teacher.view(batch, length, dim)


def close(loss, grad, expected, expected_grad, value, gradient):
    assert abs(loss.item() - expected.item()) <= value * abs(expected.item())
    assert (grad.double() - expected_grad).norm() <= gradient * expected_grad.norm()
