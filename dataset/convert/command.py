"""Converts what annotation tools export to the layout of custom data sets.

    python -m dataset.convert coco SOURCE OUT          COCO: polygons, run-length codes; Roboflow's and CVAT's too
    python -m dataset.convert labelme SOURCE OUT       labelme: a JSON file for each image
    python -m dataset.convert cvat SOURCE OUT          CVAT for images 1.1, or Segmentation mask 1.1
    python -m dataset.convert roboflow SOURCE OUT      Roboflow's semantic segmentation masks

OUT gets classes.txt, train.txt, val.txt and test.txt, images/ and masks/ with 8-bit PNG of class numbers, 255 for void,
and contact_sheet.png to look at.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from dataset.convert.annotations import Annotations
from dataset.convert.coco import read_coco
from dataset.convert.config import ConvertConfig
from dataset.convert.cvat import read_cvat
from dataset.convert.labelme import read_labelme
from dataset.convert.labels import classes_text
from dataset.convert.plan import finish, plan, prepare
from dataset.convert.report import format_report, make_report
from dataset.convert.roboflow import read_roboflow
from dataset.convert.writer import write_all
from dataset.reading.pool import DEFAULT_WORKERS
from utils.cli import Parser
from utils.flags import add_section_flags, read_section

AFTER_INTERRUPT = "the folder is incomplete; the same command starts it anew."
FORMATS: dict[str, Callable[[Path, ConvertConfig], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "roboflow": read_roboflow,
}


def convert(
    name: str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    workers: int = DEFAULT_WORKERS,
) -> dict[str, Any]:
    """Converts a data set.

    A folder that an interrupted or failed conversion left is written anew.

    Args:
        name: one of `FORMATS`.
        source: the folder of the annotation tool's files.
        out: a new or empty folder, outside of it.
        config: how.
        workers: processes; 0 works in this one.

    Returns:
        What was done, see `make_report`.

    Raises:
        ValueError, FileNotFoundError: a parameter or a file that cannot be used; names the file and the object.
    """
    config = config or ConvertConfig()
    if name not in FORMATS:
        raise ValueError(f"format {name!r}: expected one of {', '.join(FORMATS)}")
    if config.classes is not None and name != "labelme":
        raise ValueError(f"--classes: the files of {name} name the classes; the flag is for labelme")
    if config.crowd != "void" and name != "coco":
        raise ValueError(f"--crowd {config.crowd}: {name} has no crowd regions; the flag is for coco")
    source, out = (Path(folder).expanduser().absolute() for folder in (source, out))
    if not source.is_dir():
        unpack = ": it is a file; unpack it first" if source.is_file() else ""
        raise FileNotFoundError(f"the folder {source} does not exist{unpack}")
    if source.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} and {source} lie within one another: give a folder outside of the source")
    annotations = FORMATS[name](source, config)
    if not annotations.samples:
        reasons = "".join(f"\n{line}" for line in annotations.problems.lines())
        raise ValueError(f"{source}: no image is left to convert{reasons}")
    tasks = plan(annotations.samples, config)
    classes_text(annotations.labels)  # an error now and not at the end
    prepare(out, config.overwrite)
    written = write_all(out, tasks, annotations.paint, annotations.labels, config, workers)
    annotations.problems.add(written.problems)
    written.problems = annotations.problems
    report = {"format": name} | make_report(source, out, written, annotations.labels, annotations.notes)
    finish(out, report, config)
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(__doc__, prog="python -m dataset.convert")
    parser.add_argument("format", metavar="FORMAT", choices=FORMATS, help=", ".join(FORMATS))
    parser.add_argument("source", metavar="SOURCE", help="the folder that the tool exported")
    parser.add_argument("out", metavar="OUT", help="a new or empty folder for the data set")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: %(default)s)")
    add_section_flags(parser.add_argument_group("conversion"), ConvertConfig)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    config = read_section(ConvertConfig, vars(args))
    print(format_report(convert(args.format, args.source, args.out, config, args.workers)))
    return 0
