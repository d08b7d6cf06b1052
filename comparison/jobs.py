"""The command lines of a comparison, the folders they write to, and checks before any of them runs."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comparison.costs import iterations_of
from comparison.flags import Flags, flag_words
from comparison.spec import BASELINE, CIRKDV2, Method, Spec
from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.config import ReadingConfig
from engine.config.evaluation import EvalConfig
from engine.config.legacy_flags import LEGACY_EVALUATION_FLAGS, LEGACY_FLAGS, read_command_line
from engine.config.methods import CIRKDV2RunConfig, KDConfig
from engine.config.schema import BaselineConfig
from models import resolve_names
from models.weights.file_names import BEST_SUFFIX, STATE_NAME, SUFFIXES, find_checkpoint
from utils.flags import leaves, plain_value
from utils.settings import flag_of

ROOT = Path(__file__).resolve().parents[1]
TEACHER = "teacher"
PROGRAMS = {
    "train_baseline.py": BaselineConfig,
    "train_cirkdv2.py": CIRKDV2RunConfig,
    "train_kd.py": KDConfig,
    "eval.py": EvalConfig,
}


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        method, seed: its row of the comparison and its seed.
        folder: of the run; its evaluation is written to `evaluation` in it.
        program: entry point.
        flags: its command line without the flags for folder and resuming.
        save_predictions: whether the evaluation keeps masks for the report's pictures.
    """

    method: Method
    seed: int
    folder: Path
    program: str
    flags: Flags
    save_predictions: bool

    @property
    def name(self) -> str:
        return f"{self.method.name}, seed {self.seed}"


def make_jobs(spec: Spec) -> list[Job]:
    """All runs; every method with the first seed, then every method with the next."""
    jobs, iterations = [], iterations_of(spec)
    every = dict.fromkeys([*spec.seeds, *(seed for method in spec.methods for seed in method.seeds or ())])
    for seed in every:
        for method in spec.methods:
            if seed not in (method.seeds or spec.seeds):
                continue
            folder = spec.output / "runs" / f"{method.slug}_seed{seed}"
            training = _training(spec, method, seed, iterations[method.name])
            jobs.append(Job(method, seed, folder, *training, save_predictions=not jobs or seed == jobs[0].seed))
    return jobs


def _training(spec: Spec, method: Method, seed: int, iterations: int) -> tuple[str, Flags]:
    budget = {"max-iterations": [str(iterations)]}
    if spec.seconds is not None:
        budget["max-seconds"] = [f"{spec.seconds:g}"]
    role = "" if method.method == BASELINE else "student-"
    flags = {f"{role}{key.replace('_', '-')}": [value] for key, value in spec.student.items()}
    program = "train_baseline.py"
    if method.method != BASELINE:
        program = "train_cirkdv2.py" if method.method == CIRKDV2 else "train_kd.py"
        names = {"model": "teacher-model", "backbone": "teacher-backbone", "checkpoint": "teacher-pretrained"}
        flags |= {names[key]: [value] for key, value in spec.teacher.items()}
        flags |= {"method": [method.method]} if program == "train_kd.py" else {}
    data = {"dataset": [spec.dataset], "data": [str(spec.data)], "seed": [str(seed)]}
    return program, flags | data | budget | spec.train_flags | method.flags


def training_command(job: Job, spec: Spec) -> list[str]:
    """Starts or resumes the run."""
    where = {"save-dir": [str(job.folder.parent)], "save-dir-name": [job.folder.name], "resume": ["auto"]}
    launcher = [sys.executable]
    if spec.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.processes}"]
    return [*launcher, str(ROOT / job.program), *flag_words(job.flags | where)]


def evaluation_flags(checkpoint: Path, network: dict[str, str], folder: Path, spec: Spec, masks: bool) -> Flags:
    """The command line of an evaluation on the comparison's split.

    Args:
        checkpoint, network: weights; model and backbone, which are inferred from the checkpoint if missing.
        folder: to write to.
        masks: whether to keep the predictions.
    """
    reading = [flag_of(f.name).removeprefix("--") for f in fields(ReadingConfig)]
    shared = ("val-list", "workers", "device", "amp", "channels-last", *reading)
    flags = {key: [network[key]] for key in ("model", "backbone") if key in network}
    flags |= {"pretrained": [str(checkpoint)], "dataset": [spec.dataset], "data": [str(spec.data)]}
    flags |= {"split": [spec.split], "save-dir": [str(folder.parent)], "save-dir-name": [folder.name]}
    flags |= {key: spec.train_flags[key] for key in shared if key in spec.train_flags} | spec.eval_flags
    return flags | ({"save-pred": []} if masks else {})


def find_trained(folder: Path, which: str) -> Path:
    """The last or the best checkpoint of a run; FileNotFoundError if there is none."""
    files = [file for file in folder.iterdir() if file.suffix in SUFFIXES and file.name != STATE_NAME]
    found = [file for file in files if file.stem.endswith(BEST_SUFFIX) == (which == "best")]
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} holds {len(found)} {which} checkpoints: expected one")
    return found[0]


def open_split(spec: Spec, split: str) -> SegmentationDataset:
    """A split as the comparison's runs and evaluations read it; errors as of `build_dataset`."""
    flags = {key: words for key, words in spec.train_flags.items() if key == "train-list"}
    flags |= evaluation_flags(Path("x.pth"), {}, spec.output, spec, False) | {"split": [split]}
    config = program_config("eval.py", flags)
    return build_dataset(spec.dataset, spec.data, split, list_file=config.data.list_file, reading=config.reading)


def check_before_running(spec: Spec, jobs: list[Job]) -> None:
    """Checks what would fail hours later: data, networks, the teacher's file and the flags of every run.

    Raises:
        ValueError, FileNotFoundError: names what is wrong, with all invalid flags in one message.
    """
    resolve_names(spec.student["model"], spec.student["backbone"])
    if "checkpoint" in spec.teacher:
        path = Path(spec.teacher["checkpoint"]).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"teacher: there is no checkpoint {path}. Train one with train_baseline.py first.")
        find_checkpoint(path, log=lambda _: None)
    seen = {job.method.name: (job.program, job.flags) for job in jobs}
    evaluation = evaluation_flags(Path("x.pth"), {}, spec.output, spec, True)
    problems = []
    for program, flags in [*seen.values(), ("eval.py", evaluation)]:
        try:
            program_config(program, flags)
        except ValueError as error:
            problems.append(f"{program}: {str(error).splitlines()[0]}")
    if problems:
        raise ValueError("invalid flags:\n  " + "\n  ".join(dict.fromkeys(problems)))
    for split in dict.fromkeys(("train", "val", spec.split)):
        if open_split(spec, split).mask_paths is None:
            raise ValueError(f"split {split} of {spec.dataset} has no labels: expected a labelled split")


def program_config(program: str, flags: Flags) -> Any:
    """The config that a program reads from a command line; ValueError for invalid flags."""
    legacy = LEGACY_EVALUATION_FLAGS if program == "eval.py" else LEGACY_FLAGS
    return read_command_line(PROGRAMS[program], "", flag_words(flags), legacy=legacy, prog=program)


def changed_settings(job: Job, recorded: Flags) -> list[str]:
    """How the job's settings differ from the recorded ones of its run, apart from those of the machine."""
    before = program_config(job.program, {"data": job.flags["data"]} | recorded)
    return [
        f"{flag_of(old.name, old.declaration)} was {plain_value(old.value)} and is now {plain_value(new.value)}"
        for old, new in zip(leaves(before), leaves(program_config(job.program, job.flags)), strict=True)
        if old.value != new.value and not old.declaration.get("per_host") and old.name != "device"
    ]
