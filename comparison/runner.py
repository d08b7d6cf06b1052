"""Runs the jobs one after the other: finished ones are taken over, interrupted ones go on, a failed one is noted."""

import json
import os
import platform
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from comparison.jobs import (
    TEACHER,
    Job,
    changed_settings,
    evaluation_command,
    find_trained,
    training_command,
)
from comparison.spec import Spec
from models.weights.file_names import find_checkpoint
from utils.files import write_text
from utils.lock import folder_held

RECORD = "compare.json"  # in a run's folder: what it was started with and how far it came
EVALUATION = "evaluation"
LAST_LINES = 20
SECONDS_TO_END = 60  # given to a run after Ctrl-C
Say = Callable[[str], Any]


def read_record(folder: Path) -> dict[str, Any]:
    """What is noted on a run; empty for one that has not been started."""
    path = folder / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove its folder, and the run is made anew") from error


def write_record(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, json.dumps(record, indent=1))


def refuse_other_settings(jobs: list[Job]) -> None:
    """Refuses to mix runs that were made with other settings into a comparison.

    Raises:
        ValueError: names the run and what differs.
    """
    for job in jobs:
        record = read_record(job.folder)
        if not record:
            continue
        changes = changed_settings(job, record["settings"])
        if changes:
            raise ValueError(
                f"{job.folder} holds a run of other settings: {'; '.join(changes)}. Choose another --output, or "
                "--overwrite to run everything anew."
            )


def remove_runs(jobs: list[Job], spec: Spec) -> None:
    """Deletes the runs of an earlier comparison in the same folder, and nothing that it did not write.

    Raises:
        FolderInUseError: one of them is still training, perhaps of a comparison that was killed; nothing is deleted.
    """
    folders = [spec.output / TEACHER, *(job.folder for job in jobs)]
    folders = [folder for folder in folders if (folder / RECORD).exists()]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(folder_held(folder))
        for folder in folders:
            shutil.rmtree(folder)
            folder.with_name(f"{folder.name}.txt").unlink(missing_ok=True)


def run_jobs(jobs: list[Job], spec: Spec, say: Say = print) -> None:
    """Trains and evaluates what is not finished; a job that fails is noted in its record, and the next one starts.

    Raises:
        KeyboardInterrupt: after the process that was running has ended.
    """
    if "checkpoint" in spec.teacher:
        _evaluate_teacher(spec, say)
    for number, job in enumerate(jobs, 1):
        say(f"[{number}/{len(jobs)}] {job.name}")
        _run_job(job, spec, say)


def _run_job(job: Job, spec: Spec, say: Say) -> None:
    record = read_record(job.folder)
    if record.get("trained"):
        say("  trained before")
    else:
        command = training_command(job, spec)
        record = {"settings": job.flags, "command": command, "machine": machine(job), "trained": False}
        write_record(job.folder, record)
        failure = run_process(command, job.log, say)
        if failure is not None:
            _note_failure(job.folder, record, f"training: {failure}", say)
            return
        record["trained"] = True
        write_record(job.folder, record)
    evaluation = job.folder / EVALUATION
    try:
        checkpoint = find_trained(job.folder, spec.checkpoint)
    except FileNotFoundError as error:
        _note_failure(job.folder, record, str(error), say)
        return
    _evaluate(checkpoint, spec.student, job.folder, evaluation, record, spec, job.save_predictions, job.log, say)


def _evaluate_teacher(spec: Spec, say: Say) -> None:
    folder = spec.output / TEACHER
    record = read_record(folder)
    checkpoint = find_checkpoint(Path(spec.teacher["checkpoint"]).expanduser(), log=lambda _: None).absolute()
    say("teacher")
    folder.mkdir(parents=True, exist_ok=True)
    _evaluate(
        checkpoint,
        spec.teacher,
        folder,
        folder / EVALUATION,
        record,
        spec,
        True,
        folder.with_name(f"{TEACHER}.txt"),
        say,
    )


def _evaluate(
    checkpoint: Path,
    network: dict[str, str],
    folder: Path,
    output: Path,
    record: dict[str, Any],
    spec: Spec,
    masks: bool,
    log: Path,
    say: Say,
) -> None:
    command = evaluation_command(checkpoint, network, output, spec, masks)
    written = checkpoint.stat().st_mtime
    if record.get("evaluated") == [command[1:], written] and (output / "results.json").exists():
        say("  evaluated before")
        return
    record.pop("evaluated", None)
    failure = run_process(command, log, say)
    if failure is not None:
        _note_failure(folder, record, f"evaluation: {failure}", say)
        return
    record.pop("failure", None)
    write_record(folder, record | {"evaluated": [command[1:], written]})


def _note_failure(folder: Path, record: dict[str, Any], failure: str, say: Say) -> None:
    write_record(folder, record | {"failure": failure})
    say(f"  FAILED: {failure}")


def run_process(command: list[str], log: Path, say: Say = print) -> str | None:
    """Runs a command; what it says goes to the screen and is added to a file.

    Returns:
        None if it ended well, else its last words.

    Raises:
        KeyboardInterrupt: on Ctrl-C and on a request to end, when the process has ended.
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
                        say(f"  {line.rstrip()}")
                code = process.wait()
            except BaseException:
                _end(process)
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return None if code == 0 else _reason(last, code)


def _end(process: subprocess.Popen) -> None:
    """Waits for a process to end. From a terminal it got Ctrl-C too; else it is told here, in the end with force."""
    for wait, number in ((3, signal.SIGINT), (SECONDS_TO_END, signal.SIGTERM), (10, signal.SIGKILL)):
        try:
            process.communicate(timeout=wait)  # also empties the pipe, on which it might wait
            return
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        except KeyboardInterrupt:  # impatience
            process.kill()
    process.communicate()


def _interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


def _reason(last: deque[str], code: int) -> str:
    errors = [line for line in last if line.startswith("error")]
    return errors[-1] if errors else f"{last[-1] if last else 'nothing said'} (exit status {code})"


def machine(job: Job) -> str:
    """What trains: the name of the GPU, or the processor."""
    if torch.cuda.is_available() and job.flags.get("device") != ["cpu"]:
        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} processor, {os.cpu_count()} cores"
