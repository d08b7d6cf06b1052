"""The table of targets that `python -m benchmarks` prints."""

import json
import sys

import pytest

import benchmarks.__main__ as driver

RESULT = {
    "benchmark": "input",
    "targets": {
        "files / decode": {"measured": 1.0, "bound": 1.15, "at_most": True, "met": True},
        "float / files": {"measured": 1.75, "bound": 2.5, "at_most": False, "met": False},
    },
}


def run(monkeypatch, capsys, tmp_path, outcome: dict) -> tuple[int, str, dict]:
    """Exit code, output and JSON of the driver where the one benchmark gives `outcome`."""
    monkeypatch.setattr(driver, "run_one", lambda name, device, folder: dict(outcome))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "input", "--json", str(tmp_path / "all.json")])
    with pytest.raises(SystemExit) as ended:
        driver.main()
    return ended.value.code, capsys.readouterr().out, json.loads((tmp_path / "all.json").read_text())


def test_targets_are_printed_with_bounds_and_outcome(monkeypatch, capsys, tmp_path):
    code, output, written = run(monkeypatch, capsys, tmp_path, RESULT)
    assert code == 0  # a missed target is no failure
    met, missed = (next(line for line in output.splitlines() if name in line) for name in RESULT["targets"])
    assert "at most 1.15" in met and met.endswith("met")
    assert "at least 2.5" in missed and "1.75" in missed and missed.endswith("MISSED")
    assert written["results"][0]["targets"] == RESULT["targets"] and written["machine"]["torch"]


def test_a_benchmark_that_cannot_run_fails_the_driver(monkeypatch, capsys, tmp_path):
    code, output, _ = run(monkeypatch, capsys, tmp_path, {"benchmark": "input", "error": "ended with exit code 3"})
    assert code == 1 and "FAILED: ended with exit code 3" in output


def test_an_unknown_name_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "inputs"])
    with pytest.raises(SystemExit) as ended:
        driver.main()
    assert ended.value.code == 2 and "relations, banks, input, step" in capsys.readouterr().err
