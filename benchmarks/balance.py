"""The table of `losses.balance`: how large each term's gradient is beside the task's where the weights were chosen.

    python -m benchmarks.balance --data CAMVID --teacher CHECKPOINT --json balance.json

Real runs of a few iterations at the published crop and rate: CIRKDV2 and CIRKD each at their published weights, and
all other methods together at a thousandth of theirs, which leaves the student to the task. A term's figure is the
geometric mean over the iterations of its gradient's norm on the features / the task's / its weight.

With --balanced the runs train with `--balance`, and the figures, of the iterations after those that it measures, are
printed beside the table's: what it makes of another crop, data set or batch size.
"""

import importlib
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from benchmarks.measured import machine, make_parser, write_json
from engine.config.methods import method_names, other_methods
from losses import METHODS
from losses.balance import ITERATIONS, TARGETS
from utils.settings import flag_of

SMALL = 1e-3


def runs() -> dict[str, tuple[str, list[str], dict[str, dict[str, float]]]]:
    """Name -> program, flags, and method -> term -> weight."""
    found = {}
    for name, program, flags in (("cirkdv2", "train_cirkdv2", []), ("cirkd", "train_kd", ["--method", "cirkd"])):
        found[name] = program, flags, {name: _weights(name)}
    others = {name: _weights(name, SMALL) for name in other_methods() if name != "cirkd"}
    flags = ["--method", "+".join(name for name in method_names() if name != "cirkd")]
    for terms in others.values():
        for term, weight in terms.items():
            flags += [flag_of(f"{term}_weight"), f"{weight:g}"]
    found["others"] = "train_kd", flags, others
    return found


def _weights(method: str, factor: float = 1.0) -> dict[str, float]:
    fields = METHODS[method].Config.__dataclass_fields__
    return {n.removesuffix("_weight"): f.default * factor for n, f in fields.items() if n.endswith("_weight")}


def health(program: str, words: list[str], folder: Path) -> list[dict[str, dict[str, float]]]:
    """Of every iteration of a run: term -> figures, as `losses.gradients.measure` gives them."""
    line = [program, *words, "--loss-health", "--log-iter", "1", "--skip-val", "--overwrite"]
    with patch.object(sys, "argv", [*line, "--save-dir", str(folder), "--save-dir-name", "run"]):
        importlib.import_module(program).main()
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["health"] for line in lines]


def main() -> None:
    """Parse, run, print, write."""
    parser = make_parser(__doc__, prog="benchmarks.balance")
    parser.add_argument("--data", type=Path, required=True, help="CamVid's root folder, large enough for the crop")
    parser.add_argument("--teacher", type=Path, required=True, help="its checkpoint")
    parser.add_argument("--student", nargs=2, required=True, metavar=("MODEL", "BACKBONE"))
    parser.add_argument("--student-pretrained-base")
    parser.add_argument("--crop-size", nargs=2, type=int, default=[512, 1024])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="measured; default: %(default)s")
    parser.add_argument("--balanced", action="store_true", help="measure what --balance has made of the weights")
    parser.add_argument("--only", choices=tuple(runs()), nargs="+", default=tuple(runs()))
    args = parser.parse_args()
    shared = ["--dataset", "camvid", "--data", args.data, "--teacher-pretrained", args.teacher, "--skip-teacher-check"]
    shared += ["--student-model", args.student[0], "--student-backbone", args.student[1]]
    shared += ["--crop-size", *args.crop_size]
    if args.student_pretrained_base:
        shared += ["--student-pretrained-base", args.student_pretrained_base]
    skipped = ITERATIONS if args.balanced else 0
    shared += ["--batch-size", args.batch_size, "--max-iterations", skipped + args.iterations, "--workers", 0]
    shared += ["--balance"] if args.balanced else []
    table: dict[str, dict[str, float]] = {}
    for name in args.only:
        program, flags, methods = runs()[name]
        with tempfile.TemporaryDirectory() as folder:
            figures = health(program, [*map(str, shared), *flags], Path(folder))[skipped:]
        for method, terms in methods.items():
            for term, weight in terms.items():
                ratios = [found[f"loss_{term}"]["ratio"] for found in figures if f"loss_{term}" in found]
                if ratios := [ratio for ratio in ratios if ratio > 0]:
                    table.setdefault(method, {})[term] = math.exp(statistics.fmean(map(math.log, ratios))) / weight
                    beside = f", {table[method][term] / TARGETS[method][term]:.2f} of the table's"
                    print(f"{method:12} {term:20} at weight 1 {table[method][term]:.3g}{beside}", flush=True)
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        write_json({"machine": machine(), "settings": settings, "ratios": table}, args.json)


if __name__ == "__main__":
    main()
