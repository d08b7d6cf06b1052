"""The classes of a conversion: from the names in annotations to train ids."""

import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dataset.class_files import CLASSES_FILE, VOID_NAMES, read_class_file
from dataset.convert.problems import BadObject
from dataset.labels import MAX_CLASSES, VOID, Color
from utils.names import did_you_mean
from utils.visualize import generated_palette

IGNORE = "__ignore__"  # labelme's usual labels for void and for what nobody drew
BACKGROUND = "_background_"
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class Labels:
    """Classes by train id, and what every name in the annotations stands for.

    Attributes:
        names: of the classes.
        colors: of the classes, all different.
        colored: whether the source had colours for classes.
        ids: name as `spelled` gives it -> train id, 255 for void.
        nothing: train id of pixels where nothing is drawn, 255 for void.
        notes: what was done to names, as text.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    colored: bool
    ids: Mapping[str, int]
    nothing: int
    notes: tuple[str, ...] = ()

    def id_of(self, name: object) -> int:
        """The train id of a name, in any case and spacing.

        Raises:
            BadObject: it is none of the classes.
        """
        if not isinstance(name, (str, int)) or not str(name).strip():
            raise BadObject("no label", f"got {name!r}")
        found = self.ids.get(spelled(str(name)))
        if found is None:
            known = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            hint = did_you_mean(str(name), self.names)
            raise BadObject("an unknown class", f"got {str(name)!r}, expected one of {known}.{hint}")
        return found


def spelled(name: str) -> str:
    """A name without differences of case and spacing."""
    return " ".join(name.split()).casefold()


def make_labels(
    entries: Iterable[tuple[str, Color | None]], background: str | None, backgrounds: Collection[str] = ()
) -> Labels:
    """The classes of annotations.

    Names that differ only in case and spacing are one class, spelt as the first. Those that mean void ("void",
    "ignore", ...) are no class.

    Args:
        entries: (name, its colour or None) in the order of the classes.
        background: name of the class for pixels where nothing is drawn; None: they are void.
        backgrounds: further names, as `spelled` gives them, that stand for such pixels.

    Raises:
        ValueError: there is no class, or there are too many.
    """
    backgrounds = {*backgrounds, BACKGROUND}
    spellings: dict[str, list[str]] = defaultdict(list)
    colors: dict[str, Color | None] = {}
    if background is not None:
        if spelled(background) in VOID_NAMES:
            raise ValueError(f"--background {background}: that name means void, which such pixels are without the flag")
        spellings[spelled(background)].append(" ".join(background.split()))
    voids, undrawn, notes = [], [], []
    for name, color in entries:
        key, shown = spelled(name), " ".join(name.split())
        if not key:
            raise ValueError("a class has no name")
        if key in backgrounds and key != spelled(background or ""):
            undrawn.append(key)
            if background is not None:
                colors.setdefault(spelled(background), color)
        elif key in VOID_NAMES | {IGNORE}:
            voids.append(key)
            notes.append(f"{shown!r} marks void")
        else:
            spellings[key].append(shown)
            colors[key] = colors.get(key) or color
    names = tuple(known[0] for known in spellings.values())
    if len(names) == (background is not None):
        raise ValueError("the annotations have no class: expected the names of objects")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"the annotations have {len(names)} classes: at most {MAX_CLASSES} fit")
    for known in spellings.values():
        if len(set(known)) > 1:
            notes.append(f"{', '.join(map(repr, dict.fromkeys(known)))} are one class, {known[0]!r}")
    ids = {key: index for index, key in enumerate(spellings)} | dict.fromkeys([*voids, IGNORE], VOID)
    nothing = VOID if background is None else 0
    own = [colors.get(key) for key in spellings]
    if background is not None and own[0] is None and BLACK not in own:
        own[0] = BLACK
    return Labels(
        names, different(own), any(colors.values()), ids | dict.fromkeys([*undrawn, BACKGROUND], nothing), nothing,
        tuple(notes),
    )  # fmt: skip


def different(colors: list[Color | None]) -> tuple[Color, ...]:
    """The colours, with generated ones for those that are missing or taken."""
    spare = (color for color in generated_palette(2 * len(colors)) if color not in colors)
    found: list[Color] = []
    for color in colors:
        found.append(next(spare) if color is None or color in found else color)
    return tuple(found)


def classes_text(labels: Labels) -> str:
    """The content of classes.txt.

    Raises:
        ValueError: a name cannot be written in such a file.
    """
    plain = "".join(f"{name}\n" for name in labels.names)
    colored = "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in zip(labels.names, labels.colors, strict=True))
    # Masks of one class hold 0 and 255 alone, which a data set that does not say what 255 is has to explain.
    void = f"void = {VOID}\n" if len(labels.names) <= 2 else ""
    with tempfile.TemporaryDirectory() as folder:
        for text in [colored] if labels.colored else [plain, colored]:  # "area 1 2 3" needs a colour behind its numbers
            path = Path(folder) / CLASSES_FILE
            path.write_text(text + void, encoding="utf-8")
            with suppress(ValueError):
                table = read_class_file(path)
                if tuple(table.names) == labels.names and not any(table.values):
                    return text + void
    names = ", ".join(repr(name) for name in labels.names if "=" in name) or ", ".join(labels.names)
    raise ValueError(
        f'{CLASSES_FILE} cannot hold the names {names}: a line "name = 7" gives a class its mask value. Rename them'
    )
