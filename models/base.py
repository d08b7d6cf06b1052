"""What every segmentation network has in common: its input convention, its parts and its output."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import initialize_weights
from utils.types import SegOutput


@dataclass(frozen=True)
class InputConvention:
    """How a network's weights expect an image: (value * scale - mean) / std, channels in `channel_order`.

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


# The convention of every released checkpoint and of every batch of ours: what the loaders give.
PUBLISHED = InputConvention("BGR", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))
# torchvision's and most of timm's ImageNet weights.
IMAGENET_RGB = InputConvention("RGB", 1.0 / 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class SegmentationNetwork(nn.Module):
    """A backbone, a head and possibly an auxiliary head on the backbone's last stage but one.

    The children are called `pretrained`, `head` and `auxlayer` because the released checkpoints call them so. A
    network whose checkpoint names differ sets the prefixes and overrides `encode` and `decode`.

    A backbone is a module that maps (N, 3, H, W) to its four stages' maps, shallow to deep, and has `channels` (of the
    stages) and `output_stride`. A head maps the stages to (logits, features), and has `classifier_name` and
    `pools_globally`; it may set `output_stride_factor` where it is coarser than the backbone.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        backbone, head: the modules.
        auxlayer: auxiliary head, or None.
        input_convention: what the weights expect; batches come in the `PUBLISHED` one and are converted inside, so
            that networks of different conventions share a batch.

    Attributes:
        output_stride: image side / logits side.
        pools_globally: True where training normalises a 1x1 map over the batch, which needs two images per process
            (or batch norm synchronised over processes, or frozen).
        backbone_state_prefix: what the backbone's names begin with in `state_dict()`.
        head_state_prefixes: what the names of all that is not backbone begin with.
        classifier_names: modules whose output channels are the classes.
    """

    backbone_state_prefix = "pretrained."
    head_state_prefixes = ("head.", "auxlayer.")

    def __init__(
        self,
        model_name: str,
        backbone_name: str,
        num_classes: int,
        backbone: nn.Module,
        head: nn.Module,
        auxlayer: nn.Module | None = None,
        input_convention: InputConvention = PUBLISHED,
    ) -> None:
        super().__init__()
        self.model_name = model_name
        self.backbone_name = backbone_name
        self.num_classes = num_classes
        self.pretrained = backbone
        self.head = head
        self.auxlayer = auxlayer
        self.output_stride = backbone.output_stride * getattr(head, "output_stride_factor", 1)
        self.pools_globally = head.pools_globally
        self.classifier_names = [f"head.{head.classifier_name}"]
        if auxlayer is not None:
            self.classifier_names.append(f"auxlayer.{auxlayer.classifier_name}")
        self.set_input_convention(input_convention)
        initialize_weights(self, self.classifier_names)

    @property
    def backbone(self) -> nn.Module:
        return self.pretrained

    def set_input_convention(self, convention: InputConvention) -> None:
        """Declare what the weights expect; weights of another library bring their convention with them."""
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
        # Not persistent: the names in a checkpoint are fixed.
        self.register_buffer("input_gain", gain, persistent=False)
        self.register_buffer("input_shift", shift, persistent=False)

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

    def decode(self, stages: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (logits, features) of the stages."""
        return self.head(stages)

    def forward(self, x: Tensor, need_aux: bool = True) -> SegOutput:
        """Compute scores at the output stride.

        Args:
            x: images in the `PUBLISHED` convention, float, (N, 3, H, W), any H and W.
            need_aux: False skips the auxiliary head (teachers, evaluation).

        Returns:
            Logits (N, K, h, w), features (N, C, h, w) and the auxiliary head's logits, which are None where there is
            no such head or it is skipped; in training and in evaluation mode alike.
        """
        stages = self.encode(self.to_input_convention(x))
        logits, features = self.decode(stages)
        aux_logits = self.auxlayer(stages[-2]) if need_aux and self.auxlayer is not None else None
        return SegOutput(logits, features, aux_logits)
