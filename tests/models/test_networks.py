"""Names and shapes of released checkpoints, stored outputs, auxiliary heads, dropout, registry."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import DropPath

from models import build_model, list_models
from tests.models.reference import MIT_DEPTHS
from tests.models.weight_files import MANIFESTS

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "outputs"
PAIRS = [(name, backbone) for name, backbones in list_models().items() for backbone in backbones]
RELEASED = [pair for pair in PAIRS if (MANIFESTS / f"{'_'.join(pair)}_19.json").is_file()]
QUICK = ("resnet18", "mobilenetv2", "mobilenetv3_small", "mobilenetv3_large", "mobilevit_xx_small", "MiT_B0")
QUICK_PAIRS = [pair for pair in PAIRS if pair[1] in QUICK and pair[0] != "upernet"]  # upernet_lite is narrower


def manifest(name):
    return json.loads((MANIFESTS / f"{name}.json").read_text())


def meta_model(*args, **options):
    with torch.device("meta"):
        return build_model(*args, **options)


def test_every_manifest_is_a_network_of_ours():
    assert len(RELEASED) == len(manifest("summary")) == 16


@pytest.mark.parametrize("num_classes", [19, 21, 150, 182])
@pytest.mark.parametrize("name, backbone", RELEASED)
def test_names_order_and_shapes_are_those_of_the_released_checkpoints(name, backbone, num_classes):
    expected = manifest(f"{name}_{backbone}_19")
    summary = manifest("summary")[f"{name}_{backbone}"]
    for key, shape in summary["class_dependent_keys"].items():
        expected[key] = ["float32", [num_classes, *shape[1:]]]
    network = meta_model(name, backbone, num_classes)
    got = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in network.state_dict().items()}
    assert list(got.items()) == list(expected.items())
    assert sum(p.numel() for p in network.parameters()) == summary["params_by_classes"][str(num_classes)]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.npz")), ids=lambda path: path.stem)
def test_outputs_are_those_of_the_released_networks(fill_network, path):
    name, backbone = next(pair for pair in RELEASED if path.stem == "_".join(pair))
    network = fill_network(build_model(name, backbone, 19)).eval()
    images = np.random.default_rng(1234).normal(0, 1, (2, 3, 128, 192)).astype(np.float32)
    with torch.no_grad():
        output = network(torch.from_numpy(images))
    stored = np.load(path)
    compared = 0
    for key in stored.files:
        if key.endswith("_stats") or key == "input_shape":
            continue
        kind = key.split("_", 1)[1]
        value = getattr(output, "features" if kind == "feature" else kind).numpy()
        scale = np.abs(stored[key]).max()
        assert np.abs(value[0] - stored[key]).max() <= 1e-4 * scale, key
        mean, deviation, total = stored[f"{key}_stats"]
        whole = value.astype(np.float64)
        assert abs(whole.mean() - mean) <= 1e-4 * scale
        assert abs(whole.std() - deviation) <= 1e-4 * scale
        assert abs(np.abs(whole).sum() - total) <= 1e-4 * total
        compared += 1
    assert compared == (3 if output.aux_logits is not None else 2)


@pytest.mark.parametrize(
    "name, backbone", [pair if pair in QUICK_PAIRS else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS]
)
def test_a_training_step_gives_every_parameter_a_gradient(name, backbone):
    network = build_model(name, backbone, 5, aux=True).train()
    output = network(torch.randn(2, 3, 65, 99))
    (output.logits.square().mean() + output.aux_logits.square().mean() + output.features.mean()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


# dropout rates of the features, by the start of the model's name
DROPOUTS = {"deeplab": [0.5, 0.1], "psp": [0.1], "upernet": [], "segformer": []}


@pytest.mark.parametrize(
    "name, backbone, default", [(*pair, True) for pair in PAIRS] + [(*pair, False) for pair in QUICK_PAIRS]
)
def test_auxiliary_head_shapes_norms_and_dropout(name, backbone, default):
    """With the default for the auxiliary head, and with the opposite."""
    aux = backbone.startswith("resnet") == default
    network = meta_model(name, backbone, 7, aux=None if default else aux)
    assert any(key.startswith("auxlayer.") for key in network.state_dict()) == aux
    classifiers = [network.get_submodule(path) for path in network.classifier_names]
    assert len(classifiers) == 1 + aux and all(layer.out_channels == 7 for layer in classifiers)
    images = torch.empty(2, 3, 97, 131, device="meta")
    for training in (True, False):
        output = network.train(training)(images)
        size = tuple(-(-side // network.output_stride) for side in (97, 131))
        assert output.logits.shape == (2, 7, *size) and output.features.shape == (2, classifiers[0].in_channels, *size)
        stride = network.backbone.strides[-2]
        assert not aux or output.aux_logits.shape == (2, 7, -(-97 // stride), -(-131 // stride))
        assert aux or output.aux_logits is None
    if aux:
        network.auxlayer.register_forward_hook(lambda *_: pytest.fail("the auxiliary head is computed"))
    assert network(images, need_aux=False).aux_logits is None
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(type(m) is torch.nn.BatchNorm2d and m.eps == 1e-5 and m.momentum == 0.1 for m in norms)
    expected = next(rates for start, rates in DROPOUTS.items() if name.startswith(start)) + [0.1] * aux
    dropouts = [m for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    assert [m.p for m in dropouts] == expected and all(type(m) is torch.nn.Dropout for m in dropouts)
    paths = [m.drop_prob for m in network.modules() if isinstance(m, DropPath)]
    blocks = sum(MIT_DEPTHS.get(backbone, ()))
    assert paths == pytest.approx([0.1 * index / (blocks - 1) for index in range(blocks)])


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_ssseg", "psp_mobile"])
def test_networks_that_pool_globally_need_two_images_to_train(name):
    network = build_model(name, "mobilenetv3_small", 3).train()
    assert network.pools_globally
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    "alias, backbone, model",
    [
        ("deeplabv3", "mobilenetv3_small", "deeplabv3_mobilenet_ssseg"),
        ("deeplabv3", "mobilenetv2", "deeplab_mobile"),
        ("pspnet", "mobilenetv3_large", "psp_mobile"),
        ("PSPNet", "MiT_B1", "psp"),
        ("upernet", "mit_b0", "upernet"),
    ],
)
def test_aliases_are_compatible_with_every_backbone(alias, backbone, model):
    network = meta_model(alias, backbone, 3)
    assert (network.model_name, network.backbone_name.lower(), network.num_classes) == (model, backbone.lower(), 3)
    output = network.eval()(torch.empty(1, 3, 64, 96, device="meta"), need_aux=False)
    assert output.logits.shape == (1, 3, -(-64 // network.output_stride), -(-96 // network.output_stride))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("deeplab", "resnet18", 3), "unknown model 'deeplab'"),
        (("deeplabv3", "resnet34", 3), "no backbone 'resnet34'"),
        (("psp_mobile", "resnet18", 3), "no backbone 'resnet18'"),
        (("deeplabv3", "resnet18", 0), "num_classes is 0"),
    ],
)
def test_unknown_networks_are_refused_with_the_known_ones(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(*arguments)
    if arguments[2]:
        assert "deeplabv3: resnet18, resnet50, resnet101" in str(caught.value)
