"""Seconds of training: what counts, where a run ends, and that processes agree."""

import time

import pytest

import engine.training.loop
from engine.training.optim import poly_lr
from engine.training.stopping import TimeBudget
from tests.conftest import at_step, interrupt, metric_lines
from tests.processes import run_processes
from utils.checkpoint import load_file
from utils.logger import RunLogger


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps_until_spent(budget: TimeBudget, clock: Clock, seconds: float) -> int:
    """Steps of so many seconds each, until the budget is spent."""
    for count in range(1, 1000):
        clock.now += seconds
        budget.step_done()
        if budget.spent:
            return count
    raise AssertionError("never spent")


@pytest.mark.parametrize("seconds, steps", [(1.0, 11), (4.0, 4), (10.0, 2), (0.5, 21)])
def test_ends_at_the_first_step_at_or_after_the_limit(seconds, steps):
    clock = Clock()
    budget = TimeBudget(10.0, clock=clock)
    assert steps_until_spent(budget, clock, seconds) == steps  # the first step is start-up, and free
    assert budget.seconds == (steps - 1) * seconds and 10.0 <= budget.seconds < 10.0 + seconds


def test_validation_is_not_counted_and_a_resume_continues():
    clock = Clock()
    budget = TimeBudget(10.0, clock=clock)
    for _ in range(4):
        clock.now += 1.0
        budget.step_done()
    with budget.paused():
        assert budget.seconds == 3.0
        clock.now += 500.0
        assert budget.seconds == 3.0 and not budget.running
    assert budget.seconds == 3.0 and budget.progress == pytest.approx(0.3)
    resumed = TimeBudget(10.0, budget.seconds, clock=clock)
    assert resumed.progress == pytest.approx(0.3)
    assert steps_until_spent(resumed, clock, 1.0) == 8
    assert TimeBudget(10.0, resumed.seconds).spent


def test_without_a_limit_seconds_are_only_counted():
    clock = Clock()
    budget = TimeBudget(clock=clock)
    for _ in range(3):
        clock.now += 2.0
        budget.step_done()
    assert (budget.seconds, budget.progress, budget.spent) == (4.0, 0.0, False)


def test_schedule_follows_the_larger_part():
    assert poly_lr(1.0, 50, 100, progress=0.2) == poly_lr(1.0, 50, 100)
    assert poly_lr(1.0, 50, 100, progress=0.75) == pytest.approx(0.25**0.9)
    assert poly_lr(1.0, 1, 10**9, progress=1.0) == 0.0


class TickingClock(Clock):
    """Goes on a little at every look, as real ones do."""

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


def differing_clocks() -> list[tuple[int, float, float, bool]]:
    """Steps of 0.01 s on the main process, of 3 s on the other; the budget after each."""
    from utils.distributed import get_rank

    clock = TickingClock()
    budget = TimeBudget(5.0, clock=clock)
    seen = []
    while not budget.spent and len(seen) < 2000:
        clock.now += 3.0 if get_rank() else 0.01
        budget.step_done()
        seen.append((len(seen) + 1, budget.progress, poly_lr(1.0, 0, 10, progress=budget.progress), budget.spent))
    return seen


def test_processes_act_on_the_main_processes_clock():
    main, other = run_processes(differing_clocks, 2)
    assert main == other
    assert len(main) == pytest.approx(501, abs=1)  # as the main process alone would end
    assert max(b[1] - a[1] for a, b in zip(main, main[1:], strict=False)) < 0.01  # progress has no jumps


def test_runs_of_different_pace_end_at_the_same_seconds(run_main, baseline, tmp_path, monkeypatch):
    step = engine.training.loop.train_step
    for name, pause in (("fast", 0.0), ("slow", 0.15)):

        def slowed(*args, pause=pause):
            time.sleep(pause)
            return step(*args)

        monkeypatch.setattr(engine.training.loop, "train_step", slowed)
        words = [*baseline, "--max-seconds", 1.2, "--max-iterations", 100000, "--val-per-iters", 5]
        run_main("train_baseline", *words, "--save-dir-name", name)
    ends = {name: metric_lines(tmp_path / name)[-1] for name in ("fast", "slow")}
    assert ends["slow"]["iteration"] < ends["fast"]["iteration"]
    for name, end in ends.items():
        assert "validation" in end and 1.2 <= end["train_seconds"] < 1.2 + 0.5
        state = load_file(tmp_path / name / "last_state.pth")
        assert (state["iteration"], state["train_seconds"]) == (end["iteration"], end["train_seconds"])
        rates = [line["lr"] for line in metric_lines(tmp_path / name) if "lr" in line]
        assert rates == sorted(rates, reverse=True) and rates[-1] < 0.5 * rates[0]


def test_time_survives_a_resume_and_a_spent_run_is_left_alone(run_main, baseline, tmp_path, monkeypatch):
    # far more than five steps take, also where other tests share the machine
    words = [*baseline, "--max-seconds", 4, "--max-iterations", 100000, "--save-per-iters", 2, "--skip-val"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, lambda: time.sleep(0.3))
        at_step(patch, 6, interrupt)
        run_main("train_baseline", *words)
    saved = load_file(tmp_path / "run/last_state.pth")["train_seconds"]
    assert 0.3 <= saved < 4
    run_main("train_baseline", *words, "--resume", "auto")
    lines = metric_lines(tmp_path / "run")
    seconds = [line["train_seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[-1] >= 4 and any(saved <= s for s in seconds)
    run_main("train_baseline", *words, "--resume", "auto")
    assert metric_lines(tmp_path / "run") == lines


def test_without_a_budget_the_log_holds_the_time_and_the_state_holds_none(run_main, baseline, tmp_path):
    words = [*baseline, "--max-iterations", 2, "--skip-val"]
    run_main("train_baseline", *words)
    assert load_file(tmp_path / "run/last_state.pth")["train_seconds"] is None
    before = metric_lines(tmp_path / "run")[-1]["train_seconds"]
    assert before > 0
    logger = RunLogger(tmp_path / "run", start_iteration=2)
    assert logger.last("train_seconds") == before and logger.last("nothing") == 0.0
    logger.close()


def test_a_run_that_was_validated_but_not_yet_saved_can_be_resumed(run_main, baseline, tmp_path, monkeypatch):
    words = [*baseline, "--val-per-iters", 1, "--save-per-iters", 100, "--resume", "auto"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, interrupt)
        run_main("train_baseline", *words)
    assert (tmp_path / "run/psp_mobile_mobilenetv3_small_custom_best_model.pth").is_file()
    assert load_file(tmp_path / "run/last_state.pth")["iteration"] in (1, 2)
    run_main("train_baseline", *words)
    assert metric_lines(tmp_path / "run")[-1]["iteration"] == 4
