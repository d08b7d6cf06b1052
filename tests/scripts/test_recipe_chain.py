"""The recipes, run: teacher, student alone, distilled student, evaluation and pictures, on a tiny data set each."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pseudo_datasets import write_pseudo_dataset

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
RECIPES = json.loads((SCRIPTS.parent / "tests/data/recipes.json").read_text())
SMALL = (  # gradients are clipped, for a teacher of one step can have features of 1e7
    "--batch-size 2 --crop-size 48 64 --max-iterations 1 --log-iter 1 --workers 0 --device cpu --clip-grad 1"
    " --pixel-memory-size 8 --region-memory-size 8 --channel-memory-size 8"
    " --pixel-contrast-size 64 --region-contrast-size 64 --channel-contrast-size 64 --skip-teacher-check"
).split()
# data set -> variable of its root, folder, student's script, model and backbone
CHAINS = {
    "citys": ("CITYS_ROOT", "cityscapes", "segformer_b0", "segformer", "MiT_B0"),
    "voc": ("VOC_ROOT", "pascal_voc", "pspnet_mobilenetv3_large", "psp_mobile", "mobilenetv3_large"),
    "camvid": ("CAMVID_ROOT", "camvid", "pspnet_mobilenetv3_small", "psp_mobile", "mobilenetv3_small"),
    "ade20k": (
        "ADE20K_ROOT", "ade20k", "deeplabv3_mobilenetv3_large", "deeplabv3_mobilenet_ssseg", "mobilenetv3_large"
    ),
    "coco_stuff_164k": (
        "COCO_STUFF_ROOT", "coco_stuff_164k", "pspnet_mobilenetv3_small", "psp_mobile", "mobilenetv3_small"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "dataset",
    [name if name in ("citys", "ade20k") else pytest.param(name, marks=pytest.mark.slow) for name in CHAINS],
)
def test_recipes_run_one_after_the_other(tmp_path, run_main, capsys, dataset):
    root, folder, script, model, backbone = CHAINS[dataset]
    teacher_script = "segformer_b4" if dataset == "citys" else "deeplabv3_resnet101"
    teacher = "segformer_MiT_B4" if dataset == "citys" else "deeplabv3_resnet101"
    size = (64, 128) if dataset == "citys" else (48, 64)
    write_pseudo_dataset(dataset, tmp_path / "data", size=size, count=2)
    small = SMALL[: SMALL.index("--pixel-memory-size")]
    runs, checkpoints = tmp_path / "runs", tmp_path / "ckpt"
    checkpoints.mkdir()
    environment = os.environ | {
        root: str(tmp_path / "data"),
        "SAVE_ROOT": str(runs),
        "CKPT_ROOT": str(checkpoints),
        "NPROC": "1",
        "DRY_RUN": "1",
    }

    def run(path: str, *words: str) -> str:
        """Runs what the script would start in this process, and returns what it prints."""
        line = subprocess.check_output(["bash", SCRIPTS / path, *words], cwd=tmp_path, env=environment, text=True)
        _, program, *flags = shlex.split(line)
        run_main(Path(program).stem, *flags)
        return capsys.readouterr().out

    def publish(stem: str, name: str) -> None:
        shutil.copy(runs / stem / f"{stem}_best_model.pth", checkpoints / name)

    run(f"train_teacher/{folder}/{teacher_script}.sh", *small, "--pretrained-base", "None")
    publish(f"{teacher}_{dataset}", f"{teacher}_{dataset}_best_model.pth")
    run(f"train_baseline/{folder}/{script}.sh", *small, "--pretrained-base", "None")
    stem = f"{model}_{backbone}_{dataset}"
    assert (runs / stem / f"{stem}.pth").is_file()
    groups_of_4 = ("--batch-size", "4")  # the recipes' --minibatch-partners local:N
    run(f"train_cirkdv2/{folder}/{script}.sh", *SMALL, *groups_of_4, "--student-pretrained-base", "None")
    losses = [json.loads(line) for line in (runs / f"kd_{stem}" / "metrics.jsonl").read_text().splitlines()]
    assert {name for name in losses[0] if name.startswith("loss_")} >= {"loss_kd", "loss_memory_pixel", "loss_task"}

    row = next((row for row in RECIPES["students"] if row["script"] == f"{folder}/{script}.sh"), None)
    released = row["released_checkpoint"] if row else f"kd_{stem}_best_model.pth"
    publish(f"kd_{stem}", released)
    shown = run(f"evaluation/{folder}/{script}.sh", "--workers", "0", "--device", "cpu", "--save-dir-name", "evaluated")
    assert "mIoU" in shown and (runs / "evaluated/results.json").is_file()
    if script == "segformer_b0":
        assert "1024x1024" in shown  # the published protocol
    words = ("--pretrained", str(checkpoints / released), "--model", model, "--backbone", backbone)
    run(f"visualize/{folder}.sh", *words, "--workers", "0", "--device", "cpu", "--save-dir-name", "pictures")
    for kind in ("masks", "blends", "panels"):
        assert len(list((runs / "pictures" / kind).glob("*.png"))) == 2, kind
