"""Names and colours of classes in checkpoints and exported files."""

import json

import onnx
import pytest
import torch
from safetensors import safe_open

from models.classes import CLASSES_KEY, Classes
from models.export.exporter import export
from models.weights import load_backbone_weights, load_weights, read_file
from tests.models.weight_files import WRAPPINGS, silent, small, untouched

CLASSES = Classes(("road", "traffic light", "Bäume", "sky"), ((128, 64, 128), (0, 255, 1), (9, 8, 7), (70, 130, 180)))


def named(num_classes: int = 4, classes: Classes | None = CLASSES):
    network = small(num_classes)
    network.set_classes(classes)
    return network


@pytest.mark.parametrize("kind", sorted(WRAPPINGS))
def test_they_travel_in_every_kind_of_file(kind, tmp_path):
    path, lines = tmp_path / "x.pth", []
    torch.save(WRAPPINGS[kind](dict(named().state_dict())), path)
    assert read_file(path).classes == CLASSES
    other = small()
    assert load_weights(other, path, log=lines.append).complete and other.classes == CLASSES
    assert "  classes: road, traffic light, Bäume, sky\n" in f"{lines[0]}\n"


def test_networks_without_them_keep_the_released_names(tmp_path):
    plain = small()
    assert set(named().state_dict()) - set(plain.state_dict()) == {CLASSES_KEY}
    torch.save(plain.state_dict(), tmp_path / "x.pth")
    other = named()
    load_weights(other, tmp_path / "x.pth", log=silent)
    assert other.classes is None and read_file(tmp_path / "x.pth").classes is None
    other.load_state_dict(named().half().state_dict())
    assert other.classes == CLASSES
    other.load_state_dict(plain.state_dict())
    assert other.classes is None


def test_they_are_those_of_the_classifier_that_is_loaded(tmp_path):
    torch.save(named().state_dict(), tmp_path / "x.pth")
    three = named(3, Classes.of(["a", "b", "c"], [(1, 1, 1)] * 3))
    load_weights(three, tmp_path / "x.pth", allow_partial=True, log=silent)
    assert three.classes.names == ("a", "b", "c")  # the file's classifier does not fit
    backbone = {name: value for name, value in named().state_dict().items() if name.startswith("pretrained.")}
    torch.save({name.removeprefix("pretrained."): value for name, value in backbone.items()}, tmp_path / "b.pth")
    load_backbone_weights(three, tmp_path / "b.pth", log=silent)
    assert three.classes.names == ("a", "b", "c")


@pytest.mark.parametrize(
    "entry, message",
    [
        (torch.zeros(3), f"{CLASSES_KEY} does not hold names and colours"),
        (torch.zeros(3, dtype=torch.uint8), f"{CLASSES_KEY} does not hold"),
        (Classes(("a",), ((1, 2, 300),)).to_tensor(), "0 to 255"),
        (Classes(("a", "b"), ((1, 2, 3),)).to_tensor(), "2 names and 1 colours"),
        (Classes(("a",), ((1, 2, 3),)).to_tensor(), "names 1 classes and has scores of 4"),
        (Classes((1, 2, 3, 4), ((1, 2, 3),) * 4).to_tensor(), "text"),
    ],
)
def test_damaged_entries_are_refused(entry, message, tmp_path):
    torch.save(small().state_dict() | {CLASSES_KEY: entry}, tmp_path / "x.pth")
    network = named()
    with untouched(network, rf"x\.pth.*{message}"):
        load_weights(network, tmp_path / "x.pth", log=silent)
    assert network.classes == CLASSES
    with pytest.raises(ValueError, match="names of 4 classes for a network of 3"):
        named(3)


def test_characters_that_a_terminal_obeys_are_replaced():
    entry = Classes(("a\x1b[2Jb\n", "c"), ((1, 2, 3), (4, 5, 6))).to_tensor()
    assert Classes.from_tensor(entry).names == ("a?[2Jb?", "c")


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_exported_files_name_them(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    export(named(), path, kind, size=(64, 96), fixed_size=True, log=silent)
    if kind == "onnx":
        found = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    else:
        with safe_open(path, "pt") as file:
            found = file.metadata()
        assert read_file(path).classes == CLASSES
    assert json.loads(found["classes"]) == list(CLASSES.names)
    assert json.loads(found["palette"]) == [list(color) for color in CLASSES.palette]
