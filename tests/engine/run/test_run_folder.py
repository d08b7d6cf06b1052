"""What a run does with its folder: the lock, the state it continues from, and the one before it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from engine.config.schema import BaselineConfig
from engine.run.resume import STATE_FORMAT, find_state
from engine.setup.start import open_run
from tests.configs import make_config
from tests.conftest import Bomb
from tests.utils.test_lock import held_elsewhere
from utils.checkpoint import load_file, save_atomic
from utils.files import previous_of
from utils.flags import record
from utils.lock import FolderInUseError
from utils.signals import Interrupted


@pytest.fixture
def config(tmp_path) -> BaselineConfig:
    return make_config(save_dir=tmp_path, save_dir_name="run", resume="auto", lr=0.1)


@pytest.fixture
def folder(tmp_path, config) -> Path:
    """The folder of a run that was saved at iterations 2 and 4."""
    (tmp_path / "run").mkdir()
    for iteration in (2, 4):
        state = {"format": STATE_FORMAT, "iteration": iteration, "arguments": record(config)}
        save_atomic(state, tmp_path / "run" / "last_state.pth", keep_previous=True)
    save_atomic({}, tmp_path / "run" / "net.pth")
    return tmp_path / "run"


def with_run(config: BaselineConfig, **values) -> BaselineConfig:
    return replace(config, run=replace(config.run, **values))


def damage(path: Path) -> None:
    """Flips one bit in the middle."""
    content = bytearray(path.read_bytes())
    place = content.index(b"iteration")
    content[place] ^= 1
    path.write_bytes(content)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def begin(config: BaselineConfig):
    run = open_run(config, "net")
    run.start(config).close()
    return run


def test_newest_state_is_taken(config, folder):
    run = begin(config)
    assert run.iteration == 4 and run.continues_in_place and run.warning is None
    assert load_file(previous_of(run.last_state))["iteration"] == 2


@pytest.mark.parametrize("how", ["bit", "cut", "empty", "text"])
def test_damaged_state_gives_way_to_the_one_before(config, folder, how, capsys):
    path = folder / "last_state.pth"
    if how == "bit":
        damage(path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "text": b"not found"}[how])
    run = begin(config)
    assert run.iteration == 2 and run.continues_in_place
    output = capsys.readouterr().out
    assert "WARNING" in output and "last_state.pth" in output and "last_state.pth.previous" in output
    assert (folder / "net.pth").exists() and yaml.safe_load((folder / "args.yaml").read_text())
    # the good one stays the previous one while the next is written, and after
    assert names(folder) >= {"last_state.pth.previous", "last_state.pth.set_aside"}
    assert "last_state.pth" not in names(folder)
    state = {"format": STATE_FORMAT, "iteration": 6, "arguments": record(config)}
    save_atomic(state, run.last_state, keep_previous=True)
    assert load_file(previous_of(run.last_state))["iteration"] == 2 and begin(config).iteration == 6


def test_missing_state_gives_way_too(config, folder):
    (folder / "last_state.pth").unlink()  # a kill on a file system without hard links
    assert begin(config).iteration == 2


def test_two_damaged_states(config, folder):
    for path in (folder / "last_state.pth", folder / "last_state.pth.previous"):
        damage(path)
    with pytest.raises(ValueError, match=r"last_state\.pth is damaged.*last_state\.pth\.previous is damaged"):
        open_run(config, "net")


def test_named_state_that_is_damaged_names_the_one_before(config, folder):
    damage(folder / "last_state.pth")
    for resume in (folder, folder / "last_state.pth"):
        config = with_run(config, resume=str(resume))
        with pytest.raises(ValueError, match=r"--resume .*last_state\.pth\.previous"):
            open_run(config, "net")
    config = with_run(config, resume=str(folder / "last_state.pth.previous"))
    assert begin(config).iteration == 2


def test_state_with_code_is_refused_and_no_other_taken(config, folder, tmp_path):
    save_atomic({"iteration": Bomb(tmp_path / "made")}, folder / "last_state.pth")
    with pytest.raises(ValueError, match=r"last_state\.pth is refused: it holds posix\.mkdir"):
        open_run(config, "net")
    assert not (tmp_path / "made").exists()


@pytest.fixture
def holder(folder):
    with held_elsewhere(folder) as (process, _):
        yield process


@pytest.mark.parametrize("resume, overwrite", [("auto", False), (None, True), (None, False)])
def test_second_run_in_one_folder_is_refused_and_changes_nothing(config, folder, holder, resume, overwrite):
    config = with_run(config, resume=resume, overwrite=overwrite)
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    with pytest.raises(FolderInUseError, match=f"run is in use: process {holder.pid} on "):
        open_run(config, "net")
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    holder.kill()
    holder.wait()
    config = with_run(config, overwrite=config.run.resume is None)
    assert begin(config).folder == folder


def test_folder_that_was_made_since_it_was_looked_for_is_refused(config, tmp_path):
    config = with_run(config, resume=None)
    run = open_run(config, "net")
    (tmp_path / "run").mkdir()
    save_atomic({}, tmp_path / "run" / "net.pth")
    with pytest.raises(FileExistsError, match=r"holds a run \(net\.pth\)"):
        run.start(config)
    assert load_file(tmp_path / "run" / "net.pth") == {}


def test_overwriting_removes_all_states_and_leftovers_of_killed_saves(config, folder):
    (folder / ".last_state.pth.elsewhere-1-0.tmp").write_bytes(b"part")
    (folder / "last_state.pth.set_aside").write_bytes(b"old")
    config = with_run(config, resume=None, overwrite=True)
    assert begin(config).iteration == 0
    assert names(folder) <= {".lock", "args.yaml", "log.txt"}


def test_a_state_set_aside_in_the_same_folder_survives_until_the_next_save(config, folder):
    aside = folder / "last_state.pth.set_aside"
    (folder / "last_state.pth").rename(aside)
    save_atomic({"best": 4}, folder / "net_best_model.pth")
    config = with_run(config, resume=str(aside), overwrite=True)
    assert begin(config).iteration == 4
    assert load_file(aside)["iteration"] == 4 and load_file(folder / "net_best_model.pth") == {"best": 4}
    assert not (folder / "net.pth").exists()


def test_a_signal_while_a_state_is_read_is_no_damage(config, folder, monkeypatch):
    def interrupted(*_, **__):
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(torch, "load", interrupted)
    with pytest.raises(Interrupted):
        find_state("auto", folder / "last_state.pth")
    assert (folder / "last_state.pth").exists()


def test_memory_that_is_short_is_no_damage(folder, monkeypatch):
    def short(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(OSError, match="not enough memory to read it"):
        load_file(folder / "last_state.pth")
