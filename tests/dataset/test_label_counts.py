"""Pixels of the classes in a whole split: counted, kept beside the runs, and not used for files that have changed."""

import json
import os

import numpy as np
import pytest

from dataset import build_dataset
from dataset.check.checks import check_dataset
from dataset.config import ReadingConfig
from dataset.label_counts import FOLDER, LabelCounts, count_labels, fingerprint, read_counts, write_counts
from tests.dataset.conftest import build_small
from tests.pseudo_datasets import MASK_VALUES, block_mask, write_mask, write_pseudo_dataset

COUNT, SIZE = 20, (32, 48)


@pytest.fixture
def root(tmp_path):
    """Class 2 is in one training mask in four."""
    root = write_pseudo_dataset("custom", tmp_path / "data", SIZE, COUNT)
    for index in range(COUNT):
        if index % 4:
            write_mask(root / f"masks/train_{index:03d}.png", block_mask(SIZE, (0, 1, 255), index))
    return root


@pytest.fixture
def data(root):
    return build_dataset("custom", root, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_those_of_the_masks(data, workers):
    masks = [block_mask(SIZE, (0, 1, 255) if index % 4 else MASK_VALUES["custom"], index) for index in range(COUNT)]
    counts, bad = count_labels(data, workers)
    for label in range(3):
        own = [mask for mask in masks if (mask == label).any()]
        assert counts.pixels[label] == sum((mask == label).sum() for mask in own)
        assert counts.images[label] == len(own) == (5 if label == 2 else COUNT)
        assert counts.image_pixels[label] == sum((mask != 255).sum() for mask in own)
    assert not bad


def test_a_decoded_cache_has_the_counts_and_the_fingerprint_of_its_source(root, data, tmp_path):
    build_small(root, tmp_path / "out")
    cached = build_dataset("custom", tmp_path / "out", "train")
    assert count_labels(cached, 2) == count_labels(data, 0)
    assert fingerprint(cached) == fingerprint(data)
    write_counts(tmp_path, data, count_labels(data, 0)[0])
    assert read_counts(tmp_path, cached) == count_labels(data, 0)[0]


def test_counts_are_found_again_until_something_changes(root, data, tmp_path):
    counts, _ = count_labels(data, 0)
    assert read_counts(tmp_path / "runs", data) is None
    path = write_counts(tmp_path / "runs", data, counts)
    assert read_counts(tmp_path / "runs", build_dataset("custom", root, "train")) == counts
    (root / "few.txt").write_text("images/train_000.png masks/train_000.png\n")
    others = {
        "split": build_dataset("custom", root, "val"),
        "list": build_dataset("custom", root, "train", list_file=str(root / "few.txt")),
        "reading": build_dataset("custom", root, "train", reading=ReadingConfig(ignore_label=2)),
    }
    for name, other in others.items():
        assert read_counts(tmp_path / "runs", other) is None, name
    for content in ("", "[1]", "{}", path.read_text().replace('"pixels": [', '"pixels": [1, '), "\x00" * 300):
        (tmp_path / "damaged" / FOLDER).mkdir(parents=True, exist_ok=True)
        (tmp_path / "damaged" / FOLDER / path.name).write_text(content)
        assert read_counts(tmp_path / "damaged", data) is None, content
    later = os.stat(root / "masks/train_003.png").st_mtime + 7
    os.utime(root / "masks/train_003.png", (later, later))
    assert read_counts(tmp_path / "runs", data) is None
    (root / "classes.txt").write_text("road\nlight\nsky\n")
    assert fingerprint(build_dataset("custom", root, "train")) != fingerprint(data)


def test_unreadable_masks_are_left_out_as_far_as_a_run_allows(root, data):
    whole, _ = count_labels(data, 0)
    (root / "masks/train_000.png").write_bytes(b"")
    (root / "masks/train_017.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="is empty|does not exist|No such file"):
        count_labels(data, 0)
    with pytest.raises(ValueError, match="2 training samples cannot be used, and --skip-bad-samples allows 1:"):
        count_labels(data, 2, allowed=1)
    counts, bad = count_labels(data, 0, allowed=2)
    assert [path[-13:] for path in bad] == ["train_000.png", "train_017.png"]
    assert counts.images == (COUNT - 2, COUNT - 2, whole.images[2] - 1)


def test_the_check_keeps_what_it_has_read_of_a_whole_training_split(root, data, tmp_path):
    def kept(folder, **options):
        report = check_dataset("custom", root, workers=0, save_dir=tmp_path / folder, **options)
        text = report["splits"].get("train", {}).get("label_counts")
        assert text is None or str(tmp_path / folder / FOLDER) in text
        return read_counts(tmp_path / folder, data), [path.name for path in (tmp_path / folder).rglob("*.json")]

    assert kept("runs") == (count_labels(data, 0)[0], [f"{fingerprint(data)}.json"])
    assert kept("sample", sample=5) == kept("val", splits=["val"]) == (None, [])
    (root / "images/train_003.png").write_bytes(b"")  # an image: all masks are read
    assert kept("image") == (count_labels(data, 0)[0], [f"{fingerprint(data)}.json"])
    (root / "masks/train_004.png").write_bytes(b"")
    assert kept("mask") == (None, [])
    (tmp_path / "file").write_text("")
    (root / "masks/train_004.png").write_bytes((root / "masks/train_005.png").read_bytes())
    report = check_dataset("custom", root, ["train"], workers=0, save_dir=tmp_path / "file")
    assert report["splits"]["train"]["label_counts"].startswith("WARNING: the pixels of the classes could not be kept")


def test_absent_classes_are_those_of_the_whole_split_where_it_is_known(root, data):
    for index in range(0, COUNT, 4):
        write_mask(root / f"masks/train_{index:03d}.png", block_mask(SIZE, (0, 1, 255), index))
    assert "in the 5 masks that were opened 1 of 3 classes have no pixel: sky" in data.check_samples(5)[0]
    whole = LabelCounts((5, 0, 7), (1, 0, 1), (9, 0, 9))
    (line,) = data.check_samples(5, counts=lambda: whole)
    assert line == "WARNING: train: in all masks 1 of 3 classes have no pixel: traffic light"
    assert data.check_samples(5, counts=lambda: LabelCounts((1, 1, 1), (1, 1, 1), (3, 3, 3))) == []
    with pytest.raises(ValueError, match="in all masks every pixel is void"):
        data.check_samples(5, counts=lambda: LabelCounts((0, 0, 0), (0, 0, 0), (0, 0, 0)))


def test_what_is_kept_can_be_read_by_people(data, tmp_path):
    counts, _ = count_labels(data, 0)
    content = json.loads(write_counts(tmp_path, data, counts).read_text())
    assert content["dataset"] == "custom" and content["split"] == "train" and content["samples"] == COUNT
    assert dict(zip(content["classes"], content["counts"]["pixels"], strict=True))["sky"] == counts.pixels[2]
    assert LabelCounts.of_record(counts.record()) == counts and np.array(counts.pixels).sum() > 0
