"""The relation terms of CIRKDV2: across the images of the batch, and to the memory banks.

Every random choice is a hash of (seed, iteration, micro-batch, stream, global index), so results do not depend on how
many processes share a batch.

Symbols: N images of this process, B of the global micro-batch, C channels, L positions, Y classes, D width of a bank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from losses.base import IGNORE_INDEX
from losses.functional import relation_kl, relation_kl_pairs, resize_labels, unit
from losses.modules.memory_bank import MemoryBank
from losses.modules.partners import Partners, choose_partners
from losses.modules.sampling import class_means, entry_slots, select_class_pixels, select_classes
from losses.random_streams import Stream, rng_key
from losses.task import mean_scale
from utils.distributed import all_gather_cat, all_gather_with_grad, all_reduce_sum, get_rank, get_world_size
from utils.seed import hash_bits
from utils.types import Step

PIXELS_PER_CLASS = 16
CHANNEL_ENTRIES_PER_STEP = 256


def minibatch_relation(
    student: Tensor,
    teacher: Tensor,
    row_dim: int,
    partners: Partners,
    temperature: float,
    key: tuple[int, ...],
    operand_dtype: torch.dtype | None = None,
) -> Tensor:
    """Relations of every image of this process to images of the global batch, mean over rows and pairs.

    Unit rows, their half-precision copies and gradients exist only of the images in these pairs: with P partners at
    most N (1 + P). Processes exchange maps if any pair of the batch spans two of them.

    Args:
        student: (N, C, h, w), with gradient.
        teacher: (N, C', h, w).
        row_dim: 2 = rows are pixels, L2-normalised over channels; 1 = rows are channels (C = C'), L2-normalised over
            positions.
        partners: which images each image is related to; see :mod:`losses.modules.partners`.
        temperature: of the similarities.
        key: of the choice of partners (`rng_key`); the same for pixels and channels.
        operand_dtype: of the matrix products, as in :func:`losses.functional.relation_kl`.

    Returns:
        mean over this process's images; the mean over processes is the mean over the batch.
    """
    batch = student.shape[0]
    first = get_rank() * batch
    chosen = choose_partners(get_world_size() * batch, partners, *key)
    pairs = [(i, j) for i in range(first, first + batch) for j in chosen[i]]
    student, teacher = student.flatten(2), teacher.flatten(2)
    # Of all processes' pairs, not of this one's: a collective has to be entered by all of them or by none.
    if any(i // batch != j // batch for i, partners_of_i in enumerate(chosen) for j in partners_of_i):
        student, teacher, first = all_gather_with_grad(student), all_gather_cat(teacher), 0
    named = sorted({image for pair in pairs for image in pair})
    place = {image: index for index, image in enumerate(named)}
    student, teacher = (_unit_rows(_take(maps, [i - first for i in named]), row_dim) for maps in (student, teacher))
    pairs = [(place[i], place[j]) for i, j in pairs]
    return relation_kl_pairs(student, teacher, pairs, temperature, operand_dtype=operand_dtype)


def _take(maps: Tensor, images: list[int]) -> Tensor:
    """Some images of (B, C, L), in increasing order; the same tensor if all are chosen."""
    if len(images) == maps.shape[0]:
        return maps
    every = maps.unbind()  # views: an index tensor made of a host list would wait for the device
    return torch.stack([every[image] for image in images])


def _unit_rows(maps: Tensor, row_dim: int) -> Tensor:
    """(B, C, L) -> rows of unit length: (B, L, C) for pixels (a view), (B, C, L) for channels."""
    return unit(maps, 1).transpose(1, 2) if row_dim == 2 else unit(maps, 2)


class PixelMemory(nn.Module):
    """Pixel and region banks and the relations of pixels to them.

    Args:
        num_classes: Y.
        channels: D, the teacher's channels.
        pixel_size, region_size: rows per class; 0 = no such bank and no such term.
        pixel_sample, region_sample: keys taken of all classes together; each gives floor(sample / Y) + 1.
        dtype: of the rows.
        seed: of the run, equal in all processes.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        pixel_size: int,
        region_size: int,
        pixel_sample: int,
        region_sample: int,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.seed = seed
        self.pixel_bank = MemoryBank(num_classes, pixel_size, channels, dtype) if pixel_size else None
        self.region_bank = MemoryBank(num_classes, region_size, channels, dtype) if region_size else None
        self.pixel_keys_per_class = pixel_sample // num_classes + 1
        self.region_keys_per_class = region_sample // num_classes + 1

    def forward(
        self,
        projected: Tensor,
        teacher: Tensor,
        target: Tensor,
        step: Step,
        temperature: float,
        kd_temperature: float,
        operand_dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Write the batch to the banks, sample keys, compare.

        Args:
            projected: the student's features in the teacher's channels, (N, C, h, w).
            teacher: (N, C, h, w).
            target: (N, H, W).
            step: where in the run this is.
            temperature: of the similarities.
            kd_temperature: divides them once more, its square multiplies the result.
            operand_dtype: of the matrix products, as in :func:`losses.functional.relation_kl`.

        Returns:
            unweighted "memory_pixel" and "memory_region", as far as the banks exist.
        """
        size = teacher.shape[2:]
        labels = resize_labels(target, size).flatten(1)  # (N, L)
        teacher_rows = unit(teacher, 1, innermost=True).flatten(2).transpose(1, 2)  # (N, L, C)
        if self.training:
            with record_function("enqueue"):
                self._enqueue(teacher_rows, labels, step)

        anchors = unit(projected, 1, innermost=True).flatten(2).transpose(1, 2).flatten(0, 1)  # (N * L, C)
        teacher_anchors = teacher_rows.flatten(0, 1)
        weight = (labels != IGNORE_INDEX).flatten().to(anchors.dtype)
        scale = mean_scale(target, step, lambda labels: (resize_labels(labels, size) != IGNORE_INDEX).sum())
        terms = {}
        for name, bank, count, stream in (
            ("memory_pixel", self.pixel_bank, self.pixel_keys_per_class, Stream.PIXEL_SAMPLE),
            ("memory_region", self.region_bank, self.region_keys_per_class, Stream.REGION_SAMPLE),
        ):
            if bank is None:
                continue
            with record_function(f"loss_{name}"):
                keys, mask = bank.sample(count, *rng_key(self.seed, step, stream))
                total = relation_kl(
                    anchors,
                    teacher_anchors,
                    keys,
                    keys,
                    temperature * kd_temperature,
                    anchor_weight=weight,
                    key_mask=mask,
                    operand_dtype=operand_dtype,
                    reduction="sum",
                )
            terms[name] = total * (scale * kd_temperature**2)
        return terms

    @torch.no_grad()
    def _enqueue(self, rows: Tensor, labels: Tensor, step: Step) -> None:
        """Choose rows of this process's images, gather those of all processes, write them in the order of the batch.

        These are up to 16 random pixels OF EACH CLASS of an image and the mean of each of its classes, limited by the
        image's fixed number of slots (`entry_slots`): an image of very many classes gives fewer pixels of each, evenly,
        and means of a random choice of its classes. Only the slots are sent, M pixels and R regions an image, each C
        values of the bank's b bytes and one byte for the class: N (M + R) (C b + 1) bytes from every process.
        """
        num_images, length, channels = rows.shape
        images = get_rank() * num_images + torch.arange(num_images, device=rows.device)
        slots = entry_slots(self.num_classes, length, PIXELS_PER_CLASS)
        if self.pixel_bank is not None:
            key = rng_key(self.seed, step, Stream.PIXEL_ENTRIES)
            position, classes, valid = select_class_pixels(
                labels, self.num_classes, PIXELS_PER_CLASS, slots.pixels, images, *key
            )
            chosen = rows.gather(1, position[:, :, None].expand(-1, -1, channels))  # (N, M, C)
            _write_everywhere(self.pixel_bank, chosen, classes, valid)
        if self.region_bank is not None:
            means, present = class_means(rows, labels, self.num_classes)  # (N, Y, C), (N, Y)
            classes, valid = select_classes(
                present, slots.regions, images, *rng_key(self.seed, step, Stream.REGION_ENTRIES)
            )
            chosen = means.gather(1, classes[:, :, None].expand(-1, -1, channels))  # (N, R, C)
            _write_everywhere(self.region_bank, unit(chosen, 2), classes, valid)


def _write_everywhere(bank: MemoryBank, rows: Tensor, classes: Tensor, valid: Tensor) -> None:
    """Enqueue (N, M, C) rows of all processes; they are sent in the bank's dtype, and a class as one byte."""
    classes = torch.where(valid, classes, IGNORE_INDEX).to(torch.uint8)
    rows, classes = all_gather_cat(rows.to(bank.queue.dtype)), all_gather_cat(classes).long()
    bank.enqueue(rows, classes, classes != IGNORE_INDEX)


class ChannelMemory(nn.Module):
    """Bank of the teacher's channel maps and the relations of channels to them.

    Args:
        size: rows.
        sample_size: keys per step.
        positions: (height, width) of the maps at the training crop; maps of another size are resized to it.
        dtype: of the rows.
        seed: of the run, equal in all processes.
    """

    def __init__(self, size: int, sample_size: int, positions: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.sample_size = sample_size
        self.positions = positions
        self.bank = MemoryBank(1, size, positions[0] * positions[1], dtype)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        step: Step,
        temperature: float,
        kd_temperature: float,
        operand_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Write rows of the batch to the bank, sample keys, compare.

        Args:
            student: pooled and projected maps, (N, C, h, w).
            teacher: pooled maps, (N, C, h, w).
            step: where in the run this is.
            temperature, kd_temperature, operand_dtype: as in :class:`PixelMemory`.

        Returns:
            mean over the N * C maps, unweighted.
        """
        student = unit(self._fit(student).flatten(2), 2).flatten(0, 1)  # (N * C, D)
        teacher = unit(self._fit(teacher).flatten(2), 2).flatten(0, 1)
        if self.training:
            self._enqueue(teacher, step)
        keys, mask = self.bank.sample(self.sample_size, *rng_key(self.seed, step, Stream.CHANNEL_SAMPLE))
        temperature *= kd_temperature
        total = relation_kl(
            student, teacher, keys, keys, temperature, key_mask=mask, operand_dtype=operand_dtype, reduction="sum"
        )
        return total * (kd_temperature**2 / student.shape[0])

    def _fit(self, maps: Tensor) -> Tensor:
        if maps.shape[2:] == self.positions:
            return maps
        return F.interpolate(maps, size=self.positions, mode="bilinear", align_corners=True)

    @torch.no_grad()
    def _enqueue(self, rows: Tensor, step: Step) -> None:
        """Choose rows of the global batch; each process fills in those it has, and an all-reduce adds them up.

        The sum is of one value and zeros, so it is exact in the bank's dtype, in which it is sent: R D b bytes for R =
        256 rows of D values of b bytes, independent of the batch and the number of processes.
        """
        local = rows.shape[0]
        everything = torch.arange(get_world_size() * local, device=rows.device)
        order = hash_bits(*rng_key(self.seed, step, Stream.CHANNEL_ENTRIES), everything).argsort(stable=True)
        chosen = order[:CHANNEL_ENTRIES_PER_STEP].sort().values - get_rank() * local
        mine = (chosen >= 0) & (chosen < local)
        selected = torch.where(mine[:, None], rows[chosen.clamp(0, local - 1)], 0).to(self.bank.queue.dtype)
        self.bank.enqueue(all_reduce_sum(selected))
