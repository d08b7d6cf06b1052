"""Gradient checkpointing of a backbone's blocks (Chen et al. 2016, arXiv:1604.06174).

Only a block's inputs stay in memory; the backward pass computes the rest again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models.layers import InvertedResidual
from models.surgery.sync_batch_norm import SyncBatchNorm

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_blocks(backbone: nn.Module) -> int:
    """Checkpoint every block of a backbone in training, in place; return their number.

    Values, statistics, names, state and evaluation stay the same.

    Raises:
        ValueError: no blocks are found.
    """
    blocks = list_blocks(backbone)
    for block in blocks:
        block.forward = MethodType(_checkpointed, block)  # a bound method: copies of the network have their own
    return len(blocks)


def list_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone, in order.

    Raises:
        ValueError: it has none.
    """
    blocks = list(_find_blocks(backbone))
    if not blocks:
        name = getattr(backbone, "name", type(backbone).__name__)
        raise ValueError(
            f"the backbone {name} is not built of blocks that could be computed again: expected another backbone, or "
            "no --grad-checkpointing."
        )
    return blocks


def _find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost composed modules in containers: a backbone's blocks."""
    listed = type(module) in _CONTAINERS
    for child in module.children():
        composed = type(child) not in _CONTAINERS and any(True for _ in child.children())
        if isinstance(child, InvertedResidual) or (listed and composed):
            yield child
        else:
            yield from _find_blocks(child)


def _checkpointed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():
        if any(isinstance(module, SyncBatchNorm) for module in block.modules()):
            return _uncompiled(block, forward, args, kwargs)
        # The compiler does not repeat the statistics' update, if it compiles the block as a whole.
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return _checkpoint(block, forward, args, kwargs)


def _checkpoint(block: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


_uncompiled = torch.compiler.disable(_checkpoint)  # blocks that communicate between processes cannot be compiled whole


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms do not update their running statistics with the batch a second time."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
