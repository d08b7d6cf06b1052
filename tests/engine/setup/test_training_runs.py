"""Both training entry points: what a run leaves, refusals, and resumes that end where an unbroken run ends."""

import json
import shlex
import shutil

import pytest
import torch
import yaml

import engine.training.loop
from tests.conftest import assert_same, assert_same_runs, at_step, interrupt, losses, metric_lines
from tests.pseudo_datasets import write_pseudo_dataset
from utils.checkpoint import load_file

TERMS = "task kd fitnet minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel channel_kd".split()
CHECKPOINT = {"train_baseline": "psp_mobile_mobilenetv3_small_custom"}
CHECKPOINT["train_cirkdv2"] = "kd_psp_mobile_mobilenetv3_small_custom"


@pytest.fixture(params=sorted(CHECKPOINT))
def entry(request, baseline, distillation) -> tuple[str, list]:
    return request.param, baseline if request.param == "train_baseline" else distillation


def test_run_leaves_checkpoints_state_and_logs(entry, run_main, tmp_path):
    module, words = entry
    run_main(module, *words)
    folder = tmp_path / "run"
    stem = CHECKPOINT[module]
    assert {f"{stem}.pth", f"{stem}_best_model.pth", "last_state.pth", "args.yaml", "log.txt"} <= {
        path.name for path in folder.iterdir()
    }
    assert any((folder / "tensorboard").iterdir())
    weights = load_file(folder / f"{stem}.pth")
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    state = load_file(folder / "last_state.pth")
    assert state["iteration"] == 4 and "momentum_buffer" in state["optimizer"]["state"][0]
    assert_same(dict(weights), dict(state["network"]))
    assert yaml.safe_load((folder / "args.yaml").read_text())["arguments"]["max_iterations"] == 4

    lines = metric_lines(folder)
    losses = [line for line in lines if "loss" in line]
    assert [line["iteration"] for line in losses] == [1, 2, 3, 4]
    assert [line["iteration"] for line in lines if "validation" in line] == [2, 4]
    expected = TERMS if module == "train_cirkdv2" else ["task"]
    for line in losses:
        terms = [line[f"loss_{term}"] for term in expected]
        assert all(value == value and abs(value) < 1e4 for value in terms)
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-5)


def test_resumed_run_ends_as_an_unbroken_one(entry, run_main, tmp_path, monkeypatch):
    module, words = entry
    extra = ["--ema-decay", 0.9, "--accumulation-steps", 1, "--clip-grad", 5, "--log-iter", 3]
    extra += ["--class-weights", "median", "--ohem", "fraction:0.4", "--dice", 0.5, "--label-smoothing", 0.1]
    extra += ["--scale-range", 0.8, 1.7, "--color-jitter", 0.3, 0.3, 0.3, 0.1, "--crop-by-class"]
    run_main(module, *words, *extra)

    broken = [*words, *extra, "--save-dir-name", "broken"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 4, interrupt)
        run_main(module, *broken)
    shutil.rmtree(tmp_path / "label_counts")  # the state has what it takes from there
    assert load_file(tmp_path / "broken/last_state.pth")["iteration"] == 2
    run_main(module, *broken, "--resume", "auto", "--workers", 1)
    assert not (tmp_path / "label_counts").exists()

    assert_same_runs(tmp_path / "run", tmp_path / "broken", "workers")
    assert losses(tmp_path / "run") == losses(tmp_path / "broken")


def test_folder_with_a_run_is_refused_or_continued_or_overwritten(run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline)
    weights = tmp_path / "run/psp_mobile_mobilenetv3_small_custom.pth"
    other = write_pseudo_dataset("custom", tmp_path / "other", size=(48, 64), count=5)
    resume, settings = ["--resume", "auto"], ["--lr", 0.5, "--seed", 3, "--log-iter", 7]
    for flags, error, message in (
        ([], FileExistsError, "--resume auto.*--overwrite"),
        ([*resume, "--overwrite"], ValueError, "one of the two"),
        (["--overwrite", "--pretrained", tmp_path / "none.pth"], FileNotFoundError, "none.pth"),
        ([*resume, *settings], ValueError, "--lr was 0.02 and is now 0.5; --seed was 0 and is now 3"),
        ([*resume, "--data", other], ValueError, "training samples: 4 then, 5 now"),
        (["--resume", weights], ValueError, "expected the full state"),
        (["--resume", tmp_path], FileNotFoundError, r"last_state\.pth"),
    ):
        with pytest.raises(error, match=message):
            run_main("train_baseline", *baseline, *flags)
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] == 4 and weights.exists()
    run_main("train_baseline", *baseline, *resume, "--save-dir-name", "new", "--max-iterations", 2)  # none there: anew
    assert (tmp_path / "new/last_state.pth").exists()
    run_main("train_baseline", *baseline, "--overwrite", "--skip-val")
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert not list((tmp_path / "run").glob("*best*"))


def test_accumulated_step_equals_the_whole_batch(run_main, baseline, tmp_path):
    same = [*baseline, "--batch-size", 4, "--max-iterations", 1, "--freeze-bn", "--no-dropout", "--skip-val"]
    run_main("train_baseline", *same, "--save-dir-name", "whole")
    run_main("train_baseline", *same, "--save-dir-name", "parts", "--accumulation-steps", 2)
    whole, parts = (load_file(tmp_path / name / "last_state.pth")["network"] for name in ("whole", "parts"))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)


def test_teacher_near_chance_is_refused(run_main, distillation):
    words = [word for word in distillation if word != "--skip-teacher-check"]
    with pytest.raises(ValueError, match="teacher's mIoU .*--skip-teacher-check"):
        run_main("train_cirkdv2", *words)


def test_ema_is_what_is_saved(run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline, "--ema-decay", 0.5)
    state = load_file(tmp_path / "run/last_state.pth")
    saved = load_file(tmp_path / "run/psp_mobile_mobilenetv3_small_custom.pth")
    name = "head.block.4.weight" if "head.block.4.weight" in saved else "head.classifier.weight"
    assert torch.equal(saved[name], state["ema"][f"module.{name}"])
    assert not torch.equal(saved[name], state["network"][name])


def test_replaced_flags_are_accepted_and_explained(run_main, baseline, capsys):
    replaced = ["--gpu-id", "0,1", "--local_rank", 0, "--log-dir", "x", "--aux", "--start_epoch", 0]
    run_main("train_baseline", *baseline, *replaced, "--max-iterations", 1, "--skip-val")
    text = capsys.readouterr().err
    assert "--gpu-id has no effect: choose GPUs with CUDA_VISIBLE_DEVICES" in text
    assert text.count("has no effect") == 5


def test_deterministic_channels_last_run_trains(run_main, baseline):
    run_main("train_baseline", *baseline, "--max-iterations", 1, "--skip-val", "--channels-last", "--deterministic")
    torch.use_deterministic_algorithms(False)


def test_adamw_with_head_multiplier_and_warmup(run_main, baseline, tmp_path):
    flags = ["--optimizer-type", "adamw", "--lr", 1e-3, "--head-lr-mult", 10, "--warmup-iters", 2, "--skip-val"]
    run_main("train_baseline", *baseline, *flags)
    groups = load_file(tmp_path / "run/last_state.pth")["optimizer"]["param_groups"]
    assert groups[1]["lr"] == pytest.approx(10 * groups[0]["lr"])
    assert metric_lines(tmp_path / "run")[0]["lr"] == pytest.approx(5e-4)


def test_infinite_gradient_is_never_saved(run_main, baseline, tmp_path, monkeypatch):
    step = engine.training.loop.train_step

    def poisoned(model, training, *rest):
        health = step(model, training, *rest)
        if training.iteration == 4:  # the fourth step, at which a save is due, ends in parameters that are not finite
            next(training.task.parameters()).data[0] = float("inf")
        return health

    monkeypatch.setattr(engine.training.loop, "train_step", poisoned)
    with pytest.raises(FloatingPointError, match="parameters or statistics are not finite after iteration 4"):
        run_main("train_baseline", *baseline)
    assert (tmp_path / "run/bad_batches.txt").read_text().splitlines()[-1].startswith("4\t0\t")
    state = load_file(tmp_path / "run/last_state.pth")
    assert state["iteration"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


def test_resume_from_another_folder_brings_the_best_model_along(run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline)
    best = f"{CHECKPOINT['train_baseline']}_best_model.pth"
    run_main("train_baseline", *baseline, "--save-dir-name", "copy", "--resume", tmp_path / "run")
    assert (tmp_path / "copy" / best).read_bytes() == (tmp_path / "run" / best).read_bytes()
    assert load_file(tmp_path / "copy/last_state.pth")["iteration"] == 4
    with pytest.raises(FileExistsError, match="copy holds a run"):
        run_main("train_baseline", *baseline, "--save-dir-name", "copy", "--resume", tmp_path / "run")


def test_checkpoint_without_a_state_is_not_deleted(run_main, baseline, tmp_path):
    (tmp_path / "run").mkdir()
    best = tmp_path / "run" / f"{CHECKPOINT['train_baseline']}_best_model.pth"
    best.write_bytes(b"weeks of work")
    for flags in ([], ["--resume", "auto"]):
        with pytest.raises(FileExistsError, match="best_model"):
            run_main("train_baseline", *baseline, *flags)
    assert best.read_bytes() == b"weeks of work"


@pytest.mark.slow
def test_compiled_network_keeps_its_names(run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline, "--max-iterations", 1, "--skip-val", "--compile")
    torch.compiler.reset()
    saved = load_file(tmp_path / "run/psp_mobile_mobilenetv3_small_custom.pth")
    assert not any("_orig_mod" in name for name in saved)


def test_the_command_at_the_end_measures_what_was_measured(run_main, baseline, data_root, tmp_path):
    listing = tmp_path / "one.txt"
    listing.write_text((data_root / "val.txt").read_text().splitlines()[0] + "\n")
    words = ["--val-list", listing, "--ignore-label", 2, "--max-iterations", 1]
    run_main("train_baseline", *baseline, *words)
    log = (tmp_path / "run/log.txt").read_text()
    command = shlex.split(log[log.index("evaluate it: ") :].splitlines()[0])
    run_main("eval", *command[4:], "--device", "cpu", "--json", tmp_path / "results.json")
    logged = next(line["validation"] for line in metric_lines(tmp_path / "run") if "validation" in line)
    assert json.loads((tmp_path / "results.json").read_text())["miou"] == pytest.approx(logged["miou"])


def test_the_log_shows_the_setup_first_and_the_next_command_last(run_main, baseline, distillation, tmp_path):
    run_main("train_baseline", *baseline)
    log = (tmp_path / "run/log.txt").read_text()
    for text in (
        f"run      {tmp_path / 'run'}",
        "4 training images, 4 validation images, 3 classes",
        "network  psp_mobile on mobilenetv3_small, 2.",
        "float32, 1 process(es), 2 images a step",
        "WARNING: the network starts from RANDOM weights",
        "python eval.py --pretrained",
    ):
        assert text in log, text
    assert log.index("RANDOM") < log.index("iteration 1/4") < log.index("best mIoU") < log.index("evaluate it: ")
    classes = [line["validation"]["class_iou"] for line in metric_lines(tmp_path / "run") if "validation" in line]
    validation = [line["validation"] for line in metric_lines(tmp_path / "run") if "validation" in line][-1]
    assert len(classes[-1]) == 3
    assert sum(classes[-1].values()) / 3 == pytest.approx(validation["miou"])
    file = next((tmp_path / "run").glob("*_best_model.pth"))
    run_main("train_baseline", *baseline, "--save-dir-name", "again", "--pretrained", file, "--max-iterations", 1)
    assert "RANDOM" not in (tmp_path / "again/log.txt").read_text()
    run_main("train_cirkdv2", *distillation, "--save-dir-name", "kd", "--max-iterations", 1, "--skip-val")
    log = (tmp_path / "kd/log.txt").read_text()
    assert "student  psp_mobile on" in log and "teacher  deeplabv3_mobilenet_ssseg on" in log
    assert "the student starts from RANDOM weights" in log
