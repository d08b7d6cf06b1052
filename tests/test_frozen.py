"""States of earlier versions load, and losses are those of earlier versions."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from engine.run.resume import check_state
from tests import frozen
from tests.configs import make_config
from utils.checkpoint import load_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return frozen.make_data(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return frozen.make_teacher(tmp_path_factory.mktemp("frozen_teacher"))


def _rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", frozen.CURVES)
def test_loss_curves(name, data, teacher, tmp_path):
    """Every term of 30 iterations, in float64, to 1e-6."""
    found = frozen.loss_curve(name, data, teacher, tmp_path)
    expected = _rows(frozen.DATA / "curves" / f"{name}.jsonl")
    assert len(found) == len(expected) == frozen.CURVE_ITERATIONS
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", frozen.STATES)
def test_older_states_resume(name, data, teacher, tmp_path):
    """A run resumes from the state with the losses of the older version."""
    (tmp_path / name).mkdir()
    shutil.copy(frozen.DATA / "states" / f"{name}.pth", tmp_path / name / "last_state.pth")
    words = [*frozen.training_words(name, data, teacher, tmp_path), *frozen.state_words(name), "--resume", "auto"]
    frozen.run_program(frozen.STATES[name], words)
    found = [row for row in _rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
    expected = [row for row in _rows(frozen.DATA / "states" / f"{name}.jsonl") if "loss" in row]
    expected = [row for row in expected if row["iteration"] > frozen.STATE_ITERATION]
    assert [row["iteration"] for row in found] == [row["iteration"] for row in expected] == [5, 6]
    for row, wanted in zip(found, expected, strict=True):
        terms = [key for key in wanted if key.startswith("loss")]
        # float32: processors round differently
        assert [row[key] for key in terms] == pytest.approx([wanted[key] for key in terms], rel=1e-3)


def test_states_are_of_the_stated_iteration():
    for name in frozen.STATES:
        state = torch.load(frozen.DATA / "states" / f"{name}.pth", weights_only=True)
        assert state["iteration"] == frozen.STATE_ITERATION


@pytest.mark.parametrize("program", frozen.PROGRAMS)
def test_no_flag_is_lost(program):
    def flags(text: str) -> set[str]:
        return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))

    before = flags((frozen.DATA / "help" / f"{program}.txt").read_text(encoding="utf-8"))
    assert len(before) > 5
    assert before <= flags(frozen.help_text(program))


def test_a_state_of_another_program_is_named_as_such():
    state = load_file(frozen.DATA / "states" / "at+cirkd.pth")
    with pytest.raises(ValueError, match=r"other settings: .* Another program wrote it: this one has no adv_weight, "):
        check_state(Path("x"), state, make_config())


def test_a_setting_that_an_older_state_does_not_know_had_its_default(data, teacher, tmp_path):
    (tmp_path / "baseline").mkdir()
    shutil.copy(frozen.DATA / "states" / "baseline.pth", tmp_path / "baseline" / "last_state.pth")
    words = [*frozen.training_words("baseline", data, teacher, tmp_path), *frozen.state_words("baseline")]
    with pytest.raises(ValueError, match="--label-smoothing was 0.0 and is now 0.1"):
        frozen.run_program("train_baseline", [*words, "--resume", "auto", "--label-smoothing", "0.1"])
    plain = _rows(frozen.DATA / "curves" / "baseline.jsonl")[0]
    with frozen.double_precision():
        words = [*frozen.training_words("baseline", data, teacher, tmp_path), "--save-dir-name", "smooth"]
        frozen.run_program(
            "train_baseline",
            [*words, "--label-smoothing", "0.1", *"--max-iterations 1 --skip-val --log-iter 1".split()],
        )
    (smooth,) = _rows(tmp_path / "smooth" / "metrics.jsonl")
    assert smooth["loss_task"] != pytest.approx(plain["loss_task"], rel=1e-4)
