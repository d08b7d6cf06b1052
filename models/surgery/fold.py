"""Folding of batch norms into the convolutions before them, for networks in evaluation mode.

There (conv(x) - mean) / sqrt(var + eps) * weight + bias is one convolution with other weights. Which batch norm follows
which convolution is observed in a trial run; every pair and the whole network are compared with their former outputs.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-4  # largest difference by rounding, relative to the largest value
PROBE_SIZE = (97, 131)  # odd and not square, so that padding and pooling are not even by chance


class Folded(NamedTuple):
    """The number of folded batch norms, of all, and the largest relative difference of the outputs."""

    folded: int
    total: int
    difference: float


class _Trial(TorchDispatchMode):
    """Records, over one forward pass, which operations read each convolution's output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.outputs: dict[int, nn.Conv2d] = {}  # id of a convolution's output -> the convolution
        self.reads: Counter[int] = Counter()  # id of such an output -> operations that took it
        self.inputs: dict[nn.Conv2d, Tensor] = {}
        self.pairs: dict[nn.Module, tuple[int, Tensor]] = {}  # batch norm -> (id of its input, its output)
        self.calls: Counter[nn.Module] = Counter()
        self._alive: list[Tensor] = []  # ids are those of live tensors
        self._handles = [
            module.register_forward_hook(self._seen)
            for module in network.modules()
            if isinstance(module, (nn.Conv2d, _BatchNorm))
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if id(leaf) in self.outputs:
                self.reads[id(leaf)] += 1
        return func(*args, **(kwargs or {}))

    def _seen(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.calls[module] += 1
        self._alive += [args[0], output]
        # Copies, since later operations may be in place.
        if isinstance(module, nn.Conv2d):
            self.outputs[id(output)] = module
            self.inputs[module] = args[0].clone()
        else:
            self.pairs[module] = id(args[0]), output.clone()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def foldable(self) -> list[tuple[nn.Conv2d, nn.Module, Tensor, Tensor]]:
        """(convolution, batch norm, the convolution's input, the batch norm's output), each called once."""
        found = []
        for norm, (read, output) in self.pairs.items():
            convolution = self.outputs.get(read)
            if convolution is None or self.calls[convolution] != 1 or self.calls[norm] != 1 or self.reads[read] != 1:
                continue
            if norm.running_mean is not None and norm.num_features == convolution.out_channels:
                found.append((convolution, norm, self.inputs[convolution], output))
        return found


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> Folded:
    """Fold batch norms in place wherever the outputs stay the same; the network is left in evaluation mode.

    A folded batch norm becomes an `nn.Identity`, or its activation if it has one (timm's). Names of tensors change, so
    a folded network can no longer be saved or loaded.

    Args:
        network: maps (N, 3, H, W) to a `SegOutput`, in float32 or float64.

    Returns:
        How much was folded: nothing, if the whole network's outputs would differ by more than `TOLERANCE`.
    """
    network.eval()
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    images = 60 * torch.randn(1, 3, *PROBE_SIZE, generator=generator).to(parameter)  # as 0 to 255 minus a mean
    names = {module: name for name, module in network.named_modules()}
    with _Trial(network) as trial:
        before = network(images)
    undo: list[Callable[[], None]] = []
    for convolution, norm, given, wanted in trial.foldable():
        back = _fold(network, convolution, norm, names[norm])
        got = network.get_submodule(names[norm])(convolution(given))
        if _difference(got, wanted) > TOLERANCE:  # the convolution changes its weights, as standardised ones do
            back()
        else:
            undo.append(back)
    outputs = zip(network(images), before, strict=True)
    difference = max(_difference(got, wanted) for got, wanted in outputs if wanted is not None)
    total = sum(isinstance(module, _BatchNorm) for module in names)
    if difference <= TOLERANCE:
        return Folded(len(undo), total, difference)
    for back in undo:
        back()
    return Folded(0, total, difference)


def _fold(network: nn.Module, convolution: nn.Conv2d, norm: nn.Module, name: str) -> Callable[[], None]:
    """Fold one pair; return the function that undoes it."""
    weight, bias = convolution.weight, convolution.bias
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    convolution.weight = nn.Parameter((weight.double() * scale[:, None, None, None]).to(weight), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight), requires_grad=False)
    # timm's batch norms contain dropout and activation
    rest = [child for child in (getattr(norm, "drop", None), getattr(norm, "act", None)) if child is not None]
    network.set_submodule(name, nn.Sequential(*rest) if rest else nn.Identity())

    def undo() -> None:
        convolution.weight, convolution.bias = weight, bias
        network.set_submodule(name, norm)

    return undo


def _difference(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value; infinite if any is NaN."""
    error = (got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
    return float(error.nan_to_num(nan=float("inf"), posinf=float("inf")))
