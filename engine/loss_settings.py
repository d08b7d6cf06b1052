"""What the command lines of all distillation methods share: flags named after settings, and their checks."""

from typing import Any

from engine.args import require


def flag_of(name: str) -> str:
    """The flag of a setting: `--lambda-at` for `at_weight`, `--dkd-alpha` for `dkd_alpha`."""
    words = f"lambda_{name.removesuffix('_weight')}" if name.endswith("_weight") else name
    return "--" + words.replace("_", "-")


def partners(text: str) -> int | None:
    """A number of images, or None for "all"."""
    return None if text == "all" else int(text)


def check_setting(name: str, value: Any) -> None:
    """Raises ValueError, which names the flag, for a setting that cannot be computed with."""
    flag = flag_of(name).removeprefix("--")
    if name.endswith("_weight"):
        require(0 <= value < float("inf"), flag, value, "a number of at least 0")
    elif name.endswith("_temperature"):
        require(0 < value < float("inf"), flag, value, "a number above 0")
    elif name.endswith(("_memory_size", "_contrast_size")) or name == "minibatch_partners":
        require(value is None or value >= 1, flag, value, "a whole number of at least 1")
    elif name.endswith("_mask_ratio"):
        require(0 <= value < 1, flag, value, "a number from 0 up to, but not, 1")
    elif isinstance(value, float):
        require(0 <= value < float("inf"), flag, value, "a number of at least 0")
