"""Suggestions for mistyped names."""

import difflib
from collections.abc import Collection, Mapping


def did_you_mean(name: str, known: Collection[str], related: Mapping[str, str] | None = None) -> str:
    """ " Did you mean X?" with the nearest known name, or "".

    Args:
        name: what was given.
        known: the names that there are.
        related: names that are used elsewhere -> the known one.
    """
    lower = {candidate.lower(): candidate for candidate in known}
    near = (related or {}).get(name.lower())
    if near is None:
        matches = difflib.get_close_matches(name.lower(), lower, n=1)
        near = lower[matches[0]] if matches else None
    return f" Did you mean {near}?" if near in known else ""
