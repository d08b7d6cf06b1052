"""The setting `relation_dtype`: it reaches every relation term, changes little, and is checked at the door."""

import pytest
import torch

from losses import build_distiller
from losses.methods.cirkd import CIRKDConfig
from losses.methods.cirkdv2 import CIRKDV2Config
from losses.relation.precision import MatmulPrecision
from tests.losses.relation_cases import half_tolerance
from utils.types import SegOutput, Step

CLASSES = 3
RELATIONS = "minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel".split()
BANKS = {"pixel_memory_size": 300, "region_memory_size": 60, "channel_memory_size": 300}
SIDE = 32  # pooled to 8: channels have 64 positions, for which the tolerance is stated


def batch(seed=0, active=False):
    """With ``active`` features after a ReLU, whose channels have means of their own."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(3, 64, SIDE, SIDE, generator=generator)
    student = teacher + 0.5 * torch.randn(teacher.shape, generator=generator)
    if active:
        mean = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(1))
        teacher, student = (teacher + mean).relu(), (student + mean).relu()
    logits = torch.randn(3, CLASSES, SIDE, SIDE, generator=generator)
    target = torch.randint(0, CLASSES, (3, 2 * SIDE, 2 * SIDE), generator=generator)
    return SegOutput(logits, student.requires_grad_()), SegOutput(logits, teacher), target


def build(method, relation_dtype):
    torch.manual_seed(0)
    options = BANKS if method == "cirkdv2" else {k: v for k, v in BANKS.items() if "channel" not in k}
    shape = (64, SIDE, SIDE)
    return build_distiller(method, shape, shape, CLASSES, options | {"relation_dtype": relation_dtype})


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("method", ["cirkdv2", "cirkd"])
def test_every_relation_term_takes_it_and_changes_as_little_as_documented(method, active, monkeypatch):
    asked = []
    choose = MatmulPrecision.choose
    monkeypatch.setattr(
        MatmulPrecision, "choose", lambda tensor, operand: asked.append(operand) or choose(tensor, operand)
    )
    results = {}
    for relation_dtype in ("float32", "bfloat16"):
        distiller = build(method, relation_dtype)
        for iteration in range(2):
            student, teacher, target = batch(iteration, active)
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


@pytest.mark.parametrize("config", [CIRKDV2Config, CIRKDConfig])
def test_an_unknown_one_is_refused(config):
    with pytest.raises(ValueError, match="--relation-dtype 'float16': expected one of .*float32, bfloat16"):
        config(relation_dtype="float16")


def test_auto_follows_autocast(monkeypatch):
    """`--relation-dtype auto` is bfloat16 with `--amp bf16`, and float32 otherwise."""
    asked = []
    choose = MatmulPrecision.choose
    monkeypatch.setattr(
        MatmulPrecision, "choose", lambda tensor, operand: asked.append(operand) or choose(tensor, operand)
    )
    distiller = build("cirkdv2", "auto")
    for dtype, enabled, expected in (
        (torch.bfloat16, False, None),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float16, True, None),
    ):
        asked.clear()
        with torch.autocast("cpu", dtype, enabled):
            distiller(*batch())
        assert asked and set(asked) == {expected}
