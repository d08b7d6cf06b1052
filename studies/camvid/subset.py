"""Lists some of CamVid's training images, evenly spaced: python -m studies.camvid.subset CAMVID COUNT LIST."""

import sys
from pathlib import Path

from dataset.loading.samplers import evenly_spaced


def main(camvid: Path, count: int, out: Path) -> None:
    names = sorted(path.name for path in (camvid / "train").glob("*.png"))
    chosen = [names[index] for index in evenly_spaced(len(names), count)]
    out.write_text("".join(f"train/{name} trainannot/{name}\n" for name in chosen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
