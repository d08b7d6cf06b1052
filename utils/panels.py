"""Pictures side by side on one page, with titles and a legend."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.visualize import Color, colorize, error_map

_MARGIN = 10  # pixels around and between the cells
_INK, _PAPER = (20, 20, 20), (255, 255, 255)
_MIN_CELL_HEIGHT, _MAX_CELL_HEIGHT = 240, 1400
_MIN_TITLE_WIDTH = 150
_MAX_PANEL_WIDTH = 2400
_STRIPE = 4  # pixels, of the pattern for void

Legend = Sequence[tuple[str, Color | np.ndarray]]


def panel(
    cells: Sequence[tuple[str, np.ndarray]],
    legend: Legend | None = None,
    cell_height: int | None = None,
    cell_width: int = 0,
) -> np.ndarray:
    """Pictures side by side on white, a title above each, and a legend beneath.

    Args:
        cells: (title, uint8 (H, W, 3)) from left to right.
        legend: (class name, colour) of the classes to explain; a texture, uint8 (h, w, 3), may stand for the colour.
        cell_height: least height of a cell in pixels; smaller pictures are enlarged by a whole factor with nearest
            neighbour, so that masks keep their colours. 240 where None.
        cell_width: least width of a cell in pixels; a narrower picture stands in its middle.

    Returns:
        uint8 (H', W', 3), RGB.

    Raises:
        ValueError: there is no cell, or one is not uint8 (H, W, 3).
    """
    if not cells:
        raise ValueError("a panel needs at least one picture")
    for title, image in cells:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"picture {title!r} is {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    images = [_enlarged(image, _MIN_CELL_HEIGHT if cell_height is None else cell_height) for _, image in cells]
    widths = [max(image.shape[1], cell_width) for image in images]
    height = max(image.shape[0] for image in images)
    width = sum(widths) + _MARGIN * (len(images) + 1)
    # Wide panels are looked at reduced, narrow cells have no room for large letters.
    font = ImageFont.load_default(size=max(15, min(48, max(height // 16, width // 100), max(widths) // 10)))
    titles = [_wrapped(title, cell, font) for (title, _), cell in zip(cells, widths, strict=True)]
    line = _line_height(font)
    title_height = line * max(len(lines) for lines in titles)
    rows = _legend_rows(legend or [], width - 2 * _MARGIN, font)
    top = _MARGIN + title_height + _MARGIN // 2
    bottom = top + height + _MARGIN
    canvas = Image.new("RGB", (width, bottom + (len(rows) * (line + 4) + _MARGIN if rows else 0)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = _MARGIN
    for lines, image, cell in zip(titles, images, widths, strict=True):
        for number, text in enumerate(lines):  # the last line of every title stands right above its picture
            position = (left, _MARGIN + title_height - (len(lines) - number) * line)
            draw.text(position, text, fill=_INK, font=font)
        canvas.paste(Image.fromarray(np.ascontiguousarray(image)), (left + (cell - image.shape[1]) // 2, top))
        left += cell + _MARGIN
    for number, row in enumerate(rows):
        _draw_legend_row(canvas, row, bottom + number * (line + 4), font)
    return np.array(canvas)


def prediction_panel(
    image: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """Image | truth | prediction | errors, or image | prediction, and the classes that occur.

    Small pictures are enlarged by a whole factor and large ones reduced, so that the titles are legible and the panel
    is at most 2400 pixels wide; label maps keep their exact colours. Void pixels of the truth are striped.

    Args:
        image: uint8 (H, W, 3).
        prediction: class ids, uint8 (H, W).
        classes: names by class id.
        palette: colours by class id.
        truth: class ids, uint8 (H, W); ids that are no class are void.

    Returns:
        uint8 (H', W', 3), RGB.

    Raises:
        ValueError: the sizes differ.
    """
    if prediction.shape != image.shape[:2] or truth is not None and truth.shape != prediction.shape:
        shapes = f"image {image.shape}, prediction {prediction.shape}" + (
            f", truth {truth.shape}" if truth is not None else ""
        )
        raise ValueError(f"{shapes} differ in size: expected the same (H, W)")
    size = _cell_size(image.shape[:2], cells=2 if truth is None else 4)
    shown = _nearest(prediction, size)
    cells = [("image", _smooth(image, size)), ("prediction", colorize(shown, palette))]
    present = np.unique(prediction)
    textures: list[tuple[str, np.ndarray]] = []
    if truth is not None:
        void = truth >= len(classes)
        wrong = (prediction != truth)[~void]
        share = f"{100 * wrong.mean():.1f} %" if wrong.size else "no labels"
        shown_truth = _nearest(truth, size)
        errors = error_map(shown, np.where(shown_truth >= len(classes), 255, shown_truth))
        cells.insert(1, ("truth", _stripe_void(colorize(shown_truth, palette), shown_truth >= len(classes))))
        cells.append((f"errors in red: {share}", _stripe_void(errors, shown_truth >= len(classes))))
        present = np.union1d(present, np.unique(truth))
        textures = [("void (not counted)", stripes(64, 64))] if void.any() else []
    legend = [(classes[k], tuple(palette[k])) for k in present.tolist() if k < len(classes)]
    return panel(cells, legend=[*legend, *textures], cell_height=1, cell_width=_MIN_TITLE_WIDTH)


def stripes(height: int, width: int) -> np.ndarray:
    """The pattern for void: diagonal stripes in black and white, uint8 (height, width, 3)."""
    diagonal = np.arange(height)[:, None] + np.arange(width)
    light = (diagonal // _STRIPE % 2).astype(np.uint8)
    return np.repeat((255 * light)[..., None], 3, axis=2)


def _stripe_void(picture: np.ndarray, void: np.ndarray) -> np.ndarray:
    return np.where(void[..., None], stripes(*void.shape), picture)


def _cell_size(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """(height, width) that pictures of `size` are shown at."""
    height, width = size
    room = (_MAX_PANEL_WIDTH - _MARGIN * (cells + 1)) // cells
    factor = min(max(1, -(-_MIN_CELL_HEIGHT // height)), room / width, _MAX_CELL_HEIGHT / height)
    factor = int(factor) if factor > 1 else factor
    return max(1, round(height * factor)), max(1, round(width * factor))


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each output pixel takes the label at its centre."""
    rows, columns = ((2 * np.arange(to) + 1) * have // (2 * to) for to, have in zip(size, labels.shape, strict=True))
    return labels[rows][:, columns]


def _smooth(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _enlarged(image: np.ndarray, height: int) -> np.ndarray:
    factor = -(-height // max(1, image.shape[0]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return int(font.getbbox("Ágjp|")[3]) + 4


def _shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """`text`, cut so that it is no wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """`text` in lines of at most `width` pixels; a single word that is wider is cut."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [_shortened(line, width, font) for line in lines] or [""]


def _legend_rows(
    legend: Legend, width: int, font: ImageFont.FreeTypeFont
) -> list[list[tuple[int, str, Color | np.ndarray]]]:
    """(x offset, name, colour) of each entry, broken into rows of at most `width` pixels."""
    patch = _line_height(font)
    rows: list[list[tuple[int, str, Color | np.ndarray]]] = []
    offset = width + 1  # the first entry opens a row
    for name, color in legend:
        name = _shortened(name, width - 2 * patch, font)
        needed = patch + 6 + int(font.getlength(name))
        if offset + needed > width:
            rows.append([])
            offset = 0
        rows[-1].append((offset, name, color))
        offset += needed + 16
    return rows


def _draw_legend_row(
    canvas: Image.Image, row: list[tuple[int, str, Color | np.ndarray]], top: int, font: ImageFont.FreeTypeFont
) -> None:
    draw = ImageDraw.Draw(canvas)
    patch = _line_height(font) - 4
    for offset, name, color in row:
        left = _MARGIN + offset
        box = (left, top, left + patch, top + patch)
        if isinstance(color, np.ndarray):
            canvas.paste(Image.fromarray(np.ascontiguousarray(color[:patch, :patch])), (left, top))
            draw.rectangle(box, outline=(120, 120, 120))
        else:
            draw.rectangle(box, fill=tuple(int(c) for c in color), outline=(120, 120, 120))
        draw.text((left + patch + 6, top), name, fill=_INK, font=font)
