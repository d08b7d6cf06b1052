"""Two and three processes equal one: losses, gradients, banks, parameters and metrics of every method."""

import pytest
import torch

from benchmarks.processes import Row, all_cases, measure, take_steps
from losses import METHODS

EXACT = {"bank pointers and counts", "confusion matrices"}


def check(rows: list[Row], losses: float, gradients: float, parameters: float) -> None:
    """Relative differences; what is counted has none, and banks are equal but for the rounding of a row."""
    bounds = dict.fromkeys(EXACT, 0.0) | {"gradients": gradients, "banks": 2e-7}
    bounds |= dict.fromkeys(("parameters", "statistics"), parameters)
    bad = [row for row in rows if not row.relative <= bounds.get(row.what, losses)]
    assert not bad, "\n".join(map(str, bad))


def test_processes_equal_one():
    """In double precision. Only the count that a global mean divides by is a float32, which 3 does not divide."""
    cases = all_cases(companions=False)
    assert {case.name for case in cases} >= set(METHODS)
    rows = measure(cases, "tiny", torch.float64, (2, 3), timeout=250)
    of_two, of_three = ([row for row in rows if row.processes == world] for world in (2, 3))
    assert len(of_two) == len(of_three) > 150
    check(of_two, losses=1e-12, gradients=1e-10, parameters=1e-10)
    check(of_three, losses=3e-7, gradients=5e-7, parameters=5e-7)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_processes_equal_one_with_real_networks():
    """In double precision, each method with what it was published beside.

    At so small a crop batch norms over a handful of values enlarge rounding a million times, which in single precision
    leaves nothing of the gradients to compare. A third is no float32, and so 3 processes are that far from one.
    """
    rows = measure(all_cases(), "real", torch.float64, (2, 3), timeout=1000)
    of_two, of_three = ([row for row in rows if row.processes == world] for world in (2, 3))
    check(of_two, losses=1e-10, gradients=1e-8, parameters=1e-8)
    check(of_three, losses=1e-6, gradients=1e-6, parameters=1e-6)


def test_cases_are_hard():
    """What the comparison claims to compare is there: terms that are not 0, banks that fill, anchors that lack."""
    found = {case.name: take_steps(case, "tiny", torch.float64) for case in all_cases(False) if "adv" not in case.name}
    for name, results in found.items():
        ignored = "all ignored" in name
        zero = {term for term, value in results["losses"].items() if not value}
        labelled = {
            "loss_task",
            "loss_aux",
            "loss_dice",
            "loss_memory_pixel",
            "loss_memory_region",
            "loss_dkd",
            "loss_ifv",
        }
        assert zero == (labelled & results["losses"].keys() if ignored else set()), name
        assert any(bool(gradient.any()) for gradient in results["gradients"].values()), name
    count = "distiller.parts.cirkdv2.pixel_memory.region_bank.queue_count"
    filled = {name: results["banks"][count].tolist() for name, results in found.items() if count in results["banks"]}
    assert filled["cirkdv2"] == [8, 8, 8, 8]  # the ring went round
    assert filled["together, class in one image"] == [8, 8, 8, 3]  # once a step
    assert filled["together, ignored first half"] == [8, 8, 8, 8]
    assert filled["together, all ignored"] == [0, 0, 0, 0]
