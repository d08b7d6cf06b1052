"""`python -m models`: the list of networks, and the description of one."""

import json
import runpy
import sys

import pytest
import torch

from models import ALIASES, build_model, list_models
from models.describe import describe, describe_as_text

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words) -> str:
        monkeypatch.setattr(sys, "argv", ["models", *map(str, words)])
        runpy.run_module("models", run_name="__main__", alter_sys=True)
        return capsys.readouterr().out

    return call


def test_listing_has_every_network_backbone_and_alias(run):
    text = run()
    found = json.loads(run("--json"))
    assert found["networks"] == list_models() and found["aliases"] == {k: list(v) for k, v in ALIASES.items()}
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for name, backbones in list_models().items():
        assert name in lines and all(backbone in text for backbone in backbones)
    assert "timm:<name>" in text and set(ALIASES) <= set(lines)


def test_description_of_a_known_network(run):
    words = ["--describe", "segformer", "mit_b0", "--crop-size", 97, 131, "--num-classes", 19, "--runs", 2]
    found = json.loads(run(*words, "--device", "cpu", "--json"))
    network = build_model("segformer", "MiT_B0", 19)
    assert (found["model"], found["backbone"], found["image"]) == ("segformer", "MiT_B0", [97, 131])
    assert found["parameters"]["total"] == sum(p.numel() for p in network.parameters())
    assert found["parameters"]["backbone"] + found["parameters"]["head"] == found["parameters"]["total"]
    stages = [(32, 25, 33, 4), (64, 13, 17, 8), (160, 7, 9, 16), (256, 4, 5, 32)]
    assert [tuple(stage.values()) for stage in found["stages"]] == stages
    assert found["features"] == [256, 25, 33] and found["logits"] == [19, 25, 33] and found["aux_logits"] is None
    assert found["output_stride"] == 4 and found["input_convention"]["channel_order"] == "BGR"
    latency = found["latency"]
    assert 0 < latency["fastest_ms"] <= latency["median_ms"] <= latency["slowest_ms"]
    assert (latency["runs"], latency["batch"], latency["torch"]) == (2, 1, torch.__version__)
    assert latency["threads"] == torch.get_num_threads() and latency["device"].startswith("CPU")


def test_macs_of_the_head_are_those_counted_by_hand():
    # SegFormer's head for 64x64, width 256: a linear layer per stage at the stage's size, fusion of 4 x 256 to 256
    # channels and classification at 16x16.
    network = build_model("segformer", "MiT_B0", 7)
    found = describe(network, 64, 64, runs=0)
    linear = sum(channels * 256 * side**2 for channels, side in ((32, 16), (64, 8), (160, 4), (256, 2)))
    assert found["macs"]["head"] == linear + 1024 * 256 * 16**2 + 256 * 7 * 16**2
    assert found["macs"]["total"] == found["macs"]["backbone"] + found["macs"]["head"]
    assert found["flops"] == 2 * found["macs"]["total"] and found["latency"] is None


@pytest.mark.parametrize("aux, expected", [((), True), (("--no-aux",), False), (("--aux",), True)])
def test_auxiliary_head_on_request(run, aux, expected):
    words = ["--describe", "psp", "resnet18", "--crop-size", 64, "--num-classes", 3, "--runs", 0, *aux]
    found = json.loads(run(*words, "--json"))
    assert ("auxiliary head" in found["parameters"]) == expected
    assert found["aux_logits"] == ([3, 8, 8] if expected else None)
    # What inference costs does not depend on it.
    assert found["macs"] == describe(build_model("psp", "resnet18", 3, aux=False), 64, 64, runs=0)["macs"]


def test_text_labels_macs_and_flops(run):
    words = ["--describe", "deeplabv3", "timm:test_resnet", "--crop-size", 64, 96, "--runs", 1, "--device", "cpu"]
    text = run(*words)
    found = describe(build_model("deeplabv3", "timm:test_resnet", 19), 64, 96, runs=0)
    assert f"{found['macs']['total'] / 1e9:.2f} G (" in text and f"{found['flops'] / 1e9:.2f} G (2 x MACs)" in text
    for part in (
        "stride 8",
        "dilation       up to 4",
        "RGB",
        "torch " + torch.__version__,
        "threads",
        "(1 runs, batch 1",
    ):
        assert part in text
    assert "not measured" in describe_as_text(found)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--describe", "deeplabv4", "resnet18"], "unknown model 'deeplabv4'"),
        (["--describe", "psp_mobile", "resnet18"], "no backbone 'resnet18'"),
        (["--describe", "psp", "timm:resnet5d"], "similar names"),
        (["--describe", "psp", "resnet18", "--crop-size", "0", "4"], "--crop-size"),
        (["--describe", "psp", "resnet18", "--num-classes", "0"], "num_classes is 0"),
        (["--describe", "psp", "resnet18", "--runs", "-1"], "--runs"),
        (["--describe", "segformer", "MiT_B0", "--crop-size", "16"], "at least"),
        pytest.param(["--describe", "psp", "resnet18", "--device", "cuda"], "torch sees no GPU", marks=NO_GPU),
    ],
)
def test_user_errors_end_with_two_and_one_message(run, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
