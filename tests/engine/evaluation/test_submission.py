"""The zip file for the Cityscapes test server."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import build_dataset
from dataset.cityscapes import Cityscapes
from engine.evaluation.cityscapes_submission import PUBLISHED_COUNT, PUBLISHED_SIZE, Submission, _check_images
from tests.conftest import STUDENT
from tests.networks import save_varied
from tests.pseudo_datasets import textured_image, write_image, write_pseudo_dataset
from utils.types import Batch

LEGAL = set(Cityscapes.LABEL_IDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three test images, one of them of another size."""
    root = write_pseudo_dataset("citys", tmp_path_factory.mktemp("citys"), size=(32, 64), count=2)
    write_image(root / "leftImg8bit/test/village/test_002_leftImg8bit.png", textured_image((40, 48)))
    return root


@pytest.fixture
def dataset(root):
    return build_dataset("citys", root, "test")


def predict(submission: Submission, *positions: int) -> None:
    for position in positions:
        height, width = submission.sizes[position]
        labels = torch.arange(height * width).reshape(1, height, width) % 19
        images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        batch = Batch(images, labels.to(torch.uint8), torch.tensor([[height, width]]), torch.tensor([position]))
        submission(batch, labels.to(torch.uint8))


def test_round_trip(run_main, root, dataset, tmp_path, capsys):
    save_varied(tmp_path / "student.pth", STUDENT, 19)
    words = ["--model", STUDENT[0], "--backbone", STUDENT[1], "--pretrained", tmp_path / "student.pth", "--workers", 0]
    words += ["--dataset", "citys", "--data", root, "--split", "test", "--device", "cpu", "--save-dir", tmp_path]
    out = tmp_path / "new" / "out.zip"
    run_main(
        "eval", *words, "--submission", out, "--any-count", "--save-pred", "--panel", "--boundary-iou",
        "--json", tmp_path / "deep" / "er" / "summary.json",
    )  # fmt: skip
    names = [Path(path).name for path in dataset.image_paths]
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == names and archive.testzip() is None
        masks = {name: np.asarray(Image.open(archive.open(name))) for name in names}
    folder = tmp_path / "eval_student_citys_test"
    for index, name in enumerate(names):
        assert masks[name].dtype == np.uint8 and masks[name].shape == dataset[index][0].shape[:2]
        assert set(np.unique(masks[name]).tolist()) <= LEGAL
        train_ids = np.asarray(Image.open(folder / "masks" / name))
        assert np.array_equal(dataset.labels.train_ids(masks[name], name), train_ids)
        assert (folder / "panels" / name).is_file()
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))) > 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.zip"]
    assert (tmp_path / "deep/er/summary.json").read_bytes() == (folder / "results.json").read_bytes()
    assert f"3 masks of label ids written to {out}" in capsys.readouterr().out


def test_without_the_published_images_it_is_refused_at_once(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"the test split has 3 images; .* 1525\. .*--any-count"):
        Submission(dataset, tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--dataset", "citys", "--split", "val"],
            "--dataset citys --split val: expected --dataset citys --split test",
        ),
        (["--dataset", "camvid", "--split", "test"], "--dataset camvid --split test: expected"),
        (["--dataset", "citys", "--split", "test", "--submission", "out.tar"], "whose name ends in .zip"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_anything_is_read(run_main, tmp_path, flags, message):
    words = ["--model", STUDENT[0], "--backbone", STUDENT[1], "--data", tmp_path / "nowhere", "--device", "cpu"]
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match=message):
        run_main("eval", *words, "--pretrained", tmp_path / "weights.pth", "--submission", "out.zip", *flags)


def published() -> tuple[list[str], list[tuple[int, int]]]:
    names = [f"bonn_{index:06d}_000019_leftImg8bit.png" for index in range(PUBLISHED_COUNT)]
    return names, [PUBLISHED_SIZE] * PUBLISHED_COUNT


def test_the_published_images_are_taken():
    _check_images(*published(), any_count=False)


@pytest.mark.parametrize(
    "position, name, size, message",
    [
        (7, "bonn_7.png", PUBLISHED_SIZE, r"1 test images are not named <city>_.*: bonn_7\.png"),
        (7, "bonn_000007_000019_leftImg8bit.png", (512, 1024), r"1 test images are not of 1024x2048 .*\(512x1024\)"),
        (7, "bonn_000008_000019_leftImg8bit.png", PUBLISHED_SIZE, "1 names stand for more than one test image: bonn_0"),
        (7, "bonn_000007_000019_leftImg8bit.jpg", PUBLISHED_SIZE, "end in .png"),
    ],
)
def test_other_names_and_sizes_are_refused(position, name, size, message):
    names, sizes = published()
    names[position], sizes[position] = name, size
    with pytest.raises(ValueError, match=message):
        _check_images(names, sizes, any_count=False)


def test_an_incomplete_one_is_never_written(dataset, tmp_path):
    out = tmp_path / "out.zip"
    out.write_bytes(b"the last one")
    with pytest.raises(
        ValueError, match=r"no submission .*: 1 of 3 masks are missing, .*: test_001_leftImg8bit\.png\."
    ):
        with Submission(dataset, out, any_count=True) as submission:
            predict(submission, 0, 1, 2)
            (submission.parts / submission.names[1]).unlink()
            submission.finish()
    assert out.read_bytes() == b"the last one" and list(tmp_path.iterdir()) == [out]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def overwrite(mask: np.ndarray):
    return lambda path: Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "cannot be read"),
        (overwrite(np.full((32, 63), 7, np.uint8)), "expected one channel of 32x64 pixels, got mode L and 32x63"),
        (overwrite(np.full((32, 64, 3), 7, np.uint8)), "got mode RGB and 32x64x3"),
        (overwrite(np.arange(2048, dtype=np.uint8).reshape(32, 64)), r"it holds \[0, 1, 2, 3, 4\], which are no label"),
    ],
)
def test_a_bad_mask_is_never_sent(dataset, tmp_path, damage, message):
    with pytest.raises(ValueError, match=r"1 of 3 masks .*test_000_leftImg8bit\.png .*" + message):
        with Submission(dataset, tmp_path / "out.zip", any_count=True) as submission:
            predict(submission, 0, 1, 2)
            damage(submission.parts / submission.names[0])
            submission.finish()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_are_removed_and_other_files_kept(dataset, tmp_path):
    submission = Submission(dataset, tmp_path / "out.zip", any_count=True)
    submission.parts.mkdir()
    (submission.parts / submission.names[0]).write_bytes(b"half a ma")
    with submission:
        assert list(submission.parts.iterdir()) == []
        predict(submission, 0, 1, 2)
        submission.finish()
    assert zipfile.ZipFile(submission.path).namelist() == submission.names
    submission.parts.mkdir()
    (submission.parts / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"cannot be collected in .*other files \(mine\.txt\)"):
        with submission:
            pass
    assert (submission.parts / "mine.txt").exists()
