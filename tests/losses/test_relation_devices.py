"""Value and gradient of the relations on every device, against the plain formula in float64 on the CPU.

"cuda form" computes on the CPU as on a GPU, with bfloat16 tensors as operands.
"""

import pytest
import torch
import torch.nn.functional as F

from losses import functional as LF
from losses.relation import triton_rows
from tests.losses import plain
from tests.losses.relation_cases import PAIRS, as_on_cuda, close, half_tolerance, rows

FORMS = [("cpu", None), ("cpu", torch.bfloat16), ("cuda form", torch.bfloat16)]
FORMS += [pytest.param(("cuda", operands), marks=pytest.mark.gpu) for operands in (None, torch.bfloat16)]
SHAPES = {  # anchors, keys, embedding of student and teacher
    "odd": (301, 77, 33, 33),
    "own width": (130, 65, 48, 96),
    "one anchor": (1, 130, 64, 64),
    "few keys": (200, 3, 40, 40),
    "one key": (70, 1, 24, 24),
    "long rows": (37, 16411, 40, 40),  # more keys than fit in one block of the kernel
}


def unit_rows(count, dim, generator, active):
    values = torch.randn(count, dim, generator=generator)
    return F.normalize(values.abs() if active else values, dim=1)


def tolerance(kl, anchors, keys, operands):
    if operands is None:
        return 1e-5, 1e-5
    value, gradient = half_tolerance(kl)
    enough = anchors > 100 and keys >= 64  # fewer average less of the rounding away
    return (value, gradient) if enough else (3 * value, 2 * gradient)


@pytest.fixture(params=FORMS, ids=lambda form: f"{form[0]} {form[1]}")
def form(request, monkeypatch):
    """Device and dtype of the operands; on a GPU the kernel does the work, not its replacement."""
    device, operands = request.param
    if device == "cuda form":
        as_on_cuda(monkeypatch)
        device = "cpu"
    yield device, operands
    assert not triton_rows._STATE.failed


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("own_keys", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_relations_equal_the_formula(form, shape, own_keys, limited, active):
    device, operands = form
    n, k, width, teacher_width = shape
    generator = torch.Generator().manual_seed(0)
    t, kt = (unit_rows(count, teacher_width, generator, active) for count in (n, k))
    s, ks = (unit_rows(count, width, generator, active) for count in (n, k))
    if width == teacher_width:
        s, ks = rows(n, width, generator, t), rows(k, width, generator, kt) if own_keys else kt
    weight = (torch.arange(n) % 3 != 1).float() if limited else torch.ones(n)
    mask = torch.arange(k) % 4 != 2 if limited else torch.ones(k, dtype=torch.bool)

    doubles = [x.double().requires_grad_() for x in (s, ks)]
    values = plain.relation(doubles[0], t.double(), doubles[1][mask], kt.double()[mask], 0.1)
    expected = (values * weight).sum() / weight.sum()
    wanted = torch.autograd.grad(expected, doubles)

    s, t, ks, kt = (x.to(device) for x in (s, t, ks, kt))
    if width == teacher_width and not own_keys:
        ks = kt
    s, ks = s.requires_grad_(), ks.detach().requires_grad_(own_keys)
    limits = {"anchor_weight": weight.to(device), "key_mask": mask.to(device)} if limited else {}
    loss = LF.relation_kl(s, t, ks, kt, 0.1, operand_dtype=operands, **limits)
    grads = torch.autograd.grad(loss, (s, ks) if own_keys else (s,))
    if k == 1:
        assert abs(loss.item()) < 1e-6 and all(grad.norm() < 1e-6 for grad in grads)
        return
    assert not limited or not grads[0][weight.to(device) == 0].any()
    allowed = tolerance(expected.item(), n, k, operands)
    for grad, want in zip(grads, wanted, strict=False):
        close(loss, grad.cpu(), expected, want, *allowed)


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pairs", [*PAIRS.values(), [(0, 0)]], ids=[*PAIRS, "one image"])
def test_relations_between_images_equal_the_formula(form, pairs, transposed, active):
    device, operands = form
    generator = torch.Generator().manual_seed(0)
    flat = unit_rows(3 * 131, 67, generator, active)
    t, s = flat.view(3, 131, 67), rows(3 * 131, 67, generator, flat).view(3, 131, 67)
    doubles = s.double().requires_grad_()  # of features: what is along a unit row is cancelled to nothing
    expected = plain.minibatch(plain.unit(doubles), t.double(), pairs, 0.1)
    want = torch.autograd.grad(expected, doubles)[0]
    s, t = s.to(device), t.to(device)
    if transposed:
        s, t = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (s, t))
    s.requires_grad_()
    loss = LF.relation_kl_pairs(LF.unit(s, 2), t, pairs, 0.1, operand_dtype=operands)
    close(loss, torch.autograd.grad(loss, s)[0].cpu(), expected, want, *tolerance(expected.item(), 131, 131, operands))


def test_equal_inputs_give_zero(form):
    device, operands = form
    generator = torch.Generator().manual_seed(0)
    t, keys = (unit_rows(count, 40, generator, True).to(device) for count in (120, 70))
    s = t.clone().requires_grad_()
    images = s.view(3, 40, 40), t.view(3, 40, 40)
    for loss in (
        LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=operands),
        LF.relation_kl(s, t, keys.clone().requires_grad_(), keys, 0.1, operand_dtype=operands),
        LF.relation_kl_pairs(*images, [(0, 1), (1, 0), (2, 2), (0, 2)], 0.1, operand_dtype=operands),
    ):
        (grad,) = torch.autograd.grad(loss, s)
        assert loss.item() == 0 and not grad.any()
