"""The adversarial term: formula, stored values, gradients of either side, and the discriminator's state."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses.methods.adversarial import Adversarial, Discriminator, SpectralConv2d, hinge_loss
from tests.losses import golden, plain
from tests.losses.distillers import assert_same, build, make_batch
from utils.types import SegOutput

MANIFEST = Path(__file__).parents[1] / "data" / "manifest" / "discriminator_19.json"
PUBLISHED = {"norm": "preprocess_additional", "last": "last.0", "attention3": "attn1", "attention4": "attn2"}
PUBLISHED |= {f"conv{index}": f"l{index}.0.module" for index in range(1, 5)}


def published_name(name: str) -> str:
    layer, leaf = name.removeprefix("discriminator.").split(".", 1)
    return f"{PUBLISHED[layer]}.{leaf}"


def plain_discriminator(module: Discriminator, logits, vectors):
    """Scores by the formulas; `vectors` (layer -> u, v) are updated as in training."""

    def spectral(name, maps):
        layer = getattr(module, name)
        matrix, (u, _) = layer.weight_bar.flatten(1), vectors[name]
        v = plain.unit((matrix.T @ u).detach())
        u = plain.unit((matrix @ v).detach())
        vectors[name] = u, v
        maps = F.conv2d(maps, layer.weight_bar / (u @ matrix @ v), layer.bias, 2, 1)
        return torch.where(maps > 0, maps, 0.1 * maps)

    def attention(layer, maps):
        q, k, v = (
            plain.conv1x1(conv.weight, maps).flatten(2) + conv.bias[:, None]
            for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
        )
        weights = torch.einsum("ncp,nck->npk", q, k).softmax(-1)
        return maps + layer.gamma * torch.einsum("npk,nck->ncp", weights, v).reshape(maps.shape)

    norm = module.norm
    maps = plain.batch_norm(logits) * norm.weight[:, None, None] + norm.bias[:, None, None]
    maps = spectral("conv2", spectral("conv1", maps))
    maps = attention(module.attention3, spectral("conv3", maps))
    maps = attention(module.attention4, spectral("conv4", maps))
    return F.conv2d(maps, module.last.weight, module.last.bias)


def trained(batch, **options) -> Adversarial:
    """The term with gains of attention and affine parameters unlike those of a new discriminator."""
    module = build("adversarial", batch, **options)
    with torch.no_grad():
        module.discriminator.attention3.gamma.fill_(0.7)
        module.discriminator.attention4.gamma.fill_(-0.4)
        module.discriminator.norm.weight.uniform_(0.5, 1.5)
        module.discriminator.norm.bias.uniform_(-0.5, 0.5)
    return module


@pytest.mark.parametrize(
    ("size_s", "size_t", "size"),
    [((66, 80), (66, 80), (66, 80)), ((33, 40), (70, 64), (70, 64)), ((5, 7), (9, 70), (64, 70))],
)
def test_formula(size_s, size_t, size):
    student, teacher, target = batch = make_batch(2, size_s, size_t)
    module = trained(batch, adv_weight=0.01, d_weight=0.2)
    network = module.discriminator
    vectors = {name: (layer.weight_u.clone(), None) for name, layer in network.named_children() if "conv" in name}
    losses = module(student, teacher, target)
    assert list(losses) == ["loss_adv", "loss_d"]
    real = plain.resize(teacher.logits, size)
    fake = plain.resize(plain.resize(student.logits, size_t), size)
    scores = plain_discriminator(network, fake, vectors)
    assert_same(losses["loss_adv"], -0.01 * scores.mean(), [student.logits])
    fake, real = (plain_discriminator(network, maps, vectors) for maps in (fake.detach(), real))
    expected = 0.2 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    assert_same(losses["loss_d"], expected, network.parameters())
    for name, (u, v) in vectors.items():  # one step of the power iteration for each of the three passes
        layer = getattr(network, name)
        torch.testing.assert_close(layer.weight_u, u)
        torch.testing.assert_close(layer.weight_v, v)


def test_each_loss_reaches_its_side_alone():
    student, teacher, target = batch = make_batch(2)
    module = build("adversarial", batch)
    losses = module(student, teacher, target)
    inputs = [student.logits, *module.parameters()]
    grads = torch.autograd.grad(losses["loss_adv"], inputs, retain_graph=True, allow_unused=True)
    assert grads[0].any() and all(grad is None for grad in grads[1:])
    grads = torch.autograd.grad(losses["loss_d"], inputs, allow_unused=True)
    assert grads[0] is None and all(grad is not None for grad in grads[1:])
    assert {id(p) for p in module.discriminator_parameters()} == {id(p) for p in module.parameters()}
    assert module.discriminator_terms == {"loss_d"}


def golden_step(monkeypatch=None):
    """Losses of the stored step and name -> gradient, all under the published names."""
    module = Adversarial((1, 1, 1), (1, 1, 1), 19, Adversarial.Config(0.001, 0.1))
    golden.fill_parameters(module, {name: published_name(name) for name in module.state_dict()})
    if monkeypatch is not None:
        _keep_published_vectors(module, monkeypatch)
    student, teacher = golden.tensor("logit_s_D", grad=True), golden.tensor("logit_t_D")
    losses = module(SegOutput(student, student), SegOutput(teacher, teacher), None)
    sum(losses.values()).backward()
    grads = {published_name(name): parameter.grad for name, parameter in module.named_parameters()}
    return module, losses, grads | {"logit_s_D": student.grad}


def _keep_published_vectors(module, monkeypatch) -> None:
    """The published layer changes u and v unseen by autograd, so its backward pass uses those of the last pass."""
    held = {
        id(layer): [nn.Parameter(buffer.clone(), requires_grad=False) for buffer in (layer.weight_u, layer.weight_v)]
        for layer in module.modules()
        if isinstance(layer, SpectralConv2d)
    }

    def spectral_norm(self, matrix):
        u, v = held[id(self)]
        v.data = F.normalize(matrix.detach().mT @ u.data, dim=0)
        u.data = F.normalize(matrix.detach() @ v.data, dim=0)
        return u.dot(matrix.mv(v))

    monkeypatch.setattr(SpectralConv2d, "_spectral_norm", spectral_norm)


def test_stored_step():
    module, losses, grads = golden_step()
    expected = golden.result("Discriminator_step")
    assert losses["loss_adv"].item() == pytest.approx(0.001 * expected["outputs"][0], rel=1e-5)
    assert losses["loss_d"].item() == pytest.approx(0.1 * expected["outputs"][1], rel=1e-5)
    buffers = {published_name(name): buffer for name, buffer in module.named_buffers()}
    for name, value in expected["uv_after"].items():
        assert golden.statistics(buffers[name])["dot_probe"] == pytest.approx(value, abs=1e-5), name
    assert grads.keys() == expected["grads"].keys()
    for name, entry in expected["grads"].items():
        # sigma's part of the weights' gradient: see the next test
        golden.check_gradient(name, grads[name], entry, 0.01 if name.endswith("weight_bar") else 1e-4)


def test_stored_gradients_of_the_weights_need_the_published_stale_vectors(monkeypatch):
    _, _, grads = golden_step(monkeypatch)
    entries = golden.result("Discriminator_step")["grads"]
    for index in range(1, 5):
        name = f"l{index}.0.module.weight_bar"
        golden.check_gradient(name, grads[name], entries[name], 1e-4)


def test_stored_hinge_losses():
    def scores(seed):
        return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (4, 1, 1, 5)).astype(np.float32))

    fake, real = scores(115).requires_grad_(), scores(116)
    golden.check("CriterionAdv_hinge", [hinge_loss(fake, real)], {"dS": fake})
    golden.check("CriterionAdvForG_hinge", [-fake.mean()], {"dS": fake})


def test_discriminator_has_the_published_parameters():
    expected = {name: shape for name, (_, shape) in json.loads(MANIFEST.read_text()).items()}
    assert {published_name(n): list(t.shape) for n, t in Discriminator(19).state_dict().items()} == expected


def test_spectral_norm_converges_to_the_largest_singular_value_and_is_fixed_in_evaluation():
    torch.manual_seed(0)
    layer = SpectralConv2d(3, 8).double()
    maps = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for _ in range(200):
        layer(maps)
    sigma = torch.linalg.matrix_norm(layer.weight_bar.flatten(1), 2)
    torch.testing.assert_close(layer(maps), F.conv2d(maps, layer.weight_bar / sigma, layer.bias, 2, 1))
    fresh = SpectralConv2d(3, 8).eval()
    before = fresh.weight_u.clone()
    fresh(maps.float())
    assert torch.equal(fresh.weight_u, before)


def test_discriminator_with_loss_weight_0_does_not_train():
    batch = make_batch()
    module = build("adversarial", batch, d_weight=0.0)
    assert list(module(*batch)) == ["loss_adv"]
    assert module.discriminator_parameters() == [] and not any(p.requires_grad for p in module.parameters())


def test_running_statistics_are_updated_unless_frozen():
    student, teacher, target = batch = make_batch(2)
    module = build("adversarial", batch)
    module(student, teacher, target)
    assert module.discriminator.norm.num_batches_tracked == 3 and module.discriminator.norm.running_mean.any()
    frozen = build("adversarial", batch)
    frozen.discriminator.norm.eval()
    frozen(student, teacher, target)
    assert not frozen.discriminator.norm.running_mean.any()
