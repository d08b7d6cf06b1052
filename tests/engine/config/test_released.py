"""A checkpoint's name, or the arguments in it, identify its network, and its tensors have to agree."""

import json
from pathlib import Path

import pytest
import torch

from dataset import DATASETS
from engine.config.identify import Identity, describe_content, find_checkpoint, read_run_arguments
from models import build_model
from models.weights import StateFile
from tests.data.golden.filler import fill
from tests.programs import exit_code
from tests.pseudo_datasets import write_pseudo_dataset

DATA = Path(__file__).parents[2] / "data"
BY_FILE = {entry["file"]: entry for entry in json.loads((DATA / "released.json").read_text())}
VOC = "kd_psp_mobile_mobilenetv3_small_voc_best_model.pth"


def filled_state(model: str, backbone: str, num_classes: int) -> dict[str, torch.Tensor]:
    """Weights of a network that follow from names and shapes alone."""
    state = build_model(model, backbone, num_classes).state_dict()
    return {name: torch.from_numpy(fill(name, tuple(t.shape), not t.is_floating_point())) for name, t in state.items()}


@pytest.fixture(scope="module")
def voc_state() -> dict[str, torch.Tensor]:
    return filled_state("psp_mobile", "mobilenetv3_small", 21)


@pytest.fixture(scope="module")
def one_image(tmp_path_factory):
    """Function: data set -> its folder, with one image a split in the data set's layout."""
    root = tmp_path_factory.mktemp("one_image")
    return lambda name: write_pseudo_dataset(name, root / name)


@pytest.fixture
def evaluate(run_main, one_image, tmp_path):
    """Evaluates on a one-image data set, with these flags and no others of the network; returns results.json."""

    def run(path: Path, data: str, *words) -> dict:
        where = ["--data", one_image(data), "--save-dir", tmp_path / "results", "--save-dir-name", "x"]
        run_main("eval", "--pretrained", path, *where, "--device", "cpu", "--workers", 0, *words)
        return json.loads((tmp_path / "results/x/results.json").read_text())

    return run


@pytest.fixture
def refused(evaluate, capsys, tmp_path):
    """Evaluates what has to be refused as the command line refuses it; returns the message."""

    def run(*words) -> str:
        code = exit_code(lambda words: evaluate(*words), words)
        message = capsys.readouterr().err
        assert code == 2 and message.startswith("error: ") and "Traceback" not in message
        assert not (tmp_path / "results").exists()
        return message

    return run


def expected_words(entry: dict) -> tuple[str, str, str]:
    return entry["model"], entry["backbone"], entry["dataset"]


def save(content, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "file",
    [
        "kd_deeplabv3_mobilenet_ssseg_mobilenetv3_small_coco_stuff_164k_best_model.pth",
        "kd_deeplab_mobile_mobilevit_xx_small_citys_best_model.pth",
        "kd_upernet_lite_resnet18_ade20k_best_model.pth",
        "kd_segformer_MiT_B4_segformer_MiT_B0_citys_best_model.pth",
        VOC,
    ],
)
def test_a_released_file_evaluates_by_its_name_alone(file, evaluate, tmp_path, capsys):
    model, backbone, dataset = expected_words(BY_FILE[file])
    classes = len(DATASETS[dataset].CLASSES)
    path = save(filled_state(model, backbone, classes), tmp_path / file)
    results = evaluate(path, dataset)
    expected = f"{file}: inferred from its name: --model {model}, --backbone {backbone}, --dataset {dataset}"
    assert expected in capsys.readouterr().out.splitlines()
    assert results["images"] == 1 and len(results["confusion_matrix"]) == classes
    assert [results["network"][name] for name in ("model", "backbone")] == [model, backbone]
    assert [results["arguments"][name] for name in ("model", "backbone", "dataset")] == [model, backbone, dataset]

    other = path.rename(tmp_path / "best.pth")
    explicit = evaluate(other, dataset, "--model", model, "--backbone", backbone, "--dataset", dataset)
    assert explicit["confusion_matrix"] == results["confusion_matrix"]


def removed(state: dict) -> list[str]:
    del state["pretrained.layer3.expand_conv.conv.weight"]
    return ["1 missing in the file: pretrained.layer3.expand_conv.conv.weight"]


def of_another_row_count(state: dict) -> list[str]:
    state["head.classifier.bias"] = state["head.classifier.bias"][:20]
    return ["head.classifier.bias [20] in the file, [21] here"]


@pytest.mark.parametrize("damage", [removed, of_another_row_count])
def test_a_damaged_file_is_refused_with_the_tensors_names(damage, voc_state, refused, tmp_path):
    state = dict(voc_state)
    expected = damage(state)
    message = refused(save(state, tmp_path / VOC), "voc")
    for text in [*expected, VOC, "--model, --backbone and --dataset"]:
        assert text in message


@pytest.mark.parametrize(
    "name, claim",
    [
        ("kd_psp_mobile_mobilenetv3_large_voc_best_model.pth", "psp_mobile with mobilenetv3_large for the 21 classes"),
        ("kd_psp_mobile_mobilenetv3_small_citys.pth", "psp_mobile with mobilenetv3_small for the 19 classes of citys"),
        ("deeplabv3_mobilenetv3_small_custom.pth", "Expected deeplabv3 with mobilenetv3_small;"),
    ],
)
def test_a_name_that_contradicts_the_content_is_refused(name, claim, voc_state, refused, tmp_path):
    message = refused(save(voc_state, tmp_path / name), "voc")  # the folder's layout is not what is complained about
    for text in (name, "by its name", claim, "it holds psp_mobile with mobilenetv3_small for 21 classes", "--dataset"):
        assert text in message
    assert len(message.splitlines()) == 1


def test_flags_win_over_the_name_with_one_warning(voc_state, evaluate, tmp_path, capsys):
    path = save(voc_state, tmp_path / "kd_psp_mobile_mobilenetv3_large_citys_best_model.pth")
    results = evaluate(path, "voc", "--backbone", "mobilenetv3_small", "--dataset", "voc")
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert warnings[0].endswith("the flags win: --backbone mobilenetv3_small, --dataset voc")
    assert f"{path.name}: inferred from its name: --model psp_mobile" in lines
    assert results["network"]["backbone"] == "mobilenetv3_small" and len(results["confusion_matrix"]) == 21


@pytest.mark.parametrize("words", [["--model", "pspnet", "--dataset", "voc"], ["--backbone", "MobileNetV3_Small"]])
def test_an_alias_does_not_contradict_the_name(words, voc_state, evaluate, tmp_path, capsys):
    assert evaluate(save(voc_state, tmp_path / VOC), "voc", *words)["network"]["model"] == "psp_mobile"
    assert "WARNING" not in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_flags_needed(voc_state, refused, tmp_path):
    path = save({"state_dict": voc_state}, tmp_path / "best.pth")
    message = refused(path, "voc")
    for text in ("best.pth", "--model, --backbone and --dataset are needed", "<model>_<backbone>_<dataset>"):
        assert text in message
    assert "The file holds psp_mobile with mobilenetv3_small for 21 classes." in message
    assert "so --dataset is needed" in refused(path, "voc", "--model", "psp_mobile", "--backbone", "mobilenetv3_small")


def test_a_file_for_other_classes_than_the_folder_has_is_refused(refused, voc_state, tmp_path):
    path = save(voc_state, tmp_path / "psp_mobile_mobilenetv3_small_custom.pth")
    assert "was trained for 21 classes, psp_mobile with mobilenetv3_small is built for 3" in refused(path, "custom")


def test_a_partial_file_is_taken_on_request(voc_state, evaluate, tmp_path):
    state = dict(voc_state)
    removed(state)
    assert evaluate(save(state, tmp_path / VOC), "voc", "--allow-partial")["images"] == 1


ARGUMENTS = {
    "baseline": {"model": "psp_mobile", "backbone": "mobilenetv3_small"},
    "distillation": {
        "teacher_model": "deeplabv3", "teacher_backbone": "resnet101",
        "student_model": "psp_mobile", "student_backbone": "mobilenetv3_small",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_state_is_identified_by_its_arguments(kind, voc_state, evaluate, tmp_path, capsys):
    state = {"network": voc_state, "iteration": 4, "arguments": ARGUMENTS[kind] | {"dataset": "voc", "lr": 0.02}}
    path = save(state, tmp_path / "last_state.pth")
    assert read_run_arguments(state["arguments"]) == Identity(
        "psp_mobile", "mobilenetv3_small", "voc", source="arguments"
    )
    assert len(evaluate(path, "voc")["confusion_matrix"]) == 21
    assert "last_state.pth: inferred from its arguments: --model psp_mobile" in capsys.readouterr().out


def test_the_folder_of_a_run_means_its_best_checkpoint_or_else_its_last(tmp_path):
    messages: list[str] = []
    with pytest.raises(FileNotFoundError, match="without checkpoints"):
        find_checkpoint(tmp_path, messages.append)
    for name in ("last_state.pth", "psp_resnet18_voc.pth", "psp_resnet18_voc_best_model.pth"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path, messages.append) == tmp_path / name
        assert messages[-1].endswith(f"taking {name}")
    for name in ("psp_resnet18_voc_best_model.pt", "psp_resnet18_voc_best_model.safetensors"):  # exported beside it
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path, messages.append) == tmp_path / "psp_resnet18_voc_best_model.pth"
    (tmp_path / "kd_psp_resnet18_voc_best_model.pth").touch()
    with pytest.raises(ValueError, match="several.*kd_psp_resnet18_voc_best_model.pth, psp_resnet18_voc_best_model"):
        find_checkpoint(tmp_path, messages.append)
    assert find_checkpoint(tmp_path / "psp_resnet18_voc.pth", messages.append).name == "psp_resnet18_voc.pth"
    assert len(messages) == 5


@pytest.mark.parametrize("network", [("segformer", "MiT_B1"), ("upernet", "resnet18"), ("psp_mobile", "mobilenetv2")])
def test_content_is_recognised_by_names_and_shapes(network):
    state = build_model(*network, 7).state_dict()
    assert describe_content(StateFile("x.pth", state)) == f"{network[0]} with {network[1]} for 7 classes"
    state.pop(next(iter(state)))
    assert describe_content(StateFile("x.pth", state)) is None
