"""Exports a trained network for other programs; a file is only kept if it reproduces the network's outputs.

    python -m models.export --pretrained segformer_MiT_B0_citys_best_model.pth --format onnx
    python -m models.export --pretrained last_state.pth --format torchscript --upsample --output network.pt

ONNX and TorchScript files map images (N, 3, H, W) to logits; safetensors files contain the weights under their names.
"""

import argparse
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from models import build_model
from models.base import PUBLISHED, SegmentationNetwork
from models.export.formats import FORMATS, ExportError, LogitsOnly, Request
from models.weights import load_weights, read_file
from models.weights.contents import check_claim, class_count, mismatch
from models.weights.file_names import CLASS_COUNTS, find_checkpoint, parse_file_name, read_arguments_names
from utils.cli import Parser

DEFAULT_SIZE = (512, 1024)


def parse_args() -> argparse.Namespace:
    description = "Write a trained network as ONNX, TorchScript or safetensors, checked against it first."
    parser = Parser(description, prog="python -m models.export")
    parser.add_argument(
        "--pretrained", type=Path, required=True, metavar="FILE", help="weights of the whole network, or a run's folder"
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), required=True, help="torchscript is traced on the CPU, and for it"
    )
    parser.add_argument("--model", help="by default from the file's name or its run's arguments")
    parser.add_argument("--backbone", help="the same")
    parser.add_argument("--num-classes", type=int, help="by default that of the classifier in the file")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="by default in the weights' folder, with their name"
    )
    size_help = f"image size the network is traced with (default: {DEFAULT_SIZE[0]} {DEFAULT_SIZE[1]})"
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size_help)
    parser.add_argument("--fixed-size", action="store_true", help="a graph only for images of --size")
    parser.add_argument("--opset", type=int, default=17, help="ONNX operator set (default: %(default)s)")
    parser.add_argument("--upsample", action="store_true", help="logits at image size, as the evaluation resizes them")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args()
    if args.size is not None and min(args.size) < 1:
        parser.error(f"--size {args.size}: expected height and width of at least 1 pixel")
    return args


def export(
    network: SegmentationNetwork,
    output: Path,
    kind: str,
    size: Sequence[int] = DEFAULT_SIZE,
    fixed_size: bool = False,
    upsample: bool = False,
    opset: int = 17,
    log: Callable[[str], Any] = print,
) -> dict[str, str]:
    """Write a network to a file, which replaces `output` only if it reproduces the network's outputs.

    Args:
        network: on the CPU; left in evaluation mode.
        output: the file to write or replace.
        kind: a name of `FORMATS`.
        size: (height, width) the network is traced with.
        fixed_size: do not try to keep height and width variable.
        upsample: logits at image size instead of at the output stride.
        opset: ONNX operator set.
        log: receives what was done, line by line.

    Returns:
        The file's metadata.

    Raises:
        ValueError: the network cannot be exported or does not allow images of this size, a library is missing, or the
            file's outputs differ; nothing is written.
        OSError: the file cannot be written.
    """
    _, write, traces = FORMATS[kind]
    height, width = size
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} to")
    temporary = output.with_name(f".{os.getpid()}.{output.name}")  # readers know the format by the suffix
    with torch.no_grad():  # so that the network's own error about a size is not taken for an exporter's
        network.eval()(torch.zeros(1, 3, height, width, dtype=next(network.parameters()).dtype), need_aux=False)
    metadata = {
        "model": network.model_name,
        "backbone": network.backbone_name,
        "num_classes": str(network.num_classes),
        "output_stride": "1" if upsample else str(network.output_stride),
        "input": "float32 (N, 3, H, W), (value * scale - mean) / std of 0..255 values, see input_convention; "
        "conversion to what the weights expect is inside the network",
        "input_convention": json.dumps(vars(PUBLISHED)),
        "output": "class scores (N, num_classes, h, w) before softmax, "
        + ("at image size" if upsample else "at image size / output_stride; resize bilinearly with aligned corners"),
    }
    metadata |= {} if network.classes is None else network.classes.metadata()
    request = Request(LogitsOnly(network, upsample).eval(), temporary, (height, width), fixed_size, opset, metadata)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # that of new files here; some writers set a narrower one
        for fixed in (True,) if fixed_size or not traces else (False, True):
            if traces:
                metadata["size"] = f"{height}x{width}" if fixed else "any"
            try:
                report = write(request._replace(fixed=fixed))
                break
            except ExportError as error:
                if fixed:
                    raise ValueError(f"{output} is not written: {error}") from error
                log(f"height and width cannot stay variable ({error}); fixing them at {height}x{width}")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    log(f"{output}: {kind}, {report}")
    return metadata


def load_network(
    path: Path,
    model: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    keep_aux: bool = True,
    log: Callable[[str], Any] = print,
) -> SegmentationNetwork:
    """Build and load the network of a checkpoint.

    Args:
        path: the checkpoint, or the folder of a run.
        model, backbone, num_classes: as for `build_model`; None: from the file.
        keep_aux: build the auxiliary head if the file has one.
        log: receives what was found, line by line.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not name its network, or has another one than it names or than is given.
    """
    path = find_checkpoint(path, log)
    file = read_file(path)
    aux = keep_aux and any(name.startswith("auxlayer.") for name in file.state)
    if model is None or backbone is None:
        named = parse_file_name(file.path)
        found, source = (named, "name") if named else (read_arguments_names(file.arguments), "arguments")
        if found is None:
            raise ValueError(
                f"{path} does not name its network, as segformer_MiT_B0_citys.pth or a run's last_state.pth do: give "
                "--model and --backbone"
            )
        model, backbone = model or found.model, backbone or found.backbone
        log(f"{path.name}: --model {model} --backbone {backbone}")
        classes = num_classes or CLASS_COUNTS.get(found.dataset, 0)
        claim = f"{found.model} with {found.backbone}" + (f" on {found.dataset}" if found.dataset else "")
        expected = f"{model} with {backbone}" + (f" for {classes} classes" if classes else "")
        difference = mismatch(model, backbone, classes, file, aux)
        check_claim(file, claim, source, expected, difference, "--model, --backbone and --num-classes")
    if num_classes is None:
        num_classes = class_count(model, backbone, file.state)
        if not num_classes:
            raise ValueError(
                f"{file.path} has no classifier of {model} with {backbone}: it is no checkpoint of this whole network; "
                "check --model and --backbone"
            )
    network = build_model(model, backbone, num_classes, aux=aux)
    load_weights(network, file, log=log)
    return network.eval()


def main() -> None:
    args = parse_args()
    checkpoint = find_checkpoint(args.pretrained, print)
    stem = re.sub(r"\.(pth|pt|safetensors)$", "", checkpoint.name)
    output = args.output or checkpoint.with_name(stem + FORMATS[args.format][0])
    if output.exists() and not args.overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it, --output names another")
    keep_aux = not FORMATS[args.format][2]  # traced graphs do without the auxiliary head
    network = load_network(checkpoint, args.model, args.backbone, args.num_classes, keep_aux)
    export(network, output, args.format, args.size or DEFAULT_SIZE, args.fixed_size, args.upsample, args.opset)
