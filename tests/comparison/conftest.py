"""Comparisons without training: runs as the entry points leave them, with chosen figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from comparison.jobs import Job, make_jobs
from comparison.report import write_report
from comparison.runner import EVALUATION, read_record, write_record
from comparison.spec import Spec, make_spec
from dataset import build_dataset
from tests.conftest import metric_lines
from utils.visualize import save_indexed_png

# (method, seed) -> validations as (iteration, seconds, mIoU); the last is the run's end
CURVES = {
    ("baseline", 0): [(10, 1.0, 0.20), (20, 2.0, 0.30)],
    ("baseline", 1): [(10, 1.2, 0.24), (20, 2.4, 0.36)],
    ("cirkdv2", 0): [(10, 1.9, 0.25), (20, 3.8, 0.40)],
    ("cirkdv2", 1): [(10, 2.6, 0.26), (20, 5.2, 0.42)],
}
FINAL = {("baseline", 0): 0.31, ("baseline", 1): 0.35, ("cirkdv2", 0): 0.41, ("cirkdv2", 1): 0.43}
CLASS_IOU = {key: [miou + 0.2, miou - 0.2, None] for key, miou in FINAL.items()}


@pytest.fixture
def values(tmp_path, data_root) -> dict:
    """A specification of two methods and two seeds, as a file would hold it."""
    (tmp_path / "teacher.pth").write_bytes(b"not read")
    return {
        "dataset": "custom",
        "data": str(data_root),
        "output": str(tmp_path / "out"),
        "teacher": {"checkpoint": str(tmp_path / "teacher.pth")},
        "student": {"model": "psp_mobile", "backbone": "mobilenetv3_small"},
        "methods": ["baseline", "cirkdv2"],
        "seeds": [0, 1],
        "iterations": 20,
        "train_flags": {"crop-size": [40, 56], "batch-size": 2},
        "pictures": 2,
    }


@pytest.fixture
def spec(values) -> Spec:
    return make_spec(values)


def leave_training(job: Job) -> None:
    curve = CURVES[job.method.method, job.seed]
    job.folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for iteration, seconds, miou in curve:
        speed = {"seconds_per_iteration": seconds / iteration, "memory_mib": 100.0 + iteration}
        place = {"iteration": iteration, "train_seconds": seconds}
        lines.append(place | {"loss": 9.0, "loss_task": 3.0 / iteration} | speed)
        lines.append(place | {"validation": {"miou": miou}})
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"arguments": {"lr": 0.02, "seed": job.seed}, "command": ["python", job.program]}
    settings |= {"versions": {"python": "3", "torch": "2"}, "git_commit": "abc"}
    (job.folder / "args.yaml").write_text(yaml.safe_dump(settings))
    (job.folder / "net.pth").write_bytes(b"weights")


def leave_evaluation(folder: Path, spec: Spec, miou: float, class_iou: list, masks: bool) -> None:
    """What a finished evaluation leaves; predicts class 1 everywhere."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    dataset = build_dataset("custom", spec.data, spec.split)
    classes = [{"name": name, "iou": iou} for name, iou in zip(dataset.classes, class_iou, strict=True)]
    results = {"miou": miou, "pixel_accuracy": 0.5, "macc": 0.4, "images": 4, "classes": classes}
    (folder / "results.json").write_text(json.dumps(results | {"network": {"parameters": 1_500_000}}))
    for path in dataset.image_paths if masks else []:
        save_indexed_png(np.ones((48, 64), np.uint8), dataset.palette, folder / "masks" / Path(path).name)


def leave_run(job: Job, spec: Spec) -> None:
    key = job.method.method, job.seed
    leave_training(job)
    leave_evaluation(job.folder / EVALUATION, spec, FINAL[key], CLASS_IOU[key], job.save_predictions)
    record = {"settings": job.flags, "machine": "a computer", "trained": True, "evaluated": ["x"]}
    write_record(job.folder, record)


def leave_teacher(spec: Spec) -> None:
    folder = spec.output / "teacher"
    leave_evaluation(folder / EVALUATION, spec, 0.6, [0.8, 0.4, None], masks=True)
    write_record(folder, {"evaluated": ["x"]})


def leave_runs(spec: Spec) -> list[Job]:
    jobs = make_jobs(spec)
    for job in jobs:
        leave_run(job, spec)
    return jobs


@pytest.fixture
def finished(spec) -> list[Job]:
    leave_teacher(spec)
    return leave_runs(spec)


def report(spec: Spec, jobs: list[Job], *words: str) -> tuple[dict, str]:
    summary = write_report(spec, jobs, ["compare.py", *words])
    return summary, (spec.output / "report.html").read_text()


@pytest.fixture
def summary(spec, finished) -> dict:
    """The report of all four runs is written; its results.json."""
    report(spec, finished)
    return json.loads((spec.output / "results.json").read_text())


def change_metrics(job: Job, change) -> None:
    lines = change(metric_lines(job.folder))
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def fail(job: Job, reason: str) -> None:
    write_record(job.folder, read_record(job.folder) | {"failure": reason})
