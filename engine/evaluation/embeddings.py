"""Embeddings of pixels by class: sampled from networks, brought to the plane, drawn side by side."""

import csv
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.loading.transforms import normalize
from engine.config.evaluation import EmbeddingsConfig
from engine.config.identify import Identity, identify_network
from engine.evaluation.evaluator import evaluation_mode
from models.weights import StateFile, read_file
from utils.amp import autocast
from utils.types import Batch
from utils.visualize import Color

METHODS = ("tsne", "pca")
PERPLEXITY = 30.0  # of t-SNE, van der Maaten and Hinton (JMLR 2008), where there are points enough
PCA_DIMENSIONS = 50  # that t-SNE starts from
_PANEL_INCHES, _COLUMNS = 5.0, 3


@dataclass(frozen=True)
class PixelSample:
    """Pixels of a network's feature map.

    Attributes:
        vectors: of length 1, float32, (M, C).
        labels: class of each, uint8, (M,), ascending.
    """

    vectors: np.ndarray
    labels: np.ndarray


def identify_networks(config: EmbeddingsConfig, dataset: str | None) -> list[tuple[Identity, Path, StateFile]]:
    """What `identify_network` gives for each file of `config.pretrained`, which is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file's network cannot be inferred, or the networks are for different data sets.
    """
    found = []
    for index, path in enumerate(config.pretrained):
        model, backbone = (None if given is None else given[index] for given in (config.model, config.backbone))
        network, path, weights = identify_network(path, model, backbone, dataset, allow_partial=False)
        found.append((network, path, read_file(weights)))
    datasets = sorted({network.dataset for network, _, _ in found})
    if len(datasets) > 1:
        raise ValueError(f"the networks are for different data sets: {', '.join(datasets)}; expected one for all")
    return found


def titles_of(networks: Sequence[tuple[Identity, Path]]) -> list[str]:
    """Model, backbone and whether distilled, by the file's name; equal ones get the names of their folders."""
    titles = []
    for network, path in networks:
        distilled = " (distilled)" if path.name.startswith("kd_") else ""
        titles.append(f"{network.model}, {network.backbone}{distilled}")
    return [
        f"{title}, {path.absolute().parent.name}" if titles.count(title) > 1 else title
        for title, (_, path) in zip(titles, networks, strict=True)
    ]


def chosen_classes(classes: Sequence[str], only: Sequence[str] | None) -> list[int]:
    """Ids of the classes named in `only`, of all where it is None.

    Raises:
        ValueError: there is no class of such a name.
    """
    unknown = [name for name in only or () if name not in classes]
    if unknown:
        raise ValueError(f"unknown class(es) {', '.join(unknown)}; there are {', '.join(classes)}")
    return [k for k, name in enumerate(classes) if only is None or name in only]


@torch.no_grad()
def sample_pixels(
    network: nn.Module,
    loader: Iterable[Batch],
    classes: Sequence[int],
    device: torch.device,
    *,
    per_class: int,
    seed: int = 0,
    amp: str = "off",
    progress: bool = False,
) -> PixelSample:
    """Draws at most `per_class` pixels of each class, all pixels of a class being as likely.

    Every pixel of the feature map gets a random number, which depends on seed, image and position alone, and the
    smallest numbers of a class are kept. Networks whose feature maps are equally large are sampled at the same places.

    Args:
        network: returns a `SegOutput`, whose `features` are taken.
        loader: batches of one whole image with its labels; a feature has the label at its centre, void is left out.
        classes: ids of the classes to sample.
        device: where to compute.
        per_class: most pixels of a class.
        seed: of the choice.
        amp: "off", "bf16" or "fp16".
        progress: show a bar where stderr is a terminal.

    Raises:
        ValueError: no pixel has one of the classes.
    """
    kept_vectors: list[np.ndarray] = []
    kept_labels, kept_keys = np.empty(0, np.uint8), np.empty(0)
    with evaluation_mode(network):
        for batch in tqdm(loader, unit="image", disable=None if progress else True, dynamic_ncols=True, leave=False):
            images = normalize(batch.images.to(device), batch.valid_size.to(device))
            with autocast(device, amp):
                features = network(images, need_aux=False).features[0].float()  # C, h, w
            labels = labels_at_centres(batch.target[0].numpy(), tuple(features.shape[-2:])).ravel()  # h * w
            keys = np.random.default_rng([seed, int(batch.positions[0])]).random(labels.size)
            places = np.flatnonzero(np.isin(labels, classes))
            places = places[_smallest_of_each(labels[places], keys[places], per_class)]
            kept_vectors.append(_unit_vectors(features, places))
            kept_labels = np.concatenate([kept_labels, labels[places]])
            kept_keys = np.concatenate([kept_keys, keys[places]])
            best = _smallest_of_each(kept_labels, kept_keys, per_class)
            kept_vectors = [np.concatenate(kept_vectors)[best]]
            kept_labels, kept_keys = kept_labels[best], kept_keys[best]
    if not len(kept_labels):
        raise ValueError("no pixel of the images has one of the classes: embeddings are drawn by class and need labels")
    return PixelSample(kept_vectors[0], kept_labels)


def labels_at_centres(target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (H, W) at the centres of the cells of a coarser map of `size` (h, w)."""
    rows, columns = ((2 * np.arange(to) + 1) * have // (2 * to) for to, have in zip(size, target.shape, strict=True))
    return target[rows][:, columns]


def _smallest_of_each(labels: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` smallest keys of each label, ordered by label and key."""
    order = np.lexsort((keys, labels))
    sorted_labels = labels[order]
    first = np.searchsorted(sorted_labels, sorted_labels, side="left")  # where the label's run begins
    return order[np.arange(len(order)) - first < count]


def _unit_vectors(features: Tensor, places: np.ndarray) -> np.ndarray:
    """Features (C, h, w) at flat positions, of length 1: the networks' scales differ, directions are compared."""
    picked = features.flatten(1)[:, torch.from_numpy(places).to(features.device)].T  # M, C
    return nn.functional.normalize(picked, dim=1).cpu().numpy()


def to_plane(vectors: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Brings vectors to two dimensions, the same for the same seed.

    Args:
        vectors: float32, (M, C), M of at least 4.
        method: "tsne", which keeps neighbours together (computed from the first 50 principal components), or "pca".
        seed: of t-SNE.

    Returns:
        float32 (M, 2).

    Raises:
        ValueError: an unknown method, or fewer than four vectors.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected {' or '.join(METHODS)}")
    if len(vectors) < 4:
        raise ValueError(f"{len(vectors)} pixel(s) sampled: expected at least 4 to draw; take more images or pixels")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    dimensions = min(2 if method == "pca" else PCA_DIMENSIONS, *vectors.shape)
    # With its signs fixed and its solver exact, PCA does not depend on chance.
    reduced = PCA(dimensions, svd_solver="full").fit_transform(vectors.astype(np.float64))
    if method == "tsne":
        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        start = "pca" if dimensions >= 2 else "random"
        reduced = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced)
    if reduced.shape[1] < 2:
        reduced = np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
    return reduced.astype(np.float32)


def draw_embeddings(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], palette: Sequence[Color], path: Path
) -> None:
    """Writes one figure: a scatter plot per network and one legend of the classes that occur.

    Args:
        panels: (title, points (M, 2), labels (M,)) of each network.
        classes: names by class id.
        palette: colours by class id; thin dark edges keep light ones visible.
        path: picture to write; its suffix chooses the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    present = np.unique(np.concatenate([labels for _, _, labels in panels])).tolist()
    per_row = max(1, int(columns * _PANEL_INCHES / 1.3))
    legend_inches = 0.22 * -(-len(present) // per_row) + 0.2
    figure = Figure(
        figsize=(columns * _PANEL_INCHES, rows * _PANEL_INCHES + legend_inches), dpi=150, layout="constrained"
    )
    FigureCanvasAgg(figure)  # draws without a display and without pyplot's global state
    colors = np.array(palette) / 255
    for number, (title, points, labels) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        # in a random but fixed order: drawn class by class, the last one would hide the others
        order = np.random.default_rng(0).permutation(len(labels))
        axes.scatter(*points[order].T, s=7, c=colors[labels[order]], edgecolors=(0.2, 0.2, 0.2), linewidths=0.2)
        axes.set_title(textwrap.fill(title, 50), fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
    markers = [
        Line2D(
            [], [], linestyle="", marker="o", markersize=7, color=colors[k], markeredgecolor="0.2", markeredgewidth=0.4
        )
        for k in present
    ]
    columns = min(len(present), per_row)
    figure.legend(
        markers,
        [classes[k] for k in present],
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.2,
    )
    figure.savefig(path)


def write_coordinates(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], folder: Path
) -> None:
    """Writes embeddings.csv (network, class, x, y) and embeddings.npz (titles, classes, points_0, labels_0, ...)."""
    with open(folder / "embeddings.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "class", "x", "y"])
        for title, points, labels in panels:
            writer.writerows(
                [title, classes[k], f"{x:.5g}", f"{y:.5g}"]
                for (x, y), k in zip(points.tolist(), labels.tolist(), strict=True)
            )
    arrays = {f"points_{number}": points for number, (_, points, _) in enumerate(panels)}
    arrays |= {f"labels_{number}": labels for number, (_, _, labels) in enumerate(panels)}
    titles = np.array([title for title, _, _ in panels])
    np.savez_compressed(folder / "embeddings.npz", titles=titles, classes=np.array(classes), **arrays)
