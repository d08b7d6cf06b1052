"""Spread over seeds, differences paired by seed, and values of a curve at a budget."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Figures = dict[str, Any]


def spread(values: Sequence[float]) -> Figures:
    """Mean and sample standard deviation (n − 1 in the denominator); None for a single value.

    Args:
        values: one for each seed, in any order; the mean of none is None.
    """
    count = len(values)
    return {
        "n": count,
        "mean": statistics.fmean(values) if count else None,
        "std": statistics.stdev(values) if count > 1 else None,
    }


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Figures:
    """Spread of value − baseline over the seeds that both have.

    Args:
        values, baseline: by seed.
    """
    per_seed = {seed: values[seed] - baseline[seed] for seed in values if seed in baseline}
    return spread(list(per_seed.values())) | {"per_seed": per_seed}


def last_at(curve: Sequence[Mapping[str, float]], key: str, limit: float) -> Mapping[str, float] | None:
    """The last point of a curve whose `key` is at most `limit`; None if it starts later.

    Args:
        curve: points in the order of training.
        key: "iteration" or "train_seconds".
        limit: iterations or seconds.
    """
    reached = [point for point in curve if point[key] is not None and point[key] <= limit]
    return reached[-1] if reached else None


def mean_by_position(rows: Sequence[Sequence[float | None]]) -> list[Figures]:
    """Spread of each column over the rows, without missing values (classes that do not occur)."""
    columns = zip(*rows, strict=True)
    return [spread([value for value in column if _is_number(value)]) for column in columns]


def difference_by_position(
    rows: Mapping[int, Sequence[float | None]], baseline: Mapping[int, Sequence[float | None]]
) -> list[Figures]:
    """As `mean_by_position`, of the differences to the baseline's row of the same seed."""
    return mean_by_position(
        [
            [a - b if _is_number(a) and _is_number(b) else None for a, b in zip(row, baseline[seed], strict=True)]
            for seed, row in rows.items()
            if seed in baseline
        ]
    )


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
