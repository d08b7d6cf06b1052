"""Networks of different input conventions share a batch."""

import pytest
import torch
from torch import nn

from models import build_model
from models.base import CONVENTION_KEY, IMAGENET_RGB, PUBLISHED, InputConvention


def published(rgb: torch.Tensor) -> torch.Tensor:
    """The shared batch: BGR minus the published mean, of 0..255 RGB values."""
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
    return rgb[:, [2, 1, 0]] - mean.view(1, 3, 1, 1)


def small_network():
    return build_model("psp_mobile", "mobilenetv3_small", 3).eval()


def test_rgb_convention_gives_what_the_other_library_would_feed():
    rgb = torch.randint(0, 256, (2, 3, 33, 40)).float()
    network = small_network()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    by_hand = (rgb / 255 - mean) / std
    with torch.no_grad():
        expected = network(by_hand).logits  # still in the published convention: nothing is converted
        network.set_input_convention(IMAGENET_RGB)
        torch.testing.assert_close(network.to_input_convention(published(rgb)), by_hand, atol=2e-6, rtol=0)
        torch.testing.assert_close(network(published(rgb)).logits, expected, atol=1e-5, rtol=1e-4)


def test_bgr_convention_with_its_own_scale():
    rgb = torch.randint(0, 256, (1, 3, 5, 4)).float()
    network = small_network()
    network.set_input_convention(InputConvention("BGR", 2.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    b, g, r = rgb[:, 2], rgb[:, 1], rgb[:, 0]
    by_hand = torch.stack([(2 * b - 1) / 4, (2 * g - 2) / 5, (2 * r - 3) / 6], dim=1)
    torch.testing.assert_close(network.to_input_convention(published(rgb)), by_hand, atol=1e-4, rtol=0)


def test_convention_follows_the_network():
    network = small_network()
    assert network.input_convention == PUBLISHED
    network.set_input_convention(IMAGENET_RGB)
    assert network.double().input_gain.dtype == torch.float64
    network.set_input_convention(PUBLISHED)
    images = torch.randn(1, 3, 4, 4)
    assert network.to_input_convention(images) is images


def test_checkpoint_keeps_what_differs_from_the_published_convention_and_nothing_else():
    network, other = small_network(), small_network()
    names = list(network.state_dict())
    network.set_input_convention(IMAGENET_RGB)
    network.set_batch_norm_eps(1e-3)
    assert [name for name in network.state_dict() if name not in names] == [CONVENTION_KEY]
    other.load_state_dict(network.half().state_dict())  # exact at any precision of the weights
    assert other.input_convention == IMAGENET_RGB and other.batch_norm_eps == 1e-3
    eps = {m.eps for m in other.pretrained.modules() if isinstance(m, nn.BatchNorm2d)}
    assert eps == {1e-3} and other.head.block[1].eps == 1e-5
    other.load_state_dict(small_network().state_dict())
    assert other.input_convention == PUBLISHED and list(other.state_dict()) == names
    assert {m.eps for m in other.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


@pytest.mark.parametrize("arguments", [("RBG", 1.0, (0, 0, 0), (1, 1, 1)), ("RGB", 1.0, (0, 0, 0), (1, 0, 1))])
def test_impossible_conventions_are_refused(arguments):
    with pytest.raises(ValueError):
        InputConvention(*arguments)
