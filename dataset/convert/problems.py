"""What a conversion leaves out, and why."""

from dataclasses import dataclass, field

EXAMPLES = 3


class BadObject(ValueError):
    """An annotation that cannot be used.

    Attributes:
        kind: what is wrong, under which such objects are counted.
        rest: what is left of the object without its bad parts, or None.
    """

    def __init__(self, kind: str, detail: str = "", rest: object = None) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.rest = kind, rest


class NotDrawn(Exception):
    """An annotation that is right, and has no area; its text says what it is."""


class BadImage(ValueError):
    """An image whose files cannot be used; `kind` is under which it is counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Problems:
    """Reason -> how often, with the first places."""

    objects: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    images: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add_object(self, reason: str, place: str) -> None:
        """Counts an object that is left out."""
        _add(self.objects, reason, 1, [place])

    def add_image(self, reason: str, place: str) -> None:
        """Counts an image that is left out."""
        _add(self.images, reason, 1, [place])

    def add(self, other: "Problems") -> None:
        """Adds those of other images."""
        for name in ("objects", "images"):
            for reason, (count, places) in getattr(other, name).items():
                _add(getattr(self, name), reason, count, places)

    def lines(self) -> list[str]:
        """One line for each reason."""
        return [
            f"left out: {count} {what}(s) {reason}: {', '.join(places)}" + ", ..." * (count > len(places))
            for what, found in (("object", self.objects), ("image", self.images))
            for reason, (count, places) in sorted(found.items())
        ]


def _add(found: dict[str, tuple[int, list[str]]], reason: str, count: int, places: list[str]) -> None:
    before, known = found.get(reason, (0, []))
    found[reason] = before + count, [*known, *places][:EXAMPLES]
