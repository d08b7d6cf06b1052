"""SegFormer (Xie et al. 2021, arXiv:2105.15203), its head on any backbone."""

from models.backbones import build_backbone
from models.base import SegmentationNetwork
from models.heads.fcn import FCNHead
from models.heads.segformer import SegFormerHead


class SegFormer(SegmentationNetwork):
    """Backbone, all-MLP head and, on request, an auxiliary head.

    Args:
        model_name, backbone_name: registry names.
        num_classes: K.
        aux: whether there is an auxiliary head.
    """

    def __init__(self, model_name: str, backbone_name: str, num_classes: int, aux: bool) -> None:
        backbone = build_backbone(backbone_name)
        # The released networks: 256 with MiT-B0 and B1, 768 with the larger ones.
        large = backbone_name in ("MiT_B2", "MiT_B3", "MiT_B4", "MiT_B5")
        super().__init__(
            model_name,
            backbone_name,
            num_classes,
            backbone,
            head=SegFormerHead(backbone.channels, num_classes, width=768 if large else 256),
            auxlayer=FCNHead(backbone.channels[-2], num_classes) if aux else None,
            flat_names=backbone_name.startswith("MiT_"),
        )
