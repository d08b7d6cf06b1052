"""The classes of a data set, and the label map that they and the flags make."""

from dataclasses import dataclass, field

from dataset.config import ReadingConfig
from dataset.labels import MAX_VALUE, VOID, Color, LabelMap
from utils.settings import require
from utils.visualize import generated_palette

BLACK = (0, 0, 0)


@dataclass
class ClassTable:
    """Classes in the order of their train ids; names may repeat where a data set says so.

    Attributes:
        names: of the classes.
        colors: of each class its own colour, or None.
        values: of each class its mask values; all are empty where the masks hold the classes' numbers.
        void_colors, void_values: what marks ignored pixels.
    """

    names: list[str] = field(default_factory=list)
    colors: list[Color | None] = field(default_factory=list)
    values: list[list[int]] = field(default_factory=list)
    void_colors: list[Color] = field(default_factory=list)
    void_values: list[int] = field(default_factory=list)

    def add(self, name: str, color: Color | None, values: list[int] | None, *, void: bool = False) -> None:
        """Adds a class, or what is ignored; ValueError for a name, colour or value that is invalid or taken."""
        if color is not None and max(color) > 255:
            raise ValueError(f"colour {color} has a value above 255")
        if values and max(values) > MAX_VALUE:
            raise ValueError(f"mask value {max(values)}: expected at most {MAX_VALUE}")
        owners = dict.fromkeys(self.void_values, "void")
        owners |= {value: owner for owner, own in zip(self.names, self.values, strict=True) for value in own}
        if both := [value for value in values or () if value in owners]:
            raise ValueError(f"the mask value {both[0]} is that of {owners[both[0]]!r} already")
        painted = dict.fromkeys(self.void_colors, "void") | dict(zip(self.colors, self.names, strict=True))
        if color is not None and color in painted:
            raise ValueError(f"the colour {color} is that of {painted[color]!r} already")
        if void:
            self.void_values += values or []
            self.void_colors += [] if color is None else [color]
            return
        if name in self.names:
            raise ValueError(f"the class {name!r} occurs twice")
        self.names.append(name)
        self.colors.append(color)
        self.values.append(values or [])

    def palette(self) -> list[Color]:
        """A colour of each class: its own or else a fixed generated one."""
        return [own or tuple(other) for own, other in zip(self.colors, generated_palette(len(self.names)), strict=True)]

    def label_map(self, config: ReadingConfig) -> LabelMap:
        """What the masks' values and colours stand for.

        Flags come before files. The value 255, and in coloured masks black, are void unless a class has them.

        Raises:
            ValueError: --mask-values of another number than there are classes, or a value with two meanings.
        """
        names, given = self.names, config.mask_values
        if given is not None:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            expected = f"one for each of the {len(names)} classes, {shown}"
            require(len(given) == len(names), "--mask-values", " ".join(map(str, given)), expected)
            values = {value: index for index, value in enumerate(given)}
        elif any(self.values):
            values = {value: index for index, own in enumerate(self.values) for value in own}
        else:
            values = {index: index for index in range(len(names))}
        own_voids = [] if given is not None else self.void_values
        for value in config.void_values or ():
            owner = names[values.get(value, 0)]
            require(value not in values, "--void-values", value, f"values of no class; it is that of {owner}")
        if clash := [value for value in own_voids if value in values]:
            raise ValueError(
                f"mask value {clash[0]} is void and that of class {names[values[clash[0]]]!r}: give each class its "
                f'value, "{names[0]} = {clash[0] + 1}" and so on, or --mask-values '
                f"{_count_from(clash[0] + 1, len(names))}"
            )
        for value in (*(config.void_values or ()), *self.void_values, VOID):
            values.setdefault(value, VOID)
        if config.ignore_label != -1:
            values[config.ignore_label] = VOID
        colors = {color: index for index, color in enumerate(self.colors) if color is not None}
        colors |= dict.fromkeys(self.void_colors, VOID)
        if colors:
            colors.setdefault(BLACK, VOID)
        said = values[VOID] != VOID or VOID in (*own_voids, *(config.void_values or ()), config.ignore_label)
        return LabelMap(tuple(names), values, colors, config.color_tolerance, implied_void=not said)


def _count_from(first: int, count: int) -> str:
    """The numbers as words, shortened where there are many."""
    numbers = [str(number) for number in range(first, first + count)]
    return " ".join(numbers if count <= 20 else [*numbers[:3], "...", numbers[-1]])
