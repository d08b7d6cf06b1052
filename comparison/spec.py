"""The specification of a comparison, from a YAML or JSON file, from flags, or from both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from comparison.flags import Flags, parse_flags
from dataset import DATASETS
from engine.config.methods import method_names
from utils.cli import Parser
from utils.flags import add_section_flags
from utils.settings import AT_LEAST_0, AT_LEAST_1, POSITIVE, Check, Settings, setting

BASELINE, CIRKDV2 = "baseline", "cirkdv2"
NETWORK_KEYS = {"teacher": ("model", "backbone", "checkpoint"), "student": ("model", "backbone", "pretrained_base")}
BUDGETS = ("iterations", "seconds")
SEEDS: Check = (lambda v: min(v, default=-1) >= 0 and len({*v}) == len(v), "different whole numbers of at least 0")


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a method with a name, flags, and seeds where they are not the comparison's."""

    name: str
    method: str
    flags: Flags = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        return re.sub(r"[^A-Za-z0-9.+-]+", "-", self.name).strip("-.") or "method"


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


@dataclass(frozen=True)
class Spec(Settings):
    """A comparison. Flags are held as name without dashes -> words.

    Attributes:
        student, teacher: model, backbone, and pretrained_base or checkpoint; the teacher may be empty.
        methods: the rows; the first whose method is "baseline" is the baseline.
        train_flags, eval_flags: for all training runs, for all evaluations.
    """

    dataset: str = setting(help=", ".join(DATASETS))
    data: Path = setting(help="the data set's folder", convert=_absolute)
    output: Path = setting(help="folder for the runs and the report", convert=_absolute)
    student: dict[str, str] = setting()
    teacher: dict[str, str] = setting()
    methods: tuple[Method, ...] = setting()
    train_flags: Flags = setting()
    eval_flags: Flags = setting()
    seeds: tuple[int, ...] = setting((0,), "every method is trained with each", check=SEEDS)
    iterations: int | None = setting(None, "budget of every run; or give --seconds", check=AT_LEAST_1)
    seconds: float | None = setting(
        None, "budget of every run in seconds of training, without validation, saving and start-up", check=POSITIVE
    )
    equal_seconds_by_cost: Path | None = setting(
        None,
        "a file of seconds a step (python -m benchmarks.cost): --iterations are the baseline's, and the other rows "
        "train for as many as fit into its seconds",
        convert=_absolute,
    )
    split: Literal["val", "test"] = setting("val", "to evaluate on")
    checkpoint: Literal["last", "best"] = setting("last", "to evaluate; the best is chosen by a run's validations")
    pictures: int = setting(6, "number of images in the report with the predictions of every method", check=AT_LEAST_0)
    processes: int = setting(1, "of each training run, with torchrun", check=AT_LEAST_1)

    @property
    def budget(self) -> str:
        """What is equal for all rows: "iteration" or "train_seconds"."""
        return "iteration" if self.iterations is not None and self.equal_seconds_by_cost is None else "train_seconds"

    @property
    def baseline(self) -> Method | None:
        """The row that others are compared with, or None."""
        return next((method for method in self.methods if method.method == BASELINE), None)


STRUCTURED = ("student", "teacher", "methods", "train_flags", "eval_flags")  # have flags of their own
KEYS = (*Spec.__dataclass_fields__, "method_flags")


def add_spec_args(parser: Parser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("comparison", "each flag is also a key of the file and overrides it")
    group.add_argument("spec", nargs="?", type=Path, metavar="SPEC.yaml", help="a file with the keys below")
    add_section_flags(group, Spec, skip=STRUCTURED)
    for role, keys in NETWORK_KEYS.items():
        for key in keys:
            group.add_argument(f"--{role}-{key.replace('_', '-')}", help=f"in the file: {role}: {{{key}: ...}}")
    group.add_argument("--methods", nargs="+", metavar="M", help=f"{BASELINE}, {CIRKDV2}, {', '.join(method_names())}; "
                       "a+b to combine several; NAME=M to set the name of the row")  # fmt: skip
    group.add_argument("--method-flags", action="append", nargs=2, metavar=("M", "FLAGS"),
                       help='flags for one method: --method-flags cirkdv2 "--lambda-kd 5"')  # fmt: skip
    group.add_argument("--eval-flags", metavar="FLAGS", help='for all evaluations: "--scales 0.5 1 --flip-eval"')
    parser.epilog = (
        "Flags after -- are passed to all training runs: compare.py SPEC.yaml -- --crop-size 360 360 --lr 0.01"
    )


def read_spec(given: Mapping[str, Any], train_words: Sequence[str] = ()) -> Spec:
    """The checked specification of the file and of the flags of `add_spec_args`, which override it.

    `train_words` are flags for all training runs.

    Raises:
        ValueError: an unknown key or an invalid value.
        FileNotFoundError: no such file.
    """
    given = {key: value for key, value in given.items() if value is not None}
    values = _read_file(given["spec"]) if "spec" in given else {}
    if not given.keys().isdisjoint(BUDGETS):
        values |= dict.fromkeys(BUDGETS)  # a budget on the command line replaces the file's
    values |= {key: given[key] for key in Spec.__dataclass_fields__ if key in given}
    for role, keys in NETWORK_KEYS.items():
        if network := {key: given[f"{role}_{key}"] for key in keys if f"{role}_{key}" in given}:
            values[role] = _mapping(values.get(role), role) | network
    if "method_flags" in given:
        values["method_flags"] = _mapping(values.get("method_flags"), "method_flags") | dict(given["method_flags"])
    if train_words:
        flags = parse_flags(values.get("train_flags"), "train_flags")
        values["train_flags"] = flags | parse_flags(train_words, "after --")
    return make_spec(values)


def make_spec(values: Mapping[str, Any]) -> Spec:
    """A checked specification from plain values; None counts as not given. Errors as for `read_spec`."""
    _check_keys(values, KEYS, "")
    given = {key: value for key, value in values.items() if value is not None}
    missing = [key for key in ("dataset", "data", "output", "student", "methods") if not given.get(key)]
    _require(not missing, f"{', '.join(missing)} not given: expected as a key of the file or as a flag")
    networks = {}
    for role, keys in NETWORK_KEYS.items():
        network = _mapping(given.get(role), role)
        _check_keys(network, keys, f"{role}: ")
        networks[role] = {key: str(value) for key, value in network.items() if value is not None}
    missing = [key for key in ("model", "backbone") if key not in networks["student"]]
    _require(not missing, f"student: {' and '.join(missing)} not given")
    methods = _methods(_items(given["methods"]), _mapping(given.get("method_flags"), "method_flags"))
    distilled = [method.name for method in methods if method.method != BASELINE]
    _require(
        not distilled or "checkpoint" in networks["teacher"],
        f"{', '.join(distilled)} need a teacher: give teacher: {{checkpoint: FILE}} or --teacher-checkpoint",
    )
    budgets = len(given.keys() & BUDGETS)
    _require(budgets == 1, f"budget: expected one of {' and '.join(BUDGETS)}, got {budgets} of them")
    by_cost = given.get("equal_seconds_by_cost")
    _require(
        by_cost is None or ("iterations" in given and any(method.method == BASELINE for method in methods)),
        "equal_seconds_by_cost: expected iterations, those of the baseline, and a row of method baseline",
    )
    train_flags = parse_flags(given.get("train_flags"), "train_flags")
    _require(
        given.get("checkpoint") != "best" or "skip-val" not in train_flags,
        "checkpoint best with --skip-val: the best checkpoint is chosen by validations; expected checkpoint last",
    )
    automatic = ["train_flags"] if train_flags.get("amp") == ["auto"] else []
    automatic += [method.name for method in methods if method.flags.get("amp") == ["auto"]]
    _require(
        not automatic,
        f"--amp auto ({', '.join(automatic)}): each run would choose its own precision, so that runs of one comparison "
        "could differ; expected --amp off, bf16 or fp16",
    )
    return Spec(
        methods=methods,
        train_flags=train_flags,
        eval_flags=parse_flags(given.get("eval_flags"), "eval_flags"),
        **networks,
        **{key: value for key, value in given.items() if key not in (*STRUCTURED, "method_flags")},
    )


def _methods(entries: list[Any], method_flags: dict[str, Any]) -> tuple[Method, ...]:
    methods = []
    for entry in entries:
        if isinstance(entry, str):
            name, _, method = entry.rpartition("=")
            entry = {"method": method, "name": name or method}
        entry = _mapping(entry, "methods")
        _require(
            "method" in entry and entry.keys() <= {"name", "method", "flags", "seeds"},
            f"methods: {entry}: expected a method's name, or name, method, flags and seeds",
        )
        name = str(entry.get("name", entry["method"]))
        flags = parse_flags(entry.get("flags"), f"flags of {name}")
        flags |= parse_flags(method_flags.get(name), f"method_flags of {name}")
        seeds = entry.get("seeds")
        if seeds is not None:
            seeds = tuple(_items(seeds))
            right = all(type(seed) is int for seed in seeds) and SEEDS[0](seeds)
            _require(right, f"seeds of {name} {list(seeds)}: expected {SEEDS[1]}")
        methods.append(Method(name, str(entry["method"]), flags, seeds))
    known = [BASELINE, CIRKDV2, *method_names()]
    for method in methods:
        parts = method.method.split("+")
        unknown = [repr(part) for part in parts if part not in (known if len(parts) == 1 else known[2:])]
        _require(
            not unknown,
            f"unknown method {', '.join(unknown)} in {method.method!r}: there are {', '.join(known)}; all but the "
            "first two can be combined with +",
        )
    names = [method.name for method in methods]
    _require(
        len({method.slug.casefold() for method in methods}) == len(methods),
        f"methods {', '.join(names)}: expected names that differ; to repeat a method with other flags, give "
        "{name: ..., method: ..., flags: ...}",
    )
    unknown = sorted(method_flags.keys() - set(names))
    _require(not unknown, f"method_flags for {', '.join(unknown)}: methods are {', '.join(names)}")
    return tuple(methods)


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no specification {path}: expected a YAML or JSON file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    return _mapping(values, str(path))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    value = value or {}
    _require(isinstance(value, Mapping), f"{where}: expected key: value pairs, got {value!r}")
    return dict(value)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(map(str, set(given) - set(known)))
    _require(not unknown, f"{where}unknown key {', '.join(unknown)}: there are {', '.join(known)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
