"""A copy of the scripts without an environment, and a PATH with few programs, so that nothing is installed."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "awk", "cmp", "mkdir", "cat", "grep", "head", "touch")
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def project(tmp_path) -> Path:
    """The scripts without an environment, beside a folder `bin` of the few programs that they find, and of a disk with
    room, whatever this machine's has."""
    copy = tmp_path / "project with spaces"
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    shutil.copy(ROOT / "requirements.txt", copy)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    _write_program(tmp_path / "bin/df", "echo Filesystem; echo '/dev/x 99999 9 90000 1% /'")
    return copy


@pytest.fixture
def run(project) -> Run:
    """Function: a script of the copy, its words, and the environment beside PATH and HOME."""

    def call(script: str | Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
        environment = {"PATH": str(project.parent / "bin"), "HOME": os.environ.get("HOME", "/"), **variables}
        return subprocess.run(
            ["bash", str(project / "scripts" / script), *words],
            cwd="/", env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    return call


@pytest.fixture
def program(project) -> Callable[[str, str], None]:
    """Function that puts a program of the given shell text on the copy's PATH."""

    def write(name: str, text: str) -> None:
        _write_program(project.parent / "bin" / name, text)

    return write


def _write_program(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)
