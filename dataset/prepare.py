"""Builds the decoded cache of a data set, which training and evaluation read as `--data OUT`; see `dataset.prepared`.

    python -m dataset.prepare citys /data/cityscapes /fast/cityscapes
    python -m dataset.prepare citys /data/cityscapes /fast/cityscapes --verify

An interrupted run is continued by the same command. The exit code is 0, 1 if --verify found something, 2 for errors.
"""

import cv2

from dataset import DATASETS
from dataset.config import ReadingConfig
from dataset.prepared.build import build_cache
from dataset.prepared.verify import verify_cache
from dataset.reading.pool import DEFAULT_WORKERS
from utils.cli import Parser, run_cli
from utils.flags import add_section_flags, read_section


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(__doc__, prog="python -m dataset.prepare")
    parser.add_argument("dataset", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("root", metavar="ROOT", help="the data set's folder")
    parser.add_argument("out", metavar="OUT", help="folder of the cache")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), default=["train", "val"])
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="remove the cache that is there and build it again")
    parser.add_argument("--verify", action="store_true", help="only compare the cache with its checksums and source")
    add_section_flags(parser.add_argument_group("reading"), ReadingConfig)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    options = {"reading": read_section(ReadingConfig, vars(args)), "workers": args.workers}
    if args.verify:
        problems = verify_cache(args.dataset, args.root, args.out, args.split, **options)
        print("\n".join(problems) if problems else f"{args.out} is equal to its source")
        return 1 if problems else 0
    written = build_cache(args.dataset, args.root, args.out, args.split, overwrite=args.overwrite, **options)
    print(f"{'wrote' if written else 'already complete:'} {args.out}")
    print(f"use it as: --dataset {args.dataset} --data {args.out}")
    return 0


if __name__ == "__main__":
    run_cli(main, interrupted="the same command continues where this one stopped")
