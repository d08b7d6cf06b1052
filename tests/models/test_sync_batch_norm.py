"""Batch norm over several processes is batch norm over all their values."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from benchmarks.host_reads import HostReads
from models.layers import InvertedResidual, conv_bn_relu
from models.surgery.checkpointing import checkpoint_blocks
from models.surgery.sync_batch_norm import SyncBatchNorm, _NormalizeByAll, convert_sync_batch_norms
from tests.processes import run_processes
from utils.distributed import get_rank

SHARES = (2, 1, 1)  # images of the processes: not the same number
CASES = {
    "float64": (torch.float64, {}, 1e-12),
    "float32": (torch.float32, {}, 1e-5),
    "bfloat16": (torch.bfloat16, {}, 2e-2),
    "channels_last": (torch.float32, {}, 1e-5),
    "cumulative": (torch.float64, {"momentum": None}, 1e-12),
    "no affine, no statistics": (torch.float64, {"affine": False, "track_running_stats": False}, 1e-12),
    "activation": (torch.float64, {}, 1e-12),
}


def build(case: str) -> nn.Module:
    dtype, options, _ = CASES[case]
    torch.manual_seed(0)
    norm = (BatchNormAct2d if case == "activation" else nn.BatchNorm2d)(5, **options)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(norm.double() if dtype == torch.float64 else norm)


def take_steps(norm: nn.Module, case: str, share: slice) -> dict:
    """Output, gradients and running statistics of two batches of 4 images; the loss is a sum, so shares add up."""
    found = {}
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        x = 3 + torch.randn(4, 5, 6, 7, dtype=torch.float64, generator=generator) * torch.arange(1, 6).view(5, 1, 1)
        pull = torch.randn(4, 5, 6, 7, dtype=torch.float64, generator=generator)
        x, pull = (tensor[share].to(CASES[case][0]) for tensor in (x, pull))
        if case == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        norm.zero_grad()
        output = norm(x)
        assert output.dtype == x.dtype
        assert output.is_contiguous(memory_format=torch.channels_last) == (case == "channels_last")
        (output * pull).sum().backward()
        found |= {f"output {step}": output.detach(), f"gradient {step}": x.grad}
        found |= {f"{name} {step}": p.grad.clone() for name, p in norm.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in norm.named_buffers()}


def shared_steps(case: str) -> dict:
    norm = convert_sync_batch_norms(build(case))
    start = sum(SHARES[: get_rank()])
    return take_steps(norm, case, slice(start, start + SHARES[get_rank()]))


def checkpointed_step(checkpointed: bool, compiled: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layers = [conv_bn_relu(3, 8, 3)], [conv_bn_relu(8, 8, 3)]
    network = nn.Sequential(*(InvertedResidual(layer, adds_input=False) for layer in layers))
    network = convert_sync_batch_norms(network).train()
    if checkpointed:
        assert checkpoint_blocks(network) == 2
    if compiled:
        network.compile(backend="aot_eager")
    torch.manual_seed(get_rank())
    network(3 + torch.randn(2, 3, 16, 16)).square().mean().backward()
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
    return gradients | {name: buffer.clone() for name, buffer in network.named_buffers()}


def work() -> tuple[dict[str, dict], list[float], list[dict]]:
    norm = convert_sync_batch_norms(nn.Sequential(nn.BatchNorm2d(3))).train()
    one_value_each = norm(torch.arange(3.0).view(1, 3, 1, 1) + get_rank()).flatten().tolist()
    checkpointed = [checkpointed_step(*way) for way in ((False, False), (True, False), (True, True))]
    return {case: shared_steps(case) for case in CASES}, one_value_each, checkpointed


@pytest.fixture(scope="module")
def results() -> list[tuple]:
    """What three processes return; their start takes far longer than the work."""
    return run_processes(work, 3)


@pytest.mark.parametrize("case", CASES)
def test_processes_normalise_as_one(results, case):
    for name, wanted in take_steps(build(case), case, slice(None)).items():
        shares = [steps[case][name] for steps, _, _ in results]
        if name.startswith(("output", "gradient")):
            got = torch.cat(shares)
        elif name[-1].isdigit():  # gradients of parameters, each of its process's own loss
            got = sum(shares)
        else:
            assert all(torch.equal(share, shares[0]) for share in shares), f"{name} differs"
            got = shares[0]
        scale = wanted.double().abs().max().item()
        torch.testing.assert_close(
            got, wanted, rtol=0, atol=CASES[case][2] * scale, msg=lambda text, at=name: f"{at}: {text}"
        )


def test_one_value_a_process_is_enough_for_several(results):
    expected = [-(1.5**0.5), 0, 1.5**0.5]
    assert [values for _, values, _ in results] == [pytest.approx([value] * 3, abs=1e-4) for value in expected]


def test_checkpointed_blocks_count_a_step_once_compiled_or_not(results):
    """Norms over all processes break the compiler's graph, so that the blocks are not compiled."""
    for _, _, (plain, *others) in results:
        for other in others:
            assert list(other) == list(plain)
            for name in plain:
                torch.testing.assert_close(other[name], plain[name], msg=lambda text, at=name: f"{at}: {text}")


def test_conversion_keeps_names_parameters_and_what_evaluation_gives():
    network = nn.Sequential(nn.Conv2d(3, 5, 1), BatchNormAct2d(5), nn.Sequential(nn.BatchNorm2d(5)))
    network[2].eval()
    before, parameters = copy.deepcopy(network), dict(network.named_parameters())
    converted = convert_sync_batch_norms(network)
    assert converted is network and isinstance(network[1], SyncBatchNorm) and isinstance(network[2][0], SyncBatchNorm)
    assert network[1].training and not network[2][0].training
    assert network.state_dict().keys() == before.state_dict().keys()
    assert all(parameters[name] is parameter for name, parameter in network.named_parameters())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(network(x), before(x), rtol=0, atol=0)  # in one process, training and not
    torch.testing.assert_close(network.eval()(x), before.eval()(x), rtol=0, atol=0)
    assert convert_sync_batch_norms(network)[1] is network[1]


def test_a_batch_norm_of_unknown_behaviour_is_refused():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="Own cannot be synchronised"):
        convert_sync_batch_norms(nn.Sequential(Own(3)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_exchange_never_makes_the_host_wait_and_equals_batch_norm(device, dtype):
    """With one process, whose statistics are all there are; the kernels are those of several."""
    x = (3 + torch.randn(4, 5, 6, 7)).to(device, dtype)
    weight, bias = torch.randn(2, 5).to(device)
    results = []
    for normalise in (
        lambda x, w, b, m, v: _NormalizeByAll.apply(x, w, b, m, v, 1e-5, 0.1),
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, True, 0.1, 1e-5),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        running = [torch.zeros(5, device=device), torch.ones(5, device=device)]
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            with HostReads(refuse=True):
                output = normalise(*leaves, *running)
                output.backward(x.flip(0))
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        results.append([output.detach(), *running, *(leaf.grad for leaf in leaves)])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for got, wanted in zip(*results, strict=True):
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
