import subprocess
import sys

import pytest

from benchmarks import soak
from benchmarks.soak import Reading, at_marks, leaks, watch

# Writes the figures of 100 iterations; leaks a file or some memory at each, as its second argument names.
PROGRAM = """
import json, sys, time
from pathlib import Path
kind, kept = sys.argv[2], []
with open(sys.argv[1], "w") as file:
    for iteration in range(1, 101):
        file.write(json.dumps({"iteration": iteration}) + "\\n")
        file.flush()
        if kind == "memory":
            kept.append(b"x" * 2**20)
        if kind == "files":
            kept.append(open(sys.executable, "rb"))
        time.sleep(0.01)
"""


@pytest.mark.parametrize("kind, expected", [("memory", "rss_mib grew"), ("files", "descriptors grew"), ("none", None)])
def test_a_leak_is_found_and_none_where_there_is_none(kind, expected, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path / "metrics.jsonl", kind])
    readings = watch(process, tmp_path / "metrics.jsonl", timeout=60, pause=0.01)
    found = leaks(at_marks(readings, 100))
    assert len(found) == (expected is not None) and all(line.startswith(expected) for line in found), found


def test_children_and_threads_count():
    few, many = Reading(10, 100.0, 5, 2, 1, 50.0), Reading(100, 100.0, 5, 3, 2, 150.0)
    assert leaks([few, many], 64) == [
        "children_rss_mib grew by 100.0 MiB, at most 64",
        "threads grew from 2 to 3",
        "children grew from 1 to 2",
    ]
    assert leaks([many, few]) == []


def test_readings_before_the_first_iteration_do_not_count():
    readings = [Reading(0, 1.0, 1, 1, 0, 0.0)] + [Reading(n, float(n), 5, 1, 0, 0.0) for n in range(1, 101)]
    marks = at_marks(readings, 100)
    assert [mark.iteration for mark in marks] == [10, 50, 100] and [mark.rss_mib for mark in marks] == [5.5, 45.0, 95.0]
    with pytest.raises(ValueError, match="no reading shortly before iteration 200"):
        at_marks(readings, 200)


def test_a_run_that_hangs_is_ended(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(TimeoutError):
        watch(process, tmp_path / "none", timeout=0.2, pause=0.05)
    assert process.returncode is not None


@pytest.mark.slow
def test_training_does_not_leak(tmp_path):
    readings = soak.soak(tmp_path, iterations=300, workers=2, timeout=280)
    marks = at_marks(readings, 300)
    assert marks[-1].children == 2 and marks[-1].rss_mib > 100
    assert leaks(marks[1:]) == []  # memory settles within the first hundred iterations
    assert (tmp_path / "run" / "last_state.pth.previous").exists()
