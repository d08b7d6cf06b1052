"""The setting `relation_dtype`: it reaches every relation term and changes little."""

import pytest
import torch

from losses import build_distiller
from losses.relation.precision import MatmulPrecision
from tests.losses.relation_cases import half_tolerance
from utils.types import SegOutput, Step

CLASSES = 3
RELATIONS = "minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel".split()
BANKS = {"pixel_memory_size": 300, "region_memory_size": 60, "channel_memory_size": 300}
SIDES = {"cirkdv2": 32, "cirkd": 16}  # 32 is pooled to 8: channels have 64 positions, as the tolerance assumes


@pytest.fixture
def asked(monkeypatch):
    asked, choose = [], MatmulPrecision.choose
    monkeypatch.setattr(MatmulPrecision, "choose", lambda tensor, dtype: asked.append(dtype) or choose(tensor, dtype))
    return asked


def batch(side, seed=0, active=False):
    """With ``active`` features after a ReLU, whose channels have different means."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(2, 64, side, side, generator=generator)
    student = teacher + 0.5 * torch.randn(teacher.shape, generator=generator)
    if active:
        mean = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(1))
        teacher, student = (teacher + mean).relu(), (student + mean).relu()
    logits = torch.randn(2, CLASSES, side, side, generator=generator)
    target = torch.randint(0, CLASSES, (2, 2 * side, 2 * side), generator=generator)
    return SegOutput(logits, student.requires_grad_()), SegOutput(logits, teacher), target


def build(method, relation_dtype):
    torch.manual_seed(0)
    options = BANKS if method == "cirkdv2" else {k: v for k, v in BANKS.items() if "channel" not in k}
    shape = (64, SIDES[method], SIDES[method])
    return build_distiller(method, shape, shape, CLASSES, options | {"relation_dtype": relation_dtype})


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("method", ["cirkdv2", "cirkd"])
def test_every_relation_term_takes_it_and_changes_as_little_as_documented(method, active, asked):
    results = {}
    for relation_dtype in ("float32", "bfloat16"):
        distiller = build(method, relation_dtype)
        for iteration in range(2):
            student, teacher, target = batch(SIDES[method], iteration, active)
            losses = distiller(student, teacher, target, Step(iteration))
        terms = [f"loss_{term}" for term in RELATIONS if f"loss_{term}" in losses]
        grads = {term: torch.autograd.grad(losses[term], student.features, retain_graph=True)[0] for term in terms}
        results[relation_dtype] = losses, grads
    count = len(terms)
    assert count == (5 if method == "cirkdv2" else 3)
    assert asked == [None] * 2 * count + [torch.bfloat16] * 2 * count
    (losses, grads), (half_losses, half_grads) = results["float32"], results["bfloat16"]
    for term in terms:
        assert half_losses[term].dtype == torch.float32
        value, gradient = half_tolerance(losses[term].item())
        assert half_losses[term].item() == pytest.approx(losses[term].item(), rel=value), term
        assert (half_grads[term] - grads[term]).norm() <= gradient * grads[term].norm(), term


def test_auto_follows_autocast(asked):
    """`--relation-dtype auto` is bfloat16 with `--amp bf16`, and float32 otherwise."""
    distiller = build("cirkdv2", "auto")
    for dtype, enabled, expected in (
        (torch.bfloat16, False, None),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float16, True, None),
    ):
        asked.clear()
        with torch.autocast("cpu", dtype, enabled):
            distiller(*batch(8))
        assert asked and set(asked) == {expected}
