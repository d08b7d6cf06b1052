"""Command line flags as a mapping from name without dashes to words, which can be merged and compared."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from utils.flags import opposite

# key of the specification -> flags that it sets, which may not be given as flags
RESERVED = {
    "dataset": ("dataset",), "data": ("data",), "seeds": ("seed",), "iterations": ("max-iterations",),
    "seconds": ("max-seconds",), "output": ("save-dir", "save-dir-name", "resume", "overwrite"),
    "methods": ("method",), "teacher": ("teacher-model", "teacher-backbone", "teacher-pretrained"),
    "student": ("model", "backbone", "pretrained-base", "student-model", "student-backbone",
                "student-pretrained-base"),
    "split, checkpoint": ("split", "pretrained", "save-pred"),
}  # fmt: skip
Flags = dict[str, list[str]]


def parse_flags(given: Any, where: str) -> Flags:
    """Flags from a string, a list of words, or a mapping; `where` is for errors.

    In a mapping, true is a flag without a value, false its opposite; entries with null are left out.

    Raises:
        ValueError: a word before the first flag, or a flag that the specification sets by a key.
    """
    flags: Flags = {}
    if isinstance(given, Mapping):
        for name, value in given.items():
            name = str(name).lstrip("-").replace("_", "-")
            if value is None:
                continue
            if value is False:
                name, value = opposite(f"--{name}").removeprefix("--"), True
            items = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
            flags[name] = [str(item) for item in items]
    else:
        words = shlex.split(given) if isinstance(given, str) else [str(word) for word in given or []]
        for word in words:
            if re.match(r"--?[A-Za-z]", word):
                name, equals, value = word.lstrip("-").partition("=")
                current = flags[name.replace("_", "-")] = [value] if equals else []
            elif flags:
                current.append(word)
            else:
                raise ValueError(f"{where}: {word!r} comes before the first flag; expected --flag value ...")
    for key, reserved in RESERVED.items():
        if taken := sorted(flags.keys() & reserved):
            raise ValueError(f"{where}: --{', --'.join(taken)} is set by the comparison: use its key {key}")
    return {{"j": "workers"}.get(name, name): words for name, words in flags.items()}


def flag_words(flags: Flags) -> list[str]:
    """Flags as the words of a command line."""
    return [word for name, values in flags.items() for word in (f"--{name}", *values)]
