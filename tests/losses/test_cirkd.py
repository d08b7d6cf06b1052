"""CIRKD: CIRKDV2's relation terms of pixels and regions and nothing else."""

import torch

from tests.losses.distillers import build, make_batch
from utils.types import Step


def test_terms_are_those_of_cirkdv2_without_context():
    off = dict.fromkeys(("kd_weight", "fitnet_weight", "minibatch_channel_weight", "memory_channel_weight"), 0.0)
    whole = build("cirkdv2", dtype=torch.float32, **off, channel_kd_weight=0.0, context=False)
    part = build("cirkd", dtype=torch.float32)
    assert whole.state_dict().keys() == part.state_dict().keys()
    for iteration in range(3):
        batch = make_batch(dtype=torch.float32, seed=iteration)
        expected, got = whole(*batch, Step(iteration)), part(*batch, Step(iteration))
        assert list(got) == ["loss_minibatch_pixel", "loss_memory_pixel", "loss_memory_region"]
        assert all(torch.equal(got[name], expected[name]) for name in got)
