"""Pictures: coloured masks, blends, error maps, palettes, confusion matrices. Panels of them: `utils.panels`."""

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Color = tuple[int, int, int]

_ROWS = 256
_CORRECT, _WRONG, _IGNORED = (70, 70, 70), (220, 30, 30), (245, 245, 245)


def colorize(mask: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Class ids (H, W) as colours.

    Args:
        mask: class ids of any integer type; ids outside the palette become black.
        palette: (red, green, blue), 0..255, of each class.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    table = np.array([*palette, (0, 0, 0)], dtype=np.uint8)
    legal = (mask >= 0) & (mask < len(palette))
    return table[np.where(legal, mask, len(palette))]


def save_indexed_png(mask: np.ndarray, palette: Sequence[Color], path: str | os.PathLike) -> None:
    """Writes class ids as a palette PNG: readers of data get the ids back, viewers show the colours.

    Args:
        mask: uint8 (H, W).
        palette: colours of the classes; ids beyond it are black.
        path: file to write.

    Raises:
        ValueError: the mask is not uint8 (H, W), or the palette has more than 256 colours.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"got a mask of {mask.dtype} and shape {mask.shape}: expected uint8 (H, W)")
    if len(palette) > 256:
        raise ValueError(f"got a palette of {len(palette)} colours: a PNG holds at most 256")
    image = Image.fromarray(mask)  # 8-bit grey, to which putpalette adds the colours
    image.putpalette([int(channel) for color in palette for channel in color] + [0] * (768 - 3 * len(palette)))
    image.save(path, format="PNG")


def blend(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """The mean of two pictures, uint8 (H, W, 3), rounded to even.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != color.shape:
        raise ValueError(f"image {image.shape} and colours {color.shape} differ in shape: expected the same (H, W, 3)")
    mean = np.empty_like(color)
    for start in range(0, len(image), _ROWS):  # numbers of four bytes are made of some rows at a time
        rows = slice(start, start + _ROWS)
        mean[rows] = np.rint((image[rows].astype(np.float32) + color[rows]) / 2)
    return mean


def error_map(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where a prediction is wrong: red; right: dark grey; 255 in the target: near white. Both (H, W); uint8 (H, W, 3).

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    kind = np.where(target == 255, 2, (prediction != target).astype(np.int64))
    return np.array([_CORRECT, _WRONG, _IGNORED], dtype=np.uint8)[kind]


def generated_palette(num_colors: int) -> list[Color]:
    """Distinct colours, always the same, none of them black; a longer palette begins with the shorter one.

    The hue advances by the golden ratio, so that neighbours differ, while value and saturation cycle; a colour too
    close to an earlier one is skipped.
    """
    colors: list[Color] = []
    distance, step, refused = 60, 0, 0
    while len(colors) < num_colors:
        hue = (0.03 + step * 0.6180339887498949) % 1.0
        value = (1.0, 0.72, 0.5, 0.86)[step % 4]
        saturation = (0.95, 0.6, 0.35)[step // 4 % 3]
        candidate = tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
        step += 1
        if all(sum(abs(a - b) for a, b in zip(candidate, other, strict=True)) >= distance for other in colors):
            colors.append(candidate)
            refused = 0
        else:
            refused += 1
            if refused == 200:  # the space is full at this distance
                distance, refused = max(1, distance * 3 // 4), 0
    return colors


def confusion_plot(matrix: np.ndarray, names: Sequence[str], path: str | os.PathLike) -> None:
    """Writes the confusion matrix as a heat map: each row is a true class and sums to 100 %.

    Rows of classes that do not occur stay grey. Up to 25 classes have their percentages written in the cells; beyond
    60 not every class is named.

    Args:
        matrix: pixels, integer (K, K), rows = truth.
        names: K class names.
        path: picture to write; its suffix chooses the format.

    Raises:
        ValueError: the shapes do not fit.
    """
    classes = len(names)
    if matrix.shape != (classes, classes):
        raise ValueError(f"got a matrix of shape {matrix.shape} for {classes} class names: expected one row per name")
    from matplotlib.figure import Figure  # draws without a display and without pyplot's global state

    totals = matrix.sum(axis=1, keepdims=True)
    share = np.ma.masked_where(np.broadcast_to(totals == 0, matrix.shape), 100 * matrix / np.maximum(totals, 1))
    side = min(16.0, max(6.0, 3.0 + 0.34 * classes))
    figure = Figure(figsize=(side + 1.0, side), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="% of the true class", shrink=0.8)
    ticks = np.arange(0, classes, -(-classes // 60))
    labels = [name if len(name) <= 22 else name[:21] + "…" for name in (str(names[index]) for index in ticks)]
    size = 8.5  # points; a tick has at least 15
    axes.set_xticks(ticks, labels, rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if classes <= 25:
        for row, column in np.argwhere(~np.ma.getmaskarray(share) & (share.data >= 0.5)):
            ink = "white" if share[row, column] > 55 else "black"
            text = f"{share[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size * 0.85)
    figure.savefig(Path(path), bbox_inches="tight", pad_inches=0.15)
