"""--compile: the same losses and gradients, no compilation for validation's sizes, one error without a compiler."""

import copy
import shutil

import pytest
import torch
from torch import nn

from engine.compiling import check_compiler, uncompiled
from models import build_model
from models.checkpointing import checkpoint_blocks

NETWORKS = [
    ("deeplabv3", "resnet101"),
    ("deeplabv3", "resnet18"),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_small"),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_large"),
    ("deeplab_mobile", "mobilevit_xx_small"),
    ("deeplab_mobile", "mobilenetv2"),
    ("psp", "resnet18"),
    ("psp_mobile", "mobilenetv3_small"),
    ("psp_mobile", "mobilenetv3_large"),
    ("psp_mobile", "mobilevit_xx_small"),
    ("upernet", "resnet18"),
    ("segformer", "MiT_B0"),
    ("segformer", "MiT_B4"),
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def train_step(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = network(images)
    loss = output.logits.square().mean() + output.features.mean()
    loss.backward()
    return loss.detach()


def assert_compiled_equals_eager(network: nn.Module, checkpointed: bool = False) -> None:
    """One training step of each: loss, gradients and running statistics; in float64, where rounding has no say."""
    for module in network.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    network = network.double().train()
    compiled = copy.deepcopy(network)
    if checkpointed:
        checkpoint_blocks(compiled.backbone)
    compiled.compile()
    torch.manual_seed(0)
    images = 60 * torch.randn(2, 3, 40, 56, dtype=torch.float64)
    wanted, got = train_step(network, images), train_step(compiled, images)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0)
    scale = max(p.grad.abs().max() for p in network.parameters() if p.grad is not None)
    for (name, a), b in zip(network.named_parameters(), compiled.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert (a.grad - b.grad).abs().max() <= 1e-7 * scale, name
    for (name, a), b in zip(network.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("model", "backbone"), NETWORKS)
def test_recipe_networks_compile(model, backbone):
    torch.compiler.reset()
    torch.manual_seed(0)
    assert_compiled_equals_eager(build_model(model, backbone, 4))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("model", "backbone"), [("psp_mobile", "mobilenetv3_small"), ("segformer", "MiT_B0")])
def test_networks_compile_with_checkpointing(model, backbone):
    torch.compiler.reset()
    torch.manual_seed(0)
    assert_compiled_equals_eager(build_model(model, backbone, 4), checkpointed=True)


def test_validation_runs_uncompiled_and_training_compiled():
    """Counted by a back end of our own, which compiles nothing."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    network = Network()
    network.compile(backend=backend)
    network(torch.randn(2, 3, 8, 8))
    assert len(graphs) == 1
    with uncompiled(), torch.no_grad():
        network.eval()
        for side in range(5, 12):
            assert network(torch.randn(1, 3, side, side)).shape == (1, 2, side, side)
    network.train()
    network(torch.randn(2, 3, 8, 8))
    assert len(graphs) == 1


@needs_compiler
@pytest.mark.slow
def test_a_compiler_that_works_is_accepted():
    torch.compiler.reset()
    check_compiler(torch.device("cpu"))


def test_a_missing_compiler_is_one_error(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: missing)
    with pytest.raises(
        ValueError, match=r"--compile: .*No working C\+\+ compiler found\).*leave --compile out"
    ) as caught:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(caught.value)
