"""The files that predictions leave, and their names."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import build_dataset
from dataset.loading.loaders import build_eval_loader
from engine.evaluation.prediction_writer import PredictionWriter, prediction_names
from tests.pseudo_datasets import write_pseudo_dataset
from utils.panels import prediction_panel
from utils.visualize import blend, colorize

KINDS = ("masks", "blends", "panels")


def write_all(dataset, folder: Path, **options) -> list[np.ndarray]:
    """Writes a prediction for every image and returns the predictions."""
    writer = PredictionWriter(dataset, folder, **options)
    writer.prepare()
    predictions = []
    for batch in build_eval_loader(dataset):
        generator = torch.Generator().manual_seed(len(predictions))
        labels = torch.randint(dataset.num_classes, batch.target.shape, generator=generator).to(torch.uint8)
        predictions.append(labels[0].numpy())
        writer(batch, labels)
    return predictions


@pytest.mark.parametrize("name", ["citys", "voc", "camvid", "ade20k", "coco_stuff_164k", "custom"])
def test_masks_blends_and_panels(name, tmp_path):
    dataset = build_dataset(name, write_pseudo_dataset(name, tmp_path / "data", count=2), "val")
    predictions = write_all(dataset, tmp_path / "out", masks=True, blends=True, panels=True)
    for index, labels in enumerate(predictions):
        image, truth = dataset[index]
        files = [tmp_path / "out" / kind / f"{Path(dataset.image_paths[index]).stem}.png" for kind in KINDS]
        mask, blended, panel = (Image.open(file) for file in files)
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), labels)
        assert np.array_equal(np.asarray(mask.convert("RGB")), colorize(labels, dataset.palette))
        assert np.array_equal(np.asarray(blended), blend(image, colorize(labels, dataset.palette)))
        expected = prediction_panel(image, labels, dataset.classes, dataset.palette, truth)
        assert np.array_equal(np.asarray(panel), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_asked_for(kind, data_root, tmp_path):
    dataset = build_dataset("custom", data_root, "val")
    write_all(dataset, tmp_path / "out", **{kind: True})
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == [kind]
    assert len(list((tmp_path / "out" / kind).iterdir())) == len(dataset)


def test_panel_without_truth_and_given_names(tmp_path):
    dataset = build_dataset("citys", write_pseudo_dataset("citys", tmp_path / "data", size=(48, 96)), "test")
    (labels,) = write_all(dataset, tmp_path / "out", panels=True, names=["town/one"])
    panel = np.asarray(Image.open(tmp_path / "out/panels/town/one.png"))
    assert np.array_equal(panel, prediction_panel(dataset[0][0], labels, dataset.classes, dataset.palette))


@pytest.mark.parametrize(
    "paths, names",
    [
        (["/d/a/x.png", "/d/b/y.png"], ["x", "y"]),
        (["/d/a/x.png", "/d/b/x.png"], ["a__x", "b__x"]),
        (["/d/x.png", "/d/x.jpg"], ["x.png", "x.jpg"]),
        (["/d/X.png", "/d/b/x.png"], ["X", "b__x"]),
        (["/elsewhere/x.png", "/d/x.png"], ["elsewhere__x", "x"]),
    ],
)
def test_names_differ(paths, names):
    assert prediction_names(SimpleNamespace(image_paths=paths, root=Path("/d"))) == names


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_list_with_paths_that_lead_out_leaves_everything_in_the_folder(tmp_path):
    root = write_pseudo_dataset("custom", tmp_path / "deep/er/data", count=2)
    lines = (root / "val.txt").read_text().splitlines()
    outside = tmp_path / "deep" / "outside"
    outside.mkdir()
    listed = []
    for number, line in enumerate(lines):
        image, mask = (root / word for word in line.split())
        (outside / f"{number}").mkdir()
        # one name in two folders, so that their paths become the names
        copies = [outside / f"{number}" / f"same{image.suffix}", outside / f"{number}" / "mask.png"]
        for original, copy in zip((image, mask), copies, strict=True):
            copy.write_bytes(original.read_bytes())
        listed.append(f"../../outside/{number}/same{image.suffix} ../../outside/{number}/mask.png")
    (root / "val.txt").write_text("\n".join(listed) + "\n")
    before = below(tmp_path)
    dataset = build_dataset("custom", root, "val")
    write_all(dataset, tmp_path / "out", masks=True, blends=True, panels=True)
    assert len(below(tmp_path / "out")) == 3 * len(lines)
    assert [name for name in below(tmp_path) if not name.startswith("out/")] == before


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", ".."])
def test_name_that_leads_out_is_refused(name, tmp_path):
    dataset = build_dataset("custom", write_pseudo_dataset("custom", tmp_path / "data", count=1), "val")
    (tmp_path / "out").mkdir()
    before = below(tmp_path)
    if name == "..":  # its file, "...png", is in the folder
        write_all(dataset, tmp_path / "out", masks=True, names=[name])
        assert below(tmp_path / "out") == ["masks/...png"]
        return
    with pytest.raises(ValueError, match="outside"):
        write_all(dataset, tmp_path / "out", masks=True, names=[name])
    assert below(tmp_path) == before
