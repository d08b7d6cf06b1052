"""A distillation run, whatever the method."""

from collections.abc import Callable
from dataclasses import replace

from engine.config.identify import checkpoint_stem, infer_teacher
from engine.config.schema import DistillConfig
from engine.setup.class_weights import build_class_weights
from engine.setup.data import build_data, check_unlabelled
from engine.setup.dry_run import print_estimate
from engine.setup.fit import fit
from engine.setup.networks import build_training_network, check_setup, settle_amp
from engine.setup.start import open_run, start
from engine.setup.tasks import DistillationTask
from engine.setup.teacher import build_teacher, check_teacher_on, prepare_teacher
from losses.balance import Balance, targets
from losses.base import Distiller
from utils.amp import teacher_amp
from utils.complexity import distilled_shapes


def distil(config: DistillConfig, build: Callable[..., Distiller], run_name: str = "") -> None:
    """A whole distillation run: data, teacher and student, losses, the teacher's check, training.

    Args:
        config: of the run.
        build: makes the losses; takes num_classes and what `distilled_shapes` gives.
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
    data = build_data(config, run, validate=not (config.run.skip_val and networks.skip_teacher_check))
    check_unlabelled(data, config)
    num_classes = data.train.num_classes
    teacher = build_teacher(networks, data.train.classes, log=notes.append)
    student = build_training_network(config.trained, num_classes, run, notes.append)
    check_setup(student, config, device)
    config = settle_amp(config, student, run, device, notes.append)

    # losses; the banks are built before processes are seeded differently
    shapes = distilled_shapes(student, teacher, *config.optim.crop_size)
    teacher = prepare_teacher(
        teacher,
        device=device,
        fold=not networks.no_fold_teacher,
        amp=teacher_amp(networks.teacher_dtype, config.machine.amp),
        channels_last=config.machine.channels_last,
        compiled=config.run.compile,
        log=notes.append,
    )
    distiller = build(num_classes=num_classes, **shapes)
    balance = None
    if networks.balance:
        methods, warmup = config.distilled
        balance = Balance(targets(methods), warmup)
    class_weights = build_class_weights(config.loss, data, run, notes.append)
    unlabelled = config.unlabelled if data.train.num_unlabelled else None
    task = DistillationTask(student, teacher, distiller, config.optim, balance, config.loss, class_weights, unlabelled)

    if config.run.estimate:
        print_estimate(task, data, config, run, device)
        return

    # teacher's check, training
    if run.state is None and networks.skip_teacher_check:
        notes.append("teacher: not checked on validation images (--skip-teacher-check)")
    elif run.state is None:
        notes.append(check_teacher_on(data, teacher, config.machine.amp, device))
    fit(task, data, config, run, device, notes)
