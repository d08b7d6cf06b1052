import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

from tests.conftest import metric_lines
from utils import logger as logger_module
from utils.logger import RunLogger


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_messages_reach_console_and_file_alone(tmp_path, capsys, caplog):
    folder = tmp_path / "a" / "b"
    with RunLogger(folder, tensorboard=False) as run:
        run.info("100% of %s done")  # no formatting of what the caller has formatted
        run.warning("careful")
        run.error("broken")
    assert capsys.readouterr().out.splitlines() == ["100% of %s done", "WARNING careful", "ERROR broken"]
    assert not caplog.text
    written = (folder / "log.txt").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in written] == [
        "INFO    100% of %s done",
        "WARNING careful",
        "ERROR   broken",
    ]


def test_messages_pass_a_progress_bar(tmp_path, capsys, monkeypatch):
    through_bar = []
    monkeypatch.setattr(logger_module.tqdm, "write", lambda text, file: through_bar.append((text, file)))
    with RunLogger(tmp_path, tensorboard=False) as run:
        with tqdm(total=3, file=open("/dev/null", "w")):
            run.info("during")
            assert through_bar == [("during", sys.stdout)]
        run.info("after")
    assert len(through_bar) == 1 and capsys.readouterr().out == "after\n"


def test_metrics_are_strict_json(tmp_path):
    with RunLogger(tmp_path, tensorboard=False) as run:
        run.metrics({"iteration": 1, "loss": float("nan"), "up": float("inf"), "down": -np.inf, "ok": 0.5})
        run.metrics({"iteration": np.int64(2), "path": Path("x"), "t": torch.tensor(1.5), "list": (1, np.float32(2))})
        text = (tmp_path / "metrics.jsonl").read_text()  # on disk at once

    def refuse(constant):
        raise AssertionError(constant)

    first, second = (json.loads(line, parse_constant=refuse) for line in text.splitlines())
    assert first == {"iteration": 1, "loss": "nan", "up": "inf", "down": "-inf", "ok": 0.5}
    assert second == {"iteration": 2, "path": "x", "t": 1.5, "list": [1, 2.0]}


@pytest.mark.parametrize("start, expected", [(None, [0, 10, 20, 30, 5]), (20, [0, 10, 20, 5]), (0, [0, 5])])
def test_resume_cuts_later_figures(tmp_path, start, expected):
    with RunLogger(tmp_path, tensorboard=False) as run:
        for iteration in (0, 10, 20, 30):
            run.metrics({"iteration": iteration})
    with RunLogger(tmp_path, tensorboard=False, start_iteration=start) as run:
        run.metrics({"iteration": 5})
    assert [line["iteration"] for line in metric_lines(tmp_path)] == expected
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_resume_drops_an_unfinished_line_and_keeps_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "start"}\n{"iteration": 10}\n{"iteration": 20, "lo')
    with RunLogger(tmp_path, tensorboard=False, start_iteration=20) as run:
        run.metrics({"iteration": 30})
    assert metric_lines(tmp_path) == [{"kind": "start"}, {"iteration": 10}, {"iteration": 30}]


def test_a_resume_is_logged_and_a_second_logger_doubles_no_line(tmp_path, capsys):
    with RunLogger(tmp_path, tensorboard=False, start_iteration=0) as run:
        run.info("first")
    with RunLogger(tmp_path, tensorboard=False, start_iteration=20) as run:
        run.info("second")
    messages = [line.split(maxsplit=3)[3] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert messages == ["first", "resumed at iteration 20", "second"]
    assert capsys.readouterr().out.count("second") == 1


def test_tensorboard(tmp_path):
    with RunLogger(tmp_path) as run:
        run.scalars({"loss": {"task": 1.0, "kd": torch.tensor(2.0)}, "lr": 0.5, "left_out": None}, 1)
        run.scalars({"lr": 0.25}, 20)
        run.scalars({"lr": 0.125}, 30)
        run.image("val/panel", np.zeros((4, 5, 3), np.uint8), 20)
        run.text("args", "lr: 1")
    found = events(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["loss/kd", "loss/task", "lr"]
    assert [(e.step, e.value) for e in found.Scalars("lr")] == [(1, 0.5), (20, 0.25), (30, 0.125)]
    image = found.Images("val/panel")[0]
    assert (image.height, image.width) == (4, 5)
    with RunLogger(tmp_path, start_iteration=20) as run:
        run.scalars({"lr": 9.0}, 25)
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("lr")] == [(1, 0.5), (20, 0.25), (25, 9.0)]


def test_flush_brings_events_to_disk(tmp_path):
    run = RunLogger(tmp_path)
    run.metrics({"iteration": 1})
    run.scalars({"lr": 0.5}, 1)
    run.flush()
    assert [e.step for e in events(tmp_path).Scalars("lr")] == [1]
    run.close()


def test_without_tensorboard_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with RunLogger(tmp_path) as run:
        run.scalars({"lr": 1.0}, 0)
        run.scalars({"lr": 1.0}, 1)
    assert capsys.readouterr().out.count("no TensorBoard curves") == 1


def test_other_processes_do_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    with RunLogger(folder, main_process=False, start_iteration=3) as run:
        run.info("x")
        run.metrics({"iteration": 1})
        run.scalars({"lr": 1.0}, 1)
        run.image("i", np.zeros((2, 2, 3), np.uint8), 1)
        run.text("t", "x")
        run.flush()
    assert not folder.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("full", [False, True])
def test_a_write_that_fails_is_reported_once_and_the_run_goes_on(full, tmp_path, capsys):
    """The files cannot be opened, or the device is full."""
    for name in ("log.txt", "metrics.jsonl"):
        if full:
            (tmp_path / name).symlink_to("/dev/full")
        else:
            (tmp_path / name).mkdir()
    with RunLogger(tmp_path, tensorboard=False) as run:
        for _ in range(3):
            run.info("still here")
            run.metrics({"iteration": 1})
        run.flush()
    output = capsys.readouterr()
    assert output.out.count("still here") == 3 and output.err == ""
    assert output.out.count("No space left" if full else "cannot write") == 2
