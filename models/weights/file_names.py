"""The network of a checkpoint by its file's name or its run's arguments, and the checkpoint of a run's folder.

Released files and our own are named `[kd_]<model>_<backbone>_<data set>[_best_model].pth`.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import timm

from models import ALIASES, NETWORKS
from models.backbones import BACKBONES, TIMM_PREFIX
from models.backbones.timm_probe import STRIDE_MARK

SUFFIXES = (".pth", ".pt", ".safetensors")
RUN_SUFFIX = ".pth"  # of what runs write; the others are exports'
STATE_NAME = "last_state.pth"
BEST_SUFFIX = "_best_model"
# Class counts of the data sets with a fixed one; `dataset` has them too, but cannot be imported from here.
CLASS_COUNTS = {"citys": 19, "voc": 21, "camvid": 11, "ade20k": 150, "coco_stuff_164k": 182}


class FileName(NamedTuple):
    """The parts of a file's name: model and backbone as on the command line, and the rest ("citys_best_model")."""

    model: str
    backbone: str
    rest: str

    @property
    def dataset(self) -> str:
        """The rest without the suffix of best checkpoints, in lower case: by convention the data set."""
        return self.rest.removesuffix(BEST_SUFFIX).lower()


def read_arguments_names(arguments: dict[str, Any] | None) -> FileName | None:
    """Return the network named in `StateFile.arguments`, of a distillation the student, in a file name's form.

    Returns:
        The names, with the data set (or "") as the rest; None if there are none.
    """
    if arguments is None:
        return None
    role = "student_" if "student_model" in arguments else ""
    model, backbone, dataset = (arguments.get(name) for name in (f"{role}model", f"{role}backbone", "dataset"))
    if not isinstance(model, str) or not isinstance(backbone, str):
        return None
    return FileName(model, backbone, dataset if isinstance(dataset, str) else "")


def find_checkpoint(path: Path, log: Callable[[str], Any]) -> Path:
    """Return and log the checkpoint of a run's folder: its best one, else its last; a file is returned unchanged.

    A run's own files are preferred to exported ones.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ValueError: it has several that could be meant.
    """
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    files = [file for file in files if file.suffix == RUN_SUFFIX] or files
    best = [file for file in files if file.stem.endswith(BEST_SUFFIX)]
    found = best or [file for file in files if file.name != STATE_NAME] or files
    if not found:
        raise FileNotFoundError(f"{path} is a folder without checkpoints; expected a file, or the folder of a run")
    if len(found) > 1:
        raise ValueError(f"{path} holds several checkpoints, name one: {', '.join(file.name for file in found)}")
    log(f"{path} is a folder: taking {found[0].name}")
    return found[0]


def parse_file_name(path: str | Path) -> FileName | None:
    """Parse a checkpoint's name; None if it has another form.

    If a name has a teacher and a student (`kd_segformer_MiT_B4_segformer_MiT_B0_citys`), the student, which is last, is
    the network in the file. Of names with a common start the longest is taken.
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
    """Split "resnet50d_citys", "resnet50d.a1_in1k_citys" or "resnet50d@16_citys" after the longest name in timm."""
    words = text.split("_")
    known = set(timm.list_pretrained()) if "." in text else set()  # those with a tag
    for count in range(len(words), 0, -1):
        name = "_".join(words[:count])
        network = re.sub(rf"{STRIDE_MARK}\d+$", "", name)
        if network in known or ("." not in network and timm.is_model(network)):
            return name, "_".join(words[count:])
    return None


def _one_of(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
