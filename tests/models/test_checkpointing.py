"""Gradient checkpointing changes what is kept, and no value, gradient or statistic."""

import copy

import pytest
import torch
from torch import nn

from models import build_model
from models.surgery.checkpointing import checkpoint_blocks, list_blocks

NETWORKS = [  # and the number of blocks
    ("psp", "resnet18", 8),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_small", 11),
    ("psp_mobile", "mobilevit_xx_small", 10),
    ("deeplab_mobile", "mobilenetv2", 17),
    ("segformer", "MiT_B0", 8),
    pytest.param("deeplabv3", "timm:mobilenetv3_small_100", 12, marks=pytest.mark.slow),
    pytest.param("upernet_lite", "timm:vit_tiny_patch16_224", 12, marks=pytest.mark.slow),
]


def train_step(network: nn.Module, images: torch.Tensor, amp: bool = False) -> torch.Tensor:
    torch.manual_seed(1)  # dropout and drop path draw alike
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        output = network(images)
    loss = output.logits.float().square().mean() + output.features.float().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize(("model", "backbone", "count"), NETWORKS, ids=lambda value: str(value).replace(":", "_"))
def test_value_gradients_and_statistics_are_the_same_bit_for_bit(model, backbone, count):
    torch.manual_seed(0)
    plain = build_model(model, backbone, 4).train()
    saving = copy.deepcopy(plain)
    assert checkpoint_blocks(saving.backbone) == count
    saving = copy.deepcopy(saving)  # as averaged weights do
    images = 60 * torch.randn(2, 3, 40, 56)
    amp = backbone == "mobilenetv3_small"
    assert torch.equal(train_step(plain, images, amp), train_step(saving, images, amp))
    names = [name for name, _ in plain.named_parameters()]
    for name, a, b in zip(names, plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.equal(a.grad, b.grad), name
    wanted, got = plain.state_dict(), saving.state_dict()
    assert list(wanted) == list(got)
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), name
    with torch.no_grad():
        assert torch.equal(plain.eval()(images).logits, saving.eval()(images).logits)


def test_less_is_kept_for_the_backward_pass():
    kept = {}
    for checkpointed in (False, True):
        network = build_model("deeplab_mobile", "mobilenetv2", 4).train()
        if checkpointed:
            checkpoint_blocks(network.backbone)
        sizes = []

        def count(tensor: torch.Tensor, sizes=sizes) -> torch.Tensor:
            sizes.append(0 if isinstance(tensor, nn.Parameter) else tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            stages = network.encode(torch.randn(2, 3, 64, 64))
        assert stages[-1].requires_grad
        kept[checkpointed] = sum(sizes)
    assert kept[True] < kept[False] / 3


def test_a_backbone_without_blocks_is_refused():
    with pytest.raises(ValueError, match="not built of blocks"):
        list_blocks(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
