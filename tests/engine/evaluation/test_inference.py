"""Whole images, sliding windows, scales and mirror images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.evaluation.inference import multi_scale, sliding_window, whole_image
from utils.types import SegOutput


class Pointwise(nn.Module):
    """Logits that depend on each output pixel's own `stride` x `stride` patch alone; counts what it is given."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.output_stride = stride
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor, need_aux: bool = True) -> SegOutput:
        self.seen.append(tuple(x.shape))
        logits = F.avg_pool2d(x, self.output_stride, ceil_mode=True)
        return SegOutput(logits, logits, None)


def test_whole_image_resizes_logits_with_aligned_corners():
    images, network = torch.randn(2, 3, 31, 45), Pointwise(4)
    expected = F.interpolate(network(images).logits, size=(31, 45), mode="bilinear", align_corners=True)
    torch.testing.assert_close(whole_image(network, images), expected)
    torch.testing.assert_close(multi_scale(network, images), expected)


@pytest.mark.parametrize("size", [(16, 24), (17, 29), (8, 40)])
@pytest.mark.parametrize(
    "crop, stride", [((8, 8), (8, 8)), ((8, 12), (4, 6)), ((64, 64), (64, 64)), ((8, 16), (3, 16))]
)
def test_every_pixel_is_covered_once_on_average(size, crop, stride):
    images = torch.randn(1, 3, *size)
    network = Pointwise(1)  # each pixel's logits are its own values, whatever the window
    torch.testing.assert_close(sliding_window(network, images, crop=crop, stride=stride), images)
    assert all(shape[-2:] == (min(crop[0], size[0]), min(crop[1], size[1])) for shape in network.seen)


def test_overlapping_windows_are_averaged_by_hand():
    network = Pointwise(4)
    images = torch.randn(1, 3, 8, 20)
    total, count = torch.zeros(1, 3, 8, 20), torch.zeros(20)
    for left in (0, 6, 12):
        logits = network(images[..., left : left + 8]).logits
        total[..., left : left + 8] += F.interpolate(logits, size=(8, 8), mode="bilinear", align_corners=True)
        count[left : left + 8] += 1
    got = sliding_window(network, images, crop=(8, 8), stride=(8, 6))
    torch.testing.assert_close(got, total / count)


def test_windows_off_the_output_stride_are_not_joined():
    network = Pointwise(4)
    images = torch.randn(1, 3, 6, 12)
    parts = [whole_image(network, images[..., :6]), whole_image(network, images[..., 6:])]
    torch.testing.assert_close(sliding_window(network, images, crop=(6, 6), stride=(6, 6)), torch.cat(parts, -1))


@pytest.mark.parametrize("crop, stride", [((16, 16), (16, 16)), ((16, 24), (8, 16))])
def test_windows_may_go_through_together(crop, stride):
    images = torch.randn(2, 3, 32, 48)
    one, many = Pointwise(4), Pointwise(4)
    expected = sliding_window(one, images, crop=crop, stride=stride)
    torch.testing.assert_close(sliding_window(many, images, crop=crop, stride=stride, window_batch=4), expected)
    assert max(shape[0] for shape in many.seen) == 8 and len(many.seen) < len(one.seen)


def test_scales_and_mirrors_average_logits():
    network = Pointwise(4)
    images = torch.randn(1, 3, 16, 24)
    views = []
    for scale in (0.5, 1.0):
        scaled = images
        if scale != 1.0:
            scaled = F.interpolate(images, size=(8, 12), mode="bilinear", align_corners=False)
        views += [whole_image(network, scaled, (16, 24)), whole_image(network, scaled.flip(-1), (16, 24)).flip(-1)]
    got = multi_scale(network, images, scales=(0.5, 1.0), flip=True)
    torch.testing.assert_close(got, sum(views) / 4)


def test_windows_at_several_scales():
    network = Pointwise(1)
    images = torch.ones(1, 3, 12, 20) * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)

    def windows(network, images, size):
        return sliding_window(network, images, size, crop=(8, 8), stride=(8, 8))

    torch.testing.assert_close(multi_scale(network, images, (0.75, 1.5), True, view=windows), images)
