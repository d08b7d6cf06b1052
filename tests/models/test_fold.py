"""Folding of batch norms: the same outputs, and only pairs for which that is so."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models import build_model
from models.surgery.fold import TOLERANCE, fold_batch_norms
from utils.types import SegOutput

NETWORKS = [
    ("upernet_lite", "resnet18"),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_small"),
    ("psp_mobile", "mobilevit_xx_small"),
    ("deeplab_mobile", "mobilenetv2"),
    ("segformer", "MiT_B0"),
]
SLOW_NETWORKS = [
    ("deeplabv3", "resnet101"),
    ("deeplabv3", "timm:mobilenetv3_small_100"),
    ("deeplabv3", "timm:regnety_002"),
]


def randomize_norms(network: nn.Module) -> nn.Module:
    """Batch norms as after training: none is the identity."""
    torch.manual_seed(3)
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, _BatchNorm)):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
    return network.eval()


@pytest.mark.parametrize(
    ("model", "backbone"),
    [*NETWORKS, *(pytest.param(*names, marks=pytest.mark.slow) for names in SLOW_NETWORKS)],
    ids=lambda name: name.replace(":", "_"),
)
def test_a_folded_network_gives_the_same(model, backbone):
    torch.manual_seed(0)
    network = randomize_norms(build_model(model, backbone, 5))
    images = 60 * torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = network(images)
        done = fold_batch_norms(network)
        got = network(images)
    assert done.folded == done.total > 0 and not any(isinstance(m, _BatchNorm) for m in network.modules())
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        assert b is None or (a - b).abs().max() <= TOLERANCE * b.abs().max()


class Tricky(nn.Module):
    """Only `plain` and `biased` may be folded."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("plain", "read_twice", "called_twice", "changed"):
            setattr(self, name, nn.Conv2d(3, 3, 3, padding=1, bias=False))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(3))
        self.biased = nn.Conv2d(3, 3, 1, padding_mode="circular")
        self.biased_norm = nn.BatchNorm2d(3, affine=False)
        self.standardized = Standardized(3, 3, 1)
        self.standardized_norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor, need_aux: bool = True) -> SegOutput:
        x = torch.relu_(self.plain_norm(self.plain(x)))
        x = self.biased_norm(self.biased(x))
        kept = self.read_twice(x)
        x = self.read_twice_norm(kept) + kept
        x = self.called_twice_norm(self.called_twice(self.called_twice(x)))
        x = self.changed_norm(self.changed(x).mul_(2))
        x = self.standardized_norm(self.standardized(x))
        return SegOutput(x, x + 1)


class Standardized(nn.Conv2d):
    """Its weights are divided by their norm first, which a scale would not survive."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight / self.weight.norm(), self.bias)


def test_only_pairs_that_nothing_else_reads_are_folded():
    torch.manual_seed(0)
    network = randomize_norms(Tricky())
    whole = copy.deepcopy(network)
    done = fold_batch_norms(network)
    left = {name for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    assert left == {"read_twice_norm", "called_twice_norm", "changed_norm", "standardized_norm"}
    assert (done.folded, done.total) == (2, 6)
    images = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(network(images).logits, whole(images).logits, rtol=1e-5, atol=1e-5)


def test_a_network_that_would_differ_as_a_whole_stays_as_it_was():
    class Reads(Tricky):
        """Also uses a weight directly, which no pair shows."""

        def forward(self, x: Tensor, need_aux: bool = True) -> SegOutput:
            out = super().forward(x)
            return SegOutput(out.logits + self.plain.weight.sum() * 100, out.features)

    torch.manual_seed(0)
    network = randomize_norms(Reads())
    before = copy.deepcopy(network.state_dict())
    done = fold_batch_norms(network)
    assert done.folded == 0 and done.difference > TOLERANCE
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
