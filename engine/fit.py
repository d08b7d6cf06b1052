"""From a task and data to a trained network: everything that both training entry points share."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dataset import build_dataset
from dataset.base import SegmentationDataset
from dataset.loaders import build_eval_loader, build_train_loader
from dataset.samplers import StreamBatchSampler
from engine.amp import grad_scaler
from engine.evaluate import evaluate
from engine.optim import build_optimizer, build_separate_optimizer
from engine.parallel import check_batch_norm_batch, synchronize_batch_norms
from engine.pictures import ValidationPanels
from engine.protocol import default_protocol
from engine.run import Run
from engine.state import Best, Training
from engine.task import SegmentationTask, disable_dropout
from engine.train import Settings, train
from models import build_model
from models.base import SegmentationNetwork
from models.weights import is_backbone_file, load_backbone_weights, load_weights, read_file
from utils.checkpoint import plain
from utils.distributed import broadcast_object, get_rank, get_world_size, is_main_process, main_process_first
from utils.logger import RunLogger
from utils.metrics import SegMetrics
from utils.seed import seed_everything

CHECKED_SAMPLES = 50


@dataclass(frozen=True)
class Data:
    """The splits of a run; `val` is None where nothing is validated."""

    train: SegmentationDataset
    val: SegmentationDataset | None

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same on resume, as plain data."""
        return {
            "training samples": len(self.train),
            "first training image": Path(self.train.image_paths[0]).name,
            "last training image": Path(self.train.image_paths[len(self.train) - 1]).name,
            "classes": list(self.train.classes),
        }


def build_data(args: argparse.Namespace) -> Data:
    """Lists the splits (every path is checked) and opens some samples of each.

    Raises:
        ValueError, FileNotFoundError: for anything wrong with the data; names the files.
    """
    options = {"ignore_label": args.ignore_label}
    train_set = build_dataset(args.dataset, args.data, "train", list_file=args.train_list, **options)
    val_set = None
    if not (args.skip_val and getattr(args, "skip_teacher_check", True)):
        val_set = build_dataset(args.dataset, args.data, "val", list_file=args.val_list, **options)
    _check_samples([split for split in (train_set, val_set) if split is not None])
    return Data(train_set, val_set)


def _check_samples(splits: list[SegmentationDataset]) -> None:
    """Opens some samples on the main process; what is wrong with them is raised on all."""
    problem = None
    if is_main_process():
        try:
            for split in splits:
                split.check_samples(CHECKED_SAMPLES)
        except (ValueError, FileNotFoundError) as error:
            problem = str(error)
    problem = broadcast_object(problem)
    if problem is not None:
        raise ValueError(problem)


def build_training_network(
    model: str,
    backbone: str,
    num_classes: int,
    *,
    pretrained_base: str | Path | None,
    pretrained: Path | None,
    allow_partial: bool,
    log: Callable[[str], None],
) -> SegmentationNetwork:
    """A network with the weights it starts from.

    Args:
        model, backbone, num_classes: as for `build_model`.
        pretrained_base: ImageNet weights of the backbone, a file or a library's, as for `load_backbone_weights`.
        pretrained: the whole network's weights; a backbone file is loaded as one, with a warning.
        allow_partial: accept files that cover only a part.
        log: gets the report of every load.
    """
    network = build_model(model, backbone, num_classes)
    if pretrained_base is not None:
        with main_process_first():  # a library's weights are fetched once
            load_backbone_weights(network, pretrained_base, allow_partial=allow_partial, log=log)
    if pretrained is None:
        return network
    file = read_file(pretrained)
    if is_backbone_file(file.state, network):
        log(f"WARNING: {pretrained} holds a backbone alone: the head starts untrained.")
        load_backbone_weights(network, file, allow_partial=allow_partial, log=log)
    else:
        load_weights(network, file, allow_partial=allow_partial, log=log)
    return network


def check_setup(network: SegmentationNetwork, args: argparse.Namespace, device: torch.device) -> None:
    """Meets what would fail at the first step before anything is written.

    Raises:
        ValueError: the batch, the processes, the network and the device do not go together.
    """
    grad_scaler(device, args.amp)
    world_size = get_world_size()
    StreamBatchSampler(
        args.batch_size, args.max_iterations, accumulation_steps=args.accumulation_steps, world_size=world_size
    )
    check_batch_norm_batch(
        pools_globally=network.pools_globally,
        images_per_process=args.batch_size // (args.accumulation_steps * world_size),
        batch_size=args.batch_size,
        freeze_bn=args.freeze_bn,
        device=device,
    )


def fit(
    task: SegmentationTask, data: Data, args: argparse.Namespace, run: Run, device: torch.device, logger: RunLogger
) -> Best:
    """Trains `task` as the arguments say, from `run.state` where there is one.

    Raises:
        ValueError: the state does not fit.
    """
    training = _prepare(task, args, device)
    training.data = data.fingerprint()
    seed_everything(args.seed, get_rank())  # from here on processes differ: dropout
    if run.state is not None:
        _check_same_data(run.state["data"], training.data)
        training.load(run.state, device)
        training.seconds = training.seconds or logger.last("train_seconds")
        logger.info(f"continuing at iteration {training.iteration} of {args.max_iterations}")
    loader = build_train_loader(
        data.train,
        crop_size=args.crop_size,
        batch_size=args.batch_size,
        max_iterations=args.max_iterations,
        start_iteration=training.iteration,
        accumulation_steps=args.accumulation_steps,
        seed=args.seed,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    return train(
        training,
        loader,
        settings=settings,
        arguments=plain(vars(args)),
        device=device,
        run=run,
        logger=logger,
        validate=None if args.skip_val else _validator(task.network, data.val, args, device, logger),
    )


def _check_same_data(saved: dict[str, Any], given: dict[str, Any]) -> None:
    differences = [
        f"{name}: {saved.get(name)} then, {given[name]} now" for name in given if saved.get(name) != given[name]
    ]
    if differences:
        raise ValueError("--resume: the training data is not that of the run: " + "; ".join(differences))


def _prepare(task: SegmentationTask, args: argparse.Namespace, device: torch.device) -> Training:
    """All that has to happen to the task, in this order: memory format, optimisers, averaged weights, compile."""
    scaler = grad_scaler(device, args.amp)
    if args.no_dropout:
        disable_dropout(task.modules())
    task = synchronize_batch_norms(task, device).to(device)
    if args.channels_last:
        task.network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(
        task,
        task.network.backbone.parameters(),
        kind=args.optimizer_type,
        lr=args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        head_lr_mult=args.head_lr_mult,
        separate=task.separate_parameters(),
    )
    separate_optimizer = build_separate_optimizer(task.separate_parameters())
    ema = None
    if args.ema_decay > 0:
        average = get_ema_multi_avg_fn(args.ema_decay)
        ema = AveragedModel(task.network, multi_avg_fn=average, use_buffers=True)
    if args.compile:
        task.network.compile()  # in place, so that parameters keep their names
    return Training(task, optimizer, scaler, ema, separate_optimizer)


def _validator(
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    args: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
) -> Callable[[nn.Module, int], SegMetrics]:
    loader = build_eval_loader(
        dataset, rank=get_rank(), world_size=get_world_size(), workers=args.workers, pin_memory=device.type == "cuda"
    )

    predictor = default_protocol(network.model_name, dataset.name).predictor()

    def validate(network: nn.Module, iteration: int) -> SegMetrics:
        panels = ValidationPanels(dataset)
        metrics = evaluate(
            network,
            loader,
            dataset.num_classes,
            device,
            predictor=predictor,
            amp=args.amp,
            on_prediction=panels.add,
        )
        for tag, picture in panels.pictures():
            logger.image(tag, picture, iteration)
        return metrics

    return validate
