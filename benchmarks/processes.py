"""Whether N processes equal one: losses, gradients, banks, parameters and metrics of 1, 2 and 3 processes.

    python -m benchmarks.processes                        # small real networks, float32; about three minutes
    python -m benchmarks.processes --networks tiny --dtype float64 --cases cirkdv2 dkd --json processes.json

Every method, and every relation term alone, takes three optimiser steps on the same global batches of 6 images (more
where micro-batches are accumulated), shared by the processes over gloo and wrapped as the trainer wraps them, with
synchronised batch norms, and without dropout, whose draws differ between processes. Loss terms and gradients are those
of the first step; parameters, running statistics and banks are compared after the third. A relative difference is the
largest difference of a tensor over its largest value.
"""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measured import machine, make_parser, write_json
from benchmarks.process_cases import BATCH, CLASSES, Case, DrawnImages, all_cases, build_networks, make_labels
from dataset.loading.loaders import build_eval_loader
from engine.config.schema import OptimConfig
from engine.evaluation.evaluator import evaluate
from engine.setup.tasks import DistillationTask, disable_dropout
from engine.training.ddp import distribute, synchronize_batch_norms
from engine.training.optim import build_discriminator_optimizer, build_optimizer
from losses import build_combined
from losses.task import TaskLossConfig
from tests.processes import run_processes
from utils.complexity import distilled_shapes
from utils.distributed import all_gather_object, all_reduce_sum, get_rank, get_world_size, is_distributed
from utils.types import Step

STEPS, LR = 3, 0.001
VALIDATION_SIZES = (1, 2, 5, 7)
# Below this share of the largest value of all tensors compared together, a tensor counts as rounding around 0: the
# biases of attention's keys have such gradients.
FLOOR = 1e-6


class Row(NamedTuple):
    """The largest difference of something from one process."""

    case: str
    processes: int
    what: str
    where: str
    absolute: float
    relative: float


def take_steps(case: Case, networks: str, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Trains on this process's share of the global batches.

    Returns:
        "losses" (mean over processes) and "gradients" of the first step; "parameters", "statistics" of batch norms and
        "banks" after the last.
    """
    student, teacher, size = build_networks(networks)
    distiller = build_combined(case.configs, num_classes=CLASSES, **distilled_shapes(student, teacher, *size))
    weights = None if case.class_weights is None else torch.tensor(case.class_weights, dtype=torch.float64)
    task = DistillationTask(
        student,
        teacher,
        distiller,
        OptimConfig(freeze_bn=case.freeze_bn),
        loss=TaskLossConfig(**case.loss),
        class_weights=weights,
    )
    task = synchronize_batch_norms(task)
    disable_dropout(task.modules())
    task.to(dtype).train()
    teacher.to(dtype)
    separate = task.discriminator_parameters()
    optimizers = [
        build_optimizer(task, (), kind="sgd", lr=LR, weight_decay=1e-4, momentum=0.9, separate=separate),
        build_discriminator_optimizer(separate),
    ]
    optimizers = [optimizer for optimizer in optimizers if optimizer is not None]
    model = distribute(task, torch.device("cpu"))
    share = BATCH // get_world_size()
    first = get_rank() * share
    generator = torch.Generator().manual_seed(1)
    losses: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for iteration in range(STEPS):
        shape = (case.accumulate, BATCH, 3, *size)
        images = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)[:, first : first + share]
        target = make_labels(case.labels, case.accumulate * BATCH, size, generator)
        target = target.unflatten(0, (case.accumulate, BATCH))[:, first : first + share]
        for part in range(case.accumulate):
            step = Step(iteration, part, case.accumulate, target.flatten(0, 1) if case.accumulate > 1 else None)
            waits = is_distributed() and part < case.accumulate - 1
            with model.no_sync() if waits else nullcontext():
                terms = model(images[part], target[part], step)
                (sum(terms.values()) / case.accumulate).backward()
            if iteration == 0:
                for name, value in terms.items():
                    losses[name] = losses.get(name, 0) + all_reduce_sum(value) / (get_world_size() * case.accumulate)
        if iteration == 0:
            gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {
        "losses": losses,
        "gradients": gradients,
        "parameters": {name: parameter.detach() for name, parameter in task.named_parameters()},
        "statistics": {name: buffer for name, buffer in task.named_buffers() if "running_" in name},
        "banks": {name: buffer for name, buffer in task.named_buffers() if "queue" in name},
    }


def differences(case: str, results: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> list[Row]:
    """Rows for every loss term and one each for gradients, parameters, banks, their counters and confusion matrices."""
    rows = []
    for kind, wanted in expected.items():
        if results[kind].keys() != wanted.keys():
            raise AssertionError(f"{case}: {kind} are of {sorted(results[kind])}, expected {sorted(wanted)}")
        largest = max((float(value.abs().max()) for value in wanted.values()), default=0.0)
        groups: dict[str, list[tuple[float, float, str]]] = {}
        for name, value in wanted.items():
            absolute = float((results[kind][name].double() - value.double()).abs().max())
            floor = 0.0 if kind == "losses" else FLOOR * largest
            relative = absolute / max(float(value.abs().max()), floor) if absolute else 0.0
            counter = kind == "banks" and not value.is_floating_point()
            what = name if kind == "losses" else "bank pointers and counts" if counter else kind
            groups.setdefault(what, []).append((relative, absolute, name))
        for what, found in groups.items():
            relative, _, where = max(found)
            rows.append(Row(case, get_world_size(), what, where, max(absolute for _, absolute, _ in found), relative))
    return rows


def validate(sizes: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """Confusion matrices of validation sets of these sizes; an image not predicted exactly once is an error."""
    network = build_networks("tiny")[0]
    matrices = {}
    for size in sizes:
        positions: list[Tensor] = []
        loader = build_eval_loader(DrawnImages(size), rank=get_rank(), world_size=get_world_size())
        metrics = evaluate(
            network,
            loader,
            CLASSES,
            torch.device("cpu"),
            on_prediction=lambda batch, _, found=positions: found.append(batch.positions),
        )
        seen = sorted(int(p) for found in all_gather_object(positions) for p in found)
        if seen != list(range(size)):
            raise AssertionError(f"{get_world_size()} processes predicted the images {seen} of {size}")
        matrices[f"{size} images"] = torch.from_numpy(metrics.matrix)
    return {"confusion matrices": matrices}


def compare_cases(cases: Sequence[Case], networks: str, dtype: torch.dtype, folder: str) -> list[Row]:
    """Runs the cases; one process writes its results to `folder`, several compare theirs with them."""
    rows = []
    for case in [*cases, None]:
        results = validate(VALIDATION_SIZES) if case is None else take_steps(case, networks, dtype)
        name = "validation" if case is None else case.name
        file = Path(folder) / f"{name}.pt"
        if get_world_size() == 1:
            torch.save(results, file)
        else:
            rows += differences(name, results, torch.load(file, weights_only=True))
    return rows


def measure(
    cases: Sequence[Case], networks: str, dtype: torch.dtype, worlds: Sequence[int], timeout: float
) -> list[Row]:
    """Rows of all cases and the validation for each number of processes: the largest difference of any process."""
    worst: dict[tuple[str, int, str], Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        compare_cases(cases, networks, dtype, folder)
        for world in worlds:
            for rows in run_processes(compare_cases, world, cases, networks, dtype, folder, timeout=timeout):
                for row in rows:
                    worst[row[:3]] = max(worst.get(row[:3], row), row, key=lambda r: (r.relative, r.absolute))
    return list(worst.values())


def format_table(rows: Sequence[Row], worlds: Sequence[int], by: str) -> str:
    """A Markdown table of the largest differences, absolute (relative), a line for each value of the field `by`."""
    lines = [f"| {by} | " + " | ".join(f"{world} processes" for world in worlds) + " |", "|---|" + "---|" * len(worlds)]
    for value in dict.fromkeys(getattr(row, by) for row in rows):
        cells = []
        for world in worlds:
            found = [row for row in rows if getattr(row, by) == value and row.processes == world]
            absolute, relative = (max(getattr(row, name) for row in found) for name in ("absolute", "relative"))
            cells.append(f"{absolute:.1e} ({relative:.1e})" if absolute else "0")
        lines.append(f"| {value} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", choices=("real", "tiny"), default="real")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--cases", nargs="*", metavar="TEXT", help="only cases whose name contains one of these")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3], help="each divides 6")
    args = parser.parse_args()
    if any(world < 2 or BATCH % world for world in args.processes):
        parser.error(f"--processes {args.processes}: expected numbers from 2 that divide {BATCH}")
    cases = [case for case in all_cases() if not args.cases or any(text in case.name for text in args.cases)]
    if not cases:
        parser.error(f"no case contains {args.cases}; there are {', '.join(case.name for case in all_cases())}")
    torch.set_num_threads(1)
    rows = measure(cases, args.networks, getattr(torch, args.dtype), args.processes, timeout=1800)
    print(f"{args.networks} networks, {args.dtype}: largest difference from one process, absolute (relative)")
    for by in ("what", "case"):
        print(f"\n{format_table(rows, args.processes, by)}")
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        found = {"rows": [row._asdict() for row in rows], "cases": [asdict(case) for case in cases]}
        write_json({"machine": machine(), "arguments": settings} | found, args.json)


if __name__ == "__main__":
    main()
