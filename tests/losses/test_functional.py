import pytest
import torch
import torch.nn.functional as F

from losses import functional as LF
from tests.losses import plain


def make(n=37, k=29, d_s=7, d_t=11, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def rows(count, dim):
        return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)

    return rows(n, d_s).requires_grad_(), rows(n, d_t), rows(k, d_s).requires_grad_(), rows(k, d_t)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 37, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients_equal_the_formula(chunk_size, weighted, masked):
    s, t, ks, kt = make()
    weight = torch.rand(37, dtype=torch.float64).round(decimals=1) if weighted else None
    mask = torch.rand(29) > 0.4 if masked else torch.ones(29, dtype=torch.bool)
    rows = plain.relation(s, t, ks[mask], kt[mask], 0.1)
    expected = rows.mean() if weight is None else (rows * weight).sum() / weight.sum()
    loss = LF.relation_kl(
        s, t, ks, kt, 0.1, anchor_weight=weight, key_mask=mask if masked else None, chunk_size=chunk_size
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    for got, want in zip(gradients(3 * loss, s, ks), gradients(3 * expected, s, ks), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_the_same_tensor_as_anchors_and_keys_gets_both_gradients():
    s, t, _, _ = make()
    expected = plain.relation(s, t, s, t, 0.1).mean()
    loss = LF.relation_kl(s, t, s, t, 0.1)
    torch.testing.assert_close(gradients(loss, s)[0], gradients(expected, s)[0], rtol=1e-10, atol=1e-13)


def test_strided_views_equal_copies():
    maps = torch.randn(7, 40, dtype=torch.float64, requires_grad=True)
    teacher, keys = torch.randn(40, 7, dtype=torch.float64), torch.randn(9, 7, dtype=torch.float64)
    loss = LF.relation_kl(maps.T, teacher, keys, keys, 1.0, chunk_size=16)
    expected = plain.relation(maps.T, teacher, keys, keys, 1.0).mean()
    torch.testing.assert_close(gradients(loss, maps)[0], gradients(expected, maps)[0], rtol=1e-10, atol=1e-13)


def test_large_logits_and_masked_keys_stay_finite():
    s, t, ks, kt = make(20, 15, 6, 6, torch.float32)
    mask = torch.arange(15) < 1
    loss = LF.relation_kl(s * 1e3, t * 1e3, ks, kt, 1e-2, key_mask=mask)
    assert loss.abs() < 1e-6  # one key: both distributions are certain
    assert torch.isfinite(gradients(LF.relation_kl(s * 1e3, t * 1e3, ks, kt, 1e-2), s)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    s, t, ks, kt = make(300, 200, 32, 32, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LF.relation_kl(s, t, ks, kt, 0.1)
    assert loss.dtype == torch.float32
    doubles = [x.detach().double().requires_grad_() for x in (s, t, ks, kt)]
    expected = plain.relation(*doubles, 0.1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    scale = 2.0**14  # what a loss scaler does: a mean's gradients would vanish in float16
    wanted = gradients(expected, doubles[0], doubles[2])
    for got, want in zip(gradients(loss * scale, s, ks), wanted, strict=True):
        assert got.dtype == dtype
        assert (got.double() / scale - want).norm() < 5e-3 * want.norm()


def test_without_gradients_nothing_is_kept():
    s, t, ks, kt = make()
    with torch.no_grad():
        assert not LF.relation_kl(s, t, ks, kt, 0.1).requires_grad
    loss = LF.relation_kl(s, t, ks.detach(), kt, 0.1)
    anchors, keys = loss.grad_fn.next_functions[0][0].saved_tensors  # the gradients
    assert anchors.shape == s.shape and keys is None


def test_memory_does_not_grow_with_anchors_times_keys():
    s, t, ks, _ = make(4096, 2048, 8, 8, torch.float32)
    ks = ks.detach()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        LF.relation_kl(s, t, ks, ks, 0.1, chunk_size=64).backward()
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert allocated < 4096 * 2048 * 4 / 4  # all allocations together, of which a plain matrix alone has four times


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student": torch.zeros(3, 2)}, "do not fit"),
        ({"teacher_keys": torch.zeros(4, 9)}, "do not fit"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"anchor_weight": torch.ones(4)}, "anchor_weight"),
        ({"key_mask": torch.ones(5, dtype=torch.bool)}, "key_mask"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    arguments = {
        "student": torch.zeros(5, 2),
        "teacher": torch.zeros(5, 3),
        "student_keys": torch.zeros(4, 2),
        "teacher_keys": torch.zeros(4, 3),
        "temperature": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        LF.relation_kl(**(arguments | change))


@pytest.mark.parametrize("teacher_size", [(5, 4), (9, 7)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_pixel_kl_equals_the_formula(teacher_size, temperature):
    s = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 6, *teacher_size, dtype=torch.float64)
    resized = plain.resize(t, (5, 4))
    rows = plain.kl_rows(s.movedim(1, -1) / temperature, resized.movedim(1, -1) / temperature)
    expected = temperature**2 * rows.mean()
    loss = LF.pixel_kl(s, t, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(loss, s)[0], gradients(expected, s)[0], rtol=1e-10, atol=1e-13)


def test_pixel_kl_takes_half_precision_and_confident_logits():
    s = (torch.randn(2, 6, 5, 4) * 50).bfloat16().requires_grad_()
    loss = LF.pixel_kl(s, -s.detach())
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(gradients(loss, s)[0]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 8), (13, 17), (23, 23)])
def test_pool_averages_what_is_there(size):
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(LF.pool4x4(maps), plain.pool(maps), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("innermost", [False, True])
@pytest.mark.parametrize("last", [False, True])  # whether channels lie next to each other already
def test_unit_equals_the_library(dim, innermost, last):
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    x[0, :, 1], x[1, 2] = 0, 1e-13  # zero, and shorter than the smallest norm
    x = (x.transpose(1, 2).contiguous().transpose(1, 2) if last else x).requires_grad_()
    before = x.detach().clone()
    weights = torch.randn(3, 4, 5, dtype=torch.float64)
    got, expected = LF.unit(x, dim, innermost=innermost), F.normalize(x, p=2.0, dim=dim, eps=1e-12)
    assert not innermost or got.movedim(dim, -1).is_contiguous()
    assert torch.equal(x, before)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)
    got, expected = gradients((got * weights).sum(), x)[0], gradients((expected * weights).sum(), x)[0]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    half = x.detach().bfloat16().requires_grad_()
    unit = LF.unit(half, dim, innermost=innermost)
    assert unit.dtype == torch.float32 and gradients(unit.sum(), half)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(23, 23), (13, 17), (64, 30), (1, 1)])
def test_labels_are_resized_to_the_nearest(size):
    target = torch.randint(0, 256, (2, 97, 131))
    assert torch.equal(LF.resize_labels(target, size), plain.nearest(target, size))
    even = torch.randint(0, 256, (2, 64, 128))  # where the ratio is exact the library agrees
    small = F.interpolate(even[:, None].float(), size=(8, 16), mode="nearest")[:, 0].long()
    assert torch.equal(LF.resize_labels(even, (8, 16)), small)
