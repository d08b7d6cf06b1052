"""The Triton kernels: interpreted on the CPU, and compiled if there is a GPU."""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from losses.relation import triton_rows
from losses.relation.rows import _eager_rows

SHAPES = [(3, 37), (2, 1), (2, 64), (2, 300)]


def check_kernels(device: str, longest: int) -> None:
    triton_rows.LONGEST_ROW = longest
    for count, num_keys in SHAPES:
        for masked, weighted, out in [(0, 0, "own"), (1, 1, "half"), (1, 0, "own"), (2, 1, "own"), (0, 1, None)]:
            generator = torch.Generator().manual_seed(count)
            teacher, student = (torch.randn(2, count, num_keys, generator=generator) * 3).to(device)
            exists = torch.arange(num_keys) % 3 != 1 if masked == 1 else torch.zeros(num_keys, dtype=torch.bool)
            bias = torch.where(exists, 0.0, -1e30).to(device) if masked else None
            biases = (None, None) if bias is None else (bias, bias + torch.arange(num_keys, device=device) % 5.0)
            weight = torch.arange(3.0 * count).to(device)[::3] if weighted else None  # not contiguous
            results = []
            for compute in (triton_rows.launch_rows, lambda *a: _eager_rows(*a, None)):
                logits = teacher.clone(), student.clone()
                row_kl = torch.full((count,), torch.nan, device=device)
                delta = {"own": logits[1], "half": torch.empty_like(student, dtype=torch.bfloat16), None: None}[out]
                compute(*logits, *biases, weight, row_kl, delta)
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

    from losses.relation import kernels

    function = getattr(kernels, kernel)
    kinds = dict.fromkeys(function.arg_names, "i32")
    kinds |= {name: "*fp32" for name in function.arg_names if name.endswith("_pointer")} | {"delta_pointer": "*bf16"}
    constants = {"HAS_BIAS": True, "HAS_WEIGHT": True, "HAS_DELTA": True, "BLOCK": block}
    if kernel == "row_in_many_blocks":
        constants["num_keys"] = 20000
    source = ASTSource(function, kinds | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 16})
    assert len(compiled.asm["cubin"]) > 10000 and f"sm_{capability}" in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.parametrize("longest", [16384, 16])
def test_compiled_kernels_equal_the_elementwise_operations(longest, monkeypatch):
    monkeypatch.setattr(triton_rows, "LONGEST_ROW", longest)
    check_kernels("cuda", longest)


class OnCuda:
    is_cuda, dtype, device = True, torch.float32, torch.device("cuda", 3)


@pytest.fixture
def gpu(monkeypatch):
    """A fake GPU that records the devices made current and those waited for."""
    asked = SimpleNamespace(current=[], waited=[], inside=False)

    @contextmanager
    def device(which):
        asked.current.append(which)
        asked.inside = True
        yield
        asked.inside = False

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "synchronize", asked.waited.append)
    monkeypatch.setattr(triton_rows, "_STATE", SimpleNamespace(failed=False))
    return asked


def launch_with(monkeypatch, launch):
    monkeypatch.setattr(triton_rows, "launch_rows", launch)
    return triton_rows.triton_rows(OnCuda(), None, None, None, None, None, None)


def test_the_kernel_runs_on_the_device_of_its_tensors(gpu, monkeypatch):
    inside = []
    assert launch_with(monkeypatch, lambda *a: inside.append(gpu.inside)) is True
    assert gpu.current == [OnCuda.device] and inside == [True] and not gpu.waited


def compiler_error():
    return pytest.importorskip("triton.runtime.errors").PTXASError("no ptxas")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'triton'"),
        PermissionError(13, "Permission denied", "/root/.triton/cache"),
        subprocess.CalledProcessError(1, ["gcc"]),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        compiler_error,
    ],
)
def test_an_unavailable_kernel_is_reported_once_and_replaced(error, gpu, monkeypatch, caplog):
    error = error if isinstance(error, Exception) else error()
    with caplog.at_level(logging.WARNING):
        assert launch_with(monkeypatch, Mock(side_effect=error)) is False
        assert launch_with(monkeypatch, lambda *a: 1 / 0) is False  # not tried again
    assert [r.message.count("without the Triton kernel") for r in caplog.records] == [1]
    assert gpu.waited == [OnCuda.device]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        ZeroDivisionError("a bug"),
    ],
)
def test_other_errors_are_raised(error, gpu, monkeypatch, caplog):
    with pytest.raises(type(error)) as caught:
        launch_with(monkeypatch, Mock(side_effect=error))
    assert caught.value is error and not caplog.records and not triton_rows._STATE.failed


def test_a_broken_device_is_not_mistaken_for_an_unavailable_kernel(gpu, monkeypatch, caplog):
    broken = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch.cuda, "synchronize", Mock(side_effect=broken))
    with pytest.raises(torch.AcceleratorError):
        launch_with(monkeypatch, Mock(side_effect=RuntimeError("Triton Error [CUDA]: illegal memory access")))
    assert not caplog.records and not triton_rows._STATE.failed
