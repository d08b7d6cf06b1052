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

_SHEET_LETTERS = 16  # pixels

Legend = Sequence[tuple[str, Color | np.ndarray]]
Entry = tuple[int, int, str, Color | np.ndarray]  # of a legend: row, x offset, name, colour


def panel(
    cells: Sequence[tuple[str, np.ndarray]],
    legend: Legend = (),
    cell_height: int = _MIN_CELL_HEIGHT,
    cell_width: int = 0,
) -> np.ndarray:
    """Pictures side by side on white, a title above each, and a legend beneath.

    Args:
        cells: (title, uint8 (H, W, 3)) from left to right.
        legend: (class name, colour) of the classes to explain; a texture, uint8 (h, w, 3), may replace the colour.
        cell_height: least height of a cell in pixels; smaller pictures are enlarged by a whole factor with nearest
            neighbour, so that masks keep their colours.
        cell_width: least width of a cell in pixels; a narrower picture is centred in it.

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
    factors = [max(1, -(-cell_height // max(1, image.shape[0]))) for _, image in cells]
    images = [image.repeat(f, axis=0).repeat(f, axis=1) for (_, image), f in zip(cells, factors, strict=True)]
    widths = [max(image.shape[1], cell_width) for image in images]
    height = max(image.shape[0] for image in images)
    width = sum(widths) + _MARGIN * (len(images) + 1)
    # Wide panels are viewed reduced, narrow cells have no room for large letters.
    font = ImageFont.load_default(size=max(15, min(48, max(height // 16, width // 100), max(widths) // 10)))
    titles = [_wrapped(title, cell, font) for (title, _), cell in zip(cells, widths, strict=True)]
    line = int(font.getbbox("Ágjp|")[3]) + 4  # its height
    title_height = line * max(len(lines) for lines in titles)
    entries, rows = _place_legend(legend, width - 2 * _MARGIN, line, font)
    top = _MARGIN + title_height + _MARGIN // 2
    bottom = top + height + _MARGIN
    canvas = Image.new("RGB", (width, bottom + (rows * (line + 4) + _MARGIN if rows else 0)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = _MARGIN
    for lines, image, cell in zip(titles, images, widths, strict=True):
        for number, text in enumerate(lines):  # the last line of every title stands right above its picture
            position = (left, _MARGIN + title_height - (len(lines) - number) * line)
            draw.text(position, text, fill=_INK, font=font)
        canvas.paste(Image.fromarray(image), (left + (cell - image.shape[1]) // 2, top))
        left += cell + _MARGIN
    _draw_legend(canvas, entries, bottom, line, font)
    return np.array(canvas)


def contact_sheet(cells: Sequence[tuple[str, np.ndarray]], legend: Legend = (), columns: int = 4) -> np.ndarray:
    """Pictures in rows on white, a title beneath each, and a legend at the end.

    Args:
        cells: (title, uint8 (H, W, 3)); a picture smaller than the largest is centred in its cell.
        legend: see `panel`.
        columns: pictures in a row.

    Returns:
        uint8 (H', W', 3), RGB.

    Raises:
        ValueError: there is no cell.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one picture")
    height, width = (max(image.shape[axis] for _, image in cells) for axis in (0, 1))
    width = max(width, _MIN_TITLE_WIDTH)
    font = ImageFont.load_default(size=_SHEET_LETTERS)
    line = int(font.getbbox("Ágjp|")[3]) + 4
    columns = min(columns, len(cells))
    across, down = width + _MARGIN, height + line + _MARGIN
    entries, rows = _place_legend(legend, columns * across - _MARGIN, line, font)
    bottom = _MARGIN + -(-len(cells) // columns) * down
    total = bottom + (rows * (line + 4) + _MARGIN if rows else 0)
    canvas = Image.new("RGB", (columns * across + _MARGIN, total), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (title, image) in enumerate(cells):
        left, top = _MARGIN + number % columns * across, _MARGIN + number // columns * down
        corner = (left + (width - image.shape[1]) // 2, top + (height - image.shape[0]) // 2)
        canvas.paste(Image.fromarray(image), corner)
        draw.text((left, top + height + 2), _shortened(title, width, font), fill=_INK, font=font)
    _draw_legend(canvas, entries, bottom, line, font)
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
        shapes = f"image {image.shape}, prediction {prediction.shape}"
        shapes += "" if truth is None else f", truth {truth.shape}"
        raise ValueError(f"{shapes} differ in size: expected the same (H, W)")
    size = _cell_size(image.shape[:2], cells=2 if truth is None else 4)
    shown = _resized(prediction, size, Image.Resampling.NEAREST)
    cells = [("image", _resized(image, size, Image.Resampling.LANCZOS)), ("prediction", colorize(shown, palette))]
    present = set(np.unique(prediction).tolist())
    if truth is not None:
        present |= set(np.unique(truth).tolist())
        wrong = (prediction != truth)[truth < len(classes)]
        share = f"{100 * wrong.mean():.1f} %" if wrong.size else "no labels"
        shown_truth = _resized(truth, size, Image.Resampling.NEAREST)
        void, pattern = (shown_truth >= len(classes))[..., None], stripes(*size)
        cells.insert(1, ("truth", np.where(void, pattern, colorize(shown_truth, palette))))
        cells.append((f"errors in red: {share}", np.where(void, pattern, error_map(shown, shown_truth))))
    legend = [(classes[k], palette[k]) for k in sorted(present) if k < len(classes)]
    if truth is not None and truth.max() >= len(classes):
        legend = [*legend, ("void (not counted)", stripes(64, 64))]
    return panel(cells, legend=legend, cell_height=1, cell_width=_MIN_TITLE_WIDTH)


def stripes(height: int, width: int) -> np.ndarray:
    """The pattern for void: diagonal stripes in black and white, uint8 (height, width, 3)."""
    diagonal = np.arange(height)[:, None] + np.arange(width)
    light = (diagonal // _STRIPE % 2).astype(np.uint8)
    return np.repeat((255 * light)[..., None], 3, axis=2)


def _cell_size(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """(height, width) that pictures of `size` are shown at."""
    height, width = size
    room = (_MAX_PANEL_WIDTH - _MARGIN * (cells + 1)) // cells
    factor = min(max(1, -(-_MIN_CELL_HEIGHT // height)), room / width, _MAX_CELL_HEIGHT / height)
    factor = int(factor) if factor > 1 else factor
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(picture: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], filter))


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


def _draw_legend(
    canvas: Image.Image, entries: Sequence[Entry], bottom: int, line: int, font: ImageFont.FreeTypeFont
) -> None:
    """Draws what `_place_legend` has placed, from this height on."""
    draw, patch = ImageDraw.Draw(canvas), line - 4
    for row, offset, name, color in entries:
        left, top = _MARGIN + offset, bottom + row * (line + 4)
        swatch = color[:patch, :patch] if isinstance(color, np.ndarray) else np.full((patch, patch, 3), color, np.uint8)
        canvas.paste(Image.fromarray(swatch), (left, top))
        draw.rectangle((left, top, left + patch, top + patch), outline=(120, 120, 120))
        draw.text((left + patch + 6, top), name, fill=_INK, font=font)


def _place_legend(legend: Legend, width: int, patch: int, font: ImageFont.FreeTypeFont) -> tuple[list[Entry], int]:
    """(row, x offset, name, colour) of each entry, in rows of at most `width` pixels, and the number of rows."""
    entries: list[Entry] = []
    row, offset = -1, width + 1  # the first entry opens a row
    for name, color in legend:
        name = _shortened(name, width - 2 * patch, font)
        needed = patch + 6 + int(font.getlength(name))
        if offset + needed > width:
            row, offset = row + 1, 0
        entries.append((row, offset, name, color))
        offset += needed + 16
    return entries, row + 1
