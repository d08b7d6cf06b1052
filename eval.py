"""Evaluates a network on a split: mIoU, per-class table, confusion matrix; on request pictures or a submission.

    python eval.py --pretrained kd_deeplabv3_resnet18_camvid_best_model.pth --data data/CamVid --split test
    python eval.py --pretrained CHECKPOINT.pth --model deeplabv3 --backbone resnet18 --dataset camvid \
        --data data/CamVid
    python eval.py ... --scales 0.5 1 1.5 --flip-eval --slide-crop 512 512 --slide-stride 256 256 --boundary-iou
    python eval.py ... --dataset citys --split test --submission OUT.zip
    torchrun --nproc-per-node=4 eval.py ...
"""

import argparse
from contextlib import ExitStack

import torch

from dataset import build_dataset
from dataset.loaders import build_eval_loader
from engine.agreement import join_processes
from engine.amp import settle_inference_amp
from engine.args import Parser, add_data_args, add_device_args
from engine.cli import run_cli
from engine.evaluate import evaluate
from engine.evaluation_args import add_evaluation_args, finish_evaluation_args
from engine.predictions import PredictionWriter
from engine.released import infer_evaluation_args
from engine.replaced_flags import REPLACED_IN_EVALUATION
from engine.report import describe_network, prepare_report, write_report
from engine.submission import Submission
from models import build_model
from models.weights import load_weights
from utils.distributed import get_rank, get_world_size, is_main_process
from utils.seed import seed_everything, set_deterministic


def parse_args() -> argparse.Namespace:
    parser = Parser("Evaluate a segmentation network.", REPLACED_IN_EVALUATION)
    add_evaluation_args(parser)
    add_data_args(parser, train=False)
    add_device_args(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = join_processes(args)
    amp = settle_inference_amp(args.amp, device)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    say = print if is_main_process() else lambda _: None
    args, weights = infer_evaluation_args(args, say)
    args = finish_evaluation_args(args)

    # data and network
    dataset = build_dataset(
        args.dataset,
        args.data,
        args.split,
        list_file=getattr(args, f"{args.split}_list"),
        ignore_label=args.ignore_label,
    )
    network = build_model(args.model, args.backbone, dataset.num_classes)
    load_weights(network, weights, allow_partial=args.allow_partial, log=say)
    network = network.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    loader = build_eval_loader(
        dataset, rank=get_rank(), world_size=get_world_size(), workers=args.workers, pin_memory=device.type == "cuda"
    )

    # prediction
    say(f"predicting {len(dataset)} images of {dataset.name} {dataset.split}: {args.protocol}")
    prepare_report(args)
    with ExitStack() as stack:
        hooks, submission = [], None
        if args.save_pred or args.blend or args.panel:
            hooks.append(PredictionWriter(dataset, args.output, args.save_pred, args.blend, args.panel))
            hooks[-1].prepare()
        if args.submission is not None:
            submission = stack.enter_context(Submission(dataset, args.submission, args.any_count))
            hooks.append(submission)
        metrics = evaluate(
            network,
            loader,
            dataset.num_classes,
            device,
            predictor=args.protocol.predictor(),
            amp=amp,
            on_prediction=hooks,
            boundary_ratio=args.boundary_ratio if args.boundary_iou else None,
            progress=is_main_process(),
        )
        if submission is not None:
            submission.finish()
            say(f"{len(dataset)} masks of label ids written to {args.submission}")

    # report
    if is_main_process():
        write_report(metrics, dataset, describe_network(network, dataset), args, say)


if __name__ == "__main__":
    run_cli(main)
