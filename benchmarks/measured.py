"""Shared by the benchmarks: flags, targets and their table, the machine, memory of a process, the JSON file."""

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

HEADER = ("benchmark", "target", "bound", "measured", "")


def make_parser(description: str, *, device: bool = False, **more: Any) -> argparse.ArgumentParser:
    """A parser with `--json`, with `--device` on request, and `more` keywords of ArgumentParser."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter, **more)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    if device:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    return parser


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def target(measured: float, bound: float, *, at_most: bool = True) -> dict[str, float | bool]:
    """A measured figure and its bound: an upper one, or a lower one if `at_most` is false."""
    met = measured <= bound if at_most else measured >= bound
    return {"measured": measured, "bound": bound, "at_most": at_most, "met": bool(met)}


def target_rows(results: list[dict]) -> list[tuple[str, ...]]:
    """Benchmark, target, bound, measured value, and whether it is met, one row a target."""
    rows = []
    for result in results:
        if "error" in result:
            rows.append((result["benchmark"], "-", "-", "-", f"FAILED: {result['error']}"))
        for name, found in result.get("targets", {}).items():
            bound = f"at {'most' if found['at_most'] else 'least'} {found['bound']:.4g}"
            met = "met" if found["met"] else "MISSED"
            rows.append((result["benchmark"], name, bound, f"{found['measured']:.4g}", met))
    return rows


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Rows under the header in aligned columns."""
    widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [HEADER, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def machine(**more: Any) -> dict[str, Any]:
    """Where the figures were measured: processor, cores, GPU, versions, threads of torch, and `more`."""
    cpu, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "amx": bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **more,
    }


def finish(result: Mapping[str, Any], file: Path | None) -> None:
    """Prints the table of a result's targets and writes the result to `file`, if one is given."""
    print(f"\n{format_table(target_rows([dict(result)]))}")
    if file is not None:
        write_json(result, file)


def write_json(result: Mapping[str, Any], file: Path) -> None:
    """Writes figures as JSON."""
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def process_status(pid: int | str = "self") -> dict[str, int]:
    """The numbers of /proc/<pid>/status, memory in KiB; a process that is ending has VmRSS 0."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    words = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return {"VmRSS": 0} | {name: int(value[0]) for name, value in words.items() if value and value[0].isdigit()}


class PeakMemory:
    """Peak memory since `restart`, in MiB, of this process or of a GPU, less what was in use at construction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0.0 if self._on_gpu else process_status()["VmRSS"] / 1024
        if self._on_gpu:
            self.before = torch.cuda.memory_allocated(device) / 2**20
        self.restart()

    def restart(self) -> None:
        """Resets the high-water mark to the present use."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def mib(self) -> float:
        """The peak since the last restart, less the use at construction."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        return process_status()["VmHWM"] / 1024 - self.before

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"
