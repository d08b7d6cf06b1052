"""Size and cost of a module, and the shapes of its outputs, without computing anything.

Shapes and multiply-accumulate operations (MACs) come from a run on torch's "meta" device: tensors there have a shape
and no values, so a large network on a large image costs no memory and no arithmetic, and the module's own weights are
neither moved nor copied.
"""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, a shared one counted once."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, height: int, width: int, **forward_options: Any) -> int:
    """Return the MACs of one image's forward pass in evaluation mode; FLOPs are twice as many.

    Convolutions, matrix products and attention are counted; normalisation, activations and resizing are not, as in
    the figures of papers.

    Args:
        module: network that takes (N, 3, H, W).
        height, width: image size in pixels.
        forward_options: passed to `forward`, such as `need_aux=False` for what inference costs.
    """
    with FlopCounterMode(display=False) as counter:
        _meta_forward(module, height, width, forward_options)
    return counter.get_total_flops() // 2


def feature_shapes(
    module: nn.Module, height: int, width: int, **forward_options: Any
) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes, without the batch axis, of a segmentation network's output for one image.

    Args:
        module: network that returns a `SegOutput`.
        height, width: image size in pixels.
        forward_options: passed to `forward`, such as `need_inner=True`.

    Returns:
        {"logits": (K, h, w), "features": (C, h', w'), "aux_logits": (K, h'', w'') or None} and so on.
    """
    output = _meta_forward(module, height, width, forward_options)
    return {name: None if value is None else tuple(value.shape[1:]) for name, value in output._asdict().items()}


def distilled_shapes(student: nn.Module, teacher: nn.Module, height: int, width: int) -> dict[str, Any]:
    """The shapes that a distiller is built for: its arguments student_shape, teacher_shape and inner_shapes."""
    shapes = [feature_shapes(network, height, width, need_inner=True) for network in (student, teacher)]
    pairs = {name: tuple(of_one[name] for of_one in shapes) for name in ("features", "last_stage", "inner")}
    student_shape, teacher_shape = pairs.pop("features")
    return {"student_shape": student_shape, "teacher_shape": teacher_shape, "inner_shapes": pairs}


@torch.no_grad()
def _meta_forward(module: nn.Module, height: int, width: int, forward_options: dict[str, Any]) -> Any:
    if height < 1 or width < 1:
        raise ValueError(f"image size is {height}x{width} (height x width); expected at least 1x1")
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    image = torch.empty(1, 3, height, width, device="meta")
    # Batch norm takes a single image in evaluation mode only. Flags are restored one by one: some modules may be
    # frozen in evaluation mode inside a module that trains.
    was_training = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        return functional_call(module, on_meta, (image,), forward_options)
    finally:
        for child, training in was_training:
            child.training = training
