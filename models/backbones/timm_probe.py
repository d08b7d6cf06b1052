"""Find out how a network of timm can be used as a backbone.

Whether strides can be replaced by dilation, which image sizes are allowed, and the order of the maps' axes differ
between networks and are only partly declared. So they are tried when the backbone is built, on torch's "meta" device,
where a forward pass costs nothing.
"""

import difflib
import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

NUM_STAGES = 4
MIN_STRIDE = 4
OUTPUT_STRIDES = (8, 16)  # tried in this order; if neither works, the network stays as it is
STRIDE_MARK = "@"  # "resnet50d@16": with output stride 16
# Arguments by which families of transformers allow other image sizes than those they were trained on.
ANY_SIZE_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"strict_img_size": False},
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
)
# Sides of the images a network is tried with, odd and not square, in units of what they must be divisible by.
PROBE_UNITS = ((9, 7), (5, 6))
PROBE_PIXELS = ((97, 131), (160, 75))  # the same if any size is allowed


class Probe(NamedTuple):
    """(channels, stride) of each map, whether channels are last, and what image sides must be divisible by."""

    maps: list[tuple[int, int]]
    channels_last: bool
    multiple: int


def check_name(name: str) -> None:
    """Check that timm has a network of this name, with or without a weights tag.

    Raises:
        ValueError: it has none; the message has similar names.
    """
    architecture, tag = split_tag(name)
    if not timm.is_model(architecture):
        similar = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(
            f"timm has no network {name!r}; "
            + (f"similar names: {', '.join(similar)}" if similar else "timm.list_models() gives all names")
        )
    if tag:
        check_tag(architecture, tag)


def split_stride(name: str) -> tuple[str, int | None]:
    """Split "resnet50d@16" into network and output stride; None where none is asked for.

    Raises:
        ValueError: what follows the mark is no number.
    """
    network, mark, stride = name.partition(STRIDE_MARK)
    if mark and not stride.isdecimal():
        raise ValueError(f"timm:{name}: expected an output stride such as 16 after {STRIDE_MARK}")
    return network, int(stride) if mark else None


def split_tag(name: str) -> tuple[str, str]:
    """Split "resnet50d.ra2_in1k" into network and tag; no tag is "".

    Raises:
        ValueError: no tag after the dot.
    """
    architecture, dot, tag = name.partition(".")
    if dot and not tag:
        raise ValueError(
            f"{name!r} ends with a dot: expected {architecture!r}, or {architecture}.<tag> for one tag's weights"
        )
    return architecture, tag


def check_tag(architecture: str, tag: str) -> None:
    """Check that timm has weights with this tag, or any for "": without, it would use random ones.

    Raises:
        ValueError: it has none; the message has the existing tags.
    """
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (tag and tag not in tags):
        which = f" {tag!r}" if tag else ""
        raise ValueError(f"timm has no weights{which} of {architecture}; there are: {', '.join(tags) or 'none'}")


def classifier_names(name: str) -> set[str]:
    """Names of the tensors of timm's classifier of this name."""
    with torch.device("meta"), _quiet():
        return set(timm.create_model(name).state_dict())


@functools.cache
def find_options(name: str, output_stride: int | None = None) -> tuple[dict[str, Any], Probe]:
    """Find the arguments with which the network has four stages, the wanted stride and the fewest limits on sizes.

    Args:
        name: of timm, without the output stride.
        output_stride: of the last stage; None: the smallest that works.

    Raises:
        ValueError: it has no four stages, allows images of one size only, or cannot have the output stride.
    """
    indices = _stage_indices(name)
    plain, plain_probe, refusal = _find_size_options(name, {"out_indices": indices})
    if plain_probe is None:
        raise ValueError(
            f"timm:{name} takes images of one size only, or its maps do not cover images of any size ({refusal}); "
            "choose another network"
        )
    own = plain_probe.maps[-1][1]
    for wanted in OUTPUT_STRIDES if output_stride is None else (output_stride,):
        if own == wanted:
            break
        options, probe, _ = _find_size_options(name, {"out_indices": indices, "output_stride": wanted})
        if probe is not None and probe.maps[-1][1] == wanted:
            return options, probe
    else:
        if output_stride is not None:
            raise ValueError(
                f"timm:{name} cannot have output stride {output_stride}; its own is {own}, and 8 and 16 are possible "
                "where timm can replace strides by dilation"
            )
    return plain, plain_probe


def _find_size_options(name: str, options: dict[str, Any]) -> tuple[dict[str, Any], Probe | None, str]:
    """Try the arguments that allow other image sizes, and sides that are multiples of larger and larger numbers.

    Returns:
        (options, what was found or None if nothing works, the first error).
    """
    best, refusal = None, ""
    for more in ANY_SIZE_OPTIONS:
        candidate = options | more
        try:
            with torch.device("meta"):
                network = create(name, **candidate).eval()
        except Exception as error:  # constructors raise anything for an unknown argument
            refusal = refusal or first_line(error)
            continue
        for multiple in _multiples(name, best[1].multiple if best else None):
            try:
                best = candidate, _probe(network, multiple)
                break
            except Exception as error:
                refusal = refusal or first_line(error)
        if best is not None and best[1].multiple == 1:
            break
    return (*best, refusal) if best is not None else (options, None, refusal)


def _multiples(name: str, below: int | None) -> list[int]:
    """Possible divisors of sides: patch sizes, strides, windows, and last the sides of training images."""
    sizes = [1, 8, 14, 16, 32, 64, *default_config(name)["input_size"][-2:]]
    return [size for size in dict.fromkeys(sizes) if below is None or size < below]


def _probe(network: nn.Module, multiple: int) -> Probe:
    """Run a network on the meta device on two image sizes.

    Raises:
        ValueError: the maps do not have four axes, or sizes that fit no stride; or whatever the network raises.
    """
    declared = network.feature_info.channels()
    images = PROBE_PIXELS if multiple == 1 else [(high * multiple, wide * multiple) for high, wide in PROBE_UNITS]
    found: list[tuple[int, int]] | None = None
    channels_last = False
    for height, width in images:
        with torch.device("meta"), torch.no_grad():
            maps = list(network(torch.empty(1, 3, height, width)))
        if len(maps) != NUM_STAGES or any(stage.ndim != 4 for stage in maps):
            raise ValueError(f"expected {NUM_STAGES} maps, got {[tuple(stage.shape) for stage in maps]}")
        pairs = list(zip(maps, declared, strict=True))
        channels_last = any(stage.shape[1] != count and stage.shape[3] == count for stage, count in pairs)
        shapes = [(*s.shape[1:3], s.shape[3]) if channels_last else (*s.shape[2:], s.shape[1]) for s in maps]
        strides = [_stride((height, width), shape[:2]) for shape in shapes]
        result = [(shape[2], stride) for shape, stride in zip(shapes, strides, strict=True)]
        if found not in (None, result):
            raise ValueError(f"channels and strides depend on the image size: {found}, {result}")
        found = result
    assert found is not None
    return Probe(found, channels_last, multiple)


def _stride(image: tuple[int, int], stage: tuple[int, int]) -> int:
    """The power of two (or patch size) by which both sides were divided, rounded up."""
    candidates = {round(side / part) for side, part in zip(image, stage, strict=True)} | {1, 2, 4, 8, 14, 16, 32, 64}
    exact = [s for s in candidates if all(-(-side // s) == part for side, part in zip(image, stage, strict=True))]
    if not exact:
        raise ValueError(f"a map of {stage[0]}x{stage[1]} of an image of {image[0]}x{image[1]} has no whole stride")
    return min(exact, key=lambda s: (s & (s - 1) != 0, s))


def _stage_indices(name: str) -> list[int]:
    """Choose four of the network's maps.

    Raises:
        ValueError: the network has no maps, or fewer than four with stride 4 or more.
    """
    try:
        with torch.device("meta"), _quiet():
            levels = list(timm.create_model(name).feature_info)
    except Exception as error:
        raise ValueError(f"timm:{name} gives no feature maps ({first_line(error)}); choose another network") from error
    reductions = [level["reduction"] for level in levels]
    usable = [index for index, reduction in enumerate(reductions) if reduction >= MIN_STRIDE]
    if len(usable) < NUM_STAGES:
        raise ValueError(
            f"timm:{name} gives {len(usable)} feature maps of stride {MIN_STRIDE} or more (strides {reductions}); "
            f"a backbone needs {NUM_STAGES}"
        )
    if len(set(reductions)) == 1:
        return [len(levels) * quarter // NUM_STAGES - 1 for quarter in range(1, NUM_STAGES + 1)]
    return usable[-NUM_STAGES:]


def create(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    if pretrained:
        check_tag(*split_tag(name))
    try:
        with _quiet():
            return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except Exception as error:
        if not pretrained:
            raise
        raise ValueError(
            f"timm's weights of {name} cannot be downloaded: {first_line(error)}. They are fetched from the Hugging "
            "Face hub on first use: check the connection, or give a file of them instead"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences timm's report on every trial."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def default_config(name: str) -> dict[str, Any]:
    """What timm declares for the weights of a name: input size, mean, std."""
    return timm.models.get_pretrained_cfg(name).to_dict()


def first_line(error: Exception) -> str:
    """The class and the first line of another library's error, for our messages."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__
