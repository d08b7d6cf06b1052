"""--estimate: what it prints, what it does not touch, and the sums behind it."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import engine.setup.dry_run
from engine.config.schema import BaselineConfig
from engine.run import checkpointer
from engine.run.directory import RunDirectory
from engine.setup.dry_run import GIB, MIB, Measured, disk_rows, memory_rows, time_rows
from tests.configs import make_config
from tests.processes import run_processes, run_program

CPU = torch.device("cpu")
SETTINGS = {"batch_size": 8, "workers": 2, "max_iterations": 1000, "val_per_iters": 300}
CONFIG = make_config(**SETTINGS)
ONE = Measured(
    first=3.0,
    wait=0.1,
    compute=0.4,
    read=0.05,
    validate=0.2,
    validate_read=0.1,
    host="a",
    needs=2 * GIB,
    has=8 * GIB,
    details="a process 1.00 GiB",
)


def changed(**values) -> BaselineConfig:
    return make_config(**SETTINGS | values)


def figures(capsys) -> dict[str, str]:
    """The printed table; nothing else is printed."""
    return dict(re.split(r"(?:  +|: )", line, maxsplit=1) for line in capsys.readouterr().out.strip().splitlines())


@pytest.mark.parametrize("module", ["train_baseline", "train_cirkdv2"])
def test_an_estimate_shows_what_the_run_takes_and_writes_nothing(
    module, run_main, baseline, distillation, tmp_path, capsys
):
    words = baseline if module == "train_baseline" else distillation
    run_main(module, *words, "--estimate", "--accumulation-steps", 1, "--ema-decay", 0.9)
    assert list(tmp_path.iterdir()) == []
    rows = figures(capsys)
    assert rows["precision"] == "float32"
    network = "network" if module == "train_baseline" else "student"
    assert re.fullmatch(r"2\.\d\d M parameters, 0\.\d\d GMACs for a crop", rows[network])
    assert ("teacher" in rows) == ("memory banks" in rows) == (module == "train_cirkdv2")
    total, data, compute = (float(x) for x in re.findall(r"\d+\.\d+", rows["step"]))
    assert total == pytest.approx(data + compute, abs=0.0021) and compute > 0.001
    assert rows["training"].startswith("4 iterations, ") and rows["validation"].startswith("2 times ")
    assert float(rows["memory of the machine"].split()[0]) > 0 and rows["fits"] == "yes"
    assert "MiB" in rows["disk"] and "free" in rows["disk"]


def test_estimate_leaves_a_run_alone_and_counts_from_where_it_stands(run_main, baseline, tmp_path, capsys):
    run_main("train_baseline", *baseline, "--max-iterations", 4, "--max-seconds", 1000, "--save-per-iters", 3)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    capsys.readouterr()
    words = [*baseline, "--max-seconds", 1000, "--estimate"]
    run_main("train_baseline", *words)  # the folder holds a run, which does not matter here
    assert figures(capsys)["training"].startswith("4 iterations")
    run_main("train_baseline", *words, "--resume", "auto")
    assert figures(capsys)["training"].startswith("0 iterations")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_full_memory_is_explained(run_main, baseline, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(engine.setup.dry_run, "train_step", full)
    run_main("train_baseline", *baseline, "--estimate")
    answer = figures(capsys)["fits"]
    assert answer.startswith("no. ") and "2 image(s) of 40x56" in answer and "--amp bf16" in answer
    assert not list(tmp_path.iterdir())


def test_time_is_that_of_steps_and_validations():
    rows = dict(time_rows([ONE], 50, CONFIG, start_iteration=0))
    assert rows["step"] == "0.500 s: data 0.100, forward, backward and update 0.400"
    assert rows["training"] == "1000 iterations, 8:20"
    # at 300, 600, 900 and 1000; two loaders read faster than the network predicts
    assert rows["validation"] == "4 times 0:10: 50 images, 200 ms each" and rows["in total"].startswith("9:00")
    rows = dict(time_rows([ONE], 50, CONFIG, start_iteration=900))
    assert rows["training"].startswith("100 iterations, 0:50") and rows["validation"].startswith("1 times")


def test_the_slowest_part_counts():
    two = [ONE, replace(ONE, compute=0.6)]
    rows = dict(time_rows(two, 51, CONFIG, 0))
    assert rows["training"] == "1000 iterations, 11:40" and "26 images" not in rows["validation"]
    rows = dict(time_rows([replace(ONE, read=1.0)], 50, CONFIG, 0))  # 8 images of 1 s with two loaders
    assert rows["step, waiting for data"].startswith("4.000 s") and rows["training"].endswith("1:06:40")
    rows = dict(time_rows([ONE], 50, changed(max_seconds=100.0), 0))
    assert rows["iterations"] == "200 of 1000 fit into --max-seconds 100" and rows["training"].startswith("200 iter")


def test_memory_of_all_processes_of_a_machine_is_added():
    (row,), problems = memory_rows([ONE, ONE, replace(ONE, host="b")], CONFIG, CPU)
    assert row[1].startswith("4.00 GiB of 8.00 GiB: 2 process(es), a process 1.00 GiB")
    assert problems == []
    _, (problem,) = memory_rows([ONE] * 4, changed(amp="bf16"), CPU)
    assert "8.00 GiB of memory are needed" in problem and "95%" in problem
    assert "--amp" not in problem and "--grad-checkpointing" in problem


def test_a_disk_that_is_too_small_is_an_answer(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "no/such/folder", "stem")
    state = SimpleNamespace(evaluated_network=nn.Linear(1, 1))
    for module in (checkpointer, engine.setup.dry_run):
        monkeypatch.setattr(module, "state_bytes", lambda state: 100 * MIB)
        monkeypatch.setattr(module, "tensor_bytes", lambda weights: 10 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=320 * MIB))
    (row,), problems = disk_rows(state, CONFIG, run)
    assert row[1] == "state 100 MiB, checkpoint 10 MiB; 220 MiB in total, 320 MiB while saving, of 320 MiB free"
    assert problems == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=319 * MIB))
    assert f"{run.folder} has 319 MiB" in disk_rows(state, CONFIG, run)[1][0]


@pytest.mark.slow
def test_two_processes_estimate_together(distillation, tmp_path):
    words = [*distillation, "--estimate", "--batch-size", 4]
    output = "".join(output for _, output, _ in run_processes(run_program, 2, "train_cirkdv2", words))
    assert output.count("fits: yes") == 1 and "2 process(es), " in output
    assert not list(tmp_path.iterdir())
