"""Time and memory of ``losses.functional.relation_kl`` beside the plain computation of the same formula.

    python -m benchmarks.relation_kl --threads 2 --json relation_kl.json

Both are timed forward + backward, in turns, in one process; the best of several runs counts. Peak extra memory is the
rise of the process's resident high-water mark (CPU; each way in a fresh process, so that neither profits from memory
that the other has left) or of the allocator's peak (CUDA), over inputs that are already there.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.functional import relation_kl

MIB = 1 << 20
TEMPERATURE = 0.1


def plain(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    """The formula with whole N x K matrices and autograd."""
    log_student = F.log_softmax(student @ keys.T / TEMPERATURE, dim=1)
    teacher_probability = F.softmax(teacher @ keys.T / TEMPERATURE, dim=1)
    return F.kl_div(log_student, teacher_probability, reduction="batchmean")


def chunked(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    return relation_kl(student, teacher, keys, keys, TEMPERATURE)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"plain": plain, "relation_kl": chunked}


def make_inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows: student (N, D) that wants a gradient, a teacher like it, keys (K, D)."""
    generator = torch.Generator().manual_seed(0)

    def unit(count: int) -> Tensor:
        return F.normalize(torch.randn(count, args.dim, generator=generator), dim=1).to(args.device)

    teacher = unit(args.anchors)
    student = F.normalize(teacher + 0.5 * unit(args.anchors), dim=1).requires_grad_()
    return student, teacher, unit(args.keys)


def run_once(way: str, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor, Tensor]:
    """Seconds of forward + backward, the value and the gradient."""
    inputs[0].grad = None
    _synchronize(inputs[0])
    start = time.perf_counter()
    loss = WAYS[way](*inputs)
    loss.backward()
    _synchronize(inputs[0])
    return time.perf_counter() - start, loss.detach(), inputs[0].grad


def measure_peak(way: str, args: argparse.Namespace) -> float:
    """Peak extra MiB of one forward + backward, after a small one that loads the libraries' own buffers."""
    small = argparse.Namespace(**{**vars(args), "anchors": 64, "keys": 64})
    run_once(way, make_inputs(small))
    inputs = make_inputs(args)
    if inputs[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_once(way, inputs)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident now
    before = _status_kib("VmRSS")
    run_once(way, inputs)
    return (_status_kib("VmHWM") - before) / 1024


def compare(args: argparse.Namespace) -> dict:
    """Run both ways and gather times, memory and their ratios."""
    inputs = make_inputs(args)
    results = {way: run_once(way, inputs) for way in WAYS}
    (_, value, grad), (_, own_value, own_grad) = results["plain"], results["relation_kl"]
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way in WAYS:
            times[way].append(run_once(way, inputs)[0])
    seconds = {way: min(values) for way, values in times.items()}
    memory = {way: _peak_in_fresh_process(way, args) for way in WAYS}
    return {
        "benchmark": "relation_kl",
        "sizes": {"anchors": args.anchors, "keys": args.keys, "dim": args.dim, "dtype": "float32"},
        "machine": {
            "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "seconds": seconds,
        "all_seconds": times,
        "peak_extra_mib": memory,
        "speedup": seconds["plain"] / seconds["relation_kl"],
        "memory_ratio": memory["relation_kl"] / memory["plain"],
        "relative_error": {
            "value": ((own_value - value).abs() / value.abs()).item(),
            "gradient": ((own_grad - grad).norm() / grad.norm()).item(),
        },
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=8192)
    parser.add_argument("--keys", type=int, default=4104)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--peak-of", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(measure_peak(args.peak_of, args))
        return

    result = compare(args)
    print(f"N={args.anchors} K={args.keys} D={args.dim} float32, {args.device}, {args.threads} threads")
    for way in WAYS:
        print(f"{way:12s} {result['seconds'][way]:8.3f} s  {result['peak_extra_mib'][way]:8.0f} MiB extra")
    print(f"relation_kl is {result['speedup']:.2f} times as fast and takes {result['memory_ratio']:.2f} of the memory")
    errors = result["relative_error"]
    print(f"relative difference: value {errors['value']:.1e}, gradient {errors['gradient']:.1e}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def _peak_in_fresh_process(way: str, args: argparse.Namespace) -> float:
    sizes = [f"--{name}={getattr(args, name)}" for name in ("anchors", "keys", "dim", "device", "threads")]
    command = [sys.executable, "-m", "benchmarks.relation_kl", f"--peak-of={way}", *sizes]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return float(output.stdout.split()[-1])


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
