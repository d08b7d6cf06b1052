"""Which network a checkpoint holds, by the names and shapes of its tensors.

What a file is said to hold, by its name or by its run's arguments, is a claim that these are compared with.
"""

import torch

from models import build_model, list_models
from models.base import SegmentationNetwork
from models.weights import State, StateFile, load_weights


def class_count(model: str, backbone: str, state: State) -> int | None:
    """Rows, among a file's tensors, of the one that is the network's classifier; None where they lack it.

    Args:
        model, backbone: as for `build_model`.
        state: the file's tensors.

    Raises:
        ValueError: the network does not exist.
    """
    network = _skeleton(model, backbone, 1)
    weight = network.get_submodule(network.classifier_names[0]).weight
    name = next(name for name, tensor in network.state_dict(keep_vars=True).items() if tensor is weight)
    return next(iter(state[name].shape), None) if name in state else None


def mismatch(model: str, backbone: str, num_classes: int, file: StateFile, aux: bool | None = None) -> str | None:
    """Why a file's tensors are not those of a network, None where they are.

    Args:
        model, backbone, aux: as for `build_model`.
        num_classes: K; 0 for as many as in the file.
        file: what was read.
    """
    if not num_classes:
        num_classes = class_count(model, backbone, file.state) or 1
    try:
        load_weights(_skeleton(model, backbone, num_classes, aux), file, log=lambda _: None)
    except ValueError as error:
        return str(error)
    return None


def describe_content(file: StateFile) -> str | None:
    """The network of the registry whose tensors these are, as "<model> with <backbone> for <K> classes"."""
    for model, backbones in list_models().items():
        for backbone in backbones:
            classes = class_count(model, backbone, file.state)
            if classes and mismatch(model, backbone, classes, file) is None:
                return f"{model} with {backbone} for {classes} classes"
    return None


def check_claim(
    file: StateFile, claim: str, source: str, expected: str, difference: str | None, overrides: str
) -> None:
    """Refuse a file whose tensors are not what it is said to hold.

    Args:
        file: what was read.
        claim: the network it is said to hold.
        source: what says so ("name" or "arguments").
        expected: the network it was taken for.
        difference: what `mismatch` found.
        overrides: the flags with which the user says what it is.

    Raises:
        ValueError: there is a difference; the message says what the file holds, or names the tensors that differ.
    """
    if difference is None:
        return
    content = describe_content(file)
    raise ValueError(
        f"{file.path} is {claim} by its {source}. Expected {expected}; "
        + (f"it holds {content}. " if content else f"its tensors differ:\n{difference}\nCopy a damaged file anew. ")
        + f"Where the {source} is wrong, {overrides} override it."
    )


def _skeleton(model: str, backbone: str, num_classes: int, aux: bool | None = None) -> SegmentationNetwork:
    """The network without memory for its tensors: names and shapes."""
    with torch.device("meta"):
        return build_model(model, backbone, num_classes, aux=aux)
