"""What every test of a distillation method needs: batches, equality with a plain formula, and the hard cases."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from losses.base import Distiller
from tests.processes import run_processes
from utils.distributed import get_rank, get_world_size, is_distributed
from utils.types import SegOutput, Step

CLASSES, STUDENT, TEACHER = 4, 6, 9
SIZES = [((5, 7), (5, 7)), ((4, 6), (7, 9)), ((8, 10), (5, 5))]
"""Of the student's and the teacher's maps."""


def make_batch(batch=3, size_s=(5, 7), size_t=(5, 7), *, channels=(STUDENT, TEACHER), dtype=torch.float64, seed=0):
    """Student's and teacher's output, both with auxiliary logits, and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)

    def output(width, size, grad):
        shapes = (CLASSES, *size), (width, *size), (CLASSES, *size)
        maps = [torch.randn(batch, *shape, dtype=dtype, generator=generator) for shape in shapes]
        return SegOutput(*(tensor.requires_grad_(grad) for tensor in maps))

    student, teacher = output(channels[0], size_s, True), output(channels[1], size_t, False)
    target = torch.randint(0, CLASSES - 1, (batch, 4 * size_t[0], 4 * size_t[1]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255  # and the last class never occurs
    return student, teacher, target


def build(method: type[Distiller], batch, dtype=torch.float64, **options) -> Distiller:
    """The method for the shapes of a batch, always with the same parameters."""
    student, teacher, _ = batch
    torch.manual_seed(0)
    shapes = student.features.shape[1:], teacher.features.shape[1:]
    return method(*shapes, CLASSES, method.Config(**options)).to(dtype)


def assert_matches(loss: Tensor, expected: Tensor, inputs: dict[str, Tensor], rtol=1e-8) -> None:
    """Equal values, and equal gradients for all inputs, at least one of which has one."""
    assert expected.abs() > 1e-10
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=1e-13)
    got, want = (
        torch.autograd.grad(v, list(inputs.values()), allow_unused=True, retain_graph=True) for v in (loss, expected)
    )
    assert any(grad is not None and grad.any() for grad in want)
    for name, a, b in zip(inputs, got, want, strict=True):
        a, b = (torch.zeros_like(inputs[name]) if grad is None else grad for grad in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def check_hard_cases(method: type[Distiller], terms: set[str], **options) -> None:
    """Finite terms and gradients for one image, unequal sizes, nothing but ignored pixels, and half precision."""
    for half in (False, True):
        for count, size_s, size_t in ((1, (5, 7), (5, 7)), (2, (1, 1), (3, 2)), (1, (13, 17), (9, 5))):
            for ignored in (False, True):
                batch = student, teacher, target = make_batch(count, size_s, size_t, dtype=torch.float32)
                target = target.where(torch.tensor(not ignored), 255)
                module = build(method, batch, torch.float32, **options)
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    if half:  # what a network under autocast returns
                        batch = student, teacher = [SegOutput(*(m.bfloat16() for m in out)) for out in batch[:2]]
                    losses = module(student, teacher, target)
                assert {name.removeprefix("loss_") for name in losses} == terms
                assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values()), losses
                inputs = [*student, *module.parameters()]
                for grad in torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True):
                    assert grad is None or grad.isfinite().all()


def assert_half_close(method: type[Distiller], rtol: float, **options) -> None:
    """Terms under bfloat16 autocast are those of full precision up to the rounding of their inputs."""
    batch = make_batch(2, (6, 8), (6, 8), dtype=torch.float32)
    student, teacher = [SegOutput(*(m.detach().bfloat16() for m in output)) for output in batch[:2]]
    full = [SegOutput(*(m.float() for m in output)) for output in (student, teacher)]
    expected = build(method, batch, torch.float32, **options)(*full, batch[2])
    with torch.autocast("cpu", torch.bfloat16):
        got = build(method, batch, torch.float32, **options)(student, teacher, batch[2])
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=rtol, atol=0, msg=lambda m, n=name: f"{n}: {m}")


class Task(nn.Module):
    """A student of two layers with its distiller: what the trainer wraps. Batch norms are frozen."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.student, self.classifier = nn.Conv2d(3, STUDENT, 3, padding=1), nn.Conv2d(STUDENT, CLASSES, 1)
        self.distiller = distiller
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def forward(self, images, teacher, target, step):
        features = self.student(images)
        logits = self.classifier(features)
        # Every parameter has a gradient, as with a task loss; else DistributedDataParallel reduces none.
        losses = {"loss_task": logits.square().mean()}
        return losses | self.distiller(SegOutput(logits, features, logits.flip(3)), teacher, target, step)


def gradients_of_a_step(method: type[Distiller], accumulate: int, options: dict) -> dict[str, dict[str, Tensor]]:
    """Losses and gradients of four images, shared by the processes and by `accumulate` micro-batches."""
    _, teacher, target = batch = make_batch(4)
    target[0], target[1, 5:] = 255, 255  # images differ in their number of valid pixels
    images = torch.randn(4, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    task = Task(build(method, batch, **options)).double()
    wrapped = DistributedDataParallel(task, broadcast_buffers=False) if is_distributed() else task
    share = 4 // accumulate // get_world_size()
    mine = [(a * get_world_size() + get_rank()) * share for a in range(accumulate)]
    everything = torch.cat([target[first : first + share] for first in mine])
    terms: dict[str, Tensor] = {}
    for index, first in enumerate(mine):
        part = slice(first, first + share)
        step = Step(3, index, accumulate, everything if accumulate > 1 else None)
        losses = wrapped(images[part], SegOutput(*(m[part] for m in teacher)), target[part], step)
        (sum(losses.values()) / accumulate).backward()
        for name, loss in losses.items():
            terms[name] = terms.get(name, 0) + loss.detach() / accumulate
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {"terms": terms, "grads": gradients, "buffers": dict(task.named_buffers())}


def check_processes(method: type[Distiller], *, accumulate: int = 1, **options) -> None:
    """Two processes that share a batch, and micro-batches, give the terms and gradients of one with all of it."""
    whole = gradients_of_a_step(method, 1, options)
    parts = [[gradients_of_a_step(method, accumulate, options)]] if accumulate > 1 else []
    parts.append(run_processes(gradients_of_a_step, 2, method, 1, options))
    for results in parts:
        for name, value in whole["terms"].items():
            mean = sum(result["terms"][name] for result in results) / len(results)
            torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
        for result in results:
            assert result["grads"].keys() == whole["grads"].keys()
            for name, grad in whole["grads"].items():
                assert (result["grads"][name] - grad).norm() <= 1e-5 * grad.norm() + 1e-7, name
    for result in parts[-1]:
        for name, buffer in whole["buffers"].items():
            torch.testing.assert_close(result["buffers"][name], buffer, rtol=1e-5, atol=1e-6, msg=name)
