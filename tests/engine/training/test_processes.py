"""Entry points in several processes on the CPU against one process on the same global batch."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from engine.config.methods import method_names
from tests.conftest import TEACHER, assert_same_runs, at_step, interrupt, metric_lines
from tests.frozen import double_precision
from tests.processes import TORCHRUN, run_mains, run_processes, start_python
from utils.checkpoint import load_file


def run_mains_in_double(*runs) -> None:
    """In single precision, batch norms over so few values leave nothing of some gradients but rounding."""
    with double_precision():
        run_mains(*runs)


def compare_processes(runs: dict[str, tuple[str, list]], folder: Path, worlds=(1, 2, 3)) -> None:
    """Losses of the first step, what has trained and figures of validation do not depend on the processes."""
    for world in worlds:
        own = [(module, [*words, "--save-dir-name", f"{name}_{world}"]) for name, (module, words) in runs.items()]
        if world == 1:
            run_mains_in_double(*own)
        else:
            run_processes(run_mains_in_double, world, *own, timeout=120 + 60 * len(own))
    for name in runs:
        expected, *others = (folder / f"{name}_{world}" for world in worlds)
        for other in others:
            (one, *_, one_val), (more, *_, more_val) = metric_lines(expected), metric_lines(other)
            assert one.keys() == more.keys()
            for term in (term for term in one if term.startswith("loss")):
                assert more[term] == pytest.approx(one[term], rel=1e-6, abs=1e-9), f"{other.name}: {term}"
            figures = [value["validation"] | value["validation"].pop("class_iou") for value in (more_val, one_val)]
            assert figures[0] == pytest.approx(figures[1], rel=1e-6), other.name
            one, more = (load_file(place / "last_state.pth") for place in (expected, other))
            for part in one.keys() & {"network", "distiller", "balance"}:
                for key, value in one[part].items():
                    # The count that a mean over processes divides by is a float32.
                    error = (more[part][key].double() - value.double()).norm()
                    assert error <= 1e-5 * value.double().norm() + 1e-9, f"{other.name}: {key}"


ALIKE = ["--batch-size", 6, "--max-iterations", 1, "--no-dropout"]
UNFOLDED = ["--no-fold-teacher"]  # folding is checked on images in single precision


def unlabelled(data_root: Path) -> list:
    """Half of each batch from images whose masks are not looked at; the teacher is sure enough of some pixels."""
    return ["--unlabelled", data_root / "images", "--unlabelled-fraction", 0.5, "--pseudo-threshold", 0.2]


def test_training_does_not_depend_on_the_number_of_processes(distillation, data_root, tmp_path):
    """Through the entry point: loader, loop with micro-batches, validation on 4 images, saving."""
    words = [*distillation, *ALIKE, *UNFOLDED, "--batch-size", 12, "--accumulation-steps", 2, "--bank-dtype", "float32"]
    words += ["--balance", *unlabelled(data_root)]
    words += ["--balance", "--class-weights", "balanced", "--ohem", "threshold:0.4", "--dice", 0.5]
    words += ["--label-smoothing", 0.1, "--color-jitter", 0.3, 0.3, 0.3, 0.1, "--crop-by-class", 0.7]
    compare_processes({"run": ("train_cirkdv2", words)}, tmp_path, worlds=(1, 3))
    assert sum(name.startswith("loss") for name in metric_lines(tmp_path / "run_3")[0]) == 11
    shutil.rmtree(tmp_path / "label_counts")
    words += ["--save-dir-name", "counted_by_2"]
    run_processes(run_mains, 2, ("train_cirkdv2", words))
    weights, expected = (
        load_file(tmp_path / name / "last_state.pth")["task_loss"]["class_weights"]
        for name in ("counted_by_2", "run_1")
    )
    assert torch.equal(weights, expected) and len(list((tmp_path / "label_counts").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_method_depends_on_the_number_of_processes(distillation, baseline, data_root, tmp_path):
    first = distillation.index("--pixel-memory-size")
    words = [*distillation[:first], *ALIKE, *UNFOLDED]
    runs = {method: ("train_kd", [*words, "--method", method]) for method in method_names()}
    small = ["--pixel-memory-size", 50, "--region-memory-size", 20, "--bank-dtype", "float32"]
    runs["cirkd"][1].extend(small)
    runs["cirkdv2"] = ("train_cirkdv2", [*distillation, *ALIKE, *UNFOLDED, "--bank-dtype", "float32"])
    taught = [*words, "--method", "kd+dkd+ifvd", *unlabelled(data_root), "--pseudo-labels"]
    runs["unlabelled"] = ("train_kd", taught)
    runs["baseline"] = ("train_baseline", [*baseline, *ALIKE])
    compare_processes(runs, tmp_path)


def test_evaluation_under_torchrun_equals_one_process(data_root, teacher_file, run_main, tmp_path):
    words = ["--dataset", "custom", "--data", data_root, "--model", TEACHER[0], "--backbone", TEACHER[1]]
    words += ["--pretrained", teacher_file, "--device", "cpu", "--save-dir", tmp_path, "--workers", 0]
    run_main("eval", *words, "--save-dir-name", "eval_1")
    torchrun = [*TORCHRUN, "--nproc-per-node=2", "eval.py"]
    (process,) = start_python([*torchrun, *words, "--save-dir-name", "eval_2"])
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert (tmp_path / "eval_1/results.csv").read_text() == (tmp_path / "eval_2/results.csv").read_text()


def train_interrupted(words: list, interrupt_at: int | None) -> None:
    """Runs train_cirkdv2 in this process; Ctrl-C before the step of the given iteration."""
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        if interrupt_at is not None:
            at_step(patch, interrupt_at + 1, interrupt)
        run_mains(("train_cirkdv2", words))


def test_two_processes_resume_where_they_stopped(distillation, data_root, tmp_path):
    words = [*distillation, "--batch-size", 8, "--accumulation-steps", 2, "--ema-decay", 0.9, "--log-iter", 3]
    words += ["--balance", *unlabelled(data_root)]
    run_processes(train_interrupted, 2, words, None)
    broken = [*words, "--save-dir-name", "broken"]
    run_processes(train_interrupted, 2, broken, 3)
    assert load_file(tmp_path / "broken/last_state.pth")["iteration"] == 2
    run_processes(train_interrupted, 2, [*broken, "--resume", "auto"], None)
    assert_same_runs(tmp_path / "run", tmp_path / "broken")
