"""Draws the embeddings of pixels by class, several networks side by side: a teacher beside its students.

    python visualize_embeddings.py --pretrained deeplabv3_resnet101_camvid.pth \
        kd_psp_mobile_mobilenetv3_small_camvid_best_model.pth --data data/CamVid --split test
    python visualize_embeddings.py --pretrained A.pth B.pth --model deeplabv3 psp_mobile \
        --backbone resnet101 mobilenetv3_small --titles teacher student --dataset camvid --data data/CamVid
"""

import argparse
from pathlib import Path

from dataset import build_dataset
from dataset.loaders import build_eval_loader
from engine.agreement import join_processes
from engine.amp import settle_inference_amp
from engine.args import Parser, add_data_args, add_device_args, default_workers, optional, require, required_path
from engine.cli import run_cli
from engine.embeddings import (
    METHODS,
    chosen_classes,
    draw_embeddings,
    infer_networks,
    sample_pixels,
    titles_of,
    to_plane,
    write_coordinates,
)
from models import build_model, list_models
from models.weights import load_weights
from utils.distributed import get_world_size
from utils.seed import seed_everything, set_deterministic


def parse_args() -> argparse.Namespace:
    parser = Parser("Draw the embeddings of pixels by class.")
    group = parser.add_argument_group("networks")
    group.add_argument("--pretrained", type=required_path, nargs="+", required=True, help="weights or run folders")
    group.add_argument(
        "--model", nargs="+", help=f"one for each: {', '.join(list_models())}; default: as the files tell"
    )
    group.add_argument("--backbone", nargs="+", help="one for each; default: as the files tell")
    group.add_argument("--titles", nargs="+", help="one for each; default: the networks' names")
    group = parser.add_argument_group("embeddings")
    group.add_argument("--split", choices=("val", "test", "train"), default="val")
    group.add_argument("--num-images", type=int, default=50, help="spread evenly over the split")
    group.add_argument("--pixels-per-class", type=int, default=300)
    group.add_argument("--only", nargs="+", metavar="CLASS", help="draw these classes alone")
    group.add_argument("--method", choices=METHODS, default="tsne")
    group.add_argument("--save-dir", type=required_path, default=Path("runs"))
    group.add_argument("--save-dir-name", type=optional, help="default: embeddings_<data set>_<split>")
    add_data_args(parser, train=False)
    add_device_args(parser)
    args = parser.parse_args()
    for name in ("model", "backbone", "titles"):
        given = getattr(args, name)
        fits = given is None or len(given) == len(args.pretrained)
        require(fits, name, given, f"one for each of the {len(args.pretrained)} files of --pretrained")
    require(args.num_images >= 1, "num_images", args.num_images, "a whole number of at least 1")
    require(args.pixels_per_class >= 1, "pixels_per_class", args.pixels_per_class, "a whole number of at least 1")
    return args


def main() -> None:
    args = parse_args()
    device = join_processes(args)
    if get_world_size() > 1:
        raise ValueError("embeddings are drawn by one process: start this without torchrun")
    amp = settle_inference_amp(args.amp, device)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    found = infer_networks(args)
    titles = args.titles or titles_of([told for told, _ in found])

    # data
    name = found[0][0].dataset
    list_file = getattr(args, f"{args.split}_list")
    dataset = build_dataset(name, args.data, args.split, list_file=list_file, ignore_label=args.ignore_label)
    chosen = chosen_classes(dataset.classes, args.only)
    workers = default_workers() if args.workers is None else args.workers
    loader = build_eval_loader(dataset, workers=workers, limit=args.num_images)
    folder = args.save_dir / (args.save_dir_name or f"embeddings_{name}_{args.split}")
    folder.mkdir(parents=True, exist_ok=True)

    # embeddings
    panels = []
    for title, (told, weights) in zip(titles, found, strict=True):
        network = build_model(told.model, told.backbone, dataset.num_classes)
        load_weights(network, weights)
        sample = sample_pixels(
            network.to(device),
            loader,
            chosen,
            device,
            per_class=args.pixels_per_class,
            seed=args.seed,
            amp=amp,
            progress=True,
        )
        print(f"{title}: {len(sample.labels)} pixels, embeddings of {sample.vectors.shape[1]} numbers")
        panels.append((title, to_plane(sample.vectors, args.method, args.seed), sample.labels))
    draw_embeddings(panels, dataset.classes, dataset.palette, folder / "embeddings.png")
    write_coordinates(panels, dataset.classes, folder)
    print(f"embeddings.png, embeddings.csv and embeddings.npz written to {folder}")


if __name__ == "__main__":
    run_cli(main)
