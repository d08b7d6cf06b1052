"""The study's tables, from its CSV files: python -m studies.camvid.tables FIGURES [--into PAGE.md].

With --into they replace what stands between `<!-- study -->` and `<!-- end of the study -->` in the page.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from comparison.statistics import difference_by_position, paired_difference, spread
from studies.camvid.collect import HALVES, read

ALONE, KD, WHOLE = "alone", "kd", "cirkdv2"
TITLES = {
    "iterations": "Equal iterations: every run has {0}.",
    "seconds": "Equal seconds: each method has as many iterations as fit into the time of {0} of the student alone.",
}
BLOCK = re.compile(r"(<!-- study -->\n).*?(<!-- end of the study -->)", re.DOTALL)

Runs = Mapping[str, Mapping[int, Mapping[str, str]]]  # method -> seed -> line
PerSeed = Mapping[int, float]


def read_half(figures: Path, half: str) -> Runs:
    """Method -> seed -> line of the half's results, methods in the order of the file of costs."""
    costs = json.loads((figures / "cost.json").read_text(encoding="utf-8"))["seconds_per_step"]
    lines = read(figures / f"{half}.csv")
    return {m: found for m in costs if (found := {int(x["seed"]): x for x in lines if x["method"] == m})}


def miou(runs: Mapping[int, Mapping[str, str]]) -> PerSeed:
    """Seed -> mIoU on the test split, in %."""
    return {seed: 100 * float(line["test_miou"]) for seed, line in runs.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_spread(values: PerSeed) -> str:
    """Mean ± standard deviation over the seeds."""
    found = spread(list(values.values()))
    return f"{found['mean']:.2f}" + ("" if found["std"] is None else f" ± {found['std']:.2f}")


def gain(values: PerSeed, other: PerSeed) -> str:
    """Mean of the differences paired by seed, with its confidence interval; bold where that does not hold zero."""
    found = paired_difference(values, other)
    if found["mean"] is None:
        return "–"
    text = f"{found['mean']:+.2f}"
    if found["interval"] is None:
        return text
    low, high = found["interval"]
    return f"**{text}** [{low:+.2f}, {high:+.2f}]" if low > 0 or high < 0 else f"{text} [{low:+.2f}, {high:+.2f}]"


def results(runs: Runs, costs: Mapping[str, float], shown: Callable[[str], bool]) -> str:
    head = ["", "steps", "s / step", "seeds", "mIoU %", "− alone", "− pixel KD"]
    rows = []
    for name, of_seeds in runs.items():
        if shown(name):
            values = miou(of_seeds)
            gains = [gain(values, miou(runs[other])) if name != other else "" for other in (ALONE, KD)]
            steps = next(iter(of_seeds.values()))["iterations"]
            rows.append([name, steps, f"{costs[name]:.2f}", str(len(values)), with_spread(values), *gains])
    return table(head, rows)


def ablation(runs: Runs) -> str:
    """What each part of CIRKDV2 adds: the whole minus the row without it."""
    rows = [
        [name.removeprefix(f"{WHOLE} without "), gain(miou(runs[WHOLE]), miou(of_seeds))]
        for name, of_seeds in runs.items()
        if _is_ablation(name)
    ]
    return table(["part", "mIoU points that it adds"], rows)


def classes(runs: Runs) -> str:
    """Gain in IoU over the student alone by class."""
    names = [name for name in next(iter(runs[ALONE].values())) if name.startswith("iou ")]
    columns = {
        m: {s: [100 * float(x[n]) if x[n] else None for n in names] for s, x in of.items()} for m, of in runs.items()
    }
    alone = [
        spread([v for v in column if v is not None])["mean"] for column in zip(*columns[ALONE].values(), strict=True)
    ]
    rows = [[f"{ALONE}, IoU %", *("–" if value is None else f"{value:.1f}" for value in alone)]]
    for name, per_seed in columns.items():
        if name != ALONE and not _is_ablation(name):
            gains = difference_by_position(per_seed, columns[ALONE])
            rows.append([name, *("–" if g["mean"] is None else f"{g['mean']:+.1f}" for g in gains)])
    return table(["", *(name.removeprefix("iou ") for name in names)], rows)


def _is_ablation(name: str) -> bool:
    return name.startswith(f"{WHOLE} without ")


def page(figures: Path) -> str:
    """All tables."""
    costs = json.loads((figures / "cost.json").read_text(encoding="utf-8"))["seconds_per_step"]
    parts = []
    for half in HALVES:
        if not (figures / f"{half}.csv").exists():
            continue
        runs = read_half(figures, half)
        if ALONE not in runs or KD not in runs:
            continue
        steps = next(iter(runs[ALONE].values()))["iterations"]
        parts += [TITLES[half].format(steps), results(runs, costs, lambda name: not _is_ablation(name))]
        if WHOLE in runs:
            parts += [f"Parts of CIRKDV2, at equal {half}:", ablation(runs)]
        parts += [f"Gain by class over the student alone, IoU points, at equal {half}:", classes(runs)]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, metavar="FIGURES", help="folder of the CSV files")
    parser.add_argument("--into", type=Path, metavar="PAGE.md")
    args = parser.parse_args()
    text = page(args.figures)
    if args.into is None:
        print(text)
        return
    before = args.into.read_text(encoding="utf-8")
    after, count = BLOCK.subn(lambda match: f"{match[1]}\n{text}\n{match[2]}", before)
    if count != 1:
        raise SystemExit(f"{args.into} holds {count} places between <!-- study --> and <!-- end of the study -->")
    args.into.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
