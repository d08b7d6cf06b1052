"""Both orders of a pair of images at once: the logits of (j, i) are the transpose of those of (i, j).

So two products make the logits of both orders, rows and columns are normalised, and with delta = delta_ij + delta_ji^T
two more make the gradients: grad_i += delta S_j, grad_j += delta^T S_i. One order at a time takes eight products for
both, this takes four; of an image with itself it takes three instead of four.

The price is two L x L buffers. exp(logits) is kept unshifted in them, so that it serves rows and columns alike; that is
exact as long as no logit comes near the range of float32, which is checked beforehand (unit rows at temperature 0.1
reach 10). Symbols: L rows of an image, D embedding.
"""

from collections import Counter

import torch
from torch import Tensor

from losses.relation.centering import Centering
from losses.relation.precision import MatmulPrecision

_CHUNK = 512
"""Rows per product."""
_BLOCK_BYTES = 1 << 20
"""Elementwise operations run over fewer rows, so that three buffers fit in a core's L2 cache."""
_SMALL_BYTES = 32 << 20
_LARGEST_BYTES = 1 << 30
_LARGEST_LOGIT = 60.0


def match_orders(pairs: tuple[tuple[int, int], ...]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Split pairs into those that occur in both orders, each listed once, and the rest.

    An image with itself counts as both orders. The order of the results depends on that of ``pairs`` alone.
    """
    both: list[tuple[int, int]] = []
    waiting: Counter[tuple[int, int]] = Counter()
    for i, j in pairs:
        if i == j:
            both.append((i, i))
        elif waiting[j, i] > 0:
            waiting[j, i] -= 1
            both.append((j, i))
        else:
            waiting[i, j] += 1
    return both, list(waiting.elements())


def symmetric_suits(
    student: Tensor, teacher: Tensor, num_pairs: int, inverse_temperature: float, products: MatmulPrecision
) -> bool:
    """Whether symmetric pairs may be computed at once.

    On a CPU only: a GPU's products are so fast that passes over L x L buffers would cost more than the products saved.
    The two buffers may take an eighth of the matrices that a plain implementation keeps of all pairs, or 32 MiB if that
    is more, and at most 1 GiB.
    """
    if products.device_type != "cpu":
        return False
    matrices = 2 * student.shape[1] ** 2 * products.dtype.itemsize
    if matrices > min(max(num_pairs * matrices // 8, _SMALL_BYTES), _LARGEST_BYTES):
        return False
    norms = [torch.linalg.vector_norm(rows, dim=2, dtype=products.dtype) for rows in (student, teacher)]
    largest = max(norm.max().item() for norm in norms)
    return largest**2 * inverse_temperature <= _LARGEST_LOGIT  # False for NaN


class SymmetricPairs:
    """The two buffers and the computation that uses them."""

    def __init__(self, rows: int, products: MatmulPrecision) -> None:
        """For images of L = ``rows`` rows."""
        self.products = products
        self.teacher, self.student = torch.empty(2, rows, rows, dtype=products.dtype)
        block = max(min(_BLOCK_BYTES // (rows * products.dtype.itemsize), rows), 1)
        self.work = torch.empty(block, rows, dtype=products.dtype)

    def add(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor],
        grad: tuple[Tensor, Tensor] | None,
        inverse_temperature: float,
        same: bool,
        shifts: tuple[Centering, Centering] | None = None,
    ) -> Tensor:
        """Sum of the KL of all rows in both orders; call it inside ``products.scope()``.

        Args:
            student, teacher: rows (L, D) of the two images.
            grad: (L, D) of the two images in the products' dtype, to which the gradients are ADDED; None = none.
            inverse_temperature: multiplies the similarities.
            same: the two are one image, whose rows are counted once.
            shifts: of student and teacher, of the first image's rows as anchors to the second one's.
        """
        total, row_scales, column_scales = self._normalise(student, teacher, inverse_temperature, same, shifts)
        if grad is None:
            return total
        for rows, blocks in self._chunks():
            for block in blocks:
                self._form_delta(block, row_scales, column_scales)
            delta = self.student[rows]  # (n, L)
            self.products.add_product(grad[0][rows], delta, student[1], inverse_temperature)
            if not same:
                self.products.add_product(grad[1], delta.T, student[0][rows], inverse_temperature)
        return total

    def _chunks(self) -> list[tuple[slice, list[slice]]]:
        """Rows of every product, and the blocks of rows that they consist of."""
        rows, block = self.student.shape[0], self.work.shape[0]
        chunk = max(_CHUNK // block, 1) * block
        return [
            (
                slice(start, min(start + chunk, rows)),
                [slice(b, min(b + block, rows)) for b in range(start, min(start + chunk, rows), block)],
            )
            for start in range(0, rows, chunk)
        ]

    def _normalise(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor],
        inverse_temperature: float,
        same: bool,
        shifts: tuple[Centering, Centering] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the buffers with exp(logits).

        Per row KL = sum p_t (l_t - l_s) - log(sum exp l_t / sum exp l_s), which is exactly 0 for equal logits.

        Returns:
            the value, and 1 / (sum of exp) of teacher and student, (2, L) each: of the rows and of the columns.
        """
        count, dtype = self.student.shape[0], self.products.dtype
        by_row = torch.empty(3, count, dtype=dtype)  # sums of exp l_t, exp l_s, exp l_t * (l_t - l_s)
        by_column = torch.zeros(3, count, dtype=dtype)
        student_shift, teacher_shift = shifts or (None, None)
        for rows, blocks in self._chunks():
            for rows_of, keys, shift, out in (
                (*teacher, teacher_shift, self.teacher),
                (*student, student_shift, self.student),
            ):
                centre = None if shift is None else shift.centre
                anchors = self.products.scaled_operand(rows_of[rows], inverse_temperature, centre)
                self.products.multiply(anchors, keys.T, out=out[rows])
            for block in blocks:
                teacher_exp, student_exp = self.teacher[block], self.student[block]
                if shifts is not None:
                    teacher_exp += teacher_shift.bias
                    student_exp += student_shift.bias
                log_ratio = torch.sub(teacher_exp, student_exp, out=self.work[: teacher_exp.shape[0]])
                teacher_exp.exp_()
                student_exp.exp_()
                log_ratio.mul_(teacher_exp)
                for index, matrix in enumerate((teacher_exp, student_exp, log_ratio)):
                    torch.sum(matrix, dim=1, out=by_row[index, block])
                    if not same:
                        by_column[index] += matrix.sum(dim=0)
        total = _sum_of_kl(by_row)
        if same:
            by_column = by_row
        else:
            total += _sum_of_kl(by_column)
        return total, by_row[:2].reciprocal(), by_column[:2].reciprocal()

    def _form_delta(self, block: slice, row_scales: Tensor, column_scales: Tensor) -> None:
        """student = p_s - p_t of the rows, plus the same of the columns, from exp(logits) of teacher and student."""
        teacher, student = self.teacher[block], self.student[block]
        scale = self.work[: student.shape[0]]
        torch.add(row_scales[1, block, None], column_scales[1], out=scale)
        student.mul_(scale)
        torch.add(row_scales[0, block, None], column_scales[0], out=scale)
        student.sub_(scale.mul_(teacher))  # not addcmul, which does not give 0 for equal terms


def _sum_of_kl(sums: Tensor) -> Tensor:
    """Sum over rows from their three sums; see :meth:`SymmetricPairs._normalise`."""
    return (sums[2] / sums[0] - (sums[0] / sums[1]).log()).sum()
