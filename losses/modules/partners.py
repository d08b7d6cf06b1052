"""Which images of a batch each image is related to by the mini-batch terms.

`Partners` is the value of the setting: P = P images drawn anew each step, None = the whole batch, "local:N" = the
image's group of N neighbours in the global batch. The published code compares the images of one GPU, so "local:N" with
N images a GPU reproduces it on any number of processes.
"""

from typing import Any

import torch

from utils.seed import hash_bits
from utils.settings import setting

Partners = int | str | None
_LOCAL = "local:"


def parse_partners(text: str) -> Partners:
    """Read "P", "all" or "local:N".

    Raises:
        ValueError: anything else.
    """
    return check_partners(None if text == "all" else int(text) if text.isdecimal() else text)


def check_partners(partners: Partners) -> Partners:
    """Return a valid value; raise ValueError for other texts and numbers below 1."""
    number = partners
    if isinstance(partners, str):
        number = int(digits) if partners.startswith(_LOCAL) and (digits := partners[len(_LOCAL) :]).isdecimal() else 0
    if number is not None and number < 1:
        raise ValueError(
            f"minibatch_partners is {partners!r}; expected a number of images of at least 1, all (None in a config) "
            "for the whole batch, or local:N for groups of N neighbours, N at least 1"
        )
    return partners


def partners_setting() -> Any:
    """The setting of the partners in a method's config."""
    return setting(
        2,
        "images that each image of the batch is related to: P drawn anew each step, all, or the N of its group of "
        "neighbours, which is what the published code does with N images a GPU",
        parse=parse_partners,
        convert=check_partners,
        options={"metavar": "P|all|local:N"},
    )


def check_groups(partners: Partners, batch_size: int, accumulation_steps: int) -> None:
    """Refuse groups that the batch does not divide into.

    Args:
        partners: of the run.
        batch_size: images of a step over all processes.
        accumulation_steps: micro-batches of a step; a group does not span two of them.

    Raises:
        ValueError: names the sizes that fit.
    """
    group = group_size(partners)
    if group is None or batch_size % accumulation_steps:  # uneven micro-batches are refused elsewhere
        return
    if batch_size % (accumulation_steps * group) == 0:
        return
    part = batch_size // accumulation_steps
    fitting = [str(size) for size in range(1, part + 1) if part % size == 0]
    raise ValueError(
        f"--minibatch-partners {partners}: groups of {group} images do not divide a batch of {batch_size}"
        + (f" in {accumulation_steps} parts of {part}" if accumulation_steps > 1 else "")
        + f"; expected local:N with N one of {', '.join(fitting)}"
    )


def group_size(partners: Partners) -> int | None:
    """N of "local:N", None for the other forms."""
    return int(partners[len(_LOCAL) :]) if isinstance(partners, str) else None


def choose_partners(batch: int, partners: Partners, *rng_key: int) -> list[list[int]]:
    """For every image of a batch the images that it is compared with.

    P images are drawn uniformly from all, the image itself included, without repetition, so the mean over these pairs
    is an unbiased estimate of the mean over all. Computed on the host from the key, equally in every process.

    Args:
        batch: number of images of the global batch.
        partners: as above; P of `batch` or more is all.
        rng_key: seed, iteration, micro-batch and stream, as from `rng_key`.

    Raises:
        ValueError: groups that the batch does not divide into.
    """
    check_groups(partners, batch, 1)
    group = group_size(partners)
    if group is not None:
        return [list(range(image - image % group, image - image % group + group)) for image in range(batch)]
    if partners is None or partners >= batch:
        return [list(range(batch)) for _ in range(batch)]
    images = torch.arange(batch)
    order = hash_bits(*rng_key, images[:, None], images).argsort(dim=1, stable=True)
    return order[:, :partners].tolist()
