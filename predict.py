"""Predicts images without labels, or a video: masks, blends with the image, and panels.

    python predict.py --pretrained kd_deeplabv3_resnet18_camvid_best_model.pth --images FOLDER
    python predict.py --pretrained CHECKPOINT.pth --model deeplabv3 --backbone resnet18 --dataset custom \
        --classes classes.txt --images photo.jpg --blend
    python predict.py --pretrained CHECKPOINT.pth --images clip.mp4
    torchrun --nproc-per-node=4 predict.py ...
"""

from tqdm import tqdm

from engine.config.evaluation import KINDS, PredictConfig
from engine.config.identify import identify_network, read_name
from engine.config.legacy_flags import LEGACY_EVALUATION_FLAGS, read_command_line
from engine.evaluation.class_names import classes_of_network
from engine.evaluation.label_maps import labelling
from engine.evaluation.prediction_writer import PredictionWriter
from engine.evaluation.trained_network import load_network
from engine.evaluation.unlabeled_images import ImageFiles, ReadableBatches, refuse_unreadable
from engine.evaluation.videos import Video, check_request, is_video, predict_video
from engine.setup.start import start
from models.weights import read_file
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

    video = Video(wanted.images) if is_video(wanted.images) else None
    kinds = wanted.kinds(video is not None)
    if video is not None:
        check_request(get_world_size(), config.reading)

    # network
    dataset = wanted.dataset
    if wanted.classes is not None and dataset is None and read_name(given.pretrained) is None:
        dataset = "custom"
    network, path, weights = identify_network(
        given.pretrained, given.model, given.backbone, dataset, allow_partial=False, unnamed="custom", log=log
    )
    weights = read_file(weights)
    protocol = config.protocol_for(network.model, network.backbone, network.dataset)
    classes = classes_of_network(network, weights, wanted.classes, log)
    model = load_network(network, weights, len(classes.names), config.machine, device, log=log)
    output = wanted.save_dir / (wanted.save_dir_name or f"predict_{path.stem}")

    # video
    if video is not None:
        log(f"{video}: {protocol}")
        with labelling(model, protocol, device, amp) as label:
            log(predict_video(label, video, classes.palette, output, kinds, progress=True))
        return

    # images
    images = ImageFiles(wanted.images, classes, config.reading, without=output)
    for line in images.left_out:
        log(f"WARNING: {line}")
    batches = ReadableBatches(
        images,
        rank=get_rank(),
        world_size=get_world_size(),
        workers=wanted.workers,
        pin_memory=device.type == "cuda",
    )
    writer = PredictionWriter(images, output, *(kind in kinds for kind in KINDS), names=images.names)
    writer.prepare()
    log(f"{len(images)} image(s) of {wanted.images}: {protocol}")
    shown = tqdm(batches, unit="image", disable=None if is_main_process() else True, dynamic_ncols=True)
    with labelling(model, protocol, device, amp) as label:
        for batch in shown:
            writer(batch, label(batch.images[0])[None])
    log(f"{', '.join(f'{kind}s' for kind in kinds)} written to {output}")
    refuse_unreadable(batches.unreadable, len(images))


if __name__ == "__main__":
    run_cli(main)
