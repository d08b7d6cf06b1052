"""The relation to one set of keys as two attention calls: for bfloat16 operands on a CPU with matrix units.

With m = softmax(f Q^T / temperature) Q, the attention output, and its log-sum-exp,

    KL = <f_t - f_s, m_t> / temperature - LSE_t + LSE_s,     gradient with respect to f_s = (m_s - m_t) / temperature

(both networks see the same keys Q, which want no gradient). Nothing of size anchors x keys exists. m is rounded to
bfloat16, so of one anchor's KL up to 2^-8 |f_t - f_s| / temperature is rounding; it has no preferred sign. Anchors that
are equal after rounding to bfloat16 give exactly 0. Keys and anchors are first shifted by the keys' mean
(:mod:`losses.relation_shift`): m is rounded with whatever the keys share, and m_s - m_t has nothing of that.
"""

import torch
from torch import Tensor

from losses.relation_products import Products
from losses.relation_rows import key_bias
from losses.relation_shift import Shift, mean_row

_CHUNK = 1024
"""Anchors per call: their bfloat16 copies and outputs stay small, and the kernel fills its threads."""


def attention_suits(
    student: Tensor, teacher: Tensor, student_keys: Tensor, teacher_keys: Tensor, products: Products
) -> bool:
    """Whether :func:`relation_attention` can be used and is the fastest way (measured: with AMX; elsewhere unknown)."""
    same_keys = student_keys.shape == teacher_keys.shape and student_keys.data_ptr() == teacher_keys.data_ptr()
    return (
        products.rounded
        and products.device_type == "cpu"
        and student.shape[0] > 0
        and student_keys.shape[0] > 0
        and same_keys
        and student_keys.stride() == teacher_keys.stride()
        and student_keys.dtype == teacher_keys.dtype
        and _kernel_available()
    )


def _kernel_available() -> bool:
    """The CPU's flash attention that returns log-sum-exps, on a processor with matrix units."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu") and supported()


def relation_attention(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    inverse_temperature: float,
    *,
    weight: Tensor | None,
    key_mask: Tensor | None,
    grad_student: Tensor | None,
) -> Tensor:
    """Sum of weight * KL over anchors; its gradient is ADDED to grad_student. Call it outside ``products.scope()``.

    Args:
        student, teacher: (N, D).
        keys: (K, D), of both.
        inverse_temperature: multiplies the similarities.
        weight: (N,) float32. key_mask: (K,) bool. grad_student: (N, D), any dtype.
    """
    work = torch.empty(_CHUNK, student.shape[1], dtype=torch.float32)
    centre = mean_row(keys, key_mask)  # of both networks' anchors, too
    keys, bias = _centred(keys, centre, inverse_temperature, work)
    if key_mask is not None:
        bias += key_bias(key_mask, torch.float32)
    row_kl = torch.empty(student.shape[0], dtype=torch.float32)
    for start in range(0, student.shape[0], _CHUNK):
        rows = slice(start, start + _CHUNK)
        student_rows, teacher_rows = (
            torch.sub(tensor[rows], centre, out=work[: tensor[rows].shape[0]]).to(torch.bfloat16)
            for tensor in (student, teacher)
        )
        teacher_mean, teacher_sum = _attend(teacher_rows, keys, bias, inverse_temperature)
        student_mean, student_sum = _attend(student_rows, keys, bias, inverse_temperature)
        teacher_mean = teacher_mean.float()  # operations on two dtypes are slow
        difference = teacher_rows.float().sub_(student_rows.float()).mul_(teacher_mean)
        row_kl[rows] = difference.sum(dim=1) * inverse_temperature + (student_sum - teacher_sum)
        if grad_student is not None:
            gradient = student_mean.float().sub_(teacher_mean)
            if weight is not None:
                gradient.mul_(weight[rows, None])
            grad_student[rows].add_(gradient, alpha=inverse_temperature)
    total = row_kl.sum() if weight is None else (row_kl * weight).sum()
    return total if key_mask is None else torch.where(key_mask.any(), total, 0.0)


def _centred(keys: Tensor, centre: Tensor, inverse_temperature: float, work: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (K, D) less their centre in bfloat16, and the bias (K,) of anchors less the same; ``work`` at a time."""
    rounded = torch.empty(keys.shape, dtype=torch.bfloat16)
    bias = torch.empty(keys.shape[0], dtype=torch.float32)
    for start in range(0, keys.shape[0], work.shape[0]):
        rows = slice(start, min(start + work.shape[0], keys.shape[0]))
        block = torch.sub(keys[rows], centre, out=work[: rows.stop - start])
        bias[rows] = Shift.to_keys(centre, block, inverse_temperature).bias
        rounded[rows] = block
    return rounded, bias


def _attend(rows: Tensor, keys: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention output (n, D) in bfloat16 and log-sum-exp (n,) in float32, of one head."""
    output, log_sum_exp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        rows[None, None],
        keys[None, None],
        keys[None, None],
        attn_mask=bias[None, None, None],
        scale=scale,
    )
    return output[0, 0], log_sum_exp.flatten()
