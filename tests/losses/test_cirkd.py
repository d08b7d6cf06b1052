"""CIRKD: CIRKDV2's relation terms of pixels and regions and nothing else."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from losses.methods.cirkd import CIRKD, CIRKDConfig
from losses.methods.cirkdv2 import CIRKDV2, CIRKDV2Config
from tests.losses import golden
from tests.losses.distillers import build, check_hard_cases, check_processes, make_batch
from utils.settings import flag_of
from utils.types import SegOutput, Step

SMALL = {"pixel_memory_size": 60, "region_memory_size": 6, "pixel_contrast_size": 40, "region_contrast_size": 20}
SMALL |= {"bank_dtype": "float32", "seed": 3}


def test_terms_are_those_of_cirkdv2_without_context():
    batch = make_batch(dtype=torch.float32)
    off = dict.fromkeys(("kd_weight", "fitnet_weight", "minibatch_channel_weight", "memory_channel_weight"), 0.0)
    whole = build(CIRKDV2, batch, torch.float32, **SMALL, **off, channel_kd_weight=0.0, context=False)
    part = build(CIRKD, batch, torch.float32, **SMALL)
    assert whole.state_dict().keys() == part.state_dict().keys()
    for iteration in range(3):
        batch = make_batch(dtype=torch.float32, seed=iteration)
        expected, got = whole(*batch, Step(iteration)), part(*batch, Step(iteration))
        assert list(got) == ["loss_minibatch_pixel", "loss_memory_pixel", "loss_memory_region"]
        assert all(torch.equal(got[name], expected[name]) for name in got)


def test_defaults_are_those_of_cirkdv2():
    same = [field for field in fields(CIRKDConfig) if field.name != "relation_dtype"]
    assert all(field.default == getattr(CIRKDV2Config(), field.name) for field in same)


@pytest.mark.parametrize("name", ["fs128", "fs512"])
def test_stored_values_of_the_minibatch_term(name):
    features, teacher = golden.tensor(name, grad=True), golden.tensor("ft512")
    config = CIRKDConfig(memory_pixel_weight=0.0, memory_region_weight=0.0, minibatch_partners=None)
    distiller = CIRKD(features.shape[1:], teacher.shape[1:], 19, config)
    losses = distiller(SegOutput(features, features), SegOutput(teacher, teacher), golden.tensor("labels"))
    golden.check(f"CriterionMiniBatchCrossImagePair_{name}", losses.values(), {name: features})


def test_weight_zero_builds_nothing():
    batch = make_batch()
    distiller = build(CIRKD, batch, minibatch_pixel_weight=0.0, memory_pixel_weight=0.0, memory_region_weight=0.0)
    assert distiller(*batch) == {} and not distiller.state_dict()


@pytest.mark.parametrize(
    ("field", "value"), [("memory_pixel_weight", -1.0), ("region_memory_size", 0), ("bank_dtype", "int8")]
)  # fmt: skip
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{flag_of(field)} .*: expected"):
        CIRKDConfig(**{field: value})


class Frozen(CIRKD):
    """Its projector's batch norm cannot normalise the single position that some hard cases leave."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def test_hard_cases():
    check_hard_cases(Frozen, {"minibatch_pixel", "memory_pixel", "memory_region"}, **SMALL)


@pytest.mark.slow  # tests/engine/test_process_equality.py compares every method
def test_processes():
    check_processes(CIRKD, **SMALL)
