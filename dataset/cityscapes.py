"""Cityscapes (Cordts et al., CVPR 2016): 19 evaluated classes of 34 labels."""

from collections.abc import Mapping
from pathlib import Path

from dataset.base import Pair, SegmentationDataset
from dataset.classes import ClassTable
from dataset.labels import VOID, ranges
from dataset.reading.files import list_images

_IMAGE_END = "_leftImg8bit.png"
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class Cityscapes(SegmentationDataset):
    """2,975 training, 500 validation and 1,525 test images of 1024x2048; the test split has no masks.

    Masks hold label ids 0 to 33 (255 stands for -1, the licence plate); those without a train id are ignored.
    """

    NAME = "citys"
    # fmt: off
    CLASSES = (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )
    PALETTE = (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
        (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    )
    LABEL_IDS = (
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
    )
    # fmt: on
    VOID_VALUES = tuple(sorted(set(range(34)) - set(LABEL_IDS)))
    SPLITS = ("train", "val", "test")
    FOLDERS = ("cityscapes", "Cityscapes")
    MARKER = "leftImg8bit"
    LAYOUT = """\
  ROOT/leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png
  ROOT/gtFine/{train,val}/<city>/*_gtFine_labelIds.png, or *_gtFine_labelTrainIds.png where there are only these"""

    def read_classes(self) -> ClassTable:
        table = super().read_classes()
        if self._holds_train_ids():
            table.values, table.void_values = [[]] * len(table.names), []
        return table

    def _holds_train_ids(self) -> bool:
        """Whether the masks are stored as train ids alone."""
        folder = self.root / "gtFine"
        return not _holds(folder, _LABEL_IDS) and _holds(folder, _TRAIN_IDS)

    def mistaken_ids(self, values: Mapping[int, int]) -> str:
        if not self.labels.values.get(7) == 0 or not values.get(VOID) or any(18 < v < VOID for v in values):
            return ""
        numbers = " ".join(map(str, range(len(self.CLASSES))))
        return (
            f"the *_labelIds.png hold {ranges(list(values))}: 255, and nothing above 18, so that they seem to hold "
            f"train ids. If they do: --mask-values {numbers}, or name them *_labelTrainIds.png"
        )

    def pairs(self) -> list[Pair]:
        folder = self.root / "leftImg8bit" / self.split
        mask_end = _TRAIN_IDS if self._holds_train_ids() else _LABEL_IDS
        if not folder.is_dir():
            raise FileNotFoundError(f"the folder {folder} does not exist")
        pairs: list[Pair] = []
        for city in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
            for name in list_images(folder / city, (".png",)):
                if not name.endswith(_IMAGE_END):
                    continue
                mask = Path("gtFine", self.split, city, name.removesuffix(_IMAGE_END) + mask_end)
                pairs.append((f"leftImg8bit/{self.split}/{city}/{name}", None if self.split == "test" else str(mask)))
        return pairs


def _holds(folder: Path, ending: str) -> bool:
    """Whether a file with this ending lies two folders below."""
    return any(folder.glob(f"*/*/*{ending}"))
