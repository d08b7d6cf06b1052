"""Every network of the registry computes what the reference computes."""

import pytest
import torch

from models import build_model, list_models
from tests.models import reference

PAIRS = [(model, backbone) for model, backbones in list_models().items() for backbone in backbones]
SLOW = ("upernet", "resnet50", "resnet101", "MiT_B2", "MiT_B3", "MiT_B4", "MiT_B5")


@pytest.mark.parametrize(
    "model, backbone", [pytest.param(*pair, marks=pytest.mark.slow) if {*pair} & {*SLOW} else pair for pair in PAIRS]
)
def test_networks_compute_what_the_reference_computes(fill_network, model, backbone):
    network = fill_network(build_model(model, backbone, 6)).double().eval()
    state = dict(network.state_dict())
    for size in ((97, 131), (29, 36)):
        images = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = network(images)
            expected = reference.compute(model, backbone, state, images)
        for ours, theirs in zip((output.logits, output.features, output.aux_logits), expected, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                assert ours.shape == theirs.shape
                assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()
