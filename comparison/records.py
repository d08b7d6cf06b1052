"""Reads the results of runs: metrics.jsonl, args.yaml and the evaluation's results.json."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import yaml

from comparison.jobs import TEACHER, Job
from comparison.runner import EVALUATION, read_record
from comparison.spec import Spec

FINISHED, FAILED, MISSING = "finished", "failed", "not finished"


def read_run(job: Job) -> dict[str, Any]:
    """One training run.

    Returns:
        method, seed, status, reason (of a failure), folder; of a finished run also iterations, train_seconds,
        seconds_per_iteration (median over the log intervals), peak_memory_mib, validation and loss (curves: points with
        iteration, train_seconds and miou or task), final (see `read_evaluation`), arguments, command, versions,
        git_commit and machine.
    """
    record = read_record(job.folder)
    run: dict[str, Any] = {"method": job.method.name, "seed": job.seed, "folder": str(job.folder)}
    if "failure" in record:
        return run | {"status": FAILED, "reason": record["failure"]}
    if not record.get("trained") or "evaluated" not in record:
        return run | {"status": MISSING, "reason": "not run yet, or interrupted"}
    settings = yaml.safe_load((job.folder / "args.yaml").read_text(encoding="utf-8"))
    run |= {"status": FINISHED, "reason": None} | read_metrics(job.folder / "metrics.jsonl")
    run["final"] = read_evaluation(job.folder / EVALUATION)
    run |= {name: settings[name] for name in ("arguments", "command", "versions", "git_commit")}
    return run | {"machine": record["machine"]}


def read_teacher(spec: Spec) -> dict[str, Any] | None:
    """The teacher's evaluation, and its time per step if its run's metrics.jsonl is found; None without teacher."""
    if "checkpoint" not in spec.teacher:
        return None
    record = read_record(spec.output / TEACHER)
    if "evaluated" not in record:
        return {"status": FAILED if "failure" in record else MISSING, "reason": record.get("failure", "not evaluated")}
    checkpoint = Path(spec.teacher["checkpoint"]).expanduser()
    metrics = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "metrics.jsonl"
    seconds = read_metrics(metrics)["seconds_per_iteration"] if metrics.exists() else None
    final = read_evaluation(spec.output / TEACHER / EVALUATION)
    return {"status": FINISHED, "reason": None, "final": final, "seconds_per_iteration": seconds}


def read_metrics(path: Path) -> dict[str, Any]:
    """Curves and costs of a run's metrics.jsonl; ValueError if it logged nothing."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if "loss" in line]
    if not logged:
        raise ValueError(f"{path} holds no logged interval: the run was shorter than --log-iter, or is not finished.")
    validated = [line for line in lines if "validation" in line]
    speeds = [line["seconds_per_iteration"] for line in logged if "seconds_per_iteration" in line]
    last = lines[-1]
    return {
        "iterations": last["iteration"],
        "train_seconds": last.get("train_seconds"),
        "seconds_per_iteration": statistics.median(speeds) if speeds else None,
        "peak_memory_mib": max(line["memory_mib"] for line in logged),
        "validation": [_point(line) | {"miou": line["validation"]["miou"]} for line in validated],
        "loss": [_point(line) | {"task": _number(line.get("loss_task", line["loss"]))} for line in logged],
    }


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The figures of `eval.py`, ratios from 0 to 1; a class that does not occur has None."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: results[name] for name in ("miou", "pixel_accuracy", "macc", "images")} | {
        "parameters": results["network"]["parameters"],
        "classes": [entry["name"] for entry in results["classes"]],
        "class_iou": [_number(entry["iou"]) for entry in results["classes"]],
    }


def _point(line: dict[str, Any]) -> dict[str, float | None]:
    return {"iteration": line["iteration"], "train_seconds": line.get("train_seconds")}


def _number(value: float | str | None) -> float | None:
    """None for what is not a finite number, which JSON cannot hold."""
    return None if value is None or not math.isfinite(float(value)) else float(value)
