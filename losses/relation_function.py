"""Similarity-distribution KL as autograd functions: in chunks of anchors, the gradient formed in the forward pass.

Memory beyond inputs and gradients is three chunk x keys buffers, whatever the number of anchors. The functions that
users call are in :mod:`losses.functional`. Symbols: B images, N anchors, D embedding, K keys, n anchors of a chunk.
"""

import torch
from torch import Tensor

# Added to the logits of masked keys. It absorbs any logit in fp32 and fp64 alike, so masked keys get probability
# exactly 0, and where all keys are masked student and teacher have the same uniform row: KL and gradient 0.
_MASKED = -1e30

# Bytes of one chunk x keys buffer, three of which are alive. Smaller ones would fit the CPU's caches, but the threads
# meet after every operation, and on a machine that does other work as well those meetings cost more than the misses
# (measured: half the speed at 4 MiB). A GPU needs chunks that fill it.
_BUFFER_BYTES = {"cpu": 16 << 20, "cuda": 128 << 20}
_MIN_CHUNK = 32


class RelationSum(torch.autograd.Function):
    """Sum over anchors. The gradients of the unscaled sum are saved, so they suit half precision too."""

    @staticmethod
    def forward(
        ctx,
        student: Tensor,
        student_keys: Tensor,
        teacher: Tensor,
        teacher_keys: Tensor,
        inverse_temperature: float,
        weight: Tensor | None,
        key_mask: Tensor | None,
        chunk_size: int | None,
        grad_enabled: bool,
    ) -> Tensor:
        dtype = compute_dtype(student)
        grad_student = torch.zeros_like(student) if grad_enabled and ctx.needs_input_grad[0] else None
        grad_keys = None
        if grad_enabled and ctx.needs_input_grad[1]:
            grad_keys = torch.zeros_like(student_keys, dtype=dtype)
        key_bias = None
        if key_mask is not None:
            key_bias = torch.zeros(key_mask.shape, dtype=dtype, device=key_mask.device).masked_fill_(~key_mask, _MASKED)
        total = _relation_rows(
            student,
            teacher,
            student_keys.to(dtype),
            teacher_keys.to(dtype),
            inverse_temperature,
            weight=None if weight is None else weight.to(dtype),
            key_bias=key_bias,
            grad_student=grad_student,
            grad_keys=grad_keys,
            buffers=_buffers(student, student_keys.shape[0], dtype, chunk_size),
        )
        ctx.has_grads = (grad_student is not None, grad_keys is not None)
        if grad_keys is not None:
            grad_keys = grad_keys.to(student_keys.dtype)
        ctx.save_for_backward(*(grad for grad in (grad_student, grad_keys) if grad is not None))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        grads = [saved.pop(0) * grad_output if has else None for has in ctx.has_grads]
        return *grads, *[None] * 7


class RelationPairs(torch.autograd.Function):
    """Sum over pairs and anchors; a pair's anchors and keys are slices of the same tensor."""

    @staticmethod
    def forward(
        ctx,
        student: Tensor,
        teacher: Tensor,
        pairs: tuple[tuple[int, int], ...],
        inverse_temperature: float,
        chunk_size: int | None,
        grad_enabled: bool,
    ) -> Tensor:
        dtype = compute_dtype(student)
        need = grad_enabled and ctx.needs_input_grad[0]
        grad = torch.zeros_like(student, dtype=dtype) if need else None
        total = torch.zeros((), dtype=dtype, device=student.device)
        if student.shape[1]:
            buffers = _buffers(student[0], student.shape[1], dtype, chunk_size)
            for i, j in pairs:
                total += _relation_rows(
                    student[i],
                    teacher[i],
                    student[j].to(dtype),
                    teacher[j].to(dtype),
                    inverse_temperature,
                    weight=None,
                    key_bias=None,
                    grad_student=grad[i] if need else None,
                    grad_keys=grad[j] if need else None,
                    buffers=buffers,
                )
        if need:
            ctx.save_for_backward(grad.to(student.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None, None, None


def _relation_rows(
    student: Tensor,
    teacher: Tensor,
    student_keys: Tensor,
    teacher_keys: Tensor,
    inverse_temperature: float,
    *,
    weight: Tensor | None,
    key_bias: Tensor | None,
    grad_student: Tensor | None,
    grad_keys: Tensor | None,
    buffers: Tensor,
) -> Tensor:
    """Sum of weight * KL over all anchors; the gradients of that sum are ADDED to grad_student and grad_keys.

    The value is the sum over keys of p_t (log p_t - log p_s): equal inputs give exactly 0, where a difference of
    log-sum-exps would leave their rounding. The gradient of an anchor's KL with respect to its logits is p_s - p_t.
    """
    num_anchors, num_keys = student.shape[0], student_keys.shape[0]
    dtype = student_keys.dtype
    row_kl = torch.zeros(num_anchors, dtype=dtype, device=student.device)
    chunk = buffers.shape[1]
    with torch.autocast(student.device.type, enabled=False):
        for start in range(0, num_anchors if num_keys else 0, chunk):
            rows = slice(start, min(start + chunk, num_anchors))
            logits, log_teacher, log_student = buffers[:, : rows.stop - start]  # (n, K) each
            anchors = student[rows].to(dtype)  # (n, D_s)

            _similarity(teacher[rows].to(dtype), teacher_keys, inverse_temperature, key_bias, out=logits)
            torch.log_softmax(logits, dim=1, out=log_teacher)
            _similarity(anchors, student_keys, inverse_temperature, key_bias, out=logits)
            torch.log_softmax(logits, dim=1, out=log_student)

            log_ratio = torch.sub(log_teacher, log_student, out=logits)
            teacher_probability = log_teacher.exp_()
            torch.sum(log_ratio.mul_(teacher_probability), dim=1, out=row_kl[rows])
            if grad_student is None and grad_keys is None:
                continue
            delta = log_student.exp_().sub_(teacher_probability)  # (n, K)
            if weight is not None:
                delta *= weight[rows, None]
            if grad_student is not None:
                _add_product(grad_student[rows], delta, student_keys, inverse_temperature)
            if grad_keys is not None:
                _add_product(grad_keys, delta.T, anchors, inverse_temperature)
    return row_kl.sum() if weight is None else (row_kl * weight).sum()


def _similarity(
    anchors: Tensor, keys: Tensor, inverse_temperature: float, key_bias: Tensor | None, out: Tensor
) -> None:
    """out = anchors keys^T * inverse_temperature + key_bias, the bias without a pass over ``out`` of its own."""
    if key_bias is None:
        torch.addmm(out, anchors, keys.T, beta=0, alpha=inverse_temperature, out=out)
    else:
        torch.addmm(key_bias, anchors, keys.T, alpha=inverse_temperature, out=out)


def _add_product(target: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """target += scale * left right, where the target may be of lower precision than the factors."""
    if target.dtype == left.dtype:
        target.addmm_(left, right, alpha=scale)
    else:
        target.add_(left @ right, alpha=scale)


def _buffers(anchors: Tensor, num_keys: int, dtype: torch.dtype, chunk_size: int | None) -> Tensor:
    """Three (chunk, K) work buffers."""
    if chunk_size is None:
        row_bytes = max(num_keys, 1) * torch.finfo(dtype).bits // 8
        budget = _BUFFER_BYTES.get(anchors.device.type, _BUFFER_BYTES["cuda"])
        chunk_size = max(budget // row_bytes, _MIN_CHUNK)
    chunk_size = max(min(chunk_size, anchors.shape[0]), 1)
    return torch.empty(3, chunk_size, num_keys, dtype=dtype, device=anchors.device)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Losses are computed in float32 whatever autocast says, and in float64 where the input is."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
