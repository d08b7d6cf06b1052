"""Messages of the shell scripts where the machine lacks something; in a copy, so that nothing is installed."""

import shlex
import shutil

import pytest

import compare
from losses.methods.cirkdv2 import CIRKDV2Config


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_missing_python_is_reported(run, script):
    done = run(script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python of version 3.11 or newer found")


def test_old_python_is_not_taken(run, program):
    program("python3", "exit 1")  # what the version check ends with
    assert "no Python of version 3.11" in run("test.sh").stderr


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_full_disk_is_reported_before_anything_is_installed(project, run, program, script):
    program("python3", "exit 0")
    program("df", "echo Filesystem; echo '/dev/x 10 9 123 98% /'")
    done = run(script)
    assert done.returncode == 1
    assert "8000 MiB" in done.stderr and "123 MiB are free" in done.stderr
    assert not (project / ".venv").exists()


def test_failed_install_is_reported_and_tried_again(project, run, program):
    program("cp", "exit 0")
    program("python3", '[ "$2" = venv ] && mkdir -p "$3/bin"; exit 0')  # an environment without pip
    done = run("test.sh")
    assert done.returncode == 1 and "could not be installed" in done.stderr
    assert not (project / ".venv/.installed-requirements").exists()


def test_unknown_option_is_refused(run):
    done = run("quickstart.sh", "--fast")
    assert done.returncode == 1 and "unknown option --fast" in done.stderr


@pytest.mark.parametrize(("variables", "seeds"), [({}, (0,)), ({"SEED": "3"}, (3,)), ({"SEEDS": "0 1 2"}, (0, 1, 2))])
def test_quickstart_compares_pixel_kd_and_cirkdv2_by_one_factor(project, run, monkeypatch, variables, seeds):
    """Its three student rows, from one comparison whose command line is right; what CIRKDV2 adds weighs one factor."""
    environment = project / ".venv"
    (environment / "bin").mkdir(parents=True)
    shutil.copy(project / "requirements.txt", environment / ".installed-requirements")
    calls = project / "calls"
    (environment / "bin/python").write_text(
        f'#!{shutil.which("bash")}\nprintf "%q " "$@" >>"{calls}"; echo >>"{calls}"\n'
    )
    (environment / "bin/python").chmod(0o755)
    done = run("quickstart.sh", **variables)
    assert done.returncode == 0, done.stderr
    *_, training, comparing = [shlex.split(line) for line in calls.read_text().splitlines()]
    assert training[0] == "train_baseline.py" and training[training.index("--seed") + 1] == str(seeds[0])
    monkeypatch.setattr("sys.argv", comparing)
    spec = compare.parse_args()[1]
    assert [method.method for method in spec.methods] == ["baseline", "kd", "cirkdv2"] and spec.seeds == seeds
    flags = {name: float(words[0]) for name, words in spec.methods[2].flags.items() if name.startswith("lambda-")}
    assert spec.methods[1].flags == {"lambda-kd": [f"{flags.pop('lambda-kd'):g}"]}
    published = CIRKDV2Config()
    weights = {flag: getattr(published, flag.removeprefix("lambda-").replace("-", "_") + "_weight") for flag in flags}
    weights["lambda-channel-kd"] *= 6 / 512  # pooled positions at this crop
    factors = [flags[flag] / weight for flag, weight in weights.items()]
    assert len(factors) == 7 and max(factors) == pytest.approx(min(factors), rel=0.05)
