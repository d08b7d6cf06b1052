"""The base of all segmentation networks: input convention, parts and output."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.classes import CLASSES_KEY, Classes
from models.layers import initialize_backbone
from utils.types import SegOutput


@dataclass(frozen=True)
class InputConvention:
    """The images that weights were trained on: (value * scale - mean) / std, channels in `channel_order`.

    Attributes:
        channel_order: "RGB" or "BGR".
        scale: factor on the 0..255 values (1/255 for most libraries).
        mean, std: per channel, in `channel_order`, after `scale`.
    """

    channel_order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order is {self.channel_order!r}; expected 'RGB' or 'BGR'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or self.scale <= 0:
            raise ValueError(f"an input convention needs three means, three positive stds and a positive scale: {self}")


# The convention of every released checkpoint and of the batches from our loaders.
PUBLISHED = InputConvention("BGR", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))
# torchvision's and most of timm's ImageNet weights.
IMAGENET_RGB = InputConvention("RGB", 1.0 / 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# The entry of a checkpoint for convention and eps that differ from those of the released ones; absent if none does.
CONVENTION_KEY = "weights_convention"
ENTRIES = (CONVENTION_KEY, CLASSES_KEY)  # of a checkpoint that are none of the network's tensors


class SegmentationNetwork(nn.Module):
    """A backbone, a head and possibly an auxiliary head on the third of the backbone's four stages.

    The children are called `pretrained`, `head` and `auxlayer` as in most released checkpoints.

    A backbone is a module that maps (N, 3, H, W) to its four stages' maps, shallow to deep, and has `channels` and
    `strides` (of the stages). Optional attributes are `input_convention` (default: `PUBLISHED`) and `draws_own_weights`
    (fresh weights are not drawn here). A head maps the stages to (logits, features, inner), the maps of a `SegOutput`,
    and has `classifier_name` and `pools_globally`. Optional are `output_stage`, the stage whose size its output has
    (default: the last), and `output_stride_factor`, by which the output is smaller than that stage.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        backbone, head: the modules.
        auxlayer: auxiliary head, or None.
        flat_names: the names in `state_dict()` lack `pretrained.` and `head.`, as in the released SegFormers.

    Attributes:
        input_convention: of the weights, with which it is saved. Batches are in the `PUBLISHED` one and converted
            inside, so that networks of different conventions share a batch.
        classes: names and colours, with which it is saved; None where they are not known.
        output_stride: image side / logits side.
        pools_globally: True if training normalises a 1x1 map over the batch, which needs two images over all processes
            (or frozen batch norms).
        backbone_state_prefix: prefix of the backbone's names in `state_dict()`.
        head_state_prefixes: prefixes of all other names.
        classifier_names: modules, by `named_modules()`, whose output channels are the classes.
    """

    def __init__(
        self,
        model_name: str,
        backbone_name: str,
        num_classes: int,
        backbone: nn.Module,
        head: nn.Module,
        auxlayer: nn.Module | None = None,
        flat_names: bool = False,
    ) -> None:
        super().__init__()
        self.model_name = model_name
        self.backbone_name = backbone_name
        self.num_classes = num_classes
        self.classes: Classes | None = None
        self.pretrained = backbone
        self.head = head
        self.auxlayer = auxlayer
        self.output_stride = backbone.strides[getattr(head, "output_stage", -1)]
        self.output_stride *= getattr(head, "output_stride_factor", 1)
        self.pools_globally = head.pools_globally
        self.classifier_names = [f"head.{head.classifier_name}"]
        if auxlayer is not None:
            self.classifier_names.append(f"auxlayer.{auxlayer.classifier_name}")
        self.backbone_state_prefix, self.head_state_prefixes = "pretrained.", ("head.", "auxlayer.")
        self._long_names: dict[str, str] = {}  # name in `state_dict()` -> name in the module tree, where they differ
        if flat_names:
            head_parts = {f"{name.split('.')[0]}." for name in head.state_dict()}
            self.backbone_state_prefix, self.head_state_prefixes = "", (*sorted(head_parts), "auxlayer.")
            for child in ("pretrained", "head"):
                names = getattr(self, child).state_dict()
                self._long_names |= {name: f"{child}.{name}" for name in names}
            self.register_state_dict_post_hook(_shorten_names)
        # Heads keep torch's initialisation, as the published ones do. Before a batch norm, a larger weight changes no
        # output and divides the effective learning rate by its square: with He's initialisation, that of heads was 1/6
        # to 1/120 of the published one.
        if not getattr(backbone, "draws_own_weights", False):
            initialize_backbone(backbone)
        self._built_eps = [norm.eps for norm in self._backbone_norms()]
        self.set_batch_norm_eps(None)
        self.set_input_convention(getattr(backbone, "input_convention", PUBLISHED))

    @property
    def backbone(self) -> nn.Module:
        return self.pretrained

    def set_batch_norm_eps(self, eps: float | None) -> None:
        """Set the eps of the backbone's batch norms, None: the one they were built with."""
        self.batch_norm_eps = eps
        for norm, built in zip(self._backbone_norms(), self._built_eps, strict=True):
            norm.eps = built if eps is None else eps

    def _backbone_norms(self) -> list[_BatchNorm]:
        return [module for module in self.pretrained.modules() if isinstance(module, _BatchNorm)]

    def set_input_convention(self, convention: InputConvention) -> None:
        """Set the convention that the weights were trained with."""
        self.input_convention = convention
        gain = shift = None
        if convention != PUBLISHED:
            published_mean = torch.tensor(PUBLISHED.mean, dtype=torch.float64)
            if convention.channel_order != PUBLISHED.channel_order:
                published_mean = published_mean.flip(0)
            mean = torch.tensor(convention.mean, dtype=torch.float64)
            std = torch.tensor(convention.std, dtype=torch.float64)
            # ((x + published_mean) * scale - mean) / std = x * gain + shift
            like = next(self.parameters())
            gain = (convention.scale / std).view(1, 3, 1, 1).to(like)
            shift = ((published_mean * convention.scale - mean) / std).view(1, 3, 1, 1).to(like)
        # Not persistent: the convention is saved, in full precision.
        self.register_buffer("input_gain", gain, persistent=False)
        self.register_buffer("input_shift", shift, persistent=False)

    def set_classes(self, classes: Classes | None) -> None:
        """Set names and colours; ValueError if they are of another number of classes."""
        if classes is not None and len(classes.names) != self.num_classes:
            raise ValueError(f"got the names of {len(classes.names)} classes for a network of {self.num_classes}")
        self.classes = classes

    def to_input_convention(self, x: Tensor) -> Tensor:
        """Convert a batch from the `PUBLISHED` convention to the network's own, (N, 3, H, W)."""
        if self.input_gain is None:
            return x
        if self.input_convention.channel_order != PUBLISHED.channel_order:
            x = x.flip(1)
        return x * self.input_gain + self.input_shift

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the backbone's stages, shallow to deep, for (N, 3, H, W) in the network's own convention."""
        return self.pretrained(x)

    def decode(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits, features, inner) of the stages."""
        return self.head(stages)

    def forward(self, x: Tensor, need_aux: bool = True, need_inner: bool = False) -> SegOutput:
        """Compute scores at the output stride.

        Args:
            x: images in the `PUBLISHED` convention, float, (N, 3, H, W), any H and W.
            need_aux: False skips the auxiliary head (teachers, evaluation).
            need_inner: also return the backbone's last map and the head's inner one.

        Returns:
            Logits (N, K, h, w), features (N, C, h, w) and the auxiliary head's logits, None without such a head or if
            it is skipped; the same in training and evaluation mode.
        """
        stages = self.encode(self.to_input_convention(x))
        logits, features, inner = self.decode(stages)
        aux_logits = self.auxlayer(stages[-2]) if need_aux and self.auxlayer is not None else None
        return SegOutput(logits, features, aux_logits, *((stages[-1], inner) if need_inner else ()))

    def weights_convention(self) -> Tensor | None:
        """Return a checkpoint's `CONVENTION_KEY` entry, None if all is as in the released checkpoints.

        Float64, (10,): 1 for RGB or 0 for BGR, scale, three means, three stds, eps of the backbone's batch norms or 0
        for the one it was built with, and the entry's version, 1.
        """
        own = self.input_convention
        if own == PUBLISHED and self.batch_norm_eps is None:
            return None
        values = [float(own.channel_order == "RGB"), own.scale, *own.mean, *own.std, self.batch_norm_eps or 0.0, 1.0]
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    def set_weights_convention(self, entry: Tensor | None) -> None:
        """Set input convention and batch-norm eps from a `weights_convention` entry.

        Raises:
            ValueError: an entry of another form, or with impossible values.
        """
        if entry is None:
            self.set_input_convention(PUBLISHED)
            self.set_batch_norm_eps(None)
            return
        if entry.shape != (10,) or float(entry[9]) != 1.0:
            raise ValueError(
                f"{CONVENTION_KEY} has shape {list(entry.shape)} or an unknown version; expected 10 values"
            )
        rgb, scale, *rest = values = entry.tolist()
        if not all(map(math.isfinite, values)) or rest[6] < 0:
            raise ValueError(
                f"{CONVENTION_KEY} is {values}; expected finite values, the last but one (eps) not negative"
            )
        self.set_input_convention(InputConvention("RGB" if rgb else "BGR", scale, tuple(rest[:3]), tuple(rest[3:6])))
        self.set_batch_norm_eps(rest[6] or None)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        entry = self.weights_convention()
        if entry is not None:
            destination[prefix + CONVENTION_KEY] = entry
        if self.classes is not None:
            destination[prefix + CLASSES_KEY] = self.classes.to_tensor()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.set_weights_convention(state_dict.pop(prefix + CONVENTION_KEY, None))
        entry = state_dict.pop(prefix + CLASSES_KEY, None)
        self.set_classes(None if entry is None else Classes.from_tensor(entry))
        for short, long in self._long_names.items():
            if prefix + short in state_dict:
                state_dict[prefix + long] = state_dict.pop(prefix + short)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shorten_names(network: SegmentationNetwork, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    short_names = {prefix + long: prefix + short for short, long in network._long_names.items()}
    for name in list(state_dict):  # all are reinserted, to keep the order
        state_dict[short_names.get(name, name)] = state_dict.pop(name)
