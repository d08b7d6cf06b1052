"""Windows, protocols and several processes in eval.py."""

import argparse
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dataset import build_dataset
from dataset.loading.transforms import normalize
from engine.config.evaluation import ProtocolConfig
from engine.config.protocol import Protocol, default_protocol
from engine.evaluation.evaluator import KernelTuning
from tests.conftest import STUDENT
from tests.networks import build_varied, save_varied
from tests.processes import run_mains, run_processes
from tests.pseudo_datasets import write_pseudo_dataset
from utils.flags import add_section_flags
from utils.metrics import ConfusionMatrix


def protocol(*words, model="deeplabv3", dataset="citys") -> Protocol:
    parser = argparse.ArgumentParser()
    add_section_flags(parser, ProtocolConfig)
    given = vars(parser.parse_args(list(map(str, words))))
    return ProtocolConfig(**given).protocol(default_protocol(model, dataset))


def test_segformer_on_cityscapes_is_evaluated_in_halves_by_default():
    halves = Protocol((1024, 1024), (1024, 1024))
    assert protocol(model="segformer") == halves
    assert "windows of 1024x1024 every 1024x1024" in str(halves)
    assert protocol("--no-slide", model="segformer") == protocol(model="segformer", dataset="ade20k") == Protocol()
    assert protocol("--slide-crop", 768, model="segformer") == Protocol((768, 768), (768, 768))
    assert protocol("--slide-stride", 512, 512, model="segformer") == Protocol((1024, 1024), (512, 512))


def test_flags_make_the_protocol():
    words = ["--slide-crop", 64, 96, "--slide-stride", 32, 96, "--window-batch", 3, "--scales", 0.5, 1, "--flip-eval"]
    assert protocol(*words) == Protocol((64, 96), (32, 96), 3, (0.5, 1.0), True)
    text = "windows of 64x96 every 32x96 pixels, scales 0.5, 1, with mirror images"
    assert str(protocol(*words)) == text
    assert protocol() == Protocol() and str(Protocol()) == "whole images, scale 1, no mirror images"


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--slide-crop", 64, 64, "--slide-stride", 65, 64],
            r"--slide-stride \[65, 64\]: expected at most .* \[64, 64\]",
        ),
        (["--slide-stride", 64, 64], r"--slide-stride \[64, 64\]: expected --slide-crop H W beside it"),
        (["--slide-crop", 0, 64], "--slide-crop .*at least 1 pixel"),
        (["--slide-crop", 64, 64, 64], "--slide-crop .*height and width"),
        (["--slide-crop", 64, "--slide-stride", 0], "--slide-stride .*at least 1 pixel"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        protocol(*words)


def test_kernels_are_tuned_only_while_all_images_have_one_size(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with KernelTuning() as tuning:
        for size, tuned in (((1, 3, 8, 8), True), ((1, 3, 8, 8), True), ((1, 3, 8, 9), False), ((1, 3, 8, 9), False)):
            tuning.note(torch.Size(size))
            assert torch.backends.cudnn.benchmark is tuned
    assert torch.backends.cudnn.benchmark is True


def test_halves_equal_whole_images_assembled_by_hand(run_main, tmp_path, capsys):
    """Each half through SegFormer, low-resolution logits joined, one resize to the image."""
    root = write_pseudo_dataset("citys", tmp_path / "citys", size=(64, 128), count=2)
    torch.manual_seed(3)
    network = build_varied("segformer", "MiT_B0", 19).eval()
    torch.save(network.state_dict(), tmp_path / "network.pth")
    dataset, expected = build_dataset("citys", root, "val"), ConfusionMatrix(19)
    for image, truth in (dataset[index] for index in range(2)):
        images = normalize(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], torch.tensor([[64, 128]]))
        with torch.no_grad():
            halves = [network(half, need_aux=False).logits for half in images.chunk(2, dim=-1)]
        logits = F.interpolate(torch.cat(halves, -1), size=(64, 128), mode="bilinear", align_corners=True)
        expected.update(logits.argmax(1), torch.from_numpy(truth)[None])
    words = ["--model", "segformer", "--backbone", "MiT_B0", "--pretrained", tmp_path / "network.pth", "--workers", 0]
    words += ["--dataset", "citys", "--data", root, "--device", "cpu", "--save-dir", tmp_path]
    matrices = {}
    for name, flags in (("halves", ["--slide-crop", 64, 64]), ("published", []), ("whole", ["--no-slide"])):
        run_main("eval", *words, "--save-dir-name", name, *flags)
        matrices[name] = json.loads((tmp_path / name / "results.json").read_text())["confusion_matrix"]
    assert matrices["halves"] == expected.compute().matrix.tolist()
    assert matrices["published"] == matrices["whole"] != matrices["halves"]  # windows of 1024x1024 hold these images
    shown = capsys.readouterr().out
    assert "windows of 64x64" in shown and "windows of 1024x1024" in shown and "whole images" in shown


def evaluations(words: list, folder: Path) -> list[tuple[str, list]]:
    """eval.py on the validation images, and on the test images for a submission."""
    words = [*words, "--save-dir", folder, "--save-dir-name"]
    submission = ["--split", "test", "--any-count", "--submission", folder / "out.zip"]
    return [("eval", [*words, "val", "--panel", "--boundary-iou"]), ("eval", [*words, "test", *submission])]


def test_results_do_not_depend_on_processes_and_window_batch(tmp_path, monkeypatch):
    root = write_pseudo_dataset("citys", tmp_path / "citys", size=(40, 72), count=3)
    save_varied(tmp_path / "network.pth", STUDENT, 19)
    words = ["--model", *STUDENT[:1], "--backbone", STUDENT[1], "--pretrained", tmp_path / "network.pth"]
    words += ["--dataset", "citys", "--data", root, "--device", "cpu", "--workers", 0, "--scales", 0.75, 1]
    words += ["--flip-eval", "--slide-crop", 32, 48, "--slide-stride", 24, 32, "--window-batch"]
    monkeypatch.setattr(sys, "argv", sys.argv)
    for batch in (1, 4):
        run_mains(*evaluations([*words, batch], tmp_path / f"one_{batch}"))
    run_processes(run_mains, 2, *evaluations([*words, 3], tmp_path / "two"))
    results = [json.loads((tmp_path / name / "val/results.json").read_text()) for name in ("one_1", "one_4", "two")]
    for name in ("confusion_matrix", "classes", "boundary_miou", "boundary_miou_present"):
        assert results[0][name] == results[1][name] == results[2][name]
    assert sum(map(sum, results[0]["confusion_matrix"])) > 0.5 * 3 * 40 * 72 and results[0]["boundary_miou"] > 0
    submissions = [(tmp_path / name / "out.zip").read_bytes() for name in ("one_1", "one_4", "two")]
    assert submissions[0] == submissions[1] == submissions[2]
    with zipfile.ZipFile(tmp_path / "two/out.zip") as archive:
        assert len(archive.namelist()) == 3
    assert not (tmp_path / "two/out.zip.parts").exists()
    panels = [sorted((tmp_path / name / "val/panels").iterdir()) for name in ("one_1", "two")]
    assert [path.name for path in panels[0]] == [path.name for path in panels[1]] and len(panels[0]) == 3
    for left, right in zip(*panels, strict=True):
        assert Image.open(left).tobytes() == Image.open(right).tobytes()
