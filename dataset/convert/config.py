"""The settings of a conversion."""

from dataclasses import dataclass
from typing import Literal

from utils.settings import FRACTION, Settings, require, setting


@dataclass(frozen=True)
class ConvertConfig(Settings):
    """How annotations become label maps."""

    background: str | None = setting(
        None, "name of a class for the pixels where nothing is drawn, which becomes the first; otherwise they are void"
    )
    order: Literal["file", "area"] = setting(
        "file", "file: later objects are drawn over earlier ones; area: smaller ones over larger ones"
    )
    crowd: Literal["void", "class"] = setting(
        "void", "coco: regions with iscrowd are void, beneath all outlined objects; class: they are objects like any "
        "other, for exports of CVAT, which marks all its masks so",
    )  # fmt: skip
    val_fraction: float = setting(
        0.0, "share of a source without a validation split that validates, chosen by the images' names",
        check=FRACTION,
    )  # fmt: skip
    classes: tuple[str, ...] | None = setting(
        None, "labelme: names of the classes, in their order; any other label is an error",
        options={"metavar": "NAME"},
    )  # fmt: skip
    skip_bad: bool = setting(False, "leave bad objects and images out, and count them, instead of ending with an error")
    overwrite: bool = setting(False, "replace an earlier conversion in OUT")

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.background is None or self.background.strip()
        require(bool(named), "--background", repr(self.background), "a name")
