"""Weight files for tests, and a check that a refused load changes nothing."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from models import build_model
from models.base import IMAGENET_RGB, PUBLISHED

MANIFESTS = Path(__file__).parents[1] / "data" / "manifest"


def same(network, state):
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items()) and own.keys() == state.keys()


@contextmanager
def untouched(network, message):
    """Context in which a load has to be refused, with the network, its convention and eps unchanged."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = network.input_convention, network.batch_norm_eps
    with pytest.raises(ValueError, match=message) as refused:
        yield refused
    assert same(network, before) and (network.input_convention, network.batch_norm_eps) == settings


def silent(text):
    """Ignore a report."""


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3}},
    "model": lambda state: {"model": state},
    "last_state": lambda state: {"format": 1, "network": state, "optimizer": {"state": {}}, "iteration": 7},
    "ddp": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compile": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
}


def small(num_classes=4, **options):
    return build_model("psp_mobile", "mobilenetv3_small", num_classes, **options)


def published_file(backbone):
    """A made-up published ImageNet file's content, the backbone's tensors by our names, the names that are ignored."""
    described = json.loads((MANIFESTS / f"backbone_{backbone}.json").read_text())
    generator = torch.Generator().manual_seed(0)
    counters = {"generator": generator, "low": 1, "high": 10**6}
    own = {
        name: torch.rand(shape, generator=generator) if dtype == "float32" else torch.randint(size=shape, **counters)
        for name, (dtype, shape) in described["keys"].items()
    }
    if backbone.startswith(("resnet", "MiT")):
        classifier = "fc" if backbone.startswith("resnet") else "head"
        left = {f"{classifier}.weight": torch.zeros(1000, 8), f"{classifier}.bias": torch.zeros(1000)}
        return own | left, own, list(left)
    if backbone == "mobilenetv2":
        last = {f"features.18.1.{leaf}": torch.zeros(1280) for leaf in ("weight", "bias", "running_mean")}
        left = {"features.18.0.weight": torch.zeros(1280, 320, 1, 1), **last, "classifier.1.weight": torch.zeros(10, 8)}
        return own | left, {f"net.{name}": tensor for name, tensor in own.items()}, list(left)
    file_names = described.get("external_key_to_model_key") or {f"backbone.{name}": name for name in own}
    left = {"head.fc.weight": torch.zeros(1000, 8), "head.fc.bias": torch.zeros(1000)}
    inside = {theirs: own[ours] for theirs, ours in file_names.items()} | left
    return {"meta": {"epoch": 300}, "state_dict": inside}, own, list(left)


@torch.no_grad()
def randomise(network, seed=0):
    """Give a library's network values under which every tensor counts; batch-norm variances so small that eps does."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if getattr(module, "running_var", None) is not None]
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(
                0, (0.02 / fan_in) ** 0.5 if module.bias is None else fan_in**-0.5, generator=generator
            )
            if module.bias is not None:
                module.bias.normal_(0, 0.5, generator=generator)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
        norm.momentum = 1.0  # the statistics of one batch
    network.train()(torch.randn(4, 3, 129, 129, generator=generator))
    return network.eval()


def batches(convention, height, width):
    """One random image as a library's own preprocessing and as our loaders give it."""
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(np.float64)
    theirs = (image * convention.scale - np.array(convention.mean)) / np.array(convention.std)
    ours = image[..., ::-1] - np.array(PUBLISHED.mean)
    assert convention.channel_order == IMAGENET_RGB.channel_order
    return tuple(torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() for x in (theirs, ours))
