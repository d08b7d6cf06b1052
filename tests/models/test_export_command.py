"""`python -m models.export`: the network of a file, and users' errors."""

import sys

import pytest
import torch

from models.export.exporter import load_network, main
from tests.models.test_export import RUN, assert_equal_scores, fresh, scores
from tests.models.weight_files import silent
from utils.cli import run_cli


def command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    main()


@pytest.mark.parametrize("kind, suffix", [("onnx", ".onnx"), ("torchscript", ".pt"), ("safetensors", ".safetensors")])
def test_network_and_classes_are_those_of_the_file(kind, suffix, tmp_path, monkeypatch, capsys):
    network = fresh("psp_mobile", "mobilenetv3_small", 21, aux=True)
    checkpoint = tmp_path / "psp_mobile_mobilenetv3_small_voc_best_model.pth"
    torch.save(network.state_dict(), checkpoint)
    words = ["--pretrained", checkpoint, "--format", kind, "--size", 64, 96]
    command(monkeypatch, *words)
    assert "--model psp_mobile --backbone mobilenetv3_small" in capsys.readouterr().out
    path = checkpoint.with_suffix(suffix)
    if kind == "safetensors":
        assert load_network(path, log=silent).auxlayer is not None
    else:
        images, expected = scores(network, 97, 131)
        assert_equal_scores(RUN[kind](path, images), expected)
    with pytest.raises(FileExistsError, match="--overwrite"):
        command(monkeypatch, *words)


def test_network_of_a_runs_arguments(tmp_path):
    network = fresh("segformer", "MiT_B0", 4)
    arguments = {"student_model": "segformer", "student_backbone": "MiT_B0", "teacher_model": "psp"}
    torch.save({"network": network.state_dict(), "arguments": arguments}, tmp_path / "last_state.pth")
    found = load_network(tmp_path / "last_state.pth", log=silent)
    assert (found.model_name, found.backbone_name, found.num_classes) == ("segformer", "MiT_B0", 4)


STUDENT = ["--model", "psp_mobile", "--backbone", "mobilenetv3_small"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--format", "onnx"], "does not name its network"),
        (
            ["--format", "onnx", "--model", "psp", "--backbone", "resnet50"],
            "expected a checkpoint of psp with resnet50",
        ),
        (["--format", "onnx", "--model", "segformer", "--backbone", "MiT_B0"], "has no classifier"),
        (["--format", "onnx", *STUDENT, "--opset", "9"], "opset"),
        (["--format", "onnx", *STUDENT, "--num-classes", "7"], "trained for 5 classes"),
        (["--format", "onnx", *STUDENT, "--output", "no/x.onnx"], "no folder"),
        (["--format", "safetensors", *STUDENT, "--output", "x.bin"], "ending in .safetensors"),
    ],
)
def test_user_errors_end_with_two_and_one_message(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(fresh("psp_mobile", "mobilenetv3_small").state_dict(), "student.pth")
    monkeypatch.setattr(sys, "argv", ["export", "--pretrained", "student.pth", "--size", "64", "96", *words])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["student.pth"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("psp_mobile_mobilenetv3_large_voc.pth", "psp_mobile with mobilenetv3_large on voc by its name"),
        ("kd_psp_mobile_mobilenetv3_small_citys_best_model.pth", "Expected psp_mobile with mobilenetv3_small for 19"),
    ],
)
def test_a_name_that_contradicts_the_content_is_refused(name, message, tmp_path):
    torch.save(fresh("psp_mobile", "mobilenetv3_small", 21).state_dict(), tmp_path / name)
    holds = "it holds psp_mobile with mobilenetv3_small for 21 classes"
    with pytest.raises(ValueError, match=f"{message}.*{holds}") as error:
        load_network(tmp_path / name, log=silent)
    assert "--model, --backbone and --num-classes override it" in str(error.value)
    found = load_network(tmp_path / name, backbone="mobilenetv3_small", num_classes=21, log=silent)
    assert found.num_classes == 21


def test_the_folder_of_a_run_is_exported_again_and_again(tmp_path, monkeypatch):
    network = fresh("psp_mobile", "mobilenetv3_small", 21)
    torch.save(network.state_dict(), tmp_path / "psp_mobile_mobilenetv3_small_voc_best_model.pth")
    for words in ([], ["--overwrite"]):
        command(monkeypatch, "--pretrained", tmp_path, "--format", "safetensors", *words)
        assert (tmp_path / "psp_mobile_mobilenetv3_small_voc_best_model.safetensors").is_file()
