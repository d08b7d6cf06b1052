"""Processes that differ end at the start with the reason."""

import pytest
import torch
from torch import nn

import engine.run.rank_checks
from engine.run.rank_checks import fingerprint, require_equal_across_ranks
from models import build_model
from tests.conftest import STUDENT
from tests.processes import run_mains, run_processes, run_program
from tests.pseudo_datasets import write_pseudo_dataset
from utils.cli import EXIT_LOST_PROCESSES, EXIT_USER_ERROR
from utils.distributed import get_rank


def start_each(all_words: list[list[list]]) -> list:
    """How one training after the other ends; `all_words` holds each process's command line."""
    found, rank = [], get_rank()
    for words in all_words[:-1]:
        try:
            found.append(run_mains(("train_baseline", words[rank])))
        except ValueError as error:
            found.append(str(error))
    return [*found, run_program("train_baseline", all_words[-1][rank])]


def test_processes_that_differ_end_with_what_differs(baseline, tmp_path):
    words = [*baseline, "--max-iterations", 1, "--freeze-bn", "--skip-val"]
    other_data = write_pseudo_dataset("custom", tmp_path / "five", size=(48, 64), count=5)
    torch.manual_seed(1)
    torch.save(build_model(*STUDENT, 3).state_dict(), tmp_path / "other.pth")

    def pair(name: str, *more) -> list[list]:
        own = [*words, "--save-dir-name", name]
        return [own, [*own, *more]]

    cases = [
        pair("arguments", "--lr", 0.5, "--no-dropout"),
        pair("data", "--data", other_data),
        pair("weights", "--pretrained", tmp_path / "other.pth"),
        [[*words, "--batch-size", 3]] * 2,
        pair("own", "--workers", 1),  # which may differ
        pair("error", "--data", tmp_path / "nowhere"),  # the last one: the group ends
    ]
    zero, one = run_processes(start_each, 2, cases)
    assert zero[:4] == one[:4]
    arguments, data, weights, indivisible, own, (code, _, error) = zero
    assert "--lr is 0.02 on process 0 and 0.5 on process 1" in arguments and "--no-dropout is False" in arguments
    assert "training samples is 4 on process 0 and 5 on process 1" in data and "--data" in data
    assert "the weights' hash is" in weights and "training samples" not in weights
    assert "batch size 3" in indivisible and "batch sizes that do: 2, 4" in indivisible
    assert own is None
    assert (tmp_path / "own/last_state.pth").exists()
    assert not (tmp_path / "arguments").exists() and not (tmp_path / "error").exists()
    assert code == EXIT_LOST_PROCESSES and error.startswith("error (process 0): lost the other processes")
    assert "process 1: FileNotFoundError" in error and "nowhere" in error and error.count("\n") == 1
    code, _, error = one[-1]
    assert code == EXIT_USER_ERROR and error.startswith("error") and "nowhere does not exist" in error


def test_what_differs_is_named_with_where(monkeypatch):
    require_equal_across_ranks({"a": 1}, "")  # alone, with itself
    everyone = [{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]
    monkeypatch.setattr(engine.run.rank_checks, "all_gather_object", lambda own: everyone)
    with pytest.raises(ValueError) as caught:
        require_equal_across_ranks(everyone[0], "Do this.")
    assert str(caught.value) == (
        "the processes of this run do not agree: b is 2 on processes 0, 1 and 3 on process 2; "
        "c is not there on processes 0, 1 and 4 on process 2. Do this."
    )


def test_fingerprint_distinguishes_weights():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)]
    before = fingerprint(layers)
    assert before == fingerprint(layers)
    assert before == fingerprint([layer.to(memory_format=torch.channels_last) for layer in layers])
    assert before != fingerprint(layers[::-1])
    with torch.no_grad():
        layers[0].weight[0, 0, 0, 0] = torch.nextafter(layers[0].weight[0, 0, 0, 0], torch.tensor(2.0))
    assert before != fingerprint(layers)
