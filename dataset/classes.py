"""The classes of a data set, and the label map that they and the flags make."""

from dataclasses import dataclass, field

from dataset.config import ReadingConfig
from dataset.labels import MAX_VALUE, VOID, Color, LabelMap
from utils.settings import require
from utils.visualize import generated_palette

BLACK = (0, 0, 0)


@dataclass
class ClassTable:
    """Classes in the order of their train ids.

    Attributes:
        names: of the classes.
        colors: name -> its own colour; classes without one are absent.
        values: name -> its mask values; empty where the masks hold the classes' numbers.
        void_colors, void_values: what marks ignored pixels.
    """

    names: list[str] = field(default_factory=list)
    colors: dict[str, Color] = field(default_factory=dict)
    values: dict[str, list[int]] = field(default_factory=dict)
    void_colors: list[Color] = field(default_factory=list)
    void_values: list[int] = field(default_factory=list)

    def add(self, name: str, color: Color | None, values: list[int] | None, *, void: bool = False) -> None:
        """Adds a class, or what is ignored; ValueError for a name, colour or value that is invalid or taken."""
        if color is not None and max(color) > 255:
            raise ValueError(f"colour {color} has a value above 255")
        if values and max(values) > MAX_VALUE:
            raise ValueError(f"mask value {max(values)}: expected at most {MAX_VALUE}")
        taken = dict.fromkeys(self.void_values, "void") | {v: n for n, own in self.values.items() for v in own}
        if both := [value for value in values or () if value in taken]:
            raise ValueError(f"the mask value {both[0]} is that of {taken[both[0]]!r} already")
        colors = dict.fromkeys(self.void_colors, "void") | {c: n for n, c in self.colors.items()}
        if color in colors:
            raise ValueError(f"the colour {color} is that of {colors[color]!r} already")
        if void:
            self.void_values += values or []
            self.void_colors += [] if color is None else [color]
            return
        if name in self.names:
            raise ValueError(f"the class {name!r} occurs twice")
        self.names.append(name)
        if color is not None:
            self.colors[name] = color
        if values:
            self.values[name] = values

    def palette(self) -> list[Color]:
        """A colour of each class: its own or else a fixed generated one."""
        generated = generated_palette(len(self.names))
        return [self.colors.get(name, tuple(other)) for name, other in zip(self.names, generated, strict=True)]

    def label_map(self, config: ReadingConfig) -> LabelMap:
        """What the masks' values and colours stand for.

        Flags come before files. The value 255, and in coloured masks black, are void unless a class has them.

        Raises:
            ValueError: --mask-values of another number than there are classes, or a value with two meanings.
        """
        names, given = self.names, config.mask_values
        if given is not None:
            expected = (
                f"one for each of the {len(names)} classes: {', '.join(names[:20])}{', ...' if names[20:] else ''}"
            )
            require(len(given) == len(names), "--mask-values", " ".join(map(str, given)), expected)
            values = {value: index for index, value in enumerate(given)}
        elif self.values:
            values = {value: index for index, name in enumerate(names) for value in self.values[name]}
        else:
            values = {index: index for index in range(len(names))}
        for value in config.void_values or ():
            clash = names[values.get(value, 0)]
            require(value not in values, "--void-values", value, f"values of no class; it is that of {clash}")
            values[value] = VOID
        for value in (*self.void_values, VOID):
            if value in values and value in self.void_values and given is None and values[value] != VOID:
                raise ValueError(
                    f"mask value {value} is void and that of class {names[values[value]]!r}: give each class its "
                    f'value, "{names[0]} = {value + 1}" and so on, or --mask-values '
                    f"{_count_from(value + 1, len(names))}"
                )
            values.setdefault(value, VOID)
        if config.ignore_label != -1:
            values[config.ignore_label] = VOID
        colors = {self.colors[name]: index for index, name in enumerate(names) if name in self.colors}
        colors |= dict.fromkeys(self.void_colors, VOID)
        if colors:
            colors.setdefault(BLACK, VOID)
        said = VOID in (*self.void_values, *(config.void_values or ()), config.ignore_label)
        return LabelMap(tuple(names), values, colors, config.color_tolerance, implied_void=not said)


def _count_from(first: int, count: int) -> str:
    """The numbers as words, shortened where there are many."""
    numbers = [str(number) for number in range(first, first + count)]
    return " ".join(numbers if count <= 20 else [*numbers[:3], "...", numbers[-1]])
