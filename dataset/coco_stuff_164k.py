"""COCO-Stuff 164k (Caesar et al., CVPR 2018): 182 classes of things and stuff, eleven of which never occur."""

from dataset.base import Pair, SegmentationDataset
from dataset.reading.files import list_images
from utils.visualize import generated_palette


class COCOStuff164k(SegmentationDataset):
    """118,287 training and 5,000 validation images; masks hold 0 to 181, unused ids are kept."""

    NAME = "coco_stuff_164k"
    # fmt: off
    CLASSES = (
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
        "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse",
        "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe",
        "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
        "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate",
        "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
        "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
        "mirror", "dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse", "remote",
        "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book",
        "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "hair brush", "banner",
        "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
        "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain",
        "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile",
        "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel",
        "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain",
        "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform",
        "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
        "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
        "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
        "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other",
        "waterdrops", "window-blind", "window-other", "wood",
    )
    # fmt: on
    PALETTE = tuple(generated_palette(182))  # the data set defines no colours
    FOLDERS = ("coco_stuff_164k", "cocostuff")
    MARKER = "images"
    LAYOUT = """\
  ROOT/images/{train2017,val2017}/*.jpg
  ROOT/annotations/{train2017,val2017}/*.png   (same names)"""

    def pairs(self) -> list[Pair]:
        folder = f"{self.split}2017"
        names = list_images(self.root / "images" / folder, (".jpg",))
        return [(f"images/{folder}/{name}", f"annotations/{folder}/{name[:-4]}.png") for name in names]
