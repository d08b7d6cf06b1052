"""The network and data set of a checkpoint, inferred from the file's name or the settings of the run that wrote it.

Released files and our own are named `[kd_]<model>_<backbone>_<dataset>[_best_model].pth`, so that the name is enough to
evaluate one. A name is a claim: before anything is computed it is compared with the tensors in the file.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset import DATASETS
from engine.config.networks import DistillationConfig
from models import resolve_names
from models.weights import StateFile, read_arguments, read_file
from models.weights.contents import check_claim, class_count, describe_content, mismatch
from models.weights.file_names import BEST_SUFFIX, find_checkpoint, parse_file_name, read_arguments_names

NAME_FORM = f"[kd_]<model>_<backbone>_<dataset>[{BEST_SUFFIX}].pth"
TEACHER_DEFAULTS = {"model": "deeplabv3", "backbone": "resnet101"}

Log = Callable[[str], Any]


@dataclass(frozen=True)
class Identity:
    """The network that a file should hold, and the data set it was trained on.

    Attributes:
        model, backbone, dataset: as the command line takes them.
        source: where that was found, for messages ("name" or "arguments").
    """

    model: str
    backbone: str
    dataset: str
    source: str = "name"

    def __str__(self) -> str:
        return f"{self.model} with {self.backbone} on {self.dataset}"


def checkpoint_stem(model: str, backbone: str, dataset: str, distilled: bool = False) -> str:
    """The name, without ending, of a run's checkpoints; `read_name` is its inverse.

    Args:
        model, backbone, dataset: as the command line takes them, aliases resolved here; `timm:<name>` becomes
            `timm-<name>`, and `/` and `:` in the name become `-` too.
        distilled: whether the network is a distilled student.

    Raises:
        ValueError: there is no such network.
    """
    model, backbone = resolve_names(model, backbone)
    return f"{'kd_' if distilled else ''}{model}_{re.sub('[:/]', '-', backbone)}_{dataset}"


def read_name(path: str | Path) -> Identity | None:
    """What is inferred from the file's name; None where it is not of the form `NAME_FORM`.

    Where a name gives a teacher and a student (`kd_segformer_MiT_B4_segformer_MiT_B0_citys`), the student, which comes
    last, is the network in the file. A timm name in which something was replaced cannot be restored: None.
    """
    found = parse_file_name(path)
    if found is None or found.dataset not in DATASETS:
        return None
    return Identity(found.model, found.backbone, found.dataset)


def read_run_arguments(arguments: dict[str, Any] | None) -> Identity | None:
    """What is inferred from the settings of a run (`StateFile.arguments`): of a distillation, the student."""
    found = read_arguments_names(arguments)
    return None if found is None or not found.rest else Identity(*found, source="arguments")


def identify_network(
    path: Path,
    model: str | None,
    backbone: str | None,
    dataset: str | None,
    *,
    allow_partial: bool,
    unnamed: str | None = None,
    log: Log = print,
) -> tuple[Identity, Path, Path | StateFile]:
    """The network in a file: what is given wins, what is None is inferred from the file and logged.

    Whatever is inferred is compared with the tensors in the file.

    Args:
        path: the file, or the folder of its run.
        model, backbone, dataset: as the command line takes them.
        allow_partial: the file may lack tensors.
        unnamed: data set of a file that names its classes and no data set.
        log: takes what was inferred and what contradicts it, a line each.

    Returns:
        The network, the file's path, and the file for `load_weights`: what was read of it where it had to be read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: what is missing cannot be inferred, or the file's tensors are those of another network.
    """
    path = find_checkpoint(path, log)
    given = {"model": model, "backbone": backbone, "dataset": dataset}
    missing = [name for name, value in given.items() if value is None]
    file = read_file(path) if missing else path
    inferred = read_name(path) or (read_run_arguments(file.arguments) if missing else None)
    if inferred is None and unnamed is not None and missing == ["dataset"] and file.classes is not None:
        given["dataset"], missing = unnamed, []
    if inferred is None and missing:
        raise ValueError(_cannot_infer(file, missing))
    if inferred is not None:
        _log_contradictions(path, inferred, {f"--{name}": value for name, value in given.items()}, log)
    if missing:
        given |= {name: getattr(inferred, name) for name in missing}
        pairs = ", ".join(f"--{name} {given[name]}" for name in missing)
        log(f"{path.name}: inferred from its {inferred.source}: {pairs}")
        if not allow_partial:
            check_content(file, inferred, **given)
    return Identity(**given), path, file


def infer_teacher(networks: DistillationConfig, dataset: str, log: Log = print) -> DistillationConfig:
    """Fills in `teacher_model` and `teacher_backbone`, from the teacher's file or else from `TEACHER_DEFAULTS`.

    Args:
        networks: as given.
        dataset: that is trained on.
        log: takes what was inferred and what contradicts it, a line each.

    Raises:
        FileNotFoundError, ValueError: nothing can be inferred from the name and the file cannot be read.
    """
    path = find_checkpoint(networks.teacher_pretrained, log)
    given = {name: getattr(networks, f"teacher_{name}") for name in TEACHER_DEFAULTS}
    missing = [name for name, value in given.items() if value is None]
    inferred = read_name(path) or (read_run_arguments(read_arguments(path)) if missing else None)
    if inferred is not None:
        flags = {f"--teacher-{name}": value for name, value in given.items()} | {"--dataset": dataset}
        _log_contradictions(path, inferred, flags, log)
        if missing:
            pairs = ", ".join(f"--teacher-{name} {getattr(inferred, name)}" for name in missing)
            log(f"{path.name}: inferred from its {inferred.source}: {pairs}")
    for name in missing:
        given[name] = TEACHER_DEFAULTS[name] if inferred is None else getattr(inferred, name)
    values = {f"teacher_{name}": value for name, value in given.items()}
    return replace(networks, **values, teacher_pretrained=path)


def _log_contradictions(path: Path, inferred: Identity, flags: dict[str, str | None], log: Log) -> None:
    """Logs in one line which flags contradict what was inferred from the file.

    Args:
        flags: the values of the flags for model, backbone and data set, in this order; None where one is not given.
    """
    expected = (inferred.model, inferred.backbone, inferred.dataset)
    taken = (value or other for value, other in zip(flags.values(), expected, strict=True))
    compared = zip(flags.items(), _plain_names(*taken), _plain_names(*expected), strict=True)
    others = [f"{flag} {value}" for (flag, value), mine, other in compared if value and mine != other]
    if others:
        log(
            f"WARNING: {path.name} is {inferred} according to its {inferred.source}; the flags win: {', '.join(others)}"
        )


def _plain_names(model: str, backbone: str, dataset: str) -> tuple[str, str, str]:
    """The registry's names where aliases are given; as they are where they do not go together."""
    try:
        return (*resolve_names(model, backbone), dataset)
    except ValueError:
        return model, backbone, dataset


def check_content(file: StateFile, inferred: Identity, model: str, backbone: str, dataset: str) -> None:
    """Compares what was inferred with the tensors in the file.

    Args:
        file: what was read.
        inferred: from its name or settings.
        model, backbone, dataset: what it is taken for. The data set fixes the class count, unless its
            classes are listed in its folder.

    Raises:
        ValueError: the file holds other tensors (they are named), or the network does not exist.
    """
    classes = len(DATASETS[dataset].CLASSES) if dataset in DATASETS else 0
    expected = f"{model} with {backbone}" + (f" for the {classes} classes of {dataset}" if classes else "")
    difference = mismatch(model, backbone, classes, file)
    check_claim(file, str(inferred), inferred.source, expected, difference, "--model, --backbone and --dataset")


def count_classes(model: str, backbone: str, file: Path | StateFile) -> int:
    """The class count of the network in a file.

    Args:
        model, backbone: the network that the file holds.
        file: a path, or what was read of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the network does not exist, or the file lacks its classifier.
    """
    file = file if isinstance(file, StateFile) else read_file(file)
    count = class_count(model, backbone, file.state)
    if not count:
        raise ValueError(
            f"{file.path} holds no classifier of {model} with {backbone}; expected the weights of a whole network"
        )
    return count


def _cannot_infer(file: StateFile, missing: list[str]) -> str:
    content = describe_content(file)
    *first, last = (f"--{name}" for name in missing)
    return (
        f"{file.path}: the network and data set cannot be inferred from the file name, so "
        + (f"{', '.join(first)} and {last} are" if first else f"{last} is")
        + f" needed (names of the form {NAME_FORM} suffice)."
        + (f" The file holds {content}." if content else "")
    )
