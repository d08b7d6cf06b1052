"""Names that are mistyped or used elsewhere lead to the right one."""

import pytest

import train_baseline
from dataset import build_dataset
from dataset.check.checks import check_dataset
from models import resolve_names
from utils.cli import Parser, UsageError
from utils.names import did_you_mean


def test_nearest_name():
    assert did_you_mean("resnet_18", ["resnet18", "resnet50"]) == " Did you mean resnet18?"
    assert did_you_mean("MIT_b0", ["MiT_B0"]) == " Did you mean MiT_B0?"
    assert did_you_mean("zzz", ["resnet18"]) == ""
    with pytest.raises(ValueError, match="gpu: did you mean cuda"):
        train_baseline.parse(["--dataset", "citys", "--data", "x", "--device", "gpu"])
    assert did_you_mean("zzz", ["resnet18"], {"zzz": "resnet18"}) == " Did you mean resnet18?"


@pytest.mark.parametrize("given, meant", [("--datset", "--dataset"), ("--epochs", "--max-iterations")])
def test_flags(given, meant):
    with pytest.raises(ValueError, match=f"{given}: did you mean {meant}"):
        train_baseline.parse(["--dataset", "citys", "--data", "x", given, "3"])


@pytest.mark.parametrize("given, meant", [("cityscapes", "citys"), ("pascal", "voc"), ("CamVid", "camvid")])
def test_data_sets(given, meant):
    for use in (lambda: build_dataset(given, "x", "train"), lambda: check_dataset(given, "x")):
        with pytest.raises(ValueError, match=rf"unknown data set .*Did you mean {meant}\?"):
            use()


def test_mistyped_beside_what_is_missing():
    parser = Parser("")
    parser.add_argument("--format", required=True)
    with pytest.raises(UsageError, match="required: --format. --fromat: did you mean --format"):
        parser.parse_args(["--fromat", "onnx"])


@pytest.mark.parametrize(
    "name, backbone, meant",
    [
        ("psp", "resnet34", "timm:resnet34"),
        ("deeplabv3", "dinov2", "timm:vit_.*dinov2"),
        ("pspp", "resnet18", "psp"),
        ("deeplabv3", "resnet81", "resnet18"),
    ],
)
def test_networks(name, backbone, meant):
    with pytest.raises(ValueError, match=f"Did you mean {meant}"):
        resolve_names(name, backbone)
