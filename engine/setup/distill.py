"""A distillation run, whatever the method."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from dataset.loading.loaders import build_eval_loader
from engine.config.identify import checkpoint_stem, infer_teacher
from engine.config.schema import DistillationConfig, DistillConfig
from engine.evaluation.evaluator import TEACHER_CHECK_IMAGES, check_teacher
from engine.run.directory import open_run
from engine.setup.data import Data, build_data
from engine.setup.dry_run import print_estimate
from engine.setup.fit import fit
from engine.setup.networks import build_training_network, check_setup, settle_amp
from engine.setup.start import start
from engine.setup.tasks import DistillationTask
from engine.setup.teacher import prepare_teacher
from losses.base import Distiller, Shape
from models import build_model
from models.weights import is_backbone_file, load_weights, read_file
from utils.amp import teacher_amp
from utils.compiling import uncompiled
from utils.complexity import feature_shapes
from utils.distributed import get_rank, get_world_size


def distil(config: DistillConfig, build: Callable[[Shape, Shape, int], Distiller], run_name: str = "") -> None:
    """A whole distillation run: data, teacher and student, losses, the teacher's check, training.

    Args:
        config: of the run.
        build: (student's features, teacher's features, number of classes) -> the losses; features as (C, h, w).
        run_name: name of the run's folder where `--save-dir-name` gives none; the checkpoint's name by default.
    """
    device = start(config, config.machine)
    notes: list[str] = []
    networks = infer_teacher(config.networks, config.data.dataset, notes.append)
    config = replace(config, networks=networks)
    if config.run.save_dir_name is None and run_name:
        config = replace(config, run=replace(config.run, save_dir_name=run_name))
    stem = checkpoint_stem(networks.student_model, networks.student_backbone, config.data.dataset, distilled=True)
    run = open_run(config, stem)

    # data, teacher, student
    data = build_data(config.data, validate=not (config.run.skip_val and networks.skip_teacher_check))
    num_classes = data.train.num_classes
    teacher = build_teacher(networks, num_classes, log=notes.append)
    student = build_training_network(
        networks.student_model,
        networks.student_backbone,
        num_classes,
        pretrained_base=networks.student_pretrained_base if run.state is None else None,
        pretrained=networks.student_pretrained if run.state is None else None,
        allow_partial=networks.allow_partial,
        log=notes.append,
    )
    check_setup(student, config, device)
    config = settle_amp(config, student, run, device, notes.append)

    # losses; the banks are built before processes are seeded differently
    shapes = [feature_shapes(network, *config.optim.crop_size)["features"] for network in (student, teacher)]
    teacher = prepare_teacher(
        teacher,
        device=device,
        fold=not networks.no_fold_teacher,
        amp=teacher_amp(networks.teacher_dtype, config.machine.amp),
        channels_last=config.machine.channels_last,
        compiled=config.run.compile,
        log=notes.append,
    )
    task = DistillationTask(student, teacher, build(*shapes, num_classes), config.optim)

    if config.run.estimate:
        print_estimate(task, data, config, run, device)
        return

    # teacher's check, training
    if run.state is None and not networks.skip_teacher_check:
        notes.append(check_teacher_on(data, teacher, config.machine.amp, device))
    logger = run.begin(config)
    for note in notes:
        logger.info(note)
    fit(task, data, config, run, device, logger)
    logger.close()


def build_teacher(networks: DistillationConfig, num_classes: int, log: Callable[[str], None]) -> nn.Module:
    """The trained teacher; its whole network has to be in the file.

    Raises:
        ValueError: the file is a backbone's, of another class count or network, or incomplete.
    """
    teacher = build_model(networks.teacher_model, networks.teacher_backbone, num_classes)
    file = read_file(networks.teacher_pretrained)
    if is_backbone_file(file.state, teacher):
        raise ValueError(
            f"--teacher-pretrained {networks.teacher_pretrained}: expected the weights of a trained "
            f"{networks.teacher_model}, got those of a backbone alone, whose head would be random. Train a teacher "
            "with train_baseline.py first."
        )
    load_weights(teacher, file, log=log)
    return teacher


def check_teacher_on(data: Data, teacher: nn.Module, amp: str, device: torch.device) -> str:
    """Refuses a teacher near chance on the first validation images; returns what to log.

    Raises:
        ValueError: see `check_teacher`.
    """
    images = min(TEACHER_CHECK_IMAGES, len(data.val))
    loader = build_eval_loader(
        data.val, rank=get_rank(), world_size=get_world_size(), workers=0, limit=TEACHER_CHECK_IMAGES
    )
    with uncompiled():
        metrics = check_teacher(teacher, loader, data.val.num_classes, device, amp, images=images)
    return (
        f"teacher: mIoU {metrics.miou:.2%}, pixel accuracy {metrics.pixel_accuracy:.2%} on {images} validation images"
    )
