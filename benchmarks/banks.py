"""Memory banks: construction, writing and drawing compared with loops over images and classes, bytes exchanged.

    python -m benchmarks.banks --json banks.json

The loop is code of the published kind with the same rules: for each image and class it finds the pixels, draws some and
writes them. Bytes are counted from the tensors that the banks pass to collectives, relative to gathering the feature
maps of all processes.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.host_reads import HostReads
from benchmarks.measured import PeakMemory, finish, machine, make_parser, target
from losses.methods.cirkdv2 import CIRKDV2Config
from losses.modules import cross_image
from losses.modules.cross_image import PIXELS_PER_CLASS, ChannelMemory, PixelMemory
from losses.modules.memory_bank import MemoryBank
from utils.types import Step

MIB = 1 << 20
TEACHER_CHANNELS = 512
RECIPES = {  # name: (classes, height and width of the teacher's features, its channels, images of the global batch)
    "Cityscapes": (19, (64, 128), TEACHER_CHANNELS, 8),
    "Cityscapes SegFormer": (19, (256, 256), 768, 8),
    "ADE20K": (150, (64, 64), TEACHER_CHANNELS, 16),
    "COCO-Stuff": (182, (64, 64), TEACHER_CHANNELS, 16),
    "Pascal VOC": (21, (64, 64), TEACHER_CHANNELS, 16),
    "CamVid": (11, (45, 45), TEACHER_CHANNELS, 16),
}
LARGEST_SHARE = 1 / 20
LARGE_BANK = (150, 20000, 512)
BATCH, CLASSES, SIZE = 4, 19, (64, 64)


def wire_share(classes: int, size: tuple[int, int], channels: int, batch: int) -> float:
    """Bytes that a step of all three banks sends, over those of gathering the teacher's fp32 maps.

    The code that trains makes the tensors, from one image of zeros; their sizes do not depend on what is in it. The
    share is the same for every number of processes.
    """
    config, bank_dtype = CIRKDV2Config(), torch.bfloat16
    pixels = PixelMemory(classes, channels, config.pixel_memory_size, config.region_memory_size, 1, 1, bank_dtype, 0)
    pooled = (-(-size[0] // 4), -(-size[1] // 4))
    channel_memory = ChannelMemory(config.channel_memory_size, config.channel_contrast_size, pooled, bank_dtype, 0)
    positions = size[0] * size[1]
    maps = torch.zeros(()).expand(1, positions, channels)  # one image a process
    gathered: list[Tensor] = []
    reduced: list[Tensor] = []

    def gather(tensor: Tensor) -> Tensor:
        gathered.append(tensor)
        return tensor

    def reduce(tensor: Tensor) -> Tensor:
        reduced.append(tensor)
        return tensor

    with patch.object(cross_image, "all_gather_cat", gather), patch.object(cross_image, "all_reduce_sum", reduce):
        pixels._enqueue(maps, torch.zeros(1, positions, dtype=torch.int64), Step())
        channel_memory._enqueue(torch.zeros(channels, pooled[0] * pooled[1]), Step())
    # Round a ring, an all-gather passes each part on W - 1 times, an all-reduce 2 (W - 1) / W times.
    return (_bytes(gathered) + 2 * _bytes(reduced) / batch) / _bytes([maps])


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def construction() -> tuple[float, float, float]:
    """Seconds and peak extra MiB of building the 150-class bank, and the MiB that it can hold."""
    peak = PeakMemory(torch.device("cpu"))
    start = time.perf_counter()
    bank = MemoryBank(*LARGE_BANK)
    seconds = time.perf_counter() - start
    return seconds, peak.mib(), bank.queue.nbytes / MIB


class LoopBank:
    """Pixel and region banks written and drawn by loops over images and classes; METHOD's rules in plain code."""

    def __init__(self, num_classes: int, pixel_size: int, region_size: int, channels: int) -> None:
        self.rings = [torch.zeros(num_classes, size, channels) for size in (pixel_size, region_size)]
        self.pointers = [[0] * num_classes, [0] * num_classes]
        self.counts = [[0] * num_classes, [0] * num_classes]

    def enqueue(self, rows: Tensor, labels: Tensor) -> None:
        """Rows (N, L, C) of unit length with labels (N, L)."""
        for image in range(rows.shape[0]):
            for y in labels[image].unique().tolist():
                index = (labels[image] == y).nonzero().flatten()
                region = F.normalize(rows[image, index].mean(0, keepdim=True), dim=1)
                index = index[torch.randperm(index.numel(), device=index.device)[:PIXELS_PER_CLASS]]
                for bank, written in enumerate((rows[image, index], region)):
                    ring = self.rings[bank][y]
                    for row in written:
                        ring[self.pointers[bank][y]] = row
                        self.pointers[bank][y] = (self.pointers[bank][y] + 1) % ring.shape[0]
                    self.counts[bank][y] = min(self.counts[bank][y] + written.shape[0], ring.shape[0])

    def draw(self, bank: int, rows_per_class: int) -> Tensor:
        """Up to `rows_per_class` random rows of every class."""
        drawn = []
        for y, count in enumerate(self.counts[bank]):
            index = torch.randperm(count)[:rows_per_class]
            drawn.append(self.rings[bank][y][index])
        return torch.cat(drawn)


def write_and_draw(repeats: int) -> dict[str, dict[str, float]]:
    """Best seconds and host synchronisations of writing a batch and drawing the keys, the banks' way and the loop's."""
    config = CIRKDV2Config()
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(BATCH, TEACHER_CHANNELS, *SIZE, generator=generator)
    rows = F.normalize(maps, dim=1).flatten(2).transpose(1, 2)
    coarse = torch.randint(0, CLASSES, (BATCH, SIZE[0] // 8, SIZE[1] // 8), generator=generator)
    labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2).flatten(1)  # patches, like real labels
    sizes = (config.pixel_memory_size, config.region_memory_size)
    draws = (config.pixel_contrast_size, config.region_contrast_size)
    memory = PixelMemory(CLASSES, TEACHER_CHANNELS, *sizes, *draws, torch.bfloat16, seed=0)
    loop = LoopBank(CLASSES, *sizes, TEACHER_CHANNELS)

    def ours() -> None:
        memory._enqueue(rows, labels, Step())
        memory.pixel_bank.sample(memory.pixel_keys_per_class, 0)
        memory.region_bank.sample(memory.region_keys_per_class, 1)

    def plain() -> None:
        loop.enqueue(rows, labels)
        loop.draw(0, memory.pixel_keys_per_class)
        loop.draw(1, memory.region_keys_per_class)

    ways: dict[str, Callable[[], None]] = {"banks": ours, "loop": plain}
    results: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        with HostReads() as counter:
            way()
        results[name] = {"seconds": float("inf"), "host_synchronizations": counter.count}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            results[name]["seconds"] = min(results[name]["seconds"], time.perf_counter() - start)
    return results


def run(threads: int = 2, repeats: int = 9) -> dict:
    """All measurements.

    Args:
        threads: of torch.
        repeats: of which the best counts.
    """
    torch.set_num_threads(threads)
    build_seconds, build_mib, bank_mib = construction()
    ways = write_and_draw(repeats)
    shares = {name: wire_share(*sizes) for name, sizes in RECIPES.items()}
    speedup = ways["loop"]["seconds"] / ways["banks"]["seconds"]
    targets = {
        "construction of the 150-class bank, s": target(build_seconds, 1.0),
        "its peak memory / its size": target(build_mib / bank_mib, 1.0),
        "host synchronisations of a step's writing and drawing": target(ways["banks"]["host_synchronizations"], 0),
        "loop / banks, time of writing and drawing": target(speedup, 1.0, at_most=False),
    }
    targets |= {f"bytes sent / feature maps, {name}": target(share, LARGEST_SHARE) for name, share in shares.items()}
    return {
        "benchmark": "banks",
        "sizes": {"bank": LARGE_BANK, "batch": BATCH, "classes": CLASSES, "features": [TEACHER_CHANNELS, *SIZE]},
        "machine": machine(),
        "seconds": {"construction": build_seconds} | {name: way["seconds"] for name, way in ways.items()},
        "host_synchronizations": {name: way["host_synchronizations"] for name, way in ways.items()},
        "peak_extra_mib": {"construction": build_mib, "bank when full": bank_mib},
        "ratios": {"loop / banks": speedup, "bytes sent / feature maps": shares},
        "targets": targets,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    result = run(args.threads, args.repeats)
    for name, seconds in result["seconds"].items():
        print(f"{name:55s} {seconds * 1e3:8.2f} ms")
    finish(result, args.json)


if __name__ == "__main__":
    main()
