"""Distillation between every two kinds of network: all terms of CIRKDV2, one step, and the checkpoint it leaves."""

import math
from typing import NamedTuple

import pytest
import torch

from models import build_model
from models.weights import load_weights
from tests.conftest import metric_lines
from utils.checkpoint import load_file

TERMS = "task kd fitnet minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel channel_kd".split()
NUM_CLASSES = 3


class Pair(NamedTuple):
    """(model, backbone) of teacher and student."""

    teacher: tuple[str, str]
    student: tuple[str, str]


RESNET = ("deeplabv3", "resnet18")
PAIRS = {
    # any network of timm as a student, under each head
    "timm resnet": Pair(RESNET, ("deeplabv3", "timm:resnet50d")),
    "timm mobile": Pair(RESNET, ("psp", "timm:mobilenetv4_conv_small")),
    "timm convnext": Pair(RESNET, ("upernet_lite", "timm:convnext_tiny")),
    "timm transformer": Pair(RESNET, ("segformer", "timm:pvt_v2_b0")),
    "timm windows": Pair(RESNET, ("deeplabv3", "timm:swinv2_tiny_window8_256")),
    # and as a teacher
    "timm teacher": Pair(("deeplabv3", "timm:resnet50d"), ("psp_mobile", "mobilenetv3_small")),
    "timm transformer teacher": Pair(("segformer", "timm:pvt_v2_b0"), ("psp_mobile", "mobilenetv2")),
    # across convolutional networks and transformers, features at stride 8 and 4 either way
    "transformer learns from CNN": Pair(RESNET, ("segformer", "MiT_B0")),
    "CNN learns from transformer": Pair(("segformer", "MiT_B0"), ("psp_mobile", "mobilenetv3_small")),
    "stride 16 learns from stride 4": Pair(("segformer", "MiT_B0"), ("upernet_lite", "resnet18")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_distils_with_all_terms(name, run_main, distillation, tmp_path):
    pair = PAIRS[name]
    torch.manual_seed(0)
    teacher_file = tmp_path / "teacher.pth"
    torch.save(build_model(*pair.teacher, NUM_CLASSES).state_dict(), teacher_file)
    words = ["--teacher-model", pair.teacher[0], "--teacher-backbone", pair.teacher[1]]
    words += ["--teacher-pretrained", teacher_file]
    words += ["--student-model", pair.student[0], "--student-backbone", pair.student[1]]
    words += ["--context", "--crop-size", 64, 64, "--batch-size", 2, "--max-iterations", 2, "--skip-val"]
    run_main("train_cirkdv2", *distillation, *words)

    lines = [line for line in metric_lines(tmp_path / "run") if "loss" in line]
    assert [line["iteration"] for line in lines] == [1, 2]
    for line in lines:
        assert all(math.isfinite(line[f"loss_{term}"]) and line[f"loss_{term}"] > 0 for term in TERMS)
        assert line["loss"] == pytest.approx(sum(line[key] for key in line if key.startswith("loss_")), rel=1e-5)

    (checkpoint,) = (path for path in (tmp_path / "run").glob("*.pth") if path.name != "last_state.pth")
    loaded = build_model(*pair.student, NUM_CLASSES)
    assert load_weights(loaded, checkpoint, log=lambda _: None).complete
    saved = load_file(tmp_path / "run/last_state.pth")["network"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
