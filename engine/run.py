"""The folder of a run: names, refusal of folders in use, resume, and the record of the arguments."""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from models.file_names import BEST_SUFFIX, STATE_NAME
from utils.checkpoint import load_file, plain
from utils.distributed import barrier, is_main_process
from utils.logger import RunLogger

STATE_FORMAT = 1

# What may differ between the start of a run and its resume; everything else must agree.
FREE_ON_RESUME = frozenset(
    "data train_list val_list test_list workers pretrained pretrained_base teacher_pretrained student_pretrained "
    "student_pretrained_base allow_partial skip_teacher_check device channels_last compile deterministic save_dir "
    "save_dir_name resume overwrite log_iter loss_health save_per_iters val_per_iters skip_val".split()
)


@dataclass(frozen=True)
class Run:
    """Where a run writes, and the state it continues from.

    Attributes:
        folder: <save-dir>/<save-dir-name>.
        stem: name of the checkpoints without ending, as the released files are named.
        state: contents of the state file to continue from, or None for a new run.
        source: that file.
    """

    folder: Path
    stem: str
    state: dict[str, Any] | None = None
    source: Path | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.stem}.pth"

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / f"{self.stem}{BEST_SUFFIX}.pth"

    @property
    def last_state(self) -> Path:
        return self.folder / STATE_NAME

    @property
    def iteration(self) -> int:
        """Steps done before this run starts or continues."""
        return 0 if self.state is None else self.state["iteration"]

    @property
    def continues_in_place(self) -> bool:
        """Whether the run goes on in the folder of the state it continues from."""
        return self.source is not None and self.source.resolve() == self.last_state.resolve()

    def begin(self, args: argparse.Namespace) -> RunLogger:
        """Makes the folder, clears it of an older run unless this one continues it, records `args`; opens the log."""
        barrier()  # no process still looks at what is about to change
        if is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.continues_in_place:
                _clear(self)
            if self.source is not None and not self.continues_in_place:
                best = self.source.parent / self.best_checkpoint.name
                if best.exists():
                    shutil.copyfile(best, self.best_checkpoint)
            _record_arguments(args, self.folder)
        barrier()
        return RunLogger(self.folder, is_main_process(), start_iteration=self.iteration)


def open_run(args: argparse.Namespace, stem: str) -> Run:
    """Finds the run's folder and reads the state to resume from; writes nothing.

    Args:
        args: needs save_dir, save_dir_name, resume and overwrite; a state must have been made with the same settings.
        stem: the checkpoint's name without ending; also the folder's where --save-dir-name is not given.

    Raises:
        ValueError: the state was made with other settings (all differences are named), or it is no state.
        FileNotFoundError: --resume names no state.
        FileExistsError: the folder holds a run, and neither --resume nor --overwrite was given.
    """
    folder = args.save_dir / (args.save_dir_name or stem)
    run = Run(folder, stem)
    if args.resume == "auto" and args.overwrite:
        raise ValueError("--resume auto --overwrite: expected one of the two, to continue a run or to start anew.")
    source = _state_to_resume(args.resume, run)
    run = Run(folder, stem, _read_state(source, args), source)
    held = [path.name for path in (run.last_state, run.checkpoint, run.best_checkpoint) if path.exists()]
    if held and not run.continues_in_place and not args.overwrite:
        how = f"Continue it with --resume auto (which needs {STATE_NAME}), put"
        if args.resume == "auto":
            how = f"There is no {STATE_NAME} to continue from: put"
        raise FileExistsError(
            f"{folder} holds a run ({', '.join(held)}). {how} this one in its place with --overwrite, or choose "
            "another --save-dir-name."
        )
    return run


def _state_to_resume(resume: str | None, run: Run) -> Path | None:
    if resume is None:
        return None
    if resume == "auto":
        return run.last_state if run.last_state.exists() else None
    path = Path(resume).expanduser()
    path = path / STATE_NAME if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"--resume {resume}: there is no state file {path}. A run writes {STATE_NAME}.")
    return path


def _read_state(path: Path | None, args: argparse.Namespace) -> dict[str, Any] | None:
    if path is None:
        return None
    state = load_file(path)
    if not isinstance(state, dict) or "iteration" not in state or "arguments" not in state:
        raise ValueError(
            f"--resume {path}: expected the full state that a run writes as {STATE_NAME}, got a file without it. "
            "Weights alone are given with --pretrained (or --student-pretrained)."
        )
    if state.get("format") != STATE_FORMAT:
        raise ValueError(f"--resume {path}: expected a state of format {STATE_FORMAT}, got {state.get('format')}.")
    differences = argument_differences(state["arguments"], plain(vars(args)))
    if differences:
        raise ValueError(
            f"--resume {path}: the run was started with other settings: " + "; ".join(differences) + ". "
            "Give the same ones, or start a new run with --pretrained."
        )
    return state


def argument_differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Descriptions of the arguments that have to agree on resume and do not."""

    def comparable(value: Any) -> Any:
        return list(value) if isinstance(value, (list, tuple)) else value

    return [
        f"--{name.replace('_', '-')} was {saved.get(name)} and is now {given.get(name)}"
        for name in sorted(saved.keys() | given.keys())
        if name not in FREE_ON_RESUME and comparable(saved.get(name)) != comparable(given.get(name))
    ]


def _clear(run: Run) -> None:
    """Removes what an earlier run wrote into the folder, so that logs and checkpoints are not mixed."""
    for path in (run.last_state, run.checkpoint, run.best_checkpoint):
        path.unlink(missing_ok=True)
    for name in ("log.txt", "metrics.jsonl"):
        (run.folder / name).unlink(missing_ok=True)
    shutil.rmtree(run.folder / "tensorboard", ignore_errors=True)


def _record_arguments(args: argparse.Namespace, folder: Path) -> None:
    record = {
        "arguments": _yaml_ready(plain(vars(args))),
        "command": [sys.executable, *sys.argv],
        "git_commit": git_commit(),
        "versions": {"python": sys.version.split()[0], "torch": str(torch.__version__)},
    }
    (folder / "args.yaml").write_text(yaml.safe_dump(record, sort_keys=True, allow_unicode=True), encoding="utf-8")


def _yaml_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _yaml_ready(item) for key, item in value.items()}
    return [_yaml_ready(item) for item in value] if isinstance(value, (list, tuple)) else value


def git_commit() -> str | None:
    """The commit of this source tree, with "-dirty" where files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
