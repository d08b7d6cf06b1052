"""Whether a loss term of weight 0 costs nothing: the step with its module built at weight 0 and the step without.

    python -m benchmarks.zero_weight --threads 2 --json zero_weight.json

The whole training step (teacher, student, losses, backward, optimiser) of a pair is timed in turns with pixel KD alone,
with every method of `train_kd.py` and CIRKDV2 added at weight 0, and with all of them at their published weights.
The median of the rounds counts.
"""

import argparse
import statistics
import time

import torch

from benchmarks.measured import machine, make_parser, synchronize, write_json
from engine.config.methods import other_methods
from engine.setup.tasks import DistillationTask
from losses import build_combined
from models import build_model
from utils.complexity import feature_shapes
from utils.types import Step

CLASSES = 19
BANKS = {"pixel_memory_size": 200, "region_memory_size": 50}


def configs(way: str) -> dict[str, dict]:
    """Settings of every method for "kd", "zeros" (all others built with weight 0) or "all"."""
    if way == "kd":
        return {"kd": {}}
    found = {}
    for name, method in other_methods().items():
        names = method.Config.__dataclass_fields__
        zeros = {field: 0.0 for field in names if field.endswith("_weight")} if way == "zeros" and name != "kd" else {}
        found[name] = zeros | {field: value for field, value in BANKS.items() if field in names}
    return found


def build(way: str, args: argparse.Namespace) -> tuple[DistillationTask, torch.optim.Optimizer]:
    """The task of a way, all with equal networks."""
    torch.manual_seed(0)
    student = build_model("psp_mobile", "mobilenetv3_small", CLASSES)
    teacher = build_model("deeplabv3", "resnet18", CLASSES)
    shapes = [feature_shapes(network, *args.crop_size)["features"] for network in (student, teacher)]
    task = DistillationTask(student, teacher, build_combined(configs(way), *shapes, CLASSES)).to(args.device).train()
    return task, torch.optim.SGD(task.parameters(), lr=1e-3)


def seconds(
    task: DistillationTask, optimizer: torch.optim.Optimizer, images: torch.Tensor, target: torch.Tensor
) -> float:
    """Seconds of one step."""
    synchronize(images.device)
    start = time.perf_counter()
    sum(task(images, target, Step()).values()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    synchronize(images.device)
    return time.perf_counter() - start


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--crop-size", type=int, nargs=2, default=[128, 256])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = torch.randn(args.batch_size, 3, *args.crop_size, device=args.device)
    target = torch.randint(0, CLASSES, (args.batch_size, *args.crop_size), device=args.device)
    ways = {way: build(way, args) for way in ("kd", "zeros", "all")}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(args.rounds + 1):
        for way, (task, optimizer) in ways.items():
            taken = seconds(task, optimizer, images, target)
            if turn:  # the first round warms up
                times[way].append(taken)
    median = {way: statistics.median(values) for way, values in times.items()}
    extra = {way: sum(p.numel() for p in task.distiller.parameters()) for way, (task, _) in ways.items()}
    result = {
        "machine": machine(),
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "seconds": median,
        "parameters of the losses": extra,
        "zeros / kd": median["zeros"] / median["kd"],
        "all / kd": median["all"] / median["kd"],
    }
    for way, value in median.items():
        print(f"{way:6} {value * 1e3:8.1f} ms a step, {extra[way]} parameters of the losses")
    print(
        f"weight 0 costs {result['zeros / kd'] - 1:+.1%}; all methods at once take {result['all / kd']:.2f} times the "
        "step with pixel KD alone"
    )
    if args.json:
        write_json(result, args.json)


if __name__ == "__main__":
    main()
