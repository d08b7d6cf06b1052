"""The specification of a comparison, from a YAML or JSON file, from flags, or from both."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from comparison.flags import Flags, parse_flags
from engine.config.methods import method_names
from utils.cli import Parser

BASELINE, CIRKDV2 = "baseline", "cirkdv2"
NETWORK_KEYS = {"teacher": ("model", "backbone", "checkpoint"), "student": ("model", "backbone", "pretrained_base")}
BUDGETS = ("iterations", "seconds")
CHOICES = {"split": ("val", "test"), "checkpoint": ("last", "best")}  # the first is the default


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a method with a name and flags."""

    name: str
    method: str
    flags: Flags = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        return re.sub(r"[^A-Za-z0-9.+-]+", "-", self.name).strip("-.") or "method"


@dataclass(frozen=True)
class Spec:
    """A comparison. Flags are held as name without dashes -> words.

    Attributes:
        dataset, data: data set and its folder.
        output: folder of runs and report.
        teacher, student: model, backbone, and checkpoint or pretrained_base; the teacher may be empty.
        methods: the rows; the first whose method is "baseline" is the baseline.
        seeds: every method is trained with each.
        iterations, seconds: the budget, one of them.
        split: on which the trained networks are evaluated.
        checkpoint: "last", or "best" by the validations of the run.
        train_flags, eval_flags: for all training runs, for all evaluations.
        pictures: number of images shown with the predictions of every method.
        processes: of each training run, with torchrun.
    """

    dataset: str
    data: Path
    output: Path
    student: dict[str, str]
    teacher: dict[str, str]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    iterations: int | None = None
    seconds: float | None = None
    split: str = "val"
    checkpoint: str = "last"
    train_flags: Flags = field(default_factory=dict)
    eval_flags: Flags = field(default_factory=dict)
    pictures: int = 6
    processes: int = 1

    @property
    def baseline(self) -> Method | None:
        """The row that others are compared with, or None."""
        return next((method for method in self.methods if method.method == BASELINE), None)


KEYS = (*Spec.__dataclass_fields__, "method_flags")


def add_spec_args(parser: Parser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("comparison", "each flag is also a key of the file and overrides it")
    group.add_argument("spec", nargs="?", type=Path, metavar="SPEC.yaml", help="a file with the keys below")
    group.add_argument("--dataset")
    group.add_argument("--data", type=Path)
    group.add_argument("--output", type=Path, help="folder for the runs and the report")
    for role, keys in NETWORK_KEYS.items():
        for key in keys:
            group.add_argument(f"--{role}-{key.replace('_', '-')}", help=f"in the file: {role}: {{{key}: ...}}")
    group.add_argument("--methods", nargs="+", metavar="M", help=f"{BASELINE}, {CIRKDV2}, {', '.join(method_names())}; "
                       "a+b to combine several; NAME=M to set the name of the row")  # fmt: skip
    group.add_argument("--seeds", nargs="+", type=int)
    group.add_argument("--iterations", type=int, help="budget of every run; or give --seconds")
    budget = "budget of every run in seconds of training, without validation, saving and start-up"
    group.add_argument("--seconds", type=float, help=budget)
    group.add_argument("--split", choices=CHOICES["split"], help="to evaluate on; default: val")
    group.add_argument("--checkpoint", choices=CHOICES["checkpoint"], help="to evaluate; default: last")
    group.add_argument("--method-flags", action="append", nargs=2, metavar=("M", "FLAGS"),
                       help='flags for one method: --method-flags cirkdv2 "--lambda-kd 5"')  # fmt: skip
    group.add_argument("--eval-flags", metavar="FLAGS", help='for all evaluations: "--scales 0.5 1 --flip-eval"')
    group.add_argument("--pictures", type=int, help="number of images in the report; default: 6")
    group.add_argument("--processes", type=int, help="of each training run; default: 1")
    parser.epilog = (
        "Flags after -- are passed to all training runs: compare.py SPEC.yaml -- --crop-size 360 360 --lr 0.01"
    )


def read_spec(given: Mapping[str, Any], train_words: Sequence[str] = ()) -> Spec:
    """The checked specification of the file and of the flags of `add_spec_args`, which override it.

    Flags that were not given are None; `train_words` are flags for all training runs.

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
    seeds = _items(given.get("seeds") or 0)
    _check_values(given, seeds)
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
        dataset=str(given["dataset"]),
        data=Path(given["data"]).expanduser().absolute(),
        output=Path(given["output"]).expanduser().absolute(),
        methods=methods,
        seeds=tuple(seeds),
        train_flags=train_flags,
        eval_flags=parse_flags(given.get("eval_flags"), "eval_flags"),
        **networks,
        **{key: given[key] for key in (*BUDGETS, *CHOICES, "pictures", "processes") if key in given},
    )


def _check_values(given: Mapping[str, Any], seeds: list[Any]) -> None:
    _require(
        all(type(seed) is int and seed >= 0 for seed in seeds) and len(set(seeds)) == len(seeds),
        f"seeds {seeds}: expected different whole numbers of at least 0",
    )
    budgets = len(given.keys() & BUDGETS)
    _require(budgets == 1, f"budget: expected one of {' and '.join(BUDGETS)}, got {budgets} of them")
    for key, least in (("iterations", 1), ("pictures", 0), ("processes", 1)):
        value = given.get(key, least)
        good = type(value) is int and value >= least
        _require(good, f"{key} {value!r}: expected a whole number of at least {least}")
    seconds = given.get("seconds", 1)
    good = type(seconds) in (int, float) and 0 < seconds < math.inf
    _require(good, f"seconds {seconds!r}: expected a number above 0")
    for key, choices in CHOICES.items():
        value = given.get(key, choices[0])
        _require(value in choices, f"{key} {value!r}: expected {' or '.join(choices)}")


def _methods(entries: list[Any], method_flags: dict[str, Any]) -> tuple[Method, ...]:
    methods = []
    for entry in entries:
        if isinstance(entry, str):
            name, _, method = entry.rpartition("=")
            entry = {"method": method, "name": name or method}
        entry = _mapping(entry, "methods")
        _require(
            "method" in entry and entry.keys() <= {"name", "method", "flags"},
            f"methods: {entry}: expected a method's name, or name, method and flags",
        )
        name = str(entry.get("name", entry["method"]))
        flags = parse_flags(entry.get("flags"), f"flags of {name}")
        flags |= parse_flags(method_flags.get(name), f"method_flags of {name}")
        methods.append(Method(name, str(entry["method"]), flags))
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
