"""How a setting is declared: a field of a dataclass with default, help, check and rule for resuming.

    @dataclass(frozen=True)
    class OptimConfig(Settings):
        lr: float = setting(0.02, "base learning rate", check=POSITIVE)
        log_iter: int = setting(10, "iterations between log lines", check=AT_LEAST_1, resume="free")

`utils.flags` makes flags, records and comparisons of it.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Check = tuple[Callable[[Any], bool], str]
POSITIVE: Check = (lambda v: v > 0, "a number above 0")
NON_NEGATIVE: Check = (lambda v: v >= 0, "a number of at least 0")
AT_LEAST_0: Check = (lambda v: v >= 0, "a whole number of at least 0")
AT_LEAST_1: Check = (lambda v: v >= 1, "a whole number of at least 1")
FRACTION: Check = (lambda v: 0 <= v < 1, "a number from 0 up to, but not, 1")
SHARE: Check = (lambda v: 0 < v < 1, "a number between 0 and 1")
_SCALARS = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a finite number"),
    Path: ((str, Path), "a path"),
    str: (str, "a text"),
}
Resume = Literal["same", "free"] | Callable[[Any, Any], bool]


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    check: Check | None = None,
    flag: str | bool | None = None,
    resume: Resume = "same",
    per_host: bool = False,
    parse: Callable[[str], Any] | None = None,
    convert: Callable[[Any], Any] | None = None,
    options: Mapping[str, Any] | None = None,
    aliases: tuple[str, ...] = (),
) -> Any:
    """A field of a config.

    Args:
        default: value where nothing is given; without it the setting has to be given.
        help: for `--help` and the table of flags.
        check: what the value has to fulfil beside its type, unless it is None.
        flag: its name where that is not the field's; False: no flag, it takes the value of another section's
            setting of that name.
        resume: "free" where it may differ when a run is resumed, or (then, now) -> whether it may.
        per_host: the value may differ between machines; implies resume="free".
        parse: word -> value; raises ValueError with what was expected. By default by the type.
        convert: value -> value after parsing, for a list of words as a whole.
        options: further keyword arguments for `add_argument`.
        aliases: other flags for it.
    """
    metadata = {
        "help": help,
        "check": check,
        "flag": flag,
        "resume": "free" if per_host else resume,
        "per_host": per_host,
        "parse": parse,
        "convert": convert,
        "options": options or {},
        "aliases": aliases,
    }
    return field(default=default, metadata=metadata)


def section(title: str) -> Any:
    """A field of a config that is a config itself, under a title in `--help`."""
    return field(metadata={"title": title})


@dataclass(frozen=True)
class Settings:
    """Base of configs: every value is of the declared type, finite, and fulfils its check.

    Raises:
        ValueError: a value does not; names the flag, the value and what was expected.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            object.__setattr__(self, f.name, _typed(f, hints[f.name], value))


def require(condition: bool, flag: str, got: Any, expected: str) -> None:
    """Raises ValueError that names the flag, what was given and what it takes."""
    if not condition:
        raise ValueError(f"{flag} {got}: expected {expected}.")


def flag_of(name: str, declaration: Mapping[str, Any] | None = None) -> str:
    """The flag of a setting: `--lambda-at` for `at_weight`, `--dkd-alpha` for `dkd_alpha`."""
    word = (declaration or {}).get("flag")
    if not isinstance(word, str):
        word = f"lambda_{name.removesuffix('_weight')}" if name.endswith("_weight") else name
    return "--" + word.replace("_", "-")


def unwrap(hint: Any) -> tuple[Any, bool]:
    """(type, whether it may be None) of `T` or `T | None`; other unions stay as they are."""
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        rest = [kind for kind in get_args(hint) if kind is not NoneType]
        return (rest[0], True) if len(rest) == 1 else (hint, True)
    return hint, False


def _typed(f: Field, hint: Any, value: Any) -> Any:
    """The value as its declared type; a ValueError names the flag."""
    declaration, flag = f.metadata, flag_of(f.name, f.metadata)
    kind, optional = unwrap(hint)
    if value is None:
        require(optional, flag, value, "a value")
        return None
    if isinstance(value, str) and declaration.get("parse") is not None:  # of a file: flags are parsed already
        value = declaration["parse"](value)
        if value is None:
            return None
    if isinstance(value, str) and get_origin(kind) is tuple:  # of a file, as words are written after a flag
        value = [_scalar(flag, get_args(kind)[0], word) for word in value.split()]
    if declaration.get("convert") is not None:
        try:
            value = declaration["convert"](value)
        except TypeError:
            require(False, flag, repr(value), "numbers")
    if get_origin(kind) is Literal:
        require(value in get_args(kind), flag, repr(value), f"one of {', '.join(map(str, get_args(kind)))}")
    elif get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        values = value if isinstance(value, (list, tuple)) else [value]
        value = tuple(_scalar(flag, inner, item) for item in values)
    elif isinstance(kind, type):
        value = _scalar(flag, kind, value)
    if check := declaration.get("check"):
        require(check[0](value), flag, list(value) if isinstance(value, tuple) else value, check[1])
    return value


def _scalar(flag: str, kind: type, value: Any) -> Any:
    if kind not in _SCALARS:
        return value
    types, expected = _SCALARS[kind]
    if kind in (int, float) and isinstance(value, str):  # YAML reads 1e-3 as text
        with suppress(ValueError):
            value = kind(value)
    fits = isinstance(value, types) and isinstance(value, bool) == (kind is bool)
    require(fits and (kind is not float or math.isfinite(value)), flag, repr(value), expected)
    return Path(value).expanduser() if kind is Path else kind(value)
