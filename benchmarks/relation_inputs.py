"""Feature maps, labels and banks of the benchmark of the relation terms."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.modules.context import GraphContext
from losses.modules.cross_image import ChannelMemory, PixelMemory
from losses.modules.memory_bank import MemoryBank

CLASSES = 19
PIXEL_DRAW, REGION_DRAW, CHANNEL_DRAW = 4096, 1024, 2048


class Inputs:
    """Feature maps, labels and banks."""

    def __init__(
        self,
        size: tuple[int, int, int, int],
        device: str,
        distance: float = 0.5,
        active: bool = False,
        spread: float = 0.0,
    ) -> None:
        """Smooth teacher maps with noise and a student like them, (B, C, h, w); banks of rows like the teacher's.

        ``distance`` is that of the student. With ``active`` the channels have different means and a ReLU follows.
        Centres of the classes, ``spread`` times as large as the rest, are added to patches of the maps.
        """
        generator = torch.Generator().manual_seed(0)
        batch, channels, height, width = size

        def maps(count: int) -> Tensor:
            coarse = torch.randn(count, channels, -(-height // 8), -(-width // 8), generator=generator)
            smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
            smooth += 0.5 * torch.randn(smooth.shape, generator=generator)
            return smooth + F.interpolate(spread * patches(count), (height, width)) if spread else smooth

        def patches(count: int) -> Tensor:
            classes = torch.randint(0, CLASSES, (count, -(-height // 8), -(-width // 8)), generator=generator)
            return centres[classes].movedim(-1, 1)

        centres = torch.randn(CLASSES, channels, generator=torch.Generator().manual_seed(2))
        mean = torch.randn(channels, 1, 1, generator=torch.Generator().manual_seed(1))

        def features(maps: Tensor) -> Tensor:
            return (maps + mean).relu() if active else maps

        teacher = maps(batch)
        self.teacher = features(teacher).to(device)
        student = teacher + distance * torch.randn(teacher.shape, generator=generator)
        self.student = features(student).to(device).requires_grad_()
        self.target = torch.randint(0, CLASSES, (batch, height, width), generator=generator)
        self.target[torch.rand(self.target.shape, generator=generator) < 0.05] = 255
        self.target = self.target.to(device)
        counts = PIXEL_DRAW // CLASSES + 1, REGION_DRAW // CLASSES + 1  # banks of as many rows as are drawn of them
        self.pixels = PixelMemory(CLASSES, channels, *counts, PIXEL_DRAW, REGION_DRAW, torch.bfloat16, 0).eval()
        pooled = (-(-height // 4), -(-width // 4))
        self.channels = ChannelMemory(CHANNEL_DRAW, CHANNEL_DRAW, pooled, torch.bfloat16, 0).eval()
        rows = features(maps(2)).flatten(2).transpose(1, 2).flatten(0, 1)  # (2 * h * w, C)
        for bank in (self.pixels.pixel_bank, self.pixels.region_bank):
            fill(bank, rows[torch.randint(0, rows.shape[0], (bank.num_queues * bank.size,), generator=generator)])
        rows = torch.randn(CHANNEL_DRAW, math.prod(pooled), generator=generator)
        fill(self.channels.bank, rows.abs() if active else rows)
        self.pixels.to(device)
        self.channels.to(device)
        self.context = GraphContext(channels).to(device)


def fill(bank: MemoryBank, rows: Tensor) -> None:
    """Make ``rows`` (rings * size, D) the bank's contents."""
    bank.queue[:-1] = F.normalize(rows, dim=1).to(bank.queue.dtype)
    bank.queue_count.fill_(bank.size)
