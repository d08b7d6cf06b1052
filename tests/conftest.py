"""Small runs of the entry points, in this process."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import engine.training.loop
from tests.pseudo_datasets import write_pseudo_dataset
from utils.checkpoint import load_file

TEACHER = ("deeplabv3_mobilenet_ssseg", "mobilenetv3_large")
STUDENT = ("psp_mobile", "mobilenetv3_small")

torch.set_num_threads(1)  # as in the processes that tests start: sums of several threads round in another way


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """Four images of 48x64 per split and three classes, in the custom layout."""
    return write_pseudo_dataset("custom", tmp_path_factory.mktemp("data"), size=(48, 64), count=4)


@pytest.fixture
def run_main(monkeypatch):
    """Calls an entry point's `main` with a command line, leaving the global seeds and flags as they were."""

    def run(module: str, *words) -> None:
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, words)])
        with torch.random.fork_rng(devices=[]):
            importlib.import_module(module).main()

    return run


@pytest.fixture(scope="session")
def teacher_file(data_root, tmp_path_factory) -> Path:
    """An untrained teacher's weights."""
    from models import build_model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(build_model(*TEACHER, 3).state_dict(), path)
    return path


@pytest.fixture
def common(data_root, tmp_path) -> list:
    """Flags of a tiny run below `tmp_path`."""
    words = ["--dataset", "custom", "--data", data_root, "--crop-size", 40, 56, "--batch-size", 2, "--workers", 0]
    words += ["--max-iterations", 4, "--log-iter", 1, "--save-per-iters", 2, "--val-per-iters", 2, "--device", "cpu"]
    return [*words, "--save-dir", tmp_path, "--save-dir-name", "run"]


@pytest.fixture
def baseline(common) -> list:
    return [*common, "--model", STUDENT[0], "--backbone", STUDENT[1]]


@pytest.fixture
def distillation(common, teacher_file) -> list:
    words = ["--teacher-model", TEACHER[0], "--teacher-backbone", TEACHER[1], "--teacher-pretrained", teacher_file]
    words += ["--student-model", STUDENT[0], "--student-backbone", STUDENT[1], "--skip-teacher-check"]
    words += ["--pixel-memory-size", 50, "--region-memory-size", 20, "--channel-memory-size", 300]
    return [*common, *words, "--pixel-contrast-size", 64, "--region-contrast-size", 24, "--channel-contrast-size", 64]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def at_step(monkeypatch, iteration: int, do) -> None:
    """Calls `do` before the step that makes so many."""
    step = engine.training.loop.train_step

    def disturbed(model, training, *rest):
        if training.iteration + 1 == iteration:
            do()
        return step(model, training, *rest)

    monkeypatch.setattr(engine.training.loop, "train_step", disturbed)


def interrupt(*_, **__) -> None:
    """What Ctrl-C does outside the loop's handler; takes the place of any function."""
    raise KeyboardInterrupt


def metric_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[dict]:
    """What a run logged that does not depend on the time it took."""
    return [
        {key: value for key, value in line.items() if key in ("iteration", "validation", "lr") or key[:4] == "loss"}
        for line in metric_lines(folder)
    ]


def assert_same_runs(folder: Path, other: Path, *settings: str) -> None:
    """The last states of two runs are equal but for their folders and `settings`."""
    states = [load_file(path / "last_state.pth") for path in (folder, other)]
    for state in states:
        state["arguments"] = {
            name: value
            for name, value in state["arguments"].items()
            if name not in ("save_dir_name", "resume", *settings)
        }
    assert_same(*states)


def assert_same(left, right, place: str = "") -> None:
    """Equal in structure and, tensors bit for bit, in value."""
    assert type(left) is type(right), place
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), place
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            assert_same(left[key], right[key], f"{place}[{key!r}]")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), place
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{place}[{index}]")
    else:
        assert left == right, place
