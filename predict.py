"""Predicts images without labels: masks, blends with the image, and panels.

    python predict.py --pretrained kd_deeplabv3_resnet18_camvid_best_model.pth --images FOLDER
    python predict.py --pretrained CHECKPOINT.pth --model deeplabv3 --backbone resnet18 --dataset custom \
        --classes classes.txt --images photo.jpg --blend
    torchrun --nproc-per-node=4 predict.py ...
"""

from engine.config.evaluation import PredictConfig
from engine.config.identify import identify_network, read_name
from engine.config.legacy_flags import LEGACY_EVALUATION_FLAGS, read_command_line
from engine.evaluation.evaluator import evaluate
from engine.evaluation.inference import build_predictor
from engine.evaluation.prediction_writer import PredictionWriter
from engine.evaluation.trained_network import load_network
from engine.evaluation.unlabeled_images import ImageFiles, ReadableBatches, classes_of_network, refuse_unreadable
from engine.setup.start import start
from utils.amp import settle_inference_amp
from utils.cli import run_cli
from utils.distributed import get_rank, get_world_size, is_main_process


def parse(words: list[str] | None = None) -> PredictConfig:
    return read_command_line(PredictConfig, "Predict images without labels.", words, legacy=LEGACY_EVALUATION_FLAGS)


def main() -> None:
    config = parse()
    device = start(config, config.machine)
    amp = settle_inference_amp(config.machine.amp, device)
    log = print if is_main_process() else lambda _: None
    given, wanted = config.network, config.prediction

    # network
    dataset = wanted.dataset
    if wanted.classes is not None and dataset is None and read_name(given.pretrained) is None:
        dataset = "custom"
    network, path, weights = identify_network(
        given.pretrained, given.model, given.backbone, dataset, allow_partial=False, log=log
    )
    protocol = config.protocol.for_network(network.model, network.backbone, network.dataset)
    classes, palette = classes_of_network(network, weights, wanted.classes)
    model = load_network(network, weights, len(classes), config.machine, device, log=log)

    # images
    output = wanted.save_dir / (wanted.save_dir_name or f"predict_{path.stem}")
    images = ImageFiles(wanted.images, classes, palette, config.reading, without=output)
    batches = ReadableBatches(
        images,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=wanted.workers,
        pin_memory=device.type == "cuda",
    )
    writer = PredictionWriter(images, output, wanted.mask, wanted.blend, wanted.panel, names=images.names)
    writer.prepare()

    # prediction
    log(f"{len(images)} image(s) of {wanted.images}: {protocol}")
    evaluate(
        model,
        batches,
        len(classes),
        device,
        predictor=build_predictor(protocol),
        amp=amp,
        on_prediction=writer,
        progress=is_main_process(),
    )
    kinds = [f"{kind}s" for kind in ("mask", "blend", "panel") if getattr(wanted, kind)]
    log(f"{', '.join(kinds)} written to {output}")
    refuse_unreadable(batches.unreadable, len(images))


if __name__ == "__main__":
    run_cli(main)
