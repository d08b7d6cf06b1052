"""The settings of images without labels, from which a student learns by its teacher alone."""

from dataclasses import dataclass
from pathlib import Path

from utils.settings import SHARE, Settings, setting

PROBABILITY = (lambda v: 0 <= v <= 1, "a number from 0 to 1")


@dataclass(frozen=True)
class UnlabelledConfig(Settings):
    """Training images without masks: those of the list that have none, and further ones."""

    unlabelled: Path | None = setting(
        None, "further images without masks: a folder (with all below it) or a list", per_host=True,
        options={"metavar": "FOLDER|LIST"},
    )  # fmt: skip
    unlabelled_fraction: float | None = setting(
        None, "share of each batch without masks; default: as many as there are among the training images", check=SHARE
    )
    pseudo_threshold: float = setting(
        0.9, "without masks, terms that need classes take the teacher's where its probability is at least this",
        check=PROBABILITY,
    )  # fmt: skip
    pseudo_labels: bool = setting(False, "the task's loss takes those classes too")
