"""Time per training sample of 1024x2048 PNG files: decoding alone, our paths, and resize-then-crop in float.

    OMP_NUM_THREADS=1 python -m benchmarks.input --json input.json

One thread, the same samples and random windows in turns; the mean counts (scales differ in cost):

- decode: the two files of a sample decoded by Pillow, as most data sets do, and nothing else;
- files: the training stream from the files (crop before resize, rows down to the window's end, lookup-table labels);
- float: the usual way: decode by Pillow, normalise in float32, resize the whole image, crop;
- cache: the training stream from a decoded cache;
- own decode: the two files decoded whole by our reader;
- inflate: the two streams inflated by zlib, no decoder around it; what a decoder adds is the filters of the rows.

Scenes are painted at half the size, enlarged, blurred and given noise, so that their PNG have about the size of street
photographs' (2.3 MB).
"""

import statistics
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import torch
from PIL import Image

from benchmarks.measured import finish, machine, make_parser, target
from dataset import build_dataset
from dataset.loading.loaders import TrainStream
from dataset.loading.transforms import BGR_MEAN, TrainTransform, rows_read
from dataset.prepared.build import build_cache
from dataset.reading.images import read_image, read_mask
from dataset.synthetic.scenes import CLASSES, render_scene

SIZE = (1024, 2048)
BLUR, NOISE = 1.5, 0.5  # standard deviations, in pixels and in grey levels
TARGETS = {  # name: (ratio of these two, its bound, whether it is at most)
    "files / decode": ("files", "decode", 1.15, True),
    "float / files": ("float", "files", 2.5, False),
    "float / cache": ("float", "cache", 15.0, False),
}


def write_scenes(root: Path, count: int) -> float:
    """Writes `count` scenes in the layout of custom data sets; returns the mean size of an image file in MB."""
    sizes, lines = [], []
    for index in range(count):
        rng = np.random.default_rng(index)
        image, mask = render_scene((SIZE[0] // 2, SIZE[1] // 2), rng, 0.5)
        image = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        image = cv2.GaussianBlur(image, None, BLUR)
        mask = cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        noisy = image + rng.normal(0, NOISE, image.shape).astype(np.float32)
        Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(root / f"{index}.png")
        Image.fromarray(mask).save(root / f"{index}_mask.png")
        sizes.append((root / f"{index}.png").stat().st_size / 1e6)
        lines.append(f"{index}.png {index}_mask.png\n")
    (root / "train.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return statistics.mean(sizes)


def usual_decode(path: str) -> np.ndarray:
    """A file's pixels as Pillow gives them."""
    with Image.open(path) as image:
        return np.asarray(image)


def resize_then_crop(stream: TrainStream, position: int) -> tuple[np.ndarray, np.ndarray]:
    """A normalised float32 sample the usual way, of the window that the stream draws at a position."""
    data, order = stream.dataset, stream.order
    index = order.index(position)
    image = usual_decode(data.image_paths[index])
    mask = data.labels.train_ids(usual_decode(data.mask_paths[index]), data.mask_paths[index])
    window = stream.transform.draw(mask.shape, order.generator(position))
    factor = float(window.scale)
    normalised = image[:, :, ::-1].astype(np.float32) - np.float32(BGR_MEAN)
    pixels = cv2.resize(normalised, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    labels = cv2.resize(mask, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    place = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
    step = -1 if window.flip else 1
    pixels, labels = pixels[place][:, ::step], labels[place][:, ::step]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), np.ascontiguousarray(labels)


def compressed_stream(path: str) -> bytes:
    """The image data of a PNG file, still compressed."""
    data, position, parts = Path(path).read_bytes(), 8, []
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        position += 12 + length
    return b"".join(parts)


def measure(source: TrainStream, cached: TrainStream, samples: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each sample in each way, in turns; and the sizes that bound them."""
    data = source.dataset
    pairs = list(zip(data.image_paths, data.mask_paths, strict=True))
    streams = [[compressed_stream(path) for path in pair] for pair in pairs]
    inflated = [sum(len(zlib.decompress(stream)) for stream in pair) for pair in streams]

    def of_sample(work: Callable[[int], object]) -> Callable[[int], None]:
        return lambda position: work(source.order.index(position))

    ways: dict[str, Callable[[int], object]] = {
        "decode": of_sample(lambda index: [usual_decode(path) for path in pairs[index]]),
        "files": lambda position: source.read([position]),
        "float": lambda position: resize_then_crop(source, position),
        "cache": lambda position: cached.read([position]),
        "own decode": of_sample(lambda index: (read_image(pairs[index][0]), read_mask(pairs[index][1]))),
        "inflate": of_sample(lambda index: [zlib.decompress(stream) for stream in streams[index]]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares = []
    for position in range(-2, samples):  # two to warm up
        for name, way in ways.items():
            began = time.perf_counter()
            way(max(position, 0))
            if position >= 0:
                seconds[name].append(time.perf_counter() - began)
        window = source.transform.draw(SIZE, source.order.generator(max(position, 0)))
        shares.append(rows_read(window, SIZE[0]) / SIZE[0])
    bounds = {"rows_read": statistics.mean(shares[2:]), "inflated_bytes_per_sample": statistics.mean(inflated)}
    bounds["inflated_bytes_per_second"] = bounds["inflated_bytes_per_sample"] / statistics.mean(seconds["inflate"])
    return seconds, bounds


def run(samples: int = 60, scenes: int = 6, crop: tuple[int, int] = (512, 1024)) -> dict:
    """Writes scenes and their decoded cache to a temporary folder and measures."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "files"), Path(folder, "cache")
        root.mkdir()
        megabytes = write_scenes(root, scenes)
        build_cache("custom", root, out, ("train",), workers=0)
        streams = [TrainStream(build_dataset("custom", path, "train"), TrainTransform(crop), 0) for path in (root, out)]
        for position in range(scenes):
            pairs = zip(*(stream.read([position]) for stream in streams), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), "the cache gives other samples than its source"
        seconds, bounds = measure(*streams, samples)
    mean = {name: statistics.mean(values) for name, values in seconds.items()}
    ratios = {name: mean[a] / mean[b] for name, (a, b, _, _) in TARGETS.items()}
    return {
        "benchmark": "input",
        "sizes": {"image": SIZE, "crop": crop, "scenes": scenes, "samples": samples, "png_megabytes": megabytes},
        "machine": machine(
            opencv=cv2.__version__,
            numpy=np.__version__,
            pillow=Image.__version__,
            imagecodecs=imagecodecs.__version__,
        ),
        "seconds": mean,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "bounds": bounds,
        "ratios": ratios,
        "targets": {
            name: target(ratios[name], bound, at_most=at_most) for name, (_, _, bound, at_most) in TARGETS.items()
        },
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=60, help="timed samples (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=6, help="different images (default: %(default)s)")
    parser.add_argument("--crop-size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    args = parser.parse_args()
    result = run(args.samples, args.scenes, tuple(args.crop_size))
    for name, value in result["seconds"].items():
        print(f"{name:10s} {1000 * value:8.1f} ms per sample")
    bounds = result["bounds"]
    print(
        f"rows read: {bounds['rows_read']:.0%} of the image's; zlib inflates "
        f"{bounds['inflated_bytes_per_sample'] / 1e6:.1f} MB per sample at "
        f"{bounds['inflated_bytes_per_second'] / 1e6:.0f} MB/s"
    )
    finish(result, args.json)


if __name__ == "__main__":
    main()
