"""What the shell scripts say when the machine lacks something; in a copy, so that nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "awk", "cmp", "mkdir", "df", "cat")


@pytest.fixture
def project(tmp_path) -> Path:
    """The scripts without an environment, beside a folder `bin` of the few programs that they find."""
    copy = tmp_path / "project with spaces"
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    shutil.copy(ROOT / "requirements.txt", copy)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return copy


def run(project: Path, script: str, *words: str) -> subprocess.CompletedProcess:
    environment = {"PATH": str(project.parent / "bin"), "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["bash", str(project / "scripts" / script), *words],
        cwd="/", env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def program(project: Path, name: str, text: str) -> None:
    path = project.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_missing_python_is_said(project, script):
    done = run(project, script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python of version 3.11 or newer found")


def test_old_python_is_not_taken(project):
    program(project, "python3", "exit 1")  # what the version check ends with
    assert "no Python of version 3.11" in run(project, "test.sh").stderr


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_full_disk_is_said_before_anything_is_installed(project, script):
    program(project, "python3", "exit 0")
    program(project, "df", "echo Filesystem; echo '/dev/x 10 9 123 98% /'")
    done = run(project, script)
    assert done.returncode == 1
    assert "8000 MiB" in done.stderr and "123 MiB are free" in done.stderr
    assert not (project / ".venv").exists()


def test_failed_install_is_said_and_tried_again(project):
    program(project, "cp", "exit 0")
    program(project, "python3", '[ "$2" = venv ] && mkdir -p "$3/bin"; exit 0')  # an environment without pip
    done = run(project, "test.sh")
    assert done.returncode == 1 and "could not be installed" in done.stderr
    assert not (project / ".venv/.installed-requirements").exists()


def test_unknown_option_is_refused(project):
    done = run(project, "quickstart.sh", "--fast")
    assert done.returncode == 1 and "unknown option --fast" in done.stderr
