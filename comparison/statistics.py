"""Spread over seeds, differences paired by seed, and values of a curve at a budget."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t

Figures = dict[str, Any]


def spread(values: Sequence[float]) -> Figures:
    """Mean (None without values) and sample standard deviation (n − 1 in the denominator; None for a single value)."""
    count = len(values)
    return {
        "n": count,
        "mean": statistics.fmean(values) if count else None,
        "std": statistics.stdev(values) if count > 1 else None,
    }


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Figures:
    """Spread of value − baseline over the seeds that both have; both are by seed.

    "interval" is Student's 95 % confidence interval of the mean difference, None for a single seed.
    """
    per_seed = {seed: values[seed] - baseline[seed] for seed in values if seed in baseline}
    found = spread(list(per_seed.values()))
    interval = None
    if found["std"] is not None:
        half = float(t.ppf(0.975, found["n"] - 1)) * found["std"] / math.sqrt(found["n"])
        interval = [found["mean"] - half, found["mean"] + half]
    return found | {"per_seed": per_seed, "interval": interval}


def last_at(curve: Sequence[Mapping[str, float]], key: str, limit: float) -> Mapping[str, float] | None:
    """The last point of a curve, in the order of training, whose `key` is at most `limit`; None if it starts later."""
    reached = [point for point in curve if point[key] is not None and point[key] <= limit]
    return reached[-1] if reached else None


def mean_by_position(rows: Sequence[Sequence[float | None]]) -> list[Figures]:
    """Spread of each column over the rows, without missing values (classes that do not occur)."""
    return [spread([value for value in column if value is not None]) for column in zip(*rows, strict=True)]


def difference_by_position(
    rows: Mapping[int, Sequence[float | None]], baseline: Mapping[int, Sequence[float | None]]
) -> list[Figures]:
    """As `mean_by_position`, of the differences to the baseline's row of the same seed."""
    pairs = [zip(row, baseline[seed], strict=True) for seed, row in rows.items() if seed in baseline]
    return mean_by_position([[None if None in pair else pair[0] - pair[1] for pair in row] for row in pairs])
