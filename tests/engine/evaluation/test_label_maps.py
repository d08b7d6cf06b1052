"""Labels of an image in parts: those of the whole image's logits, in little memory."""

import resource
import sys
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

from dataset.loading.transforms import normalize
from engine.config.evaluation import PredictConfig, PredictionConfig, ProtocolConfig
from engine.config.protocol import Protocol
from engine.evaluation import label_maps
from engine.evaluation.inference import build_predictor
from engine.evaluation.label_maps import labelling, predict_labels
from engine.evaluation.windows import Grid
from tests.networks import build_varied
from tests.pseudo_datasets import textured_image
from utils.types import SegOutput

CPU = torch.device("cpu")
SIZE = (150, 203)


def picture(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(textured_image(size, seed).copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    network = build_varied("psp_mobile", "timm:test_efficientnet", 7).eval()
    with torch.no_grad():  # classes that are all likely
        logits = network(normalize(picture(SIZE)[None])).logits
        network.get_submodule(network.classifier_names[0]).bias.copy_(-logits.mean((0, 2, 3)))
    return network


@torch.no_grad()
def by_hand(network: nn.Module, image: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """The largest of all logits at image size."""
    logits = build_predictor(protocol)(network, normalize(image[None]))
    return logits.argmax(1)[0].to(torch.uint8)


@pytest.mark.parametrize("part", [2**25, 2 * 4 * 203 * 40], ids=["whole", "parts"])
@pytest.mark.parametrize(
    "size, protocol",
    [
        (SIZE, Protocol()),
        (SIZE, Protocol((72, 72), (54, 54))),
        (SIZE, Protocol((72, 72), (54, 54), window_batch=4, flip=True)),
        (SIZE, Protocol((72, 96), (20, 96), scales=(0.5, 1.0, 1.5), flip=True)),
        ((128, 192), Protocol((64, 96), (64, 96))),  # joined before the one resize
        ((128, 192), Protocol((64, 96), (64, 96), scales=(1.0, 1.5))),
        ((70, 300), Protocol((96, 96), (72, 72))),  # one row of windows
    ],
    ids=str,
)
def test_labels_equal_those_of_all_logits(network, size, protocol, part, monkeypatch):
    monkeypatch.setattr(label_maps, "PART_BYTES", part)
    image = picture(size)
    with labelling(network.train(), protocol, CPU) as label:
        assert not network.training
        got = label(image)
    assert network.training and got.dtype == torch.uint8
    expected = by_hand(network.eval(), image, protocol)
    assert torch.equal(got, expected) and len(expected.unique()) > 3


class Watched(nn.Module):
    """A score a class, that of `winner` the largest; remembers the sizes that it was given."""

    output_stride = 4

    def __init__(self, classes: int = 5, winner: int = 3) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []
        self.register_buffer("scores", torch.zeros(classes))
        self.scores[winner] = 1

    def forward(self, x: torch.Tensor, need_aux: bool = True) -> SegOutput:
        self.sizes.append(tuple(x.shape[-2:]))
        height, width = -(-x.shape[-2] // 4), -(-x.shape[-1] // 4)
        logits = self.scores[None, :, None, None].expand(len(x), -1, height, width)
        return SegOutput(logits, logits, None)


def test_large_images_go_in_windows_at_each_scale():
    network, protocol = Watched(), Protocol(scales=(0.25, 1.0), max_pixels=100 * 100)
    assert (predict_labels(network, picture((200, 300)), protocol, CPU) == 3).all()
    assert network.sizes[0] == (50, 75) and set(network.sizes[1:]) == {(96, 96)} and len(network.sizes) == 1 + 3 * 4
    network.sizes.clear()
    predict_labels(network, picture((100, 100)), protocol, CPU)
    assert network.sizes == [(25, 25), (100, 100)]


def test_of_equal_scores_the_first_class_wins(monkeypatch):
    monkeypatch.setattr(label_maps, "PART_BYTES", 1)
    network = Watched(9, 5)
    network.scores[7] = 1
    assert (predict_labels(network, picture((40, 60)), Protocol(), CPU) == 5).all()


@pytest.mark.parametrize(
    "pixels, windows",
    [(2048 * 2048, (1024, 768)), (1000 * 1000, (992, 744)), (100 * 100, (96, 72)), (1, (32, 24))],
)
def test_windows_of_large_images(pixels, windows):
    side, step = windows
    protocol = Protocol(max_pixels=pixels)
    assert protocol.windows((4000, 6000)) == ((side, side), (step, step))
    assert f"more than {pixels:,} pixels in windows of {side}x{side} every {step}x{step}" in str(protocol)
    assert Protocol((64, 64), (64, 64), max_pixels=pixels).windows((4000, 6000)) == ((64, 64), (64, 64))
    grid = Grid.over((4000, 6000), *protocol.windows((4000, 6000)))
    assert grid.tops[-1] + side == 4000 and grid.lefts[-1] + side == 6000


def test_flags_decide_over_the_number_of_pixels():
    def protocol(**flags) -> Protocol:
        prediction = PredictionConfig(images="x", max_pixels=5000)
        return PredictConfig(None, prediction, None, ProtocolConfig(**flags), None).protocol_for(
            "psp", "resnet18", "voc"
        )

    assert protocol() == Protocol(max_pixels=5000)
    assert protocol(no_slide=True) == Protocol()
    assert protocol(slide_crop=(64, 96)).windows((4000, 6000)) == ((64, 96), (64, 96))


def _peak(classes: int) -> float:
    """MiB by which a large image makes a fresh process grow."""
    torch.set_num_threads(1)
    network, image = Watched(classes), torch.from_numpy(np.zeros((3, 1200, 3200), np.uint8))
    predict_labels(network, image[:, :64, :64], Protocol(), CPU)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels = predict_labels(network, image, Protocol(max_pixels=2**20), CPU)
    assert (labels == 3).all()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_memory_does_not_grow_with_the_classes():
    """All logits of 60 classes are 879 MiB."""
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_peak, (60,)) < 200
