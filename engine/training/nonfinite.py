"""Finds losses and gradients that are not finite without making the training wait for the device."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from engine.run.directory import BAD_BATCHES, RunDirectory
from engine.run.state import TrainState
from utils.distributed import all_gather_object, is_main_process
from utils.files import write_text
from utils.meters import GRADIENT

SMALLEST_SCALE = 2.0**-10
"""Of fp16's losses: it is halved at each bad step, from 65536, so that there were 26 more bad steps than good ones."""


class NonFiniteCheck:
    """A flag on the device that is set by the first loss, in any process, or gradient that is not finite.

    Every update from then on is masked by it, so that weights, momentum and averages stay as they were. The host looks
    at it when it next waits for the device anyway (`first_bad`), and the run ends there: what the forward passes have
    moved meanwhile (batch norms' statistics, banks) is not saved. With fp16 the scaler finds and skips bad steps, which
    are part of its search for a scale: the flag then holds for the one step.

    Args:
        state: what trains.
        device: where it is.
        exchange: whether a step was bad in this process -> whether it was in any; see `RankFlags.exchange`.

    Attributes:
        masked: 0-dimensional bool on the device, whether the update is to be left out.
        positions: iteration and positions of its samples in the training stream, since they were last cleared.
    """

    def __init__(self, state: TrainState, device: torch.device, exchange: Callable[[Tensor], Tensor]) -> None:
        self._state, self._device, self._exchange = state, device, exchange
        self._skips = state.scaler.is_enabled()
        self._scale = state.scaler.get_scale()
        self._parameters = [(name, p) for name, p in state.task.named_parameters() if p.requires_grad]
        self._indices_on_host: list[int] = []  # of the parameters that have gradients
        self._indices: Tensor | None = None
        self._bad_parameter: Tensor | None = None  # index among the parameters, -1 while all gradients were finite
        self.masked = torch.zeros((), dtype=torch.bool, device=device)
        self.positions: list[tuple[int, list[int]]] = []

    def note_samples(self, positions: Iterable[Tensor]) -> None:
        """Remembers which samples the next step reads: a tensor for each micro-batch, on the CPU."""
        self.positions.append((self._state.iteration + 1, [int(p) for part in positions for p in part]))

    @torch.no_grad()
    def update(self, losses: Sequence[dict[str, Tensor]]) -> None:
        """Looks at a step after its backward pass, sets `masked`, and books the losses. All processes together.

        Args:
            losses: of each micro-batch.
        """
        meter, iteration = self._state.meter, self._state.iteration + 1
        finite = self._finite_gradients()
        bad_gradient = ~finite.all()
        if self._skips:
            values = torch.stack([loss.float() for terms in losses for loss in terms.values()])
            bad = ~values.isfinite().all() | bad_gradient
        else:
            for terms in losses:
                meter.note(terms, iteration)
            meter.note_gradient(bad_gradient, iteration)
            self._note_parameter(finite, bad_gradient)
            bad = meter.bad(self._device)  # stays set
        self.masked = self._exchange(bad)
        if self._skips:
            self._spoil_for_scaler()
        for terms in losses:
            meter.add(terms, keep=~self.masked)

    def first_bad(self) -> str | None:
        """What was not finite first, and when, or None. A collective, and a wait on a GPU."""
        if self._skips:
            before, self._scale = self._scale, self._state.scaler.get_scale()
            if self._scale >= SMALLEST_SCALE or self._scale >= before:  # a resumed run may find its way up again
                return None
            return "fp16 finds no scale for finite gradients"
        found = self._state.meter.first_bad(across_processes=True)
        if found is None:
            return None
        iteration, name = found
        if name == GRADIENT:
            name = f"the gradient of {self._parameters[int(self._bad_parameter)][0]}"
        return f"{name} is not finite at iteration {iteration}"

    def raise_if_set(
        self,
        run: RunDirectory,
        saved_iteration: int | None,
        image_path: Callable[[int], str] | None,
        look_at_weights: bool,
    ) -> None:
        """Ends the run, on all processes alike, after a bad step of any of them. A collective, and a wait on a GPU.

        Args:
            run: names the files; the images since the last log are written there.
            saved_iteration: of the last good state, or None.
            image_path: position in the training stream -> file.
            look_at_weights: look at the parameters and statistics as well (`weights_are_finite`).

        Raises:
            FloatingPointError: there was one; with iteration and term, and the state to go on from.
        """
        what = self.first_bad()
        if what is None and look_at_weights and not self.weights_are_finite():
            what = f"the parameters or statistics are not finite after iteration {self._state.iteration}"
        if what is None:
            return
        kept, again = "No state was saved before it", "To try again, start the run anew"
        if saved_iteration is not None:
            kept = f"The last state before it, of iteration {saved_iteration}, is {run.last_state}"
            again = (
                "--resume auto goes on with the same settings and meets the same images; to change settings, start a "
                "new run from the checkpoint with --pretrained (or --student-pretrained)"
            )
        raise FloatingPointError(
            f"{what}. {kept}. {write_bad_batches(run, self.positions, image_path)} {again}. A lower --lr, "
            "--warmup-iters, --clip-grad or --amp off may help."
        )

    def weights_are_finite(self) -> bool:
        """Finite gradients can still make a parameter infinite."""
        tensors = [parameter.detach() for parameter in self._state.task.parameters()]
        tensors += [buffer for buffer in self._state.task.network.buffers() if buffer.is_floating_point()]
        norms = torch._foreach_norm(tensors)
        return bool(torch.stack(norms).isfinite().all())

    def _finite_gradients(self) -> Tensor:
        """(P,) bool, whether each parameter's gradient is finite."""
        gradients = [(i, p.grad) for i, (_, p) in enumerate(self._parameters) if p.grad is not None]
        norms = torch._foreach_norm([gradient for _, gradient in gradients])
        indices = [i for i, _ in gradients]
        if self._indices is None or indices != self._indices_on_host:  # sent to the device once
            self._indices_on_host = indices
            self._indices = torch.tensor(indices).to(self._device, non_blocking=True)
        return torch.stack(norms).isfinite()

    def _spoil_for_scaler(self) -> None:
        """Makes a gradient of every optimiser infinite after a bad step, for the scaler asks each for its own alone."""
        for optimizer in filter(None, (self._state.optimizer, self._state.discriminator_optimizer)):
            gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
            gradient = next(gradients, None)
            if gradient is not None:
                gradient.add_(torch.where(self.masked, torch.inf, 0.0))

    def _note_parameter(self, finite: Tensor, bad: Tensor) -> None:
        index = self._indices.gather(0, finite.int().argmin(0, keepdim=True))[0]  # [...] would wait for the device
        before = index.new_full((), -1) if self._bad_parameter is None else self._bad_parameter
        self._bad_parameter = torch.where((before < 0) & bad, index, before)


def step_masked(optimizer: torch.optim.Optimizer, masked: Tensor) -> None:
    """A step of a fused optimiser that does nothing where `masked`, a 0-dimensional bool on its device, is True."""
    optimizer.grad_scale, optimizer.found_inf = None, masked.float()
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf


def write_bad_batches(
    run: RunDirectory, positions: list[tuple[int, list[int]]], image_path: Callable[[int], str] | None
) -> str:
    """Writes which images each process has read since the last log. All processes together.

    Args:
        run: names the folder.
        positions: iteration and positions of its samples, of this process.
        image_path: position -> file; without it the positions are written.

    Returns:
        A sentence on where they are.
    """
    name = image_path or (lambda position: f"position {position}")
    own = [(iteration, [str(name(position)) for position in samples]) for iteration, samples in positions]
    everyone = all_gather_object(own)
    path = run.folder / BAD_BATCHES
    if is_main_process():
        lines = [
            f"{iteration}\t{rank}\t{file}\n"
            for rank, steps in enumerate(everyone)
            for iteration, files in steps
            for file in files
        ]
        try:
            write_text(path, "".join(["iteration\tprocess\timage\n", *lines]))
        except OSError as error:
            return f"The images since the last log could not be written: {error}."
    return f"{path} names the images since the last log."
