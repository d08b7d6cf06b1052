"""The settings of the programs that run a trained network: evaluation, prediction, embeddings."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dataset import DATASETS
from dataset.config import ImageConfig, ReadingConfig
from engine.config.protocol import Protocol, default_protocol
from engine.config.schema import LIST_HELP, LoaderConfig, MachineConfig, size, workers_setting
from models import list_models, resolve_names
from utils.settings import AT_LEAST_1, SHARE, Settings, require, section, setting

MODELS = ", ".join(list_models())
INFERRED = "; default: inferred from the file"
KINDS = ("mask", "blend", "panel")  # of pictures that a prediction leaves
MAX_PIXELS = 2048 * 2048
WINDOW = {"metavar": ("H", "W")}


@dataclass(frozen=True)
class TrainedConfig(Settings):
    """A trained network."""

    pretrained: Path = setting(help="the network's weights, or the folder of its run", per_host=True)
    model: str | None = setting(None, MODELS + INFERRED)
    backbone: str | None = setting(None, INFERRED[2:])


@dataclass(frozen=True)
class SplitConfig(LoaderConfig):
    """The split of a data set that is looked at."""

    data: Path = setting(help="the data set's root folder", per_host=True, options={"metavar": "FOLDER"})
    dataset: str | None = setting(None, ", ".join(DATASETS) + INFERRED)
    split: Literal["val", "test", "train"] = setting("val", "the images")
    val_list: Path | None = setting(None, LIST_HELP, per_host=True)
    train_list: Path | None = setting(None, "the same for --split train", per_host=True)
    test_list: Path | None = setting(None, "the same for --split test", per_host=True)
    any_classes: bool = setting(False, "the network's class names may be others than the data's")
    workers: int | None = workers_setting()

    @property
    def list_file(self) -> Path | None:
        """The list of the split."""
        return getattr(self, f"{self.split}_list")


@dataclass(frozen=True)
class ProtocolConfig(Settings):
    """How images are predicted."""

    scales: tuple[float, ...] = setting(
        (1.0,),
        "logits are averaged over these scales",
        check=(lambda v: len(v) > 0 and min(v) > 0, "numbers above 0"),
    )
    flip_eval: bool = setting(False, "and over each scale's mirror image")
    slide_crop: tuple[int, int] | None = setting(
        None,
        "predict in windows; default: as was published",
        convert=lambda v: size(v, "--slide-crop"),
        options=WINDOW,
    )
    slide_stride: tuple[int, int] | None = setting(
        None,
        "from window to window; default: --slide-crop",
        convert=lambda v: size(v, "--slide-stride"),
        options=WINDOW,
    )
    no_slide: bool = setting(False, "predict whole images, whatever was published")
    window_batch: int = setting(1, "windows that go through the network together", check=AT_LEAST_1)

    def for_network(self, model: str, backbone: str, dataset: str) -> Protocol:
        """What the flags ask for; where they name no windows, those of the network's published evaluation."""
        return self.protocol(default_protocol(resolve_names(model, backbone)[0], dataset))

    def protocol(self, default: Protocol) -> Protocol:
        """What the flags ask for; `default` gives the windows where they name none.

        Raises:
            ValueError: windows that leave out pixels; names the flag.
        """
        common = {"scales": self.scales, "flip": self.flip_eval, "window_batch": self.window_batch}
        if self.no_slide:
            return Protocol(**common)
        crop = self.slide_crop or default.crop
        if crop is None:
            expected = "--slide-crop H W beside it, the windows' size"
            require(not self.slide_stride, "--slide-stride", list(self.slide_stride or ()), expected)
            return Protocol(**common)
        stride = crop if self.slide_crop else default.stride
        if self.slide_stride:
            stride = self.slide_stride
            fits = stride[0] <= crop[0] and stride[1] <= crop[1]
            expected = f"at most the windows' {list(crop)}, else pixels are left out"
            require(fits, "--slide-stride", list(stride), expected)
        return Protocol(crop, stride, **common)


@dataclass(frozen=True)
class ReportConfig(Settings):
    """What an evaluation measures and writes."""

    allow_partial: bool = setting(False, "accept a weight file that covers only a part")
    boundary_iou: bool = setting(False, "also measure how well the outlines of the classes agree")
    boundary_ratio: float = setting(0.02, "width of an outline / the image's diagonal", check=SHARE)
    save_pred: bool = setting(False, "write the predicted masks as palette PNG")
    blend: bool = setting(False, "write the images with the prediction over them")
    panel: bool = setting(False, "write image, truth, prediction and errors side by side")
    json: Path | None = setting(None, "write results.json to this file too", per_host=True, options={"metavar": "FILE"})
    submission: Path | None = setting(
        None, "write what the Cityscapes test server takes", per_host=True, options={"metavar": "OUT.zip"}
    )
    any_count: bool = setting(False, "take a test set for it that is not the 1,525 published images")
    save_dir: Path | None = setting(None, "folder of the output's folder; default: the checkpoint's", per_host=True)
    save_dir_name: str | None = setting(None, "default: eval_<checkpoint>_<data set>_<split>")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.json is None or not self.json.is_dir(), "--json", self.json, "a file to write, not a folder")

    def folder(self, checkpoint: Path, dataset: str, split: str) -> Path:
        """Where it writes."""
        name = self.save_dir_name or f"eval_{checkpoint.stem}_{dataset}_{split}"
        return (self.save_dir or checkpoint.parent) / name


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation on labelled images."""

    network: TrainedConfig = section("network")
    data: SplitConfig = section("data")
    reading: ReadingConfig = section("reading")
    report: ReportConfig = section("evaluation")
    protocol: ProtocolConfig = section("protocol")
    machine: MachineConfig = section("machine")


@dataclass(frozen=True)
class PredictionConfig(LoaderConfig):
    """Which images are predicted, and what is written of them."""

    images: Path = setting(
        help="a folder (with all below it), an image, a video, or a text file with a path a line",
        per_host=True,
        options={"metavar": "FOLDER|FILE|LIST.txt"},
    )
    dataset: str | None = setting(None, f"whose classes it predicts: {', '.join(DATASETS)}{INFERRED}")
    classes: Path | None = setting(
        None,
        'of "name" or "name r g b" lines, instead of the names in the file',
        per_host=True,
        options={"metavar": "FILE"},
    )
    mask: bool = setting(False, "write the labels as palette PNG")
    blend: bool = setting(False, "write the images, or the video, with the prediction over them")
    panel: bool = setting(False, "write image and prediction side by side, with a legend; not of a video")
    max_pixels: int = setting(
        MAX_PIXELS,
        "larger images, at each scale, are predicted in windows of 1024x1024 every 768 pixels, unless --slide-crop or "
        "--no-slide says otherwise",
        check=AT_LEAST_1,
    )
    save_dir: Path = setting(Path("runs"), "folder of the output's folder", per_host=True)
    save_dir_name: str | None = setting(None, "default: predict_<checkpoint>")
    workers: int | None = workers_setting()

    def kinds(self, video: bool = False) -> tuple[str, ...]:
        """What is written: what was asked for, or else everything, of a video the blend alone.

        Raises:
            ValueError: a panel of a video.
        """
        asked = tuple(kind for kind in KINDS if getattr(self, kind))
        if video and self.panel:
            raise ValueError("--panel with a video: expected --blend, the default, or --mask")
        return asked or (("blend",) if video else KINDS)


@dataclass(frozen=True)
class PredictConfig:
    """A prediction of images without labels."""

    network: TrainedConfig = section("network")
    prediction: PredictionConfig = section("prediction")
    reading: ImageConfig = section("reading")
    protocol: ProtocolConfig = section("protocol")
    machine: MachineConfig = section("machine")

    def protocol_for(self, model: str, backbone: str, dataset: str) -> Protocol:
        """`ProtocolConfig.for_network`, with large images in windows where nothing says how they are predicted."""
        found = self.protocol.for_network(model, backbone, dataset)
        return found if self.protocol.no_slide else replace(found, max_pixels=self.prediction.max_pixels)


@dataclass(frozen=True)
class EmbeddingsConfig(Settings):
    """Whose embeddings are drawn, and of which pixels."""

    pretrained: tuple[Path, ...] = setting(help="weights or run folders", per_host=True)
    model: tuple[str, ...] | None = setting(None, f"one for each: {MODELS}{INFERRED}")
    backbone: tuple[str, ...] | None = setting(None, f"one for each{INFERRED}")
    titles: tuple[str, ...] | None = setting(None, "one for each; default: the networks' names")
    num_images: int = setting(50, "spread evenly over the split", check=AT_LEAST_1)
    pixels_per_class: int = setting(300, "drawn of each class", check=AT_LEAST_1)
    only: tuple[str, ...] | None = setting(None, "draw these classes alone", options={"metavar": "CLASS"})
    method: Literal["tsne", "pca"] = setting("tsne", "projection to two dimensions")
    save_dir: Path = setting(Path("runs"), "folder of the output's folder", per_host=True)
    save_dir_name: str | None = setting(None, "default: embeddings_<data set>_<split>")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("model", "backbone", "titles"):
            given = getattr(self, name)
            expected = f"one for each of the {len(self.pretrained)} files of --pretrained"
            require(given is None or len(given) == len(self.pretrained), f"--{name}", list(given or ()), expected)


@dataclass(frozen=True)
class VisualizeConfig:
    """A drawing of embeddings."""

    embeddings: EmbeddingsConfig = section("embeddings")
    data: SplitConfig = section("data")
    reading: ReadingConfig = section("reading")
    machine: MachineConfig = section("machine")
