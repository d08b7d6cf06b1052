"""The report of `dataset.check` as text."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

PROBLEMS_SHOWN = 20


def format_report(report: dict[str, Any]) -> str:
    """Tables of the report that `dataset.check.check_dataset` returned."""
    splits = report["splits"]
    lines = [f"{report['dataset']} in {report['root']}", "", *_counts(splits)]
    if recognised := dict.fromkeys(note for entry in splits.values() for note in entry.get("recognised", ())):
        lines += ["", *recognised]
    for split, entry in splits.items():
        lines += _images(split, entry)
    lines += ["", *_histogram(splits)] if any("classes" in entry for entry in splits.values()) else []
    lines += [f"{split}: {entry['label_counts']}" for split, entry in splits.items() if "label_counts" in entry]
    for split, entry in splits.items():
        lines += _problems(split, entry["problems"])
    count = sum(len(entry["problems"]) for entry in splits.values())
    return "\n".join([*lines, "", "No problems found." if report["ok"] else f"{count} problem(s) found."])


def _counts(splits: dict[str, Any]) -> list[str]:
    rows = [("split", "found", "published", "read", "problems")]
    for split, entry in splits.items():
        published = "-" if entry["published"] is None else entry["published"]
        rows.append((split, *map(str, (entry["found"], published, entry["read"], len(entry["problems"])))))
    return table(rows)


def _images(split: str, entry: dict[str, Any]) -> list[str]:
    if "sizes" not in entry:
        return []
    lines, different = ["", f"{split}: images (height x width)"], entry["sizes"]["different"]
    sizes = {name: "{}x{}".format(*entry["sizes"][name]) for name in ("smallest", "median", "largest")}
    if different == 1:
        lines.append(f"  all {sizes['median']}")
    else:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        lines.append(f"  {shown} by area; {different} different sizes")
    if "void" in entry:
        lines.append(f"  void: {100 * entry['void']['share']:.2f} % of all pixels, in {entry['void']['images']} images")
    else:
        lines.append("  no masks")
    return lines + [f"  {count} image(s): {note}" for note, count in entry["notes"].items()]


def _histogram(splits: dict[str, Any]) -> list[str]:
    """One row per class, three columns per split."""
    labelled = {split: entry["classes"] for split, entry in splits.items() if "classes" in entry}
    rows = [["id", "class"] + [head for split in labelled for head in (f"{split} pixels", "share %", "images")]]
    for number, labels in enumerate(zip(*labelled.values(), strict=True)):
        row = [str(number), labels[0]["name"]]
        for label in labels:
            row += [str(label["pixels"]), f"{100 * label['share']:.3f}", str(label["images"])]
        rows.append(row)
    lines = ["labels (share: of the pixels that are not void)", *table(rows, left=2)]
    for split, labels in labelled.items():
        if absent := [label["name"] for label in labels if not label["pixels"]]:
            names = ", ".join(absent[:PROBLEMS_SHOWN]) + (", ..." if len(absent) > PROBLEMS_SHOWN else "")
            lines.append(f"{split}: {len(absent)} class(es) do not occur in the images that were read: {names}")
    return lines


def _problems(split: str, problems: list[dict[str, str]]) -> list[str]:
    if not problems:
        return []
    kinds = Counter(problem["kind"] for problem in problems)
    lines = ["", f"{split}: " + ", ".join(f"{count} x {kind}" for kind, count in kinds.items())]
    lines += [f"  {problem['kind']}: {problem['message']}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(problems) - PROBLEMS_SHOWN} more (all of them: --json PATH)")
    return lines


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligned columns with a rule below the header; the first `left` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]
