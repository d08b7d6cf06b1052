"""The settings of a training run, each declared once; the methods' stand beside the methods."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dataset import DATASETS
from dataset.config import AugmentationConfig, ReadingConfig
from engine.config.networks import DistillationConfig, NetworkConfig
from engine.config.unlabelled import UnlabelledConfig
from losses.task import TaskLossConfig
from utils.distributed import DEFAULT_TIMEOUT
from utils.settings import AT_LEAST_0, AT_LEAST_1, FRACTION, NON_NEGATIVE, POSITIVE, Settings, require, section, setting
from utils.sinks import LOGGERS

PROFILE_STEPS = 5
MAX_SECONDS_HELP = (
    "stop after S seconds of training, with start-up, validation and saving not counted, if --max-iterations have not "
    "passed; the learning rate follows the larger of iteration/max and seconds/S, so it ends near 0 either way. Such a "
    "run does not repeat bit for bit"
)
SKIP_BAD_SAMPLES_HELP = (
    "up to N different training samples that cannot be read are replaced by others, with a warning each; counted in "
    "each process; validation takes none"
)
RESUME_HELP = (
    "continue from a last_state.pth; auto: from the last good state of the run's own folder, or from the start where "
    "there is none. SIGTERM, Ctrl-C and SIGUSR1 end a run with exit code 75 after its step, with the state saved"
)
AMP_HELP = (
    "half precision; fp16 needs a GPU. auto: bf16 on a GPU that has it; in training on a CPU whichever of bf16 and off "
    "is faster, measured in two steps each of the student, which is logged and kept on resume"
)
LIST_HELP = 'file of "image mask" lines instead of the layout'


def default_workers() -> int:
    """Loader processes per training process: the cores shared among the processes of this machine, at most 8."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // local_processes))


def size(numbers: Sequence[int], flag: str = "--crop-size") -> tuple[int, int]:
    """(height, width) from one number (a square) or two; `flag` is for the message.

    Raises:
        ValueError: for other counts and for sizes below 1.
    """
    numbers = [numbers] if isinstance(numbers, int) else list(numbers)
    if len(numbers) == 1:
        numbers = numbers * 2
    require(len(numbers) == 2 and min(numbers) >= 1, flag, numbers, "height and width of at least 1 pixel")
    return numbers[0], numbers[1]


def workers_setting() -> Any:
    """The setting of the number of loader processes; see `LoaderConfig`."""
    return setting(None, "loader processes per process", check=AT_LEAST_0, per_host=True, aliases=("-j",))


@dataclass(frozen=True)
class LoaderConfig(Settings):
    """Base of configs with a `workers_setting` named `workers`, which it fills in where it is not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is None:
            object.__setattr__(self, "workers", default_workers())


@dataclass(frozen=True)
class DataConfig(LoaderConfig):
    """The data set and how it is read."""

    dataset: str = setting(help=", ".join(DATASETS))
    data: Path = setting(help="the data set's root folder", per_host=True, options={"metavar": "FOLDER"})
    train_list: Path | None = setting(None, LIST_HELP, per_host=True)
    val_list: Path | None = setting(None, LIST_HELP, per_host=True)
    skip_bad_samples: int = setting(0, SKIP_BAD_SAMPLES_HELP, check=AT_LEAST_0, resume="free", options={"metavar": "N"})
    workers: int | None = workers_setting()


@dataclass(frozen=True)
class OptimConfig(Settings):
    """Optimiser, schedule and batch."""

    batch_size: int = setting(8, "images per step over all processes", check=AT_LEAST_1)
    accumulation_steps: int = setting(1, "parts a step's batch is computed in", check=AT_LEAST_1)
    crop_size: tuple[int, int] = setting(
        (512, 1024), "height width, or the side of a square", convert=size, options={"metavar": "PIXELS"}
    )
    max_iterations: int = setting(80000, "optimiser steps of the run", check=AT_LEAST_1)
    max_seconds: float | None = setting(None, MAX_SECONDS_HELP, check=POSITIVE, options={"metavar": "S"})
    lr: float = setting(0.02, "base learning rate", check=POSITIVE)
    optimizer_type: Literal["sgd", "adamw"] = setting("sgd", "the optimiser")
    momentum: float = setting(0.9, "of SGD", check=FRACTION)
    weight_decay: float = setting(1e-4, "of all parameters", check=NON_NEGATIVE, aliases=("--wd",))
    warmup_iters: int = setting(0, "linear rise of the learning rate", check=AT_LEAST_0)
    head_lr_mult: float = setting(1.0, "learning rate of all but the backbone, times", check=POSITIVE)
    clip_grad: float = setting(0.0, "largest gradient norm; 0 leaves gradients alone", check=NON_NEGATIVE)
    ema_decay: float = setting(0.0, "keep, evaluate and save averaged weights; 0 is off", check=FRACTION)
    freeze_bn: bool = setting(False, "batch norms use and keep their running statistics")
    no_dropout: bool = setting(False, "train without dropout")


@dataclass(frozen=True)
class MachineConfig(Settings):
    """Device, precision and random numbers of any program."""

    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU where there is one", resume="free")
    amp: Literal["auto", "off", "bf16", "fp16"] = setting(
        "off", AMP_HELP, resume=lambda then, now: now == "auto"  # which keeps what the run chose
    )  # fmt: skip
    channels_last: bool = setting(False, "memory layout NHWC, faster on most devices", resume="free")
    dist_timeout: float = setting(
        DEFAULT_TIMEOUT,
        "seconds that a process waits for another that does not answer before it ends with an error",
        check=(lambda v: v > 0, "a number of seconds above 0"),
        resume="free",
        options={"metavar": "S"},
    )
    seed: int = setting(0, "of all random numbers", check=AT_LEAST_0)
    deterministic: bool = setting(
        False,
        "kernels that repeat bit for bit where there are such, so that a run that was ended and resumed on the same "
        "GPUs ends as one that was not; on the CPU that holds without it",
        resume="free",
    )


@dataclass(frozen=True)
class RunConfig(Settings):
    """Where a run writes and when, and what is looked at on the way. None of it changes what is learned."""

    compile: bool = setting(False, "torch.compile the networks that train and teach", resume="free")
    grad_checkpointing: bool = setting(
        False,
        "keep less of the backbone for the backward pass and compute it again there: less memory, more time",
        resume="free",
    )
    save_dir: Path = setting(Path("runs"), "folder of all runs", per_host=True)
    save_dir_name: str | None = setting(None, "folder of this run; the checkpoint's name by default", resume="free")
    resume: str | None = setting(None, RESUME_HELP, resume="free", options={"metavar": "PATH|DIR|auto"})
    overwrite: bool = setting(False, "start anew in a folder that holds a run", resume="free")
    estimate: bool = setting(
        False, "measure a few steps, print the run's memory, time and disk, and end", resume="free"
    )
    profile: int | None = setting(
        None,
        f"trace N steps (default {PROFILE_STEPS}) after the first few to profile/ in the run's folder",
        check=AT_LEAST_1,
        resume="free",
        options={"nargs": "?", "const": PROFILE_STEPS, "metavar": "N"},
    )
    log_iter: int = setting(10, "iterations between log lines", check=AT_LEAST_1, resume="free")
    logger: str | None = setting(
        None,
        f"also send settings and curves to a service whose package is installed: {', '.join(LOGGERS)}",
        check=(lambda v: v in LOGGERS, f"one of {', '.join(LOGGERS)}"),
        resume="free",
    )
    loss_health: bool = setting(
        False,
        "log each term's gradient on the features, its cosine to the task's, and how full the banks are",
        resume="free",
    )
    save_per_iters: int = setting(800, "iterations between saves", check=AT_LEAST_1, resume="free")
    val_per_iters: int = setting(800, "iterations between validations", check=AT_LEAST_1, resume="free")
    on_save_error: Literal["stop", "continue"] = setting(
        "stop",
        "what a run does that cannot write its state; with continue it warns and tries again at the next save",
        resume="free",
    )
    skip_val: bool = setting(False, "no validation, so no best checkpoint either", resume="free")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logger in ("wandb", "mlflow") and importlib.util.find_spec(self.logger) is None:
            raise ValueError(f"--logger {self.logger}: its package is not installed here: pip install {self.logger}")
        if self.loss_health and self.compile:
            raise ValueError("--loss-health looks inside the network's graph, which --compile closes: leave one out.")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of every training run."""

    data: DataConfig = section("data")
    reading: ReadingConfig = section("reading")
    augmentation: AugmentationConfig = section("augmentation")
    loss: TaskLossConfig = section("task loss")
    optim: OptimConfig = section("optimisation")
    machine: MachineConfig = section("machine")
    run: RunConfig = section("run")


@dataclass(frozen=True)
class BaselineConfig(TrainConfig):
    """A run on labels alone."""

    network: NetworkConfig = section("network")

    @property
    def trained(self) -> NetworkConfig:
        """The network that trains."""
        return self.network


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """A run with a teacher; subclasses add the methods."""

    networks: DistillationConfig = section("networks")
    unlabelled: UnlabelledConfig = section("images without masks")

    def __post_init__(self) -> None:
        if self.networks.balance and self.run.compile:
            raise ValueError("--balance looks inside the network's graph, which --compile closes: leave one out.")

    @property
    def distilled(self) -> tuple[dict[str, Any], int]:
        """Method -> its settings, of those that have weight, and the iterations over which their weights rise."""
        raise NotImplementedError

    @property
    def trained(self) -> NetworkConfig:
        """The student."""
        own = self.networks
        return NetworkConfig(
            own.student_model,
            own.student_backbone,
            pretrained_base=own.student_pretrained_base,
            pretrained=own.student_pretrained,
            allow_partial=own.allow_partial,
        )
