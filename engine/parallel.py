"""One rule for several processes: how the task is wrapped and how its batch norms behave."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import all_reduce_sum, get_world_size, is_distributed


def distribute(task: nn.Module, device: torch.device) -> nn.Module:
    """The task itself in one process, wrapped in DDP in several."""
    if not is_distributed():
        return task
    # No broadcast of buffers: banks are equal everywhere by construction, batch norms are averaged before use.
    return DistributedDataParallel(
        task, device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
    )


def synchronize_batch_norms(task: nn.Module, device: torch.device) -> nn.Module:
    """SyncBN where several GPUs train (it does not exist for CPU tensors); plain batch norms elsewhere."""
    if device.type == "cuda" and get_world_size() > 1:
        return nn.SyncBatchNorm.convert_sync_batchnorm(task)
    return task


def average_batch_norm_statistics(modules: Iterable[nn.Module | None]) -> None:
    """Makes the running statistics of plain batch norms equal on all processes: their mean over the processes."""
    statistics = batch_norm_statistics(modules) if get_world_size() > 1 else []
    if not statistics:
        return
    total = all_reduce_sum(torch.cat([tensor.flatten() for tensor in statistics])) / get_world_size()
    for tensor, mean in zip(statistics, total.split([t.numel() for t in statistics]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def batch_norm_statistics(modules: Iterable[nn.Module | None]) -> list[Tensor]:
    """The running statistics in which processes differ: those of plain batch norms in training."""
    norms = [m for root in modules if root is not None for m in root.modules() if isinstance(m, _BatchNorm)]
    norms = [m for m in norms if m.running_mean is not None and not isinstance(m, nn.SyncBatchNorm) and m.training]
    return [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]


def check_batch_norm_batch(
    *, pools_globally: bool, images_per_process: int, batch_size: int, freeze_bn: bool, device: torch.device
) -> None:
    """Refuses a batch that batch norm after global pooling cannot normalise: one value per channel.

    Args:
        pools_globally: the network has a batch norm behind a pooling to 1x1 (DeepLabV3's and PSP's pooling branches).
        images_per_process: images in one forward pass of one process.
        batch_size: images per step over all processes, for the message.
        freeze_bn: batch norms use running statistics.
        device: several GPUs synchronise their statistics.

    Raises:
        ValueError: with the batch, the number of processes and the remedies.
    """
    synchronized = device.type == "cuda" and get_world_size() > 1
    if pools_globally and images_per_process == 1 and not freeze_bn and not synchronized:
        raise ValueError(
            f"--batch-size {batch_size} on {get_world_size()} process(es) puts 1 image at a time through the network, "
            "and the batch norm behind its global pooling needs at least 2. Use a larger batch, fewer processes or "
            "accumulation steps, several GPUs (whose batch norms are synchronised), or --freeze-bn."
        )
