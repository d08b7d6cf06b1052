"""Every network of the registry computes what the reference computes, and drops in training what it should."""

import pytest
import torch
from timm.layers import DropPath

from models import build_model, list_models
from tests.models import reference

PAIRS = [(model, backbone) for model, backbones in list_models().items() for backbone in backbones]
LARGE = ("resnet50", "resnet101", "MiT_B2", "MiT_B3", "MiT_B4", "MiT_B5")


@pytest.mark.parametrize(
    "model, backbone",
    [pytest.param(*pair, marks=pytest.mark.slow) if pair[1] in LARGE else pair for pair in PAIRS],
)
def test_networks_compute_what_the_reference_computes(fill_network, model, backbone):
    network = fill_network(build_model(model, backbone, 6)).double().eval()
    state = dict(network.state_dict())
    for size in ((97, 131), (64, 102)):
        images = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = network(images)
            expected = reference.compute(model, backbone, state, images)
        for ours, theirs in zip((output.logits, output.features, output.aux_logits), expected, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                assert ours.shape == theirs.shape
                assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


# what of the features and of the auxiliary head is dropped, by the beginning of the model's name
DROPOUTS = {"deeplab": [0.5, 0.1], "psp": [0.1], "upernet": [], "segformer": []}


@pytest.mark.parametrize("model, backbone", PAIRS)
def test_what_is_dropped_in_training(model, backbone):
    with torch.device("meta"):
        network = build_model(model, backbone, 3)
    own = next(rates for start, rates in DROPOUTS.items() if model.startswith(start))
    expected = own + ([0.1] if network.auxlayer is not None else [])
    dropouts = [m for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    assert [m.p for m in dropouts] == expected and all(type(m) is torch.nn.Dropout for m in dropouts)
    paths = [m.drop_prob for m in network.modules() if isinstance(m, DropPath)]
    blocks = sum(reference.MIT_DEPTHS.get(backbone, ()))
    assert paths == pytest.approx([0.1 * index / (blocks - 1) for index in range(blocks)])
