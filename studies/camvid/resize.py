"""Writes CamVid at another size: python -m studies.camvid.resize CAMVID OUT WIDTH HEIGHT.

Images are resampled bilinearly with an area filter, masks by their nearest pixel. What is there already is left.
"""

import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

FILTERS = {"": Image.Resampling.BILINEAR, "annot": Image.Resampling.NEAREST}


def main(source: Path, out: Path, width: int, height: int) -> None:
    for split in ("train", "val", "test"):
        for kind, resampling in FILTERS.items():
            paths = sorted((source / f"{split}{kind}").glob("*.png"))
            if not paths:
                raise SystemExit(f"{source / (split + kind)} holds no .png files; expected CamVid's root folder")
            (out / f"{split}{kind}").mkdir(parents=True, exist_ok=True)
            for path in tqdm(paths, desc=f"{split}{kind}", disable=None):
                target = out / f"{split}{kind}" / path.name
                if not target.exists():
                    unfinished = target.with_suffix(".tmp")
                    Image.open(path).resize((width, height), resampling).save(unfinished, "PNG")
                    unfinished.rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
