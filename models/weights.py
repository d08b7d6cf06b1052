"""Load released checkpoints, our own ones and ImageNet backbone files, loudly and completely or not at all.

A file that leaves part of the network without weights is an error: a teacher whose head was drawn at random would
otherwise be distilled for days. Everything is checked before the first tensor is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.base import SegmentationNetwork
from models.conversions import conversion_for
from utils.checkpoint import load_file

# Where a file keeps the network's state, in the order in which they are looked for: our last_state.pth first.
STATE_KEYS = ("network", "state_dict", "model")
# What DistributedDataParallel and torch.compile put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
COUNTER = "num_batches_tracked"
NAMES_SHOWN = 8

State = dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        path: the file.
        what: what was to be covered ("network" or "backbone").
        loaded: names, in the network, of the tensors taken over.
        missing: names in the network that the file lacks.
        unexpected: names in the file that the network lacks.
        mismatched: (name, shape in the file, shape in the network).
        dropped: names in the file left out on purpose (the classifier of an ImageNet network, an auxiliary head that
            the network was built without).
        counters_absent: the file is older than batch norm's update counters, which stay as they were.
    """

    path: str
    what: str
    loaded: list[str]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    counters_absent: int = 0

    @property
    def complete(self) -> bool:
        """Whether the file is this network: everything covered and nothing left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched) + self.counters_absent
        lines = [f"{self.path}: {len(self.loaded)} of {total} tensors of the {self.what} loaded"]
        if self.counters_absent:
            lines.append(
                f"  {self.counters_absent} batch-norm update counters absent (an old file; they are not needed)"
            )
        shapes = [f"{name} {list(got)} in the file, {list(expected)} here" for name, got, expected in self.mismatched]
        for title, names in (
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", shapes),
            ("left out on purpose", self.dropped),
        ):
            if names:
                more = f" ... and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
                lines.append(f"  {len(names)} {title}: {', '.join(names[:NAMES_SHOWN])}{more}")
        return "\n".join(lines)


def load_weights(
    model: SegmentationNetwork,
    path: str | Path,
    allow_partial: bool = False,
    log: Callable[[str], Any] = print,
) -> LoadReport:
    """Load a whole network: a released checkpoint or one of our own.

    Accepted are a bare state_dict, a dict that holds one under one of `STATE_KEYS`, names with the prefixes of
    DistributedDataParallel or torch.compile, and .safetensors. An auxiliary head in the file is left out where the
    network was built without one.

    Args:
        model: network to fill in place; untouched when an error is raised.
        path: file.
        allow_partial: take over what fits, whatever is missing or left over.
        log: takes the report as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, holds no weights, belongs to a backbone alone, to another class count or
            to another network.
    """
    state = read_state(path)
    own = model.state_dict()
    dropped = [name for name in state if name.startswith("auxlayer.")] if model.auxlayer is None else []
    source = {name: name for name in state if name not in set(dropped)}
    report = _compare(str(path), "network", own, state, source, dropped)
    if not report.complete and not allow_partial:
        raise ValueError(_refusal(model, state, report))
    return _take_over(own, state, source, report, log)


def load_backbone_weights(
    model: SegmentationNetwork,
    path: str | Path,
    allow_partial: bool = False,
    log: Callable[[str], Any] = print,
) -> LoadReport:
    """Load an ImageNet file into the network's backbone; the classifier's own tensors are left out.

    Args:
        model: network whose backbone is filled in place; untouched when an error is raised.
        path: file.
        allow_partial: take over what fits, whatever is missing or left over.
        log: takes the report as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, holds no weights, or is not this backbone's.
    """
    state = read_state(path)
    own = backbone_state(model)
    source, dropped = conversion_for(model.backbone_name).apply(list(state))
    report = _compare(str(path), "backbone", own, state, source, dropped)
    if not report.complete and not allow_partial:
        hint = f"expected an ImageNet file of {model.backbone_name}, all of it"
        if _own_head_names(model, state):
            hint = "the file holds a whole segmentation network, not a backbone; load it as the network's weights"
        raise ValueError(f"{report}\n{hint} (or allow partial loading)")
    return _take_over(own, state, source, report, log)


def read_state(path: str | Path) -> State:
    """Read a file's weights under plain names, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, holds code, or holds no weights.
    """
    content = load_file(path)
    for key in STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no weights: expected names with tensors, got {_kind(content)}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no weights: expected names with tensors, got {_kind(value)} at {name!r}; known are bare "
                f"state_dicts and dicts that hold one under {', '.join(map(repr, STATE_KEYS))}"
            )
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def is_backbone_file(state: State, model: SegmentationNetwork) -> bool:
    """Whether weights as `read_state` gives them are a file of the model's backbone alone.

    True where nothing belongs to the model's head and most of the backbone is there under its files' names.
    """
    own = backbone_state(model)
    source, _ = conversion_for(model.backbone_name).apply(list(state))
    found = sum(name in source and state[source[name]].shape == tensor.shape for name, tensor in own.items())
    return 2 * found > len(own) and not _own_head_names(model, state)


def describe_file(path: str | Path, model: SegmentationNetwork) -> str:
    """Return "backbone" for a file of the model's backbone alone, "network" for one that has the model's head.

    "other" is a file that is neither. Whether the file suits the model in full is found out when it is loaded.

    Raises:
        FileNotFoundError, ValueError: as `read_state`.
    """
    state = read_state(path)
    if is_backbone_file(state, model):
        return "backbone"
    return "network" if _own_head_names(model, state) else "other"


def backbone_state(model: SegmentationNetwork) -> State:
    """Return the backbone's part of `model.state_dict()`, under the backbone's own names; shares memory."""
    prefix = model.backbone_state_prefix
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items() if not _is_head_name(model, name)}


def _is_head_name(model: SegmentationNetwork, name: str) -> bool:
    return name.startswith(model.head_state_prefixes)


def _own_head_names(model: SegmentationNetwork, state: State) -> list[str]:
    return [name for name in model.state_dict() if name in state and _is_head_name(model, name)]


def _compare(path: str, what: str, own: State, state: State, source: dict[str, str], dropped: list[str]) -> LoadReport:
    """Compare the network's tensors `own` with the file's, `source` giving for our name the file's."""
    # Files older than the counters have none; a file that has some and lacks others is damaged.
    no_counters = not any(name.endswith(COUNTER) for name in source)
    loaded, missing, mismatched, absent = [], [], [], 0
    for name, tensor in own.items():
        if name not in source:
            if no_counters and name.endswith(COUNTER):
                absent += 1
            else:
                missing.append(name)
        elif state[source[name]].shape != tensor.shape:
            mismatched.append((name, tuple(state[source[name]].shape), tuple(tensor.shape)))
        else:
            loaded.append(name)
    unexpected = [file_name for name, file_name in source.items() if name not in own]
    return LoadReport(path, what, loaded, missing, unexpected, mismatched, dropped, absent)


def _refusal(model: SegmentationNetwork, state: State, report: LoadReport) -> str:
    network = f"{model.model_name} with {model.backbone_name}"
    if is_backbone_file(state, model):
        return (
            f"{report.path} is a file of the backbone {model.backbone_name} alone: the head of {network} would stay "
            f"random. Give it as the backbone's weights, and a checkpoint of the whole network here"
        )
    classifiers = {f"{name}.{leaf}" for name in model.classifier_names for leaf in ("weight", "bias")}
    wrong = [entry for entry in report.mismatched if entry[0] in classifiers]
    if wrong and len(wrong) == len(report.mismatched):
        return (
            f"{report.path} was trained for {wrong[0][1][0]} classes, {network} is built for {model.num_classes}: "
            f"take the data set it was trained on, or another checkpoint\n{report}"
        )
    hint = f"expected a checkpoint of {network}, all of it (or allow partial loading)"
    if report.missing and all(name.startswith("auxlayer.") for name in report.missing) and not report.mismatched:
        hint += "; the file has no auxiliary head: build the network without one (aux=False)"
    return f"{report}\n{hint}"


def _take_over(
    own: State, state: State, source: dict[str, str], report: LoadReport, log: Callable[[str], Any]
) -> LoadReport:
    if not report.loaded:
        raise ValueError(f"{report}\nnothing in the file fits, which partial loading does not allow either")
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(state[source[name]])  # `state_dict()` shares memory with the network
    log(str(report))
    return report


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"an object of type {type(value).__name__}"
