"""Loading is complete, or refused with the names."""

import re

import pytest
import torch

from models import build_model
from models.weights import load_backbone_weights, load_weights
from tests.models.weight_files import same, silent, small, untouched


def test_report_is_printed_unless_sent_elsewhere(released, save, capsys):
    load_weights(small(), save(released))
    assert "272 of 272 tensors" in capsys.readouterr().out


# network, backbone, a tensor of the backbone, one of a head
NETWORKS = [
    ("psp_mobile", "mobilenetv3_small", "pretrained.layer5.se.conv2.conv.bias", "head.block.0.weight"),
    ("psp", "resnet18", "pretrained.layer4.1.bn2.running_var", "auxlayer.block.4.bias"),
    ("deeplab_mobile", "mobilenetv2", "pretrained.net.features.17.conv.7.num_batches_tracked", "head.block.0.weight"),
    ("segformer", "MiT_B0", "block3.1.attn.kv.weight", "linear_c2.proj.bias"),
]


@pytest.mark.parametrize("model, backbone, inner, outer", NETWORKS)
def test_one_tensor_removed_renamed_or_reshaped_is_refused_by_name(save, model, backbone, inner, outer):
    network = build_model(model, backbone, 4)
    whole = dict(build_model(model, backbone, 4).state_dict())
    for name in (inner, outer):
        shown = re.escape(name)
        removed = {key: tensor for key, tensor in whole.items() if key != name}
        with untouched(network, f"1 missing in the file: {shown}\n"):
            load_weights(network, save(removed))
        with untouched(network, f"(?s)1 missing in the file: {shown}.*1 unexpected in the file: {shown}x"):
            load_weights(network, save(removed | {f"{name}x": whole[name]}))
        if name != "auxlayer.block.4.bias":  # a classifier, whose message is about classes
            got = [*whole[name].shape, 2]
            shapes = f"{name} {got} in the file, {got[:-1]} here"
            with untouched(network, f"1 of another shape or kind: {re.escape(shapes)}"):
                load_weights(network, save(removed | {name: torch.zeros(got)}))
    assert load_weights(network, save(whole)).complete and same(network, whole)


@pytest.mark.parametrize(
    "model, backbone", [("psp_mobile", "mobilenetv3_small"), ("deeplabv3", "resnet18"), ("segformer", "MiT_B0")]
)
def test_another_class_count_is_reported_in_classes(save, model, backbone):
    network, state = build_model(model, backbone, 7), build_model(model, backbone, 4).state_dict()
    with untouched(network, f"was trained for 4 classes, {model} with {backbone} is built for 7"):
        load_weights(network, save(state))


def test_partial_loading_loads_what_fits_and_reports_the_rest(released, save):
    network, lines = small(num_classes=7), []
    before = network.head.classifier.weight.clone()
    report = load_weights(network, save(released), allow_partial=True, log=lines.append)
    assert [entry[0] for entry in report.mismatched] == ["head.classifier.weight", "head.classifier.bias"]
    assert torch.equal(network.head.classifier.weight, before)
    assert torch.equal(network.pretrained.layer0.conv.weight, released["pretrained.layer0.conv.weight"])
    assert "270 of 272" in lines[0] and "head.classifier.bias [4] in the file, [7] here" in lines[0]
    with untouched(network, "nothing in the file fits"):
        load_weights(network, save({"something.else": torch.zeros(3)}), allow_partial=True)


def test_an_auxiliary_head_in_the_file_is_ignored_by_a_network_without_one(save):
    state, network, lines = small(aux=True).state_dict(), small(), []
    report = load_weights(network, save(state), log=lines.append)
    assert report.complete and len(report.dropped) == 8 and "8 not used by this network: auxlayer." in lines[0]
    with_aux = small(aux=True)
    with untouched(with_aux, "what is missing is the auxiliary head, which only training uses"):
        load_weights(with_aux, save(network.state_dict()))


@pytest.mark.parametrize("load", [load_weights, load_backbone_weights])
def test_partial_loading_is_offered_only_where_it_can_be_asked_for(save, load):
    path, network = save({"layer0.conv.weight": torch.ones(2)}), small()
    for asked, offered in ((False, True), (None, False)):
        with untouched(network, "none was loaded") as refused:
            load(network, path, allow_partial=asked, log=silent)
        assert ("--allow-partial takes over what fits" in str(refused.value)) == offered
        assert ("partial" in re.sub(r"\S*/\S*", "", str(refused.value))) == offered


def test_a_file_without_update_counters_loads_and_one_with_some_does_not(released, save):
    old = {name: tensor for name, tensor in released.items() if not name.endswith("num_batches_tracked")}
    network, lines = small(), []
    assert load_weights(network, save(old), log=lines.append).complete
    assert "update counters absent" in lines[0]
    some = old | {"head.block.1.num_batches_tracked": torch.tensor(0)}
    with untouched(network, "num_batches_tracked"):
        load_weights(network, save(some))
    with untouched(network, "272 missing in the file") as refused:
        load_weights(network, save({"something.else": torch.zeros(3)}), log=silent)
    assert "counters absent" not in str(refused.value)


def test_a_tensor_of_another_kind_of_number_is_refused_by_name(released, save):
    name, counter, network = "head.block.0.weight", "head.block.1.num_batches_tracked", small()
    for dtype, kind in ((torch.int32, "whole"), (torch.bool, "whole"), (torch.complex64, "complex")):
        message = f"1 of another shape or kind: {name} {kind} numbers in the file, floating point numbers here"
        with untouched(network, message):
            load_weights(network, save(released | {name: released[name].to(dtype)}))
    with untouched(network, f"{counter} floating point numbers in the file, whole numbers here"):
        load_weights(network, save(released | {counter: torch.tensor(2.0)}))
    halves = {n: t.half() if t.is_floating_point() else t for n, t in released.items()}
    assert load_weights(network, save(halves)).complete


def test_values_that_are_not_finite_are_named_in_a_warning(released, save):
    name, lines = "pretrained.layer5.se.conv2.conv.bias", []
    load_weights(small(), save(released), log=lines.append)
    assert "WARNING" not in lines[0]
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = released[name].clone()
        broken[3] = value
        load_weights(small(), save(released | {name: broken}), log=lines.append)
        assert f"WARNING: 1 tensors in the file hold NaN or infinite values: {name}" in lines[-1].splitlines()


def test_files_without_weights_are_refused_by_name(save):
    network = small()
    for content in ([1, 2], {}, {"state_dict": {}}, {"a": 3}, {3: torch.zeros(1)}, torch.zeros(3)):
        with untouched(network, "odd.pth holds no weights"):
            load_weights(network, save(content, "odd.pth"))
