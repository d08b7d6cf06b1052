"""What a user does wrong ends within seconds in one clear message, and no traceback."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models import build_model
from tests.conftest import TEACHER
from tests.programs import exit_code
from tests.pseudo_datasets import write_mask, write_pseudo_dataset

ROOT = Path(__file__).resolve().parents[3]


def backbone_file(tmp_path: Path) -> Path:
    network = build_model(*TEACHER, 3)
    state = {name.removeprefix("pretrained."): value for name, value in network.state_dict().items()}
    torch.save({name: value for name, value in state.items() if not name.startswith("head.")}, tmp_path / "base.pth")
    return tmp_path / "base.pth"


def camvid_with_illegal_mask(tmp_path: Path) -> Path:
    root = write_pseudo_dataset("camvid", tmp_path / "camvid", size=(48, 64), count=3)
    write_mask(root / "trainannot/train_000.png", np.full((48, 64), 77, np.uint8))
    return root


CASES = {
    "backbone file as teacher": (
        lambda tmp, data: ["train_cirkdv2.py", "--teacher-pretrained", backbone_file(tmp)],
        ["base.pth", "backbone alone"],
    ),
    "missing data folder": (
        lambda tmp, data: ["train_baseline.py", "--data", tmp / "nowhere"],
        ["nowhere does not exist", "classes.txt"],
    ),
    "illegal value in the first training mask": (
        lambda tmp, data: ["train_baseline.py", "--dataset", "camvid", "--data", camvid_with_illegal_mask(tmp)],
        ["trainannot/train_000.png", "77"],
    ),
    "unknown backbone": (lambda tmp, data: ["train_baseline.py", "--backbone", "resnet19"], ["resnet19", "resnet18"]),
    "unknown data set": (lambda tmp, data: ["train_baseline.py", "--dataset", "kitti"], ["kitti", "camvid"]),
    "missing weights": (lambda tmp, data: ["eval.py", "--pretrained", tmp / "none.pth"], ["none.pth"]),
    "one image a process": (lambda tmp, data: ["train_baseline.py", "--batch-size", 1], ["at least 2", "--freeze-bn"]),
    "hard pixels without a rule": (
        lambda tmp, data: ["train_baseline.py", "--ohem", 0.25],
        ["--ohem 0.25", "fraction:F"],
    ),
    "no class weights": (
        lambda tmp, data: ["train_baseline.py", "--class-weights", "balancd"],
        ["--class-weights balancd", "Did you mean balanced?"],
    ),
    "scales that are no tenths": (
        lambda tmp, data: ["train_baseline.py", "--scale-range", 0.75, 1],
        ["--scale-range [0.75, 1.0]", "multiples of 0.1"],
    ),
    "no data": (lambda tmp, data: ["train_baseline.py", "--data", "None"], ["--data", "expected a path"]),
    "no teacher": (lambda tmp, data: ["train_cirkdv2.py", "--teacher-pretrained", "None"], ["expected a path"]),
    "half precision on the CPU": (lambda tmp, data: ["train_baseline.py", "--amp", "fp16"], ["fp16", "bf16"]),
    "unknown flag": (lambda tmp, data: ["train_baseline.py", "--learning-rate", 1], ["--learning-rate"]),
}


def command_line(case: str, data_root: Path, tmp_path: Path) -> list[str]:
    """Program and flags of a case, with what it leaves out filled in."""
    words = list(map(str, CASES[case][0](tmp_path, data_root)))
    defaults = {"--dataset": ["custom"], "--data": [data_root], "--save-dir": [tmp_path / "runs"], "--device": ["cpu"]}
    if words[0] == "train_cirkdv2.py":
        defaults |= {"--teacher-model": [TEACHER[0]], "--teacher-backbone": [TEACHER[1]]}
    if words[0] != "eval.py":
        defaults |= {"--crop-size": [40, 56], "--batch-size": [2], "--max-iterations": [1]}
    for flag, values in defaults.items():
        if flag not in words:
            words += [flag, *map(str, values)]
    return words


def check(case: str, code: int, message: str, tmp_path: Path) -> None:
    """The message names what is expected, and nothing was written."""
    assert code == 2 and "Traceback" not in message and "error: " in message
    for text in CASES[case][1]:
        assert text in message
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("case", CASES)
def test_error_is_the_users(case, data_root, tmp_path, run_main, capsys):
    program, *words = command_line(case, data_root, tmp_path)
    code = exit_code(lambda words: run_main(program.removesuffix(".py"), *words), words)
    check(case, code, capsys.readouterr().err, tmp_path)


def test_one_message_and_no_traceback(data_root, tmp_path):
    case, started = "missing data folder", time.monotonic()
    done = subprocess.run(
        [sys.executable, *command_line(case, data_root, tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.monotonic() - started < 60  # under 10 s on an idle machine; tests share theirs
    check(case, done.returncode, done.stderr, tmp_path)


def test_backbone_file_as_start_is_loaded_with_a_warning(run_main, common, tmp_path):
    path = backbone_file(tmp_path)
    run_main(
        "train_baseline", *common, "--model", TEACHER[0], "--backbone", TEACHER[1], "--pretrained", path,
        "--max-iterations", 1, "--skip-val",
    )  # fmt: skip
    log = (tmp_path / "run/log.txt").read_text()
    assert "WARNING" in log and "backbone alone" in log and "tensors of the backbone loaded" in log
