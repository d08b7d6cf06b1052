"""Writes the results of a comparison: report.html, results.json, results.csv and table.txt."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from comparison.flags import flag_words
from comparison.jobs import Job, open_split
from comparison.page import render
from comparison.pictures import make_panels
from comparison.records import read_run, read_teacher
from comparison.spec import Spec
from comparison.summary import format_table, summarise, write_csv
from utils.files import write_text


def write_report(spec: Spec, jobs: Sequence[Job], command: Sequence[str]) -> dict[str, Any]:
    """Writes the report, which shows `command`, into the comparison's folder; returns the figures of results.json."""
    summary = summarise(spec, [read_run(job) for job in jobs], read_teacher(spec))
    teacher = spec.teacher.get("checkpoint")
    summary["command"] = list(command)
    summary["environment"] = {
        "dataset": spec.dataset,
        "student": f"{spec.student['model']} on {spec.student['backbone']}",
        "teacher": "" if teacher is None else f", teacher {teacher}",
        "train_flags": flag_words(spec.train_flags),
        "eval_flags": flag_words(spec.eval_flags),
        "written": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }
    panels, seed = make_panels(open_split(spec, spec.split), summary, spec.output, spec.pictures)
    write_text(spec.output / "report.html", render(summary, panels, seed))
    write_text(spec.output / "results.json", json.dumps(summary, indent=1, allow_nan=False))
    write_csv(summary, spec.output / "results.csv")
    write_text(spec.output / "table.txt", format_table(summary) + "\n")
    return summary
