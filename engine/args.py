"""Command-line arguments: groups that the entry points share, and checks made before anything is loaded."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset import DATASETS
from engine.amp import AMP_CHOICES, TEACHER_DTYPES
from engine.replaced_flags import REPLACED, add_replaced_flags, report_replaced_flags
from models import list_models
from utils.distributed import DEFAULT_TIMEOUT

PROFILE_STEPS = 5
PRETRAINED_BASE_HELP = (
    "ImageNet weights of the backbone: a file; timm:<name[.tag]> or torchvision:<name>, which are fetched; or timm, "
    "for a timm backbone"
)
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
BACKBONE_HELP = "python -m models lists what goes with what; timm:<name> goes with every model"


class Parser(argparse.ArgumentParser):
    """ArgumentParser that takes `--save_dir` for `--save-dir` and ends errors with one line and exit code 2."""

    def __init__(self, description: str, replaced: dict[str, tuple[bool, str]] = REPLACED) -> None:
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.replaced = replaced
        add_replaced_flags(self, replaced)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        words = list(sys.argv[1:] if args is None else args)
        words = [_hyphenate(word) for word in words]
        parsed = super().parse_args(words, namespace)
        report_replaced_flags(self, parsed, self.replaced)
        return parsed

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\nSee `python {self.prog} --help` for all options.\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Prints defaults, but not those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _hyphenate(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def optional(text: str) -> str | None:
    """Flag values `None`, `none` and the empty string mean that nothing is given."""
    return None if text.lower() in ("none", "") else text


def optional_path(text: str) -> Path | None:
    """A path with `~` expanded, or None for `None`."""
    return None if optional(text) is None else Path(text).expanduser()


def required_path(text: str) -> Path:
    """A path with `~` expanded; `None` is refused."""
    path = optional_path(text)
    if path is None:
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return path


def _seconds(text: str) -> float:
    value = float(text)
    if not finite_above(value, 0):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return value


def add_data_args(parser: Parser, train: bool = True) -> None:
    group = parser.add_argument_group("data")
    default = "" if train else "; default: as the file tells"
    group.add_argument("--dataset", required=train, help=", ".join(DATASETS) + default)
    group.add_argument("--data", required=True, type=required_path, metavar="FOLDER", help="the data set's root folder")
    if train:
        group.add_argument("--train-list", type=optional_path, help='file of "image mask" lines instead of the layout')
        group.add_argument("--skip-bad-samples", type=int, default=0, metavar="N", help=SKIP_BAD_SAMPLES_HELP)
    group.add_argument("--val-list", type=optional_path, help='file of "image mask" lines instead of the layout')
    if not train:
        group.add_argument("--train-list", type=optional_path, help="the same for --split train")
        group.add_argument("--test-list", type=optional_path, help="the same for --split test")
    group.add_argument("--ignore-label", type=int, default=-1, help="a further void value in the masks; -1 means 255")
    group.add_argument("-j", "--workers", type=int, default=None, help="loader processes per training process")


def add_model_args(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="deeplabv3", help=", ".join(list_models()))
    group.add_argument("--backbone", default="resnet18", help=BACKBONE_HELP)
    group.add_argument("--pretrained-base", type=optional_path, metavar="FILE|SOURCE", help=PRETRAINED_BASE_HELP)
    group.add_argument("--pretrained", type=optional_path, help="weights of the whole network to start from")
    group.add_argument("--allow-partial", action="store_true", help="accept weight files that cover only a part")


def add_distillation_args(parser: Parser) -> None:
    group = parser.add_argument_group("networks")
    group.add_argument("--teacher-model", help=", ".join(list_models()) + "; default: as the file tells, or deeplabv3")
    group.add_argument("--teacher-backbone", help="default: as the file tells, or resnet101")
    group.add_argument("--teacher-pretrained", type=required_path, required=True, help="its weights or run folder")
    group.add_argument("--student-model", default="deeplabv3", help=", ".join(list_models()))
    group.add_argument("--student-backbone", default="resnet18", help=BACKBONE_HELP)
    group.add_argument(
        "--student-pretrained-base", type=optional_path, metavar="FILE|SOURCE", help=PRETRAINED_BASE_HELP
    )
    group.add_argument("--student-pretrained", type=optional_path, help="weights of the whole student to start from")
    group.add_argument("--allow-partial", action="store_true", help="accept weight files that cover only a part")
    group.add_argument("--skip-teacher-check", action="store_true", help="go on with a teacher near chance")
    group.add_argument(
        "--teacher-dtype",
        type=lambda text: None if text == "auto" else text,
        choices=(None, *TEACHER_DTYPES),
        metavar="|".join(("auto", *TEACHER_DTYPES)),
        help="what the teacher computes in; auto: as --amp says",
    )
    group.add_argument(
        "--no-fold-teacher", action="store_true", help="keep the teacher's batch norms apart from its convolutions"
    )


def add_optimization_args(parser: Parser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch-size", type=int, default=8, help="images per step over all processes")
    group.add_argument("--accumulation-steps", type=int, default=1, help="parts a step's batch is computed in")
    group.add_argument("--crop-size", type=int, nargs="+", default=[512, 1024], metavar="PIXELS", help="height width")
    group.add_argument("--max-iterations", type=int, default=80000)
    group.add_argument("--max-seconds", type=float, metavar="S", help=MAX_SECONDS_HELP)
    group.add_argument("--lr", type=float, default=0.02)
    group.add_argument("--optimizer-type", choices=("sgd", "adamw"), default="sgd")
    group.add_argument("--momentum", type=float, default=0.9, help="of SGD")
    group.add_argument("--weight-decay", "--wd", type=float, default=1e-4)
    group.add_argument("--warmup-iters", type=int, default=0, help="linear rise of the learning rate")
    group.add_argument("--head-lr-mult", type=float, default=1.0, help="learning rate of all but the backbone, times")
    group.add_argument("--clip-grad", type=float, default=0.0, help="largest gradient norm; 0 leaves gradients alone")
    group.add_argument(
        "--ema-decay", type=float, default=0.0, help="keep, evaluate and save averaged weights; 0 is off"
    )
    group.add_argument("--freeze-bn", action="store_true", help="batch norms use and keep their running statistics")
    group.add_argument("--no-dropout", action="store_true")


def add_device_args(parser: Parser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--amp", choices=AMP_CHOICES, default="off", help=AMP_HELP)
    group.add_argument("--channels-last", action="store_true")
    group.add_argument(
        "--dist-timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="S",
        help="seconds that a process waits for another that does not answer before it ends with an error",
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="kernels that repeat bit for bit where there are such, so that a run that was ended and resumed on the "
        "same GPUs ends as one that was not; on the CPU that holds without it",
    )


def add_run_args(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--compile", action="store_true", help="torch.compile the networks that train and teach")
    group.add_argument(
        "--grad-checkpointing",
        action="store_true",
        help="keep less of the backbone for the backward pass and compute it again there: less memory, more time",
    )
    group.add_argument("--save-dir", type=required_path, default=Path("runs"))
    group.add_argument("--save-dir-name", type=optional, help="folder of this run; the checkpoint's name by default")
    group.add_argument("--resume", type=optional, metavar="PATH|DIR|auto", help=RESUME_HELP)
    group.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    group.add_argument(
        "--estimate", action="store_true", help="measure a few steps, print the run's memory, time and disk, and end"
    )
    group.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=PROFILE_STEPS,
        metavar="N",
        help=f"trace N steps (default {PROFILE_STEPS}) after the first few to profile/ in the run's folder",
    )
    group.add_argument("--log-iter", type=int, default=10)
    group.add_argument(
        "--loss-health",
        action="store_true",
        help="log each term's gradient on the features, its cosine to the task's, and how full the banks are",
    )
    group.add_argument("--save-per-iters", type=int, default=800)
    group.add_argument("--val-per-iters", type=int, default=800)
    group.add_argument(
        "--on-save-error",
        choices=("stop", "continue"),
        default="stop",
        help="what a run does that cannot write its state; with continue it warns and tries again at the next save",
    )
    group.add_argument("--skip-val", action="store_true", help="no validation, so no best checkpoint either")


def add_training_args(parser: Parser) -> None:
    """All that both training entry points take beside their networks."""
    add_data_args(parser)
    add_optimization_args(parser)
    add_device_args(parser)
    add_run_args(parser)


def finish_training_args(args: argparse.Namespace) -> argparse.Namespace:
    """Checks the values and returns a namespace with the derived ones filled in.

    Raises:
        ValueError: for a value that cannot be trained with; the message names the flag.
    """
    values = vars(args) | {"crop_size": crop_size(args.crop_size)}
    if values["workers"] is None:
        values["workers"] = default_workers()
    for name in ("batch_size", "accumulation_steps", "max_iterations", "log_iter", "save_per_iters", "val_per_iters"):
        require(values[name] >= 1, name, values[name], "a whole number of at least 1")
    if values["profile"] is not None:
        require(values["profile"] >= 1, "profile", values["profile"], "a whole number of at least 1")
    for name in ("workers", "skip_bad_samples", "warmup_iters", "seed"):
        require(values[name] >= 0, name, values[name], "a whole number of at least 0")
    if values["loss_health"] and values["compile"]:
        raise ValueError("--loss-health looks inside the network's graph, which --compile closes: leave one out.")
    seconds = values["max_seconds"]
    require(seconds is None or finite_above(seconds, 0), "max_seconds", seconds, "a number above 0")
    require(finite_above(values["lr"], 0), "lr", values["lr"], "a number above 0")
    require(finite_above(values["head_lr_mult"], 0), "head_lr_mult", values["head_lr_mult"], "a number above 0")
    for name in ("weight_decay", "clip_grad"):
        require(_finite_from(values[name], 0), name, values[name], "a number of at least 0")
    for name in ("momentum", "ema_decay"):
        require(0 <= values[name] < 1, name, values[name], "a number from 0 up to, but not, 1")
    require(-1 <= values["ignore_label"] <= 255, "ignore_label", values["ignore_label"], "-1 or a value from 0 to 255")
    return argparse.Namespace(**values)


def crop_size(numbers: Sequence[int], name: str = "crop_size") -> tuple[int, int]:
    """(height, width) from one number (a square) or two; `name` is the flag's, for the message.

    Raises:
        ValueError: for other counts and for sizes below 1.
    """
    if len(numbers) == 1:
        numbers = [numbers[0], numbers[0]]
    require(len(numbers) == 2 and min(numbers) >= 1, name, list(numbers), "height and width of at least 1 pixel")
    return int(numbers[0]), int(numbers[1])


def default_workers() -> int:
    """Loader processes per training process: the cores shared among the processes of this machine, at most 8."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // local_processes))


def require(condition: bool, name: str, got: object, expected: str) -> None:
    """Raises ValueError that names the flag, what was given and what it takes."""
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} {got}: expected {expected}.")


def finite_above(value: float, bound: float) -> bool:
    """Whether a flag's number is above `bound` and is not infinite."""
    return math.isfinite(value) and value > bound


def _finite_from(value: float, bound: float) -> bool:
    return math.isfinite(value) and value >= bound
