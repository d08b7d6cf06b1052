"""report.html: one file without anything from elsewhere, drawn from `summarise`'s figures alone."""

import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparison.charts import COLORS, Series, bar_chart, line_chart
from comparison.pictures import Panel
from comparison.records import FINISHED
from comparison.table import results_table

HERE = Path(__file__).parent
MAX_BARS = 40  # classes in a chart of gains; of more, the largest gains and losses are shown

escape = html.escape


def render(summary: dict[str, Any], panels: Sequence[Panel], panel_seed: int | None) -> str:
    """The page.

    Args:
        summary: from `summarise`, with `environment` and `command`.
        panels: from `make_panels`.
        panel_seed: of the runs in them.
    """
    title = f"Comparison on {summary['environment']['dataset']}"
    sections = [
        _head(summary, title),
        "<h2>Results</h2>",
        results_table(summary),
        _explanation(summary),
        _curves(summary),
        _class_gains(summary),
        _pictures(panels, panel_seed),
        _settings(summary),
    ]
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _head(summary: dict[str, Any], title: str) -> str:
    budget = summary["budget"]
    length = f"{budget['iterations']} iterations" if budget["iterations"] else f"{budget['seconds']:g} s of training"
    seeds = sorted({run["seed"] for run in summary["runs"]})
    finished = sum(run["status"] == FINISHED for run in summary["runs"])
    environment = summary["environment"]
    text = (
        f"<h1>{escape(title)}</h1>\n<p>{len(summary['methods'])} methods, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}, {length} a run; student "
        f"{escape(environment['student'])}{escape(environment['teacher'])}. {finished} of {len(summary['runs'])} runs "
        f"are finished.</p>"
    )
    if len(seeds) == 1:
        text += '<p class="notice">One seed: there is no spread, and a difference may be chance.</p>'
    for run in summary["runs"]:
        if run["status"] != FINISHED:
            reason = escape(str(run["reason"]))
            text += f'<p class="notice">{escape(run["method"])}, seed {run["seed"]}: {run["status"]}: {reason}</p>'
    for key, what in (("git_commit", "commit"), ("machine", "machine")):
        if len({run[key] for run in summary["runs"] if run["status"] == FINISHED}) > 1:
            text += f'<p class="notice">The runs were not all made with the same {what}; see Settings.</p>'
    if summary["baseline"] is None:
        text += '<p class="notice">There is no baseline among the methods: no differences are shown.</p>'
    return text


def _explanation(summary: dict[str, Any]) -> str:
    images = f" ({summary['images']} images)" if summary["images"] else ""
    items = [
        f"<b>{escape(summary['split'])} mIoU</b>: of the {summary['checkpoint']} checkpoint of every run{images}"
        + (", which was chosen by validations on the same images" if _chosen_on_itself(summary) else ""),
        f"<b>At equal iterations</b> (val mIoU): {escape(summary['rules']['equal_iterations'])}.",
        f"<b>At equal time</b> (val mIoU): {escape(summary['rules']['equal_time'])}.",
        "<b>Mean ± standard deviation</b> over seeds (n − 1 in the denominator); the difference to the baseline is "
        "taken seed by seed. One seed has no spread.",
        "<b>Seconds a step</b>: median over a run's log intervals, waiting for data included; <b>memory</b>: largest "
        "allocation on the GPU, or resident memory of the process on a CPU, validation included.",
    ]
    return '<ul class="soft">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _chosen_on_itself(summary: dict[str, Any]) -> bool:
    return summary["checkpoint"] == "best" and summary["split"] == "val"


def _curves(summary: dict[str, Any]) -> str:
    figures = []
    for what, key, value, scale in (("mIoU on val, %", "validation", "miou", 100), ("task loss", "loss", "task", 1)):
        for unit, axis in (("iteration", "iterations"), ("train_seconds", "seconds of training")):
            series = []
            for index, method in enumerate(summary["methods"]):
                runs = [r for r in summary["runs"] if r["method"] == method["name"] and r["status"] == FINISHED]
                lines = [
                    [(p[unit], scale * p[value]) for p in run[key] if p[unit] is not None and p[value] is not None]
                    for run in runs
                ]
                series.append(Series(method["name"], index, lines))
            chart = line_chart(f"{what} over {axis}", axis, what, series, logarithmic=key == "loss")
            if chart:
                figures.append(f"<figure>{chart}</figure>")
    if not figures:
        return ""
    return (
        f'<h2>Curves</h2>{_legend(summary)}<p class="soft">A line for every seed. The task loss is the cross entropy '
        "alone, which all methods share; lines of more than 300 points are averaged in groups.</p>"
        f'<div class="charts">{"".join(figures)}</div>'
    )


def _legend(summary: dict[str, Any]) -> str:
    items = [f"<li>{swatch(i)}{escape(m['name'])}</li>" for i, m in enumerate(summary["methods"])]
    return f'<ul class="legend">{"".join(items)}</ul>'


def swatch(index: int) -> str:
    """The colour of a series."""
    return f'<span class="swatch" style="background:var(--series-{index % COLORS})"></span>'


def _class_gains(summary: dict[str, Any]) -> str:
    figures = []
    for method in summary["methods"]:
        gains = method["class_gain"]
        rows = [
            (name, 100 * gain["mean"], None if gain["std"] is None else 100 * gain["std"])
            for name, gain in zip(summary["classes"], gains or [], strict=bool(gains))
            if gain["mean"] is not None
        ]
        rows.sort(key=lambda row: -row[1])
        note = ""
        if len(rows) > MAX_BARS:
            note = f"; the {MAX_BARS // 2} largest and the {MAX_BARS // 2} smallest of {len(rows)}"
            rows = rows[: MAX_BARS // 2] + rows[-MAX_BARS // 2 :]
        chart = bar_chart(
            f"Gain of {method['name']} by class", *([row[k] for row in rows] for k in range(3))
        )  # fmt: skip
        if chart:
            figures.append(
                f"<figure><h3>{escape(method['name'])}</h3>{chart}<figcaption>points{note}</figcaption></figure>"
            )
    if not figures:
        return ""
    text = f"IoU points on {summary['split']} against {summary['baseline']}, mean over seeds"
    text += "; marks are ± one standard deviation." if len({run["seed"] for run in summary["runs"]}) > 1 else "."
    return f'<h2>Gain by class</h2><p class="soft">{escape(text)}</p><div class="charts">{"".join(figures)}</div>'


def _pictures(panels: Sequence[Panel], seed: int | None) -> str:
    if not panels:
        return ""
    text = f"<h2>The same images under every method</h2><p class='soft'>Seed {seed}; a click enlarges.</p>"
    for panel in panels:
        cells = "".join(
            f'<div class="cell"><button type="button"><img src="{uri}" alt="{escape(f"{panel.name}: {title}")}">'
            f"</button><span>{escape(title)}</span></div>"
            for title, uri in panel.cells
        )
        classes = "".join(
            f'<li><span class="swatch" style="background:rgb({", ".join(str(int(c)) for c in color)})"></span>'
            f"{escape(name)}</li>"
            for name, color in panel.classes
        )
        text += (
            f'<figure class="panel"><h3>{escape(panel.name)}</h3><div class="cells">{cells}</div>'
            f'<ul class="legend">{classes}</ul></figure>'
        )
    return text + (
        '<dialog aria-label="Enlarged picture"><form method="dialog"><strong></strong><button>Close</button></form>'
        '<img alt=""></dialog>'
    )


def _settings(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    finished = [run for run in summary["runs"] if run["status"] == FINISHED]
    facts = [
        ("git commit of the runs", sorted({str(run["git_commit"]) for run in finished})),
        ("machine", sorted({run["machine"] for run in finished})),
        ("versions of the runs", sorted({json.dumps(run["versions"], sort_keys=True) for run in finished})),
        ("report written", [environment["written"]]),
    ]
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="left">{"<br>".join(escape(v) for v in values)}</td></tr>'
        for name, values in facts
    )
    text = (
        "<h2>Settings</h2><p>The command that made this report, and goes on with it or makes it again:</p>"
        f"<pre>{escape(shlex.join(summary['command']))}</pre>"
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    )
    text += _arguments(summary, finished)
    if finished:
        commands = "\n\n".join(shlex.join(run["command"]) for run in finished)
        text += f"<details><summary>Commands of the runs</summary><pre>{escape(commands)}</pre></details>"
    return text


def _arguments(summary: dict[str, Any], finished: list[dict[str, Any]]) -> str:
    """Every argument of each method's first run, those that differ first."""
    first = {}
    for run in finished:
        first.setdefault(run["method"], run["arguments"])
    if not first:
        return ""
    names = sorted({name for arguments in first.values() for name in arguments} - {"save_dir_name", "seed", "resume"})
    lines = {}
    for name in names:
        lines[name] = [escape(str(arguments[name])) if name in arguments else "–" for arguments in first.values()]
    names.sort(key=lambda name: (len(set(lines[name])) == 1, name))
    head = "".join(f'<th scope="col">{escape(method)}</th>' for method in first)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in lines[name])}</tr>'
        for name in names
    )
    return (
        "<details><summary>All arguments of the runs, those that differ first</summary>"
        f'<div class="scroll"><table><thead><tr><th scope="col">argument</th>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div></details>"
    )
