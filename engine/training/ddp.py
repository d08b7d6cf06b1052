"""One rule for several processes: how the task is wrapped and how its batch norms behave."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.surgery.sync_batch_norm import convert_sync_batch_norms
from utils.distributed import get_world_size, is_distributed


def distribute(task: nn.Module, device: torch.device) -> nn.Module:
    """The task itself in one process, wrapped in DDP in several."""
    if not is_distributed():
        return task
    # No broadcast of buffers: banks and the statistics of batch norms are equal everywhere by construction.
    return DistributedDataParallel(
        task, device_ids=[device.index] if device.type == "cuda" else None, broadcast_buffers=False
    )


def synchronize_batch_norms(task: nn.Module) -> nn.Module:
    """The task with batch norms over the images of all processes; one process's stay as they are."""
    return convert_sync_batch_norms(task) if get_world_size() > 1 else task


def check_batch_norm_batch(*, pools_globally: bool, images_per_process: int, batch_size: int, freeze_bn: bool) -> None:
    """Refuses a batch that batch norm after global pooling cannot normalise: one value per channel.

    Args:
        pools_globally: the network has a batch norm behind a pooling to 1x1 (DeepLabV3's and PSP's pooling branches).
        images_per_process: images in one forward pass of one process; batch norms see those of all together.
        batch_size: images per step over all processes, for the message.
        freeze_bn: batch norms use running statistics.

    Raises:
        ValueError: with the batch, the number of processes and the remedies.
    """
    images = images_per_process * get_world_size()
    if pools_globally and images == 1 and not freeze_bn:
        raise ValueError(
            f"--batch-size {batch_size} puts 1 image at a time through the network, and the batch norm behind its "
            "global pooling needs at least 2. Use a larger batch, fewer accumulation steps, or --freeze-bn."
        )
