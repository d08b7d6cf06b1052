"""Any network of timm that gives feature maps, as a backbone of four stages."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.timm_probe import check_name, create, default_config, find_options
from models.base import InputConvention


class TimmBackbone(nn.Module):
    """Four feature maps of a timm network.

    The last four of the network's maps with stride 4 or more are taken; where all maps have the same stride (plain
    vision transformers), four spread evenly over the depth up to the last. Images whose sides a network does not take
    as they are are padded with zeros on the right and below, and the maps cut to the image's part.

    Args:
        name: a name that `timm.list_models()` gives, or one with a weights tag ("resnet50d.ra2_in1k").
        pretrained: fetch timm's weights.
        output_stride: stride of the last stage, 8, 16 or 32; None for the finest of 8 and 16 that the network can
            give, else the network as it is.

    Attributes:
        channels, strides: of the four stages.
        input_convention: what timm's weights expect.
        multiple: what sides are padded to be divisible by; 1 where every size is taken as it is.
        draws_own_weights: fresh weights are drawn as timm does for this network, and not as for ours.

    Raises:
        ValueError: an unknown name, a network without four such maps or for one image size only, an output stride it
            cannot give, or weights that cannot be had.
    """

    draws_own_weights = True

    def __init__(self, name: str, pretrained: bool = False, output_stride: int | None = None) -> None:
        super().__init__()
        check_name(name)
        if output_stride not in (None, 8, 16, 32):
            raise ValueError(f"output_stride of {name} is {output_stride}; expected 8, 16, 32 or None")
        options, probe = find_options(name, output_stride)
        self.name = name
        self.multiple = probe.multiple
        self.channels = tuple(channels for channels, _ in probe.maps)
        self.strides = tuple(stride for _, stride in probe.maps)
        self._options = options
        self._channels_last = probe.channels_last
        self.network = create(name, pretrained=pretrained, **options)
        self.input_convention = _input_convention(name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, 3, H, W) in `input_convention` to the four stages (N, C_i, ceil(H / s_i), ceil(W / s_i))."""
        height, width = x.shape[-2:]
        if self.multiple > 1:
            x = F.pad(x, (0, _missing(width, self.multiple), 0, _missing(height, self.multiple)))
        stages = []
        for stage, stride in zip(self.network(x), self.strides, strict=True):
            if self._channels_last:
                stage = stage.permute(0, 3, 1, 2).contiguous()
            if self.multiple > 1:
                stage = stage[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            stages.append(stage)
        return stages

    def pretrained_state(self) -> dict[str, Tensor]:
        """Fetch timm's weights, under this backbone's own names.

        Raises:
            ValueError: timm has none for this name, or they cannot be fetched.
        """
        twin = create(self.name, pretrained=True, **self._options)
        return {f"network.{name}": tensor for name, tensor in twin.state_dict().items()}

    def match_names(self, file_names: list[str]) -> tuple[dict[str, str], list[str]]:
        """Match the names in a weight file of timm's, that of a classifier, with the backbone's.

        Args:
            file_names: names in the file; files saved from `features_only` networks have the backbone's names already.

        Returns:
            ({name in the backbone: name in the file}, names of the classifier's other parts).
        """
        own = {name.removeprefix("network.") for name in self.state_dict()}
        matched, dropped = {}, []
        for name in file_names:
            # timm renames "stages.0.conv" to "stages_0.conv", "model.stages.0.conv" or "body.stages.0.conv", if at all.
            spellings = (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
            spelling = next((spelling for spelling in spellings if spelling in own), None)
            if spelling is None:
                dropped.append(name)
            else:
                matched[f"network.{spelling}"] = name
        return matched, dropped


def _missing(side: int, multiple: int) -> int:
    """What `side` lacks of a multiple; of positive numbers alone, since ONNX rounds quotients towards zero."""
    return (multiple - side % multiple) % multiple


def _input_convention(name: str) -> InputConvention:
    config = default_config(name)
    return InputConvention("RGB", 1.0 / 255.0, tuple(config["mean"]), tuple(config["std"]))
