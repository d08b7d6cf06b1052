"""Every recipe is complete, is what was published, and is understood by the program it starts."""

import functools
import importlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train_kd
from engine.config.methods import KDConfig, method_names
from models import resolve_names
from tests.configs import make_config
from utils.flags import record

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
RECIPES = json.loads((ROOT / "tests/data/recipes.json").read_text())
KINDS = ("train_baseline", "train_cirkdv2", "train_kd", "train_teacher", "evaluation", "visualize")
ALL = sorted(str(path.relative_to(SCRIPTS)) for kind in KINDS for path in (SCRIPTS / kind).rglob("*.sh"))
ALL.append("test_cityscapes.sh")
CAMVID_ROWS = {
    "deeplabv3_resnet18": ("deeplabv3", "resnet18"),
    "pspnet_resnet18": ("psp", "resnet18"),
    "deeplabv3_mobilenetv3_small": ("deeplabv3_mobilenet_ssseg", "mobilenetv3_small"),
    "pspnet_mobilenetv3_small": ("psp_mobile", "mobilenetv3_small"),
}
OPTIMISATION = {
    "batch_size": "--batch-size",
    "crop_size": "--crop-size",
    "max_iterations": "--max-iterations",
    "optimizer": "--optimizer-type",
    "lr": "--lr",
    "weight_decay": "--weight-decay",
    "momentum": "--momentum",
}


def rows() -> list[dict]:
    """The published rows, and CamVid's with the settings that were published for the first CIRKD."""
    voc = next(row for row in RECIPES["students"] if row["dataset"] == "voc")
    camvid = {"dataset": "camvid", "crop_size": [360, 360], "max_iterations": 40000, "lr": 0.02, "lambda_fitnet": 1.0}
    return RECIPES["students"] + [
        voc | camvid | {"script": f"camvid/{name}.sh", "student_model": model, "student_backbone": backbone}
        for name, (model, backbone) in CAMVID_ROWS.items()
    ]


def flags(words: list[str]) -> dict[str, list[str]]:
    """Flags with their values; each may stand once."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            assert word not in found, f"{word} stands twice"
            found[word] = []
        else:
            found[list(found)[-1]].append(word)
    return found


def expect(given: dict[str, list[str]], expected: dict[str, object]) -> None:
    """Each flag has its value; None: it is not there."""
    for flag, value in expected.items():
        if value is None:
            assert flag not in given
            continue
        values = value if isinstance(value, list) else [value]
        assert flag in given, f"{flag} is not written out"
        if isinstance(values[0], str):
            assert given[flag] == values, flag
        else:
            assert [float(word) for word in given[flag]] == [float(v) for v in values], flag


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Function: script -> the words it would start; in a copy without data, checkpoints and environment."""
    copy = tmp_path_factory.mktemp("bare") / "pro ject"
    shutil.copytree(SCRIPTS, copy / "scripts")
    tools = copy.parent / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool))
    before = sorted(copy.rglob("*"))

    @functools.cache
    def call(script: str, *words: str, **variables: str) -> list[str]:
        done = subprocess.run(
            ["bash", str(copy / "scripts" / script), *words],
            cwd="/", env={"PATH": str(tools), "DRY_RUN": "1", **variables}, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert sorted(copy.rglob("*")) == before
        lines = done.stdout.splitlines()
        assert len(lines) == 1 and not done.stderr
        return shlex.split(lines[0])

    return call


def test_published_pairs():
    """METHOD: (i, i) alone on Cityscapes and with SegFormer, 2 x 2 on ADE20K and COCO-Stuff, 4 x 4 on VOC."""
    images = {(row["dataset"], row["batch_size"] // row["gpus_cirkdv2"]) for row in RECIPES["students"]}
    assert images == {("citys", 1), ("ade20k", 2), ("coco_stuff_164k", 2), ("voc", 4)}
    for script, group in (("cityscapes/segformer_b0", 1), ("ade20k/upernet_resnet18", 2)):
        text = (SCRIPTS / f"train_cirkdv2/{script}.sh").read_text()
        assert f"--minibatch-partners local:{group} " in text and f"that is local:{group}." in text


def test_every_published_row_has_its_scripts():
    expected = {
        f"{kind}/{row['script']}" for row in rows() for kind in ("train_baseline", "train_cirkdv2", "evaluation")
    }
    folders = ("cityscapes", "pascal_voc", "ade20k", "coco_stuff_164k", "camvid")
    expected |= {f"train_teacher/{folder}/deeplabv3_resnet101.sh" for folder in folders}
    expected |= {"train_teacher/cityscapes/segformer_b4.sh", "test_cityscapes.sh", "visualize/embeddings.sh"}
    expected |= {f"visualize/{folder}.sh" for folder in folders} | {f"train_kd/{name}.sh" for name in method_names()}
    assert set(ALL) == expected
    assert len(rows()) == 19 + 4


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["script"])
@pytest.mark.parametrize("kind", ["train_baseline", "train_cirkdv2"])
def test_recipe_writes_out_every_published_setting(dry_run, kind, row):
    words = dry_run(f"{kind}/{row['script']}")
    assert Path(words[1]).name == f"{kind}.py"
    given = flags(words[2:])
    expected = {flag: row[name] for name, flag in OPTIMISATION.items()} | {"--dataset": row["dataset"]}
    if kind == "train_baseline":
        expected |= {"--model": row["student_model"], "--backbone": row["student_backbone"]}
        assert "--pretrained-base" in given
        # COCO-Stuff's baselines were published with the last checkpoint: one validation, at the end
        expected["--val-per-iters"] = 80000 if row["dataset"] == "coco_stuff_164k" else None
    else:
        names = ("teacher_model", "teacher_backbone", "student_model", "student_backbone")
        names += tuple(n for n in row if n.startswith("lambda_") or n.endswith(("_memory_size", "_contrast_size")))
        assert len(names) == 4 + 8 + 6
        expected |= {f"--{name.replace('_', '-')}": row[name] for name in names}
        # the published code compares the images of one GPU; nothing was published for CamVid
        images = row["batch_size"] // row["gpus_cirkdv2"]
        expected["--minibatch-partners"] = None if row["dataset"] == "camvid" else f"local:{images}"
        teacher = next(t for t in [*RECIPES["teachers"], {}] if t.get("dataset") == row["dataset"] or not t)
        files = {t["released_checkpoint"] for t in RECIPES["teachers"]}
        name = Path(given["--teacher-pretrained"][0]).name
        assert name in files or not teacher
        assert name == f"{row['teacher_model']}_{row['teacher_backbone']}_{row['dataset']}_best_model.pth"
        assert "--student-pretrained-base" in given
    expect(given, expected)


@pytest.mark.parametrize("row", RECIPES["students"], ids=lambda row: row["script"])
def test_evaluation_takes_the_released_checkpoint(dry_run, row):
    given = flags(dry_run(f"evaluation/{row['script']}")[2:])
    expect(given, {"--model": row["student_model"], "--backbone": row["student_backbone"], "--dataset": row["dataset"]})
    assert Path(given["--pretrained"][0]).name == row["released_checkpoint"]
    assert ("--slide-crop" in given) == (row["student_model"] == "segformer")


@pytest.mark.parametrize("method", method_names())
def test_method_writes_out_its_published_weights(dry_run, method):
    words = dry_run(f"train_kd/{method}.sh")
    given = flags(words[2:])
    expected = {"--batch-size": 16, "--crop-size": [512, 1024], "--max-iterations": 40000, "--lr": 0.02}
    expect(given, expected | {"--optimizer-type": "sgd", "--momentum": 0.9, "--weight-decay": 1e-4, "--method": method})
    parsed = []
    for explicit in (True, False):
        kept = [word for word in words[2:] if explicit or word.split("=")[0] != "--method"]
        if not explicit:  # the weights alone, without the method's name, give the same losses
            kept.remove(method)
        parsed.append(train_kd.parse(kept).methods.active)
    published = make_config(KDConfig, method=method, student_model="deeplabv3", batch_size=16)
    assert parsed[0] == parsed[1] == published.methods.active


@pytest.mark.parametrize("script", ALL)
def test_program_understands_the_recipe(dry_run, script):
    words = dry_run(script)
    program = Path(words[1])
    entry = importlib.import_module(program.stem)
    values = record(entry.parse(words[2:]))
    pairs = [(f"{role}model", f"{role}backbone") for role in ("", "teacher_", "student_")]
    checked = [resolve_names(values[m], values[b]) for m, b in pairs if isinstance(values.get(m), str)]
    assert checked or script == "visualize/embeddings.sh"


def test_scripts_are_executable_and_shellcheck_finds_nothing():
    assert not [path for path in SCRIPTS.rglob("*.sh") if not path.stat().st_mode & 0o111]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    recipes = [path for kind in KINDS for path in (SCRIPTS / kind).rglob("*.sh")]
    follow, skip = ["--external-sources", "--source-path=SCRIPTDIR"], ["--exclude=SC1091,SC2034"]
    for words in ([*follow, *SCRIPTS.glob("*.sh")], [*skip, *recipes]):  # reading common.sh for each recipe takes 10 s
        done = subprocess.run([shellcheck, *words], capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


def test_own_words_come_last_and_win(dry_run):
    words = dry_run("train_baseline/camvid/deeplabv3_resnet18.sh", "--lr", "0.5", "--note", "two words")
    assert words[-4:] == ["--lr", "0.5", "--note", "two words"]


def test_roots_come_from_the_environment(dry_run):
    script = "train_baseline/cityscapes/deeplabv3_resnet18.sh"
    given = flags(dry_run(script, DATA_ROOT="/d", CKPT_ROOT="/c c", SAVE_ROOT="/s")[2:])
    assert given["--data"] == ["/d/cityscapes"]
    assert given["--pretrained-base"] == ["/c c/resnet18-imagenet.pth"] and given["--save-dir"] == ["/s"]
    assert flags(dry_run(script, DATA_ROOT="/d", CITYS_ROOT="/own")[2:])["--data"] == ["/own"]


def test_several_processes_and_machines(dry_run):
    script = "train_cirkdv2/cityscapes/deeplabv3_resnet18.sh"
    assert dry_run(script, NPROC="1")[1].endswith("train_cirkdv2.py")
    words = dry_run(script, NPROC="4")
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert words[5].startswith("--signals-to-handle=") and "SIGUSR1" in words[5]  # torchrun drops it by default
    words = dry_run(script, NPROC="4", NNODES="2", NODE_RANK="1", MASTER_ADDR="first")
    assert words[3:8] == [
        "--nproc-per-node=4",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=first",
        "--master-port=29500",
    ]
    words = dry_run(script, NPROC="2", SLURM_NNODES="2", SLURM_NODEID="0", MASTER_ADDR="a", MASTER_PORT="7")
    assert words[4:8] == ["--nnodes=2", "--node-rank=0", "--master-addr=a", "--master-port=7"]


def test_slurm_names_the_first_machine(run, program):
    program("scontrol", '[ "$1 $2 $3" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"')
    variables = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n[1-2]", "NPROC": "2", "DRY_RUN": "1"}
    done = run("train_baseline/ade20k/deeplabv3_resnet18.sh", **variables)
    assert "--master-addr=n1" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"NPROC": "1"}, 1),
    ],
)
def test_all_gpus_take_part_by_default(run, program, variables, expected):
    program("nvidia-smi", 'for i in 0 1 2; do echo "GPU $i: some card"; done')
    done = run("train_baseline/ade20k/deeplabv3_resnet18.sh", "--batch-size", "12", DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    assert ("torch.distributed.run" in done.stdout) == (expected > 1)
    assert expected == 1 or f"--nproc-per-node={expected} " in done.stdout


@pytest.mark.parametrize(
    "words, variables, message",
    [
        ((), {"NPROC": "3"}, "NPROC that do: 1 2 4 8 16"),
        (("--batch_size=12", "--accumulation-steps", "2"), {"NPROC": "4"}, "NPROC that do: 1 2 3 6"),
        ((), {"NNODES": "2"}, "MASTER_ADDR"),
    ],
)
def test_what_cannot_run_is_refused_at_once(run, words, variables, message):
    done = run("train_baseline/ade20k/deeplabv3_resnet18.sh", *words, DRY_RUN="1", **variables)
    assert done.returncode == 1 and message in done.stderr and not done.stdout


def test_missing_data_and_files_are_reported_before_python_starts(run, project):
    script = "train_cirkdv2/ade20k/deeplabv3_resnet18.sh"
    done = run(script, DATA_ROOT="/nowhere", PYTHON="/no/python")
    assert done.returncode == 1 and "/nowhere/ADEChallengeData2016 does not exist" in done.stderr
    assert "ADE20K_ROOT" in done.stderr
    done = run(script, "--data", str(project), PYTHON="/no/python", CKPT_ROOT="/c")
    assert done.returncode == 1 and "CKPT_ROOT" in done.stderr
    assert "--teacher-pretrained: there is no /c/deeplabv3_resnet101_ade20k_best_model.pth" in done.stderr
    teacher = ("--teacher-pretrained", str(project / "requirements.txt"))
    done = run(script, "--data", str(project), *teacher, PYTHON="/no/python", CKPT_ROOT="/c")
    assert done.returncode == 1 and "/c/resnet18-imagenet.pth" in done.stderr
    done = run(script, "--data", str(project), *teacher, "--student_pretrained_base=None", PYTHON="/no/python")
    assert "error:" not in done.stderr and "/no/python" in done.stderr  # all is there: Python is started
