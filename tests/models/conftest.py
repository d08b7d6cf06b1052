import pytest
import torch

from tests.data.golden.filler import fill
from tests.models.weight_files import small


@pytest.fixture(scope="session")
def fill_network():
    def apply(network: torch.nn.Module) -> torch.nn.Module:
        state = network.state_dict()
        network.load_state_dict(
            {name: torch.from_numpy(fill(name, tuple(t.shape), not t.is_floating_point())) for name, t in state.items()}
        )
        return network

    return apply


@pytest.fixture(scope="module")
def released(fill_network):
    """State of a released-like network with four classes."""
    return {name: tensor.clone() for name, tensor in fill_network(small()).state_dict().items()}


@pytest.fixture
def save(tmp_path):

    def write(content, name="file.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write
