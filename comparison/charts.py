"""Positions, ticks and labels of the report's charts, in SVG units; macros.html.j2 draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 46, 390, 26, 220  # the axes of a line chart, in a picture of 400 x 260
BARS_LEFT, BARS_RIGHT, BAR_PITCH = 162, 386, 18  # names and values are left of the bars
MAX_POINTS = 300  # of a line; longer ones are averaged in groups
MAX_DOTS = 30  # of a line; longer ones are drawn without dots
LOG_RATIO = 8.0  # values that span more are drawn on a logarithmic axis

Point = tuple[float, float]
Chart = dict[str, Any]  # what a macro of macros.html.j2 draws


@dataclass(frozen=True)
class Curve:
    """A line of a chart; curves of one series have the same colour."""

    name: str
    series: int
    points: list[Point]


def line_chart(x_name: str, y_name: str, curves: Sequence[Curve], *, logarithmic: bool = False) -> Chart | None:
    """A chart of curves, with x of at least 0; None if they have no points.

    `logarithmic` asks for a logarithmic y axis if all values are above 0 and span more than `LOG_RATIO`.
    """
    drawn = [replace(curve, points=averaged(curve.points)) for curve in curves if curve.points]
    if not drawn:
        return None
    end = max(x for curve in drawn for x, _ in curve.points) or 1.0
    values = [y for curve in drawn for _, y in curve.points]
    log = logarithmic and min(values) > 0 and max(values) / min(values) > LOG_RATIO
    height: Callable[[float], float] = math.log10 if log else float
    low, high = height(min(values)), height(max(values))
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    if not log and min(values) >= 0:
        low = max(low, 0.0)
    x_of, y_of = _scale(0.0, end, LEFT, RIGHT), _scale(low, high, BOTTOM, TOP)
    y_ticks = log_ticks(10**low, 10**high) if log else ticks(low, high)
    lines = []
    for curve in drawn:
        points = [(x_of(x), y_of(height(y))) for x, y in curve.points]
        labels = [f"{curve.name}: {y:.4g} at {x:.4g}" for x, y in curve.points]
        dots = list(zip(points, labels, strict=True)) if len(points) <= MAX_DOTS else []
        lines.append({"name": curve.name, "series": curve.series, "points": points, "dots": dots})
    return {
        "x_name": x_name,
        "y_name": y_name + (" (logarithmic)" if log else ""),
        "x_ticks": [(x_of(x), f"{x / 1000:g}k" if x >= 10000 else f"{x:g}") for x in ticks(0.0, end)],
        "y_ticks": [(y_of(height(y)), f"{y:.6g}") for y in y_ticks],
        "lines": lines,
    }


def bar_chart(rows: Sequence[tuple[str, float, float | None]]) -> Chart | None:
    """A chart of horizontal bars from zero: name, value, half the length of the error bar; None without rows."""
    if not rows:
        return None
    low = min(0.0, *(value - (spread or 0.0) for _, value, spread in rows))
    high = max(0.0, *(value + (spread or 0.0) for _, value, spread in rows))
    x_of = _scale(low, high if high > low else low + 1.0, BARS_LEFT, BARS_RIGHT)
    bars = []
    for index, (name, value, spread) in enumerate(rows):
        start, end = sorted((x_of(0.0), x_of(value)))
        bars.append(
            {
                "name": name,
                "label": f"{value:+.2f}",
                "title": f"{name}: {value:+.2f}" + ("" if spread is None else f" ± {spread:.2f}"),
                "kind": "gain" if value > 0 else "loss",
                "start": start,
                "width": max(round(end - start, 1), 0.5) if value else 0,
                "y": 15 + BAR_PITCH * index,
                "whisker": (x_of(value - spread), x_of(value + spread)) if spread else None,
            }
        )
    return {"zero": x_of(0.0), "height": BAR_PITCH * len(rows) + 12, "bars": bars}


def averaged(line: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """The line with at most `limit` points: means of groups of consecutive points."""
    group = -(-len(line) // limit)
    if group <= 1:
        return list(line)
    groups = [line[start : start + group] for start in range(0, len(line), group)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in groups]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= count)
    return [round(step * k, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; only the powers if there would be more than 8."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]
    return found if len(found) <= 8 else [value for value in found if round(math.log10(value), 6) % 1 == 0]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps low..high to start..end."""
    return lambda value: round(start + (end - start) * (value - low) / (high - low), 1)
