"""What a conversion has done, as plain data and as text."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.check.report import table
from dataset.convert.labels import Labels
from dataset.convert.plan import SHEET
from dataset.convert.writer import Written
from dataset.labels import VOID

LARGEST_CROP = 512


def make_report(source: Path, out: Path, written: Written, labels: Labels, notes: Sequence[str]) -> dict[str, Any]:
    """Counts of images, objects and pixels, and what was left out and why, as plain data."""
    classes = [_entry(name, index, written) for index, name in enumerate(labels.names)]
    void = _entry("void", VOID, written)
    lines = [*labels.notes, *notes, *written.problems.lines()]
    if empty := sum(written.empty.values()):
        undrawn = "void" if labels.nothing == VOID else labels.names[0]
        kept = "left out" if labels.nothing == VOID else "kept"
        lines.append(f"{empty} image(s) in which nothing is drawn, {undrawn} all over, are {kept}")
    if written.fits_both:
        lines.append(
            f"{written.fits_both} image(s) have an EXIF orientation and annotations that fit both ways: they are taken "
            "to be of the upright picture, which training reads (--exif ignore: of the stored one)"
        )
    by_area = sorted(written.sizes.elements(), key=math.prod)
    return {
        "source": str(source),
        "out": str(out),
        "splits": {split: len(pairs) for split, pairs in written.pairs.items()},
        "unlabelled": [split for split, pairs in written.pairs.items() if pairs[0][1] is None],
        "classes": classes,
        "void": void,
        "size": list(by_area[len(by_area) // 2]),
        "notes": lines,
    }


def _entry(name: str, train_id: int, written: Written) -> dict[str, Any]:
    counts = {"objects": written.objects, "pixels": written.pixels, "images": written.images}
    return {"name": name} | {what: count[train_id] for what, count in counts.items()}


def format_report(report: Mapping[str, Any]) -> str:
    """The report as text, with the commands to go on with."""
    out, splits = report["out"], report["splits"]
    counts = ", ".join(
        f"{count} {split}" + (" (without masks)" if split in report["unlabelled"] else "")
        for split, count in splits.items()
    )
    lines = [f"{report['source']} -> {out}", f"images: {counts}", ""]
    entries = [*report["classes"], report["void"]]
    total = max(sum(entry["pixels"] for entry in entries), 1)
    objects = any(entry["objects"] for entry in entries)  # masks have none
    rows = [("id", "class", *["objects"] * objects, "images", "pixels", "share %")]
    for number, entry in enumerate(entries):
        train_id = str(number) if number < len(report["classes"]) else str(VOID)
        counted = [str(entry["objects"])] * objects
        share = f"{100 * entry['pixels'] / total:.3f}"
        rows.append((train_id, entry["name"], *counted, str(entry["images"]), str(entry["pixels"]), share))
    lines += table(rows, left=2)
    lines += ["", *report["notes"]] if report["notes"] else []
    fraction = "" if "val" in splits or "train" not in splits else " --val-fraction 0.1"
    if fraction:
        lines += ["", "There is no validation split: all images are for training. --val-fraction takes some out."]
    height, width = (min(LARGEST_CROP, 32 * -(-side // 32)) for side in report["size"])
    data = shlex.quote(out)
    lines += ["", f"Samples with their labels: {Path(out) / SHEET}", "Check it and train with it:"]
    lines.append(f"  python -m dataset.check custom {data}{fraction}")
    if "train" in splits:
        lines.append(
            f"  python train_baseline.py --dataset custom --data {data}{fraction} --crop-size {height} {width} "
            "--batch-size 16"
        )
    return "\n".join(lines)
