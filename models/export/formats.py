"""The file formats of exported networks: how each is written and checked."""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import build_model
from models.base import SegmentationNetwork
from models.weights import load_weights
from utils.trust import CHECKSUM, checksum

TOLERANCE = 1e-3  # largest difference, relative to the largest score
# Further images (N, H, W) on which a file with variable height and width is checked.
CHECKED_IMAGES = ((1, 128, 192), (2, 97, 131))
VALUE_RANGE = 60.0  # standard deviation of the random images, about that of photographs
METADATA_FILE = "metadata.json"  # inside TorchScript files


class ExportError(Exception):
    """A network that cannot be exported to a format, or a file with other outputs than the network."""


class LogitsOnly(nn.Module):
    """A network that only returns its logits; `upsample` resizes them to the images' size, as evaluation does."""

    def __init__(self, network: SegmentationNetwork, upsample: bool = False) -> None:
        super().__init__()
        self.network = network
        self.upsample = upsample

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, K, h, w), or (N, K, H, W) if upsampled."""
        logits = self.network(images, need_aux=False).logits
        if self.upsample:
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=True)
        return logits


class Request(NamedTuple):
    """What to write: `size` is (height, width) in tracing, to which `fixed` limits the file."""

    network: LogitsOnly
    path: Path
    size: tuple[int, int]
    fixed: bool
    opset: int
    metadata: dict[str, str]


def write_onnx(request: Request) -> str:
    """Write an ONNX file and check it with onnxruntime; returns a report.

    torch's tracing exporter writes the same graph as its successor (`dynamo=True`) in a thirtieth of the time, and the
    check below covers what tracing may freeze.

    Raises:
        ExportError: the network cannot be exported, or the file's outputs differ.
        ValueError: a library is missing.
    """
    onnx, onnxruntime = _library("onnx"), _library("onnxruntime")
    axes = {0: "batch"} if request.fixed else {0: "batch", 2: "height", 3: "width"}
    out_axes = {0: "batch"} if request.fixed else {0: "batch", 2: "out_height", 3: "out_width"}
    with _refusals("torch's ONNX exporter"), _no_output():
        torch.onnx.export(
            request.network,
            (_images(1, *request.size),),
            str(request.path),
            dynamo=False,
            opset_version=request.opset,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": axes, "logits": out_axes},
        )
        model = onnx.load(str(request.path))
        onnx.helper.set_model_props(model, request.metadata)
        onnx.checker.check_model(model)
        onnx.save(model, str(request.path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures are raised
        session = onnxruntime.InferenceSession(str(request.path), options, providers=["CPUExecutionProvider"])
    return _compare(request, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))


def write_torchscript(request: Request) -> str:
    """Write a TorchScript file, with the metadata as `METADATA_FILE`, and check it; as `write_onnx`.

    A trace freezes devices, so a head that creates tensors (pyramid pooling) limits the file to the CPU.
    """
    with _refusals("torch.jit.trace"):
        traced = torch.jit.trace(request.network, _images(1, *request.size), check_trace=False)
        torch.jit.save(traced, str(request.path), _extra_files={METADATA_FILE: json.dumps(request.metadata)})
        loaded = torch.jit.load(str(request.path))
    return _compare(request, loaded)


def write_safetensors(request: Request) -> str:
    """Write the weights and compare each tensor in the file and in a new network; as `write_onnx`."""
    if request.path.suffix != ".safetensors":
        raise ValueError(f"{request.path.name}: expected a name ending in .safetensors")
    network = request.network.network
    state = network.state_dict()
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, request.path, request.metadata | {CHECKSUM: checksum(tensors, request.metadata)})
    names = network.model_name, network.backbone_name, network.num_classes
    twin = build_model(*names, aux=network.auxlayer is not None)
    _require_same(state, load_file(request.path))
    load_weights(twin, request.path, log=lambda _: None)
    _require_same(state, twin.state_dict())
    return f"{len(state)} tensors, equal bit for bit in the file and in a network that loads it"


def _require_same(state: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    others = [name for name in state | found if name not in found or not _same(state.get(name), found[name])]
    if others:
        raise ExportError(f"{len(others)} tensors differ after they were read again: {', '.join(others[:5])}")


# name on the command line -> (suffix of the file, function, whether a graph is traced)
FORMATS: dict[str, tuple[str, Callable[[Request], str], bool]] = {
    "onnx": (".onnx", write_onnx, True),
    "torchscript": (".pt", write_torchscript, True),
    "safetensors": (".safetensors", write_safetensors, False),
}


@torch.no_grad()
def _compare(request: Request, run: Callable[[Tensor], Tensor]) -> str:
    """Compare the written graph with the network.

    Raises:
        ExportError: on some image it fails, or has another shape or other values.
    """
    images = [(1, *request.size)] if request.fixed else [(1, *request.size), *CHECKED_IMAGES]
    worst = 0.0
    for shape in images:
        image = _images(*shape)
        expected = request.network(image)
        place = f"at {shape[1]}x{shape[2]}"
        with _refusals(f"the file fails {place}"):
            got = run(image)
        if got.shape != expected.shape:
            raise ExportError(f"{place} the file's scores are {list(got.shape)}, the network's {list(expected.shape)}")
        difference = float((got - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:  # NaN too
            raise ExportError(f"{place} the file's scores differ by {difference:.1e} of the largest")
        worst = max(worst, difference)
    sizes = ", ".join(f"{height}x{width}" for _, height, width in images)
    free = "height and width fixed" if request.fixed else "any height and width"
    return f"{free}; checked at {sizes}: largest difference {worst:.1e} of the largest score"


def _images(count: int, height: int, width: int) -> Tensor:
    return VALUE_RANGE * torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def _same(left: Tensor | None, right: Tensor) -> bool:
    return left is not None and left.dtype == right.dtype and torch.equal(left, right)


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"ONNX files need {name}, which cannot be imported ({error}): pip install {name}") from error


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Suppresses the thousands of lines that torch's C++ part prints of a graph it cannot export."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _refusals(who: str) -> Iterator[None]:
    """Turns any error of an exporter or a runtime into `ExportError`, and suppresses warnings."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracer warns of every shape it might freeze, and of its deprecation; the check shows what is wrong.
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        text = str(error).strip()
        raise ExportError(f"{who}: {text.splitlines()[0] if text else type(error).__name__}") from error
