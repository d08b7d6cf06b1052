"""A teacher's network follows from its file's name or content."""

from pathlib import Path

import pytest
import torch
import yaml

from engine.config.identify import checkpoint_stem, infer_teacher
from engine.config.schema import DistillationConfig
from tests.conftest import STUDENT, TEACHER


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
    assert messages[0].startswith("WARNING") and messages[0].endswith("what is given wins: --teacher-backbone MiT_B2")
    _, messages = teacher_args(tmp_path / "deeplabv3_resnet101_voc_best_model.pth")
    assert messages[0].endswith("what is given wins: --dataset citys")


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
