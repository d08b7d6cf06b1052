"""Exported files have the network's outputs, or are not written."""

import itertools
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
from models.base import IMAGENET_RGB, PUBLISHED
from models.export import formats
from models.export.exporter import export
from models.weights import load_weights
from tests.models.test_fold import randomize_norms
from tests.models.weight_files import same, silent
from utils.trust import CHECKSUM

# Released networks and one of timm that pads its images; each head at least once. The last column: upsampled.
NETWORKS = [
    ("segformer", "MiT_B0", False),
    ("psp_mobile", "mobilenetv3_small", True),
    ("deeplab_mobile", "mobilevit_xx_small", False),
    ("upernet_lite", "resnet18", False),
    ("deeplabv3", "timm:test_convnext", False),
]


def fresh(model: str, backbone: str, num_classes: int = 5, **options):
    torch.manual_seed(0)
    return randomize_norms(build_model(model, backbone, num_classes, **options))


@torch.no_grad()
def scores(network, height, width, count=1):
    images = 60 * torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))
    return images, network(images, need_aux=False).logits


def onnx_run(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


RUN = {"onnx": onnx_run, "torchscript": lambda path, images: torch.jit.load(str(path))(images)}


def assert_equal_scores(got, expected):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-3 * expected.abs().max()


def read_metadata(path: Path, kind: str) -> dict[str, str]:
    if kind == "onnx":
        return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    inside = {formats.METADATA_FILE: ""}
    torch.jit.load(str(path), _extra_files=inside)
    return json.loads(inside[formats.METADATA_FILE])


@pytest.mark.parametrize("model, backbone, upsample", NETWORKS)
@pytest.mark.parametrize("kind", sorted(RUN))
def test_traced_files_have_the_networks_scores_at_any_size(kind, model, backbone, upsample, tmp_path):
    network, path, lines = fresh(model, backbone), tmp_path / "file", []
    metadata = export(network, path, kind, size=(64, 96), upsample=upsample, log=lines.append)
    assert metadata["size"] == "any" and "any height and width" in lines[-1]
    assert read_metadata(path, kind) == metadata
    assert (metadata["model"], metadata["backbone"], metadata["num_classes"]) == (model, backbone, "5")
    assert metadata["output_stride"] == str(1 if upsample else network.output_stride)
    assert json.loads(metadata["input_convention"])["mean"] == list(PUBLISHED.mean)
    images, expected = scores(network, 75, 110, count=2)
    if upsample:
        expected = F.interpolate(expected, size=(75, 110), mode="bilinear", align_corners=True)
    assert_equal_scores(RUN[kind](path, images), expected)
    assert list(tmp_path.iterdir()) == [path]


def test_fixed_size_and_operator_set(tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "network.onnx"
    metadata = export(network, path, "onnx", size=(64, 96), fixed_size=True, opset=18, log=silent)
    assert metadata["size"] == "64x96" and onnx.load(str(path)).opset_import[0].version == 18
    images, expected = scores(network, 64, 96, count=2)
    assert_equal_scores(onnx_run(path, images), expected)
    with pytest.raises(Exception, match="invalid dimensions|INVALID_ARGUMENT"):
        onnx_run(path, scores(network, 97, 131)[0])


@pytest.mark.parametrize("kind", sorted(RUN))
def test_size_that_cannot_stay_variable_is_fixed_and_reported(kind, tmp_path):
    network, path, lines = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "file", []
    # A float is a constant in a trace.
    network.head.register_forward_hook(lambda head, args, out: (out[0] * float(args[0][0].shape[-1]), *out[1:]))
    metadata = export(network, path, kind, size=(64, 96), log=lines.append)
    assert metadata["size"] == "64x96"
    assert "cannot stay variable (at 128x192" in lines[0] and "fixing them at 64x96" in lines[0]
    assert "fixed" in lines[-1]
    images, expected = scores(network, 64, 96)
    assert_equal_scores(RUN[kind](path, images), expected)


@pytest.mark.parametrize("kind, difference", [("onnx", r"\d"), ("torchscript", "nan")])
def test_file_with_other_scores_is_not_written(kind, difference, tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "file"
    path.write_text("an older file")
    if difference == "nan":
        torch.nn.init.constant_(network.head.classifier.bias, float("nan"))
    else:
        calls = itertools.count(1)
        network.head.register_forward_hook(lambda head, args, output: (output[0] * next(calls), *output[1:]))
    with pytest.raises(ValueError, match=f"file is not written: at 64x96 the file's scores differ by {difference}"):
        export(network, path, kind, size=(64, 96), log=silent)
    assert path.read_text() == "an older file" and list(tmp_path.iterdir()) == [path]


def test_safetensors_have_the_state_and_metadata(tmp_path):
    network, path = fresh("psp_mobile", "mobilenetv3_small", aux=True), tmp_path / "weights.safetensors"
    network.set_input_convention(IMAGENET_RGB)
    metadata = export(network, path, "safetensors", log=silent)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata | {CHECKSUM: file.metadata()[CHECKSUM]} and metadata["num_classes"] == "5"
        assert set(file.keys()) == set(network.state_dict())
    other = build_model("psp_mobile", "mobilenetv3_small", 5, aux=True)
    assert load_weights(other, path, log=silent).complete and same(other, network.state_dict())
    assert other.input_convention == IMAGENET_RGB


def test_damaged_safetensors_are_not_written(tmp_path, monkeypatch):
    name, save = "head.classifier.weight", formats.save_file
    monkeypatch.setattr(formats, "save_file", lambda state, *rest: save(state | {name: state[name] + 1e-6}, *rest))
    with pytest.raises(ValueError, match=f"1 tensors differ after they were read again: {name}"):
        export(fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "weights.safetensors", "safetensors", log=silent)
    assert not list(tmp_path.iterdir())


def test_missing_library_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="need onnxruntime.*pip install onnxruntime"):
        export(fresh("psp_mobile", "mobilenetv3_small"), tmp_path / "x.onnx", "onnx", size=(64, 96))


def test_a_size_that_the_network_does_not_allow_is_refused_with_its_message(tmp_path):
    with pytest.raises(ValueError, match="^images are 28x64; a MiT backbone needs at least 29x29"):
        export(fresh("segformer", "MiT_B0"), tmp_path / "x.onnx", "onnx", size=(28, 64), log=pytest.fail)
    assert not list(tmp_path.iterdir())


def test_files_have_the_mode_of_any_new_file(tmp_path):
    path, before = tmp_path / "x.safetensors", os.umask(0o027)
    try:
        export(fresh("psp_mobile", "mobilenetv3_small"), path, "safetensors", log=silent)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
