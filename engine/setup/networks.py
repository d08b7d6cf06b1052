"""The network that trains: built, with its first weights, checked, and its precision chosen."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from dataset.loading.samplers import StreamBatchSampler
from engine.config.networks import NetworkConfig
from engine.config.schema import TrainConfig
from engine.run.directory import RunDirectory
from engine.run.rank_checks import on_main_process
from engine.training.ddp import check_batch_norm_batch
from models import build_model
from models.base import SegmentationNetwork
from models.surgery.checkpointing import checkpoint_blocks, list_blocks
from models.weights import is_backbone_file, load_backbone_weights, load_weights, read_file
from utils.amp import autocast, gpu_amp, grad_scaler, slow_bf16_warning
from utils.compiling import check_compiler
from utils.distributed import get_world_size, main_process_first


def build_training_network(
    config: NetworkConfig, num_classes: int, run: RunDirectory, log: Callable[[str], None]
) -> SegmentationNetwork:
    """A network with the weights it starts from; those of a run that is continued come with its state.

    Args:
        config: `pretrained_base` is as for `load_backbone_weights`; where `pretrained` is a backbone's file, it is
            loaded as one, with a warning.
        num_classes: K.
        run: that it trains in.
        log: gets the report of every load.
    """
    network, allow_partial = build_model(config.model, config.backbone, num_classes), config.allow_partial
    if run.state is not None:
        return network
    if config.pretrained_base is not None:
        with main_process_first():  # a library's weights are fetched once
            load_backbone_weights(network, config.pretrained_base, allow_partial=allow_partial, log=log)
    if config.pretrained is None:
        return network
    file = read_file(config.pretrained)
    if is_backbone_file(file.state, network):
        log(f"WARNING: {config.pretrained} holds a backbone alone: the head starts untrained.")
        load_backbone_weights(network, file, allow_partial=allow_partial, log=log)
    else:
        load_weights(network, file, allow_partial=allow_partial, log=log)
    return network


def check_setup(network: SegmentationNetwork, config: TrainConfig, device: torch.device) -> None:
    """Meets what would fail at the first step before anything is written.

    Raises:
        ValueError: the batch, the processes, the network and the device do not go together.
    """
    optim = config.optim
    grad_scaler(device, config.machine.amp)
    if config.run.compile:
        check_compiler(device)
    if config.run.grad_checkpointing:
        list_blocks(network.backbone)
    world_size = get_world_size()
    StreamBatchSampler(
        optim.batch_size, optim.max_iterations, accumulation_steps=optim.accumulation_steps, world_size=world_size
    )
    check_batch_norm_batch(
        pools_globally=network.pools_globally,
        images_per_process=optim.batch_size // (optim.accumulation_steps * world_size),
        batch_size=optim.batch_size,
        freeze_bn=optim.freeze_bn,
    )


def settle_amp(
    config: TrainConfig,
    network: SegmentationNetwork,
    run: RunDirectory,
    device: torch.device,
    log: Callable[[str], None],
) -> TrainConfig:
    """The config with `--amp auto` replaced by what it chooses, or has chosen where the run is continued.

    Args:
        config: of the run.
        network: the student, or what else trains.
        run: whose state, if any, holds the choice.
        device: where it trains.
        log: gets the choice, and a warning of a slow one.
    """
    amp = config.machine.amp
    if amp == "auto" and run.state is not None:
        amp = run.state["arguments"]["amp"]
        log(f"--amp auto: {amp}, as the run was started with")
    elif amp == "auto" and device.type != "cpu":
        amp = on_main_process(gpu_amp)  # GPUs of two kinds have to train in one precision
        log(f"--amp auto: {amp}, since this GPU has {'' if amp == 'bf16' else 'no '}bfloat16 arithmetic")
    elif amp == "auto":
        optim = config.optim
        images = optim.batch_size // (optim.accumulation_steps * get_world_size())
        shape = (max(images, 2), 3, *optim.crop_size)  # one image alone has no statistics of its global pool
        seconds = on_main_process(
            lambda: measure_amp(network, device, shape, config.machine.channels_last, config.run.grad_checkpointing)
        )
        amp = min(seconds, key=seconds.get)
        taken = ", ".join(f"{value:.3g} s in {name.replace('off', 'float32')}" for name, value in seconds.items())
        log(f"--amp auto: {amp}; forward and backward pass of {shape[0]} images take {taken}")
    grad_scaler(device, amp)  # refuses what a run took elsewhere and this device cannot do
    if warning := slow_bf16_warning(device, config.machine.amp):  # not of what was measured
        log(f"WARNING: {warning}")
    return replace(config, machine=replace(config.machine, amp=amp))


def measure_amp(
    network: nn.Module,
    device: torch.device,
    shape: tuple[int, int, int, int],
    channels_last: bool,
    grad_checkpointing: bool = False,
) -> dict[str, float]:
    """Seconds of a forward and backward pass on a CPU in "off" and "bf16", the better of two each, in turns.

    On a copy of the network, and without moving the random generators: training is not changed.

    Args:
        network: a student, on any device.
        device: where it will train.
        shape: of the images, (N, 3, H, W).
        channels_last, grad_checkpointing: as in the training.
    """
    seconds = dict.fromkeys(("off", "bf16"), float("inf"))
    with torch.random.fork_rng(devices=[]):
        network = copy.deepcopy(network).to(device).train()
        images = torch.randn(shape, device=device)
        if grad_checkpointing:
            checkpoint_blocks(network.backbone)
        if channels_last:
            network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
        for _ in range(2):
            for amp in seconds:
                started = time.perf_counter()
                with autocast(device, amp):
                    logits = network(images).logits
                logits.float().square().mean().backward()
                seconds[amp] = min(seconds[amp], time.perf_counter() - started)
    return seconds
