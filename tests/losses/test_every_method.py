"""Tests of every method: weights, settings, hard inputs, gradients, half precision."""

from dataclasses import fields, replace

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from losses import METHODS
from tests.losses.distillers import build, make_batch
from utils.settings import flag_of
from utils.types import SegOutput, Step

IF_LABELLED = {"loss_dkd", "loss_ifv", "loss_memory_pixel", "loss_memory_region"}
"""Terms that are 0 where every pixel is ignored; the others do not depend on the labels."""
HALF_RTOL = dict.fromkeys(("adversarial", "cwd", "fitnet", "mgd", "af_dcd", "cirkd", "nfd", "attnfd"), 0.02) | {
    "cirkdv2": 0.1
}
"""Methods with layers, which autocast runs in bfloat16; the others compute in float32."""
HARD = [(1, (5, 7), (5, 7)), (2, (1, 1), (2, 3)), (1, (13, 17), (4, 5)), (1, (3, 2), (1, 1))]
"""Images, and the sizes of the student's and the teacher's maps."""

each_method = pytest.mark.parametrize("method", METHODS)


def weights(method):
    return [field.name for field in fields(METHODS[method].Config) if field.name.endswith("_weight")]


def half_precision(output):
    return SegOutput(*(maps.bfloat16() for maps in output))


@each_method
def test_terms_are_named_after_their_weights_and_scale_with_them(method):
    batch = make_batch(2)
    terms = build(method, batch)(*batch)
    assert set(terms) == {f"loss_{name.removesuffix('_weight')}" for name in weights(method)}
    doubled = {name: 2 * getattr(METHODS[method].Config(), name) for name in weights(method)}
    for name, value in build(method, batch, **doubled)(*batch).items():
        assert value.shape == () and value != 0
        torch.testing.assert_close(value, 2 * terms[name])


@each_method
def test_weight_zero_computes_and_builds_nothing(method):
    batch = make_batch(2)
    for name in weights(method):
        terms = build(method, batch, **{name: 0.0})(*batch)
        assert f"loss_{name.removesuffix('_weight')}" not in terms
    module = build(method, batch, **dict.fromkeys(weights(method), 0.0))
    assert not module.state_dict() and not module.needs_teacher_aux and not module.discriminator_parameters()
    assert module(*batch) == {}


@each_method
def test_settings_out_of_range_are_refused(method):
    config = METHODS[method].Config()
    for field in fields(config):
        for suffixes, value, expected in (
            (("_weight", "_alpha", "_beta", "_factor"), -1.0, "at least 0"),
            (("_temperature",), 0.0, "above 0"),
            (("_mask_ratio",), 1.0, "a number from 0 up to"),
            (("_size",), 0, "at least 1"),
            (("_dtype", "_scaling", "_norm"), "int8", "one of"),
        ):
            if field.name.endswith(suffixes):
                with pytest.raises(ValueError, match=f"{flag_of(field.name)} '?{value}'?: expected .*{expected}"):
                    replace(config, **{field.name: value})


@each_method
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("count", "size_s", "size_t"), HARD)
def test_hard_inputs_give_finite_terms_and_gradients(method, half, count, size_s, size_t):
    batch = student, teacher, target = make_batch(count, size_s, size_t, dtype=torch.float32)
    if half:
        student, teacher = half_precision(student), half_precision(teacher)
    for labels in (target, torch.full_like(target, 255)):
        module = build(method, batch, torch.float32)
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()  # the projectors' batch norms cannot normalise a single position
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = module(student, teacher, labels)
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values()), losses
        inputs = [*student, *module.parameters()]
        grads = torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True)
        assert all(grad is None or grad.isfinite().all() for grad in grads)


@each_method
def test_ignored_labels(method):
    student, teacher, target = batch = make_batch(2)
    labelled = build(method, batch)(*batch)
    ignored = build(method, batch)(student, teacher, torch.full_like(target, 255))
    for name, loss in ignored.items():
        if name not in IF_LABELLED:
            assert torch.equal(loss, labelled[name]), name
            continue
        grads = torch.autograd.grad(loss, student, retain_graph=True, materialize_grads=True)
        assert loss == 0 < labelled[name] and not any(grad.any() for grad in grads), name


@pytest.mark.parametrize("method", ["kd", "at", "fitnet", "skd", "ifvd", "cwd", "dsd", "dkd"])
def test_mean_over_micro_batches_is_the_mean_over_the_step(method):
    """Of methods whose images do not depend on each other; micro-batches differ in their number of valid pixels."""
    student, teacher, target = batch = make_batch(4)
    target[:2, 4:] = 255
    module = build(method, batch)
    halves = slice(2), slice(2, 4)
    total = dict.fromkeys(whole := module(*batch), 0)
    for index, part in enumerate(halves):
        outputs = (SegOutput(*(maps[part] for maps in output)) for output in (student, teacher))
        for name, value in module(*outputs, target[part], Step(0, index, 2, target)).items():
            total[name] += value / 2
    for name, value in whole.items():
        torch.testing.assert_close(total[name], value, rtol=1e-6, atol=0, msg=name)


@each_method
def test_all_parameters_and_the_student_get_gradients_and_the_teacher_none(method):
    student, teacher, target = batch = make_batch(2)
    teacher = SegOutput(*(maps.requires_grad_() for maps in teacher))
    module = build(method, batch)
    sum(module(student, teacher, target).values()).backward()
    assert all(maps.grad is None for maps in teacher)
    assert all(parameter.grad is not None for parameter in module.parameters())  # DistributedDataParallel needs it
    assert any(maps.grad is not None and maps.grad.any() for maps in student)


@each_method
def test_half_precision_stays_close_and_is_reduced_in_float32(method):
    student, teacher, target = batch = make_batch(2, (8, 10), (8, 10), dtype=torch.float32)
    results = []
    for dtype in (torch.float32, torch.bfloat16):  # of the same values
        inputs = [[maps.detach().bfloat16().to(dtype) for maps in output] for output in (student, teacher)]
        inputs[0] = [maps.requires_grad_() for maps in inputs[0]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = build(method, batch, torch.float32)(*(SegOutput(*maps) for maps in inputs), target)
        results.append((losses, torch.autograd.grad(sum(losses.values()), inputs[0], materialize_grads=True)))
    (exact, exact_grads), (half, half_grads) = results
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value, exact[name], rtol=HALF_RTOL.get(method, 1e-5), atol=2e-5 * (method == "adversarial"), msg=name
        )
    bound = 0.2 if method == "cirkdv2" else 0.1
    for a, b in zip(half_grads, exact_grads, strict=True):
        assert a.dtype == torch.bfloat16 and (a.float() - b).norm() <= bound * b.norm()
