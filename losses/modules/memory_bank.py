"""Queues of teacher features, one per class or one for all, that are equal in every process without a broadcast.

``enqueue`` writes entries in the order given, ``sample`` copies entries out; neither reads a value on the host.
Processes stay equal because each gets the same entries (gathered in the order of the global batch) and samples with
the same rng key.

Symbols: R entries offered, D width, Y classes, k entries asked of each queue.
"""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from utils.seed import hash_randint

BankDtype = Literal["bfloat16", "float16", "float32"]
BANK_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(BankDtype)}


class MemoryBank(nn.Module):
    """``num_queues`` queues of ``size`` entries each.

    Buffers (all in the state_dict):
        queue: (num_queues * size + 1, D) in the bank's dtype; queue y holds entries y * size ... (y + 1) * size - 1.
            The last entry receives everything that is dropped, and stays zero.
        queue_ptr: (num_queues,) int64, where the next entry goes.
        queue_count: (num_queues,) int64, how many entries of the queue are filled.
    """

    def __init__(self, num_queues: int, size: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """Build an empty bank.

        Raises:
            ValueError: a size is below 1, or ``dtype`` is not one of BANK_DTYPES.
        """
        super().__init__()
        if min(num_queues, size, dim) < 1:
            raise ValueError(f"a bank needs at least one queue, entry and channel, got {num_queues} x {size} x {dim}")
        if dtype not in BANK_DTYPES.values():
            raise ValueError(f"bank dtype must be one of {', '.join(BANK_DTYPES)}, got {dtype}")
        self.num_queues, self.size, self.dim = num_queues, size, dim
        # NumPy's zeros take no time and no memory until they are written; torch.zeros touches every page.
        zeros = np.zeros((num_queues * size + 1, dim), dtype=f"int{torch.finfo(dtype).bits}")
        self.register_buffer("queue", torch.from_numpy(zeros).view(dtype))
        self.register_buffer("queue_ptr", torch.zeros(num_queues, dtype=torch.int64))
        self.register_buffer("queue_count", torch.zeros(num_queues, dtype=torch.int64))
        self.queue: Tensor
        self.queue_ptr: Tensor
        self.queue_count: Tensor

    @torch.no_grad()
    def enqueue(self, entries: Tensor, queue_index: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Append entries to their queues, in the order of memory; the oldest are overwritten.

        Args:
            entries: (..., D).
            queue_index: (...) int64 in [0, num_queues), anything where not valid. None = all go to the first queue.
            valid: (...) bool, False = the entry is dropped. None = all are valid.
        """
        entries = entries.reshape(-1, self.dim)
        if queue_index is None:
            queue_index = torch.zeros(entries.shape[0], dtype=torch.int64, device=entries.device)
        queue_index = queue_index.reshape(-1)
        valid = torch.ones_like(queue_index, dtype=torch.bool) if valid is None else valid.reshape(-1)
        queue_index = torch.where(valid, queue_index, self.num_queues)
        order = queue_index.argsort(stable=True)
        sorted_index = queue_index[order]
        edges = torch.arange(self.num_queues + 1, device=queue_index.device)
        starts = torch.searchsorted(sorted_index, edges)  # (num_queues + 1,), the last: where dropped entries begin
        written = starts.diff()  # (num_queues,)
        position = torch.empty_like(queue_index)  # place of an entry among those of its queue in this write
        position[order] = torch.arange(queue_index.numel(), device=queue_index.device) - starts[sorted_index]

        safe_index = queue_index.clamp(max=self.num_queues - 1)
        kept = valid & (position >= written[safe_index] - self.size)
        slot = safe_index * self.size + (self.queue_ptr[safe_index] + position) % self.size
        slot = torch.where(kept, slot, self.num_queues * self.size)
        entries = torch.where(kept[:, None], entries, 0).to(self.queue.dtype)
        self.queue.index_copy_(0, slot, entries)
        self.queue_ptr.copy_((self.queue_ptr + written) % self.size)
        self.queue_count.copy_((self.queue_count + written).clamp(max=self.size))

    @torch.no_grad()
    def sample(self, per_queue: int, *rng_key: int) -> tuple[Tensor, Tensor]:
        """Copy up to ``per_queue`` different entries out of every queue; entries never written are left out.

        A queue with n > k entries is cut into k runs of neighbours whose lengths differ by at most one; one entry is
        taken from each, and the cuts are rotated by a random offset. So no entry occurs twice and each has the same
        probability k/n. A queue with n <= k entries gives all of them, and the rest is masked.

        Args:
            per_queue: k, at least 1.
            rng_key: seed, iteration, micro-batch and stream, as from `rng_key`.

        Returns:
            copies of the entries (num_queues * k, D) in the bank's dtype, mask (num_queues * k,) bool, True = written.
        """
        device = self.queue.device
        count = self.queue_count[:, None]  # n, (num_queues, 1)
        queue_index = torch.arange(self.num_queues, device=device)[:, None]
        draw = torch.arange(per_queue, device=device)  # (k,)

        low = draw * count // per_queue
        length = (draw + 1) * count // per_queue - low
        offset = hash_randint(count, *rng_key, queue_index, -1)
        spread = (low + hash_randint(length, *rng_key, queue_index, draw) + offset) % count.clamp(min=1)
        index = torch.where(count > per_queue, spread, draw.clamp(max=self.size - 1))  # (num_queues, k)
        mask = draw < count
        sampled = self.queue.index_select(0, (queue_index * self.size + index).flatten())
        return sampled, mask.flatten()

    def extra_repr(self) -> str:
        return f"{self.num_queues} x {self.size} x {self.dim}, {self.queue.dtype}"
