"""A state that cannot be written: the last good one stays, and the run ends or continues by --on-save-error."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import engine.run.checkpointer
from engine.run.checkpointer import Checkpointer, space_warning
from engine.run.directory import RunDirectory
from engine.run.state import Best, TrainState
from engine.setup.tasks import SegmentationTask
from tests.conftest import at_step, metric_lines
from tests.processes import run_processes
from utils.checkpoint import load_file, plain, save_atomic
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
    at_step(monkeypatch, 2, lambda: os.rename(tmp_path / "run", tmp_path / "away"))
    at_step(monkeypatch, 4, lambda: os.rename(tmp_path / "away", tmp_path / "run"))
    run_main("train_baseline", *baseline, "--skip-val", "--on-save-error", "continue")
    assert "nothing was saved at iteration 2" in capsys.readouterr().out
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 4
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")][-1] == 4


def fail_on_main_process() -> str:
    def fails(*unused, **also):
        assert get_rank() == 0
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    engine.run.checkpointer.save_atomic = fails
    training = SimpleNamespace(iteration=7, best=Best(), state=lambda *_: {})
    logger = SimpleNamespace(flush=lambda: None)
    try:
        Checkpointer(training, {}, None, SimpleNamespace(last_state=None, continues_in_place=False), logger).save()
    except PermissionError as error:
        return f"{type(error).__name__} {error.errno}"
    return "continued"


def test_all_processes_get_the_error():
    assert run_processes(fail_on_main_process, 2) == [f"PermissionError {errno.EACCES}"] * 2


def training(kind: type) -> TrainState:
    task = SegmentationTask(nn.Linear(1000, 250, bias=False))  # 1 MB
    optimizer = kind(task.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    return TrainState(task, optimizer, torch.amp.GradScaler("cpu", enabled=False))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_estimate_is_what_the_files_take(kind, tmp_path, monkeypatch):
    made, run = training(kind), RunDirectory(tmp_path, "net")
    made.task.network(torch.ones(1, 1000)).sum().backward()
    made.optimizer.step()
    state = {"network": made.task.network.state_dict(), "optimizer": made.optimizer.state_dict()}
    save_atomic(plain(state), tmp_path / "state")
    save_atomic(made.task.network.state_dict(), tmp_path / "weights")
    needed = 3 * (tmp_path / "state").stat().st_size + 2 * (tmp_path / "weights").stat().st_size
    monkeypatch.setattr(engine.run.checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=0.98 * needed))
    assert "a save may fail" in space_warning(made, run)
    monkeypatch.setattr(engine.run.checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert space_warning(made, run) is None


def test_own_files_count_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.run.checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    made, run = training(torch.optim.SGD), RunDirectory(tmp_path, "net")
    assert "up to 8 MiB, and" in space_warning(made, run)  # 3 states of 2 MB, 2 checkpoints of 1 MB
    run.last_state.write_bytes(bytes(4_000_000))
    assert f"{tmp_path} has room for 4 MiB" in space_warning(made, run)
