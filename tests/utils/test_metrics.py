import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils import metrics
from utils.metrics import ConfusionMatrix, SegMetrics

# rows = truth: class 0 has 4 pixels, class 1 has 2, class 2 does not occur but is predicted once, class 3 is nowhere
TRUTH = torch.tensor([[[0, 0, 0, 0], [1, 1, 255, 255]]])
PREDICTION = torch.tensor([[[0, 0, 1, 2], [1, 0, 0, 3]]])
NAMES = ["road", "car", "pole", "sky"]


def counted(truth=TRUTH, prediction=PREDICTION, classes=4):
    confusion = ConfusionMatrix(classes)
    confusion.update(prediction, truth)
    return confusion.compute()


def test_values_by_hand():
    result = counted()
    assert result.matrix.dtype == np.int64
    assert result.matrix.tolist() == [[2, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result.iou.tolist() == pytest.approx([2 / 5, 1 / 3, 0, 0])
    assert result.class_accuracy.tolist() == pytest.approx([1 / 2, 1 / 2, 0, 0])
    assert result.miou == pytest.approx((2 / 5 + 1 / 3) / 4)
    assert result.miou_present == pytest.approx((2 / 5 + 1 / 3) / 2)
    assert result.macc == pytest.approx(1 / 2)
    assert result.pixel_accuracy == 3 / 6
    assert result.num_pixels == 6


def test_against_a_plain_loop_over_several_updates():
    generator = torch.Generator().manual_seed(0)
    confusion, expected = ConfusionMatrix(5), np.zeros((5, 5), dtype=np.int64)
    for size in ((2, 7, 3), (1, 4, 9)):
        truth = torch.randint(0, 6, size, generator=generator)
        truth[truth == 5] = 255
        prediction = torch.randint(0, 5, size, generator=generator)
        confusion.update(prediction, truth.to(torch.uint8))
        for row, column in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            if row != 255:
                expected[row, column] += 1
    assert np.array_equal(confusion.compute().matrix, expected)


def test_many_pixels_stay_exact():
    matrix = np.array([[2**53, 1], [0, 0]], dtype=np.int64)  # the 1 would be lost in float64
    result = SegMetrics.from_matrix(matrix)
    assert result.num_pixels == 2**53 + 1 and 0 < result.pixel_accuracy <= 1


def test_nothing_counted_gives_zeros():
    result = counted(torch.full((1, 2, 2), 255), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert (result.miou, result.miou_present, result.macc, result.pixel_accuracy) == (0, 0, 0, 0)
    assert result.best_constant_miou() == 0


def test_best_constant_equals_the_best_of_all_constant_predictions():
    result = counted()
    constants = [counted(prediction=torch.full_like(TRUTH, k)).miou for k in range(4)]
    assert result.best_constant_miou() == pytest.approx(max(constants)) == pytest.approx(4 / 6 / 4)


@pytest.mark.parametrize("target, prediction", [(4, 0), (254, 0), (-1, 0), (0, 4), (0, -1)])
def test_illegal_values_are_reported_and_never_counted(target, prediction):
    confusion = ConfusionMatrix(4)
    confusion.update(torch.tensor([[[prediction, 1]]]), torch.tensor([[[target, 1]]]))
    with pytest.raises(ValueError, match="1 target or predicted pixels hold values outside 0..3"):
        confusion.compute()


def test_arguments_are_checked():
    confusion = ConfusionMatrix(4)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion.update(PREDICTION, TRUTH[:, :1])
    with pytest.raises(ValueError, match="prediction is torch.float32"):
        confusion.update(PREDICTION.float(), TRUTH)
    with pytest.raises(ValueError, match="at least 1"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="2 class names for 4"):
        counted().format_table(["a", "b"])


def test_reduce_happens_once(monkeypatch):
    monkeypatch.setattr(metrics, "all_reduce_sum", lambda tensor: tensor * 2)
    confusion = ConfusionMatrix(4)
    confusion.update(PREDICTION, TRUTH)
    confusion.reduce()
    confusion.reduce()
    assert confusion.compute().num_pixels == 12
    with pytest.raises(RuntimeError, match="twice"):
        confusion.update(PREDICTION, TRUTH)


def test_histogram_without_waiting_equals_bincount():
    index = torch.randint(0, 9, (500,), generator=torch.Generator().manual_seed(1))
    expected = torch.bincount(index, minlength=11)
    assert torch.equal(metrics.histogram(index, 11), expected)
    assert torch.equal(metrics._histogram_by_adding(index, 11), expected)


@pytest.mark.gpu
def test_update_on_a_gpu_never_waits():
    confusion = ConfusionMatrix(4, "cuda")
    prediction, truth = PREDICTION.cuda(), TRUTH.cuda()
    confusion.update(prediction, truth)
    torch.cuda.set_sync_debug_mode("error")
    try:
        confusion.update(prediction, truth)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(confusion.compute().matrix, 2 * counted().matrix)


def test_outputs():
    result = counted()
    as_dict = json.loads(json.dumps(result.to_dict(NAMES), allow_nan=False))
    assert as_dict["miou"] == result.miou
    assert as_dict["classes"][1] == {"name": "car", "iou": pytest.approx(1 / 3), "accuracy": 0.5, "pixels": 2}
    file = io.StringIO()
    csv.writer(file).writerows(result.to_rows(NAMES))
    lines = file.getvalue().splitlines()
    assert lines[0] == "id,class,iou,accuracy,pixels" and lines[1] == "0,road,0.4,0.5,4" and len(lines) == 5
    table = result.format_table(NAMES).splitlines()
    assert len({len(line) for line in table[:5]}) == 1  # aligned
    assert table[1].split() == ["0", "road", "40.00", "50.00", "66.667"]
    assert table[3].split() == ["2", "pole", "0.00", "-", "absent"]
    assert "mIoU 18.33 (all 4 classes" in table[6] and "mIoU 36.67 (the 2 classes that occur)" in table[7]


def test_boundary_iou_is_one_more_column():
    result = replace(counted(), boundary_iou=np.array([0.25, 0.5, 0.0, 0.0]))
    assert (result.boundary_miou, result.boundary_miou_present) == (0.75 / 4, 0.75 / 2)
    as_dict = json.loads(json.dumps(result.to_dict(NAMES), allow_nan=False))
    assert as_dict["boundary_miou"] == 0.1875 and as_dict["classes"][1]["boundary_iou"] == 0.5
    assert result.to_rows(NAMES)[0][-1] == "boundary_iou" and result.to_rows(NAMES)[1][-1] == 0.25
    table = result.format_table(NAMES).splitlines()
    assert len({len(line) for line in table[:5]}) == 1  # aligned
    assert table[0].endswith("boundary IoU") and table[1].split()[-1] == "25.00"
    assert table[-1] == "boundary IoU 18.75 (all 4 classes), 37.50 (the 2 classes that occur)"
    assert "boundary" not in json.dumps(counted().to_dict(NAMES)) + counted().format_table(NAMES)
