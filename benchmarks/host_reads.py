"""Operations for which the host waits on a GPU, found on any device while code runs."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They read a value to the host, or the size of their result depends on values.
READS = (
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy masked_select unique_dim _unique _unique2 "
    "unique_consecutive unique_dim_consecutive bincount repeat_interleave"
).split()
BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")


class HostReadError(AssertionError):
    """An operation that makes the host wait was met where none is allowed."""


class HostReads(TorchDispatchMode):
    """Counts the operations for which the host would wait, or refuses the first.

    Args:
        refuse: raise HostReadError, with the operation's name, instead of counting.
    """

    def __init__(self, refuse: bool = False) -> None:
        super().__init__()
        self.refuse = refuse
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if reads_to_host(func, args, kwargs or {}):
            if self.refuse:
                raise HostReadError(str(func))
            self.count += 1
        return func(*args, **(kwargs or {}))


def reads_to_host(func, args: tuple, kwargs: dict) -> bool:
    """Whether the host waits for the result of an ATen operation, or for its size."""
    name = func._schema.name.removeprefix("aten::")
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in BY_MASK:
        masks = (torch.bool, torch.uint8)
        return any(isinstance(leaf, Tensor) and leaf.dtype in masks for leaf in tree_leaves(args[1]))
    return name in READS
