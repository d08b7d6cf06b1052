"""Writes the tables of flags into pages of the documentation, from the settings as they are declared.

    python scripts/flags_table.py            # writes what has changed
    python scripts/flags_table.py --check    # writes nothing; exit code 1 where something would change

A table stands between `<!-- flags: NAME -->` and `<!-- end -->`, with NAME one of `BLOCKS`.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset.convert.config import ConvertConfig
from engine.config.evaluation import EvalConfig, PredictConfig, VisualizeConfig
from engine.config.methods import CIRKDV2RunConfig, MethodChoice, other_methods
from engine.config.schema import BaselineConfig, DistillConfig, TrainConfig
from utils.flags import plain_value
from utils.settings import flag_of, unwrap

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/training.md", "docs/evaluation.md", "docs/data.md")
BLOCK = re.compile(r"(<!-- flags: (?P<name>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| flag | values | default | meaning |\n|---|---|---|---|\n"
KINDS = {int: "whole number", float: "number", Path: "path", str: "text"}
FREE = " °"  # marks a flag that may differ on resume


class Table:
    """One table: a title, or None where the page has a heading of its own, and the settings in it."""

    def __init__(self, title: str | None, config: type, skip: Sequence[str] = (), resumable: bool = True) -> None:
        self.title, self.resumable = title, resumable
        hints = get_type_hints(config)
        self.settings = [
            (f, hints[f.name]) for f in fields(config) if f.metadata.get("flag") is not False and f.name not in skip
        ]

    def __str__(self) -> str:
        title = f"**{self.title[0].upper()}{self.title[1:]}**\n\n" if self.title else ""
        return title + HEAD + "".join(_row(f, hint, self.resumable) for f, hint in self.settings)


def _sections(config: type, *titles: str) -> Iterator[Table]:
    """Tables of the sections of a config, in its order; all of them where no title is given."""
    hints = get_type_hints(config)
    for f in fields(config):
        title = f.metadata["title"]
        if not titles or title in titles:
            yield Table(title if len(titles) != 1 else None, hints[f.name], resumable=issubclass(config, TrainConfig))


def _methods() -> Iterator[Table]:
    """The choice of methods, then what each adds to those before it."""
    yield Table("choice", MethodChoice)
    seen: set[str] = set()
    for name, method in other_methods().items():
        table = Table(f"`{name}`", method.Config, skip=sorted(seen))
        seen |= {f.name for f in fields(method.Config)}
        if table.settings:
            yield table


# name of a block -> its tables
BLOCKS = {
    "training": lambda: _sections(TrainConfig),
    "train_baseline": lambda: _sections(BaselineConfig, "network"),
    "distillation": lambda: _sections(DistillConfig, "networks", "images without masks"),
    "train_cirkdv2": lambda: _sections(CIRKDV2RunConfig, "CIRKDV2"),
    "train_kd": _methods,
    "eval": lambda: _sections(EvalConfig, "network", "data", "reading", "evaluation"),
    "protocol": lambda: _sections(EvalConfig, "protocol"),
    "predict": lambda: _sections(PredictConfig, "prediction", "reading"),
    "visualize_embeddings": lambda: _sections(VisualizeConfig, "embeddings"),
    "convert": lambda: [Table(None, ConvertConfig, resumable=False)],
    "machine": lambda: _sections(EvalConfig, "machine"),
}


def update(text: str) -> str:
    """The text of a page with every table made anew.

    Raises:
        ValueError: a block has an unknown name, or no end.
    """
    opened = text.count("<!-- flags:")
    found = list(BLOCK.finditer(text))
    if opened != len(found):
        raise ValueError(f"{opened} tables of flags begin and {len(found)} end; expected <!-- end --> behind each")

    def make(match: re.Match) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise ValueError(f"<!-- flags: {name} -->: expected one of {', '.join(BLOCKS)}")
        return match[1] + "\n" + "\n".join(map(str, BLOCKS[name]())) + "\n" + match[3]

    return BLOCK.sub(make, text)


def _row(f: Field, hint: Any, resumable: bool) -> str:
    flags = [flag_of(f.name, f.metadata), *f.metadata["aliases"]]
    if unwrap(hint)[0] is bool and (hint is not bool or f.default is True):
        flags.append("--no-" + flags[0].removeprefix("--"))
    shown = ", ".join(f"`{flag}`" for flag in flags)
    shown += FREE if resumable and f.metadata["resume"] == "free" else ""
    help_text = f.metadata["help"].replace("%%", "%").replace("<", "&lt;")  # argparse's percent; GitHub drops <name>
    cells = (shown, _values(f, hint), _default(f), help_text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _values(f: Field, hint: Any) -> str:
    """What a flag takes, in words."""
    kind, _ = unwrap(hint)
    metavar = f.metadata["options"].get("metavar")
    if kind is bool:
        return ""
    if isinstance(metavar, tuple):
        return " ".join(metavar)
    if metavar is not None and "|" in metavar:
        return ", ".join(f"`{word}`" if word.islower() or ":" in word else word for word in metavar.split("|"))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        many = KINDS[inner[0]] + "s" if inner[-1] is Ellipsis else " ".join([KINDS[inner[0]]] * len(inner))
        return "height width" if inner == (int, int) else many
    if get_origin(kind) in (Union, UnionType):
        return ", ".join(KINDS[part] for part in get_args(kind) if part is not NoneType)
    return KINDS[kind]


def _default(f: Field) -> str:
    if f.default is MISSING:
        return "required"
    if f.default is None or f.default is False:
        return ""
    values = plain_value(f.default)
    values = values if isinstance(values, list) else [values]
    return f"`{' '.join(f'{value:g}' if isinstance(value, float) else str(value) for value in values)}`"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tables of flags into the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is out of date")
    check = parser.parse_args().check
    changed = []
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = update(before)
        if after != before:
            changed.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    verb = "out of date" if check else "written"
    print(f"{', '.join(changed)}: {verb}" if changed else "all tables are up to date")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
