"""From a task and data to a trained network: what all training programs share."""

from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dataset.base import SegmentationDataset
from dataset.loading.bad_samples import BadSamples
from dataset.loading.loaders import build_eval_loader
from engine.config.protocol import default_protocol
from engine.config.schema import TrainConfig
from engine.evaluation.evaluator import evaluate
from engine.evaluation.inference import build_predictor
from engine.evaluation.validation_panels import ValidationPanels
from engine.run.checkpointer import space_warning
from engine.run.directory import RunDirectory
from engine.run.rank_checks import fingerprint, require_equal_across_ranks
from engine.run.state import Best, TrainState
from engine.setup.banner import end_banner, start_banner
from engine.setup.data import Data, report_bad_samples, train_loader, warn_on_every_process
from engine.setup.tasks import SegmentationTask, disable_dropout
from engine.training.ddp import synchronize_batch_norms
from engine.training.loop import Validate, train
from engine.training.optim import AveragedWeights, build_discriminator_optimizer, build_optimizer
from engine.training.stopping import StopController
from models.base import SegmentationNetwork
from models.classes import Classes
from models.surgery.checkpointing import checkpoint_blocks
from utils.amp import grad_scaler
from utils.compiling import uncompiled
from utils.distributed import get_rank, get_world_size, is_main_process, lost_processes_explained
from utils.flags import record
from utils.logger import RunLogger
from utils.metrics import SegMetrics
from utils.seed import seed_everything


def fit(
    task: SegmentationTask, data: Data, config: TrainConfig, run: RunDirectory, device: torch.device, notes: list[str]
) -> Best:
    """Trains `task` by its config, from `run.state` where there is one.

    Args:
        task, data, config, run, device: of the run.
        notes: what was noted before there was a log, for the log.

    Raises:
        ValueError: the state does not fit.
    """
    with run.start(config) as logger:
        for note in notes:
            logger.info(note)
        state = prepare(task, config, device)
        state.data = data.fingerprint()
        seed_everything(config.machine.seed, get_rank())  # from here on processes differ: dropout
        if run.state is not None:
            _require_same_data(run.state["data"], state.data)
            state.load(run.state, device)
            state.seconds = state.seconds or logger.last("train_seconds")
            logger.info(f"continuing at iteration {state.iteration} of {config.optim.max_iterations}")
        _name_classes(state, data.train, logger)
        for line in start_banner(task, data, config, run, device):
            logger.info(line)
        if is_main_process() and (warning := space_warning(state, run)):
            logger.warning(warning)
        _require_equal_start(state, data)
        logger.settings(record(config), config.run.logger)
        bad_samples = BadSamples(config.data.skip_bad_samples, warn_on_every_process(logger))
        loader = train_loader(data, config, device, state.iteration, bad_samples)
        validate = None if config.run.skip_val else _validator(task.network, data.val, config, device, logger)
        with lost_processes_explained(lambda: f"after iteration {state.iteration}"):
            best = train(
                state,
                loader,
                config=config,
                device=device,
                run=run,
                logger=logger,
                validate=validate,
                image_path=loader.samples.image_path,
            )
        report_bad_samples(bad_samples, logger)
        logger.info(end_banner(best, config, run))
    return best


def prepare(task: SegmentationTask, config: TrainConfig, device: torch.device) -> TrainState:
    """All that has to happen to the task, in this order: memory format, optimisers, averaged weights, compile."""
    optim = config.optim
    scaler = grad_scaler(device, config.machine.amp)
    if optim.no_dropout:
        disable_dropout(task.modules())
    task = synchronize_batch_norms(task).to(device)
    if config.machine.channels_last:
        task.to(memory_format=torch.channels_last)  # with the losses' convolutions, which read the same maps
    if config.run.grad_checkpointing:
        checkpoint_blocks(task.network.backbone)
    optimizer = build_optimizer(
        task,
        task.network.backbone.parameters(),
        kind=optim.optimizer_type,
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        head_lr_mult=optim.head_lr_mult,
        separate=task.discriminator_parameters(),
    )
    discriminator_optimizer = build_discriminator_optimizer(task.discriminator_parameters())
    ema = AveragedWeights(task.network, optim.ema_decay) if optim.ema_decay > 0 else None
    if config.run.compile:
        task.network.compile()  # in place, so that parameters keep their names
    return TrainState(task, optimizer, scaler, ema, discriminator_optimizer)


def _name_classes(state: TrainState, dataset: SegmentationDataset, logger: RunLogger) -> None:
    """Gives the networks that are saved the names and colours of the data's classes."""
    network, classes = state.task.network, Classes.of(dataset.classes, dataset.palette)
    if network.classes is not None and network.classes.names != classes.names:
        logger.info(
            f"the classifier's weights are of other classes: {network.classes}; training goes on with {classes}"
        )
    for saved in (network, state.evaluated_network):
        saved.set_classes(classes)


def _require_same_data(saved: dict[str, Any], given: dict[str, Any]) -> None:
    differences = [
        f"{name}: {saved.get(name)} then, {given[name]} now" for name in given if saved.get(name) != given[name]
    ]
    if differences:
        raise ValueError("--resume: the training data is not that of the run: " + "; ".join(differences))


def _require_equal_start(state: TrainState, data: Data) -> None:
    """Refuses processes that found other data, weights or another state: each reads the files of its own machine."""
    if get_world_size() == 1:
        return
    teacher = getattr(state.task, "teacher", None)
    values = state.data | {
        "validation samples": "none" if data.val is None else len(data.val),
        "iteration to start from": state.iteration,
        "the weights' hash": fingerprint(filter(None, (state.task, teacher))),
    }
    require_equal_across_ranks(
        values, "Every machine needs the same data set, weights and state; --data and such name them."
    )


def _validator(
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    config: TrainConfig,
    device: torch.device,
    logger: RunLogger,
) -> Validate:
    loader = build_eval_loader(
        dataset,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=config.data.workers,
        pin_memory=device.type == "cuda",
    )
    predictor = build_predictor(default_protocol(network.model_name, dataset.name))

    def validate(network: nn.Module, iteration: int, stop: StopController) -> SegMetrics:
        panels = ValidationPanels(dataset)
        hidden = None if is_main_process() else True
        bar = tqdm(loader, desc="validation", unit="image", disable=hidden, dynamic_ncols=True, leave=False)
        with uncompiled(), bar:
            metrics = evaluate(
                network,
                stop.interruptible(bar),
                dataset.num_classes,
                device,
                predictor=predictor,
                amp=config.machine.amp,
                on_prediction=panels.add,
            )
        for tag, picture in panels.pictures():
            logger.image(tag, picture, iteration)
        return metrics

    return validate
