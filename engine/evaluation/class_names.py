"""The names and colours of a network's classes, and whether they are those of the data that it meets."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataset import DATASETS
from dataset.class_files import read_class_file
from dataset.labels import MAX_CLASSES
from dataset.synthetic import scenes
from engine.config.identify import Identity, count_classes
from models.classes import Classes
from models.weights import StateFile
from utils.visualize import generated_palette

NAMES_SHOWN = 6


def classes_of_network(
    network: Identity, weights: StateFile, classes_file: Path | None, log: Callable[[str], Any] = print
) -> Classes:
    """Names and colours of a network's classes, which need no data.

    Args:
        network: which it is.
        weights: its file, which names them or else gives their count.
        classes_file: names the classes where it is given.
        log: takes what contradicts it, and what is not known.

    Raises:
        ValueError: an unknown data set, other classes than the file's, more than a mask can hold, or an unusable file.
        FileNotFoundError: no such file.
    """
    if network.dataset not in DATASETS:
        raise ValueError(f"unknown data set {network.dataset!r}; there are {', '.join(DATASETS)}")
    stored = weights.classes
    if classes_file is not None:
        table = read_class_file(classes_file)
        check_classes(stored, table.names, weights.path, accept=True, way_out="--classes", log=log)
        return Classes.of(table.names, table.palette())
    if stored is not None:
        return stored
    known = DATASETS[network.dataset]
    if known.CLASSES:
        return Classes.of(known.CLASSES, known.PALETTE)
    count = count_classes(network.model, network.backbone, weights)
    if count > MAX_CLASSES:
        raise ValueError(f"the network has {count} classes; a mask holds at most {MAX_CLASSES}")
    if network.dataset == "synthetic" and count == len(scenes.CLASSES):
        return Classes.of(list(scenes.CLASSES), list(scenes.CLASSES.values()))
    log(f"the names of the {count} classes are not known; --classes FILE gives them, such as the data's classes.txt")
    return Classes.of([f"class {index}" for index in range(count)], generated_palette(count))


def check_classes(
    network: Classes | None,
    data: Sequence[str],
    source: str,
    *,
    accept: bool,
    way_out: str,
    log: Callable[[str], Any] = print,
) -> None:
    """Compares the names that a network's file holds with those of the data, by their places.

    Capitals, and which of space, "-" and "_" is written, do not count. Where most names agree and none has moved, the
    others count as renamed: a warning.

    Args:
        network: of the file; None, as in released ones: nothing is compared.
        data: names by train id.
        source: the file, for messages.
        accept: a warning in place of the error about equally many classes.
        way_out: what gives `accept`, for messages.
        log: takes a warning.

    Raises:
        ValueError: other classes, or the same in another order; names what differs.
    """
    if network is None:
        return
    theirs, ours = [list(map(_plain, names)) for names in (network.names, data)]
    if len(theirs) != len(ours):
        raise ValueError(
            f"{source} was trained for {len(theirs)} classes, the data has {len(ours)}: "
            + "; ".join(
                f"only {where}: {_listed(names)}"
                for where, names in (
                    ("in the network", [name for name, p in zip(network.names, theirs, strict=True) if p not in ours]),
                    ("in the data", [name for name, p in zip(data, ours, strict=True) if p not in theirs]),
                )
                if names
            )
        )
    differ = [k for k, (name, other) in enumerate(zip(theirs, ours, strict=True)) if name != other]
    if not differ:
        return
    moved = {theirs[k] for k in differ} & {ours[k] for k in differ}
    places = _listed([f"{k} is {network.names[k]!r} in the network and {data[k]!r} in the data" for k in differ])
    text = f"{len(differ)} of {len(ours)} class names of {source} are not those of the data: {places}"
    if not accept and moved:
        raise ValueError(
            f"{text}. The same classes in another order make every figure wrong: bring the data's into the network's "
            f'order, in classes.txt with each class\'s mask value ("name = value"); {way_out} takes them as they are'
        )
    if not accept and 2 * len(differ) >= len(ours):
        raise ValueError(f"{text}. Take the data that it was trained for; {way_out} takes them as the same classes")
    log(f"WARNING: {text}; they count as the same classes")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMES_SHOWN} more" if len(texts) > NAMES_SHOWN else ""
    return ", ".join(texts[:NAMES_SHOWN]) + more
