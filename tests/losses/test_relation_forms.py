"""Every form of the relations against the plain formula, in float32, float64 and with bfloat16 operands."""

import pytest
import torch
import torch.nn.functional as F

from losses import functional as LF
from losses import relation_attention, relation_rows, relation_symmetric
from losses.relation_products import Products
from tests.losses import plain

HALF_VALUE, HALF_GRADIENT = 1e-3, 2e-2  # what bfloat16 operands may change: the documented tolerance
AMX = relation_attention._kernel_available()


def rows(count, dim, generator, like=None):
    values = torch.randn(count, dim, generator=generator)
    return F.normalize(values if like is None else like + 0.5 * F.normalize(values, dim=-1), dim=-1)


def bank(n=300, k=70, dim=40, seed=0):
    """Student anchors like the teacher's, and keys of both."""
    generator = torch.Generator().manual_seed(seed)
    teacher = rows(n, dim, generator)
    return rows(n, dim, generator, teacher).requires_grad_(), teacher, rows(k, dim, generator).bfloat16()


def images(batch=3, length=45, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    teacher = rows(batch * length, dim, generator)
    student = rows(batch * length, dim, generator, teacher)
    return student.view(batch, length, dim).requires_grad_(), teacher.view(batch, length, dim)


def exact(s, t, keys, weight=None, mask=None):
    """Value and gradient of the formula in float64."""
    s = s.detach().double().requires_grad_()
    keys = keys.double() if mask is None else keys.double()[mask]
    values = plain.relation(s, t.double(), keys, keys, 0.1)
    loss = values.mean() if weight is None else (values * weight).sum() / weight.sum()
    return loss.detach(), torch.autograd.grad(loss, s)[0]


def close(loss, grad, expected, expected_grad, value, gradient):
    assert abs(loss.item() - expected.item()) <= value * abs(expected.item())
    assert (grad.double() - expected_grad).norm() <= gradient * expected_grad.norm()


@pytest.fixture
def form(request, monkeypatch):
    """Run with bfloat16 operands in the form of this name."""
    monkeypatch.setattr(relation_attention, "_kernel_available", lambda: request.param == "attention")
    if request.param == "cuda":  # as on CUDA: bfloat16 tensors and a buffer of their own for the gradient
        choose = Products.choose
        monkeypatch.setattr(
            Products,
            "choose",
            lambda *arguments: Products(choose(*arguments).dtype, choose(*arguments).rounded, "cuda"),
        )
    return request.param


@pytest.mark.parametrize("form", ["attention", "rows", "cuda"], indirect=True)
@pytest.mark.parametrize(("n", "k", "dim"), [(300, 70, 40), (1, 1, 8), (2100, 3, 33), (5, 700, 64)])
@pytest.mark.parametrize("limited", [False, True])
def test_bfloat16_operands_stay_within_tolerance_in_every_form(form, n, k, dim, limited):
    s, t, keys = bank(n, k, dim)
    weight = (torch.arange(n) % 3 != 1).float() if limited else None
    mask = torch.arange(k) % 4 != 2 if limited else None
    loss = LF.relation_kl(s, t, keys, keys, 0.1, anchor_weight=weight, key_mask=mask, operand_dtype=torch.bfloat16)
    grad = torch.autograd.grad(loss, s)[0]
    expected, expected_grad = exact(s, t, keys, weight, mask)
    if k == 1:
        assert abs(loss.item()) < 1e-6 and grad.norm() < 1e-6
    else:
        slack = 1 if n > 100 else 5  # the mean over few anchors averages less of the rounding away
        close(loss, grad, expected, expected_grad, HALF_VALUE * slack, HALF_GRADIENT)
    if limited:
        assert torch.equal(grad[weight == 0], torch.zeros_like(grad[weight == 0]))


@pytest.mark.skipif(not AMX, reason="needs a processor with matrix units for bfloat16")
def test_attention_is_the_form_of_banks_and_of_nothing_else(monkeypatch):
    calls = []
    own = relation_attention._attend
    monkeypatch.setattr(relation_attention, "_attend", lambda *a: calls.append(1) or own(*a))
    s, t, keys = bank(20, 9, 8)
    LF.relation_kl(s, t, keys, keys, 0.1)
    LF.relation_kl(s, t, keys, keys.clone(), 0.1, operand_dtype=torch.bfloat16)
    LF.relation_kl(s, t, keys.float().requires_grad_(), keys.float(), 0.1, operand_dtype=torch.bfloat16)
    LF.relation_kl(s.double(), t.double(), keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert not calls
    LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert len(calls) == 2


@pytest.mark.parametrize("form", ["attention", "rows", "cuda"], indirect=True)
def test_with_bfloat16_operands_nothing_to_compare_and_equal_inputs_give_zero(form):
    s, t, keys = bank(50, 20)
    cases = [
        {"student": t.clone().requires_grad_()},
        {"key_mask": torch.zeros(20, dtype=torch.bool)},
        {"anchor_weight": torch.zeros(50)},
        {"student": s[:0], "teacher": t[:0]},
        {"student_keys": keys[:0], "teacher_keys": keys[:0]},
    ]
    for case in cases:
        arguments = {"student": s, "teacher": t, "student_keys": keys, "teacher_keys": keys} | case
        loss = LF.relation_kl(**arguments, temperature=0.1, operand_dtype=torch.bfloat16)
        assert loss.item() == 0
        grad = torch.autograd.grad(loss, arguments["student"])[0]
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("form", ["rows", "cuda"], indirect=True)
def test_keys_of_their_own_get_gradients_with_bfloat16_operands(form):
    generator = torch.Generator().manual_seed(0)
    t, kt = rows(200, 48, generator), rows(90, 48, generator)
    s, ks = (rows(len(x), 48, generator, x).requires_grad_() for x in (t, kt))
    loss = LF.relation_kl(s, t, ks, kt, 0.1, operand_dtype=torch.bfloat16)
    doubles = [x.detach().double().requires_grad_() for x in (s, ks)]
    expected = plain.relation(doubles[0], t.double(), doubles[1], kt.double(), 0.1).mean()
    for got, want in zip(torch.autograd.grad(loss, (s, ks)), torch.autograd.grad(expected, doubles), strict=True):
        close(loss, got, expected, want, HALF_VALUE, HALF_GRADIENT)


def test_the_precision_of_the_library_is_put_back(monkeypatch):
    switch = torch.backends.mkldnn.matmul
    before, inside = switch.fp32_precision, []
    multiply = Products.multiply
    monkeypatch.setattr(relation_attention, "_kernel_available", lambda: False)
    monkeypatch.setattr(Products, "multiply", lambda *a, **k: inside.append(switch.fp32_precision) or multiply(*a, **k))
    s, t, keys = bank(20, 9, 8)
    LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert set(inside) == {"bf16"} and switch.fp32_precision == before
    monkeypatch.setattr(Products, "multiply", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert switch.fp32_precision == before


def test_an_operand_dtype_that_does_not_exist_is_named():
    s, t, keys = bank(4, 3, 8)
    with pytest.raises(ValueError, match="operand_dtype must be float32 or bfloat16"):
        LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.float16)


ALL = [(i, j) for i in range(3) for j in range(3)]
PAIRS = {
    "all": ALL,
    "one order": [(0, 1), (1, 2)],
    "mixed": [(2, 0), (0, 0), (0, 1), (0, 2), (1, 1)],
    "twice": ALL + ALL,
}


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "half"), [(torch.float64, False), (torch.float32, False), (torch.float32, True)])
def test_pairs_of_both_orders_equal_the_formula(pairs, transposed, dtype, half, monkeypatch):
    monkeypatch.setattr(relation_symmetric, "_BLOCK_BYTES", 2000)  # several blocks and chunks an image
    monkeypatch.setattr(relation_symmetric, "_CHUNK", 16)
    s, t = (x.detach().to(dtype) for x in images())
    if transposed:
        s, t = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (s, t))
    s.requires_grad_()
    doubles = s.detach().double().requires_grad_()
    expected = plain.minibatch(doubles, t.double(), pairs, 0.1)
    want = torch.autograd.grad(expected, doubles)[0]
    loss = LF.relation_kl_pairs(s, t, pairs, 0.1, operand_dtype=torch.bfloat16 if half else None)
    got = torch.autograd.grad(loss, s, retain_graph=True)[0]
    assert torch.equal(got, torch.autograd.grad(loss, s)[0])  # used twice
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5}[dtype]
    values = (HALF_VALUE, HALF_GRADIENT) if half else (tolerance, tolerance)
    close(loss, got, expected, want, *values)


def test_both_orders_take_half_of_the_products(monkeypatch):
    calls = []
    for name in ("multiply", "add_product"):
        own = getattr(Products, name)
        monkeypatch.setattr(Products, name, lambda *a, _own=own, **k: calls.append(1) or _own(*a, **k))
    s, t = images()
    LF.relation_kl_pairs(s, t, [(0, 1), (1, 0)], 0.1)
    assert len(calls) == 4
    LF.relation_kl_pairs(s, t, [(1, 1)], 0.1)
    assert len(calls) == 4 + 3
    LF.relation_kl_pairs(s, t, [(0, 1), (1, 2)], 0.1)
    assert len(calls) == 4 + 3 + 8


def test_large_logits_and_large_buffers_leave_the_symmetric_form(monkeypatch):
    monkeypatch.setattr(relation_symmetric.SymmetricPairs, "__init__", lambda *a: 1 / 0)
    s, t = images()
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl_pairs(s, t, ALL, 0.1)
    for wide in ((s.detach() * 30, t), (s.detach(), t * 30), (s.detach() * torch.nan, t)):
        LF.relation_kl_pairs(*wide, ALL, 0.1)
    monkeypatch.setattr(relation_symmetric, "_SMALL_BYTES", 0)
    LF.relation_kl_pairs(s, t, ALL[:7], 0.1)  # two matrices, and fewer than eight pairs
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl_pairs(s, t, ALL[:8], 0.1)
    monkeypatch.setattr(relation_symmetric, "_LARGEST_BYTES", 100)
    LF.relation_kl_pairs(s, t, ALL, 0.1)


def test_large_logits_stay_finite_in_pairs():
    s, t = images()
    loss = LF.relation_kl_pairs(s, t, ALL, 0.0005)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, s)[0]).all()


@pytest.mark.parametrize("half", [False, True])
def test_equal_images_give_zero(half):
    _, t = images()
    s = t.clone().requires_grad_()
    loss = LF.relation_kl_pairs(s, t, ALL, 0.1, operand_dtype=torch.bfloat16 if half else None)
    grad = torch.autograd.grad(loss, s)[0]
    assert loss.item() == 0 and torch.equal(grad, torch.zeros_like(grad))


def test_gradcheck_of_pairs():
    s, t = images(2, 5, 4)
    s, t = s.detach().double().requires_grad_(), t.double()
    torch.autograd.gradcheck(lambda a: LF.relation_kl_pairs(a, t, [(0, 1), (1, 0), (1, 1)], 0.3), s)


@pytest.mark.parametrize("half", [False, True])
def test_the_same_inputs_give_the_same_bits(half):
    operands = torch.bfloat16 if half else None
    s, t, keys = bank(400, 300)
    images_s, images_t = images()
    results = []
    for _ in range(2):
        losses = (
            LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=operands),
            LF.relation_kl_pairs(images_s, images_t, ALL, 0.1, operand_dtype=operands),
        )
        grads = torch.autograd.grad(sum(losses), (s, images_s))
        results.append([*losses, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_rows_are_finished_block_by_block(monkeypatch):
    monkeypatch.setattr(relation_rows, "_BLOCK_BYTES", 1000)
    s, t, keys = bank(53, 31)
    weight = torch.arange(53) % 2.0
    loss = LF.relation_kl(s, t, keys, keys, 0.1, anchor_weight=weight)
    close(loss, torch.autograd.grad(loss, s)[0], *exact(s, t, keys, weight), 1e-5, 1e-5)
