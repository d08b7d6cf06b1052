"""How the names in published ImageNet backbone files become the names of our backbones.

One entry a family. A conversion sees names only: tensors are never changed.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Conversion:
    """Names of one family of backbone files.

    Attributes:
        prefix: what the backbone's names begin with in files of a whole classifier; when any name begins so, it is
            stripped, and names without it belong to the classifier's other parts.
        dropped: pattern, matched from the start after stripping, of the classifier's own names.
        renames: (pattern, replacement) pairs applied in turn to what remains.
    """

    prefix: str = ""
    dropped: str = r"(fc|classifier|head)\."
    renames: tuple[tuple[str, str], ...] = ()

    def apply(self, names: list[str]) -> tuple[dict[str, str], list[str]]:
        """Return ({name in the backbone: name in the file}, names of the classifier's other parts)."""
        strips = bool(self.prefix) and any(name.startswith(self.prefix) for name in names)
        kept: dict[str, str] = {}
        dropped: list[str] = []
        for name in names:
            if strips and not name.startswith(self.prefix):
                dropped.append(name)
                continue
            new_name = name[len(self.prefix) :] if strips else name
            if re.match(self.dropped, new_name):
                dropped.append(name)
                continue
            for pattern, replacement in self.renames:
                new_name = re.sub(pattern, replacement, new_name)
            kept[new_name] = name
        return kept, dropped


# beginning of the backbone's registry name -> its files
CONVERSIONS = {
    "resnet": Conversion(dropped=r"fc\."),
    "mobilenetv3": Conversion(prefix="backbone."),
}


def conversion_for(backbone_name: str) -> Conversion:
    """Return the conversion of a backbone's files; one that keeps all names where the family has no entry."""
    return next((entry for family, entry in CONVERSIONS.items() if backbone_name.startswith(family)), Conversion())
