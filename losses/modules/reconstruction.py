"""Masked reconstruction of the teacher's features from the student's, which mgd and af_dcd train."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.functional import compute_dtype, resize_like
from losses.random_streams import Stream, rng_key
from utils.distributed import get_rank
from utils.seed import hash_uniform
from utils.types import Step


class MaskedReconstruction(nn.Module):
    """Adapt the student's features, hide positions at random, generate the teacher's features from the rest.

    As in masked generative distillation (Yang et al., ECCV 2022, arXiv:2205.01529). There is an adapter if the channels
    differ.

    Args:
        student_channels, teacher_channels: of the features.
        mask_ratio: probability of each position to be hidden.
        seed: of the run, equal in all processes.
    """

    def __init__(self, student_channels: int, teacher_channels: int, mask_ratio: float, seed: int) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio
        self.seed = seed
        self.adapter = nn.Identity()
        if student_channels != teacher_channels:
            self.adapter = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        self.generator = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor, step: Step | None) -> Tensor:
        """Generate the teacher's features.

        Args:
            student: features (N, C_s, h', w').
            teacher: features (N, C, h, w), of which only the size is used.
            step: where in the run this is; with the seed and the image's index in the global batch it determines the
                mask.

        Returns:
            (N, C, h, w).
        """
        adapted = resize_like(self.adapter(student), teacher)
        key = rng_key(self.seed, step or Step(), Stream.MASKED_POSITIONS)
        hidden = hidden_positions(adapted, self.mask_ratio, *key)
        return self.generator(adapted.masked_fill(hidden, 0))


def hidden_positions(features: Tensor, ratio: float, *rng_key: int) -> Tensor:
    """Which positions of each image are hidden, for all channels alike.

    Args:
        features: (N, C, h, w), this process's slice of the global batch.
        ratio: probability of each position.
        rng_key: seed, iteration, micro-batch and stream, as from `rng_key`.

    Returns:
        (N, 1, h, w) bool.
    """
    images, _, height, width = features.shape
    image = get_rank() * images + torch.arange(images, device=features.device)
    position = torch.arange(height * width, device=features.device)
    hidden = hash_uniform(*rng_key, image[:, None], position) < ratio
    return hidden.reshape(images, 1, height, width)


def reconstruction_error(generated: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences of features (N, C, h, w) per image, at least in float32."""
    dtype = compute_dtype(generated)
    return F.mse_loss(generated.to(dtype), teacher.detach().to(dtype), reduction="sum") / generated.shape[0]
