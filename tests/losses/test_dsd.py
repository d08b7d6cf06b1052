"""DSD against its formula, the stored values and the hard cases."""

import pytest
import torch

from losses.methods.dsd import DSD, class_similarity_loss, stage_difference_loss
from tests.losses import golden, plain
from tests.losses.distillers import (
    SIZES,
    assert_half_close,
    assert_matches,
    build,
    check_hard_cases,
    check_processes,
    make_batch,
)


def residuals(stages):
    attention = [plain.unit((stage**2).mean(dim=1).flatten(1)) for stage in stages]
    return [plain.unit(attention[m] - attention[n]) for m in range(len(stages)) for n in range(m)]


def psd(student, teacher):
    errors = [((a - b) ** 2).mean() for a, b in zip(residuals(student), residuals(teacher), strict=True)]
    return sum(errors) / len(errors)


def csd(student, teacher):
    def grams(logits):
        h, w = logits.shape[2:]
        cells = [logits[:, :, y : y + 2, x : x + 2].mean(dim=(2, 3)) for y in range(0, h, 2) for x in range(0, w, 2)]
        maps = (torch.stack(cells, -1) / 4).softmax(-1)
        return torch.stack([image @ image.T for image in maps])

    return ((grams(student) - grams(teacher)) ** 2).mean()


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
@pytest.mark.parametrize("without", [None, "student", "teacher"])
def test_formula(size_s, size_t, without):
    student, teacher, target = batch = make_batch(3, size_s, size_t)
    given = {"student": student, "teacher": teacher}
    if without is not None:
        given[without] = given[without]._replace(aux_logits=None)
    losses = build(DSD, batch, psd_weight=2.0, csd_weight=3e4)(given["student"], given["teacher"], target)
    stages_s = [plain.resize(m, size_t) for m in (student.aux_logits, student.features, student.logits)]
    stages_t = [teacher.aux_logits, teacher.features, teacher.logits]
    first = 0 if without is None else 1
    inputs = {"features": student.features, "logits": student.logits, "aux_logits": student.aux_logits}
    assert list(losses) == ["loss_psd", "loss_csd"]
    assert_matches(losses["loss_psd"], 2 * psd(stages_s[first:], stages_t[first:]), inputs)
    assert_matches(losses["loss_csd"], 3e4 * csd(stages_s[2], teacher.logits), inputs)


def test_teachers_stages_of_other_sizes_meet_at_its_features():
    student, teacher, target = batch = make_batch(2, (4, 5), (6, 7))
    teacher = teacher._replace(logits=teacher.logits[:, :, :3, :4], aux_logits=teacher.aux_logits[:, :, :2])
    loss = build(DSD, batch)(student, teacher, target)["loss_psd"]
    stages = [
        [plain.resize(m, (6, 7)) for m in (output.aux_logits, output.features, output.logits)]
        for output in (student, teacher)
    ]
    assert_matches(loss, 1000 * psd(*stages), dict(zip("lfa", student, strict=True)))


@pytest.mark.parametrize(
    ("case", "stages"), [("DSD_aux", ["aux", "f", "logit"]), ("DSD_segformer", ["f", "logit"])]
)  # fmt: skip
def test_stored_values(case, stages):
    student = {"aux": "aux_s", "f": "fs128", "logit": "logit_s"}
    teacher = {"aux": "aux_t", "f": "ft512", "logit": "logit_t"}
    inputs = {student[stage]: golden.tensor(student[stage], grad=True) for stage in stages}
    targets = [golden.tensor(teacher[stage]) for stage in stages]
    outputs = [
        stage_difference_loss(list(inputs.values()), targets),
        class_similarity_loss(inputs["logit_s"], targets[-1]),
    ]
    golden.check(case, outputs, inputs)


def test_logits_get_a_gradient_without_an_auxiliary_head():
    student, teacher, target = batch = make_batch()
    student, teacher = student._replace(aux_logits=None), teacher._replace(aux_logits=None)
    loss = build(DSD, batch, csd_weight=0.0)(student, teacher, target)["loss_psd"]
    assert torch.autograd.grad(loss, student.logits)[0].abs().sum() > 0


def test_auxiliary_logits_are_asked_for_only_where_they_are_read():
    batch = make_batch()
    assert build(DSD, batch).needs_teacher_aux
    without = build(DSD, batch, psd_weight=0.0)
    assert not without.needs_teacher_aux and list(without(*batch)) == ["loss_csd"]
    assert list(build(DSD, batch, csd_weight=0.0)(*batch)) == ["loss_psd"]


def test_hard_cases():
    check_hard_cases(DSD, {"psd", "csd"})
    assert_half_close(DSD, 1e-5)


@pytest.mark.slow  # tests/engine/test_process_equality.py compares every method
def test_processes():
    check_processes(DSD, accumulate=2)
