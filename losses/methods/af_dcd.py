"""Augmentation-free dense contrastive distillation (Fan et al., NeurIPS 2023).

Symbols: N images, C channels, h x w positions of the pooled maps, P patches, G groups, V = 16 G vectors of a patch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Distiller, Shape, Terms, shared_seed, temperature, weight
from losses.functional import compute_dtype
from losses.modules.reconstruction import MaskedReconstruction, reconstruction_error
from utils.settings import FRACTION, Settings, setting
from utils.types import SegOutput, Step

POOL = 4
PATCH = 4
GROUPS = 16

# Bytes of the P x V x V x (channels of a group) buffer of the distances' gradient on a GPU; limits the patches of a
# chunk.
_BUFFER_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class AFDCDConfig(Settings):
    afdcd_feature_weight: float = weight(4e-5, "masked reconstruction's error, a sum over channels and positions")
    afdcd_contrast_weight: float = weight(0.001, "the contrast")
    afdcd_mask_ratio: float = setting(0.75, "share of positions that are hidden", check=FRACTION)
    afdcd_temperature: float = temperature(0.07, "divides the distances of the contrast")
    seed: int = shared_seed()


class AFDCD(Distiller):
    """Masked reconstruction of the teacher's features, and contrast of its vectors within patches."""

    Config = AFDCDConfig
    includes_kd = True

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        config = self.config
        self.reconstruction = None
        if config.afdcd_feature_weight or config.afdcd_contrast_weight:
            self.reconstruction = MaskedReconstruction(
                student_shape[0], teacher_shape[0], config.afdcd_mask_ratio, config.seed
            )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor, step: Step | None = None) -> Terms:
        """Return "loss_afdcd_feature" and "loss_afdcd_contrast", ignored positions included.

        See :meth:`Distiller.forward`.
        """
        config = self.config
        if self.reconstruction is None:
            return {}
        generated = self.reconstruction(student.features, teacher.features, step)
        terms = {}
        if config.afdcd_feature_weight:
            error = reconstruction_error(generated, teacher.features)
            terms["loss_afdcd_feature"] = error * config.afdcd_feature_weight
        if config.afdcd_contrast_weight:
            contrast = patch_contrast(generated, teacher.features, config.afdcd_temperature)
            terms["loss_afdcd_contrast"] = contrast * config.afdcd_contrast_weight
        return terms


def patch_contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Contrast of the student's vectors with the teacher's across positions and groups of channels of a patch.

    Maps are max-pooled by 4 and cut into patches of 4x4 positions, channels into 16 groups. A vector is one group at
    one position. For each of the student's the teacher's at the same place is the positive, and the teacher's of the
    other groups, at all positions of the patch, are the negatives; similarity is the negative L1 distance.

    Border windows of the pooling and border patches are smaller, so every position counts and maps of any size have a
    loss. If 16 does not divide the channels the remainder is dropped, as vectors of unequal length have no distance;
    fewer than 16 channels are each a group.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W), no gradient.
        temperature: divisor of the distances.

    Returns:
        0-dimensional: sum of the cross entropies / (N * h * w), h x w being the pooled size: the mean over positions
        of the sum over groups.

    Raises:
        ValueError: shapes that differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher must have one shape, got {tuple(student.shape)}, {tuple(teacher.shape)}")
    dtype = compute_dtype(student)
    student, teacher = (F.max_pool2d(maps.to(dtype), POOL, ceil_mode=True) for maps in (student, teacher.detach()))
    images, _, height, width = student.shape
    exists = _patches(student.new_ones(1, 1, height, width))  # (patches of an image, 16, 1)
    exists = exists[:, :, 0].bool().repeat(images, 1)  # (P, 16)
    total = _PatchContrast.apply(_patches(student), _patches(teacher), exists, 1 / temperature, torch.is_grad_enabled())
    return total / (images * height * width)


def _patches(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (P, 16, C), image by image; positions beyond the border are 0."""
    images, channels, height, width = maps.shape
    maps = F.pad(maps, (0, -width % PATCH, 0, -height % PATCH))
    rows, columns = maps.shape[2] // PATCH, maps.shape[3] // PATCH
    maps = maps.reshape(images, channels, rows, PATCH, columns, PATCH)
    return maps.permute(0, 2, 4, 3, 5, 1).reshape(images * rows * columns, PATCH * PATCH, channels)


class _PatchContrast(torch.autograd.Function):
    """Sum of the cross entropies of all patches, in chunks, the gradient formed in the forward pass.

    All P x V x V similarities at once, with the buffers of their gradient, would take several GiB on large maps.
    """

    @staticmethod
    def forward(
        ctx, student: Tensor, teacher: Tensor, exists: Tensor, inverse_temperature: float, grad_enabled: bool
    ) -> Tensor:
        needs_grad = grad_enabled and ctx.needs_input_grad[0]
        grads, total = [], student.new_zeros(())
        step = _chunk_size(student)
        for start in range(0, student.shape[0], step):
            chosen = slice(start, start + step)
            part = student[chosen].detach().requires_grad_(needs_grad)
            with torch.set_grad_enabled(needs_grad):
                loss = _contrast_sum(part, teacher[chosen], exists[chosen], inverse_temperature)
            if needs_grad:
                grads += torch.autograd.grad(loss, part)
            total += loss.detach()
        if needs_grad:
            ctx.save_for_backward(torch.cat(grads))
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        return saved * grad, None, None, None, None


def _groups(channels: int) -> tuple[int, int]:
    """Number of groups and channels of each."""
    groups = min(GROUPS, channels)
    return groups, channels // groups


def _chunk_size(patches: Tensor) -> int:
    groups, width = _groups(patches.shape[2])
    vectors = patches.shape[1] * groups
    return max(1, _BUFFER_BYTES.get(patches.device.type, 32 << 20) // (vectors**2 * width * patches.element_size()))


def _contrast_sum(student: Tensor, teacher: Tensor, exists: Tensor, inverse_temperature: float) -> Tensor:
    """Sum of the cross entropies of patches (P, 16, C) whose positions (P, 16) exist."""
    groups, width = _groups(student.shape[2])
    student, teacher = (
        maps[:, :, : groups * width].unflatten(2, (groups, width)).flatten(1, 2)  # (P, V, width)
        for maps in (student, teacher)
    )
    similarity = torch.cdist(student, teacher, p=1.0) * -inverse_temperature  # (P, V, V)

    vector = torch.arange(student.shape[1], device=student.device)
    positive = vector[:, None] == vector
    other_group = vector[:, None] % groups != vector % groups
    exists = exists.repeat_interleave(groups, dim=1)  # (P, V)
    candidate = positive | (other_group & exists[:, None, :])
    similarity = similarity.masked_fill(~candidate, float("-inf"))
    target = vector.where(exists, -100)  # ignored: there is no such vector
    return F.cross_entropy(similarity.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum")
