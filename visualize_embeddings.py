"""Draws the embeddings of pixels by class, several networks side by side: a teacher beside its students.

    python visualize_embeddings.py --pretrained deeplabv3_resnet101_camvid.pth \
        kd_psp_mobile_mobilenetv3_small_camvid_best_model.pth --data data/CamVid --split test
    python visualize_embeddings.py --pretrained A.pth B.pth --model deeplabv3 psp_mobile \
        --backbone resnet101 mobilenetv3_small --titles teacher student --dataset camvid --data data/CamVid
"""

from dataset import build_dataset
from dataset.loading.loaders import build_eval_loader
from engine.config.evaluation import VisualizeConfig
from engine.config.legacy_flags import read_command_line
from engine.evaluation.class_names import check_classes
from engine.evaluation.embeddings import (
    chosen_classes,
    draw_embeddings,
    identify_networks,
    sample_pixels,
    titles_of,
    to_plane,
    write_coordinates,
)
from engine.evaluation.trained_network import load_network
from engine.setup.start import start
from utils.amp import settle_inference_amp
from utils.cli import run_cli
from utils.distributed import get_world_size


def parse(words: list[str] | None = None) -> VisualizeConfig:
    return read_command_line(VisualizeConfig, "Draw the embeddings of pixels by class.", words)


def main() -> None:
    config = parse()
    device = start(config, config.machine)
    if get_world_size() > 1:
        raise ValueError("embeddings are drawn by one process: start this without torchrun")
    amp, seed = settle_inference_amp(config.machine.amp, device), config.machine.seed
    wanted, data = config.embeddings, config.data
    found = identify_networks(wanted, data.dataset)
    titles = wanted.titles or titles_of([(network, path) for network, path, _ in found])

    # data
    name = found[0][0].dataset
    dataset = build_dataset(name, data.data, data.split, list_file=data.list_file, reading=config.reading)
    for _, path, weights in found:
        check_classes(weights.classes, dataset.classes, str(path), accept=data.any_classes, way_out="--any-classes")
    chosen = chosen_classes(dataset.classes, wanted.only)
    loader = build_eval_loader(dataset, workers=data.workers, limit=wanted.num_images)
    folder = wanted.save_dir / (wanted.save_dir_name or f"embeddings_{name}_{data.split}")
    folder.mkdir(parents=True, exist_ok=True)

    # embeddings
    panels = []
    for title, (network, _, weights) in zip(titles, found, strict=True):
        sample = sample_pixels(
            load_network(network, weights, dataset.num_classes, config.machine, device),
            loader,
            chosen,
            device,
            per_class=wanted.pixels_per_class,
            seed=seed,
            amp=amp,
            progress=True,
        )
        print(f"{title}: {len(sample.labels)} pixels, embeddings of {sample.vectors.shape[1]} numbers")
        panels.append((title, to_plane(sample.vectors, wanted.method, seed), sample.labels))
    draw_embeddings(panels, dataset.classes, dataset.palette, folder / "embeddings.png")
    write_coordinates(panels, dataset.classes, folder)
    print(f"embeddings.png, embeddings.csv and embeddings.npz written to {folder}")


if __name__ == "__main__":
    run_cli(main)
