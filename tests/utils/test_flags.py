"""A setting declared once is a flag, a checked value, a record and a rule for resuming."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from utils.cli import UsageError, parse_config
from utils.flags import differences, names, record
from utils.settings import AT_LEAST_1, FRACTION, POSITIVE, Settings, section, setting


@dataclass(frozen=True)
class Numbers(Settings):
    required: Path = setting(help="a folder")
    lr: float = setting(0.1, "rate", check=POSITIVE)
    steps: int = setting(7, "count", check=AT_LEAST_1, resume="free", aliases=("-n",))
    share: float | None = setting(None, "part", check=FRACTION)
    sizes: tuple[int, ...] = setting((1, 2), "sizes")
    kind: Literal["a", "b"] = setting("a")
    on: bool = setting(False, "switch")
    auto: bool | None = setting(None, "switch with a third state")
    plain: int = 5
    at_weight: float = setting(2.0, "of a term")
    seed: int = setting(0, flag=False)


@dataclass(frozen=True)
class Machine(Settings):
    seed: int = setting(0, "of all")
    folder: Path = setting(Path("here"), per_host=True)
    mode: str = setting("x", resume=lambda then, now: now == "auto")


@dataclass(frozen=True)
class Config:
    numbers: Numbers = section("numbers")
    machine: Machine = section("machine")


def parse(*words, file: Path | None = None) -> Config:
    return parse_config(Config, "", [*map(str, words), *(["--config", str(file)] if file else [])], prog="program")


def test_flags_give_values_of_the_declared_types():
    config = parse(
        "--required", "~/x", "--lr", "1", "-n", 4, "--share", 0.5, "--sizes", 3, "--kind", "b", "--on", "--no-auto",
        "--plain", 6, "--lambda-at", 9, "--seed", 8, "--folder", "there",
    )  # fmt: skip
    assert config == Config(
        Numbers(Path("~/x").expanduser(), 1.0, 4, 0.5, (3,), "b", True, False, 6, 9.0, 8), Machine(8, Path("there"))
    )
    assert isinstance(config.numbers.lr, float)


def test_defaults_and_what_is_shared():
    numbers = parse("--required", "x").numbers
    assert numbers == Numbers(Path("x"), steps=7) and numbers.share is numbers.auto is None
    assert parse("--required", "x", "--share", "none").numbers.share is None


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--required: not given"),
        (["--required", "none"], "expected a path, got 'none'"),
        (["--lr", "0"], "--lr 0.0: expected a number above 0"),
        (["--lr", "inf"], "--lr inf: expected a finite number"),
        (["--lr", "x"], "--lr: expected a number, got 'x'"),
        (["--plain", "1.5"], "--plain: expected a whole number, got '1.5'"),
        (["--steps", "0"], "--steps 0: expected a whole number of at least 1"),
        (["--share", "1"], "--share 1.0: expected a number from 0 up to, but not, 1"),
        (["--kind", "c"], "--kind: invalid choice: 'c'"),
        (["--kind", "bb"], "bb: did you mean b?"),
        (["--stepz", "3"], "--stepz: did you mean --steps?"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_was_expected(words, message):
    base = [] if not words or words[0] == "--required" else ["--required", "x"]
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        parse(*base, *words)


@pytest.mark.parametrize(
    "values", [{"lr": "fast"}, {"plain": True}, {"plain": 1.5}, {"on": 1}, {"kind": "c"}, {"lr": None}, {"sizes": "ab"}]
)
def test_a_config_made_in_python_is_checked_too(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"--{name} .*expected"):
        Numbers(Path("x"), **values)


def test_a_record_reads_back_as_the_same_config(tmp_path):
    config = parse("--required", "x", "--sizes", 4, 5, "--share", 0.25, "--on", "--seed", 3)
    file = tmp_path / "args.yaml"
    file.write_text(yaml.safe_dump({"arguments": record(config) | {"resume": "auto"}, "command": ["x"]}))
    assert parse(file=file) == config
    assert parse("--no-on", file=file).numbers == Numbers(**vars(config.numbers) | {"on": False})
    file.write_text("required: x\nsizes: 4 5\n")  # as the words of a flag
    assert parse(file=file).numbers.sizes == (4, 5)
    file.write_text("required: x\nsizes: 4 b\n")
    with pytest.raises(ValueError, match="--sizes 'b': expected a whole number"):
        parse(file=file)
    file.write_text(yaml.safe_dump({"arguments": {"sizees": 1}, "command": ["/bin/python", "/x/other.py", "--x"]}))
    with pytest.raises(
        ValueError, match=r"sizees: not a setting of this program. The file was written by python other.py\."
    ):
        parse(file=file)
    file.write_text(yaml.safe_dump({"arguments": record(config)}))
    assert parse("--lr", 0.7, file=file).numbers == Numbers(**vars(config.numbers) | {"lr": 0.7})
    file.write_text("lr: 0.5\nat-weight: 3\nrequired: y\n")
    assert parse(file=file).numbers == Numbers(Path("y"), lr=0.5, steps=7, at_weight=3.0)


@pytest.mark.parametrize(
    "content, message",
    [("lrr: 1", "lrr: not a setting.*Did you mean lr"), ("- 1", "expected `name: value`"), ("a: [", "expected YAML")],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, content, message):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse("--required", "x", file=tmp_path / "run.yaml")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        parse("--required", "x", file=tmp_path / "none.yaml")


def test_resume_compares_what_has_to_be_the_same():
    config = parse("--required", "x")
    saved = record(config)
    assert differences(saved, config) == []
    assert differences(saved | {"steps": 99, "folder": "elsewhere"}, config) == []
    assert differences(saved | {"lr": 0.2}, config) == ["--lr was 0.2 and is now 0.1"]
    assert differences(saved | {"at_weight": 1.0}, config) == ["--lambda-at was 1.0 and is now 2.0"]
    assert differences(saved | {"mode": "y"}, parse("--required", "x", "--mode", "auto")) == []
    assert differences(saved, parse("--required", "x", "--mode", "z")) == ["--mode was x and is now z"]


def test_a_setting_that_an_older_record_does_not_hold_had_its_default():
    older = record(parse("--required", "x"))
    del older["lr"], older["share"], older["on"]
    assert differences(older, parse("--required", "x")) == []
    assert differences(older, parse("--required", "x", "--on")) == ["--on was False and is now True"]


def test_names():
    assert {"required", "lr", "seed", "folder"} <= names(Config)


def test_usage_errors_name_the_program():
    with pytest.raises(UsageError, match="python program --help"):
        parse("--nothing")
