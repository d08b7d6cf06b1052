"""What the shell scripts say when the machine lacks something; in a copy, so that nothing is installed."""

import pytest


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_missing_python_is_said(run, script):
    done = run(script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python of version 3.11 or newer found")


def test_old_python_is_not_taken(run, program):
    program("python3", "exit 1")  # what the version check ends with
    assert "no Python of version 3.11" in run("test.sh").stderr


@pytest.mark.parametrize("script", ["test.sh", "quickstart.sh"])
def test_full_disk_is_said_before_anything_is_installed(project, run, program, script):
    program("python3", "exit 0")
    program("df", "echo Filesystem; echo '/dev/x 10 9 123 98% /'")
    done = run(script)
    assert done.returncode == 1
    assert "8000 MiB" in done.stderr and "123 MiB are free" in done.stderr
    assert not (project / ".venv").exists()


def test_failed_install_is_said_and_tried_again(project, run, program):
    program("cp", "exit 0")
    program("python3", '[ "$2" = venv ] && mkdir -p "$3/bin"; exit 0')  # an environment without pip
    done = run("test.sh")
    assert done.returncode == 1 and "could not be installed" in done.stderr
    assert not (project / ".venv/.installed-requirements").exists()


def test_unknown_option_is_refused(run):
    done = run("quickstart.sh", "--fast")
    assert done.returncode == 1 and "unknown option --fast" in done.stderr
