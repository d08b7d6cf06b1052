"""The step's benchmark measures what it says, on small networks; the comparison of curves."""

import multiprocessing
import threading
from contextlib import contextmanager

import pytest
import torch

from benchmarks import step
from benchmarks.curves import compare, difference
from losses.memory_bank import MemoryBank

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
        rows = bank.queue[: bank.num_rings * bank.size]
        assert (rows[[0, -1]].float().norm(dim=1) - 1).abs().max() < 0.01


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (
            CPU,
            {
                "CIRKDV2 / KD, small": (1.4, 1.5, True),
                "CIRKDV2 with bf16 relations / KD, small": (1.3, 1.25, False),
                "fp32 / bf16 channels_last, small": (2.8, 1.4, True),
            },
        ),
        (
            torch.device("cuda"),
            {
                "CIRKDV2 / KD, small": (1.4, 1.3, False),
                "CIRKDV2 with bf16 relations / KD, small": (1.3, 1.3, True),
                "CIRKDV2 / KD, both in bf16 channels_last, small": (1.25, 1.3, True),
                "fp32 / bf16 channels_last, small": (2.8, 3.0, False),
            },
        ),
    ],
    ids=["cpu", "cuda"],
)
def test_ratios_and_bounds(device, expected, monkeypatch):
    seconds = dict(zip(step.WAYS, (2.0, 2.8, 2.6, 1.0, 0.8), strict=True))
    measured = seconds, {way: {} for way in step.WAYS}, dict.fromkeys(step.WAYS, 5.0)
    monkeypatch.setattr(step, "measure", lambda *_: measured)
    said = []
    result = step.run(device, 1, say=said.append)
    found = {name: (round(t["measured"], 3), t["bound"], t["met"]) for name, t in result["targets"].items()}
    assert found == expected
    # also where it has no bound
    assert result["ratios"]["small"]["CIRKDV2 / KD, both in bf16 channels_last"] == pytest.approx(1.25)
    assert "CIRKDV2 / KD, both in bf16 channels_last 1.25" in said[-1]


def test_a_process_takes_a_step_whenever_it_is_asked():
    ours, theirs = multiprocessing.Pipe()
    served = threading.Thread(target=step.serve, args=(theirs, "small", step.PLAIN, step.Sizes((40, 56), 2), CPU))
    served.start()
    assert ours.poll(60) and ours.recv() == "ready"
    for _ in range(2):
        ours.send(True)
        assert ours.poll(60)
        seconds, parts, mib = ours.recv()
        assert sum(parts.values()) == pytest.approx(seconds) and mib > 0
    ours.send(False)
    served.join(60)
    assert not served.is_alive()


@pytest.mark.parametrize(
    ("device", "turns"), [("cpu", [*step.WAYS] * 3), ("cuda", [w for w in step.WAYS for _ in "123"])]
)
def test_ways_take_turns_on_a_cpu_and_the_first_step_is_not_timed(device, turns, monkeypatch):
    taken = []

    class Way:
        def __init__(self, name):
            self.name, self.steps = name, iter([(100.0, {"teacher": 50.0}, 1.0), (2.0, {"teacher": 1.0}, 3.0)])
            self.last = (4.0, {"teacher": 2.0}, 7.0)

        def send(self, go):
            taken.append(self.name)

        def recv(self):
            return next(self.steps, self.last)

    @contextmanager
    def processes(student, ways, *_):
        yield {way: Way(way) for way in ways}

    monkeypatch.setattr(step, "processes", processes)
    found = step.measure("small", step.Sizes((40, 56), 2), torch.device(device), 2)
    assert taken == turns
    for values, expected in zip(found, (3.0, {"teacher": 1.5}, 7.0), strict=True):
        assert values == dict.fromkeys(step.WAYS, expected)


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
