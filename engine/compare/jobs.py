"""The command lines of a comparison, where each writes, and what is known before any of them runs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import build_dataset
from engine.compare.flags import Flags, flag_words
from engine.compare.spec import BASELINE, CIRKDV2, Method, Spec
from engine.released import find_checkpoint
from engine.run import BEST_SUFFIX, STATE_NAME
from models import resolve_names
from models.file_names import SUFFIXES

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = 10**9  # iterations, where seconds are the budget
TEACHER = "teacher"
# May differ between the start of a run and going on with it.
FREE = frozenset({"workers", "device", "data"})

# Parses every command line with the program's own parser, so that a wrong flag is met before the first run.
_CHECK = """
import contextlib, importlib, io, json, sys
problems = []
for program, words in json.load(sys.stdin):
    sys.argv = [program, *words]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            module = importlib.import_module(program.removesuffix(".py"))
            args = module.parse_args()
            for name in ("resolve_methods", "cirkdv2_config"):
                getattr(module, name, lambda args: None)(args)
    except SystemExit:
        problems.append(said.getvalue().strip().splitlines()[0])
    except ValueError as error:
        problems.append(f"{program}: {error}")
print(json.dumps(problems))
"""


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        method, seed: what it is in the comparison.
        folder: of the run; its evaluation lies in `evaluation`, below it, its output beside it.
        program: entry point.
        flags: its command line, without what says where to write and whether to resume.
        save_predictions: masks for the report's pictures are wanted.
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

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.txt")


def make_jobs(spec: Spec) -> list[Job]:
    """All runs; every method with the first seed, then every method with the next."""
    jobs = []
    for index, seed in enumerate(spec.seeds):
        for method in spec.methods:
            folder = spec.output / "runs" / f"{method.slug}_seed{seed}"
            jobs.append(Job(method, seed, folder, *_training(spec, method, seed), save_predictions=index == 0))
    return jobs


def _training(spec: Spec, method: Method, seed: int) -> tuple[str, Flags]:
    budget = {"max-iterations": [str(ENDLESS if spec.iterations is None else spec.iterations)]}
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
    """Starts the run, or goes on with it."""
    where = {"save-dir": [str(job.folder.parent)], "save-dir-name": [job.folder.name], "resume": ["auto"]}
    launcher = [sys.executable]
    if spec.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.processes}"]
    return [*launcher, str(ROOT / job.program), *flag_words(job.flags | where)]


def evaluation_command(checkpoint: Path, network: dict[str, str], folder: Path, spec: Spec, masks: bool) -> list[str]:
    """Evaluates a network on the comparison's split.

    Args:
        checkpoint: its weights.
        network: its model and backbone; what is missing, the checkpoint tells.
        folder: to write to.
        spec: gives data and flags.
        masks: keep the predictions.
    """
    shared = ("ignore-label", "val-list", "workers", "device", "amp", "channels-last")
    flags = {key: [network[key]] for key in ("model", "backbone") if key in network}
    flags |= {"pretrained": [str(checkpoint)], "dataset": [spec.dataset], "data": [str(spec.data)]}
    flags |= {"split": [spec.split], "save-dir": [str(folder.parent)], "save-dir-name": [folder.name]}
    flags |= {key: spec.train_flags[key] for key in shared if key in spec.train_flags} | spec.eval_flags
    flags |= {"save-pred": []} if masks else {}
    return [sys.executable, str(ROOT / "eval.py"), *flag_words(flags)]


def find_trained(folder: Path, which: str) -> Path:
    """The last or the best checkpoint of a run.

    Raises:
        FileNotFoundError: there is none.
    """
    files = [file for file in folder.iterdir() if file.suffix in SUFFIXES and file.name != STATE_NAME]
    found = [file for file in files if file.stem.endswith(BEST_SUFFIX) == (which == "best")]
    if len(found) != 1:
        raise FileNotFoundError(f"{folder} holds {len(found)} {which} checkpoints: expected one")
    return found[0]


def split_options(spec: Spec, split: str) -> dict[str, Any]:
    """What `build_dataset` takes beside name, folder and split."""
    flags = spec.train_flags | spec.eval_flags
    given = flags.get(f"{split}-list", ["None"])[0]
    ignored = flags.get("ignore-label")
    return {
        "list_file": None if given.lower() in ("none", "") else given,
        "ignore_label": int(ignored[0]) if ignored else None,
    }


def check_before_running(spec: Spec, jobs: list[Job]) -> None:
    """Meets what would fail later: data, networks, the teacher's file and every flag of every run.

    Raises:
        ValueError, FileNotFoundError: names what is wrong; all wrong flags together.
    """
    for split in dict.fromkeys(("train", "val", spec.split)):
        dataset = build_dataset(spec.dataset, spec.data, split, **split_options(spec, split))
        if dataset.mask_paths is None:
            raise ValueError(f"split {split} of {spec.dataset} has no labels: expected one that can be scored")
    resolve_names(spec.student["model"], spec.student["backbone"])
    if "checkpoint" in spec.teacher:
        path = Path(spec.teacher["checkpoint"]).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"teacher: there is no checkpoint {path}. Train one with train_baseline.py first.")
        find_checkpoint(path, say=lambda _: None)
    seen = {job.method.name: (job.program, flag_words(job.flags)) for job in jobs}
    commands = [*seen.values(), ("eval.py", evaluation_command(Path("x.pth"), {}, spec.output, spec, True)[2:])]
    done = subprocess.run(
        [sys.executable, "-c", _CHECK],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        raise ValueError(f"the flags could not be checked: {done.stderr.strip().splitlines()[-1:]}")
    problems = list(dict.fromkeys(json.loads(done.stdout.splitlines()[-1])))
    if problems:
        raise ValueError("flags that a run would refuse:\n  " + "\n  ".join(problems))


def settings_of(flags: Flags) -> dict[str, Any]:
    """What has to be the same where a finished run is taken over."""
    return {name: words for name, words in sorted(flags.items()) if name not in FREE}
