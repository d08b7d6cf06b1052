"""The formulas of the losses, written out plainly in float64 with loops and whole matrices."""

import math
from itertools import product

import torch
from torch import Tensor

from losses.random_streams import Stream
from utils.seed import hash_uniform


def unit(rows: Tensor) -> Tensor:
    """Rows (..., D) divided by their length; a zero row stays zero (a position whose hidden units are all inactive)."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def kl_rows(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def relation(student, teacher, student_keys, teacher_keys, temperature) -> Tensor:
    return kl_rows(student @ student_keys.T / temperature, teacher @ teacher_keys.T / temperature)


def pixels(maps: Tensor) -> list[Tensor]:
    """(N, C, h, w) -> for every image its pixels (h * w, C) of unit length."""
    return [unit(image.flatten(1).T) for image in maps]


def channels(maps: Tensor) -> list[Tensor]:
    """(N, C, h, w) -> for every image its channels (C, h * w) of unit length."""
    return [unit(image.flatten(1)) for image in maps]


def minibatch(student: list[Tensor], teacher: list[Tensor], pairs, temperature: float) -> Tensor:
    values = [relation(student[i], teacher[i], student[j], teacher[j], temperature).mean() for i, j in pairs]
    return sum(values) / len(values)


def pool(maps: Tensor) -> Tensor:
    """Mean over 4x4 windows, smaller at the border."""
    h, w = maps.shape[2:]
    rows = [[maps[:, :, y : y + 4, x : x + 4].mean(dim=(2, 3)) for x in range(0, w, 4)] for y in range(0, h, 4)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def conv1x1(weight: Tensor, maps: Tensor) -> Tensor:
    return torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], maps)


def batch_norm(maps: Tensor, layer=None) -> Tensor:
    """By the batch's statistics, then, where a layer is given, by its scale and shift."""
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    maps = (maps - mean) / (variance + 1e-5).sqrt()
    return maps if layer is None else maps * layer.weight[:, None, None] + layer.bias[:, None, None]


def projector(module, maps: Tensor) -> Tensor:
    return conv1x1(module[3].weight, batch_norm(conv1x1(module[0].weight, maps)).clamp(min=0))


def context(module, maps: Tensor, pooled: bool = False) -> Tensor:
    """Graph context: attention over all positions, then fusion with the input."""
    q = conv1x1(module.query.weight, maps)
    k, v = (conv1x1(layer.weight, maps) for layer in (module.key, module.value))
    if pooled:
        k, v = pool(k), pool(v)
    inner = q.shape[1]
    attention = (torch.einsum("ncp,nck->npk", q.flatten(2), k.flatten(2)) / math.sqrt(inner)).softmax(-1)
    y = torch.einsum("npk,nck->ncp", attention, v.flatten(2)).reshape(q.shape)
    y = batch_norm(conv1x1(module.expand[0].weight, y)).clamp(min=0)
    return batch_norm(conv1x1(module.fuse[0].weight, torch.cat([maps, y], 1))).clamp(min=0)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned, as two products with interpolation matrices."""

    def matrix(out: int, length: int) -> Tensor:
        weights = torch.zeros(out, length, dtype=maps.dtype)
        for i in range(out):
            place = i * (length - 1) / (out - 1) if out > 1 else 0.0
            low = min(int(place), length - 1)
            weights[i, low] += 1 - (place - low)
            if place > low:
                weights[i, low + 1] += place - low
        return weights

    return matrix(size[0], maps.shape[2]) @ maps @ matrix(size[1], maps.shape[3]).T


def nearest(target: Tensor, size: tuple[int, int]) -> Tensor:
    h, w = size
    rows = [[target[:, y * target.shape[1] // h, x * target.shape[2] // w] for x in range(w)] for y in range(h)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, hard: str | None = None
) -> Tensor:
    """Mean over the pixels that are not ignored; smoothing spreads a share of each label evenly over all classes.

    Args:
        logits: (N, K, h, w).
        target: (N, H, W).
        smoothing: the share.
        weights: of the classes; those of the pixels' labels weight the mean.
        hard: which pixels count: "fraction:F" or "threshold:P".
    """
    logits = resize(logits, tuple(target.shape[1:]))
    weights = torch.ones(logits.shape[1], dtype=logits.dtype) if weights is None else weights
    rows = []  # probability of the label, loss, weight
    for n, y, x in (target != 255).nonzero().tolist():
        label, log_p = target[n, y, x], logits[n, :, y, x].log_softmax(0)
        loss = -(1 - smoothing) * weights[label] * log_p[label] - smoothing * (weights * log_p).mean()
        rows.append((log_p[label].exp().item(), loss, weights[label]))
    if hard is not None:
        kind, number = hard.split(":")
        rows = sorted((row for row in rows if row[2] > 0), key=lambda row: row[0])
        least = round(len(rows) * (float(number) if kind == "fraction" else 1 / 16))
        rows = [
            row for place, row in enumerate(rows) if place < least or kind == "threshold" and row[0] <= float(number)
        ]
    return sum((loss for _, loss, _ in rows), logits.sum() * 0) / max(sum(weight for *_, weight in rows), 1e-9)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean of (2 |P and Y| + 1) / (|P| + |Y| + 1) over the classes that occur."""
    p, valid = resize(logits, tuple(target.shape[1:])).softmax(1), target != 255
    values = []
    for label in range(p.shape[1]):
        predicted, labelled = p[:, label][valid], (target[valid] == label).to(p.dtype)
        if labelled.any():
            values.append((2 * (predicted * labelled).sum() + 1) / (predicted.sum() + labelled.sum() + 1))
    return 1 - sum(values) / len(values)


def conv3x3(layer, maps: Tensor) -> Tensor:
    h, w = maps.shape[2:]
    padded = torch.zeros(*maps.shape[:2], h + 2, w + 2, dtype=maps.dtype)
    padded[:, :, 1:-1, 1:-1] = maps
    taps = product(range(3), range(3))
    total = sum(conv1x1(layer.weight[:, :, y, x, None, None], padded[:, :, y : y + h, x : x + w]) for y, x in taps)
    return total + layer.bias[:, None, None]


def reconstruction(module, student: Tensor, teacher: Tensor, step) -> Tensor:
    """Masked reconstruction by one process: the mask is drawn number by number from the documented keys."""
    maps = student
    if student.shape[1] != teacher.shape[1]:
        maps = conv1x1(module.adapter.weight, maps)
    h, w = teacher.shape[2:]
    maps = resize(maps, (h, w))
    iteration, micro_batch = (step.iteration, step.micro_batch) if step else (0, 0)
    kept = torch.ones(len(maps), 1, h, w, dtype=maps.dtype)
    for b, i in product(range(len(maps)), range(h * w)):
        number = hash_uniform(module.seed, iteration, micro_batch, int(Stream.MASKED_POSITIONS), b, i)
        kept[b, 0, i // w, i % w] = float(number >= module.mask_ratio)
    return conv3x3(module.generator[2], conv3x3(module.generator[0], maps * kept).clamp(min=0))


def patch_contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """AF-DCD's contrast vector by vector: patches of the pooled maps, the positive, the negatives, cross entropy."""
    images, channels, height, width = student.shape
    h, w = -(-height // 4), -(-width // 4)
    groups = min(16, channels)
    size = channels // groups

    def vector(maps, b, y, x, g):
        window = maps[b, g * size : (g + 1) * size, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        return window.flatten(1).max(1).values

    total = 0
    for b, top, left in product(range(images), range(0, h, 4), range(0, w, 4)):
        names = list(product(range(top, min(top + 4, h)), range(left, min(left + 4, w)), range(groups)))
        keys = torch.stack([vector(teacher, b, *name) for name in names])
        for index, name in enumerate(names):
            chosen = [index, *(i for i, other in enumerate(names) if other[2] != name[2])]
            distances = (vector(student, b, *name) - keys[chosen]).abs().sum(1)
            total = total - (-distances / temperature).log_softmax(0)[0]
    return total / (images * h * w)
