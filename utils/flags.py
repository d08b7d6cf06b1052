"""Settings, declared as `utils.settings` describes, as flags, plain records and comparisons of those.

`add_flags` gives a parser a flag for every setting of a config, `read` makes the config of what was given, `record`
turns it into plain data for args.yaml and the state, `differences` compares such a record with a later config.

A section whose values follow from others (methods, whose weights depend on the methods chosen) is a class with
`add_flags(parser)`, `read(given)`, `declared()`, `leaves()` and `overridden(given)`.
"""

import argparse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from utils.settings import flag_of, unwrap


class Leaf(NamedTuple):
    """One setting of a config: its name, its field's declaration, its value, and the value it has when not given."""

    name: str
    declaration: Mapping[str, Any]
    value: Any
    default: Any


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """A group of flags for every section of a config class. A flag that is not given leaves no value."""
    hints = get_type_hints(config)
    for f in fields(config):
        if hasattr(hints[f.name], "add_flags"):
            hints[f.name].add_flags(parser)
        else:
            add_section_flags(parser.add_argument_group(f.metadata["title"]), hints[f.name])


def add_section_flags(group: Any, config: type, skip: Collection[str] = ()) -> None:
    """The flags of one config class but those to skip. `--help` shows the defaults that are not empty."""
    hints = get_type_hints(config)
    for f in fields(config):
        declaration = f.metadata
        if declaration.get("flag") is False or f.name in skip:
            continue
        kind, _ = unwrap(hints[f.name])
        default = f.default
        text = declaration.get("help", "")
        if default not in (MISSING, None, False, ()):
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text = f"{text} (default: {shown})".strip()
        options: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            optional = hints[f.name] is not bool or default is True
            options["action"] = argparse.BooleanOptionalAction if optional else "store_true"
        else:
            if get_origin(kind) is Literal:
                options |= {"choices": get_args(kind), "type": declaration.get("parse") or str}
            else:
                options["type"] = _word_parser(declaration, hints[f.name])
            if get_origin(kind) is tuple:
                options["nargs"] = "+"
        flag = flag_of(f.name, declaration)
        group.add_argument(flag, *declaration.get("aliases", ()), **options | declaration.get("options", {}))
        if options.get("action") == "store_true":  # undone by a flag that --help does not list
            hidden = {"dest": f.name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            group.add_argument(opposite(flag), action="store_false", **hidden)


def opposite(flag: str) -> str:
    """`--no-aux` for `--aux`, `--dropout` for `--no-dropout`: turns a switch off that a file has set."""
    name = flag.removeprefix("--")
    return f"--{name.removeprefix('no-')}" if name.startswith("no-") else f"--no-{name}"


def read(config: type, given: Mapping[str, Any]) -> Any:
    """The config of what was given, checked.

    Args:
        config: class whose fields are sections.
        given: setting -> value, from flags and files; others than the sections' are ignored.

    Raises:
        ValueError: a value that cannot be used or one that is missing; names the flag.
    """
    sections = {}
    for name, kind in get_type_hints(config).items():
        sections[name] = kind.read(given) if hasattr(kind, "read") else read_section(kind, given)
    return config(**sections)


def read_section(config: type, given: Mapping[str, Any]) -> Any:
    """One section; see `read`."""
    values = {f.name: given[f.name] for f in fields(config) if f.name in given}
    missing = [f for f in fields(config) if f.name not in values and f.default is MISSING]
    if missing:
        names = ", ".join(flag_of(f.name, f.metadata) for f in missing)
        raise ValueError(f"{names}: not given, and there is no default.")
    return config(**values)


def overridden(config: type, given: Mapping[str, Any]) -> set[str]:
    """Settings of a file that flags decide anew without naming them, such as the weights that `--method` sets."""
    rules = (getattr(kind, "overridden", None) for kind in get_type_hints(config).values())
    return {name for rule in rules if rule is not None for name in rule(given)}


def names(config: type) -> set[str]:
    """The settings of a config class."""
    return {inner.name for kind in get_type_hints(config).values() for inner in _declared(kind)}


def _declared(kind: type) -> Iterable[Field]:
    return kind.declared() if hasattr(kind, "declared") else fields(kind)


def leaves(config: Any) -> Iterator[Leaf]:
    """All settings of a config, section by section."""
    for f in fields(config):
        part = getattr(config, f.name)
        if hasattr(part, "leaves"):
            yield from part.leaves()
        elif is_dataclass(part):
            for inner in fields(part):
                yield Leaf(inner.name, inner.metadata, getattr(part, inner.name), inner.default)


def record(config: Any) -> dict[str, Any]:
    """The settings as plain data, by name, for args.yaml and the state."""
    return {leaf.name: plain_value(leaf.value) for leaf in leaves(config)}


def differences(saved: Mapping[str, Any], config: Any) -> list[str]:
    """What has to be the same on resume and is not.

    Args:
        saved: a `record`, perhaps of an earlier version: a setting that it does not hold had its default then.
        config: the present one.
    """
    found = []
    for name, declaration, value, default in leaves(config):
        rule = declaration.get("resume", "same")
        if rule == "free" or name not in saved and default is MISSING:
            continue
        then, now = plain_value(saved.get(name, default)), plain_value(value)
        if then != now and not (callable(rule) and rule(then, now)):
            found.append(f"{flag_of(name, declaration)} was {then} and is now {now}")
    return found


def migrate_names(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as versions before format 2 of the state recorded them -> under their present names."""
    return {
        f"{name.removeprefix('lambda_')}_weight" if name.startswith("lambda_") else name: value
        for name, value in values.items()
    }


def plain_value(value: Any) -> Any:
    """Paths as text and tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    return [plain_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def _word_parser(declaration: Mapping[str, Any], hint: Any) -> Callable[[str], Any]:
    """Word -> value, as argparse wants it."""
    kind, optional = unwrap(hint)
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    parse = declaration.get("parse") or (_path if kind is Path else kind)

    def parse_word(word: str) -> Any:
        if optional and declaration.get("parse") is None and word.lower() in ("none", ""):
            return None
        try:
            return parse(word)
        except ValueError as error:
            known = kind in (int, float) and declaration.get("parse") is None
            names = {int: "a whole number", float: "a number"}
            expected = f"expected {names[kind]}, got {word!r}" if known else str(error)
            raise argparse.ArgumentTypeError(expected) from None

    return parse_word


def _path(word: str) -> Path:
    if word.lower() in ("none", ""):
        raise ValueError(f"expected a path, got {word!r}")
    return Path(word).expanduser()
