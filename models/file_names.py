"""Which network a checkpoint holds, by its file's name.

Released files and our own are named `[kd_]<model>_<backbone>_<data set>[_best_model].pth`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from models import ALIASES, NETWORKS
from models.backbones import BACKBONES, TIMM_PREFIX

SUFFIXES = (".pth", ".pt", ".safetensors")


class FileName(NamedTuple):
    """What a file's name tells: names as the command line takes them, and what follows them ("citys_best_model")."""

    model: str
    backbone: str
    rest: str


def parse_file_name(path: str | Path) -> FileName | None:
    """Read a checkpoint's name, None where it is of another form.

    Where a name gives a teacher and a student (`kd_segformer_MiT_B4_segformer_MiT_B0_citys`), the student, which comes
    last, is the network in the file. Among names that begin alike the longest is taken.
    """
    name = Path(path).name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        return None
    model, backbone = _one_of([*NETWORKS, *ALIASES]), _one_of(BACKBONES)
    match = re.fullmatch(
        rf"(?:kd_(?:{model}_{backbone}_)?)?(?P<model>{model})_"
        rf"(?:timm-(?P<timm>.+)|(?P<backbone>{backbone})(?:_(?P<rest>.*))?)",
        name.removesuffix(suffix),
        re.IGNORECASE,
    )
    if match is None:
        return None
    if match["timm"] is None:
        return FileName(match["model"], match["backbone"], match["rest"] or "")
    found = _split_timm_name(match["timm"])
    return None if found is None else FileName(match["model"], TIMM_PREFIX + found[0], found[1])


def _split_timm_name(text: str) -> tuple[str, str] | None:
    """Split "resnet50d_citys" or "resnet50d.a1_in1k_citys" behind the longest name that timm knows."""
    import timm

    words = text.split("_")
    known = set(timm.list_pretrained()) if "." in text else set()  # those with a tag
    for count in range(len(words), 0, -1):
        name = "_".join(words[:count])
        if name in known or ("." not in name and timm.is_model(name)):
            return name, "_".join(words[count:])
    return None


def _one_of(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
