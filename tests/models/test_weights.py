"""Loading is complete and loud, or refused with the names."""

import re

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from models import build_model
from models.base import CONVENTION_KEY, IMAGENET_RGB, PUBLISHED, InputConvention
from models.weights import (
    backbone_state,
    describe_file,
    is_backbone_file,
    load_backbone_weights,
    load_weights,
    read_arguments,
    read_file,
    read_state,
)
from tests.models.weight_files import Untouched, same, silent, write_file


def small(num_classes=4, **options):
    return build_model("psp_mobile", "mobilenetv3_small", num_classes, **options)


@pytest.fixture(scope="module")
def released(fill_network):
    """State of a released-like network with four classes."""
    return {name: tensor.clone() for name, tensor in fill_network(small()).state_dict().items()}


@pytest.fixture
def save(tmp_path):
    return write_file(tmp_path)


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


# network, backbone, a tensor of the backbone, one of the head, a vector, the classifier's weight
NETWORKS = [
    ("psp_mobile", "mobilenetv3_small", "pretrained.layer5.se.conv2.conv.bias", "head.block.0.weight"),
    ("deeplabv3", "resnet18", "pretrained.layer4.1.bn2.running_var", "auxlayer.block.4.bias"),
    ("upernet_lite", "resnet18", "pretrained.conv2.weight", "head.conv_last.1.weight"),
    ("deeplab_mobile", "mobilenetv2", "pretrained.net.features.17.conv.7.num_batches_tracked", "head.block.0.weight"),
    ("psp_mobile", "mobilevit_xx_small", "pretrained.conv_1x1_exp.bn.bias", "head.classifier.bias"),
    ("segformer", "MiT_B0", "block3.1.attn.kv.weight", "linear_c2.proj.bias"),
]


@pytest.mark.parametrize("model, backbone, inner, outer", NETWORKS)
def test_one_tensor_removed_renamed_or_reshaped_is_refused_by_name(save, model, backbone, inner, outer):
    network = build_model(model, backbone, 4)
    whole = dict(build_model(model, backbone, 4).state_dict())
    for name in (inner, outer):
        shown = re.escape(name)
        removed = {key: tensor for key, tensor in whole.items() if key != name}
        with Untouched(network, f"1 missing in the file: {shown}\n"):
            load_weights(network, save(removed))
        with Untouched(network, f"(?s)1 missing in the file: {shown}.*1 unexpected in the file: {shown}x"):
            load_weights(network, save(removed | {f"{name}x": whole[name]}))
        got = [*whole[name].shape, 2]
        wrong = rf"1 of another shape: {shown} {re.escape(str(got))} in the file, {re.escape(str(got[:-1]))} here"
        if name not in ("head.conv_last.1.weight", "head.classifier.bias", "auxlayer.block.4.bias"):
            with Untouched(network, wrong):
                load_weights(network, save(removed | {name: torch.zeros(got)}))
    assert load_weights(network, save(whole)).complete and same(network, whole)


@pytest.mark.parametrize(
    "model, backbone", [("psp_mobile", "mobilenetv3_small"), ("deeplabv3", "resnet18"), ("segformer", "MiT_B0")]
)
def test_another_class_count_is_said_in_classes(save, model, backbone):
    network, state = build_model(model, backbone, 7), build_model(model, backbone, 4).state_dict()
    with Untouched(network, f"was trained for 4 classes, {model} with {backbone} is built for 7"):
        load_weights(network, save(state))


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


FOREIGN = InputConvention("RGB", 1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def trained_elsewhere(num_classes=4):
    network = small(num_classes)
    network.set_input_convention(FOREIGN)
    network.set_batch_norm_eps(1e-3)
    return network


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_convention_and_eps_come_with_our_checkpoints(save, wrap):
    source, network, said = trained_elsewhere(), small(), []
    report = load_weights(network, save(wrap(source.state_dict())), log=said.append)
    assert (network.input_convention, network.batch_norm_eps) == (FOREIGN, 1e-3)
    assert report.complete and not any(CONVENTION_KEY in names for names in (report.loaded, report.dropped))
    assert "mean (0.5, 0.4, 0.3)" in said[0] and "batch-norm eps 0.001" in said[0]
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network.eval()(image).logits, source.eval()(image).logits, rtol=0, atol=0)


def test_a_checkpoint_without_convention_sets_the_published_one(released, save):
    network = trained_elsewhere()
    report = load_weights(network, save(released), log=silent)
    assert report.complete and (network.input_convention, network.batch_norm_eps) == (PUBLISHED, None)


def test_a_malformed_convention_is_refused_before_anything_is_written(released, save):
    network = trained_elsewhere()
    with Untouched(network, f"file.pth: {CONVENTION_KEY} has shape"):
        load_weights(network, save(released | {CONVENTION_KEY: torch.zeros(3)}))


def test_convention_in_safetensors(tmp_path):
    from safetensors.torch import save_file

    source, network = trained_elsewhere(), small()
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, tmp_path / "a.safetensors")
    load_weights(network, tmp_path / "a.safetensors", log=silent)
    assert network.input_convention == FOREIGN and same(network, source.state_dict())


def last_state(network, ema=None):
    arguments = {"model": "psp_mobile", "backbone": "mobilenetv3_small", "crop_size": [64, 64], "save_dir": "runs"}
    averaged = None if ema is None else ema.state_dict()
    return {"format": 1, "iteration": 3, "network": network.state_dict(), "ema": averaged, "arguments": arguments}


def test_averaged_weights_are_preferred_and_said(save):
    averaged, plain, network, said = trained_elsewhere(), trained_elsewhere(), small(), []
    path = save(last_state(plain, AveragedModel(averaged, use_buffers=True)))
    report = load_weights(network, path, log=said.append)
    assert report.complete and same(network, averaged.state_dict())
    assert "averaged weights (those that the run evaluates and saves)" in said[0]
    assert network.input_convention == FOREIGN
    assert read_file(path).averaged and read_state(path).keys() == averaged.state_dict().keys()
    load_weights(network, save(last_state(plain)), log=said.append)
    assert same(network, plain.state_dict()) and "averaged weights" not in said[1]
    broken = last_state(plain, AveragedModel(averaged))
    del broken["ema"]["module.head.classifier.bias"]
    with Untouched(network, "1 missing in the file: head.classifier.bias"):
        load_weights(network, save(broken))


def test_arguments_of_a_run_are_read_from_its_state(released, save):
    state = last_state(small())
    path = save(state)
    assert read_arguments(path) == state["arguments"] == read_file(path).arguments
    assert read_arguments(save(released)) is None
    assert read_arguments(save({"state_dict": released, "arguments": {"model": "of another program"}})) is None


def test_a_file_is_read_once_where_its_content_is_handed_on(save):
    source, network, said = small(), small(), []
    path = save(last_state(source))
    file = read_file(path)
    path.unlink()
    assert describe_file(file, network) == "network" and read_arguments(file)["model"] == "psp_mobile"
    assert not is_backbone_file(read_state(file), network)
    load_weights(network, file, log=said.append)
    assert same(network, source.state_dict()) and str(path) in said[0]


@pytest.mark.parametrize("convention", [PUBLISHED, IMAGENET_RGB])
def test_flat_names_divide_into_backbone_and_head(save, convention):
    network = build_model("segformer", "MiT_B0", 4)
    network.set_input_convention(convention)
    own = backbone_state(network)
    assert own.keys() == network.backbone.state_dict().keys()
    path = save(network.state_dict())
    assert describe_file(path, network) == "network" and not is_backbone_file(read_state(path), network)
    other = build_model("segformer", "MiT_B0", 4)
    load_weights(other, path, log=silent)
    assert same(other, network.state_dict()) and other.input_convention == convention
    alone = save({name: tensor.clone() for name, tensor in own.items()})
    assert describe_file(alone, network) == "backbone"
    for tensor in own.values():
        tensor.zero_()
    assert load_backbone_weights(network, alone, log=silent).complete
    assert same(network.backbone, other.backbone.state_dict())
    assert network.input_convention == PUBLISHED  # such a file has no place for another


def test_partial_loading_keeps_the_convention_where_the_backbone_stays(save):
    source = {name: tensor for name, tensor in small().state_dict().items() if name.startswith("head.")}
    network = trained_elsewhere()
    load_weights(network, save(source), allow_partial=True, log=silent)
    assert network.input_convention == FOREIGN
