"""Memory of the machine and of processes, as the system reports it."""

import resource
from pathlib import Path


def machine_memory() -> int:
    """Bytes of memory of the machine, or of the container where it may use less."""
    total = _kib(Path("/proc/meminfo"), ("MemTotal",)) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_bytes(process: int) -> int:
    """Bytes of memory that a process shares with no other; 0 where the system does not report it."""
    return _kib(Path(f"/proc/{process}/smaps_rollup"), ("Private_Clean", "Private_Dirty")) * 1024


def _kib(file: Path, names: tuple[str, ...]) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)
