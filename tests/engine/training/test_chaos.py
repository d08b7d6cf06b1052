"""Runs that are killed with SIGKILL again and again end as an undisturbed one."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import assert_same, assert_same_runs, metric_lines
from tests.processes import start_python
from utils.checkpoint import load_file

TIMES = ("images_per_second", "seconds_per_iteration", "data_seconds", "memory_mib", "train_seconds")
KILLS = 10
SECONDS_PER_LIFE = 120
# After which sign of life a process is killed, and how many seconds later at most.
MOMENTS = [("start", 6.0), ("log", 0.0), ("save", 0.0), ("save", 0.002), ("validation", 0.1), ("log", 1.0)]


class Life:
    """One or several processes of a run, until they are killed or end by themselves.

    Args:
        words: the entry point and its flags.
        folder: of the run.
        processes: how many.
    """

    def __init__(self, words: list, folder: Path, processes: int) -> None:
        self.folder, self.started = folder, time.monotonic()
        self.begin = self._lines()
        self.processes = start_python(words, processes)

    def wait_for(self, sign: str, lines: int = 0) -> bool:
        """Waits for so many new lines of figures and then for a sign of life; False if the run has ended before."""
        while self.processes[0].poll() is None:
            if time.monotonic() - self.started > SECONDS_PER_LIFE:
                raise TimeoutError(f"no {sign} within {SECONDS_PER_LIFE} s")
            if sign == "start":
                return True
            if lines:
                lines = 0 if len(self._new_lines()) >= lines else lines
            elif sign == "save" and self._saving():
                return True
            elif sign in ("log", "validation") and any(sign == "log" or '"validation"' in x for x in self._new_lines()):
                return True
            time.sleep(0.0002 if sign == "save" else 0.005)
        return False

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.communicate()

    def finish(self) -> None:
        """Waits for the end and checks that it was a good one."""
        try:
            for process in self.processes:
                _, errors = process.communicate(timeout=SECONDS_PER_LIFE)
                assert process.returncode == 0, errors[-2000:]
        finally:
            self.kill()

    def _saving(self) -> bool:
        return self.folder.is_dir() and any(
            entry.name.endswith(".tmp") and ".pth" in entry.name for entry in os.scandir(self.folder)
        )

    def _lines(self) -> list[str]:
        path = self.folder / "metrics.jsonl"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def _new_lines(self) -> list[str]:
        return [line for line in self._lines() if line not in self.begin]


def run_through(words: list, folder: Path, processes: int, seed: int = 0) -> int:
    """Kills and resumes a run KILLS times at random moments, then lets it end; returns how often it was alive."""
    dice, killed = random.Random(seed), 0
    moments = MOMENTS + [dice.choice(MOMENTS) for _ in range(KILLS - len(MOMENTS))]
    moments[1:] = dice.sample(moments[1:], len(moments) - 1)
    for sign, spread in moments:
        life = Life([*words, "--resume", "auto"], folder, processes)
        try:
            alive = life.wait_for(sign, dice.randrange(4))
            time.sleep(dice.random() * spread)
            killed += alive and all(process.poll() is None for process in life.processes)
        finally:
            life.kill()
    Life([*words, "--resume", "auto"], folder, processes).finish()
    return killed


def figures(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metric_lines(folder)]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value that TensorBoard shows of the run, speeds apart."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith("speed/")]
    values = {tag: [(event.step, event.tensor_proto.float_val) for event in events.Tensors(tag)] for tag in tags}
    return {tag: [(step, value[0]) for step, value in points if value] for tag, points in values.items()}


def assert_equal_runs(whole: Path, broken: Path) -> None:
    assert_same_runs(whole, broken)
    assert figures(whole) == figures(broken)
    names = [sorted(path.name for path in folder.glob("*psp_mobile*.pth")) for folder in (whole, broken)]
    assert names[0] == names[1] and len(names[0]) == 2
    for name in names[0]:
        assert_same(*(dict(load_file(folder / name)) for folder in (whole, broken)))
    assert curves(whole) == curves(broken)
    assert not list(broken.glob(".*.tmp"))


TINY = ["--max-iterations", 80, "--log-iter", 4, "--save-per-iters", 3, "--val-per-iters", 10, "--ema-decay", 0.9]
RUNS = {
    "baseline": ("train_baseline.py", 2, ["--batch-size", 4, "--workers", 1]),
    "cirkdv2": ("train_cirkdv2.py", 1, ["--workers", 2, "--batch-size", 4, "--accumulation-steps", 2]),
    "adversarial": ("train_kd.py", 1, ["--method", "skd", "--workers", 1, "--amp", "bf16", "--clip-grad", 5]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RUNS))
def test_killed_run_ends_as_an_unbroken_one(request, tmp_path, name):
    entry, processes, extra = RUNS[name]
    words = list(request.getfixturevalue("baseline" if name == "baseline" else "distillation"))
    if name == "adversarial":
        words = words[: words.index("--pixel-memory-size")]
    words = [entry, *words, *TINY, *extra]
    Life([*words, "--save-dir-name", "whole"], tmp_path / "whole", processes).finish()
    assert run_through([*words, "--save-dir-name", "broken"], tmp_path / "broken", processes) == KILLS
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
