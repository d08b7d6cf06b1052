"""CamVid (Brostow et al., 2009) in the 11-class form of SegNet."""

from dataset.base import Pair, SegmentationDataset
from dataset.reading.files import list_images


class CamVid(SegmentationDataset):
    """367 training, 101 validation and 233 test images of 360x480; masks have the image's name, 11 = void."""

    NAME = "camvid"
    # fmt: off
    CLASSES = (
        "sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian",
        "bicyclist",
    )
    PALETTE = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )
    # fmt: on
    VOID_VALUES = (11,)
    VOID_COLORS = ((0, 0, 0),)
    SPLITS = ("train", "val", "test")
    FOLDERS = ("CamVid", "camvid")
    MARKER = "trainannot"
    LAYOUT = """\
  ROOT/{train,val,test}/*.png
  ROOT/{trainannot,valannot,testannot}/*.png   (same names)"""

    def pairs(self) -> list[Pair]:
        names = list_images(self.root / self.split, (".png",))
        return [(f"{self.split}/{name}", f"{self.split}annot/{name}") for name in names]
