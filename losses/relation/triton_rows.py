"""The row-wise part of the relations as one GPU kernel: logits in, KL and its gradient out, one pass over memory.

Ten elementwise passes over the logits cost more on a GPU than the matrix products between them.
"""

import logging
from subprocess import SubprocessError
from types import SimpleNamespace

import torch
from torch import Tensor

LONGEST_ROW = 16384
"""A row of both logits stays in the registers of one program up to this many keys; longer ones are read twice."""

_LOGGER = logging.getLogger(__name__)
_STATE = SimpleNamespace(failed=False)


def triton_rows(teacher_logits: Tensor, *arguments: Tensor | None) -> bool:
    """Run the kernel if it is available and suits these tensors; arguments as in :func:`launch_rows`.

    If it is not available (no Triton, no compiler, a cache folder that cannot be written, a driver that rejects the
    code) one warning is logged, and from then on the caller's own computation is used.

    Returns:
        whether the kernel ran.

    Raises:
        RuntimeError: the device is out of memory, or reports the fault of an earlier operation.
    """
    if _STATE.failed or not teacher_logits.is_cuda or teacher_logits.dtype != torch.float32:
        return False
    device = teacher_logits.device
    try:
        with torch.cuda.device(device):  # Triton launches on the current device, whatever the tensors are on
            launch_rows(teacher_logits, *arguments)
    except _unavailable() as error:
        if _is_fault_of_device(error):
            raise
        torch.cuda.synchronize(device)  # once; raises if the device is broken, which Triton reports as a RuntimeError
        _STATE.failed = True
        _LOGGER.warning("relations are computed without the Triton kernel: %s: %s", type(error).__name__, error)
        return False
    return True


def _unavailable() -> tuple[type[Exception], ...]:
    """What is raised if the kernel cannot be imported, compiled, cached or loaded."""
    errors = ImportError, OSError, SubprocessError, RuntimeError  # a compiler that is missing is a RuntimeError
    try:
        from triton.errors import TritonError
    except ImportError:
        return errors
    return *errors, TritonError


def _is_fault_of_device(error: Exception) -> bool:
    """Out of memory, or an operation that failed earlier and is reported by whichever comes next."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ("CUDA error", "out of memory"))


def launch_rows(
    teacher_logits: Tensor,
    student_logits: Tensor,
    teacher_bias: Tensor | None,
    student_bias: Tensor | None,
    weight: Tensor | None,
    row_kl: Tensor,
    delta: Tensor | None,
) -> None:
    """Row KL and its gradient with respect to the student's logits.

    Args:
        teacher_logits, student_logits: (n, K) float32.
        teacher_bias, student_bias: (K,) added to the logits; both or none.
        weight: (n,) of the rows.
        row_kl: (n,), receives the KL of every row, without weight.
        delta: (n, K), receives weight * (p_s - p_t) in its own dtype; may be ``student_logits``. None = not computed.
    """
    count, num_keys = teacher_logits.shape
    block = 1 << max(num_keys - 1, 0).bit_length()
    whole = block <= LONGEST_ROW
    block = block if whole else 8192
    output = student_logits if delta is None else delta
    weight = None if weight is None else weight.contiguous()
    from losses.relation import kernels  # not every machine has Triton

    kernel = kernels.row_in_one_block if whole else kernels.row_in_many_blocks
    kernel[(count,)](
        teacher_logits,
        student_logits,
        row_kl if teacher_bias is None else teacher_bias,
        row_kl if student_bias is None else student_bias,
        row_kl if weight is None else weight,
        row_kl,
        output,
        num_keys,
        teacher_logits.stride(0),
        student_logits.stride(0),
        output.stride(0),
        HAS_BIAS=teacher_bias is not None,
        HAS_WEIGHT=weight is not None,
        HAS_DELTA=delta is not None,
        BLOCK=block,
        num_warps=min(max(block // 512, 4), 16),
    )
