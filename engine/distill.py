"""A distillation run, whatever the method."""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from dataset.loaders import build_eval_loader
from engine.agreement import join_processes
from engine.amp import teacher_amp
from engine.compiling import uncompiled
from engine.data import Data, build_data
from engine.estimate import print_estimate
from engine.evaluate import TEACHER_CHECK_IMAGES, check_teacher
from engine.fit import build_training_network, check_setup, fit, settle_amp
from engine.released import checkpoint_stem, infer_teacher_args
from engine.run import open_run
from engine.task import DistillationTask
from engine.teacher import prepare_teacher
from losses.base import Distiller
from models import build_model
from models.weights import is_backbone_file, load_weights, read_file
from utils.complexity import feature_shapes
from utils.distributed import get_rank, get_world_size
from utils.seed import seed_everything, set_deterministic

Shape = tuple[int, int, int]


def distil(
    args: argparse.Namespace, build: Callable[[argparse.Namespace, Shape, Shape, int], Distiller], run_name: str = ""
) -> None:
    """A whole distillation run: data, teacher and student, losses, the teacher's check, training.

    Args:
        args: of an entry point that distils.
        build: (arguments as far as they are settled then, student's features, teacher's features, number of classes)
            -> the losses; features as (C, h, w).
        run_name: name of the run's folder where `--save-dir-name` gives none; the checkpoint's name by default.

    Raises:
        ValueError, FileNotFoundError: whatever is wrong with the arguments, the files or the data, before a step.
    """
    device = join_processes(args)
    set_deterministic(args.deterministic)
    seed_everything(args.seed)
    notes: list[str] = []
    args = infer_teacher_args(args, notes.append)
    if args.save_dir_name is None and run_name:
        args = argparse.Namespace(**vars(args) | {"save_dir_name": run_name})
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
    args = settle_amp(args, student, run, device, notes.append)

    # losses; the banks are built before processes are seeded differently
    shapes = [feature_shapes(network, *args.crop_size)["features"] for network in (student, teacher)]
    teacher = prepare_teacher(
        teacher,
        device=device,
        fold=not args.no_fold_teacher,
        amp=teacher_amp(args.teacher_dtype, args.amp),
        channels_last=args.channels_last,
        compiled=args.compile,
        log=notes.append,
    )
    task = DistillationTask(student, teacher, build(args, *shapes, num_classes), args.freeze_bn)

    if args.estimate:
        print_estimate(task, data, args, run, device)
        return

    # teacher's check, training
    if run.state is None and not args.skip_teacher_check:
        notes.append(check_teacher_on(data, teacher, args, device))
    logger = run.begin(args)
    for note in notes:
        logger.info(note)
    fit(task, data, args, run, device, logger)
    logger.close()


def build_teacher(args: argparse.Namespace, num_classes: int, log: Callable[[str], None]) -> nn.Module:
    """The trained teacher; its whole network has to be in the file.

    Raises:
        ValueError: the file is a backbone's, of another class count or network, or incomplete.
    """
    teacher = build_model(args.teacher_model, args.teacher_backbone, num_classes)
    file = read_file(args.teacher_pretrained)
    if is_backbone_file(file.state, teacher):
        raise ValueError(
            f"--teacher-pretrained {args.teacher_pretrained}: expected the weights of a trained {args.teacher_model}, "
            "got those of a backbone alone, whose head would be random. Train a teacher with train_baseline.py first."
        )
    load_weights(teacher, file, log=log)
    return teacher


def check_teacher_on(data: Data, teacher: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    """Refuses a teacher near chance on the first validation images; returns what to log.

    Raises:
        ValueError: see `check_teacher`.
    """
    loader = build_eval_loader(
        data.val, rank=get_rank(), world_size=get_world_size(), workers=0, limit=TEACHER_CHECK_IMAGES
    )
    with uncompiled():
        metrics = check_teacher(teacher, loader, data.val.num_classes, device, args.amp)
    images = min(TEACHER_CHECK_IMAGES, len(data.val))
    return (
        f"teacher: mIoU {metrics.miou:.2%}, pixel accuracy {metrics.pixel_accuracy:.2%} on {images} validation images"
    )
