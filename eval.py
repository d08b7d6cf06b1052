"""Evaluates a network on a split: mIoU, per-class table, confusion matrix; on request pictures or a submission.

    python eval.py --pretrained kd_deeplabv3_resnet18_camvid_best_model.pth --data data/CamVid --split test
    python eval.py --pretrained CHECKPOINT.pth --model deeplabv3 --backbone resnet18 --dataset camvid \
        --data data/CamVid
    python eval.py ... --scales 0.5 1 1.5 --flip-eval --slide-crop 512 512 --slide-stride 256 256 --boundary-iou
    python eval.py ... --dataset citys --split test --submission OUT.zip
    torchrun --nproc-per-node=4 eval.py ...
"""

from contextlib import ExitStack
from dataclasses import replace

from dataset import build_dataset
from dataset.loading.loaders import build_eval_loader
from engine.config.evaluation import EvalConfig
from engine.config.identify import identify_network
from engine.config.legacy_flags import LEGACY_EVALUATION_FLAGS, read_command_line
from engine.evaluation.cityscapes_submission import Submission, check_submission_request
from engine.evaluation.class_names import check_classes
from engine.evaluation.evaluator import evaluate
from engine.evaluation.inference import build_predictor
from engine.evaluation.prediction_writer import PredictionWriter
from engine.evaluation.report import describe_network, prepare_report, write_report
from engine.evaluation.trained_network import load_network
from engine.setup.start import start
from models.weights import read_file
from utils.amp import settle_inference_amp
from utils.cli import run_cli
from utils.distributed import get_rank, get_world_size, is_main_process


def parse(words: list[str] | None = None) -> EvalConfig:
    return read_command_line(EvalConfig, "Evaluate a segmentation network.", words, legacy=LEGACY_EVALUATION_FLAGS)


def main() -> None:
    config = parse()
    device = start(config, config.machine)
    amp = settle_inference_amp(config.machine.amp, device)
    log = print if is_main_process() else lambda _: None
    report, data = config.report, config.data

    # data and network
    network, path, weights = identify_network(
        config.network.pretrained,
        config.network.model,
        config.network.backbone,
        data.dataset,
        allow_partial=report.allow_partial,
        log=log,
    )
    config = replace(
        config,
        network=replace(config.network, pretrained=path, model=network.model, backbone=network.backbone),
        data=replace(data, dataset=network.dataset),
    )
    protocol = config.protocol.for_network(network.model, network.backbone, network.dataset)
    if report.submission is not None:
        check_submission_request(report.submission, network.dataset, data.split)
    dataset = build_dataset(network.dataset, data.data, data.split, list_file=data.list_file, reading=config.reading)
    weights = read_file(weights)
    if not report.allow_partial:
        accept = data.any_classes
        check_classes(weights.classes, dataset.classes, str(path), accept=accept, way_out="--any-classes", log=log)
    model = load_network(
        network, weights, dataset.num_classes, config.machine, device, allow_partial=report.allow_partial, log=log
    )
    loader = build_eval_loader(
        dataset,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=data.workers,
        pin_memory=device.type == "cuda",
    )

    # prediction
    log(f"predicting {len(dataset)} images of {dataset.name} {dataset.split}: {protocol}")
    folder = report.folder(path, network.dataset, data.split)
    prepare_report(folder, report.json)
    with ExitStack() as stack:
        hooks, submission = [], None
        if report.save_pred or report.blend or report.panel:
            hooks.append(PredictionWriter(dataset, folder, report.save_pred, report.blend, report.panel))
            hooks[-1].prepare()
        if report.submission is not None:
            submission = stack.enter_context(Submission(dataset, report.submission, report.any_count))
            hooks.append(submission)
        metrics = evaluate(
            model,
            loader,
            dataset.num_classes,
            device,
            predictor=build_predictor(protocol),
            amp=amp,
            on_prediction=hooks,
            boundary_ratio=report.boundary_ratio if report.boundary_iou else None,
            progress=is_main_process(),
        )
        if submission is not None:
            submission.finish()
            log(f"{len(dataset)} masks of label ids written to {report.submission}")

    # report
    if is_main_process():
        write_report(metrics, dataset, describe_network(model, dataset), config, protocol, folder, log)


if __name__ == "__main__":
    run_cli(main)
