"""The gradient of every loss term on the features that all share."""

from collections.abc import Mapping

import torch
from torch import Tensor

from utils.distributed import all_reduce_sum

TASK = "loss_task"


def measure(losses: Mapping[str, Tensor], features: Tensor, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Gradient of every term on the student's features, over the images of all processes.

    Reads values, so it waits for the device. The graph is kept for the backward pass that follows. Every process has
    to call it with the same terms.

    Args:
        losses: name -> weighted loss with its graph.
        features: (N, C, h, w), what the student's head hands to its classifier; part of the graphs.
        scale: factor while gradients are formed, so that those of half precision do not vanish.

    Returns:
        name -> {"gradient": norm, "cosine": to the task's gradient, "ratio": norm / the task's}; a term that does not
        depend on the features (the auxiliary head's) is absent.
    """
    gradients = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(loss * scale, features, retain_graph=True, allow_unused=True)
        if gradient is not None:
            gradients[name] = gradient.flatten().float() / scale
    if TASK not in gradients:
        return {}
    task = gradients[TASK]
    products = torch.stack([torch.stack([g.dot(g), g.dot(task)]) for g in gradients.values()]).double()
    squares, dots = all_reduce_sum(products).unbind(1)
    norms = squares.sqrt()
    task_norm = norms[list(gradients).index(TASK)]
    cosines = dots / (norms * task_norm).clamp_min(1e-300)
    ratios = norms / task_norm.clamp_min(1e-300)
    rows = torch.stack([norms, cosines, ratios], dim=1).tolist()
    return {
        name: {"gradient": gradient, "cosine": cosine, "ratio": ratio}
        for name, (gradient, cosine, ratio) in zip(gradients, rows, strict=True)
    }
