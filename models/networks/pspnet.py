"""PSPNet (Zhao et al. 2017, arXiv:1612.01105) on any backbone."""

from models.backbones import build_backbone
from models.base import SegmentationNetwork
from models.heads.fcn import FCNHead
from models.heads.psp import PSPHead


class PSPNet(SegmentationNetwork):
    """Backbone, pyramid pooling head and possibly an auxiliary head.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        aux: whether there is an auxiliary head.
    """

    def __init__(self, model_name: str, backbone_name: str, num_classes: int, aux: bool) -> None:
        backbone = build_backbone(backbone_name)
        in_channels = backbone.channels[-1]
        super().__init__(
            model_name,
            backbone_name,
            num_classes,
            backbone,
            # The released networks: 256 feature channels on bottleneck ResNets, 128 on everything smaller.
            head=PSPHead(in_channels, num_classes, width=256 if in_channels >= 2048 else 128),
            auxlayer=FCNHead(backbone.channels[-2], num_classes) if aux else None,
        )
