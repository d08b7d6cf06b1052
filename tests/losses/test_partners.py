"""Which images are related to which: drawn, all, and the groups of the published code."""

import pytest
import torch

import train_cirkdv2
from losses.methods.cirkd import CIRKDConfig
from losses.methods.cirkdv2 import CIRKDV2Config
from losses.modules.cross_image import minibatch_relation
from losses.modules.partners import check_groups, choose_partners, parse_partners

KEYS = (0, 3, 0, 1)


def test_partners_are_drawn_without_repetition_and_evenly():
    counts = torch.zeros(6, 6)
    for iteration in range(1000):
        for i, chosen in enumerate(choose_partners(6, 2, 1, iteration)):
            assert len(set(chosen)) == 2
            counts[i, chosen] += 1
    assert (counts / 1000 - 2 / 6).abs().max() < 0.05  # the image itself as often as any other
    assert choose_partners(6, 2, 1, 5) == choose_partners(6, 2, 1, 5) != choose_partners(6, 2, 1, 6)


@pytest.mark.parametrize("partners", [None, 3, 9, "local:3"])
def test_as_many_partners_as_images_are_all(partners):
    assert choose_partners(3, partners, 0) == [[0, 1, 2]] * 3


def test_groups_are_of_neighbours():
    assert [parse_partners(text) for text in ("3", "all", "local:4")] == [3, None, "local:4"]
    assert choose_partners(4, "local:1", 0) == [[0], [1], [2], [3]]
    assert choose_partners(6, "local:2", 0) == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]]


@pytest.mark.parametrize("row_dim", [1, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_groups_equal_separate_batches(row_dim, size):
    """Value and gradient of groups in a batch of 8 are the mean of batches of that size."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 6, 4, 5, generator=generator).double()
    student.requires_grad_()
    loss = minibatch_relation(student, teacher, row_dim, f"local:{size}", 0.1, KEYS)
    batches = zip(student.split(size), teacher.split(size), strict=True)
    separate = [minibatch_relation(*batch, row_dim, None, 0.1, KEYS) for batch in batches]
    expected = sum(separate) / len(separate)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    got, want = (torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "none", "local:", "local:0", "local:x", "local:-2", "local"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="expected a number of images of at least 1, all .*, or local:N"):
        parse_partners(text)
    with pytest.raises(ValueError, match="local:N"):
        train_cirkdv2.parse("--dataset custom --data x --teacher-pretrained x --minibatch-partners".split() + [text])


@pytest.mark.parametrize("config", [CIRKDV2Config, CIRKDConfig])
def test_configurations_refuse_other_values(config):
    assert config(minibatch_partners="local:2").minibatch_partners == "local:2"
    with pytest.raises(ValueError, match="local:N"):
        config(minibatch_partners="local:zero")


def test_groups_have_to_divide_the_batch_and_its_parts():
    check_groups("local:4", 8, 2)
    check_groups(3, 8, 1)
    check_groups("local:2", 10, 4)  # refused by the sampler
    with pytest.raises(ValueError, match=r"local:3: groups of 3 images do not divide a batch of 8; .* 1, 2, 4, 8$"):
        check_groups("local:3", 8, 1)
    with pytest.raises(ValueError, match=r"a batch of 8 in 4 parts of 2; expected local:N with N one of 1, 2$"):
        check_groups("local:4", 8, 4)
    with pytest.raises(ValueError, match="do not divide a batch of 5"):
        choose_partners(5, "local:2", 0)
