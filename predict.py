"""Predicts images without labels: masks, blends with the image, and panels.

    python predict.py --pretrained kd_deeplabv3_resnet18_camvid_best_model.pth --images FOLDER
    python predict.py --pretrained CHECKPOINT.pth --model deeplabv3 --backbone resnet18 --dataset custom \
        --classes classes.txt --images photo.jpg --blend
    torchrun --nproc-per-node=4 predict.py ...
"""

import argparse
from pathlib import Path

import torch

from dataset import DATASETS
from engine.agreement import join_processes
from engine.amp import settle_inference_amp
from engine.args import Parser, add_device_args, default_workers, optional, optional_path, require, required_path
from engine.cli import run_cli
from engine.evaluate import evaluate
from engine.evaluation_args import add_protocol_args, finish_protocol_args
from engine.images import ImageFiles, ReadableBatches, classes_of_network, refuse_unreadable
from engine.predictions import PredictionWriter
from engine.protocol import default_protocol
from engine.released import infer_evaluation_args, read_name
from engine.replaced_flags import REPLACED_IN_EVALUATION
from models import build_model, list_models, resolve_names
from models.weights import load_weights
from utils.distributed import get_rank, get_world_size, is_main_process
from utils.seed import seed_everything, set_deterministic


def parse_args() -> argparse.Namespace:
    parser = Parser("Predict images without labels.", REPLACED_IN_EVALUATION)
    group = parser.add_argument_group("prediction")
    group.add_argument(
        "--images", type=required_path, required=True, metavar="FOLDER|FILE|LIST.txt",
        help="a folder (with all below it), an image, or a text file with a path a line",
    )  # fmt: skip
    group.add_argument("--pretrained", type=required_path, required=True, help="the network's weights or run folder")
    group.add_argument("--model", help=", ".join(list_models()) + "; default: as the file tells")
    group.add_argument("--backbone", help="default: as the file tells")
    group.add_argument(
        "--dataset", help=f"whose classes it tells apart: {', '.join(DATASETS)}; default: as the file tells"
    )
    group.add_argument("--classes", type=optional_path, metavar="FILE", help='of "name" or "name r g b" lines instead')
    group.add_argument("--mask", action="store_true", help="write the labels as palette PNG")
    group.add_argument("--blend", action="store_true", help="write the images with the prediction over them")
    group.add_argument("--panel", action="store_true", help="write image and prediction side by side, with a legend")
    group.add_argument("--save-dir", type=required_path, default=Path("runs"))
    group.add_argument("--save-dir-name", type=optional, help="default: predict_<checkpoint>")
    group.add_argument("-j", "--workers", type=int, default=None, help="loader processes per process")
    add_protocol_args(parser)
    add_device_args(parser)
    args = parser.parse_args()
    if not (args.mask or args.blend or args.panel):  # nothing asked for: everything
        args.mask = args.blend = args.panel = True
    return args


def main() -> None:
    args = parse_args()
    device = join_processes(args)
    amp = settle_inference_amp(args.amp, device)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    say = print if is_main_process() else lambda _: None
    workers = default_workers() if args.workers is None else args.workers
    require(workers >= 0, "workers", workers, "a whole number of at least 0")

    # network
    given = vars(args) | {"allow_partial": False}
    if args.classes is not None and args.dataset is None and read_name(args.pretrained) is None:
        given["dataset"] = "custom"
    args, weights = infer_evaluation_args(argparse.Namespace(**given), say)
    protocol = finish_protocol_args(args, default_protocol(resolve_names(args.model, args.backbone)[0], args.dataset))
    classes, palette = classes_of_network(args, weights)
    network = build_model(args.model, args.backbone, len(classes))
    load_weights(network, weights, log=say)
    network = network.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)

    # images
    output = args.save_dir / (args.save_dir_name or f"predict_{args.pretrained.stem}")
    images = ImageFiles(args.images, classes, palette, without=output)
    batches = ReadableBatches(
        images, rank=get_rank(), world_size=get_world_size(), workers=workers, pin_memory=device.type == "cuda"
    )
    writer = PredictionWriter(images, output, args.mask, args.blend, args.panel, names=images.names)
    writer.prepare()

    # prediction
    say(f"{len(images)} image(s) of {args.images}: {protocol}")
    evaluate(
        network,
        batches,
        len(classes),
        device,
        predictor=protocol.predictor(),
        amp=amp,
        on_prediction=writer,
        progress=is_main_process(),
    )
    kinds = [kind for kind, wanted in (("masks", args.mask), ("blends", args.blend), ("panels", args.panel)) if wanted]
    say(f"{', '.join(kinds)} written to {output}")
    refuse_unreadable(batches.unreadable, len(images))


if __name__ == "__main__":
    run_cli(main)
