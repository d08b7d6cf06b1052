"""What every benchmark needs: targets, their table, the machine, the memory of a process, the JSON file."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

HEADER = ("benchmark", "target", "bound", "measured", "")


def target(measured: float, bound: float, *, at_most: bool = True) -> dict[str, float | bool]:
    """A measured figure beside its bound: an upper one, or a lower one where `at_most` is false."""
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
    """What the figures belong to: processor, cores, GPU, versions, threads of torch, and `more`."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpu_information() if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
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
    """Prints the table of a result's targets and writes the result to `file`, where one is asked for."""
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
    """Peak memory beyond what was taken before, in MiB, of this process or of a GPU.

    Example:
        peak = PeakMemory(device)
        ...  # what counts as memory, not as peak
        peak.restart()
        ...
        peak.mib()
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0.0 if self._on_gpu else process_status()["VmRSS"] / 1024
        if self._on_gpu:
            self.before = torch.cuda.memory_allocated(device) / 2**20
        self.restart()

    def restart(self) -> None:
        """The high-water mark starts again from what is taken now."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def mib(self) -> float:
        """The peak since the (last) start, less what was taken when this was made."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        return process_status()["VmHWM"] / 1024 - self.before

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"


def _cpu_information() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
