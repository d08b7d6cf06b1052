"""Lists the networks, or describes one.

python -m models
python -m models --describe segformer MiT_B0 --crop-size 512 1024 --num-classes 19 [--json]
python -m models --describe deeplabv3 timm:convnext_tiny
"""

import argparse
import json
import sys
from typing import Any

import torch

from models import ALIASES, build_model, list_models
from models.backbones import TIMM_PREFIX
from models.describe import describe, describe_as_text
from utils.cli import Parser, run_cli

TIMM_NOTE = (
    f"each of them also: {TIMM_PREFIX}<name> or {TIMM_PREFIX}<name.tag>, any network of timm with four feature maps"
)


def parse_args() -> argparse.Namespace:
    parser = Parser("List the networks, or describe one: size, cost, shapes and latency.", prog="python -m models")
    parser.add_argument("--describe", nargs=2, metavar=("MODEL", "BACKBONE"), help="the network to describe")
    size_help = "height width (default: 512 1024)"
    parser.add_argument("--crop-size", nargs="+", type=int, default=[512, 1024], metavar="PIXELS", help=size_help)
    parser.add_argument("--num-classes", type=int, default=19, help="default: %(default)s")
    parser.add_argument(
        "--aux", action=argparse.BooleanOptionalAction, help="auxiliary head; as in the released network by default"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where latency is measured")
    parser.add_argument("--runs", type=int, default=10, help="timed passes; 0 measures no latency")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse_args()
    if len(args.crop_size) == 1:
        args.crop_size *= 2
    if len(args.crop_size) != 2 or min(args.crop_size) < 1:
        parser.error(f"--crop-size {args.crop_size}: expected height and width of at least 1 pixel")
    if args.runs < 0:
        parser.error(f"--runs {args.runs}: expected a whole number of at least 0")
    return args


def listing() -> dict[str, Any]:
    """Return {"networks": {name: backbones}, "aliases": {name: networks}, "timm": a note}."""
    aliases = {name: list(names) for name, names in ALIASES.items()}
    return {"networks": list_models(), "aliases": aliases, "timm": TIMM_NOTE}


def listing_as_text() -> str:
    content = listing()
    width = max(map(len, content["networks"]))
    lines = ["networks and their backbones"]
    lines += [f"  {name:{width}}  {', '.join(backbones)}" for name, backbones in content["networks"].items()]
    lines += [f"  {content['timm']}", "aliases: the backbone decides which network is meant; with timm's, the first"]
    lines += [f"  {name:{width}}  {', '.join(names)}" for name, names in content["aliases"].items()]
    return "\n".join(lines)


def pick_device(name: str) -> torch.device:
    """Return the device of a flag; "auto" prefers a GPU.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; expected cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def main() -> None:
    args = parse_args()
    if args.describe is None:
        print(json.dumps(listing(), indent=2) if args.json else listing_as_text())
        return
    device = pick_device(args.device)
    network = build_model(*args.describe, args.num_classes, aux=args.aux)
    if args.runs:
        print(f"measuring the latency of {args.runs} passes (--runs 0 leaves it out) ...", file=sys.stderr, flush=True)
    found = describe(network, *args.crop_size, device, runs=args.runs)
    print(json.dumps(found, indent=2) if args.json else describe_as_text(found))


if __name__ == "__main__":
    run_cli(main)
