"""What a user gives to a script reaches Python word for word; the shell runs nothing of it."""

import os
import re
from pathlib import Path

import pytest

NASTY = "a b$(touch pwned)`touch pwned`'\"\\; touch pwned & *"
SCRIPTS = (
    "train_baseline/camvid/pspnet_resnet18.sh",
    "train_cirkdv2/camvid/pspnet_resnet18.sh",
    "evaluation/camvid/pspnet_resnet18.sh",
    "train_kd/kd.sh",
    "visualize/embeddings.sh",
)


@pytest.fixture
def words(project, run, program, tmp_path):
    """Function: a script's words and variables -> the words that its Python gets; fails if anything else was run."""
    recorder = tmp_path / "python recorder"
    program("recorder", f'printf "%s\\0" "$@" > {str(tmp_path)!r}/words')
    (project.parent / "bin" / "recorder").rename(recorder)

    def call(script: str, *arguments: str, **variables: str) -> list[str]:
        before = set(os.listdir("/")) | set(os.listdir(tmp_path))
        done = run(script, *arguments, PYTHON=str(recorder), **variables)
        left = set(os.listdir("/")) | set(os.listdir(tmp_path))
        assert left - before <= {"words"}, left - before
        assert done.returncode == 0, done.stderr
        return (tmp_path / "words").read_text().split("\0")[:-1]

    return call


@pytest.mark.parametrize("script", SCRIPTS)
def test_roots_and_words_pass_through_whole(script, words, tmp_path, project):
    root = tmp_path / NASTY.replace("/", "")
    roots = {name: str(root) for name in ("DATA_ROOT", "CITYS_ROOT", "CAMVID_ROOT", "CKPT_ROOT", "SAVE_ROOT")}
    text = (Path(__file__).parents[2] / "scripts" / script).read_text()
    for _, below in re.findall(rf'"\$({"|".join(roots)})([^"]*)"', text):  # scripts look for data and files
        path = Path(f"{root}{below}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix == ".pth" else path.mkdir(exist_ok=True)
    passed = words(script, "--save-dir-name", NASTY, NPROC="1", **roots)
    assert passed[0].startswith(str(project)) and passed[-2:] == ["--save-dir-name", NASTY]
    assert str(root) in passed or any(word.startswith(f"{root}/") for word in passed)


@pytest.mark.parametrize("flag", ["--batch-size", "--accumulation-steps"])
def test_number_that_is_a_command_is_not_run(flag, run, tmp_path):
    """Bash runs commands inside the words of $((...)); the entry point's parser refuses them."""
    target = tmp_path / "pwned"
    number = f"{flag}=x[$(target)$(touch {target})]"
    done = run("train_kd/kd.sh", number, NPROC="2", DRY_RUN="1", PYTHON="python")
    assert done.returncode == 0 and not target.exists()


@pytest.mark.parametrize("name", ["NPROC", "NNODES"])
@pytest.mark.parametrize("value", ["x[$(touch {target})]", "0", "two", "-1", "08"])
def test_numbers_in_the_environment(name, value, run, project, tmp_path):
    target = tmp_path / "pwned"
    variables = {"DRY_RUN": "1", "PYTHON": "python", "NPROC": "1", name: value.format(target=target)}
    done = run("train_kd/kd.sh", **variables)
    assert done.returncode == 1 and f"{name} is '" in done.stderr and not target.exists()
