"""Triton kernels of :mod:`losses.relation.triton_rows`; importing this needs Triton.

One program computes one row of n x K logits of teacher and student. Arguments are those of
:func:`losses.relation.triton_rows.launch_rows`, as pointers and row strides.
"""

import triton
import triton.language as tl


@triton.jit
def load_logits(row_pointer, bias_pointer, column, inside, HAS_BIAS: tl.constexpr):
    logits = tl.load(row_pointer + column, mask=inside, other=-float("inf"))
    if HAS_BIAS:
        logits += tl.load(bias_pointer + column, mask=inside, other=0.0)
    return logits


@triton.jit
def row_in_one_block(
    teacher_pointer,
    student_pointer,
    teacher_bias_pointer,
    student_bias_pointer,
    weight_pointer,
    kl_pointer,
    delta_pointer,
    num_keys,
    teacher_stride,
    student_stride,
    delta_stride,
    HAS_BIAS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_keys
    teacher = load_logits(teacher_pointer + row * teacher_stride, teacher_bias_pointer, column, inside, HAS_BIAS)
    student = load_logits(student_pointer + row * student_stride, student_bias_pointer, column, inside, HAS_BIAS)
    teacher -= tl.max(teacher, axis=0)
    student -= tl.max(student, axis=0)
    teacher_exp = tl.exp(teacher)
    student_exp = tl.exp(student)
    teacher_sum = tl.sum(teacher_exp, axis=0)
    student_sum = tl.sum(student_exp, axis=0)
    teacher_probability = teacher_exp / teacher_sum
    log_ratio = (teacher - tl.log(teacher_sum)) - (student - tl.log(student_sum))
    tl.store(kl_pointer + row, tl.sum(tl.where(inside, teacher_probability * log_ratio, 0.0), axis=0))
    if HAS_DELTA:
        delta = student_exp / student_sum - teacher_probability
        if HAS_WEIGHT:
            delta *= tl.load(weight_pointer + row)
        tl.store(delta_pointer + row * delta_stride + column, delta.to(delta_pointer.dtype.element_ty), mask=inside)


@triton.jit
def row_in_many_blocks(
    teacher_pointer,
    student_pointer,
    teacher_bias_pointer,
    student_bias_pointer,
    weight_pointer,
    kl_pointer,
    delta_pointer,
    num_keys: tl.constexpr,  # fixed in a run
    teacher_stride,
    student_stride,
    delta_stride,
    HAS_BIAS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    teacher_max = -float("inf")
    student_max = -float("inf")
    teacher_sum = 0.0
    student_sum = 0.0
    for start in range(0, num_keys, BLOCK):  # online: sums are rescaled when a larger logit comes
        column = start + tl.arange(0, BLOCK)
        inside = column < num_keys
        teacher = load_logits(teacher_pointer + row * teacher_stride, teacher_bias_pointer, column, inside, HAS_BIAS)
        student = load_logits(student_pointer + row * student_stride, student_bias_pointer, column, inside, HAS_BIAS)
        new_max = tl.maximum(teacher_max, tl.max(teacher, axis=0))
        teacher_sum = teacher_sum * tl.exp(teacher_max - new_max) + tl.sum(tl.exp(teacher - new_max), axis=0)
        teacher_max = new_max
        new_max = tl.maximum(student_max, tl.max(student, axis=0))
        student_sum = student_sum * tl.exp(student_max - new_max) + tl.sum(tl.exp(student - new_max), axis=0)
        student_max = new_max
    teacher_log_sum = tl.log(teacher_sum)
    student_log_sum = tl.log(student_sum)
    weight = 1.0
    if HAS_WEIGHT:
        weight = tl.load(weight_pointer + row)
    total = 0.0
    for start in range(0, num_keys, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < num_keys
        teacher = load_logits(teacher_pointer + row * teacher_stride, teacher_bias_pointer, column, inside, HAS_BIAS)
        student = load_logits(student_pointer + row * student_stride, student_bias_pointer, column, inside, HAS_BIAS)
        log_teacher = teacher - teacher_max - teacher_log_sum
        log_student = student - student_max - student_log_sum
        teacher_probability = tl.exp(log_teacher)
        total += tl.sum(tl.where(inside, teacher_probability * (log_teacher - log_student), 0.0), axis=0)
        if HAS_DELTA:
            delta = (tl.exp(log_student) - teacher_probability) * weight
            tl.store(delta_pointer + row * delta_stride + column, delta.to(delta_pointer.dtype.element_ty), mask=inside)
    tl.store(kl_pointer + row, total)
