"""A file that carries code, given wherever a file of weights is taken: refused, nothing executed."""

import pickle
from pathlib import Path

import pytest
import torch

from tests.conftest import STUDENT, TEACHER, Bomb
from tests.programs import exit_code

NETWORK = ["--model", STUDENT[0], "--backbone", STUDENT[1]]
PAIR = ["--teacher-model", TEACHER[0], "--teacher-backbone", TEACHER[1]]
PAIR += ["--student-model", STUDENT[0], "--student-backbone", STUDENT[1]]
FORMS = ("zip", "legacy", "pickle")
# name -> (entry point, words before the file)
PLACES = {
    "network": ("train_baseline", [*NETWORK, "--pretrained"]),
    "backbone": ("train_baseline", [*NETWORK, "--pretrained-base"]),
    "resume": ("train_baseline", [*NETWORK, "--resume"]),
    "teacher": ("train_cirkdv2", [*PAIR, "--teacher-pretrained"]),
    "teacher of train_kd": ("train_kd", ["--method", "kd", *PAIR, "--teacher-pretrained"]),
    "evaluation": ("eval", [*NETWORK, "--pretrained"]),
    "evaluation by name": ("eval", ["--pretrained"]),
    "prediction": ("predict", [*NETWORK, "--pretrained"]),
    "embeddings": ("visualize_embeddings", ["--pretrained"]),
    "export": ("models.export.exporter", [*NETWORK, "--num-classes", 3, "--format", "safetensors", "--pretrained"]),
}


def write_bomb(path: Path, target: Path, form: str) -> Path:
    if form == "pickle":
        path.write_bytes(pickle.dumps({"epoch": Bomb(target)}))
    else:
        content = {"state_dict": {"w": torch.ones(2)}, "epoch": Bomb(target)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def words_of(place: str, file: Path, data_root: Path, save_dir: Path) -> list:
    module, words = PLACES[place]
    words = [*words, file]
    if module == "models.export.exporter":
        return words
    if module == "predict":
        return [*words, "--images", data_root, "--save-dir", save_dir, "--device", "cpu"]
    words += ["--dataset", "custom", "--data", data_root, "--save-dir", save_dir, "--device", "cpu"]
    if module.startswith("train"):
        words += ["--crop-size", 40, 56, "--batch-size", 2, "--max-iterations", 2, "--workers", 0]
    return words


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_executed(place, form, run_main, data_root, tmp_path, capsys):
    """In this process, where an executed bomb would leave its folder as well."""
    target = tmp_path / "made"
    bomb = write_bomb(tmp_path / "psp_mobile_mobilenetv3_small_custom.pth", target, form)
    words = words_of(place, bomb, data_root, tmp_path / "runs")
    code = exit_code(lambda words: run_main(PLACES[place][0], *words), words)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and f"{bomb.name} is refused: it holds posix.mkdir" in line
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == [bomb.name]
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_comparison_reads_its_specification_safely(run_main, tmp_path):
    (tmp_path / "spec.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(ValueError, match=r"spec\.yaml"):
        run_main("compare", tmp_path / "spec.yaml")
    assert not (tmp_path / "made").exists()
