"""Seconds that a step of each row of a comparison takes, measured in turns: what `--equal-seconds-by-cost` reads.

    python -m benchmarks.cost SPEC.yaml --json cost.json

Each round trains every row for a few steps in a process of its own, as the comparison would, so that what else the
machine does meets all rows alike; a row's figure is the median over the rounds of its last log interval.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.measured import machine, make_parser, write_json
from comparison.jobs import Job, make_jobs, training_command
from comparison.spec import Spec, read_spec


def step_seconds(job: Job, spec: Spec, steps: int) -> float:
    """Of the second half of `steps` steps of a run like the comparison's."""
    short = {"max-iterations": [str(steps)], "log-iter": [str((steps + 1) // 2)], "skip-val": []}
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, flags=job.flags | short, folder=Path(folder) / "run")
        done = subprocess.run(training_command(job, spec), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{job.name}: {done.stderr[-2000:]}")
        *_, last = (job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(last)["seconds_per_iteration"]


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__, prog="benchmarks.cost", epilog="OMP_NUM_THREADS sets the threads, as of the runs")
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml")
    parser.add_argument("--data", type=Path, help="in place of the file's")
    parser.add_argument("--teacher", help="the teacher's checkpoint, in place of the file's")
    parser.add_argument("--steps", type=int, default=12, help="default: %(default)s, of which the second half counts")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    args = parser.parse_args()
    if args.steps < 2 or args.rounds < 1:
        parser.error(f"{args.steps} steps in {args.rounds} rounds: expected at least 2 steps and 1 round")
    rounds = measure(args)
    costs = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    first = next(iter(costs.values()))
    for name, seconds in costs.items():
        spread = f"{min(rounds[name]):.3f} to {max(rounds[name]):.3f}"
        print(f"{name:24} {seconds:.3f} s a step ({spread}), {seconds / first:.2f} times the first")
    if args.json:
        how = {"steps": args.steps, "rounds": args.rounds, "threads": os.environ.get("OMP_NUM_THREADS", "default")}
        write_json({"machine": machine(), "how": how, "seconds_per_step": costs, "rounds": rounds}, args.json)


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Row -> seconds of each round."""
    given = {"spec": args.spec, "data": args.data, "teacher_checkpoint": args.teacher, "output": Path("unused")}
    spec = read_spec(given)
    jobs: dict[str, Job] = {}
    for job in make_jobs(spec):
        jobs.setdefault(job.method.name, job)  # the first seed of each row
    rounds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(args.rounds):
        for name, job in jobs.items():
            rounds[name].append(step_seconds(job, spec, args.steps))
            print(f"round {number + 1}: {name} {rounds[name][-1]:.3f} s", flush=True)
    return rounds


if __name__ == "__main__":
    main()
