"""Every form of the relations against the plain formula, in float32, float64 and with bfloat16 operands."""

import pytest
import torch

from losses import functional as LF
from losses.relation import autograd
from losses.relation import rows as row_blocks
from losses.relation.precision import MatmulPrecision
from tests.losses import plain
from tests.losses.relation_cases import ALL, AMX, active, as_on_cuda, bank, close, clustered, half_tolerance, images


@pytest.fixture
def form(request, monkeypatch):
    """How operands are rounded: inside oneDNN ("rows"), or as bfloat16 tensors ("cuda")."""
    if request.param == "cuda":
        as_on_cuda(monkeypatch)
    return request.param


@pytest.mark.parametrize("form", ["rows", "cuda"], indirect=True)
@pytest.mark.parametrize("operands", [None, torch.bfloat16])
@pytest.mark.parametrize("case", ["no anchors", "no keys", "all masked", "no weight"])
def test_nothing_to_compare_gives_zero_connected_to_the_graph(form, operands, case):
    s, t, keys = bank(0 if case == "no anchors" else 50, 0 if case == "no keys" else 20)
    keys = keys.float().requires_grad_()
    limits = {
        "all masked": {"key_mask": torch.zeros(20, dtype=torch.bool)},
        "no weight": {"anchor_weight": torch.zeros(50)},
    }
    loss = LF.relation_kl(s, t, keys, keys.detach(), 0.1, operand_dtype=operands, **limits.get(case, {}))
    assert loss.item() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, (s, keys)))


FEATURES = {
    f"shared mean, noise {noise}": lambda noise=noise: active((600, 500), 256, noise) for noise in (1, 0.3, 0.1)
}
FEATURES |= {
    f"classes {spread} apart, noise {noise}": lambda s=spread, n=noise: clustered((1000, 800), 256, n, s)
    for spread in (2.0, 4.0)
    for noise in (1, 0.3)
}


@pytest.mark.parametrize("form", ["rows", "cuda"], indirect=True)
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("limited", [False, True])
def test_keys_that_are_alike_leave_the_tolerance_as_it_is(form, features, limited):
    """What keys share is far larger than the difference of two means of keys, the gradient."""
    (s, t), (_, keys) = features()
    keys = keys.bfloat16()
    mask = torch.ones(len(keys), dtype=torch.bool)
    if limited:  # the keys that do not exist have another mean
        mask = torch.arange(len(keys)) % 3 != 1
        keys[~mask] = -keys[~mask]
    loss = LF.relation_kl(
        LF.unit(s, 1), t, keys, keys, 0.1, key_mask=mask if limited else None, operand_dtype=torch.bfloat16
    )
    doubles = s.detach().double().requires_grad_()
    exists = keys.double()[mask]
    expected = plain.relation(plain.unit(doubles), t.double(), exists, exists, 0.1).mean()
    want = torch.autograd.grad(expected, doubles)[0]
    close(loss, torch.autograd.grad(loss, s)[0], expected, want, *half_tolerance(expected.item()))


@pytest.mark.parametrize(
    "form", ["cuda", pytest.param("rows", marks=pytest.mark.skipif(not AMX, reason="no AMX"))], indirect=True
)
@pytest.mark.parametrize(("count", "between_images", "factor"), [(600, False, 0.7), (900, True, 0.6)])
def test_without_the_shift_a_mean_that_anchors_share_would_be_rounded(form, count, between_images, factor, monkeypatch):
    (s, t), (_, keys) = active((count, 500), 256, 0.1)

    def grad(operands):
        if between_images:  # a CPU's library rounds products of 300 rows, and not all smaller ones
            maps = (rows.view(3, 300, 256) for rows in (LF.unit(s, 1), t))
            loss = LF.relation_kl_pairs(*maps, ALL, 0.1, operand_dtype=operands)
        else:
            loss = LF.relation_kl(LF.unit(s, 1), t, keys, keys, 0.1, operand_dtype=operands)
        return torch.autograd.grad(loss, s)[0]

    expected, shifted = grad(None), grad(torch.bfloat16)
    monkeypatch.setattr(autograd, "_shifts", lambda *a: None)
    assert (shifted - expected).norm() < factor * (grad(torch.bfloat16) - expected).norm()


def test_autocast_changes_nothing():
    (s, t), (_, keys) = active((600, 500), 256, 0.3)
    s, t = LF.unit(s, 1).detach().requires_grad_(), t.view(2, 300, 256)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            bank_loss = LF.relation_kl(s, t.flatten(0, 1), keys, keys, 0.1, operand_dtype=torch.bfloat16)
            pairs = [(0, 1), (1, 0), (0, 0)]
            loss = bank_loss + LF.relation_kl_pairs(s.view(2, 300, 256), t, pairs, 0.1, operand_dtype=torch.bfloat16)
        results.append((loss, torch.autograd.grad(loss, s)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_precision_of_the_library_is_restored(monkeypatch):
    switch = torch.backends.mkldnn.matmul
    before, inside = switch.fp32_precision, []
    multiply = MatmulPrecision.multiply
    monkeypatch.setattr(
        MatmulPrecision, "multiply", lambda *a, **k: inside.append(switch.fp32_precision) or multiply(*a, **k)
    )
    s, t, keys = bank(20, 9, 8)
    LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert set(inside) == {"bf16"} and switch.fp32_precision == before
    monkeypatch.setattr(MatmulPrecision, "multiply", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.bfloat16)
    assert switch.fp32_precision == before


def test_an_unknown_operand_dtype_is_refused():
    s, t, keys = bank(4, 3, 8)
    with pytest.raises(ValueError, match="operand_dtype must be float32 or bfloat16"):
        LF.relation_kl(s, t, keys, keys, 0.1, operand_dtype=torch.float16)


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
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 1000)
    s, t, keys = bank(53, 31)
    weight = torch.arange(53) % 2.0
    loss = LF.relation_kl(s, t, keys, keys, 0.1, anchor_weight=weight)
    doubles = s.detach().double().requires_grad_()
    expected = (plain.relation(doubles, t.double(), *2 * [keys.double()], 0.1) * weight).sum() / weight.sum()
    close(loss, *torch.autograd.grad(loss, s), expected, *torch.autograd.grad(expected, doubles), 1e-5, 1e-5)
