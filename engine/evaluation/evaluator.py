"""Evaluation of a network on a split."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.loading.transforms import normalize
from engine.evaluation.inference import whole_image
from utils.amp import autocast
from utils.boundary import BoundaryCounts
from utils.metrics import ConfusionMatrix, SegMetrics
from utils.types import Batch

Predictor = Callable[[nn.Module, Tensor], Tensor]
# called with each image's batch (on the CPU) and its predicted labels (H, W), uint8, on the CPU
PredictionHook = Callable[[Batch, Tensor], None]


@contextmanager
def evaluation_mode(network: nn.Module):
    """Evaluation mode inside, every module's own mode again after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class KernelTuning:
    """cuDNN's search for the fastest kernels, kept only while all images have one size; as it was on leaving.

    The search is made anew for every size: on a data set of many sizes it costs more than it gains.
    """

    def __enter__(self) -> "KernelTuning":
        self._before = torch.backends.cudnn.benchmark
        self._size: torch.Size | None = None
        return self

    def __exit__(self, *error: object) -> None:
        torch.backends.cudnn.benchmark = self._before

    def note(self, size: torch.Size) -> None:
        """Takes the size of the next images."""
        if self._size is not None and size != self._size:
            torch.backends.cudnn.benchmark = False
        self._size = size


@torch.no_grad()
def evaluate(
    network: nn.Module,
    loader: Iterable[Batch],
    num_classes: int,
    device: torch.device,
    *,
    predictor: Predictor = whole_image,
    amp: str = "off",
    on_prediction: PredictionHook | Sequence[PredictionHook] = (),
    boundary_ratio: float | None = None,
    progress: bool = False,
) -> SegMetrics:
    """Metrics of `network` over the images of all processes' loaders.

    Args:
        network: returns a `SegOutput`; its modes are the same after as before.
        loader: this process's share of the split, each image in one process only.
        num_classes: K.
        device: where to compute.
        predictor: turns images into logits at image size.
        amp: "off", "bf16" or "fp16".
        on_prediction: called for every batch, for pictures and files; one or several, in turn.
        boundary_ratio: also compute boundary IoU, with outlines of this part of the image's diagonal.
        progress: show a bar where stderr is a terminal.
    """
    hooks = [on_prediction] if callable(on_prediction) else list(on_prediction)
    confusion = ConfusionMatrix(num_classes, device)
    boundary = None if boundary_ratio is None else BoundaryCounts(num_classes, boundary_ratio, device)
    with evaluation_mode(network), KernelTuning() as tuning:
        for batch in tqdm(loader, unit="image", disable=None if progress else True, dynamic_ncols=True):
            tuning.note(batch.images.shape)
            images = normalize(batch.images.to(device, non_blocking=True), batch.valid_size.to(device))
            with autocast(device, amp):
                logits = predictor(network, images)
            prediction = logits.argmax(dim=1)  # (N, H, W)
            target = batch.target.to(device, non_blocking=True)
            confusion.update(prediction, target.long())
            if boundary is not None:
                boundary.update(prediction, target)
            if hooks:
                labels = prediction.to(torch.uint8).cpu()
                for hook in hooks:
                    hook(batch, labels)
    confusion.reduce()
    metrics = confusion.compute()
    if boundary is not None:
        boundary.reduce()
        metrics = replace(metrics, boundary_iou=boundary.compute())
    return metrics
