"""Reading a decoded cache: the samples of its source, bit for bit, or an error that names what is damaged."""

import json
import os
import shutil
from functools import lru_cache
from pathlib import Path

import pytest

from dataset import build_dataset
from dataset.config import AugmentationConfig, ReadingConfig
from dataset.loading.loaders import build_eval_loader
from dataset.prepare import main
from dataset.prepared import cache
from tests.conftest import assert_same
from tests.dataset.conftest import batches, build_small
from tests.programs import exit_code
from tests.pseudo_datasets import SPLITS, assert_same_samples, files_of, sample_paths, write_source

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def built(source, tmp_path):
    build_small(source, tmp_path / "out")
    return tmp_path / "out"


def overwrite_byte(data, index, position, change):
    """Changes a byte of a sample's data, counted from its start or, if negative, from its end."""
    table = data.cache.table
    place = int(table.offsets[index]) + position % int(table.lengths[index])
    with open(cache.part_path(data.cache.folder / data.split, table.parts[index]), "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([change(byte)]))


@pytest.mark.parametrize("name", SPLITS)
def test_samples_and_attributes_are_those_of_the_source(tmp_path, name):
    root, out = write_source(name, tmp_path / "source"), tmp_path / "out"
    build_small(root, out, SPLITS[name], name)
    for split in SPLITS[name]:
        files, cached = build_dataset(name, root, split), build_dataset(name, out, split)
        assert cached.cache is not None and files.cache is None
        assert_same_samples(files, cached)
        for fact in ("name", "split", "root", "classes", "palette", "num_classes", "label_ids"):
            assert getattr(files, fact) == getattr(cached, fact), fact
        for paths in ("image_paths", "mask_paths"):
            assert list(getattr(files, paths) or "no masks") == list(getattr(cached, paths) or "no masks")
        cached.check_samples()
        assert_same(list(build_eval_loader(files)), list(build_eval_loader(cached)))
    assert len(list((out / "train").glob("part-*"))) > 1
    shutil.rmtree(root)  # not needed any more
    assert len(build_dataset(name, out, "train")[0]) == 2


@pytest.mark.parametrize(("name", "workers"), [("camvid", 2), ("ade20k", 0)])
def test_the_training_stream_is_that_of_the_source(tmp_path, name, workers, monkeypatch):
    monkeypatch.setattr(cache, "_map_file", lru_cache(1)(cache._map_file.__wrapped__))  # files are closed and reopened
    root, out = write_source(name, tmp_path / "source", 7), tmp_path / "out"
    build_small(root, out, name=name, workers=2)
    files, cached = (build_dataset(name, folder, "train") for folder in (root, out))
    options = {"crop_size": (24, 31), "max_iterations": 60}
    assert_same(batches(files, **options), batches(cached, workers=workers, **options))


def test_crops_are_views_of_the_file(built):
    data = build_dataset("custom", built, "train")
    mask = data.view_mask(1)
    image = data.view_image(1, 1, mask.shape)
    assert not image.flags.owndata and not image.flags.writeable and not mask.flags.owndata
    before = int(image[0, 0, 0])
    overwrite_byte(data, 1, 0, lambda byte: byte ^ 255)
    assert image[0, 0, 0] == before ^ 255


def test_ignore_labels_are_those_of_the_build(source, tmp_path):
    for out, built_with, same, other in (("a", -1, 255, 1), ("b", 1, 1, -1)):
        build_small(source, tmp_path / out, ["train"], reading=ReadingConfig(ignore_label=built_with))
        pair = [
            build_dataset("custom", root, "train", reading=ReadingConfig(ignore_label=same))
            for root in (source, tmp_path / out)
        ]
        assert_same_samples(*pair)
        with pytest.raises(ValueError, match="other settings .*--ignore-label"):
            build_dataset("custom", tmp_path / out, "train", reading=ReadingConfig(ignore_label=other))


@pytest.mark.parametrize("name", ["custom", "voc"])
def test_list_files_select_samples(tmp_path, name):
    root, out = write_source(name, tmp_path / "source"), tmp_path / "out"
    build_small(root, out, name=name)
    pairs = [sample_paths(name, "train", f"train_{index:03d}") for index in (3, 1)]
    own = tmp_path / "own.txt"
    own.write_text("".join(f"{root / image if name == 'custom' else '/' + image} {mask}\n" for image, mask in pairs))
    cached = build_dataset(name, out, "train", list_file=str(own))
    assert [Path(path).stem for path in cached.image_paths] == ["train_003", "train_001"]
    assert_same_samples(build_dataset(name, root, "train", list_file=str(own)), cached)
    shutil.rmtree(root)
    assert len(build_dataset(name, out, "train", list_file=str(own))) == 2
    image, mask = sample_paths(name, "val", "val_000")
    own.write_text(f"{image} {mask}\n")
    with pytest.raises(ValueError, match=r"own\.txt names .*val_000.*does not have"):
        build_dataset(name, out, "train", list_file=str(own))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_bad_file_is_named_and_written_again(source, built, damage):
    before, path = files_of(built), cache.part_path(built / "train", 1)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    message = rf"1 of 2 files are missing .*{path.name}\. Complete it with: python -m dataset"
    with pytest.raises(ValueError, match=message):
        build_dataset("custom", built, "train")
    assert build_small(source, built) == 1
    after = files_of(built)
    assert [p for p in after if after[p] != before[p]] == [path]
    assert_same_samples(build_dataset("custom", source, "train"), build_dataset("custom", built, "train"))


def test_a_changed_byte_is_found(source, built, capsys):
    arguments = ["custom", str(source), str(built), "--verify", "--workers"]
    assert exit_code(main, [*arguments, "2"]) == 0 and "equal to its source" in capsys.readouterr().out
    data = build_dataset("custom", built, "train")
    overwrite_byte(data, 3, 100, lambda byte: byte ^ 1)
    for workers in ("0", "2"):
        assert exit_code(main, [*arguments, workers]) == 1
        output = capsys.readouterr().out
        assert "train_003.png" in output and "checksum differs" in output and len(output.splitlines()) == 1
    data[2]
    with pytest.raises(ValueError, match=r"train_003\.png .*is damaged"):
        data.check_samples()  # before a training starts


def test_training_finds_a_label_that_is_no_class(built):
    """Crops are read without a checksum."""
    data = build_dataset("custom", built, "train")
    options = {"crop_size": (48, 96), "batch_size": 1, "max_iterations": 15}
    options["augmentation"] = AugmentationConfig(scale_range=(1.0, 1.0))
    batches(data, **options)
    overwrite_byte(data, 3, -1, lambda byte: 3)
    with pytest.raises(ValueError, match=r"train_003\.png .* is damaged \(it holds a label that is no class\)"):
        batches(data, **options)


def test_wrong_data_sets_splits_and_changed_manifests(built):
    with pytest.raises(ValueError, match="is a decoded cache of custom, not of camvid"):
        build_dataset("camvid", built, "train")
    with pytest.raises(ValueError, match=r"has no split test\. Add it with: python -m dataset\.prepare .*--split test"):
        build_dataset("custom", built, "test")
    path = built / cache.MANIFEST
    manifest = json.loads(path.read_text())
    for change, message in (
        ({"classes": ["a", "b", "c"]}, "has been changed"),
        ({"version": 99}, "'version': 99.*--overwrite"),
        ({"format": "other"}, "'format': 'other'"),
        (None, "manifest .* cannot be used"),
    ):
        path.write_text("{" if change is None else json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            build_dataset("custom", built, "train")
    path.write_text(json.dumps(manifest))
    with open(built / "train" / "samples.npz", "ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"samples\.npz is missing or has been changed"):
        build_dataset("custom", built, "train")
