"""Whether bf16, channels_last and compile change training: differences of loss curves and the spread over seeds.

    python -m benchmarks.curves --data data/CamVid --json curves.json

Short runs of the entry points on CamVid, on labels alone and with CIRKDV2, in float32 and in every variant, each with
the same seeds; compared are the total loss and the task loss, which no other term dominates. Curves are smoothed by a
running mean. A variant agrees with float32 if its mean absolute difference from the same seed, averaged over seeds, is
not larger than the mean difference between two float32 seeds. The bias, the signed difference of the mean loss of the
second half with its standard error over seeds, shows whether a variant learns better or worse.
"""

import importlib
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.measured import machine, make_parser, write_json

TEACHER = ("psp", "resnet18")
VARIANTS = {
    "float32": [],
    "bf16": ["--amp", "bf16"],
    "channels_last": ["--channels-last"],
    "bf16 channels_last": ["--amp", "bf16", "--channels-last"],
    "compile": ["--compile"],
}
LOSSES = ("loss", "loss_task")
METHODS = {"baseline": "train_baseline", "cirkdv2": "train_cirkdv2"}


def smooth(values: list[float], window: int) -> list[float]:
    """Running means of `window` neighbouring values."""
    return [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]


def difference(left: list[float], right: list[float], window: int) -> float:
    """Mean absolute difference of two smoothed curves over the mean of the first."""
    left, right = smooth(left, window), smooth(right, window)
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / sum(left)


def compare(curves: dict[str, dict[int, list[float]]], window: int) -> dict:
    """Differences between seeds of float32, and of every variant from float32 of the same seed.

    Args:
        curves: name -> seed -> losses; the first name is the reference, with at least two seeds.
        window: of the running mean.
    """
    reference, *names = curves
    plain = curves[reference]
    pairs = [difference(a, b, window) for a, b in itertools.combinations(plain.values(), 2)]
    noise = statistics.mean(pairs)
    variants = {}
    for name in names:
        seeds = curves[name]
        found = {seed: difference(plain[seed], losses, window) for seed, losses in seeds.items()}
        biases = [bias(plain[seed], losses) for seed, losses in seeds.items()]
        error = statistics.stdev(biases) / len(biases) ** 0.5 if len(biases) > 1 else float("nan")
        value = statistics.mean(found.values())
        variants[name] = {"difference": value, "by seed": found, "agrees": value <= noise}
        variants[name] |= {"bias": statistics.mean(biases), "standard error": error}
    return {"between seeds": noise, "range between seeds": [min(pairs), max(pairs)], "variants": variants}


def bias(plain: list[float], losses: list[float]) -> float:
    """Signed difference of the mean losses of the second half over the first's."""
    half = len(plain) // 2
    return sum(losses[half:]) / sum(plain[half:]) - 1


def train(module: str, words: list[str], folder: Path) -> dict[str, list[float]]:
    """The losses of every iteration of a run of an entry point, in this process."""
    line = [f"{module}.py", *words, "--save-dir", str(folder), "--save-dir-name", "run", "--overwrite"]
    with patch.object(sys, "argv", line):
        importlib.import_module(module).main()
    torch.compiler.reset()
    lines = [json.loads(text) for text in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {key: [record[key] for record in lines if "loss" in record] for key in LOSSES}


def main() -> None:
    """Parse, train, compare, print, write."""
    parser = make_parser(__doc__, device=True)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's root folder")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--teacher-iterations", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--student", nargs=2, default=["deeplabv3", "resnet18"], metavar=("MODEL", "BACKBONE"))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS)[1:], default=tuple(VARIANTS)[1:])
    args = parser.parse_args()
    if len(args.seeds) < 2 or args.window > args.iterations:
        parser.error("--seeds: expected at least two, and --window no more than --iterations")
    common = ["--dataset", "camvid", "--data", str(args.data), "--crop-size", "96", "128", "--batch-size", "4"]
    common += ["--workers", "1", "--log-iter", "1", "--skip-val", "--device", args.device, "--save-per-iters", "100000"]
    common += ["--no-dropout"]  # its masks are drawn in the order of memory, which channels_last changes
    results, curves = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        words = ["--model", TEACHER[0], "--backbone", TEACHER[1], "--max-iterations", str(args.teacher_iterations)]
        train("train_baseline", [*common, *words, "--seed", "100"], folder / "teacher")
        teacher = next((folder / "teacher" / "run").glob("psp_*.pth"))
        for method in args.methods:
            words = ["--model", args.student[0], "--backbone", args.student[1]]
            if method == "cirkdv2":
                words = ["--student-model", args.student[0], "--student-backbone", args.student[1]]
                words += ["--teacher-model", TEACHER[0], "--teacher-backbone", TEACHER[1], "--skip-teacher-check"]
                # the channel term grows with the number of positions and would dominate at this crop
                words += ["--teacher-pretrained", str(teacher), "--lambda-channel-kd", "2"]
            words = [*common, *words, "--max-iterations", str(args.iterations)]
            curves[method] = {}
            for name in ("float32", *args.variants):
                curves[method][name] = {
                    seed: train(METHODS[method], [*words, "--seed", str(seed), *VARIANTS[name]], folder / "student")
                    for seed in args.seeds
                }
            results[method] = {}
            for key in LOSSES:
                chosen = {
                    name: {seed: losses[key] for seed, losses in seeds.items()}
                    for name, seeds in curves[method].items()
                }
                results[method][key] = compare(chosen, args.window)
                show(f"{method}, {key}", results[method][key])
            if args.json:  # after every method, so that an interruption does not lose what was computed
                result = {"benchmark": "curves", "machine": machine(), "results": results, "curves": curves}
                write_json(result, args.json)


def show(title: str, found: dict) -> None:
    """Prints what `compare` returned."""
    low, high = found["range between seeds"]
    print(f"{title}: two seeds of float32 differ by {found['between seeds']:.2%} of the loss ({low:.2%} to {high:.2%})")
    for name, values in found["variants"].items():
        place = "within" if values["agrees"] else "OUTSIDE"
        print(
            f"  {name:20s} {values['difference']:8.2%}  {place} seed noise; "
            f"bias of the second half {values['bias']:+.2%}, standard error {values['standard error']:.2%}"
        )


if __name__ == "__main__":
    main()
