"""Writes what the study's tables are made of as CSV: python -m studies.camvid.collect OUT FIGURES.

For each half, FIGURES gets results (a line a run), validations (a line a validation) and settings (a line a run).
"""

import csv
import json
import sys
from pathlib import Path

HALVES = ("iterations", "seconds")


def main(out: Path, figures: Path) -> None:
    figures.mkdir(parents=True, exist_ok=True)
    for half in HALVES:
        runs = json.loads((out / half / "results.json").read_text(encoding="utf-8"))["runs"]
        runs = [run for run in runs if run["status"] == "finished"]
        (figures / f"{half}.csv").write_text((out / half / "results.csv").read_text(encoding="utf-8"), encoding="utf-8")
        points = [
            [run["method"], run["seed"], point["iteration"], point["train_seconds"], point["miou"]]
            for run in runs
            for point in run["validation"]
        ]
        write(figures / f"{half}_validations.csv", ["method", "seed", "iteration", "train_seconds", "val_miou"], points)
        names = sorted({name for run in runs for name in run["arguments"]} - {"data", "save_dir", "teacher_pretrained"})
        settings = [
            [run["method"], run["seed"], run["git_commit"], run["machine"], *map(run["arguments"].get, names)]
            for run in runs
        ]
        write(figures / f"{half}_settings.csv", ["method", "seed", "git_commit", "machine", *names], settings)


def write(path: Path, header: list[str], rows: list[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
