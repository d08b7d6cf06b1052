"""Time and memory of the relation terms compared with a plain implementation of their formulas.

    python -m benchmarks.relations --json relations.json

Features (4, 512, 64, 64) of 19 classes, forward + backward with respect to the student's features, in turns in one
process; the best of several runs counts. The plain way keeps whole anchors x keys matrices, leaves the gradient to
autograd and loops over pairs of images. Groups of terms:

- memory: pixels to 4104 pixel keys and to 1026 region keys, 5 % of the pixels ignored;
- minibatch: pixels of every image to those of every image; partners: the same with two images for each;
- channels: channel maps across all images, and to 2048 keys of the channel bank;
- context: the graph context module (bfloat16: under autocast; it has no setting).

The error of bfloat16 relative to float32 is measured at half that height and width, for features without and with a
common mean (after a ReLU, with different means of the channels) and for both in tight classes, for a student far from
its teacher and for one close to it.

Peak extra memory is the rise of the process's resident high-water mark (CPU; each way in a fresh process, so that none
profits from memory that another has left; every tensor above 128 KiB is mapped separately there and returned when it is
freed) or of the allocator's peak (CUDA), over existing inputs. The last line is that of all relation terms together,
for 8 images of 512x1024 with bfloat16 operands and two partners. By count, on CUDA: two gradients of the memory terms,
rows of both networks, their bfloat16 copies and a gradient are six maps of 8 x 512 x 64 x 128 float32 values, 768 MiB,
and two float32 and one bfloat16 chunk of logits are 320 MiB.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measured import PeakMemory, finish, machine, make_parser, synchronize, target
from benchmarks.relation_inputs import CLASSES, Inputs
from losses.functional import pool4x4
from losses.modules.context import GraphContext
from losses.modules.cross_image import minibatch_relation
from losses.modules.partners import choose_partners
from losses.relation.precision import RELATION_DTYPES
from utils.types import Step

TEMPERATURE, PARTNERS = 0.1, 2
PUBLISHED_SIZE = (8, 512, 64, 128)  # features of 8 images of 512x1024
GROUPS = {"memory": 4, "minibatch": 2, "partners": 2, "channels": 5, "context": 2}  # name: timed runs
WAYS = ("plain", "float32", "bfloat16")
SPEEDUPS = {  # device: (group, way): lower bound of its speed over that of the plain way
    "cpu": {
        ("memory", "float32"): 1.8,
        ("memory", "bfloat16"): 4.0,
        ("minibatch", "float32"): 1.7,
        ("minibatch", "bfloat16"): 2.5,
    },
    "cuda": {("memory", "bfloat16"): 5.0, ("minibatch", "bfloat16"): 5.0},
}
KINDS = {
    "without mean": {},
    "after a ReLU": {"active": True},
    "tight classes": {"spread": 4.0},
    "tight classes after a ReLU": {"active": True, "spread": 4.0},
}
MEMORY_SHARE = 1 / 8
LARGEST_GIB = 2.0
_OWN_MAPPINGS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_TRIM_THRESHOLD_": str(1 << 17)}
"""Of the C library: otherwise the peak varies by some 30 MiB with the freed tensors that the heap keeps."""


def plain_relation(student: Tensor, teacher: Tensor, student_keys: Tensor, teacher_keys: Tensor) -> Tensor:
    """Mean over anchors of the KL divergence, with whole N x K matrices."""
    log_student = F.log_softmax(student @ student_keys.T / TEMPERATURE, dim=1)
    teacher_probability = F.softmax(teacher @ teacher_keys.T / TEMPERATURE, dim=1)
    return F.kl_div(log_student, teacher_probability, reduction="batchmean")


def plain_minibatch(student: Tensor, teacher: Tensor, partners: int | None) -> Tensor:
    """Mean over pairs; rows (B, L, D)."""
    chosen = choose_partners(student.shape[0], partners, 0)
    student, teacher = F.normalize(student, dim=2), F.normalize(teacher, dim=2)
    values = [
        plain_relation(student[i], teacher[i], student[j], teacher[j]) for i, keys in enumerate(chosen) for j in keys
    ]
    return sum(values) / len(values)


def plain_context(module: GraphContext, x: Tensor) -> Tensor:
    """The module's formula with the whole matrix of attention."""
    query, key, value = (layer(x).flatten(2) for layer in (module.query, module.key, module.value))  # (B, C / 2, L)
    attention = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)
    attended = (attention @ value.transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
    return module.fuse(torch.cat([x, module.expand(attended)], dim=1))


def plain(group: str, inputs: Inputs) -> Tensor:
    """The terms of a group from their formulas."""
    student, teacher = inputs.student, inputs.teacher
    if group == "context":
        return plain_context(inputs.context, student).square().mean()
    if group == "memory":
        valid = (inputs.target != 255).flatten()
        rows = [F.normalize(maps, dim=1).movedim(1, -1).flatten(0, 2)[valid] for maps in (student, teacher)]
        banks = [bank.queue[:-1].float() for bank in (inputs.pixels.pixel_bank, inputs.pixels.region_bank)]
        return sum(plain_relation(*rows, keys, keys) for keys in banks)
    if group == "channels":
        rows = [F.avg_pool2d(maps, 4, 4, ceil_mode=True).flatten(2) for maps in (student, teacher)]
        keys = inputs.channels.bank.queue[:-1].float()
        flat = [F.normalize(maps.flatten(0, 1), dim=1) for maps in rows]
        return plain_minibatch(*rows, None) + plain_relation(*flat, keys, keys)
    rows = [maps.flatten(2).transpose(1, 2) for maps in (student, teacher)]
    return plain_minibatch(*rows, PARTNERS if group == "partners" else None)


def ours(group: str, inputs: Inputs, dtype: str) -> Tensor:
    """The terms of a group as in training."""
    student, teacher, operands = inputs.student, inputs.teacher, RELATION_DTYPES[dtype]
    if group == "context":
        with torch.autocast(student.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            return inputs.context(student).float().square().mean()
    if group == "memory":
        terms = inputs.pixels(student, teacher, inputs.target, Step(), TEMPERATURE, 1.0, operands)
        return sum(terms.values())
    if group == "channels":
        student, teacher = pool4x4(student), pool4x4(teacher)
        value = minibatch_relation(student, teacher, 1, None, TEMPERATURE, (0,), operands)
        return value + inputs.channels(student, teacher, Step(), TEMPERATURE, 1.0, operands)
    return minibatch_relation(
        student, teacher, 2, PARTNERS if group == "partners" else None, TEMPERATURE, (0,), operands
    )


def run_once(group: str, way: str, inputs: Inputs) -> tuple[float, Tensor, Tensor]:
    """Seconds of forward + backward, the value and the gradient. Group "all": every relation term, one backward."""
    inputs.student.grad = None
    synchronize(inputs.student.device)
    start = time.perf_counter()
    groups = ("memory", "partners", "channels") if group == "all" else (group,)
    loss = sum(plain(name, inputs) if way == "plain" else ours(name, inputs, way) for name in groups)
    loss.backward()
    synchronize(inputs.student.device)
    return time.perf_counter() - start, loss.detach(), inputs.student.grad


def measure_peak(group: str, way: str, size: tuple[int, int, int, int], device: str) -> float:
    """Peak extra MiB of one forward + backward, after a small one that loads the libraries' own buffers."""
    run_once(group, way, Inputs((2, 32, 8, 8), device))
    inputs = Inputs(size, device)
    peak = PeakMemory(torch.device(device))
    run_once(group, way, inputs)
    return peak.mib()


def time_group(group: str, inputs: Inputs) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Best seconds of each way, and the relative error of each of our ways from the plain one."""
    results = {way: run_once(group, way, inputs)[1:] for way in WAYS}  # warms up, too
    plainly = results.pop("plain")
    errors = {way: relative_error(own, plainly) for way, own in results.items()}
    del results, plainly
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(GROUPS[group]):
        for way in WAYS:
            times[way].append(run_once(group, way, inputs)[0])
    return {way: min(values) for way, values in times.items()}, errors


def relative_error(own: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of value and gradient."""
    names = ("value", "gradient")
    return {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(names, own, expected, strict=True)}


def measure_rounding(size: tuple[int, int, int, int], device: str) -> dict[str, dict[str, dict[str, float]]]:
    """Error of bfloat16 relative to float32 and the value, for kinds of features and each group."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, options in KINDS.items():
        for distance in (0.5, 0.05):
            inputs = Inputs(size, device, distance, **options)
            for group in ("memory", "minibatch", "channels"):
                expected = run_once(group, "float32", inputs)[1:]
                error = relative_error(run_once(group, "bfloat16", inputs)[1:], expected)
                found.setdefault(f"{kind}, distance {distance}", {})[group] = {"sum": expected[0].item()} | error
    return found


def run(size: tuple[int, int, int, int] = (4, 512, 64, 64), device: str = "cpu", threads: int = 2) -> dict:
    """Measure everything; the targets are those of the published sizes."""
    torch.set_num_threads(threads)
    inputs = Inputs(size, device)
    seconds, errors = {}, {}
    for group in GROUPS:
        seconds[group], errors[group] = time_group(group, inputs)
    del inputs
    rounding = measure_rounding((*size[:2], max(size[2] // 2, 1), max(size[3] // 2, 1)), device)
    speedups = {group: {way: times["plain"] / times[way] for way in WAYS[1:]} for group, times in seconds.items()}
    peaks = {
        group: {way: _peak_in_fresh_process(group, way, size, device, threads) for way in WAYS}
        for group in ("memory", "minibatch")
    }
    shares = {group: {way: mib[way] / mib["plain"] for way in WAYS[1:]} for group, mib in peaks.items()}
    whole = _peak_in_fresh_process("all", "bfloat16", PUBLISHED_SIZE, device, threads) / 1024
    targets = {
        f"{group} {way}: plain / ours": target(speedups[group][way], bound, at_most=False)
        for (group, way), bound in SPEEDUPS[device].items()
    }
    if device == "cpu":
        targets |= {
            f"{group} {way}: extra memory, ours / plain": target(shares[group][way], MEMORY_SHARE, at_most=True)
            for group in shares
            for way in WAYS[1:]
        }
    targets[f"all terms, 8 images of 512x1024, GiB on {device}"] = target(whole, LARGEST_GIB, at_most=True)
    return {
        "benchmark": "relations",
        "sizes": {"features": size, "classes": CLASSES, "device": device},
        "machine": machine(),
        "seconds": seconds,
        "peak_extra_mib": peaks,
        "relative_error": errors,
        "rounding": rounding,
        "ratios": {"speedup": speedups, "memory": shares},
        "targets": targets,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__, device=True)
    parser.add_argument("--size", type=int, nargs=4, default=(4, 512, 64, 64), metavar=("B", "C", "H", "W"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak-of", nargs=2, metavar=("GROUP", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(measure_peak(*args.peak_of, tuple(args.size), args.device))
        return

    result = run(tuple(args.size), args.device, args.threads)
    for group, times in result["seconds"].items():
        for way, taken in times.items():
            words = f"{group:10s} {way:9s} {1000 * taken:8.1f} ms"
            if way != "plain":
                error = result["relative_error"][group][way]
                words += f"  {times['plain'] / taken:5.2f} times as fast as plain, value {error['value']:.0e} off, "
                words += f"gradient {error['gradient']:.0e}"
            if group in result["peak_extra_mib"]:
                words += f", {result['peak_extra_mib'][group][way]:.0f} MiB extra"
            print(words)
    for kind, groups in result["rounding"].items():
        for group, found in groups.items():
            words = f"bfloat16, {kind:27s} {group:10s} value {found['sum']:.1e}, {found['value']:.0e} off, "
            print(f"{words}gradient {found['gradient']:.1e}")
    finish(result, args.json)


def _peak_in_fresh_process(group: str, way: str, size: tuple[int, int, int, int], device: str, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.relations", "--peak-of", group, way]
    command += ["--size", *map(str, size), "--device", device, "--threads", str(threads)]
    output = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parents[1],
        env=os.environ | _OWN_MAPPINGS,
    )
    return float(output.stdout.split()[-1])


if __name__ == "__main__":
    main()
