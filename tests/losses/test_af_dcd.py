import pytest
import torch

from losses.methods import af_dcd
from losses.methods.af_dcd import AFDCD, AFDCDConfig, patch_contrast
from tests.losses.outputs import assert_same, make_output, make_target
from tests.losses.plain import reconstruction
from utils.types import Step


def plain(student, teacher, temperature):
    """Vector by vector: patches of the pooled maps, the positive, the negatives, the cross entropy."""
    images, channels, height, width = student.shape
    h, w = -(-height // 4), -(-width // 4)
    groups = min(16, channels)
    size = channels // groups

    def vector(maps, b, y, x, g):
        window = maps[b, g * size : (g + 1) * size, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        return window.flatten(1).max(1).values

    total = 0
    for b in range(images):
        for top in range(0, h, 4):
            for left in range(0, w, 4):
                places = [(y, x) for y in range(top, min(top + 4, h)) for x in range(left, min(left + 4, w))]
                names = [(y, x, g) for y, x in places for g in range(groups)]
                keys = torch.stack([vector(teacher, b, *name) for name in names])
                for index, name in enumerate(names):
                    chosen = [index, *(i for i, other in enumerate(names) if other[2] != name[2])]
                    distances = (vector(student, b, *name) - keys[chosen]).abs().sum(1)
                    total = total - (-distances / temperature).log_softmax(0)[0]
    return total / (images * h * w)


CASES = {
    "whole patches": (16, (32, 16)),
    "two channels a group": (32, (16, 16)),
    "border windows and patches": (16, (18, 21)),
    "smaller than a patch": (17, (5, 9)),
    "smaller than a window": (20, (2, 3)),
    "few channels": (3, (13, 17)),
    "one channel": (1, (5, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_of_the_contrast_equal_the_formula(case):
    channels, size = CASES[case]
    student = make_output(channels, size, grad=True).features
    teacher = make_output(channels, size, seed=1).features
    expected = plain(student, teacher, 2.0)
    got = patch_contrast(student, teacher, 2.0)
    if case == "one channel":  # one group, no negatives
        assert got.item() == 0
        assert not torch.autograd.grad(got, student)[0].any()
    else:
        assert_same(got, expected, [student])


def test_chunks_change_nothing(monkeypatch):
    student = make_output(16, (40, 40), grad=True).features
    teacher = make_output(16, (40, 40), seed=1).features
    whole = patch_contrast(student, teacher, 1.0)
    sizes = []
    contrast_sum = af_dcd._contrast_sum
    monkeypatch.setattr(af_dcd, "_contrast_sum", lambda s, *rest: sizes.append(len(s)) or contrast_sum(s, *rest))
    monkeypatch.setattr(af_dcd, "_BUFFER_BYTES", {"cpu": 5 * 256 * 256 * 8})
    assert_same(patch_contrast(student, teacher, 1.0), whole, [student])
    assert sizes == [5, 5, 5, 3]  # 3 x 3 patches of two images


def test_value_without_gradients():
    student, teacher = make_output(16, (9, 9)).features, make_output(16, (9, 9), seed=1).features
    with torch.no_grad():
        alone = patch_contrast(student.requires_grad_(), teacher, 0.5)
    assert not alone.requires_grad
    assert torch.equal(alone, patch_contrast(student, teacher, 0.5).detach())


def test_equal_features_are_told_from_the_other_groups():
    features = make_output(32, (16, 16)).features * 1000
    assert patch_contrast(features, features, 0.07).item() == pytest.approx(0, abs=1e-6)
    other = patch_contrast(features, features.roll(2, dims=1), 0.07)  # each group's vector is now another's
    assert other > 100


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape, got \(1, 4, 8, 8\), \(1, 4, 8, 9\)"):
        patch_contrast(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 9), 1.0)


@pytest.mark.parametrize(("student_channels", "student_size"), [(3, (9, 11)), (20, (9, 11)), (5, (4, 6))])
@pytest.mark.parametrize("batch", [1, 2])
def test_value_and_gradients_equal_the_formula(batch, student_channels, student_size):
    torch.manual_seed(0)
    config = AFDCDConfig(
        afdcd_feature_weight=0.5, afdcd_contrast_weight=3.0, afdcd_mask_ratio=0.5, afdcd_temperature=0.7, seed=2
    )
    method = AFDCD((student_channels, *student_size), (20, 9, 11), 5, config).double()
    student = make_output(student_channels, student_size, batch=batch, grad=True)
    teacher = make_output(20, (9, 11), batch=batch, seed=1)
    step = Step(3)
    generated = reconstruction(method.reconstruction, student.features, teacher.features, step)
    got = method(student, teacher, make_target(batch, (18, 22)), step)
    assert set(got) == {"loss_afdcd_feature", "loss_afdcd_contrast"}
    inputs = [student.features, *method.parameters()]
    assert_same(got["loss_afdcd_feature"], 0.5 * ((generated - teacher.features) ** 2).sum() / batch, inputs)
    assert_same(got["loss_afdcd_contrast"], 3 * plain(generated, teacher.features, 0.7), inputs)


@pytest.mark.parametrize("term", ["feature", "contrast"])
def test_each_term_alone(term):
    method = AFDCD((3, 4, 5), (20, 4, 5), 5, AFDCDConfig(**{f"afdcd_{term}_weight": 0.0}))
    student, teacher = (make_output(c, (4, 5), dtype=torch.float32) for c in (3, 20))
    (other,) = {"feature", "contrast"} - {term}
    assert set(method(student, teacher, make_target(2, (8, 10)))) == {f"loss_afdcd_{other}"}


def test_published_settings():
    expected = AFDCDConfig(
        afdcd_feature_weight=4e-5, afdcd_contrast_weight=0.001, afdcd_mask_ratio=0.75, afdcd_temperature=0.07
    )
    assert AFDCDConfig() == expected
    with pytest.raises(ValueError, match="--afdcd-mask-ratio 2.0: expected a number from 0"):
        AFDCDConfig(afdcd_mask_ratio=2)
