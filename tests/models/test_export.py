"""Exported files give the network's numbers, or are not written."""

import json
import os
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from models import build_model
from models.base import PUBLISHED
from models.export import formats
from models.export.exporter import export
from models.weights import load_weights
from utils.trust import CHECKSUM

SIZES = ((128, 192), (97, 131))
# The networks of the release and one of timm that pads its images; each head at least once.
NETWORKS = [
    ("segformer", "MiT_B0"),
    ("psp_mobile", "mobilenetv3_small"),
    ("deeplab_mobile", "mobilevit_xx_small"),
    ("psp_mobile", "mobilenetv2"),
    ("upernet_lite", "resnet18"),
    ("deeplabv3", "timm:test_convnext"),
]


def fresh(model: str, backbone: str, num_classes: int = 5, **options):
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    network = build_model(model, backbone, num_classes, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@torch.no_grad()
def scores(network, height, width, count=1):
    images = 60 * torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))
    return images, network(images, need_aux=False).logits


def onnx_run(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def torchscript_run(path: Path, images: torch.Tensor) -> torch.Tensor:
    return torch.jit.load(str(path))(images)


RUN = {"onnx": onnx_run, "torchscript": torchscript_run}


def assert_equal_scores(got, expected):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("model, backbone", NETWORKS)
@pytest.mark.parametrize("kind", sorted(RUN))
def test_traced_files_give_the_networks_scores_at_any_size(kind, model, backbone, tmp_path):
    network, path = fresh(model, backbone), tmp_path / "file"
    said = []
    metadata = export(network, path, kind, size=(64, 96), log=said.append)
    assert metadata["size"] == "any" and "any height and width" in said[-1]
    for height, width in SIZES:
        images, expected = scores(network, height, width, count=2)
        assert_equal_scores(RUN[kind](path, images), expected)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", sorted(RUN))
def test_upsampled_scores_are_those_that_evaluation_resizes_to(kind, tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "file"
    metadata = export(network, path, kind, size=(64, 96), upsample=True, log=lambda _: None)
    images, expected = scores(network, 97, 131)
    expected = F.interpolate(expected, size=(97, 131), mode="bilinear", align_corners=True)
    assert_equal_scores(RUN[kind](path, images), expected)
    assert metadata["output_stride"] == "1"


def test_onnx_file_tells_what_it_is(tmp_path):
    path = tmp_path / "network.onnx"
    metadata = export(fresh("segformer", "MiT_B0"), path, "onnx", size=(64, 96), opset=18, log=lambda _: None)
    model = onnx.load(str(path))
    assert {entry.key: entry.value for entry in model.metadata_props} == metadata
    assert (metadata["model"], metadata["backbone"], metadata["num_classes"]) == ("segformer", "MiT_B0", "5")
    assert metadata["output_stride"] == "4"
    assert json.loads(metadata["input_convention"])["mean"] == list(PUBLISHED.mean)
    assert model.opset_import[0].version == 18
    names = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "", "height", "width"]


def test_torchscript_file_tells_what_it_is(tmp_path):
    path = tmp_path / "network.pt"
    metadata = export(fresh("psp_mobile", "mobilenetv2"), path, "torchscript", size=(64, 96), log=lambda _: None)
    inside = {formats.METADATA_FILE: ""}
    torch.jit.load(str(path), _extra_files=inside)
    assert json.loads(inside[formats.METADATA_FILE]) == metadata


def test_fixed_size(tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "network.onnx"
    metadata = export(network, path, "onnx", size=(64, 96), fixed_size=True, log=lambda _: None)
    assert metadata["size"] == "64x96"
    images, expected = scores(network, 64, 96, count=2)
    assert_equal_scores(onnx_run(path, images), expected)
    with pytest.raises(Exception, match="invalid dimensions|INVALID_ARGUMENT"):
        onnx_run(path, scores(network, 97, 131)[0])


class FrozenSize(torch.nn.Module):
    """A head that remembers, when traced, the size it saw."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, stages):
        logits, features = self.head(stages)
        return logits * float(stages[0].shape[-1]), features


@pytest.mark.parametrize("kind", sorted(RUN))
def test_size_that_cannot_stay_free_is_fixed_and_said(kind, tmp_path):
    network, path, said = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "file", []
    network.head = FrozenSize(network.head)
    metadata = export(network, path, kind, size=(64, 96), log=said.append)
    assert metadata["size"] == "64x96"
    assert "cannot stay free (at 128x192" in said[0] and "fixing them at 64x96" in said[0] and "fixed" in said[-1]
    images, expected = scores(network, 64, 96)
    assert_equal_scores(RUN[kind](path, images), expected)


class Counting(torch.nn.Module):
    """A head whose scores depend on how often it was asked."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.calls = 1

    def forward(self, stages):
        logits, features = self.head(stages)
        self.calls += 1
        return logits * self.calls, features


@pytest.mark.parametrize("kind", sorted(RUN))
def test_file_with_other_scores_is_not_written(kind, tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "file"
    path.write_text("an older file")
    network.head = Counting(network.head)
    with pytest.raises(ValueError, match="file is not written: at 64x96 the file's scores differ by"):
        export(network, path, kind, size=(64, 96), log=lambda _: None)
    assert path.read_text() == "an older file" and list(tmp_path.iterdir()) == [path]


def test_scores_that_are_not_numbers_are_not_taken_for_equal(tmp_path):
    network = fresh("psp_mobile", "mobilenetv3_small")
    with torch.no_grad():
        network.head.classifier.bias[0] = float("nan")
    with pytest.raises(ValueError, match="differ by nan"):
        export(network, tmp_path / "file.pt", "torchscript", size=(64, 96), log=lambda _: None)


def test_safetensors_hold_the_state_and_say_whose(tmp_path):
    network, path = fresh("deeplabv3", "timm:test_convnext", aux=True), tmp_path / "weights.safetensors"
    metadata = export(network, path, "safetensors", log=lambda _: None)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata | {CHECKSUM: file.metadata()[CHECKSUM]} and metadata["num_classes"] == "5"
        assert set(file.keys()) == set(network.state_dict())
    other = build_model("deeplabv3", "timm:test_convnext", 5)
    assert load_weights(other, path, log=lambda _: None).complete
    assert other.input_convention == network.input_convention
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_damaged_safetensors_are_not_written(tmp_path, monkeypatch):
    network = fresh("psp_mobile", "mobilenetv3_small")
    name = "head.classifier.weight"
    save = formats.save_file
    monkeypatch.setattr(formats, "save_file", lambda state, *rest: save(state | {name: state[name] + 1e-6}, *rest))
    with pytest.raises(ValueError, match=f"1 tensors differ after they were read again: {name}"):
        export(network, tmp_path / "weights.safetensors", "safetensors", log=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_missing_library_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="need onnxruntime.*pip install onnxruntime"):
        export(fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "x.onnx", "onnx", size=(64, 96))


def test_a_size_that_the_network_does_not_take_is_refused_in_its_own_words(tmp_path):
    said = []
    with pytest.raises(ValueError, match="^images are 28x64; a MiT backbone needs at least 29x29"):
        export(fresh("segformer", "MiT_B0"), tmp_path / "x.onnx", "onnx", size=(28, 64), log=said.append)
    assert said == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_of_any_new_file(kind, umask, tmp_path):
    path = tmp_path / "x.safetensors"
    before = os.umask(umask)
    try:
        export(fresh("psp_mobile", "mobilenetv3_small"), path, kind, size=(64, 96), fixed_size=True, log=lambda _: None)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
