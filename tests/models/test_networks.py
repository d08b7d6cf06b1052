"""Names and shapes of released checkpoints, stored outputs, sizes, auxiliary heads, registry."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import build_model, list_models

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "outputs"
MANIFESTS = Path(__file__).parents[1] / "data" / "manifest"
PAIRS = [(name, backbone) for name, backbones in list_models().items() for backbone in backbones]
RELEASED = [pair for pair in PAIRS if (MANIFESTS / f"{'_'.join(pair)}_19.json").is_file()]
QUICK = ("resnet18", "mobilenetv2", "mobilenetv3_small", "mobilenetv3_large", "mobilevit_xx_small", "MiT_B0")
SMALL_PAIRS = [pair for pair in PAIRS if pair[1] in QUICK]
LARGE_IMAGE_PAIRS = [("psp_mobile", "mobilenetv3_small"), ("segformer", "MiT_B0")]


def meta_model(*args, **options):
    with torch.device("meta"):
        return build_model(*args, **options)


def test_every_manifest_is_a_network_of_ours(manifest):
    assert len(RELEASED) == len(manifest("summary")) == 16


@pytest.mark.parametrize("num_classes", [19, 21, 150, 182])
@pytest.mark.parametrize("name, backbone", RELEASED)
def test_names_order_and_shapes_are_those_of_the_released_checkpoints(manifest, name, backbone, num_classes):
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


@pytest.mark.parametrize("size", [(97, 131), (64, 33), (29, 29)])
@pytest.mark.parametrize("name, backbone", SMALL_PAIRS)
def test_one_image_of_any_size_gives_maps_at_the_output_stride(name, backbone, size):
    network = build_model(name, backbone, 5).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, *size))
    height, width = (-(-side // network.output_stride) for side in size)
    assert output.logits.shape == (1, 5, height, width)
    assert output.features.shape[-2:] == (height, width)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize(
    "name, backbone, size",
    [(*pair, size) for pair in SMALL_PAIRS for size in ((128, 192), (97, 131))]
    + [pytest.param(*pair, (97, 131), marks=pytest.mark.slow) for pair in PAIRS if pair not in SMALL_PAIRS],
)
def test_a_training_step_gives_every_parameter_a_gradient(name, backbone, size):
    network = build_model(name, backbone, 5, aux=True).train()
    output = network(torch.randn(2, 3, *size))
    (output.logits.square().mean() + output.aux_logits.square().mean() + output.features.mean()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("name, backbone", PAIRS)
@pytest.mark.parametrize("aux", [None, True, False])
def test_auxiliary_head_follows_the_table_or_the_argument(name, backbone, aux):
    network = meta_model(name, backbone, 7, aux=aux)
    expected = backbone.startswith("resnet") if aux is None else aux
    images = torch.empty(2, 3, 40, 56, device="meta")
    for training in (True, False):
        output = network.train(training)(images)
        assert (output.aux_logits is not None) == expected
        assert network(images, need_aux=False).aux_logits is None
        if expected:
            stride = network.backbone.strides[-2]
            assert output.aux_logits.shape == (2, 7, -(-40 // stride), -(-56 // stride))
    assert any(key.startswith("auxlayer.") for key in network.state_dict()) == expected


def test_skipped_auxiliary_head_is_not_computed_and_changes_nothing_else():
    network = build_model("psp_mobile", "mobilenetv3_small", 4, aux=True).eval()
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        whole = network(images)
        calls = []
        network.auxlayer.register_forward_hook(lambda *args: calls.append(1))
        skipped = network(images, need_aux=False)
    assert not calls and torch.equal(whole.logits, skipped.logits) and torch.equal(whole.features, skipped.features)


@pytest.mark.parametrize("name, backbone", PAIRS)
def test_logits_are_the_last_classifier_of_the_features(name, backbone):
    network = meta_model(name, backbone, 6)
    classifiers = [dict(network.named_modules())[path] for path in network.classifier_names]
    assert all(layer.out_channels == 6 for layer in classifiers)
    output = network(torch.empty(2, 3, 32, 32, device="meta"))
    assert output.features.shape[1] == classifiers[0].in_channels


def test_batch_norm_and_dropout_are_as_published():
    for name, backbone in PAIRS:
        modules = list(meta_model(name, backbone, 3).modules())
        norms = [m for m in modules if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert all(type(m) is torch.nn.BatchNorm2d and m.eps == 1e-5 and m.momentum == 0.1 for m in norms)
    dropouts = [m.p for m in meta_model("deeplabv3", "resnet18", 3).modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts == [0.5, 0.1, 0.1]


def test_networks_that_pool_globally_say_so_and_need_two_images_to_train():
    for name in ("deeplabv3_mobilenet_ssseg", "psp_mobile"):
        network = build_model(name, "mobilenetv3_small", 3).train()
        assert network.pools_globally
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(torch.randn(1, 3, 64, 64))


def test_plain_names_mean_the_network_that_has_the_backbone():
    assert meta_model("deeplabv3", "mobilenetv3_small", 3).model_name == "deeplabv3_mobilenet_ssseg"
    assert meta_model("pspnet", "resnet18", 3).model_name == "psp"
    network = meta_model("pspnet", "mobilenetv3_large", 3)
    assert (network.model_name, network.backbone_name, network.num_classes) == ("psp_mobile", "mobilenetv3_large", 3)


@pytest.mark.parametrize(
    "name, backbone, model",
    [
        ("segformer", "resnet18", "segformer"),
        ("upernet", "mit_b0", "upernet"),
        ("PSPNet", "MiT_B1", "psp"),
        ("deeplabv3", "mobilenetv2", "deeplab_mobile"),
    ],
)
def test_plain_names_go_with_every_backbone(name, backbone, model):
    network = meta_model(name, backbone, 3)
    assert network.model_name == model
    output = network.eval()(torch.empty(1, 3, 64, 96, device="meta"), need_aux=False)
    assert output.logits.shape == (1, 3, -(-64 // network.output_stride), -(-96 // network.output_stride))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("deeplab", "resnet18", 3), "unknown model 'deeplab'"),
        (("deeplabv3", "resnet34", 3), "no backbone 'resnet34'"),
        (("psp_mobile", "resnet18", 3), "no backbone 'resnet18'"),
        (("deeplabv3", "resnet18", 0), "num_classes is 0"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        build_model(*arguments)
    if arguments[2]:
        assert "deeplabv3: resnet18, resnet50, resnet101" in str(caught.value)


@pytest.mark.parametrize(
    "name, backbone",
    [pair if pair in LARGE_IMAGE_PAIRS else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS],
)
def test_every_network_evaluates_a_large_image(name, backbone):
    network = build_model(name, backbone, 19).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, 1024, 1024), need_aux=False)
    side = 1024 // network.output_stride
    assert output.logits.shape == (1, 19, side, side) and torch.isfinite(output.logits).all()
