"""Similarity-distribution KL as autograd functions that form the gradient in the forward pass.

Memory beyond inputs and gradients is a few buffers of chunks x keys, whatever the number of anchors. The functions
that users call are in :mod:`losses.functional`. Symbols: B images, N anchors, L rows of an image, D embedding, K keys.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from losses.relation.centering import Centering, mean_row
from losses.relation.precision import MatmulPrecision
from losses.relation.rows import Buffers, key_bias, relation_rows
from losses.relation.symmetric import SymmetricPairs, match_orders, symmetric_suits


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
        operand_dtype: torch.dtype | None,
        grad_enabled: bool,
    ) -> Tensor:
        products = MatmulPrecision.choose(student, operand_dtype)
        dtype = products.dtype
        grad_student = torch.zeros_like(student) if grad_enabled and ctx.needs_input_grad[0] else None
        grad_keys = None
        if grad_enabled and ctx.needs_input_grad[1]:
            grad_keys = torch.zeros_like(student_keys, dtype=dtype)
        weight = None if weight is None else weight.to(dtype)
        keys = student_keys, teacher_keys
        shifts = None
        if products.rounded:
            centres = _of_both(lambda rows: mean_row(rows, key_mask), *keys)
            shifts = _shifts(centres, keys, inverse_temperature)
        student_operand, teacher_operand = _of_both(products.operand, *keys)
        with products.scope():
            total = relation_rows(
                student,
                teacher,
                student_operand,
                teacher_operand,
                inverse_temperature,
                products,
                Buffers.allocate(student, student_keys.shape[0], products, chunk_size),
                weight=weight,
                bias=key_bias(key_mask, dtype),
                shifts=shifts,
                grad_student=grad_student,
                grad_keys=grad_keys,
            )
        ctx.save_for_backward(grad_student, None if grad_keys is None else grad_keys.to(student_keys.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if grad is None else grad * grad_output for grad in ctx.saved_tensors), *[None] * 8


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
        operand_dtype: torch.dtype | None,
        grad_enabled: bool,
    ) -> Tensor:
        products = MatmulPrecision.choose(student, operand_dtype)
        need = grad_enabled and ctx.needs_input_grad[0]
        grad = torch.zeros_like(student, dtype=products.dtype) if need else None
        total = torch.zeros((), dtype=products.dtype, device=student.device)
        if pairs and student.shape[1]:
            total += _sum_of_pairs(student, teacher, pairs, inverse_temperature, chunk_size, products, grad)
        if need:
            ctx.save_for_backward(grad.to(student.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None, None, None, None


def _of_both(prepare: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """``prepare`` of the student's and of the teacher's keys; once if they are the same tensor, a bank's."""
    prepared = prepare(student)
    return prepared, prepared if teacher is student else prepare(teacher)


def _shifts(
    centres: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], inverse_temperature: float
) -> tuple[Centering, Centering]:
    """Of student and teacher; call it outside ``products.scope()``."""
    student = Centering.to_keys(centres[0], keys[0], inverse_temperature)
    if centres[1] is centres[0] and keys[1] is keys[0]:
        return student, student
    return student, Centering.to_keys(centres[1], keys[1], inverse_temperature)


def _sum_of_pairs(
    student: Tensor,
    teacher: Tensor,
    pairs: tuple[tuple[int, int], ...],
    inverse_temperature: float,
    chunk_size: int | None,
    products: MatmulPrecision,
    grad: Tensor | None,
) -> Tensor:
    """Sum of the KL of all rows of all pairs; its gradient is added to ``grad`` (B, L, D_s)."""
    both, single = match_orders(pairs)
    if not both or chunk_size or not symmetric_suits(student, teacher, len(pairs), inverse_temperature, products):
        both, single = [], list(pairs)
    shifts: dict[tuple[int, int], tuple[Centering, Centering]] = {}
    if products.rounded:
        centres = mean_row(student), mean_row(teacher)  # (B, D_s), (B, D_t)
        for i, j in {*both, *single}:
            shifts[i, j] = _shifts((centres[0][i], centres[1][i]), (student[j], teacher[j]), inverse_temperature)
    total = torch.zeros((), dtype=products.dtype, device=student.device)
    student_keys, teacher_keys = products.operand(student), products.operand(teacher)  # on a CPU usually the same
    with products.scope():
        if both:
            symmetric = SymmetricPairs(student.shape[1], products)
            for i, j in both:
                total += symmetric.add(
                    (student_keys[i], student_keys[j]),
                    (teacher_keys[i], teacher_keys[j]),
                    None if grad is None else (grad[i], grad[j]),
                    inverse_temperature,
                    same=i == j,
                    shifts=shifts.get((i, j)),
                )
            del symmetric
        if single:
            buffers = Buffers.allocate(student[0], student.shape[1], products, chunk_size)
            for i, j in single:
                total += relation_rows(
                    student[i],
                    teacher[i],
                    student_keys[j],
                    teacher_keys[j],
                    inverse_temperature,
                    products,
                    buffers,
                    shifts=shifts.get((i, j)),
                    grad_student=None if grad is None else grad[i],
                    grad_keys=None if grad is None else grad[j],
                )
    return total
