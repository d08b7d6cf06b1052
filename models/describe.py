"""Parameters, MACs, shapes and latency of a network."""

import os
import platform
import statistics
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from models.base import SegmentationNetwork
from utils.complexity import count_macs, count_parameters, feature_shapes

WARM_UP_RUNS = 3
PARTS = {"backbone": "pretrained", "head": "head", "auxiliary head": "auxlayer"}


def describe(
    network: SegmentationNetwork, height: int, width: int, device: torch.device | None = None, runs: int = 10
) -> dict[str, Any]:
    """Describe a network, in types of JSON.

    Args:
        network: is put in evaluation mode.
        height, width: image size in pixels.
        device: where the latency is measured; the network is moved there.
        runs: timed passes; 0: no latency.

    Returns:
        Keys: model, backbone, num_classes, image (height, width), parameters and macs (by part, with "total"), flops,
        stages (channels, height, width, stride each), features and logits and aux_logits ((channels, height, width) or
        None), output_stride, dilation (the backbone's largest), input_convention, latency (None without runs). MACs
        and FLOPs are of inference, without the auxiliary head.
    """
    network.eval()
    children = {part: getattr(network, name) for part, name in PARTS.items()}
    parameters = {part: count_parameters(child) for part, child in children.items() if child is not None}
    whole = count_macs(network, height, width, need_aux=False)
    backbone = count_macs(network.backbone, height, width)
    stages: list[torch.Size] = []
    hook = network.backbone.register_forward_hook(lambda _, __, maps: stages.extend(m.shape[1:] for m in maps))
    with hook:
        shapes = feature_shapes(network, height, width)
    return {
        "model": network.model_name,
        "backbone": network.backbone_name,
        "num_classes": network.num_classes,
        "image": [height, width],
        "parameters": parameters | {"total": count_parameters(network)},
        "macs": {"backbone": backbone, "head": whole - backbone, "total": whole},
        "flops": 2 * whole,
        "stages": [
            {"channels": shape[0], "height": shape[1], "width": shape[2], "stride": stride}
            for shape, stride in zip(stages, network.backbone.strides, strict=True)
        ],
        **{name: shapes[name] and list(shapes[name]) for name in ("logits", "features", "aux_logits")},
        "output_stride": network.output_stride,
        "dilation": max(max(m.dilation) for m in network.backbone.modules() if isinstance(m, nn.Conv2d)),
        "input_convention": asdict(network.input_convention),
        "latency": measure_latency(network, height, width, device or torch.device("cpu"), runs) if runs else None,
    }


@torch.no_grad()
def measure_latency(
    network: SegmentationNetwork, height: int, width: int, device: torch.device, runs: int
) -> dict[str, Any]:
    """Time one image's forward pass in evaluation mode, without the auxiliary head, in single precision.

    Args:
        network: moved to `device` and put in evaluation mode.
        height, width: image size in pixels.
        device: a GPU is synchronised before and after each pass.
        runs: timed passes, after `WARM_UP_RUNS` others.

    Returns:
        Median, quartiles, fastest and slowest in milliseconds, and what they were measured on.
    """
    network.to(device).eval()
    image = torch.randn(1, 3, height, width, device=device)

    times = []
    for _ in range(WARM_UP_RUNS + runs):
        _synchronize(device)
        start = time.perf_counter()
        network(image, need_aux=False)
        _synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    times = times[WARM_UP_RUNS:]
    quarters = statistics.quantiles(times, n=4, method="inclusive") if runs > 1 else times * 3
    on_gpu, processor = device.type == "cuda", platform.processor() or platform.machine()
    return {
        "median_ms": statistics.median(times),
        "quartiles_ms": [quarters[0], quarters[2]],
        "fastest_ms": min(times),
        "slowest_ms": max(times),
        "runs": runs,
        "batch": 1,
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU {processor}, {os.cpu_count()} cores",
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
    }


def describe_as_text(found: dict[str, Any]) -> str:
    """Format the result of `describe` as lines."""
    height, width = found["image"]
    own = found["input_convention"]
    mean, std = (", ".join(f"{value:.6g}" for value in own[key]) for key in ("mean", "std"))
    convention = f"{own['channel_order']}, value * {own['scale']:.6g}, mean {mean}, std {std}"
    stages = [_shape([stage["channels"], stage["height"], stage["width"]]) for stage in found["stages"]]
    rows = {
        "network": f"{found['model']} with {found['backbone']}, {found['num_classes']} classes",
        "image": f"{height}x{width} (height x width)",
        "parameters": _by_part(found["parameters"], 1e6, "M"),
        "MACs": f"{_by_part(found['macs'], 1e9, 'G')}; inference, batch 1",
        "FLOPs": f"{found['flops'] / 1e9:.2f} G (2 x MACs)",
        **{f"stage {i + 1}": f"{stages[i]}, stride {stage['stride']}" for i, stage in enumerate(found["stages"])},
        "features": _shape(found["features"]),
        "logits": _shape(found["logits"]),
        "aux logits": "none" if found["aux_logits"] is None else _shape(found["aux_logits"]),
        "output stride": str(found["output_stride"]),
        "dilation": f"up to {found['dilation']} in the backbone" if found["dilation"] > 1 else "none in the backbone",
        "weights expect": f"{convention} (converted inside)",
        "latency": "not measured" if found["latency"] is None else _latency(found["latency"]),
    }
    return "\n".join(f"{title:15}{text}" for title, text in rows.items())


def _latency(found: dict[str, Any]) -> str:
    low, high = found["quartiles_ms"]
    threads = "" if found["threads"] is None else f", {found['threads']} threads"
    return (
        f"median {found['median_ms']:.2f} ms, quartiles {low:.2f} to {high:.2f}, fastest {found['fastest_ms']:.2f}, "
        f"slowest {found['slowest_ms']:.2f} ({found['runs']} runs, batch 1, float32, without auxiliary head; "
        f"{found['device']}{threads}, torch {found['torch']})"
    )


def _by_part(counts: dict[str, int], unit: float, symbol: str) -> str:
    parts = ", ".join(f"{part} {count / unit:.2f} {symbol}" for part, count in counts.items() if part != "total")
    return f"{counts['total'] / unit:.2f} {symbol} ({parts})"


def _shape(shape: list[int]) -> str:
    return f"{shape[0]} channels, {shape[1]}x{shape[2]}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
