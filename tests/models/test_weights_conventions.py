"""A checkpoint's input convention and eps, averaged weights, and arguments of the run."""

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
from tests.models.weight_files import WRAPPINGS, same, silent, small, untouched

NAN = float("nan")
FOREIGN = InputConvention("RGB", 1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def trained_elsewhere(num_classes=4):
    network = small(num_classes)
    network.set_input_convention(FOREIGN)
    network.set_batch_norm_eps(1e-3)
    return network


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_every_wrapping_of_our_checkpoints_loads_with_convention_and_eps(save, wrap):
    source, network, lines = trained_elsewhere(), small(), []
    report = load_weights(network, save(wrap(source.state_dict())), log=lines.append)
    assert (network.input_convention, network.batch_norm_eps) == (FOREIGN, 1e-3)
    expected = source.state_dict()
    assert report.complete and report.dropped == [] and same(network, expected)
    assert sorted(report.loaded) == sorted(expected.keys() - {CONVENTION_KEY})
    assert f"{len(expected) - 1} of {len(expected) - 1} tensors of the network loaded" in lines[0]
    assert "mean (0.5, 0.4, 0.3)" in lines[0] and "batch-norm eps 0.001" in lines[0]
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network.eval()(image).logits, source.eval()(image).logits, rtol=0, atol=0)


def test_a_checkpoint_without_convention_sets_the_published_one(released, save):
    network = trained_elsewhere()
    report = load_weights(network, save(released), log=silent)
    assert report.complete and (network.input_convention, network.batch_norm_eps) == (PUBLISHED, None)


def test_impossible_conventions_are_refused_before_anything_is_written(released, save):
    network = trained_elsewhere()
    with untouched(network, f"file.pth: {CONVENTION_KEY} has shape"):
        load_weights(network, save(released | {CONVENTION_KEY: torch.zeros(3)}))
    for place, value in ((1, NAN), (3, float("inf")), (5, NAN), (8, -1e-3), (8, NAN)):
        entry = network.weights_convention()
        entry[place] = value
        with untouched(network, f"file.pth: {CONVENTION_KEY} is .*expected finite values"):
            load_weights(network, save(released | {CONVENTION_KEY: entry}))


def last_state(network, ema=None):
    arguments = {"model": "psp_mobile", "backbone": "mobilenetv3_small", "crop_size": [64, 64], "save_dir": "runs"}
    averaged = None if ema is None else ema.state_dict()
    return {"format": 1, "iteration": 3, "network": network.state_dict(), "ema": averaged, "arguments": arguments}


def test_averaged_weights_are_preferred_and_reported(save):
    averaged, plain, network, lines = trained_elsewhere(), trained_elsewhere(), small(), []
    path = save(last_state(plain, AveragedModel(averaged, use_buffers=True)))
    report = load_weights(network, path, log=lines.append)
    assert report.complete and same(network, averaged.state_dict())
    assert "averaged weights (those that the run evaluates and saves)" in lines[0]
    assert network.input_convention == FOREIGN
    assert read_file(path).averaged and read_state(path).keys() == averaged.state_dict().keys()
    load_weights(network, save(last_state(plain)), log=lines.append)
    assert same(network, plain.state_dict()) and "averaged weights" not in lines[1]
    broken = last_state(plain, AveragedModel(averaged))
    del broken["ema"]["module.head.classifier.bias"]
    with untouched(network, "1 missing in the file: head.classifier.bias"):
        load_weights(network, save(broken))


def test_arguments_of_a_run_are_read_from_its_state(released, save):
    state = last_state(small())
    path = save(state)
    assert read_arguments(path) == state["arguments"] == read_file(path).arguments
    assert read_arguments(save(released)) is None
    assert read_arguments(save({"state_dict": released, "arguments": {"model": "of another program"}})) is None


def test_a_file_is_read_once_if_its_content_is_passed_on(save):
    source, network, lines = small(), small(), []
    path = save(last_state(source))
    file = read_file(path)
    path.unlink()
    assert describe_file(file, network) == "network" and read_arguments(file)["model"] == "psp_mobile"
    assert not is_backbone_file(read_state(file), network)
    load_weights(network, file, log=lines.append)
    assert same(network, source.state_dict()) and str(path) in lines[0]


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
