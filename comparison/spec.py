"""What a comparison is to run: from a YAML or JSON file, from flags, or from both."""

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


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a method under a name, with flags of its own."""

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
        output: where runs and report go.
        teacher, student: model, backbone, and checkpoint or pretrained_base; the teacher may be empty.
        methods: the rows; the first whose method is "baseline" is what others are compared with.
        seeds: every method is trained with each.
        iterations, seconds: the budget, one of them.
        split: what the finished networks are evaluated on.
        checkpoint: "last", or "best" by the validations of the run.
        train_flags, eval_flags: for all training runs, for all evaluations.
        pictures: images shown under every method.
        processes: of each training run, under torchrun.
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
        """The row that others are compared with, where there is one."""
        return next((method for method in self.methods if method.method == BASELINE), None)


KEYS = (*(name for name in Spec.__dataclass_fields__), "method_flags")


def add_spec_args(parser: Parser) -> None:
    """The flags; each is a key of the specification and wins over the file."""
    group = parser.add_argument_group("comparison", "each flag is also a key of the file, and wins over it")
    group.add_argument("spec", nargs="?", type=Path, metavar="SPEC.yaml", help="a file with the keys below")
    group.add_argument("--dataset")
    group.add_argument("--data", type=Path)
    group.add_argument("--output", type=Path, help="folder for the runs and the report")
    for role, keys in NETWORK_KEYS.items():
        for key in keys:
            group.add_argument(f"--{role}-{key.replace('_', '-')}", help=f"in the file: {role}: {{{key}: ...}}")
    group.add_argument("--methods", nargs="+", metavar="M", help=f"{BASELINE}, {CIRKDV2}, {', '.join(method_names())}; "
                       "a+b for several together; NAME=M to call it so")  # fmt: skip
    group.add_argument("--seeds", nargs="+", type=int)
    group.add_argument("--iterations", type=int, help="budget of every run, or")
    group.add_argument("--seconds", type=float, help="of training, with validation, saving and start-up not counted")
    group.add_argument("--split", choices=("val", "test"), help="to evaluate on; default: val")
    group.add_argument("--checkpoint", choices=("last", "best"), help="to evaluate; default: last")
    group.add_argument("--method-flags", action="append", nargs=2, metavar=("M", "FLAGS"),
                       help='flags for one method: --method-flags cirkdv2 "--lambda-kd 5"')  # fmt: skip
    group.add_argument("--eval-flags", metavar="FLAGS", help='for all evaluations: "--scales 0.5 1 --flip-eval"')
    group.add_argument("--pictures", type=int, help="images to show under every method; default: 6")
    group.add_argument("--processes", type=int, help="of each training run; default: 1")
    parser.epilog = (
        "Flags after -- are passed to all training runs: compare.py SPEC.yaml -- --crop-size 360 360 --lr 0.01"
    )


def read_spec(given: Mapping[str, Any], train_words: Sequence[str] = ()) -> Spec:
    """The specification of the file with the flags over it, checked.

    Args:
        given: values of the flags of `add_spec_args`; None where one was not given.
        train_words: flags for all training runs.

    Raises:
        ValueError: an unknown key, or a value that cannot be run; says what was expected.
        FileNotFoundError: no such file.
    """
    values = {} if given.get("spec") is None else _read_file(given["spec"])
    if (given.get("iterations"), given.get("seconds")) != (None, None):
        values |= {"iterations": None, "seconds": None}  # a budget on the command line replaces the file's
    for key in KEYS:
        if given.get(key) is not None and key != "method_flags":
            values[key] = given[key]
    for role, keys in NETWORK_KEYS.items():
        network = {key: given[f"{role}_{key}"] for key in keys if given.get(f"{role}_{key}") is not None}
        if network:
            values[role] = _mapping(values.get(role) or {}, role) | network
    if given.get("method_flags"):
        values["method_flags"] = _mapping(values.get("method_flags") or {}, "method_flags")
        values["method_flags"] |= dict(given["method_flags"])
    if train_words:
        merged = parse_flags(values.get("train_flags"), "train_flags") | parse_flags(list(train_words), "after --")
        values["train_flags"] = merged
    return make_spec(values)


def make_spec(values: Mapping[str, Any]) -> Spec:
    """A checked specification from plain values.

    Raises:
        ValueError: as for `read_spec`.
    """
    unknown = sorted(set(values) - set(KEYS))
    _require(not unknown, f"unknown key {', '.join(unknown)}: there are {', '.join(KEYS)}")
    missing = [key for key in ("dataset", "data", "output", "student", "methods") if not values.get(key)]
    _require(not missing, f"{', '.join(missing)} not given: expected as a key of the file or as a flag")
    networks = {}
    for role, keys in NETWORK_KEYS.items():
        network = _mapping(values.get(role) or {}, role)
        wrong = sorted(set(network) - set(keys))
        _require(not wrong, f"{role}: unknown key {', '.join(wrong)}: there are {', '.join(keys)}")
        networks[role] = {key: str(value) for key, value in network.items() if value is not None}
    lacking = [key for key in ("model", "backbone") if key not in networks["student"]]
    _require(not lacking, f"student: {' and '.join(lacking)} not given")
    method_flags = _mapping(values.get("method_flags") or {}, "method_flags")
    methods = _methods(values["methods"], method_flags)
    distilled = [method.name for method in methods if method.method != BASELINE]
    _require(
        not distilled or "checkpoint" in networks["teacher"],
        f"{', '.join(distilled)} need a teacher: give teacher: {{checkpoint: FILE}} or --teacher-checkpoint",
    )
    seeds = values.get("seeds") or [0]
    seeds = tuple(seeds) if isinstance(seeds, (list, tuple)) else (seeds,)
    _require(
        all(type(seed) is int and seed >= 0 for seed in seeds) and len(set(seeds)) == len(seeds),
        f"seeds {list(seeds)}: expected different whole numbers of at least 0",
    )
    budget = {key: values.get(key) for key in ("iterations", "seconds")}
    _require(
        sum(value is not None for value in budget.values()) == 1,
        f"budget {budget}: expected one of iterations and seconds",
    )
    for key, kinds in (("iterations", int), ("seconds", (int, float))):
        value = budget[key]
        good = value is None or isinstance(value, kinds) and type(value) is not bool and math.isfinite(value)
        _require(good and (value is None or value > 0), f"{key} {value!r}: expected a number above 0")
    choices = {"split": ("val", "test"), "checkpoint": ("last", "best")}
    words = {key: values.get(key) or allowed[0] for key, allowed in choices.items()}
    for key, word in words.items():
        _require(word in choices[key], f"{key} {word!r}: expected {' or '.join(choices[key])}")
    counts = {"pictures": values.get("pictures", 6), "processes": values.get("processes", 1)}
    for key, least in (("pictures", 0), ("processes", 1)):
        good = type(counts[key]) is int and counts[key] >= least
        _require(good, f"{key} {counts[key]!r}: expected a whole number of at least {least}")
    train_flags = parse_flags(values.get("train_flags"), "train_flags")
    _require(
        words["checkpoint"] == "last" or "skip-val" not in train_flags,
        "checkpoint best with --skip-val: the best checkpoint is chosen by validations; expected checkpoint last",
    )
    measuring = [name for name, flags in (("after --", train_flags), *((m.name, m.flags) for m in methods))
                 if flags.get("amp") == ["auto"]]  # fmt: skip
    _require(
        not measuring,
        f"--amp auto ({', '.join(measuring)}): each run would measure for itself, so that runs of one comparison could "
        "differ in precision; expected --amp off, bf16 or fp16",
    )
    return Spec(
        dataset=str(values["dataset"]),
        data=_absolute(values["data"]),
        output=_absolute(values["output"]),
        methods=methods,
        seeds=seeds,
        train_flags=train_flags,
        eval_flags=parse_flags(values.get("eval_flags"), "eval_flags"),
        **networks,
        **budget,
        **words,
        **counts,
    )


def _methods(given: Any, method_flags: Mapping[str, Any]) -> tuple[Method, ...]:
    entries = given if isinstance(given, (list, tuple)) else [given]
    methods = []
    for entry in entries:
        if isinstance(entry, str):
            name, equals, method = entry.rpartition("=")
            entry = {"method": method} | ({"name": name} if equals else {})
        entry = _mapping(entry, "methods")
        wrong = sorted(set(entry) - {"name", "method", "flags"})
        _require(
            not wrong and "method" in entry, f"methods: {entry}: expected a method's name, or name, method and flags"
        )
        name = str(entry.get("name", entry["method"]))
        flags = parse_flags(entry.get("flags"), f"flags of {name}")
        flags |= parse_flags(method_flags.get(name), f"method_flags of {name}")
        methods.append(Method(name, str(entry["method"]), flags))
    known = [BASELINE, CIRKDV2, *method_names()]
    for method in methods:
        parts = method.method.split("+")
        unknown = [part for part in parts if part not in (known if len(parts) == 1 else method_names())]
        _require(
            not unknown, f"unknown method {', '.join(map(repr, unknown))} in {method.method!r}: there are "
            f"{', '.join(known)}, and all but the first two joined by +",
        )  # fmt: skip
    slugs = [method.slug.casefold() for method in methods]
    _require(
        len(set(slugs)) == len(slugs),
        f"methods {', '.join(m.name for m in methods)}: expected names that differ; the same method with other flags "
        "is given as {name: ..., method: ..., flags: ...}",
    )
    stray = sorted(set(method_flags) - {method.name for method in methods})
    _require(not stray, f"method_flags for {', '.join(stray)}: methods are {', '.join(m.name for m in methods)}")
    return tuple(methods)


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no specification {path}: expected a YAML or JSON file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    return dict(_mapping(values or {}, str(path)))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    _require(isinstance(value, Mapping), f"{where}: expected key: value pairs, got {value!r}")
    return dict(value)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
