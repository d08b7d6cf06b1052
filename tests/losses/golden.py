"""Reference values of the losses in `tests/data/golden/losses/simple.json`: inputs, results, gradients."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.data.golden.filler import fill

FILE = Path(__file__).parents[1] / "data" / "golden" / "losses" / "simple.json"
IGNORED = 255


@cache
def _reference() -> dict[str, Any]:
    return json.loads(FILE.read_text())


@cache
def _array(name: str) -> np.ndarray:
    """An input, made by its recipe; AssertionError if this NumPy draws other numbers than were used."""
    entry = _reference()["inputs"][name]
    random = np.random.default_rng(entry["seed"])
    if name == "labels":
        batch, height, width = entry["shape"]
        low = random.integers(-1, 19, (batch, height // 16, width // 16))
        array = np.repeat(np.repeat(low, 16, 1), 16, 2).astype(np.int64)
        array[random.random((batch, height, width)) < 0.05] = -1
    else:
        scale, shift = map(float, re.search(r"\*([\d.]+)\+([\d.]+)\)\.astype", entry["recipe"]).groups())
        array = (random.normal(0, 1, entry["shape"]) * scale + shift).astype(np.float32)
    assert hashlib.sha256(array.tobytes()).hexdigest() == entry["sha256"], f"{name} is not the array of the reference"
    return array


def tensor(name: str, grad: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    """A new tensor of "inputs", e.g. "fs128" or "logit_s"; "labels" stay int64, 255 = ignored."""
    if name == "labels":
        labels = torch.from_numpy(_array(name).copy())
        return labels.where(labels >= 0, IGNORED)
    return torch.from_numpy(_array(name).copy()).to(dtype).requires_grad_(grad)


def result(case: str) -> dict[str, Any]:
    return _reference()["results"][case]


def statistics(values: Tensor) -> dict[str, float]:
    flat = values.detach().double().flatten()
    probe = np.random.default_rng(999).normal(0, 1, tuple(values.shape)).astype(np.float32)
    return {
        "l2": flat.norm().item(),
        "abs_sum": flat.abs().sum().item(),
        "dot_probe": (flat @ torch.from_numpy(probe).double().flatten()).item(),
    }


def fill_parameters(module: nn.Module, names: Mapping[str, str] | None = None) -> None:
    state = module.state_dict()
    names = {name: name for name in state} if names is None else names
    filled = {ours: torch.from_numpy(fill(theirs, tuple(state[ours].shape))) for ours, theirs in names.items()}
    module.load_state_dict(state | filled)


def check(case: str, outputs: Sequence[Tensor], inputs: Mapping[str, Tensor], rtol: float = 1e-4) -> None:
    """Compares unweighted outputs and their gradients with the reference.

    `inputs` (name in "grads" -> tensor) need every gradient of the case; where it is None there, it is None or 0 here.
    `rtol` is that of values and of each gradient's statistics (dot_probe: relative to the gradient's l2 norm).
    """
    expected = result(case)
    assert len(outputs) == len(expected["outputs"]), (case, len(outputs))
    for index, (output, value) in enumerate(zip(outputs, expected["outputs"], strict=True)):
        assert abs(output.item() - value) <= rtol * abs(value), (case, index, output.item(), value)
        wanted = {name: entry for name, entry in expected["grads"][f"out{index}"].items() if name in inputs or entry}
        missing = sorted(set(wanted) - set(inputs))
        assert not missing, f"{case}: the reference has gradients of {missing}"
        grads = torch.autograd.grad(output, [inputs[n] for n in wanted], retain_graph=True, allow_unused=True)
        for (name, entry), grad in zip(wanted.items(), grads, strict=True):
            if entry is None:
                assert grad is None or not grad.any(), (case, index, name, "has a gradient, the reference has none")
                continue
            assert grad is not None, (case, index, name, "has no gradient")
            check_gradient((case, index, name), grad, entry, rtol)


def check_gradient(name: Any, grad: Tensor, entry: Mapping[str, Any], rtol: float) -> None:
    """Compares shape and statistics of a gradient with an entry of "grads"; tolerances as in `check`."""
    assert list(grad.shape) == entry["shape"], name
    got = statistics(grad)
    atol = 1e-6 if entry["l2"] < 1e-7 else 0.0  # 0 but for rounding: a bias in front of a softmax over keys
    for key, scale in (("l2", entry["l2"]), ("abs_sum", entry["abs_sum"]), ("dot_probe", entry["l2"])):
        assert abs(got[key] - entry[key]) <= rtol * scale + atol, (name, key, got[key], entry[key])
