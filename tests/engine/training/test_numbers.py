"""Every flag that takes a number refuses what cannot be trained or evaluated with, before anything is read."""

import importlib

import pytest

from engine.config.evaluation import EvalConfig
from engine.config.methods import CIRKDV2RunConfig, KDConfig
from engine.config.schema import BaselineConfig
from utils.cli import Parser
from utils.flags import add_flags

TRAINING = ["--dataset", "custom", "--data", "x"]
DISTILLATION = [*TRAINING, "--teacher-pretrained", "x"]
# entry point -> its config, words that it needs
ENTRIES = {
    "train_baseline": (BaselineConfig, TRAINING),
    "train_cirkdv2": (CIRKDV2RunConfig, DISTILLATION),
    "train_kd": (KDConfig, [*DISTILLATION, "--method", "kd"]),
    "eval": (EvalConfig, ["--data", "x", "--pretrained", "x"]),
}
NOT_NUMBERS = ("nan", "inf", "-inf", "1e999", "many")
# What is not refused: 0 switches off, or counts from 0.
ZERO_IS_FINE = set(
    "--skip-bad-samples --ignore-label --workers --momentum --weight-decay --warmup-iters --clip-grad --ema-decay "
    "--label-smoothing --void-values --mask-values --color-tolerance --val-fraction --image-range --pseudo-threshold "
    "--dice --crop-by-class --color-jitter "
    "--seed --distill-warmup-iters --dist-aux-factor --mgd-mask-ratio --afdcd-mask-ratio --dkd-alpha --dkd-beta".split()
)
BELOW_ZERO_IS_FINE = {"--ignore-label": "-2"}  # -1 means 255
NUMBERS_ABOVE_1_ARE_NOT = set(
    "--momentum --ema-decay --label-smoothing --mgd-mask-ratio --afdcd-mask-ratio --boundary-ratio".split()
)


def accepts(entry: str, words: list[str]) -> bool:
    """Whether an entry point takes some words."""
    try:
        importlib.import_module(entry).parse([*ENTRIES[entry][1], *words])
    except ValueError as error:
        assert words[0].split("=")[0] in str(error) and "expected" in str(error), error
        return False
    return True


def numeric_flags(config: type) -> list[str]:
    """The longest name of every flag that takes numbers alone."""
    parser = Parser("")
    add_flags(parser, config)
    flags = []
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and not action.choices:
            try:
                number = action.type("1") == 1
            except (TypeError, ValueError):
                number = False
            if number:
                flags.append(max(action.option_strings, key=len))
    return flags


@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_flags_refuse_numbers_that_cannot_be(entry):
    assert accepts(entry, [])
    flags = numeric_flags(ENTRIES[entry][0])
    assert len(flags) > (6 if entry == "eval" else 18), flags
    training = "--lr --batch-size --crop-size --max-seconds --dist-timeout --profile --skip-bad-samples".split()
    assert set(["--scales", "--slide-crop", "--window-batch"] if entry == "eval" else training) <= set(flags)
    taken = []
    for flag in flags:
        values = [*NOT_NUMBERS, BELOW_ZERO_IS_FINE.get(flag, "-1")]
        if flag not in ZERO_IS_FINE and not flag.startswith("--lambda-"):
            values.append("0")
        if flag in NUMBERS_ABOVE_1_ARE_NOT:
            values += ["1", "1.5"]
        taken += [f"{flag}={value}" for value in values if accepts(entry, [f"{flag}={value}"])]
    assert taken == []
