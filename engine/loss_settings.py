"""What the command lines of all distillation methods share: flags named after settings, and their checks."""

import argparse
from typing import Any

from engine.args import require
from losses.partners import Partners, parse_partners


def flag_of(name: str) -> str:
    """The flag of a setting: `--lambda-at` for `at_weight`, `--dkd-alpha` for `dkd_alpha`."""
    words = f"lambda_{name.removesuffix('_weight')}" if name.endswith("_weight") else name
    return "--" + words.replace("_", "-")


def partners(text: str) -> Partners:
    """`parse_partners` for a flag, whose message argparse shows."""
    try:
        return parse_partners(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_setting(name: str, value: Any) -> None:
    """Raises ValueError, which names the flag, for a setting that cannot be computed with."""
    flag = flag_of(name).removeprefix("--")
    if name.endswith("_weight"):
        require(0 <= value < float("inf"), flag, value, "a number of at least 0")
    elif name.endswith("_temperature"):
        require(0 < value < float("inf"), flag, value, "a number above 0")
    elif name.endswith(("_memory_size", "_contrast_size")):
        require(value >= 1, flag, value, "a whole number of at least 1")
    elif name.endswith("_mask_ratio"):
        require(0 <= value < 1, flag, value, "a number from 0 up to, but not, 1")
    elif isinstance(value, float):
        require(0 <= value < float("inf"), flag, value, "a number of at least 0")
