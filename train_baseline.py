"""Trains one network, a student or a teacher, on labels alone.

python train_baseline.py --model deeplabv3 --backbone resnet18 --dataset camvid --data data/CamVid ...
torchrun --nproc-per-node=4 train_baseline.py ...
"""

from engine.config.identify import checkpoint_stem
from engine.config.legacy_flags import read_command_line
from engine.config.schema import BaselineConfig
from engine.setup.class_weights import build_class_weights
from engine.setup.data import build_data
from engine.setup.dry_run import print_estimate
from engine.setup.fit import fit
from engine.setup.networks import build_training_network, check_setup, settle_amp
from engine.setup.start import open_run, start
from engine.setup.tasks import SegmentationTask
from utils.cli import run_cli


def parse(words: list[str] | None = None) -> BaselineConfig:
    description = "Train a segmentation network on labels alone."
    return read_command_line(BaselineConfig, description, words)


def main() -> None:
    config = parse()
    device = start(config, config.machine)
    run = open_run(config, checkpoint_stem(config.network.model, config.network.backbone, config.data.dataset))

    # data and network
    data = build_data(config, run, validate=not config.run.skip_val)
    notes: list[str] = []
    network = build_training_network(config.network, data.train.num_classes, run, notes.append)
    check_setup(network, config, device)
    config = settle_amp(config, network, run, device, notes.append)

    class_weights = build_class_weights(config.loss, data, run, notes.append)
    task = SegmentationTask(network, config.optim, config.loss, class_weights)
    if config.run.estimate:
        print_estimate(task, data, config, run, device)
    else:
        fit(task, data, config, run, device, notes)


if __name__ == "__main__":
    run_cli(main, resumable=True)
