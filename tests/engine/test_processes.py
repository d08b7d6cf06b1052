"""torchrun with two processes on the CPU against one process on the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import assert_same, metric_lines
from tests.processes import run_processes
from utils.checkpoint import load_file

ROOT = Path(__file__).resolve().parents[2]


def launch(processes: int, *words, timeout: int = 180) -> subprocess.CompletedProcess:
    """An entry point under `processes` processes; the rendezvous takes a free port on the loopback."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += [f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_distillation_step_does_not_depend_on_the_number_of_processes(distillation, tmp_path, accumulation):
    words = ["train_cirkdv2.py", *distillation, "--batch-size", 4, "--max-iterations", 1, "--skip-val"]
    words += ["--freeze-bn", "--no-dropout", "--bank-dtype", "float32", "--accumulation-steps", accumulation]
    for processes in (1, 2):
        done = launch(processes, *words, "--save-dir-name", f"with_{processes}")
        assert done.returncode == 0, done.stderr
    one, two = (metric_lines(tmp_path / f"with_{processes}")[0] for processes in (1, 2))
    terms = [name for name in one if name.startswith("loss")]
    assert len(terms) == 10
    for name in terms:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name
    one, two = (load_file(tmp_path / f"with_{processes}/last_state.pth") for processes in (1, 2))
    for part in ("network", "distiller"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_validate_each_image_once(distillation, tmp_path):
    words = ["train_cirkdv2.py", *distillation, "--val-per-iters", 4, "--batch-size", 4]
    started = launch(2, *words)
    assert started.returncode == 0, started.stderr
    for processes in (1, 2):
        done = launch(
            processes, "eval.py", *distillation[:4], "--model", "psp_mobile", "--backbone", "mobilenetv3_small",
            "--pretrained", tmp_path / "run/kd_psp_mobile_mobilenetv3_small_custom.pth", "--device", "cpu",
            "--save-dir", tmp_path, "--save-dir-name", f"eval_{processes}", "--workers", 0,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "eval_1/results.csv").read_text() == (tmp_path / "eval_2/results.csv").read_text()


def test_indivisible_batch_says_what_divides(baseline):
    done = launch(2, "train_baseline.py", *baseline, "--batch-size", 3)
    assert done.returncode != 0
    assert 'Traceback (most recent call last):\n  File "/' not in done.stderr.split("error")[0]
    assert "batch" in done.stderr and "3" in done.stderr


def train_interrupted(words: list[str], interrupt_at: int | None) -> None:
    """Runs train_cirkdv2 in this process; Ctrl-C before the step of the given iteration."""
    import engine.train
    import train_cirkdv2

    step = engine.train._step

    def interrupted(model, training, *rest):
        if training.iteration == interrupt_at:
            raise KeyboardInterrupt
        step(model, training, *rest)

    sys.argv = ["train_cirkdv2.py", *words]
    engine.train._step = interrupted
    try:
        train_cirkdv2.main()
    except KeyboardInterrupt:
        pass
    finally:
        engine.train._step = step


def test_two_processes_resume_where_they_stopped(distillation, tmp_path):
    words = [*distillation, "--batch-size", 8, "--accumulation-steps", 2, "--ema-decay", 0.9, "--log-iter", 3]
    words = list(map(str, words))
    run_processes(train_interrupted, 2, words, None)
    broken = [*words, "--save-dir-name", "broken"]
    run_processes(train_interrupted, 2, broken, 3)
    assert load_file(tmp_path / "broken/last_state.pth")["iteration"] == 2
    run_processes(train_interrupted, 2, [*broken, "--resume", "auto"], None)
    whole, resumed = (load_file(tmp_path / name / "last_state.pth") for name in ("run", "broken"))
    for state in (whole, resumed):
        for name in ("save_dir_name", "resume"):
            state["arguments"].pop(name)
    assert_same(whole, resumed)
