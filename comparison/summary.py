"""The figures of a comparison: results.json, results.csv and the printed table."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

from comparison.records import FINISHED
from comparison.spec import BASELINE, Method, Spec
from comparison.statistics import Figures, difference_by_position, last_at, mean_by_position, paired_difference, spread

# result -> the quantity that is equal for all methods, as a key of a validation
EQUAL = {"equal_iterations": "iteration", "equal_time": "train_seconds"}
COSTS = ("iterations", "train_seconds", "seconds_per_iteration", "peak_memory_mib")


def summarise(spec: Spec, runs: list[dict[str, Any]], teacher: dict[str, Any] | None) -> dict[str, Any]:
    """All figures of a comparison, as in results.json, from the results of `read_run` and `read_teacher`.

    Each finished run gets `equal_iterations` and `equal_time`, the validation of that point or None.
    """
    finished = [run for run in runs if run["status"] == FINISHED]
    for run in finished:
        for key, unit in EQUAL.items():
            run[key] = _read_at_equal(spec, run, [r for r in finished if r["seed"] == run["seed"]], unit)
    by_method = {m.name: {run["seed"]: run for run in finished if run["method"] == m.name} for m in spec.methods}
    baseline = by_method[spec.baseline.name] if spec.baseline else None
    control = next((method for method in spec.methods if method.method == "kd"), None)
    return {
        "split": spec.split,
        "checkpoint": spec.checkpoint,
        "budget": {"iterations": spec.iterations, "seconds": spec.seconds},
        "baseline": spec.baseline.name if spec.baseline else None,
        "control": control.name if control else None,
        "rules": rules(spec),
        "classes": finished[0]["final"]["classes"] if finished else [],
        "images": finished[0]["final"]["images"] if finished else None,
        "methods": [
            _method_figures(by_method[method.name], None if method == spec.baseline else baseline)
            | {"name": method.name, "method": method.method, "flags": method.flags}
            | {"against_control": _against_control(by_method, method, control)}
            | {"unfinished": [r for r in runs if r["method"] == method.name and r["status"] != FINISHED]}
            for method in spec.methods
        ],
        "teacher": teacher,
        "runs": runs,
    }


def rules(spec: Spec) -> dict[str, str]:
    """Explains the columns at equal iterations and at equal time to the reader."""
    by_iterations = spec.budget == "iteration"
    if by_iterations:
        end = f"every run was trained for {spec.iterations} iterations"
    elif spec.equal_seconds_by_cost is None:
        end = (
            f"every run was stopped after {spec.seconds:g} s of training (start-up, validation and saving not counted)"
        )
    else:
        end = (
            f"every run was trained for as many iterations as fit into the seconds of {spec.iterations} of the "
            f"baseline's, by the cost of a step that was measured for each method in turns "
            f"({spec.equal_seconds_by_cost.name}), with a schedule of its own"
        )
    end += "; read at its last validation"
    cuts = {
        "iteration": "of each seed, the last validation at or before the smallest number of iterations that a method "
        "reached",
        "train_seconds": "of each seed, the last validation at or before the smallest training time that a method took",
    }
    schedule = ". Longer runs are read there while their learning rate is still high"
    return {
        "equal_iterations": end if by_iterations else cuts["iteration"] + schedule,
        "equal_time": cuts["train_seconds"] + schedule if by_iterations else end,
    }


def _read_at_equal(spec: Spec, run: dict[str, Any], peers: list[dict[str, Any]], unit: str) -> dict[str, Any] | None:
    total = "iterations" if unit == "iteration" else unit
    if run[total] is None:
        return None
    if unit == spec.budget:  # the budget: all runs ended there, to within a step
        at_end = run["validation"] and run["validation"][-1]["iteration"] == run["iterations"]
        return dict(run["validation"][-1]) if at_end else None
    limit = min(peer[total] for peer in peers if peer[total] is not None)
    point = last_at(run["validation"], unit, limit)
    return None if point is None else dict(point) | {"limit": limit}


def _method_figures(runs: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]] | None) -> Figures:
    figures: Figures = {"seeds": sorted(runs)}
    values = {"final": _pick(runs, "final"), **{key: _pick(runs, key) for key in EQUAL}}
    for key, per_seed in values.items():
        figures[key] = spread(list(per_seed.values())) | {"per_seed": per_seed, "difference": None}
        if baseline is not None:
            figures[key]["difference"] = paired_difference(per_seed, _pick(baseline, key))
    figures["pixel_accuracy"] = spread([run["final"]["pixel_accuracy"] for run in runs.values()])
    figures["parameters"] = next((run["final"]["parameters"] for run in runs.values()), None)
    for cost in COSTS:
        figures[cost] = spread([run[cost] for run in runs.values() if run[cost] is not None])
    class_iou, baseline_iou = (
        {seed: run["final"]["class_iou"] for seed, run in (of_seeds or {}).items()} for of_seeds in (runs, baseline)
    )
    figures["class_iou"] = mean_by_position(list(class_iou.values()))
    figures["class_gain"] = None if baseline is None else difference_by_position(class_iou, baseline_iou)
    return figures


def _against_control(by_method: dict[str, dict[int, Any]], method: Method, control: Method | None) -> Figures | None:
    """What a method adds to pixel KD, which most methods contain: the difference to pixel KD alone."""
    if control is None or method.method in (BASELINE, control.method):
        return None
    return paired_difference(_pick(by_method[method.name], "final"), _pick(by_method[control.name], "final"))


def _pick(runs: dict[int, dict[str, Any]], key: str) -> dict[int, float]:
    return {seed: run[key]["miou"] for seed, run in runs.items() if run[key] is not None}


def write_csv(summary: dict[str, Any], path: Path) -> None:
    """Writes a line for each run: its figures, and the IoU of every class."""
    header = ["method", "seed", "status", "reason", f"{summary['split']}_miou", "pixel_accuracy", *COSTS]
    header += [f"{key}_{what}" for key, unit in EQUAL.items() for what in ("miou", unit)]
    header += [f"iou {name}" for name in summary["classes"]]
    rows = []
    for run in summary["runs"]:
        row = [run["method"], run["seed"], run["status"], run["reason"]]
        if run["status"] == FINISHED:
            row += [run["final"]["miou"], run["final"]["pixel_accuracy"], *(run[cost] for cost in COSTS)]
            for key, unit in EQUAL.items():
                row += [None, None] if run[key] is None else [run[key]["miou"], run[key][unit]]
            row += run["final"]["class_iou"]
        rows.append(row + [None] * (len(header) - len(row)))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def format_table(summary: dict[str, Any]) -> str:
    """The table for the terminal, with the gain of each method over the baseline and over pixel KD."""
    rows = [(figures["name"], figures) for figures in summary["methods"] if figures["seeds"]]
    teacher = summary["teacher"]
    if teacher is not None and teacher["status"] == FINISHED:
        final = teacher["final"]
        costs = spread([s for s in [teacher["seconds_per_iteration"]] if s is not None])
        figures = {"final": spread([final["miou"]]), "pixel_accuracy": spread([final["pixel_accuracy"]])}
        rows.append(("teacher", figures | {"parameters": final["parameters"], "seconds_per_iteration": costs}))
    width = max([len(name) for name, _ in rows], default=0)
    lines = [f"{'':<{width}}  {'mIoU %':>14}  {'pixel acc. %':>14}   parameters M   s/iteration"]
    for name, figures in rows:
        seconds = figures["seconds_per_iteration"]["mean"]
        lines.append(
            f"{name:<{width}}  {percent(figures['final']):>14}  {percent(figures['pixel_accuracy']):>14} "
            f"{figures['parameters'] / 1e6:14.2f} {'-' if seconds is None else f'{seconds:.3f}':>13}"
        )
    lines += ["", *gain_lines(summary)]
    for run in summary["runs"]:
        if run["status"] != FINISHED:
            lines.append(f"{run['method']}, seed {run['seed']}: {run['status']}: {run['reason']}")
    return "\n".join(lines)


def gain_lines(summary: dict[str, Any]) -> list[str]:
    """What each method gains over the baseline and adds to pixel KD."""
    lines = []
    for figures in summary["methods"]:
        differences = {"baseline": figures["final"]["difference"], "control": figures["against_control"]}
        for other, difference in differences.items():
            if difference is not None and difference["n"]:
                lines.append(f"{figures['name']} against {summary[other]}: {_gain(difference)}")
    return lines


def _gain(difference: Figures) -> str:
    """A difference with its confidence interval, and a remark if it is not positive or may be chance."""
    seeds = "one seed" if difference["n"] == 1 else f"{difference['n']} seeds"
    interval, remark = difference["interval"], ""
    if interval is not None:
        seeds += f", 95 % interval {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
    if difference["mean"] <= 0:
        remark = ": no gain"
    elif interval is not None and interval[0] <= 0:
        remark = ": may be chance"
    return f"{points(difference)} mIoU points ({seeds}){remark}"


def percent(figures: Figures, form: str = "{:.2f}") -> str:
    """ "12.34", with " ± 0.56" if there are several seeds."""
    if figures["mean"] is None:
        return "–"
    text = form.format(100 * figures["mean"])
    return text if figures["std"] is None else f"{text} ± {100 * figures['std']:.2f}"


points = partial(percent, form="{:+.2f}")  # as `percent`, with its sign
