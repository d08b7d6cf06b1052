"""Command-line arguments of evaluation, and those of how images are predicted."""

import argparse
from pathlib import Path

from engine.args import (
    Parser,
    crop_size,
    default_workers,
    finite_above,
    optional,
    optional_path,
    require,
    required_path,
)
from engine.protocol import Protocol, default_protocol
from engine.submission import check_submission_request
from models import list_models, resolve_names


def add_evaluation_args(parser: Parser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument("--model", help=", ".join(list_models()) + "; default: as the file tells")
    group.add_argument("--backbone", help="default: as the file tells")
    group.add_argument(
        "--pretrained", type=required_path, required=True, help="the network's weights, or the folder of its run"
    )
    group.add_argument("--allow-partial", action="store_true", help="accept a weight file that covers only a part")
    group.add_argument("--split", choices=("val", "test", "train"), default="val")
    group.add_argument("--boundary-iou", action="store_true", help="also say how well the classes' outlines are met")
    group.add_argument("--boundary-ratio", type=float, default=0.02, help="width of an outline / the image's diagonal")
    group.add_argument("--save-pred", action="store_true", help="write the predicted masks as palette PNG")
    group.add_argument("--blend", action="store_true", help="write the images with the prediction over them")
    group.add_argument("--panel", action="store_true", help="write image, truth, prediction and errors side by side")
    group.add_argument("--json", type=optional_path, metavar="FILE", help="write results.json to this file too")
    group.add_argument(
        "--submission", type=optional_path, metavar="OUT.zip", help="write what the Cityscapes test server takes"
    )
    group.add_argument(
        "--any-count", action="store_true", help="take a test set for it that is not the 1,525 published images"
    )
    group.add_argument("--save-dir", type=required_path, default=Path("runs"))
    group.add_argument("--save-dir-name", type=optional, help="default: eval_<checkpoint>_<data set>_<split>")
    add_protocol_args(parser)


def add_protocol_args(parser: Parser) -> None:
    """How images are predicted; `finish_protocol_args` makes it a `Protocol`."""
    group = parser.add_argument_group("protocol")
    group.add_argument("--scales", type=float, nargs="+", default=[1.0], help="logits are averaged over these scales")
    group.add_argument("--flip-eval", action="store_true", help="and over each scale's mirror image")
    group.add_argument(
        "--slide-crop", type=int, nargs="+", metavar=("H", "W"), help="predict in windows; default: as was published"
    )
    group.add_argument(
        "--slide-stride", type=int, nargs="+", metavar=("H", "W"), help="from window to window; default: --slide-crop"
    )
    group.add_argument("--no-slide", action="store_true", help="predict whole images, whatever was published")
    group.add_argument("--window-batch", type=int, default=1, help="windows that go through the network together")


def finish_protocol_args(args: argparse.Namespace, default: Protocol) -> Protocol:
    """Checks the values.

    Args:
        args: parsed with `add_protocol_args`.
        default: gives the windows where no flag does.

    Raises:
        ValueError: for a value that cannot be predicted with; the message names the flag.
    """
    require(all(finite_above(scale, 0) for scale in args.scales), "scales", args.scales, "numbers above 0")
    require(args.window_batch >= 1, "window_batch", args.window_batch, "a whole number of at least 1")
    common = {"scales": tuple(args.scales), "flip": args.flip_eval, "window_batch": args.window_batch}
    if args.no_slide:
        return Protocol(**common)
    crop = crop_size(args.slide_crop, "slide_crop") if args.slide_crop else default.crop
    if crop is None:
        require(
            not args.slide_stride, "slide_stride", args.slide_stride, "--slide-crop H W beside it, the windows' size"
        )
        return Protocol(**common)
    stride = crop if args.slide_crop else default.stride
    if args.slide_stride:
        stride = crop_size(args.slide_stride, "slide_stride")
        fits = stride[0] <= crop[0] and stride[1] <= crop[1]
        require(fits, "slide_stride", list(stride), f"at most the windows' {list(crop)}, else pixels are left out")
    return Protocol(crop, stride, **common)


def finish_evaluation_args(args: argparse.Namespace) -> argparse.Namespace:
    """Checks the values and fills in the folder to write to, `output`, and how images are predicted, `protocol`.

    Raises:
        ValueError: for a value that cannot be evaluated with; the message names the flag.
    """
    model, _ = resolve_names(args.model, args.backbone)
    protocol = finish_protocol_args(args, default_protocol(model, args.dataset))
    require(0 < args.boundary_ratio < 1, "boundary_ratio", args.boundary_ratio, "a number between 0 and 1")
    require(args.json is None or not args.json.is_dir(), "json", args.json, "a file to write, not a folder")
    if args.submission is not None:
        check_submission_request(args.submission, args.dataset, args.split)
    workers = default_workers() if args.workers is None else args.workers
    require(workers >= 0, "workers", workers, "a whole number of at least 0")
    name = args.save_dir_name or f"eval_{args.pretrained.stem}_{args.dataset}_{args.split}"
    derived = {"workers": workers, "output": args.save_dir / name, "protocol": protocol}
    return argparse.Namespace(**vars(args) | derived)
