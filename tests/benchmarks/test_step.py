"""The benchmark of the step on small networks, and the comparison of curves."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from benchmarks import step
from benchmarks.curves import compare, difference
from losses.modules.memory_bank import MemoryBank

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(step, "TEACHER", ("psp", "resnet18"))
    monkeypatch.setattr(step, "STUDENTS", {"small": ("psp_mobile", "mobilenetv3_small")})


@pytest.mark.parametrize("way", [step.PLAIN, step.HALF, step.PLAIN_HALF])
def test_a_step_trains_and_its_parts_add_up(way):
    sizes = step.Sizes((40, 56), 2)
    stepper = step.Stepper("small", step.WAYS[way], sizes, CPU)
    before = [p.detach().clone() for p in stepper.task.network.parameters()]
    seconds = stepper.step(*step.random_batch(sizes, CPU))
    assert any(not torch.equal(a, b) for a, b in zip(before, stepper.task.network.parameters(), strict=True))
    assert set(stepper.parts) == {"teacher", "student", "losses", "backward", "optimiser"}
    assert sum(stepper.parts.values()) == pytest.approx(seconds) and min(stepper.parts.values()) > 0
    banks = [module for module in stepper.task.modules() if isinstance(module, MemoryBank)]
    assert bool(banks) == (way == step.HALF)
    for bank in banks:
        assert (bank.queue_count == bank.size).all()
        rows = bank.queue[: bank.num_queues * bank.size]
        assert (rows[[0, -1]].float().norm(dim=1) - 1).abs().max() < 0.01


RATIOS = {  # measured; bound and whether it is met, by device
    "CIRKDV2 / KD": (1.4, {"cpu": (1.5, True), "cuda": (1.3, False)}),
    "CIRKDV2 with bf16 relations / KD": (1.3, {"cpu": (1.25, False), "cuda": (1.3, True)}),
    "CIRKDV2 / KD, both in bf16 channels_last": (1.25, {"cuda": (1.3, True)}),
    "fp32 / bf16 channels_last": (2.8, {"cpu": (1.4, True), "cuda": (3.0, False)}),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ratios_and_bounds(device, monkeypatch):
    seconds = dict(zip(step.WAYS, (2.0, 2.8, 2.6, 1.0, 0.8), strict=True))
    monkeypatch.setattr(step, "measure", lambda student, way, *_: (seconds[way], {}, 5.0))
    lines = []
    result = step.run(torch.device(device), 1, log=lines.append)
    found = {name: (round(t["measured"], 3), t["bound"], t["met"]) for name, t in result["targets"].items()}
    bounded = {name: (value, *bounds[device]) for name, (value, bounds) in RATIOS.items() if device in bounds}
    assert found == {f"{name}, small": values for name, values in bounded.items()}
    # also where it has no bound
    assert result["ratios"]["small"]["CIRKDV2 / KD, both in bf16 channels_last"] == pytest.approx(1.25)
    assert "CIRKDV2 / KD, both in bf16 channels_last 1.25" in lines[-1]


def test_the_best_of_the_steps_counts_and_the_peak_of_all(monkeypatch):
    def process(target, args, daemon):
        """Works at its start and in this process, where the small networks are; the pipe holds what it sends."""
        return SimpleNamespace(start=lambda: target(*args), join=lambda: None)

    peaks = iter((1.0, 3.0, 7.0))
    peak = SimpleNamespace(restart=lambda: None, mib=lambda: next(peaks))
    sizes, own, taken = step.Sizes((40, 56), 2), step.Stepper.step, []

    def slow_at_first(self, *batch):
        taken.append(own(self, *batch) + (100 if not taken else 0))
        return taken[-1]

    monkeypatch.setattr(step, "PeakMemory", lambda device: peak)
    monkeypatch.setattr(step.Stepper, "step", slow_at_first)
    context = SimpleNamespace(Process=process, Pipe=multiprocessing.Pipe)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    seconds, parts, mib = step.measure("small", step.PLAIN, sizes, CPU, 3)
    assert len(taken) == 3 and seconds == min(taken) and mib == 7.0
    assert sum(parts.values()) == pytest.approx(seconds)


def test_curves_are_compared_with_the_spread_over_seeds():
    base = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0]

    def shifted(*amounts: float) -> dict[int, list[float]]:
        return {seed: [value + amount for value in base] for seed, amount in enumerate(amounts)}

    curves = {"float32": shifted(0, 0.5, -0.5), "near": shifted(0.1, 0.4, -0.5), "far": shifted(0.9, 1.4, 0.4)}
    found = compare(curves, window=2)
    assert found["between seeds"] == pytest.approx((0.5 / 2.6 + 0.5 / 2.6 + 1 / 3.1) / 3)
    assert {name: values["agrees"] for name, values in found["variants"].items()} == {"near": True, "far": False}
    # both shift every run of the second half; those of "near" in opposite directions, which its error shows
    near, far = found["variants"]["near"], found["variants"]["far"]
    assert abs(near["bias"]) < 2 * near["standard error"]
    assert far["bias"] > 2 * far["standard error"]
    assert difference(base, base, 2) == 0
    # two values that alternate around the curve cancel in the mean
    assert difference(base, [value + (-1) ** i for i, value in enumerate(base)], 2) == pytest.approx(0)
