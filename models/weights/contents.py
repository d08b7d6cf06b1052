"""Which network a checkpoint contains, by its tensors; compared with what its name or its run's arguments claim."""

import torch

from models import build_model, list_models
from models.base import SegmentationNetwork
from models.weights import State, StateFile, load_weights


def class_count(model: str, backbone: str, state: State) -> int | None:
    """Return the class count of a network's classifier among a file's tensors, None if it is not among them.

    Raises:
        ValueError: `build_model` knows no such network.
    """
    network = _skeleton(model, backbone, 1)
    weight = network.get_submodule(network.classifier_names[0]).weight
    name = next(name for name, tensor in network.state_dict(keep_vars=True).items() if tensor is weight)
    return next(iter(state[name].shape), None) if name in state else None


def mismatch(model: str, backbone: str, num_classes: int, file: StateFile, aux: bool | None = None) -> str | None:
    """Return how a file's tensors differ from those of a network, None if they are the same.

    Args:
        model, backbone, aux: as for `build_model`.
        num_classes: K; 0 for the file's own.
        file: the result of `read_file`.
    """
    if not num_classes:
        num_classes = class_count(model, backbone, file.state) or 1
    try:
        load_weights(_skeleton(model, backbone, num_classes, aux), file, log=lambda _: None)
    except ValueError as error:
        return str(error)
    return None


def describe_content(file: StateFile) -> str | None:
    """Return the network that the tensors are of, as "<model> with <backbone> for <K> classes", None if unknown."""
    for model, backbones in list_models().items():
        for backbone in backbones:
            classes = class_count(model, backbone, file.state)
            if classes and mismatch(model, backbone, classes, file) is None:
                return f"{model} with {backbone} for {classes} classes"
    return None


def check_claim(
    file: StateFile, claim: str, source: str, expected: str, difference: str | None, overrides: str
) -> None:
    """Check that a file's tensors are of the network that its name or arguments claim.

    Args:
        file: the result of `read_file`.
        claim: the network claimed.
        source: where the claim is from ("name" or "arguments").
        expected: the network it was compared with.
        difference: the result of `mismatch`.
        overrides: the flags that override the claim.

    Raises:
        ValueError: there is a difference; the message has the file's network, or the tensors that differ.
    """
    if difference is None:
        return
    content = describe_content(file)
    raise ValueError(
        f"{file.path} is {claim} by its {source}. Expected {expected}; "
        + (f"it holds {content}. " if content else f"its tensors differ:\n{difference}\nCopy a damaged file again. ")
        + f"Where the {source} is wrong, {overrides} override it."
    )


def _skeleton(model: str, backbone: str, num_classes: int, aux: bool | None = None) -> SegmentationNetwork:
    """The network on the meta device: names and shapes only."""
    with torch.device("meta"):
        return build_model(model, backbone, num_classes, aux=aux)
