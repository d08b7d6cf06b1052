"""The folder of a run: names, lock, refusal of folders in use, and args.yaml."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.run.rank_checks import on_main_process
from engine.run.resume import ASIDE_SUFFIX, check_state, find_state
from models.weights.file_names import BEST_SUFFIX, STATE_NAME
from utils.checkpoint import load_file
from utils.distributed import barrier, is_main_process
from utils.files import atomic_file, previous_of, remove_temporaries, write_text
from utils.flags import record
from utils.lock import hold_folder
from utils.logger import RunLogger

BAD_BATCHES = "bad_batches.txt"


@dataclass(frozen=True)
class RunDirectory:
    """Where a run writes, and the state it continues from.

    Attributes:
        folder: <save-dir>/<save-dir-name>.
        stem: name of the checkpoints without ending, as the released files are named.
        state: contents of the state file to continue from, or None for a new run.
        source: that file.
        warning: about its choice, or None.
        overwrite: whether a run that the folder holds may be replaced.
    """

    folder: Path
    stem: str
    state: dict[str, Any] | None = None
    source: Path | None = None
    warning: str | None = None
    overwrite: bool = False

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
    def saved_files(self) -> tuple[Path, ...]:
        """States and checkpoints, whether they exist or not."""
        return self.last_state, previous_of(self.last_state), self.checkpoint, self.best_checkpoint

    @property
    def iteration(self) -> int:
        """Steps done before this run starts or continues."""
        return 0 if self.state is None else self.state["iteration"]

    @property
    def continues_in_place(self) -> bool:
        """Whether the run writes to the folder of the state it continues from."""
        own = (self.last_state.resolve(), previous_of(self.last_state))
        return self.source is not None and self.source.resolve() in own

    @classmethod
    def open(
        cls,
        folder: Path,
        stem: str,
        settings: Any,
        *,
        resume: str | None = None,
        overwrite: bool = False,
        read_only: bool = False,
    ) -> "RunDirectory":
        """Finds the state to resume from; writes nothing but the lock of a folder that exists.

        With `resume` "auto" a state that is damaged or missing gives way to the one before it, with a warning. A
        process that torchrun started in place of a failed one continues as if "auto" were given and `overwrite` not, if
        the failed one had left a state.

        Args:
            folder: of the run.
            stem: the checkpoint's name without ending.
            settings: the run's config; a state must have been made with the same, but for those free to change.
            resume: None, "auto", or a state file or the folder of one.
            overwrite: replace a run that the folder holds.
            read_only: nothing will be written: the folder may be in use, and is not locked.

        Raises:
            ValueError: the state was made with other settings (all differences are named), or it is no state.
            FileNotFoundError: `resume` names no state.
            FileExistsError: the folder holds a run, and neither `resume` nor `overwrite` was given.
            FolderInUseError: another process writes there.
        """
        if resume == "auto" and overwrite:
            raise ValueError("--resume auto --overwrite: expected one of the two, to continue a run or to start anew.")
        run = cls(folder, stem, overwrite=overwrite)
        found: dict[str, Any] = {}

        def look() -> tuple[Path | None, str | None]:
            if folder.is_dir() and not read_only:
                hold_folder(folder)  # first: what is read next must not change any more
            source, found["state"], warning = find_state("auto" if _restarted(run) else resume, run.last_state)
            return source, warning

        source, warning = on_main_process(look)  # one process chooses, so that all continue from the same state
        state = found["state"] if is_main_process() else (None if source is None else load_file(source))
        if source is not None:
            state = check_state(source, state, settings)
        run = replace(run, state=state, source=source, warning=warning)
        if not read_only:
            on_main_process(lambda: run._refuse_held(resume))
        return run

    def start(self, settings: Any) -> RunLogger:
        """Makes the folder, clears it of an older run unless this one continues it, writes args.yaml; opens the log.

        Raises:
            FolderInUseError: another process writes there, which it may do since `open` looked.
            FileExistsError: likewise, and it has ended.
            OSError: the folder cannot be written.
        """
        barrier()  # no process still looks at what is about to change
        warning = on_main_process(lambda: self._take_folder(record(settings)))
        due = self.state is not None and self.state.get("validation_due", False)
        logger = RunLogger(self.folder, is_main_process(), start_iteration=self.iteration, validation_due=due)
        for text in filter(None, (self.warning, warning)):
            logger.warning(text)
        return logger

    def _take_folder(self, settings: dict[str, Any]) -> str | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        warning = hold_folder(self.folder)
        self._refuse_held(settings.get("resume"))
        remove_temporaries((self.last_state, self.checkpoint, self.best_checkpoint, self.folder / "args.yaml"))
        if not self.continues_in_place:
            _clear(self)
        elif self.source.resolve() != self.last_state.resolve() and self.last_state.exists():
            # else it would be kept as the previous state, in place of the good one, while the next one is written
            real = self.last_state.resolve()
            os.replace(real, real.with_name(real.name + ASIDE_SUFFIX))
        if self.source is not None and not self.continues_in_place:
            best = self.source.parent / self.best_checkpoint.name
            if best.exists() and best.resolve() != self.best_checkpoint.resolve():
                with open(best, "rb") as original, atomic_file(self.best_checkpoint) as copy:
                    shutil.copyfileobj(original, copy)
        _record_settings(settings, self.folder)
        return warning

    def _refuse_held(self, resume: str | None) -> None:
        held = [path.name for path in self.saved_files if path.exists()]
        if not held or self.continues_in_place or self.overwrite:
            return
        how = f"Continue it with --resume auto (which needs {STATE_NAME}), replace"
        if resume == "auto":
            how = f"There is no {STATE_NAME} to continue from: replace"
        raise FileExistsError(
            f"{self.folder} holds a run ({', '.join(held)}). {how} it with --overwrite, or choose another "
            "--save-dir-name."
        )


def _clear(run: RunDirectory) -> None:
    """Removes what an earlier run wrote into the folder, so that logs and checkpoints are not mixed."""
    before = previous_of(run.last_state)  # of the file that a link points to, so before the link goes
    aside = run.last_state.with_name(STATE_NAME + ASIDE_SUFFIX)
    source = None if run.source is None else run.source.resolve()  # what is continued stays until it is written anew
    own_best = source is not None and source.parent == run.last_state.resolve().parent
    for path in (run.last_state, before, aside, run.checkpoint, *(() if own_best else (run.best_checkpoint,))):
        if path.resolve() != source:
            path.unlink(missing_ok=True)
    for name in ("log.txt", "metrics.jsonl", BAD_BATCHES):
        (run.folder / name).unlink(missing_ok=True)
    for name in ("tensorboard", "profile"):
        shutil.rmtree(run.folder / name, ignore_errors=True)


def _restarted(run: RunDirectory) -> bool:
    """Whether this torchrun has begun the run in that folder before, and saved a state."""
    saved = run.last_state.exists() or previous_of(run.last_state).exists()
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or not saved:
        return False
    try:
        content = yaml.safe_load((run.folder / "args.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("launcher") == _launcher()


def _launcher() -> str | None:
    """An id of the torchrun that started this process, the same after its restarts; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name in (None, "", "none"):  # "none" is torchrun's default
        return None if name is None else f"{socket.gethostname()}, process {os.getppid()}"
    return name


def _record_settings(settings: dict[str, Any], folder: Path) -> None:
    content = {
        "arguments": settings,
        "command": [sys.executable, *sys.argv],
        "git_commit": git_commit(),
        "launcher": _launcher(),
        "versions": {"python": sys.version.split()[0], "torch": str(torch.__version__)},
    }
    write_text(folder / "args.yaml", yaml.safe_dump(content, sort_keys=True, allow_unicode=True))


def git_commit() -> str | None:
    """The commit of this source tree, with "-dirty" where files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
