"""Signals end a training run after its step, with its state saved, and the resumed run equals an undisturbed one."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

import utils.signals
from engine.evaluation import evaluator
from engine.run import checkpointer
from engine.training import loop
from engine.training.stopping import StopController, ValidationStopped
from tests.conftest import assert_same, assert_same_runs, at_step, interrupt, losses, metric_lines
from tests.processes import TORCHRUN, run_processes, start_python
from utils.checkpoint import load_file
from utils.cli import EXIT_RESUMABLE, run_cli
from utils.distributed import get_rank
from utils.signals import SIGNALS, Interrupted, SignalHandler


def assert_continues_as_unbroken(run_main, words: list, folder: Path) -> None:
    """Resumes the run in `folder`, and compares its end with that of an undisturbed run."""
    run_main("train_baseline", *words, "--resume", "auto")
    run_main("train_baseline", *words, "--save-dir-name", "whole")
    assert_same_runs(folder.parent / "whole", folder)
    assert losses(folder.parent / "whole") == losses(folder)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_ends_the_run_after_its_step(run_main, baseline, tmp_path, monkeypatch, number, capsys):
    before = signal.getsignal(number)
    words = [*baseline, "--ema-decay", 0.9, "--save-per-iters", 4, "--log-iter", 2, "--skip-val"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after iteration 3.*--resume auto"):
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        run_main("train_baseline", *words)
    assert signal.getsignal(number) is before
    assert f"{number.name}: ending after iteration 3" in capsys.readouterr().out
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 3
    if number is signal.SIGTERM:
        assert_continues_as_unbroken(run_main, words, tmp_path / "run")


def test_signal_breaks_validation_off_and_resuming_makes_it_again(run_main, baseline, tmp_path, monkeypatch):
    passed = evaluator.ConfusionMatrix.update

    def disturbed(self, *rest):
        signal.raise_signal(signal.SIGTERM)
        return passed(self, *rest)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(evaluator.ConfusionMatrix, "update", disturbed)
        run_main("train_baseline", *baseline)
    folder = tmp_path / "run"
    state = load_file(folder / "last_state.pth")
    assert (state["iteration"], state["validation_due"], state["best"]["iteration"]) == (2, True, 0)
    assert not [line for line in metric_lines(folder) if "validation" in line]

    # killed after the validation was logged, before the state that knows of it: it is made once more and logged once
    save = loop.Checkpointer.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Checkpointer, "save", interrupt)
        run_main("train_baseline", *baseline, "--resume", "auto")
    assert loop.Checkpointer.save is save
    assert [line["iteration"] for line in metric_lines(folder) if "validation" in line] == [2]
    assert_continues_as_unbroken(run_main, baseline, folder)
    text = (folder / "log.txt").read_text()
    assert text.count("resumed at iteration 2") == 2 and text.count("iteration 2/4") == 1


def dying_at(write, ending: str, after_lines: int, folder: Path):
    """`save_atomic` that ends as SIGKILL would before it writes a file, once the run has logged so much."""

    def dies(weights, path, *rest, **also):
        if path.name.endswith(ending) and len(metric_lines(folder)) > after_lines:
            raise KeyboardInterrupt
        write(weights, path, *rest, **also)

    return dies


def test_killed_between_the_files_of_every_save(run_main, baseline, tmp_path, monkeypatch):
    folder, start = tmp_path / "run", []
    for ending, lines in (("last_state.pth", 1), ("custom.pth", 1), ("last_state.pth", 3), ("best_model.pth", 1)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpointer, "save_atomic", dying_at(checkpointer.save_atomic, ending, lines, folder))
            run_main("train_baseline", *baseline, *start)
        start = ["--resume", "auto"]
    assert_continues_as_unbroken(run_main, baseline, folder)
    for path in (tmp_path / "whole").glob("*custom*.pth"):
        assert_same(*(dict(load_file(p)) for p in (path, folder / path.name)))


def test_best_checkpoint_is_completed_before_training_continues(run_main, baseline, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpointer, "save_atomic", dying_at(checkpointer.save_atomic, "best_model.pth", 0, folder))
        run_main("train_baseline", *baseline)
    state = load_file(tmp_path / "run/last_state.pth")
    assert state["iteration"] == state["best"]["iteration"] == 2 and not list((tmp_path / "run").glob("*best*"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, interrupt)
        run_main("train_baseline", *baseline, "--resume", "auto")
    (best,) = (tmp_path / "run").glob("*best*")
    assert_same(dict(load_file(best)), dict(state["network"]))


def test_run_killed_before_its_first_state_starts_anew(run_main, baseline, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 2, interrupt)
        run_main("train_baseline", *baseline)
    assert_continues_as_unbroken(run_main, baseline, tmp_path / "run")
    assert (tmp_path / "run/log.txt").read_text().count("iteration 1/4") == 1


def test_run_continued_elsewhere_can_be_continued_from_its_first_moment(run_main, baseline, tmp_path, monkeypatch):
    words = [*baseline, "--skip-val"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        run_main("train_baseline", *words)
    elsewhere = [*words, "--save-dir-name", "elsewhere"]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, 4, lambda: 1 / 0)  # as if it were killed, before it has saved
        run_main("train_baseline", *elsewhere, "--resume", tmp_path / "run")
    assert load_file(tmp_path / "elsewhere/last_state.pth")["iteration"] == 3
    run_main("train_baseline", *elsewhere, "--resume", "auto")
    assert load_file(tmp_path / "elsewhere/last_state.pth")["iteration"] == 4


def test_second_ctrl_c_ends_at_once_unless_torchrun_passed_the_first_on(monkeypatch):
    clock = iter([0.0, 0.5, 3.0])
    monkeypatch.setattr(utils.signals.time, "monotonic", lambda: next(clock))
    with SignalHandler() as interrupts:
        assert not interrupts.pending
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupts.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_at_start_up_has_the_same_exit_code(number, capsys):
    handlers = [signal.getsignal(n) for n in SIGNALS]
    try:
        with pytest.raises(SystemExit) as end:
            run_cli(lambda: signal.raise_signal(number), resumable=True)
    finally:
        for n, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(n, handler)
    assert end.value.code == EXIT_RESUMABLE == 75
    assert capsys.readouterr().err.startswith(f"interrupted: {number.name} before training began")


def agree_on_two_processes() -> list:
    """Rank 1 is asked to stop at the second step, and finds the third bad; then validation stops."""
    stop = StopController(100, None, torch.device("cpu"))
    answers = []
    for step in range(4):
        if step == 1 and get_rank() == 1:
            stop._signals.name = "SIGTERM"
        bad = stop.exchange(torch.tensor(step == 2 and get_rank() == 1))
        answers.append([stop.requested, bool(bad)])
    taken = []
    try:
        for batch in stop.interruptible(range(3)):
            taken.append(batch)
    except ValidationStopped:
        answers.append([len(taken), "stopped"])
    return answers


def test_all_processes_stop_after_the_same_step():
    first, second = run_processes(agree_on_two_processes, 2)
    assert first[:4] == second[:4] == [[False, False], [True, False], [True, True], [True, False]]
    assert first[4] == [3, "stopped"] and second[4] == [0, "stopped"]


def test_restart_by_torchrun_continues_even_with_overwrite(run_main, baseline, tmp_path, monkeypatch):
    run_main("train_baseline", *baseline, "--skip-val")  # an earlier run, to be overwritten
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    words = [*baseline, "--overwrite", "--skip-val"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # not this launch's: overwritten
        at_step(patch, 4, interrupt)
        run_main("train_baseline", *words)
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 2
    run_main("train_baseline", *words)  # this launch's: continued
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert "continuing at iteration 2" in (tmp_path / "run/log.txt").read_text()
    assert yaml.safe_load((tmp_path / "run/args.yaml").read_text())["launcher"].endswith(str(os.getppid()))


@pytest.mark.gpu
def test_deterministic_run_on_a_gpu_continues_bit_for_bit(run_main, baseline, tmp_path, monkeypatch):
    words = [*baseline, "--device", "cuda", "--deterministic", "--ema-decay", 0.9, "--log-iter", 2, "--skip-val"]
    try:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
            run_main("train_baseline", *words)
        assert_continues_as_unbroken(run_main, words, tmp_path / "run")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_torchrun_passes_the_signal_on_and_the_run_can_be_continued(baseline, tmp_path, number):
    words = [*baseline, "--max-iterations", 2000, "--save-per-iters", 2000, "--val-per-iters", 2000, "--batch-size", 4]
    command = [*TORCHRUN, "--nproc-per-node=2", "train_baseline.py", *words, "--workers", 1]
    (process,) = start_python(command)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - sent < 20, errors
    state = load_file(tmp_path / "run/last_state.pth")
    assert 0 < state["iteration"] < 2000
    assert f"{number.name}: ending after iteration {state['iteration']}" in (tmp_path / "run/log.txt").read_text()
    assert "--resume auto" in errors  # between torchrun's own words
