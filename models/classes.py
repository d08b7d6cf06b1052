"""The names and colours of a network's classes, which travel with its weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.visualize import Color

# The entry of a checkpoint for them, JSON in UTF-8, a byte an element; released ones have none.
CLASSES_KEY = "weights_classes"
VERSION = 1
NAMES_SHOWN = 8


@dataclass(frozen=True)
class Classes:
    """What the channels of a network's scores stand for.

    Attributes:
        names: of the classes, in the channels' order.
        palette: (r, g, b) of each, 0 to 255.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]

    @classmethod
    def of(cls, names: Sequence[str], palette: Sequence[Color]) -> "Classes":
        """The same as tuples of built-in types."""
        return cls(tuple(map(str, names)), tuple(tuple(map(int, color)) for color in palette))

    def to_tensor(self) -> Tensor:
        """A checkpoint's `CLASSES_KEY` entry, uint8 (bytes,)."""
        text = json.dumps({"version": VERSION} | vars(self), ensure_ascii=False)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, entry: Tensor) -> "Classes":
        """Inverse of `to_tensor`.

        Raises:
            ValueError: an entry of another form. Characters that are not printable become "?".
        """
        try:
            content = json.loads(bytes(entry.cpu().tolist()))
            names, palette = content["names"], content["palette"]
            if content["version"] != VERSION or not names or not _are_names(names) or not _are_colors(palette):
                raise ValueError("other names or colours than text and 0 to 255")
            if len(names) != len(palette):
                raise ValueError(f"{len(names)} names and {len(palette)} colours")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"{CLASSES_KEY} does not hold names and colours of classes: {error!r}") from error
        return cls.of(["".join(c if c.isprintable() else "?" for c in name) for name in names], palette)

    def __str__(self) -> str:
        return ", ".join(self.names[:NAMES_SHOWN]) + (", ..." if len(self.names) > NAMES_SHOWN else "")

    def metadata(self) -> dict[str, str]:
        """For the metadata of exported files: two lists as JSON."""
        return {"classes": json.dumps(self.names, ensure_ascii=False), "palette": json.dumps(self.palette)}


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_colors(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
        for color in value
    )
