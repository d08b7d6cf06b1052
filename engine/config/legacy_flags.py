"""Flags of the published scripts that have no effect here: accepted with a warning, so that old command lines run."""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.cli import parse_config
from utils.flags import migrate_names

# flag -> (takes a value, what replaces it)
LEGACY_FLAGS = {
    "--log-dir": (True, "logs are in the run's folder, --save-dir/--save-dir-name"),
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
LEGACY_EVALUATION_FLAGS = LEGACY_FLAGS | {
    "--batch-size": (True, "images are evaluated one by one"),
    "--crop-size": (True, "images are evaluated at their own size; --slide-crop predicts them in windows"),
    "--pretrained-base": (True, "--pretrained holds the whole network"),
    "--log-iter": (True, "a bar shows the progress"),
    "--skip-val": (False, "choose what to evaluate with --split"),
}


def read_command_line(
    config: type,
    description: str,
    words: Sequence[str] | None = None,
    *,
    legacy: Mapping[str, tuple[bool, str]] = LEGACY_FLAGS,
    prog: str | None = None,
) -> Any:
    """`utils.cli.parse_config` with the flags and the names of settings of earlier versions."""
    return parse_config(config, description, words, legacy=legacy, prog=prog, migrate=migrate_names)
