"""Conversion of both of CVAT's forms: exact label maps, lists, and what is wrong."""

import numpy as np
import pytest
from PIL import Image

from tests.dataset.convert.pictures import HEIGHT, WIDTH, assert_labels, converted, grid, write_picture

LABELS = "<label><name>{}</name><color>{}</color><type>any</type><attributes></attributes></label>"
META = f"""<version>1.1</version><meta><project><labels>
{LABELS.format("road", "#ff0000")}{LABELS.format("car", "#0000ff")}{LABELS.format("sign", "#0000ff")}
<label><name>knee</name><color>#010101</color><type>points</type><parent>person</parent></label>
</labels></project></meta>"""
LEFT = '<box label="road" source="manual" occluded="0" xtl="0" ytl="0" xbr="4" ybr="6" z_order="0"/>'
HALF = " ".join(["0" * 4 + "." * 4] * HEIGHT)


def image_of(name="a.jpg", shapes=LEFT, attributes="") -> str:
    return f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}" {attributes}>{shapes}</image>'


def write_xml(file, *images, meta=META):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>')


def test_every_type_of_shape_by_its_layer(tmp_path):
    shapes = """
        <tag label="road" source="manual"></tag>
        <ellipse label="sign" cx="2" cy="2" rx="2" ry="1" z_order="2"/>
        <mask label="car" rle="0, 2, 1, 1, 1, 4" left="5" top="3" width="3" height="3" z_order="0"/>
        <box label="road" xtl="0.00" ytl="0.00" xbr="8.00" ybr="2.00" z_order="1"/>
        <polygon label="car" points="0.0,4.0;4.0,4.0;4.0,6.0;0.0,6.0"><attribute name="a">1</attribute></polygon>
        <box label="road" xtl="1" ytl="4" xbr="3" ybr="6" rotation="90.0" z_order="0"/>
        <polygon label="sign" points="6,1;8,1;8,4;6,4" z_order="0"/>
        <points label="road" points="1,1" z_order="0"/>
    """
    write_xml(tmp_path / "source/annotations.xml", image_of(shapes=shapes))
    write_picture(tmp_path / "source/images/a.jpg")
    report, found = converted("cvat", tmp_path / "source")
    text = """
        00000000
        22220000
        2222..22
        .....122
        1001.1.1
        1001.111
    """
    assert_labels(found, {"train: a.jpg": text})
    assert [entry["objects"] for entry in report["classes"]] == [2, 2, 2]
    assert "1 object(s) of the type points, which has no area" in report["notes"][0]
    assert (tmp_path / "source_converted/classes.txt").read_text().startswith("road 255 0 0\ncar 0 0 255\nsign ")


def test_subsets_and_folders_are_splits(tmp_path):
    root = tmp_path / "source"
    write_xml(
        root / "annotations.xml",
        image_of("one/a.jpg", attributes='subset="Train"'),
        image_of("one/a.jpg", attributes='subset="Validation"'),
    )
    write_picture(root / "images/Train/one/a.jpg")
    write_picture(root / "images/Validation/one/a.jpg")
    _, found = converted("cvat", root)
    assert_labels(found, {"train: train/one/a.jpg": HALF, "val: val/one/a.jpg": HALF})
    for split in ("train", "valid"):
        write_xml(tmp_path / f"apart/{split}/annotations.xml", image_of("a.png"), meta="")
        write_picture(tmp_path / f"apart/{split}/images/a.PNG")
    _, found = converted("cvat", tmp_path / "apart")
    assert_labels(found, {"train: train/a.PNG": HALF, "val: val/a.PNG": HALF})


BAD = {
    "polygon of 2": ('<polygon label="road" points="1,1;2,2"/>', "a polygon of fewer than 3 points: got 2"),
    "odd": ('<polygon label="road" points="1,1;2,2;3"/>', "an odd number of coordinates"),
    "rle": ('<mask label="road" rle="1,2" left="0" top="0" width="2" height="2"/>', "a damaged run-length code"),
    "box": ('<box label="road" xtl="0" ytl="0" xbr="1"/>', "an attribute that is missing: ybr"),
    "number": ('<box label="road" xtl="0" ytl="0" xbr="1" ybr="x"/>', "what should be numbers is not"),
    "label": ('<box label="roda" xtl="0" ytl="0" xbr="1" ybr="1"/>', "an unknown class: got 'roda'"),
    "type": ('<blob label="road"/>', "an unknown type of shape: got 'blob'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_shapes(tmp_path, kind):
    bad, message = BAD[kind]
    write_xml(tmp_path / "source/annotations.xml", image_of(shapes=LEFT + bad))
    write_picture(tmp_path / "source/images/a.jpg")
    with pytest.raises(ValueError, match=rf"annotations.xml, image a.jpg, \w+ 2 \(\w+\): {message}.*--skip-bad"):
        converted("cvat", tmp_path / "source")
    report, found = converted("cvat", tmp_path / "source", skip_bad=True)
    assert_labels(found, {"train: a.jpg": HALF})
    assert f"1 object(s) {message.partition(':')[0]}" in report["notes"][0]


def test_bad_files(tmp_path):
    file = tmp_path / "source/annotations.xml"
    write_xml(file, '<track id="0" label="road"/>')
    with pytest.raises(ValueError, match='is "CVAT for video 1.1".*export the task as "CVAT for images 1.1"'):
        converted("cvat", file.parent)
    file.write_text("<annotations>")
    with pytest.raises(ValueError, match=r"annotations.xml is no XML file, or a damaged one"):
        converted("cvat", file.parent)
    file.write_text("<other/>")
    with pytest.raises(FileNotFoundError, match="has no annotations of CVAT: looked for\n.*annotations.xml"):
        converted("cvat", file.parent)
    write_xml(file, image_of())
    with pytest.raises(FileNotFoundError, match="1 of 1 images do not exist .*: a.jpg. Export .* with their images"):
        converted("cvat", file.parent)


# --- Segmentation mask 1.1 --------------------------------------------------------------------------------------------

COLORS = {"background": (0, 0, 0), "road": (128, 64, 128), "car": (64, 0, 128), "ignore": (9, 9, 9)}
MASK = "00112233 " * HEIGHT  # background, road, car, ignore


def write_masks(root, lists, folder="", colors=COLORS, palette=False, suffix=".jpg"):
    """Writes coloured masks and their images for the names in each list."""
    names = [name for listed in lists.values() for name in listed]
    table = np.array(list(COLORS.values()), dtype=np.uint8)
    for name in names:
        write_picture(root / "JPEGImages" / f"{name}{suffix}")
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(table[grid(MASK)])
        (mask.convert("P", palette=Image.Palette.ADAPTIVE, colors=4) if palette else mask).save(path)
        (root / "SegmentationObject").mkdir(exist_ok=True)
        mask.save(root / "SegmentationObject" / path.name)
    for listing, listed in lists.items():
        path = root / "ImageSets/Segmentation" / f"{listing}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(listed) + "\n")
    rows = [f"{name}:{','.join(map(str, color))}::" for name, color in colors.items()]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows) + "\n")


VOID_BACKGROUND, ITS_CLASS = "..0011.. " * HEIGHT, "001122.. " * HEIGHT


@pytest.mark.parametrize("palette", [False, True])
def test_masks_with_lists(tmp_path, palette):
    write_masks(tmp_path / "source", {"train": ["a", "b c"], "val": ["sub/a"]}, palette=palette, suffix=".JPG")
    report, found = converted("cvat", tmp_path / "source")
    names = ["train: train/a.JPG", "train: train/b c.JPG", "val: val/sub/a.JPG"]
    assert_labels(found, dict.fromkeys(names, VOID_BACKGROUND))
    assert [entry["name"] for entry in report["classes"]] == ["road", "car"]
    assert report["notes"] == []
    report, found = converted("cvat", tmp_path / "source", tmp_path / "with", background="Nothing")
    assert_labels(found, dict.fromkeys(names, ITS_CLASS))
    assert [entry["name"] for entry in report["classes"]] == ["Nothing", "road", "car"]
    text = (tmp_path / "with/classes.txt").read_text()
    assert text == "Nothing 0 0 0\nroad 128 64 128\ncar 64 0 128\n"


def test_masks_with_a_default_list(tmp_path):
    write_masks(tmp_path / "source", {"default": [f"{number}" for number in range(9)]})
    report, found = converted("cvat", tmp_path / "source", val_fraction=0.3)
    assert sum(report["splits"].values()) == 9 and set(report["splits"]) == {"train", "val"}
    assert all((labels == grid(VOID_BACKGROUND)).all() for labels in found.values())


def test_masks_without_an_entry_for_the_background(tmp_path):
    colors = {name: color for name, color in COLORS.items() if name != "background"}
    write_masks(tmp_path / "source", {"train": ["a"]}, colors=colors)
    assert_labels(converted("cvat", tmp_path / "source")[1], {"train: train/a.jpg": VOID_BACKGROUND})
    _, found = converted("cvat", tmp_path / "source", tmp_path / "with", background="ground")
    assert_labels(found, {"train: train/a.jpg": ITS_CLASS})


def test_masks_in_a_folder_for_each_split(tmp_path):
    for split in ("train", "val"):
        write_masks(tmp_path / "source" / split, {"default": ["a"]})
    _, found = converted("cvat", tmp_path / "source")
    assert_labels(found, dict.fromkeys(["train: train/a.jpg", "val: val/a.jpg"], VOID_BACKGROUND))


def test_bad_masks(tmp_path):
    root = tmp_path / "source"
    write_masks(root, {"train": ["a", "b", "c", "d"]})
    (root / "SegmentationClass/b.png").unlink()
    with pytest.raises(ValueError, match=r"the mask .*b.png does not exist.*--skip-bad"):
        converted("cvat", root)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (70, 77, 77), dtype=np.uint8)).save(root / "SegmentationClass/b.png")
    with pytest.raises(ValueError, match=r"mask .*b.png holds 1 colour\(s\) that are no class: \(70, 77, 77\)"):
        converted("cvat", root)
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1, 3), dtype=np.uint8)).save(root / "SegmentationClass/c.png")
    (root / "JPEGImages/d.jpg").unlink()
    report, found = converted("cvat", root, skip_bad=True)
    assert_labels(found, {"train: train/a.jpg": VOID_BACKGROUND})
    assert [line.partition(" image(s) ")[2].partition(":")[0] for line in report["notes"]] == [
        "of another size than their annotations", "whose mask cannot be read", "without a file",
    ]  # fmt: skip
    (root / "labelmap.txt").unlink()
    with pytest.raises(FileNotFoundError, match="labelmap.txt does not exist, which names the colours"):
        converted("cvat", root)
