"""Loading is complete and loud, or refused with the names."""

import pytest
import torch

from models import build_model
from models.conversions import CONVERSIONS, Conversion, conversion_for
from models.weights import describe_file, is_backbone_file, load_backbone_weights, load_weights, read_state


def small(num_classes=4, **options):
    return build_model("psp_mobile", "mobilenetv3_small", num_classes, **options)


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


def same(network, state):
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items()) and own.keys() == state.keys()


class Untouched:
    """Context in which a load has to be refused and the network left as it was."""

    def __init__(self, network, said):
        self.network, self.raises = network, pytest.raises(ValueError, match=said)

    def __enter__(self):
        self.before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        return self.raises.__enter__()

    def __exit__(self, *error):
        assert same(self.network, self.before)
        return self.raises.__exit__(*error)


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3}},
    "model": lambda state: {"model": state},
    "last_state": lambda state: {"format": 1, "network": state, "optimizer": {"state": {}}, "iteration": 7},
    "ddp": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compile": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_every_wrapping_of_a_whole_network_loads(released, save, wrap):
    network, said = small(), []
    report = load_weights(network, save(wrap(released)), log=said.append)
    assert same(network, released)
    assert report.complete and sorted(report.loaded) == sorted(released)
    assert f"{len(released)} of {len(released)} tensors of the network loaded" in said[0]


def test_safetensors_load(released, tmp_path):
    from safetensors.torch import save_file

    save_file(released, tmp_path / "file.safetensors")
    network = small()
    load_weights(network, str(tmp_path / "file.safetensors"), log=lambda text: None)
    assert same(network, released)


def test_report_is_printed_unless_sent_elsewhere(released, save, capsys):
    load_weights(small(), save(released))
    assert "272 of 272 tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["head.block.0.weight", "pretrained.layer5.se.conv2.conv.bias", "head.block.1.num_batches_tracked"]
)
def test_a_removed_tensor_is_refused_by_name(released, save, name):
    state = {key: tensor for key, tensor in released.items() if key != name}
    network = small()
    with Untouched(network, f"1 missing in the file: {name}"):
        load_weights(network, save(state))


def test_a_renamed_tensor_is_refused_by_both_names(released, save):
    state = {key.replace("head.block.0.weight", "head.bloc.0.weight"): tensor for key, tensor in released.items()}
    network = small()
    with Untouched(network, r"(?s)1 missing in the file: head\.block\.0\.weight.*1 unexpected in the file: head\.bloc"):
        load_weights(network, save(state))


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(released, save):
    state = released | {"pretrained.layer0.conv.weight": torch.zeros(16, 3, 5, 5)}
    network = small()
    with Untouched(network, r"pretrained\.layer0\.conv\.weight \[16, 3, 5, 5\] in the file, \[16, 3, 3, 3\] here"):
        load_weights(network, save(state))


def test_another_class_count_is_said_in_classes(released, save):
    network = small(num_classes=7)
    with Untouched(network, "was trained for 4 classes, psp_mobile with mobilenetv3_small is built for 7"):
        load_weights(network, save(released))


def test_a_deeper_networks_file_is_refused_though_it_covers_everything(save):
    deeper = build_model("psp", "resnet18", 4).state_dict()
    extra = {key.replace("layer3.1.", "layer3.2."): tensor for key, tensor in deeper.items() if "layer3.1." in key}
    network = build_model("psp", "resnet18", 4)
    with Untouched(network, r"12 unexpected in the file: pretrained\.layer3\.2\."):
        load_weights(network, save(dict(deeper) | extra))


def test_partial_loading_takes_what_fits_and_says_what_did_not(released, save):
    network, said = small(num_classes=7), []
    before = network.head.classifier.weight.clone()
    report = load_weights(network, save(released), allow_partial=True, log=said.append)
    assert [entry[0] for entry in report.mismatched] == ["head.classifier.weight", "head.classifier.bias"]
    assert torch.equal(network.head.classifier.weight, before)
    assert torch.equal(network.pretrained.layer0.conv.weight, released["pretrained.layer0.conv.weight"])
    assert "270 of 272" in said[0] and "head.classifier.bias [4] in the file, [7] here" in said[0]
    with Untouched(network, "nothing in the file fits"):
        load_weights(network, save({"something.else": torch.zeros(3)}), allow_partial=True)


def test_an_auxiliary_head_in_the_file_is_left_out_where_there_is_none(save):
    state, network, said = small(aux=True).state_dict(), small(), []
    report = load_weights(network, save(state), log=said.append)
    assert report.complete and len(report.dropped) == 8 and "8 left out on purpose: auxlayer." in said[0]
    with_aux = small(aux=True)
    with Untouched(with_aux, "build the network without one"):
        load_weights(with_aux, save(network.state_dict()))


def test_a_file_without_update_counters_loads_and_one_with_some_does_not(released, save):
    old = {name: tensor for name, tensor in released.items() if not name.endswith("num_batches_tracked")}
    network, said = small(), []
    assert load_weights(network, save(old), log=said.append).complete
    assert "update counters absent" in said[0]
    some = old | {"head.block.1.num_batches_tracked": torch.tensor(0)}
    with Untouched(network, "num_batches_tracked"):
        load_weights(network, save(some))


class Code:
    def __reduce__(self):
        return (print, ("code ran",))


def test_unusable_files_are_refused_by_name(released, save, tmp_path, capsys):
    network = small()
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_weights(network, tmp_path / "nowhere.pth")
    with Untouched(network, "code.pth"):
        load_weights(network, save({"state_dict": released, "hook": Code()}, "code.pth"))
    assert "code ran" not in capsys.readouterr().out
    whole = save(released, "cut.pth")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with Untouched(network, "cut.pth"):
        load_weights(network, whole)
    for content in ([1, 2], {}, {"state_dict": {}}, {"a": 3}, {3: torch.zeros(1)}, torch.zeros(3)):
        with Untouched(network, "odd.pth holds no weights"):
            load_weights(network, save(content, "odd.pth"))


def backbone_file(backbone, manifest):
    """Weights as the ImageNet file of the backbone holds them, and the names in the network's backbone."""
    described = manifest(f"backbone_{backbone}")
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(shape, generator=generator) if dtype == "float32" else torch.tensor(5)
        for name, (dtype, shape) in described["keys"].items()
    }
    if backbone.startswith("resnet"):
        width = 512 if backbone == "resnet18" else 2048
        return state | {"fc.weight": torch.zeros(1000, width), "fc.bias": torch.zeros(1000)}, state
    inside = {f"backbone.{name}": tensor for name, tensor in state.items()}
    inside |= {"head.layers.0.weight": torch.zeros(8, 8), "head.layers.0.bias": torch.zeros(8)}
    return {"state_dict": inside, "meta": {}}, state


BACKBONE_FILES = [
    ("deeplabv3", "resnet18"),
    ("psp", "resnet101"),
    ("psp_mobile", "mobilenetv3_small"),
    ("deeplabv3_mobilenet_ssseg", "mobilenetv3_large"),
]


@pytest.mark.parametrize("name, backbone", BACKBONE_FILES)
def test_backbone_files_cover_the_whole_backbone(manifest, save, name, backbone):
    content, expected = backbone_file(backbone, manifest)
    network, said = build_model(name, backbone, 3), []
    head = network.head.block[0].weight.clone()
    report = load_backbone_weights(network, save(content), log=said.append)
    assert same(network.backbone, expected)
    assert torch.equal(network.head.block[0].weight, head)
    assert report.complete and len(report.dropped) == 2
    assert f"{len(expected)} of {len(expected)} tensors of the backbone loaded" in said[0]
    assert "2 left out on purpose: " + report.dropped[0] in said[0]


def test_backbone_file_at_construction(manifest, save, capsys):
    content, expected = backbone_file("mobilenetv3_small", manifest)
    network = small(pretrained_base=save(content))
    assert same(network.backbone, expected)
    assert "240 of 240 tensors of the backbone" in capsys.readouterr().out


def test_old_backbone_file_without_counters(manifest, save):
    content, expected = backbone_file("resnet18", manifest)
    old = {name: tensor for name, tensor in content.items() if not name.endswith("num_batches_tracked")}
    network, said = build_model("psp", "resnet18", 3), []
    load_backbone_weights(network, save(old), log=said.append)
    assert torch.equal(network.backbone.layer4[1].conv2.weight, expected["layer4.1.conv2.weight"])
    assert "23 batch-norm update counters absent" in said[0]


def test_incomplete_and_foreign_backbone_files_are_refused(manifest, save):
    content, _ = backbone_file("resnet18", manifest)
    network = build_model("psp", "resnet18", 3)
    cut = {name: tensor for name, tensor in content.items() if not name.startswith("layer4.1.bn2")}
    with Untouched(network, r"(?s)5 missing in the file: layer4\.1\.bn2\.weight.*ImageNet file of resnet18"):
        load_backbone_weights(network, save(cut))
    other, _ = backbone_file("mobilenetv3_small", manifest)
    with Untouched(network, "0 of 138 tensors of the backbone"):
        load_backbone_weights(network, save(other))
    deeper = content | {"layer3.2.conv1.weight": torch.zeros(256, 256, 3, 3)}
    with Untouched(network, r"1 unexpected in the file: layer3\.2\.conv1\.weight"):
        load_backbone_weights(network, save(deeper))
    with Untouched(network, "whole segmentation network"):
        load_backbone_weights(network, save(network.state_dict()))
    report = load_backbone_weights(network, save(cut), allow_partial=True, log=lambda text: None)
    assert len(report.missing) == 5
    assert torch.equal(network.backbone.conv1.weight, content["conv1.weight"])


@pytest.mark.parametrize("name, backbone", [pair for pair in BACKBONE_FILES if pair[1] != "resnet101"])
def test_a_backbone_file_is_told_from_a_network_and_refused_as_one(manifest, save, name, backbone):
    content, _ = backbone_file(backbone, manifest)
    network, path = build_model(name, backbone, 3), save(content)
    assert describe_file(path, network) == "backbone" and is_backbone_file(read_state(path), network)
    with Untouched(network, f"file of the backbone {backbone} alone"):
        load_weights(network, path)
    whole = save(network.state_dict())
    assert describe_file(whole, network) == "network" and not is_backbone_file(read_state(whole), network)
    assert describe_file(save({"layers.0.weight": torch.zeros(3)}), network) == "other"


def test_conversions_rename_in_turn_and_keep_unknown_families_as_they_are():
    conversion = Conversion(prefix="net.", renames=((r"\.qkv\.", ".in_"), (r"^", "body.")))
    kept, dropped = conversion.apply(["net.a.qkv.weight", "net.head.weight", "other.weight"])
    assert kept == {"body.a.in_weight": "net.a.qkv.weight"} and dropped == ["net.head.weight", "other.weight"]
    assert conversion_for("resnet50") is CONVERSIONS["resnet"]
    assert conversion_for("unknown") == Conversion()
