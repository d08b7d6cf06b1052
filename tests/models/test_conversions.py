"""Published ImageNet files fill the whole backbone or are refused by name."""

import re

import pytest
import torch

from models import build_model
from models.base import IMAGENET_RGB, PUBLISHED
from models.weights import describe_file, load_backbone_weights, load_weights
from tests.models.weight_files import published_file, same, silent, untouched

PUBLISHED_FILES = {
    "resnet18": "deeplabv3",
    "mobilenetv3_small": "psp_mobile",
    "mobilenetv3_large": "deeplabv3_mobilenet_ssseg",
    "mobilevit_xx_small": "deeplab_mobile",
    "mobilenetv2": "psp_mobile",
    "MiT_B0": "segformer",
}


@pytest.mark.parametrize("backbone, name", PUBLISHED_FILES.items())
def test_published_files_cover_the_whole_backbone(save, backbone, name):
    content, expected, left = published_file(backbone)
    network, lines = build_model(name, backbone, 3), []
    network.set_input_convention(IMAGENET_RGB)
    network.set_batch_norm_eps(1e-3)
    head = {key: tensor.clone() for key, tensor in network.head.state_dict().items()}
    report = load_backbone_weights(network, save(content), log=lines.append)
    assert same(network.backbone, expected) and same(network.head, head)
    assert report.complete and sorted(report.dropped) == sorted(left)
    assert f"{len(expected)} of {len(expected)} tensors of the backbone loaded" in lines[0]
    assert f"{len(left)} not used by this network: {report.dropped[0]}" in lines[0]
    assert "read as published" in lines[0]
    assert network.input_convention == PUBLISHED and network.batch_norm_eps is None
    assert "images as the released checkpoints expect them; batch-norm eps as built" in lines[0]


@pytest.mark.parametrize("backbone, name", PUBLISHED_FILES.items())
def test_incomplete_files_are_refused(save, backbone, name):
    content, expected, _ = published_file(backbone)
    state = content.get("state_dict", content)
    kept = [key for key in state if not key.endswith("num_batches_tracked")]
    ours = {id(tensor): key for key, tensor in expected.items()}
    for place in (0, len(kept) // 2):
        cut = {key: tensor for key, tensor in state.items() if key not in kept[place : place + 3]}
        names = [ours[id(state[key])] for key in kept[place : place + 3]]
        network = build_model(name, backbone, 3)
        with untouched(network, f"(?s)3 missing in the file: {re.escape(names[0])}.*{re.escape(names[2])}") as error:
            load_backbone_weights(network, save({"state_dict": cut}), log=silent)
        assert "none was loaded" in str(error.value)


@pytest.mark.parametrize("backbone, name", PUBLISHED_FILES.items())
def test_backbone_files_are_distinguished_from_networks_and_refused_as_such(save, backbone, name):
    content, _, _ = published_file(backbone)
    network, path = build_model(name, backbone, 3), save(content)
    assert describe_file(path, network) == "backbone"
    with untouched(network, f"file of the backbone {backbone} alone"):
        load_weights(network, path, log=silent)
    whole = save(network.state_dict())
    assert describe_file(whole, network) == "network"
    with untouched(network, "whole segmentation network"):
        load_backbone_weights(network, whole, log=silent)
    assert describe_file(save({"layers.0.weight": torch.zeros(3)}), network) == "other"


def test_foreign_and_partial_files(save):
    content, network = published_file("resnet18")[0], build_model("psp", "resnet18", 3)
    other, _, _ = published_file("mobilenetv3_small")
    with untouched(network, "0 of 138 tensors of the backbone"):
        load_backbone_weights(network, save(other))
    deeper = content | {"layer3.2.conv1.weight": torch.zeros(256, 256, 3, 3)}
    with untouched(network, r"(?s)1 unexpected in the file: layer3\.2\.conv1\.weight.*ImageNet weights of resnet18"):
        load_backbone_weights(network, save(deeper))
    cut = {name: tensor for name, tensor in content.items() if not name.startswith("layer4.1.bn2")}
    report = load_backbone_weights(network, save(cut), allow_partial=True, log=silent)
    assert len(report.missing) == 5
    assert torch.equal(network.backbone.conv1.weight, content["conv1.weight"])


def test_file_at_construction(save, capsys):
    content, expected, _ = published_file("mobilenetv3_small")
    network = build_model("psp_mobile", "mobilenetv3_small", 4, pretrained_base=save(content))
    assert same(network.backbone, expected)
    assert "240 of 240 tensors of the backbone" in capsys.readouterr().out
