"""Whether bf16, channels_last and compile leave training as it is: loss curves beside the spread over seeds.

    python -m benchmarks.curves --data data/CamVid --json curves.json

Short runs of the entry points on CamVid, on labels alone and with CIRKDV2: float32 with several seeds, and every
variant with the first of them. Curves are smoothed by a running mean; a variant's mean absolute difference from float32
of the same seed is set against the mean difference between two seeds. A variant agrees where it is not larger.
"""

import argparse
import importlib
import itertools
import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.__main__ import machine

TEACHER = ("psp", "resnet18")
VARIANTS = {
    "bf16": ["--amp", "bf16"],
    "channels_last": ["--channels-last"],
    "bf16 channels_last": ["--amp", "bf16", "--channels-last"],
    "compile": ["--compile"],
}
METHODS = {"baseline": "train_baseline", "cirkdv2": "train_cirkdv2"}


def smooth(values: list[float], window: int) -> list[float]:
    """Running means of `window` neighbouring values."""
    return [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]


def difference(left: list[float], right: list[float], window: int) -> float:
    """Mean absolute difference of two smoothed curves over the mean of the first."""
    left, right = smooth(left, window), smooth(right, window)
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / sum(left)


def compare(seeds: dict[int, list[float]], variants: dict[str, list[float]], window: int) -> dict:
    """Differences between seeds, and of every variant from the first seed's curve.

    Args:
        seeds: seed -> losses of float32.
        variants: name -> losses with the first of these seeds.
        window: of the running mean.
    """
    reference = next(iter(seeds.values()))
    pairs = [difference(a, b, window) for a, b in itertools.combinations(seeds.values(), 2)]
    noise = sum(pairs) / len(pairs)
    found = {name: difference(reference, losses, window) for name, losses in variants.items()}
    return {
        "between seeds": noise,
        "largest between seeds": max(pairs),
        "variants": found,
        "agree": {name: value <= noise for name, value in found.items()},
    }


def train(module: str, words: list[str], folder: Path) -> list[float]:
    """Total loss of every iteration of a run of an entry point, in this process."""
    line = [f"{module}.py", *words, "--save-dir", str(folder), "--save-dir-name", "run", "--overwrite"]
    with patch.object(sys, "argv", line):
        importlib.import_module(module).main()
    torch.compiler.reset()
    lines = [json.loads(text) for text in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in lines if "loss" in record]


def main() -> None:
    """Parse, train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's root folder")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--teacher-iterations", type=int, default=80)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--student", nargs=2, default=["deeplabv3", "resnet18"], metavar=("MODEL", "BACKBONE"))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures and curves to this file")
    args = parser.parse_args()
    if len(args.seeds) < 2 or args.window > args.iterations:
        parser.error("--seeds: expected at least two, and --window no more than --iterations")
    common = ["--dataset", "camvid", "--data", str(args.data), "--crop-size", "96", "128", "--batch-size", "4"]
    common += ["--workers", "1", "--log-iter", "1", "--skip-val", "--device", args.device, "--save-per-iters", "100000"]
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
                # the channel term goes with the number of positions, and is the largest by far at this crop
                words += ["--teacher-pretrained", str(teacher), "--lambda-channel-kd", "2"]
            words = [*common, *words, "--max-iterations", str(args.iterations)]
            seeds = {
                seed: train(METHODS[method], [*words, "--seed", str(seed)], folder / "student") for seed in args.seeds
            }
            first = ["--seed", str(args.seeds[0])]
            variants = {
                name: train(METHODS[method], [*words, *first, *VARIANTS[name]], folder / "student")
                for name in args.variants
            }
            results[method] = compare(seeds, variants, args.window)
            curves[method] = {f"seed {seed}": losses for seed, losses in seeds.items()} | variants
    for method, found in results.items():
        print(f"{method}: two seeds of float32 differ by {found['between seeds']:.2%} of the loss")
        for name, value in found["variants"].items():
            print(f"  {name:20s} {value:8.2%}  {'within' if found['agree'][name] else 'OUTSIDE'} seed noise")
    if args.json:
        result = {"benchmark": "curves", "machine": machine(), "results": results, "curves": curves}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
