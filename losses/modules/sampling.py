"""Which pixels and regions of an image are written to the banks: equally many of every image, of all classes."""

from typing import NamedTuple

import torch
from torch import Tensor

from utils.seed import hash_bits

SMALL_MAP_ENTRIES = 160
"""Entries of an image whose map is small: 9 pixels and a region of each of 16 classes."""


class EntrySlots(NamedTuple):
    """Rows that an image sends at each step; see :func:`entry_slots`."""

    pixels: int
    regions: int


def entry_slots(num_classes: int, positions: int, pixels_per_class: int) -> EntrySlots:
    """Rows that an image of L positions and Y classes may write to the pixel and region banks in a step.

    Processes exchange tensors of one size, which Y and L determine: L // 11 rows of an image together (184 of CamVid's
    45x45, 744 of Cityscapes's 64x128). In a half-precision bank that is 1/22 of the bytes of the image's feature map in
    fp32, so with the classes and the channel bank's rows it stays within 1/20 at the published sizes. A small map may
    send SMALL_MAP_ENTRIES.

    Regions come first, but take at most an eighth of the rows: a class without a slot loses its only region row, while
    pixel rows can be reduced evenly. So all classes of Cityscapes, VOC, CamVid and any 46 of a 64x64 map of ADE20K or
    COCO-Stuff have a region row, and 16 pixels of every class fit for Cityscapes and VOC always, for CamVid up to 10
    classes in one image, for ADE20K and COCO-Stuff up to 20.
    """
    rows = max(positions // 11, SMALL_MAP_ENTRIES)
    regions = min(num_classes, rows // 8)
    return EntrySlots(min(pixels_per_class * num_classes, positions, rows - regions), regions)


@torch.no_grad()
def select_class_pixels(
    labels: Tensor, num_classes: int, pixels_per_class: int, slots: int, image_index: Tensor, *rng_key: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose up to ``pixels_per_class`` random pixels of every class in every image, and at most ``slots`` of an image.

    One sort per image orders the pixels by (class, random number). Slots are filled with the first pixel of every
    class, then with the second, and so on. If slots are too few, the classes' numbers of pixels differ by at most one,
    and which classes give one more is random. The random numbers depend on the key, the image and the position alone.

    Args:
        labels: (N, L) int64 class of each pixel, values outside [0, num_classes) are ignored.
        num_classes: Y.
        pixels_per_class: how many at most.
        slots: how many of an image at most.
        image_index: (N,) int64 index of each image in the global batch.
        rng_key: what the choice depends on.

    Returns:
        positions (N, M) int64, classes (N, M) int64 and valid (N, M) bool with M = min(slots, pixels_per_class * Y, L).
    """
    num_images, length = labels.shape
    device = labels.device
    ignored = (labels < 0) | (labels >= num_classes)
    labels = torch.where(ignored, num_classes, labels)
    image_index = image_index[:, None]
    place = torch.arange(length, device=device)
    order = (labels * (1 << 32) + hash_bits(*rng_key, image_index, place)).argsort(dim=1, stable=True)
    edges = torch.arange(num_classes + 1, device=device).expand(num_images, -1).contiguous()
    starts = torch.searchsorted(labels.gather(1, order), edges)  # (N, Y + 1), the last: where ignored pixels begin

    # candidates in the order in which they fill the slots: (rank within the class, class in random order)
    classes = hash_bits(*rng_key, image_index, -1 - edges[:, 1:]).argsort(dim=1, stable=True)  # (N, Y)
    count = starts.diff(dim=1).gather(1, classes)
    rank = torch.arange(pixels_per_class, device=device)
    exists = (rank[:, None] < count[:, None, :]).flatten(1)  # (N, pixels_per_class * Y)
    slot = (~exists).to(torch.uint8).argsort(dim=1, stable=True)[:, : min(slots, length)]
    classes = classes.gather(1, slot % num_classes)
    place = (starts.gather(1, classes) + slot // num_classes).clamp(max=length - 1)
    return order.gather(1, place), classes, exists.gather(1, slot)


@torch.no_grad()
def select_classes(present: Tensor, slots: int, image_index: Tensor, *rng_key: int) -> tuple[Tensor, Tensor]:
    """Choose up to ``slots`` of the classes in every image; if an image has more, at random.

    Args:
        present: (N, Y) bool, whether the class occurs in the image.
        slots: how many at most.
        image_index: (N,) int64 index of each image in the global batch.
        rng_key: what the choice depends on.

    Returns:
        classes (N, M) int64 and valid (N, M) bool with M = min(slots, Y).
    """
    number = torch.arange(present.shape[1], device=present.device)
    last = torch.where(present, hash_bits(*rng_key, image_index[:, None], number), 1 << 32)  # above every hash
    classes = last.argsort(dim=1, stable=True)[:, :slots]
    return classes, present.gather(1, classes)


@torch.no_grad()
def class_means(rows: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean of each class's rows in each image.

    Args:
        rows: (N, L, D).
        labels: (N, L) int64, values outside [0, num_classes) are ignored.
        num_classes: Y.

    Returns:
        means (N, Y, D), zero where the class does not occur, and whether it occurs (N, Y).
    """
    classes = torch.arange(num_classes, device=labels.device)
    member = (labels[:, None, :] == classes[:, None]).to(rows.dtype)  # (N, Y, L)
    count = member.sum(dim=2)
    with torch.autocast(rows.device.type, enabled=False):
        total = torch.bmm(member, rows)
    return total / count.clamp(min=1)[:, :, None], count > 0
