"""--compile: the same losses and gradients, the teacher's outputs, no compilation for validation's sizes, one error."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters

from engine.setup.teacher import FrozenTeacher, prepare_teacher
from models import build_model
from models.heads.aspp import ASPPHead
from models.layers import InvertedResidual, WideConv2d, conv_bn_relu
from models.surgery.checkpointing import checkpoint_blocks
from utils.compiling import check_compiler, uncompiled
from utils.types import SegOutput

NETWORKS = [  # each head and backbone of the recipes; whether blocks are checkpointed
    ("deeplabv3", "resnet101", False),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_large", False),
    ("deeplab_mobile", "mobilevit_xx_small", False),
    ("deeplab_mobile", "mobilenetv2", False),
    ("psp", "resnet18", False),
    ("psp_mobile", "mobilenetv3_small", True),
    ("upernet", "resnet18", False),
    ("segformer", "MiT_B0", True),
    ("segformer", "MiT_B4", False),
]
BF16_STEP = 2.0**-8  # largest rounding of bfloat16, relative
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def train_step(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = network(images)
    loss = output.logits.square().mean() + output.features.mean()
    if output.aux_logits is not None:  # a head without loss has gradients of 0 where compiled, none where not
        loss = loss + output.aux_logits.square().mean()
    loss.backward()
    return loss.detach()


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("model", "backbone", "checkpointed"), NETWORKS)
def test_recipe_networks_compile(model, backbone, checkpointed):
    """One training step, compiled and not: loss, gradients and running statistics.

    In float64, so that rounding is negligible; with attention in float32, since inductor's CPU kernel has wrong types
    in float64.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    network = build_model(model, backbone, 4)
    attends = any(word in name.lower() for name, _ in network.named_modules() for word in ("attn", "attention"))
    dtype, tolerance = (torch.float32, 1e-4) if attends else (torch.float64, 1e-8)
    for module in network.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    network = network.to(dtype).train()
    compiled = copy.deepcopy(network)
    if checkpointed:
        checkpoint_blocks(compiled.backbone)
    compiled.compile()
    torch.manual_seed(0)
    images = 60 * torch.randn(2, 3, 40, 56, dtype=dtype)
    wanted, got = train_step(network, images), train_step(compiled, images)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=0)
    scale = max(p.grad.abs().max() for p in network.parameters() if p.grad is not None)
    for (name, a), b in zip(network.named_parameters(), compiled.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert (a.grad - b.grad).abs().max() <= 10 * tolerance * scale, name
    for (name, a), b in zip(network.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance / 10, msg=lambda text, at=name: f"{at}: {text}")


def counting(compiler: str):
    """A back end and the list of the graphs that it was given."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return lookup_backend(compiler)(graph, inputs)

    return backend, graphs


def test_validation_runs_uncompiled_and_training_compiled():
    backend, graphs = counting("eager")
    network = tiny_network().train()
    network.compile(backend=backend)
    network(torch.randn(2, 3, 8, 8))
    assert len(graphs) == 1
    with uncompiled(), torch.no_grad():
        network.eval()
        for side in range(5, 12):
            assert network(torch.randn(1, 3, side, side)).logits.shape[:2] == (1, 4)
    network.train()
    network(torch.randn(2, 3, 8, 8))
    assert len(graphs) == 1


class TinyNetwork(nn.Module):
    """Two blocks and DeepLabV3's head; convolutions of large dilation (WideConv2d) in both."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            InvertedResidual([conv_bn_relu(3, 8, 3)], adds_input=False),
            InvertedResidual([conv_bn_relu(8, 8, 3, dilation=12)], adds_input=True),
        )
        self.head = ASPPHead(8, 4, 8)

    def forward(self, images: torch.Tensor, need_aux: bool = True) -> SegOutput:
        logits, features, _ = self.head([self.backbone(images)])
        return SegOutput(logits, features, None)


def tiny_network() -> nn.Module:
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    network = TinyNetwork()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert sum(isinstance(module, WideConv2d) for module in network.modules()) == 4
    return network


@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_training_in_half_precision_equals_eager(checkpointed):
    network = tiny_network().train()
    compiled = copy.deepcopy(network)
    if checkpointed:
        assert checkpoint_blocks(compiled.backbone) == 2
    compiled.compile(backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 16, 27)
    results = []
    for each in (network, compiled):
        with torch.autocast("cpu", torch.bfloat16):
            output = each(images)
        loss = output.logits.float().square().mean() + output.features.float().square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in each.parameters()), *each.buffers()])
    assert counters["stats"]["unique_graphs"] == 1
    for wanted, got in zip(*results, strict=True):
        assert got.dtype == wanted.dtype
        assert (got.double() - wanted.double()).norm() <= BF16_STEP * wanted.double().norm()


def test_a_compiled_teacher_in_half_precision(monkeypatch):
    """Compiled once, then used again."""
    network = tiny_network().eval()
    backend, graphs = counting("aot_eager")
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend=backend, fullgraph=True))
    options = {"device": torch.device("cpu"), "fold": False, "amp": "bf16", "channels_last": True}
    plain = prepare_teacher(copy.deepcopy(network), **options)
    teacher = prepare_teacher(network, **options, compiled=True)
    assert isinstance(teacher, FrozenTeacher) and not graphs
    for _ in range(2):
        images = torch.randn(2, 3, 16, 27).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted, got = plain(images), teacher(images)
        for a, b in ((got.logits, wanted.logits), (got.features, wanted.features)):
            assert a.dtype == torch.float32 and not a.requires_grad
            assert (a - b).norm() <= BF16_STEP * b.norm()
        assert len(graphs) == 1  # none for the second batch, whose size is the same


@needs_compiler
@pytest.mark.slow
def test_a_compiler_that_works_is_accepted():
    torch.compiler.reset()
    check_compiler(torch.device("cpu"))


def test_a_missing_compiler_is_one_error(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: missing)
    message = r"--compile: .*No working C\+\+ compiler found\).*leave --compile out"
    with pytest.raises(ValueError, match=message) as caught:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(caught.value)
