"""The settings of how files become images and train ids."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from dataset.labels import MAX_VALUE, VOID
from utils.flags import plain_value
from utils.settings import AT_LEAST_0, FRACTION, Settings, flag_of, require, setting

PIXEL_VALUE = (lambda v: -1 <= v <= 255, "-1 or a value from 0 to 255")
VALUES = (
    lambda v: len({*v}) == len(v) and min(v, default=0) >= 0 and max(v, default=0) <= MAX_VALUE,
    f"different values from 0 to {MAX_VALUE}",
)
MAX_SCALE = 10
JITTER = (
    lambda v: len(v) == 4 and min(v) >= 0 and max(v[:3]) <= 1 and v[3] <= 0.5,
    "four numbers: brightness, contrast and saturation from 0 to 1, hue from 0 to 0.5",
)
COLOR_JITTER_HELP = (
    "random changes of the images' colours, as torchvision's ColorJitter makes them: brightness, contrast and "
    "saturation times 1 - S to 1 + S, hue turned by up to that part of the circle; 0 leaves a property alone"
)
CROP_BY_CLASS = 0.5
CROP_BY_CLASS_HELP = (
    "share of the samples whose crop has a random pixel of a class in its centre, or as near as the image's edge "
    "allows; the class is one of those in the mask, with a probability in inverse proportion to its pixels in the "
    f"training split. Without P {CROP_BY_CLASS}; 0 is off"
)


@dataclass(frozen=True)
class ImageConfig(Settings):
    """How image files are decoded."""

    exif: Literal["upright", "ignore"] = setting(
        "upright",
        "upright: images are turned as their camera noted, but where only the stored orientation fits the mask; "
        "ignore: as they are stored",
    )
    image_range: tuple[float, ...] | None = setting(
        None, "values that become black and white, for images of more than 8 bits", options={"metavar": ("LOW", "HIGH")}
    )  # fmt: skip
    bands: tuple[int, ...] | None = setting(
        None, "numbers, from 1, of those that are red, green and blue, for images of more than 3",
        options={"metavar": "BAND"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        low_high, bands = self.image_range, self.bands
        ordered = low_high is None or (len(low_high) == 2 and low_high[0] < low_high[1])
        require(ordered, "--image-range", list(low_high or ()), "two numbers, LOW below HIGH")
        three = bands is None or (len(bands) == 3 and min(bands) >= 1)
        require(three, "--bands", list(bands or ()), "three numbers from 1 on")


@dataclass(frozen=True)
class ReadingConfig(ImageConfig):
    """How files become images and train ids."""

    ignore_label: int = setting(-1, "a further void value in the masks; -1 means 255", check=PIXEL_VALUE)
    void_values: tuple[int, ...] | None = setting(
        None, "mask values that are ignored, instead of 255 and the data set's own", check=VALUES,
        options={"metavar": "V"},
    )  # fmt: skip
    mask_values: tuple[int, ...] | None = setting(
        None, "mask value of each class, in their order", check=VALUES, options={"metavar": "V"}
    )
    color_tolerance: int = setting(
        0, "read a colour, or value, of a mask that is no class as the nearest one's within this difference of its "
        "channels; for masks that were JPEG", check=AT_LEAST_0,
    )  # fmt: skip
    val_fraction: float = setting(
        0.0, "share of a custom data set without a validation split that validates, chosen by the files' names",
        check=FRACTION,
    )  # fmt: skip

    def given(self) -> dict[str, Any]:
        """Name -> value of what is not the default, as plain data."""
        found = {f.name: getattr(self, f.name) for f in fields(ReadingConfig)}
        found = {f.name: plain_value(found[f.name]) for f in fields(ReadingConfig) if found[f.name] != f.default}
        if found.get("ignore_label") == VOID:
            del found["ignore_label"]
        return found

    def words(self) -> list[str]:
        """The flags of what is not the default."""
        words = []
        for name, value in self.given().items():
            words += [flag_of(name), *map(str, value if isinstance(value, list) else [value])]
        return words


def _scale_range(value: Any) -> tuple[float, ...]:
    low_high = tuple(float(number) for number in value)
    tenths = [round(10 * number) for number in low_high]
    exact = all(abs(10 * number - whole) < 1e-9 for number, whole in zip(low_high, tenths, strict=True))
    require(
        len(tenths) == 2 and exact and 1 <= tenths[0] <= tenths[1] <= MAX_SCALE * 10, "--scale-range", list(low_high),
        f"two multiples of 0.1 from 0.1 to {MAX_SCALE}, LOW at most HIGH",
    )  # fmt: skip
    return low_high


@dataclass(frozen=True)
class AugmentationConfig(Settings):
    """How training samples are varied."""

    scale_range: tuple[float, ...] = setting(
        (0.5, 2.0), "random scales: LOW, LOW + 0.1, ..., HIGH", convert=_scale_range,
        options={"nargs": 2, "metavar": ("LOW", "HIGH")},
    )  # fmt: skip
    color_jitter: tuple[float, ...] | None = setting(
        None, COLOR_JITTER_HELP, check=JITTER,
        options={"nargs": 4, "metavar": ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")},
    )  # fmt: skip
    crop_by_class: float = setting(
        0.0, CROP_BY_CLASS_HELP, check=(lambda v: 0 <= v <= 1, "a probability from 0 to 1"),
        options={"nargs": "?", "const": CROP_BY_CLASS, "metavar": "P"},
    )  # fmt: skip

    @property
    def scales(self) -> tuple[float, ...]:
        """All random scales."""
        low, high = (round(10 * number) for number in self.scale_range)
        return tuple(tenths / 10 for tenths in range(low, high + 1))
