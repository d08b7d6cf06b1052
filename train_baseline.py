"""Trains one network, a student or a teacher, on labels alone.

python train_baseline.py --model deeplabv3 --backbone resnet18 --dataset camvid --data data/CamVid ...
torchrun --nproc-per-node=4 train_baseline.py ...
"""

import argparse

from engine.agreement import join_processes
from engine.args import Parser, add_model_args, add_training_args, finish_training_args
from engine.cli import run_cli
from engine.data import build_data
from engine.estimate import print_estimate
from engine.fit import build_training_network, check_setup, fit, settle_amp
from engine.released import checkpoint_stem
from engine.run import open_run
from engine.task import SegmentationTask
from utils.seed import seed_everything, set_deterministic


def parse_args() -> argparse.Namespace:
    parser = Parser("Train a segmentation network on labels alone.")
    add_model_args(parser)
    add_training_args(parser)
    return finish_training_args(parser.parse_args())


def main() -> None:
    args = parse_args()
    device = join_processes(args)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    run = open_run(args, checkpoint_stem(args.model, args.backbone, args.dataset))

    # data and network
    data = build_data(args)
    notes: list[str] = []
    network = build_training_network(
        args.model,
        args.backbone,
        data.train.num_classes,
        pretrained_base=args.pretrained_base if run.state is None else None,
        pretrained=args.pretrained if run.state is None else None,
        allow_partial=args.allow_partial,
        log=notes.append,
    )
    check_setup(network, args, device)
    args = settle_amp(args, network, run, device, notes.append)

    task = SegmentationTask(network, args.freeze_bn)
    if args.estimate:
        print_estimate(task, data, args, run, device)
        return

    # training
    logger = run.begin(args)
    for note in notes:
        logger.info(note)
    fit(task, data, args, run, device, logger)
    logger.close()


if __name__ == "__main__":
    run_cli(main, resumable=True)
