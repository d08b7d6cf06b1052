"""The frozen teacher: its network by name or content, folded, in half precision, channels_last."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.config.identify import checkpoint_stem, infer_teacher
from engine.config.networks import DistillationConfig
from engine.setup.fit import fit
from engine.setup.teacher import prepare_teacher
from models import build_model
from tests.conftest import STUDENT, TEACHER, metric_lines
from tests.models.test_fold import randomize_norms
from utils.amp import teacher_amp

CPU = torch.device("cpu")
# Largest difference of a bfloat16 teacher's logits and features, relative to their norm.
HALF_TOLERANCE = 0.03


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomize_norms(build_model(*STUDENT, 4))


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_half_precision_teacher_stays_within_its_tolerance(network, fold, channels_last):
    images = 60 * torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        wanted = network(images, need_aux=False)
        teacher = prepare_teacher(
            copy.deepcopy(network), device=CPU, fold=fold, amp="bf16", channels_last=channels_last
        )
        got = teacher(images)
        with torch.autocast("cpu", torch.bfloat16):
            inside = teacher(images)
    assert got.logits.dtype == torch.float32 and inside.logits.dtype == torch.bfloat16
    for a, b in ((got.logits, wanted.logits), (got.features, wanted.features)):
        assert 0 < (a - b).norm() <= HALF_TOLERANCE * b.norm()


def test_weights_kept_in_half_precision_change_nothing_beside_autocast(network):
    images = 60 * torch.randn(2, 3, 40, 56)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = network(images, need_aux=False)
        teacher = prepare_teacher(copy.deepcopy(network), device=CPU, fold=False, amp="bf16")
        got = teacher(images)
    assert next(teacher.network.backbone.layer0.conv.parameters()).dtype == torch.bfloat16
    assert torch.equal(got.logits, wanted.logits) and torch.equal(got.features, wanted.features)


def test_a_float32_teacher_of_a_half_precision_student_is_not_rounded(network):
    images = 60 * torch.randn(2, 3, 40, 56)
    teacher = prepare_teacher(network, device=CPU)
    with torch.no_grad():
        wanted = teacher(images)
        with torch.autocast("cpu", torch.bfloat16):
            got = teacher(images)
    assert torch.equal(got.logits, wanted.logits)


def test_the_auxiliary_head_and_drop_are_off():
    torch.manual_seed(0)
    teacher = prepare_teacher(build_model("psp", "resnet18", 4).train(), device=CPU)
    called = []
    teacher.network.auxlayer.register_forward_hook(lambda *_: called.append(1))
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        first, second = teacher(images), teacher(images)
    assert torch.equal(first.logits, second.logits) and first.aux_logits is None and not called
    assert not any(p.requires_grad for p in teacher.parameters())


def test_what_the_flags_mean():
    assert [teacher_amp(None, amp) for amp in ("off", "bf16", "fp16")] == ["off", "bf16", "fp16"]
    assert teacher_amp("float32", "bf16") == "off" and teacher_amp("bfloat16", "off") == "bf16"


@pytest.mark.parametrize(
    "flags",
    [
        ["--teacher-dtype", "bfloat16"],
        ["--amp", "bf16", "--channels-last", "--teacher-dtype", "float32"],
        ["--no-fold-teacher", "--grad-checkpointing", "--teacher-dtype", "auto"],
    ],
)
def test_a_run_with_it_trains(run_main, distillation, tmp_path, monkeypatch, flags):
    seen = {}

    def spy(task, *args, **kwargs):
        seen["task"] = task
        return fit(task, *args, **kwargs)

    monkeypatch.setattr("engine.setup.distill.fit", spy)
    run_main("train_cirkdv2", *distillation, *flags, "--skip-val")
    lines = metric_lines(tmp_path / "run")
    assert all(torch.tensor(line["loss"]).isfinite() for line in lines)
    teacher, task = seen["task"].teacher, seen["task"]
    norms = [m for m in teacher.modules() if isinstance(m, _BatchNorm)]
    assert bool(norms) == ("--no-fold-teacher" in flags)
    assert teacher.amp == ("bf16" if "bfloat16" in flags else "off")
    if "--channels-last" in flags:
        maps = [m.weight for m in task.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1:] > (1, 1, 1)]
        maps += [m.weight for m in teacher.modules() if isinstance(m, nn.Conv2d)]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in maps)


def test_folding_changes_a_run_by_rounding_alone(run_main, distillation, tmp_path):
    losses = []
    for flags in ([], ["--no-fold-teacher"]):
        run_main("train_cirkdv2", *distillation, *flags, "--skip-val", "--overwrite", "--max-iterations", 2)
        losses.append([line["loss"] for line in metric_lines(tmp_path / "run")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def teacher_args(path: Path, model: str | None = None, backbone: str | None = None) -> tuple[tuple, list[str]]:
    """(model, backbone) chosen, and the messages."""
    messages: list[str] = []
    networks = DistillationConfig(path, model, backbone)
    networks = infer_teacher(networks, "citys", messages.append)
    return (networks.teacher_model, networks.teacher_backbone), messages


def test_a_teacher_is_the_network_of_its_name_unless_flags_differ(tmp_path):
    path = tmp_path / "segformer_MiT_B4_citys_best_model.pth"  # by the name alone: the file is not opened
    assert teacher_args(path) == (
        ("segformer", "MiT_B4"),
        [f"{path.name}: inferred from its name: --teacher-model segformer, --teacher-backbone MiT_B4"],
    )
    assert teacher_args(path, "segformer", "mit_b4") == (("segformer", "mit_b4"), [])
    network, messages = teacher_args(path, backbone="MiT_B2")
    assert network == ("segformer", "MiT_B2")
    assert messages[0].startswith("WARNING") and messages[0].endswith("the flags win: --teacher-backbone MiT_B2")
    _, messages = teacher_args(tmp_path / "deeplabv3_resnet101_voc_best_model.pth")
    assert messages[0].endswith("the flags win: --dataset citys")


def test_a_teacher_without_a_known_name_is_the_published_one(tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save({"a": torch.zeros(1)}, path)
    assert teacher_args(path) == (("deeplabv3", "resnet101"), [])
    assert teacher_args(path, backbone="resnet18") == (("deeplabv3", "resnet18"), [])
    torch.save({"network": {}, "arguments": {"model": "psp", "backbone": "resnet18", "dataset": "citys"}}, path)
    assert teacher_args(path)[0] == ("psp", "resnet18")


def test_a_distillation_takes_its_teacher_from_the_name_and_resumes_with_flags(
    run_main, distillation, teacher_file, tmp_path
):
    path = tmp_path / f"{checkpoint_stem(*TEACHER, 'custom')}_best_model.pth"
    path.hardlink_to(teacher_file)
    start = next(index for index, word in enumerate(distillation) if word == "--teacher-model")
    words = [*distillation[:start], *distillation[start + 6 :], "--skip-val"]
    assert STUDENT[0] in words and not any("--teacher" in str(word) for word in words)
    run_main("train_cirkdv2", *words, "--teacher-pretrained", path, "--max-iterations", 1)
    folder = tmp_path / "run"
    arguments = yaml.safe_load((folder / "args.yaml").read_text())["arguments"]
    assert (arguments["teacher_model"], arguments["teacher_backbone"]) == TEACHER
    assert f"{path.name}: inferred from its name: --teacher-model {TEACHER[0]}" in (folder / "log.txt").read_text()
    run_main("train_cirkdv2", *distillation, "--skip-val", "--max-iterations", 1, "--resume", "auto")
    with pytest.raises(ValueError, match="--teacher-backbone was mobilenetv3_large and is now mobilenetv3_small"):
        run_main(
            "train_cirkdv2", *distillation, "--skip-val", "--max-iterations", 1, "--resume", "auto",
            "--teacher-backbone", "mobilenetv3_small",
        )  # fmt: skip
