"""predict.py: images without labels, of any kind, and what becomes of those that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import DATASETS
from dataset.config import ImageConfig
from dataset.synthetic import scenes
from engine.config.identify import count_classes
from engine.evaluation.unlabeled_images import ImageFiles, find_images, image_names
from models import build_model
from models.classes import Classes
from tests.conftest import STUDENT
from tests.networks import save_varied
from tests.processes import run_processes, run_program
from tests.pseudo_datasets import textured_image, write_image, write_pseudo_dataset
from utils.visualize import generated_palette


@pytest.fixture(scope="session")
def student_file(tmp_path_factory) -> Path:
    """Weights of a CamVid student that predicts more than one class."""
    path = tmp_path_factory.mktemp("student") / "kd_psp_mobile_mobilenetv3_small_camvid_best_model.pth"
    return save_varied(path, STUDENT, len(DATASETS["camvid"].CLASSES))


@pytest.fixture
def words(student_file, tmp_path) -> list:
    return ["--pretrained", student_file, "--save-dir", tmp_path, "--workers", 0, "--device", "cpu"]


@pytest.mark.parametrize("protocol", [[], ["--scales", 0.75, 1, "--flip-eval", "--slide-crop", 40, 40]])
def test_predicts_what_eval_predicts(run_main, words, tmp_path, protocol):
    root = write_pseudo_dataset("camvid", tmp_path / "data", size=(48, 80), count=2)
    run_main("eval", *words, *protocol, "--data", root, "--save-pred", "--blend", "--save-dir-name", "evaluated")
    run_main(
        "predict", *words, *protocol, "--images", root / "val", "--mask", "--blend", "--save-dir-name", "predicted"
    )
    files = sorted((tmp_path / "evaluated/masks").iterdir())
    assert len(files) == 2 and len(np.unique(np.asarray(Image.open(files[0])))) > 1
    for kind in ("masks", "blends"):
        for file in sorted((tmp_path / "evaluated" / kind).iterdir()):
            assert (tmp_path / "predicted" / kind / file.name).read_bytes() == file.read_bytes()
    assert not (tmp_path / "predicted/panels").exists()


def test_images_of_any_kind(run_main, words, tmp_path):
    folder, picture = tmp_path / "in", Image.fromarray(textured_image((40, 64)))
    (folder / "deep/er").mkdir(parents=True)
    for name, mode, size in (
        ("a.png", "RGBA", (64, 40)), ("a.jpg", "L", (50, 30)), ("b.JPEG", "CMYK", (33, 47)), ("c.bmp", "RGB", (1, 9)),
        ("deep/d.tif", "LA", (70, 40)), ("deep/er/e.webp", "RGB", (64, 90)), ("f.png", "P", (20, 20)),
    ):  # fmt: skip
        picture.convert(mode).resize(size).save(folder / name)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    run_main("predict", *words, "--images", folder, "--save-dir-name", "out")
    names = {"a.png": (64, 40), "a.jpg": (50, 30), "b": (33, 47), "c": (1, 9), "deep/d": (70, 40)}
    names |= {"deep/er/e": (64, 90), "f": (20, 20)}
    for kind in ("masks", "blends", "panels"):  # all of them where none is asked for
        written = {file.relative_to(tmp_path / "out" / kind) for file in (tmp_path / "out" / kind).rglob("*.*")}
        assert written == {Path(f"{name}.png") for name in names}
    for name, size in names.items():
        mask = Image.open(tmp_path / "out/masks" / f"{name}.png")
        assert mask.mode == "P" and mask.size == size
        assert mask.getpalette()[:33] == [part for color in DATASETS["camvid"].PALETTE for part in color]


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_orientation_of_the_camera_is_applied(tmp_path, suffix):
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :8] = 250  # bright left edge; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif)
    image, mask = ImageFiles(tmp_path, Classes(("one",), ((1, 2, 3),)), ImageConfig())[0]
    assert image.shape == (40, 20, 3) and mask is None
    assert image[:6].min() > 200 and image[12:].max() < 50


def test_unreadable_files_are_named_and_the_others_predicted(run_main, words, tmp_path):
    folder = tmp_path / "in"
    write_image(folder / "good.png", textured_image((40, 64)))
    write_image(folder / "z.png", textured_image((40, 64)))
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-900])
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 4 images could not be read(.|\n)*cut\.png(.|\n)*empty\.jpg .*empty"):
        run_main("predict", *words, "--images", folder, "--mask", "--save-dir-name", "out")
    assert sorted(file.name for file in (tmp_path / "out/masks").iterdir()) == ["good.png", "z.png"]


def test_two_processes_share_the_images(words, tmp_path):
    folder = tmp_path / "in"
    for index in range(3):
        write_image(folder / f"{index}.png", textured_image((40, 64), index))
    (folder / "bad.png").write_bytes(b"")
    outputs = []
    for processes in (1, 2):
        flags = ["--images", folder, "--save-dir-name", f"out_{processes}"]
        ends = run_processes(run_program, processes, "predict", [*words, *flags])
        assert ends[0][0] == 2 and "".join(error for *_, error in ends).count("1 of 4 images could not be read") == 1
        files = sorted((tmp_path / f"out_{processes}").rglob("*.png"))
        outputs.append({file.relative_to(tmp_path / f"out_{processes}"): file.read_bytes() for file in files})
    assert len(outputs[0]) == 9 and outputs[0] == outputs[1]


def test_output_below_the_images_is_not_predicted_again(run_main, words, tmp_path):
    write_image(tmp_path / "a.png", textured_image((40, 64)))
    for _ in range(2):
        run_main("predict", *words, "--images", tmp_path, "--save-dir-name", "out")
    assert {file.name for file in (tmp_path / "out").rglob("*.png")} == {"a.png"}


def palette_of(run_main, tmp_path: Path, *words) -> list[tuple[int, ...]]:
    """First colours of the mask that predict.py writes for an image."""
    write_image(tmp_path / "one.png", textured_image((40, 64)))
    run_main(
        "predict", "--images", tmp_path / "one.png", "--save-dir", tmp_path, "--save-dir-name", "out", "--workers", 0,
        "--device", "cpu", "--mask", *words,
    )  # fmt: skip
    flat = Image.open(tmp_path / "out/masks/one.png").getpalette()
    return [tuple(flat[start : start + 3]) for start in range(0, 60, 3)]


def test_classes_of_a_custom_network(run_main, tmp_path):
    named = save_varied(tmp_path / "psp_mobile_mobilenetv3_small_custom.pth", STUDENT, 4)
    assert palette_of(run_main, tmp_path, "--pretrained", named)[:4] == generated_palette(4)
    (tmp_path / "classes.txt").write_text("road 9 8 7\nsky\nroad sign 1 2 3\ncar\n")
    unnamed = save_varied(tmp_path / "mine.pth", STUDENT, 4)
    words = ["--pretrained", unnamed, "--model", STUDENT[0], "--backbone", STUDENT[1]]
    colors = palette_of(run_main, tmp_path, *words, "--classes", tmp_path / "classes.txt")
    assert [colors[0], colors[2]] == [(9, 8, 7), (1, 2, 3)]
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    with pytest.raises(ValueError, match="2"):
        palette_of(run_main, tmp_path, *words, "--classes", tmp_path / "classes.txt")
    with pytest.raises(ValueError, match="--dataset"):
        palette_of(run_main, tmp_path, *words)


def test_class_count_needs_a_classifier(tmp_path):
    state = build_model(*STUDENT, 4).state_dict()
    torch.save(state, tmp_path / "whole.pth")
    assert count_classes(*STUDENT, tmp_path / "whole.pth") == 4
    torch.save({name: tensor for name, tensor in state.items() if name.startswith("pretrained.")}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth holds no classifier of psp_mobile"):
        count_classes(*STUDENT, tmp_path / "b.pth")


def test_synthetic_networks_have_the_colours_of_the_scenes(run_main, tmp_path):
    file = save_varied(tmp_path / "psp_mobile_mobilenetv3_small_synthetic.pth", STUDENT, len(scenes.CLASSES))
    assert palette_of(run_main, tmp_path, "--pretrained", file)[:12] == list(scenes.CLASSES.values())


@pytest.mark.parametrize(
    "lines, found",
    [
        ("a.png\nsub/b.jpg\na.png\n", ["a.png", "sub/b.jpg"]),
        ("sub/b.jpg masks/b.png\n", ["b.jpg"]),
        ("with space.png\n", ["with space.png"]),
    ],
)
def test_list_of_images(tmp_path, lines, found):
    for name in ("a.png", "sub/b.jpg", "with space.png", "masks/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text(lines)
    root, paths, _ = find_images(tmp_path / "list.txt")
    assert [path.relative_to(root).as_posix() for path in paths] == found


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("nowhere.png\n")
    (tmp_path / "table.csv").touch()
    for name, error, message in (
        ("missing", FileNotFoundError, "does not exist"),
        ("list.txt", FileNotFoundError, r"1 of 1 images named in .*list\.txt(.|\n)*nowhere\.png"),
        ("table.csv", ValueError, "a folder, an image"),
        ("", FileNotFoundError, "no image in"),
    ):
        with pytest.raises(error, match=message):
            find_images(tmp_path / name)


@pytest.mark.parametrize(
    "paths, names",
    [
        (["a.png", "sub/a.png"], ["a", "sub/a"]),
        (["a.png", "a.jpg", "b.jpg"], ["a.png", "a.jpg", "b"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
        (["x.y.png", "x.z.png"], ["x.y", "x.z"]),
    ],
)
def test_output_names_never_collide(paths, names):
    assert image_names([Path(path) for path in paths]) == names
