"""Every flag that takes a number refuses what cannot be trained or evaluated with, before anything is read."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import engine.args
from engine.cirkdv2_args import cirkdv2_config
from engine.evaluation_args import finish_evaluation_args
from engine.methods import resolve_methods

TRAINING = ["--dataset", "custom", "--data", "x"]
DISTILLATION = [*TRAINING, "--teacher-pretrained", "x"]


def evaluate(args: Namespace) -> None:
    names = {"model": "psp_mobile", "backbone": "mobilenetv3_small", "dataset": "custom", "pretrained": Path("x")}
    finish_evaluation_args(Namespace(**vars(args) | names))


# entry point -> words that it needs, what looks at its values beside `parse_args`, flags that are looked at elsewhere
ENTRIES = {
    "train_baseline": (TRAINING, lambda args: None, set()),
    "train_cirkdv2": (DISTILLATION, cirkdv2_config, set()),
    "train_kd": ([*DISTILLATION, "--method", "kd"], resolve_methods, set()),
    # the data set refuses the first, seeding the second
    "eval": (["--data", "x", "--pretrained", "x"], evaluate, {"--ignore-label", "--seed"}),
}
NOT_NUMBERS = ("nan", "inf", "-inf", "1e999", "many")
# What is not refused: 0 switches off, or counts from 0.
ZERO_IS_FINE = set(
    "--skip-bad-samples --ignore-label --workers --momentum --weight-decay --warmup-iters --clip-grad --ema-decay "
    "--seed --distill-warmup-iters --dist-aux-factor --mgd-mask-ratio --afdcd-mask-ratio --dkd-alpha --dkd-beta".split()
)
BELOW_ZERO_IS_FINE = {"--ignore-label": "-2"}  # -1 means 255
NUMBERS_ABOVE_1_ARE_NOT = set("--momentum --ema-decay --mgd-mask-ratio --afdcd-mask-ratio --boundary-ratio".split())


@pytest.fixture
def accepts(monkeypatch, capsys):
    """Whether an entry point takes some words."""

    def parse(entry: str, words: list[str]) -> bool:
        base, check, _ = ENTRIES[entry]
        monkeypatch.setattr(sys, "argv", [f"{entry}.py", *base, *words])
        try:
            check(importlib.import_module(entry).parse_args())
        except ValueError as error:
            assert words[0].split("=")[0] in str(error) and "expected" in str(error), error
            return False
        except SystemExit as end:
            assert end.code == 2 and words[0].split("=")[0] in capsys.readouterr().err
            return False
        return True

    return parse


def numeric_flags(entry: str, accepts, monkeypatch) -> list[str]:
    """The longest name of every flag that takes numbers alone."""
    parsers = []
    parse = engine.args.Parser.parse_args

    def kept(self, *rest):
        parsers.append(self)
        return parse(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine.args.Parser, "parse_args", kept)
        assert accepts(entry, [])
    (parser,) = parsers
    flags = []
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and not action.choices and action.dest not in parser.replaced:
            try:
                number = action.type is not None and action.type("1") == 1 and action.type is not str
            except (TypeError, ValueError, SystemExit):
                number = False
            if number:
                flags.append(max(action.option_strings, key=len))
    return flags


@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_flags_refuse_numbers_that_cannot_be(entry, accepts, monkeypatch):
    flags = [flag for flag in numeric_flags(entry, accepts, monkeypatch) if flag not in ENTRIES[entry][2]]
    assert len(flags) > (6 if entry == "eval" else 18), flags
    assert entry == "eval" or {"--lr", "--batch-size", "--crop-size", "--max-seconds"} <= set(flags)
    taken = []
    for flag in flags:
        values = [*NOT_NUMBERS, BELOW_ZERO_IS_FINE.get(flag, "-1")]
        if flag not in ZERO_IS_FINE and not flag.startswith("--lambda-"):
            values.append("0")
        if flag in NUMBERS_ABOVE_1_ARE_NOT:
            values += ["1", "1.5"]
        taken += [f"{flag}={value}" for value in values if accepts(entry, [f"{flag}={value}"])]
    assert taken == []
