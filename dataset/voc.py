"""PASCAL VOC 2012 (Everingham et al.) with the augmented training masks of SBD (Hariharan et al., ICCV 2011)."""

import os

from dataset.base import Pair, SegmentationDataset
from dataset.reading.files import list_images, read_text_lines


class PascalVOC(SegmentationDataset):
    """10,582 training (augmented) and 1,449 validation images; masks are palette indices, 255 = object border."""

    NAME = "voc"
    # fmt: off
    CLASSES = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
        "tvmonitor",
    )
    PALETTE = (
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128),
        (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
    )
    # fmt: on
    VOID_COLORS = ((224, 224, 192),)
    FOLDERS = ("VOCAug", "VOC2012", "VOCdevkit/VOC2012")
    MARKER = "JPEGImages"
    LAYOUT = """\
  ROOT/JPEGImages/*.jpg
  ROOT/SegmentationClassAug/*.png   (training)
  ROOT/SegmentationClass/*.png      (validation)
  ROOT/ImageSets/Segmentation/val.txt, and trainaug.txt or train_aug.txt; without these two every mask of
      SegmentationClassAug that is not in val.txt is a training mask"""

    def pairs(self) -> list[Pair]:
        lists = self.root / "ImageSets" / "Segmentation"
        if self.split == "val":
            return self.read_list(lists / "val.txt")
        for path in (lists / "trainaug.txt", lists / "train_aug.txt"):
            if path.is_file():
                return self.read_list(path)
        # The last word of a line, in bare names and in pairs of paths, has the stem of the mask.
        held_out = {_stem(line.split()[-1]) for _, line in read_text_lines(lists / "val.txt")}
        names = map(_stem, list_images(self.root / "SegmentationClassAug", (".png",)))
        return [self.pair_of_words([name]) for name in names if name not in held_out]

    def pair_of_words(self, words: list[str]) -> Pair:
        """Lists of VOC hold bare names ("2007_000032") or "/JPEGImages/x.jpg /SegmentationClassAug/x.png" pairs."""
        if len(words) == 1 and _stem(words[0]) == words[0]:
            masks = "SegmentationClassAug" if self.split == "train" else "SegmentationClass"
            return f"JPEGImages/{words[0]}.jpg", f"{masks}/{words[0]}.png"
        return super().pair_of_words(words)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
