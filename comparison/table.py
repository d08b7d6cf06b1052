"""The sortable table of the report."""

import html
from typing import Any

from comparison.charts import COLORS
from comparison.records import FINISHED
from comparison.summary import COSTS, EQUAL, Figures, percent, points

ASCENDING_FIRST = {"method", "train_seconds", "seconds_per_iteration", "peak_memory_mib"}  # small is good


def results_table(summary: dict[str, Any]) -> str:
    """A row a method, and one for the teacher."""
    split = html.escape(summary["split"])
    heads = [("method", "Method", "")]
    heads += [("final", f"{split} mIoU %", f"{summary['checkpoint']} checkpoint"), ("final_gain", "Δ", split)]
    names = {"equal_iterations": "Equal iterations", "equal_time": "Equal time"}
    for key in EQUAL:
        heads += [(key, names[key], "val mIoU %"), (f"{key}_gain", "Δ", names[key].lower())]
    heads += [("pixel_accuracy", "Pixel acc. %", split)]
    units = {"iterations": ("Iterations", ""), "train_seconds": ("Training", "seconds")}
    units |= {"seconds_per_iteration": ("Seconds", "a step"), "peak_memory_mib": ("Peak memory", "MiB")}
    heads += [(cost, *units[cost]) for cost in COSTS] + [("parameters", "Parameters", "millions")]
    row = "".join(
        f'<th scope="col" aria-sort="none" data-first="{"a" if key in ASCENDING_FIRST else "de"}scending">'
        f'<button type="button"><span>{name}</span><small>{note}</small></button></th>'
        for key, name, note in heads
    )
    rows = [_method_row(index, figures) for index, figures in enumerate(summary["methods"])]
    teacher = summary["teacher"]
    if teacher is not None:
        rows.append(_teacher_row(teacher, len(heads)))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table class="sortable" id="results">'
        f"<thead><tr>{row}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _method_row(index: int, figures: Figures) -> str:
    name = html.escape(figures["name"])
    count, unfinished = len(figures["seeds"]), figures["unfinished"]
    note = f"{count} seed{'' if count == 1 else 's'}"
    if unfinished:
        note += "".join(f"; seed {run['seed']} {run['status']}" for run in unfinished)
    cells = [
        f'<th scope="row" data-value="{name}"><span class="swatch" style="background:var(--series-{index % COLORS})">'
        f"</span>{name} <small>{note}</small></th>"
    ]
    for key in ("final", *EQUAL):
        cells.append(_cell(figures[key]["mean"], percent(figures[key])))
        difference = figures[key]["difference"]
        if difference is None or difference["mean"] is None:
            cells.append(_cell(None, "–"))
        else:
            kind = "gain" if difference["mean"] > 0 else "loss" if difference["mean"] < 0 else ""
            cells.append(_cell(difference["mean"], points(difference), kind))
    cells.append(_cell(figures["pixel_accuracy"]["mean"], percent(figures["pixel_accuracy"])))
    forms = {"iterations": "{:.0f}", "train_seconds": "{:.1f}", "seconds_per_iteration": "{:.4f}"}
    cells += [_cost(figures[cost], forms.get(cost, "{:.0f}")) for cost in COSTS]
    parameters = figures["parameters"]
    cells.append(_cell(parameters, "–" if parameters is None else f"{parameters / 1e6:.2f}"))
    return f"<tr>{''.join(cells)}</tr>"


def _teacher_row(teacher: dict[str, Any], columns: int) -> str:
    if teacher["status"] != FINISHED:
        reason = f"{teacher['status']}: {html.escape(str(teacher['reason']))}"
        empty = "<td></td>" * (columns - 1)
        return f'<tr><th scope="row" data-value="teacher">teacher <small>{reason}</small></th>{empty}</tr>'
    final, seconds = teacher["final"], teacher["seconds_per_iteration"]
    cells = ['<th scope="row" data-value="teacher">teacher</th>', _cell(final["miou"], f"{100 * final['miou']:.2f}")]
    cells += [_cell(None, "–")] * 5
    cells.append(_cell(final["pixel_accuracy"], f"{100 * final['pixel_accuracy']:.2f}"))
    cells += [_cell(None, "–")] * 2
    cells.append(_cell(seconds, "–" if seconds is None else f"{seconds:.4f}"))
    cells += [_cell(None, "–"), _cell(final["parameters"], f"{final['parameters'] / 1e6:.2f}")]
    return f"<tr>{''.join(cells)}</tr>"


def _cost(figures: Figures, form: str) -> str:
    if figures["mean"] is None:
        return _cell(None, "–")
    text = form.format(figures["mean"])
    return _cell(figures["mean"], text if not figures["std"] else f"{text} ± {form.format(figures['std'])}")


def _cell(value: float | None, text: str, kind: str = "") -> str:
    shown = "" if value is None else repr(float(value))
    return f'<td data-value="{shown}"' + (f' class="{kind}"' if kind else "") + f">{text}</td>"
