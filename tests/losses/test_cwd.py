"""CWD against its formula, the stored values and the hard cases."""

import pytest
import torch

from losses.methods.cwd import CWD
from tests.losses import golden, plain
from tests.losses.distillers import (
    SIZES,
    STUDENT,
    TEACHER,
    assert_half_close,
    assert_matches,
    build,
    check_hard_cases,
    check_processes,
    make_batch,
)
from utils.settings import flag_of
from utils.types import SegOutput


def formula(student, teacher, temperature):
    total = 0
    for image_s, image_t in zip(student, teacher, strict=True):
        for row_s, row_t in zip(image_s.flatten(1), image_t.flatten(1), strict=True):
            total = total + plain.kl_rows(row_s / temperature, row_t / temperature)
    return temperature**2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
@pytest.mark.parametrize("scaling", ["corrected", "published"])
def test_formula(size_s, size_t, scaling):
    student, teacher, target = batch = make_batch(3, size_s, size_t)
    distiller = build(CWD, batch, cwd_fea_weight=2.0, cwd_logit_weight=0.5, cwd_temperature=3.0, cwd_scaling=scaling)
    losses = distiller(student, teacher, target)
    adapted = plain.resize(plain.conv1x1(distiller.adapter.weight, student.features), size_t)
    factor = TEACHER / STUDENT if scaling == "published" else 1.0
    inputs = {"features": student.features, "logits": student.logits, "adapter": distiller.adapter.weight}
    assert list(losses) == ["loss_cwd_fea", "loss_cwd_logit"]
    assert_matches(losses["loss_cwd_fea"], 2 * factor * formula(adapted, teacher.features, 3.0), inputs)
    expected = 0.5 * formula(plain.resize(student.logits, size_t), teacher.logits, 3.0)
    assert_matches(losses["loss_cwd_logit"], expected, inputs)


def golden_distiller(name, **options):
    """The distiller of a stored case with the features' term alone, and its batch."""
    features, teacher = golden.tensor(name, grad=True), golden.tensor("ft512")
    config = CWD.Config(cwd_fea_weight=1.0, cwd_logit_weight=0.0, **options)
    distiller = CWD(features.shape[1:], teacher.shape[1:], 19, config)
    if distiller.adapter is not None:
        golden.fill_parameters(distiller, {"adapter.weight": "conv.weight"})
    return distiller, features, distiller(SegOutput(features, features), SegOutput(teacher, teacher), None)


def test_stored_values():
    _, features, losses = golden_distiller("fs512")
    golden.check("CriterionCWD_fea_fs512", [losses["loss_cwd_fea"]], {"fs512": features})
    logits, teacher = golden.tensor("logit_s", grad=True), golden.tensor("logit_t")
    distiller = CWD(logits.shape[1:], logits.shape[1:], 19, CWD.Config(cwd_fea_weight=0.0, cwd_logit_weight=1.0))
    losses = distiller(SegOutput(logits, logits), SegOutput(teacher, teacher), None)
    golden.check("CriterionCWD_logit", [losses["loss_cwd_logit"]], {"logit_s": logits})


def test_published_scaling_gives_the_stored_value_and_is_four_times_the_corrected():
    distiller, features, losses = golden_distiller("fs128", cwd_scaling="published")
    inputs = {"fs128": features, "conv.weight": distiller.adapter.weight}
    golden.check("CriterionCWD_fea_fs128", [losses["loss_cwd_fea"]], inputs)
    _, _, corrected = golden_distiller("fs128")
    assert losses["loss_cwd_fea"].item() == pytest.approx(4 * corrected["loss_cwd_fea"].item(), rel=1e-6)


def test_large_activations_stay_finite():
    student, teacher, target = batch = make_batch(dtype=torch.float32)
    distiller = build(CWD, batch, torch.float32)
    losses = distiller(*(SegOutput(*(m * 1e4 for m in output)) for output in (student, teacher)), target)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and student.features.grad.isfinite().all()


def test_weight_zero_gives_no_term_and_no_adapter():
    batch = make_batch()
    assert list(build(CWD, batch, cwd_fea_weight=0.0)(*batch)) == ["loss_cwd_logit"]
    assert not list(build(CWD, batch, cwd_fea_weight=0.0).parameters())
    assert list(build(CWD, batch, cwd_logit_weight=0.0)(*batch)) == ["loss_cwd_fea"]


def test_equal_channels_need_no_adapter():
    assert build(CWD, make_batch(channels=(TEACHER, TEACHER))).adapter is None


@pytest.mark.parametrize(("field", "value"), [("cwd_scaling", "old"), ("cwd_temperature", 0.0)])
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{flag_of(field)} .*: expected"):
        CWD.Config(**{field: value})


def test_hard_cases():
    check_hard_cases(CWD, {"cwd_fea", "cwd_logit"})
    assert_half_close(CWD, 0.02)  # the adapter's convolution itself is in half precision


@pytest.mark.slow  # tests/engine/test_process_equality.py compares every method
def test_processes():
    check_processes(CWD, accumulate=2)
