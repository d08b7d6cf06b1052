"""Writes what the study's tables are made of as CSV: python -m studies.camvid.collect OUT FIGURES.

For each half, FIGURES gets results (a line a run), validations (a line a validation) and settings (a line a run). Runs
that the files hold already, perhaps of another machine, stay unless OUT has them too.
"""

import csv
import json
import sys
from pathlib import Path

HALVES = ("iterations", "seconds", "unlabelled")
PLACES = ("data", "save_dir", "teacher_pretrained")


def main(out: Path, figures: Path) -> None:
    figures.mkdir(parents=True, exist_ok=True)
    for half in HALVES:
        if not (out / half / "results.json").exists():
            continue
        runs = json.loads((out / half / "results.json").read_text(encoding="utf-8"))["runs"]
        runs = [run for run in runs if run["status"] == "finished"]
        finished = {(run["method"], str(run["seed"])) for run in runs}
        lines = [line for line in read(out / half / "results.csv") if key(line) in finished]
        merge(figures / f"{half}.csv", lines)
        points = [identity(run) | point for run in runs for point in run["validation"]]
        merge(figures / f"{half}_validations.csv", points)
        settings = [
            identity(run)
            | {"git_commit": run["git_commit"], "machine": run["machine"]}
            | {name: value for name, value in sorted(run["arguments"].items()) if name not in PLACES}
            for run in runs
        ]
        merge(figures / f"{half}_settings.csv", settings)


def identity(run: dict) -> dict:
    return {"method": run["method"], "seed": run["seed"]}


def key(line: dict) -> tuple[str, str]:
    return line["method"], str(line["seed"])


def read(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merge(path: Path, lines: list[dict]) -> None:
    new = {key(line) for line in lines}
    lines = [line for line in (read(path) if path.exists() else []) if key(line) not in new] + lines
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
