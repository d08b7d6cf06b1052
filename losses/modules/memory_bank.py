"""Ring buffers of teacher features, one per class or one for all, that are equal in every process without a broadcast.

A bank is buffers and two operations. ``enqueue`` writes rows in the order given, ``draw`` copies rows out. Neither
looks at a value on the host. Processes stay equal because each is handed the same rows (gathered in the order of the
global batch) and draws with the same keys.

Symbols: R rows offered, D width, Y classes, k rows asked of each class.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from utils.seed import hash_bits, hash_randint

BankDtype = Literal["bfloat16", "float16", "float32"]
BANK_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(BankDtype)}
SMALL_MAP_ROWS = 160
"""Rows that an image may send however small its map is: 9 pixels and a region of each of 16 classes."""


class MemoryBank(nn.Module):
    """``num_rings`` ring buffers of ``size`` rows each.

    Buffers (all in the state_dict):
        queue: (num_rings * size + 1, D) in the bank's dtype; ring y holds rows y * size ... (y + 1) * size - 1. The
            last row takes what is not to be kept, and stays zero.
        queue_ptr: (num_rings,) int64, where the next row goes.
        queue_count: (num_rings,) int64, how many rows of the ring were ever written, at most ``size``.
    """

    def __init__(self, num_rings: int, size: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """Build an empty bank. The zeros are the operating system's: memory is taken as rows are written.

        Raises:
            ValueError: when a size is below 1 or ``dtype`` is not one of BANK_DTYPES.
        """
        super().__init__()
        if min(num_rings, size, dim) < 1:
            raise ValueError(f"a bank needs at least one ring, row and channel, got {num_rings} x {size} x {dim}")
        if dtype not in BANK_DTYPES.values():
            raise ValueError(f"bank dtype must be one of {', '.join(BANK_DTYPES)}, got {dtype}")
        self.num_rings, self.size, self.dim = num_rings, size, dim
        self.register_buffer("queue", _lazy_zeros(num_rings * size + 1, dim, dtype))
        self.register_buffer("queue_ptr", torch.zeros(num_rings, dtype=torch.int64))
        self.register_buffer("queue_count", torch.zeros(num_rings, dtype=torch.int64))
        self.queue: Tensor
        self.queue_ptr: Tensor
        self.queue_count: Tensor

    @torch.no_grad()
    def write(self, rows: Tensor, ring: Tensor, valid: Tensor) -> None:
        """Append rows to their rings, the oldest giving way; of a write longer than a ring the last rows are kept.

        Args:
            rows: (R, D).
            ring: (R,) int64 in [0, num_rings), anything where not valid.
            valid: (R,) bool, False = the row is dropped.
        """
        ring = torch.where(valid, ring, self.num_rings)
        order = ring.argsort(stable=True)
        sorted_ring = ring[order]
        edges = torch.arange(self.num_rings + 1, device=ring.device)
        starts = torch.searchsorted(sorted_ring, edges)  # (num_rings + 1,), the last: where dropped rows begin
        written = starts.diff()  # (num_rings,)
        position = torch.empty_like(ring)  # place of a row among those of its ring in this write
        position[order] = torch.arange(ring.numel(), device=ring.device) - starts[sorted_ring]

        safe_ring = ring.clamp(max=self.num_rings - 1)
        kept = valid & (position >= written[safe_ring] - self.size)
        slot = safe_ring * self.size + (self.queue_ptr[safe_ring] + position) % self.size
        slot = torch.where(kept, slot, self.num_rings * self.size)
        rows = torch.where(kept[:, None], rows, 0).to(self.queue.dtype)
        self.queue.index_copy_(0, slot, rows)
        self.queue_ptr.copy_((self.queue_ptr + written) % self.size)
        self.queue_count.copy_((self.queue_count + written).clamp(max=self.size))

    @torch.no_grad()
    def draw(self, rows_per_ring: int, *keys: int) -> tuple[Tensor, Tensor]:
        """Copy up to ``rows_per_ring`` different rows out of every ring; rows never written are not drawn.

        A ring with n > k rows is cut into k runs of neighbouring rows whose lengths differ by at most one; one row is
        drawn from each, and the cuts are rotated by a random offset. So no row comes twice and every row has the same
        chance k/n. A ring with n <= k rows gives all of them, and the rest is masked.

        Args:
            rows_per_ring: k, at least 1.
            keys: what the draw depends on, e.g. seed, iteration, micro-batch and a number of its own.

        Returns:
            copies of the rows (num_rings * k, D) in the bank's dtype, and mask (num_rings * k,) bool, True = a row.
        """
        device = self.queue.device
        count = self.queue_count[:, None]  # n, (num_rings, 1)
        ring = torch.arange(self.num_rings, device=device)[:, None]
        draw = torch.arange(rows_per_ring, device=device)  # (k,)

        low = draw * count // rows_per_ring
        length = (draw + 1) * count // rows_per_ring - low
        offset = hash_randint(count, *keys, ring, -1)
        spread = (low + hash_randint(length, *keys, ring, draw) + offset) % count.clamp(min=1)
        index = torch.where(count > rows_per_ring, spread, draw.clamp(max=self.size - 1))  # (num_rings, k)
        mask = draw < count
        keys_drawn = self.queue.index_select(0, (ring * self.size + index).flatten())
        return keys_drawn, mask.flatten()

    def extra_repr(self) -> str:
        return f"{self.num_rings} x {self.size} x {self.dim}, {self.queue.dtype}"


class ClasswiseBank(MemoryBank):
    """A ring for every class."""

    def __init__(self, num_classes: int, size: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(num_classes, size, dim, dtype)

    def enqueue(self, rows: Tensor, classes: Tensor, valid: Tensor) -> None:
        """Write rows (..., D) of classes (...) where valid (...), in the order of memory."""
        self.write(rows.reshape(-1, self.dim), classes.reshape(-1), valid.reshape(-1))


class FlatBank(MemoryBank):
    """One ring for everything."""

    def __init__(self, size: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(1, size, dim, dtype)

    def enqueue(self, rows: Tensor) -> None:
        """Write all rows (R, D) in order."""
        ring = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
        self.write(rows, ring, torch.ones_like(ring, dtype=torch.bool))


def _lazy_zeros(rows: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take no time and no memory until they are written; torch.zeros touches every page."""
    words = np.zeros((rows, dim), dtype=f"int{torch.finfo(dtype).bits}")
    return torch.from_numpy(words).view(dtype)


class RowSlots(NamedTuple):
    """How many rows an image sends at each step, whatever is in it; see :func:`row_slots`."""

    pixels: int
    regions: int


def row_slots(num_classes: int, positions: int, pixels_per_class: int) -> RowSlots:
    """Rows that an image of L positions and Y classes may write to the pixel and region banks in a step.

    Rows travel between processes in tensors of one size, so the size is fixed by Y and L alone: L // 11 rows of an
    image together (184 of CamVid's 45x45, 744 of Cityscapes's 64x128). In a half-precision bank that is 1/22 of the
    bytes of the image's feature map in fp32, and leaves room within 1/20 for classes and the channel bank's rows at the
    published sizes. A small map may send SMALL_MAP_ROWS, since it costs little as it is.

    Regions come first, but take at most an eighth of the rows: a class that finds no room loses its only region row,
    while pixel rows can be cut evenly. So all classes of Cityscapes, VOC and CamVid and any 46 of a 64x64 map of ADE20K
    or COCO-Stuff have a region row, and 16 pixels of every class fit for Cityscapes and VOC always, for CamVid up to 10
    classes in one image, for ADE20K and COCO-Stuff up to 20.
    """
    rows = max(positions // 11, SMALL_MAP_ROWS)
    regions = min(num_classes, rows // 8)
    return RowSlots(min(pixels_per_class * num_classes, positions, rows - regions), regions)


@torch.no_grad()
def select_class_pixels(
    labels: Tensor, num_classes: int, pixels_per_class: int, slots: int, image_index: Tensor, *keys: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose up to ``pixels_per_class`` random pixels of every class in every image, and at most ``slots`` of an image.

    One sort per image orders the pixels by (class, random number). Slots are filled with the first pixel of every
    class, then with the second, and so on: where slots are too few, classes give equally many pixels, but for one, and
    which of them give that one more is random. The random numbers depend on the keys, the image and the position alone.

    Args:
        labels: (N, L) int64 class of each pixel, values outside [0, num_classes) are ignored.
        num_classes: Y.
        pixels_per_class: how many at most.
        slots: how many of an image at most.
        image_index: (N,) int64 index of each image in the global batch.
        keys: what the choice depends on.

    Returns:
        positions (N, M) int64, classes (N, M) int64 and valid (N, M) bool with M = min(slots, pixels_per_class * Y, L).
    """
    num_images, length = labels.shape
    device = labels.device
    ignored = (labels < 0) | (labels >= num_classes)
    labels = torch.where(ignored, num_classes, labels)
    image_index = image_index[:, None]
    place = torch.arange(length, device=device)
    order = (labels * (1 << 32) + hash_bits(*keys, image_index, place)).argsort(dim=1, stable=True)
    edges = torch.arange(num_classes + 1, device=device).expand(num_images, -1).contiguous()
    starts = torch.searchsorted(labels.gather(1, order), edges)  # (N, Y + 1), the last: where ignored pixels begin

    # candidates in the order in which they fill the slots: (rank within the class, class in random order)
    classes = hash_bits(*keys, image_index, -1 - edges[:, 1:]).argsort(dim=1, stable=True)  # (N, Y)
    count = starts.diff(dim=1).gather(1, classes)
    rank = torch.arange(pixels_per_class, device=device)
    exists = (rank[:, None] < count[:, None, :]).flatten(1)  # (N, pixels_per_class * Y)
    slot = (~exists).to(torch.uint8).argsort(dim=1, stable=True)[:, : min(slots, length)]
    classes = classes.gather(1, slot % num_classes)
    place = (starts.gather(1, classes) + slot // num_classes).clamp(max=length - 1)
    return order.gather(1, place), classes, exists.gather(1, slot)


@torch.no_grad()
def select_classes(present: Tensor, slots: int, image_index: Tensor, *keys: int) -> tuple[Tensor, Tensor]:
    """Choose up to ``slots`` of the classes in every image; where an image has more, at random.

    Args:
        present: (N, Y) bool, whether the class occurs in the image.
        slots: how many at most.
        image_index: (N,) int64 index of each image in the global batch.
        keys: what the choice depends on.

    Returns:
        classes (N, M) int64 and valid (N, M) bool with M = min(slots, Y).
    """
    number = torch.arange(present.shape[1], device=present.device)
    last = torch.where(present, hash_bits(*keys, image_index[:, None], number), 1 << 32)  # above every hash
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
