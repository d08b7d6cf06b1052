"""The frozen teacher as a run uses it: folded, in its own precision and memory format, compiled."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.base import SegmentationNetwork
from models.layers import SameConv2d, WideConv2d
from models.surgery.fold import TOLERANCE, fold_batch_norms
from utils.amp import DTYPES, autocast
from utils.types import SegOutput

# Layers whose weights autocast casts as they are. Others may compute with them first, as standardised convolutions do.
CAST_AT_USE = (nn.Conv2d, SameConv2d, WideConv2d, nn.Linear)


class FrozenTeacher(nn.Module):
    """A network that is only looked at: in evaluation mode, without gradients, in the precision that was asked for.

    Args:
        network: the teacher, trained. It is changed in place and belongs to this module from then on.
        amp: "off", "bf16" or "fp16": what its forward pass is computed in. The weights of convolutions and linear
            layers are kept in that type, which changes nothing and spares the cast at every step.
    """

    def __init__(self, network: nn.Module, amp: str = "off") -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.amp = amp
        if amp != "off":
            for module in network.modules():
                if type(module) in CAST_AT_USE:
                    module.to(DTYPES[amp])

    def forward(self, images: Tensor, need_aux: bool = False) -> SegOutput:
        """The network's output for (N, 3, H, W); float32 unless the caller works in half precision, too."""
        half_around = torch.is_autocast_enabled(images.device.type)
        with autocast(images.device, self.amp):
            output = self.network(images, need_aux=need_aux)
        if half_around or self.amp == "off":
            return output
        return SegOutput(*(None if maps is None else maps.float() for maps in output))


def prepare_teacher(
    network: SegmentationNetwork,
    *,
    device: torch.device,
    fold: bool = True,
    amp: str = "off",
    channels_last: bool = False,
    compiled: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> FrozenTeacher:
    """Makes a trained network the teacher of a run.

    Args:
        network: is changed in place: it can be run from then on, not saved.
        device: where it goes.
        fold: batch norms go into the convolutions before them (`models.surgery.fold`).
        amp: "off", "bf16" or "fp16".
        channels_last: memory format of the weights, which the maps follow.
        compiled: torch.compile.
        log: is told how much was folded.
    """
    if fold:
        # In full precision whatever the device allows in products of float32.
        done = fold_batch_norms(network.cpu().float())
        if done.total and not done.folded:
            log(
                f"WARNING: the teacher's batch norms stay as they are: folded, its outputs would differ by "
                f"{done.difference:.1e} of their scale, and {TOLERANCE:.0e} is allowed"
            )
        elif done.total:
            log(
                f"teacher: {done.folded} of {done.total} batch norms folded into convolutions, outputs within "
                f"{done.difference:.1e} of their scale"
            )
    network = network.to(device)
    teacher = FrozenTeacher(network, amp)
    if channels_last:
        teacher.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()  # the network alone: autocast around it is not part of the graph
    return teacher
