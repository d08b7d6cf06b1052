"""UPerNet (Xiao et al. 2018, arXiv:1807.10221) on any backbone."""

from models.backbones import build_backbone
from models.base import SegmentationNetwork
from models.heads.fcn import FCNHead
from models.heads.uper import UPerHead


class UPerNet(SegmentationNetwork):
    """Backbone, UPer head and possibly an auxiliary head.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        aux: whether there is an auxiliary head.
        width: channels of the feature pyramid and of the features.
    """

    def __init__(self, model_name: str, backbone_name: str, num_classes: int, aux: bool, width: int) -> None:
        backbone = build_backbone(backbone_name)
        super().__init__(
            model_name,
            backbone_name,
            num_classes,
            backbone,
            head=UPerHead(backbone.channels, num_classes, width),
            auxlayer=FCNHead(backbone.channels[-2], num_classes) if aux else None,
        )
