"""Whether a long training run leaks memory, files, threads or processes: the real program, observed from outside.

    python -m benchmarks.soak --iterations 2000 --workers 2 --json soak.json

Trains CIRKDV2 on tiny drawn scenes with validation and saving in between, in a separate process, and reads its /proc.
Reported are the medians of the readings shortly before a tenth, a half and the end of the iterations. Exit code 1 if
memory has grown by more than the bound between the first and the last, or the number of descriptors, threads or
processes has. Linux only.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.measured import machine, make_parser, process_status, write_json
from dataset.synthetic.writer import write_synthetic
from models import build_model

ROOT = Path(__file__).parents[1]
NETWORK = ("psp_mobile", "mobilenetv3_small")  # of teacher and student
CLASSES = 12
LOG_ITER = 10
SECONDS_BETWEEN_READINGS = 0.25
MARKS = (0.1, 0.5, 1.0)  # of all iterations
WINDOW = 0.05  # of all iterations, before each mark
MAX_GROWTH_MIB = 32.0  # between the first mark and the last; a leak of 20 KiB an iteration is 35


@dataclass(frozen=True)
class Reading:
    """The state of a process at one moment.

    Attributes:
        iteration: the last one logged.
        rss_mib: resident memory of the process.
        descriptors, threads: of the process.
        children: processes below it, of which there are more while it validates.
        children_rss_mib: their resident memory; pages shared with the process count for each.
    """

    iteration: int
    rss_mib: float
    descriptors: int
    threads: int
    children: int
    children_rss_mib: float


def watch(
    process: subprocess.Popen, metrics: Path, timeout: float, pause: float = SECONDS_BETWEEN_READINGS
) -> list[Reading]:
    """Reads /proc until the process ends.

    Args:
        process: a run.
        metrics: its metrics.jsonl, which need not exist yet.
        timeout: seconds after which it is killed.
        pause: seconds between readings.

    Raises:
        TimeoutError: it did not end.
    """
    readings = []
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise TimeoutError(f"the run did not end within {timeout:.0f} s")
        try:
            readings.append(read_process(process.pid, last_iteration(metrics)))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            pass
        time.sleep(pause)
    return readings


def read_process(pid: int, iteration: int) -> Reading:
    """One reading of a process and all below it."""
    status = process_status(pid)
    below = [child for child in _children(pid) if child]
    return Reading(
        iteration,
        status["VmRSS"] / 1024,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        status["Threads"],
        len(below),
        sum(child["VmRSS"] for child in below) / 1024,
    )


def _children(pid: int) -> Iterator[dict[str, int]]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            try:
                yield process_status(child)
                yield from _children(child)
            except OSError:  # it ended meanwhile
                continue


def last_iteration(metrics: Path) -> int:
    """The iteration of the last whole line; 0 before there is one."""
    if not metrics.exists():
        return 0
    with open(metrics, "rb") as file:
        file.seek(max(metrics.stat().st_size - 8192, 0))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1])["iteration"] if lines else 0


def at_marks(readings: Sequence[Reading], iterations: int) -> list[Reading]:
    """The medians of the readings shortly before each mark.

    Raises:
        ValueError: a mark has no reading: the run was too fast, or ended early.
    """
    found = []
    for mark in MARKS:
        end = mark * iterations
        start = max(end - max(WINDOW * iterations, LOG_ITER), 1)
        near = [asdict(reading) for reading in readings if start <= reading.iteration <= end]
        if not near:
            raise ValueError(f"no reading shortly before iteration {end:.0f}: expected {iterations} iterations")
        medians = {name: statistics.median(reading[name] for reading in near) for name in near[0]}
        found.append(Reading(**medians | {"iteration": int(end)}))
    return found


def leaks(marks: Sequence[Reading], max_growth_mib: float = MAX_GROWTH_MIB) -> list[str]:
    """What has grown between the first mark and the last; empty for a run without leaks."""
    first, last = marks[0], marks[-1]
    found = []
    for name in ("rss_mib", "children_rss_mib"):
        growth = getattr(last, name) - getattr(first, name)
        if growth > max_growth_mib:
            found.append(f"{name} grew by {growth:.1f} MiB, at most {max_growth_mib:g}")
    for name in ("descriptors", "threads", "children"):
        if getattr(last, name) > getattr(first, name):
            found.append(f"{name} grew from {getattr(first, name):g} to {getattr(last, name):g}")
    return found


def training_command(folder: Path, iterations: int, workers: int) -> list[str]:
    """Writes data and a teacher below `folder`; the run's own folder is `folder`/run."""
    write_synthetic(folder / "data", num_train=32, num_val=8, num_test=1, size=(48, 64))
    torch.save(build_model(*NETWORK, CLASSES).state_dict(), folder / "teacher.pth")
    flags = {
        "teacher-model": NETWORK[0], "teacher-backbone": NETWORK[1], "teacher-pretrained": folder / "teacher.pth",
        "student-model": NETWORK[0], "student-backbone": NETWORK[1], "dataset": "synthetic", "data": folder / "data",
        "batch-size": 2, "workers": workers, "max-iterations": iterations, "log-iter": LOG_ITER,
        "save-per-iters": max(iterations // 40, 1), "val-per-iters": max(iterations // 20, 1), "device": "cpu",
        "pixel-memory-size": 100, "region-memory-size": 50, "channel-memory-size": 200, "pixel-contrast-size": 64,
        "region-contrast-size": 32, "channel-contrast-size": 64, "ema-decay": 0.99, "save-dir": folder,
        "save-dir-name": "run",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "train_cirkdv2.py"), "--skip-teacher-check", "--crop-size", "32", "48", *words]


def soak(folder: Path, iterations: int, workers: int, timeout: float) -> list[Reading]:
    """Trains and watches.

    Raises:
        RuntimeError: the run failed; the end of its output is in the message.
    """
    command = training_command(folder, iterations, workers)
    with open(folder / "output.txt", "w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            readings = watch(process, folder / "run" / "metrics.jsonl", timeout)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"the run failed ({process.returncode}): {output.read()[-2000:]}")
    return readings


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-growth-mib", type=float, default=MAX_GROWTH_MIB)
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readings = soak(Path(folder), args.iterations, args.workers, args.timeout)
    marks = at_marks(readings, args.iterations)
    names = list(asdict(marks[0]))
    print("".join(f"{name:>18}" for name in names))
    for mark in marks:
        print("".join(f"{getattr(mark, name):>18.6g}" for name in names))
    found = leaks(marks, args.max_growth_mib)
    print("\n".join(found) if found else f"no leak: growth of at most {args.max_growth_mib:g} MiB, nothing else grew")
    if args.json is not None:
        write_json({"machine": machine(), "marks": [asdict(mark) for mark in marks], "leaks": found}, args.json)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
