"""The frozen teacher: loaded, folded, in its own precision and memory format, compiled, and checked."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from dataset.loading.loaders import build_eval_loader
from engine.config.networks import DistillationConfig
from engine.evaluation.class_names import check_classes
from engine.evaluation.evaluator import evaluate
from engine.setup.data import Data
from models import build_model
from models.base import SegmentationNetwork
from models.layers import SameConv2d, WideConv2d
from models.surgery.fold import TOLERANCE, fold_batch_norms
from models.weights import is_backbone_file, load_weights, read_file
from utils.amp import DTYPES, autocast
from utils.compiling import uncompiled
from utils.distributed import get_rank, get_world_size
from utils.metrics import SegMetrics
from utils.types import Batch, SegOutput

TEACHER_CHECK_IMAGES = 20
TEACHER_CHECK_FACTOR = 1.5
# Layers whose weights autocast casts as they are. Others may compute with them first, as standardised convolutions do.
CAST_AT_USE = (nn.Conv2d, SameConv2d, WideConv2d, nn.Linear)


class FrozenTeacher(nn.Module):
    """A network that is only looked at: in evaluation mode, without gradients, in the precision that was asked for.

    Args:
        network: the teacher, trained. It is changed in place and belongs to this module from then on.
        amp: "off", "bf16" or "fp16": what its forward pass is computed in. The weights of convolutions and linear
            layers are kept in that type, which changes nothing and saves the cast at every step.
    """

    def __init__(self, network: nn.Module, amp: str = "off") -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.amp = amp
        if amp != "off":
            for module in network.modules():
                if type(module) in CAST_AT_USE:
                    module.to(DTYPES[amp])

    def forward(self, images: Tensor, need_aux: bool = False, **options: bool) -> SegOutput:
        """The network's output for (N, 3, H, W); float32 unless the caller works in half precision, too."""
        half_around = torch.is_autocast_enabled(images.device.type)
        with autocast(images.device, self.amp):
            output = self.network(images, need_aux=need_aux, **options)
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
        log: gets how much was folded.
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


def build_teacher(networks: DistillationConfig, classes: Sequence[str], log: Callable[[str], None]) -> nn.Module:
    """The trained teacher; its whole network has to be in the file.

    Raises:
        ValueError: the file is a backbone's, of other classes than `classes` or another network, or incomplete.
    """
    teacher = build_model(networks.teacher_model, networks.teacher_backbone, len(classes))
    file = read_file(networks.teacher_pretrained)
    if is_backbone_file(file.state, teacher):
        raise ValueError(
            f"--teacher-pretrained {networks.teacher_pretrained}: expected the weights of a trained "
            f"{networks.teacher_model}, got those of a backbone alone, whose head would be random. Train a teacher "
            "with train_baseline.py first."
        )
    check_classes(
        file.classes,
        classes,
        f"--teacher-pretrained {networks.teacher_pretrained}",
        accept=networks.skip_teacher_check,
        way_out="--skip-teacher-check",
        log=log,
    )
    load_weights(teacher, file, log=log)
    return teacher


def check_teacher_on(data: Data, teacher: nn.Module, amp: str, device: torch.device) -> str:
    """Refuses a teacher near chance on the first validation images; returns what to log.

    Raises:
        ValueError: see `check_teacher`.
    """
    images = min(TEACHER_CHECK_IMAGES, len(data.val))
    loader = build_eval_loader(
        data.val, rank=get_rank(), world_size=get_world_size(), workers=0, limit=TEACHER_CHECK_IMAGES
    )
    with uncompiled():
        metrics = check_teacher(teacher, loader, data.val.num_classes, device, amp, images=images)
    return (
        f"teacher: mIoU {metrics.miou:.2%}, pixel accuracy {metrics.pixel_accuracy:.2%} on {images} validation images"
    )


def check_teacher(
    teacher: nn.Module,
    loader: Iterable[Batch],
    num_classes: int,
    device: torch.device,
    amp: str = "off",
    *,
    images: int,
) -> SegMetrics:
    """Refuses a teacher that knows no more than which class is frequent.

    Args:
        loader: some validation images; all processes' loaders together make the sample.
        images: how many these are.

    Raises:
        ValueError: when the teacher's mIoU is not above 1.5 times that of the best constant prediction.
    """
    metrics = evaluate(teacher, loader, num_classes, device, amp=amp)
    bound = TEACHER_CHECK_FACTOR * metrics.best_constant_miou()
    if not metrics.miou > bound:
        raise ValueError(
            f"the teacher's mIoU on {images} validation images is {metrics.miou:.2%}, "
            f"expected more than {bound:.2%} (1.5 times that of the best constant prediction, "
            f"{metrics.best_constant_miou():.2%}). Train it longer, or check --teacher-pretrained, --teacher-model and "
            "--teacher-backbone; --skip-teacher-check accepts it."
        )
    return metrics
