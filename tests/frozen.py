"""Runs of the programs whose outcome is frozen in `tests/data`: states, help texts and loss curves.

`python -m tests.frozen FOLDER` writes those of the present code to a folder, to compare them with or to put them in
place where a change is meant to alter them.
"""

import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from unittest import mock

import torch

from utils.files import previous_of

DATA = Path(__file__).parent / "data"
PROGRAMS = ("train_baseline", "train_cirkdv2", "train_kd", "eval", "predict", "compare", "visualize_embeddings")
CURVES = {"baseline": "train_baseline", "cirkdv2": "train_cirkdv2", "skd": "train_kd"}
# SKD's discriminator would make a file of 40 MB.
STATES = {"baseline": "train_baseline", "cirkdv2": "train_cirkdv2", "at+cirkd": "train_kd"}
TEACHER, STUDENT = ("psp_mobile", "timm:test_byobnet"), ("psp_mobile", "timm:test_efficientnet")
SMALL_BANKS = (
    "--pixel-memory-size 10 --region-memory-size 4 --channel-memory-size 40 "
    "--pixel-contrast-size 16 --region-contrast-size 8 --channel-contrast-size 16 --bank-dtype float32"
).split()
SMALL_CIRKD = "--lambda-at 1000 --pixel-memory-size 10 --region-memory-size 4 --pixel-contrast-size 16".split()
CURVE_ITERATIONS = 30
STATE_ITERATION, STATE_END = 4, 6


def make_data(folder: Path) -> Path:
    """Twelve drawn scenes of 48x64 to train on and four to validate on."""
    words = ["--num-train", "12", "--num-val", "4", "--num-test", "0", "--size", "48", "64", "--seed", "3"]
    run_program("dataset.synthetic.writer", ["--root", str(folder / "data"), *words])
    return folder / "data"


def make_teacher(folder: Path) -> Path:
    """An untrained teacher's weights; draws no numbers that depend on the machine."""
    from models import build_model

    torch.manual_seed(0)
    teacher = build_model(*TEACHER, 12)
    torch.save(teacher.state_dict(), folder / "teacher.pth")
    return folder / "teacher.pth"


def training_words(name: str, data: Path, teacher: Path, output: Path) -> list[str]:
    """The command line that all frozen runs of a kind share."""
    words = ["--dataset", "synthetic", "--data", str(data), "--crop-size", "48", "64"]
    words += ["--batch-size", "2" if name == "skd" else "4"]  # whose discriminator is slow in float64
    words += ["--workers", "0", "--device", "cpu", "--lr", "0.01", "--save-dir", str(output), "--save-dir-name", name]
    if name == "baseline":
        return [*words, "--model", STUDENT[0], "--backbone", STUDENT[1]]
    words += ["--teacher-model", TEACHER[0], "--teacher-backbone", TEACHER[1], "--teacher-pretrained", str(teacher)]
    words += ["--student-model", STUDENT[0], "--student-backbone", STUDENT[1], "--skip-teacher-check"]
    words += ["--no-fold-teacher", *(SMALL_BANKS if name == "cirkdv2" else ["--method", name])]
    return [*words, *(SMALL_CIRKD if "+cirkd" in name else [])]


def run_program(module: str, words: list[str]) -> None:
    """Calls a program's `main` in this process and leaves torch's generator as it was."""
    with mock.patch.object(sys, "argv", [f"{module}.py", *words]), torch.random.fork_rng(devices=[]):
        importlib.import_module(module).main()


@contextmanager
def double_precision():
    """Programs train and validate in float64, so that figures do not depend on a processor's way of rounding."""
    import engine.evaluation.evaluator
    import engine.training.step
    from dataset.loading.transforms import normalize

    before, places = torch.get_default_dtype(), (engine.training.step, engine.evaluation.evaluator)
    torch.set_default_dtype(torch.float64)
    try:
        with ExitStack() as stack:
            for place in places:
                stack.enter_context(mock.patch.object(place, "normalize", lambda *args: normalize(*args).double()))
            yield
    finally:
        torch.set_default_dtype(before)


def loss_curve(name: str, data: Path, teacher: Path, output: Path) -> list[dict[str, float]]:
    """Iteration, learning rate and every loss term of each of 30 iterations, in float64."""
    words = training_words(name, data, teacher, output)
    words += ["--max-iterations", str(CURVE_ITERATIONS), "--log-iter", "1", "--skip-val", "--save-per-iters", "1000"]
    with double_precision():
        run_program(CURVES[name], [*words, "--overwrite"])
    lines = [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key in ("iteration", "lr") or key.startswith("loss")} for row in lines]


def state_words(name: str) -> list[str]:
    """What a run whose state is frozen is given beside `training_words`."""
    words = ["--max-iterations", str(STATE_END), "--log-iter", "1", "--val-per-iters", "4", "--save-per-iters", "4"]
    return [*words, *(["--ema-decay", "0.9", "--clip-grad", "1"] if name == "at+cirkd" else [])]


def write_state(name: str, data: Path, teacher: Path, output: Path) -> Path:
    """The state that a run of 6 iterations writes after 4; `metrics.jsonl` beside it reaches the end."""
    run_program(STATES[name], [*training_words(name, data, teacher, output), *state_words(name), "--overwrite"])
    return previous_of(output / name / "last_state.pth")


def help_text(program: str) -> str:
    """What `--help` prints at 100 columns."""
    text = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="100"), redirect_stdout(text), suppress(SystemExit):
        run_program(program, ["--help"])
    return text.getvalue()


def main(folder: Path) -> None:
    for kind in ("states", "curves", "help"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        (folder / "help" / f"{program}.txt").write_text(help_text(program), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        data, teacher = make_data(scratch), make_teacher(scratch)
        for name in CURVES:
            curve = loss_curve(name, data, teacher, scratch / "curves")
            text = "".join(json.dumps(row) + "\n" for row in curve)
            (folder / "curves" / f"{name}.jsonl").write_text(text, encoding="utf-8")
        for name in STATES:
            shutil.copy(write_state(name, data, teacher, scratch / "states"), folder / "states" / f"{name}.pth")
            shutil.copy(scratch / "states" / name / "metrics.jsonl", folder / "states" / f"{name}.jsonl")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
