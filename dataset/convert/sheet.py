"""The contact sheet of a conversion: samples with their label maps over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.convert.labels import Labels
from dataset.labels import VOID
from dataset.loading.samplers import evenly_spaced
from dataset.reading.images import read_image, read_mask
from utils.panels import contact_sheet
from utils.visualize import blend, colorize

SAMPLES = 12
_CELL = (280, 380)  # height, width in pixels


def write_sheet(path: Path, pairs: Sequence[tuple[Path, Path]], labels: Labels) -> None:
    """Writes a picture of a few evenly spaced samples, with the classes that occur in them.

    Args:
        path: of the picture.
        pairs: images and masks. Images that need settings to be read, such as those of 16 bits, are left out.
        labels: the classes.
    """
    cells, present = [], set()
    for index in evenly_spaced(len(pairs), SAMPLES):
        image_path, mask_path = pairs[index]
        mask = read_mask(str(mask_path))
        try:
            image = read_image(str(image_path), mask=mask.shape)
        except (ValueError, OSError):
            continue
        if image.shape[:2] != mask.shape:
            continue
        scale = min(_CELL[0] / mask.shape[0], _CELL[1] / mask.shape[1])
        size = tuple(max(1, round(side * scale)) for side in (mask.shape[1], mask.shape[0]))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        blended = blend(image, colorize(mask, labels.colors))
        cells.append((image_path.name, np.where((mask == VOID)[..., None], image, blended)))
        present |= {*np.unique(mask).tolist()}
    legend = [(name, color) for index, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True))
              if index in present]  # fmt: skip
    if VOID in present:
        legend.append(("void: the image alone", (255, 255, 255)))
    if cells:
        Image.fromarray(contact_sheet(cells, legend)).save(path)
