"""A checkpoint's name identifies its network and data set, for every released file and every run."""

import json
from pathlib import Path

import pytest

from dataset import DATASETS
from engine.config.identify import Identity, checkpoint_stem, read_name
from models import resolve_names
from models.weights.file_names import CLASS_COUNTS

RELEASED = Path(__file__).parents[2] / "data" / "released.json"
BY_FILE = {entry["file"]: entry for entry in json.loads(RELEASED.read_text())}


def test_class_counts_are_those_of_the_data_sets():
    assert CLASS_COUNTS == {name: len(DATASETS[name].CLASSES) for name in DATASETS if name in CLASS_COUNTS}
    assert {name for name, dataset in DATASETS.items() if getattr(dataset, "CLASSES", ())} == set(CLASS_COUNTS)


@pytest.mark.parametrize("file", BY_FILE)
def test_released_names_identify_network_and_data_set(file):
    assert len(BY_FILE) == 24
    entry = BY_FILE[file]
    expected = Identity(entry["model"], entry["backbone"], entry["dataset"])
    for variant in (file, f"some/folder/{file}", file.replace("_best_model", ""), file.replace(".pth", ".safetensors")):
        assert read_name(variant) == expected
    stem = checkpoint_stem(entry["model"], entry["backbone"], entry["dataset"], distilled=file.startswith("kd_"))
    assert f"{stem}_best_model.pth" == file.replace("segformer_MiT_B4_segformer_MiT_B0", "segformer_MiT_B0")


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    "network",
    [
        ("pspnet", "mobilenetv2"),
        ("deeplabv3", "mobilenetv3_large"),
        ("segformer", "mit_b5"),
        ("upernet", "timm:mobilenetv4_conv_small.e2400_r224_in1k"),
        ("psp", "timm:swin_tiny_patch4_window7_224"),
        ("psp", "timm:tf_efficientnet_lite0@16"),
        ("psp", "timm:mobilenetv4_conv_small.e2400_r224_in1k@32"),
    ],
)
def test_a_run_is_named_by_the_resolved_network_which_is_read_back(network, dataset, distilled):
    stem = checkpoint_stem(*network, dataset, distilled)
    assert stem.startswith("kd_") == distilled
    expected = Identity(*resolve_names(*network), dataset)
    assert read_name(f"{stem}.pth") == read_name(f"{stem}_best_model.pth") == expected


def test_a_timm_name_that_cannot_be_restored_makes_a_file_name_without_identity():
    stem = checkpoint_stem("psp", "timm:hf-hub:timm/resnet18.a1_in1k", "voc")
    assert stem == "psp_timm-hf-hub-timm-resnet18.a1_in1k_voc" and read_name(f"{stem}.pth") is None


@pytest.mark.parametrize(
    "name",
    [
        "best.pth",
        "last_state.pth",
        "psp_mobile_voc_best_model.pth",
        "mobilenetv3_small_voc.pth",
        "kd_psp_mobile_mobilenetv3_small_kitti_best_model.pth",
        "psp_mobile_mobilenetv3_small_voc_worst_model.pth",
        "my_psp_mobile_mobilenetv3_small_voc.pth",
        "segformer_MiT_B4_segformer_MiT_B0_citys.pth",  # teacher and student, but not distilled
        "psp_mobile_mobilenetv3_small_voc.onnx",
        "psp_mobile_mobilenetv3_small_voc",
    ],
)
def test_other_names_identify_nothing(name):
    assert read_name(name) is None
