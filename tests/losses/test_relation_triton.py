"""The Triton kernels: interpreted on the CPU, compiled where there is a GPU."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from losses import functional as LF
from losses import relation_triton
from losses.relation_rows import _eager_rows

SHAPES = [(5, 37), (3, 1), (4, 64), (3, 300)]


def check_kernels(device: str, longest: int) -> None:
    """Both kernels give what the elementwise operations give, for masks, weights and both dtypes of the gradient."""
    relation_triton.LONGEST_ROW = longest
    for count, num_keys in SHAPES:
        for masked, weighted, out in [(0, 0, "own"), (1, 1, "half"), (1, 0, "own"), (2, 1, "own"), (0, 1, None)]:
            generator = torch.Generator().manual_seed(count)
            teacher, student = (torch.randn(2, count, num_keys, generator=generator) * 3).to(device)
            exists = torch.arange(num_keys) % 3 != 1 if masked == 1 else torch.zeros(num_keys, dtype=torch.bool)
            bias = torch.where(exists, 0.0, -1e30).to(device) if masked else None
            weight = (torch.arange(count) % 2.0).to(device) if weighted else None
            results = []
            for compute in (relation_triton.launch_rows, lambda *a: _eager_rows(*a, None)):
                logits = teacher.clone(), student.clone()
                row_kl = torch.full((count,), torch.nan, device=device)
                delta = {"own": logits[1], "half": torch.empty_like(student, dtype=torch.bfloat16), None: None}[out]
                compute(*logits, bias, weight, row_kl, delta)
                results.append((row_kl, delta))
            (kl, delta), (expected_kl, expected_delta) = results
            torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-6)
            if out:
                tolerance = 1e-5 if out == "own" else 1e-2
                torch.testing.assert_close(delta, expected_delta, rtol=tolerance, atol=1e-6)


def test_interpreted_kernels_equal_the_elementwise_operations():
    pytest.importorskip("triton")
    code = (
        "from tests.losses.test_relation_triton import check_kernels as c; c('cpu', 16384); c('cpu', 16); print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == "ok", done.stderr[-2000:]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("kernel", "block"), [("row_in_one_block", 16384), ("row_in_many_blocks", 8192)])
def test_kernels_compile_to_machine_code_without_a_gpu(kernel, block, capability):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from losses import relation_kernels

    function = getattr(relation_kernels, kernel)
    kinds = dict.fromkeys(function.arg_names, "i32")
    kinds |= {name: "*fp32" for name in function.arg_names if name.endswith("_pointer")} | {"delta_pointer": "*bf16"}
    constants = {"HAS_BIAS": True, "HAS_WEIGHT": True, "HAS_DELTA": True, "BLOCK": block}
    if kernel == "row_in_many_blocks":
        constants["num_keys"] = 20000
    source = ASTSource(function, kinds | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 16})
    assert len(compiled.asm["cubin"]) > 10000 and f"sm_{capability}" in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("longest", [16384, 16])
def test_compiled_kernels_equal_the_elementwise_operations(longest, monkeypatch):
    monkeypatch.setattr(relation_triton, "LONGEST_ROW", longest)
    check_kernels("cuda", longest)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("half", [False, True])
def test_relations_on_a_gpu_equal_those_on_the_cpu(half):
    generator = torch.Generator().manual_seed(0)
    s, t, keys = (torch.nn.functional.normalize(torch.randn(n, 96, generator=generator), dim=1) for n in (300, 300, 77))
    mask, weight = torch.arange(77) % 5 != 0, torch.arange(300) % 3.0
    results = []
    for device, operands in (("cpu", None), ("cuda", torch.bfloat16 if half else None)):
        own, other, bank = s.to(device).requires_grad_(), t.to(device), keys.to(device)
        loss = LF.relation_kl(
            own,
            other,
            bank,
            bank,
            0.1,
            anchor_weight=weight.to(device),
            key_mask=mask.to(device),
            operand_dtype=operands,
        )
        images = own.view(3, 100, 96), other.view(3, 100, 96)
        pairs = LF.relation_kl_pairs(*images, [(0, 1), (1, 0), (2, 2)], 0.1, operand_dtype=operands)
        results.append([x.detach().cpu() for x in (loss, pairs, torch.autograd.grad(loss + pairs, own)[0])])
    for got, want in zip(results[1], results[0], strict=True):
        assert (got - want).norm() <= (2e-2 if half else 1e-4) * want.norm()
    assert not relation_triton._STATE.failed


def test_a_kernel_that_cannot_be_compiled_is_said_once_and_replaced(monkeypatch, caplog):
    class OnCuda:
        is_cuda, dtype = True, torch.float32

    calls = []
    monkeypatch.setattr(relation_triton, "_STATE", type(relation_triton._STATE)(failed=False))
    monkeypatch.setattr(relation_triton, "launch_rows", lambda *a: calls.append(1) or 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert relation_triton.triton_rows(OnCuda(), None, None, None, None, None) is False
        assert relation_triton.triton_rows(OnCuda(), None, None, None, None, None) is False
    assert len(calls) == 1 and [r.message.count("without the Triton kernel") for r in caplog.records] == [1]
