"""Command-line options of CIRKDV2."""

import argparse

from engine.args import Parser, require
from engine.loss_settings import check_setting, flag_of, partners
from losses.cirkdv2 import CIRKDV2Config
from losses.memory_bank import BANK_DTYPES
from losses.partners import check_groups
from losses.relation_products import RELATION_DTYPES


def add_cirkdv2_args(parser: Parser) -> None:
    """Weights, sizes and temperatures; the defaults are those of `CIRKDV2Config`."""
    default = CIRKDV2Config()
    group = parser.add_argument_group("CIRKDV2")
    weights = {
        "kd": "pixel KD of the logits",
        "fitnet": "context: adapted student features to the teacher's",
        "minibatch_pixel": "pixel relations across the images of the batch",
        "memory_pixel": "pixel relations to the pixel bank",
        "memory_region": "pixel relations to the region bank",
        "minibatch_channel": "channel relations across the images of the batch",
        "memory_channel": "channel relations to the channel bank",
        "channel_kd": "normalised channel maps; scale it by p/512 for crops with p pooled positions",
    }
    for term, text in weights.items():
        group.add_argument(flag_of(f"{term}_weight"), type=float, default=getattr(default, f"{term}_weight"), help=text)
    sizes = {"memory_size": "rows kept (per class)", "contrast_size": "rows drawn a step"}
    for bank in ("pixel", "region", "channel"):
        for size, text in sizes.items():
            text = text.replace(" (per class)", "") if bank == "channel" else text
            group.add_argument(
                flag_of(f"{bank}_{size}"),
                type=int,
                default=getattr(default, f"{bank}_{size}"),
                help=f"{bank} bank: {text}",
            )
    for name in ("contrast_temperature", "contrast_kd_temperature", "kd_temperature"):
        group.add_argument(flag_of(name), type=float, default=getattr(default, name))
    group.add_argument(
        "--minibatch-partners",
        type=partners,
        default=default.minibatch_partners,
        metavar="P|all|local:N",
        help="images that each image of the batch is related to: P drawn anew each step, all, or the N of its group of "
        "neighbours, which is what the published code does with N images a GPU",
    )
    group.add_argument(
        "--context",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="graph context module on the student's features (default: unless they are 256x256 or larger)",
    )
    group.add_argument("--bank-dtype", choices=tuple(BANK_DTYPES), default=default.bank_dtype)
    group.add_argument(
        "--relation-dtype",
        choices=("auto", *RELATION_DTYPES),
        default="auto",
        help="of the factors of the relations' matrix products; statistics and sums stay float32. bfloat16 is several "
        "times as fast; values change by up to 0.3 %% and gradients by up to 0.5 %% + 0.3 %% / sqrt(KL), 1.5 %% at a "
        "KL of 0.1. auto takes it with --amp bf16, and float32 otherwise (default: auto)",
    )
    group.add_argument("--distill-warmup-iters", type=int, default=0, help="linear rise of all distillation weights")


def cirkdv2_config(args: argparse.Namespace) -> CIRKDV2Config:
    """The losses' settings from the command line.

    `--relation-dtype auto` becomes bfloat16 with `--amp bf16`, float32 otherwise.

    Raises:
        ValueError: for negative weights, sizes or temperatures that cannot be computed with; names the flag.
    """
    values = vars(args)
    settings = {f"{k.removeprefix('lambda_')}_weight": v for k, v in values.items() if k.startswith("lambda_")}
    settings |= {k: v for k, v in values.items() if k in CIRKDV2Config.__dataclass_fields__}
    if settings["relation_dtype"] == "auto":
        settings["relation_dtype"] = "bfloat16" if args.amp == "bf16" else "float32"
    for name, value in settings.items():
        check_setting(name, value)
    require(args.distill_warmup_iters >= 0, "distill_warmup_iters", args.distill_warmup_iters, "at least 0")
    check_groups(args.minibatch_partners, args.batch_size, args.accumulation_steps)
    return CIRKDV2Config(**settings)
