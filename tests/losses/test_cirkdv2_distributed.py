"""Two processes that share a batch equal one process with all of it: terms, gradients, banks."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from losses import build_distiller
from losses.task import segmentation_loss
from tests.processes import run_processes
from utils.distributed import get_rank, get_world_size, is_distributed
from utils.types import SegOutput, Step

BATCH, CLASSES, SIZE = 4, 5, (13, 9)
OPTIONS = {
    "pixel_memory_size": 60,
    "region_memory_size": 6,
    "channel_memory_size": 400,
    "pixel_contrast_size": 40,
    "region_contrast_size": 20,
    "channel_contrast_size": 64,
    "bank_dtype": "float32",
    "seed": 3,
}


class Distillation(nn.Module):
    """A student of one layer with its distiller: what the trainer wraps."""

    def __init__(self, partners):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Conv2d(3, 8, 3, padding=1)
        self.classifier = nn.Conv2d(8, CLASSES, 1)
        options = OPTIONS | {"minibatch_partners": partners}
        self.distiller = build_distiller("cirkdv2", (8, *SIZE), (96, *SIZE), CLASSES, options)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(self, images, teacher, target, step):
        features = self.student(images)
        output = SegOutput(self.classifier(features), features)
        return segmentation_loss(output, target, step=step) | self.distiller(output, teacher, target, step)


def train_three_steps(partners, accumulate):
    """Losses of each step, gradients and buffers after the last one; a step has ``accumulate`` micro-batches."""
    module = Distillation(partners)
    wrapped = DistributedDataParallel(module, broadcast_buffers=False) if is_distributed() else module
    generator = torch.Generator().manual_seed(1)
    share = BATCH // get_world_size()
    mine = slice(get_rank() * share, (get_rank() + 1) * share)
    history = []
    for iteration in range(3):
        images = torch.randn(accumulate, BATCH, 3, *SIZE, generator=generator)
        features = torch.randn(accumulate, BATCH, 96, *SIZE, generator=generator)
        logits = torch.randn(accumulate, BATCH, CLASSES, *SIZE, generator=generator)
        target = torch.randint(0, CLASSES, (accumulate, BATCH, 50, 36), generator=generator)
        target[:, 0, 10:] = 255  # images, and so processes and micro-batches, differ in their number of valid pixels
        target[0, 1] = 255
        module.zero_grad()
        terms = {}
        for a in range(accumulate):
            step = Step(iteration, a, accumulate, target[:, mine].flatten(0, 1))
            teacher = SegOutput(logits[a, mine], features[a, mine])
            losses = wrapped(images[a, mine], teacher, target[a, mine], step)
            (sum(losses.values()) / accumulate).backward()
            for name, loss in losses.items():
                terms[name] = terms.get(name, 0) + loss.detach() / accumulate
        history.append(terms)
    return {
        "terms": history,
        "grads": {name: parameter.grad for name, parameter in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
    }


@pytest.mark.slow  # tests/engine/test_process_equality.py compares this method too, among all others
@pytest.mark.parametrize(("partners", "accumulate"), [(2, 1), (None, 2)])
def test_two_processes_equal_one(partners, accumulate):
    one = train_three_steps(partners, accumulate)
    two = run_processes(train_three_steps, 2, partners, accumulate)
    assert len(one["terms"][0]) == 9
    for iteration, terms in enumerate(one["terms"]):
        for name, value in terms.items():
            mean = sum(result["terms"][iteration][name] for result in two) / 2
            torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    for result in two:
        for name, grad in one["grads"].items():
            error = (result["grads"][name] - grad).norm()
            assert error <= 1e-5 * grad.norm() + 1e-7, name
        for name, buffer in one["buffers"].items():
            torch.testing.assert_close(result["buffers"][name], buffer, rtol=1e-5, atol=1e-6, msg=name)
    assert one["buffers"]["distiller.pixel_memory.pixel_bank.queue_count"].min() == 60  # the ring was filled
