"""Weights by a library's name: exact conventions, the same tensors, and errors. Nothing is downloaded here."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from models import build_model
from models.base import IMAGENET_RGB, InputConvention
from models.weights import load_backbone_weights, sources
from models.weights.conversions import PUBLIC_EQUIVALENTS
from tests.models.weight_files import same, silent, untouched

HALVES = InputConvention("RGB", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLAIN = InputConvention("RGB", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def downloads(monkeypatch):
    """The downloads, (library, name, network with random weights) each."""
    calls = []

    def download(library, name, tag):
        full_name = f"{name}.{tag}" if tag else name
        build = torchvision.models.get_model if library == "torchvision" else timm.create_model
        calls.append((library, full_name, build(name if library == "torchvision" else full_name)))
        return calls[-1][2]

    monkeypatch.setattr(sources, "download", download)
    return calls


V3_SMALL, V3_LARGE = ("psp_mobile", "mobilenetv3_small"), ("psp_mobile", "mobilenetv3_large")
V2 = ("psp_mobile", "mobilenetv2")
SOURCES = {
    "timm:mobilenetv3_small_100": (*V3_SMALL, IMAGENET_RGB, None),
    "timm:mobilenetv3_small_100.lamb_in1k": (*V3_SMALL, IMAGENET_RGB, None),
    "timm:tf_mobilenetv3_small_100": (*V3_SMALL, HALVES, 1e-3),
    "timm:mobilenetv3_large_100.ra4_e3600_r224_in1k": (*V3_LARGE, HALVES, None),
    "timm:mobilenetv3_large_100.miil_in21k_ft_in1k": (*V3_LARGE, PLAIN, None),
    "timm:tf_mobilenetv3_large_100.in1k": (*V3_LARGE, HALVES, 1e-3),
    "timm:mobilenetv2_100": (*V2, IMAGENET_RGB, None),
    "timm:resnet50s": ("psp", "resnet50", IMAGENET_RGB, None),
    "timm:resnet101s.gluon_in1k": ("psp", "resnet101", IMAGENET_RGB, None),
    "torchvision:mobilenet_v3_small": (*V3_SMALL, IMAGENET_RGB, 1e-3),
    "torchvision:mobilenet_v3_large.IMAGENET1K_V2": (*V3_LARGE, IMAGENET_RGB, 1e-3),
    "torchvision:mobilenet_v2": (*V2, IMAGENET_RGB, None),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_librarys_weights_are_loaded_as_from_its_file(downloads, save, source):
    name, backbone, convention, eps = SOURCES[source]
    network, lines = build_model(name, backbone, 3), []
    report = load_backbone_weights(network, Path(source), log=lines.append)
    library, full_name, theirs = downloads[0]
    assert f"{library}:{full_name}" == source
    assert report.complete and report.path == source and f"read as {source}" in lines[1]
    assert lines[0].startswith(f"{source}: taking the weights from ") and "up to a minute" in lines[0]
    assert ("huggingface.co" if library == "timm" else "download.pytorch.org") in lines[0]
    assert ("8n + 1" in lines[1]) == (backbone.startswith("mobilenetv3") and "tf_" not in source)
    assert (network.input_convention, network.batch_norm_eps) == (convention, eps)
    assert "assumed" not in lines[1]
    loaded = {key: tensor.clone() for key, tensor in network.backbone.state_dict().items()}
    load_backbone_weights(network, save(theirs.state_dict(), f"{full_name}.pth"), log=silent)
    assert same(network.backbone, loaded)


def test_every_known_equivalent_is_tested():
    known = {name for names in PUBLIC_EQUIVALENTS.values() for name in names}
    assert known == {source.split(".")[0] for source in SOURCES}


def test_source_at_construction_and_in_a_checkpoint(downloads, capsys):
    network = build_model("psp_mobile", "mobilenetv3_small", 3, pretrained_base="timm:tf_mobilenetv3_small_100")
    assert "240 of 240 tensors" in capsys.readouterr().out
    other = build_model("psp_mobile", "mobilenetv3_small", 3)
    other.load_state_dict(network.state_dict())
    assert (other.input_convention, other.batch_norm_eps) == (HALVES, 1e-3)


REFUSED = {
    "timm:resnet50": ("psp", "resnet50", "not known to be the same network as resnet50.*timm:resnet50s"),
    "timm:mobilevit_xxs": ("psp_mobile", "mobilevit_xx_small", "no library is known to have the same network"),
    "timm": ("psp_mobile", "mobilenetv3_small", "not known to be the same.*timm:tf_mobilenetv3_small_100, timm"),
    "timm:mobilenetv3_small_100.fast": ("psp_mobile", "mobilenetv3_small", "no weights 'fast'.*lamb_in1k"),
    "timm:mobilenetv3_small_100.": ("psp_mobile", "mobilenetv3_small", "'mobilenetv3_small_100.' ends with a dot"),
    "timm:resnet5": ("segformer", "MiT_B0", "published file of MiT_B0, or that of Hugging Face's nvidia/mit-b0$"),
    "torchvision:mobilenet_v2.V9": ("psp_mobile", "mobilenetv2", "no weights 'V9'.*IMAGENET1K_V2"),
}


@pytest.mark.parametrize("source", REFUSED)
def test_other_networks_are_refused_before_the_download(downloads, source):
    name, backbone, message = REFUSED[source]
    network = build_model(name, backbone, 3)
    with untouched(network, message):
        load_backbone_weights(network, source, log=silent)
    assert downloads == []


def test_a_failed_download_is_reported_with_name_and_cause(monkeypatch):
    def download(*arguments):
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(sources, "download", download)
    network = build_model("psp_mobile", "mobilenetv3_small", 3)
    message = r"timm:mobilenetv3_small_100: the weights cannot be downloaded \(ConnectionError: no route to host\)"
    with untouched(network, message):
        load_backbone_weights(network, "timm:mobilenetv3_small_100", log=silent)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_download_asks_the_library_for_its_pretrained_network(monkeypatch, library):
    calls = []
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: calls.append((args, options)))
    if library == "timm":
        sources.download("timm", "mobilenetv2_100", "ra_in1k")
        assert calls == [(("mobilenetv2_100.ra_in1k",), {"pretrained": True})]
    else:
        state = torchvision.models.mobilenet_v2(weights=None).state_dict()

        def load_state_dict_from_url(url, **options):
            calls.append((url, options))
            return state

        monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", load_state_dict_from_url)
        found = sources.download("torchvision", "mobilenet_v2", "").state_dict()
        default = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
        assert calls == [(default.url, {"progress": False, "check_hash": True, "weights_only": True})]
        assert default is torchvision.models.MobileNet_V2_Weights.DEFAULT
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("source", ["TIMM:mobilenetv2_100", "TorchVision:mobilenet_v2"])
def test_the_librarys_name_is_taken_in_any_case(downloads, source):
    network = build_model("psp_mobile", "mobilenetv2", 3)
    report = load_backbone_weights(network, source, log=silent)
    library, _, name = source.partition(":")
    assert downloads[0][:2] == (library.lower(), name) and report.path == f"{library.lower()}:{name}"


def test_backbones_of_timms_own(monkeypatch):
    real, calls = timm.create_model, []

    def create_model(name, pretrained=False, **options):
        network = real(name, **options)
        if pretrained:
            calls.append(name)
            for parameter in network.parameters():
                parameter.data.fill_(0.25)
        return network

    monkeypatch.setattr(timm, "create_model", create_model)
    network = build_model("pspnet", "timm:resnet18d", 3)
    report = load_backbone_weights(network, "timm", log=silent)
    assert calls == ["resnet18d"] and report.complete and not report.missing
    assert all((tensor == 0.25).all() for tensor in network.backbone.parameters())
    assert network.input_convention == IMAGENET_RGB
    for source, name in (("timm:resnet18d.ra2_in1k", "resnet18d.ra2_in1k"), ("timm:resnet18d", "resnet18d")):
        calls.clear()
        assert load_backbone_weights(network, source, log=silent).complete
        assert calls == [name]
    assert load_backbone_weights(network, "TIMM", log=silent).complete
    with untouched(network, "timm has no weights 'fast' of resnet18d; there are: .*ra2_in1k"):
        load_backbone_weights(network, "timm:resnet18d.fast", log=silent)
    with untouched(network, "expected weights of timm:resnet18d: timm, or timm:resnet18d.<tag>"):
        load_backbone_weights(network, "timm:resnet18", log=silent)


def test_a_file_of_timms_classifier_fills_timms_backbone(tmp_path):
    network, lines = build_model("pspnet", "timm:resnet18d", 3), []
    source = timm.create_model("resnet18d")
    torch.save(source.state_dict(), tmp_path / "file.pth")
    report = load_backbone_weights(network, tmp_path / "file.pth", log=lines.append)
    assert report.complete and sorted(report.dropped) == ["fc.bias", "fc.weight"] and "assumed" in lines[0]
    own = network.backbone.state_dict()
    assert torch.equal(own["network.layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])
    state = dict(source.state_dict())
    del state["layer4.1.conv2.weight"]
    torch.save(state, tmp_path / "file.pth")
    with untouched(network, r"1 missing in the file: network\.layer4\.1\.conv2\.weight"):
        load_backbone_weights(network, tmp_path / "file.pth", log=silent)
