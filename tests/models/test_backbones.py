"""Shapes and errors of the backbones; `reference.py` has their values."""

import pytest
import torch

from models.backbones import BACKBONES, build_backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_declared_channels_and_strides(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
    stages = backbone(torch.empty(1, 3, 97, 131, device="meta"))
    assert tuple(stage.shape[1] for stage in stages) == backbone.channels
    sizes = [(-(-97 // stride), -(-131 // stride)) for stride in backbone.strides]
    assert [tuple(stage.shape[-2:]) for stage in stages] == sizes
    assert backbone.strides == ((4, 8, 16, 32) if name.startswith("MiT") else (4, 8, 8, 8))


def test_image_too_small_for_mit_is_refused_with_the_smallest_size():
    backbone = build_backbone("MiT_B0").eval()
    with pytest.raises(ValueError, match="28x64.*at least 29x29"):
        backbone(torch.zeros(1, 3, 28, 64))
    assert backbone(torch.zeros(1, 3, 29, 29))[-1].shape == (1, 256, 1, 1)
