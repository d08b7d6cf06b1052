"""Load released checkpoints, our own ones and ImageNet backbone files, completely or not at all.

A file that leaves part of the network without weights is an error: a teacher with a random head would otherwise be
distilled for days. Everything is checked before the first tensor is written. The input convention and the batch-norm
eps that the weights were trained with are loaded too.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.base import CONVENTION_KEY, ENTRIES, PUBLISHED, InputConvention, SegmentationNetwork
from models.classes import CLASSES_KEY
from models.weights.conversions import Conversion, Converted, conversion_for, public_equivalents, why_only_alike
from models.weights.report import LoadReport, compare
from models.weights.sources import fetch, is_source
from models.weights.state_files import State, StateFile, read_file, read_state

Log = Callable[[str], Any]


def load_weights(
    model: SegmentationNetwork, path: str | Path | StateFile, allow_partial: bool | None = None, log: Log = print
) -> LoadReport:
    """Load a whole network: a released checkpoint or one of our own.

    Accepted are a plain state_dict, a dict with one under one of `STATE_KEYS`, a run's last_state.pth (its averaged
    weights if it has any), names with the prefixes of DistributedDataParallel or torch.compile, and .safetensors. An
    auxiliary head in the file is ignored if the network has none. Input convention, batch-norm eps and the names of the
    classes are set to the file's, by default those of the released checkpoints and no names.

    Args:
        model: network to fill in place; untouched when an error is raised.
        path: file, or the result of `read_file`.
        allow_partial: load what fits, whatever is missing or left over. Where it is False, errors mention
            --allow-partial; None is for commands without that flag.
        log: receives the report as text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, has no weights, or is of a backbone alone, another class count or another
            network.
    """
    file = read_file(path)
    state, own = dict(file.state), model.state_dict()
    entry, classes = state.pop(CONVENTION_KEY, None), file.classes
    state.pop(CLASSES_KEY, None)
    notes = []
    if file.averaged:
        notes.append("averaged weights (those that the run evaluates and saves), not the plain ones")
    dropped = [name for name in state if name.startswith("auxlayer.")] if model.auxlayer is None else []
    found = {name: tensor for name, tensor in state.items() if name in own}
    unexpected = [name for name in state if name not in own and name not in set(dropped)]
    report = compare(file.path, "network", own, found, unexpected, dropped, notes=notes)
    if not report.complete and not allow_partial:
        raise ValueError(_refusal(model, state, report, _partial_hint(allow_partial)))
    _check_something_fits(report)
    names_fit = f"{_classifiers(model)[0]}.weight" in report.loaded  # they are the classifier's
    if names_fit and classes is not None and len(classes.names) != model.num_classes:
        raise ValueError(f"{file.path} names {len(classes.names)} classes and has scores of {model.num_classes}")
    if any(name.startswith(model.backbone_state_prefix) and not _is_head_name(model, name) for name in report.loaded):
        try:
            model.set_weights_convention(entry)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error
    if names_fit:
        model.set_classes(classes)
        notes += [] if classes is None else [f"classes: {classes}"]
    if entry is not None:
        notes.append(_describe_convention(model.input_convention, model.batch_norm_eps))
    return _take_over(own, found, replace(report, notes=tuple(notes)), log)


def load_backbone_weights(
    model: SegmentationNetwork, path: str | Path | StateFile, allow_partial: bool | None = None, log: Log = print
) -> LoadReport:
    """Load ImageNet weights into the network's backbone; the classifier's own tensors are ignored.

    The kind of file (published, torchvision's, timm's, Hugging Face's) is recognised by the names inside; it determines
    input convention and batch-norm eps.

    Args:
        model: network whose backbone is filled in place; untouched when an error is raised.
        path: file, or `timm:<name[.tag]>`, `torchvision:<name[.tag]>` or `pip:<name>` for a library's or a package's
            weights, or `timm` for those of a backbone that is timm's.
        allow_partial, log: as for `load_weights`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, has no weights, is not this backbone's, or is of a network that only looks
            like it (then `allow_partial` changes nothing); a library's weights cannot be downloaded.
    """
    own = backbone_state(model)
    if is_source(path):
        file, kind = fetch(path, model.backbone_name, model.backbone, log)
        converted = kind.apply(file.state, own)
    else:
        file = read_file(path)
        reason = why_only_alike(model.backbone_name, file.state)
        if reason is not None:
            raise ValueError(f"{file.path} is not a file of {model.backbone_name} but {reason}")
        kind, converted = _convert(model, file.state, Path(file.path).name)
    notes = [f"read as {kind.title}"]
    assumed = [f"assumed: {kind.assumed}"] if kind.assumed else []
    tensors, file_names, unexpected, dropped = converted
    report = compare(file.path, "backbone", own, tensors, unexpected, dropped, file_names, notes, assumed)
    if not report.complete and not allow_partial:
        if _own_head_names(model, file.state) or any(name.startswith("pretrained.") for name in file.state):
            hint = "the file holds a whole segmentation network, not a backbone; load it as the network's weights"
            raise ValueError(f"{report.refusal()}\n{hint}")
        hint = f"expected ImageNet weights of {model.backbone_name}, all of them{_partial_hint(allow_partial)}"
        raise ValueError(f"{report.refusal()}\n{hint}; {public_equivalents(model.backbone_name)}")
    _check_something_fits(report)
    model.set_input_convention(kind.convention)
    model.set_batch_norm_eps(kind.batch_norm_eps)
    notes.append(_describe_convention(kind.convention, kind.batch_norm_eps))
    notes += [kind.note] if kind.note else []
    return _take_over(own, tensors, replace(report, notes=tuple(notes)), log)


def is_backbone_file(state: State, model: SegmentationNetwork) -> bool:
    """Whether a `read_state` result is of the model's backbone alone: most of the backbone, nothing of the head."""
    own = backbone_state(model)
    tensors = _convert(model, state)[1].tensors
    found = sum(name in tensors and tensors[name].shape == tensor.shape for name, tensor in own.items())
    return 2 * found > len(own) and not _own_head_names(model, state)


def describe_file(path: str | Path | StateFile, model: SegmentationNetwork) -> str:
    """Return "backbone" for a file of the model's backbone alone, "network" for one with the model's head, or "other".

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
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix) and not _is_head_name(model, name) and name not in ENTRIES
    }


def _convert(model: SegmentationNetwork, state: State, file_name: str = "") -> tuple[Conversion, Converted]:
    """Recognise the kind of a backbone file and rename its tensors to the backbone's names."""
    backbone = model.backbone
    if hasattr(backbone, "match_names"):  # a timm backbone
        names, dropped, unexpected = backbone.match_names(list(state))
        kind = Conversion(
            f"weights of {model.backbone_name}",
            convention=backbone.input_convention,
            assumed="the mean and std of timm's weights of this name; give others as timm:<name.tag>",
        )
        return kind, Converted({ours: state[theirs] for ours, theirs in names.items()}, names, unexpected, dropped)
    kind = conversion_for(model.backbone_name, state, file_name)
    return kind, kind.apply(state, backbone_state(model))


def _is_head_name(model: SegmentationNetwork, name: str) -> bool:
    return name.startswith(model.head_state_prefixes)


def _classifiers(model: SegmentationNetwork) -> list[str]:
    """`classifier_names` as in `state_dict()`."""
    if model.backbone_state_prefix == "":  # such names lack `head.` too
        return [name.removeprefix("head.") for name in model.classifier_names]
    return model.classifier_names


def _own_head_names(model: SegmentationNetwork, state: State) -> list[str]:
    return [name for name in model.state_dict() if name in state and _is_head_name(model, name)]


def _describe_convention(convention: InputConvention, eps: float | None) -> str:
    if convention == PUBLISHED:
        expected = "images as the released checkpoints expect them"
    else:
        order, scale = convention.channel_order, f" / {1 / convention.scale:g}" if convention.scale != 1 else ""
        expected = f"images in {order}{scale}, mean {convention.mean}, std {convention.std}"
    return f"set with the weights: {expected}; " + (
        "batch-norm eps as built" if eps is None else f"batch-norm eps {eps:g} in the backbone"
    )


def _partial_hint(allow_partial: bool | None) -> str:
    return "" if allow_partial is None else " (--allow-partial takes over what fits)"


def _refusal(model: SegmentationNetwork, state: State, report: LoadReport, partial_hint: str) -> str:
    network = f"{model.model_name} with {model.backbone_name}"
    if is_backbone_file(state, model):
        return (
            f"{report.path} is a file of the backbone {model.backbone_name} alone: the head of {network} would stay "
            f"random. Give it as the backbone's weights, and a checkpoint of the whole network here"
        )
    classifiers = {f"{name}.{leaf}" for name in _classifiers(model) for leaf in ("weight", "bias")}
    wrong = [entry for entry in report.mismatched if entry[0] in classifiers]
    if wrong and len(wrong) == len(report.mismatched):
        classes = next((state[name].shape[0] for name, _, _ in wrong if state[name].ndim), 0)
        return (
            f"{report.path} was trained for {classes} classes, {network} is built for {model.num_classes}: "
            f"take the data set it was trained on, or another checkpoint\n{report.refusal()}"
        )
    hint = f"expected a checkpoint of {network}, all of it{partial_hint}"
    if report.missing and all(name.startswith("auxlayer.") for name in report.missing) and not report.mismatched:
        hint += "; what is missing is the auxiliary head, which only training uses"
    return f"{report.refusal()}\n{hint}"


def _check_something_fits(report: LoadReport) -> None:
    if not report.loaded:
        raise ValueError(f"{report.refusal()}\nnothing in the file fits, so there is nothing to load")


def _take_over(own: State, found: State, report: LoadReport, log: Log) -> LoadReport:
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(found[name])  # `state_dict()` shares memory with the network
    log(str(report))
    return report
