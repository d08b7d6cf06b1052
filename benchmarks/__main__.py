"""All benchmarks that have targets, one after the other, and the table of targets with what was measured.

    python -m benchmarks                      # everything, under a quarter of an hour on two cores
    python -m benchmarks relations banks      # some
    python -m benchmarks --json results.json --device cuda

Each runs in a separate process, so that none profits from memory that another has left. A missed target is reported
and is no failure: machines differ. A benchmark that cannot run is one, and the exit code is 1.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import format_table, machine, make_parser, target_rows, write_json

BENCHMARKS = {
    "relations": "the relation terms compared with a plain implementation of the formulas",
    "banks": "construction, writing and drawing, bytes between processes",
    "input": "training samples from 2048x1024 PNG files and from a decoded cache",
    "step": "the whole training step compared with plain logit distillation's",
}
ON_THE_DEVICE = ("relations", "step")


def run_one(name: str, device: str, folder: Path) -> dict:
    """Runs a benchmark in a separate process that prints to this one's output.

    Returns:
        its JSON, or {"benchmark": name, "error": text}.
    """
    file = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file)]
    if name in ON_THE_DEVICE:
        command += ["--device", device]
    code = subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode
    if code or not file.exists():
        return {"benchmark": name, "error": f"ended with exit code {code}"}
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Parse, run, print, write."""
    listing = "\n".join(f"  {name:10s} {text}" for name, text in BENCHMARKS.items())
    parser = make_parser(f"{__doc__}\n{listing}", device=True, prog="benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    results, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or BENCHMARKS:
            print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
            started = time.monotonic()
            results.append(run_one(name, args.device, Path(folder)))
            results[-1]["wall_seconds"] = time.monotonic() - started
    print(f"\n{format_table(target_rows(results))}")
    print(f"\n{time.monotonic() - began:.0f} s on " + ", ".join(f"{name} {value}" for name, value in machine().items()))
    if args.json:
        write_json({"machine": machine(), "results": results}, args.json)
    sys.exit(1 if any("error" in result for result in results) else 0)


if __name__ == "__main__":
    main()
