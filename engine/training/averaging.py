"""Averaged weights that can be left out of a step on the device."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class AveragedWeights(AveragedModel):
    """Exponential moving average of a network's parameters and buffers.

    torch's own update sends its counter to the device at every step, which waits for the device, and cannot be masked.

    Args:
        network: is copied.
        decay: of the average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, masked: Tensor | None = None) -> None:
        """Moves the averages towards the network's values; the first update copies them.

        Args:
            model: the network.
            masked: 0-dimensional bool on its device; where it is True nothing moves.
        """
        averages = [*self.module.parameters(), *self.module.buffers()]
        values = [*model.parameters(), *model.buffers()]
        pairs = list(zip(averages, values, strict=True))
        if int(self.n_averaged) == 0:  # it stays on the CPU
            torch._foreach_copy_(averages, values)
        else:
            share = 1 - self.decay if masked is None else (1 - self.decay) * ~masked
            moving = [(average, value) for average, value in pairs if average.is_floating_point()]
            for dtype in dict.fromkeys(average.dtype for average, _ in moving):
                own = [average for average, _ in moving if average.dtype == dtype]
                differences = torch._foreach_sub([value for _, value in moving if value.dtype == dtype], own)
                torch._foreach_mul_(differences, share)
                torch._foreach_add_(own, differences)
            for average, value in pairs:
                if not average.is_floating_point():  # counters of batch norms, as torch averages them
                    moved = (average * self.decay + value * (1 - self.decay)).to(average.dtype)
                    average.copy_(moved if masked is None else torch.where(masked, average, moved))
        self.n_averaged += 1
