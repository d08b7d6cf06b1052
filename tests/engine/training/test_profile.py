"""--profile: the files it writes, and a run that it does not change."""

import errno
import json
import os
from collections import Counter

from engine.training.profile import WARMUP_STEPS
from tests.conftest import assert_same_runs, metric_lines

REGIONS = "data teacher student loss_task distiller context enqueue loss_kd loss_fitnet backward optimizer".split()
REGIONS += "loss_minibatch_pixel loss_memory_pixel loss_memory_region loss_minibatch_channel".split()
REGIONS += "loss_memory_channel loss_channel_kd".split()


def test_trace_holds_the_named_parts_of_its_steps_and_the_run_is_the_same(run_main, distillation, tmp_path):
    words = [*distillation, "--max-iterations", WARMUP_STEPS + 3, "--skip-val"]
    run_main("train_cirkdv2", *words, "--save-dir-name", "plain")
    run_main("train_cirkdv2", *words, "--profile", 2)

    folder = tmp_path / "run/profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    regions = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert {name: regions[name] for name in REGIONS} == dict.fromkeys(REGIONS, 2)
    assert sum(name.startswith("ProfilerStep#") for name in regions) == 2
    table = (folder / "operations.txt").read_text()
    assert "by time" in table and "by memory" in table and "loss_minibatch_pixel" in table

    assert_same_runs(tmp_path / "plain", tmp_path / "run", "profile")
    losses = [[line["loss"] for line in metric_lines(tmp_path / name)] for name in ("plain", "run")]
    assert losses[0] == losses[1]


def test_a_run_that_ends_early_traces_what_it_has_or_logs_that_it_has_nothing(run_main, baseline, tmp_path):
    run_main("train_baseline", *baseline, "--max-iterations", WARMUP_STEPS + 1, "--skip-val", "--profile")
    assert "profile of 1 steps" in (tmp_path / "run/log.txt").read_text()
    json.loads((tmp_path / "run/profile/trace.json").read_text())
    run_main("train_baseline", *baseline, "--max-iterations", WARMUP_STEPS, "--skip-val", "--profile", "--overwrite")
    assert "--profile wrote nothing" in (tmp_path / "run/log.txt").read_text()
    assert not (tmp_path / "run/profile").exists()


def test_a_profile_that_cannot_be_written_does_not_end_the_run(run_main, baseline, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.training.profile.write_text", full)
    run_main("train_baseline", *baseline, "--max-iterations", WARMUP_STEPS + 3, "--skip-val", "--profile", 1)
    assert [line["iteration"] for line in metric_lines(tmp_path / "run")][-1] == WARMUP_STEPS + 3
    log = (tmp_path / "run/log.txt").read_text()
    assert "--profile could not be written" in log and "No space left" in log
