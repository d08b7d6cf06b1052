"""Which jobs are run, which are skipped, and how failures and interruptions are handled."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

import comparison.runner as runner
from comparison.jobs import make_jobs
from comparison.records import read_run
from comparison.runner import read_record, refuse_other_settings, remove_runs, run_jobs, run_process
from comparison.spec import make_spec
from tests.comparison.conftest import CLASS_IOU, FINAL, leave_evaluation, leave_training
from tests.conftest import TEACHER, metric_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def started(monkeypatch, spec) -> list[str]:
    """Names of what is run; each process writes its results, but the first training of cirkdv2 with seed 0 fails."""
    names: list[str] = []

    def run(command, log, echo):
        words = dict(zip(command, command[1:], strict=False))
        folder = Path(words["--save-dir"]) / words["--save-dir-name"]
        job = next((job for job in make_jobs(spec) if job.folder in (folder, folder.parent)), None)
        training = "eval.py" not in command[1]
        names.append(f"{'train' if training else 'evaluate'} {job.folder.name if job else 'teacher'}")
        if names[-1] == "train cirkdv2_seed0" and names.count(names[-1]) == 1:
            return "error: boom"
        if training:
            leave_training(job)
        else:
            key = (job.method.method, job.seed) if job else ("cirkdv2", 0)
            leave_evaluation(folder, spec, FINAL[key], CLASS_IOU[key], "--save-pred" in command)
        return None

    monkeypatch.setattr(runner, "run_process", run)
    return names


def test_only_a_failed_run_is_repeated(spec, started):
    jobs = make_jobs(spec)
    lines: list[str] = []
    run_jobs(jobs, spec, lines.append)
    runs = ["baseline_seed0", "baseline_seed1", "cirkdv2_seed1"]
    expected = ["evaluate teacher", "train baseline_seed0", "evaluate baseline_seed0", "train cirkdv2_seed0"]
    expected += [f"{what} {name}" for name in runs[1:] for what in ("train", "evaluate")]
    assert started == expected
    assert "  FAILED: training: error: boom" in lines
    assert [read_run(job)["status"] for job in jobs] == ["finished", "failed", "finished", "finished"]
    assert "boom" in read_run(jobs[1])["reason"]

    started.clear()
    started.append("train cirkdv2_seed0")  # so that it does not fail again
    run_jobs(jobs, spec, lines.append)
    assert started[1:] == ["train cirkdv2_seed0", "evaluate cirkdv2_seed0"]
    assert {read_run(job)["status"] for job in jobs} == {"finished"}

    started.clear()
    run_jobs(jobs, spec, lines.append)
    assert started == []


def test_missing_checkpoint_fails_a_run_only_as_long_as_it_is_asked_for(spec, values, started):
    jobs = make_jobs(spec)
    for checkpoint, status in (("last", "finished"), ("best", "failed"), ("last", "finished")):
        asked = make_spec(values | {"checkpoint": checkpoint})
        run_jobs(jobs, asked, lambda _: None)
        assert read_run(jobs[0])["status"] == status
    assert started.count("evaluate baseline_seed0") == 1


def test_evaluation_is_repeated_if_it_would_differ(spec, values, finished, started):
    run_jobs(finished, spec, lambda _: None)  # the records of the fixture name no evaluation of this kind
    started.clear()
    other = make_spec(values | {"split": "test"})
    run_jobs(make_jobs(other), other, lambda _: None)
    assert len(started) == 5 and all(name.startswith("evaluate") for name in started)


def test_runs_of_other_settings_are_not_mixed_in(finished, values):
    refuse_other_settings(finished)
    refuse_other_settings(make_jobs(make_spec(values | {"seeds": [0, 1, 2]})))  # more runs, same settings
    refuse_other_settings(make_jobs(make_spec(values | {"train_flags": values["train_flags"] | {"workers": 5}})))
    other = make_spec(values | {"train_flags": "--crop-size 40 56 --batch-size 4 --freeze-bn"})
    with pytest.raises(ValueError, match="--batch-size was 2 and is now 4; --freeze-bn was False and is now True"):
        refuse_other_settings(make_jobs(other))


def test_overwriting_removes_the_comparisons_own_folders_alone(spec, finished):
    keep = spec.output / "runs" / "mine"
    keep.mkdir()
    remove_runs(finished, spec)
    assert list((spec.output / "runs").iterdir()) == [keep] and not (spec.output / "teacher").exists()


def test_reason_of_a_failure(tmp_path):
    code = "import sys; print('loading'); print('error: no such file', file=sys.stderr); print('bye'); sys.exit(2)"
    assert run_process([sys.executable, "-c", code], tmp_path / "log", lambda _: None) == "error: no such file"
    assert "loading" in (tmp_path / "log").read_text()
    assert run_process([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log") == ("no output (exit status 3)")
    assert run_process([sys.executable, "-c", ""], tmp_path / "log") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_the_process_that_runs(tmp_path, number, monkeypatch):
    monkeypatch.setattr(runner, "ENDING", [(0.2, signal.SIGINT), (5, signal.SIGTERM), (5, signal.SIGKILL)])
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    lines: list[str] = []

    def interrupt():
        while not lines:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", code], tmp_path / "log", lines.append)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)


@pytest.mark.slow
def test_real_comparison_is_interrupted_and_goes_on(tmp_path, values, teacher_file):
    flags = "--batch-size 2 --crop-size 40 56 --workers 0 --device cpu --log-iter 1 --val-per-iters 60"
    flags += " --save-per-iters 2 --lr 0.0001"
    values["teacher"] = dict(zip(("model", "backbone"), TEACHER, strict=True)) | {"checkpoint": str(teacher_file)}
    banks = "--pixel-memory-size 50 --region-memory-size 20 --channel-memory-size 300 --pixel-contrast-size 64"
    banks += " --region-contrast-size 24 --channel-contrast-size 64 --skip-teacher-check"
    values |= {"seeds": [0], "iterations": 60, "train_flags": flags, "method_flags": {"cirkdv2": banks}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-u", str(ROOT / "compare.py"), str(tmp_path / "spec.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}

    process = subprocess.Popen(command, **pipes)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "iteration 3/60" in line and any("cirkdv2, seed 0" in before for before in lines):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "".join(lines)
    assert "interrupted; finished runs are kept" in "".join(lines) and str(tmp_path / "spec.yaml") in lines[-1]
    runs = tmp_path / "out/runs"
    assert not (tmp_path / "out/report.html").exists()
    first = (runs / "baseline_seed0/last_state.pth").stat().st_mtime_ns

    done = subprocess.run(command, **pipes)
    assert done.returncode == 0, done.stdout
    assert "continuing at iteration" in done.stdout
    assert (runs / "baseline_seed0/last_state.pth").stat().st_mtime_ns == first
    for name in ("baseline_seed0", "cirkdv2_seed0"):
        losses = [line["iteration"] for line in metric_lines(runs / name) if "loss" in line]
        assert losses == list(range(1, 61))
        assert read_record(runs / name)["trained"] is True
    assert {"report.html", "results.json", "results.csv", "table.txt"} <= {p.name for p in (tmp_path / "out").iterdir()}
