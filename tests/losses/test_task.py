import pytest
import torch

from losses.hard_pixels import check_ohem, hard_pixels, kth_largest
from losses.task import TaskLossConfig, segmentation_loss
from tests.losses import plain
from tests.losses.distillers import assert_same
from utils.types import SegOutput, Step

WEIGHTS = torch.tensor([0.5, 3.0, 1.0, 0.0, 2.5], dtype=torch.float64)
ALL = {"dice": 0.7, "label_smoothing": 0.2}


def make(aux=True, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 5, 4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    aux_logits = torch.randn(batch, 5, 2, 3, dtype=torch.float64, generator=generator).requires_grad_() if aux else None
    target = torch.randint(0, 6, (batch, 9, 11), generator=generator)
    return SegOutput(logits, torch.zeros(batch, 1, 4, 3), aux_logits), target.where(target < 5, 255)


@pytest.mark.parametrize("dice", [0.0, 0.7])
@pytest.mark.parametrize("ohem", [None, "fraction:0.25", "threshold:0.15", "threshold:0.001"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradient_equal_the_formula(smoothing, weights, ohem, dice):
    """Of both heads, each with its own hard pixels; Dice is a term of its own beside the network's head alone."""
    output, target = make()
    config = TaskLossConfig(label_smoothing=smoothing, ohem=ohem, dice=dice)
    losses = segmentation_loss(output, target, config=config, class_weights=weights)
    expected = {"loss_task": plain.cross_entropy(output.logits, target, smoothing, weights, ohem)}
    expected["loss_aux"] = 0.4 * plain.cross_entropy(output.aux_logits, target, smoothing, weights, ohem)
    if dice:
        expected["loss_dice"] = dice * plain.dice(output.logits, target)
        expected["loss_aux"] = expected["loss_aux"] + 0.4 * dice * plain.dice(output.aux_logits, target)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert_same(losses[name], value, [output.aux_logits if name == "loss_aux" else output.logits], rtol=1e-6)


def test_weights_count_by_their_ratios_and_equal_ones_change_nothing():
    output, target = make()
    unweighted = segmentation_loss(output, target)["loss_task"]
    for weights, others in ((WEIGHTS, 1e3 * WEIGHTS), (torch.full((5,), 7.0, dtype=torch.float64), None)):
        first = segmentation_loss(output, target, class_weights=weights)["loss_task"]
        second = segmentation_loss(output, target, class_weights=others)["loss_task"]
        torch.testing.assert_close(first, second, rtol=1e-6, atol=0)
        assert (first - unweighted).abs() > 1e-3 or others is None


def test_no_auxiliary_head_or_weight_no_term():
    output, target = make(aux=False)
    assert set(segmentation_loss(output, target)) == {"loss_task"}
    output, target = make()
    assert set(segmentation_loss(output, target, aux_weight=0)) == {"loss_task"}


@pytest.mark.parametrize("config", [{}, ALL, ALL | {"ohem": "fraction:0.5"}, {"ohem": "threshold:0.5"}])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_all_ignored_gives_zero_with_zero_gradient(config, weights):
    output, target = make()
    void, step = torch.full_like(target, 255), Step(0, 0, 2, torch.cat([torch.full_like(target, 255), target]))
    for place in (None, step):  # the whole step, or a part beside another with labels
        losses = segmentation_loss(output, void, step=place, config=TaskLossConfig(**config), class_weights=weights)
        total = sum(losses.values())
        gradients = torch.autograd.grad(total, [output.logits, output.aux_logits])
        assert total.item() == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("target_dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_mean_over_micro_batches_is_the_mean_over_the_step(target_dtype, weights):
    output, target = make(batch=4)
    target[:2, :7] = 255  # the micro-batches differ in their number of valid pixels
    expected = plain.cross_entropy(output.logits, target, weights=weights)
    mean = sum_of_parts(output, target, target_dtype, class_weights=weights)
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-9)
    alone = sum(plain.cross_entropy(output.logits[i : i + 2], target[i : i + 2], weights=weights) for i in (0, 2)) / 2
    assert (alone - expected).abs() > 1e-3  # the mean of means is another figure


def sum_of_parts(output, target, target_dtype=torch.int64, **options):
    """The loss of a step of two micro-batches."""
    total = 0
    for i in range(2):
        rows = slice(2 * i, 2 * i + 2)
        step = Step(0, i, 2, target.to(target_dtype))
        part = SegOutput(output.logits[rows], output.features[rows])
        total = total + segmentation_loss(part, target[rows], step=step, **options)["loss_task"] / 2
    return total


def test_hard_pixels_are_those_of_a_micro_batch_which_counts_by_its_labelled_pixels():
    output, target = make(batch=4)
    target[:2, :7] = 255
    means, counts = [], []
    for rows in (slice(0, 2), slice(2, 4)):
        means.append(plain.cross_entropy(output.logits[rows], target[rows], hard="fraction:0.3"))
        counts.append((target[rows] != 255).sum())
    expected = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    got = sum_of_parts(output, target, config=TaskLossConfig(ohem="fraction:0.3"))
    assert_same(got, expected, [output.logits], rtol=1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [{}, ALL | {"ohem": "fraction:0.25"}, ALL | {"ohem": "threshold:0.7"}])
def test_half_precision_logits_are_computed_in_float32(half, config):
    output, target = make()
    low = SegOutput((100 * output.logits.detach()).to(half).requires_grad_(), output.features)  # certain, and wrong
    config = TaskLossConfig(**config)
    terms = segmentation_loss(low, target, config=config, class_weights=WEIGHTS)
    expected = segmentation_loss(
        SegOutput(low.logits.detach().double(), output.features), target, config=config, class_weights=WEIGHTS
    )
    for name, loss in terms.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected[name], rtol=1e-4, atol=1e-6)
    sum(terms.values()).backward()
    assert low.logits.grad.isfinite().all() and low.logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_largest_is_that_of_a_sorted_list(dtype):
    values = torch.rand(3, 70, generator=torch.Generator().manual_seed(0), dtype=dtype) ** 20 * 1e3
    values[0, :9], values[1, :3], values[2, :2] = 0.5, 0.0, float("inf")
    values[:, 60:] = -1.0
    ordered = values[values >= 0].sort(descending=True).values
    for k in (1, 2, 3, 20, len(ordered)):
        assert kth_largest(values, torch.tensor(k)) == ordered[k - 1], k
    assert kth_largest(values, torch.tensor(len(ordered) + 1)) == 0


def test_hard_pixels_with_ties_with_too_few_and_with_what_is_not_a_number():
    hardness = torch.tensor([[[0.1, 0.1, 0.1, 0.1, 3.0, float("nan"), 9.0]]])
    valid = torch.tensor([[[True] * 6 + [False]]])
    assert hard_pixels(hardness, valid, "fraction:0.5").tolist() == [[[True] * 6 + [False]]]  # the third is as hard
    assert hard_pixels(hardness, valid, "fraction:0.01").tolist() == [[[False] * 4 + [True, True, False]]]
    assert hard_pixels(hardness, valid, "threshold:0.2").tolist() == [[[False] * 4 + [True, True, False]]]
    assert not hard_pixels(hardness, valid & False, "fraction:0.5").any()


@pytest.mark.parametrize(
    "text", ["0.25", "fraction", "fraction:", "fraction:0", "threshold:1", "hard:0.5", "fraction:nan"]
)
def test_other_texts_for_hard_pixels_are_refused(text):
    with pytest.raises(ValueError, match=f"--ohem {text}: expected fraction:F or threshold:P"):
        TaskLossConfig(ohem=text)
    assert check_ohem("threshold:0.7") == TaskLossConfig(ohem="threshold:0.7").ohem == "threshold:0.7"
