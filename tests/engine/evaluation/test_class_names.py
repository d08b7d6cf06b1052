"""Class names on their way from the training data to predictions and evaluations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.evaluation.class_names import check_classes
from models.classes import Classes
from models.weights import read_file
from tests.conftest import STUDENT
from tests.pseudo_datasets import write_pseudo_dataset
from utils.visualize import generated_palette

NAMES, PALETTE = ("road", "traffic light", "sky"), ((128, 64, 128), generated_palette(2)[1], (70, 130, 180))
NETWORK = ["--model", STUDENT[0], "--backbone", STUDENT[1]]


def compared(network: list[str], data: list[str], accept: bool = False) -> list[str]:
    """What is logged."""
    lines: list[str] = []
    classes = Classes.of(network, [(0, 0, 0)] * len(network))
    check_classes(classes, data, "x.pth", accept=accept, way_out="--any-classes", log=lines.append)
    return lines


def test_equal_names_and_files_without_names_say_nothing():
    assert compared(["road", "Traffic_Light", "sky"], ["Road", "traffic light", "sky"]) == []
    assert compared(["a", "a", "b"], ["a", "a", "b"]) == []  # names may repeat
    check_classes(None, ["x"], "x.pth", accept=False, way_out="--any-classes", log=pytest.fail)


@pytest.mark.parametrize(
    "network, data, message",
    [
        (["a", "b", "c", "d"], ["a", "c", "b", "d"], r"2 of 4 .* 1 is 'b' in the network and 'c'(.|\n)*order"),
        (["a", "b", "c", "d"], ["a", "b", "d", "e"], r"2 of 4 .*order.*--any-classes"),
        (["a", "b", "c"], ["x", "y", "c"], r"2 of 3 .*--any-classes takes them as the same"),
        (["a", "b", "c"], ["a", "b"], r"3 classes, the data has 2: only in the network: c"),
        (["a", "b"], ["a", "b2", "c"], r"2 classes, the data has 3: only in the network: b; only in the data: b2, c"),
    ],
)  # fmt: skip
def test_other_classes_and_another_order_are_refused(network, data, message):
    with pytest.raises(ValueError, match=rf"x\.pth.*{message}|{message}"):
        compared(network, data)
    if len(network) == len(data):
        (line,) = compared(network, data, accept=True)
        assert line.startswith("WARNING") and "count as the same" in line


def test_renamed_class_is_a_warning():
    (line,) = compared(["a", "b", "c", "d"], ["a", "b", "x", "d"])
    assert line.startswith("WARNING: 1 of 4") and "2 is 'c' in the network and 'x' in the data" in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root) -> Path:
    """The best checkpoint of a run with averaged weights under a name that says nothing."""
    from tests.processes import run_program

    folder = tmp_path_factory.mktemp("trained")
    words = ["--dataset", "custom", "--data", data_root, "--crop-size", 40, 56, "--batch-size", 2, "--workers", 0]
    words += ["--max-iterations", 2, "--val-per-iters", 1, "--save-per-iters", 1, "--device", "cpu", *NETWORK]
    run_program("train_baseline", [*words, "--ema-decay", 0.9, "--save-dir", folder, "--save-dir-name", "run"])
    best = folder / "run/psp_mobile_mobilenetv3_small_custom_best_model.pth"
    assert read_file(best).classes == read_file(folder / "run/last_state.pth").classes == Classes(NAMES, PALETTE)
    return best.rename(folder / "best.pth")


def other_order(data_root: Path, folder: Path, lines: str) -> list:
    """Flags of an evaluation on the same files under another classes.txt."""
    for file in ("val.txt", "images", "masks"):
        folder.mkdir(exist_ok=True)
        (folder / file).symlink_to(data_root / file)
    (folder / "train.txt").symlink_to(data_root / "train.txt")
    (folder / "classes.txt").write_text(lines)
    return ["--dataset", "custom", "--data", folder, "--device", "cpu", "--workers", 0, "--save-dir", folder]


def test_predictions_have_the_trained_names_and_colours(run_main, trained, data_root, tmp_path, capsys):
    words = ["--pretrained", trained, *NETWORK, "--images", data_root / "images/val_000.png", "--save-dir", tmp_path]
    words += ["--device", "cpu", "--workers", 0, "--mask", "--save-dir-name", "out"]
    run_main("predict", *words)
    flat = Image.open(tmp_path / "out/masks/val_000.png").getpalette()
    assert [tuple(flat[k : k + 3]) for k in (0, 3, 6)] == list(PALETTE)
    shown = capsys.readouterr().out
    assert "classes: road, traffic light, sky" in shown and "not known" not in shown
    (tmp_path / "classes.txt").write_text("sky 1 2 3\nroad\ntraffic light\n")
    run_main("predict", *words, "--classes", tmp_path / "classes.txt")
    assert Image.open(tmp_path / "out/masks/val_000.png").getpalette()[:3] == [1, 2, 3]
    assert "WARNING: 3 of 3 class names" in capsys.readouterr().out
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    with pytest.raises(ValueError, match="3 classes, the data has 2: only in the network: traffic light"):
        run_main("predict", *words, "--classes", tmp_path / "classes.txt")


def test_evaluations_refuse_another_order(run_main, trained, data_root, tmp_path, capsys):
    words = other_order(data_root, tmp_path / "data", "road\nsky\ntraffic light\n")
    with pytest.raises(
        ValueError, match=r"1 is 'traffic light' in the network and 'sky' in the data(.|\n)*--any-classes"
    ):
        run_main("eval", "--pretrained", trained, *NETWORK, *words)
    run_main("eval", "--pretrained", trained, *NETWORK, *words, "--any-classes")
    assert "they count as the same classes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="in another order"):
        run_main("visualize_embeddings", "--pretrained", trained, *NETWORK, *words)
    (tmp_path / "data/classes.txt").write_text("Road = 0\ntraffic_light = 1\nsky = 2\n")
    run_main("eval", "--pretrained", trained, *NETWORK, *words)
    assert "WARNING" not in capsys.readouterr().out


def test_a_teacher_of_another_order_is_refused(run_main, trained, distillation, tmp_path):
    other = write_pseudo_dataset("custom", tmp_path / "other", size=(48, 64), count=4)
    (other / "classes.txt").write_text("sky\nroad\ntraffic light\n")
    words = [word for word in distillation if word != "--skip-teacher-check"]
    flags = {"--teacher-pretrained": trained, "--teacher-model": STUDENT[0], "--teacher-backbone": STUDENT[1]}
    flags |= {"--data": other, "--max-iterations": 1}
    for flag, value in flags.items():
        words[words.index(flag) + 1] = value
    with pytest.raises(ValueError, match=r"--teacher-pretrained .*in another order(.|\n)*--skip-teacher-check"):
        run_main("train_cirkdv2", *words)
    run_main("train_cirkdv2", *words, "--skip-teacher-check", "--skip-val")
    assert "class names of --teacher-pretrained" in (tmp_path / "run/log.txt").read_text()


def test_fine_tuning_takes_the_new_names(run_main, trained, baseline, data_root, tmp_path):
    other = write_pseudo_dataset("custom", tmp_path / "other", size=(48, 64), count=4)
    (other / "classes.txt").write_text("water\nboat\nbridge\n")
    words = [other if word == data_root else word for word in baseline]
    run_main("train_baseline", *words, "--pretrained", trained, "--max-iterations", 1, "--skip-val")
    found = read_file(tmp_path / "run/psp_mobile_mobilenetv3_small_custom.pth").classes
    assert found.names == ("water", "boat", "bridge") and np.array_equal(found.palette, generated_palette(3))
    assert "weights are of other classes: road, traffic light, sky" in (tmp_path / "run/log.txt").read_text()
