"""Keeps a run good from the first loss or gradient on that is not finite, without making it wait for the device."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.state import Training, generators, restore_generators
from engine.stopping import StepAgreement
from losses.memory_bank import MemoryBank
from utils.meters import GRADIENT

SMALLEST_SCALE = 2.0**-10
"""Of fp16's losses: it is halved at each bad step, from 65536, so that there were 26 more bad steps than good ones."""


@dataclass(frozen=True)
class _Mark:
    """How things stood before a step."""

    generators: dict[str, Any]
    rates: list[float]


class FiniteGuard:
    """Undoes what a bad step did, and lets no later step do anything.

    A step is bad where a loss, in any process, or a gradient is not finite. Batch norms' statistics and all other
    buffers that the forward pass moved are put back, rows written to banks are taken back, and the update is left out.
    On the CPU the host knows at once; on a GPU all of this is masked there by a flag that stays up, and the run learns
    of it when it next looks. With fp16 the scaler finds and skips bad steps, which are part of its search for a scale:
    the flag then holds for the one step.

    Args:
        training: what is guarded.
        device: where it is.
        agreement: hears of every step.
        on_host: whether the flag is read at every step; by default on the CPU.
    """

    def __init__(
        self, training: Training, device: torch.device, agreement: StepAgreement, on_host: bool | None = None
    ) -> None:
        self._training, self._device, self._agreement = training, device, agreement
        self.on_host = device.type == "cpu" if on_host is None else on_host
        self._skips = training.scaler.is_enabled()
        self._scale = training.scaler.get_scale()
        self._banks = [module for module in training.task.modules() if isinstance(module, MemoryBank)]
        in_banks = {id(buffer) for bank in self._banks for buffer in bank.buffers()}
        groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in training.task.buffers():
            if id(buffer) not in in_banks:
                groups[buffer.dtype].append(buffer)
        self._buffers = list(groups.values())
        self._before: list[Tensor] = []
        self._marks: dict[int, _Mark] = {}
        self._rates = [group["lr"] for group in training.optimizer.param_groups]
        self.positions: list[tuple[int, list[int]]] = []  # iteration and positions of its samples, since the last log
        self._parameters = [(name, p) for name, p in training.task.named_parameters() if p.requires_grad]
        self._indices_on_host: list[int] = []  # of the parameters that have gradients
        self._indices: Tensor | None = None
        self._bad_parameter: Tensor | None = None  # index among the parameters, -1 while all gradients were finite
        self.skip = False  # whether the host knows that the update is to be left out
        self.masked: Tensor | None = None  # 0-dimensional bool: the same on the device

    @torch.no_grad()
    def begin(self, positions: Iterable[Tensor] = ()) -> None:
        """Remembers how things stand before a step, whose learning rates are set already.

        Args:
            positions: of the step's samples in the training stream, a tensor for each micro-batch, on the CPU.
        """
        training = self._training
        if self.on_host:
            self._marks.clear()  # a bad step is known before the next one
        self._marks[training.iteration] = _Mark(generators(self._device), self._rates)
        self._rates = [group["lr"] for group in training.optimizer.param_groups]
        self.positions.append((training.iteration + 1, [int(p) for part in positions for p in part]))
        self._before = [_flat(buffers) for buffers in self._buffers]
        for bank in self._banks:
            bank.journal = []

    @torch.no_grad()
    def judge(self, losses: Sequence[dict[str, Tensor]]) -> None:
        """Looks at a step after its backward pass, and takes back what it did if it was bad. All processes together.

        Afterwards `skip` and `masked` say what is to become of the update, and the losses of a good step are in the
        meter.

        Args:
            losses: of each micro-batch.
        """
        meter, iteration = self._training.meter, self._training.iteration + 1
        finite = self._finite_gradients()
        bad_gradient = ~finite.all()
        if self._skips:
            values = torch.stack([loss.detach().float() for terms in losses for loss in terms.values()])
            bad = ~values.isfinite().all() | bad_gradient
        else:
            for terms in losses:
                meter.note(terms, iteration)
            meter.note_gradient(bad_gradient, iteration)
            self._note_parameter(finite, bad_gradient)
            bad = meter.bad(self._device)
        bad = self._agreement.exchange(bad)
        self.skip = self.on_host and bool(bad)
        self.masked = bad
        if self._skips:
            self._tell_scaler(bad)
        if self.skip or not self.on_host:
            self._take_back(bad)
        for bank in self._banks:
            bank.journal = None
        for terms in losses:
            meter.add(terms, keep=None if self.on_host and not self.skip else ~bad)

    def finding(self) -> tuple[int, str] | None:
        """The first bad step and what to say of it, or None. A collective, and a wait on a GPU.

        On the CPU it is neither unless there is one.
        """
        if self._skips:
            self._marks.clear()
            before, self._scale = self._scale, self._training.scaler.get_scale()
            if self._scale >= SMALLEST_SCALE or self._scale >= before:  # a resumed run may find its way up again
                return None
            return self._training.iteration + 1, "fp16 finds no scale for finite gradients"
        found = self._training.meter.first_bad(across_processes=True) if self.skip or not self.on_host else None
        if found is None:
            self._marks.clear()
            return None
        iteration, name = found
        if name == GRADIENT:
            name = f"the gradient of {self._parameters[int(self._bad_parameter)][0]}"
        return iteration, f"{name} is not finite at iteration {iteration}"

    def rewind(self, iteration: int) -> None:
        """Makes the training that of after the last good step, number `iteration` - 1, as far as masking has not.

        Args:
            iteration: of the first bad step.
        """
        training = self._training
        masked = training.iteration - (iteration - 1)
        training.iteration = iteration - 1
        mark = self._marks.get(training.iteration)
        if mark is not None:
            restore_generators(mark.generators, self._device)
            for group, rate in zip(training.optimizer.param_groups, mark.rates, strict=True):
                group["lr"] = rate
        if training.ema is not None and not self.on_host:
            training.ema.n_averaged -= masked
        training.health = {}

    def _finite_gradients(self) -> Tensor:
        """(P,) bool, whether each parameter's gradient is finite."""
        gradients = [(i, p.grad) for i, (_, p) in enumerate(self._parameters) if p.grad is not None]
        norms = torch._foreach_norm([gradient for _, gradient in gradients])
        indices = [i for i, _ in gradients]
        if self._indices is None or indices != self._indices_on_host:  # sent to the device once
            self._indices_on_host = indices
            self._indices = torch.tensor(indices).to(self._device, non_blocking=True)
        return torch.stack(norms).isfinite()

    def _tell_scaler(self, bad: Tensor) -> None:
        """Makes a gradient of every optimiser infinite after a bad step, for the scaler asks each for its own alone."""
        for optimizer in filter(None, (self._training.optimizer, self._training.separate_optimizer)):
            gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            gradient = next(gradients, None)
            if gradient is not None:
                gradient.add_(torch.where(bad, torch.inf, 0.0))

    def _note_parameter(self, finite: Tensor, bad: Tensor) -> None:
        if self.on_host and not bool(bad):
            return
        index = self._indices.gather(0, finite.int().argmin(0, keepdim=True))[0]  # [...] would wait for the device
        before = index.new_full((), -1) if self._bad_parameter is None else self._bad_parameter
        self._bad_parameter = torch.where((before < 0) & bad, index, before)

    def _take_back(self, bad: Tensor) -> None:
        for buffers, before in zip(self._buffers, self._before, strict=True):
            kept = torch.where(bad, before, _flat(buffers))
            parts = kept.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view_as(b) for part, b in zip(parts, buffers, strict=True)])
        for bank in self._banks:
            bank.undo(bad)


def step_masked(optimizer: torch.optim.Optimizer, masked: Tensor) -> None:
    """A step of a fused optimiser that does nothing where `masked`, a 0-dimensional bool on its device, is True."""
    optimizer.grad_scale, optimizer.found_inf = None, masked.float()
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf


class Averaged(AveragedModel):
    """torch's average, whose own update sends its counter to the device at every step, which waits for the device."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averages = [*self.module.parameters(), *self.module.buffers()]
        values = [*model.parameters(), *model.buffers()]
        if int(self.n_averaged) == 0:  # it stays on the CPU
            torch._foreach_copy_(averages, values)
        else:
            for dtype in dict.fromkeys(average.dtype for average in averages):
                pairs = [(a, v) for a, v in zip(averages, values, strict=True) if a.dtype == dtype]
                self.multi_avg_fn([a for a, _ in pairs], [v for _, v in pairs], self.n_averaged)
        self.n_averaged += 1


class MaskedAverage:
    """The update of an exponential moving average for `AveragedModel`, which does nothing where `masked` is True.

    Args:
        decay: of the average.

    Attributes:
        masked: 0-dimensional bool on the device, or None for torch's own update.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self._plain = decay, get_ema_multi_avg_fn(decay)
        self.masked: Tensor | None = None

    @torch.no_grad()
    def __call__(self, averages: list[Tensor], values: list[Tensor], updates: Tensor | int) -> None:
        """Moves the averages, tensors of one dtype, in place."""
        if self.masked is None:
            self._plain(averages, values, updates)
        elif averages[0].is_floating_point():
            differences = torch._foreach_sub(values, averages)
            torch._foreach_mul_(differences, (1 - self.decay) * ~self.masked)
            torch._foreach_add_(averages, differences)
        else:
            for average, value in zip(averages, values, strict=True):
                moved = (average * self.decay + value * (1 - self.decay)).to(average.dtype)
                average.copy_(torch.where(self.masked, average, moved))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
