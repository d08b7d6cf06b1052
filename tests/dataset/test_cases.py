"""Data sets as people have them: each gives the labels of the plain one, or says what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import build_dataset
from dataset.check.checks import check_dataset
from dataset.config import ReadingConfig
from tests.pseudo_datasets import block_mask, textured_image

NAMES = ("road", "traffic light", "sky")
COLORS = ((128, 64, 128), (250, 170, 30), (70, 130, 180))
COUNT = {"train": 3, "val": 2}
PAINT = np.zeros((256, 3), dtype=np.uint8)
PAINT[:3] = COLORS
SIZE = (32, 48)


def labels(split: str, number: int, values=(0, 1, 2, 255)) -> np.ndarray:
    return block_mask(SIZE, values, seed=number + 10 * (split == "val"))


def write(root: Path, image="images/{split}/{n}.jpg", mask="labels/{split}/{n}.png", change=lambda m: m, **options):
    """Images and masks in folders; `change` is what is done to a mask before it is written."""
    for split, count in COUNT.items():
        for n in range(count):
            for path, pixels in ((image, textured_image(SIZE, n)), (mask, change(labels(split, n)))):
                path = root / path.format(split=options.get("names", {}).get(split, split), n=n)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    classes = options.get("classes", NAMES)
    (root / "classes.txt").write_text("".join(f"{line}\n" for line in classes))
    return root


def colored(mask):
    return PAINT[mask]


def wrong_by_jpeg(mask):
    """Colours as a strong compression leaves them."""
    noise = np.random.default_rng(0).integers(-9, 10, (*mask.shape, 3))
    return (PAINT[mask].astype(int) + noise).clip(0, 255).astype(np.uint8)


def with_colors(names=NAMES):
    return [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(names, COLORS, strict=True)]


def class_dict(root, name="class_dict.csv", head="name,r,g,b", row="{name},{r},{g},{b}"):
    lines = [row.format(name=name, r=r, g=g, b=b) for name, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    (root / "classes.txt").unlink()
    (root / name).write_text("\n".join([head, *lines] if head else lines) + "\n")
    return root


def rgba(mask):
    return np.dstack([PAINT[mask], np.full(mask.shape, 200, dtype=np.uint8)])


def sixteen_bits(mask):
    return np.where(mask == 255, 40000, mask.astype(int) * 1000 + 500).astype(np.uint16)


def one_based(mask):
    return np.where(mask == 255, 0, mask + 1).astype(np.uint8)


PLAIN: dict[str, tuple[Callable[[Path], Path], dict]] = {
    "images, labels": (write, {}),
    "img_dir, ann_dir": (lambda r: write(r, "img_dir/{split}/{n}.PNG", "ann_dir/{split}/{n}.png"), {}),
    "split first": (
        lambda r: write(r, "{split}/images/{n}.jpg", "{split}/masks/{n}_mask.png", names={"val": "valid"}),
        {},
    ),
    "split and kind in one": (
        lambda r: write(r, "{split}/{n}.png", "{split}_labels/{n}_L.png", colored, classes=with_colors()),
        {},
    ),
    "upper case, nested": (
        lambda r: write(
            r,
            "Images/{split}/town/{n}.jpg",
            "Annotations/{split}/town/{n}_labelTrainIds.png",
            names={"val": "Validation"},
        ),
        {},
    ),
    "Cityscapes' names": (
        lambda r: write(r, "leftImg8bit/{split}/a/{n}_leftImg8bit.png", "gtFine/{split}/a/{n}_gtFine_labelIds.png"),
        {},
    ),
    "kind and split in one": (lambda r: write(r, "img_{split}/{n}.jpg", "masks-{split}/{n}.png"), {}),
    "beside each other": (lambda r: write(r, "{split}/{n}.jpg", "{split}/{n}_mask.png"), {}),
    "names like endings": (lambda r: write(r, "images/{split}/{n}_l.jpg", "labels/{split}/{n}_l.png"), {}),
    "colours": (lambda r: write(r, change=colored, classes=with_colors()), {}),
    "colours, transparent": (lambda r: write(r, change=rgba, classes=with_colors()), {}),
    "colours, void named": (lambda r: write(r, change=colored, classes=[*with_colors(), "void 0 0 0 = 255"]), {}),
    "colours, void last": (lambda r: write(r, change=colored, classes=[*with_colors(), "void 0 0 0"]), {}),
    "colours with noise": (
        lambda r: write(r, change=wrong_by_jpeg, classes=with_colors()),
        {"color_tolerance": 9},
    ),
    "class_dict.csv": (lambda r: class_dict(write(r, change=colored)), {}),
    "label_colors.txt": (
        lambda r: class_dict(write(r, change=colored), "label_colors.txt", "0 0 0\tVoid", "{r} {g} {b}\t{name}"),
        {},
    ),
    "labelmap.txt": (
        lambda r: class_dict(
            write(r, change=colored), "labelmap.txt", "# label:color_rgb:parts:actions", "{name}:{r},{g},{b}::"
        ),
        {},
    ),
    "grey in three channels": (lambda r: write(r, change=lambda m: np.dstack([m] * 3)), {}),
    "grey in three channels, classes with colours": (
        lambda r: write(
            r, change=lambda m: np.dstack([m] * 3), classes=["road 9 8 7", "traffic light 9 9 8", "sky 1 2 3"]
        ),
        {},
    ),
    "from 1, flags": (lambda r: write(r, change=one_based), {"mask_values": (1, 2, 3), "void_values": (0,)}),
    "from 1, file": (
        lambda r: write(r, change=one_based, classes=[*(f"{n} = {i}" for i, n in enumerate(NAMES, 1)), "void = 0 255"]),
        {},
    ),
    "several values": (
        lambda r: write(
            r,
            change=lambda m: np.where(m == 1, 7, np.where(m == 2, 90, m)).astype(np.uint8),
            classes=["road = 0", "traffic light = 7 8 9", "sky = 90"],
        ),
        {},
    ),
    "16 bits": (
        lambda r: write(r, change=sixteen_bits),
        {"mask_values": (500, 1500, 2500), "void_values": (40000,)},
    ),
    "Roboflow": (
        lambda r: class_dict(
            write(r, "{split}/{n}.jpg", "{split}/{n}_mask.png"),
            "_classes.csv",
            "Pixel Value, Class\n0, road\n1, traffic light\n2, sky",
            "",
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_labels_are_the_plain_ones(case, tmp_path):
    make, flags = PLAIN[case]
    root, reading = make(tmp_path), ReadingConfig(**flags)
    for split, count in COUNT.items():
        data = build_dataset("custom", root, split, reading=reading)
        assert data.classes == list(NAMES) and len(data) == count
        for n, path in enumerate(data.image_paths):
            assert Path(path).stem.startswith(str(n))
            np.testing.assert_array_equal(data[n][1], labels(split, n))
            np.testing.assert_array_equal(data.view_mask(n), labels(split, n))
        assert not [line for line in data.check_samples() if line.startswith("WARNING")]
    report = check_dataset("custom", root, workers=0, reading=reading)
    assert report["ok"], report["splits"]


def binary(mask):
    return np.where(mask == 1, 255, 0).astype(np.uint8)


def train_ids_in_values(root, name):
    write(root, "leftImg8bit/{split}/a/a_{n}_leftImg8bit.png", f"gtFine/{{split}}/a/a_{{n}}_gtFine_{name}.png")
    return root


REFUSED: dict[str, tuple[Callable[[Path], Path], dict, str, str]] = {
    "0 and 255": (
        lambda r: write(r, change=binary, classes=["background", "road"]),
        {},
        "hold 0, 255 alone.*'road'.*--mask-values 0 255.*--void-values 255",
        "binary masks",
    ),
    "0 and 255 in three channels": (
        lambda r: write(r, change=lambda m: np.dstack([binary(m)] * 3), classes=["background", "road"]),
        {},
        "hold 0, 255 alone",
        "binary masks",
    ),
    "0 and 255, one class": (
        lambda r: write(r, change=binary, classes=["road"]),
        {},
        "background as the first class.*--mask-values 255 --void-values 0",
        "binary masks",
    ),
    "from 1": (
        lambda r: write(r, change=one_based),
        {},
        "hold 0-3 and there are 3 classes.*--mask-values 1 2 3 --void-values 0",
        "numbered from 1",
    ),
    "void only": (lambda r: write(r, change=lambda m: np.full_like(m, 255)), {}, "every pixel is void", "no labels"),
    "an unknown colour": (
        lambda r: write(
            r, change=lambda m: np.where(m[..., None] == 1, np.uint8([251, 170, 33]), PAINT[m]), classes=with_colors()
        ),
        {},
        r"0\.png holds 1 colour\(s\) that are no class: \(251, 170, 33\) \(\d+ pixels\).*nearest.*\(250, 170, 30\), "
        "traffic light.*--color-tolerance 3",
        "illegal value",
    ),
    "colours without a map": (
        lambda r: write(r, change=colored),
        {},
        "coloured, and no class has a colour",
        "illegal value",
    ),
    "several kinds of folders": (
        lambda r: (write(r), write(r, "img/{split}/{n}.jpg"))[0],
        {},
        r"images/\{split\} \(5 files\), .*img/\{split\} \(5 files\)|img.*images",
        "unusable list",
    ),
    "two files of one name": (
        lambda r: (write(r), write(r, "images/{split}/{n}.png"))[0],
        {},
        "0.jpg and .*0.png have one name",
        "unusable list",
    ),
    "no validation split": (
        lambda r: (write(r), shutil.rmtree(r / "images/val"), shutil.rmtree(r / "labels/val"), r)[-1],
        {},
        "--val-fraction 0.1 takes",
        "missing folder or list",
    ),
    "val_fraction beside a split": (write, {"val_fraction": 0.5}, "has a validation split of its own", "unusable list"),
    "values of other number": (
        write,
        {"mask_values": (0, 1)},
        "--mask-values 0 1: expected one for each of the 3",
        "unusable list",
    ),
    "a value with two meanings": (
        lambda r: write(r, classes=[*NAMES, "void = 0"]),
        {},
        "mask value 0 is void and that of class 'road'",
        "unusable list",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_with_the_way_out(case, tmp_path):
    make, flags, message, kind = REFUSED[case]
    root, reading = make(tmp_path), ReadingConfig(**flags)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}") as caught:
        for split in ("val", "train"):
            build_dataset("custom", root, split, reading=reading).check_samples()
    assert len(str(caught.value)) < 2500
    report = check_dataset("custom", root, workers=0, reading=reading)
    kinds = {problem["kind"] for entry in report["splits"].values() for problem in entry["problems"]}
    assert not report["ok"] and kind in kinds, kinds


@pytest.mark.parametrize(("reading", "expected"), [
    ({"mask_values": (0, 255)}, {0: 0, 1: 1, 2: 0, 255: 0}),
    ({"void_values": (255,)}, {0: 0, 1: 255, 2: 0, 255: 0}),
])  # fmt: skip
def test_the_ways_out_of_binary_masks(tmp_path, reading, expected):
    root = write(tmp_path, change=binary, classes=["background", "road"])
    data = build_dataset("custom", root, "train", reading=ReadingConfig(**reading))
    data.check_samples()
    lookup = np.array([expected.get(value, 9) for value in range(256)], dtype=np.uint8)
    np.testing.assert_array_equal(data[0][1], lookup[labels("train", 0)])


def test_a_class_without_a_pixel_is_named(tmp_path):
    root = write(tmp_path, classes=[*NAMES, "unicorn"])
    (line,) = build_dataset("custom", root, "train").check_samples()
    assert line.startswith("WARNING: train: in all masks 1 of 4 classes have no pixel: unicorn")
    report = check_dataset("custom", root, workers=0)
    assert [p["kind"] for p in report["splits"]["train"]["problems"]] == ["class without a pixel"]
    assert not report["splits"]["val"]["problems"]


@pytest.mark.parametrize(("name", "refused"), [("labelTrainIds", False), ("labelIds", True)])
def test_train_ids_of_cityscapes_are_recognised(tmp_path, name, refused):
    root = train_ids_in_values(tmp_path, name)
    data = build_dataset("citys", root, "train")
    if refused:
        with pytest.raises(ValueError, match="seem to hold train ids.*--mask-values 0 1 2 .* 18"):
            data.check_samples()
        data = build_dataset("citys", root, "train", reading=ReadingConfig(mask_values=tuple(range(19))))
    data.check_samples()
    np.testing.assert_array_equal(data[1][1], labels("train", 1))


def test_what_was_recognised_and_left_over_is_said(tmp_path):
    root = write(tmp_path)
    (root / "labels/train/0.png").unlink()
    Image.new("L", (4, 4)).save(root / "labels/train/spare.png")
    Image.new("RGB", (4, 4)).save(root / "logo.png")
    data = build_dataset("custom", root, "train")
    recognised, *left = data.notes
    assert "images in images/{split}, masks in labels/{split}" in recognised and "2 train, 2 val" in recognised
    assert [line.split(":")[1].strip() for line in left] == [
        "1 image(s) have no mask and are left out", "1 mask(s) have no image and are left out",
        "1 file(s) lie beside these folders and are left out",
    ]  # fmt: skip


def test_a_fraction_validates_the_same_for_ever(tmp_path):
    for n in range(200):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.new("L", (8, 8)).save(tmp_path / kind / f"{n}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    reading = ReadingConfig(val_fraction=0.1)
    parts = [build_dataset("custom", tmp_path, split, reading=reading) for split in ("train", "val")]
    names = [{Path(path).name for path in part.image_paths} for part in parts]
    assert len(names[0] | names[1]) == 200 and not names[0] & names[1] and 10 <= len(names[1]) <= 30
    for n in range(0, 200, 2):  # half of them go: what remains stays where it was
        (tmp_path / "images" / f"{n}.png").unlink()
        (tmp_path / "masks" / f"{n}.png").unlink()
    left = {Path(path).name for path in build_dataset("custom", tmp_path, "val", reading=reading).image_paths}
    assert left == {name for name in names[1] if int(name[:-4]) % 2}
