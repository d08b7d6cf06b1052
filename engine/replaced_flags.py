"""Flags of the published scripts that have no effect here: accepted, so that old command lines run, and said so."""

import argparse
import sys

# flag -> (takes a value, what replaces it)
REPLACED = {
    "--log-dir": (True, "logs lie in the run's folder, --save-dir/--save-dir-name"),
    "--gpu-id": (True, "choose GPUs with CUDA_VISIBLE_DEVICES"),
    "--local-rank": (True, "torchrun sets LOCAL_RANK"),
    "--no-cuda": (False, "use --device cpu"),
    "--aux": (False, "a network has its auxiliary head as published: with ResNet backbones"),
    "--aux-weight": (True, "the auxiliary loss always weighs 0.4"),
    "--teacher-pretrained-base": (True, "--teacher-pretrained holds the whole teacher"),
    "--data-list": (True, "use --train-list, --val-list and --test-list"),
    "--start-epoch": (True, "--resume continues at the saved iteration"),
    "--save-epoch": (True, "use --save-per-iters"),
    "--val-epoch": (True, "use --val-per-iters"),
}

# of evaluation, beside those above
REPLACED_IN_EVALUATION = REPLACED | {
    "--batch-size": (True, "images are evaluated one by one"),
    "--crop-size": (True, "images are evaluated at their own size; --slide-crop predicts them in windows"),
    "--pretrained-base": (True, "--pretrained holds the whole network"),
    "--log-iter": (True, "a bar shows the progress"),
    "--skip-val": (False, "choose what to evaluate with --split"),
}


def add_replaced_flags(parser: argparse.ArgumentParser, replaced: dict[str, tuple[bool, str]]) -> None:
    for flag, (takes_value, _) in replaced.items():
        options = {"nargs": "*"} if takes_value else {"action": "store_const", "const": ""}
        parser.add_argument(flag, dest=_destination(flag), default=None, help=argparse.SUPPRESS, **options)


def report_replaced_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace, replaced: dict[str, tuple[bool, str]]
) -> None:
    """Says of each such flag that was given what replaces it, on stderr, and takes it out of `args`."""
    for flag, (_, instead) in replaced.items():
        if getattr(args, _destination(flag)) is not None:
            print(f"{parser.prog}: {flag} has no effect: {instead}.", file=sys.stderr)
        delattr(args, _destination(flag))


def _destination(flag: str) -> str:
    return "replaced_" + flag.strip("-").replace("-", "_")
