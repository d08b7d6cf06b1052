"""Matrix products of the relations: operands in full or in half precision, results always in full precision.

With bfloat16 operands the logits of unit rows at temperature 0.1 are off by at most 0.04 (2^-9 of each factor), and
usually by far less because the errors of the terms cancel. A bfloat16 result would add up to 0.02, so sums and softmax
statistics are computed from full-precision results.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

RELATION_DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
"""Names of the settings -> ``operand_dtype`` of the relation functions."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Losses are computed in float32 whatever autocast is set to, and in float64 for float64 input."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class MatmulPrecision:
    """How two-dimensional tensors are multiplied.

    On a CPU the operands stay float32 tensors, which oneDNN rounds inside its kernels (and does not round if the
    processor has no bfloat16 products: slower and more exact). On CUDA they are bfloat16 tensors.

    Attributes:
        dtype: of results, statistics and sums.
        rounded: operands have the precision of bfloat16.
        device_type: "cpu", "cuda", ...
    """

    dtype: torch.dtype
    rounded: bool
    device_type: str

    @classmethod
    def choose(cls, tensor: Tensor, operand_dtype: torch.dtype | None) -> "MatmulPrecision":
        """For anchors like ``tensor``; float64 anchors are never rounded.

        Raises:
            ValueError: an operand dtype other than None, float32 and bfloat16.
        """
        if operand_dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"operand_dtype must be float32 or bfloat16, got {operand_dtype}")
        dtype = compute_dtype(tensor)
        return cls(dtype, operand_dtype == torch.bfloat16 and dtype == torch.float32, tensor.device.type)

    @property
    def operand_dtype(self) -> torch.dtype:
        """Dtype of the tensors that are multiplied."""
        return torch.bfloat16 if self.rounded and self.device_type != "cpu" else self.dtype

    def operand(self, tensor: Tensor) -> Tensor:
        """``tensor`` as the products take it."""
        return tensor.to(self.operand_dtype)

    def scaled_operand(self, tensor: Tensor, scale: float, centre: Tensor | None = None) -> Tensor:
        """``(tensor - centre) * scale``, rounded once; no ``centre`` = 0."""
        tensor = tensor.to(self.dtype)
        return self.operand(tensor * scale if centre is None else torch.add(centre * -scale, tensor, alpha=scale))

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """out = left right, in ``dtype``."""
        if left.dtype == out.dtype:
            torch.mm(left, right, out=out)
        elif left.is_cuda:
            torch.mm(left, right, out_dtype=out.dtype, out=out)
        else:
            torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)

    def add_product(self, target: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> None:
        """target += scale * left right, where the target may have another precision than the factors."""
        if target.dtype == left.dtype == self.dtype:
            target.addmm_(left, right, alpha=scale)
            return
        product = torch.empty(target.shape, dtype=self.dtype, device=target.device)
        self.multiply(left, right, out=product)
        target.add_(product, alpha=scale)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Context of the matrix products: no autocast, and on a CPU the precision that oneDNN may use."""
        with torch.autocast(self.device_type, enabled=False):
            if not (self.rounded and self.device_type == "cpu"):
                yield
                return
            switch = torch.backends.mkldnn.matmul
            before = switch.fp32_precision
            switch.fp32_precision = "bf16"
            try:
                yield
            finally:
                switch.fp32_precision = before
