"""Charts as inline SVG: curves and bars whose colours come from the page, so that they follow light and dark."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COLORS = 8  # series colours in the style sheet; more series repeat them with dashes
WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 40
MAX_POINTS = 300  # of a line; longer ones are averaged in groups
LOG_RATIO = 8.0  # values that span more are drawn on a logarithmic axis
DASHES = ("", "6 3", "2 3", "8 3 2 3")

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour: a line for each seed."""

    name: str
    index: int
    lines: list[list[Point]]


def stroke(index: int) -> str:
    """Attributes of the index-th series' lines; the first is that of the baseline."""
    dash = DASHES[index // COLORS % len(DASHES)]
    return f'stroke="var(--series-{index % COLORS})"' + (f' stroke-dasharray="{dash}"' if dash else "")


def line_chart(label: str, x_name: str, y_name: str, series: Sequence[Series], *, logarithmic: bool = False) -> str:
    """Curves with axes, as SVG; empty text where there is nothing to draw.

    Args:
        label: what screen readers say.
        x_name, y_name: under and above the axes.
        series: the curves; x from 0 up.
        logarithmic: the values may be drawn on a logarithmic axis, where they are above 0 and span much.
    """
    drawn = [Series(s.name, s.index, [averaged(line) for line in s.lines if line]) for s in series]
    points = [point for s in drawn for line in s.lines for point in line]
    if not points:
        return ""
    values = [y for _, y in points]
    log = logarithmic and min(values) > 0 and max(values) / min(values) > LOG_RATIO
    low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin
    if not log and min(values) >= 0:
        low = max(low, 0.0)
    end = max(x for x, _ in points) or 1.0

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / end

    def y_of(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - (math.log10(y) if log else y)) / (high - low)

    y_ticks = log_ticks(10**low, 10**high) if log else ticks(low, high)
    parts = [_axes(x_of, y_of, ticks(0.0, end), y_ticks)]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, x_name, "end"))
    parts.append(_text(4, 14, y_name + (" (logarithmic)" if log else ""), "start"))
    for s in drawn:
        for line in s.lines:
            path = "M" + "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in line)
            title = f"<title>{html.escape(s.name)}</title>"
            parts.append(f'<path class="curve" d="{path}" {stroke(s.index)}>{title}</path>')
            if len(line) <= 30:
                parts += [_dot(x_of(x), y_of(y), s.index, f"{s.name}: {y:.4g} at {x:.4g}") for x, y in line]
    return _svg(label, HEIGHT, parts)


def bar_chart(label: str, names: Sequence[str], values: Sequence[float], spreads: Sequence[float | None]) -> str:
    """Horizontal bars to both sides of zero, as SVG; empty text without names.

    Args:
        label: what screen readers say.
        names: one a bar, from the top.
        values: their lengths.
        spreads: half lengths of the error marks, or None.
    """
    if not names:
        return ""
    row, left, right = 18, 162, 14
    height = row * len(names) + 12
    reach = [abs(v) + (s or 0.0) for v, s in zip(values, spreads, strict=True)]
    limit = max([*reach, 1e-9])
    low = -limit if min(v - (s or 0.0) for v, s in zip(values, spreads, strict=True)) < 0 else 0.0
    high = limit if max(v + (s or 0.0) for v, s in zip(values, spreads, strict=True)) > 0 else 0.0

    def x_of(value: float) -> float:
        return left + (WIDTH - left - right) * (value - low) / (high - low or 1.0)

    parts = [f'<line class="axis" x1="{x_of(0):.1f}" x2="{x_of(0):.1f}" y1="4" y2="{height - 6}"/>']
    for index, (name, value, spread) in enumerate(zip(names, values, spreads, strict=True)):
        middle = 6 + row * index + row / 2
        start, end = sorted((x_of(0), x_of(value)))
        kind = "gain" if value > 0 else "loss"
        title = f"{name}: {value:+.2f}" + ("" if spread is None else f" ± {spread:.2f}")
        parts.append(_text(left - 60, middle + 4, _shortened(name), "end"))
        parts.append(_text(left - 4, middle + 4, f"{value:+.2f}", "end"))
        if value:
            parts.append(
                f'<rect class="{kind}" x="{start:.1f}" y="{middle - 5:.1f}" width="{max(end - start, 0.5):.1f}" '
                f'height="10"><title>{html.escape(title)}</title></rect>'
            )
        if spread:
            parts.append(
                f'<path class="whisker" d="M{x_of(value - spread):.1f} {middle:.1f}H{x_of(value + spread):.1f}"/>'
            )
    return _svg(label, height, parts)


def averaged(line: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """The line with at most `limit` points: means of groups that follow one another."""
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
    """1, 2 and 5 times powers of ten from `low` to `high`; the powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]
    return found if len(found) <= 8 else [value for value in found if round(math.log10(value), 6) % 1 == 0]


def _axes(
    x_of: Callable[[float], float], y_of: Callable[[float], float], x_ticks: list[float], y_ticks: list[float]
) -> str:
    parts = []
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}"/>')
        parts.append(_text(LEFT - 5, y_of(y) + 4, f"{y:.6g}", "end"))
    for x in x_ticks:
        parts.append(_text(x_of(x), HEIGHT - BOTTOM + 15, _short_number(x), "middle"))
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return "".join(parts)


def _short_number(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10000 else f"{value:g}"


def _dot(x: float, y: float, index: int, title: str) -> str:
    fill = f"var(--series-{index % COLORS})"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{fill}"><title>{html.escape(title)}</title></circle>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _shortened(text: str, letters: int = 11) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _svg(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {WIDTH} {height}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(parts)}</svg>'
    )
