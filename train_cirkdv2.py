"""Distils a trained teacher into a student with CIRKDV2.

    python train_cirkdv2.py --teacher-pretrained deeplabv3_resnet101_camvid_best_model.pth \
        --student-model deeplabv3 --student-backbone resnet18 --dataset camvid --data data/CamVid ...
    torchrun --nproc-per-node=8 train_cirkdv2.py ...
"""

import argparse

from engine.args import Parser, add_distillation_args, add_training_args, finish_training_args
from engine.cli import run_cli
from engine.distill import add_cirkdv2_args, build_teacher, check_teacher_on, cirkdv2_config
from engine.fit import build_data, build_training_network, check_setup, fit
from engine.released import checkpoint_stem, infer_teacher_args
from engine.run import open_run
from engine.task import DistillationTask
from losses import build_distiller
from utils.complexity import feature_shapes
from utils.distributed import setup_distributed
from utils.seed import seed_everything, set_deterministic


def parse_args() -> argparse.Namespace:
    parser = Parser("Distil a teacher into a student with CIRKDV2.")
    add_distillation_args(parser)
    add_cirkdv2_args(parser)
    add_training_args(parser)
    return finish_training_args(parser.parse_args())


def main() -> None:
    args = parse_args()
    config = cirkdv2_config(args)
    device = setup_distributed(args.device)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    notes: list[str] = []
    args = infer_teacher_args(args, notes.append)
    stem = checkpoint_stem(args.student_model, args.student_backbone, args.dataset, distilled=True)
    run = open_run(args, stem)

    # data, teacher, student
    data = build_data(args)
    num_classes = data.train.num_classes
    teacher = build_teacher(args, num_classes, log=notes.append)
    student = build_training_network(
        args.student_model,
        args.student_backbone,
        num_classes,
        pretrained_base=args.student_pretrained_base if run.state is None else None,
        pretrained=args.student_pretrained if run.state is None else None,
        allow_partial=args.allow_partial,
        log=notes.append,
    )
    check_setup(student, args, device)

    # losses; the banks are built before processes are seeded differently
    shapes = [feature_shapes(network, *args.crop_size)["features"] for network in (student, teacher)]
    distiller = build_distiller("cirkdv2", *shapes, num_classes, config)
    task = DistillationTask(student, teacher, distiller, args.freeze_bn)

    # teacher's check, training
    teacher.to(device)
    if run.state is None and not args.skip_teacher_check:
        notes.append(check_teacher_on(data, teacher, args, device))
    logger = run.begin(args)
    for note in notes:
        logger.info(note)
    fit(task, data, args, run, device, logger)
    logger.close()


if __name__ == "__main__":
    run_cli(main)
