"""What holds for every method without banks or further networks: any size, half precision, several processes."""

from dataclasses import fields, replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from losses.methods.af_dcd import AFDCD
from losses.methods.at import AT
from losses.methods.dist import DIST
from losses.methods.dkd import DKD
from losses.methods.fitnet import FitNet
from losses.methods.mgd import MGD
from tests.losses.outputs import CLASSES, make_output, make_target
from tests.processes import run_processes
from utils.distributed import get_rank, get_world_size, is_distributed
from utils.settings import flag_of
from utils.types import SegOutput, Step

METHODS = {"at": AT, "fitnet": FitNet, "dist": DIST, "dkd": DKD, "mgd": MGD, "af_dcd": AFDCD}
STUDENT, TEACHER = (6, 7, 9), (20, 13, 10)

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def build(method, student=STUDENT, teacher=TEACHER, **options):
    torch.manual_seed(0)
    return method(student, teacher, CLASSES, method.Config(**options))


def weights(method):
    return [field.name for field in fields(method.Config) if field.name.endswith("_weight")]


@each_method
def test_terms_are_named_after_their_weights_and_scale_with_them(method):
    student, teacher = (make_output(*shape, dtype=torch.float32) for shape in ((6, (7, 9)), (20, (13, 10))))
    target = make_target(2, (26, 20))
    terms = build(method)(student, teacher, target)
    assert set(terms) == {f"loss_{name.removesuffix('_weight')}" for name in weights(method)}
    doubled = build(method, **{name: 2 * getattr(method.Config(), name) for name in weights(method)})
    for name, value in doubled(student, teacher, target).items():
        assert value.shape == ()
        torch.testing.assert_close(value, 2 * terms[name])


@each_method
def test_weight_zero_computes_and_builds_nothing(method):
    module = build(method, **dict.fromkeys(weights(method), 0.0))
    assert not list(module.parameters())
    assert not list(module.buffers())
    assert not module.needs_teacher_aux
    assert module(None, None, None) == {}  # nothing is read


@each_method
def test_refuses_settings_that_cannot_be_computed_with(method):
    for field in fields(method.Config):
        if field.name.endswith("_weight"):
            with pytest.raises(ValueError, match=f"{flag_of(field.name)} -1.*at least 0"):
                replace(method.Config(), **{field.name: -1.0})
        if field.name.endswith("_temperature"):
            with pytest.raises(ValueError, match=f"{flag_of(field.name)} 0.*above 0"):
                replace(method.Config(), **{field.name: 0.0})


@each_method
def test_pixel_distillation_belongs_to_the_published_methods(method):
    assert method.includes_kd == (method not in (DIST, DKD))


SIZES = [(1, 1), (2, 3), (5, 5), (4, 17)]


@each_method
@pytest.mark.parametrize(("student_size", "teacher_size"), list(product(SIZES, SIZES)))
@pytest.mark.parametrize("channels", [(6, 6), (3, 18)])
def test_one_image_of_any_size(method, student_size, teacher_size, channels):
    student = make_output(channels[0], student_size, batch=1, grad=True, aux=True, dtype=torch.float32)
    teacher = make_output(channels[1], teacher_size, batch=1, seed=1, aux=True, dtype=torch.float32)
    module = build(method, (channels[0], *student_size), (channels[1], *teacher_size))
    losses = module(student, teacher, make_target(1, (19, 23)))
    sum(losses.values()).backward()
    tensors = [*losses.values(), *(p.grad for p in module.parameters())]
    tensors += [t.grad for t in student if t.grad is not None]
    assert all(t.isfinite().all() for t in tensors)


@each_method
def test_all_ignored_batch_is_finite(method):
    student = make_output(6, (7, 9), grad=True, dtype=torch.float32)
    teacher = make_output(20, (13, 10), seed=1, dtype=torch.float32)
    module = build(method)
    ignored = sum(module(student, teacher, torch.full((2, 26, 20), 255)).values())
    ignored.backward()
    assert ignored.isfinite()
    assert all(t.grad is None or t.grad.isfinite().all() for t in student[:2])
    labelled = sum(module(student, teacher, make_target(2, (26, 20))).values())
    if method is DKD:  # the only one that reads the labels
        assert ignored.item() == 0 < labelled.item()
    else:
        assert torch.equal(ignored, labelled)


@each_method
def test_the_teacher_gets_no_gradient(method):
    student = make_output(6, (7, 9), grad=True, aux=True, dtype=torch.float32)
    teacher = make_output(20, (13, 10), seed=1, grad=True, aux=True, dtype=torch.float32)
    sum(build(method)(student, teacher, make_target(2, (26, 20))).values()).backward()
    assert all(t.grad is None for t in teacher)
    assert any(t.grad is not None and t.grad.any() for t in student)


@each_method
def test_half_precision_stays_close_and_is_reduced_in_float32(method):
    target = make_target(2, (26, 20))
    outputs = {}
    for dtype in (torch.float32, torch.bfloat16):
        student = make_output(6, (13, 10), grad=True, dtype=dtype)
        teacher = make_output(20, (13, 10), seed=1, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = build(method)(student, teacher, target)
        sum(losses.values()).backward()
        outputs[dtype] = losses, [t.grad for t in student[:2] if t.grad is not None]
    (exact, exact_grads), (half, half_grads) = outputs.values()
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=2e-2, atol=1e-6)
    for a, b in zip(half_grads, exact_grads, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() < 0.1 * b.norm()


class Distillation(nn.Module):
    """A student of one layer with all methods at once: what the trainer wraps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Conv2d(3, 6, 3, padding=1)
        self.classifier = nn.Conv2d(6, CLASSES, 1)
        self.aux_classifier = nn.Conv2d(6, CLASSES, 1)
        self.methods = nn.ModuleDict({name: build(method) for name, method in METHODS.items()})

    def forward(self, images, teacher, target, step):
        features = self.student(images)
        output = SegOutput(self.classifier(features), features, self.aux_classifier(features))
        terms = {}
        for method in self.methods.values():
            terms |= method(output, teacher, target, step)
        return terms


def train_two_steps():
    """Losses of each step and the gradients of each term in it, averaged over processes as the trainer does."""
    batch, module = 4, Distillation().double()
    wrapped = DistributedDataParallel(module) if is_distributed() else module
    generator = torch.Generator().manual_seed(1)
    share = batch // get_world_size()
    mine = slice(get_rank() * share, (get_rank() + 1) * share)
    history = []
    for iteration in range(2):
        images = torch.randn(batch, 3, 7, 9, generator=generator, dtype=torch.float64)
        teacher = make_output(20, (13, 10), batch=batch, aux=True, seed=iteration)
        teacher = SegOutput(*(maps[mine] for maps in teacher))
        target = make_target(batch, (26, 20), seed=iteration)
        target[0, 4:] = 255  # images, and so processes, differ in their number of valid pixels
        module.zero_grad()
        terms = wrapped(images[mine], teacher, target[mine], Step(iteration))
        # Scaled to one size: a weight of 2e-5 beside one of 1e4 would hide a wrong gradient.
        sum(terms[name] * scale for name, scale in SCALES.items()).backward()
        history.append(
            {
                "terms": {name: value.detach() for name, value in terms.items()},
                "grads": {name: parameter.grad.clone() for name, parameter in module.named_parameters()},
            }
        )
    return history


SCALES = {
    "loss_at": 1e-2,
    "loss_fitnet": 0.1,
    "loss_dist": 1.0,
    "loss_dkd": 1.0,
    "loss_mgd": 50.0,
    "loss_afdcd_feature": 25.0,
    "loss_afdcd_contrast": 0.3,
}


def test_two_processes_equal_one():
    one, two = train_two_steps(), run_processes(train_two_steps, 2)
    for iteration, expected in enumerate(one):
        assert set(expected["terms"]) == set(SCALES)
        for name, value in expected["terms"].items():
            mean = sum(history[iteration]["terms"][name] for history in two) / 2
            torch.testing.assert_close(mean, value, rtol=1e-6, atol=0, msg=lambda m, n=name: f"{n}: {m}")
        for name, grad in expected["grads"].items():
            assert grad.any(), name
            for history in two:
                error = (history[iteration]["grads"][name] - grad).norm()
                assert error <= 1e-6 * grad.norm(), name
