"""The row-wise part of the relations as one GPU kernel: logits in, KL and its gradient out, one pass over memory.

Ten elementwise passes over the logits cost more on a GPU than the matrix products between them.
"""

import logging
from types import SimpleNamespace

import torch
from torch import Tensor

LONGEST_ROW = 16384
"""A row of both logits stays in the registers of one program up to this many keys; longer ones are read twice."""

_LOGGER = logging.getLogger(__name__)
_STATE = SimpleNamespace(failed=False)


def triton_rows(
    teacher_logits: Tensor,
    student_logits: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
    row_kl: Tensor,
    delta: Tensor | None,
) -> bool:
    """Row KL and its gradient with respect to the student's logits, if these tensors suit the kernel.

    Where it cannot be compiled this is said once, and from then on the caller's own computation is used.

    Args:
        teacher_logits, student_logits: (n, K) float32.
        bias: (K,) added to both. weight: (n,) of the rows.
        row_kl: (n,), gets the KL of every row, without weight.
        delta: (n, K), gets weight * (p_s - p_t) in its own dtype; may be ``student_logits``. None = not wanted.

    Returns:
        whether it was done.
    """
    if _STATE.failed or not teacher_logits.is_cuda or teacher_logits.dtype != torch.float32:
        return False
    try:
        launch_rows(teacher_logits, student_logits, bias, weight, row_kl, delta)
    except torch.OutOfMemoryError:
        raise  # no fault of the kernel's
    except Exception as error:
        # whatever the compiler, its cache folder or the driver objects to: the result is the same without it
        _STATE.failed = True
        _LOGGER.warning("relations are computed without the Triton kernel: %s: %s", type(error).__name__, error)
        return False
    return True


def launch_rows(
    teacher_logits: Tensor,
    student_logits: Tensor,
    bias: Tensor | None,
    weight: Tensor | None,
    row_kl: Tensor,
    delta: Tensor | None,
) -> None:
    """Run the kernel; arguments as in :func:`triton_rows`."""
    count, num_keys = teacher_logits.shape
    block = 1 << max(num_keys - 1, 0).bit_length()
    whole = block <= LONGEST_ROW
    block = block if whole else 8192
    output = student_logits if delta is None else delta
    from losses import relation_kernels  # not every machine has Triton

    kernel = relation_kernels.row_in_one_block if whole else relation_kernels.row_in_many_blocks
    kernel[(count,)](
        teacher_logits,
        student_logits,
        row_kl if bias is None else bias,
        row_kl if weight is None else weight,
        row_kl,
        output,
        num_keys,
        teacher_logits.stride(0),
        student_logits.stride(0),
        output.stride(0),
        HAS_BIAS=bias is not None,
        HAS_WEIGHT=weight is not None,
        HAS_DELTA=delta is not None,
        BLOCK=block,
        num_warps=min(max(block // 512, 4), 16),
    )
