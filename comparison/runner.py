"""Runs the jobs one after the other: skips finished ones, resumes interrupted ones, records failures."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from comparison.flags import flag_words
from comparison.jobs import ROOT, TEACHER, Job, changed_settings, evaluation_flags, find_trained, training_command
from comparison.spec import Spec
from models.weights.file_names import find_checkpoint
from utils.files import write_text
from utils.lock import folder_held

RECORD = "compare.json"  # in a run's folder: its settings and which of its steps are done
EVALUATION = "evaluation"
LAST_LINES = 20
# Seconds that an interrupted run has before each signal, which are ever stronger; after the first it saves its state.
ENDING = ((3, signal.SIGINT), (60, signal.SIGTERM), (10, signal.SIGKILL))
Echo = Callable[[str], Any]


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run; empty for one that has not been started."""
    path = folder / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove its folder to repeat the run") from error


def write_record(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, json.dumps(record, indent=1))


def refuse_other_settings(jobs: list[Job]) -> None:
    """Raises a ValueError, which names run and differences, if existing runs were made with other settings."""
    for job in jobs:
        record = read_record(job.folder)
        if record and (changes := changed_settings(job, record["settings"])):
            raise ValueError(
                f"{job.folder} holds a run with other settings: {'; '.join(changes)}. Choose another --output, or "
                "--overwrite to delete the runs and start over."
            )


def remove_runs(jobs: list[Job], spec: Spec) -> None:
    """Deletes the runs of an earlier comparison in the same folder, and nothing that it did not write.

    Raises:
        FolderInUseError: one of them is still training, perhaps since a killed comparison; nothing is deleted.
    """
    folders = [spec.output / TEACHER, *(job.folder for job in jobs)]
    folders = [folder for folder in folders if (folder / RECORD).exists()]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(folder_held(folder))
        for folder in folders:
            shutil.rmtree(folder)
            _log_file(folder).unlink(missing_ok=True)


def run_jobs(jobs: list[Job], spec: Spec, echo: Echo = print) -> None:
    """Trains and evaluates what is not finished. A failure is recorded with its job, and the next job starts.

    `echo` is called with each line of progress. A KeyboardInterrupt passes after the running process has ended.
    """
    if "checkpoint" in spec.teacher:
        echo(TEACHER)
        checkpoint = find_checkpoint(Path(spec.teacher["checkpoint"]).expanduser(), log=lambda _: None).absolute()
        _evaluate(checkpoint, spec.teacher, spec.output / TEACHER, spec, True, echo)
    for number, job in enumerate(jobs, 1):
        echo(f"[{number}/{len(jobs)}] {job.name}")
        _run_job(job, spec, echo)


def _run_job(job: Job, spec: Spec, echo: Echo) -> None:
    if read_record(job.folder).get("trained"):
        echo("  already trained")
    else:
        command = training_command(job, spec)
        record = {"settings": job.flags, "command": command, "machine": _machine(job), "trained": False}
        write_record(job.folder, record)
        failure = run_process(command, _log_file(job.folder), echo)
        if failure is not None:
            _record_failure(job.folder, record, f"training: {failure}", echo)
            return
        write_record(job.folder, record | {"trained": True})
    try:
        checkpoint = find_trained(job.folder, spec.checkpoint)
    except FileNotFoundError as error:
        _record_failure(job.folder, read_record(job.folder), str(error), echo)
        return
    _evaluate(checkpoint, spec.student, job.folder, spec, job.save_predictions, echo)


def _evaluate(checkpoint: Path, network: dict[str, str], folder: Path, spec: Spec, masks: bool, echo: Echo) -> None:
    """Evaluates a checkpoint, unless the same file was evaluated by the same command before."""
    record = {key: value for key, value in read_record(folder).items() if key != "failure"}
    flags = evaluation_flags(checkpoint, network, folder / EVALUATION, spec, masks)
    command = [sys.executable, str(ROOT / "eval.py"), *flag_words(flags)]
    request = [command[1:], checkpoint.stat().st_mtime]
    if record.get("evaluated") == request and (folder / EVALUATION / "results.json").exists():
        echo("  already evaluated")
        write_record(folder, record)
        return
    record.pop("evaluated", None)
    failure = run_process(command, _log_file(folder), echo)
    if failure is None:
        write_record(folder, record | {"evaluated": request})
    else:
        _record_failure(folder, record, f"evaluation: {failure}", echo)


def _record_failure(folder: Path, record: dict[str, Any], failure: str, echo: Echo) -> None:
    write_record(folder, record | {"failure": failure})
    echo(f"  FAILED: {failure}")


def _log_file(folder: Path) -> Path:
    """The output of a run's processes, next to the run's folder."""
    return folder.with_name(f"{folder.name}.txt")


def run_process(command: list[str], log: Path, echo: Echo = print) -> str | None:
    """Runs a command; its output is passed to `echo` line by line and appended to a file.

    Returns:
        None if it succeeded, else its last error message or line.

    Raises:
        KeyboardInterrupt: on SIGINT and SIGTERM, after the process has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=LAST_LINES)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with open(log, "a", encoding="utf-8", errors="replace") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
            )
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.strip():
                        last.append(line.strip())
                        echo(f"  {line.rstrip()}")
                code = process.wait()
            except BaseException:
                _end(process)
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return None if code == 0 else _reason(last, code)


def _end(process: subprocess.Popen) -> None:
    """Waits for a process, which Ctrl-C in a terminal has reached too; then sends signals."""
    for wait, number in ENDING:
        try:
            process.communicate(timeout=wait)  # also reads the pipe: a full one would block it
            return
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        except KeyboardInterrupt:  # a second Ctrl-C
            process.kill()
    process.communicate()


def _interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


def _reason(last: deque[str], code: int) -> str:
    errors = [line for line in last if line.startswith("error")]
    return errors[-1] if errors else f"{last[-1] if last else 'no output'} (exit status {code})"


def _machine(job: Job) -> str:
    """Name of the GPU that trains, or else of the processor."""
    if torch.cuda.is_available() and job.flags.get("device") != ["cpu"]:
        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} processor, {os.cpu_count()} cores"
