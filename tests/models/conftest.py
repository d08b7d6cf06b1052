import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.models.weight_files import small, write_file

DATA = Path(__file__).parents[1] / "data"


def _load_filler():
    spec = importlib.util.spec_from_file_location("golden_filler", DATA / "golden" / "filler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fill_network():
    """Function that gives every tensor of a network the value its name and shape call for; returns the network."""
    fill = _load_filler().fill

    def apply(network: torch.nn.Module) -> torch.nn.Module:
        state = network.state_dict()
        network.load_state_dict(
            {name: torch.from_numpy(fill(name, tuple(t.shape), not t.is_floating_point())) for name, t in state.items()}
        )
        return network

    return apply


@pytest.fixture(scope="session")
def manifest():
    """Function: name of a manifest -> its content; tensors are name -> [dtype, shape]."""
    return lambda name: json.loads((DATA / "manifest" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def released(fill_network):
    """State of a released-like network with four classes."""
    return {name: tensor.clone() for name, tensor in fill_network(small()).state_dict().items()}


@pytest.fixture
def save(tmp_path):
    """Function that saves something as a file and gives the path."""
    return write_file(tmp_path)
