"""Similarity-distribution KL row by row, in chunks of anchors, the gradient formed on the way.

Symbols: N anchors, D embedding, K keys, n anchors of a chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.relation.centering import Centering
from losses.relation.precision import MatmulPrecision
from losses.relation.triton_rows import triton_rows

# Added to the logits of masked keys. It absorbs any logit in fp32 and fp64 alike, so masked keys get probability
# exactly 0, and where all keys are masked student and teacher have the same uniform row: KL and gradient 0.
MASKED = -1e30

# Bytes of one chunk x keys buffer. On a CPU 4 MiB take 5 % longer than 6, and 16 as long. A GPU needs chunks that fill
# it.
_BUFFER_BYTES = {"cpu": 6 << 20, "cuda": 128 << 20}
_MIN_CHUNK = 32

# Elementwise operations run over fewer rows, so that three buffers fit in a core's L2 cache.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Buffers:
    """Work space of a chunk: two (n, K) buffers, a third for some rows, and on CUDA one in half precision instead.

    Attributes:
        teacher, student: (n, K) logits.
        work: (block, K), None on CUDA: its kernel needs none.
        delta: (n, K) in the operands' dtype; ``student`` itself if the dtypes agree.
    """

    teacher: Tensor
    student: Tensor
    work: Tensor | None
    delta: Tensor

    @classmethod
    def allocate(cls, anchors: Tensor, num_keys: int, products: MatmulPrecision, chunk_size: int | None) -> "Buffers":
        """For ``anchors`` (N, D) and K keys; ``chunk_size`` None = n from a fixed number of bytes."""
        row_bytes = max(num_keys, 1) * products.dtype.itemsize
        if chunk_size is None:
            budget = _BUFFER_BYTES.get(products.device_type, _BUFFER_BYTES["cuda"])
            chunk_size = max(budget // row_bytes, _MIN_CHUNK)
        chunk = max(min(chunk_size, anchors.shape[0]), 1)
        block = max(min(_BLOCK_BYTES // row_bytes, chunk), 1)

        def empty(rows: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(rows, num_keys, dtype=dtype, device=anchors.device)

        teacher, student = empty(chunk, products.dtype), empty(chunk, products.dtype)
        work = empty(block, products.dtype) if products.device_type == "cpu" else None
        same = products.operand_dtype == products.dtype
        return cls(teacher, student, work, student if same else empty(chunk, products.operand_dtype))


def key_bias(key_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Bias on the logits of keys (K,): 0 if a key exists, MASKED if not."""
    if key_mask is None:
        return None
    return torch.zeros(key_mask.shape, dtype=dtype, device=key_mask.device).masked_fill_(~key_mask, MASKED)


def relation_rows(
    student: Tensor,
    teacher: Tensor,
    student_keys: Tensor,
    teacher_keys: Tensor,
    inverse_temperature: float,
    products: MatmulPrecision,
    buffers: Buffers,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    shifts: tuple[Centering, Centering] | None = None,
    grad_student: Tensor | None = None,
    grad_keys: Tensor | None = None,
) -> Tensor:
    """Sum of weight * KL over all anchors; the gradients of that sum are ADDED to grad_student and grad_keys.

    Call it inside ``products.scope()``.

    Args:
        student, teacher: (N, D_s) and (N, D_t), any dtype and strides.
        student_keys, teacher_keys: (K, D_s) and (K, D_t), operands of ``products``.
        weight, bias: (N,) and (K,) in the products' dtype.
        shifts: of the anchors of student and teacher.
        grad_student: (N, D_s), any dtype. grad_keys: (K, D_s) in the products' dtype.
    """
    num_anchors, num_keys = student.shape[0], student_keys.shape[0]
    row_kl = torch.zeros(num_anchors, dtype=products.dtype, device=student.device)
    wants_delta = grad_student is not None or grad_keys is not None
    chunk = buffers.teacher.shape[0]
    biases, centres = (bias, bias), (None, None)  # of student and teacher
    if shifts is not None:
        biases, centres = tuple(s.bias_with(bias) for s in shifts), tuple(s.centre for s in shifts)
    for start in range(0, num_anchors if num_keys else 0, chunk):
        rows = slice(start, min(start + chunk, num_anchors))
        count = rows.stop - start
        teacher_logits, student_logits = buffers.teacher[:count], buffers.student[:count]
        delta = None
        if wants_delta:
            delta = student_logits if buffers.delta is buffers.student else buffers.delta[:count]
        anchors = products.scaled_operand(teacher[rows], inverse_temperature, centres[1])  # (n, D_t)
        products.multiply(anchors, teacher_keys.T, out=teacher_logits)
        anchors = products.scaled_operand(student[rows], inverse_temperature, centres[0])  # (n, D_s)
        products.multiply(anchors, student_keys.T, out=student_logits)
        row_weight = None if weight is None else weight[rows]
        arguments = teacher_logits, student_logits, biases[1], biases[0], row_weight, row_kl[rows], delta
        if not triton_rows(*arguments):
            _eager_rows(*arguments, buffers.work)
        if grad_student is not None:
            products.add_product(grad_student[rows], delta, student_keys, inverse_temperature)
        if grad_keys is not None:
            if shifts is not None:  # the sum over anchors depends on their centre
                anchors = products.scaled_operand(student[rows], inverse_temperature)
            products.add_product(grad_keys, delta.T, anchors)
    return row_kl.sum() if weight is None else (row_kl * weight).sum()


def _eager_rows(
    teacher_logits: Tensor,
    student_logits: Tensor,
    teacher_bias: Tensor | None,
    student_bias: Tensor | None,
    weight: Tensor | None,
    row_kl: Tensor,
    delta: Tensor | None,
    work: Tensor | None,
) -> None:
    """row_kl = KL of each row, delta = weight * (p_s - p_t); the logits are overwritten.

    ``work`` has as many rows as are to be computed at a time; None = all at once.

    The value is the sum over keys of p_t (log p_t - log p_s): equal inputs give exactly 0, where a difference of
    log-sum-exps would leave their rounding. The gradient of an anchor's KL with respect to its logits is p_s - p_t.
    """
    if work is None:
        work = torch.empty_like(teacher_logits)
    for start in range(0, teacher_logits.shape[0], work.shape[0]):
        rows = slice(start, start + work.shape[0])
        teacher, student = teacher_logits[rows], student_logits[rows]
        log_teacher = work[: teacher.shape[0]]
        if teacher_bias is not None:
            teacher += teacher_bias
            student += student_bias
        torch.log_softmax(teacher, dim=1, out=log_teacher)
        log_student = torch.log_softmax(student, dim=1, out=teacher)
        log_ratio = torch.sub(log_teacher, log_student, out=student)
        teacher_probability = log_teacher.exp_()
        torch.sum(log_ratio.mul_(teacher_probability), dim=1, out=row_kl[rows])
        if delta is None:
            continue
        difference = torch.sub(log_student.exp_(), teacher_probability, out=student)
        if weight is not None:
            difference *= weight[rows, None]
        if delta is not student_logits:
            delta[rows] = difference
