"""What a training run logs at its start and end."""

import shlex

import torch

from engine.config.schema import TrainConfig
from engine.run.directory import RunDirectory
from engine.run.state import Best
from engine.setup.data import Data
from engine.setup.tasks import SegmentationTask
from models.base import SegmentationNetwork
from utils.complexity import count_parameters
from utils.distributed import get_world_size


def start_banner(
    task: SegmentationTask, data: Data, config: TrainConfig, run: RunDirectory, device: torch.device
) -> list[str]:
    """Run folder, data, networks, device and precision, a line each."""
    teacher = getattr(task, "teacher", None)
    processes, precision = get_world_size(), "float32" if config.machine.amp == "off" else config.machine.amp
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    validated = "no validation" if data.val is None else f"{len(data.val)} validation images"
    lines = [
        f"run      {run.folder}",
        f"data     {data.train.name} in {config.data.data}: {len(data.train)} training images, {validated}, "
        f"{data.train.num_classes} classes",
    ]
    lines += [note if note.startswith("WARNING") else f"data     {note}" for note in data.notes]
    if teacher is None:
        lines.append(f"network  {_describe(task.network)}")
    else:
        lines += [f"student  {_describe(task.network)}", f"teacher  {_describe(teacher.network)}"]
    lines.append(f"device   {name}, {precision}, {processes} process(es), {config.optim.batch_size} images a step")
    if run.state is None and config.trained.pretrained is config.trained.pretrained_base is None:
        who = "network" if teacher is None else "student"
        flag = "--pretrained-base" if teacher is None else "--student-pretrained-base"
        lines.append(f"WARNING: the {who} starts from RANDOM weights; {flag} starts its backbone from ImageNet's")
    return lines


def end_banner(best: Best, config: TrainConfig, run: RunDirectory) -> str:
    """The best figure, its file, and the command that evaluates it."""
    checkpoint = run.best_checkpoint if best.iteration else run.checkpoint
    command = ["python", "eval.py", "--pretrained", str(checkpoint), "--data", str(config.data.data)]
    command += ["--dataset", config.data.dataset]
    if config.data.val_list is not None:
        command += ["--val-list", str(config.data.val_list)]
    command += config.reading.words()
    if config.machine.amp != "off":
        command += ["--amp", config.machine.amp]
    figure = f"best mIoU {best.miou:.2%} at iteration {best.iteration}" if best.iteration else "done"
    return f"{figure}: {checkpoint}\nevaluate it: {shlex.join(command)}"


def _describe(network: SegmentationNetwork) -> str:
    return f"{network.model_name} on {network.backbone_name}, {count_parameters(network) / 1e6:.2f} M parameters"
