"""Pure functions of the distillation losses: no state, no collectives, no host synchronisation.

Symbols: B images, N anchors, C channels, D embedding, K keys; KL(p || q) has the teacher's distribution as p.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.relation.autograd import RelationPairs, RelationSum
from losses.relation.precision import compute_dtype


def relation_kl(
    student: Tensor,
    teacher: Tensor,
    student_keys: Tensor,
    teacher_keys: Tensor,
    temperature: float,
    *,
    anchor_weight: Tensor | None = None,
    key_mask: Tensor | None = None,
    chunk_size: int | None = None,
    operand_dtype: torch.dtype | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """KL divergence between the teacher's and the student's distributions of similarity to the keys.

    Mean over anchors of KL(softmax(T Q_t^T / temperature) || softmax(S Q_s^T / temperature)). Anchors are visited in
    chunks and the gradient is formed on the way, so that nothing of size N x K is kept.

    Args:
        student: (N, D_s), any strides; the gradient has its dtype.
        teacher: (N, D_t), no gradient.
        student_keys: (K, D_s); gets a gradient if it requires one.
        teacher_keys: (K, D_t), no gradient.
        temperature: divisor of the similarities.
        anchor_weight: (N,) not negative; the result is the weighted sum / the sum of weights. None = all one.
        key_mask: (K,) bool, False = the key does not exist. None = all exist.
        chunk_size: anchors per chunk, by default so many that a chunk x K buffer takes a few MiB.
        operand_dtype: of the factors of the matrix products, None = float32. With torch.bfloat16 softmax statistics and
            sums stay float32, and equal inputs still give exactly 0. For unit rows of 64 or more values, 64 or more
            keys and temperature 0.1, with or without a common mean (features after a ReLU, mutual cosine up to 0.8)
            and with or without tight classes (cosine within a class up to 0.97), the value changes by less than 3e-3 of
            itself + 5e-6, and the gradient by less than 0.5 % + 0.5 % / sqrt(value) of its norm, measured for values
            from 1e-5 to 1: 2.1 % where the value is 0.1, 5.5 % at 0.01, 16 % at 0.001. Pairs of images in tight classes
            reach that; banks, whose keys are bfloat16 already, and other features stay below half of it. Means over
            fewer than some hundred anchors lose more, because less of the rounding averages out.
        reduction: "sum" = the (weighted) sum over anchors, for means whose divisor spans several processes.

    Returns:
        0-dimensional, float32 (float64 for float64 input). 0 with zero gradients, yet connected to the graph, when no
        anchor has weight or no key exists (N = 0 and K = 0 included).

    Raises:
        ValueError: shapes that do not fit, temperature or chunk size not above 0, another operand dtype.
    """
    shapes = [tuple(tensor.shape) for tensor in (student, teacher, student_keys, teacher_keys)]
    (n, d_s), (_, d_t), (k, _), _ = (shape if len(shape) == 2 else (-1, -1) for shape in shapes)
    if shapes != [(n, d_s), (n, d_t), (k, d_s), (k, d_t)]:
        raise ValueError(
            "student (N, D_s), teacher (N, D_t), student_keys (K, D_s), teacher_keys (K, D_t) do not fit: got "
            + ", ".join(map(str, shapes))
        )
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    limits = ("anchor_weight", anchor_weight, student.shape[0]), ("key_mask", key_mask, student_keys.shape[0])
    for name, tensor, count in limits:
        if tensor is not None and tensor.shape != (count,):
            raise ValueError(f"{name} must have shape ({count},), got {tuple(tensor.shape)}")
    total = RelationSum.apply(
        student,
        student_keys,
        teacher.detach(),
        teacher_keys.detach() if teacher_keys.requires_grad else teacher_keys,  # a bank's are prepared once for both
        1.0 / temperature,
        anchor_weight,
        key_mask,
        chunk_size,
        operand_dtype,
        torch.is_grad_enabled(),
    )
    if reduction == "sum":
        return total
    if anchor_weight is None:
        return total / max(student.shape[0], 1)
    weight = anchor_weight.detach().sum(dtype=total.dtype)
    return total * torch.where(weight > 0, 1 / torch.where(weight > 0, weight, 1.0), 0.0)


def relation_kl_pairs(
    student: Tensor,
    teacher: Tensor,
    pairs: list[tuple[int, int]],
    temperature: float,
    *,
    chunk_size: int | None = None,
    operand_dtype: torch.dtype | None = None,
) -> Tensor:
    """Relations between images: mean over pairs (i, j) of :func:`relation_kl` with anchors of i and keys of j.

    One gradient buffer of the size of ``student`` serves all pairs. On a CPU a pair that occurs in both orders is
    computed once, unless a ``chunk_size`` is given.

    Args:
        student: (B, L, D_s) rows of every image, any strides.
        teacher: (B, L, D_t), no gradient.
        pairs: (anchor image, key image), as host integers.
        temperature, chunk_size, operand_dtype: as in :func:`relation_kl`.
    """
    if student.dim() != 3 or teacher.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            "student and teacher must be (B, L, D) with the same B and L, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    total = RelationPairs.apply(
        student, teacher.detach(), tuple(pairs), 1.0 / temperature, chunk_size, operand_dtype, torch.is_grad_enabled()
    )
    return total / max(len(pairs) * student.shape[1], 1)


def pixel_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, *, standardize: bool = False
) -> Tensor:
    """Knowledge distillation of the logits at every position (Hinton et al., 2015), ignored pixels included.

    Args:
        student_logits: (B, Y, h, w).
        teacher_logits: (B, Y, h', w'), resized to the student's size where it differs; no gradient.
        temperature: both logits are divided by it; the result is multiplied by its square.
        standardize: logits of mean 0 and standard deviation 1 over the classes first (arXiv:2403.01427).

    Returns:
        0-dimensional: mean over B*h*w of temperature^2 * KL over the classes.
    """
    dtype = compute_dtype(student_logits)
    student_logits = student_logits.to(dtype)
    teacher_logits = resize_like(teacher_logits.detach().to(dtype), student_logits)
    if standardize:
        student_logits, teacher_logits = _standardize(student_logits), _standardize(teacher_logits)
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    positions = student_logits.shape[0] * student_logits.shape[2:].numel()
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * (temperature**2 / positions)


def _standardize(logits: Tensor) -> Tensor:
    centered = logits - logits.mean(dim=1, keepdim=True)
    variance = centered.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    # where all logits are equal, the gradient of the root would be infinite
    return centered / (variance.clamp_min(1e-24).sqrt() + 1e-7)


def unit(tensor: Tensor, dim: int, *, innermost: bool = False) -> Tensor:
    """Divide by the L2 norm along ``dim``, in at least float32; a zero vector stays zero and its gradient is finite.

    ``innermost``: the result is contiguous along ``dim`` (rows of a matrix, once the dimension is moved to the end),
    which costs less than to normalise first and to copy then.
    """
    return _Unit.apply(tensor, dim, innermost)


class _Unit(torch.autograd.Function):
    """What ``F.normalize`` computes, with a backward pass of one buffer: it works on whole feature maps."""

    EPSILON = 1e-12

    @staticmethod
    def forward(ctx, tensor: Tensor, dim: int, innermost: bool) -> Tensor:
        dtype = compute_dtype(tensor)
        result = tensor
        if innermost:
            result = tensor.movedim(dim, -1).to(dtype, memory_format=torch.contiguous_format, copy=True)
            result = result.movedim(-1, dim)
        norm = torch.linalg.vector_norm(result, dim=dim, keepdim=True, dtype=dtype).clamp_(min=_Unit.EPSILON)
        ctx.dim = dim
        ctx.save_for_backward(tensor, norm)
        return result.div_(norm) if innermost else tensor.to(dtype) / norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        """grad / |x| - x <x, grad> / |x|^3; the second part is 0 if the norm was clamped."""
        tensor, norm = ctx.saved_tensors
        # In the order of x in memory, whatever the gradient's is: operations on one order are several times as fast.
        result = torch.empty_like(tensor, dtype=norm.dtype).copy_(grad).div_(norm)
        along = (result * tensor).sum(dim=ctx.dim, keepdim=True) / norm / norm
        along.masked_fill_(norm <= _Unit.EPSILON, 0)
        return result.addcmul_(tensor.to(result.dtype), along, value=-1).to(tensor.dtype), None, None


def pool4x4(tensor: Tensor) -> Tensor:
    """Average 4x4 positions, (N, C, h, w) -> (N, C, ceil(h/4), ceil(w/4)); border windows average what is there."""
    return F.avg_pool2d(tensor, 4, 4, ceil_mode=True, count_include_pad=False)


def resize_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Resize (N, C, h, w) bilinearly (align_corners=True) to the size of ``reference``; unchanged if equal."""
    if tensor.shape[2:] == reference.shape[2:]:
        return tensor
    return F.interpolate(tensor, size=reference.shape[2:], mode="bilinear", align_corners=True)


def resize_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of labels (N, H, W) to (N, h, w): source index = floor(i * H / h), in integers."""
    height, width = target.shape[1:]
    rows = torch.arange(size[0], device=target.device) * height // size[0]
    columns = torch.arange(size[1], device=target.device) * width // size[1]
    return target[:, rows[:, None], columns]
