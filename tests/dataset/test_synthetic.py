"""The embedded scenes: deterministic, complete, reused, never mixed up with other files."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from dataset import build_dataset
from dataset.synthetic.scenes import CLASSES
from dataset.synthetic.writer import MARKER, main, synthetic_sample, write_synthetic
from tests.programs import exit_code

SMALL = {"num_train": 3, "num_val": 1, "num_test": 1, "size": (32, 48)}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_written_data_set_is_read_back_with_its_classes(tmp_path):
    assert write_synthetic(tmp_path, **SMALL)
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        data = build_dataset("synthetic", tmp_path, split)
        data.check_samples()
        assert len(data) == count and data.classes == list(CLASSES) and data.palette == list(CLASSES.values())
        image, mask = data[0]
        expected_image, expected_mask = synthetic_sample(split, 0, (32, 48), 0, 0.5)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(mask, expected_mask)


def test_a_sample_depends_on_seed_split_and_index_alone(tmp_path):
    for name, change in (("a", {}), ("b", {"num_train": 1, "num_val": 2}), ("c", {"seed": 1})):
        write_synthetic(tmp_path / name, **(SMALL | change))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a["images/val_00000.png"] == b["images/val_00000.png"]
    assert a["masks/train_00000.png"] == b["masks/train_00000.png"] != a["masks/train_00001.png"]
    assert a["images/train_00000.png"] != c["images/train_00000.png"]


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_scenes_hold_all_classes_some_rare_and_every_pixel_is_legal(difficulty):
    masks = np.stack([synthetic_sample("train", index, (96, 160), 0, difficulty)[1] for index in range(20)])
    share = np.bincount(masks.ravel(), minlength=256) / masks.size
    assert (share[: len(CLASSES)] > 0).all() and share[len(CLASSES) : 255].sum() == 0
    assert len(CLASSES) >= 8
    assert ((share[: len(CLASSES)] > 0) & (share[: len(CLASSES)] < 0.01)).sum() >= 3
    assert all(len(np.setdiff1d(np.unique(mask), [255])) >= 7 for mask in masks)


def test_pictures_are_scenes_and_not_noise():
    for index in range(5):
        image, mask = synthetic_sample("val", index, (96, 160), 0, 0.5)
        steps = np.abs(np.diff(image.astype(int), axis=1)).mean()
        assert 1 < steps < 25 and image.std() > 25
        rows = [np.nonzero(mask == list(CLASSES).index(name))[0].mean() for name in ("sky", "building", "road")]
        assert rows[0] < rows[1] < rows[2]


def test_difficulty_adds_noise():
    def steps(difficulty: float) -> float:
        images = [synthetic_sample("val", index, (64, 96), 0, difficulty)[0] for index in range(6)]
        return np.abs(np.diff(np.stack(images).astype(int), axis=2)).mean()

    assert steps(0.0) < steps(2.0)


def test_a_complete_data_set_is_kept_and_an_incomplete_one_is_rewritten(tmp_path):
    root = tmp_path / "scenes"
    assert write_synthetic(root, **SMALL)
    before = contents(root)
    stamp = (root / "images/train_00000.png").stat().st_mtime_ns
    assert not write_synthetic(root, **SMALL)
    assert (root / "images/train_00000.png").stat().st_mtime_ns == stamp
    (root / MARKER).unlink()
    (root / "synthetic.unfinished").touch()
    (root / "images/train_00002.png").write_bytes(b"")
    (root / "images/left_over.png").write_bytes(b"")
    assert write_synthetic(root, **SMALL)
    assert contents(root) == before


def test_other_contents_are_refused(tmp_path):
    write_synthetic(tmp_path / "scenes", **SMALL)
    with pytest.raises(ValueError, match=r"holds another synthetic data set: .*'seed': 0.* instead of .*'seed': 4"):
        write_synthetic(tmp_path / "scenes", **SMALL, seed=4)
    assert write_synthetic(tmp_path / "scenes", **SMALL, seed=4, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are not a synthetic data set"):
        write_synthetic(tmp_path / "mine", **SMALL, overwrite=True)
    assert contents(tmp_path / "mine") == {"train.txt": b"precious"}


@pytest.mark.parametrize(
    "bad", [{"num_train": 0}, {"num_test": -1}, {"size": (8, 48)}, {"seed": -1}, {"difficulty": "x"}, {"difficulty": 3}]
)
def test_bad_parameters(tmp_path, bad):
    with pytest.raises(ValueError, match="expected|at least"):
        write_synthetic(tmp_path / "s", **(SMALL | bad))
    assert not (tmp_path / "s").exists()


def test_command_line(tmp_path, capsys, monkeypatch):
    options = ["--root", str(tmp_path / "s"), *"--num-train 2 --num-val 1 --num-test 0 --size 20 30".split()]
    monkeypatch.setattr("sys.argv", ["dataset.synthetic", *options])
    runpy.run_module("dataset.synthetic", run_name="__main__")
    output, errors = capsys.readouterr()
    assert output.startswith("wrote 3 scenes of 20x30") and errors == ""
    assert exit_code(main, options) == 0 and "already there" in capsys.readouterr().out
    assert exit_code(main, [*options, "--seed", "1"]) == 2 and "error: " in capsys.readouterr().err
    assert not (tmp_path / "s/test.txt").exists()


def test_closeness_makes_rare_things_larger():
    def rare_share(closeness: float) -> float:
        masks = [synthetic_sample("train", index, (64, 96), 0, 0.0, closeness)[1] for index in range(15)]
        return float(np.isin(np.stack(masks), [7, 8, 9, 10, 11]).mean())  # person, pole, sign, light, bicycle

    assert rare_share(1.0) > 1.5 * rare_share(0.0)
