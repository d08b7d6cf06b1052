"""Any network of timm with feature maps, as a backbone of four stages."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.timm_probe import check_name, classifier_names, create, default_config, find_options, split_stride
from models.base import InputConvention


class TimmBackbone(nn.Module):
    """Four feature maps of a timm network.

    These are the last four of the network's maps with stride 4 or more or, if all maps have the same stride (plain
    vision transformers), four at equal distances up to the last. If a network does not allow an image's sides, the
    image is padded with zeros on the right and below, and the maps are cut. The last stage has the stride that the name
    asks for; by default 8 where timm supports it, else 16, else the network's own.

    Args:
        name: from `timm.list_models()`, with or without a weights tag ("resnet50d.ra2_in1k") and an output stride
            ("resnet50d@16").

    Attributes:
        channels, strides: of the four stages.
        input_convention: of timm's weights.
        multiple: what sides are padded to be divisible by; 1 if every size is allowed.
        draws_own_weights: fresh weights are timm's own for this network.

    Raises:
        ValueError: an unknown name or tag, a network without four such maps, for one image size only, or that cannot
            have the output stride.
    """

    draws_own_weights = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, output_stride = split_stride(name)
        check_name(self.name)
        options, probe = find_options(self.name, output_stride)
        self.multiple = probe.multiple
        self.channels = tuple(channels for channels, _ in probe.maps)
        self.strides = tuple(stride for _, stride in probe.maps)
        self._options = options
        self._channels_last = probe.channels_last
        self.network = create(self.name, **options)
        self.input_convention = _input_convention(self.name)

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
        """Download timm's weights, under this backbone's names.

        Raises:
            ValueError: timm has none for this name, or they cannot be downloaded.
        """
        twin = create(self.name, pretrained=True, **self._options)
        return {f"network.{name}": tensor for name, tensor in twin.state_dict().items()}

    def match_names(self, file_names: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
        """Match the names in a timm file, of a classifier or of a `features_only` network, with the backbone's.

        Returns:
            ({name in the backbone: name in the file}, names of the classifier that the backbone lacks, unknown names).
        """
        own = {name.removeprefix("network.") for name in self.state_dict()}
        classifier = classifier_names(self.name)
        matched, dropped, unexpected = {}, [], []
        for name in file_names:
            # timm renames "stages.0.conv" to "stages_0.conv", "model.stages.0.conv" or "body.stages.0.conv", if at all.
            spellings = (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
            spelling = next((spelling for spelling in spellings if spelling in own), None)
            if spelling is not None:
                matched[f"network.{spelling}"] = name
            else:
                (dropped if name in classifier else unexpected).append(name)
        return matched, dropped, unexpected


def _missing(side: int, multiple: int) -> int:
    """Pixels from `side` to the next multiple; computed on positive numbers, as ONNX rounds quotients towards zero."""
    return (multiple - side % multiple) % multiple


def _input_convention(name: str) -> InputConvention:
    config = default_config(name)
    return InputConvention("RGB", 1.0 / 255.0, tuple(config["mean"]), tuple(config["std"]))
