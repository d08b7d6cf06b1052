"""The setting `relation_dtype`: it reaches every relation term, changes little, and is checked at the door."""

import pytest
import torch
import torch.nn.functional as F

from engine.args import Parser
from engine.cirkdv2_args import add_cirkdv2_args, cirkdv2_config
from losses import build_distiller
from losses.cirkd import CIRKDConfig
from losses.cirkdv2 import CIRKDV2Config
from losses.relation_products import Products
from utils.types import SegOutput, Step

CLASSES = 3
RELATIONS = "minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel".split()
BANKS = {"pixel_memory_size": 60, "region_memory_size": 20, "channel_memory_size": 100}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(3, 64, 9, 10, generator=generator)
    student = teacher + 0.5 * torch.randn(teacher.shape, generator=generator)
    logits = torch.randn(3, CLASSES, 9, 10, generator=generator)
    target = torch.randint(0, CLASSES, (3, 18, 20), generator=generator)
    return SegOutput(logits, student.requires_grad_()), SegOutput(logits, teacher), target


def build(method, relation_dtype):
    torch.manual_seed(0)
    options = BANKS if method == "cirkdv2" else {k: v for k, v in BANKS.items() if "channel" not in k}
    shape = (64, 9, 10)
    return build_distiller(method, shape, shape, CLASSES, options | {"relation_dtype": relation_dtype})


@pytest.mark.parametrize("method", ["cirkdv2", "cirkd"])
def test_every_relation_term_takes_it_and_changes_little(method, monkeypatch):
    asked = []
    choose = Products.choose
    monkeypatch.setattr(Products, "choose", lambda tensor, operand: asked.append(operand) or choose(tensor, operand))
    results = {}
    for relation_dtype in ("float32", "bfloat16"):
        distiller = build(method, relation_dtype)
        for iteration in range(2):
            student, teacher, target = batch(iteration)
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
        assert half_losses[term].item() == pytest.approx(losses[term].item(), rel=1e-2), term
        # few anchors, so rounding averages less than at the sizes that the tolerance is stated for
        assert F.cosine_similarity(half_grads[term].flatten(), grads[term].flatten(), dim=0) > 0.998, term


@pytest.mark.parametrize("config", [CIRKDV2Config, CIRKDConfig])
def test_an_unknown_one_is_refused(config):
    with pytest.raises(ValueError, match="relation_dtype must be one of float32, bfloat16, got 'float16'"):
        config(relation_dtype="float16")


def test_the_flag_is_the_setting(capsys):
    parser = Parser("test")
    add_cirkdv2_args(parser)
    assert cirkdv2_config(parser.parse_args([])).relation_dtype == "float32"
    assert cirkdv2_config(parser.parse_args(["--relation-dtype", "bfloat16"])).relation_dtype == "bfloat16"
    with pytest.raises(SystemExit):
        parser.parse_args(["--relation-dtype", "float16"])
    assert "bfloat16" in capsys.readouterr().err
