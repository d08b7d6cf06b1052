from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.run import checkpointer
from engine.run.checkpointer import space_warning
from engine.run.directory import RunDirectory
from engine.run.state import TrainState
from engine.setup.tasks import SegmentationTask
from utils.checkpoint import plain, save_atomic


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
    monkeypatch.setattr(checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=0.98 * needed))
    assert "a save may fail" in space_warning(made, run)
    monkeypatch.setattr(checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert space_warning(made, run) is None


def test_own_files_count_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointer.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    made, run = training(torch.optim.SGD), RunDirectory(tmp_path, "net")
    assert "up to 8 MiB, and" in space_warning(made, run)  # 3 states of 2 MB, 2 checkpoints of 1 MB
    run.last_state.write_bytes(bytes(4_000_000))
    assert f"{tmp_path} has room for 4 MiB" in space_warning(made, run)
