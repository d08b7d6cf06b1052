"""A state that cannot be written: the last good one stays, and the run ends or continues by --on-save-error."""

import errno
import os

import pytest

import engine.run.checkpointer
import engine.training.loop
from engine.run.checkpointer import Checkpointer
from tests.conftest import metric_lines
from tests.processes import run_processes
from utils.checkpoint import load_file
from utils.distributed import get_rank


def full_from(monkeypatch, tmp_path, first: int, last: int) -> list[int]:
    """The disk is full for the state's writes `first` to `last`; returns the list in which writes are counted."""
    write, count = engine.run.checkpointer.save_atomic, []

    def fails(obj, path, *rest, **also):
        if path.name == "last_state.pth":
            count.append(obj["iteration"])
            if first <= len(count) <= last:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(obj, path, *rest, **also)

    monkeypatch.setattr(engine.run.checkpointer, "save_atomic", fails)
    return count


def test_full_disk_stops_the_run_with_the_last_good_state(run_main, baseline, tmp_path, monkeypatch):
    full_from(monkeypatch, tmp_path, 2, 9)
    with pytest.raises(OSError, match="No space left") as error:
        run_main("train_baseline", *baseline, "--save-per-iters", 1, "--skip-val")
    assert error.value.errno == errno.ENOSPC
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 1


def test_full_disk_is_tried_again(run_main, baseline, tmp_path, monkeypatch, capsys):
    tries = full_from(monkeypatch, tmp_path, 2, 3)
    words = [*baseline, "--save-per-iters", 1, "--on-save-error", "continue", "--val-per-iters", 2]
    run_main("train_baseline", *words)
    assert tries == [1, 2, 3, 4]
    output = capsys.readouterr().out
    assert output.count("nothing was saved at iteration") == 2 and "No space left" in output
    state = load_file(tmp_path / "run/last_state.pth")
    # the best network of iteration 2 could not be kept, so it is not claimed
    assert (state["iteration"], state["best"]["iteration"]) == (4, 4)
    assert len(list((tmp_path / "run").glob("*best*"))) == 1


def test_last_save_must_not_fail(run_main, baseline, tmp_path, monkeypatch):
    full_from(monkeypatch, tmp_path, 2, 2)
    with pytest.raises(OSError, match="No space left"):
        run_main("train_baseline", *baseline, "--skip-val", "--on-save-error", "continue")
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
def test_folder_that_vanishes_is_reported_and_training_continues(run_main, baseline, tmp_path, monkeypatch, capsys):
    step = engine.training.loop.train_step

    def moved(model, training, *rest):
        if training.iteration == 1:
            os.rename(tmp_path / "run", tmp_path / "away")
        if training.iteration == 3:
            os.rename(tmp_path / "away", tmp_path / "run")
        return step(model, training, *rest)

    monkeypatch.setattr(engine.training.loop, "train_step", moved)
    run_main("train_baseline", *baseline, "--skip-val", "--on-save-error", "continue")
    assert "nothing was saved at iteration 2" in capsys.readouterr().out
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 4
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")][-1] == 4


class _Training:
    iteration = 7

    def __init__(self):
        from engine.run.state import Best

        self.best = Best()

    def state(self, *unused):
        return {}


def fail_on_main_process() -> str:
    class Logger:
        def flush(self):
            pass

    def fails(*unused, **also):
        assert get_rank() == 0
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    engine.run.checkpointer.save_atomic = fails
    run = type("Run", (), {"last_state": None})
    try:
        Checkpointer(_Training(), {}, None, run, Logger()).save()
    except PermissionError as error:
        return f"{type(error).__name__} {error.errno}"
    return "continued"


@pytest.mark.slow
def test_all_processes_get_the_error():
    assert run_processes(fail_on_main_process, 2) == [f"PermissionError {errno.EACCES}"] * 2
