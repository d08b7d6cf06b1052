"""DeepLabV3 (Chen et al. 2017, arXiv:1706.05587) on any backbone."""

from models.backbones import build_backbone
from models.base import SegmentationNetwork
from models.heads.aspp import ASPPHead
from models.heads.fcn import FCNHead


class DeepLabV3(SegmentationNetwork):
    """Backbone, ASPP head and possibly an auxiliary head.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        aux: whether there is an auxiliary head.
        width: channels of the head and of the features.
    """

    def __init__(self, model_name: str, backbone_name: str, num_classes: int, aux: bool, width: int) -> None:
        backbone = build_backbone(backbone_name)
        super().__init__(
            model_name,
            backbone_name,
            num_classes,
            backbone,
            head=ASPPHead(backbone.channels[-1], num_classes, width),
            auxlayer=FCNHead(backbone.channels[-2], num_classes) if aux else None,
        )
