"""Detects, on any device, the operations for which the host would wait for a GPU."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They read a value to the host, or the size of their result depends on values.
READS = (
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy masked_select unique_dim _unique _unique2 "
    "unique_consecutive unique_dim_consecutive bincount repeat_interleave"
).split()
BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")
# Python functions that are no ATen operations on the CPU, where nothing has to be copied.
COPIES_TO_HOST = ("cpu", "numpy", "tolist", "__array__")
COPIES_TO_DEVICE = ("tensor", "as_tensor")
BY_INDEX = ("__getitem__", "__setitem__")


class HostReadError(AssertionError):
    """An operation that makes the host wait ran where none is allowed."""


class HostReads(TorchDispatchMode):
    """Counts the operations for which the host would wait, or refuses the first.

    Copies between host and device are found if made by `cpu`, `numpy`, `tolist`, `torch.tensor(..., device=...)` or
    indices in lists, but not by `to`, which looks like a change of type on the CPU.

    Args:
        refuse: raise HostReadError, with the operation's name, instead of counting.
        host: tensors that stay on the CPU even with a GPU; reading them or their views does not count. May grow.
    """

    def __init__(self, refuse: bool = False, host: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.refuse = refuse
        self.host = host
        self.count = 0
        self._calls = _Calls(self)

    def __enter__(self) -> "HostReads":
        super().__enter__()
        self._calls.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if reads_to_host(func, args, kwargs or {}) and not self.on_host(args):
            self.notice(str(func))
        return func(*args, **(kwargs or {}))

    def notice(self, name: str) -> None:
        """Counts an operation, or refuses it."""
        if self.refuse:
            raise HostReadError(name)
        self.count += 1

    def on_host(self, args: Sequence) -> bool:
        """Whether all tensors among the arguments are known to be on the CPU."""
        known = {tensor.untyped_storage().data_ptr() for tensor in self.host}
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        return bool(known and tensors) and all(tensor.untyped_storage().data_ptr() in known for tensor in tensors)


class _Calls(TorchFunctionMode):
    """Reports copies to `HostReads` that are no ATen operations."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if copies(name, args, kwargs or {}) and not self._reads.on_host(args):
            self._reads.notice(name)
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


def copies(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a function of torch's Python surface copies between host and device and waits for it."""
    if name in COPIES_TO_DEVICE:
        return kwargs.get("device") is not None
    if name in BY_INDEX:
        indices = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(index, (list, np.ndarray)) for index in indices)
    return name in COPIES_TO_HOST
