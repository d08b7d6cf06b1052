"""Relations between images: pairs of both orders at once, one order at a time, and the images that take part."""

import pytest
import torch

from losses import functional as LF
from losses.modules import cross_image
from losses.modules.partners import choose_partners
from losses.relation import symmetric
from losses.relation.precision import MatmulPrecision
from tests.losses import plain
from tests.losses.relation_cases import ALL, PAIRS, active, as_on_cuda, close, clustered, half_tolerance, images


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "half"), [(torch.float64, False), (torch.float32, False), (torch.float32, True)])
@pytest.mark.parametrize("chunk_size", [None, 7])  # with one, orders are computed one by one
def test_pairs_of_both_orders_equal_the_formula(pairs, transposed, dtype, half, chunk_size, monkeypatch):
    monkeypatch.setattr(symmetric, "_BLOCK_BYTES", 2000)  # several blocks and chunks an image
    monkeypatch.setattr(symmetric, "_CHUNK", 16)
    s, t = (x.detach().to(dtype) for x in images())
    if transposed:
        s, t = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (s, t))
    s.requires_grad_()
    doubles = s.detach().double().requires_grad_()
    expected = plain.minibatch(doubles, t.double(), pairs, 0.1)
    want = torch.autograd.grad(expected, doubles)[0]
    operands = torch.bfloat16 if half else None
    loss = LF.relation_kl_pairs(s, t, pairs, 0.1, chunk_size=chunk_size, operand_dtype=operands)
    got = torch.autograd.grad(loss, s, retain_graph=True)[0]
    assert torch.equal(got, torch.autograd.grad(loss, s)[0])  # used twice
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5}[dtype]
    values = half_tolerance(expected.item()) if half else (tolerance, tolerance)
    close(loss, got, expected, want, *values)


def test_other_numbers_of_images_are_refused():
    s, t = images()
    with pytest.raises(ValueError, match="same B and L"):
        LF.relation_kl_pairs(s, t[:2], ALL, 0.1)


def test_both_orders_take_half_of_the_products(monkeypatch):
    calls = []
    for name in ("multiply", "add_product"):
        own = getattr(MatmulPrecision, name)
        monkeypatch.setattr(MatmulPrecision, name, lambda *a, _own=own, **k: calls.append(1) or _own(*a, **k))
    s, t = images()
    LF.relation_kl_pairs(s, t, [(0, 1), (1, 0)], 0.1)
    assert len(calls) == 4
    LF.relation_kl_pairs(s, t, [(1, 1)], 0.1)
    assert len(calls) == 4 + 3
    LF.relation_kl_pairs(s, t, [(0, 1), (1, 2)], 0.1)
    assert len(calls) == 4 + 3 + 8


def test_large_logits_and_large_buffers_leave_the_symmetric_form(monkeypatch):
    monkeypatch.setattr(symmetric.SymmetricPairs, "__init__", lambda *a: 1 / 0)
    s, t = images()
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl_pairs(s, t, ALL, 0.1)
    for wide in ((s.detach() * 30, t), (s.detach(), t * 30), (s.detach() * torch.nan, t)):
        LF.relation_kl_pairs(*wide, ALL, 0.1)
    monkeypatch.setattr(symmetric, "_SMALL_BYTES", 0)
    LF.relation_kl_pairs(s, t, ALL[:7], 0.1)  # two matrices, and fewer than eight pairs
    with pytest.raises(ZeroDivisionError):
        LF.relation_kl_pairs(s, t, ALL[:8], 0.1)
    monkeypatch.setattr(symmetric, "_LARGEST_BYTES", 100)
    LF.relation_kl_pairs(s, t, ALL, 0.1)


def test_large_logits_stay_finite_in_pairs():
    s, t = images()
    loss = LF.relation_kl_pairs(s, t, ALL, 0.0005)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, s)[0]).all()


FEATURES = {f"shared mean, noise {noise}": lambda noise=noise: active((900,), 256, noise) for noise in (1.0, 0.3, 0.1)}
FEATURES |= {f"tight classes, noise {n}": lambda noise=n: clustered((900,), 256, noise, 4.0) for n in (1.0, 0.3)}


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_images_whose_rows_are_alike_stay_within_tolerance(cuda, features, monkeypatch):
    if cuda:
        as_on_cuda(monkeypatch)
    ((s, t),) = features()
    shape = 3, -1, s.shape[1]
    loss = LF.relation_kl_pairs(LF.unit(s, 1).view(shape), t.view(shape), ALL, 0.1, operand_dtype=torch.bfloat16)
    doubles = s.detach().double().requires_grad_()
    expected = plain.minibatch(plain.unit(doubles).view(shape), t.double().view(shape), ALL, 0.1)
    want = torch.autograd.grad(expected, doubles)[0]
    close(loss, torch.autograd.grad(loss, s)[0], expected, want, *half_tolerance(expected.item()))


@pytest.mark.parametrize("row_dim", [1, 2])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("partners", "exchanged"), [("local:1", 0), ("local:2", 0), ("local:3", 2), (2, 2)])
def test_a_process_works_on_the_images_in_its_pairs(row_dim, rank, partners, exchanged, monkeypatch):
    """Of three processes with two images each; maps are exchanged only if a pair of the batch crosses processes."""
    world, local, seen, calls = 3, 2, [], []
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, world * local, 6, 4, 5, generator=generator).double()
    student.requires_grad_()
    keys = (0, 3, 0, 1)
    chosen = choose_partners(world * local, partners, *keys)
    first = rank * local
    pairs = [(i, j) for i in range(first, first + local) for j in chosen[i]]
    named = {image for pair in pairs for image in pair}
    assert partners == "local:3" or len(named) < world * local
    sums = cross_image.relation_kl_pairs
    monkeypatch.setattr(cross_image, "get_rank", lambda: rank)
    monkeypatch.setattr(cross_image, "get_world_size", lambda: world)
    monkeypatch.setattr(cross_image, "all_gather_with_grad", lambda maps: calls.append(maps) or student.flatten(2))
    monkeypatch.setattr(cross_image, "all_gather_cat", lambda maps: calls.append(maps) or teacher.flatten(2))
    monkeypatch.setattr(
        cross_image, "relation_kl_pairs", lambda s, t, *a, **k: seen.append((len(s), len(t))) or sums(s, t, *a, **k)
    )
    mine = slice(first, first + local)
    loss = cross_image.minibatch_relation(student[mine], teacher[mine], row_dim, partners, 0.1, keys)
    rows = plain.pixels if row_dim == 2 else plain.channels
    expected = plain.minibatch(rows(student), rows(teacher), pairs, 0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    got, want = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-14)
    assert seen == [(len(named), len(named))] and len(calls) == exchanged
    others = [image for image in range(world * local) if image not in named]
    assert not got[others].any()


def test_if_every_image_is_used_nothing_is_copied():
    maps = torch.randn(3, 4, 5)
    assert cross_image._take(maps, [0, 1, 2]) is maps
    assert torch.equal(cross_image._take(maps, [0, 2]), maps[[0, 2]])
