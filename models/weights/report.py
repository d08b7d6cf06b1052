"""Comparison of a weight file with a network, and its report."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.base import ENTRIES
from models.weights.state_files import State

COUNTER = "num_batches_tracked"
NAMES_SHOWN = 8


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        path: the file, or the library's network.
        what: "network" or "backbone".
        loaded: names, in the network, of the tensors loaded.
        missing: names in the network that the file lacks.
        unexpected: names in the file that the network lacks.
        mismatched: (name, form in the file, form in the network) where shape or kind of number differ.
        dropped: names in the file that are ignored (an ImageNet classifier, an auxiliary head the network lacks).
        counters_absent: number of batch norms' update counters that the file is too old to have.
        file_names: network's name -> file's, where they differ.
        notes: on the weights' source, input convention and eps.
        warnings: on what may be wrong although it was loaded.
    """

    path: str
    what: str
    loaded: list[str]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    counters_absent: int = 0
    file_names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the file is this network: everything covered and nothing left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        return self._text("loaded")

    def refusal(self) -> str:
        """The report of a file of which nothing was loaded."""
        return self._text("would fit; none was loaded")

    def _text(self, outcome: str) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched) + self.counters_absent
        lines = [f"{self.path}: {len(self.loaded)} of {total} tensors of the {self.what} {outcome}"]
        lines += [f"  {note}" for note in self.notes]
        if self.counters_absent:
            lines.append(
                f"  {self.counters_absent} batch-norm update counters absent (an old file; they are not needed)"
            )
        forms = [f"{self._shown(name)} {got} in the file, {expected} here" for name, got, expected in self.mismatched]
        for title, names in (
            ("missing in the file", [self._shown(name) for name in self.missing]),
            ("unexpected in the file", self.unexpected),
            ("of another shape or kind", forms),
            ("not used by this network", self.dropped),
        ):
            if names:
                lines.append(f"  {len(names)} {title}: {_first_of(names)}")
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _shown(self, name: str) -> str:
        return f"{name} (there {self.file_names[name]})" if name in self.file_names else name


def _first_of(names: list[str]) -> str:
    more = f" ... and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def compare(
    path: str,
    what: str,
    own: State,
    found: State,
    unexpected: Iterable[str] = (),
    dropped: Iterable[str] = (),
    file_names: dict[str, str] | None = None,
    notes: Iterable[str] = (),
    warnings: Iterable[str] = (),
) -> LoadReport:
    """Compare a file's tensors `found`, under the network's names, with the network's `own`; see `LoadReport`."""
    # Files older than the counters have none. A file with some of them is damaged, one with no tensor in common is
    # another network's.
    no_counters = any(name in own for name in found) and not any(name.endswith(COUNTER) for name in found)
    warnings = list(warnings)
    loaded, missing, mismatched, absent = [], [], [], 0
    for name, tensor in own.items():
        if name in ENTRIES:
            continue
        if name not in found:
            if no_counters and name.endswith(COUNTER):
                absent += 1
            else:
                missing.append(name)
        elif found[name].shape != tensor.shape:
            mismatched.append((name, str(list(found[name].shape)), str(list(tensor.shape))))
        elif _number_kind(found[name]) != _number_kind(tensor):
            mismatched.append((name, _number_kind(found[name]), _number_kind(tensor)))
        else:
            loaded.append(name)
    if broken := [name for name in loaded if not own[name].is_meta and not _is_finite(found[name])]:
        warnings.append(f"{len(broken)} tensors in the file hold NaN or infinite values: {_first_of(broken)}")
    names = {ours: theirs for ours, theirs in (file_names or {}).items() if ours != theirs}
    unexpected, dropped, notes, warnings = list(unexpected), list(dropped), tuple(notes), tuple(warnings)
    return LoadReport(path, what, loaded, missing, unexpected, mismatched, dropped, absent, names, notes, warnings)


def _number_kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex numbers"
    return "floating point numbers" if tensor.is_floating_point() else "whole numbers"


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; their float64 sum shows it without a second tensor."""
    return not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float64).isfinite())
