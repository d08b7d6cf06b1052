"""Renders report.html, a single file, from report.html.j2: values that it shows in addition to those of `summarise`."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from comparison.charts import Chart, Curve, bar_chart, line_chart
from comparison.pictures import Panel
from comparison.records import FINISHED
from comparison.summary import gain_lines, percent, points

MAX_BARS = 40  # classes in a chart; of more, those with the largest gains and losses are shown


def render(summary: dict[str, Any], panels: Sequence[Panel], panel_seed: int | None) -> str:
    """The page of figures from `summarise`, with `environment` and `command`, and the results of `make_panels`."""
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    environment.filters |= {"percent": percent, "points": points, "command_line": shlex.join}
    finished = [run for run in summary["runs"] if run["status"] == FINISHED]
    return environment.get_template("report.html.j2").render(
        summary=summary,
        finished=finished,
        seeds=sorted({run["seed"] for run in summary["runs"]}),
        facts={
            "git commit of the runs": {str(run["git_commit"]) for run in finished},
            "machine": {run["machine"] for run in finished},
            "versions of the runs": {json.dumps(run["versions"], sort_keys=True) for run in finished},
            "report written": {summary["environment"]["written"]},
        },
        curves=_curves(summary, finished),
        gain_lines=gain_lines(summary),
        gains=_class_gains(summary),
        panels=panels,
        panel_seed=panel_seed,
        arguments=_arguments(finished),
    )


def _curves(summary: dict[str, Any], finished: list[dict[str, Any]]) -> list[Chart]:
    """Line charts of mIoU and task loss, over iterations and over time."""
    series = {method["name"]: index for index, method in enumerate(summary["methods"])}
    charts = []
    for y_name, key, value, factor in (("mIoU on val, %", "validation", "miou", 100), ("task loss", "loss", "task", 1)):
        for x_name, unit in (("iterations", "iteration"), ("seconds of training", "train_seconds")):
            curves = []
            for name, index in series.items():
                for run in finished:
                    if run["method"] == name:
                        known = [p for p in run[key] if p[unit] is not None and p[value] is not None]
                        curves.append(Curve(name, index, [(p[unit], factor * p[value]) for p in known]))
            charts.append(line_chart(x_name, y_name, curves, logarithmic=key == "loss"))
    return [chart for chart in charts if chart]


def _class_gains(summary: dict[str, Any]) -> list[Chart]:
    """A bar chart for each method with a gain over the baseline: IoU points by class, largest first."""
    charts = []
    for method in summary["methods"]:
        rows = [
            (name, 100 * gain["mean"], None if gain["std"] is None else 100 * gain["std"])
            for name, gain in zip(summary["classes"], method["class_gain"] or [], strict=bool(method["class_gain"]))
            if gain["mean"] is not None
        ]
        rows.sort(key=lambda row: -row[1])
        shown = rows if len(rows) <= MAX_BARS else rows[: MAX_BARS // 2] + rows[-MAX_BARS // 2 :]
        if chart := bar_chart(shown):
            charts.append(chart | {"method": method["name"], "classes": len(rows)})
    return charts


def _arguments(finished: list[dict[str, Any]]) -> dict[str, Any]:
    """Every argument of each method's first run, those that differ first."""
    first: dict[str, dict[str, Any]] = {}
    for run in finished:
        first.setdefault(run["method"], run["arguments"])
    names = {name for arguments in first.values() for name in arguments} - {"save_dir_name", "seed", "resume"}
    rows = [(name, [str(arguments.get(name, "–")) for arguments in first.values()]) for name in names]
    return {"methods": list(first), "rows": sorted(rows, key=lambda row: (len(set(row[1])) == 1, row[0]))}
