"""A process of a run that dies, fails or hangs: the others end soon with the reason, and the last state is good."""

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.processes import TORCHRUN, run_processes, run_program, start_python
from utils.checkpoint import load_file
from utils.cli import EXIT_LOST_PROCESSES, EXIT_USER_ERROR, run_cli

ROOT = Path(__file__).resolve().parents[3]
FAULT_AFTER = 3  # iterations; the state is of iteration 2
CODE = "import json, sys; from tests.engine.training.test_process_faults import run_with_fault; run_with_fault()"


def set_fault() -> None:
    """Lets process 1 meet the fault named in the environment after its third step."""
    from utils.meters import RateMeter

    step_done = RateMeter.step_done
    steps = []

    def faulty(meter, *rest):
        step_done(meter, *rest)
        steps.append(None)
        if len(steps) != FAULT_AFTER or os.environ["RANK"] != "1":
            return
        if "FAULT_FILE" in os.environ:
            Path(os.environ["FAULT_FILE"]).write_text(str(time.time()))
        if os.environ["FAULT"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["FAULT"] == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        raise ValueError("cannot read bad.png\nas it is no image")

    RateMeter.step_done = faulty


def run_with_fault() -> None:
    import train_baseline

    set_fault()
    sys.argv = ["train_baseline.py", *json.loads(os.environ["WORDS"])]
    run_cli(train_baseline.main)


def end_with_error(words: list) -> tuple[int, str, str]:
    os.environ["FAULT"] = "error"
    set_fault()
    return run_program("train_baseline", words)


class Group:
    """Processes of one run with a fault, started one by one or by torchrun; everything is bounded."""

    def __init__(self, fault: str, world_size: int, words: list, folder: Path, torchrun: bool = False) -> None:
        self.folder, self.token, command, processes = folder, uuid.uuid4().hex, ["-c", CODE], world_size
        if torchrun:
            (folder / "start.py").write_text(f"if __name__ == '__main__':\n    {CODE}\n")
            command, processes = [*TORCHRUN, f"--nproc-per-node={world_size}", folder / "start.py"], 1
        self.processes = start_python(
            command, processes, FAULT=fault, FAULT_FILE=str(folder / "fault"), PYTHONPATH=str(ROOT),
            WORDS=json.dumps(list(map(str, words))), TEST_TOKEN=self.token,
        )  # fmt: skip

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def wait(self, index: int, timeout: float = 150) -> tuple[int, float, str]:
        """Exit code, seconds from the fault to the end, and stderr of a process."""
        code = self.processes[index].wait(timeout)
        seconds = time.time() - float((self.folder / "fault").read_text())
        return code, seconds, self.processes[index].stderr.read()

    def wait_for_all(self) -> None:
        """No process is left within half a minute: a killed one's loader worker looks every few seconds."""
        deadline = time.monotonic() + 30
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not self.alive()

    def alive(self) -> list[int]:
        """Processes of this group, their loaders' workers included, that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.token.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has just ended, or is another user's
                continue
        return found


@pytest.fixture
def words(baseline) -> list:
    return [*baseline, "--batch-size", 6, "--max-iterations", 8, "--skip-val", "--freeze-bn"]


def check_state(folder: Path) -> None:
    """The last good state is there, and no part of another."""
    assert load_file(folder / "run/last_state.pth")["iteration"] == 2
    assert not list((folder / "run").glob("*.tmp*"))


def test_error_of_one_process_reaches_the_others(words, tmp_path):
    (code, _, text), failed = run_processes(end_with_error, 2, words)
    reason = "process 1: ValueError: cannot read bad.png"
    assert code == EXIT_LOST_PROCESSES
    assert f"error (process 0): lost the other processes after iteration 3: {reason}" in text
    assert "--resume auto" in text and "Traceback" not in text and "as it is no" not in text
    assert failed[0] == EXIT_USER_ERROR and "error (process 1): cannot read bad.png\nas it is no image" in failed[2]
    check_state(tmp_path)


@pytest.mark.slow
def test_killed_process_ends_the_others(words, tmp_path):
    with Group("kill", 3, [*words, "--workers", 1], tmp_path) as group:
        for index in (0, 2):
            code, seconds, text = group.wait(index)
            assert code == EXIT_LOST_PROCESSES and seconds < 60
            assert "lost the other processes after iteration 3" in text and "killed" in text
            assert "Traceback" not in text
        assert group.wait(1)[0] == -signal.SIGKILL
        group.wait_for_all()
    check_state(tmp_path)


@pytest.mark.slow
def test_hanging_process_ends_the_others_after_the_timeout(words, tmp_path):
    with Group("hang", 2, [*words, "--dist-timeout", 30], tmp_path) as group:
        code, seconds, text = group.wait(0)
        assert code == EXIT_LOST_PROCESSES and 29 < seconds < 80
        assert "no answer within 30 s (--dist-timeout)" in text and "Traceback" not in text
    check_state(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "error", "hang"])
def test_torchrun_ends_all(fault, words, tmp_path):
    with Group(fault, 3, [*words, "--dist-timeout", 30, "--workers", 1], tmp_path, torchrun=True) as group:
        code, seconds, text = group.wait(0, timeout=240)
        assert code != 0 and seconds < (110 if fault == "hang" else 60)  # torchrun gives what it ends 30 s
        wanted = {"kill": "SIGKILL", "error": "error (process 1): cannot read bad.png", "hang": "no answer within 30 s"}
        assert wanted[fault] in text
        group.wait_for_all()
    check_state(tmp_path)
