"""A logger of your own, chosen with `--logger csv`: every curve as a line of a CSV file.

python -m examples.own_logger --logger csv --model psp --backbone mobilenetv2 --dataset camvid --data data/CamVid
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import train_baseline
from utils.cli import run_cli
from utils.sinks import LOGGERS


class CSVSink:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._file = open(folder / "curves.csv", "a", newline="", encoding="utf-8")

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        csv.writer(self._file).writerows([iteration, name, value] for name, value in values.items())

    def close(self) -> None:
        self._file.close()


if __name__ == "__main__":
    LOGGERS["csv"] = CSVSink
    run_cli(train_baseline.main, resumable=True)
