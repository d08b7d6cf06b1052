import cv2
import numpy as np
import pytest
import torch

from utils.boundary import BoundaryCounts

VOID = 255


def blocks(size, classes, seed, void=False):
    """Label maps (2, H, W) of rectangles, uint8; some void."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, classes + void, (2, 4, 4), generator=generator)
    cells[cells == classes] = VOID
    rows, columns = (torch.arange(side) * 4 // side for side in size)
    return cells[:, rows][:, :, columns].to(torch.uint8)


def plain_pixels(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of the mask that so many erosions by 3x3 remove, as in the paper's implementation."""
    padded = np.pad(mask.astype(np.uint8), 1)  # the outside is not the class
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1] == 0)


def plain_counts(prediction, target, classes, ratio):
    counts = np.zeros((3, classes), dtype=np.int64)
    for labels, truth in zip(prediction.numpy(), target.numpy(), strict=True):
        distance = max(1, round(ratio * float(np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))))
        for k in range(classes):
            of_truth = plain_pixels(truth == k, distance)
            of_prediction = plain_pixels((labels == k) & (truth != VOID), distance)
            counts[:, k] += of_truth.sum(), of_prediction.sum(), (of_truth & of_prediction).sum()
    return counts


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("size, ratio", [((12, 17), 0.02), ((9, 20), 0.1), ((16, 12), 0.2), ((5, 7), 0.9)])
def test_against_repeated_erosions(size, ratio, void):
    target = blocks(size, 3, 0, void)
    prediction = torch.where(torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.05, 2, target)
    prediction = torch.where(prediction == VOID, 1, prediction)
    counts = BoundaryCounts(4, ratio)
    for image in range(2):  # one by one: counts add up
        counts.update(prediction[image : image + 1].long(), target[image : image + 1])
    truth, predicted, both = plain_counts(prediction, target, 4, ratio)
    union = truth + predicted - both
    assert both[:3].min() > 0 and (both < union)[:3].any()
    expected = [b / u if u else 0 for b, u in zip(both.tolist(), union.tolist(), strict=True)]
    assert counts.compute().tolist() == pytest.approx(expected, abs=0)


def test_values_by_hand():
    target = torch.zeros(1, 6, 6, dtype=torch.uint8)
    target[..., 3:] = 1
    prediction = torch.zeros_like(target)
    prediction[..., 2:] = 1
    counts = BoundaryCounts(2, 0.12)  # d = round(0.12 * 8.49) = 1
    counts.update(prediction, target)
    # Outlines of class 0: 18 - 4 pixels of 3 columns, 12 of 2; of the 12 that both have, 4 are inner ones in the truth.
    # Of class 1: 18 - 4 of 3 columns, 24 - 8 of 4; of the 18 that both have, 8 are inner ones in one of the two.
    assert counts.compute().tolist() == pytest.approx([8 / (14 + 12 - 8), 10 / (14 + 16 - 10)])


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="between 0 and 1"):
        BoundaryCounts(2, 2.0)
    with pytest.raises(ValueError, match="expected 1 to 254"):
        BoundaryCounts(255)
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"expected \(N, H, W\)"):
        BoundaryCounts(2).update(labels, labels)
    with pytest.raises(ValueError, match="differ in shape"):
        BoundaryCounts(2).update(labels, labels[:2])


@pytest.mark.gpu
def test_update_on_a_gpu_never_waits_and_counts_the_same():
    target = blocks((64, 96), 3, seed=5, void=True)
    prediction = blocks((64, 96), 3, seed=6).long()
    counts, expected = BoundaryCounts(3, device="cuda"), BoundaryCounts(3)
    on_gpu = prediction.cuda(), target.cuda()
    counts.update(*on_gpu)
    expected.update(prediction, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts.update(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts._counts.cpu(), 2 * expected._counts)
