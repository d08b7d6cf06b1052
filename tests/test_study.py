"""The study's one command, the archive of its runs, and the tables of the page, which are made of that archive."""

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import compare
from engine.config.legacy_flags import read_command_line
from engine.config.schema import BaselineConfig
from studies.camvid import collect, tables

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "studies/camvid"


@pytest.fixture
def figures(tmp_path) -> Path:
    """Of two seeds of three methods, the gain of the second over the first being 1 and 3 points."""
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "cost.json").write_text(json.dumps({"seconds_per_step": {"alone": 1, "kd": 2, "cirkdv2": 4}}))
    rows = [("alone", 0, 0.50), ("alone", 1, 0.51), ("kd", 0, 0.51), ("kd", 1, 0.54), ("cirkdv2", 0, 0.52)]
    lines = [
        {
            "method": m,
            "seed": s,
            "iterations": 9,
            "test_miou": v,
            "iou sky": v,
            "iou pole": 0.0,
            "iou car": "" if m == "kd" else v,
        }
        for m, s, v in rows
    ]
    collect.merge(folder / "iterations.csv", lines)
    return folder


def test_dry_run_prints_commands_that_the_programs_take(tmp_path, monkeypatch):
    (tmp_path / "camvid").mkdir()
    words = ["bash", STUDY / "run.sh", tmp_path / "camvid", tmp_path / "out", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    commands = [shlex.split(line.removeprefix("+ ")) for line in done.stdout.splitlines() if line.startswith("+ ")]
    programs = [Path(words[2] if words[1] == "-m" else words[1]).name for words in commands]
    assert sorted(programs) == sorted([
        "install", "studies.camvid.resize", "train_baseline.py", "benchmarks.cost", "cost.json", *3 * ["compare.py"],
        "studies.camvid.subset", "studies.camvid.collect", "studies.camvid.tables",
    ])  # fmt: skip
    assert not list((tmp_path / "out").iterdir())
    for command in commands:
        monkeypatch.setattr("sys.argv", command[1:])
        if command[1] == "train_baseline.py":
            assert read_command_line(BaselineConfig, "", command[2:]).optim.max_iterations >= 1000
        if command[1] == "compare.py" and "--equal-seconds-by-cost" not in command:
            spec = compare.parse_args()[1]
            assert all(len(method.seeds or spec.seeds) >= 3 for method in spec.methods)
            assert spec.split == "test" and spec.checkpoint == "last"  # nothing is chosen by the test images
            unlabelled = [method.name for method in spec.methods if "unlabelled" in method.flags]
            assert unlabelled == (["kd and unlabelled", "kd and pseudo-labels"] if len(spec.methods) < 15 else [])


def test_runs_of_other_machines_stay_in_the_archive(tmp_path, figures):
    half = tmp_path / "out" / "iterations"
    half.mkdir(parents=True)
    run = {"method": "kd", "seed": 1, "status": "finished", "git_commit": "abc", "machine": "one"}
    run |= {"validation": [{"iteration": 9, "train_seconds": 1.5, "miou": 0.4}]}
    run |= {"arguments": {"lr": 0.1, "data": "/somewhere"}}
    failed = run | {"method": "cirkdv2", "status": "failed"}
    (half / "results.json").write_text(json.dumps({"runs": [run, failed]}))
    lines = [{"method": m, "seed": s, "test_miou": 0.9} for m, s in (("kd", 1), ("cirkdv2", 0))]
    with open(half / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    collect.main(tmp_path / "out", figures)
    found = {(x["method"], x["seed"]): x["test_miou"] for x in collect.read(figures / "iterations.csv")}
    assert found[("kd", "1")] == "0.9" and found[("cirkdv2", "0")] == "0.52" and len(found) == 5
    (point,) = collect.read(figures / "iterations_validations.csv")
    assert point["train_seconds"] == "1.5"
    (setting,) = collect.read(figures / "iterations_settings.csv")
    assert (setting["lr"], setting["git_commit"]) == ("0.1", "abc") and "data" not in setting


def test_tables_show_means_and_paired_differences(figures):
    text = tables.page(figures)
    assert "| kd | 9 | 2.00 | 2 | 52.50 ± 2.12 | +2.00 [-10.71, +14.71] |  |" in text
    assert "| cirkdv2 | 9 | 4.00 | 1 | 52.00 | +2.00 | +1.00 |" in text
    assert "| alone, IoU % | 50.5 | 0.0 | 50.5 |" in text
    assert "| kd | +2.0 | +0.0 | – |" in text  # a class without a figure has no gain


def test_page_shows_the_archive():
    block = tables.BLOCK.search((ROOT / "docs/results.md").read_text(encoding="utf-8"))
    assert block is not None and block[0] == f"{block[1]}\n{tables.page(STUDY / 'figures')}\n{block[2]}"
    assert re.search(r"\| cirkdv2 \|.*\|", block[0])
