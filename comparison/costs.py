"""Equal time from the cost of a step: each method trains for as many iterations as fit into the baseline's seconds."""

import json
from pathlib import Path

from comparison.spec import Spec

ENDLESS = 10**9


def iterations_of(spec: Spec) -> dict[str, int]:
    """Name of each row -> iterations of its runs; ENDLESS where seconds are the budget.

    Raises:
        FileNotFoundError: there is no file of costs.
        ValueError: it is no such file, or lacks a row.
    """
    if spec.equal_seconds_by_cost is None:
        return dict.fromkeys((method.name for method in spec.methods), spec.iterations or ENDLESS)
    costs = read_costs(spec.equal_seconds_by_cost)
    names = [method.name for method in spec.methods]
    if lacking := [name for name in names if name not in costs]:
        raise ValueError(
            f"{spec.equal_seconds_by_cost} holds no cost of {', '.join(lacking)}; it has {', '.join(costs)}. Measure "
            "them together: python -m benchmarks.cost SPEC.yaml --json FILE"
        )
    seconds = spec.iterations * costs[spec.baseline.name]
    return {name: max(1, int(seconds / costs[name] + 1e-9)) for name in names}


def read_costs(path: Path) -> dict[str, float]:
    """Row -> seconds a step, of a file that `benchmarks.cost` wrote. Errors as for `iterations_of`."""
    if not path.is_file():
        raise FileNotFoundError(f"--equal-seconds-by-cost {path}: there is no such file")
    try:
        costs = json.loads(path.read_text(encoding="utf-8"))["seconds_per_step"]
        if not all(float(seconds) > 0 for seconds in costs.values()):
            raise ValueError("expected seconds above 0")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--equal-seconds-by-cost {path}: expected JSON with seconds_per_step: {{row: seconds}}, got {error!r}"
        ) from error
    return {name: float(seconds) for name, seconds in costs.items()}
